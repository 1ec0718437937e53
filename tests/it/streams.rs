//! Connections of HTTP/2 that end while requests are in them, on both sides: who must not notice does not.

use std::sync::atomic::{AtomicU32, Ordering};

use splitway::route::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rules::raw::{self, Answer, App, Ask, Frames, Protocol, Scene, Seen, Then};
use crate::support::{Proxy, routing, soon};

const H1: Protocol = Protocol::H1;
const H2: Protocol = Protocol::H2;
const REFUSED_STREAM: u32 = 7;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// An application that does this to the first requests, and answers the others with their body.
async fn app(first: u32, frames: impl Fn(u32) -> Vec<u8> + Clone + Send + Sync + 'static) -> App {
    let number = AtomicU32::new(0);
    App::start(H2, move |seen: &Seen| {
        if number.fetch_add(1, Ordering::Relaxed) < first {
            Then::Frames(Box::new(frames.clone()))
        } else {
            Then::Answer(Answer::ok(&seen.body))
        }
    })
    .await
}

#[tokio::test]
async fn a_request_with_a_body_that_is_refused_unread_is_sent_again_whole() {
    for down in [H1, H2] {
        let app = app(2, |stream| raw::reset(stream, REFUSED_STREAM)).await;
        let scene = Scene::before(app, (down, H2), |_| {}).await;
        let body = "0123456789".repeat(1000);
        let got = scene.ask(Ask::post("/", &body).with(&[("x-a", "b")])).await;
        assert_eq!((got.status, got.body.len()), (200, body.len()), "{down:?}: {:?}", got.reason());
        for seen in scene.app.saw(3).await {
            assert_eq!((seen.method.as_str(), seen.all("x-a")), ("POST", vec!["b"]));
            assert!(seen.body == body && seen.whole, "{down:?}: {} bytes", seen.body.len());
        }
    }
}

#[tokio::test]
async fn trailers_are_sent_again_too() {
    let app = app(1, |stream| raw::reset(stream, REFUSED_STREAM)).await;
    let scene = Scene::before(app, (H2, H2), |_| {}).await;
    let got = scene.ask(Ask::post("/", "hello").trailers(&[("x-sum", "5")])).await;
    assert_eq!((got.status, got.body.as_str()), (200, "hello"));
    for seen in scene.app.saw(2).await {
        assert_eq!((seen.body.as_str(), raw::all(&seen.trailers, "x-sum")), ("hello", vec!["5"]));
    }
}

#[tokio::test]
async fn a_request_that_a_goaway_left_out_goes_over_another_connection() {
    // Nothing that was sent so far was looked at.
    let app = app(1, |_| raw::goaway(0, 0)).await;
    let scene = Scene::before(app, (H1, H2), |_| {}).await;
    let got = scene.ask(Ask::post("/", "hello")).await;
    assert_eq!((got.status, got.body.as_str()), (200, "hello"));
    let seen = scene.app.saw(2).await;
    assert_ne!(seen[0].connection, seen[1].connection);
}

#[tokio::test]
async fn a_body_too_long_to_be_kept_is_not_sent_twice() {
    let app = app(1, |stream| raw::reset(stream, REFUSED_STREAM)).await;
    let scene = Scene::before(app, (H1, H2), |_| {}).await;
    let got = scene.ask(Ask::post("/", &"x".repeat(65 * 1024))).await;
    assert_eq!((got.status, got.reason()), (503, "stream_refused"));
    scene.app.saw_one().await;
}

#[tokio::test]
async fn a_request_with_a_body_that_may_have_been_looked_at_is_not_sent_twice() {
    const CANCEL: u32 = 8;
    let app = app(1, |stream| raw::reset(stream, CANCEL)).await;
    let scene = Scene::before(app, (H1, H2), |_| {}).await;
    let got = scene.ask(Ask::post("/", "hello")).await;
    assert_eq!((got.status, got.reason()), (502, "upstream_closed"));
    scene.app.saw_one().await;
}

