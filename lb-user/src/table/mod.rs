//! Tables: which hosts own which row, a pure function of (seed, size, hosts with weights) on every machine.
//!
//! [`maglev`] fills the rows of one set of hosts, turn by turn (`turns`), or `grow` does from those of a smaller set and its
//! `roots`; `backup` says who stands in for whom; [`owners`] joins the generations in force to the rows that the BPF programs read, and takes their
//! digest. [`Made`] remembers populations for the next table.

mod backup;
mod grow;
mod made;
pub mod maglev;
pub mod owners;
mod parallel;
mod roots;
mod turns;

pub use made::{Made, Recipe};
pub use maglev::{Member, TableError, is_prime};
pub use owners::{NO_OWNER, OWNERS, Row, Table, digest, host_id, rows};
