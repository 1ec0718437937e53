//! One client connection: its phase, its deadlines, its end.
//!
//! No request starts a timer. A connection writes down when its phase began, in ticks of the worker's slow clock, and
//! the worker looks at all connections once per tick. What has waited too long receives a verdict and is woken.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderValue, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::body::{AnswerBody, Upload};
use super::strict::{Bounds, Refusal, Scanner};
use super::worker::Worker;
use super::{Failure, request, socket};
use crate::route::policy::Timeouts;

/// The length of one tick: every deadline is kept to within this.
pub const TICK: Duration = Duration::from_millis(100);

/// How long a connection without a request may stay while the worker drains.
const DRAINING_IDLE: Duration = Duration::from_secs(1);

/// How long a client may go on with a request that was refused, after the connection's end was announced to it.
const LINGERING: Duration = Duration::from_secs(2);

/// A moment, in ticks since the worker started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u32);

impl Tick {
    fn has_passed(self, since: Tick, bound: Duration) -> bool {
        u128::from(self.0.saturating_sub(since.0)) * TICK.as_millis() > bound.as_millis()
    }

    pub fn is_older(self, now: Tick, bound: Duration) -> bool {
        now.has_passed(self, bound)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No byte of a request has come since the last answer.
    Idle,
    /// Some bytes of a head have come.
    Head,
    /// The head is complete, its answer has not begun.
    Waiting,
    /// The answer's head has been passed on.
    Answering,
    /// The answer has ended, the request's body has not.
    Tail,
    /// The connection's end is announced; what still comes is thrown away.
    Lingering,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Close as soon as no request is open.
    Finish,
    /// The head took too long: answer 408 and close.
    HeadTimeout,
    /// Close now, whatever is open.
    Abort,
}

/// What the connection, the request in it and the worker's tick tell each other. All on one thread.
pub struct State {
    pub peer: SocketAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
    /// The number of the application's port that its listener stands before.
    pub port: usize,
    phase: Cell<Phase>,
    since: Cell<Tick>,
    /// When the head of the request was complete.
    request_since: Cell<Tick>,
    /// Whether the client speaks HTTP/1.0, where the connection's end may be the answer's.
    old: Cell<bool>,
    /// Whether a request has ever come.
    served: Cell<bool>,
    /// The body of the request, if it has one.
    upload: RefCell<Option<Rc<Upload>>>,
    expired: Cell<Option<Failure>>,
    /// Since when the client takes no more bytes, while there are some for it.
    blocked: Cell<Option<Tick>>,
    verdict: Cell<Option<Verdict>>,
    waker: RefCell<Option<Waker>>,
    /// What the client has sent that no other reader shall see.
    refusal: Cell<Option<Refusal>>,
    /// Whether hyper has been told of it, so that nothing but its answer is left to do.
    refused: Cell<bool>,
    /// Requests that have begun.
    begun: Cell<u64>,
    /// Headers that are the same for every request of this connection.
    pub forwarding: RefCell<ForwardingCache>,
}

/// Values that would otherwise be written anew for each request.
#[derive(Default)]
pub struct ForwardingCache {
    pub peer: Option<HeaderValue>,
    /// The port the client connected to.
    pub port: Option<HeaderValue>,
    /// The `Forwarded` element for the host beside it.
    pub forwarded: Option<(HeaderValue, HeaderValue)>,
}

impl State {
    pub fn new(peer: SocketAddr, local: SocketAddr, port: usize, now: Tick) -> Rc<Self> {
        Rc::new(Self {
            peer,
            local,
            port,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            request_since: Cell::new(now),
            upload: RefCell::new(None),
            expired: Cell::new(None),
            blocked: Cell::new(None),
            verdict: Cell::new(None),
            old: Cell::new(false),
            served: Cell::new(false),
            waker: RefCell::new(None),
            refusal: Cell::new(None),
            refused: Cell::new(false),
            begun: Cell::new(0),
            forwarding: RefCell::default(),
        })
    }

    fn enter(&self, phase: Phase, now: Tick) {
        self.phase.set(phase);
        self.since.set(now);
    }

    pub fn request_begins(&self, now: Tick, version: Version, upload: Option<Rc<Upload>>) {
        self.old.set(version == Version::HTTP_10);
        *self.upload.borrow_mut() = upload;
        self.served.set(true);
        self.begun.set(self.begun.get() + 1);
        self.expired.set(None);
        self.request_since.set(now);
        self.enter(Phase::Waiting, now);
    }

    pub fn answer_begins(&self, now: Tick) {
        self.enter(Phase::Answering, now);
    }

    pub fn answer_ends(&self, now: Tick) {
        self.enter(if self.is_uploading() { Phase::Tail } else { Phase::Idle }, now);
    }

    fn is_uploading(&self) -> bool {
        self.upload.borrow().as_ref().is_some_and(|upload| upload.is_open())
    }

