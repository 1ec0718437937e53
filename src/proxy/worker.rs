//! Threads, listeners, the accept loop, the slow tick, drain.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::watch;

use super::connection;
use super::gates::Gates;
use super::listen;
use super::mirror::Copies;
use super::queue::Rooms;
use super::state::{Phase, State, TICK, Tick};
use super::upstream::Upstream;
use super::{Failure, Listener, Settings};
use crate::metrics::{Metrics, ProxyCells, VersionCells};
use crate::record::{self, Pen};
use crate::route::live::{Live, View};
use crate::route::policy::{Limits, Policy, Timeouts};
use crate::route::transport::Transport;
use crate::route::{Role, Snapshot, VersionHash};

/// How far the proxy has come with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Ports are shared, and nobody is to come here yet.
    Opening,
    Serving,
    /// Still accepting, but every answer asks its client to connect anew: load balancers are looking for somebody else.
    Leaving,
    /// No longer accepting; idle connections close, requests in flight finish.
    Draining,
    /// Whatever is left is cut.
    Gone,
}

/// Sockets that are bound, threads that have not started.
pub struct Bound {
    settings: Settings,
    /// One list per worker; the same addresses in each, in the order of the settings.
    sockets: Vec<Vec<StdListener>>,
    addresses: Vec<SocketAddr>,
}

/// Opens every listener once per worker.
pub fn bind(settings: Settings) -> io::Result<Bound> {
    let mut sockets: Vec<Vec<StdListener>> = (0..settings.workers).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for Listener { address, .. } in &settings.listeners {
        let opened = listen::open_all(*address, settings.workers, settings.reuse_port)
            .and_then(|opened| Ok((opened[0].local_addr()?, opened)))
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        addresses.push(opened.0);
        for (worker, socket) in sockets.iter_mut().zip(opened.1) {
            worker.push(socket);
        }
    }
    Ok(Bound { settings, sockets, addresses })
}

impl Bound {
    /// The addresses really bound, in the order of the settings.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Starts the workers. They answer 503 until the first snapshot is live. If ports are shared, connections are for others
    /// to take until [`Running::open`].
    pub fn run(self, live: &Live, metrics: &Arc<Metrics>, records: &record::Sender) -> io::Result<Running> {
        let shared = self.settings.reuse_port;
        let (stage, _) = watch::channel(if shared { Stage::Opening } else { Stage::Serving });
        let unopened = self.sockets.iter().flatten().filter(|_| shared).map(StdListener::try_clone);
        let unopened = unopened.collect::<io::Result<Vec<_>>>()?;
        let open = Arc::new(AtomicUsize::new(0));
        let accepting = Arc::new(AtomicUsize::new(self.sockets.iter().map(Vec::len).sum()));
        let rooms = Arc::new(Rooms::default());
        let gates = Arc::new(Gates::default());
        let mut threads = Vec::new();
        for (index, sockets) in self.sockets.into_iter().enumerate() {
            let start = Start {
                index,
                sockets: sockets.into_iter().zip(self.settings.listeners.iter().cloned()).collect(),
                live: live.clone(),
                metrics: metrics.clone(),
                records: records.clone(),
                open: open.clone(),
                accepting: accepting.clone(),
                rooms: rooms.clone(),
                gates: gates.clone(),
                reuse_port: self.settings.reuse_port,
                stage: stage.subscribe(),
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || run(start))?;
            threads.push(thread);
        }
        Ok(Running { stage, open, unopened, accepting, threads, settings: self.settings })
    }
}

/// The workers at work.
pub struct Running {
    stage: watch::Sender<Stage>,
    open: Arc<AtomicUsize>,
    /// Sockets at which nobody listens yet.
    unopened: Vec<StdListener>,
    /// Listeners that still take connections, of all workers.
    accepting: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
    settings: Settings,
}

impl Running {
    /// Lets connections come, where ports are shared.
    pub fn open(&mut self) -> io::Result<()> {
        for socket in self.unopened.drain(..) {
            listen::begin(&socket)?;
        }
        self.stage.send_if_modified(|stage| std::mem::replace(stage, (*stage).max(Stage::Serving)) == Stage::Opening);
        Ok(())
    }

    /// From here on every answer asks its client to connect anew.
    pub fn leave(&self) {
        self.stage.send_replace(Stage::Leaving);
    }

