//! A few machines on wires, made by hand: for ways that the lab's own topology does not have.
//!
//! A machine is a network namespace that lives as long as the test holds it, so nothing is left behind.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use lab::netlink::Netlink;
use lab::xdp_pass;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use lb_test_support::{is_all, is_root, skip};

use super::{check, has_agent, lb, text, wait_until};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether machines can be made here; skips the test otherwise.
pub fn can_run(test: &str) -> bool {
    is_root(test) && has_agent(test)
}

/// Whether there are VLAN devices here. Where there are none, the tier `--all` runs this test under Debian's kernel
/// (`scripts/vm`), and the default tier skips it.
pub fn has_vlans(test: &str) -> bool {
    let probe = Machine::new("probe");
    probe.sh("ip link add name lower type veth peer name other");
    let has = || Command::new("ip").args("link add name upper link lower type vlan id 1".split(' ')).output();
    if probe.inside(has).is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("LAB_IN_VM").is_none(), "no VLAN devices in the emulated machine");
    if !is_all() {
        skip(test, "no VLAN devices in this kernel; scripts/test --all takes an emulated machine");
        return false;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout");
    let mut command = Command::new(root.join("scripts/vm"));
    command.args(["--limit", "600", "--"]).arg(std::env::current_exe().expect("this program"));
    let output = command
        .args(["--include-ignored", "--exact", test, "--nocapture"])
        .current_dir(root)
        .output()
        .expect("bash");
    let (said, problems) = (text(&output.stdout), text(&output.stderr));
    let cannot = ["needs: apt install", "cannot fetch", "no package linux-image"];
    match problems.lines().find(|line| cannot.iter().any(|known| line.contains(known))) {
        Some(reason) => skip(test, format_args!("no VLAN devices in this kernel, and {reason}")),
        None => assert!(output.status.success() && said.contains("1 passed"), "{said}\n{problems}"),
    }
    false
}

/// A machine.
pub struct Machine {
    name: &'static str,
    namespace: File,
    folder: tempfile::TempDir,
    agent: Option<Child>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
            if thread::panicking() {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                println!("{}:\n{log}", self.name);
            }
        }
    }
}

impl Machine {
    /// A machine without wires, which forwards packets and takes addresses at once.
    pub fn new(name: &'static str) -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("its file")
        };
        let namespace = thread::spawn(make).join().expect("a namespace");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let machine = Machine { name, namespace, folder, agent: None };
        machine.sh("ip link set lo up
            cd /proc/sys/net
            echo 1 | tee ipv4/ip_forward ipv6/conf/all/forwarding >/dev/null
            echo 0 | tee ipv4/conf/all/rp_filter ipv4/conf/default/rp_filter ipv6/conf/default/accept_dad >/dev/null");
        machine
    }

