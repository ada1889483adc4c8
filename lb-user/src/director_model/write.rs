//! What leaves: the packet in its tunnel, or the answer to an echo request.

use std::net::IpAddr;

use super::choose::Hop;
use super::parse::{ETHERNET, word};

/// Time to live of all that is made here.
const TTL: u8 = 64;

/// A frame in the tunnel to a host, padding and all. `len` is the length of its packet, `hash` that of its flow.
///
/// The outer header is that of RFC 2003 or RFC 2473; its identification or flow label says the generation, and hop 0.
pub fn tunnelled(hop: &Hop, hash: u32, generation: u16, len: usize, frame: &[u8]) -> Vec<u8> {
    let inner_v6 = word(frame, 12) == 0x86dd;
    // RFC 6040, normal mode: all of it is copied.
    let tos = if inner_v6 { (word(frame, ETHERNET) >> 4) as u8 } else { frame[ETHERNET + 1] };
    let mut out = [hop.next_mac, hop.own_mac].concat();
    for tag in hop.below.iter().flat_map(|below| &below.tags) {
        // Of priority 0.
        out.extend([tag.protocol.to_be_bytes(), tag.id.to_be_bytes()].concat());
    }
    match (hop.source_of(hash), hop.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (len + 20) as u16;
            let protocol = if inner_v6 { 41 } else { 4 };
            // An IPv4 header has room for 12 of the 16 bits.
            let identification = (generation & 0x0fff) * 16;
            let mut ip = vec![0x45, tos];
            ip.extend(total.to_be_bytes());
            ip.extend(identification.to_be_bytes());
            // Do not fragment.
            ip.extend([0x40, 0, TTL, protocol, 0, 0]);
            ip.extend(source.octets());
            ip.extend(destination.octets());
            let checksum = !sum(&ip);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            out.extend([0x08, 0x00]);
            out.extend(ip);
        }
        (source, destination) => {
            let flow_label = u32::from(generation) * 16;
            out.extend([0x86, 0xdd]);
            out.extend((0x6000_0000 | u32::from(tos) << 20 | flow_label).to_be_bytes());
            out.extend((len as u16).to_be_bytes());
            out.extend([if inner_v6 { 41 } else { 4 }, TTL]);
            out.extend(octets6(source));
            out.extend(octets6(destination));
        }
    }
    out.extend(&frame[ETHERNET..]);
    out
}

/// The answer to an echo request: back to where it came from, with a fresh time to live.
///
/// Its ICMP header begins at `icmp`.
pub fn answer(frame: &[u8], icmp: usize) -> Vec<u8> {
    let mut out = frame.to_vec();
    swap(&mut out, 0, 6);
    let v4 = word(frame, 12) == 0x0800;
    // Where the time to live stands, and the type of a reply.
    let (ttl, reply) = if v4 { (22, 0) } else { (21, 129) };
    match v4 {
        true => swap(&mut out, 26, 4),
        false => swap(&mut out, 22, 16),
    }
    out[ttl] = TTL;
    if v4 {
        mend(&mut out, 24, u16::from_be_bytes([frame[ttl], 0]), u16::from_be_bytes([TTL, 0]));
    }
    out[icmp] = reply;
    mend(&mut out, icmp + 2, u16::from_be_bytes([frame[icmp], 0]), u16::from_be_bytes([reply, 0]));
    out
}

/// The answer to a packet of which only `room` bytes would fit, by RFC 1191 and RFC 4443; none if there is none to give.
pub fn too_big(frame: &[u8], len: usize, room: usize) -> Option<Vec<u8>> {
    let back = [&frame[6..12], &frame[..6], &frame[12..14]].concat();
    if word(frame, 12) == 0x0800 {
        let quote = frame.get(ETHERNET..ETHERNET + 80)?;
        let (source, vip) = (&frame[26..30], &frame[30..34]);
        if matches!(source[0], 0 | 127 | 224..) || room < 68 {
            return None;
        }
        // Internetwork control, do not fragment.
        let mut ip = vec![0x45, 0xc0, 0, 108, 0, 0, 0x40, 0, TTL, 1, 0, 0];
        ip.extend([vip, source].concat());
        let checksum = !sum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        return Some([back, ip, icmp([3, 4], room as u32, quote, &[])].concat());
    }
    let quote = frame.get(ETHERNET..ETHERNET + 128)?;
    let (source, vip) = (&frame[22..38], &frame[38..54]);
    // What no link may fall below (RFC 8200) fits, or nothing can be done.
    let room = room.max(1280);
    if source[0] == 0xff || source[..12] == [0; 12] || len <= room {
        return None;
    }
    let ip = [&[0x60, 0, 0, 0, 0, 136, 58, TTL], vip, source].concat();
    let pseudo = [vip, source, &[0, 0, 0, 136, 0, 0, 0, 58]].concat();
    Some([back, ip, icmp([2, 0], room as u32, quote, &pseudo)].concat())
}

/// An ICMP error; `pseudo` goes into the checksum as well.
fn icmp(kind: [u8; 2], rest: u32, quote: &[u8], pseudo: &[u8]) -> Vec<u8> {
    let mut icmp = [&kind[..], &[0, 0], &rest.to_be_bytes(), quote].concat();
    let checksum = !sum(&[pseudo, &icmp].concat());
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    icmp
}

/// Swaps two neighbours of `size` bytes.
fn swap(bytes: &mut [u8], at: usize, size: usize) {
    bytes[at..at + 2 * size].rotate_left(size);
}

/// Mends the checksum at `at` after a word that it covers has changed (RFC 1624, equation 3). What came with a wrong one goes
/// on with a wrong one.
fn mend(bytes: &mut [u8], at: usize, old: u16, new: u16) {
    let checksum = !fold(u32::from(!word(bytes, at)) + u32::from(!old) + u32::from(new));
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The sum of RFC 1071 over whole words.
fn sum(bytes: &[u8]) -> u16 {
    fold(bytes.chunks_exact(2).map(|pair| u32::from(word(pair, 0))).sum())
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
    }
}