    /// Client connections open now.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Ends politely: leaves for `drain.delay`, then lets what is open finish for `drain.timeout`. Returns how many
    /// connections had to be cut.
    pub async fn drain(self) -> usize {
        self.leave();
        tokio::time::sleep(self.settings.drain.delay).await;
        self.stage.send_replace(Stage::Draining);
        let deadline = tokio::time::Instant::now() + self.settings.drain.timeout;
        // A connection that waits to be accepted is not in the count of open ones yet, so the listeners have to end first.
        let busy = || self.accepting.load(Ordering::Acquire) > 0 || self.open_connections() > 0;
        while busy() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let cut = self.open_connections();
        self.stop();
        cut
    }

    /// Ends at once.
    pub fn stop(self) {
        self.stage.send_replace(Stage::Gone);
        for thread in self.threads {
            // A worker that panicked has said so on its way.
            let _ = thread.join();
        }
    }
}

struct Start {
    index: usize,
    sockets: Vec<(StdListener, Listener)>,
    live: Live,
    metrics: Arc<Metrics>,
    records: record::Sender,
    open: Arc<AtomicUsize>,
    accepting: Arc<AtomicUsize>,
    rooms: Arc<Rooms>,
    gates: Arc<Gates>,
    /// Another process may listen on the same ports.
    reuse_port: bool,
    stage: watch::Receiver<Stage>,
}

fn run(start: Start) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime needs a few descriptors, and the listeners already have theirs");
    runtime.block_on(work(start));
}

async fn work(start: Start) {
    let worker = Rc::new(Worker {
        index: start.index,
        ports: (0..start.live.ports()).map(|port| Port::new(start.live.view(port))).collect(),
        cells: start.metrics.proxy(start.index),
        pen: Pen::new(start.records, start.metrics.proxy(start.index)),
        metrics: start.metrics,
        open: start.open,
        rooms: start.rooms,
        gates: start.gates,
        connections: RefCell::default(),
        copies: Copies::default(),
        tick: Cell::new(Tick(0)),
        stage: Cell::new(Stage::Serving),
        random: Cell::new(seed()),
        stream: RefCell::default(),
    });
    let mut accepting = Vec::new();
    for (socket, settings) in start.sockets {
        let settings = Rc::new(settings);
        let (worker, mut stage, count) = (worker.clone(), start.stage.clone(), start.accepting.clone());
        accepting.push(tokio::task::spawn_local(async move {
            // Told to leave before it was told to begin: then there is nobody to serve.
            if stage.wait_for(|stage| *stage > Stage::Opening).await.is_ok() && listen::has_begun(&socket) {
                let listener = TcpListener::from_std(socket).expect("a bound socket can be registered");
                accept(worker, listener, settings, start.reuse_port, stage).await;
            }
            // Release: whoever sees this sees the connections that were accepted before.
            count.fetch_sub(1, Ordering::Release);
        }));
    }
    let mut stage = start.stage;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => worker.look(),
            changed = stage.changed() => {
                // A dropped sender is an end, too.
                let now = if changed.is_ok() { *stage.borrow() } else { Stage::Gone };
                worker.enter(now);
                if now == Stage::Gone {
                    worker.last_frames().await;
                    break;
                }
            }
        }
    }
    for task in accepting {
        task.abort();
    }
}

fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("worker") | 1
}

/// Takes connections until the worker drains; then whatever the kernel has already accepted, and no more.
async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    settings: Rc<Listener>,
    reuse_port: bool,
    mut stage: watch::Receiver<Stage>,
) {
    take_until(stage.wait_for(|stage| *stage >= Stage::Draining), &worker, &listener, &settings).await;
    if reuse_port && !listen::kernel_moves() && listen::begin_no_more(&listener) {
        take_until(tokio::time::sleep(listen::HANDSHAKES), &worker, &listener, &settings).await;
    }
    // The kernel is asked itself: the runtime may not have heard yet of what has just come. An error is the end of the
    // queue, or of what can be done about it.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, _)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            worker.serve(stream, &settings);
        }
    }
}

