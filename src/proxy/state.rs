//! What a client's connection, the requests in it and the worker's slow clock tell each other.
//!
//! No request starts a timer. A connection writes down when its phase began, in ticks of the worker's slow clock, and
//! the worker looks at all connections once per tick. What has waited too long receives a verdict and is woken.
//!
//! In HTTP/1 a connection has one request at a time, and both share one [`State`]. In HTTP/2 each stream has a state of its
//! own, and the connection's knows them.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Version};

use super::tunnel::Half;
use super::upload::Upload;
use super::{Ending, Failure};
use crate::route::policy::Timeouts;

/// The length of one tick: every deadline is kept to within this.
pub const TICK: Duration = Duration::from_millis(100);

/// How long a connection without a request may stay while the worker drains.
const DRAINING_IDLE: Duration = Duration::from_secs(1);

/// How long a client may go on with a request that was refused, after the connection's end was announced to it.
const LINGERING: Duration = Duration::from_secs(2);

/// HTTP/2: so many requests of a connection may come to nothing by their client's doing, as long as they are more than half
/// of all. Then no further ones are taken; and after twice as many it is closed.
const IN_VAIN: u64 = 200;

/// HTTP/2: bytes that are read of one connection before the others have their turn, and before its requests are looked at.
const A_TURN: usize = 64 * 1024;

/// A moment, in ticks since the worker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u32);

impl Tick {
    fn has_passed(self, since: Tick, bound: Duration) -> bool {
        u128::from(self.0.saturating_sub(since.0)) * TICK.as_millis() > bound.as_millis()
    }

    pub fn is_older(self, now: Tick, bound: Duration) -> bool {
        now.has_passed(self, bound)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The connection is being prepared: the handshake of TLS, or what a proxy in front says first.
    Opening,
    /// No byte of a request has come since the last answer.
    Idle,
    /// Some bytes of a head have come.
    Head,
    /// The head is complete, its answer has not begun.
    Waiting,
    /// The answer's head has been passed on.
    Answering,
    /// The answer has ended, the request's body has not.
    Tail,
    /// The connection's end is announced; what still comes is thrown away.
    Lingering,
    /// HTTP/2: the streams have phases of their own.
    Streams,
    /// HTTP has ended, the connection carries whatever the two sides have agreed on.
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Close as soon as no request is open.
    Finish,
    /// The head took too long: answer 408 and close.
    HeadTimeout,
    /// Close now, whatever is open.
    Abort,
}

/// Keeps the waker, unless that one is kept already.
pub fn note(kept: &mut Option<Waker>, cx: &Context<'_>) {
    if !kept.as_ref().is_some_and(|kept| kept.will_wake(cx.waker())) {
        *kept = Some(cx.waker().clone());
    }
}

/// What is the same for every request of a connection.
pub struct Client {
    pub peer: SocketAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
    /// Whether it came through TLS.
    pub secure: bool,
    /// Where clients are sent that should come through TLS: the port.
    pub redirect: Option<u16>,
    /// Who the client has shown to be, and in which header the application learns it.
    pub subject: Option<(HeaderName, HeaderValue)>,
    /// The headers that say so anywhere: a client cannot.
    pub subject_headers: Arc<[HeaderName]>,
    /// Headers that are the same for every request.
    pub forwarding: RefCell<ForwardingCache>,
}

impl Client {
    pub fn new(peer: SocketAddr, local: SocketAddr, secure: bool) -> Self {
        Self {
            peer,
            local,
            secure,
            redirect: None,
            subject: None,
            subject_headers: Arc::default(),
            forwarding: RefCell::default(),
        }
    }
}

/// Values that would otherwise be written anew for each request.
#[derive(Default)]
pub struct ForwardingCache {
    pub peer: Option<HeaderValue>,
    /// The port the client connected to.
    pub port: Option<HeaderValue>,
    /// The `Forwarded` element for the host beside it.
    pub forwarded: Option<(HeaderValue, HeaderValue)>,
}

/// A connection, or a stream of one. All on one thread.
pub struct State {
    /// The number of the application's port that its listener stands before.
    pub port: usize,
    client: OnceCell<Rc<Client>>,
    phase: Cell<Phase>,
    since: Cell<Tick>,
    /// When the head of the request was complete.
    request_since: Cell<Tick>,
    /// Whether the client speaks HTTP/1.0, where the connection's end may be the answer's.
    old: Cell<bool>,
    /// Whether a request has ever come.
    served: Cell<bool>,
    /// Whether an answer has ever begun.
    answered: Cell<bool>,
    /// The request's own bounds, if its route has some.
    own: RefCell<Option<Rc<Timeouts>>>,
    /// The body of the request, if it has one.
    upload: RefCell<Option<Rc<Upload>>>,
    expired: Cell<Option<Failure>>,
    /// How long the try under way has waited for a place before its endpoint, and for a connection.
    waits: Cell<(Duration, Duration)>,
    /// Whether the request asks for a tunnel, and the application's side of it, once it has agreed.
    asks_to_switch: Cell<bool>,
    switched: RefCell<Option<Box<Half>>>,
    /// HTTP/1.1: what the application has said before its answer, as far as the client has not been told.
    interim: RefCell<Vec<u8>>,
    /// Since when the client takes no more bytes, while there are some for it.
    blocked: Cell<Option<Tick>>,
    verdict: Cell<Option<Verdict>>,
    waker: RefCell<Option<Waker>>,
    /// How many requests it may have.
    most: Cell<u64>,
    /// Requests that have begun, in HTTP/2 those of all streams.
    begun: Cell<u64>,
    /// Requests of all streams that came to nothing.
    vain: Cell<u64>,
    /// By which limit it ends.
    ending: Cell<Option<Ending>>,
    /// How many bytes may still be read before it is somebody else's turn.
    turn: Cell<usize>,
    /// HTTP/1: the head that came last was refused and answered without a request.
    refused: Cell<Option<Failure>>,
    /// HTTP/2: the requests in the connection.
    streams: RefCell<Vec<Rc<State>>>,
    /// HTTP/2: since when the client knows that no further request is taken.
    finishing: Cell<Option<Tick>>,
    is_stream: bool,
}

impl State {
    /// A connection that has just been accepted.
    pub fn new(port: usize, now: Tick) -> Rc<Self> {
        Rc::new(Self::begin(port, OnceCell::new(), Phase::Opening, false, now))
    }

