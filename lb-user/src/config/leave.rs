//! How VIPs leave: `leave_file` and `leave`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::leave::Config;
use crate::peers::PeerUrl;

use super::check::{nothing_listed, or, within};
use super::effective::shown;
use super::problem::Position;
use super::reader::{Reader, Section};
use super::written::{List, Maybe};

/// As it is written.
pub(super) struct Written {
    at: Position,
    name_servers: List<PeerUrl>,
    ttl: Maybe<Duration>,
    below: Maybe<u32>,
    hold: Maybe<Duration>,
    wait: Maybe<Duration>,
}

pub(super) fn read(s: &Section<'_>, r: &mut Reader) -> Written {
    Written {
        at: s.at,
        name_servers: r.one_or_more(s, "name_servers"),
        ttl: r.leaf(s, "ttl"),
        below: r.leaf(s, "below"),
        hold: r.leaf(s, "hold"),
        wait: r.leaf(s, "wait"),
    }
}

/// What it comes to.
pub(super) fn check(file: Maybe<PathBuf>, w: Option<Written>, director: bool, r: &mut Reader) -> Config {
    let default = Config::default();
    let file = or(file, || default.file.clone());
    let Some(w) = w else { return Config { file, ..default } };
    if !director {
        r.wrong(w.at, "leave", "VIPs leave directors, and this node is none; remove it");
    }
    nothing_listed(&w.name_servers, "list the name servers, as in [\"http://192.0.2.53:7400\"]", r);
    if let (Some(ttl), Some(_)) = (&w.ttl, &w.name_servers) {
        r.wrong(ttl.at, &ttl.key, "name servers tell the TTL themselves; remove it, or name_servers");
    }
    let servers = w.name_servers.into_iter().flat_map(|list| list.value);
    Config {
        file,
        name_servers: servers.map(|url| url.value).collect(),
        ttl: or(w.ttl, || default.ttl),
        below: w.below.as_ref().map_or(default.below, |below| within(below, 1, u32::MAX, r)),
        hold: or(w.hold, || default.hold),
        wait: or(w.wait, || default.wait),
    }
}

/// As it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Effective {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    name_servers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    below: u32,
    hold: String,
    wait: String,
}

impl From<&Config> for Effective {
    fn from(config: &Config) -> Self {
        Effective {
            name_servers: config.name_servers.iter().map(ToString::to_string).collect(),
            ttl: config.name_servers.is_empty().then(|| shown(config.ttl)),
            below: config.below,
            hold: shown(config.hold),
            wait: shown(config.wait),
        }
    }
}
