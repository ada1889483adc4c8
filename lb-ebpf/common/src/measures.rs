//! What directors count besides reasons: one list for metrics and the documentation.

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Its name in metrics, less `lb_` and `_total`.
    pub name: &'static str,
    /// The map that it is counted in.
    pub map: &'static str,
    /// What it counts, in one sentence.
    pub help: &'static str,
}

/// Packets of a service.
pub const SERVICE_PACKETS: Measure =
    Measure { name: "service_packets", map: "TRAFFIC", help: "Packets of the service, sent to hosts." };
/// Bytes of a service.
pub const SERVICE_BYTES: Measure = Measure {
    name: "service_bytes",
    map: "TRAFFIC",
    help: "Bytes of these packets as they came, from the IP header on.",
};
/// Packets to a host.
pub const HOST_PACKETS: Measure =
    Measure { name: "sent_packets", map: "HOST_TRAFFIC", help: "Packets sent to the host." };
/// Bytes to a host.
pub const HOST_BYTES: Measure = Measure {
    name: "sent_bytes",
    map: "HOST_TRAFFIC",
    help: "Bytes of these packets as they came, without the outer header.",
};

/// All of them.
pub const ALL: [Measure; 4] = [SERVICE_PACKETS, SERVICE_BYTES, HOST_PACKETS, HOST_BYTES];
