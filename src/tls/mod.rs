//! TLS on both sides: certificates become configurations that rustls obeys. COLD but for [`Front::current`], one load for
//! each handshake.
//!
//! Files, in reading order:
//!
//! * `front`: what a listener shows its clients, and how new files take the place of old ones;
//! * `names`: which certificate for which name (SNI);
//! * `back`: how endpoints are spoken to, and whom we believe to be one;
//! * `pair`: a certificate and its key, read and found to fit;
//! * `pem`: files, and what is wrong with them in words;
//! * `subject`: a client's verified name, for the application;
//! * `failure`: why handshakes fail, one word each.
//!
//! The provider is always given explicitly: a second one in the tree could not confuse it.

pub mod back;
mod failure;
pub mod front;
/// Authorities and certificates for tests.
#[cfg(test)]
pub(crate) mod made_up;
mod names;
mod pair;
pub mod pem;
mod subject;
#[cfg(test)]
mod tests;

pub use failure::HandshakeFailure;
pub use front::{Authorities, Clients, Front, Oldest};
pub use pair::{Loaded, Pair};
pub use pem::{Contents, Read, Wrong};
pub use subject::{resumed, subject};

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};

/// What handshakes agree on for requests (RFC 7301), the better one first.
pub const H2: &[u8] = b"h2";
pub const HTTP1: &[u8] = b"http/1.1";

const FROM_TLS12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const FROM_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
