//! Arrays in the kernel as memory: many words without a system call for each, and each of them whole.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The words of an array that has `BPF_F_MMAPABLE`, for as long as this value lives. Programs read and write them at the
/// same time, which is why they are atomic.
pub struct Memory {
    start: NonNull<c_void>,
    words: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached through atomics only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Of an array of so many words in all.
    pub fn of(array: &MapData, words: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(words * size_of::<u64>()).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it lives as long as this value. The kernel refuses
        // one that is longer than the array.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, array.fd().as_fd(), 0) }?;
        Ok(Memory { start, words })
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: as many words lie in the mapping, which begins at a page; any bits are a word.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.words) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by `mmap` with this length; no reference outlives the value. Failure would only leak it.
        let _ = unsafe { munmap(self.start, self.words * size_of::<u64>()) };
    }
}
