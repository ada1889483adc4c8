//! Zones as files, for servers that read those: NSD, Knot, BIND, CoreDNS.
//!
//! A file has the zone's records as they are configured, a line [`CHOSEN`], and the addresses that names have now. Its
//! serial number rises whenever anything else in it changes (RFC 1982), and only then. A file that was not written by an
//! agent is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{LowerName, Name, RData};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Addresses, Changes, Place, Records, SinkError, Store};
use crate::dns::ZoneConfig;
use crate::dns::master::{self, write};
use crate::dns::publish::{is_ahead, next};
use crate::dns::zone::{Rr, Zone};
use crate::files;
use crate::model::Family;

/// How a file begins.
const MARK: &str = "; Written by lb agent; what is changed here is lost.\n";
/// What stands between the records that are configured and the addresses that names have now.
const CHOSEN: &str = "; What follows is chosen by health.\n";
/// How long the command that has a server read its files may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Zones in a folder.
pub struct ZoneFiles {
    folder: PathBuf,
    /// What has the server read its files again; empty: it does so by itself.
    reload: Vec<String>,
    zones: BTreeMap<LowerName, Fixed>,
    /// The server may not have read what stands in the files.
    reload_due: bool,
}

/// The part of a file that does not follow health.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fixed {
    /// With 0 in place of the serial number.
    text: String,
    /// The least serial number, as configured.
    least: u32,
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    serial: u32,
    /// As in [`Fixed::text`].
    fixed: String,
    chosen: Records,
}

/// Where a zone's file is in a folder: `example.org.zone`.
pub fn file_name(zone: &LowerName) -> String {
    format!("{}.zone", master::file_stem(&Name::from(zone.clone())))
}

impl ZoneFiles {
    /// These zones in a folder; `reload` is a program and its arguments, run after each change and once at first.
    pub fn new(folder: PathBuf, reload: Vec<String>, zones: &[ZoneConfig]) -> Self {
        let zones = zones.iter().map(|zone| (LowerName::new(&zone.apex), Fixed::of(zone)));
        ZoneFiles { folder, zones: zones.collect(), reload_due: !reload.is_empty(), reload }
    }

    fn bring_up_to_date(&mut self, places: &BTreeSet<Place>) -> Result<Records, SinkError> {
        for (zone, fixed) in &self.zones {
            let held = self.load(zone)?;
            if held.as_ref().is_none_or(|held| !fixed.is_in(held)) {
                self.put(zone, fixed, held.as_ref(), &chosen_of(held.as_ref()))?;
                self.reload_due = true;
            }
        }
        let mut found = Records::new();
        let zones: BTreeSet<&LowerName> = places.iter().map(|place| &place.zone).collect();
        for zone in zones {
            found.extend(chosen_of(self.load(zone)?.as_ref()));
        }
        found.retain(|place, _| places.contains(place));
        Ok(found)
    }

    fn replace(&mut self, changes: &Changes) -> Result<(), SinkError> {
        let zones: BTreeSet<&LowerName> = changes.keys().map(|place| &place.zone).collect();
        for zone in zones {
            let held = self.load(zone)?;
            let mut chosen = chosen_of(held.as_ref());
            for (place, addresses) in changes.iter().filter(|(place, _)| place.zone == *zone) {
                match addresses {
                    Some(addresses) => chosen.insert(place.clone(), addresses.clone()),
                    None => chosen.remove(place),
                };
            }
            match self.zones.get(zone) {
                Some(fixed) => self.put(zone, fixed, held.as_ref(), &chosen)?,
                None if held.is_some() => fs::remove_file(self.path(zone))
                    .map_err(|error| self.error(zone, format_args!("cannot be removed: {error}")))?,
                None => {}
            }
            self.reload_due = true;
        }
        Ok(())
    }

    fn path(&self, zone: &LowerName) -> PathBuf {
        self.folder.join(file_name(zone))
    }

    fn load(&self, zone: &LowerName) -> Result<Option<Held>, SinkError> {
        let text = match fs::read_to_string(self.path(zone)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| self.error(zone, format_args!("cannot be read: {error}")))?,
        };
        held(&text, zone).map(Some).map_err(|what| self.error(zone, what))
    }

    fn put(
        &self,
        zone: &LowerName,
        fixed: &Fixed,
        held: Option<&Held>,
        chosen: &Records,
    ) -> Result<(), SinkError> {
        let text = text(fixed, serial_after(held.map(|held| held.serial), fixed.least), chosen);
        files::publish(&self.path(zone), text.as_bytes())
            .map_err(|error| self.error(zone, format_args!("cannot be written: {error}")))
    }

    /// Has the server read its files, unless it has since they changed.
    async fn reload(&mut self) -> Result<(), SinkError> {
        let Some((program, arguments)) = self.reload.split_first().filter(|_| self.reload_due) else {
            return Ok(());
        };
        let error = |what: String| SinkError { place: self.reload.join(" "), what };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await;
        let output = output.map_err(|_| error(format!("did not end within {PATIENCE:?}")))?;
        let output = output.map_err(|failure| error(format!("cannot be run: {failure}")))?;
        if !output.status.success() {
            let said = [output.stderr, output.stdout].concat();
            let said = String::from_utf8_lossy(&said);
            let last = said.trim().lines().next_back().unwrap_or("it does not say why");
            return Err(error(format!("{}: {last}", output.status)));
        }
        self.reload_due = false;
        Ok(())
    }

    fn error(&self, zone: &LowerName, what: impl ToString) -> SinkError {
        SinkError { place: self.path(zone).display().to_string(), what: what.to_string() }
    }
}

