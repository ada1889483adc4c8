//! Which number holds for an address, and for how many of its leading bits: networks within networks, laid out as ranges
//! side by side. Pure.

use std::net::IpAddr;

use crate::bgp::Prefix;

/// Numbers by address. Where no network is, the number is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    v4: Family,
    v6: Family,
}

/// Ranges of a family: where each begins, and its number, which differs from that of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Family {
    starts: Vec<u128>,
    numbers: Vec<u32>,
}

impl Default for Family {
    fn default() -> Self {
        Family { starts: vec![0], numbers: vec![0] }
    }
}

impl Ranges {
    /// Lays out networks, each with its number. Of networks within one another the smaller one goes before.
    pub fn new(networks: impl IntoIterator<Item = (Prefix, u32)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, number) in networks {
            let (first, length) = (bits(network.address), network.length);
            let of = if network.address.is_ipv4() { &mut v4 } else { &mut v6 };
            of.push((first & mask(length), length, number));
        }
        Ranges { v4: Family::new(v4), v6: Family::new(v6) }
    }

    /// The number that holds for an address, and the fewest leading bits that this depends on.
    pub fn get(&self, address: IpAddr) -> (u32, u8) {
        let of = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        of.get(bits(address))
    }
}

impl Family {
    fn new(mut networks: Vec<(u128, u8, u32)>) -> Self {
        // Those that begin at the same place: the larger one first.
        networks.sort_unstable();
        let mut family = Family::default();
        // Those that have begun and not ended, with where they end.
        let mut open: Vec<(u128, u32)> = Vec::new();
        for (first, length, number) in networks {
            family.end(&mut open, |last| last < first);
            family.begin(first, number);
            open.push((first | !mask(length), number));
        }
        family.end(&mut open, |_| true);
        family.starts.shrink_to_fit();
        family.numbers.shrink_to_fit();
        family
    }

    /// Ends those that end where `ends` says so; behind them that goes on which they are in.
    fn end(&mut self, open: &mut Vec<(u128, u32)>, ends: impl Fn(u128) -> bool) {
        while let Some(&(last, _)) = open.last().filter(|(last, _)| ends(*last)) {
            open.pop();
            if let Some(next) = last.checked_add(1) {
                self.begin(next, open.last().map_or(0, |(_, number)| *number));
            }
        }
    }

    /// From here on this number holds.
    fn begin(&mut self, start: u128, number: u32) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.numbers.pop();
        }
        if self.numbers.last() != Some(&number) {
            self.starts.push(start);
            self.numbers.push(number);
        }
    }

    fn get(&self, address: u128) -> (u32, u8) {
        // The first range begins at 0.
        let next = self.starts.partition_point(|start| *start <= address);
        let neighbours = [self.starts[next - 1].checked_sub(1), self.starts.get(next).copied()];
        let apart = |other: u128| (other ^ address).leading_zeros() as u8 + 1;
        let bits = neighbours.into_iter().flatten().map(apart).max();
        (self.numbers[next - 1], bits.unwrap_or(0))
    }
}

/// An address, its first bit being the highest.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn ranges(networks: &[(&str, u32)]) -> Ranges {
        Ranges::new(networks.iter().map(|(network, number)| (network.parse().unwrap(), *number)))
    }

    #[test]
    fn the_smaller_network_goes_before_and_the_scope_is_the_shortest() {
        let ranges = ranges(&[
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 2),
            ("11.0.0.0/8", 1),
            ("2001:db8::/32", 3),
            ("10.1.0.0/24", 1),
        ]);
        let get = |address: &str| ranges.get(address.parse().unwrap());
        assert_eq!(get("10.2.0.1"), (1, 15));
        assert_eq!(get("10.1.7.1"), (2, 22));
        assert_eq!(get("10.1.0.1"), (1, 24), "one within one within one");
        assert_eq!(get("11.9.9.9"), (1, 8), "10/8 is not the same throughout");
        assert_eq!(get("192.0.2.1"), (0, 1));
        assert_eq!(get("0.0.0.0"), (0, 5));
        assert_eq!(get("2001:db8:1::"), (3, 32));
        assert_eq!(get("::"), (0, 3));
        assert_eq!(Ranges::default().get("::1".parse().unwrap()), (0, 0));
    }

    #[test]
    fn networks_side_by_side_that_say_the_same_are_one() {
        let halves =
            ranges(&[("192.0.2.0/25", 7), ("192.0.2.128/25", 7), ("0.0.0.0/1", 7), ("128.0.0.0/1", 7)]);
        assert_eq!(halves.get([192, 0, 2, 1].into()), (7, 0));
        assert_eq!(ranges(&[("::/0", 1), ("8000::/1", 2)]).get("ffff::1".parse().unwrap()), (2, 1));
    }

    /// Networks close to one another, so that many are within others.
    fn networks() -> impl Strategy<Value = Vec<(bool, u32, u8, u32)>> {
        prop::collection::vec((any::<bool>(), 0u32..4096, 0u8..=14, 0u32..4), 0..40)
    }

    proptest! {
        /// Against a scan of all networks: the number is that of the longest one, it is the same for all addresses in the
        /// scope, and within one bit less there are others.
        #[test]
        fn each_address_in_the_scope_has_the_same_number(
            written in networks(),
            v4: bool,
            asked in 0u32..4096,
            others in prop::collection::vec(0u32..4096, 32),
        ) {
            // Twelve bits behind these: all of them can be looked at.
            let address = |v4: bool, low: u32| match v4 {
                true => IpAddr::V4(Ipv4Addr::from_bits(0xc000_2000 | low)),
                false => IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | u128::from(low))),
            };
            let mut all: Vec<(Prefix, u32)> = Vec::new();
            for (v4, low, shorter, number) in written {
                let host = Prefix::host(address(v4, low));
                let network = Prefix { length: host.length - shorter.min(12), ..host }.network();
                if all.iter().all(|(other, _)| *other != network) {
                    all.push((network, number));
                }
            }
            let scan = |of: IpAddr| {
                let holding = all.iter().filter(|(network, _)| network.contains(of));
                holding.max_by_key(|(network, _)| network.length).map_or(0, |(_, number)| *number)
            };
            let ranges = Ranges::new(all.iter().copied());
            let asked = address(v4, asked);
            let (number, scope) = ranges.get(asked);
            prop_assert_eq!(number, scan(asked));
            let block = |length: u8| Prefix { address: asked, length }.network();
            for low in &others {
                let other = address(v4, *low);
                if block(scope).contains(other) {
                    prop_assert_eq!(scan(other), number);
                }
            }
            let everything = (0..4096).map(|low| address(v4, low));
            let around = Prefix::host(asked).length - 12;
            if scope > around {
                let wider = block(scope - 1);
                prop_assert!(everything.filter(|other| wider.contains(*other)).any(|other| scan(other) != number));
            }
        }
    }
}
