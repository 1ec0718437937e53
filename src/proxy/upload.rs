//! A request's body on its way through, frame by frame, never whole.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};

use super::Failure;
use super::body::Cut;
use super::headers;
use super::mirror::{Copied, Tee};

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
}

/// A client's body on its way to the application, or the copy of one.
pub struct RequestBody(From);

enum From {
    Nothing,
    Client(Coming),
    Copy(Copied),
}

struct Coming {
    incoming: Incoming,
    /// Bytes that may still come.
    room: u64,
    upload: Rc<Upload>,
    /// Where a copy is taken.
    tee: Option<Tee>,
}

impl RequestBody {
    pub fn empty() -> Self {
        Self(From::Nothing)
    }

    pub fn new(incoming: Incoming, limit: Option<u64>, upload: Rc<Upload>, tee: Option<Tee>) -> Self {
        Self(From::Client(Coming { incoming, room: limit.unwrap_or(u64::MAX), upload, tee }))
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
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                self.upload.progress.set(Progress::Awaited);
                *self.upload.waiting.borrow_mut() = Some(cx.waker().clone());
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
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if !self.upload.is_whole() {
            self.upload.progress.set(Progress::Dropped);
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
            From::Client(coming) => coming.incoming.is_end_stream(),
            From::Copy(copied) => copied.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            From::Nothing => SizeHint::with_exact(0),
            From::Client(coming) => coming.incoming.size_hint(),
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