    /// Does something inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("entering");
            work()
        };
        thread::scope(|scope| scope.spawn(enter).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// What a shell script prints; it must succeed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.inside(|| Command::new("sh").args(["-ec", script]).output().expect("running sh"));
        assert!(output.status.success(), "{}: {script}: {}", self.name, text(&output.stderr));
        text(&output.stdout)
    }

    /// Gives an interface its addresses: the same last number in an IPv4 and an IPv6 prefix of this number.
    pub fn address(&self, interface: &str, net: u8, last: u8) {
        self.sh(&format!(
            "ip address add 10.{net}.0.{last}/24 dev {interface}; ip address add fd{net:02x}::{last}/64 dev {interface} nodad
             ip link set {interface} up"
        ));
    }

    /// Routes to the networks of this number, or to all, by this neighbour.
    pub fn route(&self, to: Option<u8>, net: u8, last: u8) {
        let [to4, to6] = match to {
            Some(to) => [format!("10.{to}.0.0/24"), format!("fd{to:02x}::/64")],
            None => ["default".to_owned(), "default".to_owned()],
        };
        self.sh(&format!(
            "ip route add {to4} via 10.{net}.0.{last}; ip -6 route add {to6} via fd{net:02x}::{last}"
        ));
    }

    /// A VLAN device on an interface.
    pub fn vlan(&self, on: &str, protocol: &str, id: u16) {
        self.sh(&format!(
            "ip link add {on}.{id} link {on} type vlan protocol {protocol} id {id}; ip link set {on}.{id} up"
        ));
    }

    /// Has an interface take what the other end sends by XDP (see `lab::xdp_pass`).
    pub fn pass(&self, interface: &str) {
        self.inside(|| {
            let pass = xdp_pass::load().expect("loading an XDP program");
            Netlink::open().expect("netlink").set_xdp(interface, pass.as_fd()).expect("XDP");
        });
    }

    /// Starts the agent with this configuration, to which its places are added; `FOLDER` is its own.
    pub fn start(&mut self, configuration: &str) {
        let folder = self.folder.path().display().to_string();
        let places = format!(
            "node: {}\napi: {folder}/api\npins: {folder}/pins/lb\ndisable_file: {folder}/disable\nleave_file: {folder}/leave\n",
            self.name
        );
        let file = format!("{folder}/lb.yaml");
        fs::write(&file, places + &configuration.replace("FOLDER", &folder))
            .expect("writing the configuration");
        fs::create_dir(format!("{folder}/pins")).expect("a folder for pins");
        self.resume();
    }

    /// Starts the agent again as it was; it finds nothing in the kernel.
    pub fn resume(&mut self) {
        let folder = self.folder.path().display().to_string();
        let file = format!("{folder}/lb.yaml");
        let log = File::options().create(true).append(true).open(format!("{folder}/log")).expect("a log");
        // Pins go with the agent: a mount of its own.
        let script = format!("mount -t bpf bpf {folder}/pins; exec {} agent --config {file}", lb().display());
        let agent = self.inside(|| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-ec", &script]);
            command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).spawn()
        });
        self.agent = Some(agent.expect("starting the agent"));
        wait_until("the agent is ready", Duration::from_secs(60), || {
            let status = self.status()?;
            check(status["ready"] == true, &status)
        });
    }

    /// Ends the agent as an operator does.
    pub fn stop(&mut self) {
        let Some(mut agent) = self.agent.take() else { return };
        let pid = nix::unistd::Pid::from_raw(agent.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
        agent.wait().expect("its end");
    }

    /// Takes the agent out of service by its file, or back.
    pub fn disable(&self, disabled: bool) {
        let file = self.folder.path().join("disable");
        let done = if disabled { fs::write(file, "") } else { fs::remove_file(file) };
        done.expect("the file that disables");
    }

    /// What the agent says of itself.
    pub fn status(&self) -> Result<Value, String> {
        let output = self.lb(&["status", "--format", "json"])?;
        serde_json::from_str(&output).map_err(|error| format!("{error}: {output}"))
    }

    /// What `lb` prints here.
    pub fn lb(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.run(arguments).map_err(|error| error.to_string())?;
        match output.stdout.is_empty() {
            true => Err(text(&output.stderr)),
            false => Ok(text(&output.stdout)),
        }
    }

    /// How `lb` ends here.
    pub fn run(&self, arguments: &[&str]) -> io::Result<Output> {
        let file = self.folder.path().join("lb.yaml");
        self.inside(|| Command::new(lb()).args(arguments).arg("--config").arg(&file).output())
    }

    /// A counter of the agent's programs.
    pub fn counter(&self, role: &str, name: &str) -> u64 {
        let status = self.status().expect("a status");
        status["counters"][role][name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {status}"))
    }

    /// Has VIPs, and answers at these ports of theirs: by TCP its name and all that it was sent, by UDP the same in one
    /// datagram.
    pub fn serve(&self, vips: &[IpAddr], ports: &[u16]) {
        for vip in vips {
            // Else it would be usable a moment later only.
            let at_once = if vip.is_ipv6() { "nodad" } else { "" };
            self.sh(&format!("ip address add {vip} dev lo {at_once}"));
        }
        let name = self.name;
        let (tcp, udp): (Vec<_>, Vec<_>) = self.inside(|| {
            let places = vips.iter().flat_map(|vip| ports.iter().map(|port| SocketAddr::new(*vip, *port)));
            let sockets = places.map(|at| {
                (TcpListener::bind(at).expect("listening"), UdpSocket::bind(at).expect("a UDP socket"))
            });
            sockets.unzip()
        });
        for listener in tcp {
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || answer(stream, name));
                }
            });
        }
        for socket in udp {
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok((bytes, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&[name.as_bytes(), b"\n", &buffer[..bytes]].concat(), from);
                }
            });
        }
    }

    /// Sends bytes to a VIP's port 80 by TCP, and gets them back: from whom.
    pub fn ask(&self, vip: IpAddr, bytes: usize) -> Result<String, String> {
        self.ask_from(any(vip), SocketAddr::new(vip, 80), bytes)
    }

    /// The same from an address of its own, at any port.
    pub fn ask_from(&self, from: IpAddr, to: SocketAddr, bytes: usize) -> Result<String, String> {
        self.inside(|| {
            let question = vec![b'x'; bytes];
            let told = |error: io::Error| format!("{to}: {error}");
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).map_err(told)?;
            socket.bind(&SocketAddr::new(from, 0).into()).map_err(told)?;
            socket.connect_timeout(&to.into(), PATIENCE).map_err(told)?;
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
            stream.write_all(&question).map_err(told)?;
            stream.shutdown(Shutdown::Write).map_err(told)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).map_err(told)?;
            whose(&answer, &question).ok_or_else(|| format!("{to}: {} bytes came back", answer.len()))
        })
    }

    /// Sends bytes to a VIP's port 80 in one datagram, and gets them back: from whom.
    pub fn ask_udp(&self, vip: IpAddr, bytes: usize) -> Result<String, String> {
        self.ask_udp_from(any(vip), SocketAddr::new(vip, 80), bytes, PATIENCE)
    }

    /// The same from an address of its own, at any port, waiting so long.
    pub fn ask_udp_from(
        &self,
        from: IpAddr,
        to: SocketAddr,
        bytes: usize,
        patience: Duration,
    ) -> Result<String, String> {
        self.inside(|| {
            let question = vec![b'x'; bytes];
            let told = |error: io::Error| format!("{to}: {error}");
            let socket = UdpSocket::bind(SocketAddr::new(from, 0)).map_err(told)?;
            socket.set_read_timeout(Some(patience)).map_err(told)?;
            socket.send_to(&question, to).map_err(told)?;
            let mut answer = vec![0; 1 << 16];
            let (len, _) = socket.recv_from(&mut answer).map_err(told)?;
            whose(&answer[..len], &question).ok_or_else(|| format!("{to}: {len} bytes came back"))
        })
    }

    /// Whether an echo request is answered.
    pub fn ping(&self, address: IpAddr) -> Result<(), String> {
        self.inside(|| echo(address)).map_err(|error| format!("ping {address}: {error}"))
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }
}

