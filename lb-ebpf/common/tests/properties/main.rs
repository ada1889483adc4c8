//! What must hold of everything that the BPF programs and userspace share, for any input: each property names another way
//! to come to the same result, or a law that any right implementation obeys.

mod chance;
mod flow;
mod limit;
mod maps;
mod outer;
mod prefixes;
mod reasons;

use lb_common::flow::Addr;
use proptest::prelude::*;

/// Any address, IPv4 (as IPv4-mapped) half of the time.
fn any_addr() -> impl Strategy<Value = Addr> {
    prop_oneof![any::<[u8; 16]>().prop_map(Addr::from_octets), any::<u32>().prop_map(Addr::v4)]
}

/// How far from even `hits` are: chi-squared over its degrees of freedom, about 1 for chance.
fn unevenness(hits: &[u32]) -> f64 {
    let mean = hits.iter().sum::<u32>() as f64 / hits.len() as f64;
    let chi2: f64 = hits.iter().map(|&hit| (f64::from(hit) - mean).powi(2) / mean).sum();
    chi2 / (hits.len() - 1) as f64
}
