//! How bytes leave through a socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

/// Up to here it costs less to copy the pieces together than to have the kernel gather them.
const COPIED: usize = 2048;

/// Writes what can be written of `pieces`: one piece, or a few small ones, with `send`, which is cheaper in the kernel
/// than `writev`.
pub fn poll_send(stream: &mut TcpStream, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    let stream = Pin::new(stream);
    if let [piece] = pieces {
        return stream.poll_write(cx, piece);
    }
    if pieces.iter().map(|piece| piece.len()).sum::<usize>() > COPIED {
        return stream.poll_write_vectored(cx, pieces);
    }
    let mut together = [0; COPIED];
    let mut length = 0;
    for piece in pieces {
        together[length..length + piece.len()].copy_from_slice(piece);
        length += piece.len();
    }
    stream.poll_write(cx, &together[..length])
}
