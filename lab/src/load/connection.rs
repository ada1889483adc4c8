//! A long-lived connection: asks, checks the answer, waits, and so on until it breaks or is asked to end.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer::{self, Answer};
use super::stall::{Late, Waited};
use super::{Broken, Cause, Orders, Said, Shared, milliseconds, say, scramble};

/// Connections opened per second: hundreds at once would only prove how long queues are.
const OPENED_PER_SECOND: u64 = 400;
/// Attempts to open one.
const ATTEMPTS: u64 = 3;
/// Answers asked for at most per second when all connections are told the same thing at once.
const TOLD_PER_SECOND: u64 = 1000;

/// The life of connection `number`.
pub async fn live(number: u32, shared: Rc<Shared>) {
    sleep(Duration::from_micros(u64::from(number) * 1_000_000 / OPENED_PER_SECOND)).await;
    let mut orders = shared.orders.clone();
    let opened = open(number, &shared).await;
    if let Err(problem) = &opened {
        shared.problems.borrow_mut().push(problem.clone());
    }
    shared.tried();
    let Ok(mut connection) = opened else { return };
    loop {
        let idle = connection.idle(&mut orders).await;
        let is_last = orders.borrow().finish;
        let is_closed = orders.borrow().close.contains(&connection.l7);
        let result = match idle {
            Ok(()) => connection.prove().await,
            Err(cause) => Err((cause, 0)),
        };
        if let Err((cause, asked_ago_ms)) = result {
            say(&Said::Broken(connection.broken(cause, asked_ago_ms)));
            return;
        }
        if is_last || is_closed {
            let mut summary = shared.summary.borrow_mut();
            summary.survived += 1;
            summary.closed += u32::from(!is_last);
            return;
        }
    }
}

async fn open(number: u32, shared: &Rc<Shared>) -> Result<Connection, String> {
    let mut problem = String::new();
    for attempt in 0..ATTEMPTS {
        // Another port, row and host with each attempt, but the same user and VIP.
        let (user, vip) = shared.route(number.into());
        match Connection::open(number, user, vip, shared.clone()).await {
            Ok(connection) => {
                shared.summary.borrow_mut().opened += 1;
                return Ok(connection);
            }
            Err(cause) => problem = format!("{user} → {vip}, attempt {}: {}", attempt + 1, cause.word()),
        }
    }
    Err(problem)
}

/// Connects from `user` to port 80 of `vip`.
pub async fn connect(user: IpAddr, vip: IpAddr) -> io::Result<TcpStream> {
    let socket = if vip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(user, 0))?;
    let stream = socket.connect(SocketAddr::new(vip, 80)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a request for `path` and waits for the answer, which must be to it.
pub async fn ask(stream: &mut TcpStream, path: &str, last: bool) -> Result<Answer, Cause> {
    let end = if last { "Connection: close\r\n" } else { "" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: www.example.org\r\n{end}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| cause_of(&error))?;
    let mut bytes = Vec::with_capacity(512);
    loop {
        if let Some(answer) = answer::parse(&bytes).map_err(|_| Cause::Garbage)? {
            return match answer {
                Answer { status, .. } if status != 200 => Err(Cause::Status),
                answer if answer.echo != path || answer.length != bytes.len() => Err(Cause::WrongEcho),
                answer => Ok(answer),
            };
        }
        if stream.read_buf(&mut bytes).await.map_err(|error| cause_of(&error))? == 0 {
            return Err(Cause::Closed);
        }
    }
}

fn cause_of(error: &io::Error) -> Cause {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Cause::Reset,
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Cause::Timeout,
        _ => Cause::NotConnected,
    }
}

struct Connection {
    number: u32,
    sequence: u64,
    stream: TcpStream,
    user: String,
    vip: IpAddr,
    l7: String,
    server: String,
    shared: Rc<Shared>,
}

impl Connection {
    /// Connects and asks once: who answers holds the connection.
    async fn open(number: u32, user: IpAddr, vip: IpAddr, shared: Rc<Shared>) -> Result<Self, Cause> {
        let patience = Duration::from_millis(shared.args.patience);
        let mut stream = match timeout(patience, connect(user, vip)).await {
            Err(_) => return Err(Cause::Timeout),
            Ok(stream) => stream.map_err(|error| cause_of(&error))?,
        };
        let path = path(number, 0);
        let first = timeout(patience, ask(&mut stream, &path, false)).await;
        let first = first.unwrap_or(Err(Cause::Timeout))?;
        let user = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
        Ok(Self { number, sequence: 0, stream, user, vip, l7: first.l7, server: first.server, shared })
    }

