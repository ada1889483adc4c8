//! gdnsd, told by the file of its plugin `extfile` which addresses work: lines `ADDRESS => UP` or `ADDRESS => DOWN`.
//!
//! gdnsd looks an address up by the text that its own configuration has, so that IPv6 addresses must be written there as
//! they are here (RFC 5952: lower case, the longest run of zeros as `::`). Lines about anything else are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::{Changes, Records, SinkError, Store};
use crate::files;

/// First line of a new file.
const HEAD: &str = "# What works, as lb agent knows it.\n";

/// The file of a gdnsd: whether addresses work.
pub struct Gdnsd {
    file: PathBuf,
}

impl Gdnsd {
    /// gdnsd reads this file by itself, at once with `direct => true`.
    pub fn new(file: PathBuf) -> Self {
        Gdnsd { file }
    }

    fn text(&self) -> Result<String, SinkError> {
        match fs::read_to_string(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(HEAD.into()),
            read => read.map_err(|error| self.error(format_args!("cannot be read: {error}"))),
        }
    }

    fn put(&self, changes: &Changes<IpAddr, bool>) -> Result<(), SinkError> {
        let text = edited(&self.text()?, changes);
        files::publish(&self.file, text.as_bytes())
            .map_err(|error| self.error(format_args!("cannot be written: {error}")))
    }

    fn error(&self, what: impl ToString) -> SinkError {
        SinkError { place: self.file.display().to_string(), what: what.to_string() }
    }
}

impl Store<IpAddr, bool> for Gdnsd {
    fn read<'a>(
        &'a mut self,
        addresses: &'a BTreeSet<IpAddr>,
    ) -> BoxFuture<'a, Result<Records<IpAddr, bool>, SinkError>> {
        ready(self.text().map(|text| states(&text, addresses))).boxed()
    }

    fn write<'a>(&'a mut self, changes: &'a Changes<IpAddr, bool>) -> BoxFuture<'a, Result<(), SinkError>> {
        ready(self.put(changes)).boxed()
    }
}

/// The states of these addresses; a line that gdnsd would not understand is none. Of several the last counts, as there.
fn states(text: &str, addresses: &BTreeSet<IpAddr>) -> Records<IpAddr, bool> {
    let lines = text.lines().filter_map(|line| line.split_once("=>"));
    let known = lines.filter_map(|(key, state)| {
        let address = key.trim().parse().ok()?;
        let state = match state.trim() {
            "UP" => Some(true),
            "DOWN" => Some(false),
            _ => None,
        };
        addresses.contains(&address).then_some((address, state))
    });
    let last: BTreeMap<IpAddr, Option<bool>> = known.collect();
    last.into_iter().filter_map(|(address, state)| Some((address, state?))).collect()
}

/// The text with these states: each where its address stood, new ones at the end, one line for each address.
fn edited(text: &str, changes: &Changes<IpAddr, bool>) -> String {
    let line = |address: &IpAddr, up: bool| format!("{address} => {}\n", if up { "UP" } else { "DOWN" });
    let mut left = changes.clone();
    let mut edited = String::new();
    for old in text.lines() {
        let address = old.split("=>").next().and_then(|key| key.trim().parse().ok());
        match address.filter(|address| changes.contains_key(address)) {
            None => edited += &format!("{old}\n"),
            Some(address) => {
                if let Some(Some(up)) = left.remove(&address) {
                    edited += &line(&address, up);
                }
            }
        }
    }
    edited.extend(left.iter().filter_map(|(address, up)| Some(line(address, (*up)?))));
    edited
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::extfile;

    const TEXT: &str =
        "# ours and theirs\n192.0.2.1 => UP\nlb01.example.com. => UP/60\n2001:db8::1 => DOWN\n";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn states_are_read_and_only_those_asked_for() {
        let asked = ["192.0.2.1", "192.0.2.9", "2001:db8::1"].map(address).into();
        assert_eq!(
            states(TEXT, &asked),
            [(address("192.0.2.1"), true), (address("2001:db8::1"), false)].into()
        );
        assert!(states(&TEXT.replace("UP\n", "UPP\n"), &[address("192.0.2.1")].into()).is_empty());
        assert_eq!(
            states(&format!("{TEXT}192.0.2.1 => DOWN\n"), &[address("192.0.2.1")].into()),
            [(address("192.0.2.1"), false)].into()
        );
    }

    #[test]
    fn a_change_leaves_the_other_lines_alone() {
        let changes = [
            (address("192.0.2.1"), Some(false)),
            (address("192.0.2.2"), Some(true)),
            (address("2001:db8::1"), None),
        ];
        assert_eq!(
            edited(TEXT, &changes.into()),
            "# ours and theirs\n192.0.2.1 => DOWN\nlb01.example.com. => UP/60\n192.0.2.2 => UP\n"
        );
    }

    #[test]
    fn a_new_file_is_what_the_check_of_the_same_form_reads() {
        let changes = [(address("192.0.2.1"), Some(false)), (address("2001:db8::1"), Some(true))];
        let read = extfile::parse(&edited(HEAD, &changes.into())).unwrap();
        assert_eq!(read, [(address("192.0.2.1"), false), (address("2001:db8::1"), true)].into());
    }
}
