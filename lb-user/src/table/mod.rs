//! Tables: which hosts own which row, a pure function of (seed, size, hosts with weights) on every machine.
//!
//! [`maglev`] fills the rows of one set of hosts, and their backups; [`owners`] joins the generations in force to the
//! rows that the BPF programs read, and takes their digest.

pub mod maglev;
pub mod owners;

pub use maglev::{Member, TableError, is_prime};
pub use owners::{NO_OWNER, OWNERS, Row, Table, digest, host_id, rows};
