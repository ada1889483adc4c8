//! The sockets: per address, threads that answer by UDP; and one thread that answers all addresses by TCP, so that what is
//! sent there delays nothing else of the agent.
//!
//! Each address is bound by itself, so that answers leave from the address that was asked. The threads of an address have
//! a socket each (`SO_REUSEPORT`), among which the kernel spreads the clients. Dropping the [`Server`] ends all.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, error};

use super::counters::{Counter, Counters};
use super::datagrams::Batch;
use super::dnssec::sign::Signatures;
use super::policy::mix;
use super::ready::Ready;
use super::snapshot::Snapshot;
use super::wire::{Around, Transport};
use super::{Config, Tcp, tcp, turns};

/// How often a thread that hears nothing looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes that the kernel keeps of questions for a thread that is busy.
const QUEUE: usize = 4 << 20;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("dns: cannot listen on {address}: {source}; {}", advice(.source))]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run `lb agent` as root, or grant CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrInUse => "end the other name server there, or list another address in dns.listen",
        _ => "list addresses of this node in dns.listen",
    }
}

/// Sockets that nobody answers on yet.
pub struct Sockets {
    udp: Vec<(SocketAddr, Vec<UdpSocket>)>,
    tcp: Vec<TcpListener>,
    limits: Tcp,
}

impl Sockets {
    /// Binds all addresses or none. Must be called within a Tokio runtime.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        let mut sockets = Sockets { udp: Vec::new(), tcp: Vec::new(), limits: config.tcp };
        for &wanted in &config.listen {
            let failed = |source| ListenError { address: wanted, source };
            let first = udp(wanted).map_err(failed)?;
            // Where the configuration says port 0, the first socket chooses for all.
            let address = first.local_addr().map_err(failed)?;
            let mut of_address = vec![first];
            for _ in 1..config.threads {
                of_address.push(udp(address).map_err(failed)?);
            }
            sockets.udp.push((address, of_address));
            sockets.tcp.push(crate::agent_check::listen(address).map_err(failed)?);
        }
        Ok(sockets)
    }

    /// Where they are bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().map(|(address, _)| *address).collect()
    }

    /// Answers from now on. `beside` counts what has no socket here.
    pub fn serve(self, snapshot: Arc<ArcSwap<Snapshot>>, beside: Arc<Counters>) -> io::Result<Server> {
        let mut server = Server {
            addresses: self.addresses(),
            counters: vec![beside],
            stop: Arc::default(),
            ended: watch::Sender::default(),
        };
        for (number, socket) in self.udp.into_iter().flat_map(|(_, sockets)| sockets).enumerate() {
            let counters = server.new_counters();
            let (stop, snapshot) = (Arc::clone(&server.stop), Arc::clone(&snapshot));
            thread::Builder::new()
                .name(format!("dns-udp-{number}"))
                .spawn(move || answer_datagrams(&socket, &snapshot, &counters, &stop))?;
        }
        let listeners = self.tcp.into_iter().map(TcpListener::into_std).collect::<io::Result<Vec<_>>>()?;
        let listeners = listeners.into_iter().map(|listener| (listener, server.new_counters())).collect();
        let (limits, ended) = (self.limits, server.ended.subscribe());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("dns-tcp".into())
            .spawn(move || runtime.block_on(answer_connections(listeners, limits, snapshot, ended)))?;
        Ok(server)
    }
}

/// A running server.
pub struct Server {
    addresses: Vec<SocketAddr>,
    counters: Vec<Arc<Counters>>,
    stop: Arc<AtomicBool>,
    /// Dropped with the server, which ends what answers by TCP.
    ended: watch::Sender<()>,
}

impl Server {
    /// Where it listens; differs from the configuration where that says port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The counters of all threads and tasks.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    fn new_counters(&mut self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.counters.push(Arc::clone(&counters));
        counters
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The time as signatures tell it.
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Chance for a thread or task: its sequence begins where nobody can guess.
pub(super) fn seed() -> u64 {
    RandomState::new().hash_one(0)
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    // As much of it as the kernel allows.
    let _ = socket.set_recv_buffer_size(QUEUE);
    socket.set_read_timeout(Some(LOOK))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Answers by TCP until the server is dropped.
async fn answer_connections(
    listeners: Vec<(std::net::TcpListener, Arc<Counters>)>,
    limits: Tcp,
    snapshot: Arc<ArcSwap<Snapshot>>,
    mut ended: watch::Receiver<()>,
) {
    let (mut tasks, connections) = (JoinSet::new(), tcp::Connections::new(limits));
    for (listener, counters) in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                tasks.spawn(tcp::serve(listener, Arc::clone(&snapshot), counters, Arc::clone(&connections)));
            }
            Err(error) => error!("dns: cannot answer by TCP: {error}"),
        }
    }
    let _ = ended.changed().await;
}

fn answer_datagrams(
    socket: &UdpSocket,
    snapshot: &Arc<ArcSwap<Snapshot>>,
    counters: &Counters,
    stop: &AtomicBool,
) {
    if let Err(error) = turns::shorten() {
        debug!("dns: answers may wait for other work of this machine: {error}");
    }
    let mut snapshot = Cache::new(Arc::clone(snapshot));
    let (mut batch, mut ready) = (Batch::new(), Ready::new());
    let (mut roll, signatures) = (seed(), Signatures::default());
    while !stop.load(Ordering::Relaxed) {
        let served = batch.serve(socket, |question, from, out| {
            roll = mix(roll);
            let snapshot = snapshot.load();
            let around = Around {
                snapshot,
                source: from.ip(),
                transport: Transport::Udp,
                signatures: &signatures,
                roll,
                now: since_1970(),
            };
            let outcome = ready.respond(snapshot, &around, question, out);
            counters.packet(Transport::Udp, outcome);
        });
        match served {
            Ok(unsent) => (0..unsent).for_each(|_| counters.count(Counter::Unsent)),
            Err(error) => match error.kind() {
                // Refused and unreachable are what clients that are gone left behind.
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable => {}
                _ => {
                    error!("dns: cannot receive: {error}");
                    thread::sleep(LOOK);
                }
            },
        }
    }
}
