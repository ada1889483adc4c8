//! DNS over TCP (RFC 7766): messages one after the other, a limit of connections, a limit of time.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::Tcp;
use super::counters::{Counter, Counters};
use super::dnssec::sign::Signatures;
use super::policy::mix;
use super::server::{seed, since_1970};
use super::snapshot::Snapshot;
use super::wire::{Around, Reply, Transport, respond};
use crate::admission;

/// One source may have this part of all connections, and [`LEAST_SHARE`] if there are so many.
const SHARES: usize = 4;
/// Enough for a resolver behind one address.
const LEAST_SHARE: usize = 8;

/// The connections of all addresses.
pub(super) struct Connections {
    limits: Tcp,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    /// Who asks: see [`admission::source`].
    source: IpAddr,
    /// When it was last heard as it should be.
    heard: Instant,
    /// How to end it.
    handle: Option<AbortHandle>,
}

impl Connections {
    pub fn new(limits: Tcp) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    /// Makes room for one more connection and gives it a number; says whether another one had to go: the idlest, of the same
    /// source if that has its share already.
    fn admit(&self, from: IpAddr, now: Instant) -> (u64, bool) {
        let source = admission::source(from);
        let mut open = self.open();
        let of_source = open.connections.values().filter(|connection| connection.source == source).count();
        let share = (self.limits.connections / SHARES).max(LEAST_SHARE);
        let displaced = if of_source >= share {
            open.end_idlest(|connection| connection.source == source)
        } else if open.connections.len() >= self.limits.connections {
            open.end_idlest(|_| true)
        } else {
            false
        };
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, Connection { source, heard: now, handle: None });
        (number, displaced)
    }

    fn set_handle(&self, number: u64, handle: AbortHandle) {
        match self.open().connections.get_mut(&number) {
            Some(connection) => connection.handle = Some(handle),
            // It had to go before it began.
            None => handle.abort(),
        }
    }

    fn heard(&self, number: u64, now: Instant) {
        if let Some(connection) = self.open().connections.get_mut(&number) {
            connection.heard = now;
        }
    }

    fn leave(&self, number: u64) {
        self.open().connections.remove(&number);
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn end_idlest(&mut self, among: impl Fn(&Connection) -> bool) -> bool {
        let idlest = self.connections.iter().filter(|(_, connection)| among(connection));
        let idlest = idlest.min_by_key(|(_, connection)| connection.heard).map(|(number, _)| *number);
        let Some(ended) = idlest.and_then(|number| self.connections.remove(&number)) else { return false };
        if let Some(handle) = ended.handle {
            handle.abort();
        }
        true
    }
}

