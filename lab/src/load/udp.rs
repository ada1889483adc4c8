//! UDP flows: numbered datagrams from a connected socket, whose echoes must all come from the same host.
//!
//! Single datagrams may be lost, that is what UDP promises. A flow is broken when another host answers, when a host
//! refuses it (ICMP port unreachable), or when nothing is echoed any more for as long as the load is patient.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::{cause_of, route_number, turn_of};
use super::stall::{Late, Waited};
use super::{Broken, Cause, LoadKind, Said, Shared, milliseconds, say};

/// Where hosts echo datagrams.
pub const PORT: u16 = 9000;
/// Flows opened per second.
const OPENED_PER_SECOND: u64 = 200;
/// Between two datagrams of a flow, and of one that waits for its first or last echo.
const INTERVAL: Duration = Duration::from_millis(500);
const HASTE: Duration = Duration::from_millis(200);

/// A datagram of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The flow's number.
    pub flow: u32,
    /// From 1 within the flow.
    pub sequence: u64,
    /// The last one: the host may forget the flow.
    pub last: bool,
}

impl Datagram {
    /// As it is sent.
    pub fn text(&self) -> String {
        let Self { flow, sequence, last } = self;
        format!("lab-udp {flow} {sequence} {}", if *last { "bye" } else { "on" })
    }

    /// Reads what [`Self::text`] wrote.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = str::from_utf8(bytes).ok()?.split(' ');
        (words.next()? == "lab-udp").then_some(())?;
        let (flow, sequence) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let last = match words.next()? {
            "on" => false,
            "bye" => true,
            _ => return None,
        };
        words.next().is_none().then_some(Self { flow, sequence, last })
    }

    /// What a host answers: its name in front.
    pub fn echo(&self, host: &str) -> String {
        format!("{host} {}", self.text())
    }

    /// Reads an echo: the host and what it echoes.
    pub fn parse_echo(bytes: &[u8]) -> Option<(&str, Self)> {
        let (host, rest) = str::from_utf8(bytes).ok()?.split_once(' ')?;
        Some((host, Self::parse(rest.as_bytes())?))
    }
}

/// What a flow knows: pure, times are passed in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    number: u32,
    /// The host that answered first.
    host: Option<String>,
    sent: u64,
    echoed: u64,
    /// The highest number that was echoed.
    newest: u64,
    /// When the first datagram was sent after the last echo.
    unanswered: Option<Instant>,
    slowest: Duration,
}

impl Flow {
    fn new(number: u32) -> Self {
        Self { number, host: None, sent: 0, echoed: 0, newest: 0, unanswered: None, slowest: Duration::ZERO }
    }

    /// The next datagram, sent `now`.
    fn next(&mut self, last: bool, now: Instant) -> Datagram {
        self.sent += 1;
        self.unanswered.get_or_insert(now);
        Datagram { flow: self.number, sequence: self.sent, last }
    }

    /// Something arrived `now`; the result is for how long nothing had been echoed.
    fn heard(&mut self, bytes: &[u8], now: Instant) -> Result<Duration, Cause> {
        let (host, datagram) = Datagram::parse_echo(bytes).ok_or(Cause::Garbage)?;
        if datagram.flow != self.number || !(1..=self.sent).contains(&datagram.sequence) {
            return Err(Cause::WrongEcho);
        }
        if *self.host.get_or_insert_with(|| host.to_owned()) != host {
            return Err(Cause::OtherHost);
        }
        // A copy of a datagram, or one that was overtaken, is no new sign of life.
        let mut silent = Duration::ZERO;
        if datagram.sequence > self.newest {
            self.newest = datagram.sequence;
            silent = self.silent(now);
            self.unanswered = None;
        }
        self.slowest = self.slowest.max(silent);
        self.echoed = (self.echoed + 1).min(self.sent);
        Ok(silent)
    }

    /// Datagrams that were overtaken by an echo and not echoed themselves: later ones may still be on their way.
    fn lost(&self) -> u64 {
        self.newest.saturating_sub(self.echoed)
    }

