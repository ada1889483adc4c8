//! Downloads and uploads, fast and slow, verified by length and hash. Each has a connection of its own, which first asks
//! who answers: an upload is under way before its answer could say so.

use std::rc::Rc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Connection, cause_of, open_first, read_head, read_more, route_number, turn_of};
use super::content::{Content, Verifier, hexadecimal};
use super::{Cause, Failure, LoadKind, Orders, Said, Shared, milliseconds, say, scramble};

/// Users who begin to transfer, per second.
const BEGUN_PER_SECOND: u64 = 20;
/// Bytes that are read or written at a time, fast and slow.
const FAST: usize = 64 << 10;
const SLOW: usize = 16 << 10;
/// How long a user waits after a transfer that could not begin.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// One transfer after the other, until told to finish.
pub async fn repeat(kind: LoadKind, number: u32, shared: Rc<Shared>) {
    let mut orders = shared.orders.clone();
    tokio::time::sleep(turn_of(number, BEGUN_PER_SECOND)).await;
    let Some(mut connection) = open_first(kind, number, &shared).await else { return };
    for round in 0.. {
        carry(kind, (number, round), &mut connection, &shared).await;
        let mut pause = pause(kind, number, round, &shared);
        connection = loop {
            if wait(pause, &mut orders).await {
                return;
            }
            match begin(kind, number, round + 1, &shared).await {
                Some(connection) => break connection,
                None => pause = AFTER_FAILURE,
            }
        };
    }
}

/// A transfer over a connection that was just opened, and what came of it.
async fn carry(
    kind: LoadKind,
    (number, round): (u32, u32),
    connection: &mut Connection,
    shared: &Rc<Shared>,
) {
    let mix = &shared.args.mix;
    let seed = scramble(route_number(kind, number) ^ scramble(round.into()));
    let pace = Pace {
        start: Instant::now(),
        rate: is_slow(kind).then_some(mix.rate),
        orders: shared.orders.clone(),
        ends: Box::new({
            let (l7, since) = (connection.l7.clone(), connection.since);
            move |orders| orders.end(&l7, since)
        }),
    };
    let late = Box::new(connection.late());
    let mut transfer = Transfer { late, ..Transfer::new(seed, mix.size, shared.patience(), pace) };
    let stream = &mut connection.stream;
    let result = match kind {
        LoadKind::Uploads | LoadKind::SlowUploads => transfer.upload(stream, &connection.l7).await,
        kind => {
            let half_close = kind == LoadKind::HalfClosed;
            transfer.download(stream, &connection.l7, half_close).await
        }
    };
    match result {
        Ok(()) => {
            let was_closed = connection.is_to_end() && !shared.orders.borrow().finish;
            connection.survived(was_closed);
            shared.count(kind, |count| {
                count.bytes += mix.size;
                count.slowest_ms = count.slowest_ms.max(milliseconds(transfer.slowest));
            });
        }
        Err(cause) => {
            let ago = milliseconds(transfer.progress.elapsed());
            say(&Said::Broken(connection.broken(cause, ago)));
        }
    }
}

/// The connection for another transfer; one that cannot be opened is counted like a new request that fails.
async fn begin(kind: LoadKind, number: u32, round: u32, shared: &Rc<Shared>) -> Option<Connection> {
    let (user, vip) = shared.route(route_number(kind, number) + (u64::from(round) << 20));
    let begun = Instant::now();
    match Connection::open(kind, number, round, (user, vip), shared.clone()).await {
        Ok(connection) => {
            let took = milliseconds(begun.elapsed());
            shared.count(kind, |count| count.slowest_ms = count.slowest_ms.max(took));
            connection.late()(took);
            Some(connection)
        }
        Err(cause) => {
            shared.count(kind, |count| count.failed += 1);
            let asked_ago_ms = milliseconds(begun.elapsed());
            say(&Said::Failed(Failure { kind: Some(kind), user, vip, cause, asked_ago_ms }));
            None
        }
    }
}

fn is_slow(kind: LoadKind) -> bool {
    matches!(kind, LoadKind::SlowDownloads | LoadKind::SlowUploads | LoadKind::HalfClosed)
}

/// Between two transfers of a user: none where they are slow, else from half to one and a half of what is wanted.
fn pause(kind: LoadKind, number: u32, round: u32, shared: &Shared) -> Duration {
    if is_slow(kind) {
        return Duration::ZERO;
    }
    let share = scramble(route_number(kind, number) << 8 ^ u64::from(round)) % 1000;
    Duration::from_micros(shared.args.mix.pause_ms * (500 + share))
}

/// Waits for so long; whether it was told to finish.
async fn wait(pause: Duration, orders: &mut watch::Receiver<Orders>) -> bool {
    let due = Instant::now() + pause;
    loop {
        if orders.borrow_and_update().finish {
            return true;
        }
        tokio::select! {
            () = sleep_until(due) => return orders.borrow().finish,
            changed = orders.changed() => if changed.is_err() { return true },
        }
    }
}

