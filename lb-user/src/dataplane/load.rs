//! Loading programs over maps that are pinned: new ones are pinned, fitting ones adopted, others replaced.
//!
//! ```text
//! PINS/ROLE/maps/NAME          maps, adopted if type, sizes, flags and capacity are those of this release
//! PINS/ROLE/links/IF.PROG.MODE links; the program behind one is replaced atomically
//! ```
//!
//! aya adopts any pinned map of the right name, so the pins are checked first. If one does not fit, all are made anew in
//! `PINS/ROLE/maps-new` and take the old ones' place when the programs over them are attached.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Map, MapData, MapInfo};
use aya::programs::{Program, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Error, Result, prefixes};

/// A compiled object: its name, which is also that of its folder of pins, its bytes and its maps.
pub struct Object {
    /// `director` or `host`.
    pub name: &'static str,
    /// The ELF file.
    pub bytes: &'static [u8],
    /// Its maps.
    pub maps: &'static [MapShape],
    /// Globals of the programs that say how many entries a map has, or another of [`Capacities`].
    pub constants: &'static [(&'static str, &'static str)],
}

/// What a pinned map must look like to be adopted.
pub struct MapShape {
    /// Name in the object.
    pub name: &'static str,
    /// `bpf_map_type`.
    pub kind: u32,
    /// Bytes.
    pub key: u32,
    /// Bytes.
    pub value: u32,
    /// As the kernel reports them.
    pub flags: u32,
    /// Entries, unless the configuration overrides them.
    pub entries: u32,
}

/// `bpf_map_type` numbers (include/uapi/linux/bpf.h).
pub mod kind {
    /// `BPF_MAP_TYPE_HASH`.
    pub const HASH: u32 = 1;
    /// `BPF_MAP_TYPE_ARRAY`.
    pub const ARRAY: u32 = 2;
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    pub const PERCPU_ARRAY: u32 = 6;
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    pub const LPM_TRIE: u32 = 11;
    /// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
    pub const ARRAY_OF_MAPS: u32 = 12;
}

/// An object in the kernel.
pub struct Loaded {
    /// Programs, loaded, not attached.
    ebpf: Ebpf,
    /// Pins of the role.
    folder: PathBuf,
    /// The maps are those that were pinned before.
    pub adopted: bool,
}

/// Capacities that override those of the object, by map name; and what is told to programs like one.
pub type Capacities = BTreeMap<&'static str, u32>;

impl Object {
    /// Loads the object over the maps pinned below `pins`, or without pins at all (for test runs).
    pub fn load(&self, pins: Option<&Path>, capacities: &Capacities) -> Result<Loaded> {
        let Some(pins) = pins else {
            let ebpf = self.load_into(None, capacities)?;
            return Ok(Loaded { ebpf, folder: PathBuf::new(), adopted: false });
        };
        let folder = pins.join(self.name);
        let maps = folder.join("maps");
        create_dir(&maps)?;
        let magic = statfs(&maps).map(|fs| fs.filesystem_type());
        if magic != Ok(BPF_FS_MAGIC) {
            return Err(Error::NotBpffs { path: pins.to_path_buf() });
        }
        let adopted = match self.misfit(&maps, capacities) {
            None => true,
            Some(None) => false,
            Some(Some(reason)) => {
                tracing::warn!(
                    object = self.name,
                    "pinned maps are of another shape and are made anew: {reason}"
                );
                false
            }
        };
        let place = if adopted { maps } else { fresh(&folder)? };
        let ebpf = self.load_into(Some(&place), capacities)?;
        Ok(Loaded { ebpf, folder, adopted })
    }

    fn load_into(&self, place: Option<&Path>, capacities: &Capacities) -> Result<Ebpf> {
        let mut loader = EbpfLoader::new();
        for (name, value) in self.constants {
            if let Some(value) = capacities.get(value) {
                loader.override_global(name, value, true);
            }
        }
        for shape in self.maps {
            loader.map_max_entries(shape.name, shape.entries(capacities));
            if let Some(place) = place {
                loader.map_pin_path(shape.name, place.join(shape.name));
            }
        }
        let mut ebpf = loader.load(self.bytes).map_err(|source| Error::Load { object: self.name, source })?;
        let name = self.name;
        for (_, program) in ebpf.programs_mut() {
            let loaded = match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => Ok(()),
            };
            loaded.map_err(|source| Error::Program { program: name, source })?;
        }
        Ok(ebpf)
    }

    /// Loads the object, without its programs, over the maps that are pinned in a folder, whatever their capacities; they stay
    /// those of whoever has pinned them. `globals` are written over the programs' own.
    pub fn load_over(&self, maps: &Path, globals: &[(&str, &[u8])]) -> Result<Ebpf> {
        let mut capacities = Capacities::new();
        for shape in self.maps {
            let misfit = |reason: String| Error::Foreign { path: maps.join(shape.name), reason };
            let info = MapInfo::from_pin(maps.join(shape.name)).map_err(|error| misfit(error.to_string()))?;
            capacities.insert(shape.name, info.max_entries());
            if let Some(reason) = shape.misfit(&info, &capacities) {
                return Err(misfit(reason));
            }
        }
        prefixes::tell(prefixes::any_in(maps), &mut capacities);
        let mut loader = EbpfLoader::new();
        for (name, value) in self.constants {
            if let Some(value) = capacities.get(value) {
                loader.override_global(name, value, true);
            }
        }
        for (name, value) in globals {
            loader.override_global(name, *value, true);
        }
        for shape in self.maps {
            loader.map_max_entries(shape.name, shape.entries(&capacities));
            loader.map_pin_path(shape.name, maps.join(shape.name));
        }
        loader.load(self.bytes).map_err(|source| Error::Load { object: self.name, source })
    }

    /// Why the pins cannot be adopted; without a reason when there are none.
    fn misfit(&self, maps: &Path, capacities: &Capacities) -> Option<Option<String>> {
        let mut absent = 0;
        for shape in self.maps {
            let path = maps.join(shape.name);
            if !path.exists() {
                absent += 1;
                continue;
            }
            match MapInfo::from_pin(&path) {
                Ok(info) => {
                    if let Some(reason) = shape.misfit(&info, capacities) {
                        return Some(Some(reason));
                    }
                }
                Err(error) => return Some(Some(format!("{}: {error}", shape.name))),
            }
        }
        match absent {
            0 => None,
            n if n == self.maps.len() => Some(None),
            n => Some(Some(format!("{n} maps are missing"))),
        }
    }
}