/// Accepts until it is aborted, which ends its connections too.
pub(super) async fn serve(
    listener: TcpListener,
    snapshot: Arc<ArcSwap<Snapshot>>,
    counters: Arc<Counters>,
    connections: Arc<Connections>,
) {
    let (mut tasks, signatures) = (JoinSet::new(), Arc::new(Signatures::default()));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                counters.count(Counter::TcpConnections);
                let (number, displaced) = connections.admit(from.ip(), Instant::now());
                if displaced {
                    counters.count(Counter::TcpDisplaced);
                }
                let conversation = Conversation {
                    stream,
                    from,
                    number,
                    snapshot: Arc::clone(&snapshot),
                    counters: Arc::clone(&counters),
                    connections: Arc::clone(&connections),
                    signatures: Arc::clone(&signatures),
                };
                connections.set_handle(number, tasks.spawn(conversation.run()));
            }
            // Out of descriptors, or the connection was aborted: neither ends the server. Whoever connects can bring that
            // about, so it is counted and has no line in the log.
            Err(_) => {
                counters.count(Counter::TcpNotAccepted);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

struct Conversation {
    stream: TcpStream,
    from: SocketAddr,
    number: u64,
    snapshot: Arc<ArcSwap<Snapshot>>,
    counters: Arc<Counters>,
    connections: Arc<Connections>,
    signatures: Arc<Signatures>,
}

impl Conversation {
    async fn run(mut self) {
        // Answers are small, and clients wait for each.
        let _ = self.stream.set_nodelay(true);
        let idle = self.connections.limits.idle;
        let (mut packet, mut out, mut roll) = (Vec::new(), Vec::new(), seed());
        'messages: loop {
            // The time holds for the message as a whole: one byte now and then does not keep a connection.
            match timeout(idle, read(&mut self.stream, &mut packet)).await {
                Ok(Ok(true)) => {}
                Ok(_) => break,
                Err(_) => {
                    self.counters.count(Counter::TcpIdle);
                    break;
                }
            }
            self.connections.heard(self.number, Instant::now());
            roll = mix(roll);
            let Reply { outcome, mut rest, .. } = {
                let snapshot = self.snapshot.load();
                let (source, now) = (self.from.ip(), since_1970());
                let (signatures, transport) = (&self.signatures, Transport::Tcp);
                let around = Around { snapshot: &snapshot, source, transport, signatures, roll, now };
                respond(&around, &packet, &mut out)
            };
            self.counters.packet(Transport::Tcp, outcome);
            if out.is_empty() || !self.send(&mut out).await {
                break;
            }
            while let Some(transfer) = &mut rest {
                if transfer.next(since_1970().as_secs(), &mut out).is_err() || !self.send(&mut out).await {
                    break 'messages;
                }
                self.counters.count(Counter::TransferMessages);
                if transfer.is_over() {
                    rest = None;
                }
            }
        }
        self.connections.leave(self.number);
    }

    /// Sends a message behind its length; `false` if the client is gone, or too slow.
    async fn send(&mut self, message: &mut Vec<u8>) -> bool {
        let length = (message.len() as u16).to_be_bytes();
        message.splice(0..0, length);
        match timeout(self.connections.limits.idle, self.stream.write_all(message)).await {
            Ok(Ok(())) => {
                self.connections.heard(self.number, Instant::now());
                true
            }
            Ok(Err(_)) => false,
            Err(_) => {
                self.counters.count(Counter::TcpIdle);
                false
            }
        }
    }
}

/// Reads a message; `false` at the end of the connection.
async fn read(stream: &mut TcpStream, packet: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    packet.resize(length.into(), 0);
    stream.read_exact(packet).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(most: usize) -> Arc<Connections> {
        Connections::new(Tcp { connections: most, idle: Duration::from_secs(1) })
    }

    fn from(source: u8) -> IpAddr {
        [192, 0, 2, source].into()
    }

    #[tokio::test]
    async fn the_connection_that_is_idle_for_longest_makes_room() {
        let connections = connections(2);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut tasks = JoinSet::new();
        for second in 0..2 {
            let (number, displaced) = connections.admit(from(second as u8), at(second));
            assert!(!displaced);
            connections.set_handle(number, tasks.spawn(std::future::pending::<()>()));
        }
        connections.heard(0, at(5));
        let (number, displaced) = connections.admit(from(2), at(6));
        assert_eq!((number, displaced), (2, true));
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
        assert_eq!(connections.open().connections.keys().collect::<Vec<_>>(), [&0, &2]);
        connections.leave(0);
        assert!(!connections.admit(from(3), at(7)).1);
    }

    #[tokio::test]
    async fn who_has_a_share_already_makes_room_from_it() {
        let connections = connections(32);
        let now = Instant::now();
        let honest = connections.admit(from(1), now).0;
        let greedy: Vec<_> =
            (1..=20).map(|second| connections.admit(from(2), now + Duration::from_secs(second))).collect();
        assert_eq!(greedy.iter().filter(|(_, displaced)| *displaced).count(), 12);
        let left: Vec<u64> = connections.open().connections.keys().copied().collect();
        let youngest = greedy[12..].iter().map(|(number, _)| *number);
        assert_eq!(left, std::iter::once(honest).chain(youngest).collect::<Vec<_>>());
    }
}
