//! Tables in the kernel: mmap-able arrays of rows, each in a slot of the map of tables.
//!
//! A new table is filled through memory (one system call instead of one per row) and becomes visible as a whole when
//! its slot is written; the kernel then waits until no program reads the old one (4 to 16 ms).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use aya::maps::{ArrayOfMaps, Map, MapData, MapError};
use lb_common::maps::Row;

use super::memory::Memory;
use super::{Error, Result};
use crate::table;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_F_MMAPABLE`.
pub(super) const MMAPABLE: u32 = 1 << 10;
/// Tables of one outer map may differ in size.
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// The map of tables.
pub struct Tables {
    outer: ArrayOfMaps<MapData, MapData>,
    /// The same map; aya gives out no descriptor of a typed one.
    descriptor: OwnedFd,
}

impl Tables {
    /// Takes over the outer map.
    pub fn new(outer: Map) -> Result<Self> {
        let error = |source| Error::Map { map: "TABLES", source };
        let Map::ArrayOfMaps(data) = &outer else {
            return Err(error(MapError::InvalidName { name: "TABLES".to_owned() }));
        };
        let descriptor = data.fd().as_fd().try_clone_to_owned().map_err(|io| error(MapError::IoError(io)))?;
        Ok(Tables { outer: outer.try_into().map_err(error)?, descriptor })
    }

    /// How many tables there is room for.
    pub fn capacity(&self) -> u32 {
        self.outer.len()
    }

    /// Writes `rows` to a new table and puts it into `slot`, replacing what was there.
    pub fn put(&mut self, slot: u32, rows: &[Row]) -> Result<()> {
        let inner = create(rows.len() as u32)?;
        for (word, row) in memory(&inner, rows.len() as u32)?.words().iter().zip(rows) {
            word.store(word_of(*row), Relaxed);
        }
        self.outer.set(slot, &inner, 0).map_err(|source| Error::Map { map: "TABLES", source })
    }

    /// Empties `slot`: its memory is free once no program reads it any more. Nothing must name it.
    pub fn remove(&mut self, slot: u32) -> Result<()> {
        let element = Element {
            map_fd: self.descriptor.as_raw_fd() as u32,
            _aligned: 0,
            key: (&raw const slot) as u64,
            value: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads `size_of::<Element>()` bytes of the attribute and the four of the key, which live here.
        let done = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_ELEM, &raw const element, size_of::<Element>())
        };
        match io::Error::last_os_error() {
            _ if done == 0 => Ok(()),
            error if error.kind() == io::ErrorKind::NotFound => Ok(()),
            source => Err(Error::Map { map: "TABLES", source: MapError::IoError(source) }),
        }
    }

    /// Slots with a table in them.
    pub fn filled(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.capacity()).filter(|slot| self.outer.get(slot, 0).is_ok())
    }

    /// The digest of the table in `slot`, taken from the kernel's memory; `None` if there is no table of this size.
    pub fn digest(&self, slot: u32, rows: u32, host_of: impl Fn(u16) -> u64) -> Result<Option<u64>> {
        let Ok(inner) = self.outer.get(&slot, 0) else { return Ok(None) };
        let info = inner.info().map_err(|source| Error::Map { map: "table", source })?;
        if info.max_entries() != rows || info.value_size() as usize != size_of::<Row>() {
            return Ok(None);
        }
        let memory = memory(&inner, rows)?;
        let rows: Vec<Row> = memory.words().iter().map(|word| row_of(word.load(Relaxed))).collect();
        Ok(Some(table::digest(&rows, host_of)))
    }
}

fn memory(table: &MapData, rows: u32) -> Result<Memory> {
    Memory::of(table, rows as usize).map_err(|source| Error::Table { rows, what: "map it", source })
}

/// A row as it stands in the memory of a little-endian machine.
fn word_of([a, b, c, d]: Row) -> u64 {
    u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
}

fn row_of(word: u64) -> Row {
    [word as u16, (word >> 16) as u16, (word >> 32) as u16, (word >> 48) as u16]
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

/// The part of `union bpf_attr` that names an element.
#[repr(C)]
struct Element {
    map_fd: u32,
    _aligned: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// aya creates typed arrays, but gives out no descriptor of theirs to map.
fn create(rows: u32) -> Result<MapData> {
    let attr = CreateArray {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<Row>() as u32,
        max_entries: rows,
        map_flags: MMAPABLE | BPF_F_INNER_MAP,
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
