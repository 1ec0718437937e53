//! What an operator asks. IMPURE and COLD: shows, never steers; every endpoint is read-only.
//!
//! | path | answers |
//! |---|---|
//! | `/events` | what the dashboard shows, each second, as Server-Sent Events |
//! | `/` | the dashboard for a browser, this list for others |
//! | `/metrics` | Prometheus text 0.0.4, or OpenMetrics 1.0 if `Accept` prefers it |
//! | `/healthz`, `/livez` | 200 while the process answers |
//! | `/readyz`, `/ready` | 200 while traffic is welcome: a snapshot is live and the proxy is not draining; else 503. `?verbose` lists the conditions |
//! | `/config` | what is live as JSON: generation and, for each port, weights asked, shares really sent, endpoints, routes |
//! | `/verify` | 200 when this proxy, or with `all=true` every ready replica, serves the weight that is asked for, or has nothing open on a version; else 503 and why |
//! | `/status` | how everything stands: the Rollout's steps and why it waits, versions, endpoints, rates; as JSON (with `trend=true` also the last minutes), or as a tree for those who prefer `text/plain` |
//! | `/analysis` | what every version has counted in a window of time, canary against stable, as JSON; with `all=true` of every ready replica |
//! | `/report` | what became of each of the last rollouts: as JSON, or as text for those who prefer `text/plain` |
//! | `/explain` | which version a made-up request, or a user (`?key=alice`), would get, and why; `?port=NAME` where there are several ports |
//! | `/requests` | the last requests with what became of them and why, newest first; `?version=`, `role=`, `reason=` choose |
//!
//! Files: `listen` is the listener with its limits, `token` what it may ask for, `page` the dashboard's files and `events` what
//! moves on it; `view` is the serializable picture of `/config`; `explain` is the made-up request; `verify` judges what
//! `/verify` asks, `analysis` compares versions, `report` is the picture of past rollouts,
//! `status` that of now, `endpoints` how each one fares, `requests` chooses among the last requests, `query` reads what is asked, and `peers` asks the other replicas.

pub mod analysis;
pub mod ask;
pub mod endpoints;
mod events;
pub mod explain;
mod listen;
mod page;
mod peers;
mod query;
pub mod report;
mod requests;
pub mod status;
pub mod token;
pub mod verify;
pub mod view;

pub use listen::{Bound, bind};
pub use token::{HEADER as TOKEN_HEADER, Token};

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use http::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
    HeaderValue, REFERRER_POLICY, RETRY_AFTER, SERVER, USER_AGENT, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};

use crate::control::StatusView;
use crate::control::cluster::{Contact, Following, FollowingView};
use crate::history::History;
use crate::metrics::Metrics;
use crate::metrics::families;
use crate::metrics::text::Format;
use crate::record::Recent;
use crate::route::PortName;
use crate::route::live::Live;
use listen::{House, Place, Turn};
use page::Page;
use view::Picture;

/// Where the listener is, and what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub address: SocketAddr,
    /// Only who sends it is shown anything but whether the process is well.
    pub token: Option<Token>,
}

impl From<SocketAddr> for Settings {
    fn from(address: SocketAddr) -> Self {
        Self { address, token: None }
    }
}

/// Where the answers come from.
#[derive(Clone)]
pub struct Context {
    pub live: Live,
    pub metrics: Arc<Metrics>,
    pub status: StatusView,
    pub readiness: Readiness,
    /// Only where a Rollout is followed.
    pub following: Option<FollowingView>,
    pub history: Arc<History>,
    /// The last requests.
    pub recent: Recent,
}

/// Whether traffic is welcome.
#[derive(Clone)]
pub struct Readiness {
    live: Live,
    draining: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No snapshot is live yet.
    Starting,
    Ready,
    Draining,
}

impl Readiness {
    pub fn new(live: Live) -> Self {
        Self { live, draining: Arc::default() }
    }

    /// From now on load balancers should look for somebody else. There is no way back.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn state(&self) -> State {
        if self.draining.load(Ordering::Relaxed) {
            State::Draining
        } else if self.live.generation().0 == 0 {
            State::Starting
        } else {
            State::Ready
        }
    }
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
        }
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

/// Every path with what it shows.
const ENDPOINTS: [(&str, &str); 14] = [
    ("/metrics", "Prometheus metrics"),
    ("/healthz", "200 while the process answers"),
    ("/livez", "the same"),
    ("/readyz", "200 while traffic is welcome, else 503; ?verbose lists the conditions"),
    ("/ready", "the same"),
    ("/config", "what is live, as JSON: by port, weights asked, shares really sent, endpoints, routes"),
    ("/verify", "200 when what is asked for is so, here or (all=true) at every ready replica, else 503; for example"),
    ("/status", "how everything stands: steps, versions, endpoints, asked and sent, errors, as JSON or as text/plain"),
    ("/analysis", "requests, errors and latency of each version in a window, canary against stable; for example"),
    ("/report", "what became of each of the last rollouts, as JSON or as text/plain; for example"),
    (
        "/explain",
        "which version a request, or a user (key=alice), would get, and why, as JSON or as text/plain; for example",
    ),
    ("/requests", "the last requests, as JSON: what became of each, and why; for example"),
    ("/events", "what the dashboard shows, as it happens: Server-Sent Events"),
    ("/", "the dashboard for a browser, this list for others"),
];

/// Whether the process is well is told to everybody: kubelets send no token.
const PROBES: [&str; 4] = ["/healthz", "/livez", "/readyz", "/ready"];

async fn answer<B: http_body::Body>(place: &Arc<Place>, request: &Request<B>) -> Answer {
    let house = place.house();
    let path = request.uri().path();
    let pace = if PROBES.contains(&path) { &house.probes } else { &house.others };
    let turn = pace.turn().await;
    let answer = if !ENDPOINTS.iter().any(|(known, _)| *known == path) && !Page::has(path) {
        nothing_there(path)
    } else if request.method() != Method::GET && request.method() != Method::HEAD {
        only_shows(request.method())
    } else if let Some(file) = house.page.answer(path, request.headers()) {
        // It has nothing in it but what is in the binary.
        file
    } else if !PROBES.contains(&path) && path != "/" && !is_admitted(house, request) {
        who_asks(request)
    } else if path == "/verify" {
        verify(house, request.uri().query().unwrap_or_default(), turn).await
    } else if path == "/analysis" {
        analysis(house, request.uri().query().unwrap_or_default(), turn).await
    } else if path == "/events" {
        events(place, request)
    } else {
        show(&house.context, request)
    };
    finish(answer, request)
}

