//! The walk through the lab in the project's README, run as it stands.
//!
//! In a `console` block, a line that begins with `$ ` is a command, and the lines behind it are what it prints: `…`
//! stands for any text within a line, a line of only `…` for any lines.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lb_test_support::{is_root, skip};

/// A command and what it should print.
#[derive(Debug, PartialEq)]
struct Step {
    command: String,
    expected: Vec<String>,
}

fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside && language == "console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            steps.push(Step { command: command.into(), expected: Vec::new() });
        } else if inside && let Some(step) = steps.last_mut() {
            step.expected.push(line.into());
        }
    }
    steps
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
fn line_fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.trim_end().split('…');
    let text = text.trim_end();
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    // An open end takes what remains; otherwise the last piece has to stand at the end.
    match last {
        None => rest.is_empty(),
        Some("") => true,
        Some(part) => rest.is_empty() || text.ends_with(part),
    }
}

fn lines_fit(patterns: &[String], lines: &[&str]) -> bool {
    match (patterns, lines) {
        ([], lines) => lines.iter().all(|line| line.trim().is_empty()),
        ([any, patterns @ ..], _) if any == "…" => {
            (0..=lines.len()).any(|n| lines_fit(patterns, &lines[n..]))
        }
        ([first, patterns @ ..], [line, lines @ ..]) => line_fits(first, line) && lines_fit(patterns, lines),
        (_, []) => patterns.iter().all(|pattern| pattern.trim().is_empty()),
    }
}

/// A lab of the README's size, under a name of its own; gone when dropped.
struct Lab {
    name: String,
    folder: PathBuf,
}

impl Lab {
    fn run(&self, command: &str) -> Output {
        // The README's alias, which a shell that is no terminal would not expand.
        let script = format!("lab() {{ '{}' \"$@\"; }}\n{command}", env!("CARGO_BIN_EXE_lab"));
        Command::new("bash")
            .args(["-c", &script])
            .env("LAB_NAME", &self.name)
            .current_dir(&self.folder)
            .output()
            .expect("running bash")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.run("lab down");
    }
}

#[test]
#[ignore = "needs root"]
fn the_walk_through_the_lab_prints_what_the_readme_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf();
    let document = std::fs::read_to_string(folder.join("README.md")).expect("reading README.md");
    let steps = steps(&document);
    assert!(steps.len() > 8, "the walk through the lab is gone from README.md: {steps:?}");
    let test = "the_walk_through_the_lab_prints_what_the_readme_says";
    if !is_root(test) {
        return;
    }
    let lab = Lab { name: format!("readme-{}", std::process::id()), folder };
    let up = lab.run("lab up");
    let said = String::from_utf8_lossy(&up.stderr);
    if said.contains("lab up needs:") {
        skip(test, said.trim());
        return;
    }
    assert!(up.status.success(), "lab up: {said}");
    for step in steps.iter().filter(|step| !step.command.starts_with("alias ")) {
        let output = lab.run(&step.command);
        let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
        printed.push_str(&String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = printed.lines().collect();
        let expected = step.expected.join("\n");
        assert!(
            lines_fit(&step.expected, &lines),
            "$ {}\nexpected:\n{expected}\nprinted:\n{printed}",
            step.command
        );
    }
}

#[test]
fn patterns_fit_what_they_should() {
    assert!(line_fits("x-l7: lb7-…", "x-l7: lb7-12"));
    assert!(line_fits("a … c", "a b c"));
    assert!(!line_fits("a … c", "a b d"));
    assert!(!line_fits("s1", "s12"));
    let patterns = ["a".to_string(), "…".to_string(), "z".to_string()];
    assert!(lines_fit(&patterns, &["a", "b", "c", "z"]));
    assert!(!lines_fit(&patterns, &["a", "b", "c"]));
}
