//! Faults, and where they are put: those that cargo-mutants lists, and ours.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::source::{Bytes, Function, Source, holds};

/// A fault.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Its number; the tests are told it.
    pub id: u32,
    /// The file, from the top of the checkout.
    pub file: String,
    /// The line where it is put.
    pub line: usize,
    /// The function where it is put.
    pub function: String,
    /// What is changed, in words. Unique within its function.
    pub what: String,
    /// How it is put there.
    pub edit: Edit,
}

/// How a fault is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Another expression.
    Expression(Bytes, String),
    /// The function returns this at once.
    Return(Bytes, String),
    /// The function, which returns `impl Iterator`, returns this.
    Iterate(Bytes, String),
    /// A guard is always this.
    Guard(Bytes, bool),
    /// An arm of a match never matches: its guard, or where it would be.
    Arm(ArmGuard),
    /// A statement is left out.
    Statement(Bytes),
    /// Another text, which must be compiled by itself.
    Text(Bytes, String),
}

/// A guard that is there, or the place for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArmGuard {
    /// The guard.
    Guard(Bytes),
    /// Behind the pattern.
    Behind(usize),
}

impl Mutant {
    /// How it is called in the list of survivors.
    pub fn name(&self) -> String {
        match self.function.is_empty() {
            true => self.what.clone(),
            false => format!("{}: {}", self.function, self.what),
        }
    }

    /// The module that its file is, as names of tests begin with it.
    pub fn module(&self) -> String {
        let path = self.file.split_once("/src/").map_or(self.file.as_str(), |(_, path)| path);
        format!("{}::", path.trim_end_matches(".rs").replace('/', "::"))
    }
}

#[derive(Deserialize)]
struct Listed {
    file: String,
    genre: String,
    replacement: String,
    span: Span,
}

#[derive(Deserialize)]
struct Span {
    start: Place,
    end: Place,
}

#[derive(Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

/// All faults of these files of a package.
pub fn all(
    root: &Path,
    package: &str,
    folder: &str,
    files: &[String],
) -> Result<(BTreeMap<String, Source>, Vec<Mutant>)> {
    let mut sources = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(root.join(file)).with_context(|| file.clone())?;
        sources.insert(file.clone(), Source::parse(text).with_context(|| file.clone())?);
    }
    let mut mutants = Vec::new();
    for listed in list(root, package, files)? {
        let source = &sources[&listed.file];
        let at = source.byte(listed.span.start.line, listed.span.start.column)
            ..source.byte(listed.span.end.line, listed.span.end.column);
        let joins_let = source.operators.get(&at.start).is_some_and(|operator| operator.joins_let);
        if joins_let || source.foreign.iter().any(|foreign| holds(foreign, &at)) {
            continue;
        }
        let (what, edit) = placed(source, &listed, &at);
        mutants.push((listed.file, at.start, what, edit));
    }
    let enums = enums(&root.join(folder))?;
    for (file, source) in &sources {
        for own in &source.own {
            let edit = match &own.by {
                None => Edit::Statement(own.at.clone()),
                Some(by) if own.what == "variant" => {
                    let Some((of, variant)) = by.split_once("::") else { continue };
                    let all =
                        enums.get(of).into_iter().flatten().find(|all| all.iter().any(|v| v == variant));
                    let Some(other) = all.and_then(|all| next_of(all, variant)) else { continue };
                    let whole = &source.text[own.at.clone()];
                    let by = format!("{}{other}", whole.strip_suffix(variant).unwrap_or(whole));
                    let what = format!("{of}::{other} for {of}::{variant}");
                    mutants.push((file.clone(), own.at.start, what, Edit::Expression(own.at.clone(), by)));
                    continue;
                }
                Some(by) => Edit::Expression(own.at.clone(), by.clone()),
            };
            mutants.push((file.clone(), own.at.start, own.what.clone(), edit));
        }
    }
    mutants.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    mutants.dedup_by(|a, b| a.0 == b.0 && a.3 == b.3);
    let mutants = numbered(&sources, mutants);
    Ok((sources, mutants))
}