fn is_admitted<B>(house: &House, request: &Request<B>) -> bool {
    house.token.as_ref().is_none_or(|token| token.admits(request.headers()))
}

fn show<B>(context: &Context, request: &Request<B>) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    match request.uri().path() {
        "/metrics" => metrics(context, request),
        "/healthz" | "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" | "/ready" => readyz(context, query.split('&').any(|flag| flag.split('=').next() == Some("verbose"))),
        "/config" => json(StatusCode::OK, &Picture::take(context)),
        "/explain" => explain(context, query, wants_text(request)),
        "/status" => match status::from_query(query) {
            Ok(_) if wants_text(request) => {
                text(StatusCode::OK, status::look(context, false).tree(status::Style::PLAIN))
            }
            Ok(trend) => json(StatusCode::OK, &status::look(context, trend)),
            Err(error) => {
                problem(StatusCode::BAD_REQUEST, error, "ask for /status, or for /status?trend=true".to_owned())
            }
        },
        "/report" => report(context, query, wants_text(request)),
        "/requests" => match requests::from_query(query) {
            Ok(asked) => json(StatusCode::OK, &asked.of(&context.recent)),
            Err(error) => problem(StatusCode::BAD_REQUEST, error, format!("ask like this: {}", requests::EXAMPLE)),
        },
        _ => {
            let mut answer = text(StatusCode::OK, index());
            answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
            answer
        }
    }
}

fn wants_text<B>(request: &Request<B>) -> bool {
    request.headers().get(ACCEPT).is_some_and(|accept| accept == "text/plain")
}

