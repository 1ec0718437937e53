//! Copies of requests: exact, complete, counted apart, and never felt by a client.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use splitway::route::bucket::{KeySource, Sticky};
use splitway::route::matches::{Match, PathMatch};
use splitway::route::{Action, Role, Route, RouteName, Routing, Share, VersionHash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{App, Proxy, Wire, dead, eventually, routing, soon};

/// A version that remembers the whole of every request.
pub struct Recorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<(http::request::Parts, Bytes)>>>,
    /// How many have come, whole ones and cut ones.
    count: watch::Receiver<(usize, usize)>,
}

impl Recorder {
    pub async fn start() -> Self {
        let (address, listener) = listen().await;
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let (sender, count) = watch::channel((0, 0));
        let (seen_here, sender) = (seen.clone(), Arc::new(sender));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, sender) = (seen_here.clone(), sender.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, sender) = (seen.clone(), sender.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        match body.collect().await {
                            Ok(body) => {
                                seen.lock().unwrap().push((head, body.to_bytes()));
                                sender.send_modify(|(whole, _)| *whole += 1);
                            }
                            Err(_) => sender.send_modify(|(_, cut)| *cut += 1),
                        }
                        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("seen")))
                    }
                });
                tokio::spawn(async move {
                    let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, seen, count }
    }

    pub async fn reaches(&self, whole: usize) {
        soon("copies", self.count.clone().wait_for(|(seen, _)| *seen >= whole)).await.unwrap();
    }

    async fn reaches_cut(&self, cut: usize) {
        soon("a cut copy", self.count.clone().wait_for(|(_, seen)| *seen >= cut)).await.unwrap();
    }

    pub fn last(&self) -> (http::request::Parts, Bytes) {
        self.seen.lock().unwrap().last().expect("a request").clone()
    }
}

async fn listen() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

/// Does with each connection what `serve` says.
async fn serve<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let (address, listener) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Reads to the end of a request's head.
async fn head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
}

fn mirror(name: &str, path: &str, to: &str, share: Share) -> Route {
    Route { action: Action::Mirror { to: VersionHash::new(to), share }, ..send(name, path, to) }
}

fn send(name: &str, path: &str, to: &str) -> Route {
    let one = Match { path: Some(PathMatch::prefix(path)), ..Match::default() };
    Route {
        name: RouteName::new(name),
        matches: vec![one],
        action: Action::Send(VersionHash::new(to)),
        count: true,
        timeouts: None,
    }
}

/// One worker, so that counts are sure; all requests go to stable, and all below `/copied` are copied to `dark`.
fn dark(stable: &App, dark: SocketAddr) -> Routing {
    let mut routing =
        routing(&[("stable", Role::Stable, 1, &[stable.address]), ("dark", Role::Experiment, 0, &[dark])]);
    routing.routes = vec![mirror("copies", "/copied", "dark", Share::ALL)];
    routing
}

async fn proxy(routing: Routing) -> Proxy {
    Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await
}

fn outcome(outcome: &str, code: &str) -> String {
    format!(
        "splitway_mirror_requests_total{{version=\"dark\",role=\"experiment\",route=\"copies\",outcome=\"{outcome}\",\
         code=\"{code}\"}}"
    )
}

const IN_FLIGHT: &str = "splitway_mirror_requests_in_flight{version=\"dark\",role=\"experiment\"}";

async fn counts(proxy: &Proxy, sample: &str, value: f64) {
    eventually(&format!("{sample} to be {value}"), async || proxy.metric(sample).await == value).await;
}

