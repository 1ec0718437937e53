//! Real processes that are told to leave under load, one after the other: nothing is lost, damaged or done twice.
//!
//! `DRAIN_TERMS=50 DRAIN_REQUESTS=100000 cargo test --test it leave:: -- --nocapture` is the long form. What the frames of
//! a leaving HTTP/2 connection are is in `streams::a_drain_tells_twice_and_finishes_what_is_open`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::process::{Folder, Process, Serving, splitway};
use crate::support::{PATIENCE, soon};

/// In which clients are told to connect anew, and for what is in flight after that.
const DELAY: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_millis(1500);
/// By which the end may come after the limit.
const AFTER_LIMIT: Duration = Duration::from_secs(1);

const KEPT: usize = 8;
const FRESH: usize = 8;
const HTTP2: usize = 3;
const STREAMS: usize = 8;
const TUNNELS: usize = 6;

/// A connection that took this long had its first packet passed over.
const SECOND_PACKET: Duration = Duration::from_millis(900);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What clients, applications and the test share.
struct World {
    /// How often each request has arrived, by number.
    arrivals: Vec<AtomicU8>,
    next: AtomicU64,
    answered: AtomicU64,
    /// Where new connections go.
    target: RwLock<SocketAddr>,
    over: AtomicBool,
    wrong: Mutex<Vec<String>>,
    seen: Mutex<HashMap<&'static str, u64>>,
}

impl World {
    fn count(&self, what: &'static str) {
        *self.seen.lock().unwrap().entry(what).or_default() += 1;
    }

    fn counted(&self, what: &str) -> u64 {
        self.seen.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    /// What is wrong with a request, and how far it had come.
    fn lost(&self, id: u64, begun: Instant, what: &str) {
        let arrived = self.arrivals[id as usize].load(Ordering::Relaxed);
        self.wrong(format!("request {id}: {what} after {:?}, arrived {arrived} times", begun.elapsed()));
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let target = *self.target.read().unwrap();
        let begun = Instant::now();
        let stream = TcpStream::connect(target).await?;
        self.count("connections");
        if begun.elapsed() >= SECOND_PACKET {
            self.count("connections at the second packet");
        }
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn request(&self, id: u64) -> Request<Body> {
        let up = bytes(id, 1);
        let request = Request::post("http://app.local/").header("host", "app.local").header("x-id", id);
        let request = if id.is_multiple_of(2) { request.header("content-length", up.len()) } else { request };
        request.body(pieces(up, id)).unwrap()
    }

    /// Looks at an answer as it comes, to its last byte. Returns its head.
    async fn check(&self, id: u64, answer: Response<Incoming>) -> Option<HeaderMap> {
        let (head, body) = answer.into_parts();
        match body.collect().await.map(|body| body.to_bytes()) {
            Err(error) => self.wrong(format!("request {id}: the answer was cut: {error:?}")),
            Ok(_) if head.status != 200 => self.wrong(format!("request {id}: {} {:?}", head.status, head.headers)),
            Ok(body) if body != bytes(id, 2) => self.wrong(format!("request {id}: another answer")),
            Ok(_) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return Some(head.headers);
            }
        }
        None
    }
}

/// The bytes that belong to a request (`way` 1) or its answer (2): mostly few, now and then more than all buffers hold.
fn bytes(id: u64, way: u64) -> Bytes {
    let mut x = (id + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (way << 32);
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let length = match next() % 32 {
        0 => 300_000,
        1..4 => 40_000,
        _ => 700,
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(next().to_le_bytes());
    }
    bytes.into()
}

/// A body in pieces. Some take their time, so that there is always one in flight.
fn pieces(bytes: Bytes, id: u64) -> Body {
    let (size, pause) = match id % 16 {
        0 => (bytes.len().div_ceil(12), Some(Duration::from_millis(12))),
        _ => (16 * 1024, None),
    };
    let pieces = stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let piece = rest.split_to(size.min(rest.len()));
        Some((Ok(Frame::data(piece)), rest))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// An application that checks what it is sent, and answers with what belongs to it. `/tunnel` echoes.
async fn application(http2: bool, world: &Arc<std::sync::OnceLock<Arc<World>>>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let world = world.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let world = world.get().unwrap().clone();
            let service = service_fn(move |request| {
                let world = world.clone();
                async move { Ok::<_, Infallible>(answer(&world, request).await) }
            });
            tokio::spawn(async move {
                let io = TokioIo::new(stream);
                // The proxy closing its connection is no failure.
                if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(io, service).await;
                } else {
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await;
                }
            });
        }
    });
    address
}

