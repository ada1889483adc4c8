//! `lab`: the whole load balancer on one machine.
fn main() {}
