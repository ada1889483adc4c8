//! A copy of the checkout to break things in, and programs made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::mutant::Mutant;
use crate::schema::{self, Schema};
use crate::source::{Bytes, Source};

/// A package whose decisions are broken.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, from the top of the checkout.
    pub folder: String,
    /// What `cargo test` is to build of it.
    pub targets: Vec<String>,
    /// The files.
    pub files: Vec<String>,
}

/// The copy.
#[derive(Debug)]
pub struct Tree {
    /// Its top.
    pub root: PathBuf,
    /// Where cargo builds.
    target: PathBuf,
}

/// What the compiler calls a match that does not know what to do.
const NOT_EXHAUSTIVE: &str = "E0004";

/// What became of a build.
enum Built {
    /// Test programs.
    Programs(Vec<PathBuf>),
    /// What is wrong: messages, each with the file and bytes that it is about.
    Wrong(Vec<Wrong>),
}

/// What a compiler says.
struct Wrong {
    code: String,
    message: String,
    /// Those that it is about first.
    places: Vec<(String, Bytes)>,
}

impl Tree {
    /// Brings the copy up to date with the checkout. Files that are the same keep their dates, and cargo its results.
    pub fn of(checkout: &Path) -> Result<Tree> {
        let home = checkout.join("target/mutants");
        let tree = Tree { root: home.join("tree"), target: home.join("build") };
        let listed = Command::new("git")
            .current_dir(checkout)
            .args(["ls-files", "-z", "-co", "--exclude-standard"])
            .output()?;
        if !listed.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
        }
        let names = String::from_utf8(listed.stdout)?;
        let names: BTreeSet<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
        for name in names {
            let from = checkout.join(name);
            if from.is_file() {
                tree.put(name, &fs::read(&from)?)?;
            }
        }
        Ok(tree)
    }

    /// Writes a file unless it says this already.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.root.join(name);
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    }

    /// Builds all faults that can be chosen at run time. What does not compile is no fault: those are returned.
    pub fn build(
        &self,
        package: &Package,
        sources: &BTreeMap<String, Source>,
        mutants: &[Mutant],
    ) -> Result<(Vec<PathBuf>, BTreeSet<u32>)> {
        let lib = format!("{}/src/lib.rs", package.folder);
        let text = fs::read_to_string(self.root.join(&lib))?;
        let memory = Memory::of(&self.root.join(format!("../{}.refused", package.name)), sources);
        let (mut refused, mut constant) = (memory.refused(mutants), BTreeSet::new());
        for round in 1.. {
            let mut schemas = BTreeMap::new();
            for (file, source) in sources {
                let of_file = mutants.iter().filter(|m| m.file == *file && !refused.contains(&m.id));
                let stays = |m: &&Mutant| {
                    let name = schema::last(&m.function);
                    let is_const =
                        source.functions.iter().any(|f| f.name == m.function && f.constness.is_some());
                    !(is_const && constant.contains(name))
                };
                let schema = schema::of(source, &of_file.filter(stays).collect::<Vec<_>>(), &constant);
                self.put(file, schema.text.as_bytes())?;
                schemas.insert(file.clone(), schema);
            }
            let own = schemas.get(&lib).map_or(&text, |schema| &schema.text);
            self.put(&lib, format!("{}{own}{}", schema::ALLOW, schema::runtime(mutants.len())).as_bytes())?;
            eprintln!("mutants: {}: build {round}, {} do not compile so far", package.name, refused.len());
            match self.cargo(package)? {
                Built::Programs(programs) => {
                    memory.keep(mutants, &refused)?;
                    return Ok((programs, refused));
                }
                Built::Wrong(wrong) => {
                    let before = (refused.len(), constant.len());
                    blame(&wrong, &schemas, &mut refused, &mut constant);
                    if before == (refused.len(), constant.len()) {
                        let all: Vec<_> = wrong.iter().map(|wrong| wrong.message.as_str()).collect();
                        bail!(
                            "{} does not compile, and it is no fault's fault:\n{}",
                            package.name,
                            all.join("\n")
                        );
                    }
                }
            }
        }
        unreachable!("each round refuses a fault, or fails")
    }

    /// Builds with another text of a file, which stays. `None`: it does not compile.
    pub fn build_with(&self, package: &Package, file: &str, text: &str) -> Result<Option<Vec<PathBuf>>> {
        self.put(file, text.as_bytes())?;
        match self.cargo(package)? {
            Built::Programs(programs) => Ok(Some(programs)),
            Built::Wrong(_) => Ok(None),
        }
    }

    fn cargo(&self, package: &Package) -> Result<Built> {
        let mut command = Command::new("cargo");
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target).env("CARGO_INCREMENTAL", "1");
        command.args([
            "test",
            "--release",
            "--locked",
            "--no-run",
            "--message-format=json",
            "-p",
            &package.name,
        ]);
        // Dependencies are as in every release build; what is broken is built fast, and checks its arithmetic.
        for setting in [
            "opt-level=1",
            "overflow-checks=true",
            "debug-assertions=true",
            "debug=false",
            "codegen-units=64",
        ] {
            command.args(["--config", &format!("profile.release.package.{}.{setting}", package.name)]);
        }
        command.args(&package.targets);
        let output = command.output().context("cargo test --no-run")?;
        let (mut programs, mut wrong) = (Vec::new(), Vec::new());
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(said) = serde_json::from_str::<Value>(line) else { continue };
            if let Some(program) = said["executable"].as_str().filter(|_| said["profile"]["test"] == true) {
                programs.push(PathBuf::from(program));
            }
            if said["message"]["level"] == "error" {
                wrong.push(Wrong::of(&said["message"]));
            }
        }
        match output.status.success() {
            true => Ok(Built::Programs(programs)),
            false if wrong.is_empty() => bail!("cargo: {}", String::from_utf8_lossy(&output.stderr)),
            false => Ok(Built::Wrong(wrong)),
        }
    }
}

