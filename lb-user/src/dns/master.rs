//! Records as text: the master file format of RFC 1035, section 5, with `$ORIGIN`, `$TTL` (RFC 2308, section 4) and
//! TTLs with units. Pure. All that is wrong is reported at once, with line and column.

mod rdata;
mod tokens;
pub mod write;

use hickory_proto::rr::{Name, RData};

use super::zone::Rr;
use rdata::known_types;
use tokens::{Entry, Token, entries};

/// Longest TTL in seconds (RFC 2181, section 8).
pub const LONGEST_TTL: u32 = i32::MAX as u32;

/// A record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The record.
    pub record: Rr,
    /// Line of its first word, from 1.
    pub line: u64,
    /// Column of its first word in characters, from 1.
    pub column: u64,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
    /// What is wrong; what to do.
    pub message: String,
}

/// Reads records; names that do not end in a dot are below `origin`, records without a TTL have `ttl` (or the last one
/// that was written, RFC 1035).
pub fn parse(text: &str, origin: &Name, ttl: Option<u32>) -> Result<Vec<Read>, Vec<Problem>> {
    let (entries, mut problems) = entries(text);
    let mut reader = Reader { origin: origin.clone(), owner: None, default_ttl: ttl, last_ttl: None };
    let mut records = Vec::new();
    for entry in &entries {
        match reader.entry(entry) {
            Ok(record) => records.extend(record),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        return Ok(records);
    }
    problems.sort_by_key(|problem| (problem.line, problem.column));
    Err(problems)
}

/// A name as it is written: `@` is the origin, a name without a dot at its end is below it.
pub fn name(text: &str, origin: &Name) -> Result<Name, String> {
    let shown = text.escape_debug();
    let parsed = match text {
        "@" => Ok(origin.clone()),
        _ => Name::from_ascii(text).and_then(|name| match name.is_fqdn() {
            true => Ok(name),
            false => name.append_domain(origin),
        }),
    };
    parsed.map_err(|_| {
        format!(
            "not a name: \"{shown}\"; write labels of at most 63 letters, digits, '-' and '_', 255 bytes in all, \
             with a dot at the end if it is not below {origin}"
        )
    })
}

/// What a file that belongs to a name is called, without what it ends in.
pub fn file_stem(name: &Name) -> String {
    let name = name.to_ascii();
    // Names may have any byte, slashes included.
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    match name.trim_end_matches('.') {
        "" => "root".into(),
        name => name.chars().map(plain).collect(),
    }
}

/// A TTL: seconds, or parts with the units w, d, h, m and s.
pub fn ttl(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|ttl| *ttl <= LONGEST_TTL);
    }
    let (mut sum, mut number) = (0u32, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c.to_ascii_lowercase() {
            'w' => 604_800,
            'd' => 86_400,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        sum = sum.checked_add(number.parse::<u32>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    (number.is_empty() && !text.is_empty() && sum <= LONGEST_TTL).then_some(sum)
}

struct Reader {
    origin: Name,
    /// The last owner, for lines that begin with a blank.
    owner: Option<Name>,
    default_ttl: Option<u32>,
    last_ttl: Option<u32>,
}

impl Reader {
    fn entry(&mut self, entry: &Entry) -> Result<Option<Read>, Problem> {
        let Some(first) = entry.tokens.first() else { return Ok(None) };
        if !entry.indented && !first.quoted && first.text.starts_with('$') {
            self.directive(first, &entry.tokens[1..])?;
            return Ok(None);
        }
        let mut rest = &entry.tokens[..];
        if entry.indented {
            if self.owner.is_none() {
                return Err(first.wrong("the first record begins with a blank; write its name first"));
            }
        } else {
            self.owner = Some(name(&first.text, &self.origin).map_err(|message| first.wrong(message))?);
            rest = &rest[1..];
        }
        let owner = self.owner.clone().expect("set above");
        let mut written_ttl = None;
        // TTL and class stand in any order before the type (RFC 1035, section 5.1).
        let kind = loop {
            let Some((token, others)) = rest.split_first() else {
                return Err(entry.end(format!("a record without a type; write one of {}", known_types())));
            };
            rest = others;
            if token.text.eq_ignore_ascii_case("IN") {
                continue;
            }
            if ["CH", "HS", "CS"].iter().any(|class| token.text.eq_ignore_ascii_case(class)) {
                return Err(token.wrong(format!("class {} is not served; write IN or nothing", token.text)));
            }
            if token.text.starts_with(|c: char| c.is_ascii_digit()) {
                written_ttl = Some(self.ttl(token)?);
                continue;
            }
            break token;
        };
        let data = rdata::parse(kind, rest, &self.origin, entry)?;
        self.last_ttl = written_ttl.or(self.last_ttl);
        let ttl = written_ttl.or(self.default_ttl).or(self.last_ttl).or(match &data {
            // BIND's and NSD's reading of a SOA without any TTL before it.
            RData::SOA(soa) => Some(soa.minimum),
            _ => None,
        });
        let Some(ttl) = ttl else {
            return Err(first.wrong("a record without a TTL; begin the file with one, as in $TTL 1h"));
        };
        self.last_ttl = Some(ttl);
        let record = Rr { name: owner, ttl, data };
        Ok(Some(Read { record, line: first.line, column: first.column }))
    }

    fn ttl(&self, token: &Token) -> Result<u32, Problem> {
        ttl(&token.text).ok_or_else(|| {
            token.wrong(format!(
                "not a TTL: {:?}; write seconds up to {LONGEST_TTL}, or as in 1h30m",
                token.text
            ))
        })
    }

    fn directive(&mut self, directive: &Token, words: &[Token]) -> Result<(), Problem> {
        let word = match words {
            [word] => word,
            [] => return Err(directive.wrong(format!("{} without a value; write one", directive.text))),
            [_, extra, ..] => return Err(extra.wrong("one word too many; remove it")),
        };
        match directive.text.to_ascii_uppercase().as_str() {
            "$ORIGIN" => {
                self.origin = name(&word.text, &self.origin).map_err(|message| word.wrong(message))?;
            }
            "$TTL" => self.default_ttl = Some(self.ttl(word)?),
            other => {
                let advice = "write its records here; $ORIGIN and $TTL are known";
                return Err(directive.wrong(format!("{other} is not supported; {advice}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
