//! Time and order, exactly: a worker whose clock stands still until a test moves it.
//!
//! Everything is on one thread: the clients, the worker, the applications. The sockets between them are real ones, of the
//! loopback, and what is written to one can be read from the other at once. The worker's slow clock is moved by hand, and
//! while nobody moves it nothing can be late. So a bound is held against the very tick at which its time is over, and
//! minutes pass in an instant. Only the bounds on connecting and on the queue are not that clock's but timers'; they are
//! out of the way here, except where a test wants one.

use std::net::SocketAddr;
use std::pin::pin;

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::route::live;
use crate::route::matches::{Match, PathMatch};
use crate::route::policy::Outliers;
use crate::route::{Action, Backend, Identity, Route, RouteName, Routing, Shares};

/// A second of the worker's clock.
const SECOND: u32 = 10;

/// In ticks. A wait that is over is noticed with the tick after it.
fn ticks(bound: Duration) -> u32 {
    (bound.as_millis() / TICK.as_millis()) as u32
}

/// Runs on a worker's kind of runtime.
fn by_hand(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(test());
}

/// Lets everybody do what there is to do, until that has happened.
async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !happened() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody moves, and still not: {what}");
        // Each turn of the loop lets every task run and asks the kernel what has come.
        tokio::task::yield_now().await;
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut noop = Context::from_waker(Waker::noop());
    let mut done = None;
    until(what, || {
        if let Poll::Ready(value) = future.as_mut().poll(&mut noop) {
            done = Some(value);
        }
        done.is_some()
    })
    .await;
    done.expect("it has happened")
}

/// One head and not a byte more.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a head", stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// An answer whose length is told.
async fn answered(stream: &mut TcpStream) -> String {
    let mut answer = head(stream).await;
    let length =
        answer.to_ascii_lowercase().split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    soon("a body", stream.read_exact(&mut body)).await.unwrap();
    answer += std::str::from_utf8(&body).unwrap();
    answer
}

async fn expect(stream: &mut TcpStream, bytes: &str) {
    let mut read = vec![0; bytes.len()];
    soon(bytes, stream.read_exact(&mut read)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read), bytes);
}

/// Everything until the end, however it comes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut read)).await;
    read
}

async fn rest_as_text(stream: &mut TcpStream) -> String {
    String::from_utf8(rest(stream).await).unwrap()
}

async fn send(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    soon("room to write", stream.write_all(bytes.as_ref())).await.unwrap();
}

/// Neither a byte nor the end has come.
fn assert_silent(stream: &TcpStream, when: &str) {
    let mut byte = [0];
    let read = stream.try_read(&mut byte);
    let silent = read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    assert!(silent, "{when}: {read:?} {byte:?}");
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn listen() -> TcpListener {
    TcpListener::bind(loopback()).await.unwrap()
}

/// Accepts nobody: its queue is full, and the kernel drops whatever comes after.
struct Deaf {
    address: SocketAddr,
    _full: (Socket, Vec<std::net::TcpStream>),
}

impl Deaf {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&loopback().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        // The kernel takes one more than it was told.
        let first = std::net::TcpStream::connect(address).unwrap();
        Self { address, _full: (socket, vec![first]) }
    }
}

struct Scene {
    worker: Rc<Worker>,
    application: TcpListener,
    front: TcpListener,
    listener: Rc<Listener>,
}

impl Scene {
    /// One worker before one application, which is both versions: all requests go to the stable one.
    async fn new(adjust: impl FnOnce(&mut Routing, &mut Listener)) -> Self {
        let (application, front) = (listen().await, listen().await);
        let backend = |version, role| Backend {
            version: VersionHash::new(version),
            role,
            endpoints: [application.local_addr().unwrap()].into(),
            transport: Default::default(),
        };
        let mut routing = Routing {
            backends: vec![backend("v1", Role::Stable), backend("v2", Role::Canary)],
            split: Shares::all(VersionHash::new("v1")),
            routes: Vec::new(),
            sticky: None,
            override_: None,
            policy: Policy::default(),
        };
        routing.policy.timeouts.connect = Duration::from_secs(3600);
        routing.policy.timeouts.queue = Duration::from_secs(3600);
        let mut listener = Listener::plain(front.local_addr().unwrap(), 0);
        adjust(&mut routing, &mut listener);
        let (mut publisher, live) = live::channel(1);
        let worker = tests::worker(&live);
        publisher.publish(vec![Snapshot::build(routing, &Identity::random(), None).unwrap()]);
        Self { worker, application, front, listener: Rc::new(listener) }
    }

