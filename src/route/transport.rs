//! How a version's endpoints are spoken to. Carried by the snapshot for the request path; nothing here decides anything.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::ServerName;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transport {
    pub protocol: Protocol,
    /// `None`: in clear.
    pub tls: Option<Tls>,
}

/// The version of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    /// In clear by prior knowledge (RFC 9113 section 3.3), over TLS by ALPN.
    Http2,
    /// What ALPN says; HTTP/1 in clear.
    Auto,
}

/// TLS to the endpoints of one version.
#[derive(Clone)]
pub struct Tls {
    /// Compiled when the settings changed: roots, our own certificate, ALPN.
    pub config: Arc<rustls::ClientConfig>,
    /// The name that certificates must have. `None`: the endpoint's address.
    pub server_name: Option<ServerName<'static>>,
    /// A digest of all that `config` was made of, so that settings that say the same are the same.
    pub made_of: [u8; 32],
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.made_of == other.made_of && self.server_name == other.server_name
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
