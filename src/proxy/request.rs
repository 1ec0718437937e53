//! The life of one request: the place where its fate branches. The files around answer questions.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Instant;

use http::header::{CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::{Bytes, Incoming};

use super::attempt;
use super::body::{Account, AnswerBody};
use super::draft::Draft;
use super::exchange::Exchange;
use super::grpc;
use super::headers::{self, RequestHead};
use super::mirror::{self, Tee};
use super::state::State;
use super::upload::{RequestBody, Upload};
use super::worker::{Stage, Worker};
use super::{Ending, Failure, Side};
use crate::metrics::cells;
use crate::route::Reason;
use crate::route::policy::Timeouts;

/// Answers one request, whatever happens: the failures of [`route_and_send`] become answers here, and only here.
pub async fn handle(
    worker: Rc<Worker>,
    state: Rc<State>,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let version = request.version();
    let connection = state;
    let state = if version == Version::HTTP_2 { worker.stream() } else { None }.unwrap_or_else(|| connection.clone());
    let upload = (!request.body().is_end_stream()).then(|| Rc::new(Upload::of(state.shared_client())));
    state.request_begins(worker.now(), version, upload.clone());
    // From here on the request is counted when this is dropped, even if its client does not wait for an answer.
    let mut account = Account::new(worker.clone(), state.clone(), cells::Method::of(request.method()));
    account.grpc = grpc::is_grpc(&request);
    if worker.pen.wants() {
        account.draft = Some(Draft::begin(&worker, &state, &mut request, account.started));
    }
    let outcome = match state.client().redirect {
        Some(port) => redirect(&worker, &state, request, port),
        None => {
            let sent = route_and_send(&worker, &state, request, upload.as_ref(), &mut account).await;
            sent.and_then(|answer| switch(&state, answer))
        }
    };
    if let Some(upload) = &upload {
        upload.settle();
    }

    let (mut answer, failure) = match outcome {
        Ok(answer) => (answer, None),
        Err(failure) if account.grpc => (call_refused(failure), Some(failure)),
        Err(failure) => (refusal(failure), Some(failure)),
    };
    let has_had_all = connection.has_had_all();
    if has_had_all {
        connection.ends_by(Ending::RequestLimit);
    }
    let leaving = worker.stage() != Stage::Serving || has_had_all;
    if state.is_stream() {
        *answer.version_mut() = Version::HTTP_2;
        if failure.is_some_and(|failure| failure.side() == Side::Downstream) {
            connection.was_in_vain();
        }
        if leaving {
            connection.finish();
        }
    } else if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        // Its connection ends with the tunnel.
    } else if leaving || failure.is_some_and(|failure| failure.side() == Side::Downstream) {
        // Draining, or the connection's last request, or a client whose next bytes cannot be trusted to begin a request.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // A refused call is an answer of 200 on the wire.
    let status = failure.filter(|_| account.grpc).map_or(answer.status(), Failure::status);
    account.answered(status, answer.status(), failure);
    state.answer_begins(worker.now());
    let (head, body) = answer.into_parts();
    let body = match body {
        Ok(exchange) => AnswerBody::upstream(exchange, account, &head.headers),
        Err(text) => AnswerBody::text(text, account),
    };
    Ok(Response::from_parts(head, body))
}

/// The straight line: check, decide once from one snapshot, rewrite, send.
async fn route_and_send(
    worker: &Rc<Worker>,
    state: &Rc<State>,
    request: Request<Incoming>,
    upload: Option<&Rc<Upload>>,
    account: &mut Account,
) -> Result<Response<Exchange>, Failure> {
    let Some(live) = worker.live(state.port) else {
        account.was(&request);
        return Err(Failure::NotReady);
    };
    let policy = live.snapshot.policy();
    let (mut head, incoming) = request.into_parts();
    let client = state.client();
    if let Err(failure) = headers::check(&mut head, policy, client.local) {
        account.was(&Request::from_parts(head, ()));
        return Err(failure);
    }
    headers::one_protocol(&mut head, upload.is_some());

    let decision = live.snapshot.decide(&RequestHead::new(&head, client.peer, policy));
    let decided = &live.targets[decision.backend];
    if decision.reason == Reason::Weighted {
        decided.cells.split.add(1);
    }
    account.decided(decided, decision, live.routes.as_slice());
    if let Some(draft) = &mut account.draft {
        draft.client = RequestHead::new(&head, client.peer, policy).client;
    }
    let own = decision.route.and_then(|route| live.timeouts[route].as_ref());
    let mut deadline = None;
    if account.grpc
        && let Some(bound) = grpc::timeout(&head.headers)
    {
        deadline = Instant::now().checked_add(bound);
        // The sooner of what the client and what the operator waits for.
        let mut both = own.map_or_else(|| policy.timeouts.clone(), |own| Timeouts::clone(own));
        both.request = Some(both.request.map_or(bound, |request| request.min(bound)));
        state.bound_by(Rc::new(both));
    } else if let Some(own) = own {
        state.bound_by(own.clone());
    }

    if headers::to_upstream(&mut head, policy, state, worker.random()) {
        state.ask_to_switch();
    }
    let mut tee = None;
    // A copy has nobody who could be at the other end of a tunnel.
    let mirror = decision.mirror.filter(|_| !state.asks_to_switch());
    if mirror.is_some()
        && let Some(draft) = &account.draft
    {
        draft.copy_begins(&mut head.headers);
    }
    if let Some(mirror) = mirror
        && let Some(twin) = mirror::begin(worker, &live, mirror, &head, upload.map(|_| incoming.size_hint()))
    {
        tee = upload.is_some().then(|| Tee::new(twin.clone()));
        account.twin = Some(twin);
    }
    let body = match upload {
        Some(upload) => RequestBody::new(incoming, policy.limits.body_bytes, upload.clone(), tee),
        None => RequestBody::empty(),
    };
    let request = Request::from_parts(head, body);

    let mut answer =
        attempt::send(worker, state, &live, request, upload, decision, account).await.map_err(|failure| {
            match failure {
                // A server of gRPC that runs into the call's deadline ends the stream without a word.
                Failure::UpstreamClosed if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    Failure::RequestTimeout
                }
                other => other,
            }
        })?;

    let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switches && !(state.asks_to_switch() && headers::is_websocket(answer.headers())) {
        // Nobody asked, or for something else.
        let failure = Failure::UpstreamInvalid;
        if let Some(target) = &account.target {
            target.cells.failures[failure as usize].add(1);
        }
        return Err(failure);
    }
    *answer.version_mut() = Version::HTTP_11;
    headers::to_downstream(answer.headers_mut());
    if switches {
        headers::to_websocket(answer.headers_mut());
    }
    if account.is_stood_in() {
        answer.headers_mut().insert(headers::REASON, HeaderValue::from_static(Reason::Fallback.as_str()));
    }
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

/// After a 101 that was asked for the connection takes over; anything else is an answer with a body.
fn switch(state: &State, answer: Response<Exchange>) -> Result<Response<Result<Exchange, Bytes>>, Failure> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(Ok));
    }
    let (head, exchange) = answer.into_parts();
    state.switches_to(exchange.switch().ok_or(Failure::UpstreamInvalid)?);
    Ok(Response::from_parts(head, Err(Bytes::new())))
}

