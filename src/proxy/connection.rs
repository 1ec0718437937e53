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

use http::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::body::AnswerBody;
use super::worker::Worker;
use super::{Failure, request, socket};
use crate::route::policy::Timeouts;

/// The length of one tick: every deadline is kept to within this.
pub const TICK: Duration = Duration::from_millis(100);

/// How long a connection without a request may stay while the worker drains.
const DRAINING_IDLE: Duration = Duration::from_secs(1);

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
    phase: Cell<Phase>,
    since: Cell<Tick>,
    /// When the head of the request was complete.
    request_since: Cell<Tick>,
    /// Whether a request has ever come.
    served: Cell<bool>,
    expired: Cell<Option<Failure>>,
    verdict: Cell<Option<Verdict>>,
    waker: RefCell<Option<Waker>>,
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
    pub fn new(peer: SocketAddr, local: SocketAddr, now: Tick) -> Rc<Self> {
        Rc::new(Self {
            peer,
            local,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            request_since: Cell::new(now),
            expired: Cell::new(None),
            verdict: Cell::new(None),
            served: Cell::new(false),
            waker: RefCell::new(None),
            forwarding: RefCell::default(),
        })
    }

    fn enter(&self, phase: Phase, now: Tick) {
        self.phase.set(phase);
        self.since.set(now);
    }

    pub fn request_begins(&self, now: Tick) {
        self.served.set(true);
        self.expired.set(None);
        self.request_since.set(now);
        self.enter(Phase::Waiting, now);
    }

    pub fn answer_begins(&self, now: Tick) {
        self.enter(Phase::Answering, now);
    }

    pub fn answer_ends(&self, now: Tick) {
        self.enter(Phase::Idle, now);
    }

    /// What the request in this connection has failed with, if its time is over.
    #[inline]
    pub fn expired(&self) -> Option<Failure> {
        self.expired.get()
    }

    /// Called once per tick. While the worker drains, a connection without a request is not waited for.
    pub fn look(&self, now: Tick, timeouts: &Timeouts, draining: bool) {
        let waited = |bound| now.has_passed(self.since.get(), bound);
        match self.phase.get() {
            Phase::Idle if waited(if draining { DRAINING_IDLE } else { timeouts.idle }) => self.judge(Verdict::Finish),
            Phase::Head if waited(timeouts.head) => self.judge(Verdict::HeadTimeout),
            Phase::Waiting if waited(timeouts.first_byte) => self.expire(Failure::FirstByteTimeout),
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
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// The connection's socket, which notes when the first byte of a head comes.
pub struct Socket {
    stream: TcpStream,
    state: Rc<State>,
    worker: Rc<Worker>,
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.state.phase.get() == Phase::Idle {
            self.state.enter(Phase::Head, self.worker.now());
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        socket::poll_send(&mut self.stream, cx, bufs)
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
    state: Rc<State>,
    worker: Rc<Worker>,
}

impl<S> Connection<S>
where
    S: HttpService<Incoming, ResBody = AnswerBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn new(worker: Rc<Worker>, stream: TcpStream, state: Rc<State>, service: S) -> Self {
        let socket = Socket { stream, state: state.clone(), worker: worker.clone() };
        let limits = worker.limits();
        let http = http1::Builder::new()
            .max_buf_size(limits.header_bytes.max(8192))
            .max_headers(limits.header_count)
            // The tick keeps the head's deadline; hyper's own would be a timer per request.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(socket), service);
        Self { http: Some(http), state, worker }
    }

    /// A head that took too long can still be answered: nothing was ever written for it.
    fn answer_head_timeout(&mut self) {
        self.worker.cells.refused[Failure::HeadTimeout as usize].add(1);
        if let Some(http) = self.http.take() {
            let stream = http.into_parts().io.into_inner().stream;
            // One try: a peer that reads nothing is not waited for.
            let _ = stream.try_write(&last_words(Failure::HeadTimeout));
        }
    }
}

/// An answer written past hyper, to a connection that ends with it.
pub fn last_words(failure: Failure) -> Vec<u8> {
    let status = failure.status();
    let text = format!("splitway: {}: {}\n", failure.as_str(), failure.explanation());
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

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.state.verdict.take() {
            None => {}
            Some(Verdict::Abort) => return Poll::Ready(()),
            Some(Verdict::HeadTimeout) => {
                self.answer_head_timeout();
                return Poll::Ready(());
            }
            Some(Verdict::Finish) => {
                if let Some(http) = &mut self.http {
                    // First take what has arrived: a request that is here already shall not be lost.
                    if Pin::new(&mut *http).poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    Pin::new(http).graceful_shutdown();
                }
            }
        }
        {
            let mut waker = self.state.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        let Some(http) = &mut self.http else { return Poll::Ready(()) };
        match Pin::new(http).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(error)) => {
                // hyper has answered 400, 414 or 431 by itself; only the count is left to us.
                if error.is_parse_too_large() {
                    self.worker.cells.refused[Failure::HeadTooLarge as usize].add(1);
                } else if error.is_parse() {
                    self.worker.cells.refused[Failure::BadRequest as usize].add(1);
                }
                Poll::Ready(())
            }
        }
    }
}