fn echo(address: IpAddr) -> io::Result<()> {
    // Type, code, checksum, identifier, number: of requests, and where the type of a reply stands.
    let (domain, protocol, request, reply) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, [8, 0, 0xf7, 0xfd, 0, 1, 0, 1], (20, 0)),
        // The kernel writes the checksum.
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, [128, 0, 0, 0, 0, 1, 0, 1], (0, 129)),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    socket.send(&request)?;
    let (mut socket, mut buffer) = (socket, [0; 128]);
    loop {
        let bytes = socket.read(&mut buffer)?;
        let (at, kind) = reply;
        if bytes > at && buffer[at] == kind {
            return Ok(());
        }
    }
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut question = Vec::new();
    if stream.read_to_end(&mut question).is_ok() {
        let _ = stream.write_all(&[name.as_bytes(), b"\n", &question].concat());
    }
}

/// No address in particular, of the family of this one.
fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() }
}

/// The name in an answer, if it also holds the question.
fn whose(answer: &[u8], question: &[u8]) -> Option<String> {
    let name = answer.split(|byte| *byte == b'\n').next()?;
    (answer[name.len() + 1..] == *question).then(|| text(name))
}

/// A wire between two interfaces, which leave nothing to the other end: no checksum, no cutting of segments, no VLAN tag.
pub fn wire((a, at_a): (&Machine, &str), (b, at_b): (&Machine, &str), mtu: u32) {
    a.sh(&format!("ip link add {at_a} mtu {mtu} type veth peer name {at_b} mtu {mtu} netns {}", b.path()));
    for (machine, interface) in [(a, at_a), (b, at_b)] {
        machine.sh(&format!(
            "ethtool -K {interface} tx off tso off gso off txvlan off rxvlan off \
             tx-vlan-stag-hw-insert off rx-vlan-stag-hw-parse off >/dev/null
             ip link set {interface} up"
        ));
    }
}
