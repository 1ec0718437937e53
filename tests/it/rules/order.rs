//! One message after the other, ends, cuts and repetitions: rules 42 to 45 and 51 to 55. Much of it is proved in `refuse`,
//! `stream` and `failure`, too.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::framing::spoken;
use super::raw::{
    Answer, App, Ask, BOTH, Bytes, Frames, H1, H2, PAIRS, Scene, Then, all, headers, read_answer, request_fields,
};
use crate::support::{eventually, soon};

#[tokio::test]
async fn nothing_is_ever_sent_in_chunks_to_http_1_0() {
    for up in BOTH {
        let answered = Answer { trailers: super::raw::fields(&[("x-sum", "1")]), ..Answer::ok("hello") };
        let scene = Scene::answering((H1, up), answered).await;
        let answer = spoken(&scene, "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        assert!(answer.ends_with("\r\n\r\nhello"), "{answer:?}");
        assert!(!answer.to_lowercase().contains("transfer-encoding"), "{answer:?}");
    }
}

#[tokio::test]
async fn what_was_not_read_of_a_refused_body_is_no_next_request() {
    // Refused for its Host, before any of its body is read.
    let scene = Scene::plain((H1, H1)).await;
    let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let request = format!("POST / HTTP/1.1\r\nHost: a b\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    let answers = spoken(&scene, &request).await;
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    assert_eq!(scene.app.seen().len(), 0);
}

#[tokio::test]
async fn a_body_that_outlasts_its_answer_does_not_reach_the_next_request() {
    for pair in PAIRS {
        // Answers at the head; what is left of the body must be read as the body's by everybody.
        let app = App::early(pair.1, |seen| Then::Answer(Answer::ok(&seen.target))).await;
        let scene = Scene::before(app, pair, |_| {}).await;
        let mut client = scene.client().await;
        let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
        for n in 0..5 {
            let answer = client.ask(&Ask::post(&format!("/{n}"), &inner)).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, format!("/{n}").as_str()), "{pair:?}");
        }
        eventually("all requests", async || scene.app.seen().len() >= 5).await;
        assert!(scene.app.seen().iter().all(|seen| !seen.target.contains("smuggled")), "{pair:?}");
    }
}

#[tokio::test]
async fn answers_keep_the_order_of_pipelined_requests_whatever_they_take() {
    for up in BOTH {
        let scene = Scene::with((H1, up), |seen| Then::Answer(Answer::ok(&seen.target))).await;
        let mut client = Bytes::connect(scene.proxy.address).await;
        let all: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        client.send(all).await;
        for n in 0..20 {
            let answer = soon("an answer", read_answer(&mut client, "GET")).await;
            assert_eq!(answer.body, format!("/{n}"));
        }
    }
}

