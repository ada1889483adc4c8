//! Lists this machine's TCP connections by `sock_diag(7)`. Blocks; reads only.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::Connection;

/// Message types and flags of linux/netlink.h and linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
/// Sizes of nlmsghdr, inet_diag_req_v2 and inet_diag_msg.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// States of linux/tcp_states.h.
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// All TCP connections of the network namespace of this thread that may still carry data, to whatever address.
///
/// Handshakes that are not complete and `TIME_WAIT` are left out, and connections that wait for the other end's last word
/// while no program listens to it any more.
pub fn connections() -> io::Result<Vec<Connection>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(family as u8, &mut all)?;
    }
    Ok(all)
}

fn dump(family: u8, all: &mut Vec<Connection>) -> io::Result<()> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    setsockopt(&netlink, ReceiveTimeout, &TimeVal::new(2, 0))?;
    send(netlink.as_raw_fd(), &request(family), MsgFlags::empty())?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if take(&buffer[..read], all)? {
            return Ok(());
        }
    }
}

fn request(family: u8) -> [u8; HEADER + REQUEST] {
    let states = [ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING];
    let states: u32 = states.iter().map(|state| 1 << state).sum();
    let mut out = [0; HEADER + REQUEST];
    out[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    out[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    out[HEADER] = family;
    out[HEADER + 1] = libc::IPPROTO_TCP as u8;
    out[HEADER + 4..HEADER + 8].copy_from_slice(&states.to_ne_bytes());
    out
}

/// Takes the messages of one datagram; whether they were the last.
fn take(mut datagram: &[u8], all: &mut Vec<Connection>) -> io::Result<bool> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "sock_diag: a message is cut short");
    while datagram.len() >= HEADER {
        let length = u32::from_ne_bytes(datagram[..4].try_into().map_err(|_| cut())?) as usize;
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        let body = datagram.get(HEADER..length).ok_or_else(cut)?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let number = body.get(..4).and_then(|n| n.try_into().ok()).map_or(0, i32::from_ne_bytes);
                return Err(io::Error::from_raw_os_error(-number));
            }
            SOCK_DIAG_BY_FAMILY => all.extend(connection(body.get(..MESSAGE).ok_or_else(cut)?)),
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// An `inet_diag_msg`; nothing for one that does not count.
fn connection(message: &[u8]) -> Option<Connection> {
    let state = message[1];
    let inode = u32::from_ne_bytes(message[68..72].try_into().ok()?);
    if state == FIN_WAIT2 && inode == 0 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = message[at..at + 16].try_into().ok()?;
        Some(match i32::from(message[0]) {
            libc::AF_INET => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            // IPv4 on a socket that takes both.
            _ => IpAddr::from(octets).to_canonical(),
        })
    };
    let port = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    Some(Connection {
        local: SocketAddr::new(address(8)?, port(4)),
        remote: SocketAddr::new(address(24)?, port(6)),
        established: state == ESTABLISHED,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    /// What the kernel says of the accepted end.
    fn of(stream: &TcpStream) -> Option<bool> {
        let ends = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let ends = [ends.0, ends.1].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
        let all = connections().unwrap();
        all.iter().find(|c| [c.local, c.remote] == ends).map(|connection| connection.established)
    }

    fn pair(listen: &str, connect: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((connect, port)).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn connections_of_both_families_are_found_and_ipv4_on_an_ipv6_socket_is_ipv4() {
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let (client, server) = pair(listen, connect);
            assert_eq!(of(&server), Some(true), "{listen}");
            assert_eq!(of(&client), Some(true), "{listen}");
        }
    }

    #[test]
    fn a_half_closed_connection_is_closing_and_time_wait_is_gone() {
        let (mut client, server) = pair("127.0.0.1:0", "127.0.0.1");
        client.shutdown(Shutdown::Write).unwrap();
        // The server's end learns of it in a moment.
        while of(&server) == Some(true) {
            std::thread::yield_now();
        }
        assert_eq!(of(&server), Some(false), "it may still send");
        let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(of(&client), Some(false), "it may still receive");
        drop(server);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        drop(client);
        let left = connections().unwrap();
        assert!(!left.iter().any(|c| (c.local, c.remote) == ends || (c.remote, c.local) == ends));
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let mut message = vec![0; 20];
        message[0..4].copy_from_slice(&100_u32.to_ne_bytes());
        assert!(take(&message, &mut Vec::new()).is_err());
    }
}
