//! A connection's bytes, in clear or through TLS, and how they leave cheaply.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Up to here it costs less to copy the pieces together than to have the kernel gather them.
const COPIED: usize = 2048;

pub enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Clear(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The protocol that both sides agreed on during the handshake (ALPN, RFC 7301).
    pub fn protocol(&self) -> Option<&[u8]> {
        match self {
            Stream::Clear(_) => None,
            Stream::Tls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// A client's session, if it came through TLS.
    pub fn session(&self) -> Option<&rustls::ServerConnection> {
        match self {
            Stream::Tls(tls) => match &**tls {
                TlsStream::Server(server) => Some(server.get_ref().1),
                TlsStream::Client(_) => None,
            },
            Stream::Clear(_) => None,
        }
    }

    /// Whatever is written becomes a reset instead of an end.
    pub fn reset_on_close(&self) {
        // An error means that there is no connection any more.
        let _ = self.tcp().set_zero_linger();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Clear(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    /// What can be written of `pieces`. In clear one piece, or a few small ones, go with `send`, which is cheaper in the
    /// kernel than `writev`.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tcp = match self.get_mut() {
            Stream::Clear(tcp) => Pin::new(tcp),
            Stream::Tls(tls) => return Pin::new(tls).poll_write_vectored(cx, pieces),
        };
        if let [piece] = pieces {
            return tcp.poll_write(cx, piece);
        }
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() > COPIED {
            return tcp.poll_write_vectored(cx, pieces);
        }
        let mut together = [0; COPIED];
        let mut length = 0;
        for piece in pieces {
            together[length..length + piece.len()].copy_from_slice(piece);
            length += piece.len();
        }
        tcp.poll_write(cx, &together[..length])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
