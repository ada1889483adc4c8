//! The lab: all tiers of the load balancer on one machine, each node in namespaces of its own.
//!
//! [`topology`] and [`plan`] are pure functions of the lab file ([`spec`]); [`up`] makes them real through
//! [`namespace`], [`netlink`] and [`process`]; [`status`] looks at the result; [`down`] removes it. [`scenario`] plays timelines
//! of faults and changes on it, over the [`load`] that users make.

pub mod address;
pub mod agent;
pub mod bird;
pub mod cgroup;
pub mod cli;
pub mod down;
pub mod ethtool;
pub mod exec;
pub mod gobgp;
pub mod interrupt;
pub mod kinds;
pub mod load;
pub mod machine;
pub mod namespace;
pub mod netlink;
pub mod paths;
pub mod patience;
pub mod plan;
pub mod pool;
pub mod preflight;
pub mod process;
pub mod progress;
pub mod request;
pub mod scenario;
pub mod send;
pub mod serve;
pub mod spec;
pub mod state;
pub mod status;
pub mod topology;
pub mod up;
pub mod wait;
pub mod wire;
pub mod xdp_pass;
