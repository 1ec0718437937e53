//! A request's body on its way through, frame by frame, never whole.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};

use super::Failure;
use super::body::Cut;
use super::headers;
use super::mirror::{Copied, Tee};
use super::state::{Client, note};

/// What becomes of a request's body: shared with the request that waits for the answer, and with the client's connection.
#[derive(Default)]
pub struct Upload {
    pub failure: Cell<Option<Failure>>,
    progress: Cell<Progress>,
    /// Whether a piece has come since this was last asked.
    moved: Cell<bool>,
    given_up: Cell<Option<Failure>>,
    /// Whoever waits for the next piece.
    waiting: RefCell<Option<Waker>>,
    /// The request's fate is decided: nothing of it will be sent again.
    settled: Cell<bool>,
    /// What was given up by a connection that may not have looked at it.
    given_back: RefCell<Option<GivenBack>>,
    client: Option<Rc<Client>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Progress {
    /// There may be more to take.
    #[default]
    Moving,
    /// Everything that has come was passed on: it is the client's turn.
    Awaited,
    /// It has come to its end.
    Whole,
    /// Nobody takes the rest.
    Dropped,
}

impl Upload {
    pub fn of(client: Option<Rc<Client>>) -> Self {
        Self { client, ..Self::default() }
    }

    /// Somebody takes it, and it has not come to its end.
    pub fn is_open(&self) -> bool {
        matches!(self.progress.get(), Progress::Moving | Progress::Awaited)
    }

    pub fn is_awaited(&self) -> bool {
        self.progress.get() == Progress::Awaited
    }

    pub fn is_whole(&self) -> bool {
        self.progress.get() == Progress::Whole
    }

    pub fn has_moved(&self) -> bool {
        self.moved.replace(false)
    }

    /// The rest is not waited for any longer.
    pub fn give_up(&self, failure: Failure) {
        self.given_up.set(Some(failure));
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    /// The request's fate is decided: nothing that was passed on is kept any longer.
    pub fn settle(&self) {
        self.settled.set(true);
        self.given_back.take();
    }

    /// The body from its beginning, if the connection that had it gives it back and not too much of it had been passed on.
    /// A task of that connection has it, and learns of the stream's end with us, so it has a few turns for that.
    pub async fn take_back(self: &Rc<Self>) -> Option<RequestBody> {
        for _ in 0..TURNS {
            if let Some(GivenBack { incoming, room, tee, passed }) = self.given_back.take() {
                self.progress.set(Progress::Moving);
                let again = passed.pieces.into();
                let coming = Coming { incoming, room, upload: self.clone(), tee, passed: None, again };
                return Some(RequestBody(From::Client(Box::new(coming))));
            }
            tokio::task::yield_now().await;
        }
        None
    }
}

/// How often others may run before a body is no longer waited for.
const TURNS: usize = 16;

/// The most of a body that is kept, in bytes, for a request that is refused unread.
const KEPT: usize = 64 * 1024;
/// And in pieces, each of which costs some memory of its own.
const KEPT_PIECES: usize = 256;

struct GivenBack {
    incoming: Incoming,
    room: u64,
    tee: Option<Tee>,
    passed: Passed,
}

/// What has been passed on of a body.
#[derive(Default)]
struct Passed {
    pieces: Vec<Piece>,
    bytes: usize,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Some(Piece::Data(data.clone())),
            (_, Some(trailers)) => Some(Piece::Trailers(trailers.clone())),
            _ => None,
        }
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Piece::Data(data) => Frame::data(data),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Piece::Data(data) => data.len(),
            // A trailer section is a head, which is bounded where it is read.
            Piece::Trailers(_) => 0,
        }
    }
}

impl Passed {
    /// `None`: it has become too much.
    fn with(mut self, frame: &Frame<Bytes>) -> Option<Self> {
        let piece = Piece::of(frame)?;
        self.bytes += piece.bytes();
        self.pieces.push(piece);
        (self.bytes <= KEPT && self.pieces.len() <= KEPT_PIECES).then_some(self)
    }
}

/// A client's body on its way to the application, or the copy of one.
pub struct RequestBody(From);

enum From {
    Nothing,
    /// In a box, because a request is moved several times on its way, and most have no body.
    Client(Box<Coming>),
    Copy(Copied),
}

struct Coming {
    incoming: Incoming,
    /// Bytes that may still come.
    room: u64,
    upload: Rc<Upload>,
    /// Where a copy is taken.
    tee: Option<Tee>,
    /// What has been passed on, while it may have to be once more.
    passed: Option<Passed>,
    /// What is passed on once more, before the rest.
    again: VecDeque<Piece>,
}

