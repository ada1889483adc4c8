//! `lb status`.

mod maps;
mod oracle;
mod peers;

use std::fmt::Write;
use std::process::ExitCode;

use hyper::Method;

use super::leave::row;
use super::{Api, Format, client, runtime};
use crate::agent::status::{HostStatus, ManifestStatus, ServiceStatus, Status};
use crate::model::ServiceKey;
use crate::peers::PeerStatus;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: Api,
    /// Show all nodes instead, and whether they hold the same tables; exit code 0 only if all answer and agree.
    #[arg(long)]
    peers: bool,
    /// How to report.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.peers {
        return run_peers(args);
    }
    let body = runtime()?.block_on(client::request(&args.api.socket(), Method::GET, "/v1/status"))?;
    let status: Status = serde_json::from_slice(&body)?;
    match args.format {
        Format::Text => print!("{}", text(&status)),
        // As it came, so that a newer agent's keys are not lost.
        Format::Json => println!("{}", String::from_utf8_lossy(&body)),
    }
    Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_peers(args: &Args) -> anyhow::Result<ExitCode> {
    let body = runtime()?.block_on(client::request(&args.api.socket(), Method::GET, "/v1/peers"))?;
    let nodes: Vec<PeerStatus> = serde_json::from_slice(&body)?;
    match args.format {
        Format::Text => print!("{}", peers::text(&nodes)),
        Format::Json => println!("{}", String::from_utf8_lossy(&body)),
    }
    Ok(if peers::well(&nodes) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The report for people.
fn text(status: &Status) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let ready = match (status.ready, status.disabled) {
        (true, true) => "ready, disabled by the operator",
        (true, false) => "ready",
        (false, _) => "not ready",
    };
    let _ = writeln!(page, "{} ({}): {ready}", status.node, status.roles.join(" + "));
    for reason in &status.reasons {
        let _ = writeln!(page, "  {reason}");
    }
    for warning in &status.warnings {
        let _ = writeln!(page, "  warning: {warning}");
    }
    for error in &status.reload.errors {
        let _ = writeln!(page, "  last reload refused: {error}");
    }
    if !status.reload.at_restart.is_empty() {
        let _ = writeln!(page, "  restart the agent for: {}", status.reload.at_restart.join(", "));
    }
    if let Some(manifest) = &status.manifest {
        let _ = writeln!(page, "{}", of_manifest(manifest));
    }
    if let Some(agent_check) = &status.agent_check {
        let _ = writeln!(page, "agent check answers: {}", agent_check.answer);
    }
    if let Some(bgp) = &status.bgp {
        let state = if bgp.up { "up" } else { bgp.reason.as_deref().unwrap_or("down") };
        let _ = writeln!(page, "{}: {state}, {} announced", bgp.driver, bgp.announced.len());
    }
    let interfaces =
        status.interfaces.iter().map(|i| vec![i.name.clone(), i.role.name().into(), i.mode.clone()]);
    page += &table(["INTERFACE", "ROLE", "MODE"], interfaces.collect());
    page += &table(
        ["SERVICE", "POOL", "HEALTHY", "ANNOUNCED", "TABLE", "REASON"],
        status.services.iter().map(service).collect(),
    );
    let leaving = status.leaving.iter().map(|leaving| row(leaving).to_vec());
    page += &table(["LEAVES", "STAGE", "PACKETS/S", "WAITS FOR"], leaving.collect());
    page += &table(
        ["HOST", "STATE", "HEALTHY", "IPV4", "IPV6", "REASON"],
        status.hosts.iter().map(host).collect(),
    );
    page += &table(["SERVICE", "HOST", "SERVER ID"], status.services.iter().flat_map(server_ids).collect());
    page += &oracle::text(status);
    let counters = status.counters.iter().flat_map(|(role, counters)| {
        let counted = counters.iter().filter(|(_, value)| **value > 0);
        counted.map(move |(name, value)| vec![format!("{role} {name}"), value.to_string()])
    });
    page += &table(["COUNTER", "VALUE"], counters.collect());
    page += &maps::text(status);
    page
}

fn of_manifest(manifest: &ManifestStatus) -> String {
    let ManifestStatus { place, version, confirmed, cached, problem } = manifest;
    let version = version.map_or("none read yet".into(), |version| format!("version {version}"));
    let kernel = match (confirmed, manifest.version) {
        (confirmed, wanted) if *confirmed == wanted => String::new(),
        (Some(confirmed), _) => format!(", kernel at {confirmed}"),
        (None, _) => ", not yet in the kernel".into(),
    };
    let cached = if *cached { ", from the cache" } else { "" };
    let problem = problem.as_ref().map(|problem| format!("; {problem}")).unwrap_or_default();
    format!("manifest: {version}{kernel}{cached} ({place}){problem}")
}

fn service(service: &ServiceStatus) -> Vec<String> {
    let ServiceStatus { vip, port, protocol, .. } = *service;
    vec![
        ServiceKey { vip, port, protocol }.to_string(),
        service.pool.clone(),
        format!("{}/{} (needs {})", service.healthy, service.hosts, service.quorum),
        yes(service.announced),
        service.digest.clone().unwrap_or_else(|| "-".into()),
        service.reason.clone().unwrap_or_default(),
    ]
}

/// What each host's QUIC server puts into its connection ids.
fn server_ids(service: &ServiceStatus) -> Vec<Vec<String>> {
    let ServiceStatus { vip, port, protocol, .. } = *service;
    let key = ServiceKey { vip, port, protocol }.to_string();
    service.server_ids.iter().map(|(host, id)| vec![key.clone(), host.clone(), id.clone()]).collect()
}

fn host(host: &HostStatus) -> Vec<String> {
    let usable = |address: bool, usable| if address || usable { yes(usable) } else { "-".into() };
    vec![
        format!("{}/{}", host.pool, host.name),
        format!("{:?}", host.state).to_lowercase(),
        yes(host.healthy),
        usable(host.address4.is_some(), host.usable4),
        usable(host.address6.is_some(), host.usable6),
        host.reason.clone().unwrap_or_default(),
    ]
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.into()
}

/// Columns as wide as they must be, after an empty line; nothing without rows.
pub(super) fn table<const N: usize>(head: [&str; N], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut lines = String::from("\n");
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        lines += cells.join("  ").trim_end();
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::status::BgpReport;
    use crate::model::Protocol;

    #[test]
    fn the_report_has_columns_and_names_what_is_missing() {
        let service = ServiceStatus {
            vip: [198, 51, 100, 1].into(),
            port: 80,
            protocol: Protocol::Tcp,
            pool: "web".into(),
            hosts: 2,
            healthy: 0,
            quorum: 1,
            announced: false,
            reason: Some("0 of 2 hosts work, 1 needed".into()),
            generation: Some(1),
            digest: Some("00000000000000ff".into()),
            server_ids: Default::default(),
        };
        let status = Status {
            node: "lb4-1".into(),
            roles: vec!["director".into()],
            reasons: vec!["198.51.100.1:80/tcp: 0 of 2 hosts work, 1 needed".into()],
            services: vec![service],
            bgp: Some(BgpReport { driver: "bird".into(), up: true, announced: vec![], reason: None }),
            ..Status::default()
        };
        let expected = "\
lb4-1 (director): not ready
  198.51.100.1:80/tcp: 0 of 2 hosts work, 1 needed
bird: up, 0 announced

SERVICE              POOL  HEALTHY        ANNOUNCED  TABLE             REASON
198.51.100.1:80/tcp  web   0/2 (needs 1)  no         00000000000000ff  0 of 2 hosts work, 1 needed
";
        assert_eq!(text(&status), expected);
    }
}
