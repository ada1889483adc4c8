//! Arrays per CPU, read in one pass: one system call for all of it, not one per key.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::Pod;
use aya::maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;

use super::load::Loaded;
use super::pools::{map_error, map_io};
use super::{Error, Result};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// An array with a value for each CPU.
pub struct PerCpu<T: Pod> {
    name: &'static str,
    array: PerCpuArray<MapData, T>,
    /// The same map; aya gives out no descriptor of a typed one.
    descriptor: OwnedFd,
    cpus: usize,
}

impl<T: Pod + Default> PerCpu<T> {
    /// Takes it out of what was loaded.
    pub fn take(loaded: &mut Loaded, name: &'static str) -> Result<Self> {
        let map = loaded.any_map(name)?;
        let Map::PerCpuArray(data) = &map else {
            return Err(map_error(name)(MapError::InvalidName { name: name.to_owned() }));
        };
        let descriptor = data.fd().as_fd().try_clone_to_owned().map_err(map_io(name))?;
        let cpus = nr_cpus().map_err(|(_, error)| map_io(name)(error))?;
        let array = map.try_into().map_err(|source| Error::Map { map: name, source })?;
        Ok(PerCpu { name, array, descriptor, cpus })
    }

    /// The first `count` values, each folded over all CPUs.
    pub fn read(&self, count: u32, add: impl Fn(T, &T) -> T) -> Result<Vec<T>> {
        let count = count.min(self.array.len());
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut keys = vec![0_u32; count as usize];
        let mut values = vec![T::default(); count as usize * self.cpus];
        let mut next = 0_u32;
        let mut batch = Batch {
            from: 0,
            next: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count,
            map_fd: self.descriptor.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads and writes the attribute, whose size it is told, and writes at most `count` keys of four
        // bytes and as many values for each CPU, for which there is room; any bytes are a value. Values take whole words,
        // as `T` does: see `take`'s maps.
        let done =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        let error = io::Error::last_os_error();
        // The end of the map is no failure.
        if done != 0 && error.kind() != io::ErrorKind::NotFound {
            return Err(map_io(self.name)(error));
        }
        let read = values.chunks_exact(self.cpus).take(batch.count as usize);
        Ok(read.map(|of_cpus| of_cpus.iter().fold(T::default(), &add)).collect())
    }

    /// Clears a value on all CPUs: what it counted was of another thing.
    pub fn zero(&mut self, index: u32) -> Result<()> {
        let zero = PerCpuValues::try_from(vec![T::default(); self.cpus]).map_err(map_io(self.name))?;
        self.array.set(index, zero, 0).map_err(map_error(self.name))
    }
}

/// The part of `union bpf_attr` for batches (include/uapi/linux/bpf.h).
#[repr(C)]
struct Batch {
    from: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}