    /// For how long nothing was echoed of what was sent.
    fn silent(&self, now: Instant) -> Duration {
        self.unanswered.map_or(Duration::ZERO, |since| now - since)
    }
}

/// The life of flow `number`.
pub(super) async fn live(number: u32, shared: Rc<Shared>) {
    sleep(turn_of(number, OPENED_PER_SECOND)).await;
    let (user, vip) = shared.route(route_number(LoadKind::Udp, number));
    let mut flow = Flow::new(number);
    let since = shared.orders.borrow().close.len();
    let opened = async {
        let socket = connect(user, vip).await.map_err(|error| cause_of(&error))?;
        exchange(&socket, &mut flow, false, &shared).await?;
        Ok(socket)
    };
    let opened: Result<UdpSocket, Cause> = opened.await;
    if opened.is_ok() {
        shared.count(LoadKind::Udp, |count| count.opened += 1);
    }
    let problem = opened.as_ref().err().map(|cause| format!("udp: {user} → {vip}: {}", cause.word()));
    shared.tried(problem);
    let Ok(socket) = opened else { return };
    let result = go_on(&socket, &mut flow, since, &shared).await;
    let lost = flow.lost();
    match result {
        Ok(closed) => shared.count(LoadKind::Udp, |count| {
            count.survived += 1;
            count.closed += u32::from(closed);
            count.lost += lost;
            count.slowest_ms = count.slowest_ms.max(milliseconds(flow.slowest));
        }),
        Err(cause) => {
            shared.count(LoadKind::Udp, |count| count.lost += lost);
            let user = socket.local_addr().map(|address| address.to_string()).unwrap_or_default();
            say(&Said::Broken(Broken {
                kind: LoadKind::Udp,
                user,
                vip,
                l7: flow.host.clone().unwrap_or_default(),
                server: String::new(),
                cause,
                asked_ago_ms: milliseconds(flow.silent(Instant::now())),
            }));
        }
    }
}

async fn connect(user: IpAddr, vip: IpAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(user, 0)).await?;
    socket.connect(SocketAddr::new(vip, PORT)).await?;
    Ok(socket)
}

/// Sends and hears until told to end, then takes leave. Whether it was told before the others.
async fn go_on(socket: &UdpSocket, flow: &mut Flow, since: usize, shared: &Shared) -> Result<bool, Cause> {
    let mut orders = shared.orders.clone();
    let mut due = Instant::now() + INTERVAL;
    let host = flow.host.clone().unwrap_or_default();
    let mut buffer = [0; 256];
    loop {
        let (ends, finish) = {
            let orders = orders.borrow_and_update();
            (orders.end(&host, since), orders.finish)
        };
        if ends {
            exchange(socket, flow, true, shared).await?;
            return Ok(!finish);
        }
        tokio::select! {
            () = sleep_until(due) => {
                if flow.silent(Instant::now()) > shared.patience() {
                    return Err(Cause::Timeout);
                }
                due += INTERVAL;
                send(socket, &flow.next(false, Instant::now())).await?;
            }
            read = socket.recv(&mut buffer) => {
                let silent = hear(flow, read, &buffer)?;
                tell_late(socket, silent);
            }
            changed = orders.changed() => if changed.is_err() { return Ok(false) },
        }
    }
}

/// Sends datagrams until one of them is echoed.
async fn exchange(socket: &UdpSocket, flow: &mut Flow, last: bool, shared: &Shared) -> Result<(), Cause> {
    let wanted = flow.sent + 1;
    let deadline = Instant::now() + shared.patience();
    let mut due = Instant::now();
    let mut buffer = [0; 256];
    while flow.newest < wanted {
        tokio::select! {
            () = sleep_until(due) => {
                if due > deadline {
                    return Err(Cause::Timeout);
                }
                due += HASTE;
                send(socket, &flow.next(last, Instant::now())).await?;
            }
            read = socket.recv(&mut buffer) => {
                let silent = hear(flow, read, &buffer)?;
                tell_late(socket, silent);
            }
        }
    }
    Ok(())
}

