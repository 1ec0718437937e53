//! The tries of one request: which endpoint, of which version, and whether once more.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Method, Request, Response};
use http_body::Body;

use super::Failure;
use super::body::{Account, RequestBody, Upload};
use super::error::Again;
use super::exchange::Exchange;
use super::headers;
use super::state::State;
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
        // Only there can a request that was given away come back unread.
        let shared = target.transport.protocol != Protocol::Http1;
        let spare = if tries_left > 0 { spare(&request, shared) } else { None };
        match endpoint.send(request, target, policy, Some(state)).await {
            Ok(answer) => return Ok(answer),
            Err(Failed { failure, request: unsent }) => {
                // A body that broke on the client's side is not the application's fault.
                let failure = upload.and_then(|upload| upload.failure.get()).unwrap_or(failure);
                target.cells.failures[failure as usize].add(1);
                last = failure;
                let again = match failure.again() {
                    // Nobody has looked at it, even where it was given away already.
                    Again::Unsent => unsent.or(spare),
                    Again::IfIdempotent => unsent.or(spare.filter(|spare| is_idempotent(spare.method()))),
                    Again::Never => None,
                };
                let Some(again) = again.filter(|_| tries_left > 0) else { return Err(failure) };
                request = again;
                tries_left -= 1;
                target.cells.retries.add(1);
                if matches!(failure, Failure::UpstreamClosed | Failure::StreamRefused) && !stale_seen {
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

/// A copy to send again, of a request without a body that may have to be.
fn spare(request: &Request<RequestBody>, shared: bool) -> Option<Request<RequestBody>> {
    ((shared || is_idempotent(request.method())) && request.body().is_end_stream()).then(|| {
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
