//! Shared keys and what they sign (TSIG, RFC 8945): the keys of servers of others, and those that sign questions here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::tsig::{TSIG, TsigAlgorithm, TsigError, make_tsig_record};
use hickory_proto::rr::{LowerName, Name, Record, TSigner};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// Seconds that the clocks of two sides may differ (RFC 8945, section 10).
const FUDGE: u16 = 300;
/// Where the header has the number of additional records.
const ADDITIONALS: std::ops::Range<usize> = 10..12;

/// A TSIG key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: Name,
    /// How it signs.
    pub algorithm: Algorithm,
    /// File with its secret in Base64.
    pub secret: PathBuf,
}

/// How a key signs (RFC 8945, section 6); those that are not to be used any more are not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// `hmac-sha256`
    #[default]
    Sha256,
    /// `hmac-sha384`
    Sha384,
    /// `hmac-sha512`
    Sha512,
}

impl Algorithm {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 3] =
        [("hmac-sha256", Self::Sha256), ("hmac-sha384", Self::Sha384), ("hmac-sha512", Self::Sha512)];

    /// The name in configurations, as in RFC 8945.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, algorithm)| *algorithm == self).map_or("", |(name, _)| name)
    }

    fn hickory(self) -> TsigAlgorithm {
        match self {
            Algorithm::Sha256 => TsigAlgorithm::HmacSha256,
            Algorithm::Sha384 => TsigAlgorithm::HmacSha384,
            Algorithm::Sha512 => TsigAlgorithm::HmacSha512,
        }
    }
}

/// A secret cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {what}")]
pub struct SecretError {
    /// Its file.
    pub file: String,
    /// What is wrong; what to do.
    pub what: String,
}

impl Key {
    /// What signs with this key.
    pub fn signer(&self) -> Result<TSigner, SecretError> {
        let wrong =
            |what: &str| SecretError { file: self.secret.display().to_string(), what: what.to_owned() };
        let secret = BASE64_STANDARD.decode(secret(&self.secret)?);
        let secret = secret.map_err(|_| wrong("is not Base64; write the secret as in the server's key"))?;
        TSigner::new(secret, self.algorithm.hickory(), self.name.clone(), FUDGE)
            .map_err(|error| wrong(&error.to_string()))
    }
}

/// A secret without what editors add to it.
pub fn secret(file: &Path) -> Result<String, SecretError> {
    let text = fs::read_to_string(file).map_err(|error| SecretError {
        file: file.display().to_string(),
        what: format!("cannot be read: {error}; write the secret there"),
    })?;
    Ok(text.trim().to_owned())
}

/// The keys that may sign questions, by name.
#[derive(Clone, Default)]
pub struct Keyring(BTreeMap<LowerName, TSigner>);

impl Keyring {
    /// The keys whose secrets can be had, and what is wrong with the others.
    pub fn read<'a>(keys: impl Iterator<Item = &'a Key>) -> (Self, Vec<SecretError>) {
        let (mut ring, mut errors) = (BTreeMap::new(), Vec::new());
        for key in keys {
            match key.signer() {
                Ok(signer) => drop(ring.insert(LowerName::new(&key.name), signer)),
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
        }
        (Keyring(ring), errors)
    }

    /// What signs with the key of this name.
    pub fn get(&self, name: &LowerName) -> Option<&TSigner> {
        self.0.get(name)
    }
}

/// Names only: secrets are nobody's business.
impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What a signed question has come to, and what signs its answers.
#[derive(Debug)]
pub struct Signed {
    key: Name,
    algorithm: TsigAlgorithm,
    id: u16,
    /// What is wrong; answers to that have no signature, but for a wrong time.
    error: Option<TsigError>,
    /// When it was signed, by its own clock.
    time: u64,
    signer: Option<Signer>,
}

struct Signer {
    key: TSigner,
    /// The signature before the next one: of the question, or of the last answer.
    previous: Vec<u8>,
    /// No answer has been signed yet.
    first: bool,
}

/// The secret is nobody's business.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("first", &self.first).finish_non_exhaustive()
    }
}

