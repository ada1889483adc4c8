//! The DNS tier.

pub mod claim;
pub mod sink;
