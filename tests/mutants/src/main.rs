//! Breaks decisions on purpose, one at a time, and tells which faults no test notices.
//!
//! cargo-mutants says what to break; to that come faults of our own (conditions that are always true or false, statements
//! left out, limits, numbers, variants). But for the few that must be compiled by themselves, all of them are compiled
//! together, each behind a question for its number, in a copy of the checkout below `target/mutants`. So a fault costs one
//! run of the tests that reach it, not a build.
//!
//! ```text
//! modules.txt ─→ mutant (list) ─→ schema (one text) ─→ tree (build) ─→ tests_of (who notices) ─→ survivors.txt
//! ```

mod mutant;
mod schema;
mod source;
mod survivors;
mod tests_of;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;

use mutant::{Edit, Mutant};
use source::Source;
use survivors::Survivors;
use tests_of::Tests;
use tree::{Package, Tree};

/// Of the faults that change behaviour, so many percent at least are to be noticed.
const LEAST: f64 = 92.0;

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It does not compile.
    NotViable,
    /// A test fails.
    Caught,
    /// No test fails, though some reach it.
    Missed,
    /// No test reaches it.
    NotReached,
}

struct Options {
    packages: BTreeSet<String>,
    files: BTreeSet<String>,
    json: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let options = Options::from(env::args().skip(1))?;
    let checkout = env::current_dir()?;
    let here = checkout.join("tests/mutants");
    let known = read(&here.join("survivors.txt"), survivors::parse)?;
    let packages = read(&here.join("modules.txt"), |text| modules(&checkout, text, &options))?;
    if packages.is_empty() {
        bail!("nothing to break: tests/mutants/modules.txt has none of these");
    }
    let began = Instant::now();
    let tree = Tree::of(&checkout)?;
    let mut all = Vec::new();
    for package in &packages {
        all.extend(break_package(&tree, package)?);
    }
    Ok(report(&all, &known, &options, began))
}

fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

impl Options {
    fn from(mut words: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options { packages: BTreeSet::new(), files: BTreeSet::new(), json: false };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--crate" => drop(options.packages.insert(words.next().context("--crate: write its name")?)),
                "--format" => match words.next().as_deref() {
                    Some("json") => options.json = true,
                    Some("text") => options.json = false,
                    _ => bail!("--format: write text or json"),
                },
                option if option.starts_with('-') => bail!("unknown: {option}"),
                _ => drop(options.files.insert(word)),
            }
        }
        Ok(options)
    }

    fn wants(&self, package: &str, file: &str) -> bool {
        (self.packages.is_empty() || self.packages.contains(package))
            && (self.files.is_empty() || self.files.contains(file))
    }
}

/// Reads which files have decisions: lines `PACKAGE FOLDER TARGETS`, each with lines of its files below, indented.
fn modules(checkout: &Path, text: &str, options: &Options) -> Result<Vec<Package>> {
    let mut packages: Vec<Package> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !line.starts_with(' ') {
            let [name, folder, targets @ ..] = &words[..] else { bail!("no folder: {line}") };
            let targets = targets.iter().map(ToString::to_string).collect();
            packages.push(Package {
                name: name.to_string(),
                folder: folder.to_string(),
                targets,
                files: Vec::new(),
            });
            continue;
        }
        let package = packages.last_mut().context("a file before any package")?;
        let file = format!("{}/{}", package.folder, words[0]);
        if !checkout.join(&file).is_file() {
            bail!("{file} is not there; if it has moved, write where it is");
        }
        if options.wants(&package.name, &file) {
            package.files.push(file);
        }
    }
    packages.retain(|package| !package.files.is_empty());
    Ok(packages)
}

fn break_package(tree: &Tree, package: &Package) -> Result<Vec<(Mutant, Fate)>> {
    let (sources, mutants) = mutant::all(&tree.root, &package.name, &package.folder, &package.files)?;
    let (programs, refused) = tree.build(package, &sources, &mutants)?;
    let folder = tree.root.join(&package.folder);
    let tests = Tests::of(programs, folder, &tree.root.join("../reached"))?;
    eprintln!("mutants: {}: {} tests, {} faults", package.name, tests.all().len(), mutants.len());
    let mut all: Vec<(Mutant, Fate)> = Vec::new();
    let (mut file, mut texts) = ("", BTreeMap::new());
    for mutant in &mutants {
        if mutant.file != file {
            file = &mutant.file;
            eprintln!("mutants: {file}");
        }
        let fate = match &mutant.edit {
            _ if refused.contains(&mutant.id) => Fate::NotViable,
            Edit::Text(..) => {
                texts.entry(mutant.file.as_str()).or_insert_with(Vec::new).push(mutant);
                continue;
            }
            _ => judge(&tests, mutant)?,
        };
        if matches!(fate, Fate::Missed | Fate::NotReached) {
            eprintln!("mutants: line {}: not noticed: {}", mutant.line, mutant.name());
        }
        all.push((mutant.clone(), fate));
    }
    for (file, texts) in texts {
        eprintln!("mutants: {file}: {} that are built by themselves", texts.len());
        all.extend(break_alone(tree, package, &sources[file], &texts, &tests)?);
    }
    all.sort_by_key(|(mutant, _)| mutant.id);
    Ok(all)
}

fn judge(tests: &Tests, mutant: &Mutant) -> Result<Fate> {
    let reach = tests.reach(mutant.id);
    Ok(match reach.is_empty() {
        true => Fate::NotReached,
        false if tests.notice(&reach, &mutant.module(), mutant.id)? => Fate::Caught,
        false => Fate::Missed,
    })
}

