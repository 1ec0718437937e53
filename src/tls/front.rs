//! What a listener shows its clients, and how new files take the place of old ones.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use http::HeaderName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConfig, WebPkiClientVerifier};
use rustls::{Error, RootCertStore};
use sha2::{Digest, Sha256};

use super::names::ByName;
use super::pem::{self, Read, Wrong};
use super::{FROM_TLS12, FROM_TLS13, H2, HTTP1, Loaded, Pair, provider};

/// What is meant. The files may change while we run; this does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At least one. The first is for clients that name none of the others.
    pub certificates: Vec<Pair>,
    /// `None`: clients are not asked for certificates.
    pub clients: Option<Clients>,
    pub oldest: Oldest,
}

/// Whose clients are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// The authorities whose signature on a client's certificate is believed.
    pub authorities: PathBuf,
    /// Whether one without a certificate is turned away. One with a certificate that is not believed always is.
    pub required: bool,
    /// In which the application learns the verified subject.
    pub header: HeaderName,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oldest {
    Tls12,
    Tls13,
}

/// What a listener shows its clients, replaced whole when its certificates change. A handshake that has begun goes on with
/// what it began with, and connections that are open do not notice. Clones are the same one.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    /// `None`: it was made of a configuration, and is never read again.
    settings: Option<Settings>,
    current: ArcSwap<ServerConfig>,
    /// What `current` was made of; held while files are taken in, never in a handshake.
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    /// One for each of the settings' certificates.
    certificates: Vec<Loaded>,
    authorities: Option<Authorities>,
    /// Sessions are resumed by tickets that only this can open (RFC 8446 section 4.6.1, RFC 5077). All workers share it,
    /// and it outlives every reload but one: a resumed session is not verified again, so that other authorities of clients
    /// mean other tickets.
    tickets: Option<Arc<dyn ProducesTickets>>,
}

/// The authorities of clients' certificates, read.
#[derive(Clone)]
pub struct Authorities {
    verifier: Arc<dyn ClientCertVerifier>,
    digest: [u8; 32],
}

/// What became of one look at the files.
#[derive(Debug, Default)]
pub struct Taken {
    /// Files whose new contents are live from the next handshake on.
    pub fresh: Vec<PathBuf>,
    /// What cannot be used; what it should replace serves on.
    pub wrong: Vec<Wrong>,
}

impl Clients {
    pub fn load(&self, read: Read<'_>) -> Result<Authorities, Wrong> {
        let file = &self.authorities;
        let bytes = read(file).map_err(|error| Wrong::new(file, error))?;
        let roots = roots(file, &bytes)?;
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = if self.required { builder } else { builder.allow_unauthenticated() };
        let verifier = builder.build().map_err(|error| Wrong::new(file, error.to_string()))?;
        Ok(Authorities { verifier, digest: Sha256::digest(&bytes).into() })
    }
}

/// All certificates of a file as authorities.
pub(super) fn roots(file: &Path, bytes: &[u8]) -> Result<RootCertStore, Wrong> {
    let mut roots = RootCertStore::empty();
    for (i, certificate) in pem::certificates(file, bytes)?.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|error| Wrong::new(file, format!("its certificate {} cannot be an authority: {error}", i + 1)))?;
    }
    Ok(roots)
}

impl Front {
    /// One that is what it is, whatever happens to files.
    pub fn new(config: ServerConfig) -> Self {
        let (current, parts) = (ArcSwap::from_pointee(config), Mutex::default());
        Self(Arc::new(Inner { settings: None, current, parts }))
    }

    /// One that was read: `certificates` and `authorities` are those of the settings.
    pub fn read(
        settings: Settings,
        certificates: Vec<Loaded>,
        authorities: Option<Authorities>,
    ) -> Result<Self, Error> {
        let tickets = Some(tickets()?);
        let parts = Parts { certificates, authorities, tickets };
        let current = ArcSwap::from_pointee(parts.config(settings.oldest)?);
        Ok(Self(Arc::new(Inner { settings: Some(settings), current, parts: Mutex::new(parts) })))
    }

