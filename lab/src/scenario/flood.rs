//! Packets that no program of a user would send: new connections never completed, and packets of none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use socket2::{Domain, Protocol, Socket, Type};

use crate::address::twin;
use crate::topology::vips;

/// What to send.
#[derive(Clone, Debug, Args)]
pub struct FloodArgs {
    /// syn or ack
    kind: Kind,
    /// Packets a second
    rate: u32,
    /// For so many ms
    duration: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Syn,
    Ack,
}

/// Senders in the users' network that no user has: nobody there refuses what comes back.
const SENDERS: std::ops::RangeInclusive<u8> = 240..=254;

/// The command: call inside the users node.
pub fn run(args: &FloodArgs) -> Result<u8> {
    let sockets = [socket(Domain::IPV4)?, socket(Domain::IPV6)?];
    let vips = vips();
    let start = Instant::now();
    let duration = Duration::from_millis(args.duration);
    let (mut sent, mut refused) = (0_u64, 0_u64);
    while start.elapsed() < duration {
        let due = start.elapsed().as_secs_f64() * f64::from(args.rate);
        while (sent as f64) < due {
            let random = scramble(sent);
            let vip = vips[usize::try_from(random >> 8).unwrap_or_default() % vips.len()];
            let span = u64::from(SENDERS.end() - SENDERS.start()) + 1;
            let last = SENDERS.start() + u8::try_from(random % span).unwrap_or_default();
            let sender = Ipv4Addr::new(203, 0, 113, last);
            let sender = if vip.is_ipv4() { IpAddr::V4(sender) } else { twin(sender).into() };
            let packet = packet(args.kind, sender, vip, random);
            let socket = &sockets[usize::from(vip.is_ipv6())];
            refused += u64::from(socket.send_to(&packet, &SocketAddr::new(vip, 0).into()).is_err());
            sent += 1;
        }
        thread::sleep(Duration::from_millis(2));
    }
    println!("{sent} packets sent, {refused} refused by the sender's own queue");
    Ok(0)
}

/// A socket that takes packets with their IP header.
fn socket(domain: Domain) -> Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
        .context("a raw socket needs root")?;
    if domain == Domain::IPV4 {
        socket.set_header_included_v4(true)?;
    } else {
        socket.set_header_included_v6(true)?;
    }
    socket.set_nonblocking(true).or_else(|error: io::Error| Err(error).context("not to wait"))?;
    Ok(socket)
}

fn packet(kind: Kind, source: IpAddr, destination: IpAddr, random: u64) -> Vec<u8> {
    let port = 1024 + u16::try_from(random >> 20 & 0x7fff).unwrap_or_default();
    let number = (random >> 32).to_be_bytes();
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(port.to_be_bytes());
    tcp.extend(80_u16.to_be_bytes());
    tcp.extend(&number[4..]);
    tcp.extend(if kind == Kind::Ack { [number[7], 1, 2, 3] } else { [0; 4] });
    tcp.extend([0x50, if kind == Kind::Ack { 0x10 } else { 0x02 }, 0xff, 0xff, 0, 0, 0, 0]);
    let checksum = tcp_checksum(source, destination, &tcp);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // The kernel fills in the checksum and the identification.
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        (source, destination) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
            for address in [source, destination] {
                match address {
                    IpAddr::V6(address) => header.extend(address.octets()),
                    IpAddr::V4(address) => header.extend(twin(address).octets()),
                }
            }
            header
        }
    };
    packet.extend(tcp);
    packet
}

/// The Internet checksum over the pseudo header and `segment`, whose own checksum is 0.
fn tcp_checksum(source: IpAddr, destination: IpAddr, segment: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(60);
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend([0, 6]);
    bytes.extend(u16::try_from(segment.len()).expect("short segments").to_be_bytes());
    bytes.extend(segment);
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folded")
}

fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_makes_the_whole_sum_to_all_ones() {
        for (source, destination, header) in
            [("203.0.113.240", "198.51.100.1", 20), ("2001:db8::1", "2001:db8::2", 40)]
        {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let packet = packet(Kind::Ack, source, destination, 0x1234_5678_9abc_def0);
            assert_eq!(packet.len(), header + 20);
            assert_eq!(tcp_checksum(source, destination, &packet[header..]), 0);
        }
    }
}