impl Signed {
    /// Checks the signature of a question, the record that begins at `at`, in the order of RFC 8945, section 5.2. `now` in
    /// seconds since 1970.
    pub fn check(keys: &Keyring, packet: &[u8], at: usize, record: Box<Record<TSIG>>, now: u64) -> Self {
        let Record { name, data: tsig, .. } = *record;
        let mut checked = Signed {
            key: name,
            algorithm: tsig.algorithm.clone(),
            id: tsig.oid,
            error: None,
            time: tsig.time,
            signer: None,
        };
        let key = keys.get(&LowerName::new(&checked.key)).filter(|key| *key.algorithm() == tsig.algorithm);
        let Some(key) = key else {
            checked.error = Some(TsigError::BadKey);
            return checked;
        };
        // A signature that is cut short is as good as a wrong one: nobody needs to (section 5.2.2.1).
        let verified =
            covered(packet, at, &checked.key, &tsig).is_some_and(|it| key.verify(&it, &tsig.mac).is_ok());
        if !verified {
            checked.error = Some(TsigError::BadSig);
            return checked;
        }
        if tsig.time.abs_diff(now) > tsig.fudge.into() {
            checked.error = Some(TsigError::BadTime);
        }
        checked.signer = Some(Signer { key: key.clone(), previous: tsig.mac, first: true });
        checked
    }

    /// What is wrong; `None`: whoever signed has the key.
    pub fn error(&self) -> Option<TsigError> {
        self.error
    }

    /// The key's name.
    pub fn key(&self) -> &Name {
        &self.key
    }

    /// Bytes that the record takes at most.
    pub fn room(&self) -> u16 {
        // Two names, the fixed fields, a time, and the longest signature.
        const FIXED: usize = 10 + 16 + 6 + 64;
        (self.key.len() + 1 + self.algorithm.to_name().len() + 1 + FIXED) as u16
    }

    /// Adds the record to an answer; those of one question are signed in the order in which they are sent.
    pub fn sign(&mut self, answer: &mut Vec<u8>, now: u64) -> Result<(), ProtoError> {
        // Whoever has the wrong time is told the right one (section 5.2.3).
        let (time, other) = match self.error {
            Some(TsigError::BadTime) => (self.time, now.to_be_bytes()[2..].to_vec()),
            _ => (now, Vec::new()),
        };
        let mut tsig = TSIG::new(self.algorithm.clone(), time, FUDGE, Vec::new(), self.id, self.error, other);
        if let Some(Signer { key, previous, first }) = &mut self.signer {
            let mut covered = Vec::with_capacity(answer.len() + 256);
            covered.extend((previous.len() as u16).to_be_bytes());
            covered.extend_from_slice(previous);
            covered.extend_from_slice(answer);
            if *first {
                let offset = covered.len() as u32;
                tsig.emit_tsig_for_mac(
                    &mut BinEncoder::with_offset(&mut covered, offset),
                    key.signer_name(),
                )?;
            } else {
                // Those that follow on a connection have the timers alone (section 5.3.1).
                covered.extend(&time.to_be_bytes()[2..]);
                covered.extend(FUDGE.to_be_bytes());
            }
            let mac = key.sign(&covered).map_err(|error| ProtoError::from(error.to_string()))?;
            *first = false;
            previous.clone_from(&mac);
            tsig = tsig.set_mac(mac);
        }
        let offset = answer.len() as u32;
        make_tsig_record(self.key.clone(), tsig).emit(&mut BinEncoder::with_offset(answer, offset))?;
        let count = u16::from_be_bytes([answer[ADDITIONALS.start], answer[ADDITIONALS.start + 1]]) + 1;
        answer[ADDITIONALS].copy_from_slice(&count.to_be_bytes());
        Ok(())
    }
}

/// What the signature of a question covers (RFC 8945, section 4.3.3): the message as it was before the record was added, and
/// what the record says. `None`: the packet cannot be a message.
fn covered(packet: &[u8], at: usize, key: &Name, tsig: &TSIG) -> Option<Vec<u8>> {
    let mut covered = packet.get(..at)?.to_vec();
    covered.get_mut(..2)?.copy_from_slice(&tsig.oid.to_be_bytes());
    let count: [u8; 2] = covered.get(ADDITIONALS)?.try_into().ok()?;
    covered[ADDITIONALS].copy_from_slice(&u16::from_be_bytes(count).checked_sub(1)?.to_be_bytes());
    let offset = covered.len() as u32;
    tsig.emit_tsig_for_mac(&mut BinEncoder::with_offset(&mut covered, offset), key).ok()?;
    Some(covered)
}

#[cfg(test)]
#[path = "tsig_tests.rs"]
mod tests;
