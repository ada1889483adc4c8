//! What a service may ask for beyond a table, as it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::bgp::Prefix;
use crate::extras::{Extras, SourceList};
use crate::model::{Affinity, Family, ServiceKey};

use super::limit;
use super::problem::Position;
use super::quic;
use super::reader::{At, Reader, Section};
use super::schema;
use super::written::List;

/// Prefixes in the lists of a service: as many services may change at once as fit into the kernel's map.
const MOST_PREFIXES: usize = 100_000;

/// As it is written.
pub(super) struct Written {
    sources: Option<WrittenSources>,
    limit: Option<limit::Written>,
    quic: Option<quic::Written>,
}

struct WrittenSources {
    at: Position,
    key: String,
    allow: List<Prefix>,
    deny: List<Prefix>,
    /// Nothing was wrong with what is listed.
    sound: bool,
}

/// Reads the keys of a service.
pub(super) fn read(s: &Section<'_>, r: &mut Reader) -> Written {
    let before = r.problems.len();
    let sources = r.subsection(s, "sources", &schema::SOURCES);
    let sources = sources.map(|s| WrittenSources {
        at: s.at,
        key: s.key.clone(),
        allow: r.list(&s, "allow", "[203.0.113.0/24]"),
        deny: r.list(&s, "deny", "[203.0.113.0/24]"),
        sound: r.problems.len() == before,
    });
    Written { sources, limit: limit::read(s, r), quic: quic::read(s, r) }
}

/// Fits them to the service.
pub(super) fn check(
    written: &Written,
    at: &At<()>,
    service: ServiceKey,
    affinity: Affinity,
    r: &mut Reader,
) -> Extras {
    let sources = written.sources.as_ref().map(|sources| Arc::new(source_list(sources, service, r)));
    let limit = written.limit.as_ref().and_then(|limit| limit::check(limit, service, r));
    let quic = quic::check(written.quic.as_ref(), at, service, affinity, r).map(Arc::new);
    Extras { sources, limit, quic }
}

fn source_list(written: &WrittenSources, service: ServiceKey, r: &mut Reader) -> SourceList {
    let mut seen = BTreeMap::new();
    let allow = prefixes(&written.allow, service, &mut seen, r);
    let deny = prefixes(&written.deny, service, &mut seen, r);
    if !written.sound {
        return SourceList { allow, deny };
    }
    for list in [&written.allow, &written.deny].into_iter().flatten().filter(|list| list.value.is_empty()) {
        r.wrong(list.at, &list.key, "names no source; list prefixes or remove it");
    }
    if written.allow.is_none() && written.deny.is_none() {
        r.wrong(written.at, &written.key, "names no source; write allow, deny or both, or remove it");
    }
    if seen.len() > MOST_PREFIXES {
        let message = format!("{} prefixes; write at most {MOST_PREFIXES}", seen.len());
        r.wrong(written.at, &written.key, message);
    }
    SourceList { allow, deny }
}

fn prefixes(
    written: &List<Prefix>,
    service: ServiceKey,
    seen: &mut BTreeMap<Prefix, u64>,
    r: &mut Reader,
) -> BTreeSet<Prefix> {
    let Some(written) = written else { return BTreeSet::new() };
    let mut prefixes = BTreeSet::new();
    for At { value: prefix, at, key } in &written.value {
        if Family::of(prefix.address) != service.vip.family() {
            let message =
                format!("{prefix} holds no client of {}, which is of the other family", service.vip);
            r.wrong(*at, key, format!("{message}; remove it"));
        } else if let Some(line) = seen.insert(*prefix, at.line) {
            r.wrong(*at, key, format!("{prefix} is there already, in line {line}; remove one of the two"));
        } else {
            prefixes.insert(*prefix);
        }
    }
    prefixes
}

/// As it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Effective {
    #[serde(skip_serializing_if = "Option::is_none")]
    sources: Option<EffectiveSources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<limit::Effective>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quic: Option<quic::Effective>,
}

#[derive(Clone, Debug, Serialize)]
struct EffectiveSources {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
}

impl From<&Extras> for Effective {
    fn from(extras: &Extras) -> Self {
        let shown = |prefixes: &BTreeSet<Prefix>| prefixes.iter().map(ToString::to_string).collect();
        let sources = extras.sources.as_ref();
        Effective {
            sources: sources
                .map(|list| EffectiveSources { allow: shown(&list.allow), deny: shown(&list.deny) }),
            limit: extras.limit.as_ref().map(limit::Effective::from),
            quic: extras.quic.as_deref().map(quic::Effective::from),
        }
    }
}
