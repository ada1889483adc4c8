//! The list of faults that no test notices, each with the reason.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

/// Why a fault survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It changes nothing that anybody could see.
    Equivalent,
    /// What it changes is never asked, by design.
    Unreachable,
    /// Tests of another kind notice it; the reason names them.
    Elsewhere,
    /// No test notices it, and why that is accepted.
    Accepted,
}

impl Kind {
    fn of(word: &str) -> Option<Kind> {
        Some(match word {
            "equivalent" => Kind::Equivalent,
            "unreachable" => Kind::Unreachable,
            "elsewhere" => Kind::Elsewhere,
            "accepted" => Kind::Accepted,
            _ => return None,
        })
    }

    /// It changes behaviour that a test could see.
    pub fn counts(self) -> bool {
        matches!(self, Kind::Elsewhere | Kind::Accepted)
    }
}

/// The list: by file and name.
pub type Survivors = BTreeMap<(String, String), Kind>;

/// Reads the list. A line without indent is a file; one with two spaces a fault; one with four the reason of the faults
/// above it, as far as they have none.
pub fn parse(text: &str) -> Result<Survivors> {
    let (mut file, mut open, mut all) = (String::new(), BTreeSet::new(), Survivors::new());
    for (number, line) in text.lines().enumerate() {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        match line.len() - line.trim_start().len() {
            0 => {
                unexplained(&open, &file)?;
                file = content.to_owned();
            }
            2 => {
                let key = (file.clone(), content.to_owned());
                if all.contains_key(&key) || !open.insert(content.to_owned()) {
                    bail!("line {}: it is there twice: {content}", number + 1);
                }
            }
            _ => {
                let (word, why) = content.split_once(':').unwrap_or_default();
                let Some(kind) = Kind::of(word).filter(|_| !why.trim().is_empty()) else {
                    bail!(
                        "line {}: write equivalent, unreachable, elsewhere or accepted, a colon and why",
                        number + 1
                    );
                };
                all.extend(std::mem::take(&mut open).into_iter().map(|name| ((file.clone(), name), kind)));
            }
        }
    }
    unexplained(&open, &file)?;
    Ok(all)
}

fn unexplained(open: &BTreeSet<String>, file: &str) -> Result<()> {
    match open.first() {
        Some(name) => bail!("{file}: no reason stands below this: {name}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_that_of_all_faults_above_it() {
        let text =
            "# x\na.rs\n  f: one\n  f: two\n    equivalent: both are\n  g: three\n    accepted: it is\n";
        let all = parse(text).unwrap();
        let key = |name: &str| ("a.rs".to_owned(), name.to_owned());
        assert_eq!(
            (all.len(), all[&key("f: two")], all[&key("g: three")]),
            (3, Kind::Equivalent, Kind::Accepted)
        );
        assert!(!Kind::Equivalent.counts() && Kind::Accepted.counts());
    }

    #[test]
    fn what_is_not_explained_is_refused() {
        for text in [
            "a.rs\n  f: one\n",
            "a.rs\n  f: one\nb.rs\n",
            "a.rs\n  f: one\n    because\n",
            "a.rs\n  f: one\n    accepted:\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
