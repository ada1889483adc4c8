//! The operator's order: a file with a VIP per line, `*` for all, and how urgent it is. Reading and editing its text is
//! pure; [`look`] looks at the file, [`edit`] replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::str::FromStr;

use nix::fcntl::{Flock, FlockArg};
use tracing::{info, warn};

use crate::files;
use crate::vip::Vip;

/// What is waited for before a VIP is withdrawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Haste {
    /// Name servers and packets.
    #[default]
    Wait,
    /// The same, but for name servers that are not heard.
    Force,
    /// Nothing.
    Now,
}

/// Whom a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    /// Every VIP of the node.
    All,
    /// One of them.
    One(Vip),
}

/// The VIPs that are to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order(BTreeMap<Whom, Haste>);

/// A file's order, and what is wrong with the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The last good order; of a file that was wrong from the start, the lines that were right.
    pub order: Order,
    /// What is wrong, each as `FILE:LINE:COLUMN: MESSAGE`.
    pub problems: Vec<String>,
    /// The file has been looked at.
    seen: bool,
}

impl FromStr for Whom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Whom::All),
            vip => vip.parse().map(Whom::One).map_err(|error: crate::vip::VipError| error.to_string()),
        }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::All => f.write_str("*"),
            Whom::One(vip) => vip.fmt(f),
        }
    }
}

impl Order {
    /// Whether a VIP is to leave, and what is waited for.
    pub fn of(&self, vip: Vip) -> Option<Haste> {
        self.0.get(&Whom::One(vip)).max(self.0.get(&Whom::All)).copied()
    }

    /// VIPs that are named and are none of these.
    pub fn unknown<'a>(&'a self, known: &'a BTreeSet<Vip>) -> impl Iterator<Item = Vip> + 'a {
        self.0.keys().filter_map(|whom| match whom {
            Whom::One(vip) => Some(*vip).filter(|vip| !known.contains(vip)),
            Whom::All => None,
        })
    }
}

/// Reads a file's text: the lines that are right, and what is wrong, each as `LINE:COLUMN: MESSAGE`.
pub fn parse(text: &str) -> (Order, Vec<String>) {
    let (mut order, mut problems) = (Order::default(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        match entry(line) {
            Ok(Some((whom, haste))) => {
                if order.0.insert(whom, haste).is_some() {
                    problems.push(format!("{}:1: {whom} is there twice; remove one line", number + 1));
                }
            }
            Ok(None) => {}
            Err((column, message)) => problems.push(format!("{}:{column}: {message}", number + 1)),
        }
    }
    (order, problems)
}

/// Whom a line is about; `None` for a line that says nothing.
fn entry(line: &str) -> Result<Option<(Whom, Haste)>, (usize, String)> {
    let content = line.split('#').next().unwrap_or_default();
    let mut words = content.split_whitespace();
    let column = |word: &str| line[..word.as_ptr() as usize - line.as_ptr() as usize].chars().count() + 1;
    let Some(whom) = words.next() else { return Ok(None) };
    let about = whom.parse().map_err(|error| (column(whom), format!("{error}; or * for all")))?;
    let haste = match words.next() {
        None => Haste::Wait,
        Some("force") => Haste::Force,
        Some("now") => Haste::Now,
        Some(word) => return Err((column(word), format!("unknown: {word:?}; write force, now or nothing"))),
    };
    match words.next() {
        Some(word) => Err((column(word), format!("too much: {word:?}; write one VIP per line"))),
        None => Ok(Some((about, haste))),
    }
}

/// The text with these ordered to leave. Comments and the other lines stay.
pub fn with(text: &str, whom: &BTreeSet<Whom>, haste: Haste) -> String {
    let mut lines = others(text, whom);
    let word = match haste {
        Haste::Wait => "",
        Haste::Force => " force",
        Haste::Now => " now",
    };
    lines.extend(whom.iter().map(|whom| format!("{whom}{word}\n")));
    lines.concat()
}

/// The text without these, or without any for [`Whom::All`]; and those that had a line.
pub fn without(text: &str, whom: &BTreeSet<Whom>) -> Result<(String, BTreeSet<Whom>), String> {
    let order: BTreeSet<Whom> = parse(text).0.0.into_keys().collect();
    let gone = match (whom.contains(&Whom::All), order.contains(&Whom::All)) {
        (true, _) => order,
        (false, false) => order.intersection(whom).copied().collect(),
        (false, true) => {
            return Err(
                "all VIPs leave by a line *; take them all back (--all), then have the others leave".into()
            );
        }
    };
    Ok((others(text, &gone).concat(), gone))
}

fn others(text: &str, whom: &BTreeSet<Whom>) -> Vec<String> {
    let stays = |line: &&str| !matches!(entry(line), Ok(Some((about, _))) if whom.contains(&about));
    text.lines().filter(stays).map(|line| format!("{line}\n")).collect()
}

/// What a file says; a wrong one leaves what was there before in force.
pub fn look(file: &Path, before: &Reading) -> Reading {
    let (order, problems) = match read(file) {
        Ok(text) => parse(&text),
        Err(error) => (Order::default(), vec![format!("1:1: cannot be read: {error}")]),
    };
    let problems: Vec<String> =
        problems.into_iter().map(|problem| format!("{}:{problem}", file.display())).collect();
    let order = if problems.is_empty() || !before.seen { order } else { before.order.clone() };
    let now = Reading { order, problems, seen: true };
    if now.problems != before.problems {
        now.problems.iter().for_each(|problem| warn!("the last good order stays in force: {problem}"));
    }
    if now.order != before.order {
        info!(file = %file.display(), order = %now.order, "VIPs that leave");
    }
    now
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.keys().map(ToString::to_string).collect();
        f.write_str(&all.join(" "))
    }
}

fn read(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        text => text,
    }
}

/// Replaces the file by what `change` makes of its text, in one step. Editors take turns.
pub fn edit(file: &Path, change: impl FnOnce(&str) -> Result<String, String>) -> Result<(), String> {
    let failed = |what: &str, error: io::Error| format!("{}: {what}: {error}", file.display());
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(|error| failed("its folder cannot be made", error))?;
    // The folder itself, since the file is replaced.
    let locked = File::open(folder).and_then(|folder| {
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))
    });
    let _lock = locked.map_err(|error| failed("cannot be locked", error))?;
    let text = read(file).map_err(|error| failed("cannot be read", error))?;
    let new = change(&text)?;
    if new == text {
        return Ok(());
    }
    files::publish(file, new.as_bytes()).map_err(|error| failed("cannot be written", error))
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
