//! `lab run`: a timeline of faults and changes over live load, and a verdict.
//!
//! [`file`] and [`action`] read the scenario, [`run`] plays it through [`stage`] while [`crate::load`] looks on, [`verdict`]
//! judges what was seen ([`rescues`] of hosts included), [`report`] prints it, and [`restore`] leaves the lab as it was.

pub mod action;
pub mod command;
pub mod file;
pub mod flavour;
pub mod flood;
pub mod ipvs;
pub mod library;
pub mod report;
pub mod rescues;
pub mod restore;
pub mod run;
pub mod stage;
pub mod verdict;