impl MapShape {
    fn entries(&self, capacities: &Capacities) -> u32 {
        capacities.get(self.name).copied().unwrap_or(self.entries)
    }

    /// How a map differs from this shape, if it does.
    pub fn misfit(&self, info: &MapInfo, capacities: &Capacities) -> Option<String> {
        let kind = info.map_type().map(|kind| kind as u32).unwrap_or(u32::MAX);
        let have = (kind, info.key_size(), info.value_size(), info.map_flags(), info.max_entries());
        let want = (self.kind, self.key, self.value, self.flags, self.entries(capacities));
        (have != want).then(|| {
            format!(
                "{} has (type, key, value, flags, entries) {have:?}, this release wants {want:?}",
                self.name
            )
        })
    }
}

impl Loaded {
    /// Copies what the programs log to the agent's log. Only programs built with the feature `log` do; the committed
    /// objects have no such map, and then this does nothing. Called inside a Tokio runtime.
    pub fn follow_log(&mut self) {
        let Ok(mut logger) = EbpfLogger::init(&mut self.ebpf) else { return };
        tokio::spawn(async move {
            loop {
                logger.flush();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// Takes a map out.
    pub fn map<T>(&mut self, name: &'static str) -> Result<T>
    where
        T: TryFrom<Map, Error = aya::maps::MapError>,
    {
        T::try_from(self.any_map(name)?).map_err(|source| Error::Map { map: name, source })
    }

    /// Takes a map out, whatever its type.
    pub fn any_map(&mut self, name: &'static str) -> Result<Map> {
        let missing = || aya::maps::MapError::InvalidName { name: name.to_string() };
        self.ebpf.take_map(name).ok_or_else(missing).map_err(|source| Error::Map { map: name, source })
    }

    /// Takes an array out, as it is.
    pub fn array(&mut self, name: &'static str) -> Result<MapData> {
        match self.ebpf.take_map(name) {
            Some(Map::Array(data)) => Ok(data),
            _ => Err(Error::Map {
                map: name,
                source: aya::maps::MapError::InvalidName { name: name.to_string() },
            }),
        }
    }

    /// An XDP program.
    pub fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp> {
        self.program(name)?.try_into().map_err(|source| Error::Program { program: name, source })
    }

    /// A TC program.
    pub fn tc(&mut self, name: &'static str) -> Result<&mut SchedClassifier> {
        self.program(name)?.try_into().map_err(|source| Error::Program { program: name, source })
    }

    /// All programs.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Program)> {
        self.ebpf.programs()
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Program> {
        let missing = || aya::programs::ProgramError::NotLoaded;
        self.ebpf.program_mut(name).ok_or_else(|| Error::Program { program: name, source: missing() })
    }

    /// Where links are pinned.
    pub fn links(&self) -> Result<PathBuf> {
        let links = self.folder.join("links");
        create_dir(&links)?;
        Ok(links)
    }

    /// Links are pinned.
    pub fn has_links(&self) -> bool {
        fs::read_dir(self.folder.join("links")).is_ok_and(|mut links| links.next().is_some())
    }

    /// Makes the maps that were loaded the pinned ones: after the programs over them are attached, before the next
    /// start. Until then a crash leaves the old maps pinned, and the next start makes them anew once more.
    pub fn settle(&self) -> Result<()> {
        let fresh = self.folder.join("maps-new");
        if self.adopted || !fresh.exists() {
            return Ok(());
        }
        let maps = self.folder.join("maps");
        remove_dir(&maps)?;
        fs::rename(&fresh, &maps).map_err(|source| Error::Pin { what: "rename", path: fresh, source })
    }
}

fn fresh(folder: &Path) -> Result<PathBuf> {
    let fresh = folder.join("maps-new");
    remove_dir(&fresh)?;
    create_dir(&fresh)?;
    Ok(fresh)
}

fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::Pin { what: "create", path: path.into(), source })
}

/// Removes a folder of pins with all that is pinned in it.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin { what: "remove", path: path.into(), source: error })
        }
        _ => Ok(()),
    }
}
