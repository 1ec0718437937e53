//! A certificate and its key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::pem::{self, Read, Wrong};
use super::provider;

/// Where a certificate (with those between it and its authority) and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// In a folder with a mounted Kubernetes Secret of type `kubernetes.io/tls`.
    pub fn of_secret(folder: &Path) -> Self {
        Self { certificate: folder.join("tls.crt"), key: folder.join("tls.key") }
    }

    /// Reads both, and makes sure that they belong together.
    pub fn load(&self, read: Read<'_>) -> Result<Loaded, Wrong> {
        let mut bytes = |file: &Path| read(file).map_err(|error| Wrong::new(file, error));
        let certificates = bytes(&self.certificate)?;
        let key = bytes(&self.key)?;
        let digest = Sha256::new().chain_update(&certificates).chain_update([0]).chain_update(&key).finalize();
        let chain = pem::certificates(&self.certificate, &certificates)?;
        let key = pem::key(&self.key, &key)?;
        let about = About::read(&self.certificate, &chain[0])?;
        match CertifiedKey::from_der(chain.clone(), key, &provider()) {
            Ok(key) => Ok(Loaded { pair: self.clone(), key: Arc::new(key), about, digest: digest.into() }),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(Wrong::new(&self.key, format!("this key is not that of the certificate in {}", self.certificate.display()))
                    .help(match chain.len() {
                        1 => "give the key that the certificate was made with",
                        _ => "give the key that the certificate was made with; in the certificate's file it comes before those that signed it",
                    }))
            }
            Err(Error::InvalidCertificate(error)) => {
                Err(Wrong::new(&self.certificate, format!("its first certificate cannot be used: {error}")))
            }
            Err(error) => {
                let wrong = Wrong::new(&self.key, format!("this private key cannot be used: {error}"));
                Err(wrong.help("RSA from 2048 bits, ECDSA P-256, P-384 and P-521, and Ed25519 are known"))
            }
        }
    }
}

/// A pair that fits.
#[derive(Clone)]
pub struct Loaded {
    pub pair: Pair,
    pub(super) key: Arc<CertifiedKey>,
    pub about: About,
    pub(super) digest: [u8; 32],
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("pair", &self.pair).field("about", &self.about).finish_non_exhaustive()
    }
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The host names that it is for (its subjectAltName; its common name has had no meaning since RFC 6125), in lower
    /// case. A wildcard is `*.` and a name.
    pub names: Vec<String>,
    /// In seconds since the Unix epoch, both inclusive.
    pub not_before: i64,
    pub not_after: i64,
}

impl About {
    fn read(file: &Path, certificate: &CertificateDer<'_>) -> Result<Self, Wrong> {
        let broken = |error: &dyn fmt::Display| {
            Wrong::new(file, format!("expected a certificate (X.509), found something else: {error}"))
        };
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| broken(&error))?;
        let names = parsed.subject_alternative_name().map_err(|error| broken(&error))?;
        let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let validity = parsed.validity();
        Ok(Self {
            names: names.collect(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// What an operator should know of it at `now`, in seconds since the Unix epoch. No reason not to use it: clocks are
    /// wrong more often than people want no service.
    pub fn note(&self, file: &Path, now: i64) -> Option<String> {
        let file = file.display();
        if now > self.not_after {
            return Some(format!(
                "{file}: the certificate has expired ({} ago): clients will refuse it",
                span(now - self.not_after)
            ));
        }
        if now < self.not_before {
            return Some(format!(
                "{file}: the certificate is not valid yet, for another {}",
                span(self.not_before - now)
            ));
        }
        None
    }
}

/// So that one number is enough.
fn span(seconds: i64) -> String {
    match seconds {
        ..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
