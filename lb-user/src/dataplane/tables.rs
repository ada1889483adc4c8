//! Tables in the kernel: mmap-able arrays of rows, each in a slot of the map of tables.
//!
//! A new table is filled through memory (one system call instead of one per row) and becomes visible as a whole when
//! its slot is written; the kernel then waits until no program reads the old one (4 to 16 ms).

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use aya::maps::{ArrayOfMaps, MapData};
use lb_common::maps::Row;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{Error, Result};
use crate::table;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;
/// Tables of one outer map may differ in size.
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// The map of tables.
pub struct Tables {
    outer: ArrayOfMaps<MapData, MapData>,
}

impl Tables {
    /// Takes over the outer map.
    pub fn new(outer: ArrayOfMaps<MapData, MapData>) -> Self {
        Tables { outer }
    }

    /// How many tables there is room for.
    pub fn capacity(&self) -> u32 {
        self.outer.len()
    }

    /// Writes `rows` to a new table and puts it into `slot`, replacing what was there.
    pub fn put(&mut self, slot: u32, rows: &[Row]) -> Result<()> {
        let inner = create(rows.len() as u32)?;
        Memory::of(&inner, rows.len(), true)?.rows_mut().copy_from_slice(rows);
        self.outer.set(slot, &inner, 0).map_err(|source| Error::Map { map: "TABLES", source })
    }

    /// The digest of the table in `slot`, taken from the kernel's memory; `None` if there is no table of this size.
    pub fn digest(&self, slot: u32, rows: u32, host_of: impl Fn(u16) -> u64) -> Result<Option<u64>> {
        let Ok(inner) = self.outer.get(&slot, 0) else { return Ok(None) };
        let info = inner.info().map_err(|source| Error::Map { map: "table", source })?;
        if info.max_entries() != rows || info.value_size() as usize != size_of::<Row>() {
            return Ok(None);
        }
        Ok(Some(table::digest(Memory::of(&inner, rows as usize, false)?.rows(), host_of)))
    }
}

/// The part of `union bpf_attr` that creating an array needs (include/uapi/linux/bpf.h).
#[repr(C)]
struct CreateArray {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// aya creates typed arrays, but gives out no descriptor of theirs to map.
fn create(rows: u32) -> Result<MapData> {
    let attr = CreateArray {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<Row>() as u32,
        max_entries: rows,
        map_flags: BPF_F_MMAPABLE | BPF_F_INNER_MAP,
        inner_map_fd: 0,
        numa_node: 0,
        map_name: *b"lb_table\0\0\0\0\0\0\0\0",
    };
    // SAFETY: the kernel reads `size_of::<CreateArray>()` bytes of the attribute and keeps none of it.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<CreateArray>()) };
    if fd < 0 {
        return Err(Error::Table { rows, what: "create it", source: io::Error::last_os_error() });
    }
    // SAFETY: a new descriptor, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    MapData::from_fd(fd).map_err(|source| Error::Map { map: "table", source })
}

/// A table as memory.
struct Memory {
    start: NonNull<std::ffi::c_void>,
    rows: usize,
    bytes: usize,
}

impl Memory {
    fn of(table: &MapData, rows: usize, write: bool) -> Result<Self> {
        let error = |source| Error::Table { rows: rows as u32, what: "map it", source };
        let bytes = rows * size_of::<Row>();
        let length = NonZeroUsize::new(bytes).ok_or_else(|| error(io::ErrorKind::InvalidInput.into()))?;
        let access = if write { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice; it lives as long as this value.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, table.fd().as_fd(), 0) }
            .map_err(|errno| error(errno.into()))?;
        Ok(Memory { start, rows, bytes })
    }

    fn rows(&self) -> &[Row] {
        // SAFETY: `rows` rows lie in the mapping, and any bytes are rows. Nobody writes a table that has a slot.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.rows) }
    }

    fn rows_mut(&mut self) -> &mut [Row] {
        // SAFETY: as in `rows`; mapped for writing by `put`, the only caller, before any program can see the table.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.rows) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by `mmap` with this length; no reference outlives the value. Failure would only leak it.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}
