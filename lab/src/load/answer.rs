//! Answers over HTTP/1.1, as far as the lab's servers use it: a length, a body, and the headers that say who answered.

/// A complete answer.
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
    /// How many bytes it took.
    pub length: usize,
}

/// The answer at the start of `bytes`: `Ok(None)` while it is not complete, an error if it is no HTTP.
pub fn parse(bytes: &[u8]) -> Result<Option<Answer>, &'static str> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        let has_good_start = bytes.iter().zip(b"HTTP/1.").all(|(found, wanted)| found == wanted);
        return if has_good_start { Ok(None) } else { Err("no HTTP") };
    };
    let head = str::from_utf8(&bytes[..end]).map_err(|_| "no text in the head")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1));
    let status = status.and_then(|code| code.parse().ok()).ok_or("no status")?;
    let mut answer =
        Answer { status, echo: String::new(), server: String::new(), l7: String::new(), length: end + 4 };
    let mut body = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "x-echo" => answer.echo = value.to_owned(),
            "x-server" => answer.server = value.to_owned(),
            "x-l7" => answer.l7 = value.to_owned(),
            "content-length" => body = Some(value.parse::<usize>().map_err(|_| "no length")?),
            _ => {}
        }
    }
    // Answers that HAProxy makes itself (503) end with the connection: what is there is all that matters.
    answer.length += body.unwrap_or_default();
    Ok((bytes.len() >= answer.length).then_some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] =
        b"HTTP/1.1 200 OK\r\nx-server: s4\r\nContent-Length: 3\r\nX-L7: lb7-3\r\nx-echo: /7/12\r\n\r\ns4\n";

    #[test]
    fn answer_is_complete_with_the_last_byte_of_its_body() {
        for length in 0..GOOD.len() {
            assert_eq!(parse(&GOOD[..length]), Ok(None), "{length}");
        }
        let answer = parse(GOOD).unwrap().unwrap();
        assert_eq!((answer.status, answer.length), (200, GOOD.len()));
        assert_eq!((&*answer.echo, &*answer.server, &*answer.l7), ("/7/12", "s4", "lb7-3"));
    }

    #[test]
    fn other_protocols_are_refused_at_once() {
        assert!(parse(b"SSH-2").is_err());
        assert!(parse(b"HTTP/1.1 what\r\n\r\n").is_err());
    }
}
