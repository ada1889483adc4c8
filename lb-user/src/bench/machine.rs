//! The director and the host that are measured: the real programs over maps of a pool of thirteen hosts, and a real
//! connection for the host to find.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aya::programs::ProgramInfo;
use nix::sched::{CloneFlags, unshare};

use super::packets::{self, ACK, Ends, SYN};
use super::wrapper::{Subject, XDP_PASS, XDP_TX, descriptor, vary_at};
use super::{Size, verifier};
use crate::config::{Capacity, Decapsulation, XdpMode};
use crate::dataplane::director::{self, Director, DirectorOptions};
use crate::dataplane::host::{self, Accept, Fellows, HostOptions, HostPlane};
use crate::dataplane::load::Object;
use crate::dataplane::nexthops::Sources;
use crate::model::{Affinity, Host, HostId, HostState, Model, Pool, Protocol, Service, ServiceKey};
use crate::netlink::{NextHop, NextHops};
use crate::vip::Vip;

const HOSTS: u8 = 13;
const VIP4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xc633, 0x6401);
/// Flows vary in their last twenty bits.
const CLIENT4: Ipv4Addr = Ipv4Addr::new(203, 0, 0, 1);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xcb00, 1);
const DIRECTOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
/// Of a service with a flow table, of the default size: far fewer than a million.
const FLOW_TABLE_PORT: u16 = 81;
/// A million flows.
const MANY: u32 = 20;
const LOOPBACK: u32 = 1;
const GENERATION: u16 = 1;
/// Payload of all packets, so that they are as long as what is restored of them.
const PAYLOAD: usize = 90;

/// Runs `work` in a thread with a network of its own, where `lo` is up and has the VIP.
pub fn in_own_network<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own (run as root)")?;
        ip(&["link", "set", "lo", "up"])?;
        ip(&["address", "add", &format!("{VIP4}/32"), "dev", "lo"])?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("running ip (apt install iproute2)")?;
    ensure!(status.success(), "ip {} failed", arguments.join(" "));
    Ok(())
}

/// The objects whose programs are measured.
#[derive(Clone, Copy)]
pub(super) struct Objects<'a> {
    pub director: &'a Object,
    pub host: &'a Object,
}

impl Objects<'_> {
    /// Those of this release.
    pub const PRESENT: Objects<'static> = Objects { director: &director::OBJECT, host: &host::OBJECT };
}

/// A connection of this machine.
pub(super) struct Connection {
    ends: Ends,
    _sockets: (TcpListener, TcpStream, TcpStream),
}

impl Connection {
    /// To the VIP.
    pub fn open() -> Result<Self> {
        let listener = TcpListener::bind((VIP4, 80)).context("listening on the VIP")?;
        let client = TcpStream::connect((VIP4, 80))?;
        let (server, peer) = listener.accept()?;
        let SocketAddr::V4(peer) = peer else { unreachable!("bound to an IPv4 address") };
        let ends = Ends { source: ((*peer.ip()).into(), peer.port()), destination: (VIP4.into(), 80) };
        Ok(Connection { ends, _sockets: (listener, client, server) })
    }

    /// A packet of it.
    pub fn packet(&self) -> Vec<u8> {
        packets::tcp(self.ends, ACK, PAYLOAD)
    }
}

/// A director and a host.
pub(super) struct Machine<'a> {
    objects: Objects<'a>,
    director: Director,
    /// One that has much loaded, if it is to be measured.
    large: Option<Director>,
    host: HostPlane,
    /// The ends of the connection that the host holds.
    held: Ends,
    /// A flow whose row the host owns, but whose connection it does not hold.
    strange: Ends,
}

impl<'a> Machine<'a> {
    pub fn make(objects: Objects<'a>, connection: &Connection, large: bool) -> Result<Self> {
        let model = model();
        let nexthops = nexthops(&model);
        let director = director(objects.director, &model, Capacity::default())?;

        let options = HostOptions {
            interfaces: vec![],
            decapsulation: Decapsulation::Xdp,
            xdp: XdpMode::Auto,
            prefixes: false,
            capacity: Capacity::default(),
        };
        let mut host = HostPlane::load_object(objects.host, options, None)?;
        let locals = [IpAddr::V4(host4(1))];
        host.sync(&Accept {
            senders: vec![(Ipv4Addr::new(192, 0, 2, 0).into(), 24)],
            locals: locals.to_vec(),
            vips: [VIP4.into(), VIP6.into()].into(),
        })?;
        host.sync_fellows(&Fellows {
            model: &model,
            locals: &locals,
            nexthops: &nexthops,
            doubts: &BTreeMap::new(),
            per_second: u32::MAX,
        })?;
        let strange = Ends { source: (CLIENT4.into(), 40000), destination: (VIP4.into(), 80) };
        let large = if large { Some(large_director(objects.director)?) } else { None };
        Ok(Machine { objects, director, large, host, held: connection.ends, strange })
    }