/// Which faults did not compile the last time, in files that are as they were: that saves builds.
struct Memory {
    file: PathBuf,
    /// Of each file, what stands before the names of its faults.
    marks: BTreeMap<String, String>,
    lines: BTreeSet<String>,
}

impl Memory {
    fn of(file: &Path, sources: &BTreeMap<String, Source>) -> Memory {
        let lines = fs::read_to_string(file).unwrap_or_default().lines().map(ToOwned::to_owned).collect();
        let mark = |(file, source): (&String, &Source)| {
            let mut hasher = DefaultHasher::new();
            source.text.hash(&mut hasher);
            (file.clone(), format!("{file} {:x}", hasher.finish()))
        };
        Memory { file: file.to_owned(), marks: sources.iter().map(mark).collect(), lines }
    }

    fn line(&self, mutant: &Mutant) -> String {
        format!("{} {}", self.marks[&mutant.file], mutant.name())
    }

    fn refused(&self, mutants: &[Mutant]) -> BTreeSet<u32> {
        mutants
            .iter()
            .filter(|mutant| self.lines.contains(&self.line(mutant)))
            .map(|mutant| mutant.id)
            .collect()
    }

    fn keep(&self, mutants: &[Mutant], refused: &BTreeSet<u32>) -> Result<()> {
        let refused = mutants.iter().filter(|mutant| refused.contains(&mutant.id));
        let others = self
            .lines
            .iter()
            .filter(|line| line.split_once(' ').is_some_and(|(file, _)| !self.marks.contains_key(file)));
        let lines: String =
            others.cloned().chain(refused.map(|mutant| self.line(mutant))).map(|line| line + "\n").collect();
        fs::write(&self.file, lines).with_context(|| self.file.display().to_string())
    }
}

impl Wrong {
    fn of(message: &Value) -> Wrong {
        let (mut places, mut others) = (Vec::new(), Vec::new());
        let children = message["children"].as_array().into_iter().flatten();
        for said in std::iter::once(message).chain(children) {
            for span in said["spans"].as_array().into_iter().flatten() {
                let at = |key: &str| span[key].as_u64().unwrap_or(0) as usize;
                let file = span["file_name"].as_str().unwrap_or_default().to_owned();
                let list = if span["is_primary"] == true { &mut places } else { &mut others };
                list.push((file, at("byte_start")..at("byte_end")));
            }
        }
        places.append(&mut others);
        let code = message["code"]["code"].as_str().unwrap_or_default().to_owned();
        let message = message["rendered"].as_str().unwrap_or_default().to_owned();
        Wrong { code, message, places }
    }
}

/// Finds the faults to which compiler errors are due.
fn blame(
    wrong: &[Wrong],
    schemas: &BTreeMap<String, Schema>,
    refused: &mut BTreeSet<u32>,
    constant: &mut BTreeSet<String>,
) {
    for Wrong { code, message, places } in wrong {
        // Without some arm a match does not say what to do: from what is matched to where an arm is missing.
        if code == NOT_EXHAUSTIVE
            && let Some((file, first)) = places.first()
            && let Some(schema) = schemas.get(file)
        {
            let end =
                places.iter().filter(|(of, _)| of == file).map(|(_, at)| at.end).max().unwrap_or(first.end);
            refused.extend(schema.arms(&(first.start..end)));
            continue;
        }
        if let Some((_, name)) = message.split_once("cannot call non-const ") {
            let name = name.split('`').nth(1).unwrap_or_default();
            let name = name.split(['(', '<']).next().unwrap_or_default();
            constant.insert(schema::last(name).to_owned());
            continue;
        }
        let at = places.iter().filter_map(|(file, at)| Some(schemas.get(file)?.at(at)));
        // What a fault says itself is the likeliest.
        let mut at: Vec<_> = at.filter(|(_, ids)| !ids.is_empty()).collect();
        at.sort_by_key(|(is_said, _)| !is_said);
        match at.first() {
            Some((true, _)) => refused.extend(at.iter().filter(|(said, _)| *said).flat_map(|(_, ids)| ids)),
            Some((false, ids)) => refused.extend(ids),
            None => {}
        }
    }
}
