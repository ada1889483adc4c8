//! Captures, in the formats pcap and pcapng, as Ethernet frames.

use std::io::Read;
use std::time::Duration;

use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// Bytes that are read at once; more only for packets that are longer.
const BUFFER: usize = 1 << 16;
/// No packet is longer than that.
const LONGEST: usize = 1 << 24;

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number in the file, from 1.
    pub number: u64,
    /// When it was captured, since 1970; none if the file does not say.
    pub time: Option<Duration>,
    /// The frame, with zeros in the place of what was not captured.
    pub bytes: Vec<u8>,
    /// Bytes of it that were captured.
    pub captured: usize,
}

/// Why a capture cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// Another format.
    #[error("neither pcap nor pcapng; write one with `tcpdump -w FILE`")]
    Format,
    /// The file ends too early.
    #[error("the file ends within packet {0}; those before it are whole")]
    Cut(u64),
    /// The file contradicts itself.
    #[error("packet {0}: {1}")]
    Packet(u64, String),
    /// The kernel refused.
    #[error("packet {0}: cannot be read from the file")]
    Read(u64),
}

/// How frames of an interface were captured.
#[derive(Clone, Copy)]
struct Interface {
    link: Linktype,
    /// Units of time per second.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
    /// Longest captured part; 0: no limit.
    snap: usize,
}

/// Gives each frame of a capture to `each`, until that fails.
pub fn read<R: Read + Send>(
    file: R,
    mut each: impl FnMut(Frame) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut reader = create_reader(BUFFER, file).map_err(|_| CaptureError::Format)?;
    let mut interfaces: Vec<Interface> = Vec::new();
    let (mut number, mut room) = (0, BUFFER);
    loop {
        let (consumed, frame) = match reader.next() {
            Ok((consumed, block)) => (consumed, frame_of(block, &mut interfaces, number + 1)?),
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => {
                reader.refill().map_err(|_| CaptureError::Read(number + 1))?;
                continue;
            }
            Err(PcapError::BufferTooSmall) if room < LONGEST => {
                room *= 2;
                reader.grow(room);
                reader.refill().map_err(|_| CaptureError::Read(number + 1))?;
                continue;
            }
            Err(PcapError::UnexpectedEof) => return Err(CaptureError::Cut(number + 1).into()),
            Err(PcapError::BufferTooSmall) => {
                return Err(CaptureError::Packet(number + 1, format!("longer than {LONGEST} bytes")).into());
            }
            Err(_) => {
                let what = "what stands there is no packet; the file is damaged".into();
                return Err(CaptureError::Packet(number + 1, what).into());
            }
        };
        reader.consume(consumed);
        if let Some(frame) = frame {
            number = frame.number;
            each(frame)?;
        }
    }
}

/// The frame in a block, if it holds one; what is said of interfaces is kept.
fn frame_of(
    block: PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
    number: u64,
) -> Result<Option<Frame>, CaptureError> {
    let wrong = |what: String| CaptureError::Packet(number, what);
    let (interface, ticks, original, data) = match &block {
        PcapBlockOwned::LegacyHeader(header) => {
            let resolution = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
            let snap = header.snaplen as usize;
            *interfaces = vec![Interface { link: header.network, resolution, offset: 0, snap }];
            return Ok(None);
        }
        PcapBlockOwned::Legacy(packet) => {
            let interface = *interfaces.first().ok_or_else(|| wrong("no header before it".into()))?;
            let ticks = u64::from(packet.ts_sec) * interface.resolution + u64::from(packet.ts_usec);
            (interface, Some(ticks), packet.origlen, packet.data)
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            return Ok(None);
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(about)) => {
            let resolution = about
                .ts_resolution()
                .filter(|resolution| *resolution > 0)
                .ok_or_else(|| wrong("an interface before it has an unknown unit of time".into()))?;
            let (link, snap) = (about.linktype, about.snaplen as usize);
            interfaces.push(Interface { link, resolution, offset: about.if_tsoffset, snap });
            return Ok(None);
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let id = packet.if_id;
            let interface = *interfaces
                .get(id as usize)
                .ok_or_else(|| wrong(format!("on interface {id}, which the file does not describe")))?;
            let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            if packet.caplen as usize > packet.data.len() {
                return Err(wrong("longer than the block that holds it".into()));
            }
            (interface, Some(ticks), packet.origlen, packet.packet_data())
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let described = interfaces.first().ok_or_else(|| wrong("no interface before it".into()));
            let interface = *described?;
            let mut data = packet.packet_data();
            if interface.snap > 0 {
                data = &data[..data.len().min(interface.snap)];
            }
            (interface, None, packet.origlen, data)
        }
        PcapBlockOwned::NG(_) => return Ok(None),
    };
    let mut bytes = ethernet(interface.link, data).map_err(wrong)?;
    let captured = bytes.len();
    let missing = (original as usize).saturating_sub(data.len());
    if captured + missing > LONGEST {
        return Err(wrong(format!("said to have been {original} bytes long")));
    }
    bytes.resize(captured + missing, 0);
    let time = ticks.and_then(|ticks| time(ticks, &interface));
    Ok(Some(Frame { number, time, bytes, captured }))
}

fn time(ticks: u64, interface: &Interface) -> Option<Duration> {
    let (seconds, rest) = (ticks / interface.resolution, ticks % interface.resolution);
    let nanos = u128::from(rest) * 1_000_000_000 / u128::from(interface.resolution);
    let seconds = seconds.checked_add_signed(interface.offset)?;
    Some(Duration::new(seconds, nanos as u32))
}

/// The packet as an Ethernet frame, whatever link it was captured on.
fn ethernet(link: Linktype, data: &[u8]) -> Result<Vec<u8>, String> {
    let framed = |ethertype: &[u8], packet: &[u8]| [&[0; 12], ethertype, packet].concat();
    let short = || format!("{} bytes are less than a header", data.len());
    Ok(match link {
        Linktype::ETHERNET => data.to_vec(),
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => {
            let v6 = data.first().ok_or_else(short)? >> 4 == 6;
            framed(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] }, data)
        }
        // What `tcpdump -i any` writes, in two versions: the protocol stands at the end or at the start of the header.
        Linktype::LINUX_SLL => framed(data.get(14..16).ok_or_else(short)?, &data[16..]),
        Linktype::LINUX_SLL2 => framed(data.get(..2).ok_or_else(short)?, data.get(20..).ok_or_else(short)?),
        Linktype(number) => {
            return Err(format!(
                "captured on a link of type {number}; capture on an Ethernet interface, or on `any`"
            ));
        }
    })
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
