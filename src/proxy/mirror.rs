//! Copies of requests, for a version that is to be tried without anybody depending on it.
//!
//! A copy has a task of its own on the worker of its request. It can only be lost, never slow the client: the request
//! passes each piece of its body on and puts a second reference to it into a buffer, from which the copy's connection
//! takes it. When that buffer is full, the copy is given up; when as many copies as may be are on their way, none is
//! begun. When the request is given up, so is its copy. The copy's answer is read up to a bound and thrown away.
//!
//! Copies are kept out of everything that is counted for requests; they have counters of their own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Bytes;

use super::exchange::Exchange;
use super::state::{Tick, note};
use super::upload::RequestBody;
use super::wire::Failed;
use super::worker::{Aligned, Worker};
use super::{Failure, headers};
use crate::metrics::cells::{CopyLabels, CopyOutcome};
use crate::route::Mirror;
use crate::route::policy::Policy;

/// How much of a copy's answer is read so that its connection can be used again, in bytes. Beyond: it is closed.
const ANSWER: usize = 1 << 20;

/// A piece of a body below this many bytes is copied, because a reference could keep a read buffer alive that is many
/// times larger. So the memory behind a buffer's bytes is at most a few times as much (`limits.header-bytes` bounds a read).
const SMALL: usize = 16 * 1024;

/// Begins the copy of a request whose head is ready to be sent. `body`: what is known of its length, if it has one, which
/// is then to be brought by a [`Tee`]. `None`: too many are on their way.
pub fn begin(
    worker: &Rc<Worker>,
    live: &Rc<Aligned>,
    mirror: Mirror,
    head: &Parts,
    body: Option<SizeHint>,
) -> Option<Rc<Twin>> {
    let policy = live.snapshot.policy();
    let target = &live.targets[mirror.to];
    let route = live.routes[mirror.route];
    if worker.copies.0.borrow().len() >= policy.mirror.concurrency {
        target.cells.copies.count(CopyLabels { route, outcome: CopyOutcome::DroppedBusy, code: 0 });
        return None;
    }
    let twin = Rc::new(Twin::new(worker.now(), policy.mirror.buffer, body.is_none()));
    let body = body
        .map_or_else(RequestBody::empty, |hint| RequestBody::copy(Copied { twin: twin.clone(), left: hint.exact() }));
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    let name = live.snapshot.routes()[mirror.route].name.as_str();
    headers::to_mirror(request.headers_mut(), name, policy.mirror.shadow_host);
    if policy.tell_upstream {
        headers::tell(request.headers_mut(), target);
    }
    let open = Open::new(worker.clone(), live.clone(), mirror, twin.clone());
    tokio::task::spawn_local(open.carry(request));
    Some(twin)
}

/// All copies of one worker that are on their way.
#[derive(Default)]
pub struct Copies(RefCell<Vec<Rc<Twin>>>);

impl Copies {
    /// Once per tick: gives up what takes too long.
    pub fn look(&self, now: Tick, policy: &Policy) {
        for twin in self.0.borrow().iter() {
            twin.look(now, policy);
        }
    }
}

/// One copy in the worker's books, from its begin to its end, however that ends.
struct Open {
    worker: Rc<Worker>,
    live: Rc<Aligned>,
    mirror: Mirror,
    twin: Rc<Twin>,
    /// Unless it is told otherwise: the process has ended.
    outcome: CopyOutcome,
}

impl Open {
    fn new(worker: Rc<Worker>, live: Rc<Aligned>, mirror: Mirror, twin: Rc<Twin>) -> Self {
        worker.copies.0.borrow_mut().push(twin.clone());
        Self { worker, live, mirror, twin, outcome: CopyOutcome::Cut }
    }

    async fn carry(mut self, request: Request<RequestBody>) {
        self.outcome = {
            let mut sending = pin!(self.send(request));
            std::future::poll_fn(|cx| {
                if let Some(verdict) = self.twin.verdict.get() {
                    return Poll::Ready(verdict);
                }
                note(&mut self.twin.task.borrow_mut(), cx);
                sending.as_mut().poll(cx)
            })
            .await
        };
    }

