//! dns: the name server of example.org. `lb agent` answers by itself, or keeps a gdnsd at what it knows.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::agent;
use crate::bird::Family;
use crate::kinds::users;
use crate::plan::{NodePlan, ProcessPlan};
use crate::spec::DnsKind;
use crate::topology::{Node, Topology, vips};

/// The names, their VIPs and what they follow: the file that operators begin with.
const THREE_TIER: &str = include_str!("../../../configs/dns/three-tier.yaml");
/// What the operator says of VIPs.
const EXTERNAL: &str = "/etc/lb/ext";
const GDNSD: &str = "/etc/gdnsd";
/// What the agent tells gdnsd of VIPs.
const STATES: &str = "/run/lb/gdnsd-states";

/// Name → numbers of the VIPs it stands for, as [`THREE_TIER`] has them.
const NAMES: [(&str, &[u8]); 3] = [("www", &[1, 2, 3, 4]), ("www1", &[1, 2]), ("www2", &[3, 4])];

pub fn plan(topology: &Topology) -> NodePlan {
    let mut plan = NodePlan {
        files: vec![
            (agent::CONFIG.to_owned(), agent_config(topology.spec.dns)),
            (EXTERNAL.to_owned(), vips().iter().map(|vip| format!("{vip} => UP\n")).collect()),
        ],
        folders: vec![agent::FOLDER.to_owned()],
        routes: users::default_routes(topology),
        processes: vec![agent::process()],
        ..NodePlan::default()
    };
    if topology.spec.dns == DnsKind::Gdnsd {
        plan.files.push((format!("{GDNSD}/config"), gdnsd_config()));
        plan.files.push((format!("{GDNSD}/zones/example.org"), gdnsd_zone()));
        plan.folders.push("/run/gdnsd/state".to_owned());
        plan.processes.push(ProcessPlan::new("gdnsd", &format!("gdnsd -c {GDNSD} start")));
    }
    plan
}

/// [`THREE_TIER`], with a state file that goes with the lab; beside gdnsd it listens nowhere.
fn agent_config(kind: DnsKind) -> String {
    let own = format!("node: dns\ndns:\n  state: {}/dns.json\n", agent::FOLDER);
    let text = THREE_TIER.replacen("dns:\n", &own, 1);
    match kind {
        DnsKind::Lb => text,
        DnsKind::Gdnsd => {
            let silent: String = text
                .lines()
                .filter(|line| !line.starts_with("  listen:"))
                .map(|line| format!("{line}\n"))
                .collect();
            silent + &format!("  sinks:\n    gdnsd: {{type: gdnsd, file: {STATES}}}\n")
        }
    }
}

/// gdnsd checks nothing itself. With fewer than one that is up it answers all, as the agent does.
fn gdnsd_config() -> String {
    let resources: String = NAMES
        .iter()
        .map(|(name, numbers)| {
            let list = |v4: bool| {
                let all: Vec<IpAddr> = vips().into_iter().filter(|vip| vip.is_ipv4() == v4).collect();
                numbers.iter().map(|n| all[usize::from(*n) - 1].to_string()).collect::<Vec<_>>().join(", ")
            };
            format!("    {name} => {{ addrs_v4 => [ {} ], addrs_v6 => [ {} ] }}\n", list(true), list(false))
        })
        .collect();
    format!(
        "options => {{
  listen => any
  run_dir => /run/gdnsd
  state_dir => /run/gdnsd/state
  udp_threads => 1
  tcp_threads => 1
}}
service_types => {{
  agent => {{ plugin => extfile, file => {STATES}, direct => true, interval => 2 }}
}}
plugins => {{
  multifo => {{
    service_types => agent
    up_thresh => 0.01
{resources}  }}
}}
"
    )
}

fn gdnsd_zone() -> String {
    let mut text = "@ 3600 SOA dns hostmaster 1 3600 600 86400 60
@ 3600 NS dns
dns 3600 A 192.0.2.3
dns 3600 AAAA 2001:db8::c000:203
"
    .to_owned();
    for (name, _) in NAMES {
        text.push_str(&format!("{name} 60 DYNA multifo!{name}\n"));
    }
    text
}

