//! Records that deny: one for each name and question, made up as it is needed (RFC 9824). Pure.

use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::dns::zone::Node;

/// Says in a denial that there is no such name; there are no records of this type.
pub const NXNAME: RecordType = RecordType::Unknown(128);

/// What an answer denies: that a name has records of any but these types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The name.
    pub name: Name,
    /// The types that it has.
    pub types: Vec<RecordType>,
}

impl Denial {
    /// There is no such name.
    pub fn of_name(name: &Name) -> Self {
        Denial { name: name.clone(), types: vec![NXNAME] }
    }

    /// A name has no records of a type. Addresses that are chosen may be there or not; of those that are not asked for it
    /// is said that they are.
    pub fn of_type(name: &Name, node: &Node, kind: RecordType) -> Self {
        let addresses = node.choice.map(|_| [RecordType::A, RecordType::AAAA]);
        let all = node.sets.iter().map(|set| set.kind).chain(addresses.into_iter().flatten());
        Denial { name: name.clone(), types: all.filter(|other| *other != kind).collect() }
    }

    /// A delegation has no DS records: it is not signed.
    pub fn of_ds(cut: &Name) -> Self {
        Denial { name: cut.clone(), types: vec![RecordType::NS] }
    }

    /// The record, which covers no other name than this one.
    pub fn record(&self, ttl: u32) -> Option<Record> {
        let name = self.name.to_lowercase();
        let nsec = NSEC::new_cover_self(successor(&name)?, self.types.iter().copied());
        Some(Record::from_rdata(name, ttl, RData::DNSSEC(DNSSECRData::NSEC(nsec))))
    }
}

/// The first name after another one, in the order of RFC 4034, section 6.1: the same with a label of one zero byte before
/// it, or, where that would be too long, the next one of its length (RFC 4471, section 3.1.2).
fn successor(name: &Name) -> Option<Name> {
    if let Ok(next) = name.prepend_label(&[0u8][..]) {
        return Some(next);
    }
    let mut labels: Vec<Vec<u8>> = name.iter().map(<[u8]>::to_vec).collect();
    let first = labels.first_mut()?;
    let mut longer = first.clone();
    longer.push(0);
    let rebuilt = |first: Vec<u8>, rest: &[Vec<u8>]| {
        let all = std::iter::once(first).chain(rest.iter().cloned());
        Name::from_labels(all).ok()
    };
    if let Some(next) = rebuilt(longer, &labels[1..]) {
        return Some(next);
    }
    let mut first = labels[0].clone();
    while first.last() == Some(&u8::MAX) {
        first.pop();
    }
    let last = first.last_mut()?;
    // Upper case is lower case here.
    *last = if *last == b'@' { b'[' } else { *last + 1 };
    rebuilt(first, &labels[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_the_next_name_also_of_names_of_full_length() {
        let name = |labels: &[&[u8]]| Name::from_labels(labels.iter().copied()).unwrap();
        assert_eq!(successor(&name(&[b"a", b"org"])), Some(name(&[b"\0", b"a", b"org"])));
        let long = [b'x'; 63];
        // 3 × 64 + 61 + 1 bytes: nothing fits before it, one byte in its first label does.
        let almost = name(&[&long[..60], &long, &long, &long]);
        let mut first = long[..60].to_vec();
        first.push(0);
        assert_eq!(successor(&almost), Some(name(&[&first, &long, &long, &long])));
        let mut next = long[..61].to_vec();
        next[60] = b'y';
        assert_eq!(
            successor(&name(&[&long[..61], &long, &long, &long])),
            Some(name(&[&next, &long, &long, &long]))
        );
        for (last, expected) in [(b'@', b'['), (b'z', b'{')] {
            let of = |last| {
                let mut first = long[..61].to_vec();
                first[60] = last;
                name(&[&first, &long, &long, &long])
            };
            assert_eq!(successor(&of(last)), Some(of(expected)));
        }
        assert!(successor(&almost).unwrap() > almost);
    }

    #[test]
    fn a_denial_names_what_is_there_and_never_what_was_asked_for() {
        let name = Name::from_ascii("WWW.example.org.").unwrap();
        let node = Node { sets: Vec::new(), choice: Some(0) };
        let denied = |denial: Denial| denial.record(60).unwrap().to_string();
        assert_eq!(
            denied(Denial::of_type(&name, &node, RecordType::AAAA)),
            "www.example.org. 60 IN NSEC \\000.www.example.org. A RRSIG NSEC"
        );
        assert!(denied(Denial::of_type(&name, &node, RecordType::TXT)).ends_with(" A AAAA RRSIG NSEC"));
        assert!(denied(Denial::of_name(&name)).ends_with(" RRSIG NSEC Unknown"));
        assert!(denied(Denial::of_ds(&name)).ends_with(" NS RRSIG NSEC"));
    }
}
