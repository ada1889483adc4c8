//! The status and the counters as Prometheus reads them (text format 0.0.4). Pure.

use std::fmt::{Display, Write};

use lb_common::measures::{self, Measure};

use super::dataplane::{Counter, FATES};
use super::readings::{HostTraffic, ServiceTraffic};
use super::status::{HostStatus, ServiceStatus, Status};
use crate::dns::counters;
use crate::dns::sink::SinkStatus;
use crate::dns::status::{DnsStatus, MemberStatus, NameStatus};
use crate::leave::status::LeavingStatus;
use crate::model::{Doubt, ServiceKey};

/// Name, help and value of one metric of many things.
type Family<T> = (&'static str, &'static str, fn(&T) -> u64);

/// Writes the metrics.
pub(super) fn render(status: &Status, counters: &[Counter]) -> String {
    let mut page = Page(String::new());
    page.one(
        "lb_ready",
        "gauge",
        "All that this node is configured to do is being done.",
        status.ready.into(),
    );
    page.one("lb_disabled", "gauge", "The operator wants nothing announced.", status.disabled.into());
    page.one(
        "lb_adopted",
        "gauge",
        "Programs and maps of an earlier agent were taken over.",
        status.adopted.into(),
    );
    page.one("lb_reloads_total", "counter", "Reloads that were taken.", status.reload.done);
    page.one("lb_reload_failures_total", "counter", "Reloads that were refused.", status.reload.failed);
    let valid = status.reload.errors.is_empty();
    page.one("lb_config_valid", "gauge", "The last reload was taken, or there was none.", valid.into());

    let of_services: [Family<ServiceStatus>; 4] = [
        ("lb_service_announced", "The BGP daemon has the VIP.", |s| s.announced.into()),
        ("lb_service_hosts", "Active hosts of the pool.", |s| s.hosts as u64),
        ("lb_service_healthy_hosts", "Active hosts of the pool that work.", |s| s.healthy as u64),
        ("lb_service_quorum", "Fewest working hosts with which the VIP is announced.", |s| s.quorum as u64),
    ];
    for (name, help, value) in of_services {
        page.family(name, "gauge", help, status.services.iter(), |service| {
            let (vip, port, protocol) = (service.vip.to_string(), service.port, service.protocol);
            let labels: [(&str, &dyn Display); 4] =
                [("vip", &vip), ("port", &port), ("protocol", &protocol), ("pool", &Escaped(&service.pool))];
            (labelled(&labels), value(service))
        });
    }
    let of_leaving: [Family<LeavingStatus>; 2] = [
        (
            "lb_leave_stage",
            "How far the VIP is on its way out. 1: in answers; 2: packets fall; 3: withdrawn.",
            |leaving| leaving.stage as u64 + 1,
        ),
        ("lb_leave_stuck", "The VIP has been in its stage for longer than leave.wait.", |l| l.stuck.into()),
    ];
    for (name, help, value) in of_leaving {
        page.family(name, "gauge", help, status.leaving.iter(), |leaving| {
            (labelled(&[("vip", &leaving.vip)]), value(leaving))
        });
    }
    let of_hosts: [Family<HostStatus>; 3] = [
        ("lb_host_healthy", "The host passes its checks.", |h| h.healthy.into()),
        ("lb_host_usable4", "Packets to IPv4 VIPs can be sent to the host.", |h| h.usable4.into()),
        ("lb_host_usable6", "Packets to IPv6 VIPs can be sent to the host.", |h| h.usable6.into()),
    ];
    for (name, help, value) in of_hosts {
        page.family(name, "gauge", help, status.hosts.iter(), |host| {
            (labelled(&[("pool", &Escaped(&host.pool)), ("host", &Escaped(&host.name))]), value(host))
        });
    }
    page.family("lb_bgp_up", "gauge", "The BGP daemon does what it should.", status.bgp.iter(), |bgp| {
        (labelled(&[("driver", &bgp.driver)]), bgp.up.into())
    });
    page.family(
        "lb_table_disagreement",
        "gauge",
        "Nodes with the same manifest hold different tables of this pool.",
        status.disagreement.iter(),
        |(pool, differs)| (labelled(&[("pool", &Escaped(pool))]), (*differs).into()),
    );
    let help = "1: a director gets no answer of any kind from the host; 2: most directors do not.";
    page.family("lb_host_doubt", "gauge", help, status.doubts.iter(), |(host, doubt)| {
        let (pool, host) = host.split_once('/').unwrap_or_default();
        let value = if *doubt == Doubt::Dead { 2 } else { 1 };
        (labelled(&[("pool", &Escaped(pool)), ("host", &Escaped(host))]), value)
    });
    let fates: Vec<String> = FATES.iter().map(|(name, help, _)| format!("{name}: {help}")).collect();
    let help = format!("Packets by what became of them on this host. {}.", fates.join("; "));
    let fates = status.accounts.iter().flat_map(|account| FATES.iter().map(move |fate| (account, fate)));
    page.family("lb_host_packets_total", "counter", &help, fates, |(account, (fate, _, value))| {
        let ServiceKey { vip, port, protocol } = account.service;
        let generation = account.generation.map_or("unknown".to_owned(), |number| number.to_string());
        let labels: [(&str, &dyn Display); 5] = [
            ("vip", &vip),
            ("port", &port),
            ("protocol", &protocol),
            ("generation", &generation),
            ("fate", fate),
        ];
        (labelled(&labels), value(account))
    });
    of_readings(&mut page, status);
    for counter in counters {
        let name = format!("lb_{}_{}_total", counter.role.name(), counter.name);
        page.one(&name, "counter", counter.help, counter.value);
    }
    page.0
}

