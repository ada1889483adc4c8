//! All faults of a file in one text, each behind a question: is it this one's turn?

use std::collections::{BTreeMap, BTreeSet};

use crate::mutant::{ArmGuard, Edit, Mutant};
use crate::source::{Bytes, Source, holds};

/// What asks for the turn of a fault.
const ASK: &str = "crate::mutants_of_this_run::is";

/// What holds one iterator of several.
const BOXED: &str = "let boxed: std::boxed::Box<dyn Iterator<Item = _> + '_> = ";

/// A text with faults, and where each of them stands in it.
#[derive(Debug, Default)]
pub struct Schema {
    /// The text.
    pub text: String,
    /// What a fault says instead.
    alternatives: Vec<(Bytes, u32)>,
    /// All that belongs to a place, with its faults.
    places: Vec<(Bytes, Vec<u32>)>,
    /// Where arms may be missing.
    arms: Vec<(usize, u32)>,
}

/// What goes to one place: of equal ones, in this order from the outside to the inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Constness,
    Return,
    Statement,
    Guard,
    Expression,
}

struct Node<'a> {
    at: Bytes,
    kind: Kind,
    mutants: Vec<&'a Mutant>,
}

/// The text of a file with these faults; functions named in `constant` stay so.
pub fn of<'a>(source: &Source, mutants: &[&'a Mutant], constant: &BTreeSet<String>) -> Schema {
    let mut nodes: BTreeMap<(usize, std::cmp::Reverse<usize>, Kind), Node<'a>> = BTreeMap::new();
    let mut add = |at: &Bytes, kind, mutant: Option<&'a Mutant>| {
        let node = nodes.entry((at.start, std::cmp::Reverse(at.end), kind));
        node.or_insert_with(|| Node { at: at.clone(), kind, mutants: Vec::new() }).mutants.extend(mutant);
    };
    for mutant in mutants {
        match &mutant.edit {
            Edit::Expression(at, _) => add(at, Kind::Expression, Some(mutant)),
            Edit::Return(at, _) | Edit::Iterate(at, _) => add(at, Kind::Return, Some(mutant)),
            Edit::Guard(at, _) | Edit::Arm(ArmGuard::Guard(at)) => add(at, Kind::Guard, Some(mutant)),
            Edit::Arm(ArmGuard::Behind(at)) => add(&(*at..*at), Kind::Guard, Some(mutant)),
            Edit::Statement(at) => add(at, Kind::Statement, Some(mutant)),
            Edit::Text(..) => continue,
        }
    }
    for function in source.functions.iter().filter(|function| !constant.contains(last(&function.name))) {
        if let Some(constness) = &function.constness {
            add(constness, Kind::Constness, None);
        }
    }
    let nodes: Vec<Node<'_>> = nodes.into_values().collect();
    let mut schema = Schema::default();
    schema.write(&source.text, 0..source.text.len(), &nodes);
    schema
}

/// The name of a function without that of its type.
pub fn last(name: &str) -> &str {
    name.rsplit("::").next().unwrap_or(name)
}

impl Schema {
    /// The faults that stand at these bytes of the text: one that says something there, else all of the innermost place.
    pub fn at(&self, bytes: &Bytes) -> (bool, Vec<u32>) {
        let said = self.alternatives.iter().filter(|(at, _)| holds(at, bytes));
        if let Some((_, id)) = said.min_by_key(|(at, _)| at.len()) {
            return (true, vec![*id]);
        }
        let places = self.places.iter().filter(|(at, ids)| holds(at, bytes) && !ids.is_empty());
        (false, places.min_by_key(|(at, _)| at.len()).map(|(_, ids)| ids.clone()).unwrap_or_default())
    }

    /// The arms that may be missing between these bytes.
    pub fn arms(&self, bytes: &Bytes) -> Vec<u32> {
        self.arms.iter().filter(|(at, _)| bytes.contains(at)).map(|(_, id)| *id).collect()
    }

