//! What the kernel knows about the way to the hosts: routes, links and neighbours, followed by netlink.
//!
//! [`state`] is the pure core: it takes in messages and answers how an address is reached. `messages` translates
//! netlink messages. [`resolver`] is the task that asks and listens.

mod messages;
pub mod resolver;
pub mod state;
pub mod vlan;

pub use resolver::{NextHops, Resolver};
pub use state::{NextHop, Reason};
