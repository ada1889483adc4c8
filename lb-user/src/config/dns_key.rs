//! The keys `key`, `algorithm` and `secret_file` of a section: a TSIG key.

use std::path::PathBuf;

use hickory_proto::rr::Name;
use serde::Serialize;

use crate::dns::master;
use crate::dns::tsig::{Algorithm, Key};

use super::leaf::Leaf;
use super::reader::{At, Reader, Section};
use super::tree::{Node, Value};
use super::written::Maybe;

/// As it is written.
pub(super) struct Written {
    pub name: Maybe<DnsName>,
    pub algorithm: Maybe<Algorithm>,
    pub secret_file: Maybe<PathBuf>,
}

/// A whole name, with or without the dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DnsName(pub Name);

impl Leaf for DnsName {
    fn read(node: &Node) -> Result<Self, String> {
        match &node.value {
            Value::Text(text) => master::name(text, &Name::root()).map(|name| DnsName(name.to_lowercase())),
            _ => Err(format!("not a name: {}; write one, as in example.org", node.shown())),
        }
    }
}

impl Leaf for Algorithm {
    fn read(node: &Node) -> Result<Self, String> {
        let found = match &node.value {
            Value::Text(text) => Algorithm::ALL.into_iter().find(|(name, _)| name == text),
            _ => None,
        };
        let names = Algorithm::ALL.map(|(name, _)| name).join(" or ");
        found.map(|(_, it)| it).ok_or_else(|| format!("unknown: {}; write {names}", node.shown()))
    }
}

/// As they would be written.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Effective {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
}

impl From<&Key> for Effective {
    fn from(key: &Key) -> Self {
        Effective {
            key: Some(key.name.to_string()),
            algorithm: Some(key.algorithm.name()),
            secret_file: Some(key.secret.clone()),
        }
    }
}

/// Reads the three.
pub(super) fn read(s: &Section<'_>, r: &mut Reader) -> Written {
    Written {
        name: r.leaf(s, "key"),
        algorithm: r.leaf(s, "algorithm"),
        secret_file: r.leaf(s, "secret_file"),
    }
}

/// The key; says which of the three are missing. `has` knows the keys that are there, rightly or wrongly.
pub(super) fn check(w: &Written, place: &At<()>, has: impl Fn(&str) -> bool, r: &mut Reader) -> Option<Key> {
    let mut missing = |key: &str, advice: &str| {
        if !has(key) {
            r.wrong(place.at, &format!("{}.{key}", place.key), format!("missing; {advice}"));
        }
    };
    if has("key") || has("algorithm") {
        missing("secret_file", "write the file with the key's secret in Base64");
    }
    if has("secret_file") {
        missing("key", "write the key's name, as the server has it");
    }
    Some(Key {
        name: w.name.as_ref()?.value.0.clone(),
        algorithm: w.algorithm.as_ref().map_or_else(Algorithm::default, |it| it.value),
        secret: w.secret_file.as_ref()?.value.clone(),
    })
}