/// Faults of a file that are built one by one. All tests are asked: most of these are constants, which tell nobody that they
/// are used.
fn break_alone(
    tree: &Tree,
    package: &Package,
    source: &Source,
    texts: &[&Mutant],
    tests: &Tests,
) -> Result<Vec<(Mutant, Fate)>> {
    let Some(file) = texts.first().map(|mutant| mutant.file.as_str()) else { return Ok(Vec::new()) };
    let before = fs::read_to_string(tree.root.join(file))?;
    let mut all = Vec::new();
    for mutant in texts {
        let Edit::Text(at, new) = &mutant.edit else { continue };
        let text = format!("{}{new}{}", &source.text[..at.start], &source.text[at.end..]);
        let fate = match tree.build_with(package, file, &text)? {
            None => Fate::NotViable,
            Some(programs) => {
                let tests = tests.with(programs);
                if tests.notice(tests.all(), &mutant.module(), 0)? { Fate::Caught } else { Fate::Missed }
            }
        };
        all.push(((*mutant).clone(), fate));
    }
    tree.put(file, before.as_bytes())?;
    Ok(all)
}

/// Prints what became of all, and whether all is well.
fn report(all: &[(Mutant, Fate)], known: &Survivors, options: &Options, began: Instant) -> bool {
    let key = |mutant: &Mutant| (mutant.file.clone(), mutant.name());
    let survives = |fate: Fate| matches!(fate, Fate::Missed | Fate::NotReached);
    let new: Vec<_> =
        all.iter().filter(|(m, fate)| survives(*fate) && !known.contains_key(&key(m))).collect();
    let here: BTreeMap<_, _> = all.iter().map(|(mutant, fate)| (key(mutant), *fate)).collect();
    let files: BTreeSet<&str> = all.iter().map(|(mutant, _)| mutant.file.as_str()).collect();
    let whole = options.packages.is_empty() && options.files.is_empty();
    let stale: Vec<_> = known
        .keys()
        .filter(|(file, _)| whole || files.contains(file.as_str()))
        .filter(|entry| !here.get(*entry).is_some_and(|fate| survives(*fate)))
        .collect();
    let mut rows = Vec::new();
    for file in files.iter().copied().chain(["all"]) {
        let of_file: Vec<_> = all.iter().filter(|(mutant, _)| file == "all" || mutant.file == file).collect();
        let count = |fate: Fate| of_file.iter().filter(|(_, is)| *is == fate).count();
        let viable = of_file.len() - count(Fate::NotViable);
        let same = of_file.iter().filter(|(mutant, fate)| {
            survives(*fate) && known.get(&key(mutant)).is_some_and(|kind| !kind.counts())
        });
        rows.push(Row {
            file,
            mutants: of_file.len(),
            viable,
            caught: count(Fate::Caught),
            same: same.count(),
        });
    }
    let share = rows.last().map_or(0.0, Row::share);
    if options.json {
        let row = |row: &Row<'_>| {
            json!({"file": row.file, "mutants": row.mutants, "viable": row.viable, "caught": row.caught,
                "equivalent": row.same, "percent": row.share()})
        };
        let survivor = |(mutant, fate): &&(Mutant, Fate)| json!({"file": mutant.file, "line": mutant.line, "name": mutant.name(), "reached": *fate == Fate::Missed});
        let value = json!({
            "files": rows.iter().map(row).collect::<Vec<_>>(),
            "new": new.iter().map(survivor).collect::<Vec<_>>(),
            "stale": stale.iter().map(|(file, name)| json!({"file": file, "name": name})).collect::<Vec<_>>(),
            "seconds": began.elapsed().as_secs(),
        });
        println!("{value:#}");
    } else {
        print(&rows, &new, &stale, began);
    }
    new.is_empty() && stale.is_empty() && share >= LEAST
}

struct Row<'a> {
    file: &'a str,
    mutants: usize,
    viable: usize,
    caught: usize,
    /// Survivors that change nothing.
    same: usize,
}

impl Row<'_> {
    /// Percent of the faults that change behaviour.
    fn share(&self) -> f64 {
        100.0 * self.caught as f64 / (self.viable - self.same).max(1) as f64
    }
}

fn print(rows: &[Row<'_>], new: &[&(Mutant, Fate)], stale: &[&(String, String)], began: Instant) {
    let mut file = "";
    for (mutant, fate) in new {
        if mutant.file != file {
            file = &mutant.file;
            println!("{file}");
        }
        let reached = if *fate == Fate::NotReached { ", and reaches it" } else { "" };
        println!("  {}", mutant.name());
        println!("    # line {}: no test notices it{reached}", mutant.line);
    }
    for (file, name) in stale {
        println!("{file}: is in the list, but no fault of this name survives: {name}");
    }
    println!(
        "{:<40} {:>7} {:>7} {:>7} {:>10} {:>7}",
        "FILE", "FAULTS", "VIABLE", "CAUGHT", "EQUIVALENT", "PERCENT"
    );
    for row in rows {
        println!(
            "{:<40} {:>7} {:>7} {:>7} {:>10} {:>7.1}",
            row.file,
            row.mutants,
            row.viable,
            row.caught,
            row.same,
            row.share()
        );
    }
    println!(
        "{} not explained, {} in the list that are none, {LEAST} % wanted; {} s",
        new.len(),
        stale.len(),
        began.elapsed().as_secs()
    );
}