    /// Sends it once; a second time only if an idle connection turned out to be closed before anything was sent.
    async fn send(&self, mut request: Request<RequestBody>) -> CopyOutcome {
        let target = &self.live.targets[self.mirror.to];
        let policy = self.live.snapshot.policy();
        let mut again = true;
        loop {
            let Some(endpoint) = target.upstream.choose(self.worker.random(), &[]) else {
                return CopyOutcome::Failed;
            };
            match endpoint.send(request, target, policy, None).await {
                Ok(answer) => {
                    self.twin.code.set(Some(answer.status()));
                    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                        throw_away(answer.into_body(), &self.worker).await;
                    }
                    return CopyOutcome::Answered;
                }
                Err(Failed { failure: Failure::UpstreamClosed, request: Some(unsent) }) if again => {
                    again = false;
                    endpoint.pool.forget_idle();
                    request = unsent;
                }
                Err(_) => return CopyOutcome::Failed,
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.copies.0.borrow_mut().retain(|twin| !Rc::ptr_eq(twin, &self.twin));
        // Nothing is taken any more, and nobody is to be woken.
        self.twin.give_up(self.outcome);
        self.twin.task.take();
        let (outcome, code) = match self.twin.code.get() {
            Some(code) => (CopyOutcome::Answered, code.as_u16()),
            None => (self.outcome, 0),
        };
        let labels = CopyLabels { route: self.live.routes[self.mirror.route], outcome, code };
        self.live.targets[self.mirror.to].cells.copies.count(labels);
    }
}

/// Reads an answer to its end, so that the connection can be kept.
async fn throw_away(mut exchange: Exchange, worker: &Worker) {
    let mut bytes = 0;
    while !exchange.is_end_stream() {
        match std::future::poll_fn(|cx| exchange.poll_frame(cx)).await {
            Some(Ok(frame)) if frame.is_trailers() => break,
            Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => return,
            None => break,
        }
        if bytes > ANSWER {
            return;
        }
    }
    exchange.give_back_whole(worker.now());
}

/// What a request, its copy and the worker's tick tell each other. All on one thread.
pub struct Twin {
    began: Tick,
    /// When the copy's connection has last taken something, or had nothing to take.
    since: Cell<Tick>,
    /// The status of the answer, once its head has come.
    code: Cell<Option<StatusCode>>,
    /// Why it is given up.
    verdict: Cell<Option<CopyOutcome>>,
    /// The copy's task.
    task: RefCell<Option<Waker>>,
    buffer: RefCell<Buffer>,
}

impl Twin {
    fn new(now: Tick, bound: usize, is_whole: bool) -> Self {
        Self {
            began: now,
            since: Cell::new(now),
            code: Cell::default(),
            verdict: Cell::default(),
            task: RefCell::default(),
            // The task is on its way, as if it had been woken.
            buffer: RefCell::new(Buffer { bound, is_whole, is_woken: true, ..Buffer::default() }),
        }
    }

    /// Its request was given up.
    pub fn cut(&self) {
        self.give_up(CopyOutcome::Cut);
    }

    fn give_up(&self, outcome: CopyOutcome) {
        if self.verdict.get().is_some() {
            return;
        }
        self.verdict.set(Some(outcome));
        self.buffer.borrow_mut().clear();
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }

    fn look(&self, now: Tick, policy: &Policy) {
        if self.buffer.borrow_mut().has_moved() {
            self.since.set(now);
        }
        let unanswered = self.code.get().is_none() && self.since.get().is_older(now, policy.timeouts.first_byte);
        if unanswered || self.began.is_older(now, policy.mirror.timeout) {
            self.give_up(CopyOutcome::Failed);
        }
    }
}

/// The place in a request's body where the copy is taken. Dropped before the end: the body will never be whole.
pub struct Tee(Rc<Twin>);

impl Tee {
    pub fn new(twin: Rc<Twin>) -> Self {
        Self(twin)
    }

    /// A piece goes by.
    pub fn pass(&self, frame: &Frame<Bytes>, last: bool) {
        if self.0.verdict.get().is_some() {
            return;
        }
        let fits = self.0.buffer.borrow_mut().put(frame, last);
        if !fits {
            self.0.give_up(CopyOutcome::DroppedSlow);
        }
    }

    /// All has gone by.
    pub fn end(&self) {
        self.0.buffer.borrow_mut().end();
    }

