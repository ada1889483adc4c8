//! `lab run`: a timeline of faults and changes over live load, and a verdict.
//!
//! [`file`] and [`action`] read the scenario, [`run`] plays it through [`stage`] while [`crate::load`] looks on, [`verdict`]
//! judges what was seen ([`rescues`] of hosts included), [`report`] prints it. [`restore`] leaves the lab as it
//! was, by what [`undo`] wrote down of it; [`lock`] keeps a second run away meanwhile.

pub mod action;
pub mod by_kind;
pub mod child;
pub mod command;
pub mod conditions;
pub mod file;
pub mod flavour;
pub mod flood;
pub mod ipvs;
pub mod library;
pub mod lock;
mod processes;
pub mod report;
pub mod rescues;
pub mod restore;
pub mod run;
mod servers;
pub mod spread;
pub mod stage;
pub mod things;
pub mod undo;
pub mod verdict;