    /// A packet to the host, of the connection that it holds.
    pub fn held_packet(&self) -> Vec<u8> {
        packets::tunnelled(&packets::tcp(self.held, ACK, PAYLOAD), DIRECTOR, host4(1), GENERATION, 0)
    }

    /// What the kernel says of the programs.
    pub fn sizes(&mut self) -> Result<Vec<Size>> {
        let states = |object| verifier::states(object).unwrap_or_default();
        let (director, host) = (states(self.objects.director.bytes), states(self.objects.host.bytes));
        Ok(vec![
            size("director", &self.director.program()?.info()?, &director),
            size("probe", &self.director.probe_program()?.info()?, &director),
            size("host", &self.host.program()?.info()?, &host),
            size("host_tc", &self.host.tc_program()?.info()?, &host),
            size("host_guard", &self.host.guard_program()?.info()?, &host),
        ])
    }

    /// What is measured. Programs and maps live by their descriptors, the connection by its sockets.
    pub fn subjects(&mut self) -> Result<Vec<Subject>> {
        let mut subjects = at_director(&mut self.director)?;
        if let Some(large) = &mut self.large {
            subjects.extend(at_director(large)?.into_iter().filter_map(as_large));
        }
        let host = descriptor(self.host.program()?)?;
        let strange =
            packets::tunnelled(&packets::tcp(self.strange, ACK, PAYLOAD), DIRECTOR, host4(1), GENERATION, 0);
        let held = self.held_packet();
        for (path, packet, flows, returns) in [
            ("host_local4", held, 0, XDP_PASS),
            ("host_rescue4", strange.clone(), 0, XDP_TX),
            ("host_rescue4", strange, MANY, XDP_TX),
        ] {
            let vary_at = vary_at(CLIENT4.into(), 20);
            subjects.push(Subject { path, program: host.try_clone()?, packet, flows, vary_at, returns });
        }
        Ok(subjects)
    }
}

/// What is measured on a director.
fn at_director(director: &mut Director) -> Result<Vec<Subject>> {
    let program = descriptor(director.program()?)?;
    let (four, six) = (to_vip4(), Ends { source: (CLIENT6.into(), 40000), destination: (VIP6.into(), 80) });
    let port = |ends: Ends, port| Ends { destination: (ends.destination.0, port), ..ends };
    let to = |ends: Ends, vip: IpAddr| Ends { destination: (vip, 80), ..ends };
    let (other4, other6) =
        (Ipv4Addr::new(198, 51, 100, 99), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xc633, 0x6499));
    let both: &[u32] = &[0, MANY];
    let packets = [
        ("tcp4", both, packets::tcp(four, ACK, PAYLOAD)),
        ("tcp6", both, packets::tcp(six, ACK, PAYLOAD)),
        ("udp4", both, packets::udp(four, PAYLOAD)),
        ("udp6", both, packets::udp(six, PAYLOAD)),
        ("syn4", both, packets::tcp(four, SYN, PAYLOAD)),
        ("syn6", both, packets::tcp(six, SYN, PAYLOAD)),
        ("icmp4_error", &[0], packets::icmp4_error(four, Ipv4Addr::new(192, 0, 2, 1))),
        ("icmp6_error", &[0], packets::icmp6_error(six, CLIENT6)),
        ("pass4", both, packets::tcp(to(four, other4.into()), ACK, PAYLOAD)),
        ("pass6", both, packets::tcp(to(six, other6.into()), ACK, PAYLOAD)),
        ("flow_table4", both, packets::tcp(port(four, FLOW_TABLE_PORT), ACK, PAYLOAD)),
        ("flow_table6", both, packets::tcp(port(six, FLOW_TABLE_PORT), ACK, PAYLOAD)),
    ];
    let mut subjects = Vec::new();
    for (path, flows, packet) in packets {
        let returns = if path.starts_with("pass") { XDP_PASS } else { XDP_TX };
        let source = if packet[12] == 8 { CLIENT4.into() } else { CLIENT6.into() };
        for flows in flows {
            let (program, packet) = (program.try_clone()?, packet.clone());
            subjects.push(Subject {
                path,
                program,
                packet,
                flows: *flows,
                vary_at: vary_at(source, 0),
                returns,
            });
        }
    }
    Ok(subjects)
}