/// A drain as RFC 9113 section 6.8 has it: first everybody is told, then which stream was the last.
#[tokio::test]
async fn a_request_that_failed_with_half_of_its_body_keeps_no_connection_open() {
    // An endpoint that takes some of the body and goes away: the rest waits in the proxy, and with its client.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&raw::frame(raw::SETTINGS, 0, 0, &[])).await.unwrap();
            let mut seen = Vec::new();
            while seen.len() < 20_000 && stream.read_buf(&mut seen).await.unwrap() > 0 {}
        }
    });
    let mut routing = routing(&[("stable", Role::Stable, 1, &[address])]);
    routing.backends[0].transport.protocol = splitway::route::transport::Protocol::Http2;
    let proxy = Proxy::start(routing).await;
    let mut clients = Vec::new();
    // It depends on who is first, the answer or the task that gives the body back.
    for _ in 0..50 {
        let mut client = crate::support::Wire::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await;
        client.send("x".repeat(200_000)).await;
        let answer = client.until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        clients.push(client);
    }
    // What they still send is read for two seconds, and then they are left.
    let none = async || proxy.metric("splitway_downstream_connections").await == 0.0;
    crate::support::eventually("no connection", none).await;
    endpoint.abort();
}

#[tokio::test]
async fn frames_that_carry_nothing_are_no_offence_to_those_who_share_a_connection() {
    // An endpoint that sends them: every one of the answers that share the connection arrives.
    let answer = |stream| {
        let head = raw::headers(stream, &raw::fields(&[(":status", "200")]), false);
        let nothing = raw::data(stream, "", false).repeat(3);
        [head, nothing.clone(), raw::data(stream, "o", false), nothing, raw::data(stream, "k", true)].concat()
    };
    let scene = Scene::before(app(u32::MAX, answer).await, (H1, H2), |_| {}).await;
    for _ in 0..100 {
        let got = scene.ask(Ask::get("/")).await;
        assert_eq!((got.status, got.body.as_str()), (200, "ok"), "{:?}", got.reason());
    }

    // Clients that send them, each as many as it may: they are not passed on to an endpoint that would mind the sum.
    let app = crate::support::App::start("stable").await;
    let mut routing = routing(&[("stable", Role::Stable, 1, &[app.address])]);
    routing.backends[0].transport.protocol = splitway::route::transport::Protocol::Http2;
    let proxy = Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await;
    for _ in 0..5 {
        let mut frames = Frames::connect(proxy.address).await;
        let head = raw::headers(1, &raw::request_fields(&Ask::post("/echo", "hello")), false);
        let body = [raw::data(1, "", false).repeat(60), raw::data(1, "hello", true)].concat();
        frames.send([head, body].concat()).await;
        let got = soon("an answer", frames.answer(1)).await.unwrap();
        assert!(got.status == 200 && got.body.ends_with("\n\nhello"), "{got:?}");
    }
    assert_eq!(
        proxy.metric("splitway_upstream_connections_opened_total{version=\"stable\",role=\"stable\"}").await,
        1.0
    );
}

#[tokio::test]
async fn a_drain_tells_twice_and_finishes_what_is_open() {
    let app = crate::support::App::start("stable").await;
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
    let mut client = Frames::connect(proxy.address).await;
    let request = raw::request_fields(&Ask::get("/held"));
    client.send(raw::headers(1, &request, true)).await;
    app.reaches(1).await;
    let drain = tokio::spawn(proxy.running.drain());

    let mut told = Vec::new();
    soon("both announcements", async {
        while told.len() < 2 {
            let frame = client.next().await.expect("the connection stays while a request is open");
            match frame.kind {
                GOAWAY => told.push((u32_at(&frame.payload, 0), u32_at(&frame.payload, 4))),
                PING if frame.flags & 1 == 0 => client.send(raw::frame(PING, 1, 0, &frame.payload)).await,
                HEADERS => panic!("nobody has answered yet"),
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(told, [(0x7FFF_FFFF, 0), (1, 0)], "the last stream and NO_ERROR, twice");
    app.release(1);
    let got = client.answer(1).await.map_err(|_| "the stream was cut").unwrap();
    assert_eq!(got.status, 200);
    assert_eq!(soon("the end", drain).await.unwrap(), 0, "nothing was cut");
}

fn u32_at(payload: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(payload[at..at + 4].try_into().unwrap())
}
