//! Addresses of the lab: prefixes, and the IPv6 twin that every IPv4 address has.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address with the length of its network, written `192.0.2.2/29`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// The address; host bits may be set, as on an interface.
    pub address: IpAddr,
    /// How many leading bits name the network.
    pub length: u8,
}

impl Prefix {
    /// The prefix of `address` with `length` leading bits.
    pub fn new(address: impl Into<IpAddr>, length: u8) -> Self {
        Self { address: address.into(), length }
    }

    /// The IPv6 prefix whose last 32 bits are this IPv4 prefix; an IPv6 prefix is its own twin.
    pub fn twin(self) -> Self {
        match self.address {
            IpAddr::V4(v4) => Self::new(twin(v4), self.length + 96),
            IpAddr::V6(_) => self,
        }
    }

    /// This prefix and its twin.
    pub fn both(self) -> [Self; 2] {
        [self, self.twin()]
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// `2001:db8::a.b.c.d` for `a.b.c.d`.
pub fn twin(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// `index` written in decimal and read as hexadecimal, so that server 10 is `…::10` and not `…::a`.
pub fn decimal_digits_as_hex(index: u32) -> u16 {
    u16::from_str_radix(&index.to_string(), 16).expect("lab sizes have at most three digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twin_embeds_the_address_and_adds_96_to_the_length() {
        let prefix = Prefix::new(Ipv4Addr::new(192, 0, 2, 2), 29);
        assert_eq!(prefix.twin().to_string(), "2001:db8::c000:202/125");
        assert_eq!(prefix.twin().twin(), prefix.twin());
    }

    #[test]
    fn tenth_server_reads_as_ten() {
        assert_eq!(format!("{:x}", decimal_digits_as_hex(10)), "10");
    }
}
