//! `lb status --peers`: all nodes that this one knows, and whether they hold the same tables.

use super::table;
use crate::peers::PeerStatus;

/// Whether all nodes answer and agree.
pub(super) fn well(nodes: &[PeerStatus]) -> bool {
    nodes.iter().all(|node| node.reachable && node.differs.is_empty())
}

/// A line for each node and table.
pub(super) fn text(nodes: &[PeerStatus]) -> String {
    let rows: Vec<Vec<String>> = nodes.iter().flat_map(rows).collect();
    let head = ["NODE", "ROLES", "MANIFEST", "POOL", "FOR", "GENERATION", "TABLE", "STATE"];
    table(head, rows).trim_start().to_owned()
}

fn rows(node: &PeerStatus) -> Vec<Vec<String>> {
    let none = || "-".to_owned();
    let name = node.node.clone().or_else(|| node.url.clone()).unwrap_or_else(none);
    let report = node.report.as_ref();
    let roles = report.map_or_else(none, |report| report.roles.join(" + "));
    let manifest = report.and_then(|report| report.manifest_version).map_or_else(none, |v| v.to_string());
    let row = |table: [String; 4], state: String| {
        [name.clone(), roles.clone(), manifest.clone()].into_iter().chain(table).chain([state]).collect()
    };
    let lost = (!node.reachable).then(|| {
        let since = node.unreachable_for_s.map(|s| format!(" for {s} s")).unwrap_or_default();
        format!("unreachable{since}: {}", node.reason.as_deref().unwrap_or("unknown"))
    });
    let tables = report.map_or(&[][..], |report| &report.tables);
    if tables.is_empty() {
        return vec![row([none(), none(), none(), none()], lost.unwrap_or_else(|| "no table".into()))];
    }
    tables
        .iter()
        .map(|table| {
            let state = if node.differs.contains(&table.pool) { "differs" } else { "agrees" };
            let state = lost.clone().unwrap_or_else(|| state.into());
            let table = [
                table.pool.clone(),
                table.role.name().into(),
                table.generation.to_string(),
                table.digest.clone(),
            ];
            row(table, state)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::dataplane::Role;
    use crate::peers::{Report, TableReport};

    #[test]
    fn every_node_has_its_tables_or_why_it_is_not_heard() {
        let table = |digest: &str| TableReport {
            pool: "web".into(),
            role: Role::Director,
            generation: 3,
            digest: digest.into(),
        };
        let node = |name: &str, digest: &str, differs: &[&str]| PeerStatus {
            node: Some(name.into()),
            url: None,
            reachable: true,
            unreachable_for_s: None,
            reason: None,
            differs: differs.iter().map(|pool| (*pool).to_owned()).collect(),
            report: Some(Report {
                roles: vec!["director".into()],
                manifest_version: Some(12),
                tables: vec![table(digest)],
                ..Report::default()
            }),
        };
        let gone = PeerStatus {
            node: None,
            url: Some("http://192.0.2.9:7400".into()),
            reachable: false,
            unreachable_for_s: Some(7),
            reason: Some("cannot connect: connection refused".into()),
            differs: Vec::new(),
            report: None,
        };
        let nodes = [node("lb4-1", "01", &[]), node("lb4-2", "02", &["web"]), gone];
        let expected = "\
NODE                   ROLES     MANIFEST  POOL  FOR       GENERATION  TABLE  STATE
lb4-1                  director  12        web   director  3           01     agrees
lb4-2                  director  12        web   director  3           02     differs
http://192.0.2.9:7400  -         -         -     -         -           -      unreachable for 7 s: cannot connect: connection refused
";
        assert_eq!(text(&nodes), expected);
        assert!(!well(&nodes) && well(&nodes[..1]));
    }
}
