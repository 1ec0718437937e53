//! An answer's body on its way through, frame by frame, never whole; and what is counted when it ends.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;

use super::Failure;
use super::draft::{self, Draft, Outcome};
use super::exchange::Exchange;
use super::grpc::{self, Status};
use super::headers;
use super::mirror::Twin;
use super::state::State;
use super::worker::{Target, Worker};
use crate::metrics::Labels;
use crate::metrics::cells::Method;
use crate::route::bucket::Place;
use crate::route::{Decision, Reason};

/// A body that ended before its time. The word is the failure's.
#[derive(Debug)]
pub struct Cut(pub Failure);

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl Error for Cut {}

/// What is known of a request so far. Counts it when it ends, however it ends: dropped before its answer began, it is a
/// request that its client has given up.
pub struct Account {
    worker: Rc<Worker>,
    state: Rc<State>,
    /// The version that answered, or that failed last. `None`: refused before one was chosen.
    pub target: Option<Rc<Target>>,
    /// A copy that is given up if the client gives up the request.
    pub twin: Option<Rc<Twin>>,
    labels: Labels,
    counted: bool,
    user: Option<Place>,
    /// A call of gRPC, whose own status is in the answer's last fields.
    pub grpc: bool,
    /// What the answer's head says of the call: its last word, unless trailers come.
    said: Option<Status>,
    pub started: Instant,
    /// What is written down of it, if somebody wants to hear of it.
    pub draft: Option<Box<Draft>>,
    /// What the client was told, if it was.
    told: Option<u16>,
}

/// No answer was sent. The number that nginx has made known for that.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Account {
    pub fn new(worker: Rc<Worker>, state: Rc<State>, method: Method) -> Self {
        let labels = Labels {
            method,
            code: CLIENT_CLOSED_REQUEST,
            reason: Reason::Weighted,
            failure: Some(Failure::ClientGone),
            route: 0,
        };
        Self {
            worker,
            state,
            target: None,
            twin: None,
            labels,
            counted: true,
            user: None,
            grpc: false,
            said: None,
            started: Instant::now(),
            draft: None,
            told: None,
        }
    }

    /// `routes` are the labels of the snapshot's routes.
    pub fn decided(&mut self, target: &Rc<Target>, decision: Decision, routes: &[u16]) {
        self.target = Some(target.clone());
        self.labels.reason = decision.reason;
        self.labels.route = decision.route.map_or(0, |route| routes[route]);
        self.counted = decision.counted;
        self.user = decision.user;
    }

    /// It has failed, or is about to, and here is what it was, if nobody has written that down yet.
    #[cold]
    pub fn was<B>(&mut self, request: &Request<B>) -> &mut Draft {
        self.draft.get_or_insert_with(|| Draft::late(&self.state, request, self.started))
    }

    /// Another version does the work.
    pub fn stood_in(&mut self, target: &Rc<Target>) {
        self.target = Some(target.clone());
        self.labels.reason = Reason::Fallback;
    }

    /// The last fields of an answer are there: in gRPC they say how the call went, and otherwise nobody knows.
    fn ended(&mut self, fields: Option<&HeaderMap>) {
        if self.grpc && self.labels.code == StatusCode::OK.as_u16() {
            let status = fields.and_then(Status::of).or(self.said).unwrap_or(Status::UNKNOWN);
            self.said = Some(status);
            self.labels.code = status.as_http();
        }
    }

    pub fn is_stood_in(&self) -> bool {
        self.labels.reason == Reason::Fallback
    }

    /// The head of the answer is there. `told`: its status on the wire.
    pub fn answered(&mut self, status: StatusCode, told: StatusCode, failure: Option<Failure>) {
        self.labels.code = status.as_u16();
        self.labels.failure = failure;
        self.told = Some(told.as_u16());
    }

    /// Whether anybody is told of it: it was asked for, or went wrong.
    #[inline]
    fn is_written_down(&self) -> bool {
        self.draft.is_some() || self.labels.failure.is_some() || self.labels.code >= 500
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.state.answer_ends(self.worker.now());
        if let Some(twin) = &self.twin
            && self.labels.failure == Some(Failure::ClientGone)
        {
            twin.cut();
        }
        let duration = self.started.elapsed();
        if self.is_written_down() {
            let Self { labels, told, said: grpc, ref target, counted, .. } = *self;
            let is_counted = counted && target.is_some();
            let outcome = Outcome { labels, told, grpc, target: target.as_deref(), duration, is_counted };
            draft::finish(&self.worker, self.draft.take(), &self.state, &outcome);
        }
        let Some(target) = &self.target else {
            if let Some(failure) = self.labels.failure {
                self.worker.cells.refused[failure as usize].add(1);
            }
            return;
        };
        let cells = &target.cells;
        if self.counted {
            let ns = duration.as_nanos() as u64;
            cells.requests.count(self.labels);
            cells.duration.record(ns);
            cells.quantiles.record(ns);
            if let Some(user) = self.user {
                cells.users.met(user);
            }
        } else {
            cells.uncounted.add(1);
        }
    }
}

