//! One HTTP/1 connection to an endpoint, which has one request at a time.
//!
//! It has no task of its own: whoever uses it polls it. While a request waits for its answer the request does, while the
//! answer's body is passed on the body does, and an idle connection is looked at by the worker's tick and once more when
//! it is taken. This saves two hand-overs between tasks per request. The exception is an answer that begins before the
//! request's body has ended: then the two go their ways independently, in two tasks.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response, StatusCode};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::Failure;
use super::dial::Socket;
use super::exchange::Exchange;
use super::interim::Interim;
use super::state::State;
use super::upload::RequestBody;
use super::upstream::Flight;

/// The most that is read from an endpoint in one call, in bytes. It bounds the memory that a connection may take for
/// its buffer; buffers begin at 8 KiB and grow only while reads fill them. Somewhat more than 64 KiB, so that an answer of
/// that size takes one call for its head and body, and one to pass it on; and not more, because as much may wait in each
/// connection whose client takes nothing.
const READ_AT_ONCE: usize = 72 * 1024;

/// One connection: hyper's handle, its engine, and what comes before an answer.
pub struct Wire {
    sender: http1::SendRequest<RequestBody>,
    pub engine: Engine,
    interim: Rc<Interim>,
}

impl Wire {
    /// `header_bytes`: the largest head of an answer.
    pub async fn begin(socket: Socket, header_bytes: usize) -> Result<Box<Self>, Failure> {
        let interim = socket.interim.clone();
        let (sender, engine) = http1::Builder::new()
            .max_buf_size(header_bytes.max(READ_AT_ONCE))
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|_| Failure::ConnectRefused)?;
        Ok(Box::new(Self { sender, engine: Engine::Here(engine), interim }))
    }

    /// Lets the engine see what happened since it was last polled.
    pub fn is_alive(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.engine.poll(&mut context).is_pending() && !self.sender.is_closed()
    }

    /// Whether there is no request in it.
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
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
        self.interim.begin();
        let upload = request.body().upload().cloned();
        if client.is_some_and(State::asks_to_switch) {
            self.engine.ask_to_switch();
        }
        let answer = {
            // `unconstrained`: this future is polled with a waker that does nothing, because only the engine below can
            // make it ready; it must therefore never be told to come back later.
            let mut answer = pin!(tokio::task::unconstrained(self.sender.try_send_request(request)));
            let (engine, interim) = (&mut self.engine, &self.interim);
            let mut go_on = |cx: &mut Context<'_>| {
                let _ = engine.poll(cx);
                let said = interim.take();
                if let Some(client) = client {
                    client.hear(said);
                }
            };
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
                    go_on(&mut noop);
                    if let Poll::Ready(answer) = answer.as_mut().poll(&mut noop) {
                        return Poll::Ready(answer.map_err(unanswered));
                    }
                }
                sent = true;
                go_on(cx);
                answer.as_mut().poll(&mut noop).map_err(unanswered)
            })
            .await
        };
        match answer {
            Ok(answer) => {
                self.engine.answered(answer.status());
                if upload.as_ref().is_some_and(|upload| upload.is_open()) {
                    self.engine.set_apart();
                }
                let has_upload = upload.is_some();
                Ok(answer.map(|incoming| Exchange::alone(incoming, self, flight, keep, has_upload)))
            }
            Err(mut failed) => {
                // hyper calls a reset and a half answer by the same name; the socket knows whether a byte had come.
                if failed.failure == Failure::UpstreamClosed && self.interim.begun.get() {
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
pub enum Engine {
    /// Polled by whoever uses the connection.
    Here(http1::Connection<TokioIo<Socket>, RequestBody>),
    /// The same, with a request in it that asks for a tunnel.
    Asking(http1::Connection<TokioIo<Socket>, RequestBody>),
    /// HTTP has ended, the connection is still there.
    Switched(http1::Parts<TokioIo<Socket>>),
    /// In a task of its own, because the answer has begun before the request's body ended: the body goes on whether or not
    /// anybody reads the answer, and after it. Such a connection serves no further request.
    Apart(JoinHandle<()>),
    /// The connection is closed.
    Ended,
}

impl Engine {
    /// Ready: the connection is closed. hyper's part is dropped then, which gives a request back that it has not begun
    /// to send; otherwise its sender would wait for ever.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let connection = match self {
            Engine::Here(connection) | Engine::Asking(connection) => connection,
            Engine::Apart(_) => return Poll::Pending,
            Engine::Switched(_) | Engine::Ended => return Poll::Ready(()),
        };
        // How it ended, hyper tells the request.
        let ended = std::task::ready!(Pin::new(connection).poll(cx));
        *self = match std::mem::replace(self, Engine::Ended) {
            Engine::Asking(connection) if ended.is_ok() => Engine::Switched(connection.into_parts()),
            _ => Engine::Ended,
        };
        Poll::Ready(())
    }

    /// The next request asks for a tunnel.
    fn ask_to_switch(&mut self) {
        if let Engine::Here(connection) = std::mem::replace(self, Engine::Ended) {
            *self = Engine::Asking(connection);
        }
    }

    /// The head of the answer has come. Whatever is no 101 leaves the connection as it was.
    fn answered(&mut self, status: StatusCode) {
        if !matches!(self, Engine::Asking(_) | Engine::Switched(_)) {
            return;
        }
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        *self = match std::mem::replace(self, Engine::Ended) {
            Engine::Asking(connection) if !switches => Engine::Here(connection),
            Engine::Switched(_) if !switches => Engine::Ended,
            other => other,
        };
    }

    /// The connection, if HTTP has ended on it with a 101 that was asked for, and what has come behind that.
    pub fn take_switched(&mut self) -> Option<(Socket, Bytes)> {
        match std::mem::replace(self, Engine::Ended) {
            Engine::Switched(parts) => Some((parts.io.into_inner(), parts.read_buf)),
            _ => None,
        }
    }

    pub fn set_apart(&mut self) {
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::socket::Stream;
    use super::super::worker::Target;
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
            transport: Default::default(),
            cells: Default::default(),
        });
        let same = stream.try_clone().unwrap();
        let socket = Socket::new(Stream::Clear(TcpStream::from_std(stream).unwrap()), target.clone());
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
