//! A tunnel: what a client's and an application's connection become after a 101 (RFC 9110 section 15.2.2). Bytes go both
//! ways as they come, and each way ends for itself.
//!
//! An idle tunnel holds no buffer: bytes are read only when the ones before them have been taken, and kept only if the
//! other side does not take them at once. So one that takes nothing stops the other (at most [`PIECE`] wait in each
//! direction, after what had come along with the two heads).
//!
//! Nothing here looks into messages. Only the heads of WebSocket frames are counted through (RFC 6455 section 5.2), so that
//! a tunnel which the proxy has to end can be told so between two frames, and never in the middle of one.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::dial;
use super::socket::Stream;
use super::state::State;
use super::upstream::Flight;
use super::worker::Worker;

/// The most that is read at once, in bytes.
const PIECE: usize = 16 * 1024;

/// How many pieces are thrown away at the end, so that a close frame is not lost to a reset.
const LAST_PIECES: usize = 16;

/// "Going away" (RFC 6455 section 7.4.1), as the body of a close frame.
const GOING_AWAY: [u8; 2] = 1001u16.to_be_bytes();

/// The application's side, before the client has its 101.
pub struct Half {
    pub socket: dial::Socket,
    /// What the application has sent behind its 101.
    pub early: Bytes,
    /// The tunnel is a request in flight until it ends.
    pub flight: Flight,
}

pub struct Tunnel {
    client: Stream,
    application: dial::Socket,
    up: Way,
    down: Way,
    flight: Flight,
    state: Rc<State>,
    worker: Rc<Worker>,
}

impl Tunnel {
    /// `early`: what the client has sent behind its request.
    pub fn begin(client: Stream, early: Bytes, half: Half, state: Rc<State>, worker: Rc<Worker>) -> Self {
        half.flight.target.cells.tunnels.add(1);
        Self {
            client,
            application: half.socket,
            up: Way::new(early),
            down: Way::new(half.early),
            flight: half.flight,
            state,
            worker,
        }
    }

    /// Ready: both ways have ended, or one of the connections has broken.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let up = self.up.poll(&mut self.client, &mut self.application, cx);
        let down = self.down.poll(&mut self.application, &mut self.client, cx);
        if std::mem::take(&mut self.up.moved) | std::mem::take(&mut self.down.moved) {
            self.state.answer_moves(self.worker.now());
        }
        match (up, down) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) | (Poll::Ready(_), Poll::Ready(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// Tells both sides that the tunnel ends, as far as they take it now.
    pub fn end(&mut self, cx: &mut Context<'_>) {
        // Whatever is there already goes first, if it can.
        if self.poll(cx).is_ready() {
            return;
        }
        let [high, low] = GOING_AWAY;
        let mask = (self.worker.random() >> 32) as u32;
        let [a, b, c, d] = mask.to_be_bytes();
        // A client's frames are masked, a server's are not (RFC 6455 section 5.1).
        self.down.say(&[0x88, 2, high, low], &mut self.client, cx);
        self.up.say(&[0x88, 0x82, a, b, c, d, high ^ a, low ^ b], &mut self.application, cx);
        throw_away(&mut self.client, cx);
        throw_away(&mut self.application, cx);
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.flight.target.cells.tunnels.add(-1);
    }
}

/// A socket that is closed with bytes unread sends a reset, which overtakes what was written.
fn throw_away(from: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) {
    let mut waste = [0; PIECE];
    for _ in 0..LAST_PIECES {
        let mut buf = ReadBuf::new(&mut waste);
        match Pin::new(&mut *from).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
            _ => return,
        }
    }
}

/// One direction.
struct Way {
    /// What was read and not taken yet.
    waiting: Bytes,
    at: At,
    frames: Frames,
    /// Whether something was written that may still be in TLS's buffer.
    unflushed: bool,
    /// Whether bytes were taken since the tunnel last looked.
    moved: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Open,
    /// One side has ended, the other is being told.
    Ending,
    Ended,
}

