//! What is wrong with a configuration: one line each, with file, line, column and what to do.

use std::fmt;

use serde::Serialize;

/// A place in the file, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where; `None` when the file as a whole is meant.
    #[serde(flatten)]
    pub at: Option<Position>,
    /// The key, as in `services[1].vip`; empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong; what to do.
    pub message: String,
}

/// Everything that is wrong with one configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct ConfigErrors {
    /// The file as it was named.
    pub file: String,
    /// In the order of the file; never empty.
    pub problems: Vec<Problem>,
}

impl ConfigErrors {
    /// One line per problem, as `FILE:LINE:COLUMN: KEY: MESSAGE`.
    pub fn lines(&self) -> Vec<String> {
        self.problems
            .iter()
            .map(|problem| {
                let at = problem.at.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
                let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
                format!("{}{at}: {key}{}", self.file, problem.message)
            })
            .collect()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

/// The candidate that `word` is most likely a slip of, if any is near.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let far = (word.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: insertions, deletions and substitutions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_nonsense_finds_none() {
        let keys = ["services", "pools", "director"];
        assert_eq!(nearest("servces", keys), Some("services"));
        assert_eq!(nearest("diretcor", keys), Some("director"));
        assert_eq!(nearest("quux", keys), None);
    }

    #[test]
    fn a_problem_with_the_file_as_a_whole_has_no_position() {
        let problem = Problem { at: None, key: String::new(), message: "no such file; create it".into() };
        let errors = ConfigErrors { file: "lb.yaml".into(), problems: vec![problem] };
        assert_eq!(errors.to_string(), "lb.yaml: no such file; create it");
    }
}