async fn answer(world: &World, request: Request<Incoming>) -> Response<Body> {
    if let Some(key) = request.headers().get("sec-websocket-key") {
        let switch = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        let switch = switch.header("sec-websocket-accept", derive_accept_key(key.as_bytes()));
        tokio::spawn(async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if message.is_binary() && socket.send(message).await.is_err() {
                    return;
                }
            }
        });
        return switch.body(pieces(Bytes::new(), 1)).unwrap();
    }
    let id: u64 = request.headers()["x-id"].to_str().unwrap().parse().unwrap();
    world.arrivals[id as usize].fetch_add(1, Ordering::Relaxed);
    match request.into_body().collect().await.map(|body| body.to_bytes()) {
        Ok(body) if body == bytes(id, 1) => {}
        Ok(_) => world.wrong(format!("request {id}: another body has arrived")),
        Err(error) => world.wrong(format!("request {id}: its body was cut: {error:?}")),
    }
    let down = bytes(id, 2);
    let answer = Response::builder();
    let answer = if id % 4 < 2 { answer.header("content-length", down.len()) } else { answer };
    answer.body(pieces(down, id)).unwrap()
}

/// HTTP/1: one request after the other, over a connection that is kept for as long as the proxy says.
async fn keeps(world: Arc<World>) {
    let mut kept: Option<http1::SendRequest<Body>> = None;
    // Whether the connection has carried an answer.
    let mut used = false;
    while !world.is_over() {
        let id = world.next.fetch_add(1, Ordering::Relaxed);
        loop {
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => match open(&world).await {
                    Ok(sender) => {
                        used = false;
                        sender
                    }
                    Err(error) => break world.wrong(format!("request {id}: no connection: {error}")),
                },
            };
            if sender.ready().await.is_err() {
                continue;
            }
            let begun = Instant::now();
            match sender.try_send_request(world.request(id)).await {
                Ok(answer) => {
                    if let Some(head) = world.check(id, answer).await
                        && head.get("connection").is_none_or(|value| value != "close")
                    {
                        kept = Some(sender);
                        used = true;
                    }
                    break;
                }
                // It was closed before anything was written.
                Err(error) if error.message().is_some() => world.count("not sent"),
                // An idle connection was closed while the request was on its way, which only a client can mend (RFC 9112
                // section 9.3.1). The delay makes it rare. If the request had been passed on, it would arrive twice.
                Err(error) if used && error.error().is_incomplete_message() => world.count("crossed with a close"),
                Err(error) => break world.lost(id, begun, &format!("kept HTTP/1: {:?}", error.into_error())),
            }
        }
    }
}

async fn open(world: &World) -> Result<http1::SendRequest<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let (sender, engine) = http1::handshake(TokioIo::new(world.connect().await?)).await?;
    tokio::spawn(engine);
    Ok(sender)
}

/// HTTP/1: each request over a connection of its own.
async fn comes_anew(world: Arc<World>) {
    while !world.is_over() {
        let id = world.next.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let asked = async {
            let mut sender = open(&world).await?;
            let mut request = world.request(id);
            request.headers_mut().insert("connection", "close".parse()?);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(sender.send_request(request).await?)
        };
        match asked.await {
            Ok(answer) => drop(world.check(id, answer).await),
            Err(error) => world.lost(id, begun, &format!("fresh HTTP/1: {error:?}")),
        }
    }
}

/// HTTP/2: some requests at once over one connection, until that takes no more; then over the next one.
struct Many {
    world: Arc<World>,
    /// The newest connection, and its number.
    newest: tokio::sync::Mutex<(u64, Option<http2::SendRequest<Body>>)>,
}

impl Many {
    /// A connection above this number.
    async fn above(&self, number: u64) -> std::io::Result<(u64, http2::SendRequest<Body>)> {
        let mut newest = self.newest.lock().await;
        if newest.0 <= number {
            newest.1 = None;
        }
        if newest.1.is_none() {
            let io = TokioIo::new(self.world.connect().await?);
            let made = http2::handshake(TokioExecutor::new(), io).await.map_err(std::io::Error::other)?;
            tokio::spawn(made.1);
            *newest = (number.max(newest.0) + 1, Some(made.0));
        }
        Ok((newest.0, newest.1.clone().expect("just made")))
    }

    async fn stream(self: Arc<Self>) {
        let world = &self.world;
        let mut done_with = 0;
        while !world.is_over() {
            let id = world.next.fetch_add(1, Ordering::Relaxed);
            loop {
                let (number, mut sender) = match self.above(done_with).await {
                    Ok(open) => open,
                    Err(error) => break world.wrong(format!("request {id}: no connection: {error}")),
                };
                if sender.ready().await.is_err() {
                    done_with = number;
                    continue;
                }
                let begun = Instant::now();
                match sender.try_send_request(world.request(id)).await {
                    Ok(answer) => break drop(world.check(id, answer).await),
                    Err(error) if error.message().is_some() => {
                        world.count("not sent");
                        done_with = number;
                    }
                    // Above the last stream that GOAWAY named: it has not been looked at (RFC 9113 section 6.8). If it had,
                    // it would arrive twice.
                    Err(error) if names_an_earlier_stream(error.error()) => {
                        world.count("streams above the last one");
                        done_with = number;
                    }
                    Err(error) => break world.lost(id, begun, &format!("HTTP/2: {:?}", error.into_error())),
                }
            }
        }
    }
}

