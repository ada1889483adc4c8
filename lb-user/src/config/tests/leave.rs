//! `leave_file` and `leave`.

use std::time::Duration;

use super::{GOOD, one, parse};
use crate::leave;

#[test]
fn how_vips_leave_has_defaults() {
    assert_eq!(parse(GOOD).unwrap().leave, leave::Config::default());
    let text = format!(
        "{GOOD}leave_file: /etc/lb/away\nleave: {{name_servers: \"http://192.0.2.53:7400\", below: 5, hold: 30s}}\n"
    );
    let config = parse(&text).unwrap().leave;
    assert_eq!((config.file.to_str(), config.name_servers.len()), (Some("/etc/lb/away"), 1));
    assert_eq!((config.below, config.hold), (5, Duration::from_secs(30)));
    assert_eq!(config.wait, Duration::from_secs(3600));
}

#[test]
fn what_cannot_be_waited_for_is_refused() {
    let with = |section: &str| format!("leave: {{{section}}}\n{GOOD}");
    one(&with("below: 0"), "1:16: leave.below: 0 is out of range; write a number from 1 to 4294967295");
    one(
        &with("ttl: 60s, name_servers: [\"http://192.0.2.53:7400\"]"),
        "1:14: leave.ttl: name servers tell the TTL themselves; remove it, or name_servers",
    );
    one(
        &with("name_servers: []"),
        "1:9: leave.name_servers: empty; list the name servers, as in [\"http://192.0.2.53:7400\"]",
    );
    one(
        "agent_check: {}\nleave: {below: 5}\n",
        "2:1: leave: VIPs leave directors, and this node is none; remove it",
    );
}