    /// Bytes have come from the client.
    fn bytes_come(&self, now: Tick) {
        match self.phase.get() {
            Phase::Idle => self.enter(Phase::Head, now),
            Phase::Tail if !self.is_uploading() => self.enter(Phase::Head, now),
            // A body that still arrives keeps the application from answering.
            Phase::Waiting | Phase::Tail => self.since.set(now),
            Phase::Head | Phase::Answering | Phase::Lingering => {}
        }
    }

    /// What the request in this connection has failed with, if its time is over.
    #[inline]
    pub fn expired(&self) -> Option<Failure> {
        self.expired.get()
    }

    /// Called once per tick. While the worker drains, a connection without a request is not waited for.
    pub fn look(&self, now: Tick, timeouts: &Timeouts, draining: bool) {
        let waited = |bound| now.has_passed(self.since.get(), bound);
        if self.blocked.get().is_some_and(|since| now.has_passed(since, timeouts.idle)) {
            return self.judge(Verdict::Abort);
        }
        match self.phase.get() {
            Phase::Idle if waited(if draining { DRAINING_IDLE } else { timeouts.idle }) => self.judge(Verdict::Finish),
            Phase::Head if waited(timeouts.head) => self.judge(Verdict::HeadTimeout),
            Phase::Waiting if waited(timeouts.first_byte) => {
                let awaited = self.upload.borrow().as_ref().is_some_and(|upload| upload.is_awaited());
                self.expire(if awaited { Failure::BodyTimeout } else { Failure::FirstByteTimeout })
            }
            Phase::Tail if !self.is_uploading() => self.enter(Phase::Idle, now),
            Phase::Tail if waited(timeouts.idle) => self.judge(Verdict::Abort),
            Phase::Lingering if waited(LINGERING) => self.judge(Verdict::Abort),
            Phase::Waiting | Phase::Answering
                if timeouts.request.is_some_and(|bound| now.has_passed(self.request_since.get(), bound)) =>
            {
                self.expire(Failure::RequestTimeout)
            }
            _ => {}
        }
    }

    /// No further request: an idle connection closes, a busy one after its answer. A fresh one, whose first request is
    /// probably on its way, is left to the tick.
    pub fn finish(&self) {
        if self.served.get() || self.phase.get() != Phase::Idle {
            self.judge(Verdict::Finish);
        }
    }

    /// Closes the connection in the middle of whatever it does.
    pub fn abort(&self) {
        self.judge(Verdict::Abort);
    }

    fn judge(&self, verdict: Verdict) {
        self.verdict.set(Some(verdict));
        self.wake();
    }

    fn expire(&self, failure: Failure) {
        if self.expired.get().is_none() {
            self.expired.set(Some(failure));
            self.wake();
        } else if self.phase.get() == Phase::Answering {
            // It was told a tick ago, and has not even looked: the client takes nothing.
            self.judge(Verdict::Abort);
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// The connection's socket, which notes when the first byte of a head comes, and holds back what is refused.
pub struct Socket {
    stream: TcpStream,
    scanner: Scanner,
    state: Rc<State>,
    worker: Rc<Worker>,
}

impl Socket {
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let blocked = &self.state.blocked;
        if written.is_ready() {
            blocked.set(None);
            if self.state.refusal.get().is_some() {
                // It may have waited for the answer before it to leave.
                self.state.wake();
            }
        } else if blocked.get().is_none() {
            blocked.set(Some(self.worker.now()));
        }
        written
    }

    /// What hyper reads instead of refused bytes: an error, which ends the body or the connection. A head is answered here,
    /// after the requests before it.
    fn refuse(&self, refusal: Refusal) -> Poll<io::Result<()>> {
        let state = &self.state;
        let free = match state.phase.get() {
            Phase::Idle | Phase::Head => state.begun.get() == self.scanner.heads() && state.blocked.get().is_none(),
            Phase::Tail => !state.is_uploading() && state.blocked.get().is_none(),
            Phase::Waiting | Phase::Answering | Phase::Lingering => false,
        };
        if free && !refusal.in_body && !state.refused.replace(true) {
            let words = last_words(refusal.violation.failure(), refusal.violation.explanation());
            // One try, and now: hyper closes the connection for writing. A peer that reads nothing is not waited for.
            let _ = self.stream.try_write(&words);
        }
        if refusal.in_body || free {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal.violation.explanation())));
        }
        Poll::Pending
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(refusal) = self.state.refusal.get() {
            return self.refuse(refusal);
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.state.bytes_come(self.worker.now());
            if let Err(refusal) = self.scanner.feed(&buf.filled()[before..]) {
                self.state.refusal.set(Some(refusal));
                buf.set_filled(before + refusal.passes);
                if refusal.passes == 0 {
                    return self.refuse(refusal);
                }
            }
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = socket::poll_send(&mut self.stream, cx, bufs);
        self.note(written)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves one connection until its end.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, state: Rc<State>) {
    let service = {
        let (worker, state) = (worker.clone(), state.clone());
        service_fn(move |request| request::handle(worker.clone(), state.clone(), request))
    };
    Connection::new(worker, stream, state, service).await
}

/// hyper's connection, and what may end it from outside.
struct Connection<S: HttpService<Incoming>> {
    http: Option<http1::Connection<TokioIo<Socket>, S>>,
    /// What is left when `http` has ended before the client has.
    rest: Option<TcpStream>,
    state: Rc<State>,
    worker: Rc<Worker>,
}

impl<S> Connection<S>
where
    S: HttpService<Incoming, ResBody = AnswerBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn new(worker: Rc<Worker>, stream: TcpStream, state: Rc<State>, service: S) -> Self {
        let limits = worker.limits(state.port);
        let scanner = Scanner::new(Bounds { bytes: limits.header_bytes, fields: limits.header_count });
        let socket = Socket { stream, scanner, state: state.clone(), worker: worker.clone() };
        let http = http1::Builder::new()
            .max_buf_size(limits.header_bytes.max(8192))
            .max_headers(limits.header_count)
            // The tick keeps the head's deadline; hyper's own would be a timer per request.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(socket), service);
        Self { http: Some(http), rest: None, state, worker }
    }