/// What is measured on a director that has much loaded, and its name there.
const LARGE: [(&str, &str); 5] = [
    ("tcp4", "large_tcp4"),
    ("tcp6", "large_tcp6"),
    ("udp4", "large_udp4"),
    ("pass4", "large_pass4"),
    ("flow_table4", "large_flow_table4"),
];

fn as_large(subject: Subject) -> Option<Subject> {
    let (_, path) = LARGE.iter().find(|(path, _)| *path == subject.path)?;
    Some(Subject { path, ..subject })
}

/// A director with 10 000 services, 256 pools, one of which has 4 096 hosts, and 65 535 hosts in all.
fn large_director(object: &Object) -> Result<Director> {
    let mut model = model();
    let mut number = 0;
    let mut pool = |hosts: u32| {
        let host = |number: u32| Host {
            address4: Some(Ipv4Addr::from_bits(0x0a00_0000 + number)),
            address6: Some(Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number))),
            weight: 1,
            state: HostState::Active,
        };
        let hosts = (0..hosts).map(|_| {
            number += 1;
            (format!("h{number}"), host(number))
        });
        Pool { seed: 0, size: 65537, generation: GENERATION, hosts: hosts.collect(), others: vec![] }
    };
    model.pools.insert("web".into(), pool(4096));
    for index in 1..256 {
        model.pools.insert(format!("pool{index}"), pool(if index == 1 { 61439 - 254 * 240 } else { 240 }));
    }
    for index in model.services.len() as u32..10_000 {
        let vip = Vip::from(Ipv4Addr::from_bits(0xc612_0000 + index / 4));
        let pool = format!("pool{}", 1 + index % 255);
        let service = Service::of(&pool, Protocol::Tcp);
        model
            .services
            .insert(ServiceKey { vip, port: 80 + (index % 4) as u16, protocol: Protocol::Tcp }, service);
    }
    let capacity = Capacity { services: 10_000, hosts: 65_535, tables: 257 };
    director(object, &model, capacity)
}

/// The real director over maps of this model, in which every host is one hop away and healthy.
fn director(object: &Object, model: &Model, capacity: Capacity) -> Result<Director> {
    let options = DirectorOptions {
        interfaces: vec![],
        xdp: XdpMode::Auto,
        flows: 1 << 16,
        icmp_errors: 0,
        prefixes: model.has_prefixes(),
        capacity,
    };
    let health: BTreeMap<HostId, bool> = model.hosts().map(|(id, _)| (id, true)).collect();
    let mut director = Director::load_object(object, options, None)?;
    director.sync(model, Sources::default(), &nexthops(model), &health)?;
    Ok(director)
}

fn size(program: &'static str, info: &ProgramInfo, states: &BTreeMap<String, u32>) -> Size {
    Size {
        program,
        verified: info.verified_instruction_count().unwrap_or(0),
        states: states.get(program).copied(),
        instructions: info.size_translated().unwrap_or(0) / 8,
        bytes: info.size_jitted(),
    }
}

fn to_vip4() -> Ends {
    Ends { source: (CLIENT4.into(), 40000), destination: (VIP4.into(), 80) }
}

fn host4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

fn model() -> Model {
    let host = |number| Host {
        address4: Some(host4(number)),
        address6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xc000, 0x200 + u16::from(number))),
        weight: 1,
        state: HostState::Active,
    };
    let hosts = (1..=HOSTS).map(|number| (format!("lb7-{number}"), host(number))).collect();
    let pool = Pool { seed: 0, size: 65537, generation: GENERATION, hosts, others: vec![] };
    let mut model = Model { pools: [("web".to_owned(), pool)].into(), ..Model::default() };
    for vip in [Vip::from(VIP4), VIP6.into()] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let service = Service::of("web", protocol);
            model.services.insert(ServiceKey { vip, port: 80, protocol }, service);
        }
    }
    for vip in [Vip::from(VIP4), VIP6.into()] {
        let kept = Service { affinity: Affinity::FlowTable, ..Service::of("web", Protocol::Tcp) };
        model.services.insert(ServiceKey { vip, port: FLOW_TABLE_PORT, protocol: Protocol::Tcp }, kept);
    }
    model
}

fn nexthops(model: &Model) -> NextHops {
    let hop = |address: &IpAddr| NextHop {
        ifindex: LOOPBACK,
        source_mac: [2, 0, 0, 0, 0, 1],
        mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        source: Some(match address {
            IpAddr::V4(_) => DIRECTOR.into(),
            IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xc000, 0x2c8).into(),
        }),
        below: None,
    };
    let addresses = model.hosts().flat_map(|(_, host)| {
        [host.address4.map(IpAddr::V4), host.address6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    });
    addresses.map(|address| (address, Ok(hop(&address)))).collect()
}
