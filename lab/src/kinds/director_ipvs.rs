//! LB4-1… as the reference lab first had them: keepalived drives IPVS (`mh`, in tunnels), ExaBGP announces the VIPs.
//!
//! Here for comparison: each director keeps a table of its own connections, so that what another one had opened is
//! scheduled anew, and stays whole only while all see the same hosts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::net::IpAddr;

use crate::bird::{Family, SITE_AS};
use crate::plan::{NodePlan, ProcessPlan};
use crate::topology::{Kind, Node, Topology, vips};

/// Its configuration.
pub const KEEPALIVED: &str = "/etc/keepalived/keepalived.conf";
/// How its process is called.
pub const PROCESS: &str = "keepalived";
const EXABGP: &str = "/etc/exabgp/exabgp.conf";
const ANNOUNCE: &str = "/etc/exabgp/announce.sh";

/// Packets of connections that another director opened are scheduled as well, not refused.
const SETTINGS: [(&str, &str); 2] = [("ipv4/vs/sloppy_tcp", "1"), ("ipv4/vs/expire_nodest_conn", "1")];

/// What such a director runs.
pub fn plan(topology: &Topology, node: &Node) -> NodePlan {
    let settings = crate::plan::FORWARDING.into_iter().chain(SETTINGS).collect();
    NodePlan {
        files: vec![
            (KEEPALIVED.to_owned(), keepalived(topology, node, &weights(topology))),
            (EXABGP.to_owned(), exabgp(topology, node)),
            (ANNOUNCE.to_owned(), announce()),
        ],
        folders: vec!["/run/keepalived".to_owned(), "/run/exabgp".to_owned()],
        settings,
        processes: vec![
            ProcessPlan::new(
                PROCESS,
                &format!(
                    "keepalived --dont-fork --log-console --check --use-file {KEEPALIVED} \
                     --pid /run/keepalived/main.pid --checkers_pid /run/keepalived/checkers.pid"
                ),
            ),
            ProcessPlan::new(
                "exabgp",
                &format!(
                    "env exabgp_daemon_user=root exabgp_api_ack=false exabgp_api_cli=false \
                     exabgp_cache_attributes=false exabgp {EXABGP}"
                ),
            ),
        ],
        ..NodePlan::default()
    }
}

/// The pool of a lab that was just brought up, by the names of nodes.
pub fn weights(topology: &Topology) -> BTreeMap<String, u32> {
    topology.pool().map(|host| (host.name.clone(), 1)).collect()
}

/// Its configuration for hosts of these weights. One group of VIPs per family, so that each host is checked once per family.
pub fn keepalived(topology: &Topology, node: &Node, weights: &BTreeMap<String, u32>) -> String {
    let mut text = format!("global_defs {{\n  router_id {}\n  lvs_flush\n}}\n", node.name);
    for family in Family::ALL {
        let digit = family.digit();
        let group: String = vips()
            .into_iter()
            .filter(|vip| vip.is_ipv4() == (family == Family::V4))
            .map(|vip| format!("  {vip} 80\n"))
            .collect();
        write!(
            text,
            "virtual_server_group vips{digit} {{\n{group}}}
virtual_server group vips{digit} {{
  delay_loop 1
  lvs_sched mh
  mh-port
  mh-fallback
  lvs_method TUN
  protocol TCP
"
        )
        .expect("writing to a string");
        for host in topology.of(Kind::L7Host) {
            if let Some(weight) = weights.get(&host.name) {
                text.push_str(&real_server(&family.address(host, 0).to_string(), *weight));
            }
        }
        text.push_str("}\n");
    }
    text
}

fn real_server(address: &str, weight: u32) -> String {
    format!(
        "  real_server {address} 80 {{
    weight {weight}
    HTTP_GET {{
      url {{
        path /healthcheck
        status_code 200
      }}
      connect_timeout 1
      retry 2
      delay_before_retry 1
    }}
  }}
"
    )
}

fn exabgp(topology: &Topology, node: &Node) -> String {
    let mut text = format!("process vips {{\n  run /bin/sh {ANNOUNCE};\n  encoder text;\n}}\n");
    for reflector in topology.of(Kind::Reflector) {
        for family in Family::ALL {
            let (hold, _) = family.timers();
            write!(
                text,
                "neighbor {} {{
  router-id {};
  local-address {};
  local-as {SITE_AS};
  peer-as {SITE_AS};
  hold-time {hold};
  family {{ ipv{} unicast; }}
  api {{ processes [ vips ]; }}
}}
",
                family.address(reflector, 0),
                node.router_id(),
                family.address(node, 0),
                family.digit()
            )
            .expect("writing to a string");
        }
    }
    text
}

