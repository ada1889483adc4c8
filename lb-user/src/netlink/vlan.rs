//! Routes that leave by a VLAN device: the interface below it, and the tags that frames have there.
//!
//! No driver's XDP sends by a VLAN device, so the programs write the tags themselves.

use std::collections::BTreeMap;
use std::fmt;

use super::state::{Link, Reason};

/// More tags than that are not written.
pub const MOST: usize = 2;
/// What the kernel grants a frame beyond the MTU: one tag (`VLAN_HLEN`).
const GRANTED: u32 = 4;

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// EtherType: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub protocol: u16,
    /// VLAN id.
    pub id: u16,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.protocol == 0x88a8 { "802.1ad" } else { "802.1Q" };
        write!(f, "{protocol} {}", self.id)
    }
}

/// What makes an interface a VLAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The interface that it is on.
    pub below: u32,
    /// The tag of its frames there.
    pub tag: Tag,
}

/// What is below a VLAN device, or below two, one on the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// The interface that frames leave by.
    pub ifindex: u32,
    /// Their tags, the outermost first; at most [`MOST`].
    pub tags: Vec<Tag>,
}

/// Follows the devices from `ifindex` down, and gives with what is below them the largest IP packet that it takes. `None` if that is
/// no VLAN device, or one whose lower half is in another network namespace: then nothing but the device itself can send.
pub fn below(links: &BTreeMap<u32, Link>, ifindex: u32) -> Result<Option<(Below, u32)>, Reason> {
    let mut tags = Vec::new();
    let mut at = ifindex;
    while let Some(Device { below, tag }) = links.get(&at).and_then(|link| link.vlan) {
        if tags.len() == MOST {
            let name = links.get(&ifindex).map_or_else(String::new, |link| link.name.clone());
            return Err(Reason::TooManyTags(name));
        }
        tags.insert(0, tag);
        at = below;
    }
    let Some(link) = links.get(&at).filter(|_| !tags.is_empty()) else { return Ok(None) };
    let mtu = (link.mtu + GRANTED).saturating_sub(4 * tags.len() as u32);
    Ok(Some((Below { ifindex: at, tags }, mtu)))
}
