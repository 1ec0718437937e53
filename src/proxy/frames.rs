//! Leaves out of what an HTTP/2 endpoint sends the frames that carry nothing: DATA of no bytes that do not end a stream.
//!
//! They are allowed (RFC 9113 section 6.1) and mean nothing, but h2 ends a connection at the 101st in its life, and with it the
//! requests of everybody who shares it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// The head of every frame (RFC 9113 section 4.1).
const HEAD: usize = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;

/// Where there is less room than this, bytes are read elsewhere first: a head that is held back has to fit in front of them.
const ROOM: usize = 64;

/// A reader of frames, and where in them the next byte belongs.
#[derive(Default)]
pub struct Frames {
    /// What has come of a frame's head. It belongs in front of the next bytes.
    head: [u8; HEAD],
    known: usize,
    /// What was read where there was no room for it, at most [`ROOM`] bytes.
    ahead: Vec<u8>,
    /// Bytes of the frame's payload that are still to come.
    payload: usize,
}

impl Frames {
    /// Reads what is worth it from `stream`. As always, nothing is the end.
    pub fn poll_read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            if buf.remaining() >= ROOM {
                return self.poll_sifted(stream, cx, buf);
            }
            let mut apart = [0; ROOM];
            let mut apart = ReadBuf::new(&mut apart);
            ready!(self.poll_sifted(stream, cx, &mut apart))?;
            self.ahead.extend_from_slice(apart.filled());
        }
        let some = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..some]);
        self.ahead.drain(..some);
        Poll::Ready(Ok(()))
    }

    fn poll_sifted(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let held = std::mem::take(&mut self.known);
            buf.put_slice(&self.head[..held]);
            let read = Pin::new(&mut *stream).poll_read(cx, buf);
            if matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before + held {
                // The end. Half a head is hyper's to complain about.
                return read;
            }
            let passes = self.sift(&mut buf.filled_mut()[before..]);
            buf.set_filled(before + passes);
            if passes > 0 || !matches!(read, Poll::Ready(Ok(()))) {
                return read;
            }
        }
    }

    /// Leaves in `bytes` what is to be read, and says how much that is. A head that is not whole is held back.
    fn sift(&mut self, bytes: &mut [u8]) -> usize {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() {
            let left = bytes.len() - from;
            if self.payload > 0 {
                let some = self.payload.min(left);
                // Most of the time nothing was left out, and all is in its place already.
                if from > to {
                    bytes.copy_within(from..from + some, to);
                }
                (from, to, self.payload) = (from + some, to + some, self.payload - some);
            } else if let Some(head) = bytes[from..].first_chunk::<HEAD>().copied() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if length > 0 || head[3] != DATA || head[4] & END_STREAM != 0 {
                    bytes.copy_within(from..from + HEAD, to);
                    to += HEAD;
                }
                (from, self.payload) = (from + HEAD, length);
            } else {
                self.head[..left].copy_from_slice(&bytes[from..]);
                self.known = left;
                break;
            }
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![7; payload]].concat()
    }

    #[test]
    fn only_frames_that_carry_nothing_and_end_nothing_are_left_out() {
        let kept =
            [frame(0, 1, 0), frame(4, 0, 0), frame(4, 1, 0), frame(0, 0, 1), frame(0, 8, 3), frame(1, 4, 20)].concat();
        let mut bytes = [frame(0, 0, 0), kept.clone(), frame(0, 0, 0), frame(0, 8, 0)].concat();
        let mut frames = Frames::default();
        let length = frames.sift(&mut bytes);
        assert_eq!((&bytes[..length], frames.known), (&kept[..], 0));
    }

    /// Gives its pieces one by one, with a wait before each, and then the end.
    struct Pieces<'a>(Vec<&'a [u8]>, bool);

    impl AsyncRead for Pieces<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.1 = !self.1;
            if self.1 {
                return Poll::Pending;
            }
            let Some(first) = self.0.first_mut() else { return Poll::Ready(Ok(())) };
            let (now, later) = first.split_at(buf.remaining().min(first.len()));
            buf.put_slice(now);
            *first = later;
            self.0.retain(|piece| !piece.is_empty());
            Poll::Ready(Ok(()))
        }
    }

    /// All that is read of these bytes, in pieces and with room for so many at a time, until the end.
    fn read(bytes: &[u8], sizes: &[usize], rooms: &[usize]) -> Vec<u8> {
        let (mut rest, mut pieces) = (bytes, Vec::new());
        for size in sizes.iter().cycle().take_while(|_| !bytes.is_empty()) {
            let (piece, left) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        let mut stream = Pieces(pieces, false);
        let (mut frames, mut seen) = (Frames::default(), Vec::new());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for room in rooms.iter().cycle() {
            let mut memory = vec![0; *room];
            let mut buf = ReadBuf::new(&mut memory);
            match frames.poll_read(&mut stream, &mut cx, &mut buf) {
                Poll::Pending => assert!(buf.filled().is_empty()),
                Poll::Ready(read) => {
                    read.unwrap();
                    if buf.filled().is_empty() {
                        break;
                    }
                    seen.extend_from_slice(buf.filled());
                }
            }
        }
        seen
    }

    #[test]
    fn half_a_head_at_the_end_is_passed_on() {
        let bytes = [frame(0, 0, 0), frame(0, 0, 5)[..7].to_vec()].concat();
        for room in [1, 7, 100] {
            assert_eq!(read(&bytes, &[3], &[room]), bytes[HEAD..], "{room}");
        }
    }

    proptest! {
        #[test]
        fn it_never_matters_in_which_pieces_they_come_or_are_taken(
            frames in proptest::collection::vec((0..3u8, 0..2u8, prop_oneof![Just(0usize), 0..40usize]), 0..20),
            sizes in proptest::collection::vec(1..30usize, 1..40),
            rooms in proptest::collection::vec(1..100usize, 1..10),
        ) {
            let all: Vec<u8> = frames.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, *payload)).collect();
            let kept = frames.iter().filter(|(kind, flags, payload)| *payload > 0 || *kind != 0 || *flags != 0);
            let kept: Vec<u8> = kept.flat_map(|(kind, flags, payload)| frame(*kind, *flags, *payload)).collect();
            prop_assert_eq!(read(&all, &sizes, &rooms), kept);
        }
    }
}
