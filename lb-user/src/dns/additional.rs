//! The additional section of a question: OPT (RFC 6891) and TSIG (RFC 8945). Pure.
//!
//! Whatever is not used is passed over by its length, without a look inside: unknown options, options of no use here, other
//! records. A packet of 4 096 bytes then costs no more than its length.

use hickory_proto::op::{Edns, EdnsFlags, Message, OpCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode};
use hickory_proto::rr::rdata::tsig::TSIG;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

/// What a question says besides its name.
#[derive(Debug, Default)]
pub(super) struct Additional {
    /// The OPT record, without options.
    pub edns: Option<Edns>,
    /// The client subnet as it was asked (RFC 7871).
    pub subnet: Option<ClientSubnet>,
    /// The name of the server is asked for (NSID, RFC 5001).
    pub nsid: bool,
    /// The TSIG record, and where it begins.
    pub signature: Option<(usize, Box<Record<TSIG>>)>,
}

impl Additional {
    /// Reads so many records.
    pub fn read(decoder: &mut BinDecoder<'_>, count: u16) -> Result<Self, DecodeError> {
        let mut read = Additional::default();
        for _ in 0..count {
            let at = decoder.index();
            // Nothing follows a TSIG record (RFC 8945, section 5.1).
            if read.signature.is_some() {
                return Err(DecodeError::RecordAfterSig);
            }
            let mut beyond = decoder.clone(u16::try_from(at).map_err(|_| DecodeError::InsufficientBytes)?);
            let owner = Name::read(&mut beyond)?;
            match RecordType::from(beyond.read_u16()?.unverified()) {
                RecordType::OPT if read.edns.is_some() => return Err(DecodeError::DuplicateEdns),
                RecordType::OPT if !owner.is_root() => {
                    return Err(DecodeError::EdnsNameNotRoot(owner.into()));
                }
                RecordType::OPT => {
                    read.take_opt(&mut beyond)?;
                    *decoder = beyond;
                }
                RecordType::TSIG => {
                    let (.., tsig) = Message::read_records(decoder, 1, true, OpCode::Query)?;
                    read.signature = tsig.map(|record| (at, record));
                }
                _ => skip(decoder)?,
            }
        }
        Ok(read)
    }

    /// Reads an OPT record behind its type: class, TTL and data have a meaning of their own (RFC 6891, section 6.1.2).
    fn take_opt(&mut self, decoder: &mut BinDecoder<'_>) -> Result<(), DecodeError> {
        let max_payload = decoder.read_u16()?.unverified();
        let [rcode_high, version, flags @ ..] = decoder.read_u32()?.unverified().to_be_bytes();
        let length = decoder.read_u16()?.unverified();
        let mut options = decoder.read_slice(length.into())?.unverified();
        let mut edns = Edns::new();
        edns.set_max_payload(max_payload).set_version(version).set_rcode_high(rcode_high);
        *edns.flags_mut() = EdnsFlags::from(u16::from_be_bytes(flags));
        while !options.is_empty() {
            let [a, b, c, d] = *options.first_chunk().ok_or(DecodeError::InsufficientBytes)?;
            let (code, length) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let data = options.get(4..4 + usize::from(length)).ok_or(DecodeError::InsufficientBytes)?;
            options = &options[4 + data.len()..];
            match EdnsCode::from(code) {
                EdnsCode::Subnet if self.subnet.is_none() => {
                    self.subnet = Some(ClientSubnet::try_from(data)?)
                }
                EdnsCode::NSID => self.nsid = true,
                _ => {}
            }
        }
        self.edns = Some(edns);
        Ok(())
    }
}

/// Goes past a record, whatever it says.
pub(super) fn skip(decoder: &mut BinDecoder<'_>) -> Result<(), DecodeError> {
    /// Type, class and TTL.
    const FIXED: usize = 8;
    Name::read(decoder)?;
    decoder.read_slice(FIXED)?;
    let length = decoder.read_u16()?.unverified();
    decoder.read_slice(length.into())?;
    Ok(())
}