    fn write(&mut self, text: &str, all: Bytes, nodes: &[Node<'_>]) {
        let (mut at, mut nodes) = (all.start, nodes);
        while let [node, rest @ ..] = nodes {
            self.text += &text[at..node.at.start];
            let inside = rest.iter().take_while(|inner| holds(&node.at, &inner.at)).count();
            let began = self.text.len();
            self.node(text, node, &rest[..inside]);
            self.places.push((began..self.text.len(), node.mutants.iter().map(|mutant| mutant.id).collect()));
            (at, nodes) = (node.at.end, &rest[inside..]);
        }
        self.text += &text[at..all.end];
    }

    fn node(&mut self, text: &str, node: &Node<'_>, inner: &[Node<'_>]) {
        match node.kind {
            Kind::Constness => {}
            Kind::Return => {
                let mut iterates = false;
                for mutant in &node.mutants {
                    match &mutant.edit {
                        Edit::Return(_, value) => self.alternative(mutant, "return ", value, ";"),
                        Edit::Iterate(_, value) => {
                            self.text += if iterates { " else " } else { BOXED };
                            self.alternative(mutant, "std::boxed::Box::new(", value, ")");
                            iterates = true;
                        }
                        _ => {}
                    }
                }
                self.text += if iterates { " else { std::boxed::Box::new({" } else { "" };
                self.write(text, node.at.clone(), inner);
                self.text += if iterates { "}) }; boxed" } else { "" };
            }
            Kind::Statement => {
                let ids: Vec<_> = node.mutants.iter().map(|mutant| asked(mutant)).collect();
                self.text += &format!("if !({}) {{", ids.join(" || "));
                self.write(text, node.at.clone(), inner);
                self.text += "}";
            }
            Kind::Guard => {
                let is = |value: fn(&Edit) -> bool| -> String {
                    let which = node.mutants.iter().filter(|mutant| value(&mutant.edit));
                    which
                        .map(|mutant| asked(mutant))
                        .fold("false".into(), |all, one| format!("{all} || {one}"))
                };
                let always = is(|edit| matches!(edit, Edit::Guard(_, true)));
                let never = is(|edit| !matches!(edit, Edit::Guard(_, true)));
                if node.at.is_empty() {
                    self.arms.extend(node.mutants.iter().map(|mutant| (self.text.len(), mutant.id)));
                    self.text += &format!(" if !({never})");
                    self.write(text, node.at.clone(), inner);
                    return;
                }
                self.text += &format!("(({always}) || !({never}) && (");
                self.write(text, node.at.clone(), inner);
                self.text += "))";
            }
            Kind::Expression => {
                self.text += "(";
                for mutant in &node.mutants {
                    if let Edit::Expression(_, new) = &mutant.edit {
                        self.alternative(mutant, "(", new, ")");
                        self.text += " else ";
                    }
                }
                self.text += "{(";
                self.write(text, node.at.clone(), inner);
                self.text += ")})";
            }
        }
    }

    fn alternative(&mut self, mutant: &Mutant, before: &str, new: &str, behind: &str) {
        self.text += &format!("if {} {{{before}", asked(mutant));
        let began = self.text.len();
        self.text += new;
        self.alternatives.push((began..self.text.len(), mutant.id));
        self.text += &format!("{behind}}}");
    }
}

fn asked(mutant: &Mutant) -> String {
    format!("{ASK}({})", mutant.id)
}

/// What goes to the end of a crate with so many faults.
pub fn runtime(count: usize) -> String {
    RUNTIME.replace("COUNT", &(count + 1).to_string())
}

/// What goes to its beginning.
pub const ALLOW: &str =
    "#![allow(warnings, arithmetic_overflow, unconditional_panic, overflowing_literals, clippy::all)]\n";

const RUNTIME: &str = r#"
#[doc(hidden)]
pub mod mutants_of_this_run {
    extern crate std;
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