/// When the next bytes are due. Who is told to end hurries.
struct Pace {
    start: Instant,
    rate: Option<u64>,
    orders: watch::Receiver<Orders>,
    ends: Box<dyn Fn(&Orders) -> bool>,
}

impl Pace {
    /// Waits until more than `done` bytes are due.
    async fn wait(&mut self, done: u64) {
        while let Some(rate) = self.rate {
            let due = self.start + Duration::from_micros(done.saturating_mul(1_000_000) / rate);
            let is_told = (self.ends)(&self.orders.borrow_and_update());
            tokio::select! {
                biased;
                changed = self.orders.changed(), if !is_told => if changed.is_err() { self.rate = None },
                () = sleep_until(due), if !is_told => return,
                else => self.rate = None,
            }
        }
    }

    fn piece(&self) -> usize {
        if self.rate.is_some() { SLOW } else { FAST }
    }
}

/// A transfer under way.
struct Transfer {
    seed: u64,
    size: u64,
    patience: Duration,
    pace: Pace,
    /// When bytes last went or came.
    progress: Instant,
    /// The longest wait for that.
    slowest: Duration,
    /// Is told of each wait, in ms.
    late: Box<dyn Fn(u64)>,
}

impl Transfer {
    fn new(seed: u64, size: u64, patience: Duration, pace: Pace) -> Self {
        let (progress, slowest, late) = (Instant::now(), Duration::ZERO, Box::new(|_| ()));
        Self { seed, size, patience, pace, progress, slowest, late }
    }

