//! Bodies on their way through: both ways, with back-pressure, and never whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, Request};
use splitway::route::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{App, Proxy, Scripted, Then, Wire, raw, routing, scripted, soon};

async fn before(endpoint: std::net::SocketAddr) -> Proxy {
    let routing = routing(&[("stable", Role::Stable, 1, &[endpoint])]);
    Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await
}

/// Far more than all buffers on the way hold together: the kernel's alone may take some 20 MiB on two hops.
const LARGE: u64 = 256 << 20;
const BUFFERS: u64 = 64 << 20;
const BLOCK: usize = 64 << 10;

/// Waits until a counter has stopped. Judging too early can only make the count smaller.
async fn stalls(count: &AtomicU64) -> u64 {
    let stalled = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let now = count.load(Ordering::Relaxed);
            if now == before && now > 0 {
                return now;
            }
            before = now;
        }
    };
    soon("the flow to stop", stalled).await
}

/// Writes `LARGE` bytes as fast as they are taken, and counts them.
async fn pour(stream: &mut (impl AsyncWriteExt + Unpin), count: &AtomicU64) {
    let block = vec![b'x'; BLOCK];
    while count.load(Ordering::Relaxed) < LARGE {
        if stream.write_all(&block).await.is_err() {
            return;
        }
        count.fetch_add(BLOCK as u64, Ordering::Relaxed);
    }
}

/// Reads that many bytes, and nothing else.
async fn drink(stream: &mut (impl AsyncReadExt + Unpin), bytes: u64) {
    let mut block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let n = soon("more of the body", stream.read(&mut block)).await.expect("no error in a body");
        assert!(n > 0, "the body ended {left} bytes early");
        assert!(block[..n].iter().all(|byte| *byte == b'x'), "a changed byte");
        left -= n as u64;
    }
}

async fn accept() -> (std::net::SocketAddr, TcpListener) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

async fn head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_application() {
    let (address, listener) = accept().await;
    let written = Arc::<AtomicU64>::default();
    let count = written.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").as_bytes()).await.unwrap();
        pour(&mut stream, &count).await;
    });
    let proxy = before(address).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let stopped = stalls(&written).await;
    assert!(stopped < BUFFERS, "{} MiB were taken for a client that reads nothing", stopped >> 20);
    let mut stream = wire.into_stream();
    head(&mut stream).await;
    drink(&mut stream, LARGE).await;
    assert_eq!(written.load(Ordering::Relaxed), LARGE);
}

#[tokio::test]
async fn an_application_that_does_not_read_stops_the_client() {
    let (address, listener) = accept().await;
    let go = Arc::<tokio::sync::Notify>::default();
    let reads = go.clone();
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        reads.notified().await;
        drink(&mut stream, LARGE).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        stream
    });
    let proxy = before(address).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    let (mut reader, mut writer) = wire.into_stream().into_split();
    let sent = Arc::<AtomicU64>::default();
    let count = sent.clone();
    let upload = tokio::spawn(async move {
        pour(&mut writer, &count).await;
        // Given back, because dropping it would look like a client that leaves.
        writer
    });
    let stopped = stalls(&sent).await;
    assert!(stopped < BUFFERS, "{} MiB were taken for an application that reads nothing", stopped >> 20);
    go.notify_one();
    let mut answer = vec![0; 15];
    soon("the answer", reader.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
    drop(upload.await.unwrap());
    drop(application.await.unwrap());
}

#[tokio::test]
async fn every_piece_is_passed_on_as_it_comes() {
    let (address, listener) = accept().await;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        // Each piece of the answer waits for a piece of the request, so nothing can be held back on either way.
        for _ in 0..20 {
            let mut chunk = [0; 9];
            stream.read_exact(&mut chunk).await.unwrap();
            assert_eq!(&chunk, b"4\r\nping\r\n");
            stream.write_all(b"4\r\npong\r\n").await.unwrap();
        }
        let mut end = [0; 5];
        stream.read_exact(&mut end).await.unwrap();
        assert_eq!(&end, b"0\r\n\r\n");
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        stream
    });
    let proxy = before(address).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    wire.until("\r\n\r\n").await;
    for _ in 0..20 {
        wire.send("4\r\nping\r\n").await;
        assert_eq!(wire.until("pong\r\n").await, "4\r\npong\r\n");
    }
    wire.send("0\r\n\r\n").await;
    assert_eq!(wire.until("0\r\n\r\n").await, "0\r\n\r\n");
    drop(soon("the application", application).await.unwrap());
}