    /// A stream of this connection.
    pub fn stream(&self, now: Tick) -> Rc<Self> {
        let stream = Rc::new(Self::begin(self.port, self.client.clone(), Phase::Waiting, true, now));
        self.served.set(true);
        self.begun.set(self.begun.get() + 1);
        self.streams.borrow_mut().push(stream.clone());
        stream
    }

    fn begin(port: usize, client: OnceCell<Rc<Client>>, phase: Phase, is_stream: bool, now: Tick) -> Self {
        Self {
            port,
            client,
            phase: Cell::new(phase),
            since: Cell::new(now),
            request_since: Cell::new(now),
            own: RefCell::new(None),
            upload: RefCell::new(None),
            expired: Cell::new(None),
            waits: Cell::default(),
            asks_to_switch: Cell::new(false),
            switched: RefCell::default(),
            interim: RefCell::default(),
            blocked: Cell::new(None),
            verdict: Cell::new(None),
            old: Cell::new(false),
            served: Cell::new(false),
            answered: Cell::new(false),
            waker: RefCell::new(None),
            most: Cell::new(u64::MAX),
            begun: Cell::new(0),
            vain: Cell::new(0),
            ending: Cell::new(None),
            turn: Cell::new(A_TURN),
            refused: Cell::new(None),
            streams: RefCell::default(),
            finishing: Cell::new(None),
            is_stream,
        }
    }

    /// Who is at the other end. Known before the first request.
    pub fn client(&self) -> &Client {
        self.client.get().expect("a connection that is open knows its client")
    }

    /// The same, to be kept.
    pub fn shared_client(&self) -> Option<Rc<Client>> {
        self.client.get().cloned()
    }

    /// The connection is ready for requests.
    pub fn opens(&self, client: Client, now: Tick) {
        // It opens once.
        let _ = self.client.set(Rc::new(client));
        self.enter(Phase::Idle, now);
    }

    /// It is HTTP/2.
    pub fn has_streams(&self, now: Tick) {
        self.enter(Phase::Streams, now);
    }

    /// The stream's task has ended. A body that goes on after its answer still has its time.
    pub fn stream_ends(&self, stream: &Rc<State>, now: Tick) {
        if stream.is_uploading() {
            return stream.enter(Phase::Tail, now);
        }
        let mut streams = self.streams.borrow_mut();
        if let Some(position) = streams.iter().position(|one| Rc::ptr_eq(one, stream)) {
            streams.swap_remove(position);
        }
        self.since.set(now);
    }

