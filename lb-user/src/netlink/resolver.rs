//! The task that keeps next hops current.
//!
//! One task owns everything: two netlink sockets, one for questions and one for the kernel's events, so that a flood of
//! events cannot lose answers. It ends when nobody holds a receiver of its output any more.
//!
//! For every wanted address it asks the kernel for the route (`RTM_GETROUTE`), which settles policy, ECMP and metrics
//! as for the kernel's own packets; again at each change of a link, address, route or rule, in batches. It has the
//! kernel resolve the neighbours that are needed, and keep them (`NTF_EXT_MANAGED`; where the kernel is older than
//! 5.16, by asking for stale ones every second). When events are lost, it starts over from a full dump.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourState,
};
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Error, Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::messages;
use super::state::{Event, NextHop, Place, Route, State};

/// The next hop of each wanted address, or why there is none.
pub type NextHops = BTreeMap<IpAddr, Result<NextHop, String>>;

/// How long changes are gathered before routes are asked for again.
const GATHER: Duration = Duration::from_millis(10);
/// How often neighbours that failed or went stale are asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long to wait before sockets are opened again.
const REOPEN: Duration = Duration::from_secs(1);
/// How long the kernel may take for all answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions under way at a time.
const PARALLEL: usize = 64;
/// Bytes of events that may wait to be read.
const EVENT_BUFFER: usize = 4 << 20;

/// Keeps next hops current; see the module.
pub struct Resolver {
    sockets: Sockets,
    state: State,
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
    output: watch::Sender<NextHops>,
    /// Neighbours that this task asked the kernel to keep.
    held: BTreeSet<Place>,
}

impl Resolver {
    /// Starts a task for the network namespace of the calling thread, which must be in a tokio runtime.
    ///
    /// The first output is empty, the second has an answer for each wanted address. When the sender of `wanted` is
    /// dropped, the last set stays.
    pub fn start(wanted: watch::Receiver<BTreeSet<IpAddr>>) -> io::Result<watch::Receiver<NextHops>> {
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let sockets = Sockets::open()?;
        let (output, receiver) = watch::channel(NextHops::new());
        let resolver = Resolver { sockets, state: State::default(), wanted, output, held: BTreeSet::new() };
        tokio::spawn(resolver.run(namespace));
        Ok(receiver)
    }

