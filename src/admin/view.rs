//! The picture that `/config` shows, as plain serializable data. Secrets are no part of it.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Context;
use crate::control;
use crate::control::cluster::{Contact, Following};
use crate::metrics;
use crate::route::bucket::{KeySource, SameSite, Sticky};
use crate::route::matches::{Match, PathMatch, ValueMatch};
use crate::route::{self, PortName, Role, Shares, Snapshot, policy};

/// What is live, where it comes from, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Picture {
    /// 0: nothing is live yet.
    pub generation: u64,
    /// `starting`, `ready` or `draining`.
    pub state: &'static str,
    /// RFC 3339, in UTC, as every point in time here.
    pub applied_at: Option<String>,
    pub origin: Option<String>,
    pub notes: Vec<String>,
    /// The last change that was refused, until a good one comes.
    pub refused: Option<Refused>,
    /// When `/metrics` was last read by something other than a person's program, and what that calls itself.
    pub last_scraped_at: Option<String>,
    pub last_scraped_by: Option<String>,
    /// Only where a Rollout is followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Only where a listener speaks TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// What is live at each port of the application; nothing before the first snapshot.
    pub ports: Vec<Port>,
}

/// How following a Rollout goes.
#[derive(Clone, Debug, Serialize)]
pub struct Rollout {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// `connecting`, `connected` or `lost`.
    pub api: &'static str,
    pub lost_since: Option<String>,
    pub error: Option<String>,
    /// The Rollout's `metadata.generation` in what is served.
    pub generation: Option<i64>,
    /// When the state that is served was saved, if it comes from a file.
    pub saved_at: Option<String>,
    /// When the API server last told something new.
    pub heard_at: Option<String>,
    pub notes: Vec<String>,
    /// What is wrong with the annotation `splitway.dev/routes`.
    pub annotation_error: Option<String>,
    /// This proxy's place among its replicas, from 0, and how many they are.
    pub replica: Option<[u32; 2]>,
    pub peers: Vec<String>,
}

/// What clients are shown.
#[derive(Clone, Debug, Serialize)]
pub struct Tls {
    pub certificates: Vec<Certificate>,
    /// Files whose contents cannot be used now; what they should replace serves on.
    pub refused: Vec<Refused>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// The listener's address.
    pub listener: String,
    pub file: String,
    /// The host names that it is for.
    pub names: Vec<String>,
    pub not_before: String,
    pub not_after: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    pub at: String,
    pub origin: String,
    pub message: String,
}

/// The parts of one port's live snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct Port {
    /// `null`: the one port that needs no name.
    pub port: Option<String>,
    pub split: Split,
    pub backends: Vec<Backend>,
    #[serde(rename = "override")]
    pub override_: Option<Override>,
    pub routes: Vec<Route>,
    pub sticky: Option<StickyUsers>,
    pub policy: Policy,
}

