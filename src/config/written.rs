//! The file as it is written: its fields, their defaults, units and ranges. The comments here are the reference that
//! `splitway schema` prints and editors show; a test compares the defaults with what applies when a field is left out.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, Serializer};
use std::borrow::Cow;

use super::LogFormat;
use super::address::{EndpointAddress, ListenAddress, Network};
use super::amount::{CookieAge, Count, Delay, LookupInterval, Percent, Size, Wait, WeightKind, Workers};
use super::leaf::{Leaf, LogLevel, OneOf, OnlyTrue, OrNone, Switch, Text, Word};
use super::name::{
    BackendName, ContainerPort, Expression, HeaderKind, Method, PathText, QueryName, Rollout, Server, Token, ValueText,
};
use super::node::{Content, Node};
use super::problem::Problems;
use super::read::{Field, Fields, List, Named, NonEmpty, Read, inline_schema, refuse, written};
use crate::metrics::Alias;
use crate::record::access_log::Format;
use crate::route::Role;
use crate::route::bucket::SameSite;
use crate::tls::Oldest;

pub(super) type Weights = Named<BackendName, Leaf<WeightKind>>;

written! {
    /// Splitway's configuration: an exact split of HTTP traffic between the versions of one application.
    File {
        optional {
            /// Where clients connect. Taken at start only. Required here or as `--listen`.
            "listeners" listeners: NonEmpty<Listener>;
            /// Metrics, health and explanations, apart from traffic. Taken at start only. Default: none.
            "admin" admin: Admin;
            /// The Argo Rollout to follow, as `NAMESPACE/NAME`: it has the versions and their weights, so there is no
            /// `backends` and no `split` beside it, and `routes` lead to `stable` and `canary`. Taken at start only.
            /// Default: none.
            "rollout" rollout: Leaf<Rollout>;
            /// The versions of the application, by name. Exactly one is stable, at most one canary. Required here or as
            /// `--stable` and `--canary`, unless a Rollout is followed.
            "backends" backends: Named<BackendName, Backend>;
            /// How all endpoints are spoken to, where `backends` do not say otherwise; with a Rollout, that is everywhere.
            "upstream" upstream: Upstream;
            /// How much each backend gets: whole numbers with any total up to 1,000,000, or percentages such as `5.5%`
            /// (at most four digits after the point) that add up to exactly 100 %. A backend that is not named gets
            /// nothing. Default: everything to the stable backend.
            "split" split: Weights;
            /// Rules for requests that are not to follow the split, in order: the first one that matches decides.
            /// Default: none.
            "routes" routes: List<Route>;
            /// Keeps each user on one version. Default: every request is decided by itself.
            "sticky" sticky: Sticky;
            /// Lets testers choose: `always` or `never` in a header or a cookie. `{}` switches it on. Default: off.
            "override" override_: Override;
            /// Requests carry `splitway-version`, `splitway-role` and a `baggage` member to the application, and
            /// clients' own copies are removed.
            "tell-upstream" tell_upstream: Leaf<Switch> = false;
            /// A header in which answers name the version that served them. Default: none.
            "version-header" version_header: Leaf<OrNone<HeaderKind>> = "none";
            /// Address ranges of proxies in front of this one, whose `Forwarded` and `X-Forwarded-*` are believed.
            /// Default: none.
            "trusted-proxies" trusted_proxies: List<Leaf<Network>>;
            /// Bounds on waiting, as durations from 1 ms to one day. Each may be late by a tenth of a second.
            "timeouts" timeouts: Timeouts;
            /// Bounds on size and number.
            "limits" limits: Limits;
            /// What to do about requests that could not be sent.
            "retry" retry: Retry;
            /// Which endpoints are left out for a while, because they fail again and again.
            "outliers" outliers: Outliers;
            /// How long a new endpoint's share of its version's requests grows to that of the others, from 1 ms to one
            /// day, or `none`: it has its full share at once.
            "slow-start" slow_start: Leaf<OrNone<Wait>> = "none";
            /// What copies of requests may take, for routes that are mirrors.
            "mirror" mirror: Mirroring;
            /// Looking up the names of endpoints.
            "dns" dns: Dns;
            /// Threads that carry traffic, from 1 to 1024, or `auto` for as many as there are cores that may be used.
            /// Taken at start only.
            "workers" workers: Leaf<Workers> = "auto";
            /// Whether another process of the same user that has this, too, may listen on the same addresses at the same
            /// time, so that a new one takes over from an old one without losing a connection. Taken at start only.
            "reuse-port" reuse_port: Leaf<Switch> = false;
            /// What happens between SIGTERM and the end. Taken at start only.
            "drain" drain: Drain;
            /// This process's place among several that share one split. Taken at start only. Default: the only one.
            "replica" replica: Replica;
            /// What is logged, and how. Taken at start only.
            "log" log: Log;
            /// What is measured, beyond what always is. Taken at start only.
            "metrics" metrics: Metrics;
            /// A line for each request, on stdout; the log goes to stderr. Taken at start only.
            "access-log" access_log: AccessLog;
        }
    }

    /// One address that clients connect to.
    Listener {
        required {
            /// An IP address and a port; port 0 is any free one. `:8080` is `0.0.0.0:8080`: all IPv4 interfaces.
            "address" address: Leaf<ListenAddress>;
        }
        optional {
            /// The port of the Rollout's containers that gets what comes in here, by name or number. Each port has an
            /// exact split of its own. Only with a Rollout: `backends` name their ports themselves.
            "port" port: Leaf<ContainerPort>;
            /// Clients speak TLS (1.2 or 1.3; HTTP/2 or HTTP/1). The files are read again whenever they change, without a
            /// restart. Default: in clear.
            "tls" tls: FrontTls;
            /// Answers every request with a redirect (308) to the same address over TLS at this port, from 1 to 65535.
            /// Default: requests are served.
            "redirect-to-tls" redirect_to_tls: Leaf<Count<1, 65_535>>;
            /// Each connection begins with a PROXY protocol header (v1 or v2), which tells the client's address. Believed
            /// from `trusted-proxies` only.
            "proxy-protocol" proxy_protocol: Leaf<Switch> = false;
        }
    }

    /// TLS with clients.
    FrontTls {
        required {
            /// One for each set of names, by which it is chosen (SNI). The first is also for clients that name no other.
            "certificates" certificates: NonEmpty<Certificate>;
        }
        optional {
            /// A file with the authorities (PEM) whose signature on clients' certificates is believed. Default: clients are
            /// not asked for certificates.
            "client-ca" client_ca: Leaf<Text>;
            /// Whether clients without a certificate are turned away (`required`) or not (`optional`). One with a
            /// certificate that `client-ca` has not signed always is. Only with `client-ca`.
            "client-certificates" client_certificates: Leaf<OneOf<Demand>> = "required";
            /// The header in which the application learns the subject of a client's verified certificate (RFC 4514). What
            /// clients themselves write in it is removed, on all listeners. Only with `client-ca`.
            "subject-header" subject_header: Leaf<HeaderKind> = "x-client-subject";
            /// The oldest version that is spoken: `1.2` or `1.3`.
            "min-version" min_version: Leaf<OneOf<Oldest>> = "1.2";
        }
    }

    /// A certificate with its key: either `cert` and `key`, or `secret`. Names are relative to the folder of this file.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 2))]
    Certificate {
        optional {
            /// A file (PEM) with the certificate, and after it those between it and its authority.
            "cert" cert: Leaf<Text>;
            /// A file (PEM) with its private key, which has no passphrase.
            "key" key: Leaf<Text>;
            /// A folder with both as `tls.crt` and `tls.key`: a mounted Kubernetes Secret of type `kubernetes.io/tls`.
            "secret" secret: Leaf<Text>;
        }
    }

    /// How endpoints are spoken to.
    Upstream {
        optional {
            /// `http1`; `h2c`: HTTP/2 in clear; `h2`: HTTP/2 over TLS; `auto`: what the endpoint chooses over TLS, else
            /// HTTP/1. With a Rollout the default is what the `appProtocol` of its Service says.
            "protocol" protocol: Leaf<OneOf<Spoken>> = "http1";
            /// TLS, with certificates that are always verified. `{}` trusts the authorities that the system trusts.
            /// Default: in clear.
            "tls" tls: TlsOrNone;
        }
    }

    /// TLS with endpoints. Names of files are relative to the folder of this file.
    BackTls {
        optional {
            /// A file with the authorities (PEM) that sign endpoints' certificates. Default: those of the system.
            "ca" ca: Leaf<Text>;
            /// The name that endpoints' certificates have. Default: the endpoints' host name, or their addresses.
            "server-name" server_name: Leaf<Server>;
            /// A file (PEM) with the certificate that we show, for endpoints that ask for one. Together with `key`.
            "cert" cert: Leaf<Text>;
            /// A file (PEM) with its private key, which has no passphrase.
            "key" key: Leaf<Text>;
        }
    }

    /// The admin listener.
    Admin {
        required {
            /// An IP address and a port; port 0 is any free one. `:9090` is `0.0.0.0:9090`: all IPv4 interfaces.
            "address" address: Leaf<ListenAddress>;
        }
        optional {
            /// A file with a token. Then only those who send it (`Authorization: Bearer TOKEN`) are shown anything but
            /// whether the process is well. Read again when it changes. Default: none is asked for.
            "token-file" token_file: Leaf<Text>;
        }
    }

    /// One version of the application.
    Backend {
        required {
            /// Where it is served: IP addresses or host names, each with a port. `:9001` is `127.0.0.1:9001`.
            "endpoints" endpoints: NonEmpty<Leaf<EndpointAddress>>;
        }
        optional {
            /// `stable`, `canary` or `experiment`. Default: the role that the backend's name says, else `experiment`.
            "role" role: Leaf<OneOf<Role>>;
            /// `http1`, `h2c` (HTTP/2 in clear), `h2` (HTTP/2 over TLS) or `auto`. Default: as `upstream` says.
            "protocol" protocol: Leaf<OneOf<Spoken>>;
            /// TLS with its endpoints, or `none`. Default: as `upstream` says.
            "tls" tls: TlsOrNone;
        }
    }

    /// A rule for some requests. It names a backend, has a split of its own, or is a mirror.
    Route {
        required {
            /// Says what it is for; no two routes have the same.
            "name" name: Leaf<Text>;
            /// Alternatives: one that holds is enough.
            "match" matches: NonEmpty<Match>;
        }
        optional {
            /// The backend that gets these requests.
            "backend" backend: Leaf<BackendName>;
            /// These requests' own split.
            "split" split: Weights;
            /// These requests go on as if no route had matched (no further route is asked), and are copied to a backend.
            "mirror" mirror: Mirror;
            /// `false` keeps these requests out of shares and error rates: for probes and bots.
            "count" count: Leaf<Switch> = true;
            /// These requests' own bounds on waiting. Default: those of all requests.
            "timeouts" timeouts: RouteTimeouts;
        }
    }

    /// A copy of requests, whose answer nobody sees.
    Mirror {
        required {
            /// The backend that gets the copies.
            "to" to: Leaf<BackendName>;
        }
        optional {
            /// How many of the requests are copied, from 0 to 100 with at most four digits after the point. Exact.
            "percent" percent: Leaf<Percent> = 100;
        }
    }

    /// Conditions that must all hold. At least one. Values are compared as received, nothing is decoded.
    #[schemars(extend("minProperties" = 1))]
    Match {
        optional {
            /// One method, or a list of methods of which one is enough. Case-sensitive.
            "method" method: OneOrMany;
            /// The path, without the query.
            "path" path: PathMatch;
            /// Headers, by name. Of several lines with one name, one that fits is enough.
            "headers" headers: Named<HeaderKind, ValueMatch>;
            /// Cookies, by name.
            "cookies" cookies: Named<Token, ValueMatch>;
            /// Query parameters, by name.
            "query" query: Named<QueryName, ValueMatch>;
            /// Members of the W3C `baggage` header, by name.
            "baggage" baggage: Named<Token, ValueMatch>;
        }
    }

    /// A condition on the path. Exactly one of these.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
    PathMatch {
        optional {
            /// The whole path.
            "exact" exact: Leaf<PathText>;
            /// Its beginning, by whole segments: `/shop` holds for `/shop` and `/shop/a`, not for `/shopping`.
            "prefix" prefix: Leaf<PathText>;
            /// A regular expression that the whole path must match.
            "regex" regex: Leaf<Expression>;
        }
    }

    /// A condition on one value. Exactly one of these.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
    Conditions {
        optional {
            /// The whole value.
            "exact" exact: Leaf<ValueText>;
            /// Its beginning.
            "prefix" prefix: Leaf<ValueText>;
            /// Its end.
            "suffix" suffix: Leaf<ValueText>;
            /// A regular expression that the whole value must match.
            "regex" regex: Leaf<Expression>;
            /// There is a value, whatever it is.
            "present" present: Leaf<OnlyTrue>;
            /// There is none.
            "absent" absent: Leaf<OnlyTrue>;
        }
    }

    /// How users are recognised, so that each keeps one version. At least one of `key` and `cookie`.
    Sticky {
        optional {
            /// Where a user's key comes from: the first source that the request has, in this order.
            "key" key: NonEmpty<KeySource>;
            /// Separates one rollout's users from another's; the same salt gives the same users everywhere.
            "salt" salt: Leaf<Text> = "splitway";
            /// A signed cookie for users without a key. `{}` switches it on. Default: they follow the split of requests.
            "cookie" cookie: Cookie;
        }
    }

    /// A place in the request. Exactly one of these.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
    KeySource {
        optional {
            /// A header, by name.
            "header" header: Leaf<HeaderKind>;
            /// A cookie, by name.
            "cookie" cookie: Leaf<Token>;
            /// A query parameter, by name.
            "query" query: Leaf<QueryName>;
            /// `true`: the client's address, which trusted proxies may state.
            "client-address" client_address: Leaf<OnlyTrue>;
        }
    }

    /// The cookie that carries a user's bucket, never a version.
    Cookie {
        optional {
            /// The cookie's name.
            "name" name: Leaf<Token> = "splitway";
            /// How long browsers keep it, from 1 s to 400 days; `none`: until they are closed.
            "max-age" max_age: Leaf<OrNone<CookieAge>> = "none";
            /// The paths that it is sent to.
            "path" path: Leaf<PathText> = "/";
            /// Whether it is sent with requests from other sites: `strict`, `lax` or `none` (which needs `secure`).
            "same-site" same_site: Leaf<OneOf<SameSite>> = "lax";
            /// Sent over HTTPS only.
            "secure" secure: Leaf<Switch> = false;
            /// Kept from scripts.
            "http-only" http_only: Leaf<Switch> = true;
            /// A file with the secret (16 bytes to 4 KiB) that signs the cookie, the same for all proxies of one
            /// application; relative to the folder of this file. Default: derived from the salt, which anybody who
            /// knows the salt can forge.
            "secret-file" secret_file: Leaf<Text>;
        }
    }

    /// A tester's own choice of version.
    Override {
        optional {
            /// The header that may say `always` or `never`.
            "header" header: Leaf<HeaderKind> = "x-canary";
            /// The cookie that may say so.
            "cookie" cookie: Leaf<Token> = "canary";
        }
    }

    /// Bounds on waiting.
    Timeouts {
        optional {
            /// For a TCP connection to an endpoint. Then the next endpoint is tried.
            "connect" connect: Leaf<Wait> = "1s";
            /// For a client's handshake of TLS. Then its connection is closed.
            "handshake" handshake: Leaf<Wait> = "10s";
            /// From the first byte of a request's head to its last. Then 408.
            "head" head: Leaf<Wait> = "10s";
            /// From the last byte that came of the request to the head of its answer. Then 504; or 408, if the
            /// request's body has stopped coming.
            "first-byte" first_byte: Leaf<Wait> = "60s";
            /// From one byte of an answer's body to the next, while nothing comes of the request's body either, or `none`.
            /// Then the answer is cut.
            "between-bytes" between_bytes: Leaf<OrNone<Wait>> = "5m";
            /// From the request's head to the last byte of its answer, or `none`. Then 504, or a cut answer.
            "request" request: Leaf<OrNone<Wait>> = "none";
            /// In the queue of a busy endpoint, see `limits.endpoint-requests`. Then 503.
            "queue" queue: Leaf<Wait> = "1s";
            /// A client's connection without a request, or that takes no more of its answer. Then it is closed.
            "idle" idle: Leaf<Wait> = "75s";
            /// A connection to an endpoint without a request. Then it is closed.
            "upstream-idle" upstream_idle: Leaf<Wait> = "30s";
            /// A WebSocket connection in which nothing moves either way. Then it is closed.
            "tunnel-idle" tunnel_idle: Leaf<Wait> = "1h";
        }
    }

    /// Bounds on waiting, of the requests of one route: the fields of `timeouts` that are about a single request.
    #[schemars(extend("minProperties" = 1))]
    RouteTimeouts {
        optional {
            /// For a TCP connection to an endpoint.
            "connect" connect: Leaf<Wait>;
            /// From the last byte that came of the request to the head of its answer.
            "first-byte" first_byte: Leaf<Wait>;
            /// From one byte of an answer's body to the next, or `none`.
            "between-bytes" between_bytes: Leaf<OrNone<Wait>>;
            /// From the request's head to the last byte of its answer, or `none`.
            "request" request: Leaf<OrNone<Wait>>;
        }
    }

    /// Bounds on size and number.
    Limits {
        optional {
            /// All bytes of a request's head, from 8 KiB to 1 MiB. Beyond: 431.
            "header-bytes" header_bytes: Leaf<Size<8_192, 1_048_576>> = "64KiB";
            /// Header lines of a request, from 1 to 10000. Beyond: 431.
            "header-count" header_count: Leaf<Count<1, 10_000>> = 100;
            /// Bytes of the request target, from 1 to 65534. Beyond: 414.
            "target-bytes" target_bytes: Leaf<Size<1, 65_534>> = "16KiB";
            /// Bytes of a request's body, or `none`. Beyond: 413.
            "body-bytes" body_bytes: Leaf<OrNone<Size<0, { u64::MAX }>>> = "none";
            /// Client connections at once, over all workers, from 1 to 10 million. Beyond: 503 and closed.
            "connections" connections: Leaf<Count<1, 10_000_000>> = 10_000;
            /// Client connections at once from one address (of IPv6, from one /64), over all workers, from 1 to 10
            /// million, or `none`. Beyond: 503 and closed.
            "connections-per-address" connections_per_address: Leaf<OrNone<Count<1, 10_000_000>>> = "none";
            /// Requests in one client connection, from 1 to 10 million, or `none`. With the last one it ends politely.
            "requests-per-connection" requests_per_connection: Leaf<OrNone<Count<1, 10_000_000>>> = "none";
            /// TLS handshakes with clients at once, over all workers, from 1 to 10 million. Beyond: closed.
            "handshakes" handshakes: Leaf<Count<1, 10_000_000>> = 500;
            /// HTTP/2: requests at once in a connection, from 1 to 10000. Beyond: the stream is refused.
            "streams" streams: Leaf<Count<1, 10_000>> = 100;
            /// Connections kept open without a request, per endpoint and worker, up to 100000.
            "upstream-idle-connections" upstream_idle_connections: Leaf<Count<0, 100_000>> = 256;
            /// Requests at once on one endpoint, over all workers, from 1 to 100000, or `none`. Beyond: they queue.
            "endpoint-requests" endpoint_requests: Leaf<OrNone<Count<1, 100_000>>> = "none";
            /// Requests that wait for one busy endpoint, first come first served, up to 100000. Beyond: 503.
            "queue" queue: Leaf<Count<0, 100_000>> = 16;
        }
    }

    /// What to do about requests that could not be sent.
    Retry {
        optional {
            /// Tries after the first one, from 0 to 10: other endpoints of the version, then one of another version.
            "tries" tries: Leaf<Count<0, 10>> = 3;
            /// Whether another version may answer when the decided one cannot be reached. It is the last resort.
            "other-version" other_version: Leaf<Switch> = true;
            /// The part of a version's requests, in per cent, that may be sent a second time although bytes of the first
            /// may have arrived (GET and the like only). Per worker, over the last 10 s.
            "budget" budget: Leaf<Percent> = 20;
            /// So many of them are sent a second time in any case, up to 1000.
            "budget-min" budget_min: Leaf<Count<0, 1000>> = 3;
        }
    }

    /// An endpoint that fails so often in a row is left out for a while, by each worker for itself; but never more than
    /// half of a version's endpoints. Then a single request tries it.
    Outliers {
        optional {
            /// Failures in a row to connect to it, from 1 to 1000, or `none`.
            "connect-failures" connect_failures: Leaf<OrNone<Count<1, 1000>>> = 5;
            /// Answers of 5xx in a row, or failures to answer at all, from 1 to 1000, or `none`. Off by default, so that
            /// a bad version shows all of its errors to those who judge it.
            "server-errors" server_errors: Leaf<OrNone<Count<1, 1000>>> = "none";
            /// How long the first time, from 1 ms to one day; twice as long each further time. Give or take a quarter.
            "base-time" base_time: Leaf<Wait> = "10s";
            /// How long at most.
            "max-time" max_time: Leaf<Wait> = "5m";
        }
    }

    /// Bounds of what copies of requests may take. A copy that would take more is dropped; its request never waits.
    Mirroring {
        optional {
            /// Whether `Host: shop.example` becomes `Host: shop.example-shadow` in a copy.
            "shadow-host" shadow_host: Leaf<Switch> = true;
            /// Copies on their way at once, per worker, up to 100000.
            "concurrency" concurrency: Leaf<Count<0, 100_000>> = 64;
            /// Bytes of one request's body that its copy may be behind, from 64 KiB to 1 GiB.
            "buffer" buffer: Leaf<Size<65_536, 1_073_741_824>> = "256KiB";
            /// From the request's head to the end of the copy's answer, from 1 ms to one day. Then the copy is cut.
            "timeout" timeout: Leaf<Wait> = "60s";
        }
    }

    /// Looking up the names of endpoints.
    Dns {
        optional {
            /// How often, from 100 ms to one day.
            "interval" interval: Leaf<LookupInterval> = "5s";
        }
    }

    /// What happens between SIGTERM and the end.
    Drain {
        optional {
            /// Between "not ready" and the end of accepting, up to one day, so that load balancers notice.
            "delay" delay: Leaf<Delay> = "5s";
            /// For the requests in flight, after that, up to one day.
            "timeout" timeout: Leaf<Delay> = "30s";
        }
    }

    /// This process's place among several that share one split and take turns.
    Replica {
        required {
            /// Which one it is, from 0.
            "index" index: Leaf<Count<0, 999>>;
            /// How many there are, from 1 to 1000.
            "of" of: Leaf<Count<1, 1000>>;
        }
        optional {
            /// Gives all of them the same schedule; the same for all.
            "seed" seed: Leaf<Text> = "splitway";
        }
    }

    /// What is logged, and how.
    Log {
        optional {
            /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,splitway=debug`.
            "level" level: Leaf<LogLevel> = "info";
            /// `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
            "format" format: Leaf<OneOf<LogFormat>> = "auto";
        }
    }

    /// What is measured, beyond what always is.
    Metrics {
        optional {
            /// Requests and their times under the names of others as well, so that queries written for them go on
            /// working (docs/metrics.md): `istio`, `nginx`. Default: none.
            "aliases" aliases: List<Leaf<OneOf<Alias>>>;
        }
    }

    /// A line for each request, with what became of it and why. Never its query, and no header field but `Host` and
    /// `User-Agent`.
    AccessLog {
        optional {
            /// `json`, one object per line, named as OpenTelemetry names attributes; `text`; or `none`.
            "format" format: Leaf<OrNone<OneOf<Format>>> = "none";
            /// How many of the requests that went well, from 0 to 100 percent with at most four digits after the point.
            /// Those that failed, or were answered 5xx, all have a line.
            "sample" sample: Leaf<Percent> = 100;
            /// Only requests of the version that is `stable`, `canary` or `experiment`, or `none`: of all.
            "only" only: Leaf<OrNone<OneOf<Role>>> = "none";
        }
    }
}