async fn take_until<T>(
    end: impl Future<Output = T>,
    worker: &Rc<Worker>,
    listener: &TcpListener,
    settings: &Rc<Listener>,
) {
    let mut end = std::pin::pin!(end);
    let mut spare = spare_descriptor();
    // How often in a row there was no descriptor.
    let mut shortage = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = &mut end => return,
        };
        match accepted {
            Ok((stream, _)) => {
                shortage = 0;
                worker.serve(stream, settings);
            }
            // Out of descriptors or memory: wait for some to come back rather than spin. Other errors belong to a
            // connection that died in the queue.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) =>
            {
                shortage += 1;
                if shortage > PATIENT_LOOKS {
                    spare = refuse_some(worker, listener, settings, spare);
                }
                tokio::time::sleep(SHORTAGE).await;
            }
            Err(_) => {}
        }
    }
}

/// Between two looks whether there are descriptors again, and after how many that fail clients no longer wait: they are
/// told to try elsewhere, a few at each look.
const SHORTAGE: Duration = Duration::from_millis(50);
const PATIENT_LOOKS: usize = 10;
const REFUSED_AT_A_LOOK: usize = 16;

/// A descriptor kept for bad times.
fn spare_descriptor() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

/// Gives the spare descriptor away to take connections that nobody can serve, one at a time. Returns a new one.
fn refuse_some(
    worker: &Worker,
    listener: &TcpListener,
    settings: &Listener,
    spare: Option<OwnedFd>,
) -> Option<OwnedFd> {
    drop(spare);
    let mut noop = Context::from_waker(Waker::noop());
    for _ in 0..REFUSED_AT_A_LOOK {
        let Poll::Ready(Ok((stream, _))) = listener.poll_accept(&mut noop) else { break };
        worker.refuse(&stream, settings, Failure::NoDescriptors);
    }
    spare_descriptor()
}

/// One version, as this worker reaches and counts it.
pub struct Target {
    pub role: Role,
    pub version_value: HeaderValue,
    pub baggage_value: HeaderValue,
    pub upstream: Rc<Upstream>,
    pub transport: Transport,
    pub cells: Arc<VersionCells>,
}

/// A snapshot with this worker's side of it. A request holds on to it, so that a change cannot pull anything away.
pub struct Aligned {
    pub snapshot: Arc<Snapshot>,
    /// One per backend of the snapshot.
    pub targets: Vec<Rc<Target>>,
    /// One label per route of the snapshot.
    pub routes: Vec<u16>,
    /// The bounds on waiting of each route that has its own.
    pub timeouts: Vec<Option<Rc<Timeouts>>>,
}

/// What a worker keeps for one port of the application.
struct Port {
    view: View,
    aligned: RefCell<Option<Rc<Aligned>>>,
}

impl Port {
    fn new(view: View) -> Self {
        Self { view, aligned: RefCell::default() }
    }
}

/// One thread's world.
pub struct Worker {
    index: usize,
    /// By number. A connection belongs to its listener's port for life.
    ports: Box<[Port]>,
    metrics: Arc<Metrics>,
    pub cells: Arc<ProxyCells>,
    /// Says which requests somebody wants to hear of.
    pub pen: Pen,
    /// Connections of all workers; touched once per connection.
    open: Arc<AtomicUsize>,
    /// The places before endpoints, of all workers; asked once per change.
    rooms: Arc<Rooms>,
    /// What clients of all workers have at once, where there is a bound.
    pub gates: Arc<Gates>,
    connections: RefCell<HashMap<u64, Rc<State>>>,
    /// Copies of mirrored requests on their way.
    pub copies: Copies,
    tick: Cell<Tick>,
    stage: Cell<Stage>,
    random: Cell<u64>,
    /// The HTTP/2 stream whose task runs now.
    stream: RefCell<Option<Rc<State>>>,
}

impl Worker {
    /// A port's newest snapshot with our side of it. One load and one compare, unless something changed.
    #[inline]
    pub fn live(&self, port: usize) -> Option<Rc<Aligned>> {
        let kept = &self.ports[port];
        if kept.view.is_stale() {
            self.align(port);
        }
        kept.aligned.borrow().clone()
    }

