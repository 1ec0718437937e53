//! Frames of HTTP/2 that no client should send: rules 56, 63 and 64. The conformance suite asks much more of it; here is
//! what concerns an intermediary.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::raw::{
    ACK, Answer, App, Ask, BOTH, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, End, Frames, GOAWAY, H1, H2,
    HEADERS, PING, RST_STREAM, SETTINGS, Scene, Then, block, data, fields, frame, headers, request_fields, reset,
};
use crate::process::Serving;
use crate::support::soon;

fn get(target: &str) -> super::raw::Fields {
    request_fields(&Ask::get(target))
}

/// Reads to the end of the connection; the error code of its GOAWAY, if there is one.
async fn ends(frames: &mut Frames) -> Option<u32> {
    soon("the end of the connection", async {
        let mut code = None;
        while let Some(frame) = frames.next().await {
            if frame.kind == GOAWAY {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    })
    .await
}

/// A flood has so many frames. It is stopped after so many answers, or costs less than so much memory.
const FRAMES: u32 = 20_000;
const STOPPED_AFTER: usize = 1_000;
const MEMORY: f64 = 8.0 * 1024.0 * 1024.0;

/// Sends a flood until it is stopped by the end of the connection, or is suffered to the end. Then it may have cost hardly
/// any memory of a proxy in a process of its own, which serves the next one, and not more than so many of its requests may
/// have gone upstream.
async fn flood(what: &str, prelude: Vec<u8>, mut next: impl FnMut(u32) -> Vec<u8>, upstream: usize) {
    let app = App::start(H1, |seen| match seen.target.as_str() {
        "/held" => Then::Silence,
        _ => Then::Answer(Answer::ok("ok")),
    })
    .await;
    let proxy = Serving::start(&["--stable", &app.address.to_string()]).await;
    // Whatever is made once is made before.
    let mut client = Client::connect(proxy.proxy, H2).await;
    assert_eq!(client.ask(&Ask::get("/first")).await.status, 200, "{what}");
    drop(client);
    let before = proxy.metric("process_resident_memory_bytes", "").await;
    let mut frames = Frames::connect(proxy.proxy).await;
    frames.send(prelude).await;
    let mut sent = 0;
    while sent < FRAMES {
        let some: Vec<u8> = (0..50).flat_map(|n| next(sent + n)).collect();
        // Nothing that comes back is read: that is part of the attack. Nor is it waited for without end that the proxy reads.
        match tokio::time::timeout(Duration::from_secs(2), frames.bytes.stream.write_all(&some)).await {
            Ok(Ok(())) => sent += 50,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let grown = proxy.metric("process_resident_memory_bytes", "").await - before;
    // Whether it was ended, and after how many streams, shows in what has come back.
    let mut answered = 0;
    let ended = tokio::time::timeout(Duration::from_millis(500), async {
        while let Some(frame) = frames.next().await {
            answered += usize::from(matches!(frame.kind, HEADERS | RST_STREAM));
        }
    })
    .await;
    let stopped = ended.is_ok() && answered <= STOPPED_AFTER;
    assert!(
        stopped || grown < MEMORY,
        "{what}: {:.1} MiB for {sent} frames, {answered} answered, ended: {}",
        grown / 1024.0 / 1024.0,
        ended.is_ok()
    );
    // Even one that is stopped costs no more than this.
    assert!(grown < 4.0 * MEMORY, "{what}: {:.1} MiB", grown / 1024.0 / 1024.0);
    let seen = app.seen().iter().filter(|seen| seen.target != "/first").count();
    assert!(seen <= upstream, "{what}: {seen} requests went upstream");
    let mut client = Client::connect(proxy.proxy, H2).await;
    assert_eq!(client.ask(&Ask::get("/innocent")).await.status, 200, "{what}");
}

#[tokio::test]
async fn a_flood_of_requests_that_are_reset_at_once_does_not_flood_the_application() {
    // CVE-2023-44487, and HEADERS and RST_STREAM faster than they are accepted.
    let next = |n: u32| [headers(2 * n + 1, &get("/"), true), reset(2 * n + 1, 8)].concat();
    flood("rapid reset", Vec::new(), next, 2_000).await;
}

#[tokio::test]
async fn a_flood_that_makes_the_proxy_reset_does_not_flood_the_application() {
    // CVE-2025-8671: each stream is opened well and then wronged, so that the server is the one to reset it.
    let wrong_window = |n: u32| [headers(2 * n + 1, &get("/"), false), super::raw::window(2 * n + 1, 0)].concat();
    flood("made to reset, by a window of 0", Vec::new(), wrong_window, 2_000).await;
    let overflow = |n: u32| [headers(2 * n + 1, &get("/"), false), super::raw::window(2 * n + 1, 0x7fff_ffff)].concat();
    flood("made to reset, by a window too large", Vec::new(), overflow, 2_000).await;
    let own = |n: u32| {
        let priority = [&(2 * n + 1).to_be_bytes()[..], &[0]].concat();
        [headers(2 * n + 1, &get("/"), false), frame(2, 0, 2 * n + 1, &priority)].concat()
    };
    flood("made to reset, by a stream that depends on itself", Vec::new(), own, 2_000).await;
}

#[tokio::test]
async fn a_flood_of_malformed_requests_costs_little() {
    let next = |n: u32| {
        let mut fields = get("/");
        fields.push(("connection".to_owned(), "close".to_owned()));
        headers(2 * n + 1, &fields, true)
    };
    flood("malformed requests", Vec::new(), next, 0).await;
}

#[tokio::test]
async fn a_flood_of_continuations_is_stopped() {
    // RUSTSEC-2024-0332, CVE-2023-45288: a field block that never ends, of empty frames and of full ones.
    let first = || frame(HEADERS, END_STREAM, 1, &block(&get("/")));
    flood("empty continuations", first(), |_| frame(CONTINUATION, 0, 1, &[]), 0).await;
    let filled = block(&fields(&[("x-a", &"b".repeat(4_000))]));
    flood("full continuations", first(), |_| frame(CONTINUATION, 0, 1, &filled), 0).await;
}

#[tokio::test]
async fn floods_of_control_frames_cost_little() {
    flood("pings", Vec::new(), |_| frame(PING, 0, 0, &[0; 8]), 0).await;
    flood("settings", Vec::new(), |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]), 0).await;
    flood("empty data", headers(1, &request_fields(&Ask::post("/held", "")), false), |_| frame(DATA, 0, 1, &[]), 1)
        .await;
    flood("priorities", Vec::new(), |n| frame(2, 0, 2 * n + 1, &[0, 0, 0, 0, 1]), 0).await;
    flood("unknown frames", Vec::new(), |n| frame(0x42, 0, n, &[0; 100]), 0).await;
}

#[tokio::test]
async fn a_header_list_above_the_limit_is_refused() {
    for size in [70_000, 200_000, 2_000_000] {
        let scene = Scene::plain((H2, H1)).await;
        let mut frames = Frames::connect(scene.proxy.address).await;
        let mut large = get("/");
        for n in 0..size / 1_000 {
            large.push((format!("x-{n}"), "b".repeat(1_000)));
        }
        frames.send(headers(1, &large, true)).await;
        match frames.answer(1).await {
            Ok(answer) => assert_eq!(answer.status, 431, "{size}"),
            Err(End::Reset(..)) | Err(End::GoAway(..)) | Err(End::Closed(_)) => {}
        }
        assert_eq!(scene.app.seen().len(), 0, "{size}");
    }
}

#[tokio::test]
async fn more_fields_than_the_limit_are_refused() {
    let scene = Scene::plain((H2, H1)).await;
    let mut many = get("/");
    many.extend((0..200).map(|n| (format!("x-{n}"), "b".to_owned())));
    let mut frames = Frames::connect(scene.proxy.address).await;
    frames.send(headers(1, &many, true)).await;
    match frames.answer(1).await {
        Ok(answer) => assert_eq!((answer.status, answer.reason()), (431, "head_too_large")),
        Err(End::Reset(..)) => {}
        Err(other) => panic!("{other:?}"),
    }
    assert_eq!(scene.app.seen().len(), 0);
}

#[tokio::test]
async fn streams_beyond_the_announced_limit_are_refused_and_not_queued() {
    let scene = Scene::with((H2, H1), |_| Then::Silence).await;
    let mut frames = Frames::connect(scene.proxy.address).await;
    let all: Vec<u8> = (0..2_000).flat_map(|n| headers(2 * n + 1, &get("/"), true)).collect();
    frames.send(all).await;
    let limit = soon("the settings", async {
        loop {
            let frame = frames.next().await.expect("settings");
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                let limit = frame.payload.chunks(6).find(|setting| setting[..2] == [0, 3]);
                return u32::from_be_bytes(limit.expect("a limit of streams")[2..].try_into().unwrap());
            }
        }
    })
    .await;
    assert!((1..=1_000).contains(&limit), "{limit} streams at once");
    let refused = soon("a refusal", async {
        while let Some(frame) = frames.next().await {
            if frame.kind == RST_STREAM || frame.kind == GOAWAY {
                return true;
            }
        }
        true
    })
    .await;
    assert!(refused && scene.app.seen().len() <= limit as usize);
}

#[tokio::test]
async fn what_comes_after_a_reset_changes_nothing() {
    // CVE-2026-26311: DATA, trailers and windows for a stream that is gone.
    let scene = Scene::plain((H2, H1)).await;
    let mut frames = Frames::connect(scene.proxy.address).await;
    let post = request_fields(&Ask::post("/1", ""));
    let sent = [
        headers(1, &post, false),
        data(1, "half", false),
        reset(1, 8),
        data(1, "more", true),
        super::raw::window(1, 10),
        reset(1, 8),
    ];
    frames.send(sent.concat()).await;
    frames.send(headers(3, &get("/3"), true)).await;
    match frames.answer(3).await {
        Ok(answer) => assert_eq!(answer.status, 200),
        // DATA on a closed stream may be an error of the connection (9113 section 5.1).
        Err(End::GoAway(5, _)) | Err(End::Closed(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
    assert!(scene.app.seen().iter().all(|seen| seen.target != "/1" || !seen.whole), "{:?}", scene.app.seen());
}

#[tokio::test]
async fn thousands_of_resets_take_no_quadratic_time() {
    // CVE-2021-32778. Twenty times as many take less than a hundred times as long: generous for a busy machine, and far
    // from what a square would take.
    async fn round(streams: u32) -> Duration {
        let scene = Scene::plain((H2, H1)).await;
        let began = std::time::Instant::now();
        for first in (0..streams).step_by(50) {
            let mut frames = Frames::connect(scene.proxy.address).await;
            let opened: Vec<u8> =
                (0..50).flat_map(|n| headers(2 * n + 1, &request_fields(&Ask::post("/", "")), false)).collect();
            let ended: Vec<u8> = (0..50).flat_map(|n| reset(2 * n + 1, 8)).collect();
            frames.send([opened, ended, frame(PING, 0, 0, &first.to_be_bytes().repeat(2))].concat()).await;
            soon("the echo", async {
                while let Some(frame) = frames.next().await {
                    if frame.kind == PING && frame.flags & ACK != 0 {
                        break;
                    }
                }
            })
            .await;
        }
        began.elapsed()
    }
    let (few, many) = (round(100).await, round(2_000).await);
    assert!(many < few * 100 + Duration::from_secs(5), "{few:?} for 100, {many:?} for 2000");
}

#[tokio::test]
async fn http_2_knows_no_101_and_no_upgrade() {
    for up in BOTH {
        let scene = Scene::with((H2, up), move |_| match up {
            H1 => Then::Bytes("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned()),
            H2 => Then::Frames(Box::new(|stream| {
                let switch = headers(stream, &fields(&[(":status", "101"), ("upgrade", "websocket")]), false);
                [switch, headers(stream, &fields(&[(":status", "200")]), true)].concat()
            })),
        })
        .await;
        let answer = scene.ask(Ask::get("/")).await;
        // From HTTP/2 it may also be taken for nothing.
        assert!(answer.status == 502 || answer.cut || (up == H2 && answer.status == 200), "{up:?}: {answer:?}");
        assert_eq!(answer.before, [], "{up:?}");
    }
}

#[tokio::test]
async fn extended_connect_is_neither_announced_nor_taken() {
    let scene = Scene::plain((H2, H1)).await;
    let mut frames = Frames::connect(scene.proxy.address).await;
    let settings = soon("the settings", async {
        loop {
            let frame = frames.next().await.expect("settings");
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                return frame.payload;
            }
        }
    })
    .await;
    assert!(!settings.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "{settings:?}");
    let mut ask = get("/");
    ask[0].1 = "CONNECT".to_owned();
    ask.push((":protocol".to_owned(), "websocket".to_owned()));
    frames.send(headers(1, &ask, false)).await;
    match frames.answer(1).await {
        Ok(answer) => assert!(matches!(answer.status, 400 | 405), "{answer:?}"),
        Err(End::Reset(..)) => {}
        Err(other) => panic!("{other:?}"),
    }
    assert_eq!(scene.app.seen().len(), 0);
}

#[tokio::test]
async fn a_request_without_the_end_of_its_fields_goes_nowhere() {
    let scene = Scene::plain((H2, H1)).await;
    let mut frames = Frames::connect(scene.proxy.address).await;
    frames.send(frame(HEADERS, END_STREAM, 1, &block(&get("/")))).await;
    // Anything but a continuation of it is an error of the connection (9113 section 6.10).
    frames.send(frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(&get("/")))).await;
    assert_eq!(ends(&mut frames).await, Some(1));
    assert_eq!(scene.app.seen().len(), 0);
}
