//! The applications: endpoints that answer every request with bytes that only it has, and check what it brings.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::random::Random;

pub type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// The longest body.
pub const LONGEST: usize = 256 * 1024;
/// Bodies are pieces of this, so that neither making nor comparing them costs much.
static BYTES: LazyLock<Bytes> = LazyLock::new(|| {
    let mut random = Random::new(1, 1);
    (0..LONGEST / 4).flat_map(|_| random.next().to_le_bytes()).collect::<Vec<u8>>().into()
});

/// The body of one request: neighbours' differ in every piece.
pub fn pattern(id: u64, length: usize) -> Bytes {
    let from = (Random::new(id, 7).next() % LONGEST as u64) as usize;
    BYTES.slice(from..from + length)
}

pub fn whole(bytes: Bytes) -> Sent {
    Full::new(bytes).boxed_unsync()
}

/// A body that somebody writes while it is sent. Dropping the writer ends it.
pub struct Piped(pub mpsc::Receiver<Frame<Bytes>>);

impl Body for Piped {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    H2c,
}

/// One endpoint; with it all its connections end.
pub struct App {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl App {
    pub async fn start(version: &'static str, protocol: Protocol) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(accept(listener, version, protocol)) })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, version: &'static str, protocol: Protocol) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        // No descriptors: somebody's end gives one back.
        let Ok((stream, _)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(version, request));
            let io = TokioIo::new(stream);
            // Faults between the proxy and us end connections in every way; clients notice what matters.
            let _ = match protocol {
                Protocol::Http1 => {
                    hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(io, service)
                        .with_upgrades()
                        .await
                }
                Protocol::H2c => {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                }
            };
        });
    }
}

async fn answer(version: &'static str, request: Request<Incoming>) -> Result<Response<Sent>, Infallible> {
    let mut answer = match request.uri().path() {
        "/ws" => websocket(request),
        "/soak.Echo/Stream" => echo(request),
        _ => bytes(request).await,
    };
    answer.headers_mut().insert("x-app", HeaderValue::from_static(version));
    Ok(answer)
}

/// `/x/ID/LENGTH`: so many bytes of the request's own. `x-upload` says how many it brings.
async fn bytes(request: Request<Incoming>) -> Response<Sent> {
    let bad = || {
        let mut answer = Response::new(whole(Bytes::from_static(b"not what a client sent")));
        *answer.status_mut() = StatusCode::IM_A_TEAPOT;
        answer
    };
    let mut words = request.uri().path().split('/').skip(2).map(|word| word.parse::<u64>().ok());
    let (Some(Some(id)), Some(Some(length))) = (words.next(), words.next()) else { return bad() };
    let upload = request.headers().get("x-upload").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    let expected = pattern(id, upload);
    let (mut at, mut body) = (0, request.into_body());
    while let Some(frame) = body.frame().await {
        // Cut by a fault or by its client, who expects nothing any more.
        let Ok(frame) = frame else { return bad() };
        let Ok(data) = frame.into_data() else { continue };
        if expected.get(at..at + data.len()) != Some(&data[..]) {
            return bad();
        }
        at += data.len();
    }
    if at != upload || length as usize > LONGEST {
        return bad();
    }
    let mut answer = Response::new(whole(pattern(id, length as usize)));
    answer.headers_mut().insert("x-tag", id.into());
    answer
}

/// Every piece comes back at once, and the end with trailers, as gRPC has them.
fn echo(request: Request<Incoming>) -> Response<Sent> {
    let (sender, receiver) = mpsc::channel(1);
    let mut body = request.into_body();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            // The end of a request may come in an empty frame of its own. It is none here, before the trailers: others,
            // the h2 crate among them, end a connection in which too many empty frames have come (100 in its life).
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            if bytes > 0 && sender.send(frame).await.is_err() {
                return;
            }
        }
        let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
        // The client may have gone.
        let _ = sender.send(Frame::trailers(trailers)).await;
    });
    let mut answer = Response::new(Piped(receiver).boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

fn websocket(mut request: Request<Incoming>) -> Response<Sent> {
    let mut answer = Response::new(whole(Bytes::new()));
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()))
    else {
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return answer;
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_binary() || message.is_text()) && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key.parse().expect("base64"));
    answer
}
