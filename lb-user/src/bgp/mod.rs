//! Announces VIPs through a BGP daemon beside the agent: BIRD or GoBGP.
//!
//! The task behind [`Announcer`] reconciles what the daemon holds with what is wanted. It never withdraws because the
//! agent stops: dropping the [`Announcer`] leaves the routes in place, and [`Announcer::withdraw_all`] is the only way
//! to take them all back.

mod bird;
mod bird_control;
mod gobgp;
mod gobgp_api;
mod task;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

pub use bird::Bird;
pub use gobgp::Gobgp;
pub use task::{Announcer, withdraw_all};

/// Which daemon announces, and with which attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfig {
    /// The daemon.
    pub driver: Driver,
    /// MULTI_EXIT_DISC of every route.
    pub med: u32,
    /// Communities of every route.
    pub communities: Vec<(u16, u16)>,
}

/// A BGP daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// BIRD 2.
    Bird {
        /// The file that the agent writes and that `bird.conf` includes.
        include: PathBuf,
        /// BIRD's control socket.
        control: PathBuf,
    },
    /// GoBGP 3.
    Gobgp {
        /// Address and port of its gRPC API.
        api: String,
    },
}

impl Driver {
    /// Its name as in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Driver::Bird { .. } => "bird",
            Driver::Gobgp { .. } => "gobgp",
        }
    }
}

/// A destination of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The network's address.
    pub address: IpAddr,
    /// Its leading bits that count.
    pub length: u8,
}

impl Prefix {
    /// The prefix of one address: /32 or /128.
    pub const fn host(address: IpAddr) -> Self {
        let length = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        Self { address, length }
    }

    /// The same without bits beyond its length.
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        };
        Prefix { address, ..self }
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shares = |a: u128, b: u128, bits: u32| {
            (a ^ b).checked_shr(bits - u32::from(self.length)).unwrap_or(0) == 0
        };
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => shares(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => shares(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The text is not `ADDRESS/LENGTH`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a prefix; write ADDRESS/LENGTH")]
pub struct PrefixError(String);

impl std::str::FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let length = length.parse().ok().filter(|l| *l <= Self::host(address).length).ok_or_else(error)?;
        Ok(Self { address, length })
    }
}

/// What is to be announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcements {
    /// The destinations.
    pub routes: BTreeSet<Prefix>,
    /// MULTI_EXIT_DISC of every route.
    pub med: u32,
    /// Communities of every route.
    pub communities: Vec<(u16, u16)>,
    /// Next hop of IPv4 routes; GoBGP needs it, BIRD uses its own address.
    pub next_hop4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes; GoBGP needs it, BIRD uses its own address.
    pub next_hop6: Option<Ipv6Addr>,
}

/// What the daemon does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpStatus {
    /// Name of the driver.
    pub driver: &'static str,
    /// The daemon answers and holds exactly what is wanted, or answers and nothing is wanted yet.
    pub up: bool,
    /// What the daemon was last seen to hold of ours.
    pub announced: BTreeSet<Prefix>,
    /// Why it is not up.
    pub reason: Option<String>,
}

/// Why a daemon is not up that has not been looked at yet.
const STARTING: &str = "starting";

impl BgpStatus {
    /// The daemon has not been looked at yet.
    pub fn is_starting(&self) -> bool {
        !self.up && self.reason.as_deref() == Some(STARTING)
    }
}

/// A daemon as the task drives it.
pub trait Speaker: Send {
    /// Makes the daemon hold exactly these routes of ours.
    fn announce(&mut self, want: &Announcements) -> impl Future<Output = Result<(), BgpError>> + Send;

    /// The routes of ours that the daemon holds now; also finds out whether it is there.
    fn announced(&mut self) -> impl Future<Output = Result<BTreeSet<Prefix>, BgpError>> + Send;
}

/// Why routes cannot be announced or withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum BgpError {
    /// The daemon does not answer.
    #[error("{daemon} does not answer at {place}: {cause}; is it running?")]
    Away {
        /// Which one.
        daemon: &'static str,
        /// Socket or address.
        place: String,
        /// What happened.
        cause: String,
    },
    /// The daemon answered with an error.
    #[error("{daemon} refuses {what}: {message}")]
    Refused {
        /// Which one.
        daemon: &'static str,
        /// What it was asked.
        what: String,
        /// Its own words.
        message: String,
    },
    /// The include file cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Include {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon took the configuration and still does not have the routes.
    #[error("BIRD does not have the routes of {}; does bird.conf include it, and is protocol {protocol} up?", .path.display())]
    NotLoaded {
        /// The include file.
        path: PathBuf,
        /// The protocol that should hold them.
        protocol: &'static str,
    },
    /// Routes of a family have no next hop.
    #[error("no {family} next hop for {prefix}; set director.{key}")]
    NoNextHop {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// One of the routes.
        prefix: Prefix,
        /// Key of the configuration.
        key: &'static str,
    },
}
