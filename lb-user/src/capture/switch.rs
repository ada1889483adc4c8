//! One program in the place of another behind pinned links, and back again.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};

/// Commands and a flag of bpf(2), include/uapi/linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_F_REPLACE: u32 = 1 << 2;

/// A link whose program was replaced; the old one comes back when this value goes, unless somebody else has put in another.
pub struct Replaced {
    link: OwnedFd,
    old: OwnedFd,
    new: OwnedFd,
}

impl Replaced {
    /// Puts `new` in the place of the program behind a pinned link, in one step: no packet meets neither.
    pub fn new(pin: &Path, new: BorrowedFd<'_>) -> anyhow::Result<Self> {
        let id = FdLink::from(PinnedLink::from_pin(pin)?).info()?.program_id();
        let old = descriptor(BPF_PROG_GET_FD_BY_ID, &[u64::from(id), 0])?;
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let link = descriptor(BPF_OBJ_GET, &[path.as_ptr() as u64, 0])?;
        let replaced = Replaced { link, old, new: new.try_clone_to_owned()? };
        update(&replaced.link, &replaced.new, &replaced.old)?;
        Ok(replaced)
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        // Refused if the agent has put in a program meanwhile, as it should be.
        let _ = update(&self.link, &self.old, &self.new);
    }
}

/// Puts `new` in the place of `old`, if that is what is there.
fn update(link: &OwnedFd, new: &OwnedFd, old: &OwnedFd) -> io::Result<()> {
    let attr = [link.as_raw_fd() as u32, new.as_raw_fd() as u32, BPF_F_REPLACE, old.as_raw_fd() as u32];
    // SAFETY: the kernel reads the attribute.
    match unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_UPDATE, attr.as_ptr(), size_of_val(&attr)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A command that gives a descriptor.
fn descriptor(command: libc::c_long, attr: &[u64; 2]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the attribute, and what it points to, which lives as long as the caller's frame.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
