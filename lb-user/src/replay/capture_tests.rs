//! Captures written byte by byte.

use super::*;

fn read_all(bytes: &[u8]) -> (Vec<Frame>, Option<String>) {
    let mut frames = Vec::new();
    let result = read(bytes, |frame| {
        frames.push(frame);
        Ok(())
    });
    (frames, result.err().map(|error| error.to_string()))
}

/// A pcap header: microseconds, or nanoseconds by the other magic number; little-endian.
fn pcap(magic: u32, link: u32) -> Vec<u8> {
    [magic.to_le_bytes(), [2, 0, 4, 0], [0; 4], [0; 4], 65535u32.to_le_bytes(), link.to_le_bytes()].concat()
}

fn record(seconds: u32, fraction: u32, data: &[u8], original: u32) -> Vec<u8> {
    let head = [seconds, fraction, data.len() as u32, original];
    [&head.map(u32::to_le_bytes).concat()[..], data].concat()
}

/// A pcapng block.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let len = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &len, &body, &len].concat()
}

fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, &[&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat())
}

fn interface(link: u16) -> Vec<u8> {
    block(1, &[&link.to_le_bytes()[..], &[0, 0], &65535u32.to_le_bytes()].concat())
}

fn enhanced(interface: u32, micros: u64, data: &[u8], original: u32) -> Vec<u8> {
    let words = [interface, (micros >> 32) as u32, micros as u32, data.len() as u32, original];
    block(6, &[&words.map(u32::to_le_bytes).concat()[..], data].concat())
}

const FRAME: [u8; 15] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 6, 9];

#[test]
fn pcap_is_read_with_its_times_and_what_was_cut_off_is_zeros() {
    let micros = [pcap(0xa1b2_c3d4, 1), record(10, 500_000, &FRAME, 15), record(11, 0, &FRAME, 20)].concat();
    let (frames, error) = read_all(&micros);
    assert_eq!(error, None);
    assert_eq!(frames[0].time, Some(Duration::from_millis(10_500)));
    assert_eq!((frames[0].number, &frames[0].bytes[..], frames[0].captured), (1, &FRAME[..], 15));
    assert_eq!((frames[1].number, frames[1].bytes.len(), frames[1].captured), (2, 20, 15));
    assert_eq!(frames[1].bytes[14..], [9, 0, 0, 0, 0, 0]);

    let nanos = [pcap(0xa1b2_3c4d, 1), record(10, 500, &FRAME, 15)].concat();
    assert_eq!(read_all(&nanos).0[0].time, Some(Duration::new(10, 500)));
}

#[test]
fn pcapng_is_read_with_several_interfaces() {
    let packet = [0x45, 0, 0, 20];
    let file = [
        section(),
        interface(1),
        interface(101),
        enhanced(1, 3_000_001, &packet, 4),
        enhanced(0, 1 << 33, &FRAME, 15),
        block(3, &[&15u32.to_le_bytes()[..], &FRAME].concat()),
        block(5, &[0; 12]),
    ];
    let (frames, error) = read_all(&file.concat());
    assert_eq!((error, frames.len()), (None, 3));
    assert_eq!(frames[0].time, Some(Duration::from_micros(3_000_001)));
    assert_eq!(frames[0].bytes, [&[0; 12][..], &[8, 0], &packet].concat());
    assert_eq!(frames[1].time, Some(Duration::from_micros(1 << 33)));
    assert_eq!((frames[2].number, frames[2].time, &frames[2].bytes[..]), (3, None, &FRAME[..]));
}

#[test]
fn what_tcpdump_takes_from_any_interface_becomes_ethernet() {
    let payload = [0x60, 1, 2, 3];
    let cooked = [&[0; 14][..], &[0x86, 0xdd], &payload].concat();
    let cooked2 = [&[0x86, 0xdd][..], &[0; 18], &payload].concat();
    let want = [&[0; 12][..], &[0x86, 0xdd], &payload].concat();
    for (link, data) in [(113, &cooked[..]), (276, &cooked2), (101, &payload), (229, &payload)] {
        let file = [pcap(0xa1b2_c3d4, link), record(0, 0, data, data.len() as u32)].concat();
        let (frames, error) = read_all(&file);
        assert_eq!(error, None, "link type {link}");
        assert_eq!(frames[0].bytes, want, "link type {link}");
    }
}

#[test]
fn what_cannot_be_read_is_named_by_its_packet() {
    let said = |bytes: &[u8]| read_all(bytes).1.unwrap();
    assert!(said(b"no capture at all, just text").starts_with("neither pcap nor pcapng"));
    assert!(said(b"").starts_with("neither pcap nor pcapng"));

    let whole = [pcap(0xa1b2_c3d4, 1), record(0, 0, &FRAME, 15)].concat();
    let cut = [&whole[..], &record(0, 0, &FRAME, 15)[..20]].concat();
    let (frames, error) = read_all(&cut);
    assert_eq!(frames.len(), 1, "those before it are whole");
    assert!(error.unwrap().contains("within packet 2"));

    let radio = [pcap(0xa1b2_c3d4, 105), record(0, 0, &FRAME, 15)].concat();
    assert!(said(&radio).starts_with("packet 1: captured on a link of type 105"));
    let short = [pcap(0xa1b2_c3d4, 113), record(0, 0, &FRAME[..8], 8)].concat();
    assert!(said(&short).starts_with("packet 1: 8 bytes are less than a header"));
    let nowhere = [section(), interface(1), enhanced(0, 0, &FRAME, 15), enhanced(4, 0, &FRAME, 15)].concat();
    assert!(said(&nowhere).starts_with("packet 2: on interface 4"));
    let vast = [pcap(0xa1b2_c3d4, 1), record(0, 0, &FRAME, u32::MAX)].concat();
    assert!(said(&vast).starts_with("packet 1: said to have been 4294967295 bytes"));
    let mut damaged = [section(), interface(1), enhanced(0, 0, &FRAME, 15)].concat();
    let last = damaged.len() - 4;
    damaged[last] ^= 4;
    assert!(said(&damaged).starts_with("packet 1: "), "{}", said(&damaged));
}

#[test]
fn an_error_of_the_reader_of_frames_is_passed_on() {
    let file = [pcap(0xa1b2_c3d4, 1), record(0, 0, &FRAME, 15)].concat();
    let error = read(&file[..], |_| anyhow::bail!("enough")).unwrap_err();
    assert_eq!(error.to_string(), "enough");
}
