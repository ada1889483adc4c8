//! Frames to ask about: made of a flow, or read from hexadecimal digits.

use std::net::{IpAddr, SocketAddr};

use super::Ends;
use crate::model::Protocol;

/// A frame before an IP packet: what stands in its addresses does not matter to a director.
const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

/// Why there is no packet to ask about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Of two families.
    #[error("{0} and {1} are of different address families")]
    Families(SocketAddr, SocketAddr),
    /// Too long for its header.
    #[error("a packet of {0} bytes cannot be; at most 65535")]
    Long(usize),
    /// Something else than hexadecimal digits.
    #[error("{0:?} is no hexadecimal digit; give bytes as two digits each, as `tcpdump -xx` does")]
    Digit(char),
    /// Half a byte.
    #[error("{0} hexadecimal digits: the last byte has only one")]
    Odd(usize),
    /// Less than an Ethernet header.
    #[error("{0} bytes are no frame: an Ethernet header alone has 14")]
    Short(usize),
}

/// The first packet of a flow (a TCP SYN, or a UDP datagram), of so many bytes from the IP header on; of its smallest size
/// if that is less. Checksums, which no director looks at, are zero.
pub fn first_of(flow: &Ends, bytes: usize) -> Result<Vec<u8>, PacketError> {
    let mut l4 = [flow.source.port().to_be_bytes(), flow.destination.port().to_be_bytes()].concat();
    let header = if flow.source.is_ipv4() { 20 } else { 40 };
    l4.resize(if flow.protocol == Protocol::Tcp { 20 } else { 8 }, 0);
    l4.resize(l4.len().max(bytes.saturating_sub(header)), 0);
    let total = u16::try_from(header + l4.len()).map_err(|_| PacketError::Long(bytes))?;
    match flow.protocol {
        // Five words of header; SYN.
        Protocol::Tcp => l4[12..14].copy_from_slice(&[0x50, 2]),
        Protocol::Udp => {
            let len = total - header as u16;
            l4[4..6].copy_from_slice(&len.to_be_bytes());
        }
    }
    let mut frame = ETHERNET.to_vec();
    match (flow.source.ip(), flow.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(total.to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, flow.protocol.number(), 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((total - 40).to_be_bytes());
            frame.extend([flow.protocol.number(), 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => return Err(PacketError::Families(flow.source, flow.destination)),
    }
    frame.extend(l4);
    Ok(frame)
}

/// A frame of hexadecimal digits, between which spaces, colons and line ends may stand, and offsets as `tcpdump` prints
/// them. What is a whole IP packet gets an Ethernet header.
pub fn from_hex(text: &str) -> Result<Vec<u8>, PacketError> {
    let is_offset = |word: &str| word.starts_with("0x") && word.ends_with(':');
    let digits: Vec<u8> = text
        .split_whitespace()
        .filter(|word| !is_offset(word))
        .flat_map(str::chars)
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).map(|digit| digit as u8).ok_or(PacketError::Digit(c)))
        .collect::<Result<_, _>>()?;
    if digits.len() % 2 == 1 {
        return Err(PacketError::Odd(digits.len()));
    }
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    match ethertype_of_packet(&bytes) {
        Some(ethertype) => Ok([&ETHERNET[..], &ethertype, &bytes].concat()),
        None if bytes.len() < 14 => Err(PacketError::Short(bytes.len())),
        None => Ok(bytes),
    }
}

/// As [`from_hex`] reads it.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The EtherType of bytes that are an IP packet, and say so by version and length.
pub fn ethertype_of_packet(bytes: &[u8]) -> Option<[u8; 2]> {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    match bytes.first()? >> 4 {
        4 if word(2)? == bytes.len() => Some([0x08, 0x00]),
        6 if word(4)? + 40 == bytes.len() => Some([0x86, 0xdd]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::director_model::parse::{Found, frame};

    fn ends(source: &str, destination: &str, protocol: Protocol) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap(), protocol }
    }

    #[test]
    fn a_flows_first_packet_is_read_back_as_that_flow() {
        for (flow, bytes, len) in [
            (ends("203.0.113.7:40000", "198.51.100.1:80", Protocol::Tcp), 0, 40),
            (ends("203.0.113.7:40000", "198.51.100.1:53", Protocol::Udp), 1500, 1500),
            (ends("[2001:db8::7]:40000", "[2001:db8::1]:80", Protocol::Tcp), 1280, 1280),
            (ends("[2001:db8::7]:40000", "[2001:db8::1]:53", Protocol::Udp), 0, 48),
        ] {
            let made = first_of(&flow, bytes).unwrap();
            assert_eq!(made.len(), 14 + len);
            let Ok(Found::Packet(packet)) = frame(&made, |_| true) else { panic!("{flow:?}") };
            assert_eq!(
                (packet.len, packet.flow.source, packet.flow.destination),
                (len, flow.source, flow.destination)
            );
            assert_eq!(from_hex(&to_hex(&made)).unwrap(), made);
            assert_eq!(from_hex(&to_hex(&made[14..])).unwrap(), made, "an IP packet alone");
        }
    }

    #[test]
    fn what_is_no_packet_is_named() {
        let two = ends("203.0.113.7:1", "[2001:db8::1]:80", Protocol::Tcp);
        assert!(matches!(first_of(&two, 0), Err(PacketError::Families(..))));
        let long = ends("203.0.113.7:1", "198.51.100.1:80", Protocol::Tcp);
        assert_eq!(first_of(&long, 65536), Err(PacketError::Long(65536)));
        assert_eq!(from_hex("45 0"), Err(PacketError::Odd(3)));
        assert_eq!(from_hex("0x45"), Err(PacketError::Digit('x')));
        let dumped = "\t0x0000:  4500 0014 0000 0000 4006 0000 cb00 7107\n\t0x0010:  c633 6401\n";
        assert_eq!(from_hex(dumped).unwrap().len(), 34);
        assert_eq!(from_hex("45:00\n00 14"), Err(PacketError::Short(4)));
    }
}
