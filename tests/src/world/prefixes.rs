//! VIPs that are prefixes: one in another, with addresses in them that are VIPs of their own.

use super::*;

/// Ports 80/tcp and 53/udp, of which fragments are forwarded.
pub const WIDE: &str = "2001:db8:5::/64";
/// Around [`WIDE`]: any port over TCP, and port 443/tcp by hosts of its own.
pub const WIDEST: &str = "2001:db8:5::/48";
/// The second half of [`WIDE`]: any port over TCP.
pub const HALF: &str = "2001:db8:5:0:8000::/65";
/// In [`WIDE`]: port 80/tcp of the pool `web`.
pub const WEB: &str = "2001:db8:5::5";
/// In [`WIDE`]: port 53/udp, of which fragments are dropped.
pub const WHOLE: &str = "2001:db8:5::6";
/// In [`WIDE`]: port 53/udp, of which fragments go to the pool `by-addresses`.
pub const PIECES: &str = "2001:db8:5::7";
/// Two addresses: port 80/tcp for some sources, 81/tcp over a narrow way, 443/udp by connection id.
pub const PAIR: &str = "2001:db8:6::2/127";

/// Pools of the prefixes, by the number that hosts and generation come from.
const POOLS: [(&str, u8, &[&str]); 4] = [
    ("wide", 21, &["a", "b", "c"]),
    ("widest", 22, &["a", "b", "c"]),
    ("half", 23, &["a", "b"]),
    ("by-port", 24, &["a"]),
];

/// Addresses in the prefixes, and next to them.
pub const ADDRESSES: [&str; 14] = [
    "2001:db8:5::",
    "2001:db8:5::1",
    "2001:db8:5:0:7fff:ffff:ffff:ffff",
    "2001:db8:5:0:8000::",
    "2001:db8:5:0:ffff:ffff:ffff:ffff",
    WEB,
    WHOLE,
    PIECES,
    "2001:db8:5:1::",
    "2001:db8:5:ffff:ffff:ffff:ffff:ffff",
    "2001:db8:6::2",
    "2001:db8:6::3",
    "2001:db8:6::4",
    "2001:db8:4:ffff:ffff:ffff:ffff:ffff",
];

/// From a client to a port of an address.
pub fn to(address: &str, port: u16) -> Ends {
    Ends::new("[2001:db8::cb00:7107]:40000", &format!("[{address}]:{port}"))
}

/// Adds them all.
pub(super) fn add(world: &mut World) {
    for (pool, number, hosts) in POOLS {
        world.add(pool, number, hosts);
    }
    use Protocol::{Tcp, Udp};
    let services = [
        (WIDE, 80, Tcp, "wide"),
        (WIDE, 53, Udp, "wide"),
        (WIDEST, ANY_PORT, Tcp, "widest"),
        (WIDEST, 443, Tcp, "by-port"),
        (HALF, ANY_PORT, Tcp, "half"),
        (WEB, 80, Tcp, "web"),
        (WHOLE, 53, Udp, "web"),
        (PIECES, 53, Udp, "by-addresses"),
        (PAIR, 80, Tcp, "picky"),
        (PAIR, 81, Tcp, "narrow"),
        (PAIR, 443, Udp, "quic"),
    ];
    for (vip, port, protocol, pool) in services {
        let key = ServiceKey { vip: vip.parse().unwrap(), port, protocol };
        world.serve(key, pool);
        let of_pool = |quic: &Service| quic.pool == pool && quic.extras.quic.is_some();
        let quic = world.model.services.values().find(|service| of_pool(service)).cloned();
        let service = world.model.services.get_mut(&key).unwrap();
        if (vip, protocol) == (WIDE, Udp) || vip == PIECES {
            (service.hash, service.fragments) = (HashBy::Addresses, Fragments::Forward);
        }
        if let Some(quic) = quic.filter(|_| protocol == Udp) {
            *service = quic;
        }
    }
    world.sources(PAIR.parse().unwrap(), &[], &["2001:db8::cb00:7140/122"]);
}
