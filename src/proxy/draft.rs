//! What is written down of a request while it is under way, if anybody wants to hear of it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use http::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, Request, Version};

use super::Failure;
use super::grpc::Status;
use super::state::State;
use super::worker::{Target, Worker};
use crate::metrics::Labels;
use crate::record::context::{Context, SpanId, TRACEPARENT, TRACESTATE};
use crate::record::{Details, Failed, Record, Try, Wanted, kept};

/// Made when the request begins, because later nobody has its head any more.
pub struct Draft {
    time: SystemTime,
    /// The same moment by the clock that durations are measured with.
    started: Instant,
    method: Method,
    target: Option<PathAndQuery>,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    version: Version,
    /// Who it is from, as trusted proxies have it.
    pub client: IpAddr,
    /// To be shown among the last requests however it ends.
    is_sample: bool,
    /// Nobody had wanted to hear of it until it failed.
    is_late: bool,
    context: Option<Context>,
    trace_state: Option<String>,
    queue: Duration,
    connect: Duration,
    first_byte: Option<Duration>,
    tries: Vec<Try>,
}

impl Draft {
    /// Off the straight path, and so are its bytes. Settles the request's trace.
    #[cold]
    pub fn begin<B>(worker: &Worker, state: &State, request: &mut Request<B>, started: Instant) -> Box<Self> {
        let headers = request.headers_mut();
        let context = worker.pen.sampler().map(|sampler| Context::begin(headers, sampler, || worker.random()));
        let is_sample = worker.pen.begin();
        let trace_state = context.filter(|context| context.sampled).and_then(|_| trace_state(request.headers()));
        Box::new(Self { is_sample, context, trace_state, ..Self::of(state, request, started) })
    }

    /// Of a request that has failed, or is about to, while its head is still at hand: for [`Pen::wants`] had said that nobody
    /// would ask what it was.
    ///
    /// [`Pen::wants`]: crate::record::Pen::wants
    #[cold]
    pub fn late<B>(state: &State, request: &Request<B>, started: Instant) -> Box<Self> {
        Box::new(Self {
            is_late: true,
            time: SystemTime::now() - started.elapsed(),
            ..Self::of(state, request, started)
        })
    }

    fn of<B>(state: &State, request: &Request<B>, started: Instant) -> Self {
        // In HTTP/2 the authority is the request's.
        let authority = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        Self {
            time: SystemTime::now(),
            started,
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            host: authority.or_else(|| request.headers().get(HOST).cloned()),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            version: request.version(),
            client: state.client().peer.ip().to_canonical(),
            is_sample: false,
            is_late: false,
            context: None,
            trace_state: None,
            queue: Duration::ZERO,
            connect: Duration::ZERO,
            first_byte: None,
            tries: Vec::new(),
        }
    }

    /// A copy is about to be made: in the trace it stands below the request here, and not beside it.
    #[cold]
    pub fn copy_begins(&self, headers: &mut HeaderMap) {
        if let Some(context) = self.context.filter(|context| context.sampled || context.parent.is_none()) {
            headers.insert(TRACEPARENT, context.to_header(context.span));
        }
    }

    /// An endpoint is about to be asked. Tells it, in `headers`, who asks. What a client said of a trace that has no spans
    /// here is left as it is.
    #[cold]
    pub fn try_begins(&mut self, worker: &Worker, state: &State, headers: &mut HeaderMap, to: SocketAddr, of: &Target) {
        // What waiting was measured for a request before this one is not this one's.
        state.take_waits();
        let span = SpanId(worker.random().max(1));
        if let Some(context) = self.context.filter(|context| context.sampled || context.parent.is_none()) {
            headers.insert(TRACEPARENT, context.to_header(if context.sampled { span } else { context.span }));
        }
        let began = self.started.elapsed();
        self.tries.push(Try { span, began, ..attempt(to, of) });
    }

    /// The same of one that had failed before anybody wanted to hear of it.
    #[cold]
    pub fn try_failed(&mut self, to: SocketAddr, of: &Target, failure: Failure) {
        let (took, failure) = (self.started.elapsed(), Some(failure.as_str()));
        self.tries.push(Try { took, failure, ..attempt(to, of) });
    }

    /// The head of its answer has come, or it has failed.
    #[cold]
    pub fn try_ends(&mut self, state: &State, outcome: Result<u16, Failure>) {
        let (queue, connect) = state.take_waits();
        self.queue += queue;
        self.connect += connect;
        let Some(last) = self.tries.last_mut() else { return };
        last.took = self.started.elapsed().saturating_sub(last.began);
        last.status = outcome.ok();
        last.failure = outcome.err().map(Failure::as_str);
        self.first_byte = outcome.is_ok().then(|| last.took.saturating_sub(queue + connect));
    }

    fn details(self, state: &State, outcome: &Outcome<'_>) -> Details {
        let client = state.client();
        let mut tries = self.tries;
        // The last one has lasted as long as its answer, and shares its fate.
        if let Some(last) = tries.last_mut()
            && last.failure.is_none()
        {
            last.took = outcome.duration.saturating_sub(last.began);
            last.failure = outcome.labels.failure.map(Failure::as_str);
        }
        let host = self.host.as_ref().map(|host| kept(host.as_bytes()));
        Details {
            server: host.map_or_else(
                || (client.local.ip().to_canonical().to_string(), client.local.port()),
                |host| split(host, client.secure),
            ),
            client: self.client,
            peer: client.peer,
            secure: client.secure,
            protocol: match self.version {
                Version::HTTP_2 => "2",
                Version::HTTP_10 => "1.0",
                _ => "1.1",
            },
            user_agent: self.user_agent.map(|agent| kept(agent.as_bytes())),
            queue: self.queue,
            connect: self.connect,
            first_byte: self.first_byte,
            tries,
            context: self.context,
            trace_state: self.trace_state,
        }
    }
}