/// The enums of a package: their variants without fields, by name.
fn enums(folder: &Path) -> Result<BTreeMap<String, Vec<Vec<String>>>> {
    let mut all: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    let mut folders = vec![folder.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(&path).map_err(Into::into).and_then(Source::parse);
                for (name, variants) in source.with_context(|| path.display().to_string())?.enums {
                    all.entry(name).or_default().push(variants);
                }
            }
        }
    }
    Ok(all)
}

fn numbered(sources: &BTreeMap<String, Source>, mutants: Vec<(String, usize, String, Edit)>) -> Vec<Mutant> {
    let mut seen: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    let number = |(id, (file, at, what, edit)): (usize, (String, usize, String, Edit))| {
        let source = &sources[&file];
        let function = source.function(&(at..at)).map(|function| function.name.clone()).unwrap_or_default();
        let count = seen.entry((file.clone(), function.clone(), what.clone())).or_default();
        *count += 1;
        let what = if *count == 1 { what } else { format!("{what} (#{count})") };
        Mutant { id: id as u32 + 1, line: source.line(at), file, function, what, edit }
    };
    mutants.into_iter().enumerate().map(number).collect()
}

fn next_of<'a>(all: &'a [String], variant: &str) -> Option<&'a String> {
    let at = all.iter().position(|other| other == variant)?;
    Some(&all[(at + 1) % all.len()]).filter(|other| *other != variant)
}

fn list(root: &Path, package: &str, files: &[String]) -> Result<Vec<Listed>> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["mutants", "--list", "--json", "--no-config", "--package", package]);
    for file in files {
        command.args(["--file", file]);
    }
    let output = command.output().context("cargo mutants")?;
    if !output.status.success() {
        bail!("cargo mutants --list: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("cargo mutants --list: not as expected")
}

/// Where a fault of cargo-mutants is, as a choice at run time where that is possible.
fn placed(source: &Source, listed: &Listed, at: &Bytes) -> (String, Edit) {
    let by = &listed.replacement;
    let old = source.shown(at);
    let text = |at: Bytes| &source.text[at];
    let alone = |what: String| (what, Edit::Text(at.clone(), by.clone()));
    match listed.genre.as_str() {
        "FnValue" => {
            let what = format!("returns {by}");
            match source.function(at) {
                Some(Function { opaque: None, inside, .. }) => {
                    (what, Edit::Return(inside.clone(), by.clone()))
                }
                Some(Function { opaque: Some(of), inside, .. }) if of.starts_with("Iterator<") => {
                    (what, Edit::Iterate(inside.clone(), by.clone()))
                }
                _ => alone(what),
            }
        }
        "BinaryOperator" | "UnaryOperator" => {
            let Some(operator) = source.operators.get(&at.start) else {
                return alone(format!("{by:?} for {old}"));
            };
            let (all, sign) = (&operator.all, &operator.sign);
            let what = format!("{by:?} for {old} in {}", source.shown(all));
            if !operator.is_free || sign != at {
                return alone(what);
            }
            let new = format!("{}{by}{}", text(all.start..sign.start), text(sign.end..all.end));
            (what, Edit::Expression(all.clone(), new))
        }
        "MatchArmGuard" => {
            let what = format!("guard is {by}: {old}");
            match source.guards.get(&at.start) {
                Some(guard) => (what, Edit::Guard(guard.clone(), by == "true")),
                None => alone(what),
            }
        }
        "MatchArm" => match source.arms.get(&at.start) {
            Some(arm) => {
                let place = match &arm.guard {
                    Some(guard) => ArmGuard::Guard(guard.clone()),
                    None => ArmGuard::Behind(arm.pattern.end),
                };
                (format!("without the arm {}", source.shown(&arm.pattern)), Edit::Arm(place))
            }
            None => alone(format!("without {old}")),
        },
        "StructField" => {
            let what = format!("without the field {old}");
            match source.fields.get(&at.start) {
                Some(all) => {
                    let new = format!("{}{by}{}", text(all.start..at.start), text(at.end..all.end));
                    (what, Edit::Expression(all.clone(), new))
                }
                None => alone(what),
            }
        }
        _ => alone(format!("{by:?} for {old}")),
    }
}
