//! Answers over HTTP/1.1, as far as the lab's servers use it: a length, a body, and the headers that say who answered.

/// What is read of an answer before its end is found.
const LONGEST_HEAD: usize = 16 << 10;

/// An answer: all but its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// What was asked for, by the server's word.
    pub echo: String,
    /// The server.
    pub server: String,
    /// The L7 host in front of it.
    pub l7: String,
    /// How many bytes the head took.
    pub head: usize,
    /// How many bytes the body has.
    pub body: u64,
}

/// The head at the start of `bytes`: `Ok(None)` while it is not complete, an error if it is no HTTP.
pub fn parse(bytes: &[u8]) -> Result<Option<Answer>, &'static str> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        let has_good_start = bytes.iter().zip(b"HTTP/1.").all(|(found, wanted)| found == wanted);
        let is_too_long = bytes.len() > LONGEST_HEAD;
        return if has_good_start && !is_too_long { Ok(None) } else { Err("no HTTP") };
    };
    let head = str::from_utf8(&bytes[..end]).map_err(|_| "no text in the head")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1));
    let status = status.and_then(|code| code.parse().ok()).ok_or("no status")?;
    // Answers that HAProxy makes itself (503) have no length and end with the connection: what is there is all that matters.
    let mut answer = Answer {
        status,
        echo: String::new(),
        server: String::new(),
        l7: String::new(),
        head: end + 4,
        body: 0,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "x-echo" => answer.echo = value.to_owned(),
            "x-server" => answer.server = value.to_owned(),
            "x-l7" => answer.l7 = value.to_owned(),
            "content-length" => answer.body = value.parse().map_err(|_| "no length")?,
            _ => {}
        }
    }
    Ok(Some(answer))
}

impl Answer {
    /// The body at the start of `bytes`, which begin with the head; `None` while it is not complete.
    pub fn whole<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let end = usize::try_from(self.body).ok()?.checked_add(self.head)?;
        bytes.get(self.head..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] =
        b"HTTP/1.1 200 OK\r\nx-server: s4\r\nContent-Length: 3\r\nX-L7: lb7-3\r\nx-echo: /7/12\r\n\r\ns4\n";

    #[test]
    fn answer_is_complete_with_the_last_byte_of_its_body() {
        let head = GOOD.len() - 3;
        for length in 0..GOOD.len() {
            let bytes = &GOOD[..length];
            let answer = parse(bytes).unwrap();
            assert_eq!(answer.is_some(), length >= head, "{length}");
            assert!(answer.is_none_or(|answer| answer.whole(bytes).is_none()), "{length}");
        }
        let answer = parse(GOOD).unwrap().unwrap();
        assert_eq!((answer.status, answer.head, answer.body), (200, head, 3));
        assert_eq!((&*answer.echo, &*answer.server, &*answer.l7), ("/7/12", "s4", "lb7-3"));
        assert_eq!(answer.whole(GOOD), Some(&b"s4\n"[..]));
    }

    #[test]
    fn other_protocols_are_refused_at_once() {
        assert!(parse(b"SSH-2").is_err());
        assert!(parse(b"HTTP/1.1 what\r\n\r\n").is_err());
    }

    #[test]
    fn head_without_end_is_refused() {
        let endless = [b"HTTP/1.1 200 OK\r\n".as_slice(), &vec![b'x'; LONGEST_HEAD]].concat();
        assert!(parse(&endless).is_err());
    }
}