/// One method or a list of them.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany(pub Vec<Leaf<Method>>);

impl Read for OneOrMany {
    fn what() -> String {
        "a method such as `GET`, or a list of methods".to_owned()
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.content {
            Content::List(_) => NonEmpty::read(node, problems).map(|NonEmpty(methods)| Self(methods)),
            Content::Text { .. } if !node.is_nothing() => Leaf::read(node, problems).map(|one| Self(vec![one])),
            _ => refuse(node, &Self::what(), problems, ""),
        }
    }
}

impl Serialize for OneOrMany {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl JsonSchema for OneOrMany {
    inline_schema!("OneOrMany");

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (one, many) = (Leaf::<Method>::json_schema(generator), NonEmpty::<Leaf<Method>>::json_schema(generator));
        json_schema!({ "anyOf": [one, many] })
    }
}

/// A condition on one value; a single value is short for `exact`.
#[derive(Clone, Debug)]
pub(super) enum ValueMatch {
    Exact(Leaf<ValueText>),
    Conditions(Box<Conditions>),
}

impl Read for ValueMatch {
    fn what() -> String {
        "a value, or one of exact, prefix, suffix, regex, present and absent".to_owned()
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.content {
            Content::Map(_) => Read::read(node, problems).map(|map| ValueMatch::Conditions(Box::new(map))),
            Content::Text { .. } if !node.is_nothing() => Read::read(node, problems).map(ValueMatch::Exact),
            _ => {
                refuse(node, &Self::what(), problems, "write `{ exact: \"42\" }`, or `{ present: true }` for any value")
            }
        }
    }
}