#[tokio::test]
async fn bodies_of_every_size_arrive_whole() {
    let app = App::start("stable").await;
    let proxy = before(app.address).await;
    let mut client = proxy.client().await;
    for size in [0, 1, 2, 4095, 4096, 8191, 8192, 8193, 65_535, 65_536, 65_537, 300_000, 3_000_000] {
        assert_eq!(client.get(&format!("/bytes/{size}")).await.body.len(), size);
        let body: Vec<u8> = (0..size).map(|i| b'a' + (i % 23) as u8).collect();
        let echo = client.send_body(Request::post("/echo"), body.clone()).await.body;
        assert!(echo.ends_with(&[b"\n\n".as_slice(), &body].concat()), "{size} bytes");
    }
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let (address, listener) = accept().await;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"x-sum: 1\r\n\r\n") {
            let n = stream.read_buf(&mut request).await.unwrap();
            assert!(n > 0, "no trailer came: {}", String::from_utf8_lossy(&request));
        }
        let answer = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
                      2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream
    });
    let proxy = before(address).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\nTrailer: x-sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n",
    )
    .await;
    let answer = wire.until("x-sum: 2\r\n\r\n").await;
    assert!(answer.contains("\r\n2\r\nok\r\n0\r\n"), "{answer}");
    drop(application.await.unwrap());
}

#[tokio::test]
async fn an_answer_with_trailers_is_whole_and_its_connection_is_used_again() {
    let app = Scripted::start(|_, _| {
        Then::Answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n".to_owned())
    })
    .await;
    let proxy = before(app.address).await;
    let mut client = proxy.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    let opened = "splitway_upstream_connections_opened_total{version=\"stable\",role=\"stable\"}";
    assert_eq!(proxy.metric(opened).await, 1.0);
    let good = "splitway_requests_total{version=\"stable\",role=\"stable\",method=\"GET\",code=\"200\",\
                reason=\"weighted\",route=\"\",failure=\"\"}";
    assert_eq!(proxy.metric(good).await, 2.0);
}

#[tokio::test]
async fn a_get_with_chunks_keeps_its_body() {
    let app = App::start("stable").await;
    let proxy = before(app.address).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    wire.send("GET /status/404 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answers = wire.until("HTTP/1.1 404").await;
    assert!(answers.contains("transfer-encoding: chunked\n") && answers.contains("\n\nhiHTTP/1.1"), "{answers}");
}

#[tokio::test]
async fn a_length_of_0_is_passed_on() {
    let app = App::start("stable").await;
    let proxy = before(app.address).await;
    let mut client = proxy.client().await;
    // Some applications refuse a POST without a length (411).
    let echo = client.send(Request::post("/echo").header("content-length", "0")).await.text();
    assert_eq!(echo.matches("content-length: 0\n").count(), 1, "{echo}");
    let echo = client.get("/echo").await.text();
    assert!(!echo.contains("content-length"), "{echo}");
}

/// An application that answers before it has read anything, and tells when it has read everything.
async fn early(
    answer: impl AsRef<[u8]> + Send + 'static,
    upload: u64,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let (address, listener) = accept().await;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        let (mut reader, mut writer) = stream.split();
        let (written, ()) = tokio::join!(writer.write_all(answer.as_ref()), drink(&mut reader, upload));
        written.unwrap();
    });
    (address, application)
}

#[tokio::test]
async fn an_upload_that_outlasts_its_answer_arrives_whole() {
    const UPLOAD: usize = 64 << 20;
    let (address, application) = early("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly", UPLOAD as u64).await;
    let mut routing = routing(&[("stable", Role::Stable, 1, &[address])]);
    routing.policy.timeouts.head = Duration::from_millis(200);
    let proxy = Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD}\r\n\r\n")).await;
    wire.until("early").await;
    wire.send(vec![b'x'; UPLOAD]).await;
    soon("the whole upload", application).await.unwrap();
    // What comes next is a request like any other.
    wire.send("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(wire.until("method_refused").await.starts_with("HTTP/1.1 405 "));
    let connections = "splitway_upstream_connections{version=\"stable\",role=\"stable\"}";
    crate::support::eventually("no connection left", async || proxy.metric(connections).await == 0.0).await;
}

#[tokio::test]
async fn an_upload_goes_on_while_its_answer_is_not_read() {
    const EACH: usize = 64 << 20;
    let answer = [format!("HTTP/1.1 200 OK\r\ncontent-length: {EACH}\r\n\r\n").as_bytes(), &vec![b'x'; EACH]].concat();
    let (address, application) = early(answer, EACH as u64).await;
    let proxy = before(address).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {EACH}\r\n\r\n")).await;
    wire.send(vec![b'x'; EACH]).await;
    let mut stream = wire.into_stream();
    head(&mut stream).await;
    drink(&mut stream, EACH as u64).await;
    soon("the application", application).await.unwrap();
}