    /// Waits until it is time to ask again; an error if the other side ends the connection or speaks meanwhile.
    async fn idle(&mut self, orders: &mut watch::Receiver<Orders>) -> Result<(), Cause> {
        let mut due = Instant::now() + self.pause();
        let mut byte = [0; 1];
        loop {
            tokio::select! {
                () = sleep_until(due) => return Ok(()),
                read = self.stream.read(&mut byte) => return Err(match read {
                    Ok(0) => Cause::Closed,
                    Ok(_) => Cause::WrongEcho,
                    Err(error) => cause_of(&error),
                }),
                changed = orders.changed() => {
                    let is_meant = {
                        let orders = orders.borrow();
                        orders.finish || orders.close.contains(&self.l7)
                    };
                    if changed.is_err() || is_meant {
                        due = due.min(Instant::now() + self.turn());
                    }
                }
            }
        }
    }

    /// From two thirds to four thirds of the mean.
    fn pause(&self) -> Duration {
        let mean = self.shared.args.think;
        let share = scramble(u64::from(self.number) << 32 | self.sequence) % 1000;
        Duration::from_micros(mean * (667 + share * 667 / 1000))
    }

    /// When it is this connection's turn if all were told the same thing now.
    fn turn(&self) -> Duration {
        let all = u64::from(self.shared.args.connections) * 1_000_000 / TOLD_PER_SECOND;
        Duration::from_micros(scramble(self.number.into()) % all.max(1))
    }

    /// Asks once more. An error says how the connection broke and how many ms ago the request was sent.
    async fn prove(&mut self) -> Result<(), (Cause, u64)> {
        self.sequence += 1;
        let path = path(self.number, self.sequence);
        let asked = Instant::now();
        let patience = Duration::from_millis(self.shared.args.patience);
        let answer = timeout(patience, ask(&mut self.stream, &path, false)).await;
        let took = milliseconds(asked.elapsed());
        let answer = answer.unwrap_or(Err(Cause::Timeout)).map_err(|cause| (cause, took))?;
        if answer.l7 != self.l7 {
            return Err((Cause::OtherHost, took));
        }
        Late { waited: Waited::Proof, user: Some(self.user.clone()), vip: self.vip, took_ms: took }.tell();
        let mut summary = self.shared.summary.borrow_mut();
        summary.answers += 1;
        summary.slowest_ms = summary.slowest_ms.max(took);
        summary.moved += u64::from(answer.server != self.server);
        self.server = answer.server;
        Ok(())
    }

    fn broken(&self, cause: Cause, asked_ago_ms: u64) -> Broken {
        Broken {
            user: self.user.clone(),
            vip: self.vip,
            l7: self.l7.clone(),
            server: self.server.clone(),
            cause,
            asked_ago_ms,
        }
    }
}

/// No other request of any connection asks for the same.
fn path(number: u32, sequence: u64) -> String {
    format!("/{number}/{sequence}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A peer that answers one request with `answer` and closes.
    async fn asked(answer: &'static [u8]) -> Result<Answer, Cause> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        let result = ask(&mut stream, "/3/4", false).await;
        peer.await.unwrap();
        result
    }

    #[tokio::test]
    async fn only_the_answer_to_the_own_request_counts() {
        let good =
            asked(b"HTTP/1.1 200 OK\r\nX-Echo: /3/4\r\nX-L7: lb7-1\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(good.map(|answer| answer.l7), Ok("lb7-1".to_owned()));
        let other = asked(b"HTTP/1.1 200 OK\r\nX-Echo: /3/3\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(other, Err(Cause::WrongEcho));
        let more = asked(b"HTTP/1.1 200 OK\r\nX-Echo: /3/4\r\nContent-Length: 0\r\n\r\nHTTP").await;
        assert_eq!(more, Err(Cause::WrongEcho));
        assert_eq!(asked(b"HTTP/1.1 503 No\r\n\r\n").await, Err(Cause::Status));
        assert_eq!(asked(b"HTTP/1.1 200 OK\r\nX-Echo").await, Err(Cause::Closed));
        assert_eq!(asked(b"hello").await, Err(Cause::Garbage));
    }
}