    /// Whether this is one of several requests in a connection.
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub fn is_old(&self) -> bool {
        self.old.get()
    }

    pub fn is_blocked(&self) -> bool {
        self.blocked.get().is_some()
    }

    /// Whether the client takes what there is for it.
    pub fn takes(&self, bytes: bool, now: Tick) {
        if bytes {
            self.blocked.set(None);
        } else if self.blocked.get().is_none() {
            self.blocked.set(Some(now));
        }
    }

    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict.take()
    }

    /// Whether bytes of the request's body may still come that nobody has read.
    pub fn is_unread(&self) -> bool {
        self.upload.borrow().as_ref().is_some_and(|upload| !upload.is_whole())
    }

    /// Who is to be woken for a verdict.
    pub fn note(&self, cx: &Context<'_>) {
        note(&mut self.waker.borrow_mut(), cx);
    }

    pub fn enter(&self, phase: Phase, now: Tick) {
        self.phase.set(phase);
        self.since.set(now);
    }

    pub fn request_begins(&self, now: Tick, version: Version, upload: Option<Rc<Upload>>) {
        self.old.set(version == Version::HTTP_10);
        *self.own.borrow_mut() = None;
        *self.upload.borrow_mut() = upload;
        self.served.set(true);
        self.expired.set(None);
        self.asks_to_switch.set(false);
        self.begun.set(self.begun.get() + 1);
        self.request_since.set(now);
        self.enter(Phase::Waiting, now);
    }

    /// It ends with its request of this number.
    pub fn ends_after(&self, requests: u64) {
        self.most.set(requests);
    }

    /// Whether it has had as many requests as it may have.
    #[inline]
    pub fn has_had_all(&self) -> bool {
        self.begun.get() >= self.most.get()
    }

    /// HTTP/2: one of its requests was given up before its answer, or could not be passed on. Who sends little else means no
    /// answer but the work.
    pub fn was_in_vain(&self) {
        let vain = self.vain.get() + 1;
        self.vain.set(vain);
        if vain < IN_VAIN || 2 * vain <= self.begun.get() {
            return;
        }
        self.ending.set(Some(Ending::Flood));
        self.judge(if vain < 2 * IN_VAIN { Verdict::Finish } else { Verdict::Abort });
    }

    /// Whether an answer has ever begun; a stream has at most one.
    pub fn has_begun_an_answer(&self) -> bool {
        self.answered.get()
    }

    /// It ends by this limit, unless another one was before.
    pub fn ends_by(&self, ending: Ending) {
        if self.ending.get().is_none() {
            self.ending.set(Some(ending));
        }
    }

    pub fn ending(&self) -> Option<Ending> {
        self.ending.get()
    }

    /// It has its turn.
    pub fn turn_begins(&self) {
        self.turn.set(A_TURN);
    }

    /// Whether its turn is over.
    pub fn turn_is_over(&self) -> bool {
        self.turn.get() == 0
    }

    /// Whether that many requests have come, and all have been answered to the last byte.
    pub fn has_answered(&self, requests: u64) -> bool {
        let free = match self.phase.get() {
            Phase::Idle | Phase::Head => self.begun.get() == requests,
            Phase::Tail => !self.is_uploading(),
            _ => false,
        };
        free && !self.is_blocked() && self.switched.borrow().is_none()
    }

    /// Notes why the next request is refused. Whether this is the first time.
    pub fn refuses(&self, failure: Failure) -> bool {
        self.refused.replace(Some(failure)).is_none()
    }

    pub fn refused(&self) -> Option<Failure> {
        self.refused.get()
    }

    /// Its route has bounds of its own for this request.
    pub fn bound_by(&self, own: Rc<Timeouts>) {
        *self.own.borrow_mut() = Some(own);
    }

    /// How long a connection to an endpoint may take, if the request's route says so.
    pub fn connect_bound(&self) -> Option<Duration> {
        self.own.borrow().as_ref().map(|own| own.connect)
    }

    /// The request asks for a tunnel.
    pub fn ask_to_switch(&self) {
        self.asks_to_switch.set(true);
    }

    #[inline]
    pub fn asks_to_switch(&self) -> bool {
        self.asks_to_switch.get()
    }

    /// The application has agreed, and the client is told so.
    pub fn switches_to(&self, half: Half) {
        *self.switched.borrow_mut() = Some(Box::new(half));
    }

