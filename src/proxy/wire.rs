//! One connection to an endpoint.
//!
//! It has no task of its own: whoever uses it polls it. While a request waits for its answer the request does, while the
//! answer's body is passed on the body does, and an idle connection is looked at by the worker's tick and once more when
//! it is taken. This saves two hand-overs between tasks per request. The exception is an answer that begins before the
//! request's body has ended: then the two go their ways independently, in two tasks.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::body::RequestBody;
use super::connection::{State, Tick};
use super::upstream::Flight;
use super::worker::Target;
use super::{Failure, socket};
use crate::route::policy::Policy;

/// The most that is read from an endpoint in one call, in bytes. It bounds the memory that a connection may take for
/// its buffer; buffers begin at 8 KiB and grow only while reads fill them. Somewhat more than 64 KiB, so that an answer of
/// that size takes one call for its head and body, and one to pass it on.
const READ_AT_ONCE: usize = 128 * 1024;

/// One connection: hyper's handle, its engine, and whether a byte of an answer has come.
pub struct Wire {
    sender: http1::SendRequest<RequestBody>,
    engine: Engine,
    answered: Rc<Cell<bool>>,
}

impl Wire {
    /// Lets the engine see what happened since it was last polled.
    pub fn is_alive(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.engine.poll(&mut context).is_pending() && !self.sender.is_closed()
    }

    /// Whether it can take a request now.
    pub fn is_free(&mut self) -> bool {
        self.is_alive() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer. `keep`: how many idle connections the endpoint may keep.
    /// `client` as in [`Endpoint::send`](super::upstream::Endpoint::send).
    pub async fn ask(
        mut self: Box<Self>,
        request: Request<RequestBody>,
        flight: Flight,
        keep: usize,
        client: Option<&State>,
    ) -> Result<Response<Exchange>, Failed> {
        self.answered.set(false);
        let upload = request.body().upload().cloned();
        let answer = {
            // `unconstrained`: this future is polled with a waker that does nothing, because only the engine below can
            // make it ready; it must therefore never be told to come back later.
            let mut answer = pin!(tokio::task::unconstrained(self.sender.try_send_request(request)));
            let engine = &mut self.engine;
            let mut noop = Context::from_waker(Waker::noop());
            let mut sent = false;
            std::future::poll_fn(|cx| {
                if let Some(failure) = client.and_then(State::expired) {
                    return Poll::Ready(Err(Failed { failure, request: None }));
                }
                // The engine's end is no answer by itself: what it has learned reaches `answer`.
                //
                // When this is polled for the second time, the answer is probably there. Then nobody waits for the
                // engine, and a waker left with it would only have this connection polled once more, for nothing.
                if sent {
                    let _ = engine.poll(&mut noop);
                    if let Poll::Ready(answer) = answer.as_mut().poll(&mut noop) {
                        return Poll::Ready(answer.map_err(unanswered));
                    }
                }
                sent = true;
                let _ = engine.poll(cx);
                answer.as_mut().poll(&mut noop).map_err(unanswered)
            })
            .await
        };
        match answer {
            Ok(answer) => {
                if upload.as_ref().is_some_and(|upload| upload.is_open()) {
                    self.engine.set_apart();
                }
                let has_upload = upload.is_some();
                Ok(answer.map(|incoming| Exchange { incoming, wire: self, flight, keep, has_upload }))
            }
            Err(mut failed) => {
                // hyper calls a reset and a half answer by the same name; the socket knows whether a byte had come.
                if failed.failure == Failure::UpstreamClosed && self.answered.get() {
                    failed.failure = Failure::UpstreamInvalid;
                }
                Err(failed)
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Engine::Apart(task) = &self.engine {
            task.abort();
        }
    }
}

/// What moves a connection's bytes. The large variant is the usual one, and a `Wire` is in a box.
#[allow(clippy::large_enum_variant)]
enum Engine {
    /// Polled by whoever uses the connection.
    Here(http1::Connection<TokioIo<UpstreamSocket>, RequestBody>),
    /// In a task of its own, because the answer has begun before the request's body ended: the body goes on whether or not
    /// anybody reads the answer, and after it. Such a connection serves no further request.
    Apart(JoinHandle<()>),
    /// The connection is closed.
    Ended,
}

impl Engine {
    /// Ready: the connection is closed. hyper's part is dropped then, which gives a request back that it has not begun
    /// to send; otherwise its sender would wait for ever.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let connection = match self {
            Engine::Here(connection) => connection,
            Engine::Apart(_) => return Poll::Pending,
            Engine::Ended => return Poll::Ready(()),
        };
        // How it ended, hyper tells the request.
        let ended = Pin::new(connection).poll(cx).map(drop);
        if ended.is_ready() {
            *self = Engine::Ended;
        }
        ended
    }

    fn set_apart(&mut self) {
        // One that is apart already stays so.
        if matches!(self, Engine::Here(_))
            && let Engine::Here(connection) = std::mem::replace(self, Engine::Ended)
        {
            *self = Engine::Apart(tokio::task::spawn_local(async move { drop(connection.await) }));
        }
    }
}

/// A try that failed. `request` is there if nothing of it was sent.
pub struct Failed {
    pub failure: Failure,
    pub request: Option<Request<RequestBody>>,
}

fn unanswered(mut error: hyper::client::conn::TrySendError<Request<RequestBody>>) -> Failed {
    let request = error.take_message();
    Failed { failure: classify(error.error()), request }
}

fn classify(error: &hyper::Error) -> Failure {
    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
        return Failure::UpstreamClosed;
    }
    if error.is_parse() {
        return Failure::UpstreamInvalid;
    }
    // What is left are errors of the socket, in hyper's words "connection error" or "error writing".
    Failure::UpstreamClosed
}