/// Writes the metrics of the name server.
pub(super) fn render_dns(status: &DnsStatus) -> String {
    let mut page = Page(String::new());
    for (name, help) in counters::ALL {
        let value = status.counters.get(*name).copied().unwrap_or_default();
        page.one(&format!("lb_dns_{name}_total"), "counter", help, value);
    }
    page.one(
        "lb_dns_problems",
        "gauge",
        "Files of the name server that are wrong; the last good content is in force.",
        status.problems.len() as u64,
    );
    let members = status.names.iter().flat_map(|name| name.members.iter().map(move |member| (name, member)));
    let labels = |name: &NameStatus, member: &MemberStatus| {
        labelled(&[("name", &Escaped(&name.name)), ("address", &member.address)])
    };
    let help = "The member of a name works and is not taken out by the operator.";
    page.family("lb_dns_member_up", "gauge", help, members, |(name, member)| {
        (labels(name, member), (member.state == "up").into())
    });
    let of_sinks: [Family<SinkStatus>; 3] = [
        ("lb_dns_sink_in_step", "The name server of others holds what it should.", |s| s.in_step.into()),
        ("lb_dns_sink_lag_milliseconds", "Since the first change that it has not got.", |s| s.lag_ms),
        ("lb_dns_sink_places", "Names and families whose addresses are kept there.", |s| s.places as u64),
    ];
    for (name, help, value) in of_sinks {
        page.family(name, "gauge", help, status.sinks.iter(), |sink| {
            (labelled(&[("sink", &Escaped(&sink.name)), ("type", &sink.kind)]), value(sink))
        });
    }
    let help = "Places written there.";
    page.family("lb_dns_sink_written_total", "counter", help, status.sinks.iter(), |sink| {
        (labelled(&[("sink", &Escaped(&sink.name)), ("type", &sink.kind)]), sink.written)
    });
    if let Some(leader) = &status.leader {
        page.one(
            "lb_dns_leader",
            "gauge",
            "This node is the one that writes to the sinks.",
            leader.leads.into(),
        );
    }
    let help = "The votes of an observer are heard.";
    page.family("lb_dns_observer_heard", "gauge", help, status.observers.iter(), |observer| {
        (labelled(&[("url", &Escaped(&observer.url))]), observer.heard.into())
    });
    let help = "This server answers at an address that it shares with others.";
    page.family("lb_dns_anycast_answers", "gauge", help, status.anycast.iter(), |shared| {
        (labelled(&[("address", &shared.address)]), shared.answers.into())
    });
    let help = "This node holds a name that it shares with others.";
    page.family("lb_dns_claim_held", "gauge", help, status.claims.iter(), |claim| {
        (labelled(&[("name", &Escaped(&claim.name))]), claim.held.into())
    });
    page.0
}

/// A measure, and where its value is.
type Measured<T> = (Measure, fn(&T) -> u64);

