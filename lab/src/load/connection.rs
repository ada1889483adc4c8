//! A long-lived connection: asks, checks the answer, waits, and so on until it breaks or is asked to end. An idle one is
//! the same with a wait that lasts to the end.

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
use super::{Broken, Cause, LoadKind, Orders, Said, Shared, milliseconds, say, scramble};

/// Connections opened per second: hundreds at once would only prove how long queues are.
const OPENED_PER_SECOND: u64 = 400;
/// Attempts to open one.
const ATTEMPTS: u64 = 3;
/// Answers asked for at most per second when all connections are told the same thing at once.
const TOLD_PER_SECOND: u64 = 1000;
/// Longer than any scenario: an idle connection waits to be told.
const FOREVER: Duration = Duration::from_secs(7 * 86_400);

/// The life of connection `number`.
pub async fn live(kind: LoadKind, number: u32, shared: Rc<Shared>) {
    sleep(turn_of(number, OPENED_PER_SECOND)).await;
    let mut orders = shared.orders.clone();
    let Some(mut connection) = open_first(kind, number, &shared).await else { return };
    loop {
        let idle = connection.idle(&mut orders).await;
        let is_last = orders.borrow().finish;
        let is_closed = orders.borrow().end(&connection.l7, connection.since);
        let result = match idle {
            Ok(()) => connection.prove().await,
            Err(cause) => Err((cause, 0)),
        };
        if let Err((cause, asked_ago_ms)) = result {
            say(&Said::Broken(connection.broken(cause, asked_ago_ms)));
            return;
        }
        if is_last || is_closed {
            connection.survived(!is_last);
            return;
        }
    }
}

/// The first connection of a user: several attempts, and the load begins when all users have had theirs.
pub async fn open_first(kind: LoadKind, number: u32, shared: &Rc<Shared>) -> Option<Connection> {
    let mut problem = None;
    let mut opened = None;
    for attempt in 0..ATTEMPTS {
        // Another port, row and host with each attempt, but the same user and VIP.
        let (user, vip) = shared.route(route_number(kind, number));
        match Connection::open(kind, number, 0, (user, vip), shared.clone()).await {
            Ok(connection) => {
                opened = Some(connection);
                problem = None;
                break;
            }
            Err(cause) => {
                let what = format!("{}: {user} → {vip}", kind.word());
                problem = Some(format!("{what}, attempt {}: {}", attempt + 1, cause.word()));
            }
        }
    }
    shared.tried(problem);
    opened
}

/// Kinds have numbers of their own, so that users and VIPs meet in other ways.
pub fn route_number(kind: LoadKind, number: u32) -> u64 {
    (kind as u64) << 40 | u64::from(number)
}

/// Connects from `user` to port 80 of `vip`. Transfers keep what kernels hold for them short, so that their pace is the
/// user's and not that of some buffer.
pub async fn connect(kind: Option<LoadKind>, user: IpAddr, vip: IpAddr) -> io::Result<TcpStream> {
    let socket = if vip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    match kind {
        Some(LoadKind::SlowDownloads | LoadKind::HalfClosed) => socket.set_recv_buffer_size(64 << 10)?,
        Some(LoadKind::Uploads) => socket.set_send_buffer_size(256 << 10)?,
        Some(LoadKind::SlowUploads) => socket.set_send_buffer_size(64 << 10)?,
        _ => {}
    }
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
    let answer = read_head(stream, &mut bytes, path).await?;
    while answer.whole(&bytes).is_none() {
        read_more(stream, &mut bytes).await?;
    }
    if bytes.len() as u64 == answer.head as u64 + answer.body { Ok(answer) } else { Err(Cause::WrongEcho) }
}

/// Reads until the head of an answer is complete, which must be a good one to a request for `path`. What comes behind it
/// may be in `bytes` as well.
pub async fn read_head(stream: &mut TcpStream, bytes: &mut Vec<u8>, path: &str) -> Result<Answer, Cause> {
    loop {
        if let Some(answer) = answer::parse(bytes).map_err(|_| Cause::Garbage)? {
            return match answer {
                Answer { status, .. } if status != 200 => Err(Cause::Status),
                answer if answer.echo != path => Err(Cause::WrongEcho),
                answer => Ok(answer),
            };
        }
        read_more(stream, bytes).await?;
    }
}

/// Reads what has come, at least a byte.
pub async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<(), Cause> {
    match stream.read_buf(bytes).await.map_err(|error| cause_of(&error))? {
        0 => Err(Cause::Closed),
        _ => Ok(()),
    }
}

/// How a socket's error counts.
pub fn cause_of(error: &io::Error) -> Cause {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Cause::Reset,
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Cause::Timeout,
        _ => Cause::NotConnected,
    }
}

