//! Connecting to an endpoint: TCP, and TLS if the version wants it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Failure;
use super::frames::Frames;
use super::interim::Interim;
use super::socket::Stream;
use super::state::State;
use super::worker::Target;
use crate::route::transport::Tls;

/// Connects within the bound, unless the time of the request that waits for it is over before.
pub async fn dial(
    address: SocketAddr,
    target: &Rc<Target>,
    bound: Duration,
    client: Option<&State>,
) -> Result<Socket, Failure> {
    let bound = client.and_then(State::connect_bound).unwrap_or(bound);
    let began = Instant::now();
    let mut dialing = pin!(tokio::time::timeout(bound, open(address, target.transport.tls.as_ref())));
    let stream = std::future::poll_fn(|cx| {
        if let Some(failure) = client.and_then(State::expired) {
            return Poll::Ready(Err(failure));
        }
        dialing.as_mut().poll(cx).map(|outcome| outcome.unwrap_or(Err(Failure::ConnectTimeout)))
    })
    .await;
    if let Some(client) = client {
        client.waited(Duration::ZERO, began.elapsed());
    }
    Ok(Socket::new(stream?, target.clone()))
}

async fn open(address: SocketAddr, tls: Option<&Tls>) -> Result<Stream, Failure> {
    let tcp = TcpStream::connect(address).await.map_err(|_| Failure::ConnectRefused)?;
    // Without it a small request could wait for the acknowledgement of the one before. It fails on dead sockets only.
    let _ = tcp.set_nodelay(true);
    let Some(tls) = tls else { return Ok(Stream::Clear(tcp)) };
    let name = tls.server_name.clone().unwrap_or_else(|| ServerName::IpAddress(address.ip().into()));
    match TlsConnector::from(tls.config.clone()).connect(name, tcp).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream.into()))),
        Err(_) => Err(Failure::UpstreamTls),
    }
}

/// A connection's bytes, but for what precedes an answer, and for frames that carry nothing. It is counted while it is open.
pub struct Socket {
    stream: Stream,
    pub interim: Rc<Interim>,
    /// HTTP/2.
    frames: Option<Box<Frames>>,
    target: Rc<Target>,
}

impl Socket {
    pub fn new(stream: Stream, target: Rc<Target>) -> Self {
        target.cells.connections.add(1);
        target.cells.connections_opened.add(1);
        Self { stream, interim: Rc::default(), frames: None, target }
    }

    /// The endpoint will speak HTTP/2.
    pub fn has_frames(&mut self) {
        self.frames = Some(Box::default());
    }

    /// Whether both sides have agreed on HTTP/2 (ALPN).
    pub fn speaks_http2(&self) -> bool {
        self.stream.protocol() == Some(b"h2")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.target.cells.connections.add(-1);
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(frames) = &mut this.frames {
            return frames.poll_read(&mut this.stream, cx, buf);
        }
        if this.interim.release(buf) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        loop {
            std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            if this.interim.pass(buf, before) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
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
