//! The interface features that packets in a tunnel depend on, by `SIOCETHTOOL`.

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_SGRO: u32 = 0x2c;

/// Makes the sender compute checksums: one left to the receiving device would be lost under an outer header.
/// Segmentation in the device goes with it.
pub fn transmit_checksum_off(interface: &str) -> io::Result<()> {
    set(interface, ETHTOOL_STXCSUM, 0)
}

/// Makes received segments of a flow one (GRO).
pub fn merge_received(interface: &str) -> io::Result<()> {
    set(interface, ETHTOOL_SGRO, 1)
}

fn set(interface: &str, command: u32, data: u32) -> io::Result<()> {
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{interface}: interface name too long"),
        ));
    }
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = EthtoolValue { command, data };
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request holds a terminated name and points at an ethtool_value that outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}
