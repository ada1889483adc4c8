//! Records as text that every name server reads: the master file format of RFC 1035, section 5, and for types without
//! words of their own here that of RFC 3597, section 5. Pure.

use std::fmt::Write;

use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData};
use hickory_proto::serialize::binary::BinEncodable;

use crate::dns::zone::Rr;

/// What stands behind the serial number of a zone, on a line of their own.
pub const SERIAL: &str = " ; serial";

/// A record, as a line or, of a SOA, as three.
pub fn line(record: &Rr) -> String {
    let (kind, data) = match &record.data {
        RData::A(address) => ("A".to_owned(), address.to_string()),
        RData::AAAA(address) => ("AAAA".to_owned(), address.to_string()),
        RData::CNAME(target) => ("CNAME".to_owned(), name(&target.0)),
        RData::NS(server) => ("NS".to_owned(), name(&server.0)),
        RData::PTR(target) => ("PTR".to_owned(), name(&target.0)),
        RData::MX(mx) => ("MX".to_owned(), format!("{} {}", mx.preference, name(&mx.exchange))),
        RData::SRV(srv) => {
            let numbers = format!("{} {} {}", srv.priority, srv.weight, srv.port);
            ("SRV".to_owned(), format!("{numbers} {}", name(&srv.target)))
        }
        RData::TXT(txt) => {
            let strings: Vec<String> = txt.txt_data.iter().map(|string| quoted(string)).collect();
            ("TXT".to_owned(), strings.join(" "))
        }
        RData::CAA(caa) => {
            let flags = u8::from(caa.issuer_critical) << 7 | caa.reserved_flags;
            ("CAA".to_owned(), format!("{flags} {} {}", caa.tag, quoted(&caa.value)))
        }
        RData::SOA(data) => ("SOA".to_owned(), soa(data)),
        other => (format!("TYPE{}", u16::from(other.record_type())), generic(other)),
    };
    format!("{} {} IN {kind} {data}\n", name(&record.name), record.ttl)
}

/// A whole name; bytes that have a meaning in such files are written by three digits.
pub fn name(name: &Name) -> String {
    let mut text = String::new();
    for label in name.iter() {
        for byte in label {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'*' | b'/' => {
                    text.push(char::from(*byte))
                }
                // Writing to a String cannot fail.
                _ => drop(write!(text, "\\{byte:03}")),
            }
        }
        text.push('.');
    }
    if text.is_empty() { ".".into() } else { text }
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from('"');
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => drop(write!(text, "\\{byte:03}")),
        }
    }
    text + "\""
}

fn soa(soa: &SOA) -> String {
    format!(
        "{} {} (\n    {}{SERIAL}\n    {} {} {} {} )",
        name(&soa.mname),
        name(&soa.rname),
        soa.serial,
        soa.refresh,
        soa.retry,
        soa.expire,
        soa.minimum
    )
}

fn generic(data: &RData) -> String {
    let bytes = data.to_bytes().unwrap_or_default();
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\\# {} {digits}", bytes.len()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Read, parse};
    use super::*;

    fn records_of(text: &str) -> Vec<Rr> {
        let origin = Name::from_ascii("example.org.").unwrap();
        parse(text, &origin, Some(300)).unwrap().into_iter().map(|Read { record, .. }| record).collect()
    }

    fn written(records: &[Rr]) -> String {
        records.iter().map(line).collect()
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let text = "@ SOA ns1 host.master 2026010100 2h 15m 2w 5m
@ NS Ns1
ns1 60 A 192.0.2.1
ns1 AAAA 2001:db8::1
*.w CNAME ns1
@ MX 10 mail.example.net.
_sip._tcp SRV 1 2 5060 .
@ CAA 128 issue \"ca.example.net; x\"
t TXT \"say \\\"hi\\\" \\\\ ; \\007\\255\" two \"\"
1 PTR a.example.com.
";
        let records = records_of(text);
        assert_eq!(records_of(&written(&records)), records, "{}", written(&records));
    }

    #[test]
    fn lines_are_as_other_servers_read_them() {
        assert_eq!(
            written(&records_of("@ 3600 SOA ns1 hostmaster 7 3600 900 1209600 60\nw 30 TXT a\\\"b\n")),
            "example.org. 3600 IN SOA ns1.example.org. hostmaster.example.org. (\n    7 ; serial\n    3600 900 1209600 60 )\n\
             w.example.org. 30 IN TXT \"a\\\"b\"\n"
        );
        assert_eq!(
            written(&records_of("_443._tcp 60 TLSA 3 1 1 0a0b\n")),
            "_443._tcp.example.org. 60 IN TYPE52 \\# 5 0301010a0b\n"
        );
        let odd = Name::from_labels([&b"a.b"[..], b"c d"]).unwrap();
        assert_eq!(name(&odd), "a\\046b.c\\032d.");
    }
}
