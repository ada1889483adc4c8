//! `lb`: agent and command line.
fn main() {}
