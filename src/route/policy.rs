//! The plain numbers and switches that the request path obeys: timeouts, limits, headers. Part of the snapshot, so that
//! a reload changes them together with everything else.

use std::time::Duration;

use http::header::HeaderName;
use ipnet::IpNet;

use super::Share;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub retry: Retry,
    pub outliers: Outliers,
    /// How long the share of a new endpoint grows. `None`: it has all of it at once.
    pub slow_start: Option<Duration>,
    pub mirror: Mirroring,
    /// Peers whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Requests carry `splitway-version`, `splitway-role` and a `baggage` member to the application.
    pub tell_upstream: bool,
    /// Answers carry the version that served them in this header.
    pub version_header: Option<HeaderName>,
}

/// Bounds on waiting. Kept by a slow tick (a tenth of a second), so each may be late by that much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a TCP connection to an endpoint. Then the next endpoint is tried.
    pub connect: Duration,
    /// For a client's handshake of TLS. Then its connection is closed.
    pub handshake: Duration,
    /// From the first byte of a request's head to its last. Then 408.
    pub head: Duration,
    /// From the last byte of the request that has come, of its head or its body, to the head of the answer. Then 504;
    /// or 408, if the application has got everything and the client owes the rest of the body.
    pub first_byte: Duration,
    /// From one byte of an answer's body to the next, while nothing comes of the request's body either. Then the answer is
    /// cut. `None`: no bound.
    pub between_bytes: Option<Duration>,
    /// From the request's head to the last byte of its answer. Then 504, or a cut answer. `None`: no bound.
    pub request: Option<Duration>,
    /// A client's connection without a request, or between two pieces of a body that goes on after its answer, or one that
    /// takes no more of its answer. Then it is closed.
    pub idle: Duration,
    /// A connection to an endpoint without a request. Then it is closed.
    pub upstream_idle: Duration,
    /// A tunnel in which nothing moves either way. Then it is closed.
    pub tunnel_idle: Duration,
    /// In the queue of an endpoint with `limits.endpoint_requests` on it. Then 503.
    pub queue: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            first_byte: Duration::from_secs(60),
            between_bytes: Some(Duration::from_secs(300)),
            request: None,
            idle: Duration::from_secs(75),
            upstream_idle: Duration::from_secs(30),
            tunnel_idle: Duration::from_secs(3600),
            queue: Duration::from_secs(1),
        }
    }
}

/// Bounds on size and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All bytes of a request's head. Beyond: 431. At least 8 KiB.
    pub header_bytes: usize,
    /// Header lines of a request. Beyond: 431.
    pub header_count: usize,
    /// Bytes of the request target. Beyond: 414.
    pub target_bytes: usize,
    /// Bytes of a request's body. Beyond: 413. `None`: no bound.
    pub body_bytes: Option<u64>,
    /// Client connections at once, over all workers. Beyond: 503 and closed.
    pub connections: usize,
    /// Client connections at once from one address (of IPv6, from one /64), over all workers. Beyond: 503 and closed.
    /// `None`: no bound, and no cost.
    pub connections_per_address: Option<u32>,
    /// Requests in one client connection. With the last one it ends politely. `None`: no bound.
    pub requests_per_connection: Option<u64>,
    /// Handshakes of TLS with clients at once, over all workers. Beyond: closed.
    pub handshakes: usize,
    /// HTTP/2: requests at once in a connection. Beyond: the stream is refused, and may be tried again.
    pub streams: usize,
    /// Connections kept open without a request, per endpoint and worker.
    pub upstream_idle_connections: usize,
    /// Requests at once on one endpoint, over all workers. Beyond: they queue. `None`: no bound, and no cost.
    pub endpoint_requests: Option<u32>,
    /// Requests that wait for one endpoint. Beyond: 503.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            header_count: 100,
            target_bytes: 16 * 1024,
            body_bytes: None,
            connections: 10_000,
            connections_per_address: None,
            requests_per_connection: None,
            handshakes: 500,
            streams: 100,
            upstream_idle_connections: 256,
            endpoint_requests: None,
            queue: 16,
        }
    }
}

/// How often a request that could not be sent is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first one: other endpoints of the version, then one of another version. 0 to 10.
    pub tries: u32,
    /// Whether another version may answer when the decided one cannot be reached.
    pub other_version: bool,
    /// The part of a version's requests that may be sent a second time although bytes of the first may have arrived.
    pub budget: Share,
    /// So many of them in any case.
    pub budget_min: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self { tries: 3, other_version: true, budget: Share::percent(20), budget_min: 3 }
    }
}

/// When an endpoint is left out for a while. Each worker judges for itself, by what it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// Failures in a row to connect. `None`: they are no reason.
    pub connect_failures: Option<u32>,
    /// Answers of 5xx in a row, or failures to answer. `None`: they are no reason.
    pub server_errors: Option<u32>,
    /// How long the first time; twice as long each further time.
    pub base_time: Duration,
    pub max_time: Duration,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            connect_failures: Some(5),
            server_errors: None,
            base_time: Duration::from_secs(10),
            max_time: Duration::from_secs(300),
        }
    }
}

/// What copies of mirrored requests may take. Each worker keeps these bounds by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirroring {
    /// Whether the copy's `Host` is `shop.example-shadow` instead of `shop.example`, as with Envoy and Istio.
    pub shadow_host: bool,
    /// Copies on their way at once, per worker. Beyond: no copy is sent.
    pub concurrency: usize,
    /// Bytes of one request's body that the copy's connection has not taken yet. Beyond: the copy is dropped.
    pub buffer: usize,
    /// From the request's head to the end of the copy's answer. Then the copy is cut.
    pub timeout: Duration,
}

impl Default for Mirroring {
    fn default() -> Self {
        Self { shadow_host: true, concurrency: 64, buffer: 256 * 1024, timeout: Duration::from_secs(60) }
    }
}
