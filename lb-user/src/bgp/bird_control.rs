//! BIRD's control socket: one command, one reply of numbered lines.
//!
//! A reply is lines `NNNN-text`, where a line that begins with a space repeats the number before it, up to a line
//! `NNNN text`. Numbers from 8000 on are errors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::BgpError;

/// Most time for one reply. BIRD answers from its event loop, which a large table can keep busy.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest reply that is read.
const REPLY_LIMIT: usize = 4 * 1024 * 1024;
/// The first number that means an error.
const ERRORS: u16 = 8000;
/// `No protocols match`.
const NO_PROTOCOLS: u16 = 8003;

/// A line of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// What kind of line it is.
    pub(super) code: u16,
    /// The rest of it.
    pub(super) text: String,
}

/// An open control socket.
pub(super) struct Control {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects and takes BIRD's greeting.
    pub(super) async fn connect(path: &Path) -> Result<Self, BgpError> {
        let stream = UnixStream::connect(path).await.map_err(|error| away(path, error.to_string()))?;
        let mut control = Self { path: path.into(), stream: BufReader::new(stream) };
        control.reply("greeting").await?;
        Ok(control)
    }

    /// Sends a command and returns its reply. After [`BgpError::Away`] the socket is of no more use.
    pub(super) async fn ask(&mut self, command: &str) -> Result<Vec<Line>, BgpError> {
        let line = format!("{command}\n");
        let sent = self.stream.get_mut().write_all(line.as_bytes()).await;
        sent.map_err(|error| away(&self.path, error.to_string()))?;
        self.reply(command).await
    }

    async fn reply(&mut self, command: &str) -> Result<Vec<Line>, BgpError> {
        let lines = timeout(PATIENCE, self.read())
            .await
            .map_err(|_| away(&self.path, format!("no reply to {command:?} within {PATIENCE:?}")))??;
        match lines.last() {
            Some(last) if last.code >= ERRORS && last.code != NO_PROTOCOLS => Err(BgpError::Refused {
                daemon: "BIRD",
                what: format!("{command:?}"),
                message: last.text.clone(),
            }),
            _ => Ok(lines),
        }
    }

    async fn read(&mut self) -> Result<Vec<Line>, BgpError> {
        let mut lines: Vec<Line> = Vec::new();
        let mut size = 0;
        loop {
            let mut raw = String::new();
            match self.stream.read_line(&mut raw).await {
                Ok(0) => return Err(away(&self.path, "it closed the socket".into())),
                Ok(read) => size += read,
                Err(error) => return Err(away(&self.path, error.to_string())),
            }
            if size > REPLY_LIMIT {
                return Err(away(&self.path, format!("a reply of more than {REPLY_LIMIT} bytes")));
            }
            let (line, last) = parse_line(raw.trim_end(), lines.last().map(|line| line.code))
                .ok_or_else(|| away(&self.path, format!("not a BIRD control reply: {raw:?}")))?;
            lines.push(line);
            if last {
                return Ok(lines);
            }
        }
    }
}

fn away(path: &Path, cause: String) -> BgpError {
    BgpError::Away { daemon: "BIRD", place: path.display().to_string(), cause }
}

/// The line, and whether it ends the reply.
fn parse_line(raw: &str, code_before: Option<u16>) -> Option<(Line, bool)> {
    // A continuation of nothing but blanks arrives here trimmed to nothing.
    if raw.is_empty() || raw.starts_with(' ') {
        return Some((Line { code: code_before?, text: raw.get(1..).unwrap_or_default().into() }, false));
    }
    let code = raw.get(..4)?.parse().ok()?;
    let last = match raw.as_bytes().get(4) {
        None | Some(b' ') => true,
        Some(b'-') => false,
        Some(_) => return None,
    };
    Some((Line { code, text: raw.get(5..).unwrap_or_default().into() }, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(code: u16, text: &str, last: bool) -> Option<(Line, bool)> {
        Some((Line { code, text: text.into() }, last))
    }

    #[test]
    fn a_line_has_its_number_or_repeats_the_one_before() {
        assert_eq!(parse_line("0002-Reading configuration", None), line(2, "Reading configuration", false));
        assert_eq!(parse_line("0003 Reconfigured", Some(2)), line(3, "Reconfigured", true));
        assert_eq!(parse_line(" lb_vips6 up", Some(1002)), line(1002, "lb_vips6 up", false));
        assert_eq!(parse_line("", Some(1007)), line(1007, "", false));
        assert_eq!(parse_line("0000", Some(1007)), line(0, "", true));
    }

    #[test]
    fn what_is_not_a_reply_is_refused() {
        assert_eq!(parse_line(" continuation of nothing", None), None);
        assert_eq!(parse_line("HTTP/1.1 400 Bad Request", None), None);
        assert_eq!(parse_line("00é2 x", None), None);
        assert_eq!(parse_line("0002:x", None), None);
    }
}
