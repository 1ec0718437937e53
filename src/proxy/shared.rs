//! One HTTP/2 connection to an endpoint, shared by requests of this worker (RFC 9113).
//!
//! Unlike an HTTP/1 connection it has a task of its own, because it concerns many requests at once.

use std::cell::Cell;
use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::Failure;
use super::dial::Socket;
use super::state::{State, Tick};
use super::upload::RequestBody;
use super::wire::Failed;

/// An endpoint that says nothing while requests wait is asked whether it is still there after this long (PING).
const SILENT: Duration = Duration::from_secs(10);
/// And has this long to answer.
const PONG: Duration = Duration::from_secs(5);
/// Bytes that an endpoint may send ahead of what the client has taken, for one answer.
const STREAM_WINDOW: u32 = 128 * 1024;
/// For all answers of a connection: each may wait for a client that takes nothing, and keeps no other from coming. The most that
/// there is, because h2 ends a connection when small frames that wait cost more than half of this; what they may cost is
/// bounded by the streams and their windows.
const CONNECTION_WINDOW: u32 = i32::MAX as u32;
/// Bytes of a request's body that wait for the endpoint's window.
const SEND_BUFFER: usize = 64 * 1024;
/// The most streams at once, and those that are opened before the endpoint has said how many it takes (RFC 9113 section
/// 6.5.2 recommends at least this many). Beyond, there is another connection.
const STREAMS: usize = 100;

/// Puts the connection's tasks on the worker's thread.
#[derive(Clone)]
struct Here;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

pub struct Shared {
    sender: http2::SendRequest<RequestBody>,
    /// Whether a request's bytes went through TLS, for its scheme.
    secure: bool,
    /// Requests in it now.
    open: Cell<usize>,
    /// How many it takes at once.
    room: Rc<Cell<usize>>,
    /// The last tick with a request in it; before the first tick none.
    since: Cell<Option<Tick>>,
    /// It has answered a request.
    answered: Cell<bool>,
    /// A request has learnt that it takes no more of them; hyper may learn it a moment later.
    ended: Cell<bool>,
}

impl Shared {
    /// `header_bytes`: the largest head of an answer.
    pub async fn begin(mut socket: Socket, secure: bool, header_bytes: usize) -> Result<Rc<Self>, Failure> {
        socket.has_frames();
        let (sender, mut connection) = http2::Builder::new(Here)
            .timer(TokioTimer::new())
            .keep_alive_interval(SILENT)
            .keep_alive_timeout(PONG)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER)
            .initial_max_send_streams(STREAMS)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|_| Failure::ConnectRefused)?;
        let room = Rc::new(Cell::new(STREAMS));
        let told = room.clone();
        tokio::task::spawn_local(std::future::poll_fn(move |cx| {
            // How it ended, hyper tells the requests in it.
            let ended = Pin::new(&mut connection).poll(cx).map(drop);
            told.set(connection.current_max_send_streams().min(STREAMS));
            ended
        }));
        Ok(Rc::new(Self {
            sender,
            secure,
            open: Cell::new(0),
            room,
            since: Cell::default(),
            answered: Cell::default(),
            ended: Cell::default(),
        }))
    }

    /// Whether it takes another request.
    pub fn has_room(&self) -> bool {
        !self.is_ended() && self.open.get() < self.room.get().max(1)
    }

    fn is_ended(&self) -> bool {
        self.ended.get() || self.sender.is_closed()
    }

    pub fn has_answered(&self) -> bool {
        self.answered.get()
    }

    /// Once per tick: whether it is worth keeping.
    pub fn look(&self, now: Tick, bound: Duration) -> bool {
        let since = self.since.get().filter(|_| self.open.get() == 0).unwrap_or(now);
        self.since.set(Some(since));
        !self.is_ended() && !since.is_older(now, bound)
    }

    /// Sends a request and waits for the head of its answer. `client` as in
    /// [`Endpoint::send`](super::upstream::Endpoint::send).
    pub async fn ask(
        self: &Rc<Self>,
        mut request: Request<RequestBody>,
        client: Option<&State>,
    ) -> Result<(Response<Incoming>, Part), Failed> {
        let Some(origin) = Origin::replace(&mut request, self.secure) else {
            return Err(Failed { failure: Failure::BadRequest, request: None });
        };
        let part = Part::new(self.clone());
        let mut sender = self.sender.clone();
        let mut answer = pin!(sender.try_send_request(request));
        let answer = std::future::poll_fn(|cx: &mut Context<'_>| {
            if let Some(failure) = client.and_then(State::expired) {
                return Poll::Ready(Err(Failed { failure, request: None }));
            }
            answer.as_mut().poll(cx).map_err(|mut error| {
                let request = error.take_message().map(|request| origin.restore(request));
                if request.is_some() || cause(error.error()).is_some_and(h2::Error::is_go_away) {
                    self.ended.set(true);
                }
                Failed { failure: classify(error.error()), request }
            })
        })
        .await;
        if answer.is_ok() {
            self.answered.set(true);
        }
        answer.map(|answer| (answer, part))
    }
}

/// One request's part of the connection.
pub struct Part(Rc<Shared>);

impl Part {
    fn new(shared: Rc<Shared>) -> Self {
        shared.open.set(shared.open.get() + 1);
        Self(shared)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// What a head loses on its way into HTTP/2, so that the request can still go over another connection.
struct Origin {
    host: HeaderValue,
    target: Uri,
}

impl Origin {
    /// `Host` becomes `:authority`, and what concerns an HTTP/1 connection goes (RFC 9113 sections 8.2.2 and 8.3.1).
    fn replace(request: &mut Request<RequestBody>, secure: bool) -> Option<Self> {
        let host = request.headers_mut().remove(HOST)?;
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
        parts.path_and_query = request.uri().path_and_query().cloned();
        let target = std::mem::replace(request.uri_mut(), Uri::from_parts(parts).ok()?);
        request.headers_mut().remove(CONNECTION);
        request.headers_mut().remove(TRANSFER_ENCODING);
        *request.version_mut() = Version::HTTP_2;
        Some(Self { host, target })
    }

    fn restore(&self, mut request: Request<RequestBody>) -> Request<RequestBody> {
        *request.uri_mut() = self.target.clone();
        *request.version_mut() = Version::HTTP_11;
        let upload = request.body().upload().is_some();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        if headers.contains_key(TE) {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        if upload && !headers.contains_key(CONTENT_LENGTH) {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        request
    }
}

fn cause(error: &hyper::Error) -> Option<&h2::Error> {
    error.source().and_then(|cause| cause.downcast_ref())
}

fn classify(error: &hyper::Error) -> Failure {
    if error.is_canceled() || error.is_closed() {
        return Failure::UpstreamClosed;
    }
    match cause(error) {
        Some(cause) if cause.reason() == Some(h2::Reason::REFUSED_STREAM) => Failure::StreamRefused,
        // GOAWAY without an error names the last stream that was looked at; ours came after it (RFC 9113 section 6.8).
        Some(cause) if cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR) => Failure::StreamRefused,
        // The endpoint ends this stream, or what it says is not HTTP/2.
        Some(cause) if cause.is_reset() && cause.is_remote() => Failure::UpstreamClosed,
        Some(cause) if cause.is_io() || cause.is_go_away() && cause.is_remote() => Failure::UpstreamClosed,
        Some(_) => Failure::UpstreamInvalid,
        None => Failure::UpstreamClosed,
    }
}
