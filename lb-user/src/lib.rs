//! The agent and the command line of the load balancer.
//!
//! Decisions are pure functions of the values in [`model`]; everything that touches the machine is a thin shell.

pub mod model;
pub mod netlink;
pub mod table;