/// The split's account since the process started.
#[derive(Clone, Debug, Serialize)]
pub struct Split {
    /// What the weights add up to.
    pub total: u64,
    /// Requests that the exact split has decided.
    pub requests: u64,
    pub versions: Vec<Version>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Version {
    pub version: String,
    /// `null`: no longer in the live snapshot.
    pub role: Option<&'static str>,
    pub weight: u64,
    pub asked_ratio: f64,
    pub sent: u64,
    pub sent_ratio: Option<f64>,
    pub asked_requests: f64,
    /// `sent` less `asked_requests`; a request on its way between two counters may show as 1 more or less for a moment.
    pub error_in_requests: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    pub version: String,
    pub role: &'static str,
    pub endpoints: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Override {
    pub header: String,
    pub cookie: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Route {
    pub name: String,
    /// Alternatives, in words; all conditions of one must hold.
    pub matches: Vec<String>,
    pub leads_to: LeadsTo,
    pub count: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeadsTo {
    Version(String),
    Split {
        total: u32,
        versions: Vec<Weight>,
    },
    /// The split, and a copy of so many requests to a version besides.
    Mirror {
        version: String,
        weight: u32,
        total: u32,
    },
}

#[derive(Clone, Debug, Serialize)]
pub struct Weight {
    pub version: String,
    pub weight: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct StickyUsers {
    /// In order of preference.
    pub keys: Vec<String>,
    pub salt: String,
    pub cookie: Option<Cookie>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Cookie {
    pub name: String,
    /// `null`: until the browser closes.
    pub max_age: Option<String>,
    pub path: String,
    pub same_site: &'static str,
    pub secure: bool,
    pub http_only: bool,
    /// `configured`, or `derived from the salt`.
    pub secret: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub retry: Retry,
    pub mirror: Mirroring,
    pub trusted_proxies: Vec<String>,
    pub tell_upstream: bool,
    pub version_header: Option<String>,
}

/// `null`: no bound.
#[derive(Clone, Debug, Serialize)]
pub struct Timeouts {
    pub connect: String,
    pub head: String,
    pub handshake: String,
    pub first_byte: String,
    pub between_bytes: Option<String>,
    pub request: Option<String>,
    pub idle: String,
    pub upstream_idle: String,
    pub tunnel_idle: String,
    pub queue: String,
}

/// `null`: no bound.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    pub header_bytes: String,
    pub header_count: usize,
    pub target_bytes: String,
    pub body_bytes: Option<String>,
    pub connections: usize,
    pub connections_per_address: Option<u32>,
    pub requests_per_connection: Option<u64>,
    pub handshakes: usize,
    pub streams: usize,
    pub upstream_idle_connections: usize,
    pub endpoint_requests: Option<u32>,
    pub queue: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct Retry {
    pub tries: u32,
    pub other_version: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Mirroring {
    pub shadow_host: bool,
    pub concurrency: usize,
    pub buffer: String,
    pub timeout: String,
}

impl Picture {
    pub fn take(context: &Context) -> Self {
        let snapshots: Vec<_> = (0..context.live.ports()).filter_map(|port| context.live.current(port)).collect();
        let totals = context.metrics.totals();
        let ports = context.metrics.ports().iter().zip(&snapshots).enumerate();
        let status = context.status.borrow().clone();
        let (last_scraped_at, last_scraped_by) = context.metrics.scraped.last().unzip();
        Self {
            generation: snapshots.first().map_or(0, |snapshot| snapshot.generation().0),
            state: context.readiness.state().as_str(),
            applied_at: status.applied_at.map(time),
            origin: Some(status.origin).filter(|origin| !origin.is_empty()),
            notes: status.notes,
            refused: status.refused.map(Refused::of),
            last_scraped_at: last_scraped_at.map(time),
            last_scraped_by,
            rollout: context.following.as_ref().map(|following| Rollout::of(&following.borrow())),
            tls: Tls::of(&context.metrics.certificates),
            ports: ports
                .map(|(number, (name, snapshot))| {
                    Port::of(name, snapshot, metrics::Account::of(&totals, number, Some(snapshot)))
                })
                .collect(),
        }
    }
}

impl Rollout {
    pub(super) fn of(following: &Following) -> Self {
        let (api, lost_since, error) = match &following.contact {
            Contact::Connecting => ("connecting", None, None),
            Contact::Connected => ("connected", None, None),
            Contact::Lost { since, error } => ("lost", Some(time(*since)), Some(error.clone())),
        };
        Self {
            name: following.rollout.clone(),
            api,
            lost_since,
            error,
            generation: following.rollout_generation,
            saved_at: following.saved_at.map(time),
            heard_at: following.heard_at.map(time),
            notes: following.notes.clone(),
            annotation_error: following.annotation_error.clone(),
            replica: following.turn.map(|turn| [turn.index(), turn.of()]),
            peers: following.peers.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Tls {
    fn of(certificates: &metrics::Certificates) -> Option<Self> {
        let seconds = |seconds: i64| time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64));
        let shown = certificates.shown().into_iter().map(|one| Certificate {
            listener: one.listener,
            file: one.file,
            names: one.names,
            not_before: seconds(one.not_before),
            not_after: seconds(one.not_after),
        });
        let certificates_shown: Vec<_> = shown.collect();
        let refused = certificates.refused().into_iter();
        let refused = refused.map(|one| Refused { at: time(one.at), origin: one.file, message: one.message });
        (!certificates_shown.is_empty()).then(|| Self { certificates: certificates_shown, refused: refused.collect() })
    }
}

impl Refused {
    pub(super) fn of((at, rejected): (SystemTime, control::Rejected)) -> Self {
        Self { at: time(at), origin: rejected.origin, message: rejected.message }
    }
}

impl Port {
    fn of(name: &PortName, snapshot: &Snapshot, account: metrics::Account) -> Self {
        Self {
            port: (!name.is_unnamed()).then(|| name.as_str().to_owned()),
            split: Split::of(account),
            backends: snapshot.backends().iter().map(Backend::of).collect(),
            override_: snapshot
                .override_names()
                .map(|(header, cookie)| Override { header: header.to_string(), cookie: cookie.to_owned() }),
            routes: snapshot.routes().iter().map(|route| Route::of(route, snapshot)).collect(),
            sticky: snapshot.users().map(|users| StickyUsers::of(users.sticky())),
            policy: Policy::of(snapshot.policy()),
        }
    }
}

impl Split {
    fn of(account: metrics::Account) -> Self {
        let version = |one: metrics::VersionAccount| Version {
            version: one.version.to_string(),
            role: one.role.map(Role::as_str),
            weight: one.weight,
            asked_ratio: one.asked_ratio,
            sent: one.sent,
            sent_ratio: one.sent_ratio,
            asked_requests: one.asked_requests,
            error_in_requests: one.sent as f64 - one.asked_requests,
        };
        Self {
            total: account.total,
            requests: account.requests,
            versions: account.versions.into_iter().map(version).collect(),
        }
    }
}

impl Backend {
    fn of(backend: &route::Backend) -> Self {
        Self {
            version: backend.version.to_string(),
            role: backend.role.as_str(),
            endpoints: backend.endpoints.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Route {
    fn of(route: &route::CompiledRoute, snapshot: &Snapshot) -> Self {
        let version = |backend: usize| snapshot.backends()[backend].version.to_string();
        Self {
            name: route.name.as_str().to_owned(),
            matches: route.matches().iter().map(in_words).collect(),
            leads_to: match route.leads_to() {
                route::LeadsTo::Backend(backend) => LeadsTo::Version(version(backend)),
                route::LeadsTo::Split(shares) => LeadsTo::split(shares),
                route::LeadsTo::Mirror { to, share } => {
                    LeadsTo::Mirror { version: version(to), weight: share.weight(), total: share.total() }
                }
            },
            count: route.count,
        }
    }
}

impl LeadsTo {
    fn split(shares: &Shares) -> Self {
        let weight =
            |(version, weight): &(route::VersionHash, u32)| Weight { version: version.to_string(), weight: *weight };
        LeadsTo::Split { total: shares.total(), versions: shares.weights().iter().map(weight).collect() }
    }
}

impl StickyUsers {
    fn of(sticky: &Sticky) -> Self {
        let key = |source: &KeySource| match source {
            KeySource::Header(name) => format!("header {name}"),
            KeySource::Cookie(name) => format!("cookie {name}"),
            KeySource::Query(name) => format!("query parameter {name}"),
            KeySource::ClientAddress => "client address".to_owned(),
        };
        Self {
            keys: sticky.keys.iter().map(key).collect(),
            salt: sticky.salt.clone(),
            cookie: sticky.cookie.as_ref().map(|cookie| Cookie {
                name: cookie.name.clone(),
                max_age: cookie.max_age.map(duration),
                path: cookie.path.clone(),
                same_site: match cookie.same_site {
                    SameSite::Strict => "Strict",
                    SameSite::Lax => "Lax",
                    SameSite::None => "None",
                },
                secure: cookie.secure,
                http_only: cookie.http_only,
                secret: if cookie.secret.is_some() { "configured" } else { "derived from the salt" },
            }),
        }
    }
}

impl Policy {
    fn of(policy: &policy::Policy) -> Self {
        let (timeouts, limits) = (&policy.timeouts, &policy.limits);
        Self {
            timeouts: Timeouts {
                connect: duration(timeouts.connect),
                head: duration(timeouts.head),
                handshake: duration(timeouts.handshake),
                first_byte: duration(timeouts.first_byte),
                between_bytes: timeouts.between_bytes.map(duration),
                request: timeouts.request.map(duration),
                idle: duration(timeouts.idle),
                upstream_idle: duration(timeouts.upstream_idle),
                tunnel_idle: duration(timeouts.tunnel_idle),
                queue: duration(timeouts.queue),
            },
            limits: Limits {
                header_bytes: bytes(limits.header_bytes as u64),
                header_count: limits.header_count,
                target_bytes: bytes(limits.target_bytes as u64),
                body_bytes: limits.body_bytes.map(bytes),
                connections: limits.connections,
                connections_per_address: limits.connections_per_address,
                requests_per_connection: limits.requests_per_connection,
                handshakes: limits.handshakes,
                streams: limits.streams,
                upstream_idle_connections: limits.upstream_idle_connections,
                endpoint_requests: limits.endpoint_requests,
                queue: limits.queue,
            },
            retry: Retry { tries: policy.retry.tries, other_version: policy.retry.other_version },
            mirror: Mirroring {
                shadow_host: policy.mirror.shadow_host,
                concurrency: policy.mirror.concurrency,
                buffer: bytes(policy.mirror.buffer as u64),
                timeout: duration(policy.mirror.timeout),
            },
            trusted_proxies: policy.trusted_proxies.iter().map(ToString::to_string).collect(),
            tell_upstream: policy.tell_upstream,
            version_header: policy.version_header.as_ref().map(ToString::to_string),
        }
    }
}

/// All conditions of one match: `method GET or HEAD and path starts with /shop and header x-user is "42"`.
fn in_words(one: &Match) -> String {
    let mut conditions = Vec::new();
    if !one.methods.is_empty() {
        conditions.push(format!("method {}", one.methods.join(" or ")));
    }
    match &one.path {
        None => {}
        Some(PathMatch::Exact(path)) => conditions.push(format!("path is {path}")),
        Some(PathMatch::Prefix(path)) => {
            conditions.push(format!("path starts with {}", if path.is_empty() { "/" } else { path }));
        }
        Some(PathMatch::Start(path)) => conditions.push(format!("path begins with {path:?}")),
        Some(PathMatch::Regex(regex)) => conditions.push(format!("path matches {}", regex.as_str())),
    }
    let mut named = |what: &str, name: &str, value: &ValueMatch| {
        let text = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
        let fits = match value {
            ValueMatch::Exact(wanted) => format!("is {}", text(wanted)),
            ValueMatch::Prefix(wanted) => format!("starts with {}", text(wanted)),
            ValueMatch::Suffix(wanted) => format!("ends with {}", text(wanted)),
            ValueMatch::Regex(regex) => format!("matches {}", regex.as_str()),
            ValueMatch::Present => "is present".to_owned(),
            ValueMatch::Absent => "is absent".to_owned(),
        };
        conditions.push(format!("{what} {name} {fits}"));
    };
    one.headers.iter().for_each(|(name, value)| named("header", name.as_str(), value));
    one.cookies.iter().for_each(|(name, value)| named("cookie", name, value));
    one.query.iter().for_each(|(name, value)| named("query parameter", name, value));
    one.baggage.iter().for_each(|(name, value)| named("baggage", name, value));
    one.method.iter().for_each(|value| named("the", "method", value));
    conditions.join(" and ")
}

pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// In the largest unit that needs no fraction, so that the number is exact.
fn bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.into_iter().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    whole.map_or_else(|| format!("{bytes} B"), |(unit, shift)| format!("{} {unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;
    use crate::route::matches::whole;

    #[test]
    fn a_match_reads_as_a_sentence() {
        let exact = |text: &str| ValueMatch::Exact(text.into());
        let one = Match {
            methods: vec!["GET".into(), "HEAD".into()],
            path: Some(PathMatch::prefix("/shop/")),
            headers: vec![
                (HeaderName::from_static("x-user"), exact("4\"2")),
                (HeaderName::from_static("x-bot"), ValueMatch::Absent),
            ],
            cookies: vec![("team".into(), ValueMatch::Prefix("qa-".into()))],
            query: vec![("v".into(), ValueMatch::Regex(whole("[a-c]").unwrap()))],
            baggage: vec![("splitway".into(), ValueMatch::Suffix("y".into()))],
            method: Some(ValueMatch::Prefix("G".into())),
        };
        assert_eq!(
            in_words(&one),
            r#"method GET or HEAD and path starts with /shop and header x-user is "4\"2" and header x-bot is absent and cookie team starts with "qa-" and query parameter v matches [a-c] and baggage splitway ends with "y" and the method starts with "G""#
        );
        let any = Match { path: Some(PathMatch::prefix("/")), ..Match::default() };
        assert_eq!(in_words(&any), "path starts with /");
        let start = Match { path: Some(PathMatch::Start("/a".into())), ..Match::default() };
        assert_eq!(in_words(&start), "path begins with \"/a\"");
    }

    #[test]
    fn sizes_are_exact() {
        for (number, text) in
            [(0, "0 B"), (1000, "1000 B"), (1024, "1 KiB"), (65537, "65537 B"), (3 << 20, "3 MiB"), (1 << 30, "1 GiB")]
        {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let day = SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400);
        assert_eq!(time(day), "2000-02-29T00:00:00Z");
        assert_eq!(duration(Duration::from_millis(75_500)), "1m 15s 500ms");
    }
}