impl Serialize for ValueMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ValueMatch::Exact(value) => value.serialize(serializer),
            ValueMatch::Conditions(conditions) => conditions.serialize(serializer),
        }
    }
}

impl JsonSchema for ValueMatch {
    inline_schema!("ValueMatch");

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let text = Leaf::<ValueText>::json_schema(generator);
        json_schema!({ "anyOf": [text, generator.subschema_for::<Conditions>()] })
    }
}

/// TLS with endpoints, or `none`, where that is not what the backend would have otherwise.
#[derive(Clone, Debug)]
pub(super) enum TlsOrNone {
    Tls(Box<BackTls>),
    None(Leaf<OneOf<Nothing>>),
}

impl Read for TlsOrNone {
    fn what() -> String {
        format!("{}, or `none`", BackTls::what())
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.content {
            Content::Map(_) => Read::read(node, problems).map(|tls| TlsOrNone::Tls(Box::new(tls))),
            Content::Text { text, .. } if text == "none" => Read::read(node, problems).map(TlsOrNone::None),
            _ => refuse(node, &Self::what(), problems, "write `{}` to trust the authorities that the system trusts"),
        }
    }
}

impl Serialize for TlsOrNone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TlsOrNone::Tls(tls) => tls.serialize(serializer),
            TlsOrNone::None(none) => none.serialize(serializer),
        }
    }
}

