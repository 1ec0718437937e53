//! Every wait has a bound, globally and per route.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use splitway::route::matches::{Match, PathMatch};
use splitway::route::policy::Timeouts;
use splitway::route::{Action, Role, Route, RouteName, Routing, VersionHash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{failures, one_worker};
use crate::support::{App, Client, Wire, eventually, routing, soon};

const SHORT: Duration = Duration::from_millis(200);

/// Requests below `/short` go to stable as well, with bounds of their own.
fn with_route(mut routing: Routing, own: impl FnOnce(&mut Timeouts)) -> Routing {
    let mut timeouts = routing.policy.timeouts.clone();
    own(&mut timeouts);
    routing.routes = vec![Route {
        name: RouteName::new("short"),
        matches: vec![Match { path: Some(PathMatch::prefix("/short")), ..Match::default() }],
        action: Action::Send(VersionHash::new("stable")),
        count: true,
        timeouts: Some(timeouts),
    }];
    routing
}

fn stable(address: SocketAddr) -> Routing {
    routing(&[("stable", Role::Stable, 1, &[address])])
}

/// Writes `begin` in answer to each request, and then nothing, until the connection is closed by the other side.
async fn stops_after(begin: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n") && stream.read_buf(&mut read).await.is_ok_and(|n| n > 0) {}
                let _ = stream.write_all(begin.as_bytes()).await;
                while stream.read_buf(&mut read).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    address
}

/// The connection of the next request, whose head has been read.
async fn request_at(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("the head", stream.read_u8()).await.unwrap());
    }
    stream
}

#[tokio::test]
async fn a_route_waits_as_long_as_it_says_and_the_others_as_long_as_all() {
    let app = stops_after("").await;
    let proxy = one_worker(with_route(stable(app), |own| own.first_byte = SHORT)).await;
    let mut other = Client::connect(proxy.address).await;
    let other = tokio::spawn(async move { other.get("/other").await });
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let answer = client.get("/short/1").await;
        assert_eq!((answer.status, answer.reason()), (504, "first_byte_timeout"));
    }
    assert!(!other.is_finished(), "a request of no route waits for a minute");
    // What was written down for the last request is not for the next one on the same connection.
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET /short HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(wire.until("\r\n").await.starts_with("HTTP/1.1 504 "));
    let in_flight = "splitway_requests_in_flight{version=\"stable\",role=\"stable\"}";
    eventually("one in flight", async || proxy.metric(in_flight).await == 1.0).await;
    wire.send("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("two in flight", async || proxy.metric(in_flight).await == 2.0).await;
    let answer = client.get("/short/2").await;
    assert_eq!(answer.status, 504);
    assert_eq!(proxy.metric(in_flight).await, 2.0, "both outlast a bound that is not theirs");
    other.abort();
}

#[tokio::test]
async fn a_routes_bound_on_the_whole_request_is_its_own() {
    let app = stops_after("").await;
    let proxy = one_worker(with_route(stable(app), |own| own.request = Some(SHORT))).await;
    let answer = proxy.client().await.get("/short").await;
    assert_eq!((answer.status, answer.reason()), (504, "request_timeout"));
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_is_cut_and_never_looks_whole() {
    for begin in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nha",
        "HTTP/1.1 200 OK\r\n\r\nhalf",
    ] {
        let app = stops_after(begin).await;
        for by_route in [false, true] {
            let mut routing = stable(app);
            if by_route {
                routing = with_route(routing, |own| own.between_bytes = Some(SHORT));
            } else {
                routing.policy.timeouts.between_bytes = Some(SHORT);
            }
            let proxy = one_worker(routing).await;
            let mut wire = Wire::connect(proxy.address).await;
            wire.send("GET /short HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = wire.end().await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(answer.contains("content-length: 10") || !answer.ends_with("0\r\n\r\n"), "{begin}: {answer}");
            let mut client = proxy.client().await;
            assert!(client.try_send(Request::get("/short"), "").await.is_err(), "{begin} was taken for whole");
            let counted = failures(Role::Stable, "idle_timeout");
            eventually("the cuts in the metrics", async || proxy.metric(&counted).await == 2.0).await;
            let open = "splitway_upstream_connections{version=\"stable\",role=\"stable\"}";
            eventually("their connections closed", async || proxy.metric(open).await == 0.0).await;
        }
    }
}

#[tokio::test]
async fn an_answer_that_goes_on_slowly_may_take_as_long_as_it_likes() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut routing = stable(listener.local_addr().unwrap());
    routing.policy.timeouts.between_bytes = Some(Duration::from_secs(2));
    let proxy = one_worker(routing).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut app = request_at(&listener).await;
    app.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n").await.unwrap();
    wire.until("\r\n\r\n").await;
    // Altogether longer than the bound, each pause much shorter.
    for _ in 0..25 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        app.write_all(b"x").await.unwrap();
        assert_eq!(wire.until("x").await, "x");
    }
}

#[tokio::test]
async fn a_quiet_answer_lives_on_while_the_client_still_sends() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut routing = stable(listener.local_addr().unwrap());
    routing.policy.timeouts.between_bytes = Some(Duration::from_secs(2));
    let proxy = one_worker(routing).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 25\r\n\r\n").await;
    let mut app = request_at(&listener).await;
    app.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
    wire.until("\r\n\r\n").await;
    for _ in 0..25 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        wire.send("x").await;
    }
    app.write_all(b"ok").await.unwrap();
    assert_eq!(wire.until("ok").await, "ok");
}

#[tokio::test]
async fn the_bound_between_bytes_does_not_judge_a_client_that_reads_slowly() {
    let app = App::start("stable").await;
    let mut routing = stable(app.address);
    routing.policy.timeouts.between_bytes = Some(SHORT);
    let proxy = one_worker(routing).await;
    let mut stream = Wire::connect(proxy.address).await.into_stream();
    let size = 64 << 20;
    let request = format!("GET /bytes/{size} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // Nothing is read for several times the bound; then all of it is there.
    tokio::time::sleep(5 * SHORT).await;
    let mut answer = Vec::new();
    soon("the answer", stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.ends_with(&vec![b'x'; size]), "only {} bytes", answer.len());
}

/// A listener whose queue is full, so that further connections are neither accepted nor refused. Keep what is returned.
async fn full() -> (SocketAddr, tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    (address, listener, waiting)
}

#[tokio::test]
async fn a_connection_that_is_not_accepted_is_given_up_and_the_request_goes_elsewhere() {
    let app = App::start("stable").await;
    let (busy, _listener, _waiting) = full().await;
    for by_route in [false, true] {
        let mut routing = stable(busy);
        if by_route {
            routing = with_route(routing, |own| own.connect = SHORT);
            routing.policy.timeouts.connect = Duration::from_secs(3600);
        } else {
            routing.policy.timeouts.connect = SHORT;
        }
        let proxy = one_worker(routing.clone()).await;
        let mut client = proxy.client().await;
        let answer = client.get("/short").await;
        assert_eq!((answer.status, answer.reason()), (503, "connect_timeout"));
        routing.backends[0].endpoints = [busy, app.address].into();
        proxy.set(routing).await;
        for n in 0..8 {
            let answer = client.send_body(Request::post("/short"), format!("{n}")).await;
            assert_eq!((answer.status, answer.app()), (200, "stable"));
        }
    }
}
