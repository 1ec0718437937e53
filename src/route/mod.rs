//! Which backend gets this request?
//!
//! PURE and HOT: no I/O, no clock, nothing asynchronous. This room depends on the `http` crate's names and on nothing of
//! ours. Everything that can fail happens in [`Snapshot::check`]; nothing can fail in [`Checked::build`] and
//! [`Snapshot::decide`].
//!
//! Files, in reading order:
//!
//! * this one: the nouns;
//! * `snapshot`: one compiled, immutable routing value, and the decision it takes for a request;
//! * `matches`: conditions on a request's head;
//! * `picker`: the exact weighted split and the phase it carries from one snapshot to the next;
//! * `bucket`: a user's fixed place in the split, and the signed cookie for users without a key;
//! * `weight`: weights as people write them, read exactly;
//! * `policy`: the plain numbers (timeouts, limits, headers) that the request path obeys;
//! * `transport`: how endpoints are spoken to (protocol, TLS);
//! * `live`: the pointers, one per port, through which the change path hands snapshots to the request path;
//! * `made_up`: a request's head for `explain` and for tests.

pub mod bucket;
pub mod live;
mod made_up;
pub mod matches;
pub mod picker;
pub mod policy;
mod snapshot;
pub mod transport;
pub mod weight;

pub use made_up::MadeUp;
pub use snapshot::{BuildError, Checked, CompiledRoute, Considered, Explanation, Identity, LeadsTo, Snapshot};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::HeaderName;

use bucket::{Place, Sticky};
use matches::Match;
use policy::{Policy, Timeouts};
use transport::Transport;

/// The largest total that the weights of one split may add up to.
pub const MAX_TOTAL: u32 = 1_000_000;

/// The identity of one version: a pod-template hash, or the backend's name in a file. It stays when roles move.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionHash(Arc<str>);

impl VersionHash {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VersionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VersionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

/// The name of one route; also its identity across snapshots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteName(Arc<str>);

impl RouteName {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One of the application's ports, by the name (or number) that its containers give it; empty for the one port that
/// needs no name. Which ports there are is settled at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName(Arc<str>);

impl PortName {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }
}

/// The number of a change: 1 for the snapshots that were published first, one per port, then one more each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// What a backend is *today*. An attribute, never an identity: at promotion the canary becomes stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Stable,
    Canary,
    Experiment,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Stable => "stable",
            Role::Canary => "canary",
            Role::Experiment => "experiment",
        }
    }
}

/// One version of the application and the addresses that serve it now.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub version: VersionHash,
    pub role: Role,
    pub endpoints: Arc<[SocketAddr]>,
    pub transport: Transport,
}

/// Who gets how much: integer weights out of their total, at least one of them above zero, no version twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    weights: Vec<(VersionHash, u32)>,
    total: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharesError {
    #[error("the weights add up to 0, so no request could be sent anywhere")]
    Nothing,
    #[error("the weights add up to {0}, more than {MAX_TOTAL}")]
    TooMuch(u64),
    #[error("version {0} is named twice")]
    Twice(VersionHash),
}

impl Shares {
    pub fn new(weights: Vec<(VersionHash, u32)>) -> Result<Self, SharesError> {
        for (i, (version, _)) in weights.iter().enumerate() {
            if weights[..i].iter().any(|(earlier, _)| earlier == version) {
                return Err(SharesError::Twice(version.clone()));
            }
        }
        let total: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        match total {
            0 => Err(SharesError::Nothing),
            _ if total > u64::from(MAX_TOTAL) => Err(SharesError::TooMuch(total)),
            _ => Ok(Self { weights, total: total as u32 }),
        }
    }

    /// Everything to one version.
    pub fn all(version: VersionHash) -> Self {
        Self { weights: vec![(version, 1)], total: 1 }
    }

    pub fn weights(&self) -> &[(VersionHash, u32)] {
        &self.weights
    }

    pub fn total(&self) -> u32 {
        self.total
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (version, weight)) in self.weights.iter().enumerate() {
            write!(f, "{}{version} {weight}", if i == 0 { "" } else { ", " })?;
        }
        write!(f, " of {}", self.total)
    }
}