/// Traffic and memory, read from the kernel when somebody asks.
fn of_readings(page: &mut Page, status: &Status) {
    let of_services: [Measured<ServiceTraffic>; 2] =
        [(measures::SERVICE_PACKETS, |t| t.packets), (measures::SERVICE_BYTES, |t| t.bytes)];
    for (measure, value) in of_services {
        let name = format!("lb_{}_total", measure.name);
        page.family(&name, "counter", measure.help, status.service_traffic.iter(), |traffic| {
            let ServiceKey { vip, port, protocol } = traffic.service;
            (labelled(&[("vip", &vip), ("port", &port), ("protocol", &protocol)]), value(traffic))
        });
    }
    let of_hosts: [Measured<HostTraffic>; 2] =
        [(measures::HOST_PACKETS, |t| t.packets), (measures::HOST_BYTES, |t| t.bytes)];
    for (measure, value) in of_hosts {
        let name = format!("lb_{}_total", measure.name);
        page.family(&name, "counter", measure.help, status.host_traffic.iter(), |traffic| {
            let labels: [(&str, &dyn Display); 2] =
                [("pool", &Escaped(&traffic.pool)), ("host", &Escaped(&traffic.host))];
            (labelled(&labels), value(traffic))
        });
    }
    let help = "Memory that the kernel has set aside for a BPF map.";
    page.family("lb_map_bytes", "gauge", help, status.memory.iter(), |memory| {
        (labelled(&[("role", &memory.role.name()), ("map", &memory.map)]), memory.bytes)
    });
}

struct Page(String);

impl Page {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help, [()].into_iter(), |()| (String::new(), value));
    }

    fn family<T>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        of: impl Iterator<Item = T>,
        sample: impl Fn(T) -> (String, u64),
    ) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in of.map(sample) {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

/// A label's value, which the operator may have put anything into.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    }
}

fn labelled(labels: &[(&str, &dyn Display)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("{{{}}}", labels.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::dataplane::{Account, Role};
    use crate::agent::readings::MapMemory;
    use crate::leave::sequence::Stage;
    use crate::model::HostState;

    #[test]
    fn every_family_has_its_help_and_type_before_its_samples() {
        let host = HostStatus {
            pool: "we\"b".into(),
            name: "a".into(),
            address4: None,
            address6: None,
            state: HostState::Active,
            healthy: true,
            usable4: true,
            usable6: false,
            reason: None,
        };
        let status = Status {
            ready: true,
            hosts: vec![host],
            memory: vec![MapMemory {
                role: Role::Director,
                map: "FLOWS".into(),
                purpose: "flows".into(),
                bytes: 4096,
            }],
            service_traffic: vec![
                ServiceTraffic { service: Account::example().service, packets: 5, bytes: 300 },
                ServiceTraffic {
                    service: "[2001:db8:5::/64]:80/tcp".parse().unwrap(),
                    packets: 1,
                    bytes: 60,
                },
            ],
            host_traffic: vec![HostTraffic { pool: "web".into(), host: "a".into(), packets: 4, bytes: 240 }],
            accounts: vec![Account { generation: None, ..Account::example() }],
            disagreement: [("web".to_owned(), true)].into(),
            leaving: vec![LeavingStatus {
                vip: [198, 51, 100, 1].into(),
                stage: Stage::Falling,
                announced: true,
                waits_for: Vec::new(),
                stuck: true,
                packets_per_second: None,
            }],
            doubts: [("web/a".to_owned(), Doubt::Dead)].into(),
            ..Status::default()
        };
        let counter = Counter { role: Role::Director, name: "forwarded", help: "Sent to a host.", value: 7 };
        let page = render(&status, &[counter]);
        let expected = [
            "# HELP lb_ready All that this node is configured to do is being done.\n# TYPE lb_ready gauge\nlb_ready 1\n",
            "lb_host_healthy{pool=\"we\\\"b\",host=\"a\"} 1\n",
            "lb_table_disagreement{pool=\"web\"} 1\n",
            "lb_leave_stage{vip=\"198.51.100.1\"} 2\n",
            "lb_leave_stuck{vip=\"198.51.100.1\"} 1\n",
            "lb_host_doubt{pool=\"web\",host=\"a\"} 2\n",
            "lb_host_packets_total{vip=\"198.51.100.1\",port=\"80\",protocol=\"tcp\",generation=\"unknown\",\
             fate=\"rescued1\"} 4\n",
            "lb_map_bytes{role=\"director\",map=\"FLOWS\"} 4096\n",
            "lb_service_bytes_total{vip=\"198.51.100.1\",port=\"80\",protocol=\"tcp\"} 300\n",
            "lb_service_bytes_total{vip=\"2001:db8:5::/64\",port=\"80\",protocol=\"tcp\"} 60\n",
            "# HELP lb_sent_packets_total Packets sent to the host.\n# TYPE lb_sent_packets_total counter\n\
             lb_sent_packets_total{pool=\"web\",host=\"a\"} 4\n",
            "lb_host_usable6{pool=\"we\\\"b\",host=\"a\"} 0\n",
            "# HELP lb_director_forwarded_total Sent to a host.\n# TYPE lb_director_forwarded_total counter\n\
             lb_director_forwarded_total 7\n",
        ];
        for lines in expected {
            assert!(page.contains(lines), "{lines}\nnot in\n{page}");
        }
    }
}
