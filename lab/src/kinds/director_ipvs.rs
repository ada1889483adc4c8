//! LB4-1… as the reference lab first had them: keepalived drives IPVS (`mh`, in tunnels), ExaBGP announces the VIPs.
//!
//! Here for comparison: each director keeps a table of its own connections, so that what another one had opened is
//! scheduled anew, and stays whole only while all see the same hosts.

use std::fmt::Write;
use std::fs;
use std::io::Read;

use crate::bird::{Family, SITE_AS};
use crate::plan::{NodePlan, ProcessPlan};
use crate::topology::{Kind, Node, Topology, vips};

const KEEPALIVED: &str = "/etc/keepalived/keepalived.conf";
const EXABGP: &str = "/etc/exabgp/exabgp.conf";
const ANNOUNCE: &str = "/etc/exabgp/announce.sh";

/// Packets of connections that another director opened are scheduled as well, not refused.
const SETTINGS: [(&str, &str); 2] = [("ipv4/vs/sloppy_tcp", "1"), ("ipv4/vs/expire_nodest_conn", "1")];

pub fn plan(topology: &Topology, node: &Node) -> NodePlan {
    let settings = crate::plan::FORWARDING.into_iter().chain(SETTINGS).collect();
    NodePlan {
        files: vec![
            (KEEPALIVED.to_owned(), keepalived(topology, node)),
            (EXABGP.to_owned(), exabgp(topology, node)),
            (ANNOUNCE.to_owned(), announce()),
        ],
        folders: vec!["/run/keepalived".to_owned(), "/run/exabgp".to_owned()],
        settings,
        processes: vec![
            ProcessPlan::new(
                "keepalived",
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

/// One group of VIPs per family, so that each host is checked once per family.
fn keepalived(topology: &Topology, node: &Node) -> String {
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
        for host in topology.pool() {
            text.push_str(&real_server(&family.address(host, 0).to_string()));
        }
        text.push_str("}\n");
    }
    text
}

fn real_server(address: &str) -> String {
    format!(
        "  real_server {address} 80 {{
    weight 1
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
        let length = |vip: &std::net::IpAddr| if vip.is_ipv4() { 32 } else { 128 };
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
        let text = keepalived(&topology, topology.node("lb4-1").unwrap());
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