fn names_an_earlier_stream(error: &hyper::Error) -> bool {
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|h2| h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR))
}

/// WebSocket: echoes until the proxy says that it goes, which it must.
async fn talks(world: Arc<World>) {
    'tunnels: while !world.is_over() {
        let opened = async {
            let stream = world.connect().await.map_err(tungstenite::Error::Io)?;
            tokio_tungstenite::client_async("ws://app.local/tunnel", stream).await
        };
        let mut socket = match opened.await {
            Ok((socket, _)) => socket,
            Err(error) => {
                world.wrong(format!("no tunnel: {error:?}"));
                continue;
            }
        };
        for number in 0.. {
            if world.is_over() {
                let _ = socket.close(None).await;
                break 'tunnels;
            }
            let message = bytes(number, 3).slice(..600);
            // An error: the other end is there to be read all the same.
            let _ = socket.send(Message::Binary(message.clone())).await;
            match socket.next().await {
                Some(Ok(Message::Binary(echo))) if echo == message => world.count("echoes"),
                Some(Ok(Message::Close(Some(close)))) if close.code == CloseCode::Away => {
                    world.count("tunnels told 1001");
                    break;
                }
                other => {
                    world.wrong(format!("a tunnel ended after {number} messages without a word: {other:?}"));
                    break;
                }
            }
            // A tunnel is mostly quiet.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

/// A number from the environment.
fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// A proxy process on these addresses, with these arguments more.
async fn start(file: &str, listen: SocketAddr, admin: SocketAddr, more: &[&str]) -> Serving {
    let (listen, admin) = (listen.to_string(), admin.to_string());
    let (delay, limit) = (format!("{}ms", DELAY.as_millis()), format!("{}ms", LIMIT.as_millis()));
    let args = ["run", "--print-addresses", "--config", file, "--listen", &listen, "--admin", &admin];
    let drain = ["--drain-delay", &delay, "--drain-timeout", &limit, "--workers", "2"];
    let mut process = Process::spawn(splitway(&args).args(drain).args(more));
    let Some(line) = process.line().await else { panic!("it has not started: {:#?}", process.log()) };
    let addresses: Value = serde_json::from_str(&line).expect("one line of JSON");
    let address = |value: &Value| value.as_str().expect("an address").parse().expect("an address");
    Serving { process, proxy: address(&addresses["listeners"][0]), admin: address(&addresses["admin"]) }
}

/// How processes follow each other.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Each on a port of its own: new connections go to the next one when this one is told to leave.
    Elsewhere,
    /// Each on the same port: the kernel gives new connections to any of those that listen.
    SamePort,
}

async fn told_to_leave_again_and_again(way: Way) {
    let (terms, most) = (asked("DRAIN_TERMS", 3), asked("DRAIN_REQUESTS", 6000));
    let later = Arc::new(std::sync::OnceLock::new());
    let (stable, canary) = (application(false, &later).await, application(true, &later).await);
    let folder = Folder::new();
    let file = folder.write(
        "splitway.yaml",
        &format!(
            "backends:\n  stable: {{ endpoints: [\"{stable}\"] }}\n  canary: {{ protocol: h2c, endpoints: [\"{canary}\"] }}\n\
             split: {{ stable: 50%, canary: 50% }}\n\
             routes: [{{ name: tunnels, match: [{{ path: {{ exact: /tunnel }} }}], backend: stable }}]\n"
        ),
    );
    let file = file.to_str().unwrap();
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let more: &[&str] = if way == Way::SamePort { &["--reuse-port"] } else { &[] };
    let mut old = start(file, anywhere, anywhere, more).await;

    let world = Arc::new(World {
        arrivals: (0..most * 20).map(|_| AtomicU8::new(0)).collect(),
        next: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        target: RwLock::new(old.proxy),
        over: AtomicBool::new(false),
        wrong: Mutex::default(),
        seen: Mutex::default(),
    });
    assert!(later.set(world.clone()).is_ok());
    let mut clients = Vec::new();
    for _ in 0..KEPT {
        clients.push(tokio::spawn(keeps(world.clone())));
    }
    for _ in 0..FRESH {
        clients.push(tokio::spawn(comes_anew(world.clone())));
    }
    for _ in 0..HTTP2 {
        let many = Arc::new(Many { world: world.clone(), newest: tokio::sync::Mutex::new((0, None)) });
        for _ in 0..STREAMS {
            clients.push(tokio::spawn(many.clone().stream()));
        }
    }
    for _ in 0..TUNNELS {
        clients.push(tokio::spawn(talks(world.clone())));
    }

    let mut latest = Duration::ZERO;
    for term in 1..=terms {
        let mut next = match way {
            Way::Elsewhere => start(file, anywhere, anywhere, more).await,
            Way::SamePort => start(file, old.proxy, old.admin, more).await,
        };
        std::mem::swap(&mut old, &mut next);
        let (mut leaving, staying) = (next, &old);
        answers(&world, most * term / (terms + 1)).await;

        // The machine itself may be late: a clock of the test that ends at the limit tells by how much.
        let clock = tokio::spawn(async {
            let begun = Instant::now();
            tokio::time::sleep(DELAY + LIMIT).await;
            begun.elapsed() - DELAY - LIMIT
        });
        let told = Instant::now();
        leaving.process.signal("TERM");
        *world.target.write().unwrap() = staying.proxy;
        if way == Way::SamePort {
            admin_is_the_successors(staying.admin).await;
        }
        let drained = leaving.process.logged("\"drained").await;
        assert_eq!(leaving.process.exit().await.0, 0);
        let took = told.elapsed().saturating_sub(clock.await.unwrap());
        assert!(took <= DELAY + LIMIT + AFTER_LIMIT, "the end came after {took:?}");
        latest = latest.max(took);
        // Tunnels go on for ever, and are the only thing that had to be ended.
        let line: Value = serde_json::from_str(&drained).unwrap();
        let cut = line["fields"]["cut"].as_u64().unwrap_or_default();
        assert!(cut <= TUNNELS as u64, "{drained}");
        let wrong = world.wrong.lock().unwrap();
        assert!(
            wrong.is_empty(),
            "after {term} terms, {} wrong, {cut} cut: {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
    answers(&world, most).await;
    world.over.store(true, Ordering::Relaxed);
    for client in clients {
        soon("the last answers", client).await.unwrap();
    }

    let wrong = world.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    let asked = world.next.load(Ordering::Relaxed);
    assert_eq!(world.answered.load(Ordering::Relaxed), asked);
    let times = |id: &AtomicU8| id.load(Ordering::Relaxed);
    let not_once = world.arrivals[..asked as usize].iter().filter(|id| times(id) != 1).count();
    assert_eq!(not_once, 0, "requests that have not arrived exactly once");
    assert!(world.counted("tunnels told 1001") >= terms, "every process had a tunnel to end");
    println!(
        "{terms} terms, {asked} requests: 0 lost, 0 damaged, 0 twice; the latest end {latest:?} after SIGTERM \
         (limit {:?}); {:?}",
        DELAY + LIMIT,
        world.seen.lock().unwrap()
    );
}

/// Waits for so many answers; as long as some come, others may be waited for.
async fn answers(world: &World, wanted: u64) {
    let mut last = (0, Instant::now());
    loop {
        let now = world.answered.load(Ordering::Relaxed);
        if now >= wanted {
            return;
        }
        if now > last.0 {
            last = (now, Instant::now());
        }
        let wrong = world.wrong.lock().unwrap().len();
        assert!(last.1.elapsed() < PATIENCE && wrong == 0, "{now} answers, {wrong} wrong: {:?}", world.wrong.lock());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The process that leaves has given its admin address away: whoever asks there is told that the other one is ready.
async fn admin_is_the_successors(admin: SocketAddr) {
    let ask = async || {
        let (mut sender, engine) = http1::handshake::<_, Body>(TokioIo::new(TcpStream::connect(admin).await?)).await?;
        tokio::spawn(engine);
        let request = Request::get("/readyz").header("host", "admin").body(pieces(Bytes::new(), 1))?;
        Ok::<_, Box<dyn std::error::Error>>(sender.send_request(request).await?.status())
    };
    let mut in_a_row = 0;
    soon("the successor at the admin address", async {
        while in_a_row < 20 {
            in_a_row = if ask().await.is_ok_and(|status| status == 200) { in_a_row + 1 } else { 0 };
        }
    })
    .await;
}

#[tokio::test]
async fn a_process_that_is_told_to_leave_loses_and_damages_nothing() {
    told_to_leave_again_and_again(Way::Elsewhere).await;
}

#[tokio::test]
async fn a_process_takes_over_the_port_of_another_and_nothing_is_lost_or_damaged() {
    told_to_leave_again_and_again(Way::SamePort).await;
}
