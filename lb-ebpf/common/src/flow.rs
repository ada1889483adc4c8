//! Flows, and the keyed hash that sends all packets of a flow to one row.

use crate::maps::{BY_ADDRESSES, BY_SOURCE};

/// An address as the programs compare it: four words as they stand in the packet, IPv4 as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addr([u32; 4]);

/// Third word of an IPv4-mapped address (RFC 4291 §2.5.5.2), as it stands in memory.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Addr {
    /// An IPv4 address from its word as read from the packet.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Addr([0, 0, MAPPED, word])
    }

    /// An IPv6 address from its words as read from the packet.
    #[inline(always)]
    pub const fn v6(words: [u32; 4]) -> Self {
        Addr(words)
    }

    /// The words as they stand in memory.
    #[inline(always)]
    pub const fn words(&self) -> &[u32; 4] {
        &self.0
    }

    /// The address in two words, read as little-endian.
    #[inline(always)]
    pub const fn pairs(&self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [pair(a, b), pair(c, d)]
    }

    /// From what [`Addr::pairs`] gave.
    #[inline(always)]
    pub const fn from_pairs([high, low]: [u64; 2]) -> Self {
        Addr([
            (high as u32).to_le(),
            ((high >> 32) as u32).to_le(),
            (low as u32).to_le(),
            ((low >> 32) as u32).to_le(),
        ])
    }

    /// An IPv4-mapped address. IPv4 addresses are compared as such, so one that an IPv6 header holds (where it has no
    /// place: RFC 4291 §2.5.5.2 keeps them off the wire) must not be looked up.
    #[inline(always)]
    pub const fn is_mapped(&self) -> bool {
        self.0[0] | self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// The address in network byte order.
    pub const fn octets(&self) -> [u8; 16] {
        let mut out = [0; 16];
        let mut i = 0;
        while i < 16 {
            out[i] = self.0[i / 4].to_ne_bytes()[i % 4];
            i += 1;
        }
        out
    }

    /// From 16 octets in network byte order.
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Addr([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(address: core::net::IpAddr) -> Self {
        Addr::from_octets(match address {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        })
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(address: Addr) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

/// A flow as the client opened it: from `source` to the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub source: Addr,
    /// The VIP.
    pub destination: Addr,
    /// Source port (low half) and destination port (high half), each as it stands in the packet.
    pub ports: u32,
    /// IANA protocol number.
    pub protocol: u8,
    /// Both addresses are IPv6.
    pub v6: bool,
}

impl Flow {
    /// Makes the port word from two ports in host byte order.
    pub const fn ports(source: u16, destination: u16) -> u32 {
        source.to_be() as u32 | (destination.to_be() as u32) << 16
    }

    /// The same flow seen from the other end: how an ICMP error quotes it.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Flow { source: self.destination, destination: self.source, ports: self.ports.rotate_left(16), ..self }
    }

    /// What of the flow chooses its row, by the flags of its service ([`BY_SOURCE`], [`BY_ADDRESSES`]); the rest is zero.
    #[inline(always)]
    pub const fn part(self, flags: u16) -> Self {
        let Flow { source, destination, v6, .. } = self;
        if flags & BY_SOURCE != 0 {
            Flow { source, destination: Addr([0; 4]), ports: 0, protocol: 0, v6 }
        } else if flags & BY_ADDRESSES != 0 {
            Flow { source, destination, ports: 0, protocol: 0, v6 }
        } else {
            self
        }
    }

    /// The destination port as it stands in the packet.
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }
}

pub(crate) const C1: u64 = 0xff51_afd7_ed55_8ccd;
pub(crate) const C2: u64 = 0xc4ce_b9fe_1a85_ec53;

#[inline(always)]
const fn absorb(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(C1);
    mixed ^ (mixed >> 32)
}

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    u32::from_le(low) as u64 | (u32::from_le(high) as u64) << 32
}

/// All that tells flows apart, in one word that is not yet mixed to the end.
///
/// IPv4 absorbs two words, IPv6 five: BPF has no wide multiplication, and every round costs on the fast path.
#[inline(always)]
const fn absorbed(seed: u64, flow: &Flow) -> u64 {
    let mut state = seed;
    let (source, destination) = (flow.source.words(), flow.destination.words());
    if flow.v6 {
        state = absorb(state, pair(source[0], source[1]));
        state = absorb(state, pair(source[2], source[3]));
        state = absorb(state, pair(destination[0], destination[1]));
        state = absorb(state, pair(destination[2], destination[3]));
    } else {
        state = absorb(state, pair(source[3], destination[3]));
    }
    absorb(state, u32::from_le(flow.ports) as u64 | (flow.protocol as u64) << 32)
}