/// A try of which no more is known than whom it asks, and which is in no trace yet.
fn attempt(to: SocketAddr, of: &Target) -> Try {
    Try {
        span: SpanId(1),
        began: Duration::ZERO,
        took: Duration::ZERO,
        endpoint: to,
        secure: of.transport.tls.is_some(),
        version: String::from_utf8_lossy(of.version_value.as_bytes()).into_owned(),
        role: of.role,
        status: None,
        failure: None,
    }
}

/// Its lines as one (RFC 9110 section 5.3). `None`: there is none.
fn trace_state(headers: &HeaderMap) -> Option<String> {
    let lines: Vec<_> = headers.get_all(TRACESTATE).iter().filter_map(|line| line.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

/// A host and its port; an IPv6 address loses its brackets.
fn split(host: String, secure: bool) -> (String, u16) {
    let default = if secure { 443 } else { 80 };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, digits)) if !digits.ends_with(']') => (name, digits.parse().unwrap_or(default)),
        _ => (host.as_str(), default),
    };
    (name.trim_matches(['[', ']']).to_owned(), port)
}

/// What became of a request.
pub struct Outcome<'a> {
    pub labels: Labels,
    /// What the client was told.
    pub told: Option<u16>,
    pub grpc: Option<Status>,
    pub target: Option<&'a Target>,
    pub duration: Duration,
    pub is_counted: bool,
}

/// A request has ended that was written down, or that failed. Sends a record of it, if somebody wants it.
#[cold]
pub fn finish(worker: &Worker, draft: Option<Box<Draft>>, state: &State, outcome: &Outcome<'_>) {
    let Outcome { labels, told, grpc, target, duration, is_counted } = *outcome;
    let pen = &worker.pen;
    let is_failure = labels.failure.is_some() || labels.code >= 500;
    let failed = draft.as_ref().filter(|_| !is_failure).and_then(|draft| Failed::of(&draft.tries));
    let is_bad = is_failure || failed.is_some();
    let is_taken = is_bad && pen.takes_failure(draft.as_ref().is_some_and(|draft| !draft.is_late));
    let role = target.map(|target| target.role);
    let context = draft.as_ref().and_then(|draft| draft.context).filter(|context| context.sampled);
    let wanted = Wanted {
        recent: is_taken || draft.as_ref().is_some_and(|draft| draft.is_sample),
        line: draft.is_some() && pen.logs([role, failed.as_ref().map(|failed| failed.role)], is_bad, worker.random()),
        spans: context.is_some(),
    };
    if !wanted.recent && !wanted.line && !wanted.spans {
        return;
    }
    let path = |draft: &Draft| draft.target.as_ref().map(|target| kept(target.path().as_bytes()));
    pen.send(Record {
        time: draft.as_ref().map_or_else(|| SystemTime::now() - duration, |draft| draft.time),
        port_number: state.port,
        port: String::new(),
        method: draft.as_ref().map(|draft| kept(draft.method.as_str().as_bytes())),
        path: draft.as_deref().and_then(path),
        status: told,
        grpc_status: grpc.map(Status::number),
        code: labels.code,
        version: target.map(|target| String::from_utf8_lossy(target.version_value.as_bytes()).into_owned()),
        role,
        reason: target.map(|_| labels.reason),
        route_number: labels.route,
        route: None,
        failure: labels.failure.map(Failure::as_str),
        failed,
        duration,
        is_counted,
        wanted,
        trace_id: context.map(|context| context.trace.to_string()),
        details: draft.map(|draft| Box::new(draft.details(state, outcome))),
    });
}

/// What came was no request, and was refused as far as that was possible. Little is known of it.
#[cold]
pub fn refused(worker: &Worker, state: &State, failure: Failure) {
    let pen = &worker.pen;
    let wanted = Wanted { recent: pen.takes_failure(true), line: pen.logs([None; 2], true, 0), spans: false };
    if !wanted.recent && !wanted.line {
        return;
    }
    let client = state.client();
    pen.send(Record {
        time: SystemTime::now(),
        port_number: state.port,
        port: String::new(),
        method: None,
        path: None,
        status: Some(failure.status().as_u16()),
        grpc_status: None,
        code: failure.status().as_u16(),
        version: None,
        role: None,
        reason: None,
        route_number: 0,
        route: None,
        failure: Some(failure.as_str()),
        failed: None,
        duration: Duration::ZERO,
        is_counted: false,
        wanted,
        trace_id: None,
        details: Some(Box::new(Details {
            server: (client.local.ip().to_canonical().to_string(), client.local.port()),
            client: client.peer.ip().to_canonical(),
            peer: client.peer,
            secure: client.secure,
            protocol: "1.1",
            user_agent: None,
            queue: Duration::ZERO,
            connect: Duration::ZERO,
            first_byte: None,
            tries: Vec::new(),
            context: None,
            trace_state: None,
        })),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_and_a_port() {
        for (host, name, port) in [
            ("shop.example", "shop.example", 80),
            ("shop.example:8080", "shop.example", 8080),
            ("[::1]:8443", "::1", 8443),
            ("[::1]", "::1", 80),
            ("shop:", "shop", 80),
            ("", "", 80),
        ] {
            assert_eq!(split(host.to_owned(), false), (name.to_owned(), port), "{host}");
        }
        assert_eq!(split("a".to_owned(), true).1, 443);
    }
}