#[tokio::test]
async fn as_many_are_copied_as_was_asked_for_and_the_split_stays_exact() {
    let (stable, canary, copies) = (App::start("stable").await, App::start("canary").await, Recorder::start().await);
    let mut routing = routing(&[
        ("stable", Role::Stable, 9, &[stable.address]),
        ("canary", Role::Canary, 1, &[canary.address]),
        ("dark", Role::Experiment, 0, &[copies.address]),
    ]);
    routing.routes = vec![mirror("copies", "/copied", "dark", Share::new(35, 100).unwrap())];
    let proxy = proxy(routing).await;
    let mut client = proxy.client().await;
    let mut canaries = 0.0;
    for n in 1..=200 {
        let answer = client.get("/copied").await;
        assert_eq!(answer.status, 200);
        canaries += f64::from(u8::from(answer.app() == "canary"));
        assert!((canaries - f64::from(n) * 0.1).abs() < 1.0, "{canaries} of {n}");
    }
    copies.reaches(70).await;
    counts(&proxy, &outcome("answered", "200"), 70.0).await;
    counts(&proxy, IN_FLIGHT, 0.0).await;
    // Counted apart: nothing of it is in what is counted for requests.
    assert_eq!(copies.seen.lock().unwrap().len(), 70);
    let text = proxy.ask_admin("/metrics").await.text();
    let of_dark = |name: &str| {
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains("version=\"dark\""));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    for name in [
        "splitway_requests_total",
        "splitway_request_duration_seconds_count",
        "splitway_requests_in_flight",
        "splitway_split_requests_total",
        "splitway_uncounted_requests_total",
    ] {
        assert!(text.contains(&format!("{name}{{version=\"dark\"")), "{name} is there");
        assert_eq!(of_dark(name), 0.0, "{name}");
    }
    assert_eq!(proxy.metric("splitway_split_requests_total{version=\"stable\"}").await, 180.0);
    assert_eq!(stable.received() + canary.received(), 200);
}

#[tokio::test]
async fn a_copy_is_the_request_but_for_its_host_and_its_mark() {
    let (stable, copies) = (App::start("stable").await, Recorder::start().await);
    let mut routing = dark(&stable, copies.address);
    routing.policy.tell_upstream = true;
    let proxy = proxy(routing.clone()).await;
    let mut client = proxy.client().await;
    let ask = || {
        Request::builder()
            .method("PROPFIND")
            .uri("/copied/a%2Fb?x=1&y")
            .header("host", "shop.example:8080")
            .header("x-twice", "1")
            .header("x-twice", "2")
            .header("x-request-id", "abc")
            .header("traceparent", "00-1-2-03")
            .header("connection", "x-secret")
            .header("x-secret", "hop")
            .header("splitway-mirror", "a lie")
    };
    assert_eq!(client.send(ask()).await.app(), "stable");
    copies.reaches(1).await;
    let (head, body) = copies.last();
    let value =
        |name: &str| head.headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("PROPFIND", "/copied/a%2Fb?x=1&y"));
    assert!(body.is_empty());
    assert_eq!(value("host"), ["shop.example-shadow:8080"]);
    assert_eq!(value("x-forwarded-host"), ["shop.example:8080"]);
    assert_eq!(value("x-twice"), ["1", "2"]);
    assert_eq!((value("x-request-id"), value("traceparent")), (vec!["abc".to_owned()], vec!["00-1-2-03".to_owned()]));
    assert_eq!(
        (value("splitway-mirror"), value("splitway-version")),
        (vec!["copies".to_owned()], vec!["dark".to_owned()])
    );
    assert!(value("x-secret").is_empty() && value("connection").is_empty());

    // The request itself carries no mark, whatever its client says.
    let answer = client.get_with("/echo", &[("splitway-mirror", "a lie")]).await.text();
    assert!(!answer.contains("splitway-mirror"), "{answer}");

    // Nothing can stand between the bracket of an address and its port.
    client.get_with("/copied", &[("host", "[::1]:8080")]).await;
    copies.reaches(2).await;
    assert_eq!(copies.last().0.headers["host"], "[::1]:8080");

    routing.policy.mirror.shadow_host = false;
    routing.policy.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    proxy.set(routing).await;
    client.send(ask()).await;
    copies.reaches(3).await;
    assert_eq!(copies.last().0.headers["host"], "shop.example:8080");
    // A proxy in front may pass a copy of its own on.
    let answer = client.get_with("/echo", &[("splitway-mirror", "the one in front")]).await.text();
    assert!(answer.contains("splitway-mirror: the one in front"), "{answer}");
}

