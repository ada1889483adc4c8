//! Short turns of a thread on its core: one that answers does not wait until one that computes has had its whole turn.

use std::io;

/// How long a turn is, in nanoseconds: the shortest that Linux takes. The default is some 3 ms.
const TURN: u64 = 100_000;

/// `struct sched_attr` in its first version (sched_setattr(2)).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Of a thread without a deadline: how long its turns are (Linux 6.12).
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for short turns of this thread, which then comes before those that have long ones when it has something to do. It
/// gets no more time for that. A kernel before 6.12 does not know of it, and all stays as it is.
pub fn shorten() -> io::Result<()> {
    let mut attributes = Attributes::default();
    let size = size_of::<Attributes>() as u32;
    // SAFETY: the kernel writes at most `size` bytes, which is the size of what it is given.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if read != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.size = size;
    attributes.runtime = TURN;
    // SAFETY: the kernel reads `size` bytes, as the attributes themselves say, and changes nothing of this process's memory.
    let written = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if written == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_kernel_takes_it() {
        std::thread::spawn(|| shorten().unwrap()).join().unwrap();
    }
}