/// An answer on its way to the client.
pub struct AnswerBody {
    source: Source,
    account: Account,
}

enum Source {
    /// Our own words.
    Text(Option<Bytes>),
    Upstream(Exchange),
    /// Complete, or cut.
    Done,
}

impl AnswerBody {
    pub fn text(text: Bytes, account: Account) -> Self {
        // Of an empty one hyper says so in the head, as gRPC has it.
        Self { source: Source::Text(Some(text).filter(|text| !text.is_empty())), account }
    }

    /// `head`: the fields of the answer's head, which may be its last.
    pub fn upstream(exchange: Exchange, account: Account, head: &HeaderMap) -> Self {
        let mut body = Self { source: Source::Upstream(exchange), account };
        if body.account.grpc {
            body.account.said = Status::of(head);
        }
        // hyper asks for no frame of a body that has none, so its connection is given back now.
        if body.is_end_stream() {
            body.account.ended(None);
            body.end();
        }
        body
    }

    /// The whole answer has come: its connection may serve another request.
    fn end(&mut self) {
        if let Source::Upstream(exchange) = std::mem::replace(&mut self.source, Source::Done) {
            exchange.give_back(self.account.worker.now());
        }
    }

    fn cut(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.source = Source::Done;
        self.account.labels.failure = Some(failure);
        if let Some(target) = &self.account.target {
            target.cells.failures[failure as usize].add(1);
        }
        if self.account.grpc && failure != Failure::UpstreamCut {
            // The client's time is over: a call can say so where other answers can only be cut.
            let trailers = grpc::trailers(failure);
            self.account.ended(Some(&trailers));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(Some(Err(Cut(failure))))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let frame = self.next(cx);
        let account = &self.account;
        if frame.is_ready() {
            account.state.answer_moves(account.worker.now());
        }
        if account.state.is_stream() {
            // hyper asks for the next frame when the client's window has taken this one.
            account.state.takes(!matches!(frame, Poll::Ready(Some(Ok(_)))), account.worker.now());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Upstream(exchange) => exchange.is_end_stream(),
            Source::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Source::Upstream(exchange) => exchange.size_hint(),
            Source::Done => SizeHint::with_exact(0),
        }
    }
}

impl AnswerBody {
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(failure) = self.account.state.expired()
            && let Source::Upstream(_) = self.source
        {
            return self.cut(failure);
        }
        match &mut self.source {
            Source::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Done => Poll::Ready(None),
            Source::Upstream(exchange) => match exchange.poll_frame(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok(mut frame))) => {
                    if let Some(trailers) = frame.trailers_mut() {
                        headers::trailers(trailers);
                    }
                    // Trailers are the last frame, and hyper asks for none after them.
                    if frame.is_trailers() || exchange.is_end_stream() {
                        self.account.ended(frame.trailers_ref());
                        self.end();
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Poll::Ready(None) => {
                    self.account.ended(None);
                    self.end();
                    Poll::Ready(None)
                }
                Poll::Ready(Some(Err(_))) => self.cut(Failure::UpstreamCut),
            },
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // Dropped before its end: the client went away.
        if matches!(self.source, Source::Upstream(_)) {
            self.account.labels.failure = Some(Failure::ClientGone);
        }
    }
}
