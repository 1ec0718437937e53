//! What is refused, how it is answered, and that nothing of it reaches the application.

use std::time::Duration;

use http::{Method, Request};
use splitway::route::policy::Policy;
use splitway::route::{Identity, PortName, Role};
use splitway::{Settings, control, proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{App, Client, Proxy, Scripted, Then, Wire, eventually, raw, routing};

struct Scene {
    app: App,
    proxy: Proxy,
}

impl Scene {
    async fn with(adjust: impl FnOnce(&mut Policy)) -> Self {
        let app = App::start("stable").await;
        let mut routing = routing(&[("stable", Role::Stable, 1, &[app.address])]);
        adjust(&mut routing.policy);
        // One worker, so that limits and connections can be counted on.
        let proxy = Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await;
        Self { app, proxy }
    }

    async fn refused(&self, failure: &str) -> f64 {
        self.proxy.metric(&format!("splitway_refused_requests_total{{failure=\"{failure}\"}}")).await
    }

    /// The request is answered with this status, the connection is closed, and the application sees nothing. Nothing
    /// that follows on the connection is taken for a request either.
    async fn refuses(&self, status: u16, request: &[u8]) {
        let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = raw(self.proxy.address, [request, smuggled].concat()).await;
        let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
        // hyper answers HTTP/1.0 in its own version.
        let line = answer.replacen("HTTP/1.0", "HTTP/1.1", 1);
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?} was answered {answer:?}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{shown:?} had two answers: {answer:?}");
        assert_eq!(self.app.received(), 0, "{shown:?} reached the application");
    }
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    let scene = Scene::with(|_| {}).await;
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n").into_bytes();
    let field = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n").into_bytes();
    let requests: Vec<Vec<u8>> = vec![
        // The request line.
        line("GET  / HTTP/1.1"),
        line("GET /a b HTTP/1.1"),
        line("GET / HTTP/1.1 x"),
        line("GET / http/1.1"),
        line("GET / HTTP/1.10"),
        line("GET / HTTP/11"),
        line("GET / HTTQ/1.1"),
        line("GET /\0 HTTP/1.1"),
        line("GET a HTTP/1.1"),
        line("GET * HTTP/1.1"),
        line("G(T / HTTP/1.1"),
        line("GET http://user@a/ HTTP/1.1"),
        line("GET http:///a HTTP/1.1"),
        b"GET /\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        // White space and control characters around fields.
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_vec(),
        field("X-A : b"),
        field("X-A\t: b"),
        field("X-A: b\r\n folded"),
        field("X-A: b\r\n\tfolded"),
        field("X-A: b\0c"),
        field("X-A: b\rc"),
        field("X-A: b\r\rc"),
        field("X-A"),
        field(": b"),
        field("X A: b"),
        field("X\u{e9}: b"),
        field("X(A: b"),
        // Host.
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_vec(),
        b"GET http://a/ HTTP/1.1\r\n\r\n".to_vec(),
        b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a:x\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n".to_vec(),
    ];
    for request in &requests {
        scene.refuses(400, request).await;
    }
    eventually("all refusals counted", async || scene.refused("bad_request").await == requests.len() as f64).await;
}

#[tokio::test]
async fn ambiguous_framing_is_refused() {
    let scene = Scene::with(|_| {}).await;
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").into_bytes();
    for fields in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3, 4",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length: 3 3",
        "Content-Length: 3a",
        "Content-Length: ",
        "Content-Length: 1_0",
        "Content-Length: 99999999999999999999",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: ",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\r\n chunked",
    ] {
        scene.refuses(400, &post(fields)).await;
    }
    scene.refuses(400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn a_length_beside_a_coding_ends_the_connection_and_is_never_passed_on() {
    for fields in ["Content-Length: 6\r\nTransfer-Encoding: chunked", "Transfer-Encoding: Chunked\r\nContent-Length: 6"]
    {
        let app = Scripted::start(|_, _| Then::Answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned())).await;
        let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = raw(proxy.address, request).await;
        // Refused, or read by its coding alone and the connection closed (RFC 9112 section 6.1).
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        for request in app.requests() {
            let request = request.to_lowercase();
            assert!(!request.contains("smuggled"), "{request}");
            assert!(!(request.contains("content-length") && request.contains("transfer-encoding")), "{request}");
        }
    }
}

