//! Clients who want something else than answers: nobody else notices them, and they cost little. `loadtest/malice` measures
//! the same with larger crowds and a clock; here is what does not depend on how fast the machine is.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::process::Serving;
use crate::rules::raw::{
    ACK, Ask, CONTINUATION, DATA, END_STREAM, Frames, HEADERS, PING, PREFACE, SETTINGS, block, frame, headers,
    request_fields, reset, window,
};
use crate::support::{Wire, eventually, soon};

/// Answers `/large` with more than all buffers hold, `/held` never, everything else with `ok`; takes bodies and says nothing.
async fn app() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    const LARGE: usize = 64 << 20;
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if !request.windows(4).any(|four| four == b"\r\n\r\n") {
            continue;
        }
        if request.starts_with(b"GET /large") {
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").as_bytes()).await?;
            for _ in 0..LARGE / 65_536 {
                stream.write_all(&[b'l'; 65_536]).await?;
            }
        } else if request.starts_with(b"GET /") && !request.starts_with(b"GET /held") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
        request.clear();
    }
}

/// Memory of the process that is really there, in MiB.
async fn memory(proxy: &Serving) -> f64 {
    proxy.metric("process_resident_memory_bytes", "").await / 1024.0 / 1024.0
}

#[tokio::test]
async fn those_who_are_slow_or_silent_or_do_not_read_keep_nobody_waiting_and_cost_little() {
    let proxy = Serving::start(&["--stable", &app().await.to_string(), "--workers", "2"]).await;
    let mut innocent = proxy.client().await;
    assert_eq!(innocent.get("/").await.status, 200);
    let before = memory(&proxy).await;

    let unread = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]), &window(0, 0x7fff_0000)].concat();
    let no_window = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat();
    let large = headers(1, &request_fields(&Ask::get("/large")), true);
    let habits: [(usize, Vec<u8>); 6] = [
        (100, b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ".to_vec()),
        (100, Vec::new()),
        (40, b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nslow".to_vec()),
        (10, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        (5, [unread, large.clone()].concat()),
        (5, [no_window, large].concat()),
    ];
    let mut crowd = Vec::new();
    for (count, says) in &habits {
        for _ in 0..*count {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let mut stream = socket.connect(proxy.proxy).await.unwrap();
            stream.write_all(says).await.unwrap();
            crowd.push(stream);
        }
    }
    // Each of the large answers is on its way, and the bodies, too.
    eventually("the crowd", async || {
        proxy.metric("splitway_requests_in_flight", "role=\"stable\"").await >= 60.0
            && proxy.metric("splitway_downstream_connections", "").await >= 260.0
    })
    .await;
    for round in 0..100 {
        // Those who are slow send one more byte each.
        let slow = &mut crowd[round % 100];
        slow.write_all(b"s").await.unwrap();
        assert_eq!(innocent.get("/").await.status, 200);
        assert_eq!(proxy.client().await.get("/").await.status, 200);
    }
    let grown = memory(&proxy).await - before;
    println!("{} hostile clients: {grown:.1} MiB", crowd.len());
    assert!(grown < 32.0, "{grown:.1} MiB");

    drop(crowd);
    eventually("an end of all that", async || {
        proxy.metric("splitway_requests_in_flight", "role=\"stable\"").await == 0.0
    })
    .await;
    assert_eq!(innocent.get("/").await.status, 200);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_read_like_any_other() {
    let proxy = Serving::start(&["--stable", &app().await.to_string()]).await;
    let slowly = async |bytes: &[u8]| {
        let mut wire = Wire::connect(proxy.proxy).await;
        for byte in bytes {
            wire.send([*byte]).await;
            tokio::task::yield_now().await;
        }
        wire
    };
    let mut served = slowly(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(served.until("ok").await.starts_with("HTTP/1.1 200 "));
    // And so is the next one on the same connection.
    served.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(served.until("ok").await.contains("HTTP/1.1 200 "));
    // Long before the end of its head, and without waiting for more.
    for wrong in ["GET / HTTP/1.1\nH", "GET / HTTP/1.1\r\nHost : a", "GET  / "] {
        let refused = slowly(wrong.as_bytes()).await.end().await;
        assert!(refused.starts_with("HTTP/1.1 400 "), "{wrong:?}: {refused}");
    }
    // Longer than what is kept ahead.
    let long = format!("GET /3 HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "b".repeat(5_000));
    assert!(slowly(long.as_bytes()).await.until("ok").await.starts_with("HTTP/1.1 200 "));
}

/// A flood of frames: what comes first, its `n`th part, and whether a PING may come between two parts.
struct Flood {
    name: &'static str,
    prelude: Vec<u8>,
    next: fn(u32) -> Vec<u8>,
    echo: bool,
    /// The word under which its end is counted.
    counted: Option<&'static str>,
}

/// A flood is ended after so many frames, or costs less than so many MiB.
const FRAMES: usize = 1_000;
const MEMORY: f64 = 8.0;

fn count(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [a, b, c, ..] = *bytes {
        bytes = &bytes[9 + u32::from_be_bytes([0, a, b, c]) as usize..];
        count += 1;
    }
    count
}

/// In lockstep: nothing more is sent before the echo of a PING shows that all has been read. `None`: it is not ended.
async fn frames_until_ended(flood: &Flood, proxy: SocketAddr) -> Option<usize> {
    let mut frames = Frames::connect(proxy).await;
    frames.send(&flood.prelude).await;
    let (mut sent, mut n) = (0, 0);
    while sent < 2 * FRAMES {
        let mut some = Vec::new();
        for _ in 0..8 {
            some.extend((flood.next)(n));
            n += 1;
        }
        sent += count(&some);
        let echo = u64::from(n).to_be_bytes();
        if flood.echo {
            some.extend(frame(PING, 0, 0, &echo));
        }
        frames.send(some).await;
        let ended = soon("the echo or the end", async {
            loop {
                match frames.next().await {
                    None => return true,
                    Some(frame) if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == echo => {
                        return false;
                    }
                    Some(_) => {}
                }
            }
        });
        // Where no PING may come in between, its end is all that can be waited for; in small portions, it is soon here.
        let ended = match flood.echo {
            true => ended.await,
            false => tokio::time::timeout(Duration::from_millis(20), ended).await.unwrap_or(false),
        };
        if ended {
            return Some(sent);
        }
    }
    None
}

fn get(stream: u32, target: &str) -> Vec<u8> {
    headers(stream, &request_fields(&Ask::get(target)), true)
}

#[tokio::test]
async fn each_flood_of_frames_is_ended_soon_and_counted_or_costs_little() {
    let post = || headers(1, &request_fields(&Ask::post("/held", "")), false);
    let unfinished = || frame(HEADERS, END_STREAM, 1, &block(&request_fields(&Ask::get("/"))));
    let flood = |name, next| Flood { name, prelude: Vec::new(), next, echo: true, counted: None };
    let counted = |name, next| Flood { counted: Some("flood"), ..flood(name, next) };
    let floods = [
        counted("rapid reset", |n| [get(2 * n + 1, "/held"), reset(2 * n + 1, 8)].concat()),
        counted("made you reset: window too large", |n| {
            [headers(2 * n + 1, &request_fields(&Ask::post("/held", "")), false), window(2 * n + 1, 0x7fff_ffff)]
                .concat()
        }),
        counted("malformed requests", |n| {
            let ask = Ask::get("/").with(&[("connection", "close")]);
            headers(2 * n + 1, &request_fields(&ask), true)
        }),
        counted("requests that are refused", |n| get(2 * n + 1, &format!("/{}", "a".repeat(20_000)))),
        Flood { echo: false, prelude: unfinished(), ..counted("continuations", |_| frame(CONTINUATION, 0, 1, &[])) },
        Flood { prelude: post(), ..counted("empty data", |_| frame(DATA, 0, 1, &[])) },
        flood("pings", |_| frame(PING, 0, 0, &[0; 8])),
        flood("settings", |n| frame(SETTINGS, 0, 0, &[0, 1, 0, 0, (n % 2) as u8, 0])),
        flood("windows", |_| window(0, 1)),
        flood("priorities", |n| frame(2, 0, 2 * n + 1, &[0, 0, 0, 0, 1])),
        flood("unknown frames", |n| frame(0x42, 0, 2 * n + 1, &[0; 1_000])),
    ];
    let proxy = Serving::start(&["--stable", &app().await.to_string(), "--workers", "1"]).await;
    let mut innocent = proxy.client().await;
    assert_eq!(innocent.get("/").await.status, 200);
    // What is made once is made before.
    let mut warm = Frames::connect(proxy.proxy).await;
    warm.send(get(1, "/")).await;
    assert_eq!(warm.answer(1).await.expect("an answer").status, 200);
    for flood in floods {
        let ended = "splitway_downstream_connections_ended_total";
        let counts = async || match flood.counted {
            Some(word) => proxy.metric(ended, word).await,
            None => 0.0,
        };
        let (before, had) = (memory(&proxy).await, counts().await);
        let frames = frames_until_ended(&flood, proxy.proxy).await;
        let grown = memory(&proxy).await - before;
        println!("{}: ended after {frames:?} frames, {grown:.1} MiB", flood.name);
        let soon = frames.is_some_and(|frames| frames <= FRAMES);
        assert!(soon || grown < MEMORY, "{}: {frames:?} frames, {grown:.1} MiB", flood.name);
        if flood.counted.is_some() {
            assert!(soon, "{}: {frames:?} frames", flood.name);
            eventually("its count", async || counts().await == had + 1.0).await;
        }
        assert_eq!(innocent.get("/").await.status, 200, "{}", flood.name);
    }
}
