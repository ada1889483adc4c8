//! The section `dns.rate_limit`: how many answers that are alike a network may get.

use std::time::Duration;

use serde::Serialize;

use crate::bgp::Prefix;
use crate::dns::rate::RateConfig;

use super::check::within;
use super::effective::shown;
use super::reader::{Reader, Section};
use super::schema;
use super::written::{List, Maybe};

/// As it is written.
pub(super) struct Written {
    rate: Maybe<u32>,
    window: Maybe<Duration>,
    slip: Maybe<u32>,
    prefix4: Maybe<u32>,
    prefix6: Maybe<u32>,
    exempt: List<Prefix>,
}

/// Reads it from the section `dns`.
pub(super) fn read(dns: &Section<'_>, r: &mut Reader) -> Option<Written> {
    let s = r.subsection(dns, "rate_limit", &schema::DNS_RATE_LIMIT)?;
    Some(Written {
        rate: r.leaf(&s, "rate"),
        window: r.leaf(&s, "window"),
        slip: r.leaf(&s, "slip"),
        prefix4: r.leaf(&s, "prefix4"),
        prefix6: r.leaf(&s, "prefix6"),
        exempt: r.one_or_more(&s, "exempt"),
    })
}

/// The limits, with defaults where nothing is written.
pub(super) fn check(w: &Written, r: &mut Reader) -> RateConfig {
    let mut number = |written: &Maybe<u32>, default: u32, least: u32, most: u32| {
        written.as_ref().map_or(default, |written| within(written, least, most, r))
    };
    RateConfig {
        rate: number(&w.rate, 200, 1, 10_000),
        slip: number(&w.slip, 2, 0, 100),
        prefix4: number(&w.prefix4, 24, 1, 32) as u8,
        prefix6: number(&w.prefix6, 56, 1, 128) as u8,
        window: w.window.as_ref().map_or(Duration::from_secs(15), |window| window.value),
        exempt: w.exempt.iter().flat_map(|list| &list.value).map(|prefix| prefix.value).collect(),
    }
}

/// As it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Effective {
    rate: u32,
    window: String,
    slip: u32,
    prefix4: u8,
    prefix6: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exempt: Vec<String>,
}

impl From<&RateConfig> for Effective {
    fn from(limit: &RateConfig) -> Self {
        Effective {
            rate: limit.rate,
            window: shown(limit.window),
            slip: limit.slip,
            prefix4: limit.prefix4,
            prefix6: limit.prefix6,
            exempt: limit.exempt.iter().map(ToString::to_string).collect(),
        }
    }
}
