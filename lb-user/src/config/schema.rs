//! The keys of every part of the file, in the order in which documentation and messages list them.

/// The keys of one map of the file.
#[derive(Debug)]
pub struct Keys {
    /// The map's place in the file; empty at the top, `*` for a name that the operator chooses.
    pub path: &'static str,
    /// Its keys.
    pub keys: &'static [&'static str],
}

pub(super) const TOP: Keys = Keys {
    path: "",
    keys: &[
        "node",
        "api",
        "pins",
        "disable_file",
        "leave_file",
        "leave",
        "manifest",
        "director",
        "host",
        "pools",
        "services",
        "bgp",
        "peers",
        "agent_check",
        "dns",
    ],
};
pub(super) const LEAVE: Keys =
    Keys { path: "leave", keys: &["name_servers", "ttl", "below", "hold", "wait"] };
pub(super) const MANIFEST: Keys = Keys { path: "manifest", keys: &["file", "etcd", "key", "peer", "cache"] };
pub(super) const DIRECTOR: Keys = Keys {
    path: "director",
    keys: &[
        "interfaces",
        "xdp",
        "source4",
        "source6",
        "spread4",
        "spread6",
        "flows",
        "icmp_errors",
        "capacity",
    ],
};
pub(super) const CAPACITY: Keys = Keys { path: "director.capacity", keys: &["services", "hosts", "tables"] };
pub(super) const HOST: Keys = Keys {
    path: "host",
    keys: &["interfaces", "decapsulation", "xdp", "accept_from", "vips", "second_chances", "capacity"],
};
pub(super) const HOST_CAPACITY: Keys = Keys { path: "host.capacity", keys: &["services", "hosts", "tables"] };
pub(super) const POOL: Keys =
    Keys { path: "pools.*", keys: &["seed", "size", "generation", "hosts", "checks"] };
pub(crate) const MEMBER: Keys =
    Keys { path: "pools.*.hosts.*", keys: &["address4", "address6", "weight", "state"] };
pub(super) const CHECK: Keys = Keys {
    path: "pools.*.checks[]",
    keys: &["type", "port", "path", "status", "through", "interval", "timeout", "rise", "fall"],
};
pub(super) const SERVICE: Keys = Keys {
    path: "services[]",
    keys: &[
        "vip",
        "port",
        "protocol",
        "pool",
        "quorum",
        "affinity",
        "hash",
        "fragments",
        "sources",
        "limit",
        "quic",
    ],
};
pub(super) const SOURCES: Keys = Keys { path: "services[].sources", keys: &["allow", "deny"] };
pub(super) const LIMIT: Keys = Keys {
    path: "services[].limit",
    keys: &["connections", "packets", "per", "burst", "prefix4", "prefix6"],
};
pub(super) const QUIC: Keys = Keys { path: "services[].quic", keys: &["rotation", "length", "server_ids"] };
pub(super) const BGP: Keys = Keys { path: "bgp", keys: &["driver", "bird", "gobgp", "med", "communities"] };
pub(super) const BIRD: Keys = Keys { path: "bgp.bird", keys: &["include", "control"] };
pub(super) const GOBGP: Keys = Keys { path: "bgp.gobgp", keys: &["api"] };
pub(super) const PEERS: Keys = Keys { path: "peers", keys: &["listen", "nodes", "allow", "edits"] };
pub(super) const AGENT_CHECK: Keys = Keys { path: "agent_check", keys: &["listen", "file"] };
pub(super) const DNS: Keys = Keys {
    path: "dns",
    keys: &[
        "listen",
        "nsid",
        "threads",
        "tcp",
        "before_checks",
        "rate_limit",
        "state",
        "checks",
        "geo",
        "zones",
        "sinks",
        "claims",
        "leader",
        "observers",
        "anycast",
    ],
};
pub(super) const DNS_TCP: Keys = Keys { path: "dns.tcp", keys: &["connections", "idle"] };
pub(super) const DNS_RATE_LIMIT: Keys =
    Keys { path: "dns.rate_limit", keys: &["rate", "window", "slip", "prefix4", "prefix6", "exempt"] };
pub(super) const DNS_GEO: Keys = Keys { path: "dns.geo", keys: &["file", "networks"] };
pub(super) const DNS_CHECK: Keys = Keys {
    path: "dns.checks.*",
    keys: &[
        "type",
        "port",
        "path",
        "host",
        "status",
        "verify",
        "interval",
        "timeout",
        "rise",
        "fall",
        "file",
        "default",
        "vip",
        "directors",
        "pool",
        "percent",
        "scale",
    ],
};
pub(super) const DNS_ZONE: Keys = Keys {
    path: "dns.zones.*",
    keys: &["file", "ttl", "soa", "ns", "records", "names", "transfer", "dnssec"],
};
pub(super) const DNS_SOA: Keys = Keys {
    path: "dns.zones.*.soa",
    keys: &["primary", "contact", "serial", "refresh", "retry", "expire", "negative"],
};
pub(super) const DNS_TRANSFER: Keys =
    Keys { path: "dns.zones.*.transfer", keys: &["to", "key", "algorithm", "secret_file", "notify"] };
pub(super) const DNS_NAME: Keys = Keys {
    path: "dns.zones.*.names.*",
    keys: &["policy", "ttl", "answers", "min_up", "all_down", "fallback", "checks", "members"],
};
pub(super) const DNS_MEMBER: Keys = Keys {
    path: "dns.zones.*.names.*.members[]",
    keys: &["address", "weight", "subnets", "regions", "checks"],
};

pub(super) const DNS_SINK: Keys = Keys {
    path: "dns.sinks.*",
    keys: &[
        "type",
        "server",
        "key",
        "algorithm",
        "secret_file",
        "urls",
        "server_id",
        "prefix",
        "file",
        "folder",
        "reload",
        "zones",
        "full_sync",
    ],
};
pub(super) const DNS_CLAIM: Keys =
    Keys { path: "dns.claims.*", keys: &["sink", "zone", "addresses", "ttl", "check", "own"] };

pub(super) const DNS_LEADER: Keys = Keys { path: "dns.leader", keys: &["etcd", "key", "lease"] };
pub(super) const DNS_OBSERVERS: Keys = Keys { path: "dns.observers", keys: &["nodes", "quorum"] };

/// Every map of the file with its keys.
pub const ALL: &[Keys] = &[
    TOP,
    LEAVE,
    MANIFEST,
    DIRECTOR,
    CAPACITY,
    HOST,
    HOST_CAPACITY,
    POOL,
    MEMBER,
    CHECK,
    SERVICE,
    SOURCES,
    LIMIT,
    QUIC,
    BGP,
    BIRD,
    GOBGP,
    PEERS,
    AGENT_CHECK,
    DNS,
    DNS_TCP,
    DNS_RATE_LIMIT,
    DNS_GEO,
    DNS_CHECK,
    DNS_ZONE,
    DNS_SOA,
    DNS_TRANSFER,
    DNS_NAME,
    DNS_MEMBER,
    DNS_SINK,
    DNS_CLAIM,
    DNS_LEADER,
    DNS_OBSERVERS,
];
