//! Tests: which faults they reach, and whether they notice one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A test of a program.
#[derive(Clone, Debug)]
pub struct Test {
    /// Index of the program.
    program: usize,
    /// Its name.
    pub name: String,
    /// How long it takes.
    took: Duration,
    /// The faults whose place it reaches.
    reaches: BTreeSet<u32>,
}

/// All tests of some programs.
#[derive(Debug)]
pub struct Tests {
    programs: Vec<PathBuf>,
    folder: PathBuf,
    all: Vec<Test>,
}

/// Memory of a test program, in KiB of addresses: a fault may make it ask for more and more.
const MEMORY: &str = "16000000";
/// Tests that run in one go, before the rest does: most faults are noticed by the fastest.
const FIRST: usize = 6;

impl Tests {
    /// Runs every test by itself and notes what it reaches. One that fails without a fault is left out, and named.
    pub fn of(programs: Vec<PathBuf>, folder: PathBuf, scratch: &Path) -> Result<Tests> {
        let mut tests = Tests { programs, folder, all: Vec::new() };
        for program in 0..tests.programs.len() {
            let output = tests.command(program).args(["--list", "--format", "terse"]).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            for name in text.lines().filter_map(|line| line.strip_suffix(": test")) {
                tests.one(program, name, scratch)?;
            }
        }
        if tests.all.is_empty() {
            bail!("there are no tests that pass");
        }
        tests.all.sort_by_key(|test| test.took);
        Ok(tests)
    }

    fn one(&mut self, program: usize, name: &str, scratch: &Path) -> Result<()> {
        let _ = fs::remove_file(scratch);
        let began = Instant::now();
        let mut command = self.command(program);
        command.args(["--exact", name]).env("LB_MUTANTS_REACHED", scratch);
        if !ends_well(&mut command, Duration::from_secs(120))? {
            eprintln!("mutants: left out, as it fails without any fault: {name}");
            return Ok(());
        }
        let text = fs::read_to_string(scratch).unwrap_or_default();
        let reaches = text.lines().filter_map(|id| id.parse().ok()).collect();
        self.all.push(Test { program, name: name.to_owned(), took: began.elapsed(), reaches });
        Ok(())
    }

    /// All of them, the fastest first.
    pub fn all(&self) -> &[Test] {
        &self.all
    }

    /// Tests that reach the place of this fault.
    pub fn reach(&self, id: u32) -> Vec<Test> {
        self.all.iter().filter(|test| test.reaches.contains(&id)).cloned().collect()
    }

    /// Whether one of these tests fails with a fault, or does not end. Those of `module` itself are asked first: others may
    /// wait for long for what a fault keeps from coming.
    pub fn notice(&self, tests: &[Test], module: &str, id: u32) -> Result<bool> {
        let (own, others): (Vec<Test>, Vec<Test>) =
            tests.iter().cloned().partition(|test| test.name.starts_with(module));
        for tests in [own, others] {
            let (first, rest) = tests.split_at(tests.len().min(FIRST));
            if self.fail(first, id)? || self.fail(rest, id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn fail(&self, tests: &[Test], id: u32) -> Result<bool> {
        let mut by_program: BTreeMap<usize, Vec<&Test>> = BTreeMap::new();
        tests.iter().for_each(|test| by_program.entry(test.program).or_default().push(test));
        for (program, tests) in by_program {
            let took: Duration = tests.iter().map(|test| test.took).sum();
            let mut command = self.command(program);
            command.arg("--exact").args(tests.iter().map(|test| &test.name)).env("LB_MUTANT", id.to_string());
            if !ends_well(&mut command, Duration::from_secs(20) + 10 * took)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same tests of other programs.
    pub fn with(&self, programs: Vec<PathBuf>) -> Tests {
        Tests { programs, folder: self.folder.clone(), all: self.all.clone() }
    }

    fn command(&self, program: usize) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", r#"ulimit -v "$0" && exec "$@""#, MEMORY]).arg(&self.programs[program]);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        // The same packets, choices and so on in every run.
        command.env("PROPTEST_RNG_SEED", "13").env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true").env("RUST_BACKTRACE", "0");
        command.env_remove("LB_MUTANT").stdin(Stdio::null());
        command
    }
}

/// Whether a command exits with 0 within this time.
fn ends_well(command: &mut Command, within: Duration) -> Result<bool> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("bash")?;
    let status = wait(&mut child, within)?;
    Ok(status)
}

fn wait(child: &mut Child, within: Duration) -> Result<bool> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if began.elapsed() > within {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(3));
    }
}