/// What all answers have in common. Files of the page have said already how long they are good for, and what they may do.
fn finish<B: http_body::Body>(mut answer: Answer, request: &Request<B>) -> Answer {
    let headers = answer.headers_mut();
    let mut unless_said = |name: HeaderName, value| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    unless_said(CACHE_CONTROL, "no-store");
    unless_said(
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    unless_said(X_CONTENT_TYPE_OPTIONS, "nosniff");
    // Pages of others get nothing of this, not even a picture.
    unless_said(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    unless_said(REFERRER_POLICY, "no-referrer");
    // So that whoever asks a wrong address can tell.
    unless_said(SERVER, ask::SERVER_NAME);
    if !request.body().is_end_stream() {
        // Nobody reads that body, so nothing can follow it.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn index() -> String {
    let mut lines = format!("splitway {} admin\n\n", env!("CARGO_PKG_VERSION"));
    for (path, shows) in ENDPOINTS {
        lines.push_str(&format!("{path:<10} {shows}\n"));
        let example = match path {
            "/explain" => explain::EXAMPLE,
            "/verify" => verify::EXAMPLE,
            "/analysis" => analysis::EXAMPLE,
            "/report" => report::EXAMPLE,
            "/requests" => requests::EXAMPLE,
            _ => continue,
        };
        lines.push_str(&format!("{:<10} {example}\n", ""));
    }
    lines
}

fn metrics<B>(context: &Context, request: &Request<B>) -> Answer {
    let accept: Vec<&str> = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::wanted(&accept.join(","));
    if request.method() == Method::GET {
        let scraper = request.headers().get(USER_AGENT).and_then(|name| name.to_str().ok()).unwrap_or_default();
        context.metrics.scraped.by(scraper, SystemTime::now());
    }
    let families = families::collect(&context.metrics, context.readiness.state() == State::Ready);
    let mut lines = format.write(families);
    if format == Format::OpenMetrics {
        lines = context.metrics.exemplars.add_to(&lines, context.metrics.ports());
    }
    let mut answer = text(StatusCode::OK, lines);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    // The same path has two faces.
    answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    answer
}

fn readyz(context: &Context, verbose: bool) -> Answer {
    let state = context.readiness.state();
    let generation = context.live.generation().0;
    let refused = context.status.borrow().refused.is_some();
    let status = if state == State::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let snapshot = match (generation, refused) {
        (0, false) => "no snapshot is live yet".to_owned(),
        (0, true) => "no snapshot is live yet, and the last try was refused: /config says why".to_owned(),
        (_, false) => format!("generation {generation} is live"),
        (_, true) => format!("generation {generation} is live; a later change was refused: /config says why"),
    };
    if verbose {
        let line = |good: bool, what: &str| format!("[{}] {what}\n", if good { '+' } else { '-' });
        let draining = state == State::Draining;
        let following = context.following.as_ref().map(|following| api_line(&following.borrow())).unwrap_or_default();
        return text(
            status,
            line(generation > 0, &format!("snapshot: {snapshot}"))
                + &line(!draining, &format!("serving: {}", if draining { "draining" } else { "not draining" }))
                + &following
                + &format!("{}\n", state.as_str()),
        );
    }
    text(
        status,
        match state {
            State::Ready => "ok\n".to_owned(),
            State::Starting => format!("starting: {snapshot}\n"),
            State::Draining => "draining: the proxy is about to stop\n".to_owned(),
        },
    )
}

/// What is true about the API server. It does not decide whether traffic is welcome: what was known serves on.
fn api_line(following: &Following) -> String {
    let heard = match &following.contact {
        Contact::Connecting => "[ ] api: not heard yet".to_owned(),
        Contact::Connected => "[+] api: heard".to_owned(),
        Contact::Lost { since, error } => {
            format!("[ ] api: the API server is not heard since {}: {error}", view::time(*since))
        }
    };
    let saved = following
        .saved_at
        .map(|at| format!("[ ] rollout: serving the state saved at {}\n", view::time(at)))
        .unwrap_or_default();
    let notes: String = following.notes.iter().map(|note| format!("[ ] rollout: {note}\n")).collect();
    format!("{heard}\n{saved}{notes}")
}

fn explain(context: &Context, query: &str, wants_text: bool) -> Answer {
    let bad = |error| problem(StatusCode::BAD_REQUEST, error, format!("ask like this: {}", explain::EXAMPLE));
    let asked = match explain::from_query(query) {
        Ok(asked) => asked,
        Err(error) => return bad(error),
    };
    let port = match port_number(context.metrics.ports(), asked.port.as_deref()) {
        Ok(number) => number,
        Err(error) => return bad(error),
    };
    match context.live.current(port).map(|snapshot| asked.explain(&snapshot)) {
        Some(Ok(explanation)) if wants_text => text(StatusCode::OK, format!("{explanation}\n")),
        Some(Ok(explanation)) => json(StatusCode::OK, &explanation),
        Some(Err(explain::Refusal { error, remedy })) => problem(StatusCode::BAD_REQUEST, error, remedy),
        None => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "no snapshot is live yet, so nothing can be decided".to_owned(),
            "wait until /readyz answers 200, or see /config for what was refused".to_owned(),
        ),
    }
}

/// The turn is for what this replica says. While others are asked it is somebody else's.
async fn verify(house: &House, query: &str, turn: Turn<'_>) -> Answer {
    let context = &house.context;
    let asked = verify::from_query(query).and_then(|asked| asked.at(context.metrics.ports()));
    let asked = match asked {
        Ok(asked) => asked,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error, format!("ask like this: {}", verify::EXAMPLE)),
    };
    let mut report = verify::look(context, &asked);
    drop(turn);
    if asked.all {
        let following = context.following.as_ref().map(|following| following.borrow().clone());
        report = peers::ask_all(following.as_ref(), &house.way, &asked, report).await;
    }
    if !report.verified && house.noes.is_due() {
        // An analysis keeps the status only, so the reason is kept here: the first of each second, and not all of what a
        // stranger may have asked.
        let short = |text: &str| text.chars().take(300).collect::<String>();
        tracing::info!(query = short(query), "not verified: {}", short(&report.why.join("; ")));
    }
    json(if report.verified { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &report)
}

/// The same.
async fn analysis(house: &House, query: &str, turn: Turn<'_>) -> Answer {
    match analysis::from_query(query).and_then(|asked| asked.at(house.context.metrics.ports())) {
        Ok(asked) => json(StatusCode::OK, &analysis::look(&house.context, &house.way, &asked, turn).await),
        Err(error) => problem(StatusCode::BAD_REQUEST, error, format!("ask like this: {}", analysis::EXAMPLE)),
    }
}

fn report(context: &Context, query: &str, wants_text: bool) -> Answer {
    match report::look(context, query) {
        Ok(reports) if wants_text => text(StatusCode::OK, report::text(&reports)),
        Ok(reports) => json(StatusCode::OK, &reports),
        Err(error) => problem(StatusCode::BAD_REQUEST, error, format!("ask like this: {}", report::EXAMPLE)),
    }
}

/// A stream, if there is room for one more.
fn events<B>(place: &Arc<Place>, request: &Request<B>) -> Answer {
    if let Some(query) = request.uri().query().filter(|query| !query.is_empty()) {
        let remedy = "ask for /events; what came since an event is told to those who send its id in Last-Event-ID";
        return problem(StatusCode::BAD_REQUEST, format!("expected no parameters, found {query:?}"), remedy.to_owned());
    }
    let bounds = &place.house().bounds;
    let Ok(room) = place.house().streams.clone().try_acquire_owned() else {
        let error = format!("{} streams are open, and that is the most", bounds.streams);
        let mut full = problem(StatusCode::SERVICE_UNAVAILABLE, error, "close another dashboard, or wait".to_owned());
        full.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        return full;
    };
    let known = request.headers().get(HeaderName::from_static("last-event-id"));
    let body = match request.method() == Method::HEAD {
        true => whole(""),
        false => events::stream(place.clone(), room, known.and_then(|id| id.to_str().ok()).unwrap_or_default()),
    };
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Some proxies would gather events before they pass them on.
    answer.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    answer
}

/// The number of the port that is asked about. Not to say which one is to mean the one without a name, or the only one.
fn port_number(ports: &[PortName], asked: Option<&str>) -> Result<usize, String> {
    let find = |wanted: &str| ports.iter().position(|port| port.as_str() == wanted);
    let names = || ports.iter().filter(|port| !port.is_unnamed()).map(PortName::as_str).collect::<Vec<_>>().join(", ");
    match asked {
        None if ports.len() == 1 => Ok(0),
        None => find("").ok_or_else(|| format!("which port? There are several, so add port= with one of {}", names())),
        Some(wanted) => find(wanted).ok_or_else(|| match names() {
            none if none.is_empty() => {
                format!("there is no port {wanted:?}: ports have no names here, so leave it out")
            }
            names => format!("there is no port {wanted:?}; expected one of {names}"),
        }),
    }
}

/// An error for people and programs.
#[derive(Serialize, Deserialize)]
struct Problem {
    error: String,
    remedy: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<String>,
}

/// What an admin listener said that did not answer, as a person reads it.
pub fn said(body: &str) -> String {
    match serde_json::from_str(body) {
        Ok(Problem { error, remedy, .. }) => format!("{error}; {remedy}"),
        Err(_) => body.trim_end().to_owned(),
    }
}

fn nothing_there(path: &str) -> Answer {
    let remedy = match nearest(path, ENDPOINTS.map(|(path, _)| path)) {
        Some(close) => format!("did you mean {close}?"),
        None => "ask for one of the endpoints listed here; / explains them".to_owned(),
    };
    let endpoints = ENDPOINTS.map(|(path, _)| path.to_owned()).into();
    json(StatusCode::NOT_FOUND, &Problem { error: format!("there is no {path} here"), remedy, endpoints })
}

fn only_shows(method: &Method) -> Answer {
    let mut refusal = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not possible here: this listener only shows"),
        "use GET or HEAD; to change the split, change the file that the proxy was started with".to_owned(),
    );
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    refusal
}

fn who_asks<B>(request: &Request<B>) -> Answer {
    let headers = request.headers();
    let error = match headers.get(AUTHORIZATION).or(headers.get(TOKEN_HEADER)) {
        None => "expected the token that this listener asks for, found none",
        Some(_) => "that is not the token that this listener asks for",
    };
    let remedy = "send it in a header, Authorization: Bearer TOKEN, as splitway does with --admin-token-file FILE";
    let mut refusal = problem(StatusCode::UNAUTHORIZED, error.to_owned(), remedy.to_owned());
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"splitway\""));
    refusal
}

