//! The kernel's side: programs and maps, loaded or adopted, pinned, attached and kept in step with what is wanted.
//!
//! Nothing here decides; [`nexthops`], [`slots`] and [`crate::table`] are the pure parts, [`director`] and [`host`] write
//! their results to the maps in an order in which every intermediate state forwards correctly.
//!
//! Whatever is pinned outlives the agent (promise 2): dropping these values closes descriptors and nothing else.

pub mod accounts;
pub mod attach;
pub mod counters;
pub mod director;
pub mod host;
pub mod kernel_tunnel;
pub mod live;
pub mod load;
mod lock;
pub mod machine;
pub mod memory;
pub mod nexthops;
pub mod per_cpu;
mod pools;
mod prefixes;
pub mod probe_route;
pub mod services;
pub mod slots;
pub mod tables;
pub mod usage;

use std::path::PathBuf;

use crate::config::XdpMode;

/// Why the data plane could not be brought to the wanted state. The previous state stays in force.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder for pins is not on a bpffs.
    #[error("{path} is not on a BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf`")]
    NotBpffs {
        /// The folder.
        path: PathBuf,
    },
    /// A file operation on the folder for pins.
    #[error("cannot {what} {path}")]
    Pin {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another agent works on the same pins.
    #[error("{by} works on the pins in {pins}; stop it first, or give this one another `pins`")]
    InUse {
        /// The folder.
        pins: PathBuf,
        /// Who.
        by: String,
    },
    /// A pinned map is not one of this release.
    #[error("{path} is not a map of this release of lb: {reason}; use the release of the agent that runs")]
    Foreign {
        /// The pin.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// The kernel refused a program or a map.
    #[error("cannot load the BPF object {object}")]
    Load {
        /// Its name.
        object: &'static str,
        /// Why not.
        #[source]
        source: aya::EbpfError,
    },
    /// A program is missing from the object, or was refused by the verifier.
    #[error("BPF program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why not.
        #[source]
        source: aya::programs::ProgramError,
    },
    /// No way of attaching worked.
    #[error("cannot attach {program} to {interface}: {tried}")]
    Attach {
        /// Program.
        program: &'static str,
        /// Interface.
        interface: String,
        /// What was tried, and how each ended.
        tried: String,
    },
    /// An interface does not exist.
    #[error("no interface {0} on this machine; name one of `ip link`")]
    NoInterface(String),
    /// A map operation.
    #[error("map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why not.
        #[source]
        source: aya::maps::MapError,
    },
    /// Raw memory or descriptor work on a table.
    #[error("table of {rows} rows: cannot {what}")]
    Table {
        /// Its size.
        rows: u32,
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A table that cannot be made.
    #[error("pool {pool}")]
    Pool {
        /// Its name.
        pool: String,
        /// Why not.
        #[source]
        source: crate::table::TableError,
    },
    /// More of something than its map holds.
    #[error("{want} {what}, but there is room for {room}; raise {role}.capacity.{key} and restart the agent")]
    Capacity {
        /// Of what.
        what: &'static str,
        /// How many.
        want: usize,
        /// How many fit.
        room: usize,
        /// The role whose maps they are.
        role: &'static str,
        /// The key of the configuration.
        key: &'static str,
    },
    /// More prefixes than the map of sources holds, with those that are about to go.
    #[error("{want} prefixes of sources, but there is room for {room}; shorten the lists of sources")]
    Prefixes {
        /// How many.
        want: usize,
        /// How many fit.
        room: usize,
    },
    /// A table in the kernel is not the one that was written.
    #[error(
        "pool {pool}: the kernel does not hold the table that was written to it; services keep the one before"
    )]
    Written {
        /// The pool.
        pool: String,
    },
    /// A netlink request was refused.
    #[error("cannot {what}: {reason}")]
    Netlink {
        /// What was tried.
        what: String,
        /// Why not, and what to do.
        reason: String,
    },
}

/// Result of data plane work.
pub type Result<T> = std::result::Result<T, Error>;

/// How a program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the network stack, after the socket buffer was made.
    XdpGeneric,
    /// At TC ingress.
    Tc,
    /// No program of ours: the kernel's own tunnel devices.
    Kernel,
}

impl Mode {
    /// As in `lb status` and in the names of pins.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::XdpNative => "xdp-native",
            Mode::XdpGeneric => "xdp-generic",
            Mode::Tc => "tc",
            Mode::Kernel => "kernel",
        }
    }
}

/// The XDP modes to try, in order.
pub const fn modes(choice: XdpMode) -> &'static [Mode] {
    match choice {
        XdpMode::Auto => &[Mode::XdpNative, Mode::XdpGeneric],
        XdpMode::Native => &[Mode::XdpNative],
        XdpMode::Generic => &[Mode::XdpGeneric],
    }
}
