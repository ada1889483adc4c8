//! Documents that repeat a list of the code repeat all of it.

use lb_common::measures::{self, Measure};
use lb_common::reasons::{Director, Host, Probe, Verdict};

#[test]
fn every_measure_is_documented_as_it_is() {
    let document = include_str!("../../lb-ebpf/README.md");
    let row = |m: &Measure| format!("| `lb_{}_total` | `{}` | {} |", m.name, m.map, m.help);
    let missing: Vec<_> = measures::ALL.iter().map(row).filter(|row| !document.contains(row)).collect();
    assert!(missing.is_empty(), "lb-ebpf/README.md lacks, or has differently:\n{}", missing.join("\n"));
}

/// The row of a reason in `lb-ebpf/README.md`.
fn row(name: &str, verdict: Verdict, help: &str) -> String {
    format!("| `{name}` | {} | {help} |", format!("{verdict:?}").to_lowercase())
}

#[test]
fn every_reason_is_documented_as_it_is() {
    let document = include_str!("../../lb-ebpf/README.md");
    let rows = Director::ALL
        .iter()
        .map(|r| row(r.name(), r.verdict(), r.help()))
        .chain(Host::ALL.iter().map(|r| row(r.name(), r.verdict(), r.help())))
        .chain(Probe::ALL.iter().map(|r| row(r.name(), r.verdict(), r.help())));
    let missing: Vec<_> = rows.filter(|row| !document.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "lb-ebpf/README.md lacks, or has differently:\n{}", missing.join("\n"));
}

#[test]
fn every_counter_of_the_name_server_is_documented_as_it_is() {
    let document = include_str!("../README.md");
    let rows = lb_user::dns::counters::ALL.iter().map(|(name, help)| format!("| `{name}` | {help} |"));
    let missing: Vec<_> = rows.filter(|row| !document.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "lb-user/README.md lacks, or has differently:\n{}", missing.join("\n"));
}