    /// What the connection's other side is when HTTP has ended on it, if it is a tunnel then.
    pub fn take_switched(&self) -> Option<Box<Half>> {
        self.switched.take()
    }

    /// The application has said something before its answer. HTTP/1.0 does not know that (RFC 9110 section 15.2), and a
    /// client that does not even take the answer before this one is not told.
    #[inline]
    pub fn hear(&self, interim: Vec<u8>) {
        if !interim.is_empty() && !self.is_stream && !self.is_old() && !self.is_blocked() {
            self.interim.borrow_mut().extend_from_slice(&interim);
        }
    }

    /// What the client is still to be told before its answer.
    pub fn interim(&self) -> &RefCell<Vec<u8>> {
        &self.interim
    }

    /// It has waited in the queue of a busy endpoint, or for a connection to one.
    pub fn waited(&self, queue: Duration, connect: Duration) {
        let waits = self.waits.get();
        self.waits.set((waits.0 + queue, waits.1 + connect));
    }

    /// Forgets how long that was: in the queue, and for a connection.
    pub fn take_waits(&self) -> (Duration, Duration) {
        self.waits.take()
    }

    /// A piece of the answer's body, or anything in a tunnel, has come.
    pub fn answer_moves(&self, now: Tick) {
        self.since.set(now);
    }

    pub fn answer_begins(&self, now: Tick) {
        self.answered.set(true);
        self.enter(Phase::Answering, now);
    }

    pub fn answer_ends(&self, now: Tick) {
        self.enter(if self.is_uploading() { Phase::Tail } else { Phase::Idle }, now);
    }

    fn is_uploading(&self) -> bool {
        self.upload.borrow().as_ref().is_some_and(|upload| upload.is_open())
    }

    /// Bytes have come from the client.
    pub fn bytes_come(&self, bytes: usize, now: Tick) {
        self.turn.set(self.turn.get().saturating_sub(bytes));
        match self.phase.get() {
            Phase::Idle => self.enter(Phase::Head, now),
            Phase::Tail if !self.is_uploading() => self.enter(Phase::Head, now),
            // A body that still arrives keeps the application from answering.
            Phase::Waiting | Phase::Answering | Phase::Tail => self.since.set(now),
            Phase::Opening | Phase::Head | Phase::Lingering | Phase::Streams | Phase::Tunnel => {}
        }
    }

    /// What the request in this connection has failed with, if its time is over.
    #[inline]
    pub fn expired(&self) -> Option<Failure> {
        self.expired.get()
    }

    /// Called once per tick. While the worker drains, a connection without a request is not waited for.
    pub fn look(&self, now: Tick, timeouts: &Timeouts, draining: bool) {
        let own = self.own.borrow();
        let timeouts = match self.phase.get() {
            Phase::Waiting | Phase::Answering => own.as_deref().unwrap_or(timeouts),
            _ => timeouts,
        };
        let waited = |bound| now.has_passed(self.since.get(), bound);
        if let Some(since) = self.blocked.get() {
            if now.has_passed(since, timeouts.idle) {
                return self.judge(Verdict::Abort);
            }
            // It is the client that is waited for, and nobody asks the application for more.
            if self.phase.get() == Phase::Answering {
                self.since.set(now);
            }
        }
        let arrived = self.upload.borrow().as_ref().is_some_and(|upload| upload.has_moved());
        if self.is_stream && arrived {
            self.since.set(now);
        }
        match self.phase.get() {
            Phase::Opening if waited(timeouts.handshake) => self.judge(Verdict::Abort),
            Phase::Streams => self.look_at_streams(now, timeouts, draining),
            // It was told to end, and is still there: whatever holds it up, nobody waits for an answer.
            Phase::Idle if waited(timeouts.idle.saturating_add(LINGERING)) => self.judge(Verdict::Abort),
            Phase::Idle if waited(if draining { DRAINING_IDLE } else { timeouts.idle }) => self.judge(Verdict::Finish),
            Phase::Head if waited(timeouts.head) => self.judge(Verdict::HeadTimeout),
            Phase::Waiting if waited(timeouts.first_byte) => {
                let awaited = self.upload.borrow().as_ref().is_some_and(|upload| upload.is_awaited());
                self.expire(if awaited { Failure::BodyTimeout } else { Failure::FirstByteTimeout })
            }
            Phase::Tail if !self.is_uploading() && !self.is_stream => self.enter(Phase::Idle, now),
            Phase::Tail if waited(timeouts.idle) && self.is_stream => self.give_up_upload(),
            Phase::Tail if waited(timeouts.idle) => self.judge(Verdict::Abort),
            Phase::Tunnel if waited(timeouts.tunnel_idle) => self.judge(Verdict::Abort),
            Phase::Lingering if waited(LINGERING) => self.judge(Verdict::Abort),
            Phase::Waiting | Phase::Answering
                if timeouts.request.is_some_and(|bound| now.has_passed(self.request_since.get(), bound)) =>
            {
                self.expire(Failure::RequestTimeout)
            }
            Phase::Answering if timeouts.between_bytes.is_some_and(waited) => self.expire(Failure::IdleTimeout),
            _ => {}
        }
    }