    /// Makes our side of a port fit its newest snapshot: once per change, not per request.
    fn align(&self, port: usize) {
        let kept = &self.ports[port];
        let Some(snapshot) = kept.view.newest() else { return };
        let before = kept.aligned.borrow_mut().take();
        // Connections that speak otherwise are of no use any more.
        let upstream = |version: &VersionHash, transport: &Transport| {
            let known = before.as_ref()?;
            let i = known.snapshot.backends().iter().position(|backend| backend.version == *version)?;
            (known.targets[i].transport == *transport).then(|| known.targets[i].upstream.clone())
        };
        let targets: Vec<Rc<Target>> = snapshot
            .backends()
            .iter()
            .map(|backend| {
                let upstream = upstream(&backend.version, &backend.transport).unwrap_or_default();
                upstream.align(&backend.endpoints, snapshot.policy(), &self.rooms);
                Rc::new(Target {
                    role: backend.role,
                    version_value: value(backend.version.as_str()),
                    baggage_value: value(&format!("splitway={};version={}", backend.role.as_str(), backend.version)),
                    upstream,
                    transport: backend.transport.clone(),
                    cells: self.metrics.version(self.index, port, &backend.version, backend.role),
                })
            })
            .collect();
        if let Some(before) = &before {
            for target in &before.targets {
                if !targets.iter().any(|kept| Rc::ptr_eq(&kept.upstream, &target.upstream)) {
                    target.upstream.align(&[], snapshot.policy(), &self.rooms);
                }
                // It may have another role now, and is counted there.
                target.cells.endpoints_out.set(0);
                target.cells.endpoints.forget();
            }
        }
        let routes = snapshot.routes().iter().map(|route| self.metrics.route(&route.name)).collect();
        let timeouts = snapshot.routes().iter().map(|route| route.timeouts.clone().map(Rc::new)).collect();
        *kept.aligned.borrow_mut() = Some(Rc::new(Aligned { snapshot, targets, routes, timeouts }));
    }

    /// The slow clock: a tenth of a second has passed.
    fn look(&self) {
        self.tick.set(Tick(self.tick.get().0 + 1));
        self.pen.look();
        let mut timeouts = Vec::with_capacity(self.ports.len());
        for port in 0..self.ports.len() {
            let live = self.live(port);
            let of_port = live.as_ref().map_or_else(Timeouts::default, |live| live.snapshot.policy().timeouts.clone());
            for target in live.iter().flat_map(|live| &live.targets) {
                target.upstream.look(self.now(), of_port.upstream_idle);
                target.cells.endpoints_out.set(target.upstream.out() as u64);
                target.cells.endpoints.tell(target.upstream.notable());
            }
            timeouts.push(of_port);
        }
        if let Some(live) = self.live(0) {
            self.copies.look(self.now(), live.snapshot.policy());
        }
        for connection in self.connections.borrow().values() {
            connection.look(self.now(), &timeouts[connection.port], self.stage() >= Stage::Draining);
        }
    }

    pub fn now(&self) -> Tick {
        self.tick.get()
    }

    /// A stream's task says so before it does anything: hyper does not tell a request which one it is in.
    pub fn enters_stream(&self, state: &Rc<State>) {
        *self.stream.borrow_mut() = Some(state.clone());
    }

    pub fn stream(&self) -> Option<Rc<State>> {
        self.stream.borrow().clone()
    }

    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Lets tunnels say that they end, which takes each one turn of its task.
    async fn last_frames(&self) {
        let is_tunnel = |connection: &Rc<State>| connection.phase() == Phase::Tunnel;
        let most = self.connections.borrow().len();
        for _ in 0..most {
            if !self.connections.borrow().values().any(is_tunnel) {
                break;
            }
            tokio::task::yield_now().await;
        }
    }

    fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        for connection in self.connections.borrow().values() {
            match stage {
                Stage::Opening | Stage::Serving | Stage::Leaving => {}
                Stage::Draining => connection.finish(),
                Stage::Gone => connection.abort(),
            }
        }
    }

    pub fn limits(&self, port: usize) -> Limits {
        self.live(port).map_or_else(|| Policy::default().limits, |live| live.snapshot.policy().limits.clone())
    }

    /// A number that need not be good, only fast: xorshift (Marsaglia 2003).
    #[inline]
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Begins to serve an accepted connection, or refuses it when there are too many.
    fn serve(self: &Rc<Self>, stream: TcpStream, listener: &Rc<Listener>) {
        let _ = stream.set_nodelay(true);
        self.cells.connections_accepted.add(1);
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.limits(listener.port).connections {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return self.refuse(&stream, listener, Failure::ConnectionLimit);
        }
        let state = State::new(listener.port, self.now());
        let open = Open::new(self.clone(), state.clone());
        let (worker, listener) = (self.clone(), listener.clone());
        tokio::task::spawn_local(async move {
            connection::serve(worker, stream, listener, state).await;
            drop(open);
        });
    }

    /// Counts a connection that gets nothing but the reason; the caller closes it.
    pub fn refuse(&self, stream: &TcpStream, listener: &Listener, failure: Failure) {
        self.cells.refused[failure as usize].add(1);
        // One try, before the request is read: the client that reads it learns why. Through TLS it would not understand.
        if listener.tls.is_none() {
            let _ = stream.try_write(&connection::last_words(failure, failure.explanation()));
        }
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("invalid"))
}