    const NOT_READ: u32 = u32::MAX;
    const NOTING: u32 = u32::MAX - 1;
    static TURN: AtomicU32 = AtomicU32::new(NOT_READ);
    static SEEN: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];

    #[inline]
    pub fn is(id: u32) -> bool {
        let turn = TURN.load(Relaxed);
        turn == id || (turn >= NOTING && slow(id))
    }

    #[cold]
    fn slow(id: u32) -> bool {
        if TURN.load(Relaxed) == NOT_READ {
            let turn = match std::env::var("LB_MUTANT") {
                Ok(turn) => turn.parse().unwrap(),
                Err(_) if std::env::var_os("LB_MUTANTS_REACHED").is_some() => NOTING,
                Err(_) => 0,
            };
            TURN.store(turn, Relaxed);
        }
        if TURN.load(Relaxed) == NOTING && !SEEN[id as usize].swap(true, Relaxed) {
            let path = std::env::var_os("LB_MUTANTS_REACHED").unwrap();
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(std::format!("{id}\n").as_bytes()).unwrap();
        }
        TURN.load(Relaxed) == id
    }
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "const fn f(a: u8, b: u8) -> bool { match a { 1 if b > 0 => true, 2 => { go(); a + b == 3 } _ => false } }";

    fn at(part: &str) -> Bytes {
        let start = TEXT.find(part).unwrap();
        start..start + part.len()
    }

    fn mutants(edits: Vec<Edit>) -> Vec<Mutant> {
        let mutant = |(id, edit)| Mutant {
            id: id as u32 + 1,
            file: "f.rs".into(),
            line: 1,
            function: "f".into(),
            what: String::new(),
            edit,
        };
        edits.into_iter().enumerate().map(mutant).collect()
    }

    fn schema(edits: Vec<Edit>, constant: &[&str]) -> Schema {
        let source = Source::parse(TEXT.into()).unwrap();
        let mutants = mutants(edits);
        of(&source, &mutants.iter().collect::<Vec<_>>(), &constant.iter().map(ToString::to_string).collect())
    }

    /// The questions, in short.
    fn short(schema: &Schema) -> String {
        schema.text.replace(ASK, "is")
    }

    #[test]
    fn without_faults_only_constness_goes() {
        assert_eq!(schema(vec![], &["f"]).text, TEXT);
        assert_eq!(schema(vec![], &[]).text, TEXT.replace("const ", " "));
    }

    #[test]
    fn faults_of_one_place_stand_side_by_side_and_inner_ones_inside() {
        let sum = |new: &str| Edit::Expression(at("a + b"), new.into());
        let edits = vec![sum("a - b"), sum("a * b"), Edit::Expression(at("a + b == 3"), "a + b != 3".into())];
        let text = short(&schema(edits, &["f"]));
        let inner = "(if is(1) {(a - b)} else if is(2) {(a * b)} else {(a + b)})";
        let all = format!("(if is(3) {{(a + b != 3)}} else {{({inner} == 3)}})");
        assert_eq!(text, TEXT.replace("a + b == 3", &all));
    }

    #[test]
    fn guards_arms_statements_and_results_are_chosen_too() {
        let edits = vec![
            Edit::Guard(at("b > 0"), true),
            Edit::Guard(at("b > 0"), false),
            Edit::Arm(ArmGuard::Guard(at("b > 0"))),
            Edit::Arm(ArmGuard::Behind(at("2 =>").start + 1)),
            Edit::Statement(at("go();")),
            Edit::Return(at(&TEXT[TEXT.find("match").unwrap()..TEXT.len() - 2]), "true".into()),
        ];
        let text = short(&schema(edits, &["f"]))
            .replace("if is(6) {return true;}match", "match")
            .replace("((false || is(1)) || !(false || is(2) || is(3)) && (b > 0))", "b > 0")
            .replace("2 if !(false || is(4)) =>", "2 =>")
            .replace("if !(is(5)) {go();}", "go();");
        assert_eq!(text, TEXT);
    }

    #[test]
    fn what_does_not_compile_is_found_by_where_it_stands() {
        let edits = vec![
            Edit::Expression(at("a + b"), "a - b".into()),
            Edit::Expression(at("a + b == 3"), "wrong".into()),
            Edit::Arm(ArmGuard::Behind(at("2 =>").start + 1)),
        ];
        let schema = schema(edits, &["f"]);
        let place = |part: &str| {
            let start = schema.text.find(part).unwrap();
            start..start + part.len()
        };
        assert_eq!(schema.at(&place("wrong")), (true, vec![2]));
        assert_eq!(schema.at(&place("a - b")), (true, vec![1]));
        assert_eq!(schema.at(&place(" == 3")), (false, vec![2]));
        assert_eq!(schema.at(&place("match a")), (false, vec![]));
        assert_eq!(schema.arms(&(0..schema.text.len())), [3]);
        assert_eq!(schema.arms(&place("match a")), [0; 0]);
    }
}