impl JsonSchema for TlsOrNone {
    inline_schema!("TlsOrNone");

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [generator.subschema_for::<BackTls>(), { "const": "none" }] })
    }
}

/// `none`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nothing;

impl Word for Nothing {
    const ALL: &[(&str, Self)] = &[("none", Nothing)];
}

/// Whether clients must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    Required,
    Optional,
}

impl Word for Demand {
    const ALL: &[(&str, Self)] = &[("required", Demand::Required), ("optional", Demand::Optional)];
}

/// The names of protocols as Kubernetes and others write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    H2c,
    H2,
    Auto,
}

impl Word for Spoken {
    const ALL: &[(&str, Self)] =
        &[("http1", Spoken::Http1), ("h2c", Spoken::H2c), ("h2", Spoken::H2), ("auto", Spoken::Auto)];
}

impl Word for Oldest {
    const ALL: &[(&str, Self)] = &[("1.2", Oldest::Tls12), ("1.3", Oldest::Tls13)];
}

impl Word for SameSite {
    const ALL: &[(&str, Self)] = &[("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)];
}

impl Word for Alias {
    const ALL: &[(&str, Self)] = &[("istio", Alias::Istio), ("nginx", Alias::Nginx)];
}

impl Word for Format {
    const ALL: &[(&str, Self)] = &[("json", Format::Json), ("text", Format::Text)];
}

impl Word for LogFormat {
    const ALL: &[(&str, Self)] = &[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
}
