//! Where observations come from. IMPURE and COLD: each source is a task that fills one channel with the newest complete
//! `control::Observed`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::route::bucket::Sticky;
use crate::route::policy::Policy;
use crate::route::{Override, Role, Route, Shares, VersionHash};

/// What a file (or the flags in its place) declares. Endpoints may still be names.
#[derive(Clone, Debug)]
pub struct Declared {
    pub backends: Vec<DeclaredBackend>,
    pub split: Shares,
    pub routes: Vec<Route>,
    pub sticky: Option<Sticky>,
    pub override_: Option<Override>,
    pub policy: Policy,
    /// How often the names of endpoints are looked up again.
    pub dns_interval: Duration,
}

#[derive(Clone, Debug)]
pub struct DeclaredBackend {
    pub version: VersionHash,
    pub role: Role,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Address(SocketAddr),
    Name { host: String, port: u16 },
}