    async fn run(mut self, namespace: File) {
        let output = self.output.clone();
        let work = async {
            loop {
                let error = match self.follow().await {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                warn!("netlink: {error}; starting over");
                loop {
                    sleep(REOPEN).await;
                    match Sockets::open_in(&namespace) {
                        Ok(sockets) => break self.sockets = sockets,
                        Err(error) => warn!("netlink: cannot open sockets: {error}; trying again"),
                    }
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = output.closed() => {}
        }
    }

    /// Dumps, then follows events, until something fails.
    async fn follow(&mut self) -> Result<std::convert::Infallible, Failure> {
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wanted_closed = false;
        'dump: loop {
            timeout(PATIENCE, self.dump()).await.map_err(|_| Failure::Silent)??;
            let mut ask_at = Some(Instant::now());
            loop {
                tokio::select! {
                    event = self.sockets.events.next() => match self.take(event)? {
                        Taken::Lost => {
                            warn!("netlink: events were lost; reading everything again");
                            continue 'dump;
                        }
                        Taken::Routing => { ask_at.get_or_insert_with(|| Instant::now() + GATHER); }
                        Taken::Other => {}
                    },
                    changed = self.wanted.changed(), if !wanted_closed => {
                        wanted_closed = changed.is_err();
                        ask_at = Some(Instant::now());
                    }
                    () = sleep_until(ask_at.unwrap_or_else(Instant::now)), if ask_at.is_some() => {
                        timeout(PATIENCE, self.ask_routes()).await.map_err(|_| Failure::Silent)?;
                        ask_at = None;
                    }
                    _ = again.tick() => self.resolve(true).await,
                }
                if ask_at.is_none() {
                    self.resolve(false).await;
                    self.publish();
                }
            }
        }
    }

    /// Takes in an event and all that wait behind it.
    fn take(&mut self, event: Option<Received>) -> Result<Taken, Failure> {
        let mut taken = Taken::Other;
        let mut next = Some(event);
        while let Some(event) = next {
            let (message, _) = event.ok_or(Failure::Closed)?;
            match message.payload {
                NetlinkPayload::InnerMessage(message) => {
                    let ask = messages::event(&message).is_some_and(|event| self.state.apply(event));
                    taken = if ask { Taken::Routing } else { taken };
                }
                NetlinkPayload::Overrun(_) => {
                    // Nothing that waits is newer than the dump that follows.
                    while self.sockets.events.next().now_or_never().flatten().is_some() {}
                    return Ok(Taken::Lost);
                }
                _ => {}
            }
            next = self.sockets.events.next().now_or_never();
        }
        Ok(taken)
    }

    async fn dump(&mut self) -> Result<(), Failure> {
        let mut state = State::default();
        let mut links = self.sockets.handle.link().get().execute();
        while let Some(message) = links.try_next().await? {
            if let Some((ifindex, link)) = messages::link(&message) {
                state.apply(Event::Link(ifindex, link));
            }
        }
        let mut neighbours = self.sockets.handle.neighbours().get().execute();
        while let Some(message) = neighbours.try_next().await? {
            if let Some((place, neighbour)) = messages::neighbour(&message) {
                state.apply(Event::Neighbour(place, neighbour));
            }
        }
        self.state = state;
        Ok(())
    }

    async fn ask_routes(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        let handle = &self.sockets.handle;
        let answers = stream::iter(wanted)
            .map(|address| async move { (address, ask_route(handle, address).await) })
            .buffer_unordered(PARALLEL);
        self.state.set_routes(answers.collect().await);
    }

    /// Has the kernel resolve what is needed, and lets go of what is no more.
    async fn resolve(&mut self, again: bool) {
        for place in self.state.unresolved(again) {
            self.held.insert(place);
            if let Err(error) = self.hold(place, NeighbourExtFlags::Managed).await {
                debug!("netlink: cannot have {} resolved: {error}", place.1);
            }
        }
        let needed = self.state.needed();
        let released: Vec<Place> = self.held.difference(&needed).copied().collect();
        for place in released {
            self.held.remove(&place);
            if self.state.is_managed(&place)
                && let Err(error) = self.hold(place, NeighbourExtFlags::empty()).await
            {
                debug!("netlink: cannot let go of {}: {error}", place.1);
            }
        }
    }

    /// `NTF_USE` makes the kernel resolve now; it keeps the entry resolved as long as the managed flag is set.
    async fn hold(&self, (ifindex, address): Place, flags: NeighbourExtFlags) -> Result<(), Error> {
        let mut request = self.sockets.handle.neighbours().add(ifindex, address).replace();
        let message = request.message_mut();
        message.header.state = NeighbourState::None;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::ExtFlags(flags));
        request.execute().await
    }

    fn publish(&self) {
        let wanted = self.wanted.borrow();
        let next_hop = |address| self.state.next_hop(address).map_err(|reason| reason.to_string());
        let next_hops: NextHops = wanted.iter().map(|&address| (address, next_hop(address))).collect();
        drop(wanted);
        self.output.send_if_modified(|output| {
            let modified = *output != next_hops;
            *output = next_hops;
            modified
        });
    }
}

/// What [`Resolver::take`] found.
enum Taken {
    Lost,
    Routing,
    Other,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the kernel closed a socket")]
    Closed,
    #[error("no answer for {} s", PATIENCE.as_secs())]
    Silent,
    #[error(transparent)]
    Refused(#[from] Error),
}

type Received = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

struct Sockets {
    handle: Handle,
    events: UnboundedReceiver<Received>,
}

impl Sockets {
    /// In the calling thread's namespace.
    fn open() -> io::Result<Self> {
        use MulticastGroup as G;
        let groups = [
            G::Link,
            G::Neigh,
            G::Ipv4Ifaddr,
            G::Ipv6Ifaddr,
            G::Ipv4Route,
            G::Ipv6Route,
            G::Ipv4Rule,
            G::Ipv6Rule,
        ];
        let (mut listener, _, events) = rtnetlink::new_multicast_connection(&groups)?;
        let socket = listener.socket_mut().socket_mut();
        // Beyond the system's limit only with CAP_NET_ADMIN; without, events are lost sooner, which is noticed.
        setsockopt(socket, sockopt::RcvBufForce, &EVENT_BUFFER)
            .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &EVENT_BUFFER))?;
        let (asker, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(listener);
        tokio::spawn(asker);
        Ok(Sockets { handle, events })
    }

    /// In another namespace than that of the runtime's threads.
    fn open_in(namespace: &File) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let open = || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let _guard = runtime.enter();
            Self::open()
        };
        std::thread::scope(|scope| scope.spawn(open).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread that opens sockets panicked")))
    }
}

async fn ask_route(handle: &Handle, address: IpAddr) -> Result<Route, String> {
    let answer = Box::pin(handle.route().get(messages::route_request(address)).execute()).try_next().await;
    match answer {
        Ok(Some(message)) => messages::route(&message),
        Ok(None) => Err("the kernel gave no answer".into()),
        Err(Error::NetlinkError(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
