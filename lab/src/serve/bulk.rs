//! Transfers over HTTP/1.1: content by its seed, and the hash of what is sent here.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::load::content::{Content, hexadecimal};

/// Where servers listen.
pub const PORT: u16 = 89;
/// Connections at a time; more wait.
const CONNECTIONS: usize = 4096;
/// What is read of a request before its end is found.
const LONGEST_HEAD: usize = 8 << 10;
/// The most that may be asked for or sent at once.
const LARGEST: u64 = 1_000_000_000;
/// How long a peer may neither send nor take anything.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long it may keep a connection without a request, as with nginx.
const KEEP_ALIVE: Duration = Duration::from_secs(3600);
const PIECE: usize = 64 << 10;

/// Answers as the server `name`, for ever.
pub async fn serve(listener: TcpListener, name: String) {
    let (room, name) = (Arc::new(Semaphore::new(CONNECTIONS)), Rc::new(name));
    loop {
        let permit = room.clone().acquire_owned().await.expect("nobody closes it");
        match listener.accept().await {
            Ok((stream, _)) => {
                let name = name.clone();
                tokio::task::spawn_local(async move {
                    // A peer that goes away is its own affair; the load sees what becomes of connections.
                    let _ = converse(stream, &name).await;
                    drop(permit);
                });
            }
            // Out of descriptors, most likely: others end meanwhile.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    /// A short answer.
    Hello,
    /// So many bytes of the content of a seed.
    Content { seed: u64, size: u64 },
    /// The hash of the body.
    Sink,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    path: String,
    task: Task,
    /// Bytes of its body.
    body: u64,
}

/// The request whose head is `head`; an error is the status to answer with.
fn parse(head: &[u8]) -> Result<Request, &'static str> {
    let head = str::from_utf8(head).map_err(|_| "400 Bad Request")?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut body = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            body = value.trim().parse().map_err(|_| "400 Bad Request")?;
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("411 Length Required");
        }
    }
    if body > LARGEST {
        return Err("413 Content Too Large");
    }
    let parts: Vec<&str> = path.trim_start_matches("/bulk/").split('/').collect();
    let task = match (method, &parts[..]) {
        ("GET", ["hello", ..]) => Task::Hello,
        ("GET", ["content", seed, size]) => {
            let numbers = seed.parse().ok().zip(size.parse().ok().filter(|size| *size <= LARGEST));
            let (seed, size) = numbers.ok_or("400 Bad Request")?;
            Task::Content { seed, size }
        }
        ("POST", ["sink", ..]) => Task::Sink,
        _ => return Err("404 Not Found"),
    };
    Ok(Request { path: path.to_owned(), task, body })
}

/// Requests one after the other, until the peer sends no more.
async fn converse(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut bytes).await? {
        match parse(&head) {
            Ok(request) => answer(&mut stream, &mut bytes, name, &request).await?,
            Err(status) => {
                let refusal = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                return send(&mut stream, refusal.as_bytes()).await;
            }
        }
    }
    Ok(())
}

/// The next head, without the empty line at its end; `None` if the peer sends no more. What came behind it stays in `bytes`.
async fn read_head(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = bytes[..end].to_vec();
            bytes.drain(..end + 4);
            return Ok(Some(head));
        }
        if bytes.len() > LONGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if timeout(KEEP_ALIVE, stream.read_buf(bytes)).await?? == 0 {
            return Ok(None);
        }
    }
}

async fn answer(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    name: &str,
    request: &Request,
) -> io::Result<()> {
    let hash = hash_body(stream, bytes, request.body).await?;
    let body = match request.task {
        Task::Hello => format!("{name}\n"),
        Task::Content { .. } => String::new(),
        Task::Sink => hash,
    };
    let length = match request.task {
        Task::Content { size, .. } => size,
        _ => body.len() as u64,
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\
         X-Server: {name}\r\nX-Echo: {}\r\n\r\n{body}",
        request.path
    );
    send(stream, head.as_bytes()).await?;
    if let Task::Content { seed, size } = request.task {
        let mut content = Content::new(seed);
        let mut piece = vec![0; PIECE];
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            content.fill(&mut piece[..length]);
            send(stream, &piece[..length]).await?;
            left -= length as u64;
        }
    }
    Ok(())
}

/// The hash of the next `left` bytes, some of which are in `bytes` already.
async fn hash_body(stream: &mut TcpStream, bytes: &mut Vec<u8>, mut left: u64) -> io::Result<String> {
    let mut hash = Context::new(&SHA256);
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    hash.update(&bytes[..here]);
    bytes.drain(..here);
    left -= here as u64;
    let mut piece = vec![0; if left > 0 { PIECE } else { 0 }];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = timeout(PATIENCE, stream.read(&mut piece[..most])).await??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&piece[..read]);
        left -= read as u64;
    }
    Ok(hexadecimal(&hash.finish()))
}

/// Sends all of it, to a peer that takes some of it now and then.
async fn send(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(PATIENCE, stream.write(bytes)).await??;
        bytes = &bytes[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_with_their_bounds() {
        let request = |text: &str| parse(text.as_bytes());
        let hello = request("GET /bulk/hello/idle/1/2 HTTP/1.1\r\nHost: x").unwrap();
        assert_eq!((hello.task, &*hello.path, hello.body), (Task::Hello, "/bulk/hello/idle/1/2", 0));
        assert_eq!(
            request("GET /bulk/content/7/100 HTTP/1.1").unwrap().task,
            Task::Content { seed: 7, size: 100 }
        );
        let sink = request("POST /bulk/sink/7 HTTP/1.1\r\ncontent-length: 12").unwrap();
        assert_eq!((sink.task, sink.body), (Task::Sink, 12));
        assert_eq!(request("GET /bulk/content/7/1000000001 HTTP/1.1"), Err("400 Bad Request"));
        assert_eq!(request("GET /bulk/content/7 HTTP/1.1"), Err("404 Not Found"));
        assert_eq!(
            request("POST /bulk/sink/7 HTTP/1.1\r\nContent-Length: 1000000001"),
            Err("413 Content Too Large")
        );
        assert_eq!(
            request("POST /bulk/sink/7 HTTP/1.1\r\nTransfer-Encoding: chunked"),
            Err("411 Length Required")
        );
        assert_eq!(request(""), Err("404 Not Found"));
    }
}
