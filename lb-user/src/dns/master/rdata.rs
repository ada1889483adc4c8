//! What a record says, from its words.

use std::str::FromStr;

use hickory_proto::rr::rdata::{A, AAAA, CAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, RecordType};

use super::tokens::{Entry, Token};
use super::{Problem, name, ttl};

/// Types whose words are read here.
const KNOWN: [&str; 10] = ["A", "AAAA", "CNAME", "MX", "TXT", "SRV", "CAA", "NS", "SOA", "PTR"];

pub(super) fn known_types() -> String {
    KNOWN.join(", ")
}

/// Reads the words behind the type.
pub(super) fn parse(kind: &Token, words: &[Token], origin: &Name, entry: &Entry) -> Result<RData, Problem> {
    let mut words = Words { words, entry, origin };
    let data = match kind.text.to_ascii_uppercase().as_str() {
        "A" => RData::A(A(words.parsed("an IPv4 address", "four numbers, as in 192.0.2.1")?)),
        "AAAA" => RData::AAAA(AAAA(words.parsed("an IPv6 address", "one as in 2001:db8::1")?)),
        "CNAME" => RData::CNAME(CNAME(words.name("the name that it stands for")?)),
        "NS" => RData::NS(NS(words.name("the name of a name server")?)),
        "PTR" => RData::PTR(PTR(words.name("a name")?)),
        "MX" => RData::MX(MX::new(words.number("a preference")?, words.name("the name of a mail server")?)),
        "SRV" => RData::SRV(SRV::new(
            words.number("a priority")?,
            words.number("a weight")?,
            words.number("a port")?,
            words.name("the name of a server, or a dot")?,
        )),
        "TXT" => RData::TXT(words.text()?),
        "CAA" => RData::CAA(words.caa()?),
        "SOA" => RData::SOA(words.soa()?),
        _ => return words.other(kind),
    };
    match words.words.first() {
        Some(extra) => Err(extra.wrong("one word too many; remove it")),
        None => Ok(data),
    }
}

struct Words<'e> {
    words: &'e [Token],
    entry: &'e Entry,
    origin: &'e Name,
}

impl<'e> Words<'e> {
    fn next(&mut self, what: &str) -> Result<&'e Token, Problem> {
        let (first, rest) = self
            .words
            .split_first()
            .ok_or_else(|| self.entry.end(format!("{what} is missing here; write it")))?;
        self.words = rest;
        Ok(first)
    }

    fn parsed<T: FromStr>(&mut self, what: &str, how: &str) -> Result<T, Problem> {
        let word = self.next(what)?;
        let bad = |_| word.wrong(format!("not {what}: {:?}; write {how}", word.text));
        word.text.parse().map_err(bad)
    }

    fn number<T: FromStr>(&mut self, what: &str) -> Result<T, Problem> {
        let most = if size_of::<T>() == 1 { 255 } else { 65535 };
        self.parsed(what, &format!("a number from 0 to {most}"))
    }

    fn name(&mut self, what: &str) -> Result<Name, Problem> {
        let word = self.next(what)?;
        name(&word.text, self.origin).map_err(|message| word.wrong(message))
    }

    fn seconds(&mut self, what: &str) -> Result<u32, Problem> {
        let word = self.next(what)?;
        let bad = || word.wrong(format!("not {what}: {:?}; write seconds, or as in 1h30m", word.text));
        ttl(&word.text).ok_or_else(bad)
    }

    fn text(&mut self) -> Result<TXT, Problem> {
        let mut strings = vec![self.string("a text")?];
        while !self.words.is_empty() {
            strings.push(self.string("a text")?);
        }
        Ok(TXT::from_bytes(strings.iter().map(Vec::as_slice).collect()))
    }

    fn string(&mut self, what: &str) -> Result<Vec<u8>, Problem> {
        let word = self.next(what)?;
        let bytes = word.bytes()?;
        match bytes.len() {
            0..=255 => Ok(bytes),
            length => {
                Err(word.wrong(format!("{length} bytes; write strings of at most 255, one after the other")))
            }
        }
    }

    /// RFC 8659, section 4.
    fn caa(&mut self) -> Result<CAA, Problem> {
        let flags: u8 = self.number("flags")?;
        let tag = self.next("a tag")?;
        if tag.text.is_empty() || !tag.text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(tag.wrong(format!("not a tag: {:?}; write issue, issuewild or iodef", tag.text)));
        }
        let mut caa = CAA::new_issue(flags & 0x80 != 0, None, Vec::new());
        caa.reserved_flags = flags & 0x7f;
        caa.tag = tag.text.to_ascii_lowercase();
        caa.value = self.next("a value")?.bytes()?;
        Ok(caa)
    }

    fn soa(&mut self) -> Result<SOA, Problem> {
        let primary = self.name("the primary name server")?;
        let contact = self.name("the contact's address as a name")?;
        let serial = self.parsed("a serial number", "a number from 0 to 4294967295")?;
        let mut time = |what| self.seconds(what).map(|time| time as i32);
        let (refresh, retry, expire) =
            (time("a refresh time")?, time("a retry time")?, time("an expire time")?);
        let negative = self.seconds("a time for negative answers")?;
        Ok(SOA::new(primary, contact, serial, refresh, retry, expire, negative))
    }

    /// Types that are served but not made here (DS, TLSA, HTTPS, …), as hickory reads them.
    fn other(&self, kind: &Token) -> Result<RData, Problem> {
        let unknown = || kind.wrong(format!("unknown type: {:?}; write one of {}", kind.text, known_types()));
        let record_type = RecordType::from_str(&kind.text.to_ascii_uppercase()).map_err(|_| unknown())?;
        if matches!(record_type, RecordType::ANAME | RecordType::DNAME | RecordType::OPT | RecordType::TSIG) {
            return Err(kind.wrong(format!("type {record_type} is not served; remove this record")));
        }
        let words: Vec<&str> = self.words.iter().map(|word| word.text.as_str()).collect();
        RData::try_from_str(record_type, &words.join(" ")).map_err(|error| {
            kind.wrong(format!("not a record of type {record_type}: {error}; correct its data"))
        })
    }
}