    fn look_at_streams(&self, now: Tick, timeouts: &Timeouts, draining: bool) {
        let mut streams = self.streams.borrow_mut();
        let before = streams.len();
        streams.retain(|stream| {
            stream.look(now, timeouts, false);
            // A body that its time was up for, and that is still there, is nobody's reason to keep the connection.
            let is_due = || now.has_passed(stream.since.get(), timeouts.idle.saturating_add(LINGERING));
            stream.phase.get() != Phase::Tail || (stream.is_uploading() && !is_due())
        });
        if !streams.is_empty() || before > 0 {
            return self.since.set(now);
        }
        drop(streams);
        match self.finishing.get() {
            None if draining || now.has_passed(self.since.get(), timeouts.idle) => {
                self.finishing.set(Some(now));
                self.judge(Verdict::Finish);
            }
            // It has had the time to say that it has heard.
            Some(since) if now.has_passed(since.max(self.since.get()), LINGERING) => self.judge(Verdict::Abort),
            _ => {}
        }
    }

    /// Nothing has come of a body that goes on after its answer.
    fn give_up_upload(&self) {
        if let Some(upload) = self.upload.borrow().as_ref() {
            upload.give_up(Failure::BodyTimeout);
        }
    }

    /// No further request: an idle connection closes, a busy one after its answer. A fresh one, whose first request is
    /// probably on its way, is left to the tick.
    pub fn finish(&self) {
        if self.served.get() || !matches!(self.phase.get(), Phase::Opening | Phase::Idle) {
            self.judge(Verdict::Finish);
        }
    }

    /// Closes the connection in the middle of whatever it does.
    pub fn abort(&self) {
        self.judge(Verdict::Abort);
    }

    fn judge(&self, verdict: Verdict) {
        self.verdict.set(Some(verdict));
        self.wake();
    }

    fn expire(&self, failure: Failure) {
        if self.expired.get().is_none() {
            self.expired.set(Some(failure));
            self.wake();
        } else if self.phase.get() == Phase::Answering {
            // It was told a tick ago, and has not even looked: the client takes nothing.
            self.judge(Verdict::Abort);
        }
    }

    /// Wakes whoever waits for it, to see what has changed.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_to_end_and_does_not_is_ended() {
        let timeouts = Timeouts { idle: Duration::from_secs(1), ..Timeouts::default() };
        let state = State::new(0, Tick(0));
        state.enter(Phase::Idle, Tick(0));
        let at = |tick| {
            state.look(Tick(tick), &timeouts, false);
            state.verdict()
        };
        // A second, and two more.
        assert_eq!(
            [at(10), at(11), at(30), at(31)],
            [None, Some(Verdict::Finish), Some(Verdict::Finish), Some(Verdict::Abort)]
        );
    }

    #[test]
    fn a_body_that_nobody_ends_keeps_its_connection_no_longer_than_that() {
        let timeouts = Timeouts { idle: Duration::from_secs(1), ..Timeouts::default() };
        let connection = State::new(0, Tick(0));
        connection.has_streams(Tick(0));
        let stream = connection.stream(Tick(0));
        stream.request_begins(Tick(0), Version::HTTP_2, Some(Rc::default()));
        connection.stream_ends(&stream, Tick(0));
        for tick in 1..=30 {
            connection.look(Tick(tick), &timeouts, false);
            assert_eq!((connection.streams.borrow().len(), connection.verdict()), (1, None), "{tick}");
        }
        connection.look(Tick(31), &timeouts, false);
        assert_eq!(connection.streams.borrow().len(), 0);
    }
}
