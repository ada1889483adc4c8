//! YAML as a tree of values that know where they stand.
//!
//! serde stops at the first value of a wrong type; this tree takes any value, so that the walk over it can report all
//! that is wrong at once.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::problem::{Position, Problem};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub at: Position,
    pub value: Value,
}

/// What YAML can say.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Nothing,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub name: String,
    pub at: Position,
}

/// Parses one YAML document.
pub(crate) fn parse(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| problem(&error))
}

/// The parser's own message, without its position (said once, in front) and on one line.
fn problem(error: &serde_saphyr::Error) -> Problem {
    let error = error.without_snippet();
    let at = error.location().filter(|at| *at != Location::UNKNOWN).map(Position::from);
    let message = match error {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{key}: written twice in the same map; remove one of the two")
        }
        other => {
            let said = other.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            let said = said.rfind(" at line ").map_or(said.as_str(), |end| &said[..end]);
            format!("not YAML: {said}; mind indentation, quotes and brackets")
        }
    };
    Problem { at, key: String::new(), message }
}

impl Node {
    /// The value as messages show it.
    pub fn shown(&self) -> String {
        match &self.value {
            Value::Nothing => "nothing".into(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(value) => format!("{value:?}"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        Position { line: location.line(), column: location.column() }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node { at: referenced.into(), value })
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<String>::deserialize(deserializer)?;
        Ok(Key { name: value, at: referenced.into() })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Nothing)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Integer(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Integer(value.into()))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
                Ok(Value::Integer(value))
            }

            fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
                value.try_into().map(Value::Integer).map_err(|_| E::custom("number too large"))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(node) = seq.next_element()? {
                    list.push(node);
                }
                Ok(Value::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Value::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(node: &Node) -> &[(Key, Node)] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("not a map: {other:?}"),
        }
    }

    #[test]
    fn every_key_and_value_knows_where_it_stands() {
        let tree = parse("a: 1\nb:\n  - c: \"x\"\n    d: {e: yes, f: ~}\n").unwrap();
        let top = map(&tree);
        assert_eq!((top[0].0.at, top[0].1.at), (at(1, 1), at(1, 4)));
        let Value::List(list) = &top[1].1.value else { panic!("not a list") };
        let item = map(&list[0]);
        assert_eq!((item[0].0.at, item[0].1.at), (at(3, 5), at(3, 8)));
        let flow = map(&item[1].1);
        assert_eq!((flow[0].1.at, flow[0].1.shown().as_str()), (at(4, 12), "\"yes\""));
        assert!(matches!(flow[1].1.value, Value::Nothing));
    }

    #[test]
    fn a_key_written_twice_is_named_with_its_second_place() {
        let problem = parse("pools:\n  web: 1\n  web: 2\n").unwrap_err();
        assert_eq!(problem.at, Some(at(3, 3)));
        assert_eq!(problem.message, "web: written twice in the same map; remove one of the two");
    }

    #[test]
    fn broken_yaml_is_reported_on_one_line() {
        let problem = parse("a: [1, 2\nb: 3\n").unwrap_err();
        assert!(problem.message.starts_with("not YAML: "), "{}", problem.message);
        assert!(!problem.message.contains('\n'), "{}", problem.message);
    }

    fn at(line: u64, column: u64) -> Position {
        Position { line, column }
    }
}
