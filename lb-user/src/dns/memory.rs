//! What outlives the agent: the operator's orders, the last health of members and its history, and bounds of serials, in one
//! file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::Path;

use hickory_proto::rr::LowerName;
use serde::{Deserialize, Serialize};

use super::history::Change;
use super::snapshot::{Observed, Order, Orders, Watch};
use crate::files;
use crate::model::HostId;

/// The content of the file. Keys of a newer agent are not refused: orders and health count for an older one, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    orders: Vec<Ordered>,
    health: Vec<Healthy>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    serials: BTreeMap<String, u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ordered {
    address: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    order: Order,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Healthy {
    check: String,
    address: IpAddr,
    up: bool,
}

impl Memory {
    /// What is to be remembered; `serials` are the bounds of [`super::publish`].
    pub fn of(
        orders: &Orders,
        watches: &[Watch],
        seen: &[Observed],
        serials: &BTreeMap<LowerName, u32>,
    ) -> Self {
        let orders = orders.iter().map(|((address, name), order)| Ordered {
            address: *address,
            name: name.clone(),
            order: *order,
        });
        let health = watches.iter().zip(seen).filter_map(|(watch, seen)| {
            Some(Healthy { check: watch.check().to_owned(), address: watch.address, up: seen.up? })
        });
        let (orders, health) = (orders.collect(), health.collect());
        Memory { orders, health, serials: named(serials), history: Vec::new() }
    }

    /// The bounds of serials by zone.
    pub fn serials(&self) -> BTreeMap<LowerName, u32> {
        self.serials.iter().filter_map(|(zone, serial)| Some((zone.parse().ok()?, *serial))).collect()
    }

    /// The same with other bounds of serials.
    pub fn with_serials(self, serials: &BTreeMap<LowerName, u32>) -> Self {
        Memory { serials: named(serials), ..self }
    }

    /// The same with another history.
    pub fn with_history(self, history: Vec<Change>) -> Self {
        Memory { history, ..self }
    }

    /// The last changes, in the order in which they happened.
    pub fn history(&self) -> Vec<Change> {
        self.history.clone()
    }

    /// The orders.
    pub fn orders(&self) -> Orders {
        self.orders.iter().map(|o| ((o.address, o.name.clone()), o.order)).collect()
    }

    /// The last health.
    pub fn health(&self) -> BTreeMap<HostId, bool> {
        let id = |h: &Healthy| HostId { pool: h.check.clone(), host: h.address.to_string() };
        self.health.iter().map(|h| (id(h), h.up)).collect()
    }

    /// Reads the file; one that is not there is empty.
    pub fn read(path: &Path) -> Result<Self, String> {
        match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| format!("{}: {error}; remove or correct it", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Memory::default()),
            Err(error) => Err(format!("{}: cannot be read: {error}", path.display())),
        }
    }

    /// Writes the file as a whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        let written = text.and_then(|text| files::replace(path, &text));
        written.map_err(|error| format!("{}: cannot be written: {error}", path.display()))
    }
}

fn named(serials: &BTreeMap<LowerName, u32>) -> BTreeMap<String, u32> {
    serials.iter().map(|(zone, serial)| (zone.to_string(), *serial)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_health_come_back_and_the_unknown_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("var/dns.json");
        assert_eq!(Memory::read(&path).unwrap(), Memory::default());
        let address: IpAddr = [192, 0, 2, 1].into();
        let orders: Orders =
            [((address, None), Order::Drain), ((address, Some("www.example.org.".into())), Order::Down)]
                .into();
        let seen = |up| Observed::of(up, "");
        let id = |check: &str| HostId { pool: check.into(), host: address.to_string() };
        let watches = ["new", "web"].map(|check| Watch { id: id(check), address });
        let serials = [("example.org.".parse().unwrap(), 7)].into();
        Memory::of(&orders, &watches, &[seen(None), seen(Some(true))], &serials).write(&path).unwrap();
        let memory = Memory::read(&path).unwrap();
        assert_eq!((memory.orders(), memory.serials()), (orders, serials));
        assert_eq!(memory.health(), [(id("web"), true)].into());
        fs::write(&path, "{").unwrap();
        assert!(Memory::read(&path).unwrap_err().ends_with("remove or correct it"));
    }
}
