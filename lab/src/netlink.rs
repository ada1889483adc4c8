//! Route netlink over a blocking socket: one short function per operation. A [`Netlink`] belongs to the network
//! namespace of the thread that opened it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::net::if_::if_nametoindex;

use crate::address::Prefix;

/// How long a bridge remembers a silent node, in hundredths of a second: without flooding, forgotten is lost.
const ONE_DAY: u32 = 8_640_000;

/// `XDP_FLAGS_DRV_MODE`: native, or an error.
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// How many requests go into one datagram; their acknowledgements fit the receive buffer.
const BATCH: usize = 64;

/// A route netlink socket.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// One end of a veth pair.
pub struct VethEnd<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Hardware address; the kernel chooses if `None`.
    pub mac: Option<[u8; 6]>,
    /// Largest packet.
    pub mtu: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Creates a bridge without spanning tree, up, which forwards at once.
    pub fn add_bridge(&mut self, name: &str, mtu: u32) -> io::Result<()> {
        let settings = vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(false),
            InfoBridge::AgeingTime(ONE_DAY),
        ];
        let mut link = up_link(name, None, mtu);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(settings)),
        ]));
        self.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Creates a veth pair: `here` on `bridge` in this namespace, up, and `there` in the namespace `netns`, down:
    /// the kernel refuses to open an end (ENOTCONN) before both exist.
    pub fn add_veth(
        &mut self,
        here: &VethEnd<'_>,
        bridge: u32,
        there: &VethEnd<'_>,
        netns: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut peer = link(there.name, there.mac, there.mtu);
        peer.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        let mut link = up_link(here.name, here.mac, here.mtu);
        link.attributes.push(LinkAttribute::Controller(bridge));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Keeps frames for hardware addresses that the bridge does not know away from one of its ports, as network cards
    /// do: an XDP program on a veth would take them for its own.
    pub fn stop_flooding(&mut self, port: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = if_nametoindex(port)?;
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::UnicastFlood(false)])),
        ]));
        self.change(RouteNetlinkMessage::NewLink(link), 0)
    }

    /// Brings an interface up.
    pub fn set_up(&mut self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = if_nametoindex(name)?;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Attaches an XDP program in the driver, for as long as the interface lives.
    pub fn set_xdp(&mut self, name: &str, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = if_nametoindex(name)?;
        link.attributes.push(LinkAttribute::Xdp(vec![
            LinkXdp::Fd(program.as_raw_fd()),
            LinkXdp::Flags(XDP_FLAGS_DRV_MODE),
        ]));
        self.change(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives an interface its addresses, usable at once.
    pub fn add_addresses(&mut self, interface: &str, prefixes: &[Prefix]) -> io::Result<()> {
        let index = if_nametoindex(interface)?;
        let messages = prefixes.iter().map(|prefix| RouteNetlinkMessage::NewAddress(address(index, prefix)));
        self.change_all(messages.collect(), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Adds a static route.
    pub fn add_route(&mut self, to: Prefix, via: IpAddr) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header.address_family = family(to.address);
        route.header.destination_prefix_length = to.length;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Static;
        route.header.scope = RouteScope::Universe;
        route.header.kind = RouteType::Unicast;
        if to.length > 0 {
            route.attributes.push(RouteAttribute::Destination(route_address(to.address)));
        }
        route.attributes.push(RouteAttribute::Gateway(route_address(via)));
        self.change(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Whether this namespace has a route to `address`.
    pub fn has_route(&mut self, address: IpAddr) -> io::Result<bool> {
        let mut route = RouteMessage::default();
        route.header.address_family = family(address);
        route.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        route.attributes.push(RouteAttribute::Destination(route_address(address)));
        let sent = self.send(vec![RouteNetlinkMessage::GetRoute(route)], NLM_F_REQUEST)?;
        match self.receive(sent) {
            Ok(()) => Ok(true),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL)
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.change_all(vec![message], flags)
    }

    fn change_all(&mut self, messages: Vec<RouteNetlinkMessage>, flags: u16) -> io::Result<()> {
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let batch = messages.by_ref().take(BATCH).collect();
            let sent = self.send(batch, NLM_F_REQUEST | NLM_F_ACK | flags)?;
            self.receive(sent)?;
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<RouteNetlinkMessage>, flags: u16) -> io::Result<usize> {
        let count = messages.len();
        let mut datagram = Vec::new();
        for message in messages {
            self.sequence += 1;
            let mut header = NetlinkHeader::default();
            header.flags = flags;
            header.sequence_number = self.sequence;
            let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
            packet.finalize();
            let start = datagram.len();
            datagram.resize(start + packet.buffer_len(), 0);
            packet.serialize(&mut datagram[start..]);
        }
        self.socket.send(&datagram, 0)?;
        Ok(count)
    }

    /// Reads `wanted` answers; the first refusal is the error, after all answers are read.
    fn receive(&mut self, mut wanted: usize) -> io::Result<()> {
        let mut first_error = None;
        while wanted > 0 {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while rest.len() >= 16 {
                let packet = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                if let NetlinkPayload::Error(answer) = &packet.payload
                    && answer.code.is_some()
                {
                    first_error.get_or_insert(answer.to_io());
                }
                wanted = wanted.saturating_sub(1);
                // Messages are padded to four bytes.
                let length = (packet.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

fn up_link(name: &str, mac: Option<[u8; 6]>, mtu: u32) -> LinkMessage {
    let mut link = link(name, mac, mtu);
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

fn link(name: &str, mac: Option<[u8; 6]>, mtu: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link.attributes.push(LinkAttribute::Mtu(mtu));
    if let Some(mac) = mac {
        link.attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    link
}

fn address(index: u32, prefix: &Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(prefix.address);
    message.header.prefix_len = prefix.length;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Address(prefix.address));
    message.attributes.push(AddressAttribute::Local(prefix.address));
    if prefix.address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}