pub async fn connect(
    address: SocketAddr,
    target: &Rc<Target>,
    policy: &Policy,
    client: Option<&State>,
) -> Result<Box<Wire>, Failure> {
    let bound = client.and_then(State::connect_bound).unwrap_or(policy.timeouts.connect);
    let connecting = tokio::time::timeout(bound, TcpStream::connect(address));
    let mut connecting = pin!(connecting);
    let stream = std::future::poll_fn(|cx| {
        if let Some(failure) = client.and_then(State::expired) {
            return Poll::Ready(Err(failure));
        }
        connecting.as_mut().poll(cx).map(|outcome| match outcome {
            Err(_) => Err(Failure::ConnectTimeout),
            Ok(Err(_)) => Err(Failure::ConnectRefused),
            Ok(Ok(stream)) => Ok(stream),
        })
    })
    .await?;
    // Without it a small request could wait for the acknowledgement of the one before. It fails on dead sockets only.
    let _ = stream.set_nodelay(true);
    let answered = Rc::new(Cell::new(false));
    let socket = UpstreamSocket::new(stream, answered.clone(), target.clone());
    let (sender, engine) = http1::Builder::new()
        .max_buf_size(policy.limits.header_bytes.max(READ_AT_ONCE))
        .handshake(TokioIo::new(socket))
        .await
        .map_err(|_| Failure::ConnectRefused)?;
    Ok(Box::new(Wire { sender, engine: Engine::Here(engine), answered }))
}

/// An answer whose body is still to come, with the connection it comes over. Dropping it closes the connection.
pub struct Exchange {
    incoming: Incoming,
    wire: Box<Wire>,
    flight: Flight,
    /// How many idle connections the endpoint may keep.
    keep: usize,
    has_upload: bool,
}

impl Exchange {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Only the engine can fetch more, so it is the one that needs the waker, and only if there is nothing yet: a
        // waker that it does not need would have this connection polled once more, for nothing.
        let mut noop = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(&mut noop) {
            return Poll::Ready(frame);
        }
        let _ = self.wire.engine.poll(&mut noop);
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(&mut noop) {
            return Poll::Ready(frame);
        }
        let _ = self.wire.engine.poll(cx);
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    pub fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// The same for a copy, which leaves nothing behind: a connection that still has some of the body to send is closed.
    pub fn give_back_whole(mut self, now: Tick) {
        if self.wire.is_free() {
            self.give_back(now);
        }
    }

