//! Zones that are signed as questions come (RFC 4033 to 4035), by ECDSA on P-256 with SHA-256.
//!
//! Answers follow health, clients and chance, so there is nothing that could be signed beforehand: each set of records is
//! signed when it is first given, and the signature is kept ([`sign`]). What is not there is denied by one record that is
//! made up for the name in question (compact denial of existence, RFC 9824; [`deny`]), so that nobody can list a zone.

pub mod deny;
pub mod sign;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use hickory_proto::dnssec::crypto::EcdsaSigningKey;
use hickory_proto::dnssec::rdata::{CDNSKEY, CDS, DNSKEY, DS};
use hickory_proto::dnssec::{Algorithm, DigestType, SigningKey};
use hickory_proto::rr::{Name, RData};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::zone::Rr;

/// How keys sign: with it signatures are short, and every validator knows it (RFC 8624).
const ALGORITHM: Algorithm = Algorithm::ECDSAP256SHA256;

/// A key of a zone, for its own records and those of all names (a combined signing key).
pub struct ZoneKey {
    file: PathBuf,
    public: DNSKEY,
    tag: u16,
    key: EcdsaSigningKey,
}

impl PartialEq for ZoneKey {
    fn eq(&self, other: &Self) -> bool {
        (&self.file, &self.public) == (&other.file, &other.public)
    }
}

impl Eq for ZoneKey {}

/// Without the secret.
impl fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneKey").field("file", &self.file).field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl ZoneKey {
    /// Reads a key (PKCS #8 in PEM, as `lb dns key` and `openssl genpkey` write it). The error says what is wrong and what
    /// to do.
    pub fn read(file: &Path) -> Result<Self, String> {
        let shown = file.display();
        let text = fs::read(file).map_err(|error| {
            format!("{shown}: cannot be read: {error}; make it with `lb dns key --file {shown}`")
        })?;
        let wrong = || format!("{shown}: not an ECDSA P-256 key in PEM; make one with `lb dns key`");
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| wrong())?;
        let key = EcdsaSigningKey::from_pkcs8(&der, ALGORITHM).map_err(|_| wrong())?;
        let public = key.to_public_key().map_err(|_| wrong())?;
        let public = DNSKEY::from_key(&public);
        let tag = public.calculate_key_tag().map_err(|_| wrong())?;
        Ok(ZoneKey { file: file.to_owned(), public, tag, key })
    }

    /// Makes a key in a file of its own, which only its owner can read; one that is there is left alone.
    pub fn make(file: &Path) -> io::Result<()> {
        let der = EcdsaSigningKey::generate_pkcs8(ALGORITHM).map_err(io::Error::other)?;
        let base64 = BASE64_STANDARD.encode(der.secret_pkcs8_der());
        let mut text = "-----BEGIN PRIVATE KEY-----\n".to_owned();
        for line in base64.as_bytes().chunks(64) {
            text.extend(line.iter().copied().map(char::from));
            text.push('\n');
        }
        text.push_str("-----END PRIVATE KEY-----\n");
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Whether another file has the same key.
    pub fn is_same(&self, other: &Self) -> bool {
        self.public == other.public
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What the parent zone needs (RFC 4034, section 5).
    pub fn ds(&self, apex: &Name) -> Option<DS> {
        let digest = self.public.to_digest(apex, DigestType::SHA256).ok()?;
        Some(DS::new(self.tag, ALGORITHM, DigestType::SHA256, digest.as_ref().to_vec()))
    }

    /// The records of the zone itself that speak of the key: DNSKEY, and what a parent that looks by itself takes from it
    /// (CDS and CDNSKEY, RFC 7344).
    pub fn records(&self, apex: &Name, ttl: u32) -> Vec<Rr> {
        let public = self.public.public_key();
        let bytes = hickory_proto::dnssec::PublicKey::public_bytes(public).to_vec();
        let cdnskey = CDNSKEY::with_flags(self.public.flags(), Some(ALGORITHM), bytes);
        let cds = self.ds(apex).map(|ds| {
            let digest = ds.digest().to_vec();
            RData::from(CDS::new(ds.key_tag(), Some(ds.algorithm()), ds.digest_type(), digest))
        });
        let all = [Some(RData::from(self.public.clone())), cds, Some(RData::from(cdnskey))];
        all.into_iter().flatten().map(|data| Rr { name: apex.clone(), ttl, data }).collect()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