#[tokio::test]
async fn answers_that_have_no_body_have_none_whatever_their_length_says() {
    for (method, head, expected_length) in [
        ("HEAD", "200 OK\r\ncontent-length: 1000", Some("1000")),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked", None),
        ("GET", "204 No Content", None),
        // hyper leaves the length of a 304 out, as RFC 9110 section 8.6 allows.
        ("GET", "304 Not Modified\r\ncontent-length: 1000\r\netag: \"1\"", None),
    ] {
        let app = Scripted::start(move |_, _| Then::Answer(format!("HTTP/1.1 {head}\r\n\r\n"))).await;
        let proxy = before(app.address).await;
        let mut client = proxy.client().await;
        for _ in 0..3 {
            let answer = client.send(Request::builder().method(method).uri("/")).await;
            assert_eq!(answer.body.len(), 0, "{method} {head}");
            let length = answer.headers.get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(length, expected_length, "{method} {head}");
        }
        assert_eq!(app.requests().len(), 3);
        let opened = "splitway_upstream_connections_opened_total{version=\"stable\",role=\"stable\"}";
        assert_eq!(proxy.metric(opened).await, 1.0, "{method} {head}: the connection is used again");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_a_closed_connection() {
    let address = scripted("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let proxy = before(address).await;
    let answer = raw(proxy.address, "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(!answer.to_lowercase().contains("transfer-encoding"), "{answer}");
}

#[tokio::test]
async fn a_client_of_http_1_0_may_keep_its_connection() {
    let app = App::start("stable").await;
    let proxy = before(app.address).await;
    let mut wire = Wire::connect(proxy.address).await;
    for _ in 0..2 {
        wire.send("GET /bytes/3 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = wire.until("xxx").await.to_lowercase();
        assert!(answer.contains("connection: keep-alive\r\n"), "{answer}");
    }
    wire.send("GET /bytes/3 HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(wire.end().await.ends_with("xxx"));
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_passed_on_whole() {
    let address = scripted("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    let proxy = before(address).await;
    let answer = proxy.client().await.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "until the end"));
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (address, listener) = accept().await;
    let read = Arc::<AtomicBool>::default();
    let told = read.clone();
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nstop").await.unwrap();
        told.store(true, Ordering::Relaxed);
        stream
    });
    let proxy = before(address).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nsome of it").await;
    let answer = wire.until("stop").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(read.load(Ordering::Relaxed));
    drop(application.await.unwrap());
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on() {
    let app = App::start("stable").await;
    let proxy = before(app.address).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(wire.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("hello").await;
    let answer = wire.until("hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("expect"), "answered here, so not passed on: {answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let app = App::start("stable").await;
    let proxy = before(app.address).await;
    let mut wire = Wire::connect(proxy.address).await;
    let requests: String = ["/held", "/echo?2", "/echo?3", "/status/404"]
        .map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .concat();
    wire.send(&requests).await;
    app.reaches(1).await;
    app.release(1);
    let first = wire.until("\r\n\r\nstable").await;
    assert!(!first.contains("echo"), "{first}");
    wire.until("GET /echo?2\n").await;
    wire.until("GET /echo?3\n").await;
    wire.until("HTTP/1.1 404").await;
}

#[tokio::test]
async fn ten_thousand_requests_of_one_connection_use_one_connection_behind() {
    let app = App::start("stable").await;
    let proxy = before(app.address).await;
    let mut client = proxy.client().await;
    for n in 0..10_000 {
        match n % 4 {
            0 => assert_eq!(client.send_body(Request::post("/"), "hello").await.status, 200),
            1 => assert_eq!(client.send(Request::builder().method(Method::HEAD).uri("/")).await.status, 200),
            2 => assert_eq!(client.get("/status/204").await.status, 204),
            _ => assert_eq!(client.get("/").await.status, 200),
        }
    }
    assert_eq!(app.received(), 10_000);
    let series = "{version=\"stable\",role=\"stable\"}";
    assert_eq!(proxy.metric(&format!("splitway_upstream_connections_opened_total{series}")).await, 1.0);
    assert_eq!(proxy.metric("splitway_downstream_connections_accepted_total").await, 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let app = App::start("stable").await;
    let proxy = before(app.address).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    app.reaches(1).await;
    drop(wire);
    let in_flight = "splitway_requests_in_flight{version=\"stable\",role=\"stable\"}";
    crate::support::eventually("nothing in flight", async || proxy.metric(in_flight).await == 0.0).await;
    assert_eq!(proxy.metric("splitway_downstream_connections").await, 0.0);
}
