//! What a socket of this host knows is kept.

use std::net::{TcpListener, TcpStream, UdpSocket};

use lb_common::reasons::Host;
use lb_tests::isolation::ip;
use lb_tests::packets::*;
use lb_tests::vector::Vector;
use lb_tests::world::{generation, to_port, vip};
use lb_user::model::{Affinity, Protocol};

use crate::seen::{PREFIX, at_both, flows, strange};

#[test]
#[ignore = "needs root"]
fn what_a_socket_knows_is_kept() {
    at_both("packets of known connections", |seen| {
        let mut vectors = Vec::new();
        let mut held = Vec::new();
        for ends in flows(seen) {
            let ends = to_port(ends, 80);
            let listener = TcpListener::bind(ends.destination).unwrap();
            let ack = tcp(ends, Tcp::Ack, b"x");
            vectors.push(seen.passes("a listener knows no connections", ends, &ack));
            seen.check(&vectors.split_off(0));
            let client = connected(ends);
            let (server, _) = listener.accept().unwrap();
            vectors.push(seen.keeps("an established one is kept", &ack, 0, Host::Local));
            vectors.push(seen.keeps("it is rescued if others had it first", &ack, 1, Host::Rescued));
            vectors.push(seen.keeps("also at the last moment", &ack, 15, Host::Rescued));
            let error = icmp_error(
                ends.source.ip(),
                ends.destination.ip(),
                if ends.source.is_ipv4() { 3 } else { 1 },
                4,
                &tcp(ends.reversed(), Tcp::Ack, b"y"),
                8,
            );
            vectors.push(seen.keeps("an ICMP error about it is kept", &error, 0, Host::Local));
            seen.check(&vectors.split_off(0));
            // The server closes first, so that TIME-WAIT is its own.
            drop(server);
            drop(client);
            vectors.push(seen.keeps("one in TIME-WAIT is kept", &ack, 0, Host::Local));
            seen.check(&vectors.split_off(0));
            held.push(listener);
        }
        let accounts = seen.plane.accounts().unwrap();
        let known: Vec<_> = accounts.iter().filter(|by| by.account.local > 0).collect();
        let sum =
            |of: fn(&lb_common::maps::Account) -> u64| known.iter().map(|by| of(&by.account)).sum::<u64>();
        assert_eq!(
            (sum(|a| a.local), sum(|a| a.rescued[0]), sum(|a| a.rescued[3]), sum(|a| a.passed_on)),
            (6, 2, 2, 2),
            "{accounts:?}"
        );
        assert!(known.iter().all(|by| by.generation == Some(generation(vip::WEB))), "{accounts:?}");
    });
}