fn problem(status: StatusCode, error: String, remedy: String) -> Answer {
    json(status, &Problem { error, remedy, endpoints: Vec::new() })
}

/// The name that was probably meant, if one is close enough.
fn nearest<const N: usize>(wrong: &str, names: [&'static str; N]) -> Option<&'static str> {
    let likeness = |name: &&str| strsim::normalized_damerau_levenshtein(&wrong.to_lowercase(), name);
    let best = names.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) >= 0.6).then_some(best)
}

fn text(status: StatusCode, body: String) -> Answer {
    respond(status, "text/plain; charset=utf-8", body)
}

/// Indented: people read it with curl.
fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let text = serde_json::to_string_pretty(body).expect("plain data without maps can be written");
    respond(status, "application/json", text + "\n")
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn whole(body: impl Into<Bytes>) -> Body {
    Full::from(body.into()).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::time::{Duration, SystemTime};

    use http::header::HeaderName;
    use serde_json::{Value, json};
    use tokio::sync::{oneshot, watch};

    use super::listen::{BOUNDS, Bounds, HEADER_LINES};
    use super::*;
    use crate::control::{Rejected, Status};
    use crate::metrics::made_up;
    use crate::route::bucket::{BucketCookie, KeySource, SameSite, Sticky};
    use crate::route::live::Publisher;
    use crate::route::matches::{Match, ValueMatch};
    use crate::route::{Action, Generation, Override, Role, Route, RouteName, Shares, VersionHash};

    /// An admin listener at work on a thread of its own.
    struct Served {
        address: SocketAddr,
        publisher: Publisher,
        context: Context,
        status: watch::Sender<Status>,
        stop: Option<oneshot::Sender<()>>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Served {
        /// Nothing is live yet.
        fn start(bounds: Bounds) -> Self {
            Self::start_with(bounds, None)
        }

        fn start_with(bounds: Bounds, token: Option<Token>) -> Self {
            let (publisher, live) = made_up::nothing_live();
            let (status, view) = watch::channel(Status::default());
            let metrics = Arc::new(made_up::metrics(2, live.clone()));
            let context = Context {
                history: Arc::new(History::new(metrics.clone(), live.clone(), None)),
                metrics,
                status: view,
                readiness: Readiness::new(live.clone()),
                live,
                following: None,
                recent: Recent::default(),
            };
            let settings = Settings { address: ([127, 0, 0, 1], 0).into(), token };
            let bound = bind(settings, false).expect("there is a free port");
            let address = bound.address();
            let (stop, stopped) = oneshot::channel();
            let served = context.clone();
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let serve = bound.serve_within(bounds, served, async {
                    let _ = stopped.await;
                });
                // As a spawned task, so that it is known to be `Send`.
                runtime.block_on(runtime.spawn(serve)).unwrap();
            });
            Self { address, publisher, context, status, stop: Some(stop), thread: Some(thread) }
        }

        fn ready() -> Self {
            let mut served = Self::start(BOUNDS);
            made_up::publish(&mut served.publisher, &[("stable", Role::Stable, 189), ("canary", Role::Canary, 11)]);
            served
        }

        /// As if a second had passed.
        fn remember(&self) {
            self.context.history.second();
        }

        fn connect(&self) -> std::net::TcpStream {
            let stream = std::net::TcpStream::connect(self.address).unwrap();
            // Only so that a failing test ends.
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream
        }

        fn ask(&self, head: &str) -> Reply {
            let mut stream = self.connect();
            stream.write_all(format!("{head}\r\nhost: admin\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
            Reply::read(stream)
        }

        fn get(&self, path: &str) -> Reply {
            self.ask(&format!("GET {path} HTTP/1.1"))
        }

        fn get_json(&self, path: &str) -> Value {
            let reply = self.get(path);
            assert_eq!(reply.header("content-type"), "application/json", "{path}");
            serde_json::from_str(&reply.body).unwrap()
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            let _ = self.stop.take().map(|stop| stop.send(()));
            let outcome = self.thread.take().map(std::thread::JoinHandle::join);
            assert!(std::thread::panicking() || !matches!(outcome, Some(Err(_))), "the listener panicked");
        }
    }

    struct Reply {
        status: u16,
        head: String,
        body: String,
    }

    impl Reply {
        /// Everything up to the end of the connection.
        fn read(mut stream: std::net::TcpStream) -> Self {
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("an answer, and an end");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
            Self { status, head: head.to_owned(), body: body.to_owned() }
        }

        fn header(&self, name: &str) -> &str {
            let value = self.head.lines().filter_map(|line| line.split_once(": ")).find(|(found, _)| *found == name);
            value.map_or("", |(_, value)| value)
        }
    }

    #[test]
    fn every_endpoint_answers_with_the_safe_headers() {
        let served = Served::ready();
        for (path, _) in ENDPOINTS {
            // The one path that is nothing without a question.
            let path = if path == "/verify" { "/verify?weight=5.5" } else { path };
            if path == "/events" {
                // It has no end.
                continue;
            }
            let reply = served.get(path);
            assert_eq!(reply.status, 200, "{path}");
            assert_eq!(reply.header("cache-control"), "no-store", "{path}");
            assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
            assert!(reply.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
            let head = served.ask(&format!("HEAD {path} HTTP/1.1"));
            assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
            assert!(head.header("content-length").parse::<usize>().unwrap() > 0, "{path}");
        }
        for path in ["/nothing", "/metrics/"] {
            assert_eq!(served.get(path).header("cache-control"), "no-store");
        }
    }

    #[test]
    fn the_index_names_every_endpoint() {
        let index = Served::ready().get("/");
        assert_eq!(index.header("content-type"), "text/plain; charset=utf-8");
        for (path, shows) in ENDPOINTS {
            assert!(index.body.lines().any(|line| line.starts_with(path) && line.ends_with(shows)), "{path}");
        }
    }

    #[test]
    fn an_unknown_path_is_told_what_there_is() {
        let served = Served::ready();
        for (path, remedy) in [
            ("/metric", "did you mean /metrics?"),
            ("/healtz", "did you mean /healthz?"),
            ("/Ready", "did you mean /ready?"),
            ("/config_", "did you mean /config?"),
            ("/what-is-this", "ask for one of the endpoints listed here; / explains them"),
        ] {
            assert_eq!(served.get(path).status, 404);
            let answer = served.get_json(path);
            assert_eq!(answer["error"], format!("there is no {path} here"));
            assert_eq!(answer["remedy"], remedy);
            assert_eq!(answer["endpoints"].as_array().map(Vec::len), Some(ENDPOINTS.len()));
        }
    }

    #[test]
    fn verify_answers_200_503_or_400_and_says_why() {
        let mut served = Served::start(BOUNDS);
        let ask = |served: &Served, query: &str| {
            let path = format!("/verify?{query}");
            (served.get(&path).status, served.get_json(&path))
        };
        let (status, answer) = ask(&served, "weight=0");
        assert_eq!((status, &answer["verified"]), (503, &json!(false)));
        assert_eq!(answer["why"][0], "no snapshot is live yet: /readyz says why");
        made_up::publish(&mut served.publisher, &[("stable", Role::Stable, 189), ("canary", Role::Canary, 11)]);
        for (query, expected) in [
            ("weight=5.5", 200),
            ("weight=55/1000&version=canary", 200),
            ("weight=94.5&version=stable", 200),
            ("weight=5.4", 503),
            ("weight=5.5&version=stable", 503),
            ("weight=5.5&generation=9", 503),
            ("weight=5.5&port=http", 400),
            ("drained=canary", 200),
            ("drained=canray", 503),
            ("drained=", 400),
            ("", 400),
        ] {
            let (status, answer) = ask(&served, query);
            assert_eq!(status, expected, "{query}: {answer}");
            match status {
                400 => assert!(answer["error"].is_string() && answer["remedy"].is_string(), "{query}: {answer}"),
                _ => {
                    assert_eq!(answer["verified"], status == 200, "{query}");
                    assert_eq!(answer["why"].as_array().map(Vec::is_empty), Some(status == 200), "{query}: {answer}");
                }
            }
        }
        // Nobody else is known here.
        for query in ["weight=5.5&all=true", "drained=canary&all=true"] {
            let (status, answer) = ask(&served, query);
            assert_eq!(status, 503, "{query}");
            assert!(answer["why"][0].as_str().is_some_and(|why| why.contains("--service")), "{answer}");
        }
    }

    #[test]
    fn nothing_can_be_changed_here() {
        let served = Served::ready();
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let reply = served.ask(&format!("{method} /config HTTP/1.1"));
            assert_eq!((reply.status, reply.header("allow")), (405, "GET, HEAD"), "{method}");
            assert!(reply.body.contains("this listener only shows"), "{}", reply.body);
        }
        assert_eq!(served.ask("POST /nothing HTTP/1.1").status, 404);
    }

    #[test]
    fn a_body_that_nobody_reads_ends_the_connection() {
        let served = Served::ready();
        let mut stream = served.connect();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").unwrap();
        let reply = Reply::read(stream);
        assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    }

    #[test]
    fn a_head_beyond_the_bounds_is_refused() {
        let served = Served::ready();
        let lines: String = (0..=HEADER_LINES).map(|i| format!("\r\nx-{i}: 1")).collect();
        assert_eq!(served.ask(&format!("GET / HTTP/1.1{lines}")).status, 431);
        assert_eq!(served.ask("GET /healthz HTTP/1.1\r\nx-one: more").status, 200);
    }

    #[test]
    fn metrics_come_in_the_format_that_is_asked_for() {
        let served = Served::ready();
        let plain = served.get("/metrics");
        assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        assert!(plain.body.contains("# TYPE splitway_requests_total counter\n"));
        assert!(plain.body.contains("\nsplitway_split_weight{version=\"canary\",role=\"canary\"} 11\n"));
        assert!(plain.body.contains("\nsplitway_ready 1\n"));
        let open =
            served.ask("GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text;q=0.9\r\naccept: */*;q=0.1");
        assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(open.body.contains("# TYPE splitway_requests counter\n") && open.body.ends_with("# EOF\n"));
        served.context.readiness.drain();
        assert!(served.get("/metrics").body.contains("\nsplitway_ready 0\n"));
    }

    #[test]
    fn ready_means_that_a_snapshot_is_live_and_the_proxy_is_not_draining() {
        let mut served = Served::start(BOUNDS);
        let check = |served: &Served, status: u16, first: &str, verbose: &str| {
            for path in ["/readyz", "/ready"] {
                let reply = served.get(path);
                assert_eq!((reply.status, reply.body.as_str()), (status, first), "{path}");
                let reply = served.get(&format!("{path}?verbose"));
                assert_eq!((reply.status, reply.body.as_str()), (status, verbose), "{path}");
            }
            for path in ["/healthz", "/livez"] {
                let reply = served.get(path);
                assert_eq!((reply.status, reply.body.as_str()), (200, "ok\n"), "{path}");
            }
        };
        check(
            &served,
            503,
            "starting: no snapshot is live yet\n",
            "[-] snapshot: no snapshot is live yet\n[+] serving: not draining\nstarting\n",
        );
        let rejected = Rejected { origin: "f".into(), message: "m".into() };
        served.status.send_modify(|status| status.refused = Some((SystemTime::UNIX_EPOCH, rejected)));
        assert!(served.get("/readyz").body.contains("/config says why"));
        served.status.send_modify(|status| status.refused = None);
        made_up::publish(&mut served.publisher, &[("stable", Role::Stable, 1)]);
        check(&served, 200, "ok\n", "[+] snapshot: generation 1 is live\n[+] serving: not draining\nready\n");
        served.context.readiness.drain();
        check(
            &served,
            503,
            "draining: the proxy is about to stop\n",
            "[+] snapshot: generation 1 is live\n[-] serving: draining\ndraining\n",
        );
    }

    #[test]
    fn config_is_honest_before_the_first_snapshot() {
        let served = Served::start(BOUNDS);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let rejected = Rejected { origin: "splitway.yaml".into(), message: "line 3: no".into() };
        served.status.send_modify(|status| status.refused = Some((at, rejected)));
        assert_eq!(
            served.get_json("/config"),
            json!({
                "generation": 0, "state": "starting", "applied_at": null, "origin": null, "notes": [], "ports": [],
                "last_scraped_at": null, "last_scraped_by": null,
                "refused": { "at": "1970-01-01T00:01:00Z", "origin": "splitway.yaml", "message": "line 3: no" },
            })
        );
        let reply = served.get("/explain");
        assert_eq!(reply.status, 503);
        assert!(reply.body.contains("no snapshot is live yet"));
    }

    #[test]
    fn config_shows_the_live_snapshot_and_no_secret() {
        let mut served = Served::start(BOUNDS);
        let (stable, canary) = (VersionHash::new("stable"), VersionHash::new("canary"));
        let mut routing = made_up::routing(&[("stable", Role::Stable, 189), ("canary", Role::Canary, 11)]);
        let header = HeaderName::from_static("x-user");
        let header_match =
            Match { headers: vec![(header.clone(), ValueMatch::Exact("42".into()))], ..Match::default() };
        let route = |name: &str, action| Route {
            name: RouteName::new(name),
            matches: vec![header_match.clone()],
            action,
            count: name != "half",
            timeouts: None,
        };
        routing.routes = vec![
            route("testers", Action::Send(canary.clone())),
            route("half", Action::Split(Shares::new(vec![(stable.clone(), 1), (canary.clone(), 1)]).unwrap())),
        ];
        routing.sticky = Some(Sticky {
            keys: vec![KeySource::Header(header), KeySource::Cookie("uid".into()), KeySource::ClientAddress],
            salt: "spring".into(),
            cookie: Some(BucketCookie {
                name: "splitway".into(),
                max_age: Some(Duration::from_secs(86_400)),
                path: "/".into(),
                same_site: SameSite::Lax,
                secure: true,
                http_only: true,
                secret: Some(b"hush-hush".to_vec()),
            }),
        });
        routing.override_ = Some(Override { header: HeaderName::from_static("x-canary"), cookie: "canary".into() });
        routing.policy.limits.body_bytes = Some(10 << 20);
        made_up::publish_routing(&mut served.publisher, routing);
        served.status.send_replace(Status {
            rollout_generation: None,
            generation: Generation(1),
            origin: "splitway.yaml".into(),
            applied_at: Some(SystemTime::UNIX_EPOCH),
            notes: vec!["app.local does not resolve".into()],
            refused: None,
        });
        served.context.metrics.version(0, 0, &stable, Role::Stable).split.add(2);
        served.context.metrics.version(1, 0, &stable, Role::Stable).split.add(1);
        served.context.metrics.version(1, 0, &canary, Role::Canary).split.add(1);

        assert!(!served.get("/config").body.contains("hush"));
        let config = served.get_json("/config");
        assert_eq!(config["generation"], 1);
        assert_eq!(config["state"], "ready");
        assert_eq!(config["applied_at"], "1970-01-01T00:00:00Z");
        assert_eq!(config["origin"], "splitway.yaml");
        assert_eq!(config["notes"], json!(["app.local does not resolve"]));
        assert_eq!(config["refused"], Value::Null);
        assert_eq!(config["ports"].as_array().map(Vec::len), Some(1));
        let config = &config["ports"][0];
        assert_eq!(config["port"], Value::Null);
        assert_eq!(config["split"]["total"], 200);
        let version = &config["split"]["versions"][0];
        for (name, value) in [
            ("version", json!("canary")),
            ("role", json!("canary")),
            ("weight", json!(11)),
            ("asked_ratio", json!(0.055)),
            ("sent", json!(1)),
            ("sent_ratio", json!(0.25)),
        ] {
            assert_eq!(version[name], value, "{name}");
        }
        let number = |name: &str| version[name].as_f64().unwrap_or_else(|| panic!("{name} is a number"));
        assert_eq!(number("error_in_requests"), 1.0 - number("asked_requests"));
        assert_eq!(
            config["backends"],
            json!([
                { "version": "stable", "role": "stable", "endpoints": ["127.0.0.1:9001"] },
                { "version": "canary", "role": "canary", "endpoints": ["127.0.0.1:9002"] },
            ])
        );
        assert_eq!(
            config["routes"],
            json!([
                {
                    "name": "testers", "matches": ["header x-user is \"42\""], "leads_to": { "version": "canary" },
                    "count": true,
                },
                {
                    "name": "half", "matches": ["header x-user is \"42\""], "count": false,
                    "leads_to": { "split": { "total": 2, "versions": [
                        { "version": "stable", "weight": 1 }, { "version": "canary", "weight": 1 },
                    ] } },
                },
            ])
        );
        assert_eq!(config["override"], json!({ "header": "x-canary", "cookie": "canary" }));
        assert_eq!(
            config["sticky"],
            json!({
                "keys": ["header x-user", "cookie uid", "client address"], "salt": "spring",
                "cookie": {
                    "name": "splitway", "max_age": "1day", "path": "/", "same_site": "Lax", "secure": true,
                    "http_only": true, "secret": "configured",
                },
            })
        );
        assert_eq!(config["policy"]["timeouts"]["idle"], "1m 15s");
        assert_eq!(config["policy"]["timeouts"]["request"], Value::Null);
        assert_eq!(config["policy"]["limits"]["header_bytes"], "64 KiB");
        assert_eq!(config["policy"]["limits"]["body_bytes"], "10 MiB");
        assert_eq!(config["policy"]["limits"]["connections_per_address"], Value::Null);
        assert_eq!(config["policy"]["limits"]["streams"], 100);
        assert_eq!(config["policy"]["retry"], json!({ "tries": 3, "other_version": true }));
    }

    #[test]
    fn explain_decides_a_made_up_request_and_takes_no_number_from_the_split() {
        let mut served = Served::start(BOUNDS);
        let mut routing = made_up::routing(&[("stable", Role::Stable, 1), ("canary", Role::Canary, 1)]);
        let cookies = vec![("team".to_owned(), ValueMatch::Prefix("qa-".into()))];
        routing.routes = vec![Route {
            name: RouteName::new("testers"),
            matches: vec![Match { cookies, ..Match::default() }],
            action: Action::Send(VersionHash::new("canary")),
            count: true,
            timeouts: None,
        }];
        made_up::publish_routing(&mut served.publisher, routing);
        let answer = served.get_json("/explain?method=POST&path=/shop?x=1&cookie=team=qa-1&header=x-user:42");
        assert_eq!((&answer["version"], &answer["reason"]), (&json!("canary"), &json!("route")));
        assert_eq!((&answer["route"], &answer["generation"]), (&json!("testers"), &json!(1)));
        let first = served.get_json("/explain");
        assert_eq!(first["reason"], "weighted");
        for _ in 0..10 {
            assert_eq!(served.get_json("/explain"), first);
        }
        assert_eq!(served.get_json("/config")["ports"][0]["split"]["requests"], 0);
        let reply = served.get("/explain?heder=x-user:42");
        assert_eq!(reply.status, 400);
        assert!(reply.body.contains("did you mean header?") && reply.body.contains(explain::EXAMPLE), "{}", reply.body);
    }

    #[test]
    fn a_question_is_answered_for_the_port_it_names() {
        let names = |names: &[&str]| names.iter().map(|name| PortName::new(name)).collect::<Vec<_>>();
        let (one, two, mixed) = (names(&[""]), names(&["http", "grpc"]), names(&["grpc", ""]));
        assert_eq!((port_number(&one, None), port_number(&names(&["http"]), None)), (Ok(0), Ok(0)));
        assert_eq!((port_number(&two, Some("http")), port_number(&two, Some("grpc"))), (Ok(0), Ok(1)));
        assert_eq!((port_number(&mixed, None), port_number(&mixed, Some("grpc"))), (Ok(1), Ok(0)));
        for (ports, asked, expected) in [
            (&two, None, "one of http, grpc"),
            (&two, Some("htp"), "no port \"htp\"; expected one of http, grpc"),
            (&one, Some("http"), "leave it out"),
        ] {
            let error = port_number(ports, asked).expect_err("there is no such port");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn slow_clients_do_not_hold_up_others() {
        let served = Served::ready();
        let _slow: Vec<_> = (1..BOUNDS.connections)
            .map(|_| {
                let mut stream = served.connect();
                stream.write_all(b"GET /healthz HT").unwrap();
                stream
            })
            .collect();
        assert_eq!(served.get("/healthz").body, "ok\n");
    }

    #[test]
    fn who_comes_to_a_full_house_takes_the_place_of_the_one_who_says_nothing() {
        let served = Served::start(Bounds { connections: 3, head: Duration::from_secs(60), ..BOUNDS });
        let slow: Vec<_> = (0..6)
            .map(|_| {
                let mut stream = served.connect();
                stream.write_all(b"GET /healthz HT").unwrap();
                stream
            })
            .collect();
        // Long before their time is over.
        for _ in 0..10 {
            assert_eq!(served.get("/healthz").body, "ok\n");
        }
        drop(slow);
    }

    /// The connection behind a stream of events, with its first event.
    fn stream_of(served: &Served, more: &str) -> (std::net::TcpStream, String) {
        let mut stream = served.connect();
        stream.write_all(format!("GET /events HTTP/1.1\r\nhost: admin\r\n{more}\r\n").as_bytes()).unwrap();
        let text = until(&mut stream, "\n\n\r\n");
        (stream, text)
    }

    fn until(stream: &mut std::net::TcpStream, end: &str) -> String {
        let (mut text, mut byte) = (Vec::new(), [0]);
        while !text.ends_with(end.as_bytes()) {
            stream.read_exact(&mut byte).expect("more of it");
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap()
    }

    fn data(event: &str) -> Value {
        let line = event.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
        serde_json::from_str(line).unwrap()
    }

    fn id(event: &str) -> &str {
        event.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id")
    }

    #[test]
    fn a_stream_begins_with_everything_and_goes_on_with_what_is_new() {
        let served = Served::ready();
        let (mut stream, first) = stream_of(&served, "");
        assert!(first.contains("content-type: text/event-stream\r\n") && first.contains("retry: 2000\n"), "{first}");
        let all = data(&first);
        assert_eq!(
            (&all["whole"], &all["proxy"]["state"], &all["rollout"]),
            (&json!(true), &json!("ready"), &Value::Null)
        );
        assert_eq!(all["ports"][0]["backends"][1]["weight"], 11);
        let canary = &all["ports"][0]["backends"][1];
        assert_eq!(
            (&canary["endpoints"], &canary["listed"]),
            (&json!(1), &json!([["127.0.0.1:9002", "active", "active"]]))
        );
        served.remember();
        let next = data(&until(&mut stream, "\n\n\r\n"));
        assert_eq!((&next["whole"], &next["proxy"]), (&Value::Null, &Value::Null), "nothing about it is new");
        assert_eq!(next["series"], json!([[0, "canary"], [0, "stable"]]));
        assert_eq!(next["seconds"][0][0], 1);
        assert_eq!(next["seconds"][0][3][0], json!([0, "c", 0.055, 0, 0.0, 0, 0, null, null, 0, 0.0, 0, 0]));
        served.status.send_modify(|status| status.notes = vec!["a note".to_owned()]);
        served.remember();
        let next = data(&until(&mut stream, "\n\n\r\n"));
        assert_eq!((&next["proxy"]["notes"][0], &next["series"]), (&json!("a note"), &Value::Null));
    }

    #[test]
    fn who_comes_back_hears_what_came_since() {
        let served = Served::ready();
        served.remember();
        let (_, first) = stream_of(&served, "");
        served.remember();
        let (_, second) = stream_of(&served, &format!("last-event-id: {}\r\n", id(&first)));
        let news = data(&second);
        assert_eq!((&news["whole"], &news["seconds"][0][0]), (&Value::Null, &json!(2)));
        assert_eq!(news["seconds"].as_array().map(Vec::len), Some(1));
        assert!(news["series"].is_array() && news["proxy"].is_object(), "what the page has forgotten is told again");
        // Of another process, or nonsense: from the beginning.
        for stranger in ["1-2-3", "", "no id"] {
            let (_, all) = stream_of(&served, &format!("last-event-id: {stranger}\r\n"));
            assert_eq!((&data(&all)["whole"], &data(&all)["seconds"][1][0]), (&json!(true), &json!(2)), "{stranger}");
        }
    }

    #[test]
    fn streams_leave_room_for_others_and_say_so_when_there_is_none() {
        let served = Served::start(Bounds { streams: 3, connections: 4, ..BOUNDS });
        let mut streams: Vec<_> = (0..3).map(|_| stream_of(&served, "").0).collect();
        let reply = served.get("/events");
        assert_eq!((reply.status, reply.header("retry-after")), (503, "5"));
        assert!(reply.body.contains("3 streams are open, and that is the most"), "{}", reply.body);
        for path in ["/metrics", "/healthz", "/config"] {
            assert!([200, 503].contains(&served.get(path).status), "{path}");
        }
        // Who says nothing is sent away, and who listens to a stream is not.
        let _silent: Vec<_> = (0..5).map(|_| served.connect()).collect();
        assert_eq!(served.get("/healthz").body, "ok\n");
        served.remember();
        for stream in &mut streams {
            assert!(until(stream, "\n\n\r\n").contains("data: "));
        }
        // A place that is free again is given again.
        streams.pop();
        let again = std::time::Instant::now();
        while served.get("/events?x").status != 400 || served.ask("HEAD /events HTTP/1.1").status != 200 {
            assert!(again.elapsed() < Duration::from_secs(20), "the place is free");
        }
    }

    #[test]
    fn a_reader_that_does_not_read_is_cut() {
        let served = Served::start(Bounds { streams: 1, stalled: Duration::from_millis(300), ..BOUNDS });
        // More than the kernel keeps for it.
        served.status.send_modify(|status| status.notes = vec!["x".repeat(16 << 20)]);
        let mut stream = served.connect();
        stream.write_all(b"GET /events HTTP/1.1\r\nhost: admin\r\n\r\n").unwrap();
        let began = std::time::Instant::now();
        // The only stream that there may be: when it is over, another one is welcome.
        while served.ask("HEAD /events HTTP/1.1").status == 503 {
            assert!(began.elapsed() < Duration::from_secs(20), "it is cut");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut read = Vec::new();
        // However it ends: not with all of it.
        let _ = stream.read_to_end(&mut read);
        assert!(read.len() < 16 << 20, "{}", read.len());
    }

    #[test]
    fn a_stream_ends_in_time_and_with_the_listener() {
        let short = Duration::from_millis(100);
        let served = Served::start(Bounds { stream_life: short, life: short, head: short, ..BOUNDS });
        let (mut stream, _) = stream_of(&served, "");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("0\r\n\r\n"), "a whole answer: {rest:?}");

        let mut served = Served::start(BOUNDS);
        let (mut stream, _) = stream_of(&served, "");
        served.stop.take().unwrap().send(()).unwrap();
        served.thread.take().unwrap().join().unwrap();
        rest.clear();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
    }

    #[test]
    fn a_browser_gets_the_page_and_others_the_list() {
        let served = Served::ready();
        let page = served.ask("GET / HTTP/1.1\r\naccept: text/html");
        assert_eq!(
            (page.header("content-type"), page.header("cache-control")),
            ("text/html; charset=utf-8", "no-cache")
        );
        assert!(page.body.starts_with("<!doctype html>") && page.header("vary").contains("accept"));
        assert!(page.header("content-security-policy").contains("script-src 'self'"));
        for (_, file) in
            page.body.match_indices("href=\"").chain(page.body.match_indices("src=\"")).map(|(at, found)| {
                let rest = &page.body[at + found.len()..];
                (at, rest.split('"').next().unwrap_or_default())
            })
        {
            if file.starts_with('#') {
                continue;
            }
            let reply = served.get(&format!("/{file}"));
            assert!(reply.status != 404 || file == "requests", "{file}");
            assert_eq!(reply.header("x-content-type-options"), "nosniff", "{file}");
        }
        assert_eq!(served.ask("POST /page.js HTTP/1.1").status, 405);
    }

    #[test]
    fn a_token_is_asked_for_everything_but_the_probes_and_the_page() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "a-token-that-nobody-guesses").unwrap();
        let served = Served::start_with(BOUNDS, Some(Token::read(&path).unwrap()));
        for path in PROBES.iter().chain(&["/", "/page.js", "/nothing"]) {
            assert!([200, 503, 404].contains(&served.get(path).status), "{path}");
        }
        for (path, _) in ENDPOINTS.iter().filter(|(path, _)| !PROBES.contains(path) && *path != "/") {
            let refused = served.get(path);
            assert_eq!(
                (refused.status, refused.header("www-authenticate")),
                (401, "Bearer realm=\"splitway\""),
                "{path}"
            );
            let wrong = served.ask(&format!("GET {path} HTTP/1.1\r\nauthorization: Bearer not-the-token"));
            assert!(wrong.status == 401 && wrong.body.contains("that is not the token"), "{path}");
        }
        for path in ["/metrics", "/config"] {
            let head = format!("GET {path} HTTP/1.1\r\nauthorization: Bearer a-token-that-nobody-guesses");
            assert_eq!(served.ask(&head).status, 200, "{path}");
        }
        assert!(stream_of(&served, "authorization: Bearer a-token-that-nobody-guesses\r\n").1.contains("200 OK"));
    }

    #[test]
    fn no_connection_lives_forever() {
        let served = Served::start(Bounds { life: Duration::from_millis(100), ..BOUNDS });
        let mut stream = served.connect();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        // A kept connection, and yet this comes to an end, long before the bound of the next head.
        assert_eq!(Reply::read(stream).body, "ok\n");
    }

    #[test]
    fn an_idle_connection_ends_with_the_listener() {
        let mut served = Served::start(BOUNDS);
        let mut stream = served.connect();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut first = [0; 15];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        served.stop.take().unwrap().send(()).unwrap();
        served.thread.take().unwrap().join().unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("ok\n"));
    }

    #[test]
    fn an_address_in_use_is_named_in_the_error() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0)).into(), false).unwrap();
        let error = bind(first.address().into(), false).err().expect("the port is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("cannot listen on {} for admin: ", first.address())));
    }
}