/// A part of all requests: `weight` out of `total`, from none to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    weight: u32,
    total: u32,
}

impl Share {
    /// Every request.
    pub const ALL: Share = Share { weight: 100, total: 100 };

    /// `None`: more than all, or a total that is 0 or above [`MAX_TOTAL`].
    pub fn new(weight: u32, total: u32) -> Option<Self> {
        (weight <= total && (1..=MAX_TOTAL).contains(&total)).then_some(Self { weight, total })
    }

    /// More than 100 is taken as 100.
    pub fn percent(percent: u8) -> Self {
        Self { weight: u32::from(percent.min(100)), total: 100 }
    }

    pub fn weight(&self) -> u32 {
        self.weight
    }

    pub fn total(&self) -> u32 {
        self.total
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.weight, self.total)
    }
}

/// A named rule, tried before the split.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub name: RouteName,
    /// Alternatives: one that holds is enough. Never empty.
    pub matches: Vec<Match>,
    pub action: Action,
    /// `false` keeps these requests (probes, bots) out of shares and error rates. It means nothing for a mirror: its
    /// requests are the split's, and its copies are counted apart in any case.
    pub count: bool,
    /// Its requests' own bounds on waiting. They mean nothing for a mirror, whose requests are the split's.
    pub timeouts: Option<Timeouts>,
}

/// What a route does. Exactly one thing.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Send(VersionHash),
    Split(Shares),
    /// The request goes on as if no route had matched, and no further route is asked; a copy of so many of them goes to
    /// `to` as well. Nobody waits for the copy's answer, which is thrown away.
    Mirror {
        to: VersionHash,
        share: Share,
    },
}

/// A tester's own choice: `always` or `never` in this header or cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub header: HeaderName,
    pub cookie: String,
}

/// Everything that one snapshot is compiled from. Plain data; `Snapshot::check` sees whether the names fit together.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    pub backends: Vec<Backend>,
    pub split: Shares,
    pub routes: Vec<Route>,
    pub sticky: Option<Sticky>,
    pub override_: Option<Override>,
    pub policy: Policy,
}

/// Why a request goes where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The tester's header or cookie said `always` or `never`.
    Override,
    /// A route sends it to a named version, or to a split of the route's own.
    Route,
    /// The user's key has a fixed bucket.
    Sticky,
    /// The user has no key and carries, or now receives, a signed bucket cookie.
    Cookie,
    /// The exact split.
    Weighted,
    /// The version that was decided could not be reached; another one answered.
    Fallback,
}

impl Reason {
    pub const ALL: [Reason; 6] =
        [Reason::Override, Reason::Route, Reason::Sticky, Reason::Cookie, Reason::Weighted, Reason::Fallback];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Override => "override",
            Reason::Route => "route",
            Reason::Sticky => "sticky",
            Reason::Cookie => "cookie",
            Reason::Weighted => "weighted",
            Reason::Fallback => "fallback",
        }
    }
}

/// The result of routing one request: plain data, valid together with the snapshot that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Index into [`Snapshot::backends`].
    pub backend: usize,
    pub reason: Reason,
    /// Index into [`Snapshot::routes`], if a route decided. A mirror decides nothing.
    pub route: Option<usize>,
    /// Where the user stands on the line, if that was looked at.
    pub user: Option<Place>,
    /// A new bucket for a user without a key: to be sent as a cookie.
    pub minted: Option<u32>,
    /// `false`: keep it out of shares and error rates.
    pub counted: bool,
    /// A copy that is to be sent besides.
    pub mirror: Option<Mirror>,
}

/// Where the copy of a request goes. It may be the very backend that gets the request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Index into [`Snapshot::backends`].
    pub to: usize,
    /// Index into [`Snapshot::routes`]: the route that asks for the copy.
    pub route: usize,
}

/// What routing asks of a request. The request path implements it for hyper's heads, `explain` and tests for made-up ones.
pub trait Head {
    fn method(&self) -> &str;
    /// The path without the query, as received (never decoded: two readers could decode differently).
    fn path(&self) -> &str;
    fn query(&self) -> Option<&str>;
    /// The values of one header, in order.
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;
    /// The client's address: the connection's peer, or what trusted proxies say.
    fn client(&self) -> IpAddr;
}