    /// After the last frame: keeps the connection for the next request, unless the body of this one is not through yet.
    /// Then it is left to itself, and ends when the body has ended.
    pub fn give_back(mut self, now: Tick) {
        if self.has_upload && self.wire.is_alive() && !self.wire.sender.is_ready() {
            self.wire.engine.set_apart();
        }
        match self.wire.engine {
            Engine::Here(_) => {
                self.flight.endpoint.keep(self.wire, self.keep, now);
            }
            // The body's task goes on by itself, and the request is in flight until then.
            Engine::Apart(_) => {
                if let Engine::Apart(body) = std::mem::replace(&mut self.wire.engine, Engine::Ended) {
                    let flight = self.flight;
                    tokio::task::spawn_local(async move {
                        let _ = body.await;
                        drop(flight);
                    });
                }
            }
            Engine::Ended => {}
        }
    }
}

/// The socket to an endpoint, which notes that a byte has come, and is counted while it is open.
struct UpstreamSocket {
    stream: TcpStream,
    answered: Rc<Cell<bool>>,
    target: Rc<Target>,
}

impl UpstreamSocket {
    fn new(stream: TcpStream, answered: Rc<Cell<bool>>, target: Rc<Target>) -> Self {
        target.cells.connections.add(1);
        target.cells.connections_opened.add(1);
        Self { stream, answered, target }
    }
}

impl Drop for UpstreamSocket {
    fn drop(&mut self) {
        self.target.cells.connections.add(-1);
    }
}

impl AsyncRead for UpstreamSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.answered.set(true);
        }
        read
    }
}

impl AsyncWrite for UpstreamSocket {
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::route::Role;

    fn get() -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty());
        request.headers_mut().insert("host", HeaderValue::from_static("a"));
        request
    }

    /// hyper reads before it takes a request over: if it reads the end of the connection then, it is through, and the
    /// request is still in its queue.
    #[tokio::test]
    async fn an_engine_that_ends_gives_back_what_it_has_not_begun() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_std().unwrap();
        let (mut application, _) = listener.accept().await.unwrap();
        let target = Rc::new(Target {
            role: Role::Stable,
            version_value: HeaderValue::from_static("a"),
            baggage_value: HeaderValue::from_static("a"),
            upstream: Rc::default(),
            cells: Default::default(),
        });
        let same = stream.try_clone().unwrap();
        let socket = UpstreamSocket::new(TcpStream::from_std(stream).unwrap(), Rc::default(), target.clone());
        let (mut sender, engine) = http1::handshake(TokioIo::new(socket)).await.unwrap();
        let mut engine = Engine::Here(engine);

        let mut first = pin!(sender.try_send_request(get()));
        let first = std::future::poll_fn(|cx| {
            assert!(engine.poll(cx).is_pending());
            first.as_mut().poll(cx)
        });
        let answer = async {
            application.read_u8().await.unwrap();
            application.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        };
        assert!(tokio::join!(first, answer).0.is_ok());
        application.shutdown().await.unwrap();
        // Whoever hears of the end through this one knows that the runtime has heard of it.
        TcpStream::from_std(same).unwrap().readable().await.unwrap();

        let mut second = pin!(sender.try_send_request(get()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(engine.poll(&mut context).is_ready());
        let Poll::Ready(second) = second.as_mut().poll(&mut context) else { panic!("it would wait for ever") };
        let failed = unanswered(second.expect_err("nobody has answered"));
        assert_eq!(failed.failure, Failure::UpstreamClosed);
        assert!(failed.request.is_some());
        assert_eq!(target.cells.connections.get(), 0);
    }
}
