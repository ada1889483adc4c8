//! LB7-1…: HAProxy for all VIPs, `lab serve` echoing datagrams, `lb agent` decapsulating, BIRD for the way back.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};

use crate::agent;
use crate::bird::{self, Family};
use crate::kinds::server;
use crate::patience::ANSWER;
use crate::plan::{NodePlan, ProcessPlan};
use crate::serve;
use crate::topology::{Kind, Node, Topology, USER_ADDRESSES_NET, USERS_NET, vips};

const CONFIG: &str = "/etc/haproxy/haproxy.cfg";
/// Where HAProxy takes orders.
pub const SOCKET: &str = "/run/haproxy/admin.sock";

pub fn plan(topology: &Topology, node: &Node) -> NodePlan {
    let mut files = bird::files(bird_config(topology, node));
    files.push((CONFIG.to_owned(), haproxy(topology, node)));
    files.push((agent::CONFIG.to_owned(), agent::l7_host(topology, node)));
    NodePlan {
        files,
        folders: vec![bird::FOLDER.to_owned(), "/run/haproxy".to_owned(), agent::FOLDER.to_owned()],
        processes: vec![
            ProcessPlan::new("haproxy", &format!("haproxy -db -f {CONFIG}")),
            ProcessPlan::new("echo", &format!("lab serve echo {}", node.name)),
            bird::process(),
            agent::process(),
        ],
        ..NodePlan::default()
    }
}

/// Only the users' networks are learnt: how a packet with a VIP as source finds its way back, past the directors.
fn bird_config(topology: &Topology, node: &Node) -> String {
    let mut text = bird::head(node);
    text.push_str(&bird::kernel());
    text.push_str(&super::sessions_with_reflectors(
        topology,
        node,
        |family| format!("where net ~ [{}, {}]", family.prefix(USERS_NET), family.prefix(USER_ADDRESSES_NET)),
        |_| "none".to_owned(),
        "add paths rx;",
    ));
    text
}

fn haproxy(topology: &Topology, node: &Node) -> String {
    let own = Family::ALL.map(|family| family.address(node, 0));
    let binds: String =
        own.into_iter().chain(vips()).map(|address| format!("  bind {address}:80\n")).collect();
    let servers: String = topology
        .of(Kind::Server)
        .map(|server| {
            format!(
                "  server {} [{}]:{} check send-proxy agent-check agent-port 5555\n",
                server.name,
                server.address6(),
                server::PORT
            )
        })
        .collect();
    let bulk: String = topology
        .of(Kind::Server)
        .map(|server| {
            let (name, address, port) = (&server.name, server.address6(), serve::bulk::PORT);
            format!("  server {name} [{address}]:{port} track servers/{name}\n")
        })
        .collect();
    format!(
        "global
  nbthread 1
  maxconn 8000
  stats socket {SOCKET} mode 600 level admin
defaults
  mode http
  timeout connect 2s
  timeout client 1h
  timeout server 60s
  timeout http-keep-alive 1h
  option prefer-last-server
  http-reuse never
  default-server inter 2s fastinter 500ms downinter 1s rise 1 fall 2 agent-inter 2s
frontend www
{binds}  monitor-uri /healthcheck
  acl no_server nbsrv(servers) lt 1
  acl disabled nbsrv(enabler) lt 1
  monitor fail if no_server or disabled
  http-response set-header X-L7 {name}
  http-after-response set-header X-L7 {name}
  use_backend bulk if {{ path_beg /bulk/ }}
  default_backend servers
backend servers
  balance roundrobin
{servers}backend bulk
  balance roundrobin
{bulk}backend enabler
  server enabler 127.0.0.1:5555 agent-check agent-port 5555 agent-inter 1s
",
        name = node.name
    )
}

pub fn health(lb: &Path) -> Vec<String> {
    let mut reasons = agent::health(lb);
    reasons.extend(bird::health());
    if reasons.is_empty() {
        reasons.extend(super::missing_routes(
            &Family::ALL.map(|family| family.prefix(USER_ADDRESSES_NET).address),
        ));
    }
    match down_servers() {
        Ok(down) => reasons.extend(down),
        Err(error) => reasons.push(format!("{error:#}")),
    }
    reasons
}

/// HAProxy's own view of its servers.
fn down_servers() -> Result<Vec<String>> {
    let mut stream =
        UnixStream::connect(SOCKET).with_context(|| format!("HAProxy does not answer on {SOCKET}"))?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"show stat -1 4 -1\n")?;
    let mut csv = String::new();
    stream.read_to_string(&mut csv).context("HAProxy does not answer `show stat`")?;
    Ok(parse_down(&csv))
}

fn parse_down(csv: &str) -> Vec<String> {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().trim_start_matches("# ").split(',').collect();
    let column = |name: &str| header.iter().position(|field| *field == name);
    let (Some(status), Some(check)) = (column("status"), column("last_chk")) else {
        return vec!["HAProxy's statistics have no status column".to_owned()];
    };
    lines
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|fields| {
            fields.len() > status
                && !fields[status].starts_with("UP")
                && !fields[status].starts_with("no check")
        })
        .map(|fields| {
            format!(
                "HAProxy has server {} {} ({})",
                fields[1],
                fields[status],
                fields.get(check).copied().unwrap_or_default()
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn reference() -> Topology {
        Topology::new(&spec::load("x", spec::REFERENCE, &[]).unwrap())
    }

    #[test]
    fn haproxy_binds_own_addresses_and_all_vips_and_knows_all_servers() {
        let topology = reference();
        let text = haproxy(&topology, topology.node("lb7-3").unwrap());
        assert_eq!(text.matches("  bind ").count(), 10);
        assert!(
            text.contains("  bind 192.0.2.141:80\n") && text.contains("  bind 2001:db8::c633:6404:80\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "server s10 [2001:db8:1:0:2::10]:88 check send-proxy agent-check agent-port 5555\n"
            )
        );
        assert!(text.contains("  server s10 [2001:db8:1:0:2::10]:89 track servers/s10\n"), "{text}");
        assert!(text.contains("set-header X-L7 lb7-3"));
    }

    /// HAProxy ends an idle connection by the shorter of the two.
    #[test]
    fn idle_connections_may_last_an_hour() {
        let topology = reference();
        let text = haproxy(&topology, topology.node("lb7-1").unwrap());
        assert!(text.contains("  timeout client 1h\n") && text.contains("  timeout http-keep-alive 1h\n"));
    }

    #[test]
    fn l7_hosts_learn_the_users_networks_and_nothing_else() {
        let topology = reference();
        let text = bird_config(&topology, topology.node("lb7-1").unwrap());
        assert!(text.contains("import where net ~ [192.0.2.0/29, 203.0.113.0/24]; export none;"), "{text}");
    }

    #[test]
    fn servers_that_are_down_are_named_with_their_last_check() {
        let csv = "# pxname,svname,status,last_chk\nservers,s1,UP,L4OK\nservers,s2,DOWN,L4TOUT\nenabler,enabler,no check,\n";
        assert_eq!(parse_down(csv), ["HAProxy has server s2 DOWN (L4TOUT)"]);
    }
}
