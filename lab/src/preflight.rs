//! What a lab needs of the machine, looked at before anything is touched.

use std::fs;
use std::path::{Path, PathBuf};

use crate::paths;
use crate::spec::{DirectorKind, DnsKind};
use crate::topology::{Kind, Topology};

/// Programs, the Debian packages that bring them, and the kinds of nodes that run them.
const PROGRAMS: [(&str, &str, &[Kind]); 5] = [
    ("bird", "bird2", &[Kind::Internet, Kind::Router, Kind::L7Host, Kind::Director]),
    ("gobgpd", "gobgpd", &[Kind::Reflector, Kind::Director]),
    ("gobgp", "gobgpd", &[Kind::Reflector, Kind::Director]),
    ("haproxy", "haproxy", &[Kind::L7Host]),
    ("nginx", "nginx-light", &[Kind::Server]),
];

/// Why this user cannot do anything with a lab, if so.
pub fn not_root() -> Option<String> {
    let root = nix::unistd::geteuid().is_root();
    (!root).then(|| "lab needs root (namespaces, XDP); run it with sudo".to_owned())
}

/// Everything that is missing for `topology`, in one line, or nothing.
pub fn problem(topology: &Topology, lb: &Path) -> Option<String> {
    if let Some(problem) = not_root() {
        return Some(problem);
    }
    let missing: Vec<String> = [programs(topology), agent(lb), kernel(), ipvs(topology)].concat();
    (!missing.is_empty()).then(|| format!("lab up needs: {}", missing.join("; ")))
}

/// The agent's program: `given`, or `lb` beside this program, or on the search path.
pub fn find_lb(given: Option<PathBuf>) -> PathBuf {
    if let Some(given) = given {
        return fs::canonicalize(&given).unwrap_or(given);
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("lb")));
    match beside {
        Some(beside) if beside.is_file() => beside,
        beside => on_path("lb").or(beside).unwrap_or_else(|| PathBuf::from("lb")),
    }
}

fn programs(topology: &Topology) -> Vec<String> {
    let mut missing: Vec<String> = Vec::new();
    for (program, package, kinds) in PROGRAMS {
        let is_used = topology.nodes.iter().any(|node| kinds.contains(&node.kind));
        if is_used && on_path(program).is_none() {
            missing.push(format!("{program} (apt install {package})"));
        }
    }
    if topology.spec.dns == DnsKind::Gdnsd && on_path("gdnsd").is_none() {
        missing.push("gdnsd (apt install gdnsd, or dns: lb)".to_owned());
    }
    missing
}

/// What directors of that kind need. Loading the modules here also makes the settings that their plan has.
fn ipvs(topology: &Topology) -> Vec<String> {
    if topology.spec.director != DirectorKind::Ipvs {
        return vec![];
    }
    let packages = [("keepalived", "keepalived"), ("exabgp", "exabgp")];
    let programs = packages.into_iter().filter(|(program, _)| on_path(program).is_none());
    let mut missing: Vec<String> =
        programs.map(|(program, package)| format!("{program} (apt install {package})")).collect();
    let has_ipvs = Path::new("/proc/net/ip_vs").exists() || load_module("ip_vs") && load_module("ip_vs_mh");
    if !has_ipvs {
        missing.push(
            "IPVS (modprobe ip_vs ip_vs_mh, or another kernel: scripts/vm -- target/release/lab up …)"
                .to_owned(),
        );
    }
    missing
}

fn agent(lb: &Path) -> Vec<String> {
    if lb.is_file() {
        return vec![];
    }
    vec![format!("the agent, not found at {} (scripts/build, or lab up --lb PATH)", lb.display())]
}

fn kernel() -> Vec<String> {
    let mut missing = Vec::new();
    let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for (name, advice) in [
        ("overlay", "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS"),
        ("bpf", "a kernel with CONFIG_BPF_SYSCALL"),
    ] {
        let is_known = file_systems.lines().any(|line| line.split_whitespace().next_back() == Some(name));
        if !is_known && !load_module(name) {
            missing.push(format!("file system {name} ({advice})"));
        }
    }
    for (namespace, option) in
        [("net", "CONFIG_NET_NS"), ("mnt", "CONFIG_NAMESPACES"), ("uts", "CONFIG_UTS_NS")]
    {
        if !Path::new("/proc/self/ns").join(namespace).exists() {
            missing.push(format!("{namespace} namespaces (a kernel with {option})"));
        }
    }
    if let Err(error) = paths::cgroup2_mount() {
        missing.push(format!("{error:#}"));
    }
    if !Path::new("/proc/sys/net/ipv6").exists() {
        missing.push("IPv6 (boot without ipv6.disable=1)".to_owned());
    }
    // Modules of the kernel's own load on demand; a kernel that has neither says so when a link is made.
    missing
}

fn load_module(name: &str) -> bool {
    std::process::Command::new("modprobe").args(["-q", name]).status().is_ok_and(|status| status.success())
}

/// Where `program` is found, administrators' folders included (they are not on every user's path).
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(
            ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"]
                .map(PathBuf::from),
        )
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_agent_is_named_with_the_way_to_get_it() {
        let missing = agent(Path::new("/nowhere/lb"));
        assert_eq!(missing, ["the agent, not found at /nowhere/lb (scripts/build, or lab up --lb PATH)"]);
    }

    #[test]
    fn sh_is_on_the_path() {
        assert!(on_path("sh").is_some());
        assert!(on_path("no-such-program-of-the-lab").is_none());
    }
}
