//! What is written down of a request while it is under way, if anybody wants to hear of it.

use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use http::{Method, Request};

use super::state::State;
use crate::metrics::Labels;
use crate::record::{Pen, Record, kept};

use super::worker::Target;

/// Made when the request begins, because later nobody has its head any more.
pub struct Draft {
    time: SystemTime,
    method: Method,
    target: Option<PathAndQuery>,
    /// To be sent however it ends.
    is_sample: bool,
}

impl Draft {
    /// Off the straight path, and so are its bytes.
    #[cold]
    pub fn begin<B>(pen: &Pen, request: &Request<B>) -> Box<Self> {
        Box::new(Self {
            time: SystemTime::now(),
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            is_sample: pen.begin(),
        })
    }
}

/// What became of a request.
pub struct Outcome<'a> {
    pub labels: Labels,
    /// What the client was told.
    pub status: Option<u16>,
    pub target: Option<&'a Target>,
    pub duration: Duration,
}

/// A request has ended that was written down, or that failed. Sends a record of it, if somebody wants it.
#[cold]
pub fn finish(pen: &Pen, draft: Option<Box<Draft>>, state: &State, outcome: &Outcome<'_>) {
    let Outcome { labels, status, target, duration } = *outcome;
    let is_failure = labels.failure.is_some() || labels.code >= 500;
    let is_sample = draft.as_ref().is_some_and(|draft| draft.is_sample);
    let is_taken = is_failure && pen.takes_failure(draft.is_some());
    if !is_sample && !is_taken {
        return;
    }
    let (method, path) = match &draft {
        Some(draft) => {
            let path = draft.target.as_ref().map(|target| kept(target.path().as_bytes()));
            (Some(kept(draft.method.as_str().as_bytes())), path)
        }
        None => (None, None),
    };
    pen.send(Record {
        time: draft.map_or_else(|| SystemTime::now() - duration, |draft| draft.time),
        port_number: state.port,
        port: String::new(),
        method,
        path,
        status,
        code: labels.code,
        version: target.map(|target| String::from_utf8_lossy(target.version_value.as_bytes()).into_owned()),
        role: target.map(|target| target.role),
        reason: target.map(|_| labels.reason),
        route_number: labels.route,
        route: None,
        failure: labels.failure.map(super::Failure::as_str),
        duration,
    });
}
