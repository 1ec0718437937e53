//! How endpoints are spoken to over TLS, and whom we believe to be one. Nobody is believed unverified: there is no switch
//! for it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, sign::SingleCertAndKey};
use sha2::{Digest, Sha256};

use super::front::roots;
use super::pem::{Read, Wrong};
use super::{FROM_TLS12, H2, HTTP1, Pair, provider};
use crate::route::transport::{Protocol, Tls};

/// What is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `None`: those whom the system trusts.
    pub authorities: Option<PathBuf>,
    /// What we show endpoints that ask for it.
    pub certificate: Option<Pair>,
    /// `None`: the endpoint's address.
    pub server_name: Option<ServerName<'static>>,
    pub protocol: Protocol,
}

impl Settings {
    /// Reads the files. What says the same as one of `known` is that one again: with the sessions that can be resumed, and
    /// without another look at the system's authorities.
    pub fn load(&self, read: Read<'_>, known: &[Tls]) -> Result<Tls, Wrong> {
        let alpn = alpn(self.protocol);
        let authorities = match &self.authorities {
            None => None,
            Some(file) => {
                let bytes = read(file).map_err(|error| Wrong::new(file, error))?;
                Some((file, bytes))
            }
        };
        let certificate = self.certificate.as_ref().map(|pair| pair.load(read)).transpose()?;
        let mut made_of = Sha256::new();
        // Lengths and marks, so that no two things look alike when they are strung together.
        for name in alpn {
            made_of.update([name.len() as u8]);
            made_of.update(name);
        }
        match &authorities {
            None => made_of.update([0]),
            Some((_, bytes)) => made_of.update(Sha256::new().chain_update([1]).chain_update(bytes).finalize()),
        }
        made_of.update(certificate.as_ref().map_or([0; 32], |certificate| certificate.digest));
        let made_of: [u8; 32] = made_of.finalize().into();
        let server_name = self.server_name.clone();
        if let Some(known) = known.iter().find(|known| known.made_of == made_of) {
            return Ok(Tls { config: known.config.clone(), server_name, made_of });
        }

        let verifier: Arc<dyn ServerCertVerifier> = match &authorities {
            None => system().map_err(|error| {
                Wrong::new("the system's authorities".as_ref(), format!("cannot be used: {error}"))
                    .help("install them (ca-certificates), or name a file: `tls: { ca: FILE }`")
            })?,
            Some((file, bytes)) => {
                let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(file, bytes)?), provider());
                builder.build().map_err(|error| Wrong::new(file, error.to_string()))?
            }
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(FROM_TLS12)
            .expect("the provider has suites for both versions")
            // Its name notwithstanding: both are verifiers that rustls itself would take.
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key.clone())))
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Tls { config: Arc::new(config), server_name, made_of })
    }
}

fn system() -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    Ok(Arc::new(rustls_platform_verifier::Verifier::new(provider())?))
}

fn alpn(protocol: Protocol) -> &'static [&'static [u8]] {
    match protocol {
        Protocol::Http1 => &[HTTP1],
        Protocol::Http2 => &[H2],
        Protocol::Auto => &[H2, HTTP1],
    }
}