/// Says that nothing was echoed for so long, if that was long.
fn tell_late(socket: &UdpSocket, silent: Duration) {
    if let (Ok(user), Ok(vip)) = (socket.local_addr(), socket.peer_addr()) {
        let waited = Waited::Load(LoadKind::Udp);
        let late =
            Late { waited, user: Some(user.to_string()), vip: vip.ip(), took_ms: milliseconds(silent) };
        late.tell();
    }
}

fn hear(flow: &mut Flow, read: std::io::Result<usize>, buffer: &[u8]) -> Result<Duration, Cause> {
    match read {
        Ok(length) => flow.heard(&buffer[..length], Instant::now()),
        Err(error) => refused(&error).map(|()| Duration::ZERO),
    }
}

async fn send(socket: &UdpSocket, datagram: &Datagram) -> Result<(), Cause> {
    match socket.send(datagram.text().as_bytes()).await {
        Ok(_) => Ok(()),
        Err(error) => refused(&error),
    }
}

/// A refusal breaks the flow; that there was no way for a datagram is a loss like any other.
fn refused(error: &std::io::Error) -> Result<(), Cause> {
    if error.kind() == std::io::ErrorKind::ConnectionRefused { Err(Cause::Reset) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(host: &str, flow: u32, sequence: u64) -> Vec<u8> {
        Datagram { flow, sequence, last: false }.echo(host).into_bytes()
    }

    #[test]
    fn datagrams_and_echoes_read_back() {
        for last in [false, true] {
            let datagram = Datagram { flow: 7, sequence: 12, last };
            assert_eq!(Datagram::parse(datagram.text().as_bytes()), Some(datagram));
            assert_eq!(Datagram::parse_echo(datagram.echo("lb7-1").as_bytes()), Some(("lb7-1", datagram)));
        }
        for wrong in ["lab-udp 1 2", "lab-udp 1 x on", "lab-udp 1 2 on 3", "udp 1 2 on", ""] {
            assert_eq!(Datagram::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn lost_datagrams_break_nothing_and_the_longest_silence_is_kept() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut flow = Flow::new(7);
        let mut last = Duration::ZERO;
        for (ms, answered) in [(0, true), (500, false), (1000, false), (1500, true)] {
            let sequence = flow.next(false, at(ms)).sequence;
            if answered {
                last = flow.heard(&echo("lb7-1", 7, sequence), at(ms + 10)).unwrap();
            }
        }
        assert_eq!(last, Duration::from_millis(1010));
        assert_eq!(flow.lost(), 2);
        flow.next(false, at(2000));
        assert_eq!(flow.lost(), 2, "that one may still be on its way");
        assert_eq!(flow.slowest, Duration::from_millis(1010));
        assert_eq!(flow.silent(at(9000)), Duration::from_secs(7));
    }

    #[test]
    fn copies_of_old_echoes_are_no_sign_of_life() {
        let start = Instant::now();
        let mut flow = Flow::new(7);
        flow.next(false, start);
        assert_eq!(flow.heard(&echo("lb7-1", 7, 1), start), Ok(Duration::ZERO));
        flow.next(false, start);
        assert_eq!(flow.heard(&echo("lb7-1", 7, 1), start), Ok(Duration::ZERO));
        assert_eq!(flow.silent(start + Duration::from_secs(3)), Duration::from_secs(3));
    }

    #[test]
    fn another_host_another_flow_and_what_was_never_sent_break_it() {
        let now = Instant::now();
        let mut flow = Flow::new(7);
        flow.next(false, now);
        assert_eq!(flow.heard(&echo("lb7-1", 7, 1), now), Ok(Duration::ZERO));
        assert_eq!(flow.heard(&echo("lb7-2", 7, 1), now), Err(Cause::OtherHost));
        assert_eq!(flow.heard(&echo("lb7-1", 8, 1), now), Err(Cause::WrongEcho));
        assert_eq!(flow.heard(&echo("lb7-1", 7, 2), now), Err(Cause::WrongEcho));
        assert_eq!(flow.heard(b"hello", now), Err(Cause::Garbage));
    }
}
