//! The manifest as YAML: what is wrong is said all at once, each with its line and column, as for the configuration.

use std::collections::BTreeMap;

use super::{Manifest, PoolManifest, short};
use crate::config::check_pools::{self, LARGEST_WEIGHT};
use crate::config::reader::{At, Reader, Section, joined};
use crate::config::schema::{self, Keys};
use crate::config::written::{self, Maybe};
use crate::config::{ConfigErrors, Position, Problem, tree};
use crate::model::Generation;

const TOP: Keys = Keys { path: "", keys: &["version", "pools"] };
const POOL: Keys =
    Keys { path: "pools.*", keys: &["seed", "size", "generation", "hosts", "prepared", "old"] };
const PREPARED: Keys = Keys { path: "pools.*.prepared", keys: &["number", "hosts"] };
const OLD: Keys = Keys { path: "pools.*.old[]", keys: &["number", "hosts"] };

/// Every map of the document with its keys.
pub const ALL: &[Keys] = &[TOP, POOL, schema::MEMBER, PREPARED, OLD];

const HEADER: &str = "\
# Pools of the load balancer. Change them by `lb pool`, `lb drain`, `lb undrain` and `lb weight`: these go in steps that
# break no connection.
";

impl Manifest {
    /// Checks a document; `file` is what messages call it.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigErrors> {
        let mut r = Reader::default();
        let manifest = match tree::parse(text) {
            Ok(tree) => read(&tree, &mut r),
            Err(problem) => {
                r.problems.push(problem);
                None
            }
        };
        let mut problems = r.problems;
        match manifest {
            Some(manifest) if problems.is_empty() => Ok(manifest),
            _ => {
                problems.sort_by_key(|problem| problem.at);
                Err(ConfigErrors { file: file.to_owned(), problems })
            }
        }
    }

    /// The document.
    pub fn print(&self) -> String {
        let body = serde_saphyr::to_string(self).expect("plain data can be written");
        format!("{HEADER}{body}")
    }

    /// What is wrong with this manifest, were it a document.
    pub fn problems(&self) -> Vec<Problem> {
        Self::parse("", &self.print()).err().map(|errors| errors.problems).unwrap_or_default()
    }
}

fn read(tree: &tree::Node, r: &mut Reader) -> Option<Manifest> {
    let top = r.section(tree, Position { line: 1, column: 1 }, "", &TOP)?;
    let version: Maybe<u64> = r.required(&top, "version", "write 1, and one more with every change");
    if let Some(zero) = version.as_ref().filter(|version| version.value == 0) {
        r.wrong(zero.at, &zero.key, "0 is no version; write 1 or more");
    }
    if !top.has("pools") {
        r.missing(&top, "pools", "write at least {} for none");
    }
    let pools = written::sections(r, &top, "pools", &POOL, pool);
    let pools = pools.into_iter().map(|(name, pool)| (name.value, pool)).collect();
    Some(Manifest { version: version?.value, pools })
}

fn pool(s: &Section<'_>, _: At<()>, r: &mut Reader) -> PoolManifest {
    if !s.has("hosts") {
        r.missing(s, "hosts", "list at least one host with its address");
    }
    let name = At { value: String::new(), at: s.at, key: s.key.clone() };
    let empty = s.place("hosts").filter(|_| r.named(s, "hosts").is_empty());
    let members = written::sections(r, s, "hosts", &schema::MEMBER, written::member);
    let hosts = check_pools::hosts(&name, empty, &members, r);
    let written_size = r.leaf(s, "size");
    let size = check_pools::size(&name, &written_size, &hosts, r);
    let number = r.required(s, "generation", "write 1, and another one with every change of hosts");
    let prepared = r.subsection(s, "prepared", &PREPARED).and_then(|s| generation(&s, size, r));
    let old = written::listed(r, s, "old", &OLD, |s, _, r| generation(s, size, r));
    let mut numbers = vec![self::number(&number, r)];
    numbers.extend(prepared.iter().chain(old.iter().flatten()).map(|(number, _)| number.clone()));
    distinct(&numbers, r);
    let prepared = prepared.map(|(number, hosts)| prepared_of(number, hosts, &members, r));
    let bare =
        |(number, hosts): (At<u16>, Weights)| Generation { number: number.value, hosts: weights(hosts) };
    PoolManifest {
        seed: r.leaf(s, "seed").map_or(0, |seed: At<u64>| seed.value),
        size,
        generation: numbers[0].value,
        hosts,
        prepared,
        old: old.into_iter().flatten().map(bare).collect(),
    }
}

type Weights = Vec<(At<String>, u32)>;

fn generation(s: &Section<'_>, size: u32, r: &mut Reader) -> Option<(At<u16>, Weights)> {
    let number = r.required(s, "number", "write the number of this generation");
    let number = self::number(&number, r);
    let mut hosts = Vec::new();
    for (name, node) in r.named(s, "hosts") {
        let Some(weight) = r.value::<u32>(node, name.key.clone()) else { continue };
        if !(1..=LARGEST_WEIGHT).contains(&weight.value) {
            let message = format!("weight {}; write 1 to {LARGEST_WEIGHT}", weight.value);
            r.wrong(weight.at, &weight.key, message);
        }
        hosts.push((name, weight.value));
    }
    let shares: u64 = hosts.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if r.named(s, "hosts").is_empty() {
        let at = s.place("hosts").unwrap_or(s.at);
        r.wrong(at, &joined(&s.key, "hosts"), "a generation without hosts; list them, each with its weight");
    } else if shares > u64::from(size) {
        let message = format!("{size} rows are too few for weights of {shares} in all; write smaller ones");
        r.wrong(s.place("hosts").unwrap_or(s.at), &joined(&s.key, "hosts"), message);
    }
    Some((number, hosts))
}

fn number(written: &Maybe<u32>, r: &mut Reader) -> At<u16> {
    let value = check_pools::generation(written, r);
    let (at, key) = written.as_ref().map(|written| (written.at, written.key.clone())).unwrap_or_default();
    if written.is_some() && short(value) == 0 {
        let message =
            format!("{value} is a multiple of 4096, which looks like a probe in IPv4; write another");
        r.wrong(at, &key, message);
    }
    At { value, at, key }
}

/// Headers must tell all generations in force apart.
fn distinct(numbers: &[At<u16>], r: &mut Reader) {
    let mut first: BTreeMap<u16, &At<u16>> = BTreeMap::new();
    for number in numbers.iter().filter(|number| !number.key.is_empty()) {
        let Some(other) = first.get(&short(number.value)) else {
            first.insert(short(number.value), number);
            continue;
        };
        let message = match other.value == number.value {
            true => format!("{} is the number of {} already; write another", number.value, other.key),
            false => format!(
                "{} and {} ({}) are the same in the 12 bits that IPv4 has for them; write another",
                number.value, other.value, other.key
            ),
        };
        r.wrong(number.at, &number.key, message);
    }
}

fn prepared_of(
    number: At<u16>,
    hosts: Weights,
    members: &[(At<String>, written::Member)],
    r: &mut Reader,
) -> Generation {
    for (name, _) in &hosts {
        if !members.iter().any(|(member, _)| member.value == name.value) {
            let message =
                format!("{:?} is no host of this pool; add it to hosts, in state drain", name.value);
            r.wrong(name.at, &name.key, message);
        }
    }
    Generation { number: number.value, hosts: weights(hosts) }
}

fn weights(hosts: Weights) -> BTreeMap<String, u32> {
    hosts.into_iter().map(|(name, weight)| (name.value, weight)).collect()
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
