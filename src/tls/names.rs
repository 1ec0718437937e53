//! Which certificate for which name (SNI, RFC 6066 section 3).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Loaded;

/// Certificates by the names that they have themselves. An exact name comes before a wildcard, and the first certificate is
/// for every name that nobody has, and for clients that name none. Where several have a name (one with an RSA key, one with
/// ECDSA), it is the first whose kind of key the client knows.
pub struct ByName {
    certificates: Vec<Arc<CertifiedKey>>,
    /// Indices, in the order of the certificates.
    exact: HashMap<String, Vec<usize>>,
    /// By what comes after `*.`.
    wildcards: HashMap<String, Vec<usize>>,
}

impl ByName {
    /// At least one.
    pub fn new(certificates: &[Loaded]) -> Self {
        let (mut exact, mut wildcards) = (HashMap::<_, Vec<usize>>::new(), HashMap::<_, Vec<usize>>::new());
        for (index, certificate) in certificates.iter().enumerate() {
            for name in &certificate.about.names {
                match name.strip_prefix("*.") {
                    Some(suffix) => wildcards.entry(suffix.to_owned()).or_default().push(index),
                    None => exact.entry(name.clone()).or_default().push(index),
                }
            }
        }
        Self { certificates: certificates.iter().map(|one| one.key.clone()).collect(), exact, wildcards }
    }

    fn choose(&self, name: Option<&str>, known: &[SignatureScheme]) -> &Arc<CertifiedKey> {
        let signs = |index: &&usize| self.certificates[**index].key.choose_scheme(known).is_some();
        let found = self.candidates(name);
        let index = found.iter().find(signs).or(found.first()).copied();
        &self.certificates[index.unwrap_or(0)]
    }

    /// Those that are for the name.
    fn candidates(&self, name: Option<&str>) -> &[usize] {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return &[] };
        let wildcard = || name.split_once('.').and_then(|(_, suffix)| self.wildcards.get(suffix));
        self.exact.get(&name).or_else(wildcard).map_or(&[], Vec::as_slice)
    }

    /// The index of the certificate for a name, as a client that knows every kind of key gets it.
    #[cfg(test)]
    pub fn index(&self, name: Option<&str>) -> usize {
        self.candidates(name).first().copied().unwrap_or(0)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name(), hello.signature_schemes()).clone())
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByName").field("exact", &self.exact).field("wildcards", &self.wildcards).finish_non_exhaustive()
    }
}
