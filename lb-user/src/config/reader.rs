//! Walks the tree by the schema and collects all that is wrong on the way.

use super::leaf::Leaf;
use super::problem::{Position, Problem, nearest};
use super::schema::Keys;
use super::tree::{Key, Node, Value};

/// A value with its place and key, for messages about it later.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub value: T,
    pub at: Position,
    pub key: String,
}

/// Collects problems.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub problems: Vec<Problem>,
}

/// A map whose keys are those of the schema.
pub(crate) struct Section<'t> {
    /// Its key; empty at the top.
    pub key: String,
    /// Where it begins: at its key, for one that has a key.
    pub at: Position,
    entries: Vec<&'t (Key, Node)>,
}

impl Reader {
    /// Notes that something at a place is wrong.
    pub fn wrong(&mut self, at: Position, key: &str, message: impl Into<String>) {
        self.problems.push(Problem { at: Some(at), key: key.to_owned(), message: message.into() });
    }

    /// A map with the keys of `keys`; others are reported. Nothing at all counts as an empty map.
    pub fn section<'t>(
        &mut self,
        node: &'t Node,
        at: Position,
        key: &str,
        keys: &Keys,
    ) -> Option<Section<'t>> {
        let entries = self.entries(node, key, &format!("write {}", listed(keys.keys)))?;
        let mut known = Vec::new();
        for entry in entries {
            if keys.keys.contains(&entry.0.name.as_str()) {
                known.push(entry);
                continue;
            }
            let advice = match nearest(&entry.0.name, keys.keys.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known here: {}", listed(keys.keys)),
            };
            self.wrong(entry.0.at, &joined(key, &entry.0.name), format!("unknown key; {advice}"));
        }
        Some(Section { key: key.to_owned(), at, entries: known })
    }

    /// The section under a key of another one.
    pub fn subsection<'t>(&mut self, parent: &Section<'t>, name: &str, keys: &Keys) -> Option<Section<'t>> {
        let (at, node) = parent.find(name)?;
        self.section(node, at, &parent.child(name), keys)
    }

    /// The entries of a map with names that the operator chooses, each with its key.
    pub fn named<'t>(&mut self, parent: &Section<'t>, name: &str) -> Vec<(At<String>, &'t Node)> {
        let Some((_, node)) = parent.find(name) else { return Vec::new() };
        let key = parent.child(name);
        let entries = self.entries(node, &key, "write a name, a colon and a map for each");
        entries
            .unwrap_or_default()
            .iter()
            .map(|(name, node)| {
                let key = joined(&key, &name.name);
                (At { value: name.name.clone(), at: name.at, key }, node)
            })
            .collect()
    }

    /// The nodes of a list of maps, each with its key.
    pub fn items<'t>(&mut self, parent: &Section<'t>, name: &str) -> Vec<At<&'t Node>> {
        let Some((_, node)) = parent.find(name) else { return Vec::new() };
        let key = parent.child(name);
        match &node.value {
            Value::Nothing => Vec::new(),
            Value::List(list) => numbered(list, &key),
            _ => {
                self.wrong(
                    node.at,
                    &key,
                    format!("not a list: {}; begin each entry with a dash", node.shown()),
                );
                Vec::new()
            }
        }
    }

    /// The value under a key, if there is one and it is right.
    pub fn leaf<T: Leaf>(&mut self, section: &Section<'_>, name: &str) -> Option<At<T>> {
        let (_, node) = section.find(name)?;
        self.value(node, section.child(name))
    }

    /// The value under a key that must be there; `advice` says what to write.
    pub fn required<T: Leaf>(&mut self, section: &Section<'_>, name: &str, advice: &str) -> Option<At<T>> {
        if section.find(name).is_none() {
            self.missing(section, name, advice);
        }
        self.leaf(section, name)
    }

    /// Notes that a key is missing.
    pub fn missing(&mut self, section: &Section<'_>, name: &str, advice: &str) {
        self.wrong(section.at, &section.child(name), format!("missing; {advice}"));
    }

    /// The values of the list under a key; `None` if the key is absent or no list.
    pub fn list<T: Leaf>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        example: &str,
    ) -> Option<At<Vec<At<T>>>> {
        let (at, node) = section.find(name)?;
        let key = section.child(name);
        let Value::List(list) = &node.value else {
            let message = format!("not a list: {}; write it in brackets, as in {example}", node.shown());
            self.wrong(node.at, &key, message);
            return None;
        };
        let value =
            numbered(list, &key).into_iter().filter_map(|item| self.value(item.value, item.key)).collect();
        Some(At { value, at, key })
    }

    /// Like [`Reader::list`], where a single value stands for a list of one.
    pub fn one_or_more<T: Leaf>(&mut self, section: &Section<'_>, name: &str) -> Option<At<Vec<At<T>>>> {
        let (at, node) = section.find(name)?;
        if matches!(node.value, Value::List(_)) {
            return self.list(section, name, "");
        }
        let value = self.value(node, section.child(name))?;
        Some(At { value: vec![value], at, key: section.child(name) })
    }

    /// The value of a node, if it is right.
    pub fn value<T: Leaf>(&mut self, node: &Node, key: String) -> Option<At<T>> {
        let read = match node.value {
            Value::Nothing => Err("has no value; write one or remove the key".to_owned()),
            _ => T::read(node),
        };
        match read {
            Ok(value) => Some(At { value, at: node.at, key }),
            Err(message) => {
                self.wrong(node.at, &key, message);
                None
            }
        }
    }

    fn entries<'t>(&mut self, node: &'t Node, key: &str, advice: &str) -> Option<&'t [(Key, Node)]> {
        match &node.value {
            Value::Nothing => Some(&[]),
            Value::Map(entries) => Some(entries),
            _ => {
                self.wrong(node.at, key, format!("not a map: {}; {advice}", node.shown()));
                None
            }
        }
    }
}

impl<'t> Section<'t> {
    /// Is this key written, rightly or wrongly?
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Where a key stands, if it is there.
    pub fn place(&self, name: &str) -> Option<Position> {
        self.find(name).map(|(place, _)| place)
    }

    fn child(&self, name: &str) -> String {
        joined(&self.key, name)
    }

    fn find(&self, name: &str) -> Option<(Position, &'t Node)> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(key, node)| (key.at, node))
    }
}

fn numbered<'t>(list: &'t [Node], key: &str) -> Vec<At<&'t Node>> {
    list.iter()
        .enumerate()
        .map(|(i, node)| At { value: node, at: node.at, key: format!("{key}[{i}]") })
        .collect()
}

pub(crate) fn joined(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}

fn listed(keys: &[&str]) -> String {
    keys.join(", ")
}