    /// For the next handshake. One load; whoever began with an older one goes on with it.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.current.load_full()
    }

    pub fn replace(&self, config: ServerConfig) {
        self.0.current.store(Arc::new(config));
    }

    /// In which the application learns the verified subject; `None` where clients are not asked for certificates.
    pub fn subject_header(&self) -> Option<&HeaderName> {
        Some(&self.0.settings.as_ref()?.clients.as_ref()?.header)
    }

    pub fn settings(&self) -> Option<&Settings> {
        self.0.settings.as_ref()
    }

    /// Every file that it is made of.
    pub fn files(&self) -> Vec<PathBuf> {
        let Some(settings) = &self.0.settings else { return Vec::new() };
        let pairs = settings.certificates.iter().flat_map(|pair| [pair.certificate.clone(), pair.key.clone()]);
        pairs.chain(settings.clients.iter().map(|clients| clients.authorities.clone())).collect()
    }

    /// The certificates that clients are shown now.
    pub fn certificates(&self) -> Vec<Loaded> {
        self.0.parts.lock().expect("no holder of this lock panics").certificates.clone()
    }

    /// Takes in what the files say now. Each pair stands for itself: a broken one keeps no other from being renewed.
    pub fn take(&self, read: Read<'_>) -> Taken {
        let Some(settings) = &self.0.settings else { return Taken::default() };
        let mut parts = self.0.parts.lock().expect("no holder of this lock panics");
        let mut taken = Taken::default();
        let mut next = Parts {
            certificates: parts.certificates.clone(),
            authorities: parts.authorities.clone(),
            tickets: parts.tickets.clone(),
        };
        for (pair, known) in settings.certificates.iter().zip(&mut next.certificates) {
            match pair.load(read) {
                Ok(loaded) if loaded.digest == known.digest => {}
                Ok(loaded) => {
                    *known = loaded;
                    taken.fresh.push(pair.certificate.clone());
                }
                Err(wrong) => taken.wrong.push(wrong),
            }
        }
        if let (Some(clients), Some(known)) = (&settings.clients, &mut next.authorities) {
            match clients.load(read).and_then(|loaded| {
                let tickets = || tickets().map_err(|error| Wrong::new(&clients.authorities, error.to_string()));
                let changed = loaded.digest != known.digest;
                changed.then(|| Ok((loaded, tickets()?))).transpose()
            }) {
                Ok(None) => {}
                Ok(Some((loaded, tickets))) => {
                    *known = loaded;
                    next.tickets = Some(tickets);
                    taken.fresh.push(clients.authorities.clone());
                }
                Err(wrong) => taken.wrong.push(wrong),
            }
        }
        if taken.fresh.is_empty() {
            return taken;
        }
        match next.config(settings.oldest) {
            Ok(config) => {
                self.replace(config);
                *parts = next;
            }
            Err(error) => {
                let fresh = std::mem::take(&mut taken.fresh);
                taken.wrong.extend(fresh.iter().map(|file| Wrong::new(file, error.to_string())));
            }
        }
        taken
    }
}

impl Parts {
    fn config(&self, oldest: Oldest) -> Result<ServerConfig, Error> {
        let versions = match oldest {
            Oldest::Tls12 => FROM_TLS12,
            Oldest::Tls13 => FROM_TLS13,
        };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => builder.with_client_cert_verifier(authorities.verifier.clone()),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(&self.certificates)));
        config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
        if let Some(tickets) = &self.tickets {
            config.ticketer = tickets.clone();
        }
        // Tickets are enough, and cost no memory and no lock that workers would share.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

/// Keys that tickets are sealed with, known to this process alone. They change every 6 hours, and tickets are good for 12.
fn tickets() -> Result<Arc<dyn ProducesTickets>, Error> {
    rustls::crypto::aws_lc_rs::Ticketer::new()
}

/// The same one, or one that is meant to be the same.
impl PartialEq for Front {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.settings().is_some() && self.settings() == other.settings()
    }
}

impl Eq for Front {}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorities")
    }
}