/// A connection that was established and answered once.
pub struct Connection {
    kind: LoadKind,
    number: u32,
    sequence: u64,
    /// Its socket.
    pub stream: TcpStream,
    user: String,
    vip: IpAddr,
    /// The L7 host that holds it.
    pub l7: String,
    /// The server that answered last.
    pub server: String,
    /// Orders to close that were given before it was opened.
    pub since: usize,
    shared: Rc<Shared>,
}

impl Connection {
    /// Connects and asks once: who answers holds the connection. `round` tells connections of the same number apart.
    pub async fn open(
        kind: LoadKind,
        number: u32,
        round: u32,
        (user, vip): (IpAddr, IpAddr),
        shared: Rc<Shared>,
    ) -> Result<Self, Cause> {
        let since = shared.orders.borrow().close.len();
        let mut stream = match timeout(shared.patience(), connect(Some(kind), user, vip)).await {
            Err(_) => return Err(Cause::Timeout),
            Ok(stream) => stream.map_err(|error| cause_of(&error))?,
        };
        let path = path(kind, number, round.into());
        let first = timeout(shared.patience(), ask(&mut stream, &path, false)).await;
        let first = first.unwrap_or(Err(Cause::Timeout))?;
        let user = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
        match kind {
            LoadKind::LongLived => shared.summary.borrow_mut().opened += 1,
            _ => shared.count(kind, |count| count.opened += 1),
        }
        let (l7, server) = (first.l7, first.server);
        Ok(Self { kind, number, sequence: 0, stream, user, vip, l7, server, since, shared })
    }

    /// Whether it was told to end, alone or with all others.
    pub fn is_to_end(&self) -> bool {
        self.shared.orders.borrow().end(&self.l7, self.since)
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
                    if changed.is_err() || self.is_to_end() {
                        due = due.min(Instant::now() + self.turn());
                    }
                }
            }
        }
    }

    /// From two thirds to four thirds of the mean.
    fn pause(&self) -> Duration {
        if self.kind == LoadKind::Idle {
            return FOREVER;
        }
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
        let path = path(self.kind, self.number, self.sequence);
        let asked = Instant::now();
        let answer = timeout(self.shared.patience(), ask(&mut self.stream, &path, false)).await;
        let took = milliseconds(asked.elapsed());
        let answer = answer.unwrap_or(Err(Cause::Timeout)).map_err(|cause| (cause, took))?;
        if answer.l7 != self.l7 {
            return Err((Cause::OtherHost, took));
        }
        self.late()(took);
        if self.kind == LoadKind::LongLived {
            let mut summary = self.shared.summary.borrow_mut();
            summary.answers += 1;
            summary.slowest_ms = summary.slowest_ms.max(took);
            summary.moved += u64::from(answer.server != self.server);
        } else {
            self.shared.count(self.kind, |count| count.slowest_ms = count.slowest_ms.max(took));
        }
        self.server = answer.server;
        Ok(())
    }

    /// Says that it waited so many ms, if that was long.
    pub fn late(&self) -> impl Fn(u64) + 'static {
        let waited = match self.kind {
            LoadKind::LongLived => Waited::Proof,
            kind => Waited::Load(kind),
        };
        let (user, vip) = (self.user.clone(), self.vip);
        move |took_ms| Late { waited, user: Some(user.clone()), vip, took_ms }.tell()
    }

    /// Counts it as one that survived; `closed` if it was asked to end before the others.
    pub fn survived(&self, closed: bool) {
        let mut summary = self.shared.summary.borrow_mut();
        match self.kind {
            LoadKind::LongLived => {
                summary.survived += 1;
                summary.closed += u32::from(closed);
            }
            kind => {
                let count = summary.kinds.entry(kind).or_default();
                count.survived += 1;
                count.closed += u32::from(closed);
            }
        }
    }

    /// What is said of it when it has broken.
    pub fn broken(&self, cause: Cause, asked_ago_ms: u64) -> Broken {
        Broken {
            kind: self.kind,
            user: self.user.clone(),
            vip: self.vip,
            l7: self.l7.clone(),
            server: self.server.clone(),
            cause,
            asked_ago_ms,
        }
    }
}

/// When number `number` begins if so many begin per second.
pub fn turn_of(number: u32, per_second: u64) -> Duration {
    Duration::from_micros(u64::from(number) * 1_000_000 / per_second)
}

/// No other request of any connection asks for the same. Where bulk servers answer transfers, they answer these as well.
fn path(kind: LoadKind, number: u32, sequence: u64) -> String {
    match kind {
        LoadKind::LongLived => format!("/{number}/{sequence}"),
        LoadKind::Idle => format!("/idle/{number}/{sequence}"),
        kind => format!("/bulk/hello/{}/{number}/{sequence}", kind.word()),
    }
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
        let cut = asked(b"HTTP/1.1 200 OK\r\nX-Echo: /3/4\r\nContent-Length: 9\r\n\r\nabc").await;
        assert_eq!(cut, Err(Cause::Closed));
        assert_eq!(asked(b"hello").await, Err(Cause::Garbage));
    }
}
