//! Leaves out of what an HTTP/2 endpoint sends the frames that carry nothing: DATA of no bytes that do not end a stream.
//!
//! They are allowed (RFC 9113 section 6.1) and mean nothing, but h2 ends a connection at the 101st in its life, and with it the
//! requests of everybody who shares it.

/// The head of every frame (RFC 9113 section 4.1).
const HEAD: usize = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;

/// Where in the frames the next byte belongs.
#[derive(Default)]
pub struct Frames {
    /// What has come of a frame's head.
    head: [u8; HEAD],
    known: usize,
    /// Bytes of the frame's payload that are still to come.
    payload: usize,
}

impl Frames {
    /// Leaves in `bytes` what is to be read, and says how much that is. A head that is not whole is held back, and belongs in
    /// front of the next bytes: see [`Frames::take_held`].
    pub fn sift(&mut self, bytes: &mut [u8]) -> usize {
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

    /// What is held back, to be put in front of the next bytes. There is none after this.
    pub fn take_held(&mut self) -> ([u8; HEAD], usize) {
        (self.head, std::mem::take(&mut self.known))
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

    proptest! {
        #[test]
        fn it_never_matters_in_which_pieces_they_come(
            frames in proptest::collection::vec((0..3u8, 0..2u8, prop_oneof![Just(0usize), 0..40usize]), 0..20),
            sizes in proptest::collection::vec(1..30usize, 1..40),
        ) {
            let all: Vec<u8> = frames.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, *payload)).collect();
            let kept = frames.iter().filter(|(kind, flags, payload)| *payload > 0 || *kind != 0 || *flags != 0);
            let kept: Vec<u8> = kept.flat_map(|(kind, flags, payload)| frame(*kind, *flags, *payload)).collect();
            let (mut sieve, mut seen, mut rest) = (Frames::default(), Vec::new(), &all[..]);
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, left) = rest.split_at((*size).min(rest.len()));
                rest = left;
                let (held, known) = sieve.take_held();
                let mut bytes = [&held[..known], piece].concat();
                let length = sieve.sift(&mut bytes);
                seen.extend_from_slice(&bytes[..length]);
            }
            prop_assert_eq!((seen, sieve.known), (kept, 0));
        }
    }
}