    /// Whether the copy's task was woken for a buffer that is half full, and has not run since. All tasks of a worker share
    /// its thread, and one turn of a fast client's could fill any buffer. So this turn ends here, once per awakening: a
    /// copy whose *application* is slow is not waited for.
    pub fn lets_its_copy_go_first(&self) -> bool {
        let mut buffer = self.0.buffer.borrow_mut();
        buffer.held * 2 > buffer.bound && std::mem::take(&mut buffer.is_woken)
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        if !self.0.buffer.borrow().is_whole {
            self.0.cut();
        }
    }
}

/// The body of a copy.
pub struct Copied {
    twin: Rc<Twin>,
    /// Bytes that are still to come, if the request says.
    left: Option<u64>,
}

impl Copied {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.twin.verdict.get().is_some() {
            return Poll::Ready(Some(Err(Failure::ClientGone)));
        }
        let taken = self.twin.buffer.borrow_mut().take(cx);
        if let (Poll::Ready(Some(frame)), Some(left)) = (&taken, &mut self.left) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        taken.map(|frame| frame.map(Ok))
    }

    pub fn is_end_stream(&self) -> bool {
        self.twin.buffer.borrow().is_at_end()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What has gone by and was not taken yet.
#[derive(Default)]
struct Buffer {
    bound: usize,
    /// Bytes in `pieces` and `small`. Above `bound` only while there is a single piece, which the request's own connection
    /// has in its hands as well.
    held: usize,
    pieces: VecDeque<Bytes>,
    /// After the pieces: small ones, together.
    small: Vec<u8>,
    trailers: Option<HeaderMap>,
    is_whole: bool,
    /// Pieces taken, and how many there were when the tick came by.
    taken: u64,
    seen: u64,
    waiting: Option<Waker>,
    /// Somebody who was waiting was woken.
    is_woken: bool,
}

impl Buffer {
    /// `false`: there is no room for it.
    fn put(&mut self, frame: &Frame<Bytes>, last: bool) -> bool {
        if let Some(data) = frame.data_ref() {
            if self.held > 0 && self.held + data.len() > self.bound {
                return false;
            }
            self.held += data.len();
            if data.len() < SMALL {
                self.small.extend_from_slice(data);
            } else {
                self.close_small();
                self.pieces.push_back(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        self.is_whole |= last;
        self.wake();
        true
    }

    fn end(&mut self) {
        self.is_whole = true;
        self.wake();
    }

    fn take(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        self.is_woken = false;
        if self.pieces.is_empty() {
            self.close_small();
        }
        if let Some(piece) = self.pieces.pop_front() {
            self.held -= piece.len();
            self.taken += 1;
            return Poll::Ready(Some(Frame::data(piece)));
        }
        match self.trailers.take() {
            Some(trailers) => Poll::Ready(Some(Frame::trailers(trailers))),
            None if self.is_whole => Poll::Ready(None),
            None => {
                note(&mut self.waiting, cx);
                Poll::Pending
            }
        }
    }

    fn is_at_end(&self) -> bool {
        self.is_whole && self.held == 0 && self.trailers.is_none()
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.small).into());
        }
    }

    /// Whether something was taken since this was last asked, or there is nothing to take because the client owes it.
    fn has_moved(&mut self) -> bool {
        let awaited = self.held == 0 && !self.is_whole;
        std::mem::replace(&mut self.seen, self.taken) != self.taken || awaited
    }

    fn clear(&mut self) {
        *self = Self { bound: self.bound, is_whole: self.is_whole, ..Self::default() };
    }

    fn wake(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.is_woken = true;
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(length: usize, first: u64) -> Bytes {
        (0..length as u64).map(|i| (first + i) as u8).collect::<Vec<_>>().into()
    }

    proptest! {
        /// Whatever the sizes and the order of putting and taking: nothing is lost, doubled or exchanged, more than the
        /// bound is held only by a single piece, and what does not fit is refused and leaves the rest as it was.
        #[test]
        fn a_buffer_gives_what_it_was_given_and_keeps_its_bound(
            steps in prop::collection::vec(prop_oneof![Just(None), (0..40_000usize).prop_map(Some)], 1..60),
            bound in 1..100_000usize,
        ) {
            let mut buffer = Buffer { bound, ..Buffer::default() };
            let mut cx = Context::from_waker(Waker::noop());
            let (mut put, mut taken) = (0, 0);
            let mut check = |buffer: &mut Buffer, taken: &mut u64| {
                let frame = match buffer.take(&mut cx) {
                    Poll::Ready(Some(frame)) => frame,
                    other => return Ok(other.is_ready()),
                };
                let data = frame.into_data().unwrap();
                prop_assert_eq!(&data, &piece(data.len(), *taken));
                *taken += data.len() as u64;
                Ok(true)
            };
            for step in steps {
                let before = buffer.held;
                match step {
                    None => {
                        check(&mut buffer, &mut taken)?;
                    }
                    Some(length) => {
                        let fits = buffer.put(&Frame::data(piece(length, put)), false);
                        prop_assert_eq!(fits, before == 0 || before + length <= bound);
                        put += if fits { length as u64 } else { 0 };
                    }
                }
                prop_assert_eq!(buffer.held as u64, put - taken);
                let kept: usize = buffer.pieces.iter().map(Bytes::len).sum::<usize>() + buffer.small.len();
                prop_assert_eq!(kept, buffer.held);
                prop_assert!(buffer.held <= bound || buffer.pieces.len() + usize::from(!buffer.small.is_empty()) == 1);
                // Small pieces lie together, so that there are never many.
                prop_assert!(buffer.pieces.iter().filter(|piece| piece.len() < SMALL).count() <= 1 + bound / SMALL);
            }
            buffer.end();
            while !buffer.is_at_end() {
                prop_assert!(check(&mut buffer, &mut taken)?);
            }
            prop_assert_eq!(taken, put);
            prop_assert!(matches!(buffer.take(&mut cx), Poll::Ready(None)));
        }
    }

    #[test]
    fn a_copy_that_lags_behind_is_given_up_and_holds_nothing_any_more() {
        let twin = Rc::new(Twin::new(Tick(0), 100_000, false));
        let tee = Tee::new(twin.clone());
        let large = Frame::data(piece(60_000, 0));
        tee.pass(&large, false);
        assert_eq!((twin.verdict.get(), twin.buffer.borrow().held), (None, 60_000));
        tee.pass(&large, false);
        assert_eq!((twin.verdict.get(), twin.buffer.borrow().held), (Some(CopyOutcome::DroppedSlow), 0));
        tee.pass(&large, true);
        assert_eq!(twin.buffer.borrow().held, 0);
        let mut copied = Copied { twin: twin.clone(), left: None };
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(copied.poll_frame(&mut cx), Poll::Ready(Some(Err(_)))), "what is cut never looks whole");
    }

    #[test]
    fn a_body_that_is_dropped_before_its_end_cuts_the_copy() {
        for (last, verdict) in [(false, Some(CopyOutcome::Cut)), (true, None)] {
            let twin = Rc::new(Twin::new(Tick(0), 100, false));
            let tee = Tee::new(twin.clone());
            tee.pass(&Frame::data(piece(10, 0)), last);
            drop(tee);
            assert_eq!(twin.verdict.get(), verdict);
        }
    }

    #[test]
    fn a_client_lets_its_copy_go_first_once_per_awakening() {
        let twin = Rc::new(Twin::new(Tick(0), 100, false));
        let tee = Tee::new(twin.clone());
        let mut cx = Context::from_waker(Waker::noop());
        let put = || tee.pass(&Frame::data(piece(30, 0)), false);
        put();
        assert!(!tee.lets_its_copy_go_first(), "it is not half full");
        put();
        assert!(tee.lets_its_copy_go_first() && !tee.lets_its_copy_go_first(), "its task has not run");
        put();
        assert!(!tee.lets_its_copy_go_first(), "nobody was woken");
        while twin.buffer.borrow_mut().take(&mut cx).is_ready() {}
        put();
        put();
        assert!(tee.lets_its_copy_go_first(), "it was waiting and is woken");
    }

    #[test]
    fn a_copy_waits_for_its_client_but_not_for_its_application() {
        let mut policy = Policy::default();
        policy.timeouts.first_byte = std::time::Duration::from_secs(1);
        let twin = Rc::new(Twin::new(Tick(0), 100, false));
        let tee = Tee::new(twin.clone());
        let look = |tick: u32| {
            twin.look(Tick(tick), &policy);
            twin.verdict.get()
        };
        assert_eq!(look(300), None, "the client owes the body");
        tee.pass(&Frame::data(piece(30, 0)), true);
        assert_eq!(look(310), None);
        assert_eq!(look(312), Some(CopyOutcome::Failed), "the application does not take it");

        let twin = Rc::new(Twin::new(Tick(0), 100, false));
        let at = |tick: u32| {
            twin.look(Tick(tick), &policy);
            twin.verdict.get()
        };
        assert_eq!((at(600), at(602)), (None, Some(CopyOutcome::Failed)), "nor does it last longer than it may");
    }
}
