//! The agent and the command line of the load balancer.
//!
//! Decisions are pure functions of the values in [`model`]; everything that touches the machine is a thin shell.

pub mod admission;
pub mod agent;
pub mod agent_check;
pub mod bench;
pub mod bgp;
pub mod capture;
pub mod cli;
pub mod config;
pub mod connections;
pub mod dataplane;
pub mod descriptors;
pub mod desired;
pub mod director_model;
pub mod dns;
mod etcd;
pub mod extras;
pub mod files;
pub mod health;
mod http;
mod http_server;
pub mod leave;
pub mod manifest;
pub mod model;
pub mod netlink;
pub mod peers;
pub mod replay;
pub mod switch;
pub mod table;
pub mod trace;
pub mod vip;
pub mod watched;
