//! A request as a user sends it: from one of the users' addresses to port 80 of a VIP.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The server, by its own word.
    pub server: String,
    /// The L7 host in front of it.
    pub l7: String,
}

/// Sends `GET /` from `source` to `destination`. Call inside the users node. `patience` bounds each step.
pub fn get(source: IpAddr, destination: IpAddr, patience: Duration) -> Result<Answer> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(source, 0)), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into()).with_context(|| format!("binding to {source}"))?;
    socket
        .connect_timeout(&SocketAddr::new(destination, 80).into(), patience)
        .with_context(|| format!("connecting to {destination}"))?;
    socket.set_read_timeout(Some(patience))?;
    (&socket).write_all(b"GET / HTTP/1.0\r\nHost: www.example.org\r\n\r\n")?;
    let mut text = String::new();
    (&socket).read_to_string(&mut text).with_context(|| format!("reading the answer of {destination}"))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Answer> {
    let status = text.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "the answer is not 200: {status:?}");
    let header = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .with_context(|| format!("the answer has no header {name}"))
    };
    Ok(Answer { server: header("x-server")?, l7: header("x-l7")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_names_server_and_l7_host() {
        let answer = parse("HTTP/1.1 200 OK\r\nx-server: s4\r\nX-L7: lb7-3\r\n\r\ns4\n").unwrap();
        assert_eq!(answer, Answer { server: "s4".into(), l7: "lb7-3".into() });
        assert!(parse("HTTP/1.0 503 Service Unavailable\r\n\r\n").is_err());
    }
}