    async fn with_timeouts(adjust: impl FnOnce(&mut Timeouts)) -> Self {
        Self::new(|routing, _| adjust(&mut routing.policy.timeouts)).await
    }

    /// A new client, whose connection the worker has.
    async fn client(&self) -> TcpStream {
        let client = soon("a connection", TcpStream::connect(self.front.local_addr().unwrap())).await.unwrap();
        let (accepted, _) = soon("the connection", self.front.accept()).await.unwrap();
        self.worker.serve(accepted, &self.listener);
        client
    }

    /// The application's side of the next connection to it, with the head of its first request.
    async fn accept(&self) -> (TcpStream, String) {
        let (mut stream, _) = soon("a request", self.application.accept()).await.unwrap();
        let head = head(&mut stream).await;
        (stream, head)
    }

    /// A client whose request has arrived at the application.
    async fn asked(&self, request: &str) -> (TcpStream, TcpStream) {
        let mut client = self.client().await;
        send(&mut client, request).await;
        let (application, _) = self.accept().await;
        (client, application)
    }

    /// Time goes on, tick by tick, and everybody does what there is to do.
    async fn pass(&self, ticks: u32) {
        for _ in 0..ticks {
            self.worker.look();
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// To the last moment at which nothing may have happened, and one tick on.
    async fn pass_bound(&self, bound: Duration, waiting: &TcpStream) {
        self.pass(ticks(bound)).await;
        assert_silent(waiting, "before its time");
        self.pass(1).await;
    }

    /// The phase of the only connection.
    fn phase(&self) -> Option<Phase> {
        let connections = self.worker.connections.borrow();
        assert!(connections.len() < 2, "one at a time");
        connections.values().next().map(|state| state.phase())
    }

    async fn reaches(&self, phase: Phase) {
        until(&format!("{phase:?}"), || self.phase() == Some(phase)).await;
    }

    fn stable(&self) -> Arc<VersionCells> {
        self.worker.live(0).unwrap().targets[0].cells.clone()
    }

    fn failures(&self, failure: Failure) -> u64 {
        self.stable().failures[failure as usize].get()
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BEGUN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";

fn assert_refused(answer: &str, status: u16, failure: Failure) {
    let reason = format!("x-splitway-reason: {}\r\n", failure.as_str());
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(&reason), "{answer}");
}

#[test]
fn a_head_has_its_time_from_its_first_byte_however_it_drips() {
    by_hand(async || {
        let scene = Scene::with_timeouts(|timeouts| timeouts.head = Duration::from_secs(2)).await;
        let mut client = scene.client().await;
        // Before the first byte other bounds hold.
        scene.pass(5 * SECOND).await;
        let mut bytes = GET.as_bytes().iter();
        send(&mut client, [*bytes.next().unwrap()]).await;
        scene.reaches(Phase::Head).await;
        for byte in bytes.take(20) {
            send(&mut client, [*byte]).await;
            scene.pass(1).await;
            assert_silent(&client, "before its time");
        }
        scene.pass(1).await;
        assert_refused(&rest_as_text(&mut client).await, 408, Failure::HeadTimeout);
        assert_eq!(scene.phase(), None);
    });
}

#[test]
fn an_idle_connection_ends_with_its_time_and_a_request_begins_it_anew() {
    by_hand(async || {
        let scene = Scene::with_timeouts(|timeouts| timeouts.idle = Duration::from_secs(5)).await;
        let (mut client, mut application) = scene.asked(GET).await;
        for _ in 0..3 {
            // However long the answer takes: that is another bound's.
            scene.pass(8 * SECOND).await;
            send(&mut application, OK).await;
            assert!(answered(&mut client).await.ends_with("ok"));
            scene.reaches(Phase::Idle).await;
            scene.pass(5 * SECOND).await;
            assert_silent(&client, "before its time");
            send(&mut client, GET).await;
            head(&mut application).await;
        }
        send(&mut application, OK).await;
        assert!(answered(&mut client).await.ends_with("ok"));
        scene.reaches(Phase::Idle).await;
        scene.pass_bound(Duration::from_secs(5), &client).await;
        assert_eq!(rest_as_text(&mut client).await, "", "without a word");
    });
}

#[test]
fn the_application_has_its_time_from_the_last_byte_of_the_request() {
    by_hand(async || {
        let bound = Duration::from_secs(3);
        let scene = Scene::with_timeouts(|timeouts| timeouts.first_byte = bound).await;
        let (mut client, mut application) = scene.asked(POST).await;
        for n in 0..10 {
            scene.pass(ticks(bound)).await;
            assert_silent(&client, "before its time");
            let piece = format!("{n:>10}");
            send(&mut client, &piece).await;
            expect(&mut application, &piece).await;
        }
        scene.pass_bound(bound, &client).await;
        let answer = head(&mut client).await;
        assert_refused(&answer, 504, Failure::FirstByteTimeout);
        assert_eq!(scene.failures(Failure::FirstByteTimeout), 1);
        assert!(rest(&mut application).await.is_empty(), "its connection is of no use any more");
    });
}

#[test]
fn a_client_that_owes_its_body_is_the_one_whose_time_is_over() {
    by_hand(async || {
        let bound = Duration::from_secs(3);
        let scene = Scene::with_timeouts(|timeouts| timeouts.first_byte = bound).await;
        let (mut client, mut application) = scene.asked(POST).await;
        send(&mut client, "a part").await;
        expect(&mut application, "a part").await;
        scene.pass_bound(bound, &client).await;
        assert_refused(&head(&mut client).await, 408, Failure::BodyTimeout);
        assert_eq!(scene.failures(Failure::FirstByteTimeout), 0);
    });
}

#[test]
fn an_answer_has_its_time_between_any_two_pieces() {
    by_hand(async || {
        let bound = Duration::from_secs(2);
        let scene = Scene::with_timeouts(|timeouts| timeouts.between_bytes = Some(bound)).await;
        let (mut client, mut application) = scene.asked(GET).await;
        send(&mut application, BEGUN).await;
        head(&mut client).await;
        for n in 0..9 {
            scene.pass(ticks(bound)).await;
            assert_silent(&client, "before its time");
            let piece = format!("{n:>10}");
            send(&mut application, &piece).await;
            expect(&mut client, &piece).await;
        }
        scene.pass_bound(bound, &client).await;
        assert_eq!(rest_as_text(&mut client).await, "", "cut, ten bytes before its end");
        assert_eq!(scene.failures(Failure::IdleTimeout), 1);
    });
}

#[test]
fn a_whole_request_has_one_time_whatever_moves_in_it() {
    by_hand(async || {
        let bound = Duration::from_secs(3);
        let scene = Scene::with_timeouts(|timeouts| {
            timeouts.request = Some(bound);
            timeouts.between_bytes = Some(Duration::from_millis(200));
        })
        .await;
        let (mut client, mut application) = scene.asked(GET).await;
        send(&mut application, BEGUN).await;
        head(&mut client).await;
        for _ in 0..ticks(bound) {
            send(&mut application, "x").await;
            expect(&mut client, "x").await;
            scene.pass(1).await;
            assert_silent(&client, "before its time");
        }
        scene.pass(1).await;
        assert_eq!(rest_as_text(&mut client).await, "", "cut");
        assert_eq!(scene.failures(Failure::RequestTimeout), 1);

        let (mut client, _application) = scene.asked(GET).await;
        scene.pass_bound(bound, &client).await;
        assert_refused(&head(&mut client).await, 504, Failure::RequestTimeout);
    });
}

#[test]
fn a_route_has_bounds_of_its_own() {
    by_hand(async || {
        let (own, all) = (Duration::from_secs(1), Duration::from_secs(9));
        let scene = Scene::new(|routing, _| {
            routing.policy.timeouts.first_byte = all;
            routing.routes.push(Route {
                name: RouteName::new("own"),
                matches: vec![Match { path: Some(PathMatch::Exact("/own".to_owned())), ..Match::default() }],
                action: Action::Send(VersionHash::new("v1")),
                count: true,
                timeouts: Some(Timeouts { first_byte: own, ..routing.policy.timeouts.clone() }),
            });
        })
        .await;
        let (mut client, application) = scene.asked(&GET.replace("/ ", "/own ")).await;
        scene.pass_bound(own, &client).await;
        assert_refused(&head(&mut client).await, 504, Failure::FirstByteTimeout);
        drop((client, application));
        until("nobody there", || scene.phase().is_none()).await;
        let (mut client, _application) = scene.asked(GET).await;
        scene.pass_bound(all, &client).await;
        assert_refused(&head(&mut client).await, 504, Failure::FirstByteTimeout);
    });
}

/// The two sides of the boundary, and in between.
#[test]
fn an_answer_that_comes_with_the_last_tick_is_passed_on_or_refused_but_never_both() {
    by_hand(async || {
        let bound = Duration::from_secs(1);
        for order in 0..3 {
            let scene = Scene::with_timeouts(|timeouts| timeouts.first_byte = bound).await;
            let (mut client, mut application) = scene.asked(GET).await;
            scene.pass(ticks(bound)).await;
            match order {
                // It comes, and is seen, before the tick.
                0 => {
                    send(&mut application, OK).await;
                    until("the answer", || scene.phase() == Some(Phase::Idle)).await;
                    scene.pass(1).await;
                }
                // It is there when the tick comes, and nobody has looked.
                1 => {
                    send(&mut application, OK).await;
                    scene.worker.look();
                }
                // It comes when the verdict has been spoken, and nobody has heard it.
                _ => {
                    scene.worker.look();
                    send(&mut application, OK).await;
                }
            }
            let answer = answered(&mut client).await;
            if order == 0 || answer.starts_with("HTTP/1.1 200 ") {
                assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
            } else {
                assert_refused(&answer, 504, Failure::FirstByteTimeout);
            }
            // Nothing of it is left for the next request.
            send(&mut client, GET).await;
            if answer.starts_with("HTTP/1.1 200 ") {
                head(&mut application).await;
            } else {
                application = scene.accept().await.0;
            }
            assert_silent(&client, "an answer to nothing");
            send(&mut application, OK.replace("ok", "go")).await;
            assert!(answered(&mut client).await.ends_with("\r\n\r\ngo"));
        }
    });
}

#[test]
fn a_client_that_takes_nothing_is_waited_for_and_the_application_is_not_blamed() {
    by_hand(async || {
        let (idle, between) = (Duration::from_secs(9), Duration::from_secs(1));
        let scene = Scene::with_timeouts(|timeouts| {
            timeouts.idle = idle;
            timeouts.between_bytes = Some(between);
        })
        .await;
        let (mut client, mut application) = scene.asked(GET).await;
        send(&mut application, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        head(&mut client).await;
        // Until no side takes any more.
        let mut full = 0;
        until("everything full", || {
            let wrote = application.try_write(&[b'x'; 65536]).is_ok();
            full = if wrote { 0 } else { full + 1 };
            full > 100
        })
        .await;
        scene.pass(ticks(idle)).await;
        assert_eq!(scene.phase(), Some(Phase::Answering));
        scene.pass(1).await;
        until("its end", || scene.phase().is_none()).await;
        assert_eq!(scene.failures(Failure::IdleTimeout), 0);
    });
}

#[test]
fn a_tunnel_has_its_time_from_the_last_byte_either_way() {
    by_hand(async || {
        let bound = Duration::from_secs(4);
        let scene = Scene::with_timeouts(|timeouts| timeouts.tunnel_idle = bound).await;
        let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let (mut client, mut application) = scene.asked(ask).await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        send(&mut application, switch).await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
        scene.reaches(Phase::Tunnel).await;
        for n in 0..6 {
            scene.pass(ticks(bound)).await;
            let (from, to) = if n % 2 == 0 { (&mut client, &mut application) } else { (&mut application, &mut client) };
            assert_silent(from, "before its time");
            // A whole frame of three letters, masked with nothing where it comes from a client.
            let frame: &[u8] = if n % 2 == 0 { b"\x81\x83\0\0\0\0abc" } else { b"\x81\x03abc" };
            send(from, frame).await;
            let mut read = vec![0; frame.len()];
            soon("the frame", to.read_exact(&mut read)).await.unwrap();
            assert_eq!(read, frame);
        }
        scene.pass_bound(bound, &client).await;
        // Close frames with 1001, "going away" (RFC 6455 section 7.4.1).
        assert_eq!(rest(&mut client).await[..4], [0x88, 0x02, 0x03, 0xE9]);
        assert_eq!(rest(&mut application).await[..2], [0x88, 0x82]);
    });
}

#[test]
fn whoever_says_nothing_before_http_has_the_time_of_a_handshake() {
    by_hand(async || {
        let bound = Duration::from_secs(2);
        let scene = Scene::new(|routing, listener| {
            routing.policy.timeouts.handshake = bound;
            routing.policy.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
            listener.proxy_protocol = true;
        })
        .await;
        let mut client = scene.client().await;
        send(&mut client, "PROXY TCP4 192.0.2.7 ").await;
        scene.pass_bound(bound, &client).await;
        assert_eq!(rest_as_text(&mut client).await, "");
        assert_eq!(scene.phase(), None);
    });
}

#[test]
fn an_endpoint_that_does_not_take_a_connection_costs_the_time_for_one_and_then_the_other_version_answers() {
    by_hand(async || {
        let (deaf, bound) = (Deaf::new(), Duration::from_millis(100));
        let scene = Scene::new(|routing, _| {
            routing.backends[0].endpoints = [deaf.address].into();
            routing.policy.timeouts.connect = bound;
        })
        .await;
        let begun = std::time::Instant::now();
        let (mut client, mut application) = scene.asked(GET).await;
        assert!(begun.elapsed() >= bound);
        assert_eq!(scene.failures(Failure::ConnectTimeout), 1);
        send(&mut application, OK).await;
        assert!(answered(&mut client).await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn a_request_whose_time_is_over_waits_for_no_connection() {
    by_hand(async || {
        let (deaf, bound) = (Deaf::new(), Duration::from_secs(2));
        let scene = Scene::new(|routing, _| {
            routing.backends[0].endpoints = [deaf.address].into();
            routing.policy.timeouts.request = Some(bound);
        })
        .await;
        let mut client = scene.client().await;
        send(&mut client, GET).await;
        scene.reaches(Phase::Waiting).await;
        scene.pass_bound(bound, &client).await;
        assert_refused(&answered(&mut client).await, 504, Failure::RequestTimeout);
    });
}

#[test]
fn whoever_leaves_the_queue_when_its_time_is_over_lets_the_next_one_be_the_first() {
    by_hand(async || {
        let bound = Duration::from_secs(2);
        let scene = Scene::new(|routing, _| {
            routing.policy.limits.endpoint_requests = Some(1);
            routing.policy.limits.queue = 2;
            routing.policy.timeouts.request = Some(bound);
        })
        .await;
        let (mut first, mut application) = scene.asked(GET).await;
        scene.pass(SECOND).await;
        let cells = scene.stable();
        let (mut second, mut third) = (scene.client().await, scene.client().await);
        send(&mut second, GET).await;
        until("one in the queue", || cells.queued.get() == 1).await;
        scene.pass(SECOND / 2).await;
        send(&mut third, GET.replace("/ ", "/third ")).await;
        until("two in the queue", || cells.queued.get() == 2).await;
        // The first has its answer with the last tick, and the second the place.
        scene.pass(SECOND / 2).await;
        assert_silent(&second, "before its time");
        send(&mut application, OK).await;
        assert!(answered(&mut first).await.starts_with("HTTP/1.1 200 "));
        assert!(head(&mut application).await.starts_with("GET / "));
        assert_eq!(cells.queued.get(), 1);
        // The second has waited a second by now, which counts.
        scene.pass_bound(Duration::from_secs(1), &second).await;
        assert_refused(&answered(&mut second).await, 504, Failure::RequestTimeout);
        let (mut application, asked) = scene.accept().await;
        assert!(asked.starts_with("GET /third "), "{asked}");
        assert_eq!(cells.queued.get(), 0);
        // Somebody who waits is told at the same tick as somebody who is served.
        let mut fourth = scene.client().await;
        send(&mut fourth, GET).await;
        until("one in the queue", || cells.queued.get() == 1).await;
        send(&mut application, OK).await;
        assert!(answered(&mut third).await.starts_with("HTTP/1.1 200 "));
        head(&mut application).await;
        let mut fifth = scene.client().await;
        send(&mut fifth, GET).await;
        until("one in the queue", || cells.queued.get() == 1).await;
        scene.pass_bound(bound, &fifth).await;
        assert_refused(&answered(&mut fourth).await, 504, Failure::RequestTimeout);
        assert_refused(&answered(&mut fifth).await, 504, Failure::RequestTimeout);
        assert_eq!(cells.queued.get(), 0);
    });
}

#[test]
fn an_idle_connection_to_an_endpoint_ends_with_its_time() {
    by_hand(async || {
        let bound = Duration::from_secs(3);
        let scene = Scene::with_timeouts(|timeouts| timeouts.upstream_idle = bound).await;
        let (mut client, mut application) = scene.asked(GET).await;
        send(&mut application, OK).await;
        assert!(answered(&mut client).await.ends_with("ok"));
        scene.reaches(Phase::Idle).await;
        scene.pass(ticks(bound)).await;
        // Used, it has all of it again.
        send(&mut client, GET).await;
        head(&mut application).await;
        send(&mut application, OK).await;
        assert!(answered(&mut client).await.ends_with("ok"));
        scene.reaches(Phase::Idle).await;
        scene.pass_bound(bound, &application).await;
        assert!(rest(&mut application).await.is_empty());
        assert_silent(&client, "nothing to do with it");
    });
}

#[test]
fn while_the_worker_drains_a_silent_connection_has_a_second_and_a_busy_one_its_answer() {
    by_hand(async || {
        let scene = Scene::with_timeouts(|_| {}).await;
        let (mut busy, mut application) = scene.asked(GET).await;
        let mut fresh = scene.client().await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        scene.worker.enter(Stage::Draining);
        scene.pass_bound(Duration::from_secs(1), &fresh).await;
        assert_eq!(rest_as_text(&mut fresh).await, "");
        scene.pass(5 * SECOND).await;
        send(&mut application, OK).await;
        let answer = rest_as_text(&mut busy).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"), "{answer}");
    });
}

#[test]
fn an_endpoint_that_refuses_is_out_for_twice_as_long_each_time_and_back_with_its_first_answer() {
    by_hand(async || {
        // Nobody listens there, for now.
        let gone = listen().await;
        let address = gone.local_addr().unwrap();
        drop(gone);
        let scene = Scene::new(|routing, _| {
            let other = routing.backends[0].endpoints[0];
            routing.backends[0].endpoints = [address, other].into();
            routing.policy.outliers = Outliers {
                connect_failures: Some(1),
                base_time: Duration::from_secs(1),
                max_time: Duration::from_secs(8),
                ..Outliers::default()
            };
        })
        .await;
        let mut client = scene.client().await;
        let mut kept = None::<TcpStream>;
        // One request with every tick, all of them answered; when did one meet the endpoint that refuses?
        let mut met = Vec::new();
        while met.len() < 7 {
            let before = scene.failures(Failure::ConnectRefused);
            send(&mut client, GET).await;
            match &mut kept {
                Some(application) => drop(head(application).await),
                None => kept = Some(scene.accept().await.0),
            }
            send(kept.as_mut().unwrap(), OK).await;
            assert!(head(&mut client).await.starts_with("HTTP/1.1 200 "));
            expect(&mut client, "ok").await;
            if scene.failures(Failure::ConnectRefused) > before {
                met.push(scene.worker.now().0);
            }
            scene.reaches(Phase::Idle).await;
            scene.pass(1).await;
        }
        let out: Vec<u32> = met.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (n, out) in out.iter().enumerate() {
            let middle = 10 << n.min(3);
            // A quarter less or more, and the tick with which it is noticed.
            assert!((middle * 3 / 4..=middle * 5 / 4 + 1).contains(out), "{out} ticks, the {n}. time: {met:?}");
        }
        assert_eq!(scene.stable().endpoints_returned.get(), 0);

        let back = TcpListener::bind(address).await.unwrap();
        let failures = scene.failures(Failure::ConnectRefused);
        scene.pass(8 * SECOND * 5 / 4 + 1).await;
        send(&mut client, GET).await;
        let (mut trial, _) = soon("the trial", back.accept()).await.unwrap();
        head(&mut trial).await;
        assert_eq!(scene.stable().endpoints_returned.get(), 0);
        send(&mut trial, OK).await;
        head(&mut client).await;
        assert_eq!(scene.stable().endpoints_returned.get(), 1);
        assert_eq!(scene.failures(Failure::ConnectRefused), failures);
    });
}

#[test]
fn the_budget_of_second_tries_is_one_of_the_last_ten_seconds() {
    by_hand(async || {
        let scene = Scene::new(|routing, _| {
            routing.policy.retry.tries = 1;
            routing.policy.retry.other_version = false;
            routing.policy.retry.budget_min = 3;
        })
        .await;
        let mut client = scene.client().await;
        // The application takes each request and says nothing.
        let application = async {
            loop {
                drop(scene.accept().await);
            }
        };
        let requests = async {
            let mut refused = async || {
                send(&mut client, GET).await;
                assert_refused(&answered(&mut client).await, 502, Failure::UpstreamClosed);
            };
            let cells = scene.stable();
            let counts = || (cells.retries.get(), cells.retries_withheld.get());
            for _ in 0..5 {
                refused().await;
            }
            assert_eq!(counts(), (3, 2));
            scene.pass(10 * SECOND - 1).await;
            refused().await;
            assert_eq!(counts(), (3, 3), "in the tenth second");
            scene.pass(1).await;
            refused().await;
            assert_eq!(counts(), (4, 3), "in the eleventh");
        };
        tokio::select! {
            () = requests => {}
            () = application => {}
        }
    });
}

/// One connection with several requests, as a library speaks it.
async fn http2_client(scene: &Scene) -> http2::SendRequest<Empty<Bytes>> {
    let stream = scene.client().await;
    let (sender, connection) =
        soon("a handshake", http2::handshake(TokioExecutor::new(), TokioIo::new(stream))).await.unwrap();
    tokio::task::spawn_local(connection);
    sender
}

#[test]
fn each_request_of_an_http_2_connection_has_its_own_time() {
    by_hand(async || {
        let (bound, idle) = (Duration::from_secs(2), Duration::from_secs(7));
        let scene = Scene::with_timeouts(|timeouts| {
            timeouts.first_byte = bound;
            timeouts.idle = idle;
        })
        .await;
        let mut client = http2_client(&scene).await;
        let mut ask = || {
            let request = Request::get("http://a/").body(Empty::new()).unwrap();
            tokio::task::spawn_local(client.send_request(request))
        };
        let first = ask();
        let (_silent, _) = scene.accept().await;
        scene.pass(SECOND).await;
        let second = ask();
        let (mut speaks, _) = scene.accept().await;
        scene.pass(SECOND).await;
        assert!(!first.is_finished() && !second.is_finished());
        scene.pass(1).await;
        let answer: Response<Incoming> = soon("the first answer", first).await.unwrap().unwrap();
        assert_eq!(answer.status(), 504);
        assert!(!second.is_finished());
        send(&mut speaks, OK).await;
        let answer = soon("the second answer", second).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(soon("its body", answer.into_body().collect()).await.unwrap().to_bytes(), "ok");
        // The connection is idle from here on.
        scene.pass(ticks(idle)).await;
        assert!(client.is_ready(), "before its time");
        scene.pass(2).await;
        until("the end announced", || !client.is_ready()).await;
        until("the end", || scene.phase().is_none()).await;
    });
}
