//! The admin listener and its own limits: whatever comes here, the others who ask are heard, and traffic goes on.
//!
//! * So many connections are open at once. When they all are, whoever comes next takes the place of the one that has been
//!   waiting longest to be asked something, so nobody keeps others out by saying nothing or by reading nothing.
//! * Some of them may be streams of events, never all. A stream whose reader does not read is cut, and no stream holds more
//!   than one event for it.
//! * Answers are made on one thread, and after each there is a pause in proportion ([`Pace`]). Workers have threads of
//!   their own, and nothing that is asked here waits for them or makes them wait.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, MutexGuard, Notify, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::page::Page;
use super::peers::Way;
use super::token::Token;
use super::{Context, Settings, answer};

/// A listener that is bound and not yet served.
pub struct Bound {
    listener: std::net::TcpListener,
    address: SocketAddr,
    token: Option<Token>,
}

/// Port 0 takes any free port. `shared`: other processes may listen on it, if they want that, too.
pub fn bind(settings: Settings, shared: bool) -> io::Result<Bound> {
    let Settings { address, token } = settings;
    let open = || -> io::Result<_> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        // Accepted sockets inherit it: what a reader does not take is not kept for it, here or in the kernel.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    match open() {
        Ok((listener, address)) => Ok(Bound { listener, address, token }),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot listen on {address} for admin: {error}"))),
    }
}

/// So that no client can hold more than a little of the process, nor for long.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Open at once.
    pub(super) connections: usize,
    /// How many of them may be streams of events.
    pub(super) streams: usize,
    /// For the head of a request; also for the next one on a connection that is kept.
    pub(super) head: Duration,
    /// For one connection, however busy; then it ends after the answer it is giving.
    pub(super) life: Duration,
    /// For one stream; then its reader asks again, and hears what came since.
    pub(super) stream_life: Duration,
    /// A reader that has taken nothing for so long is cut.
    pub(super) stalled: Duration,
    /// For the last answer of a connection that has to end.
    pub(super) grace: Duration,
}

pub(super) const BOUNDS: Bounds = Bounds {
    connections: 64,
    streams: 16,
    head: Duration::from_secs(5),
    life: Duration::from_secs(60),
    stream_life: Duration::from_secs(3600),
    stalled: Duration::from_secs(30),
    grace: Duration::from_secs(2),
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Bytes that the kernel keeps for a reader; it takes twice as many.
const SEND_BUFFER: usize = 64 * 1024;

/// Bytes of a request's head, and its header lines. Beyond: 431.
const HEAD_BYTES: usize = 16 * 1024;
pub(super) const HEADER_LINES: usize = 64;

/// What all connections of a listener share.
pub(super) struct House {
    pub(super) context: Context,
    /// To the replicas of this proxy.
    pub(super) way: Way,
    pub(super) token: Option<Token>,
    pub(super) page: Page,
    /// Probes have a lane of their own, so that they are never behind anything that takes time.
    pub(super) probes: Pace,
    pub(super) others: Pace,
    pub(super) streams: Arc<Semaphore>,
    /// Of questions that were answered with no.
    pub(super) noes: Seldom,
    /// Tells this process from one before it, in the ids of events.
    pub(super) began: u64,
    pub(super) bounds: Bounds,
    pub(super) stopped: watch::Receiver<bool>,
    /// Somebody who was busy waits again, so the place is to be had.
    idle: Notify,
}

/// At most one line of the log in a second, however often strangers ask for it.
#[derive(Default)]
pub(super) struct Seldom(std::sync::Mutex<Option<Instant>>);

impl Seldom {
    pub(super) fn is_due(&self) -> bool {
        let mut last = self.0.lock().expect("no holder of this lock panics");
        let due = last.is_none_or(|last| last.elapsed() >= Duration::from_secs(1));
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// Keeps this listener from taking more than a quarter of one core for its answers, whoever asks how much: the next one is
/// made after a pause of three times what the last one took. Who asks once in a while never waits.
pub(super) struct Pace(Mutex<Instant>);

/// Reading a request and writing the answer take time as well, which is not seen here.
const LEAST_COST: Duration = Duration::from_micros(100);

impl Pace {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// First come, first served. What is done until the turn is dropped is its cost.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let free_at = self.0.lock().await;
        sleep_until(*free_at).await;
        Turn { began: Instant::now(), free_at }
    }
}

pub(super) struct Turn<'a> {
    began: Instant,
    free_at: MutexGuard<'a, Instant>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        *self.free_at = now + 3 * (now - self.began).max(LEAST_COST);
    }
}

/// What a connection is doing, for those who want its place.
pub(super) struct Place {
    house: Arc<House>,
    since: Instant,
    doing: AtomicU8,
    /// When the reader of a stream took something last, in milliseconds since the beginning.
    moved: AtomicU64,
}

/// Nothing is being made for it: it says nothing yet, or is to read what it was answered.
const WAITS: u8 = 0;
const IS_ANSWERED: u8 = 1;
const STREAMS: u8 = 2;

impl Place {
    fn new(house: Arc<House>) -> Self {
        Self { house, since: Instant::now(), doing: AtomicU8::new(WAITS), moved: AtomicU64::new(0) }
    }