impl Way {
    fn new(early: Bytes) -> Self {
        Self { waiting: early, at: At::Open, frames: Frames::default(), unflushed: false, moved: false }
    }

    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut piece = [MaybeUninit::uninit(); PIECE];
        loop {
            while !self.waiting.is_empty() {
                let n = ready!(self.write_to(to, None, cx))?;
                let _ = self.waiting.split_to(n);
            }
            match self.at {
                At::Ended => return Poll::Ready(Ok(())),
                At::Ending => {
                    // Flushes, too. An error is no news: that side has gone, and its own way tells.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.at = At::Ended;
                    return Poll::Ready(Ok(()));
                }
                At::Open => {}
            }
            // What is kept of the last piece holds memory no longer than it takes.
            self.waiting = Bytes::new();
            let mut buf = ReadBuf::uninit(&mut piece);
            let read = Pin::new(&mut *from).poll_read(cx, &mut buf)?;
            if read.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            let filled = buf.filled();
            if filled.is_empty() {
                self.at = At::Ending;
                continue;
            }
            let taken = match self.write_to(to, Some(filled), cx) {
                Poll::Ready(taken) => taken?,
                Poll::Pending => 0,
            };
            self.waiting = Bytes::copy_from_slice(&filled[taken..]);
        }
    }

    /// Writes `piece`, or what waits.
    fn write_to(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        piece: Option<&[u8]>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let bytes = piece.unwrap_or(&self.waiting);
        let n = ready!(Pin::new(to).poll_write(cx, bytes))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.frames.pass(&bytes[..n]);
        self.unflushed = true;
        self.moved = true;
        Poll::Ready(Ok(n))
    }

    /// A last frame, if one may stand here, and the end. One try.
    fn say(&mut self, frame: &[u8], to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) {
        if self.at != At::Open {
            return;
        }
        if self.waiting.is_empty() && self.frames.may_close() {
            // A part of it would be the last thing the connection carries, and is nothing that could be misread.
            let _ = Pin::new(&mut *to).poll_write(cx, frame);
        }
        let _ = Pin::new(&mut *to).poll_flush(cx);
        let _ = Pin::new(&mut *to).poll_shutdown(cx);
    }
}

/// Follows WebSocket frames by their heads (RFC 6455 section 5.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Frames {
    /// What has come of the next frame's head.
    head: [u8; 10],
    known: usize,
    /// Bytes of the frame's mask and payload that are still to come.
    left: u64,
    /// A close frame has come: nothing may follow it (RFC 6455 section 5.5.1).
    closed: bool,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = self.left.min(bytes.len() as u64);
                self.left -= n;
                bytes = &bytes[n as usize..];
                continue;
            }
            self.head[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            if let Some(left) = self.after_head() {
                self.closed |= self.head[0] & 0x0F == 8;
                self.left = left;
                self.known = 0;
            }
        }
    }

    /// The bytes that follow a head, if it is whole.
    fn after_head(&self) -> Option<u64> {
        let head = &self.head[..self.known];
        let (_, second) = (head.first()?, *head.get(1)?);
        let payload = match second & 0x7F {
            126 => u64::from(u16::from_be_bytes(*head.get(2..)?.first_chunk()?)),
            127 => u64::from_be_bytes(*head.get(2..)?.first_chunk()?),
            short => u64::from(short),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        Some(payload.saturating_add(mask))
    }

    /// Whether a close frame may stand here.
    fn may_close(&self) -> bool {
        self.known == 0 && self.left == 0 && !self.closed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as RFC 6455 section 5.2 writes it.
    fn frame(opcode: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match payload {
            0..=125 => frame.push(mask | payload as u8),
            126..=65535 => {
                frame.push(mask | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(if masked { &[0x88; 4][..] } else { &[] });
        frame.resize(frame.len() + payload, 0x88);
        frame
    }

    fn opcode() -> impl Strategy<Value = u8> {
        prop::sample::select(vec![0u8, 1, 2, 9, 10])
    }

    proptest! {
        #[test]
        fn a_close_frame_may_stand_exactly_between_frames_however_they_are_cut(
            several in prop::collection::vec(
                (opcode(), any::<bool>(), prop_oneof![0..200usize, 60_000..70_000usize]), 1..5),
            piece in 1..9000usize,
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for (opcode, masked, payload) in several {
                bytes.extend(frame(opcode, masked, payload));
                ends.push(bytes.len());
            }
            let mut frames = Frames::default();
            let mut at = 0;
            for part in bytes.chunks(piece) {
                frames.pass(part);
                at += part.len();
                prop_assert_eq!(frames.may_close(), ends.contains(&at), "after {} bytes", at);
            }
        }
    }

    #[test]
    fn nothing_follows_a_close_frame() {
        let mut frames = Frames::default();
        frames.pass(&frame(8, true, 2));
        assert!(!frames.may_close());
    }

    #[test]
    fn bytes_that_are_no_frames_at_all_are_counted_without_an_overflow() {
        let mut frames = Frames::default();
        frames.pass(&[0xFF; 4096]);
        assert!(!frames.may_close());
    }
}