#[tokio::test]
async fn two_equal_lengths_and_bare_line_feeds_go_no_further_as_such() {
    let app = Scripted::start(|_, _| Then::Answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned())).await;
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        "POST / HTTP/1.1\nHost: a\nConnection: close\nContent-Length: 2\n\nhi",
    ] {
        let answer = raw(proxy.address, request).await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for request in app.requests() {
        assert_eq!(request.to_lowercase().matches("content-length").count(), 1, "{request}");
        assert_eq!(request.replace("\r\n", "").matches('\n').count(), 0, "{request:?}");
        assert!(request.ends_with("\r\n\r\nhi"), "{request:?}");
    }
}

/// Whatever is wrong with a chunk, the application never takes the body for whole.
#[tokio::test]
async fn malformed_chunks_are_refused_and_never_make_a_whole_body() {
    for chunks in [
        "+2\r\nhi\r\n0\r\n\r\n",
        "-2\r\nhi\r\n0\r\n\r\n",
        "0x2\r\nhi\r\n0\r\n\r\n",
        "2_0\r\nhi\r\n0\r\n\r\n",
        "\r\nhi\r\n0\r\n\r\n",
        "g\r\nhi\r\n0\r\n\r\n",
        " 2\r\nhi\r\n0\r\n\r\n",
        "2\nhi\n0\n\n",
        "2\r\nhi0\r\n\r\n",
        "2\r\nhiX\r\n0\r\n\r\n",
        "2;a\nb\r\nhi\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhi\r\n0\r\n\r\n",
        "10000000000000002\r\nhi\r\n0\r\n\r\n",
    ] {
        let scene = Scene::with(|_| {}).await;
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut wire = Wire::connect(scene.proxy.address).await;
        wire.send(format!("{head}{chunks}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = wire.end().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{chunks:?} was answered {answer:?}");
        assert!(answer.contains("x-splitway-reason: bad_request\r\n"), "{chunks:?} was answered {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{chunks:?} had two answers: {answer:?}");
        assert!(scene.app.received() <= 1);
    }
}

#[tokio::test]
async fn methods_that_would_make_a_tunnel_or_a_mirror_are_refused() {
    let scene = Scene::with(|_| {}).await;
    scene.refuses(405, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    scene.refuses(405, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    scene.refuses(405, b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("refusals counted", async || scene.refused("method_refused").await == 3.0).await;
    let mut client = scene.proxy.client().await;
    let options = client.send(Request::builder().method(Method::OPTIONS).uri("*")).await;
    assert_eq!(options.status, 200, "the asterisk is for OPTIONS");
    let unknown = client.send(Request::builder().method("PURGE").uri("/echo")).await;
    assert!(unknown.text().starts_with("PURGE /echo\n"), "unknown methods pass");
}

#[tokio::test]
async fn another_major_version_is_refused() {
    let scene = Scene::with(|_| {}).await;
    for request in ["GET / HTTP/2.0\r\nHost: a\r\n\r\n", "GET / HTTP/3.0\r\nHost: a\r\n\r\n"] {
        let answer = raw(scene.proxy.address, request).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 505 "), "{request}: {answer:?}");
    }
    assert_eq!(scene.app.received(), 0);
}

#[tokio::test]
async fn large_heads_are_refused_by_the_part_that_is_too_large() {
    let scene = Scene::with(|policy| {
        policy.limits.target_bytes = 9_000;
        policy.limits.header_bytes = 32 * 1024;
        policy.limits.header_count = 20;
    })
    .await;
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes();
    scene.refuses(414, &get(&format!("/{}", "a".repeat(9_000)), "")).await;
    scene.refuses(431, &get("/", &"a: b\r\n".repeat(20))).await;
    scene.refuses(431, &get("/", &format!("a: {}\r\n", "b".repeat(64 * 1024)))).await;
    scene.refuses(431, &get("/", &format!("{}: b\r\n", "a".repeat(64 * 1024)))).await;
    eventually("refusals counted", async || {
        scene.refused("target_too_long").await == 1.0 && scene.refused("head_too_large").await == 3.0
    })
    .await;
    let mut client = scene.proxy.client().await;
    assert_eq!(client.get(&format!("/{}", "a".repeat(8_000))).await.status, 200, "8,000 bytes of target are taken");
    let many: Vec<_> = (0..19).map(|_| ("a", "b")).collect();
    assert_eq!(client.get_with("/", &many).await.status, 200, "as many fields as the limit are taken");
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_by_its_length_before_anything_is_sent() {
    let scene = Scene::with(|policy| policy.limits.body_bytes = Some(1000)).await;
    let body = [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n".to_vec(), vec![b'x'; 1001]].concat();
    scene.refuses(413, &body).await;
    let mut client = scene.proxy.client().await;
    let answer = client.send_body(Request::post("/echo"), vec![b'x'; 1000]).await;
    assert_eq!(answer.status, 200, "as much as the limit is taken");
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_in_the_middle_when_it_names_no_length() {
    let scene = Scene::with(|policy| policy.limits.body_bytes = Some(1000)).await;
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    let mut wire = Wire::connect(scene.proxy.address).await;
    wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    wire.send(&chunk).await;
    scene.app.reaches(1).await;
    wire.send(&chunk).await;
    let answer = wire.end().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("x-splitway-reason: body_too_large\r\n"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn connections_above_the_limit_are_told_so_and_closed() {
    let scene = Scene::with(|policy| policy.limits.connections = 2).await;
    let mut first = scene.proxy.client().await;
    let mut second = scene.proxy.client().await;
    assert_eq!((first.get("/").await.status, second.get("/").await.status), (200, 200));
    let answer = raw(scene.proxy.address, "").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("x-splitway-reason: connection_limit\r\n"), "{answer}");
    assert_eq!(scene.refused("connection_limit").await, 1.0);
    assert_eq!((first.get("/").await.status, second.get("/").await.status), (200, 200));
    drop(first);
    eventually("room for another connection", async || {
        let mut client = Client::connect(scene.proxy.address).await;
        client.try_send(Request::get("/"), "").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn a_head_that_does_not_come_is_answered_408() {
    let scene = Scene::with(|policy| policy.timeouts.head = Duration::from_millis(200)).await;
    let mut wire = Wire::connect(scene.proxy.address).await;
    wire.send("GET / HTTP/1.1\r\nHo").await;
    let answer = wire.end().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("x-splitway-reason: head_timeout\r\n"), "{answer}");
    // Also after a first request, and however busily single bytes come.
    let mut wire = Wire::connect(scene.proxy.address).await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.until("stable").await;
    wire.until("stable").await;
    wire.send("GET / HTTP/1.1\r\n").await;
    let trickle = async {
        loop {
            wire.send("a: b\r\n").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if scene.refused("head_timeout").await == 2.0 {
                return wire.end().await;
            }
        }
    };
    let answer = crate::support::soon("the end of a head that never ends", trickle).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(scene.app.received(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let scene = Scene::with(|policy| policy.timeouts.idle = Duration::from_millis(200)).await;
    let mut wire = Wire::connect(scene.proxy.address).await;
    wire.send("GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.until("xxx").await;
    assert_eq!(wire.end().await, "");
    assert_eq!(Wire::connect(scene.proxy.address).await.end().await, "", "also one that never asked anything");
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_answered_504() {
    let scene = Scene::with(|policy| policy.timeouts.first_byte = Duration::from_millis(200)).await;
    let mut client = scene.proxy.client().await;
    for path in ["/held", "/held"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.reason()), (504, "first_byte_timeout"));
    }
    assert_eq!(scene.app.received(), 2, "a request that may be at work is not sent again");
    assert_eq!(client.get("/").await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_slow_upload_is_not_the_applications_delay() {
    let scene = Scene::with(|policy| policy.timeouts.first_byte = Duration::from_millis(500)).await;
    let mut wire = Wire::connect(scene.proxy.address).await;
    wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n").await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        wire.send("x").await;
    }
    let answer = wire.until("xxxxx").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn an_upload_that_stops_is_answered_408_and_is_not_the_applications_failure() {
    let scene = Scene::with(|policy| policy.timeouts.first_byte = Duration::from_millis(200)).await;
    let mut wire = Wire::connect(scene.proxy.address).await;
    wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nhalf").await;
    let answer = wire.end().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("x-splitway-reason: body_timeout\r\n"), "{answer}");
    let failure = "splitway_upstream_failures_total{version=\"stable\",role=\"stable\",failure=\"first_byte_timeout\"}";
    assert_eq!(scene.proxy.metric(failure).await, 0.0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_waited_for_without_end() {
    let scene = Scene::with(|policy| policy.timeouts.idle = Duration::from_millis(300)).await;
    let mut wire = Wire::connect(scene.proxy.address).await;
    wire.send("GET /bytes/100000000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.until("HTTP/1.1 200").await;
    eventually("the connection cut", async || scene.proxy.metric("splitway_downstream_connections").await == 0.0).await;
    assert!(wire.end().await.len() < 100_000_000);
}

#[tokio::test]
async fn a_client_that_is_refused_in_the_middle_of_its_body_can_read_why() {
    let scene = Scene::with(|policy| policy.limits.body_bytes = Some(1000)).await;
    let mut stream = Wire::connect(scene.proxy.address).await.into_stream();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Many a client reads nothing until everything is written.
    stream.write_all(&vec![b'x'; 30_000_000]).await.expect("the connection is not reset");
    let mut answer = String::new();
    crate::support::soon("the answer", stream.read_to_string(&mut answer)).await.expect("a proper end");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_request_that_does_not_end_in_time_is_answered_504_or_cut() {
    let scene = Scene::with(|policy| policy.timeouts.request = Some(Duration::from_millis(200))).await;
    let answer = scene.proxy.client().await.get("/held").await;
    assert_eq!((answer.status, answer.reason()), (504, "request_timeout"));
    // Once the head is out, only a cut can tell.
    let app =
        Scripted::start(|_, _| Then::Answer("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_owned())).await;
    let mut routing = routing(&[("stable", Role::Stable, 1, &[app.address])]);
    routing.policy.timeouts.request = Some(Duration::from_millis(200));
    let proxy = Proxy::start(routing).await;
    let answer = raw(proxy.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhalf"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_no_more_time() {
    let scene = Scene::with(|policy| policy.timeouts.request = Some(Duration::from_millis(300))).await;
    let mut wire = Wire::connect(scene.proxy.address).await;
    wire.send("GET /bytes/100000000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.until("HTTP/1.1 200").await;
    eventually("the connection cut", async || scene.proxy.metric("splitway_downstream_connections").await == 0.0).await;
    assert!(wire.end().await.len() < 100_000_000);
}

#[tokio::test]
async fn what_follows_connection_close_is_ignored() {
    let scene = Scene::with(|_| {}).await;
    for close in ["Connection: close", "connection: foo, CLOSE", "Connection: keep-alive\r\nConnection: close"] {
        let before = scene.app.received();
        let request =
            format!("GET /bytes/3 HTTP/1.1\r\nHost: a\r\n{close}\r\n\r\nGET /bytes/4 HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = raw(scene.proxy.address, request).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nxxx"), "{close}: {answer}");
        assert_eq!(scene.app.received() - before, 1, "{close}");
    }
}

#[tokio::test]
async fn before_the_first_snapshot_everybody_is_told_to_come_back() {
    let settings = Settings {
        proxy: proxy::Settings {
            listeners: vec![proxy::Listener::plain(([127, 0, 0, 1], 0).into(), 0)],
            workers: 1,
            reuse_port: false,
            drain: proxy::Drain::default(),
        },
        admin: None,
        identity: Identity::random(),
        ports: vec![PortName::default()],
        following: None,
        aliases: Vec::new(),
        record: Default::default(),
    };
    let (_observations, receiver) = control::channel();
    let running = splitway::bind(settings).unwrap().start(receiver).unwrap();
    let answer = Client::connect(running.listeners()[0]).await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "not_ready"));
}

#[tokio::test]
async fn time_passes_before_the_first_snapshot_too() {
    let settings = Settings {
        proxy: proxy::Settings {
            listeners: vec![proxy::Listener::plain(([127, 0, 0, 1], 0).into(), 0)],
            workers: 1,
            reuse_port: false,
            drain: proxy::Drain { delay: Duration::ZERO, timeout: Duration::from_secs(15) },
        },
        admin: None,
        identity: Identity::random(),
        ports: vec![PortName::default()],
        following: None,
        aliases: Vec::new(),
        record: Default::default(),
    };
    let (_observations, receiver) = control::channel();
    let running = splitway::bind(settings).unwrap().start(receiver).unwrap();
    let silent = Wire::connect(running.listeners()[0]).await;
    let cut = crate::support::soon("the drain", running.drain()).await;
    assert_eq!(cut, 0, "an idle connection is not waited for");
    assert_eq!(silent.end().await, "");
}
