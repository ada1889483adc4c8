//! Under which conditions something was seen: what ran, on which machine, how much of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

use serde::Serialize;

use crate::load::mix::Mix;
use crate::process;
use crate::spec::{DirectorKind, LabSpec};

/// Of one run of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Conditions {
    /// Program → version: `lab` with its commit, `lb`, `kernel`, and what the lab runs beside them.
    pub versions: BTreeMap<String, String>,
    /// The commit that `lab` was built from; `+changes` if there were others than it has.
    pub commit: String,
    /// What decided what chance decides.
    pub seed: u64,
    /// Which repetition, from 1.
    pub round: u32,
    /// Nodes by kind.
    pub nodes: Nodes,
    /// Long-lived connections asked for.
    pub connections: u32,
    /// New requests a second.
    pub requests_per_second: u32,
    /// The other kinds of load.
    pub load: Mix,
    /// From the first connection to the verdict, in seconds.
    pub duration_s: f64,
    /// The machine.
    pub machine: Machine,
}

/// How large the lab was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nodes {
    /// Routers.
    pub routers: u32,
    /// Directors.
    pub directors: u32,
    /// L7 hosts of the pool.
    pub l7_hosts: u32,
    /// L7 hosts in spare.
    pub spares: u32,
    /// Servers.
    pub servers: u32,
}

impl Nodes {
    /// Of a lab.
    pub fn of(spec: &LabSpec) -> Self {
        Self {
            routers: spec.routers,
            directors: spec.lb4,
            l7_hosts: spec.lb7,
            spares: spec.spare_lb7,
            servers: spec.servers,
        }
    }
}

/// How busy the machine was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Machine {
    /// Processors.
    pub processors: usize,
    /// The kernel's load average over a minute, before the run.
    pub load_before: f64,
    /// And after it, with what the run itself did.
    pub load_after: f64,
    /// How late the load of the scenario got to run at the worst, in ms: as much of a stall may be the machine's.
    pub held_up_ms: u64,
}

/// The kernel's load average over a minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// Processors of this machine.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// The commit that this program was built from.
pub fn commit() -> &'static str {
    env!("LAB_COMMIT")
}

/// What a lab runs, and which versions; a program that does not say is left out.
pub fn versions(spec: &LabSpec, lb: &Path) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::from([("lab".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    versions.insert("kernel".to_owned(), kernel.trim().to_owned());
    let lb = lb.display().to_string();
    let mut programs = vec![
        ("lb", lb.as_str(), "--version"),
        ("bird", "bird", "--version"),
        ("gobgp", "gobgpd", "--version"),
        ("haproxy", "haproxy", "-v"),
        ("nginx", "nginx", "-v"),
    ];
    if spec.director == DirectorKind::Ipvs {
        programs.extend([("keepalived", "keepalived", "--version"), ("exabgp", "exabgp", "--version")]);
    }
    for (name, program, option) in programs {
        let said = process::short_lived(program).arg(option).output().ok();
        let said = said.map(|output| [output.stdout, output.stderr].concat());
        let number = said.and_then(|said| version_in(&String::from_utf8_lossy(&said)));
        versions.extend(number.map(|number| (name.to_owned(), number)));
    }
    versions
}

/// The first word of the first lines that begins like a version: `BIRD version 2.0.12`, `nginx version: nginx/1.22.1`.
fn version_in(text: &str) -> Option<String> {
    let words = text.lines().take(3).flat_map(str::split_whitespace);
    let candidates = words.map(|word| word.rsplit('/').next().unwrap_or(word).trim_start_matches('v'));
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    candidates.into_iter().find(is_version).map(|word| word.trim_end_matches([',', ';']).to_owned())
}

impl Conditions {
    /// For people, in lines.
    pub fn lines(&self) -> [String; 2] {
        let versions: Vec<String> =
            self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let nodes = self.nodes;
        let machine = self.machine;
        [
            format!("{}, commit {}", versions.join(", "), self.commit),
            format!(
                "{} routers, {} directors, {} + {} L7 hosts, {} servers; {} connections, {} requests/s; seed {}, {:.1} s; \
                 {} processors, load {:.1} before and {:.1} after, {} ms late at the worst",
                nodes.routers,
                nodes.directors,
                nodes.l7_hosts,
                nodes.spares,
                nodes.servers,
                self.connections,
                self.requests_per_second,
                self.seed,
                self.duration_s,
                machine.processors,
                machine.load_before,
                machine.load_after,
                machine.held_up_ms
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, version) in [
            ("BIRD version 2.0.12\n", "2.0.12"),
            ("gobgpd version 3.10.0", "3.10.0"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n", "2.6.12-1+deb12u4"),
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("Keepalived v2.2.7 (01/16,2022)\n", "2.2.7"),
            ("ExaBGP : 4.2.21\nPython : 3.11.2\n", "4.2.21"),
            ("lb 0.1.0\n", "0.1.0"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version));
        }
        assert_eq!(version_in("no such option\n"), None);
    }

    #[test]
    fn machine_says_how_busy_it_is() {
        assert!(processors() > 0 && load_average() >= 0.0);
        assert!(!commit().is_empty());
    }
}
