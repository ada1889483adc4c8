//! A small writer of pcapng (draft-ietf-opsawg-pcapng): a section, a block per interface, and packets with comments.

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

const END: u16 = 0;
const COMMENT: u16 = 1;
/// Of a section: the program that wrote it.
const APPLICATION: u16 = 4;
/// Of an interface.
const NAME: u16 = 2;
/// Of an interface: a power of ten.
const RESOLUTION: u16 = 9;
/// Of a packet.
const VERDICT: u16 = 7;
/// The verdict is what an XDP program returned.
const OF_XDP: u8 = 2;

/// Writes a capture.
pub struct Writer<W> {
    out: W,
    /// Names of the interfaces whose blocks are written, in order.
    interfaces: Vec<String>,
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Name of the interface that it came by.
    pub interface: &'a str,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Its bytes, as far as they were captured.
    pub bytes: &'a [u8],
    /// How many there were.
    pub len: u32,
    /// What the program returned.
    pub action: u32,
    /// What is to be said of it.
    pub comment: &'a str,
}

impl<W: Write> Writer<W> {
    /// Begins a capture.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_ne_bytes());
        // Version 1.0; the section's length is not known.
        body.extend(1_u16.to_ne_bytes());
        body.extend(0_u16.to_ne_bytes());
        body.extend(u64::MAX.to_ne_bytes());
        option(&mut body, APPLICATION, concat!("lb ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, END, &[]);
        block(&mut out, SECTION, &body)?;
        Ok(Writer { out, interfaces: Vec::new() })
    }

    /// Writes a packet, and before the first of an interface that interface.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let interface = match self.interfaces.iter().position(|name| name == packet.interface) {
            Some(place) => place,
            None => self.interface(packet.interface)?,
        };
        let mut body = Vec::with_capacity(packet.bytes.len() + 128);
        body.extend((interface as u32).to_ne_bytes());
        body.extend(((packet.time >> 32) as u32).to_ne_bytes());
        body.extend((packet.time as u32).to_ne_bytes());
        body.extend((packet.bytes.len() as u32).to_ne_bytes());
        body.extend(packet.len.to_ne_bytes());
        body.extend(packet.bytes);
        pad(&mut body);
        option(&mut body, COMMENT, packet.comment.as_bytes());
        option(&mut body, VERDICT, &[&[OF_XDP][..], &u64::from(packet.action).to_ne_bytes()].concat());
        option(&mut body, END, &[]);
        block(&mut self.out, PACKET, &body)
    }

    /// Hands on what has been written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn interface(&mut self, name: &str) -> io::Result<usize> {
        let mut body = Vec::new();
        body.extend(ETHERNET.to_ne_bytes());
        body.extend([0; 2]);
        // No limit of the bytes that are captured.
        body.extend(0_u32.to_ne_bytes());
        option(&mut body, NAME, name.as_bytes());
        option(&mut body, RESOLUTION, &[9]);
        option(&mut body, END, &[]);
        block(&mut self.out, INTERFACE, &body)?;
        self.interfaces.push(name.to_owned());
        Ok(self.interfaces.len() - 1)
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    body.extend(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = (body.len() as u32 + 12).to_ne_bytes();
    out.write_all(&kind.to_ne_bytes())?;
    out.write_all(&len)?;
    out.write_all(body)?;
    out.write_all(&len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_parser::traits::PcapReaderIterator;
    use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapNGReader};

    #[test]
    fn another_reader_finds_what_was_written() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        for (interface, bytes) in [("eth0", &[1_u8, 2, 3, 4, 5][..]), ("eth1", &[6; 4]), ("eth0", &[7; 6])] {
            let time = 0x1234_5678_9abc_def0;
            let packet = Packet { interface, time, bytes, len: 100, action: 3, comment: "tx: forwarded" };
            writer.packet(&packet).unwrap();
        }
        let mut reader = PcapNGReader::new(65536, &file[..]).unwrap();
        let (mut names, mut packets) = (Vec::new(), Vec::new());
        while let Ok((size, block)) = reader.next() {
            match block {
                PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                    assert_eq!(interface.ts_resolution(), Some(1_000_000_000));
                    names.push(interface.if_name().unwrap().unwrap().to_owned());
                }
                PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                    let comment = packet.options.iter().find(|o| o.code == OptionCode::Comment).unwrap();
                    let comment = comment.as_str().unwrap().to_owned();
                    let time = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                    let bytes = packet.data[..packet.caplen as usize].to_vec();
                    packets.push((packet.if_id, bytes, packet.origlen, time, comment));
                }
                _ => {}
            }
            reader.consume(size);
        }
        assert_eq!(names, ["eth0", "eth1"]);
        let all = |interface, bytes: &[u8]| {
            (interface, bytes.to_vec(), 100, 0x1234_5678_9abc_def0, "tx: forwarded".to_owned())
        };
        assert_eq!(packets, [all(0, &[1, 2, 3, 4, 5]), all(1, &[6; 4]), all(0, &[7; 6])]);
    }
}
