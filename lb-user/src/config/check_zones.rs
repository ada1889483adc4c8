//! The records of a zone, from lb.yaml and its master file, with the places of all that is wrong.

use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{Name, RData};

use crate::dns::master::{self, Read};
use crate::dns::policy::Choice;
use crate::dns::zone::{Rr, Zone};

use super::check_dns::RECORD_TTL;
use super::dns::{self, Soa, Ttl};
use super::problem::Position;
use super::reader::{At, Reader};
use super::written::Maybe;

/// Where a record stands.
struct Place {
    at: Position,
    key: String,
    /// File, line and column within the file that the key names.
    within: String,
}

/// Records with their places.
#[derive(Default)]
struct Found {
    records: Vec<Rr>,
    places: Vec<Place>,
}

impl Found {
    fn add(&mut self, record: Rr, at: Position, key: &str, within: String) {
        self.records.push(record);
        self.places.push(Place { at, key: key.to_owned(), within });
    }
}

/// All records of a zone, none of which is wrong by itself or beside the others.
pub(super) fn records(apex: &Name, w: &dns::Zone, choices: &[Choice], r: &mut Reader) -> Vec<Rr> {
    let before = r.problems.len();
    let mut found = Found::default();
    let ttl = w.ttl.as_ref().map_or(RECORD_TTL, |ttl| ttl.value.0);
    match &w.file {
        Some(file) => {
            if let Some((at, key)) = w.besides_file {
                let message = "the zone's file says that; remove one of the two";
                r.wrong(at, &format!("{}.{key}", w.at.key), message);
            }
            from_file(apex, file, w.ttl.as_ref().map(|_| ttl), &mut found, r);
        }
        None => authority(apex, w, ttl, &mut found, r),
    }
    for line in w.records.iter().flat_map(|list| &list.value) {
        from_line(apex, line, ttl, &mut found, r);
    }
    if r.problems.len() > before {
        return found.records;
    }
    let chosen: Vec<(Name, usize)> = choices.iter().map(|choice| (choice.name.clone(), 0)).collect();
    for fault in Zone::build(apex, &found.records, &chosen).err().into_iter().flatten() {
        match fault.of.map(|number| &found.places[number]) {
            Some(Place { at, key, within }) => r.wrong(*at, key, format!("{within}{}", fault.message)),
            None => r.wrong(w.at.at, &w.at.key, fault.message),
        }
    }
    found.records
}

fn from_file(
    apex: &Name,
    file: &At<std::path::PathBuf>,
    ttl: Option<u32>,
    found: &mut Found,
    r: &mut Reader,
) {
    let shown = file.value.display();
    let text = match std::fs::read_to_string(&file.value) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("cannot be read: {error}; name another file or make this one readable");
            return r.wrong(file.at, &file.key, message);
        }
    };
    match master::parse(&text, apex, ttl) {
        Ok(records) => {
            for Read { record, line, column } in records {
                found.add(record, file.at, &file.key, format!("{shown}:{line}:{column}: "));
            }
        }
        Err(problems) => {
            for master::Problem { line, column, message } in problems {
                r.wrong(file.at, &file.key, format!("{shown}:{line}:{column}: {message}"));
            }
        }
    }
}

/// A record of lb.yaml; the column is right where the text is written without quotes, or with them but for one.
fn from_line(apex: &Name, line: &At<String>, ttl: u32, found: &mut Found, r: &mut Reader) {
    match master::parse(&line.value, apex, Some(ttl)) {
        Ok(records) if records.len() == 1 => {
            for read in records {
                found.add(read.record, line.at, &line.key, String::new());
            }
        }
        Ok(_) => r.wrong(line.at, &line.key, "not a record; write one, as in \"www A 192.0.2.1\""),
        Err(problems) => {
            for master::Problem { line: row, column, message } in problems {
                let at = match row {
                    1 => Position { line: line.at.line, column: line.at.column + column - 1 },
                    _ => line.at,
                };
                r.wrong(at, &line.key, message);
            }
        }
    }
}

/// The SOA and NS records of lb.yaml.
fn authority(apex: &Name, w: &dns::Zone, ttl: u32, found: &mut Found, r: &mut Reader) {
    let mut servers = Vec::new();
    for server in w.ns.iter().flat_map(|list| &list.value) {
        if let Some(name) = named(server, apex, r) {
            let record = Rr { name: apex.clone(), ttl, data: RData::NS(NS(name.clone())) };
            found.add(record, server.at, &server.key, String::new());
            servers.push(name);
        }
    }
    let none = Soa::default();
    let soa = w.soa.as_ref().unwrap_or(&none);
    let primary = soa.primary.as_ref().map(|name| named(name, apex, r)).unwrap_or(servers.first().cloned());
    let contact = match &soa.contact {
        Some(contact) => named(contact, apex, r),
        None => master::name("hostmaster", apex).ok(),
    };
    let (Some(primary), Some(contact)) = (primary, contact) else { return };
    let seconds = |written: &Maybe<Ttl>, default: u32| written.as_ref().map_or(default, |ttl| ttl.value.0);
    let data = SOA::new(
        primary,
        contact,
        soa.serial.as_ref().map_or(1, |serial| serial.value),
        seconds(&soa.refresh, 3600) as i32,
        seconds(&soa.retry, 900) as i32,
        seconds(&soa.expire, 1_209_600) as i32,
        seconds(&soa.negative, 60),
    );
    found.add(
        Rr { name: apex.clone(), ttl, data: RData::SOA(data) },
        w.at.at,
        &format!("{}.soa", w.at.key),
        String::new(),
    );
}

fn named(written: &At<String>, apex: &Name, r: &mut Reader) -> Option<Name> {
    master::name(&written.value, apex).map_err(|message| r.wrong(written.at, &written.key, message)).ok()
}