/// Announces the VIPs unless the operator wants none announced.
fn announce() -> String {
    let lines = |word: &str| -> String {
        let length = |vip: &IpAddr| if vip.is_ipv4() { 32 } else { 128 };
        vips()
            .into_iter()
            .map(|vip| format!("    echo {word} route {vip}/{} next-hop self\n", length(&vip)))
            .collect()
    };
    format!(
        "said=
while :; do
  if [ -e /etc/lb/disable ]; then want=no; else want=yes; fi
  if [ \"$want\" != \"$said\" ]; then
    if [ $want = yes ]; then
{}    else
{}    fi
    said=$want
  fi
  sleep 0.5
done
",
        lines("announce"),
        lines("withdraw")
    )
}

/// Ready when the kernel balances to every host in each family.
pub fn health(topology: &Topology) -> Vec<String> {
    let hosts = topology.pool().count();
    match table() {
        Ok(table) => missing(&table, hosts).into_iter().collect(),
        Err(error) => {
            vec![format!("/proc/thread-self/net/ip_vs: {error}; this kernel has no IPVS: see scripts/vm")]
        }
    }
}

/// Connections of `host` that the kernel's table counts as established.
pub fn established(host: &Node) -> std::io::Result<u64> {
    let addresses = Family::ALL.map(|family| address_of(family.address(host, 0)));
    Ok(active(&table()?, &addresses))
}

fn active(table: &str, addresses: &[String]) -> u64 {
    let of_host = |line: &&str| addresses.iter().any(|address| line.contains(&format!("-> {address}:")));
    let counts = table.lines().filter(of_host).filter_map(|line| line.split_whitespace().nth(4));
    counts.filter_map(|count| count.parse::<u64>().ok()).sum()
}

/// As the kernel writes addresses there.
fn address_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08X}", address.to_bits()),
        IpAddr::V6(address) => {
            let words: Vec<String> = address.segments().iter().map(|word| format!("{word:04x}")).collect();
            format!("[{}]", words.join(":"))
        }
    }
}

/// The kernel's table, in one read: between two, the kernel loses its place among the services.
fn table() -> std::io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    let length = fs::File::open("/proc/thread-self/net/ip_vs")?.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// What the kernel's table lacks: each of the VIPs stands before a line per host, with its weight.
fn missing(table: &str, hosts: usize) -> Option<String> {
    let services = table.lines().filter(|line| line.starts_with("TCP") || line.starts_with("FWM")).count();
    let working = table
        .lines()
        .filter(|line| line.trim_start().starts_with("->"))
        .filter(|line| {
            line.split_whitespace().nth(3).is_some_and(|weight| weight != "0" && weight != "Weight")
        })
        .count();
    let wanted = vips().len() * hosts;
    (services < vips().len() || working < wanted).then(|| {
        format!("IPVS has {services} of {} VIPs, and {working} of {wanted} ways to hosts", vips().len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn reference() -> Topology {
        Topology::new(&spec::load("x", spec::REFERENCE, &["director=ipvs".into()]).unwrap())
    }

    #[test]
    fn keepalived_balances_every_vip_to_every_host_of_its_family() {
        let topology = reference();
        let text = keepalived(&topology, topology.node("lb4-1").unwrap(), &weights(&topology));
        assert_eq!(text.matches("  real_server ").count(), 26);
        assert!(text.contains("virtual_server_group vips6 {\n  2001:db8::c633:6401 80\n"), "{text}");
    }

    #[test]
    fn exabgp_speaks_to_all_reflectors_in_both_families() {
        let topology = reference();
        let text = exabgp(&topology, topology.node("lb4-1").unwrap());
        assert_eq!(text.matches("neighbor ").count(), 4);
        assert!(announce().contains("    echo withdraw route 2001:db8::c633:6404/128 next-hop self\n"));
    }

    #[test]
    fn established_connections_of_a_host_are_those_of_both_families() {
        let table = "TCP  C6336401:0050 mh (mh-fallback,mh-port)
  -> C000028B:0050      Tunnel  1      3          9
  -> C000028C:0050      Tunnel  1      5          0
TCP  [2001:0db8:0000:0000:0000:0000:c633:6401]:0050 mh
  -> [2001:0db8:0000:0000:0000:0000:c000:028b]:0050      Tunnel  0      4          1
";
        let addresses = ["192.0.2.139", "2001:db8::c000:28b"].map(|a| address_of(a.parse().unwrap()));
        assert_eq!(active(table, &addresses), 7);
        assert_eq!(active(table, &addresses[1..]), 4);
    }

    #[test]
    fn a_table_without_all_hosts_is_not_ready() {
        let head = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";
        let service = "TCP  C6336401:0050 mh (mh-fallback,mh-port)\n  -> C000028B:0050      Tunnel  1      0          0\n";
        assert_eq!(missing(&format!("{head}{}", service.repeat(8)), 1), None);
        let failing = service.replace("Tunnel  1", "Tunnel  0");
        assert!(
            missing(&format!("{head}{}{failing}", service.repeat(7)), 1).unwrap().contains("7 of 8 ways")
        );
    }
}
