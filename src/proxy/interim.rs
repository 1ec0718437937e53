//! What an endpoint says before its answer: interim answers (1xx, RFC 9110 section 15.2), such as 103 with hints for a
//! browser. hyper throws them away, so they are taken off the wire before it reads.
//!
//! Those of HTTP/1 reach clients of HTTP/1.1. hyper has no way to hand over or to send any in HTTP/2.

use std::cell::{Cell, RefCell};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::ReadBuf;

use super::headers;

/// An interim head may have this many bytes. A larger one is hyper's, which throws it away or refuses it.
const LONGEST: usize = 8 * 1024;

/// How each begins. Only the digits that follow tell which one it is.
const START: &[u8] = b"HTTP/1.1 1";

/// One connection's reader in front of hyper's, while an answer is awaited.
#[derive(Default)]
pub struct Interim {
    /// Whether a byte has come since the request.
    pub begun: Cell<bool>,
    stage: Cell<Stage>,
    /// What has come of a head, as long as it is not known whose it is.
    held: RefCell<Vec<u8>>,
    /// What is for the client, as it is written to it.
    found: RefCell<Vec<u8>>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    /// The answer itself, or nothing: hyper reads all.
    #[default]
    Passing,
    /// A head is to come.
    Looking,
    /// hyper gets what was held, then all.
    Releasing,
}

impl Interim {
    /// A request is sent. What was said of the one before it is nobody's any more: a copy has no client to be told, and the
    /// next request may be another client's.
    pub fn begin(&self) {
        self.begun.set(false);
        self.stage.set(Stage::Looking);
        self.held.borrow_mut().clear();
        self.found.borrow_mut().clear();
    }

    /// Whether hyper has to be given something before more is read. It is then in `buf`.
    #[inline]
    pub fn release(&self, buf: &mut ReadBuf<'_>) -> bool {
        if self.stage.get() != Stage::Releasing {
            return false;
        }
        let mut held = self.held.borrow_mut();
        let some = held.len().min(buf.remaining());
        buf.put_slice(&held[..some]);
        held.drain(..some);
        if held.is_empty() {
            self.stage.set(Stage::Passing);
        }
        some > 0
    }

    /// Looks at what has been read to `buf` after its first `before` bytes; nothing means the end. Whether hyper may see
    /// what is left there. Otherwise more is to be read.
    #[inline]
    pub fn pass(&self, buf: &mut ReadBuf<'_>, before: usize) -> bool {
        let come = &buf.filled()[before..];
        if !come.is_empty() {
            self.begun.set(true);
        }
        if self.stage.get() == Stage::Passing {
            return true;
        }
        if come.len() > START.len() && !come.starts_with(START) && self.held.borrow().is_empty() {
            self.stage.set(Stage::Passing);
            return true;
        }
        self.look(buf, before)
    }

    #[cold]
    fn look(&self, buf: &mut ReadBuf<'_>, before: usize) -> bool {
        let mut held = self.held.borrow_mut();
        let ended = buf.filled().len() == before;
        held.extend_from_slice(&buf.filled()[before..]);
        buf.set_filled(before);
        while let Some((head, length)) = (!ended).then(|| whole(&held)).flatten() {
            self.found.borrow_mut().extend_from_slice(&head);
            held.drain(..length);
        }
        if may_be_interim(&held) && held.len() <= LONGEST && !ended {
            return false;
        }
        self.stage.set(Stage::Releasing);
        drop(held);
        self.release(buf);
        true
    }

    /// What has been found for the client since it was last asked. Empty: nothing.
    #[inline]
    pub fn take(&self) -> Vec<u8> {
        self.found.take()
    }
}

/// Whether these bytes are, or may yet become, an interim answer's head. 101 ends HTTP and is an answer.
fn may_be_interim(bytes: &[u8]) -> bool {
    let known = bytes.len().min(START.len());
    bytes[..known] == START[..known] && !bytes[known..].starts_with(b"01")
}

/// The first interim answer as it is to be written to the client, which is nothing for 100 and what cannot be understood,
/// and how long it is here. `None`: there is none, or not the whole.
fn whole(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    // What is shorter may still be a 101.
    if bytes.len() < START.len() + 2 || !may_be_interim(bytes) {
        return None;
    }
    let length = bytes[..bytes.len().min(LONGEST)].windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    Some((rewritten(&bytes[..length - 2]).unwrap_or_default(), length))
}