pub fn health(node: &Node, lb: &Path) -> Vec<String> {
    let mut reasons = agent::health(lb);
    for (family, kind) in Family::ALL.into_iter().zip([A, AAAA]) {
        match answers_for_www(family.address(node, 0), kind) {
            Ok(0) => reasons.push(format!("no IPv{} address for www.example.org", family.digit())),
            Ok(_) => {}
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    reasons
}

/// Types of records.
const A: u8 = 1;
const AAAA: u8 = 28;

/// Questions, half a second apart, until the server counts as silent.
const QUESTIONS: u32 = 6;

/// How many records of a type the server at `address` has for `www.example.org`.
fn answers_for_www(address: IpAddr, kind: u8) -> Result<u16> {
    let server = SocketAddr::new(address, 53);
    let socket = UdpSocket::bind((address, 0)).with_context(|| format!("no address {address} here"))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect(server)?;
    let question = query(kind);
    let mut answer = [0; 512];
    // One that has just started is silent until its first checks; one that is slow answers the first of these.
    let mut asked = 0;
    let length = loop {
        socket.send(&question).with_context(|| format!("nobody listens on {server}"))?;
        asked += 1;
        match socket.recv(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && asked < QUESTIONS => {}
            result => {
                break result.with_context(|| format!("no answer from {server} to {asked} questions"))?;
            }
        }
    };
    ensure!(length >= 12 && answer[..2] == question[..2], "{server} answers something else than DNS");
    Ok(u16::from_be_bytes([answer[6], answer[7]]))
}

/// `www.example.org. IN` of a type, identified by 0x6c62.
fn query(kind: u8) -> Vec<u8> {
    let mut query = vec![0x6c, 0x62, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["www", "example", "org", ""] {
        query.push(u8::try_from(label.len()).expect("short labels"));
        query.extend(label.as_bytes());
    }
    query.extend([0, kind, 0, 1]);
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn topology(dns: &str) -> Topology {
        Topology::new(&spec::load("x", spec::REFERENCE, &[format!("dns={dns}")]).unwrap())
    }

    #[test]
    fn the_configuration_of_operators_fits_the_lab() {
        let topology = topology("lb");
        let [v4, v6] = Family::ALL.map(|family| family.address(topology.node("dns").unwrap(), 0));
        assert!(THREE_TIER.contains(&format!("  listen: [\"{v4}:53\", \"[{v6}]:53\"]\n")));
        for vip in vips() {
            let number = vip.to_string().pop().unwrap().to_digit(10).unwrap();
            let names = NAMES.iter().filter(|(_, vips)| vips.iter().any(|vip| u32::from(*vip) == number));
            assert_eq!(THREE_TIER.matches(&vip.to_string()).count(), names.count(), "{vip}");
        }
        for (name, _) in NAMES {
            assert!(THREE_TIER.contains(&format!("\n        {name}:\n")), "{name}");
        }
    }

    #[test]
    fn the_agent_answers_or_keeps_a_gdnsd() {
        let programs = |dns: &str| {
            let plan = plan(&topology(dns));
            let config = plan.files[0].1.clone();
            (plan.processes.into_iter().map(|process| process.name).collect::<Vec<_>>(), config)
        };
        let (names, config) = programs("lb");
        assert_eq!(names, ["lb-agent"]);
        assert!(config.contains("dns:\n  state: /run/lb/dns.json\n  listen: ") && !config.contains("sinks"));
        let (names, config) = programs("gdnsd");
        assert_eq!(names, ["lb-agent", "gdnsd"]);
        assert!(!config.contains("listen:") && config.contains("{type: gdnsd, file: /run/lb/gdnsd-states}"));
    }

    #[test]
    fn www1_stands_for_the_first_two_vips_in_both_families() {
        let text = gdnsd_config();
        assert!(
            text.contains(
                "www1 => { addrs_v4 => [ 198.51.100.1, 198.51.100.2 ], addrs_v6 => [ 2001:db8::c633:6401, 2001:db8::c633:6402 ] }"
            ),
            "{text}"
        );
        assert!(gdnsd_zone().contains("www2 60 DYNA multifo!www2\n"));
    }

    #[test]
    fn query_is_29_bytes_plus_the_name() {
        assert_eq!(query(A).len(), 12 + 17 + 4);
    }
}
