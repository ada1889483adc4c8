//! Vectors of IPv4 options and IPv6 extension headers: what is looked behind, and what is refused.

use lb_common::reasons::Director;
use lb_user::model::Protocol;

use super::router;
use crate::packets::*;
use crate::vector::Vector;
use crate::world::*;

/// All of them.
pub fn all(world: &World) -> Vec<Vector<Director>> {
    let mut all = looked_behind(world);
    all.extend(refused4());
    all.extend(refused6());
    all
}

/// Options that end a list before its last word: router alert, nothing twice, the end, and what nobody reads.
const SANE: [u8; 12] = [148, 4, 0, 0, 1, 1, 68, 4, 5, 0, 0, 131];

/// Destination options or hop-by-hop options of 8 bytes (PadN), but for the first byte.
const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
/// A routing header (type 4) without further segments.
const ARRIVED: [u8; 7] = [0, 4, 0, 0, 0, 0, 0];
/// The same of 24 bytes, with one segment to go.
const UNDER_WAY: [u8; 23] = [2, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
/// An atomic fragment.
const ATOMIC: [u8; 7] = [0, 0, 0, 0, 0, 0, 9];

fn looked_behind(world: &World) -> Vec<Vector<Director>> {
    let (web4, web6) = (client4(vip::WEB), client6(vip::WEB));
    let syn6 = tcp(web6, Tcp::Syn, b"");
    let longest = [&[94, 40][..], &[0; 38]].concat();
    let long = [&[31, 1, 252][..], &[0; 252]].concat();
    let all_of_them = [(60, &PADDING[..]), (44, &ATOMIC), (43, &ARRIVED), (60, &PADDING), (0, &PADDING)];
    let all_of_them =
        all_of_them.iter().fold(syn6.clone(), |packet, (kind, body)| with_header(&packet, *kind, body));
    let mut all = Vec::new();
    for (says, ends, packet) in [
        ("options are looked behind", web4, with_options(&tcp(web4, Tcp::Syn, b""), ETHERNET)),
        ("forty bytes of them are the most", web4, with_list(&tcp(web4, Tcp::Syn, b""), ETHERNET, &longest)),
        (
            "so are sixteen, with their padding",
            web4,
            with_list(&tcp(web4, Tcp::Syn, b""), ETHERNET, &[1; 16]),
        ),
        (
            "what stands behind their end is not read",
            web4,
            with_list(&tcp(web4, Tcp::Ack, b"x"), ETHERNET, &SANE),
        ),
        ("hop-by-hop options are looked behind", web6, with_header(&syn6, 0, &PADDING)),
        ("destination options are looked behind", web6, with_header(&syn6, 60, &PADDING)),
        ("long ones, too", web6, with_header(&syn6, 60, &long)),
        ("a routing header at its end is looked behind", web6, with_header(&syn6, 43, &ARRIVED)),
        ("an atomic fragment is looked behind", web6, with_header(&syn6, 44, &ATOMIC)),
        ("five of them are the most", web6, all_of_them),
    ] {
        let output = world.sent(ends, Protocol::Tcp, &packet);
        all.push(Vector::new(says, packet, Director::Forwarded, output));
    }
    for (ends, kind, code) in [(web4, 3, 4), (web6, 2, 0)] {
        let answer = tcp(ends.reversed(), Tcp::Ack, &[7; 64]);
        let v6 = ends.source.is_ipv6();
        let error = icmp_error(router(v6), ends.destination.ip(), kind, code, &answer, 8);
        let packet = if v6 { with_header(&error, 0, &PADDING) } else { with_options(&error, ETHERNET) };
        let output = world.sent(ends, Protocol::Tcp, &packet);
        let says = "an ICMP error is looked at behind options or extension headers";
        all.push(Vector::new(says, packet, Director::ForwardedError, output));
    }
    all
}

fn refused4() -> Vec<Vector<Director>> {
    let ends = client4(vip::WEB);
    let syn = tcp(ends, Tcp::Syn, b"");
    let with = |list: &[u8]| with_list(&syn, ETHERNET, list);
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let options = Director::IpOptions;
    let none = client4(vip::NONE);
    vec![
        is("a loose source route is refused", with(&[131, 7, 4, 10, 0, 0, 1, 0]), options),
        is("a strict source route is refused", with(&[1, 137, 7, 4, 10, 0, 0, 1]), options),
        is("an option longer than the header is refused", with(&[148, 5, 0, 0]), options),
        is("an option of one byte that says its length is refused", with(&[1, 1, 1, 148]), options),
        is("more than sixteen are refused", with(&[1; 20]), options),
        is("an option of no length is refused", with(&[148, 0, 0, 0]), options),
        is("an option of one byte is refused", with(&[148, 1, 0, 0]), options),
        is("a frame that ends inside the options is dropped", cut(&with(&[1; 16]), 44), Director::Truncated),
        is("one that ends behind the end of a list is, too", cut(&with(&[0; 40]), 70), Director::Truncated),
        is(
            "a frame that ends inside the ports behind options is dropped",
            cut(&with(&[1; 4]), ETHERNET + IPV4 + 4 + 7),
            Director::Truncated,
        ),
        is(
            "a length that leaves no room for ports behind options is refused",
            patched(&with(&[0; 40]), 16, &[0, 67]),
            Director::BadHeader,
        ),
        is(
            "another port behind options has no service",
            with_options(&tcp(to_port(ends, 81), Tcp::Syn, b""), ETHERNET),
            Director::NoService,
        ),
        is(
            "a source route does not matter elsewhere",
            with_list(&tcp(none, Tcp::Syn, b""), ETHERNET, &[131, 3, 4, 0]),
            Director::NotVip,
        ),
    ]
}

fn refused6() -> Vec<Vector<Director>> {
    let ends = client6(vip::WEB);
    let syn = tcp(ends, Tcp::Syn, b"");
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let extension = Director::Extension;
    let six = (0..6).fold(syn.clone(), |packet, _| with_header(&packet, 60, &PADDING));
    let mut too_long = with_header(&syn, 60, &PADDING);
    too_long[ETHERNET + IPV6 + 1] = 4;
    let nothing = with_header(&syn, 60, &PADDING);
    let nothing = patched(&cut(&nothing, ETHERNET + IPV6 + 8), 18, &[0, 8]);
    vec![
        is("six extension headers are too many", six, extension),
        is("a routing header with segments left is refused", with_header(&syn, 43, &UNDER_WAY), extension),
        is(
            "hop-by-hop options behind others are refused",
            with_header(&with_header(&syn, 0, &PADDING), 60, &PADDING),
            extension,
        ),
        is(
            "an authentication header is refused behind others",
            with_header(&with_extension(&syn, 51), 60, &PADDING),
            extension,
        ),
        is("a mobility header is refused", with_extension(&syn, 135), extension),
        is("an extension header beyond the packet is refused", too_long, Director::BadHeader),
        is("nothing behind an extension header is refused", nothing, Director::BadHeader),
        is(
            "what is encrypted has no ports",
            with_header(&patched(&syn, 20, &[50]), 60, &PADDING),
            Director::NoService,
        ),
        is(
            "no next header is no service",
            with_header(&patched(&syn, 20, &[59]), 60, &PADDING),
            Director::NoService,
        ),
    ]
}
