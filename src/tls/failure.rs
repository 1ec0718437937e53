//! Why handshakes with clients fail, one word each.

use std::io;

use rustls::Error;

/// Why a handshake with a client did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandshakeFailure {
    /// It took too long.
    Timeout,
    /// The client left: most are scanners, and load balancers that look whether the port is open.
    ClientGone,
    /// What came was not TLS.
    NotTls,
    /// No version of TLS, no cipher or no protocol (ALPN) that both sides know.
    Unsupported,
    NoClientCertificate,
    /// One that was not signed by the client authorities, has expired, or is not for clients.
    BadClientCertificate,
    /// The client did not like us: as a rule, it does not trust our certificate.
    RefusedByClient,
    /// The client broke the rules of TLS, or the fault is ours.
    Other,
}

impl HandshakeFailure {
    pub const ALL: [HandshakeFailure; 8] = [
        HandshakeFailure::Timeout,
        HandshakeFailure::ClientGone,
        HandshakeFailure::NotTls,
        HandshakeFailure::Unsupported,
        HandshakeFailure::NoClientCertificate,
        HandshakeFailure::BadClientCertificate,
        HandshakeFailure::RefusedByClient,
        HandshakeFailure::Other,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            HandshakeFailure::Timeout => "timeout",
            HandshakeFailure::ClientGone => "client_gone",
            HandshakeFailure::NotTls => "not_tls",
            HandshakeFailure::Unsupported => "unsupported",
            HandshakeFailure::NoClientCertificate => "no_client_certificate",
            HandshakeFailure::BadClientCertificate => "bad_client_certificate",
            HandshakeFailure::RefusedByClient => "refused_by_client",
            HandshakeFailure::Other => "other",
        }
    }

    /// Of what accepting a connection with tokio-rustls came to.
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::of_tls(error),
            None if error.kind() == io::ErrorKind::TimedOut => HandshakeFailure::Timeout,
            None => HandshakeFailure::ClientGone,
        }
    }

    fn of_tls(error: &Error) -> Self {
        match error {
            Error::InvalidMessage(_) => HandshakeFailure::NotTls,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => HandshakeFailure::Unsupported,
            Error::NoCertificatesPresented => HandshakeFailure::NoClientCertificate,
            Error::InvalidCertificate(_) => HandshakeFailure::BadClientCertificate,
            Error::AlertReceived(_) => HandshakeFailure::RefusedByClient,
            _ => HandshakeFailure::Other,
        }
    }
}
