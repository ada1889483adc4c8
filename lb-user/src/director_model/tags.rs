//! VLAN tags of a frame: taken off before it is judged, and put on again unless it goes to a host.

use lb_common::reasons::Director;

use super::parse::word;

/// Where the EtherType stands, or the first tag.
const TYPE: usize = 12;
/// Bytes of a tag.
const TAG: usize = 4;
/// More tags than that are not looked behind.
const MOST: usize = 2;

/// The tags of a frame, and the frame without them.
pub fn split(frame: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Director> {
    if frame.len() < TYPE + 2 {
        return Err(Director::Truncated);
    }
    let mut at = TYPE;
    while matches!(word(frame, at), 0x8100 | 0x88a8) {
        if at == TYPE + MOST * TAG {
            return Err(Director::NotIp);
        }
        at += TAG;
        if frame.len() < at + 2 {
            return Err(Director::Truncated);
        }
    }
    Ok((frame[TYPE..at].to_vec(), [&frame[..TYPE], &frame[at..]].concat()))
}

/// A frame with tags.
pub fn join(tags: &[u8], frame: &[u8]) -> Vec<u8> {
    [&frame[..TYPE], tags, &frame[TYPE..]].concat()
}
