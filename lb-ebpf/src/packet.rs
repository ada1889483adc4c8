//! Packets as bounded memory: headers are copied in and out by value, so that callers need no `unsafe`.

use aya_ebpf::helpers::bpf_xdp_get_buff_len;
use aya_ebpf::programs::{TcContext, XdpContext};
use core::arch::asm;
use core::mem::size_of;

/// The linear part of a packet.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// Of an XDP packet. Take a new one after every helper that moves the packet.
    #[inline(always)]
    pub fn xdp(ctx: &XdpContext) -> Self {
        Frame { start: ctx.data(), end: ctx.data_end() }
    }

    /// Of a socket buffer. Take a new one after every helper that changes it.
    #[inline(always)]
    pub fn tc(ctx: &TcContext) -> Self {
        Frame { start: ctx.data(), end: ctx.data_end() }
    }

    /// Bytes in the linear part.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Copies a header out. `T` is one of the plain structs of this module, or an integer.
    #[inline(always)]
    pub fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: inside the packet by the check above, which the verifier repeats. The pointer may be less aligned
        // than `T`: BPF loads need no alignment where the kernel permits such programs, and `read_unaligned` would be
        // compiled to a load per byte.
        Some(unsafe { *(at as *const T) })
    }

    /// The same at a place that is not known before: checked right where it is read. The compiler must not find out that it is
    /// inside the packet by another way than the verifier's.
    #[inline(always)]
    pub fn read_behind<T: Copy>(&self, offset: usize) -> Option<T> {
        let mut offset = offset;
        // SAFETY: changes a register of ours; and not its value, as no packet is longer.
        unsafe { asm!("{0} &= 0xffff", inout(reg) offset, options(pure, nomem, nostack)) };
        self.read(offset)
    }

    /// Checks once that `BYTES` bytes from `offset` on are there.
    #[inline(always)]
    pub fn window<const BYTES: usize>(&self, offset: usize) -> Option<Window<BYTES>> {
        let start = self.start + offset;
        if start + BYTES > self.end { None } else { Some(Window { start }) }
    }

    /// Writes a header.
    #[inline(always)]
    pub fn write<T: Copy>(&self, offset: usize, value: T) -> Option<()> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: as for `read`; nothing else refers to the packet meanwhile.
        unsafe { *(at as *mut T) = value };
        Some(())
    }
}

/// Bytes of the whole frame, of which a large one has only the beginning in its linear part. A call, so it is made only where that
/// is too short.
#[inline(always)]
pub fn whole(ctx: &XdpContext) -> usize {
    // SAFETY: the context is valid for the whole program.
    (unsafe { bpf_xdp_get_buff_len(ctx.ctx) }) as usize
}

/// Bytes of a packet that are known to be there: fields of them are read and written one by one, without a check for each.
#[derive(Clone, Copy)]
pub struct Window<const BYTES: usize> {
    start: usize,
}

impl<const BYTES: usize> Window<BYTES> {
    /// Reads the integer at `AT`.
    #[inline(always)]
    pub fn read<T: Copy, const AT: usize>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= BYTES) };
        // SAFETY: inside the window, which `Frame::window` has checked; as for alignment see `Frame::read`.
        unsafe { *((self.start + AT) as *const T) }
    }

    /// Writes the integer at `AT`.
    #[inline(always)]
    pub fn write<T: Copy, const AT: usize>(&self, value: T) {
        const { assert!(AT + size_of::<T>() <= BYTES) };
        // SAFETY: as for `read`; nothing else refers to the packet meanwhile.
        unsafe { *((self.start + AT) as *mut T) = value };
    }
}

/// IPv4 header without options (RFC 791); multi-byte fields stand as in the packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    /// Version (4 bits) and header length in words (4 bits).
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Header and payload, bytes.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Flags (3 bits) and fragment offset (13 bits).
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Payload protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source.
    pub source: u32,
    /// Destination.
    pub destination: u32,
}

/// Version 4 and five words of header.
pub const V4_NO_OPTIONS: u8 = 0x45;
/// More fragments, or a fragment offset.
pub const ANY_FRAGMENT: u16 = 0x3fffu16.to_be();
/// A fragment offset.
pub const LATER_FRAGMENT: u16 = 0x1fffu16.to_be();

/// IPv6 header (RFC 8200); multi-byte fields stand as in the packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub first: u32,
    /// Bytes after this header.
    pub payload_len: u16,
    /// Type of the next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub source: [u32; 4],
    /// Destination.
    pub destination: [u32; 4],
}

impl Ipv6 {
    /// The version field says 6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.first & 0xf000_0000u32.to_be() == 0x6000_0000u32.to_be()
    }

    /// The traffic class.
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        (u32::from_be(self.first) >> 20) as u8
    }
}

/// The first eight bytes of TCP, UDP or ICMP, which is also what an ICMP error quotes at least.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct L4 {
    /// Ports of TCP and UDP; type, code and checksum of ICMP.
    pub first: u32,
    /// Whatever follows.
    pub second: u32,
}

/// TCP header without options (RFC 9293); multi-byte fields stand as in the packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tcp {
    /// Source and destination port.
    pub ports: u32,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Header length in words (4 bits), reserved.
    pub offset: u8,
    /// [`SYN`], [`ACK`] and others.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

/// Bit of [`Tcp::flags`].
pub const SYN: u8 = 2;
/// Bit of [`Tcp::flags`].
pub const ACK: u8 = 16;

/// ICMP type, as it stands in the first byte of [`L4::first`].
#[inline(always)]
pub const fn icmp_type(first: u32) -> u8 {
    first.to_ne_bytes()[0]
}

/// IANA protocol numbers.
pub mod protocol {
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 8200 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// RFC 8200 routing header.
    pub const ROUTING: u8 = 43;
    /// RFC 8200 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// RFC 8200 destination options.
    pub const DESTINATION: u8 = 60;
}
