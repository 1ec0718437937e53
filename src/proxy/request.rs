//! The life of one request: the place where its fate branches. The files around answer questions.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::{Bytes, Incoming};

use super::body::{Account, AnswerBody, RequestBody, Upload};
use super::connection::State;
use super::error::Again;
use super::headers::{self, RequestHead};
use super::mirror::{self, Tee};
use super::upstream::{Exchange, Failed};
use super::worker::{Aligned, Stage, Worker};
use super::{Failure, Side};
use crate::metrics::cells;
use crate::route::{Decision, Reason};

/// Answers one request, whatever happens: the failures of [`route_and_send`] become answers here, and only here.
pub async fn handle(
    worker: Rc<Worker>,
    state: Rc<State>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let upload = (!request.body().is_end_stream()).then(Rc::<Upload>::default);
    state.request_begins(worker.now(), request.version(), upload.clone());
    // From here on the request is counted when this is dropped, even if its client does not wait for an answer.
    let mut account = Account::new(worker.clone(), state.clone(), cells::Method::of(request.method()));
    let outcome = route_and_send(&worker, &state, request, upload, &mut account).await;

    let (mut answer, failure) = match outcome {
        Ok(answer) => (answer.map(Ok), None),
        Err(failure) => (refusal(failure), Some(failure)),
    };
    if worker.stage() != Stage::Serving || failure.is_some_and(|failure| failure.side() == Side::Downstream) {
        // Draining, or a client whose next bytes cannot be trusted to begin a request.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    account.answered(answer.status(), failure);
    state.answer_begins(worker.now());
    Ok(answer.map(|body| match body {
        Ok(exchange) => AnswerBody::upstream(exchange, account),
        Err(text) => AnswerBody::text(text, account),
    }))
}

/// The straight line: check, decide once from one snapshot, rewrite, send.
async fn route_and_send(
    worker: &Rc<Worker>,
    state: &Rc<State>,
    request: Request<Incoming>,
    upload: Option<Rc<Upload>>,
    account: &mut Account,
) -> Result<Response<Exchange>, Failure> {
    let live = worker.live(state.port).ok_or(Failure::NotReady)?;
    let policy = live.snapshot.policy();
    let (mut head, incoming) = request.into_parts();
    headers::check(&mut head, policy, state.local)?;

    let decision = live.snapshot.decide(&RequestHead::new(&head, state.peer, policy));
    let decided = &live.targets[decision.backend];
    if decision.reason == Reason::Weighted {
        decided.cells.split.add(1);
    }
    account.decided(decided, decision, live.routes.as_slice());

    headers::to_upstream(&mut head, policy, state, worker.random());
    let mut tee = None;
    if let Some(mirror) = decision.mirror
        && let Some(twin) = mirror::begin(worker, &live, mirror, &head, upload.as_ref().map(|_| incoming.size_hint()))
    {
        tee = upload.is_some().then(|| Tee::new(twin.clone()));
        account.twin = Some(twin);
    }
    let body = match &upload {
        Some(upload) => RequestBody::new(incoming, policy.limits.body_bytes, upload.clone(), tee),
        None => RequestBody::empty(),
    };
    let request = Request::from_parts(head, body);

    let mut answer = send(worker, state, &live, request, upload.as_deref(), decision, account).await?;

    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked: `Upgrade` is not passed on.
        let failure = Failure::UpstreamInvalid;
        if let Some(target) = &account.target {
            target.cells.failures[failure as usize].add(1);
        }
        return Err(failure);
    }
    *answer.version_mut() = Version::HTTP_11;
    headers::to_downstream(answer.headers_mut());
    if let Some(name) = &policy.version_header
        && let Some(target) = &account.target
    {
        answer.headers_mut().insert(name, target.version_value.clone());
    }
    if let (Some(bucket), Some(users)) = (decision.minted, live.snapshot.users()) {
        answer.headers_mut().append(SET_COOKIE, users.set_cookie(bucket));
    }
    Ok(answer)
}

/// Tries endpoints until one answers: first those of the decided version, then, as a last resort, another version's. At
/// most `retry.tries` times after the first, and never when the request could be done twice.
async fn send(
    worker: &Rc<Worker>,
    state: &Rc<State>,
    live: &Rc<Aligned>,
    mut request: Request<RequestBody>,
    upload: Option<&Upload>,
    decision: Decision,
    account: &mut Account,
) -> Result<Response<Exchange>, Failure> {
    let policy = live.snapshot.policy();
    let mut backend = decision.backend;
    let mut tries_left = policy.retry.tries;
    let mut failed: Vec<SocketAddr> = Vec::new();
    let mut last = Failure::NoEndpoint;
    let mut stale_seen = false;
    loop {
        let target = &live.targets[backend];
        let Some(endpoint) = target.upstream.choose(worker.random(), &failed) else {
            if last == Failure::NoEndpoint {
                target.cells.failures[last as usize].add(1);
            }
            match other_version(live, backend, decision.backend) {
                Some(other) if policy.retry.other_version => {
                    backend = other;
                    account.stood_in(&live.targets[other]);
                    continue;
                }
                _ => return Err(last),
            }
        };
        if policy.tell_upstream {
            headers::tell(request.headers_mut(), target);
        }
        let spare = if tries_left > 0 { spare(&request) } else { None };
        match endpoint.send(request, target, policy, Some(state)).await {
            Ok(answer) => return Ok(answer),
            Err(Failed { failure, request: unsent }) => {
                // A body that broke on the client's side is not the application's fault.
                let failure = upload.and_then(|upload| upload.failure.get()).unwrap_or(failure);
                target.cells.failures[failure as usize].add(1);
                last = failure;
                let again = match failure.again() {
                    Again::Unsent => unsent,
                    Again::IfIdempotent => unsent.or(spare),
                    Again::Never => None,
                };
                let Some(again) = again.filter(|_| tries_left > 0) else { return Err(failure) };
                request = again;
                tries_left -= 1;
                target.cells.retries.add(1);
                if failure == Failure::UpstreamClosed && !stale_seen {
                    // An endpoint that restarted has closed all of its idle connections: once more, on a fresh one.
                    stale_seen = true;
                    endpoint.forget_idle();
                } else {
                    failed.push(endpoint.address);
                }
            }
        }
    }
}

/// A copy to send again, of a request without a body that may be done twice (RFC 9110 section 9.2.2).
fn spare(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let idempotent =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
    (idempotent && request.body().is_end_stream()).then(|| {
        let mut spare = Request::new(RequestBody::empty());
        *spare.method_mut() = request.method().clone();
        *spare.uri_mut() = request.uri().clone();
        *spare.headers_mut() = request.headers().clone();
        spare
    })
}

/// The version that stands in for one that cannot be reached: any that has endpoints, the stable one first. One is tried.
fn other_version(live: &Aligned, failed: usize, decided: usize) -> Option<usize> {
    if failed != decided {
        return None;
    }
    (0..live.targets.len())
        .filter(|other| *other != failed && !live.snapshot.backends()[*other].endpoints.is_empty())
        .min_by_key(|other| live.targets[*other].role)
}

/// Our own answer: a word for programs in a header, a sentence for people in the body.
fn refusal(failure: Failure) -> Response<Result<Exchange, Bytes>> {
    let text = format!("splitway: {}: {}\n", failure.as_str(), failure.explanation());
    let mut answer = Response::new(Err(Bytes::from(text)));
    *answer.status_mut() = failure.status();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(headers::REASON, HeaderValue::from_static(failure.as_str()));
    answer
}