    /// hyper is through with the connection.
    fn end(&mut self, outcome: hyper::Result<()>, cx: &mut Context<'_>) -> Poll<()> {
        // What is wrong in a body its request has been answered for, and what follows the last request is nobody's.
        let refusal = self.state.refusal.get().filter(|_| self.state.refused.get());
        let refused = match &outcome {
            _ if refusal.is_some() => refusal.map(|refusal| refusal.violation.failure()),
            // hyper has answered 400, 414 or 431 by itself; only the count is left to us.
            Err(error) if error.is_parse_too_large() => Some(Failure::HeadTooLarge),
            Err(error) if error.is_parse() => Some(Failure::BadRequest),
            _ => None,
        };
        if let Some(failure) = refused {
            self.worker.cells.refused[failure as usize].add(1);
        }
        if outcome.as_ref().is_err_and(hyper::Error::is_user) {
            self.cut();
        }
        let Some(http) = self.http.take() else { return Poll::Ready(()) };
        let unread = self.state.upload.borrow().as_ref().is_some_and(|upload| !upload.is_whole());
        if refused.is_some() || (outcome.is_ok() && unread) {
            self.state.enter(Phase::Lingering, self.worker.now());
            self.rest = Some(http.into_parts().io.into_inner().stream);
        }
        self.linger(cx)
    }

    /// An answer ends before its time. In HTTP/1.0 it could be taken for a whole one, unless the connection is reset.
    fn cut(&mut self) {
        if self.state.old.get()
            && let Some(http) = self.http.take()
        {
            // An error means that there is no connection any more.
            let _ = http.into_parts().io.into_inner().stream.set_zero_linger();
        }
    }

    /// A client that is still sending would be sent a reset if the socket were closed now, and could lose the answer
    /// with it (RFC 9112 section 9.6). So what it sends is read, for a while.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.rest else { return Poll::Ready(()) };
        let mut waste = [0; 16 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut waste);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }

    /// A head that took too long can still be answered, unless the client has not taken the answer before it.
    fn answer_head_timeout(&mut self) {
        self.worker.cells.refused[Failure::HeadTimeout as usize].add(1);
        if let Some(http) = self.http.take()
            && self.state.blocked.get().is_none()
        {
            let stream = http.into_parts().io.into_inner().stream;
            // One try: a peer that reads nothing is not waited for.
            let _ = stream.try_write(&last_words(Failure::HeadTimeout, Failure::HeadTimeout.explanation()));
        }
    }
}

/// An answer written past hyper, to a connection that ends with it.
pub fn last_words(failure: Failure, explanation: &str) -> Vec<u8> {
    let status = failure.status();
    let text = format!("splitway: {}: {explanation}\n", failure.as_str());
    format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         x-splitway-reason: {}\r\ncontent-length: {}\r\n\r\n{text}",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        failure.as_str(),
        text.len()
    )
    .into_bytes()
}

impl<S> Future for Connection<S>
where
    S: HttpService<Incoming, ResBody = AnswerBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        {
            let mut waker = this.state.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        match this.state.verdict.take() {
            None => {}
            Some(Verdict::Abort) => {
                if this.state.phase.get() == Phase::Answering {
                    this.cut();
                }
                return Poll::Ready(());
            }
            Some(Verdict::HeadTimeout) => {
                this.answer_head_timeout();
                return Poll::Ready(());
            }
            Some(Verdict::Finish) => {
                if let Some(http) = &mut this.http {
                    // First take what has arrived: a request that is here already shall not be lost.
                    if let Poll::Ready(outcome) = Pin::new(&mut *http).poll(cx) {
                        return this.end(outcome, cx);
                    }
                    // Nor one of which a part is here; its answer will tell the client to leave.
                    if this.state.phase.get() != Phase::Head {
                        Pin::new(http).graceful_shutdown();
                    }
                }
            }
        }
        let Some(http) = &mut this.http else { return this.linger(cx) };
        match Pin::new(http).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(outcome) => this.end(outcome, cx),
        }
    }
}