impl Store for ZoneFiles {
    /// Brings the records that do not follow health in order as well.
    fn read<'a>(&'a mut self, places: &'a BTreeSet<Place>) -> BoxFuture<'a, Result<Records, SinkError>> {
        ready(self.bring_up_to_date(places)).boxed()
    }

    fn write<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, Result<(), SinkError>> {
        ready(self.replace(changes)).boxed()
    }

    fn settle(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        self.reload().boxed()
    }
}

impl Fixed {
    fn of(config: &ZoneConfig) -> Self {
        let chosen: Vec<_> = config.choices.iter().map(|choice| (choice.name.clone(), 0)).collect();
        // A zone that is wrong has been refused before.
        let zone = Zone::build(&config.apex, &config.records, &chosen);
        let (least, records) =
            zone.map_or_else(|_| (0, config.records.clone()), |zone| (zone.serial(), zone.records()));
        Fixed { text: records.iter().map(|record| write::line(&without_serial(record))).collect(), least }
    }

    fn is_in(&self, held: &Held) -> bool {
        held.fixed == self.text && !is_ahead(self.least, held.serial)
    }
}

fn without_serial(record: &Rr) -> Rr {
    let mut record = record.clone();
    if let RData::SOA(soa) = &mut record.data {
        soa.serial = 0;
    }
    record
}

fn chosen_of(held: Option<&Held>) -> Records {
    held.map(|held| held.chosen.clone()).unwrap_or_default()
}

/// The serial of a file that changes, of one that is new, or of one that is to have a newer one.
fn serial_after(held: Option<u32>, least: u32) -> u32 {
    match held {
        Some(held) if !is_ahead(least, held) => next(held),
        _ => least,
    }
}

/// A whole file.
fn text(fixed: &Fixed, serial: u32, chosen: &Records) -> String {
    let fixed =
        fixed.text.replacen(&format!(" 0{}", write::SERIAL), &format!(" {serial}{}", write::SERIAL), 1);
    format!(
        "{MARK}{fixed}{CHOSEN}{}",
        chosen.iter().flat_map(|(place, a)| lines(place, a)).collect::<String>()
    )
}

/// The addresses of a name, a line each.
pub fn lines(place: &Place, addresses: &Addresses) -> Vec<String> {
    let record = |address: &IpAddr| Rr {
        name: place.name.clone().into(),
        ttl: addresses.ttl,
        data: match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        },
    };
    addresses.all.iter().map(|address| write::line(&record(address))).collect()
}

/// What a file says; one that has been tampered with says less, and is put right.
fn held(text: &str, zone: &LowerName) -> Result<Held, String> {
    let text = text
        .strip_prefix(MARK)
        .ok_or("was not written by an agent; move it away, or name another folder for this sink")?;
    let lost = "has no serial number any more; write the last one back, or remove the file if no server has the zone";
    let is_serial = |line: &&str| line.ends_with(write::SERIAL);
    let line = text.lines().find(is_serial).ok_or(lost)?;
    let serial = line.trim_end_matches(write::SERIAL).trim().parse().map_err(|_| lost)?;
    let (fixed, rest) = text.split_once(CHOSEN).unwrap_or((text, ""));
    let fixed = fixed.replacen(line, &format!("    0{}", write::SERIAL), 1);
    let mut chosen = Records::new();
    let read = master::parse(rest, &Name::root(), None);
    // What cannot be read is not there, and the part before it is no longer what it was.
    let fixed = if read.is_ok() { fixed } else { String::new() };
    for Rr { name, ttl, data } in read.unwrap_or_default().into_iter().map(|read| read.record) {
        let address: IpAddr = match data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            _ => continue,
        };
        let place = Place { zone: zone.clone(), name: LowerName::new(&name), family: Family::of(address) };
        chosen.entry(place).or_insert_with(|| Addresses { ttl, all: BTreeSet::new() }).all.insert(address);
    }
    Ok(Held { serial, fixed, chosen })
}

#[cfg(test)]
#[path = "zone_files_tests.rs"]
mod tests;
