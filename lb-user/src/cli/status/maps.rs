//! The part of `lb status` that says what directors sent, and what memory the maps take.

use super::table;
use crate::agent::readings::MapMemory;
use crate::agent::status::Status;

/// Nothing where there is nothing.
pub(super) fn text(status: &Status) -> String {
    let services = status.service_traffic.iter().filter(|traffic| traffic.packets > 0);
    let hosts = status.host_traffic.iter().filter(|traffic| traffic.packets > 0);
    let rows = services
        .map(|t| (t.service.to_string(), t.packets, t.bytes))
        .chain(hosts.map(|t| (format!("{}/{}", t.pool, t.host), t.packets, t.bytes)));
    let rows = rows.map(|(of, packets, bytes)| vec![of, packets.to_string(), bytes.to_string()]);
    table(["SENT", "PACKETS", "BYTES"], rows.collect()) + &memory(&status.memory)
}

fn memory(maps: &[MapMemory]) -> String {
    let row = |map: &MapMemory| {
        vec![format!("{} {}", map.role.name(), map.map), amount(map.bytes), map.purpose.clone()]
    };
    let mut rows: Vec<_> = maps.iter().map(row).collect();
    if !rows.is_empty() {
        rows.push(vec!["in all".into(), amount(maps.iter().map(|map| map.bytes).sum()), String::new()]);
    }
    table(["MEMORY OF", "KIB", "FOR"], rows)
}

/// In KiB, rounded up: maps take whole pages.
fn amount(bytes: u64) -> String {
    bytes.div_ceil(1024).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::dataplane::Role;
    use crate::agent::readings::HostTraffic;

    #[test]
    fn maps_are_summed_and_what_sent_nothing_is_left_out() {
        let map = |map: &str, bytes| MapMemory {
            role: Role::Director,
            map: map.into(),
            purpose: "it".into(),
            bytes,
        };
        let host = |host: &str, packets| HostTraffic {
            pool: "web".into(),
            host: host.into(),
            packets,
            bytes: 60 * packets,
        };
        let status = Status {
            memory: vec![map("FLOWS", 1 << 20), map("TABLES", 100)],
            host_traffic: vec![host("a", 3), host("b", 0)],
            ..Status::default()
        };
        let expected = "
SENT   PACKETS  BYTES
web/a  3        180

MEMORY OF        KIB   FOR
director FLOWS   1024  it
director TABLES  1     it
in all           1025
";
        assert_eq!(text(&status), expected);
    }
}