/// Hashes a flow under a pool's seed. The finaliser is MurmurHash3's (public domain); the words are read as
/// little-endian, so that every machine gets the same hash.
#[inline(always)]
pub const fn hash(seed: u64, flow: &Flow) -> u32 {
    let state = absorbed(seed, flow).wrapping_mul(C2);
    ((state ^ (state >> 29)).wrapping_mul(C1) >> 32) as u32
}

/// Another hash of the flow, of which all bits are good: tells it from others that have the same [`hash`]. It stays on this
/// machine.
#[inline(always)]
pub const fn fingerprint(seed: u64, flow: &Flow) -> u64 {
    let state = absorbed(seed, flow).wrapping_mul(C1);
    let state = (state ^ (state >> 31)).wrapping_mul(C2);
    state ^ (state >> 32)
}

/// The row of a hash in a table of `rows` rows: multiply and shift, where a remainder would cost a division.
#[inline(always)]
pub const fn row(hash: u32, rows: u32) -> u32 {
    ((hash as u64 * rows as u64) >> 32) as u32
}

/// Hashes that every release and machine must find, in userspace and in BPF; both with seed 0, over TCP.
pub mod golden {
    /// 203.0.113.1:40000 → 198.51.100.1:80.
    pub const HASH4: u32 = 1_301_447_977;
    /// [2001:db8::cb00:7101]:40000 → [2001:db8::c633:6401]:80.
    pub const HASH6: u32 = 3_440_950_558;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn v4(last: u8, port: u16) -> Flow {
        Flow {
            source: IpAddr::from(Ipv4Addr::new(203, 0, 113, last)).into(),
            destination: IpAddr::from(Ipv4Addr::new(198, 51, 100, 1)).into(),
            ports: Flow::ports(port, 80),
            protocol: 6,
            v6: false,
        }
    }

    #[test]
    fn golden_hashes() {
        assert_eq!(hash(0, &v4(1, 40000)), golden::HASH4);
        let source: Ipv6Addr = "2001:db8::cb00:7101".parse().unwrap();
        let destination: Ipv6Addr = "2001:db8::c633:6401".parse().unwrap();
        let flow = Flow {
            source: IpAddr::from(source).into(),
            destination: IpAddr::from(destination).into(),
            v6: true,
            ..v4(1, 40000)
        };
        assert_eq!(hash(0, &flow), golden::HASH6);
    }

    #[test]
    fn sequential_clients_spread_evenly() {
        const ROWS: usize = 251;
        let mut hits = [0u32; ROWS];
        for last in 1..=200 {
            for port in 32768..33768 {
                hits[row(hash(7, &v4(last, port)), ROWS as u32) as usize] += 1;
            }
        }
        let mean = 200_000.0 / ROWS as f64;
        let chi2: f64 = hits.iter().map(|&h| (f64::from(h) - mean).powi(2) / mean).sum();
        assert!(chi2 < 350.0, "chi-squared {chi2} over {ROWS} rows");
    }

    proptest! {
        #[test]
        fn reversing_twice_is_the_flow(last: u8, port: u16) {
            let flow = v4(last, port);
            prop_assert_eq!(flow.reversed().reversed(), flow);
            prop_assert_eq!(flow.reversed().destination_port(), port.to_be());
        }

        #[test]
        fn by_source_all_vips_are_one_and_by_addresses_all_ports(last: u8, port: u16, vip: u32, protocol: u8) {
            let flow = v4(last, port);
            let elsewhere = Flow { destination: Addr::v4(vip), protocol, ports: vip, ..flow };
            prop_assert_eq!(flow.part(BY_SOURCE), elsewhere.part(BY_SOURCE));
            let other_port = Flow { protocol, ports: vip, ..flow };
            prop_assert_eq!(flow.part(BY_ADDRESSES), other_port.part(BY_ADDRESSES));
            prop_assert_eq!(flow.part(BY_ADDRESSES).destination, flow.destination);
            prop_assert_eq!(flow.part(0), flow);
            prop_assert_eq!(flow.part(BY_SOURCE).part(BY_SOURCE), flow.part(BY_SOURCE));
        }

        #[test]
        fn a_row_is_in_the_table(hash: u32, rows in 1u32..) {
            prop_assert!(row(hash, rows) < rows);
        }

        #[test]
        fn addresses_survive(octets: [u8; 16]) {
            prop_assert_eq!(Addr::from_octets(octets).octets(), octets);
        }
    }
}