/// `head` up to its last field's line end.
fn rewritten(head: &[u8]) -> Option<Vec<u8>> {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r\n"));
    let status = lines.next()??;
    let digits = status.get(START.len()..START.len() + 2)?;
    let separated = matches!(status.get(START.len() + 2), None | Some(b' '));
    // 100 is about a body that was asked for here, not by the client's side (RFC 9110 section 10.1.1).
    if digits == b"00" || !digits.iter().all(u8::is_ascii_digit) || !separated {
        return None;
    }
    let reason = status.get(START.len() + 3..).unwrap_or_default();
    HeaderValue::from_bytes(reason).ok()?;
    let mut fields = HeaderMap::new();
    for line in lines {
        let line = line?;
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        fields.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    headers::to_downstream(&mut fields);
    // It has no body, whatever it says.
    fields.remove(http::header::CONTENT_LENGTH);
    let mut written = [b"HTTP/1.1 1", digits, b" ", reason, b"\r\n"].concat();
    for (name, value) in &fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            written.extend_from_slice(part);
        }
    }
    written.extend_from_slice(b"\r\n");
    Some(written)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What hyper sees and what the client gets, if the bytes come in these pieces, and then the end.
    fn read(pieces: &[&[u8]], room: usize) -> (String, String) {
        let interim = Interim::default();
        interim.begin();
        let (mut seen, mut told) = (Vec::new(), Vec::new());
        let mut memory = vec![0; room];
        for piece in pieces.iter().flat_map(|piece| piece.chunks(room)).chain([&b""[..]]) {
            let mut buf = ReadBuf::new(&mut memory);
            while interim.release(&mut buf) {
                seen.extend_from_slice(buf.filled());
                buf.clear();
            }
            buf.put_slice(piece);
            if interim.pass(&mut buf, 0) {
                seen.extend_from_slice(buf.filled());
            }
            told.extend(interim.take());
        }
        let mut buf = ReadBuf::new(&mut memory);
        while interim.release(&mut buf) {
            seen.extend_from_slice(buf.filled());
            buf.clear();
        }
        (String::from_utf8(seen).unwrap(), String::from_utf8(told).unwrap())
    }

    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[test]
    fn what_comes_before_an_answer_is_for_the_client() {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nconnection: x-one\r\nx-one: 1\r\n\
                     content-length: 5\r\n\r\n";
        let wire = format!("HTTP/1.1 100 Continue\r\n\r\n{hints}HTTP/1.1 102 \r\n\r\n{ANSWER}");
        let told = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 \r\n\r\n";
        assert_eq!(read(&[wire.as_bytes()], 4096), (ANSWER.into(), told.into()));
    }

    #[test]
    fn what_was_said_of_one_request_is_never_told_of_the_next() {
        let interim = Interim::default();
        interim.begin();
        let mut memory = [0; 256];
        let mut buf = ReadBuf::new(&mut memory);
        buf.put_slice(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 1");
        assert!(!interim.pass(&mut buf, 0));
        interim.begin();
        assert_eq!((interim.take(), interim.release(&mut buf)), (Vec::new(), false));
    }

    #[test]
    fn what_is_no_interim_answer_is_left_to_hyper() {
        for wire in [
            ANSWER,
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\nbytes",
            "HTTP/1.0 103 Early\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nlink",
            "HTTP/1.1 1",
            "HTTP/1",
            "garbage",
            "",
        ] {
            assert_eq!(read(&[wire.as_bytes()], 4096), (wire.into(), String::new()));
        }
        let long = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n{ANSWER}", "x".repeat(LONGEST));
        assert!(read(&[long.as_bytes()], 4096) == (long, String::new()));
    }

    #[test]
    fn what_cannot_be_understood_is_told_nobody() {
        for head in [
            "HTTP/1.1 103 a\r\n folded: 1\r\n\r\n",
            "HTTP/1.1 103 a\r\nno field\r\n\r\n",
            "HTTP/1.1 103 a\nlink: 1\r\n\r\n",
            "HTTP/1.1 103 a\r\na b: 1\r\n\r\n",
            "HTTP/1.1 103 a\r\nlink: 1\rx: 2\r\n\r\n",
            "HTTP/1.1 1x3 a\r\n\r\n",
            "HTTP/1.1 1033\r\n\r\n",
        ] {
            assert_eq!(read(&[format!("{head}{ANSWER}").as_bytes()], 4096), (ANSWER.into(), String::new()), "{head:?}");
        }
    }

    proptest! {
        #[test]
        fn it_never_matters_in_which_pieces_it_comes(cuts in proptest::collection::vec(1..40usize, 0..20), room in 1..64usize) {
            let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
            let wire = format!("{hints}HTTP/1.1 100 Continue\r\n\r\n{hints}{ANSWER}");
            let mut rest = wire.as_bytes();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = left;
            }
            pieces.push(rest);
            pieces.retain(|piece| !piece.is_empty());
            prop_assert_eq!(read(&pieces, room), (ANSWER.to_owned(), format!("{hints}{hints}")));
        }
    }
}
