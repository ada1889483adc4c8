//! Tables in the kernel: mmap-able arrays of rows, each in a slot of the map of tables.
//!
//! A new table is filled through memory (one system call instead of one per row) and becomes visible as a whole when
//! its slot is written. From that the kernel returns only when no program reads what was there before (4 to 16 ms), which
//! need not concern whoever fills a free slot: a thread waits in the meantime.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};

use aya::maps::{ArrayOfMaps, Map, MapData, MapError};
use lb_common::maps::Row;

use super::memory::Memory;
use super::{Error, Result, usage};
use crate::table;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
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
    /// Writes that the kernel has yet to return from.
    writes: Vec<JoinHandle<io::Result<()>>>,
}

/// A table that no slot has yet. The kernel takes a while to clear its memory.
pub struct NewTable {
    inner: MapData,
    memory: Memory,
}

impl NewTable {
    /// Of so many rows.
    pub fn new(rows: u32) -> Result<Self> {
        let inner = create(rows)?;
        Ok(NewTable { memory: memory(&inner, rows)?, inner })
    }

    /// Writes all rows, as many as it has.
    pub fn fill(&self, rows: &[Row]) {
        for (word, row) in self.memory.words().iter().zip(rows) {
            word.store(word_of(*row), Relaxed);
        }
    }

    /// Writes these rows of it; false if the kernel's memory then holds others.
    pub fn change(&self, rows: &[(u32, Row)]) -> bool {
        let words = self.memory.words();
        let word = |number: u32| words.get(number as usize);
        for (number, row) in rows {
            word(*number).into_iter().for_each(|word| word.store(word_of(*row), Relaxed));
        }
        rows.iter().all(|(number, row)| word(*number).is_some_and(|word| word.load(Relaxed) == word_of(*row)))
    }

    /// Memory, as the kernel has it.
    pub fn bytes(&self) -> Result<u64> {
        usage::locked(self.inner.fd().as_fd()).map_err(map_io)
    }
}

impl Tables {
    /// Takes over the outer map.
    pub fn new(outer: Map) -> Result<Self> {
        let error = |source| Error::Map { map: "TABLES", source };
        let Map::ArrayOfMaps(data) = &outer else {
            return Err(error(MapError::InvalidName { name: "TABLES".to_owned() }));
        };
        let descriptor = data.fd().as_fd().try_clone_to_owned().map_err(|io| error(MapError::IoError(io)))?;
        Ok(Tables { outer: outer.try_into().map_err(error)?, descriptor, writes: Vec::new() })
    }

    /// How many tables there is room for.
    pub fn capacity(&self) -> u32 {
        self.outer.len()
    }

    /// Writes `rows` to a new table and puts it into `slot`: see [`Tables::put_new`].
    pub fn put(&mut self, slot: u32, rows: &[Row]) -> Result<()> {
        let table = NewTable::new(rows.len() as u32)?;
        table.fill(rows);
        self.put_new(slot, table)
    }

    /// Puts a new table into `slot`, replacing what was there. When it returns, programs find the new table; some may
    /// still read the old one until [`Tables::finish`].
    pub fn put_new(&mut self, slot: u32, NewTable { inner, .. }: NewTable) -> Result<()> {
        let id = id(&inner)?;
        let outer = self.descriptor.try_clone().map_err(map_io)?;
        let write = thread::spawn(move || {
            let table = inner.fd().as_fd().as_raw_fd();
            element(BPF_MAP_UPDATE_ELEM, &outer, slot, (&raw const table) as u64)
        });
        while !write.is_finished()
            && self.outer.get(&slot, 0).and_then(|table| Ok(table.info()?.id())).ok() != Some(id)
        {
            thread::yield_now();
        }
        self.writes.push(write);
        Ok(())
    }

    /// Waits until no program reads a table that was replaced.
    pub fn finish(&mut self) -> Result<()> {
        let mut done = Ok(());
        for write in self.writes.drain(..) {
            let written =
                write.join().unwrap_or_else(|_| Err(io::Error::other("the thread that wrote it panicked")));
            done = done.and(written);
        }
        done.map_err(map_io)
    }

    /// Empties `slot`: its memory is free once no program reads it any more. Nothing must name it.
    pub fn remove(&mut self, slot: u32) -> Result<()> {
        match element(BPF_MAP_DELETE_ELEM, &self.descriptor, slot, 0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(map_io(error)),
            _ => Ok(()),
        }
    }

    /// Slots with a table in them.
    pub fn filled(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.capacity()).filter(|slot| self.outer.get(slot, 0).is_ok())
    }

    /// Memory of all tables, as the kernel has it.
    pub fn bytes(&self) -> Result<u64> {
        let tables = (0..self.capacity()).filter_map(|slot| self.outer.get(&slot, 0).ok());
        tables.map(|table| usage::locked(table.fd().as_fd()).map_err(map_io)).sum()
    }

    /// The digest of the table in `slot`, taken from the kernel's memory; `None` if there is no table of this size.
    pub fn digest(&self, slot: u32, rows: u32, host_of: impl Fn(u16) -> u64) -> Result<Option<u64>> {
        let Some(memory) = self.memory(slot, rows)? else { return Ok(None) };
        let rows: Vec<Row> = memory.words().iter().map(|word| row_of(word.load(Relaxed))).collect();
        Ok(Some(table::digest(&rows, host_of)))
    }

    /// The table in `slot` has these rows, in the kernel's memory.
    pub fn holds(&self, slot: u32, rows: &[Row]) -> Result<bool> {
        let memory = self.memory(slot, rows.len() as u32)?;
        let same = |memory: Memory| {
            memory.words().iter().zip(rows).all(|(word, row)| word.load(Relaxed) == word_of(*row))
        };
        Ok(memory.is_some_and(same))
    }

    /// The table in `slot`, if it has so many rows.
    fn memory(&self, slot: u32, rows: u32) -> Result<Option<Memory>> {
        let Ok(inner) = self.outer.get(&slot, 0) else { return Ok(None) };
        let info = inner.info().map_err(|source| Error::Map { map: "table", source })?;
        match (info.max_entries(), info.value_size() as usize) == (rows, size_of::<Row>()) {
            true => memory(&inner, rows).map(Some),
            false => Ok(None),
        }
    }
}

fn map_io(error: io::Error) -> Error {
    Error::Map { map: "TABLES", source: MapError::IoError(error) }
}

fn id(table: &MapData) -> Result<u32> {
    table.info().map(|info| info.id()).map_err(|source| Error::Map { map: "table", source })
}

/// Writes or removes an element of the map of tables: aya removes none, and gives a thread nothing to write one with.
fn element(command: libc::c_long, outer: &OwnedFd, slot: u32, value: u64) -> io::Result<()> {
    let element = Element {
        map_fd: outer.as_raw_fd() as u32,
        _aligned: 0,
        key: (&raw const slot) as u64,
        value,
        flags: 0,
    };
    // SAFETY: the kernel reads `size_of::<Element>()` bytes of the attribute, the four of the key, which live here, and
    // the four of a value, if there is one, which live in the caller.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const element, size_of::<Element>()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