#[tokio::test]
async fn a_body_is_copied_byte_by_byte_with_its_own_framing() {
    let (stable, copies) = (App::start("stable").await, Recorder::start().await);
    let mut routing = dark(&stable, copies.address);
    // Whether a copy keeps up is another question.
    routing.policy.mirror.buffer = 64 << 20;
    let proxy = proxy(routing).await;
    let body: Vec<u8> = (0..5u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut client = proxy.client().await;
    assert_eq!(client.send_body(Request::post("/copied"), body.clone()).await.app(), "stable");
    copies.reaches(1).await;
    let (head, copied) = copies.last();
    assert_eq!(head.headers["content-length"], body.len().to_string().as_str());
    assert!(copied == body, "{} bytes of {}", copied.len(), body.len());

    let mut wire = Wire::connect(proxy.address).await;
    wire.send("PUT /copied HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    // Pieces of all sizes.
    let (mut rest, mut size) = (body.as_slice(), 1);
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(size.min(rest.len()));
        wire.send(format!("{:x}\r\n", piece.len())).await;
        wire.send(piece).await;
        wire.send("\r\n").await;
        (rest, size) = (more, size * 3 % 100_003);
    }
    wire.send("0\r\n\r\n").await;
    wire.until("HTTP/1.1 200 OK").await;
    copies.reaches(2).await;
    let (head, copied) = copies.last();
    assert_eq!((head.method.as_str(), head.headers.get("content-length")), ("PUT", None));
    assert!(copied == body, "{} bytes of {}", copied.len(), body.len());
    counts(&proxy, &outcome("answered", "200"), 2.0).await;
}

/// Sends requests of all sorts, of which each must be answered by stable, whole.
async fn is_not_felt(proxy: &Proxy, requests: usize) {
    let mut client = proxy.client().await;
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    for i in 0..requests {
        let answer = match i % 3 {
            0 => client.get("/copied/a").await,
            1 => client.send_body(Request::post("/copied/b"), body.clone()).await,
            _ => client.send_body(Request::put("/copied/c"), "small").await,
        };
        assert_eq!((answer.status, answer.app(), answer.text().as_str()), (200, "stable", "stable"));
    }
}

#[tokio::test]
async fn a_version_that_reads_nothing_is_not_felt() {
    let stable = App::start("stable").await;
    let stuck = serve(|stream| async move {
        // Held open, and not read from.
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let mut routing = dark(&stable, stuck);
    routing.policy.mirror.concurrency = 8;
    let proxy = proxy(routing).await;
    is_not_felt(&proxy, 60).await;
    // A copy is open from the first turn of its task on.
    eventually("every copy to be open or dropped", async || {
        let [slow, busy] = ["dropped_slow", "dropped_busy"].map(|dropped| outcome(dropped, ""));
        let (slow, busy) = (proxy.metric(&slow).await, proxy.metric(&busy).await);
        let open = proxy.metric(IN_FLIGHT).await;
        assert!(open <= 8.0, "{open} open");
        slow + busy + open == 60.0 && busy > 0.0
    })
    .await;
    let slow = proxy.metric(&outcome("dropped_slow", "")).await;

    // Nor are large bodies, which no buffer on the way could hold.
    let mut routing = dark(&stable, stuck);
    routing.policy.mirror.concurrency = 100;
    proxy.set(routing).await;
    let large = Bytes::from(vec![b'x'; 64 << 20]);
    let answer = proxy.client().await.send_body(Request::post("/copied"), large).await;
    assert_eq!((answer.status, answer.app()), (200, "stable"));
    counts(&proxy, &outcome("dropped_slow", ""), slow + 1.0).await;
}

#[tokio::test]
async fn a_version_that_does_not_answer_is_not_felt_and_copies_beyond_the_bound_are_not_begun() {
    let stable = App::start("stable").await;
    let silent = serve(|mut stream| async move {
        let mut sink = vec![0; 1 << 16];
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let mut routing = dark(&stable, silent);
    routing.policy.mirror.concurrency = 4;
    routing.policy.mirror.buffer = 16 << 20;
    let proxy = proxy(routing).await;
    is_not_felt(&proxy, 30).await;
    counts(&proxy, IN_FLIGHT, 4.0).await;
    counts(&proxy, &outcome("dropped_busy", ""), 26.0).await;
}

/// A body may have filled the buffer before its copy could fail.
async fn fails(proxy: &Proxy, copies: f64) {
    eventually("copies that failed", async || {
        let (failed, slow) = (outcome("failed", ""), outcome("dropped_slow", ""));
        proxy.metric(&failed).await + proxy.metric(&slow).await == copies
    })
    .await;
}

#[tokio::test]
async fn a_version_that_is_not_there_or_talks_nonsense_is_not_felt() {
    let stable = App::start("stable").await;
    let proxy = proxy(dark(&stable, dead(1))).await;
    is_not_felt(&proxy, 15).await;
    fails(&proxy, 15.0).await;
    let nonsense = serve(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"this is not HTTP\r\n\r\n").await;
    })
    .await;
    proxy.set(dark(&stable, nonsense)).await;
    is_not_felt(&proxy, 15).await;
    fails(&proxy, 30.0).await;
    // No endpoint at all.
    let mut routing = dark(&stable, nonsense);
    routing.backends[1].endpoints = [].into();
    proxy.set(routing).await;
    is_not_felt(&proxy, 3).await;
    fails(&proxy, 33.0).await;
    assert_eq!(
        proxy
            .metric(
                "splitway_upstream_failures_total{version=\"dark\",role=\"experiment\",failure=\"connect_refused\"}"
            )
            .await,
        0.0
    );
}

#[tokio::test]
async fn an_answer_without_end_is_left() {
    let stable = App::start("stable").await;
    let (sender, mut left) = tokio::sync::mpsc::channel(100);
    let endless = serve(move |mut stream| {
        let sender = sender.clone();
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            let piece = [b"10000\r\n", vec![b'x'; 1 << 16].as_slice(), b"\r\n"].concat();
            while stream.write_all(&piece).await.is_ok() {}
            sender.send(()).await.unwrap();
        }
    })
    .await;
    let proxy = proxy(dark(&stable, endless)).await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/copied").await.app(), "stable");
        soon("the connection to be closed", left.recv()).await;
    }
    counts(&proxy, &outcome("answered", "200"), 3.0).await;
    counts(&proxy, IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn a_copy_does_not_wait_for_ever() {
    let stable = App::start("stable").await;
    let silent = serve(|mut stream| async move {
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let trickling = serve(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 203 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut routing = dark(&stable, silent);
    routing.policy.timeouts.first_byte = Duration::from_millis(200);
    let proxy = proxy(routing).await;
    let mut client = proxy.client().await;
    client.get("/copied").await;
    counts(&proxy, &outcome("failed", ""), 1.0).await;

    let mut routing = dark(&stable, trickling);
    routing.policy.mirror.timeout = Duration::from_millis(200);
    proxy.set(routing).await;
    client.get("/copied").await;
    counts(&proxy, &outcome("answered", "203"), 1.0).await;
    counts(&proxy, IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_copy_along() {
    let (stable, copies) = (App::start("stable").await, Recorder::start().await);
    let proxy = proxy(dark(&stable, copies.address)).await;
    // In the middle of its body.
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("POST /copied HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").await;
    counts(&proxy, IN_FLIGHT, 1.0).await;
    drop(wire);
    counts(&proxy, &outcome("cut", ""), 1.0).await;
    copies.reaches_cut(1).await;
    assert_eq!(copies.seen.lock().unwrap().len(), 0, "what was cut is never whole");

    // While it waits for the answer.
    let (gone, mut seen_gone) = tokio::sync::mpsc::channel(1);
    let waiting = serve(move |mut stream| {
        let gone = gone.clone();
        async move {
            let mut sink = [0; 1024];
            while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
            gone.send(()).await.unwrap();
        }
    })
    .await;
    let mut routing = dark(&stable, waiting);
    routing.routes = vec![mirror("copies", "/held", "dark", Share::ALL)];
    proxy.set(routing).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    counts(&proxy, IN_FLIGHT, 1.0).await;
    drop(wire);
    soon("the copy's connection to end", seen_gone.recv()).await;
    counts(&proxy, &outcome("cut", ""), 2.0).await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_copies() {
    let stable = App::start("stable").await;
    let silent = serve(|mut stream| async move {
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let proxy = Proxy::start_with(dark(&stable, silent), |settings| {
        settings.proxy.drain.timeout = Duration::from_secs(3600);
    })
    .await;
    let mut client = proxy.client().await;
    client.get("/copied").await;
    counts(&proxy, IN_FLIGHT, 1.0).await;
    drop(client);
    assert_eq!(soon("the end of the drain", proxy.running.drain()).await, 0);
}

#[tokio::test]
async fn a_mirror_and_a_header_route_go_by_their_order() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let mut routing = crate::support::two(&stable, &canary, (1, 0));
    let (copies, testers) = (mirror("copies", "/a", "canary", Share::ALL), send("testers", "/a", "canary"));
    routing.routes = vec![copies.clone(), testers.clone()];
    let proxy = proxy(routing.clone()).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get_with("/a", &[("x-id", "1")]).await.app(), "stable");
    canary.reaches(1).await;
    assert_eq!((stable.ids(), canary.ids()), (vec!["1".to_owned()], vec!["1".to_owned()]));

    routing.routes = vec![testers, copies];
    proxy.set(routing.clone()).await;
    assert_eq!(client.get_with("/a", &[("x-id", "2")]).await.app(), "canary");
    assert_eq!((stable.received(), canary.received()), (1, 2));

    // A copy may go to the version that answers, too.
    routing.routes = vec![mirror("same", "/a", "stable", Share::ALL)];
    proxy.set(routing).await;
    assert_eq!(client.get_with("/a", &[("x-id", "3")]).await.app(), "stable");
    stable.reaches(3).await;
    assert_eq!((stable.ids(), canary.received()), (vec!["1".to_owned(), "3".to_owned(), "3".to_owned()], 2));
}

#[tokio::test]
async fn a_user_keeps_its_version_with_or_without_a_copy() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let mut routing = crate::support::two(&stable, &canary, (1, 1));
    let key = KeySource::Header(http::HeaderName::from_static("x-user"));
    routing.sticky = Some(Sticky { keys: vec![key], salt: "s".to_owned(), cookie: None });
    routing.routes = vec![mirror("copies", "/copied", "canary", Share::new(1, 2).unwrap())];
    let proxy = proxy(routing).await;
    let mut client = proxy.client().await;
    let mut seen = HashSet::new();
    for user in 0..50 {
        let user = format!("user-{user}");
        let version = client.get_with("/", &[("x-user", &user)]).await.app().to_owned();
        for _ in 0..2 {
            assert_eq!(client.get_with("/copied", &[("x-user", &user)]).await.app(), version);
        }
        seen.insert(version);
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn connections_of_copies_are_kept_for_the_next_one() {
    let (stable, copies) = (App::start("stable").await, Recorder::start().await);
    let proxy = proxy(dark(&stable, copies.address)).await;
    let mut client = proxy.client().await;
    for n in 1..=20u32 {
        client.send_body(Request::post("/copied"), "body").await;
        counts(&proxy, &outcome("answered", "200"), f64::from(n)).await;
    }
    let opened = "splitway_upstream_connections_opened_total{version=\"dark\",role=\"experiment\"}";
    assert_eq!(proxy.metric(opened).await, 1.0);
}