    pub(super) fn house(&self) -> &House {
        &self.house
    }

    pub(super) fn streams(&self) {
        self.moves();
        self.doing.store(STREAMS, Ordering::Relaxed);
    }

    pub(super) fn moves(&self) {
        self.moved.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn waits(&self) {
        self.doing.store(WAITS, Ordering::Relaxed);
        self.house.idle.notify_one();
    }

    fn is_waiting(&self) -> bool {
        self.doing.load(Ordering::Relaxed) == WAITS
    }

    /// Resolves when the connection has been there for too long, and says whether it may finish what it is at.
    async fn overstays(&self) -> bool {
        let Bounds { life, stalled, .. } = self.house.bounds;
        loop {
            let age = self.since.elapsed();
            let streams = self.doing.load(Ordering::Relaxed) == STREAMS;
            let left = match streams {
                true => (Duration::from_millis(self.moved.load(Ordering::Relaxed)) + stalled).saturating_sub(age),
                false => life.saturating_sub(age),
            };
            if left.is_zero() {
                return !streams;
            }
            // It may have become a stream meanwhile.
            sleep(left.min(stalled)).await;
        }
    }
}

impl Bound {
    /// The address really bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is over, then for as long as open answers need, but not long. To be run on a tokio runtime.
    pub fn serve(self, context: Context, shutdown: impl Future<Output = ()>) -> impl Future<Output = ()> {
        self.serve_within(BOUNDS, context, shutdown)
    }

    /// The same on an address that may be shared. Once `told` that the proxy leaves, it is the successor's alone; if there is
    /// none, it is still to be heard here that the proxy leaves.
    pub async fn serve_until_succeeded(self, context: Context, told: impl Future<Output = ()>) {
        let settings = Settings { address: self.address, token: self.token.clone() };
        self.serve(context.clone(), told).await;
        let alone = bind(settings.clone(), false).map(drop);
        if let Ok(again) = alone.and_then(|()| bind(settings, true)) {
            again.serve(context, std::future::pending()).await;
        }
    }

    pub(super) async fn serve_within(self, bounds: Bounds, context: Context, shutdown: impl Future<Output = ()>) {
        let listener = TcpListener::from_std(self.listener).expect("a bound socket can be registered");
        let (stop, stopped) = watch::channel(false);
        let house = Arc::new(House {
            context,
            way: Way::new(self.address.port(), self.token.clone()),
            token: self.token,
            page: Page::default(),
            probes: Pace::new(),
            others: Pace::new(),
            streams: Arc::new(Semaphore::new(bounds.streams)),
            noes: Seldom::default(),
            began: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
            bounds,
            stopped,
            idle: Notify::new(),
        });
        let mut guests = Guests::default();
        tokio::pin!(shutdown);
        loop {
            let room = guests.makes_room(bounds.connections);
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = guests.connections.join_next() => {}
                () = house.idle.notified(), if !room => {}
                accepted = listener.accept(), if room => match accepted {
                    Ok((stream, _)) => guests.receive(stream, &house),
                    // Out of descriptors or memory, as a rule: wait for some to come back rather than spin.
                    Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        }
        // What the kernel has accepted already would be lost with the socket.
        while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            guests.receive(stream, &house);
        }
        drop(listener);
        stop.send_replace(true);
        while guests.connections.join_next().await.is_some() {}
    }
}

/// The connections that are open.
#[derive(Default)]
struct Guests {
    connections: JoinSet<()>,
    /// In the order in which they came.
    places: Vec<(Arc<Place>, AbortHandle)>,
}

impl Guests {
    /// Whether one more can come in: there is a free place, or one that somebody only waits in. That one is told to go when
    /// the next has come.
    fn makes_room(&self, most: usize) -> bool {
        self.connections.len() < most || self.places.iter().any(|(place, end)| place.is_waiting() && !end.is_finished())
    }

    fn receive(&mut self, stream: TcpStream, house: &Arc<House>) {
        self.places.retain(|(_, end)| !end.is_finished());
        if self.places.len() >= house.bounds.connections
            && let Some(oldest) = self.places.iter().position(|(place, _)| place.is_waiting())
        {
            self.places.remove(oldest).1.abort();
        }
        let place = Arc::new(Place::new(house.clone()));
        let end = self.connections.spawn(serve_connection(stream, place.clone()));
        self.places.push((place, end));
    }
}

async fn serve_connection(stream: TcpStream, place: Arc<Place>) {
    let house = place.house.clone();
    let service = service_fn(|request| {
        let place = &place;
        async move {
            place.doing.store(IS_ANSWERED, Ordering::Relaxed);
            let answer = answer(place, &request).await;
            if place.doing.load(Ordering::Relaxed) == IS_ANSWERED {
                place.waits();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(house.bounds.head)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADER_LINES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut stopped = house.stopped.clone();
    tokio::select! {
        // An error here is a client that left or spoke nonsense: nobody is there to be told.
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
        may_finish = place.overstays() => if !may_finish { return },
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(house.bounds.grace, connection).await;
}