impl RequestBody {
    pub fn empty() -> Self {
        Self(From::Nothing)
    }

    pub fn new(incoming: Incoming, limit: Option<u64>, upload: Rc<Upload>, tee: Option<Tee>) -> Self {
        let room = limit.unwrap_or(u64::MAX);
        let coming = Coming { incoming, room, upload, tee, passed: None, again: VecDeque::new() };
        Self(From::Client(Box::new(coming)))
    }

    /// It goes where it may be refused unread.
    pub fn keep(&mut self) {
        if let From::Client(coming) = &mut self.0 {
            coming.passed.get_or_insert_default();
        }
    }

    pub fn copy(copied: Copied) -> Self {
        Self(From::Copy(copied))
    }

    /// What becomes of it, unless it is empty or a copy.
    pub fn upload(&self) -> Option<&Rc<Upload>> {
        match &self.0 {
            From::Client(coming) => Some(&coming.upload),
            From::Nothing | From::Copy(_) => None,
        }
    }
}

impl Coming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.tee.as_ref().is_some_and(Tee::lets_its_copy_go_first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(failure) = self.upload.given_up.get() {
            return Poll::Ready(Some(Err(failure)));
        }
        if let Some(piece) = self.again.pop_front() {
            let frame = piece.into_frame();
            self.passes(&frame);
            if self.again.is_empty() && self.incoming.is_end_stream() {
                self.upload.progress.set(Progress::Whole);
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        let mut next = Pin::new(&mut self.incoming).poll_frame(cx);
        // A frame that carries nothing is passed on to nobody: to an endpoint that counts them it would be an offence, of the
        // connection that others share.
        while let Poll::Ready(Some(Ok(frame))) = &next
            && frame.data_ref().is_some_and(Bytes::is_empty)
        {
            next = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        match next {
            Poll::Pending => {
                self.upload.progress.set(Progress::Awaited);
                note(&mut self.upload.waiting.borrow_mut(), cx);
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.upload.progress.set(Progress::Whole);
                if let Some(tee) = &self.tee {
                    tee.end();
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(blame(&error)))),
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::trailers(trailers);
                    if let Some(client) = &self.upload.client {
                        headers::withhold(trailers, &client.subject_headers);
                    }
                }
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(room) = self.room.checked_sub(bytes) else {
                    return Poll::Ready(Some(Err(Failure::BodyTooLarge)));
                };
                self.room = room;
                self.upload.moved.set(true);
                let last = frame.is_trailers() || self.incoming.is_end_stream();
                self.upload.progress.set(if last { Progress::Whole } else { Progress::Moving });
                if let Some(tee) = &self.tee {
                    tee.pass(&frame, last);
                }
                self.passes(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn passes(&mut self, frame: &Frame<Bytes>) {
        if let Some(passed) = self.passed.take()
            && !self.upload.settled.get()
        {
            self.passed = passed.with(frame);
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let From::Client(coming) = std::mem::replace(&mut self.0, From::Nothing) else { return };
        let Coming { incoming, room, upload, tee, passed, .. } = *coming;
        if !upload.is_whole() {
            upload.progress.set(Progress::Dropped);
        }
        if let Some(passed) = passed
            && !upload.settled.get()
        {
            *upload.given_back.borrow_mut() = Some(GivenBack { incoming, room, tee, passed });
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.0 {
            From::Nothing => Poll::Ready(None),
            From::Client(coming) => coming.poll_frame(cx).map_err(|failure| {
                coming.upload.failure.set(Some(failure));
                Cut(failure)
            }),
            From::Copy(copied) => copied.poll_frame(cx).map_err(Cut),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            From::Nothing => true,
            From::Client(coming) => coming.again.is_empty() && coming.incoming.is_end_stream(),
            From::Copy(copied) => copied.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            From::Nothing => SizeHint::with_exact(0),
            From::Client(coming) => {
                let mut hint = coming.incoming.size_hint();
                let again = coming.again.iter().map(|piece| piece.bytes() as u64).sum::<u64>();
                if again > 0 {
                    // The upper bound first: neither may be beyond the other.
                    if let Some(upper) = hint.upper() {
                        hint.set_upper(upper + again);
                    }
                    hint.set_lower(hint.lower() + again);
                }
                hint
            }
            From::Copy(copied) => copied.size_hint(),
        }
    }
}

/// A chunk that cannot be read is a malformed request; an end before its time is a client that went away.
fn blame(error: &hyper::Error) -> Failure {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match cause {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Failure::BadRequest,
        _ => Failure::ClientGone,
    }
}