/// A prefix need not be on an interface: a route makes all of it this machine's (AnyIP), for listeners on all
/// addresses.
#[test]
#[ignore = "needs root"]
fn what_a_socket_knows_at_some_address_of_a_prefix_is_kept() {
    at_both("packets of connections to a prefix", |seen| {
        ip(&format!("-6 route add local {PREFIX} dev lo"));
        let listener = TcpListener::bind("[::]:80").unwrap();
        let to = |address| strange(seen, Ends::new("[2001:db8::cb00:7107]:1", address));
        let (known, other) = (to("[2001:db8:7::abcd]:80"), to("[2001:db8:7:0:8000::1]:80"));
        let [of_known, of_other] = [known, other].map(|ends| tcp(ends, Tcp::Ack, b"x"));
        seen.check(&[seen.passes("a listener knows no connections", known, &of_known)]);
        let _client = connected(known);
        let (server, _) = listener.accept().unwrap();
        assert_eq!(server.local_addr().unwrap(), known.destination);
        let syn = tcp(other, Tcp::Syn, b"");
        seen.check(&[
            seen.keeps("one to the address that was asked is kept", &of_known, 0, Host::Local),
            seen.passes("one to another address of the prefix is another", other, &of_other),
            seen.keeps("a new one to any address is kept", &syn, 0, Host::Local),
        ]);
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_half_open_is_kept() {
    at_both("packets of half-open connections", |seen| {
        for ends in flows(seen) {
            let listener = TcpListener::bind(ends.destination).unwrap();
            defer_accept(&listener);
            let _client = connected(ends);
            let ack = tcp(ends, Tcp::Ack, b"x");
            // Established for the client, but the server waits for its first data.
            seen.check(&[seen.keeps("a request is kept", &ack, 0, Host::Local)]);
        }
    });
}

fn defer_accept(listener: &TcpListener) {
    use nix::libc;
    use std::os::fd::AsRawFd;
    let seconds: libc::c_int = 30;
    // SAFETY: the option is an `int`, which lives until the call returns.
    let done = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as u32,
        )
    };
    assert_eq!(done, 0);
}

#[test]
#[ignore = "needs root"]
fn what_acknowledges_a_syn_cookie_of_this_host_is_kept() {
    at_both("packets that acknowledge SYN cookies", |seen| {
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        for ends in flows(seen) {
            let _listener = TcpListener::bind(ends.destination).unwrap();
            let (cookie, next) = cookie(ends);
            let mut acknowledges = tcp(ends, Tcp::Ack, b"");
            let at = ETHERNET + if ends.source.is_ipv4() { IPV4 } else { IPV6 };
            acknowledges = patched(&acknowledges, at + 4, &next.to_be_bytes());
            let right = patched(&acknowledges, at + 8, &(cookie.wrapping_add(1)).to_be_bytes());
            let wrong = patched(&acknowledges, at + 8, &(cookie.wrapping_add(1 + (1 << 23))).to_be_bytes());
            let vectors = [
                seen.keeps("the right one is kept", &right, 0, Host::Local),
                seen.passes("a wrong one is passed on", ends, &wrong),
            ];
            seen.check(&vectors);
        }
    });
}

/// The sequence number of the SYN-ACK that the server answers with, and the client's next one. No socket of the connection
/// is left.
fn cookie(ends: Ends) -> (u32, u32) {
    use nix::sys::socket::*;
    use std::os::fd::AsRawFd;
    let (family, header) = match ends.source.is_ipv4() {
        true => (AddressFamily::Inet, IPV4),
        false => (AddressFamily::Inet6, 0),
    };
    let raw = socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Tcp).unwrap();
    let client = connected(ends);
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&client, sockopt::Linger, &linger).unwrap();
    drop(client);
    let (mut segment, mut cookie) = ([0; 256], None);
    loop {
        let len = recv(raw.as_raw_fd(), &mut segment, MsgFlags::empty()).unwrap();
        let tcp = &segment[header..len];
        let word = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let client = ends.source.port().to_be_bytes();
        if tcp[13] & 0x12 == 0x12 && tcp[2..4] == client {
            cookie = Some((word(4), word(8)));
        }
        // Until the reset has arrived there is a connection, which keeps its packets.
        if tcp[13] & 4 != 0 && tcp[..2] == client {
            return cookie.unwrap();
        }
    }
}

#[test]
#[ignore = "needs root"]
fn connected_udp_sockets_keep_their_packets() {
    at_both("packets of UDP flows", |seen| {
        for (key, service) in seen.world.model.services.iter_mut() {
            if key.protocol == Protocol::Udp {
                service.affinity = Affinity::SecondChance;
            }
        }
        seen.sync();
        for ends in flows(seen) {
            // An owner itself, beside one other.
            let fits = |ends: &Ends| {
                seen.world.owners(*ends, Protocol::Udp).contains(&seen.own)
                    && seen.others_of(*ends, Protocol::Udp).len() == 1
            };
            let with_port = |port| Ends { source: (ends.source.ip(), port).into(), ..to_port(ends, 53) };
            let ends = (40000..41000).map(with_port).find(fits).unwrap();
            let packet = udp(ends, b"x");
            let (to, hop) = seen.others_of(ends, Protocol::Udp)[0].clone();
            let passes =
                |says| Vector::new(says, seen.came(&packet, 0), Host::PassedOn, seen.went(&packet, &to, hop));
            let home = seen.keeps("one that has come home is kept", &packet, 2, Host::LastResort);
            seen.check(&[passes("a datagram of no socket is passed on"), home]);
            let socket = UdpSocket::bind(ends.destination).unwrap();
            let passes =
                |says| Vector::new(says, seen.came(&packet, 0), Host::PassedOn, seen.went(&packet, &to, hop));
            seen.check(&[passes("a socket that is not connected knows no flows")]);
            socket.connect(ends.source).unwrap();
            seen.check(&[seen.keeps("one that is connected keeps its own", &packet, 1, Host::Rescued)]);
        }
    });
}

fn connected(ends: Ends) -> TcpStream {
    use nix::sys::socket::*;
    use std::os::fd::AsRawFd;
    let v6 = ends.source.is_ipv6();
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let fd = socket(family, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(ends.source)).unwrap();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(ends.destination)).unwrap();
    fd.into()
}
