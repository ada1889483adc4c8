//! VLAN tags (802.1Q, 802.1ad): taken off a frame while the programs look at it, and put on.

use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use lb_common::outer::{ETH_QINQ, ETH_VLAN, TAG};

use crate::packet::Frame;

/// Where the tags of a frame stand, or its EtherType.
pub const TYPE: usize = 12;

/// One or two tags, or none.
#[derive(Clone, Copy)]
pub struct Tags {
    /// As they stand in the frame, the outermost first.
    pub words: [u32; 2],
    /// Bytes of them: 4, 8, or 0.
    pub len: u16,
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
    /// Of a frame without tags.
    pub const NONE: Tags = Tags { words: [0; 2], len: 0 };

    /// The tags of a frame that has some, and the EtherType behind them.
    #[inline(always)]
    pub fn read(frame: &Frame) -> Result<(Tags, u16), Untaken> {
        let outer = frame.read::<u32>(TYPE).ok_or(Untaken::Truncated)?;
        let behind = frame.read::<u16>(TYPE + TAG).ok_or(Untaken::Truncated)?;
        if !is_tag(behind) {
            return Ok((Tags { words: [outer, 0], len: TAG as u16 }, behind));
        }
        let inner = frame.read::<u32>(TYPE + TAG).ok_or(Untaken::Truncated)?;
        let behind = frame.read::<u16>(TYPE + 2 * TAG).ok_or(Untaken::Truncated)?;
        match is_tag(behind) {
            true => Err(Untaken::Many),
            false => Ok((Tags { words: [outer, inner], len: 2 * TAG as u16 }, behind)),
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
        let written = frame.write(0, addresses).and(frame.write(TYPE, self.words[0]));
        match self.len as usize {
            TAG => written,
            _ => written.and(frame.write(TYPE + TAG, self.words[1])),
        }
    }
}
