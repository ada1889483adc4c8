//! The file in which an operator or a program says which addresses are up: lines `ADDRESS => UP` or `DOWN`, as gdnsd's
//! plugin `extfile` reads them. The reading is pure; [`Extfiles`] looks at the files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{info, warn};

/// What a file says.
pub type States = HashMap<IpAddr, bool>;

/// Bytes of a line, about.
const LINE: usize = 16;

/// Reads a file's text; all that is wrong, each as `LINE:COLUMN: MESSAGE`.
pub fn parse(text: &str) -> Result<States, Vec<String>> {
    let (mut states, mut problems) = (States::with_capacity(text.len() / LINE), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default();
        if content.trim().is_empty() {
            continue;
        }
        match entry(content) {
            Ok((address, up)) => {
                if states.insert(address, up).is_some() {
                    problems.push(format!("{}:1: {address} is there twice; remove one line", number + 1));
                }
            }
            Err((column, message)) => problems.push(format!("{}:{column}: {message}", number + 1)),
        }
    }
    if problems.is_empty() { Ok(states) } else { Err(problems) }
}

fn entry(content: &str) -> Result<(IpAddr, bool), (usize, String)> {
    let start = content.len() - content.trim_start().len();
    let (address, state) = content
        .split_once('=')
        .and_then(|(address, rest)| Some((address, rest.strip_prefix('>')?)))
        .ok_or_else(|| (start + 1, "not a state; write a line as in 192.0.2.1 => UP".to_owned()))?;
    let parsed: IpAddr = address.trim().parse().map_err(|_| {
        (start + 1, format!("not an IP address: {:?}; write one as in 192.0.2.1 => UP", address.trim()))
    })?;
    let column = address.len() + 2 + (state.len() - state.trim_start().len()) + 1;
    // gdnsd allows a TTL behind the state, which has no meaning here.
    let word = state.trim().split('/').next().unwrap_or_default();
    match [("UP", true), ("DOWN", false)].iter().find(|(state, _)| word.eq_ignore_ascii_case(state)) {
        Some((_, up)) => Ok((parsed, *up)),
        None => Err((column, format!("not a state: {word:?}; write UP or DOWN"))),
    }
}

/// The files that are followed, each with the last good states.
#[derive(Debug, Default)]
pub struct Extfiles {
    files: BTreeMap<PathBuf, File>,
}

/// Device, inode, size and time of change of a file; `None`: it is not there.
pub(super) type Seen = Option<(u64, u64, u64, i64, i64)>;

/// Looks at a file, without reading it.
pub(super) fn seen(path: &Path) -> Seen {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
}

/// A file that is followed.
#[derive(Debug)]
pub struct File {
    /// What was read last; `None`: it has not been looked at.
    seen: Option<Seen>,
    states: States,
    problem: Option<String>,
    /// What is said of addresses that are up, that are down, and that are not in it.
    words: [Arc<str>; 3],
}

impl Extfiles {
    /// Follows these files from now on.
    pub fn follow(&mut self, files: BTreeSet<PathBuf>) {
        self.files.retain(|file, _| files.contains(file));
        for file in files {
            self.files.entry(file).or_insert_with_key(|path| File::new(path));
        }
        self.look();
    }

    /// Looks at all files; returns whether something is new.
    pub fn look(&mut self) -> bool {
        let mut news = false;
        for (path, file) in &mut self.files {
            let now = seen(path);
            if file.seen != Some(now) {
                file.seen = Some(now);
                news |= file.read(path);
            }
        }
        news
    }

    /// A file that is followed.
    pub fn get(&self, path: &Path) -> Option<&File> {
        self.files.get(path)
    }

    /// What is wrong with the files.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.files.values().filter_map(|file| file.problem.as_ref())
    }
}

impl File {
    fn new(path: &Path) -> Self {
        let words = ["UP in", "DOWN in", "not in"].map(|what| format!("{what} {}", path.display()).into());
        File { seen: None, states: States::new(), problem: None, words }
    }

    /// What it says of an address, and that in words. Nothing is in a file that is not there.
    pub fn says(&self, address: IpAddr) -> (Option<bool>, &Arc<str>) {
        let state = self.states.get(&address).copied();
        let [up, down, absent] = &self.words;
        (state, state.map_or(absent, |is_up| if is_up { up } else { down }))
    }

    /// Reads the file; a bad one leaves what was there before in force.
    fn read(&mut self, path: &Path) -> bool {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return self.refuse(format!("{}: cannot be read: {error}", path.display())),
        };
        match parse(&text) {
            Ok(states) => {
                let news = self.problem.take().is_some() || self.states != states;
                if self.states != states {
                    info!(file = %path.display(), "{} addresses have a state", states.len());
                }
                self.states = states;
                news
            }
            Err(problems) => {
                let lines: Vec<String> =
                    problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect();
                self.refuse(lines.join("\n"))
            }
        }
    }

    fn refuse(&mut self, problem: String) -> bool {
        for line in problem.lines() {
            warn!("refused, the last good states stay in force: {line}");
        }
        self.problem = Some(problem);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_gdnsd_reads_them() {
        let states =
            parse("# states\n192.0.2.1 => UP\n 2001:db8::1=>down # why\n\n192.0.2.3 => UP/300\n").unwrap();
        let mut shown: Vec<String> = states.iter().map(|(address, up)| format!("{address} {up}")).collect();
        shown.sort();
        assert_eq!(shown, ["192.0.2.1 true", "192.0.2.3 true", "2001:db8::1 false"]);
    }

    #[test]
    fn every_wrong_line_is_named_with_its_column() {
        let problems =
            parse("192.0.2.1 UP\n  192.0.2 => UP\n192.0.2.1 => SIDEWAYS\n192.0.2.9 => UP\n192.0.2.9 => UP\n");
        assert_eq!(
            problems.unwrap_err(),
            [
                "1:1: not a state; write a line as in 192.0.2.1 => UP",
                "2:3: not an IP address: \"192.0.2\"; write one as in 192.0.2.1 => UP",
                "3:14: not a state: \"SIDEWAYS\"; write UP or DOWN",
                "5:1: 192.0.2.9 is there twice; remove one line",
            ]
        );
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_states_and_a_removed_one_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ext");
        let mut files = Extfiles::default();
        files.follow([path.clone()].into());
        let says = |files: &Extfiles| {
            let (state, words) = files.get(&path).unwrap().says("192.0.2.1".parse().unwrap());
            (state, words.split_once(path.to_str().unwrap()).unwrap().0.to_owned())
        };
        assert_eq!(says(&files), (None, "not in ".into()));
        fs::write(&path, "192.0.2.1 => DOWN\n").unwrap();
        assert!(files.look());
        assert_eq!(says(&files), (Some(false), "DOWN in ".into()));
        fs::write(&path, "192.0.2.1 => MAYBE, BUT WHO KNOWS\n").unwrap();
        assert!(files.look() && !files.look());
        assert_eq!(says(&files), (Some(false), "DOWN in ".into()));
        assert_eq!(files.problems().count(), 1);
        fs::remove_file(&path).unwrap();
        assert!(files.look());
        assert_eq!(says(&files), (None, "not in ".into()));
        assert_eq!(files.problems().count(), 0);
    }
}
