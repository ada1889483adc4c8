//! Signatures, made when they are first needed and kept for as long as they are good.
//!
//! What is kept is found by a keyed hash of all that is signed, so that an answer that changes is another one, and never
//! has an old signature. There are two generations: what is used stays, what is not is forgotten when there is too much,
//! so that made-up names take no more room than this.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_proto::ProtoError;
use hickory_proto::dnssec::rdata::sig::SigInput;
use hickory_proto::dnssec::rdata::{DNSSECRData, RRSIG};
use hickory_proto::dnssec::{SigningKey, TBS};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType, SerialNumber};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::{ALGORITHM, ZoneKey};
use crate::dns::answer::Answer;
use crate::dns::zone::Zone;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Signatures are good from so long ago, for clocks that are behind.
const BEFORE: u64 = HOUR;
/// They are good for so long, and for a part of a day more, so that not all end at once.
const GOOD: u64 = 7 * DAY;
/// After so long a new one is made: what resolvers have got remains good for days.
const RENEWED: u64 = 3 * DAY;
/// Signatures of a generation; each takes about 250 bytes.
const GENERATION: usize = 8192;

/// Signatures that were made.
#[derive(Debug)]
pub struct Signatures {
    secret: (u64, u64),
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    young: HashMap<u128, Signature>,
    old: HashMap<u128, Signature>,
}

#[derive(Clone, Debug)]
struct Signature {
    data: RData,
    /// When a new one is to be made, in seconds since 1970.
    renewed: u64,
}

impl Default for Signatures {
    fn default() -> Self {
        let chance = || RandomState::new().hash_one(0);
        Signatures { secret: (chance(), chance()), kept: Mutex::default() }
    }
}

impl Signatures {
    /// Adds signatures and the denial to an answer of a signed zone. A name that is not there is denied like a type that is
    /// not, unless the asker knows what that means (`compact_ok`, RFC 9824, section 5.1). `now` in seconds since 1970.
    pub fn sign(
        &self,
        answer: &mut Answer,
        zone: &Zone,
        compact_ok: bool,
        now: u64,
    ) -> Result<(), ProtoError> {
        answer.authorities.append(&mut answer.ds);
        if let Some(denial) = &answer.denial {
            answer.authorities.extend(denial.record(zone.negative_ttl()));
        }
        if answer.code == ResponseCode::NXDomain && !compact_ok {
            answer.code = ResponseCode::NoError;
        }
        for records in [&mut answer.answers, &mut answer.authorities] {
            let mut signed = Vec::with_capacity(2 * records.len());
            for set in records.chunk_by(|a, b| a.record_type() == b.record_type() && a.name == b.name) {
                signed.extend_from_slice(set);
                signed.extend(self.of_set(set, zone, now)?);
            }
            *records = signed;
        }
        Ok(())
    }

    /// How many are kept.
    pub fn count(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.young.len() + kept.old.len()
    }

    /// The signatures of a set of records.
    fn of_set(&self, set: &[Record], zone: &Zone, now: u64) -> Result<Vec<Record>, ProtoError> {
        let kind = set[0].record_type();
        let keys: &[Arc<ZoneKey>] = match kind {
            // Of a delegation: the zone below has authority over it. Those of the zone itself are never beside an answer.
            RecordType::NS if set[0].name != zone.soa().name => &[],
            // What says which keys there are, all vouch for (RFC 6840, section 5.11).
            RecordType::DNSKEY | RecordType::CDS | RecordType::CDNSKEY => zone.keys(),
            _ => &zone.keys()[..zone.keys().len().min(1)],
        };
        keys.iter()
            .map(|key| {
                let data = self.of_key(set, key, zone, now)?;
                Ok(Record::from_rdata(set[0].name.clone(), set[0].ttl, data))
            })
            .collect()
    }

    fn of_key(&self, set: &[Record], key: &ZoneKey, zone: &Zone, now: u64) -> Result<RData, ProtoError> {
        let covered = canonical(set)?;
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write(hickory_proto::dnssec::PublicKey::public_bytes(key.public.public_key()));
        hasher.write(&covered);
        let hash = hasher.finish128().as_u128();
        if let Some(data) = self.find(hash, now) {
            return Ok(data);
        }
        let input = SigInput {
            type_covered: set[0].record_type(),
            algorithm: ALGORITHM,
            num_labels: set[0].name.num_labels(),
            original_ttl: set[0].ttl,
            sig_expiration: SerialNumber::new((now + GOOD + hash as u64 % DAY) as u32),
            sig_inception: SerialNumber::new(now.saturating_sub(BEFORE) as u32),
            key_tag: key.tag,
            signer_name: zone.soa().name.to_lowercase(),
        };
        let mut signed = Vec::with_capacity(64 + covered.len());
        input.emit(&mut canonical_encoder(&mut signed))?;
        signed.extend_from_slice(&covered);
        let signature = key.key.sign(&TBS::from(&signed[..]));
        let signature = signature.map_err(|error| ProtoError::from(error.to_string()))?;
        let data = RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, signature)));
        self.keep(hash, Signature { data: data.clone(), renewed: now + RENEWED });
        Ok(data)
    }

    fn find(&self, hash: u128, now: u64) -> Option<RData> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was put back makes what comes from the future as good as nothing.
        let is_good =
            |signature: &&Signature| now < signature.renewed && signature.renewed <= now + RENEWED + BEFORE;
        if let Some(signature) = kept.young.get(&hash).filter(is_good) {
            return Some(signature.data.clone());
        }
        let signature = kept.old.remove(&hash).filter(|signature| is_good(&signature))?;
        let data = signature.data.clone();
        kept.insert(hash, signature);
        Some(data)
    }

    fn keep(&self, hash: u128, signature: Signature) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, signature);
    }
}

impl Kept {
    fn insert(&mut self, hash: u128, signature: Signature) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, signature);
    }
}

/// A set of records as it is signed (RFC 4034, section 3.1.8.1 and 6).
fn canonical(set: &[Record]) -> Result<Vec<u8>, ProtoError> {
    let mut all = Vec::with_capacity(set.len());
    for record in set {
        let mut data = Vec::new();
        record.data.emit(&mut canonical_encoder(&mut data))?;
        all.push(data);
    }
    all.sort_unstable();
    all.dedup();
    let mut head = Vec::new();
    let mut encoder = canonical_encoder(&mut head);
    encoder.set_name_encoding(NameEncoding::UncompressedLowercase);
    set[0].name.emit(&mut encoder)?;
    set[0].record_type().emit(&mut encoder)?;
    DNSClass::IN.emit(&mut encoder)?;
    encoder.emit_u32(set[0].ttl)?;
    let mut covered = Vec::with_capacity(all.iter().map(|data| head.len() + 2 + data.len()).sum());
    for data in all {
        covered.extend_from_slice(&head);
        covered.extend((data.len() as u16).to_be_bytes());
        covered.extend(data);
    }
    Ok(covered)
}

fn canonical_encoder(out: &mut Vec<u8>) -> BinEncoder<'_> {
    let mut encoder = BinEncoder::new(out);
    encoder.set_canonical_form(true);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    encoder
}
