//! The tries of one request: which endpoint, of which version, and whether once more.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Method, Request, Response};
use http_body::Body;

use super::Failure;
use super::body::Account;
use super::eject::Seen;
use super::error::Again;
use super::exchange::Exchange;
use super::headers;
use super::state::State;
use super::upload::{RequestBody, Upload};
use super::upstream::{Chosen, Note};
use super::wire::Failed;
use super::worker::{Aligned, Worker};
use crate::route::Decision;
use crate::route::transport::Protocol;

/// Tries endpoints until one answers: first those of the decided version, then, as a last resort, another version's. At
/// most `retry.tries` times after the first, and never when the request could be done twice.
pub async fn send(
    worker: &Rc<Worker>,
    state: &Rc<State>,
    live: &Rc<Aligned>,
    mut request: Request<RequestBody>,
    upload: Option<&Rc<Upload>>,
    decision: Decision,
    account: &mut Account,
) -> Result<Response<Exchange>, Failure> {
    let policy = live.snapshot.policy();
    let decided = &live.targets[decision.backend];
    decided.upstream.budget.count();
    let mut backend = decision.backend;
    let mut tries_left = policy.retry.tries;
    let mut failed: Vec<SocketAddr> = Vec::new();
    let mut last = Failure::NoEndpoint;
    let mut sent_twice = false;
    let mut stale_seen = false;
    loop {
        let target = &live.targets[backend];
        let other = || if policy.retry.other_version { other_version(live, backend, decision.backend) } else { None };
        // Of several tries the last one belongs to the other version, if there is one.
        let is_last = tries_left == 0 && policy.retry.tries > 1 && !failed.is_empty();
        let chosen =
            if is_last && other().is_some() { None } else { target.upstream.choose_or_try(worker.random(), &failed) };
        let chosen = match chosen {
            Some(chosen) => chosen,
            None => {
                if last == Failure::NoEndpoint {
                    target.cells.failures[last as usize].add(1);
                }
                if let Some(other) = other() {
                    backend = other;
                    account.stood_in(&live.targets[other]);
                    continue;
                }
                // Rather one that is out than nobody.
                let Some(endpoint) = target.upstream.choose_out(&failed) else {
                    account.was(&request);
                    return Err(last);
                };
                Chosen { endpoint, trial: None }
            }
        };
        let Chosen { endpoint, trial } = chosen;
        if policy.tell_upstream {
            headers::tell(request.headers_mut(), target);
        }
        // Only there can a request that was given away come back unread.
        let shared = target.transport.protocol != Protocol::Http1;
        let spare = if tries_left > 0 { spare(&request, shared, !sent_twice) } else { None };
        if shared && tries_left > 0 {
            request.body_mut().keep();
        }
        if let Some(draft) = &mut account.draft {
            draft.try_begins(worker, state, request.headers_mut(), endpoint.address, target);
        }
        let outcome = endpoint.send(request, target, policy, Some(state)).await;
        let note = Note { rules: &policy.outliers, cells: &target.cells };
        match outcome {
            Ok(answer) => {
                let seen = if answer.status().is_server_error() {
                    spare.iter().for_each(|spare| _ = account.was(spare));
                    Seen::ServerError(None)
                } else {
                    Seen::Answer
                };
                target.upstream.saw(&endpoint, trial, seen, || worker.random(), note);
                if let Some(draft) = &mut account.draft {
                    draft.try_ends(state, Ok(answer.status().as_u16()));
                }
                if backend != decision.backend {
                    decided.cells.stood_in_for.add(1);
                }
                return Ok(answer);
            }
            Err(Failed { failure, request: unsent }) => {
                // A body that broke on the client's side is not the application's fault.
                let failure = upload.and_then(|upload| upload.failure.get()).unwrap_or(failure);
                if let Some(seen) = Seen::in_failure(failure) {
                    target.upstream.saw(&endpoint, trial, seen, || worker.random(), note);
                }
                target.cells.failures[failure as usize].add(1);
                if let Some(draft) = &mut account.draft {
                    draft.try_ends(state, Err(failure));
                }
                last = failure;
                // Whatever is left of it.
                if account.draft.is_none()
                    && let Some(request) = unsent.as_ref().or(spare.as_ref())
                {
                    account.was(request).try_failed(endpoint.address, target, failure);
                }
                let again = match failure.again() {
                    Again::Never => None,
                    Again::Unsent | Again::IfIdempotent if unsent.is_some() => unsent,
                    // Nobody has looked at it, even where it was given away already.
                    Again::Unsent => match (spare, upload) {
                        (Some(head), Some(upload)) => upload.take_back().await.map(|body| head.map(|_| body)),
                        (head, _) => head,
                    },
                    // Bytes of it may have arrived: once, and within the budget.
                    Again::IfIdempotent => spare.filter(|spare| {
                        if upload.is_some() || !is_idempotent(spare.method()) || sent_twice {
                            return false;
                        }
                        sent_twice = target.upstream.budget.take(policy.retry.budget, policy.retry.budget_min);
                        target.cells.retries_withheld.add(u64::from(!sent_twice));
                        sent_twice
                    }),
                };
                let Some(again) = again.filter(|_| tries_left > 0) else { return Err(failure) };
                request = again;
                tries_left -= 1;
                target.cells.retries.add(1);
                // A connection that is being ended refuses what came too late (RFC 9113 section 6.8); the next one is there for
                // it, where there is no other endpoint.
                let only = failure == Failure::StreamRefused && live.snapshot.backends()[backend].endpoints.len() == 1;
                if only || matches!(failure, Failure::UpstreamClosed | Failure::StreamRefused) && !stale_seen {
                    // An endpoint that restarted has closed all of its idle connections: once more, on a fresh one.
                    stale_seen = true;
                    endpoint.pool.forget_idle();
                } else {
                    failed.push(endpoint.address);
                }
            }
        }
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// A head to send again, if it may come back unread, or be done twice because it has no body.
fn spare(request: &Request<RequestBody>, shared: bool, twice: bool) -> Option<Request<RequestBody>> {
    (shared || (twice && is_idempotent(request.method()) && request.body().is_end_stream())).then(|| {
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