#[tokio::test]
async fn a_cut_answer_is_seen_as_cut_in_every_combination() {
    for pair in PAIRS {
        for (answered, length) in [
            (Answer { cut: true, ..Answer::ok("half") }, false),
            (Answer { cut: true, ..Answer::ok("half").with(&[("content-length", "100")]) }, true),
        ] {
            let scene = Scene::answering(pair, answered).await;
            let answer = scene.ask(Ask::get("/")).await;
            // The head may not have left when the cut was found; then there is room for a better answer.
            assert!(answer.cut || answer.status == 502, "{pair:?} length {length}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_in_its_chunks_or_trailers_is_no_whole_one() {
    for down in BOTH {
        for chunks in
            ["4\r\nhalf\r\n", "9\r\nhalf", "4\r\nhalf\r\n0\r\n", "4\r\nhalf\r\n0\r\nx-sum: 1\r\n", "4\r\nhalf\r\nx\r\n"]
        {
            let answered = format!("HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
            let scene = Scene::with((down, H1), move |_| Then::Last(answered.clone())).await;
            let answer = scene.ask(Ask::get("/")).await;
            assert!(answer.cut || answer.status == 502, "{down:?} {chunks:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_of_two_truths_is_refused_or_has_one() {
    for down in BOTH {
        for (fields, body) in [
            ("content-length: 5\r\ntransfer-encoding: chunked", "2\r\nok\r\n0\r\n\r\n"),
            ("transfer-encoding: chunked\r\ncontent-length: 5", "2\r\nok\r\n0\r\n\r\n"),
            ("content-length: 2\r\ncontent-length: 2", "ok"),
        ] {
            let scene = Scene::with((down, H1), move |_| {
                Then::Bytes(format!("HTTP/1.1 200 x\r\n{fields}\r\n\r\n{body}HTTP/1.1 200 x\r\nx-poison: 1\r\ncontent-length: 6\r\n\r\npoison"))
            })
            .await;
            let mut client = scene.client().await;
            for _ in 0..3 {
                let answer = client.ask(&Ask::get("/")).await;
                assert!(
                    answer.status == 502 || (answer.status, answer.body.as_str()) == (200, "ok"),
                    "{fields}: {answer:?}"
                );
                let truths = answer.all("content-length").len() + answer.all("transfer-encoding").len();
                assert!(truths <= 1, "{fields}: {answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn bytes_on_an_idle_connection_are_nobodys_answer() {
    for down in BOTH {
        // Sends an answer too many after each answer, first at once and then when the connection is idle.
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let opened = std::sync::Arc::<AtomicU64>::default();
        let count = opened.clone();
        let (poisoned, mut told) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let poisoned = poisoned.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 6\r\n\r\npoison").await;
                    poisoned.send(()).unwrap();
                    let _ = stream.read_u8().await;
                });
            }
        });
        let app = App::start(H1, |_| Then::Silence).await;
        let scene = Scene::before(app, (down, H1), |_| {}).await;
        scene.proxy.set(crate::support::routing(&[("stable", splitway::route::Role::Stable, 1, &[address])])).await;
        let mut client = scene.client().await;
        for n in 1..=3 {
            let answer = client.ask(&Ask::get("/")).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{down:?}");
            soon("the poison", told.recv()).await.unwrap();
            assert_eq!(
                opened.load(Ordering::Relaxed),
                n,
                "{down:?}: a connection with a word too many is not used again"
            );
        }
    }
}

/// An application that answers the first request of each connection, and ends the connection at the next one.
fn once_per_connection() -> impl Fn(&super::raw::Seen) -> Then + Send + Sync + 'static {
    let served = std::sync::Mutex::new(std::collections::HashSet::new());
    move |seen| {
        if served.lock().unwrap().insert(seen.connection) { Then::Answer(Answer::ok("ok")) } else { Then::Close }
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_done_is_repeated_only_if_it_is_safe_to() {
    for pair in PAIRS {
        for (method, again) in [("GET", true), ("HEAD", true), ("POST", false), ("PATCH", false), ("PURGE", false)] {
            let scene = Scene::with(pair, once_per_connection()).await;
            let mut client = scene.client().await;
            assert_eq!(client.ask(&Ask::get("/first")).await.status, 200, "{pair:?}");
            let answer = client.ask(&Ask::get("/second").method(method)).await;
            assert_eq!(answer.status, if again { 200 } else { 502 }, "{pair:?} {method}: {answer:?}");
            let sent = scene.app.seen().iter().filter(|seen| seen.target == "/second").count();
            assert_eq!(sent, if again { 2 } else { 1 }, "{pair:?} {method}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_the_application_refused_is_sent_again() {
    // REFUSED_STREAM, or a stream above the last of a GOAWAY: nothing was done (9113 section 8.7).
    for down in BOTH {
        for goaway in [false, true] {
            for method in ["GET", "POST"] {
                let first = AtomicU64::new(0);
                let scene =
                    Scene::with((down, H2), move |_| {
                        if first.fetch_add(1, Ordering::Relaxed) > 0 {
                            return Then::Answer(Answer::ok("ok"));
                        }
                        Then::Frames(Box::new(move |stream| {
                            if goaway { super::raw::goaway(0, 0) } else { super::raw::reset(stream, 7) }
                        }))
                    })
                    .await;
                let answer = scene.ask(Ask::get("/").method(method)).await;
                // Of a POST no second copy may be kept; then its client learns that it may come again.
                let told = method == "POST" && (answer.status, answer.reason()) == (503, "stream_refused");
                assert!(answer.body == "ok" || told, "{down:?} goaway {goaway} {method}: {answer:?}");
                assert_eq!(scene.app.seen().len(), if told { 1 } else { 2 }, "{down:?} goaway {goaway} {method}");
            }
        }
    }
}

#[tokio::test]
async fn one_cut_stream_does_not_touch_its_neighbours() {
    for up in BOTH {
        let scene = Scene::with((H2, up), |seen| match seen.target.as_str() {
            "/cut" => Then::Answer(Answer { cut: true, ..Answer::ok("half") }),
            _ => Then::Answer(Answer::ok("whole")),
        })
        .await;
        let mut frames = Frames::connect(scene.proxy.address).await;
        let both = [
            headers(1, &request_fields(&Ask::get("/cut")), true),
            headers(3, &request_fields(&Ask::get("/whole")), true),
        ];
        frames.send(both.concat()).await;
        // The order of the two ends is open, so both streams are read together.
        let (mut whole, mut ended) = (String::new(), [false; 2]);
        soon("both ends", async {
            while ended != [true; 2] {
                let frame = frames.next().await.expect("the connection goes on");
                match (frame.stream, frame.kind) {
                    (1, super::raw::RST_STREAM) => ended[0] = true,
                    (3, super::raw::RST_STREAM) => assert!(ended[1], "the neighbour was reset"),
                    (1, super::raw::HEADERS) => {
                        // 502, if the cut was found before the head had left.
                        let fields = frames.fields(&frame).await;
                        ended[0] |= all(&fields, ":status") == ["502"];
                    }
                    (3, super::raw::HEADERS) => drop(frames.fields(&frame).await),
                    (1, super::raw::DATA) => assert!(
                        ended[0] || frame.flags & super::raw::END_STREAM == 0,
                        "the cut answer was ended as a whole one"
                    ),
                    (3, super::raw::DATA) => {
                        whole += &super::raw::text(&frame.payload);
                        ended[1] |= frame.flags & super::raw::END_STREAM != 0;
                    }
                    _ => {}
                }
            }
        })
        .await;
        assert_eq!(whole, "whole");
    }
}