/// A connection in the worker's books, from accept to the end of its task, however that ends.
struct Open {
    worker: Rc<Worker>,
    number: u64,
}

impl Open {
    fn new(worker: Rc<Worker>, state: Rc<State>) -> Self {
        let number = worker.cells.connections_accepted.get();
        worker.connections.borrow_mut().insert(number, state);
        worker.cells.connections.add(1);
        Self { worker, number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let state = self.worker.connections.borrow_mut().remove(&self.number);
        if let Some(ending) = state.and_then(|state| state.ending()) {
            self.worker.cells.connection_ended(ending);
        }
        self.worker.cells.connections.add(-1);
        if std::thread::panicking() {
            self.worker.cells.panics.add(1);
        }
        self.worker.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod time;

#[cfg(test)]
mod tests {
    use hyper::rt::Executor;

    use super::*;
    use crate::proxy::state::Verdict;
    use crate::proxy::streams::Streams;
    use crate::route::PortName;

    /// The worker of one port.
    pub fn worker(live: &Live) -> Rc<Worker> {
        let metrics = Arc::new(Metrics::new(1, live.clone(), vec![PortName::default()]));
        Rc::new(Worker {
            index: 0,
            ports: Box::new([Port::new(live.view(0))]),
            cells: metrics.proxy(0),
            metrics,
            pen: Pen::new(record::channel(Default::default()).0, Arc::default()),
            open: Arc::default(),
            rooms: Arc::default(),
            gates: Arc::default(),
            connections: RefCell::default(),
            copies: Copies::default(),
            tick: Cell::new(Tick(0)),
            stage: Cell::new(Stage::Serving),
            random: Cell::new(1),
            stream: RefCell::default(),
        })
    }

    fn idle() -> Rc<Worker> {
        worker(&crate::route::live::channel(1).1)
    }

    /// Runs on a worker's kind of runtime, where tasks are caught one by one.
    fn locally(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn a_panic_costs_one_connection_and_is_counted() {
        locally(async {
            let worker = idle();
            let task = |panics: bool| {
                worker.cells.connections_accepted.add(1);
                worker.open.fetch_add(1, Ordering::Relaxed);
                let open = Open::new(worker.clone(), State::new(0, worker.now()));
                tokio::task::spawn_local(async move {
                    let _open = open;
                    tokio::task::yield_now().await;
                    assert!(!panics, "as this test wants it");
                })
            };
            let (good, bad, other) = (task(false), task(true), task(false));
            assert_eq!(worker.connections.borrow().len(), 3);
            assert!(good.await.is_ok() && bad.await.is_err_and(|error| error.is_panic()) && other.await.is_ok());
            assert_eq!(worker.cells.panics.get(), 1);
            assert_eq!((worker.connections.borrow().len(), worker.cells.connections.get()), (0, 0));
            assert_eq!(worker.open.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn a_panic_in_a_stream_ends_its_connection_and_no_other() {
        locally(async {
            let worker = idle();
            let (mine, other) = (State::new(0, worker.now()), State::new(0, worker.now()));
            let (done, end) = tokio::sync::oneshot::channel::<()>();
            Streams::new(worker.clone(), mine.clone()).execute(async move {
                // Dropped by the panic.
                let _done = done;
                tokio::task::yield_now().await;
                panic!("as this test wants it");
            });
            assert!(end.await.is_err());
            tokio::task::yield_now().await;
            assert_eq!(worker.cells.panics.get(), 1);
            assert_eq!((mine.verdict(), other.verdict()), (Some(Verdict::Abort), None));
        });
    }
}