/// For a listener that only knows where the other one is. 308: a POST stays one (RFC 9110 section 15.4.9).
fn redirect(
    worker: &Worker,
    state: &State,
    request: Request<Incoming>,
    port: u16,
) -> Result<Response<Result<Exchange, Bytes>>, Failure> {
    let live = worker.live(state.port).ok_or(Failure::NotReady)?;
    let (mut head, _) = request.into_parts();
    headers::check(&mut head, live.snapshot.policy(), state.client().local)?;
    let location = headers::over_tls(&head, port).ok_or(Failure::BadRequest)?;
    let mut answer = Response::new(Err(Bytes::new()));
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    answer.headers_mut().insert(LOCATION, location);
    Ok(answer)
}

/// Our own answer: a word for programs in a header, a sentence for people in the body.
fn refusal(failure: Failure) -> Response<Result<Exchange, Bytes>> {
    let text = format!("splitway: {}: {}\n", failure.as_str(), failure.explanation());
    let mut answer = Response::new(Err(Bytes::from(text)));
    *answer.status_mut() = failure.status();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(headers::REASON, HeaderValue::from_static(failure.as_str()));
    if let Some(seconds) = failure.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// The same to a client of gRPC: an answer that is only a head (trailers-only).
fn call_refused(failure: Failure) -> Response<Result<Exchange, Bytes>> {
    let mut answer = Response::new(Err(Bytes::new()));
    *answer.headers_mut() = grpc::trailers(failure);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer.headers_mut().insert(headers::REASON, HeaderValue::from_static(failure.as_str()));
    answer
}
