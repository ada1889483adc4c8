//! What the data plane tells when somebody asks, beside counters: memory of maps, packets and bytes.

use serde::{Deserialize, Serialize};

use super::dataplane::Role;
use crate::model::{HostId, ServiceKey};

/// What is read from the kernel at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// Maps of all roles.
    pub memory: Vec<MapMemory>,
    /// What a director sent, by service.
    pub services: Vec<ServiceTraffic>,
    /// The same, by host.
    pub hosts: Vec<HostTraffic>,
}

/// Memory of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapMemory {
    /// Whose it is.
    pub role: Role,
    /// Its name; `table rows` are all tables.
    pub map: String,
    /// What it is for.
    pub purpose: String,
    /// Bytes that the kernel has set aside.
    pub bytes: u64,
}

/// What a director sent of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTraffic {
    /// The service.
    pub service: ServiceKey,
    /// Packets sent to hosts.
    pub packets: u64,
    /// Their bytes as they came, from the IP header on.
    pub bytes: u64,
}

/// What a director sent to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTraffic {
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub host: String,
    /// Packets.
    pub packets: u64,
    /// Their bytes as they came, without the outer header.
    pub bytes: u64,
}

impl HostTraffic {
    /// Of a host.
    pub fn of(id: HostId, packets: u64, bytes: u64) -> Self {
        HostTraffic { pool: id.pool, host: id.host, packets, bytes }
    }
}
