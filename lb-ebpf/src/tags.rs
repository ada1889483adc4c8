//! VLAN tags (802.1Q, 802.1ad): taken off a frame while the programs look at it, and put on.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use lb_common::outer::{ETH_QINQ, ETH_VLAN, TAG};

use crate::packet::Frame;

/// Where the tags of a frame stand, or its EtherType.
pub const TYPE: usize = 12;

/// One or two tags, or none.
///
/// The length lies off the multiples of eight. What is written there the verifier takes for any number, so it goes through
/// what follows once, for frames with and without tags.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Tags {
    /// As it stands in the frame.
    outer: u32,
    /// Bytes of them: 4, 8, or 0.
    len: u16,
    /// If there are two.
    inner: u32,
}

/// Why the tags of a frame cannot be taken.
pub enum Untaken {
    /// The frame ends in or behind them.
    Truncated,
    /// There are more than two.
    Many,
}

/// The EtherType is that of a tag.
#[inline(always)]
pub fn is_tag(ethertype: u16) -> bool {
    ethertype == ETH_VLAN || ethertype == ETH_QINQ
}

impl Tags {
    /// These tags, as they stand in the frame, the outermost first; of which so many bytes count.
    #[inline(always)]
    pub const fn new([outer, inner]: [u32; 2], len: u16) -> Self {
        Tags { outer, len, inner }
    }

    /// Those of a frame without tags. Field by field: to clear all at once would be a call of `memset`.
    #[inline(always)]
    pub fn clear(tags: &mut MaybeUninit<Self>) -> &mut Self {
        let it = tags.as_mut_ptr();
        // SAFETY: fields of a value that is the caller's; all of them are written.
        unsafe {
            (&raw mut (*it).outer).write_volatile(0);
            (&raw mut (*it).len).write_volatile(0);
            (&raw mut (*it).inner).write_volatile(0);
            tags.assume_init_mut()
        }
    }

    /// There are none.
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        self.len == 0
    }

    /// The tags of a frame that has some, and the EtherType behind them.
    #[inline(always)]
    pub fn read(frame: &Frame) -> Result<(Tags, u16), Untaken> {
        let outer = frame.read::<u32>(TYPE).ok_or(Untaken::Truncated)?;
        let behind = frame.read::<u16>(TYPE + TAG).ok_or(Untaken::Truncated)?;
        if !is_tag(behind) {
            return Ok((Tags::new([outer, 0], TAG as u16), behind));
        }
        let inner = frame.read::<u32>(TYPE + TAG).ok_or(Untaken::Truncated)?;
        let behind = frame.read::<u16>(TYPE + 2 * TAG).ok_or(Untaken::Truncated)?;
        match is_tag(behind) {
            true => Err(Untaken::Many),
            false => Ok((Tags::new([outer, inner], 2 * TAG as u16), behind)),
        }
    }

    /// Takes them off the frame that they were read from.
    #[inline(always)]
    pub fn pop(&self, ctx: &XdpContext) -> Option<()> {
        let addresses = Frame::xdp(ctx).read::<[u32; 3]>(0)?;
        // SAFETY: the helper checks the length; the frame is taken anew.
        match unsafe { bpf_xdp_adjust_head(ctx.ctx, i32::from(self.len)) } {
            0 => Frame::xdp(ctx).write(0, addresses),
            _ => None,
        }
    }

    /// Puts them on a frame without tags.
    #[inline(always)]
    pub fn push(&self, ctx: &XdpContext) -> Option<()> {
        let addresses = Frame::xdp(ctx).read::<[u32; 3]>(0)?;
        // SAFETY: the helper checks the headroom; the frame is taken anew.
        if unsafe { bpf_xdp_adjust_head(ctx.ctx, -i32::from(self.len)) } != 0 {
            return None;
        }
        let frame = Frame::xdp(ctx);
        let written = frame.write(0, addresses).and(frame.write(TYPE, self.outer));
        match self.len as usize {
            TAG => written,
            _ => written.and(frame.write(TYPE + TAG, self.inner)),
        }
    }
}