    /// Asks for the content and verifies it. With `half_close` the user's FIN follows the request, and the server's must
    /// follow the content.
    async fn download(&mut self, stream: &mut TcpStream, l7: &str, half_close: bool) -> Result<(), Cause> {
        let path = format!("/bulk/content/{}/{}", self.seed, self.size);
        let request = format!("GET {path} HTTP/1.1\r\nHost: www.example.org\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| cause_of(&error))?;
        if half_close {
            stream.shutdown().await.map_err(|error| cause_of(&error))?;
        }
        let mut bytes = Vec::with_capacity(FAST);
        let answer = self.within(read_head(stream, &mut bytes, &path)).await?;
        if answer.l7 != l7 {
            return Err(Cause::OtherHost);
        }
        let mut verifier = Verifier::new(self.seed);
        bytes.drain(..answer.head);
        let mut done = bytes.len() as u64;
        verifier.take(&bytes);
        if answer.body != self.size || done > self.size {
            return Err(Cause::WrongHash);
        }
        let mut buffer = vec![0; FAST];
        while done < self.size {
            self.pace.wait(done).await;
            let left = usize::try_from(self.size - done).unwrap_or(usize::MAX);
            let piece = &mut buffer[..self.pace.piece().min(left)];
            let read = self.within(async { stream.read(piece).await.map_err(|error| cause_of(&error)) });
            let read = read.await?;
            if read == 0 {
                return Err(Cause::Closed);
            }
            verifier.take(&buffer[..read]);
            done += read as u64;
        }
        if !verifier.is_right() {
            return Err(Cause::WrongHash);
        }
        if half_close {
            let end = async { stream.read(&mut buffer).await.map_err(|error| cause_of(&error)) };
            if self.within(end).await? != 0 {
                return Err(Cause::WrongEcho);
            }
        }
        Ok(())
    }

    /// Sends the content; the server answers with the hash of what it received.
    async fn upload(&mut self, stream: &mut TcpStream, l7: &str) -> Result<(), Cause> {
        let path = format!("/bulk/sink/{}", self.seed);
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: {}\r\n\r\n", self.size);
        stream.write_all(request.as_bytes()).await.map_err(|error| cause_of(&error))?;
        let (mut content, mut hash) = (Content::new(self.seed), Context::new(&SHA256));
        let mut buffer = vec![0; FAST];
        let mut done = 0;
        while done < self.size {
            self.pace.wait(done).await;
            let left = usize::try_from(self.size - done).unwrap_or(usize::MAX);
            let piece = &mut buffer[..self.pace.piece().min(left)];
            content.fill(piece);
            hash.update(piece);
            let mut rest = &*piece;
            while !rest.is_empty() {
                let written = async { stream.write(rest).await.map_err(|error| cause_of(&error)) };
                let written = self.within(written).await?;
                rest = &rest[written..];
            }
            done += piece.len() as u64;
        }
        let mut bytes = Vec::new();
        let answer = self.within(read_head(stream, &mut bytes, &path)).await?;
        if answer.l7 != l7 {
            return Err(Cause::OtherHost);
        }
        while answer.whole(&bytes).is_none() {
            self.within(read_more(stream, &mut bytes)).await?;
        }
        let is_right = answer.whole(&bytes) == Some(hexadecimal(&hash.finish()).as_bytes());
        if is_right { Ok(()) } else { Err(Cause::WrongHash) }
    }

    /// A step that must make progress within the user's patience.
    async fn within<T>(&mut self, step: impl Future<Output = Result<T, Cause>>) -> Result<T, Cause> {
        let begun = Instant::now();
        let result = timeout(self.patience, step).await.unwrap_or(Err(Cause::Timeout))?;
        self.progress = Instant::now();
        let took = self.progress - begun;
        self.slowest = self.slowest.max(took);
        (self.late)(milliseconds(took));
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::bulk;
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    const SIZE: u64 = 300_000;
    const SEED: u64 = 11;

    /// What a peer does to the bytes of the server on their way to the user.
    type Fault = fn(u64, &mut Vec<u8>) -> bool;

    /// A transfer through a peer that may be at fault: past the given bytes it changes, ends or keeps what comes.
    async fn transfer(kind: LoadKind, rate: Option<u64>, fault: Fault) -> (Result<(), Cause>, Duration) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server_address = server.local_addr().unwrap();
        tokio::task::spawn_local(bulk::serve(server, "s1".to_owned()));
        let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = peer.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let (user, _) = peer.accept().await.unwrap();
            let server = TcpStream::connect(server_address).await.unwrap();
            let (mut from_user, mut to_user) = user.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::task::spawn_local(async move {
                tokio::io::copy(&mut from_user, &mut to_server).await.map(|_| to_server)
            });
            let mut passed = 0;
            loop {
                let mut bytes = Vec::with_capacity(8192);
                match from_server.read_buf(&mut bytes).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let read = bytes.len() as u64;
                if !fault(passed, &mut bytes) || to_user.write_all(&bytes).await.is_err() {
                    return;
                }
                passed += read;
            }
        });
        let (tell, orders) = watch::channel(Orders::default());
        let pace = Pace { start: Instant::now(), rate, orders, ends: Box::new(|orders| orders.finish) };
        let mut transfer = Transfer::new(SEED, SIZE, Duration::from_millis(500), pace);
        let mut stream = TcpStream::connect(address).await.unwrap();
        let result = match kind {
            LoadKind::Uploads => transfer.upload(&mut stream, "").await,
            kind => transfer.download(&mut stream, "", kind == LoadKind::HalfClosed).await,
        };
        drop(tell);
        (result, transfer.slowest)
    }

    async fn results(fault: Fault) -> [Result<(), Cause>; 3] {
        let local = LocalSet::new();
        local
            .run_until(async {
                [
                    transfer(LoadKind::Downloads, None, fault).await.0,
                    transfer(LoadKind::Uploads, None, fault).await.0,
                    transfer(LoadKind::HalfClosed, None, fault).await.0,
                ]
            })
            .await
    }

    #[tokio::test]
    async fn what_arrives_whole_is_right() {
        assert_eq!(results(|_, _| true).await, [Ok(()); 3]);
    }

    #[tokio::test]
    async fn one_changed_byte_is_a_wrong_hash() {
        let fault: Fault = |_, bytes| {
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            true
        };
        assert_eq!(results(fault).await, [Err(Cause::WrongHash); 3]);
    }

    #[tokio::test]
    async fn what_ends_early_is_closed_and_what_stands_still_times_out() {
        let ends: Fault = |passed, _| passed < 100_000;
        let [download, upload, half_closed] = results(ends).await;
        assert_eq!((download, upload, half_closed), (Err(Cause::Closed), Ok(()), Err(Cause::Closed)));
        let stands: Fault = |_, bytes| {
            bytes.truncate(100);
            bytes.len() == 100
        };
        assert_eq!(results(stands).await.map(|result| result.is_err()), [true; 3]);
    }

    #[tokio::test]
    async fn silent_peer_is_a_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_tell, orders) = watch::channel(Orders::default());
        let pace = Pace { start: Instant::now(), rate: None, orders, ends: Box::new(|_| false) };
        let mut transfer = Transfer::new(SEED, SIZE, Duration::from_millis(50), pace);
        assert_eq!(transfer.download(&mut stream, "", true).await, Err(Cause::Timeout));
    }

    #[tokio::test]
    async fn who_is_told_to_end_no_longer_waits() {
        let (tell, orders) = watch::channel(Orders::default());
        let mut pace =
            Pace { start: Instant::now(), rate: Some(1), orders, ends: Box::new(|orders| orders.finish) };
        let told = async {
            tokio::task::yield_now().await;
            tell.send_modify(|orders| orders.finish = true);
        };
        // A byte a second: this would take days.
        tokio::join!(pace.wait(1_000_000), told);
        assert_eq!(pace.piece(), FAST);
    }
}
