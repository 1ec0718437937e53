//! Where a body ends: rules 1 to 16, 50 and 60. Several of them are proved in `refuse` and `stream`, too.

use super::raw::{Answer, Ask, BOTH, Bytes, H1, H2, PAIRS, Protocol, Scene, Then, fields, headers, read_answer};
use crate::support::{eventually, soon};

/// What a client of HTTP/1 is answered, to the end of the connection.
pub async fn spoken(scene: &Scene, bytes: &str) -> String {
    let mut client = Bytes::connect(scene.proxy.address).await;
    client.send(super::raw::bytes(bytes)).await;
    client.rest().await
}

/// Bytes of HTTP/1 that are refused with a status and a reason, on a connection that ends, and that nobody behind sees.
pub async fn refused(bytes: &str, status: u16, reason: &str) {
    let scene = Scene::plain((H1, H1)).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = spoken(&scene, &format!("{bytes}{smuggled}")).await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:?} was answered {answer:?}");
    assert!(answer.contains(&format!("\r\nx-splitway-reason: {reason}\r\n")), "{bytes:?} was answered {answer:?}");
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{bytes:?} was answered {answer:?}");
    assert_eq!(scene.app.seen().len(), 0, "{bytes:?} reached the application");
    eventually("the refusal counted", async || scene.refused(reason).await == 1.0).await;
}

#[tokio::test]
async fn two_equal_lengths_are_refused() {
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 400, "bad_request").await;
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\nhi", 400, "bad_request").await;
}

#[tokio::test]
async fn a_length_beside_a_coding_is_refused_and_ends_the_connection() {
    for both in ["Content-Length: 5\r\nTransfer-Encoding: chunked", "transfer-encoding: Chunked\r\ncontent-length: 5"] {
        refused(&format!("POST / HTTP/1.1\r\nHost: a\r\n{both}\r\n\r\n0\r\n\r\n"), 400, "bad_request").await;
    }
}

#[tokio::test]
async fn a_coding_nobody_knows_is_not_implemented() {
    for coding in ["gzip, chunked", "cow,\tchunked", "identity, Chunked"] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        refused(&request, 501, "coding_refused").await;
    }
}

#[tokio::test]
async fn a_coding_in_http_1_0_is_refused() {
    refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_request").await;
    let both = "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(both, 400, "bad_request").await;
}

#[tokio::test]
async fn a_body_is_framed_once_whatever_framed_it_before() {
    for pair @ (down, up) in PAIRS {
        let scene = Scene::plain(pair).await;
        let mut asks = vec![Ask::post("/", "hello")];
        if down == H1 {
            asks.push(Ask::post("/", "hello").with(&[("Transfer-Encoding", "CHUNKED")]));
        } else {
            asks.push(Ask::post("/", "hello").with(&[("content-length", "5")]));
        }
        for ask in asks {
            assert_eq!(scene.ask(ask).await.status, 200, "{pair:?}");
        }
        for seen in scene.app.saw(2).await {
            assert_eq!((seen.body.as_str(), seen.whole), ("hello", true), "{pair:?}");
            let (lengths, codings) = (seen.all("content-length"), seen.all("transfer-encoding"));
            let once: &[usize] = if up == H1 { &[1] } else { &[0, 1] };
            assert!(once.contains(&(lengths.len() + codings.len())), "{pair:?}: {seen:?}");
            assert!(codings.iter().all(|coding| *coding == "chunked" && up == H1), "{pair:?}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn chunk_extensions_are_dropped_and_bounded() {
    let scene = Scene::plain((H1, H1)).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = spoken(&scene, &format!("{head}2;a=b ;c=\"d\"\r\nhi\r\n0;e\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = scene.app.saw_one().await;
    assert_eq!((seen.body.as_str(), seen.whole), ("hi", true));
    // In one chunk, and in many.
    let large = format!("2;{}\r\nhi\r\n0\r\n\r\n", "x".repeat(40_000));
    let many = format!("1;{}\r\nx\r\n", "y".repeat(100)).repeat(400) + "0\r\n\r\n";
    for chunks in [large, many] {
        let scene = Scene::plain((H1, H1)).await;
        let answer = spoken(&scene, &format!("{head}{chunks}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(scene.app.seen().iter().all(|seen| !seen.whole));
    }
}

#[tokio::test]
async fn a_body_that_stops_in_the_middle_never_becomes_whole() {
    for pair in PAIRS {
        for chunked in [false, true] {
            let mut ask = Ask::post("/", "half").cut();
            if chunked && pair.0 == H1 {
                ask = ask.with(&[("Transfer-Encoding", "chunked")]);
            }
            let scene = Scene::plain(pair).await;
            let answer = scene.ask(ask).await;
            assert!(answer.cut || answer.status == 400, "{pair:?}: {answer:?}");
            // A request may also be given up before anything of it has left.
            eventually("nothing in flight", async || {
                scene.proxy.metric("splitway_requests_in_flight{version=\"stable\",role=\"stable\"}").await == 0.0
            })
            .await;
            assert!(scene.app.seen().iter().all(|seen| !seen.whole), "{pair:?}: {:?}", scene.app.seen());
        }
    }
}

#[tokio::test]
async fn a_request_without_length_or_coding_has_no_body() {
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let scene = Scene::plain((H1, H1)).await;
        let two =
            format!("{method} /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answers = spoken(&scene, &two).await;
        assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 2, "{answers}");
        let seen = scene.app.saw(2).await;
        assert_eq!((seen[0].target.as_str(), seen[1].target.as_str()), ("/1", "/2"));
        assert_eq!((seen[0].body.as_str(), seen[1].body.as_str()), ("", ""));
    }
}

#[tokio::test]
async fn a_request_without_a_body_has_none_behind_either() {
    for pair in PAIRS {
        let scene = Scene::plain(pair).await;
        scene.ask(Ask::get("/")).await;
        let seen = scene.app.saw_one().await;
        assert_eq!((seen.body.as_str(), seen.whole), ("", true), "{pair:?}");
        assert_eq!(seen.all("content-length").len() + seen.all("transfer-encoding").len(), 0, "{pair:?}: {seen:?}");
    }
}

/// Fields that a trailer may not carry (9110 section 6.5.1), and one that it may.
const TRAILERS: [(&str, &str); 12] = [
    ("content-length", "5"),
    ("transfer-encoding", "chunked"),
    ("host", "evil.example"),
    ("authorization", "Basic x"),
    ("cookie", "a=b"),
    ("set-cookie", "a=b"),
    ("cache-control", "no-store"),
    ("x-forwarded-for", "203.0.113.7"),
    ("forwarded", "for=203.0.113.7"),
    ("splitway-role", "stable"),
    ("te", "trailers"),
    ("x-sum", "1"),
];

#[tokio::test]
async fn trailers_stay_trailers_and_lose_what_they_may_not_carry() {
    for pair @ (down, up) in PAIRS {
        // HTTP/2 has no connection-specific fields, in trailers either: such a request would be malformed.
        let usable = |protocol: Protocol| {
            let connection_specific = |name: &str| matches!(name, "transfer-encoding" | "te");
            fields(&TRAILERS).into_iter().filter(|(name, _)| protocol == H1 || !connection_specific(name)).collect()
        };
        let announced = [("trailer", "x-sum")];
        let answered = Answer { trailers: usable(up), ..Answer::ok("ok").with(&announced) };
        let scene = Scene::answering(pair, answered).await;
        let ask = Ask { trailers: usable(down), ..Ask::post("/", "hi").with(&[("te", "trailers")]).with(&announced) };
        let ask = if down == H1 { ask.with(&[("Connection", "te")]) } else { ask };
        let answer = scene.ask(ask).await;
        assert_eq!((answer.status, answer.body.as_str(), answer.cut), (200, "ok", false), "{pair:?}");
        assert_eq!(answer.trailers, fields(&[("x-sum", "1")]), "{pair:?}");
        assert!(answer.all("x-sum").is_empty() && answer.all("set-cookie").is_empty(), "{pair:?}: merged");
        let seen = scene.app.saw_one().await;
        assert_eq!((seen.body.as_str(), seen.whole), ("hi", true), "{pair:?}");
        assert_eq!(seen.trailers, fields(&[("x-sum", "1")]), "{pair:?}");
        assert!(seen.all("x-sum").is_empty() && seen.all("authorization").is_empty(), "{pair:?}: merged");
    }
}

#[tokio::test]
async fn no_answer_has_a_body_that_may_have_none() {
    for pair in PAIRS {
        for (method, status, length) in
            [("HEAD", 200, true), ("GET", 204, false), ("GET", 304, true), ("HEAD", 404, true), ("HEAD", 304, false)]
        {
            let mut answered = Answer::default().status(status);
            if length {
                answered = answered.with(&[("content-length", "1000")]);
            }
            let scene = Scene::answering(pair, answered).await;
            let mut client = scene.client().await;
            // The second answer would be read as the first one's body.
            for _ in 0..2 {
                let answer = client.ask(&Ask::get("/").method(method)).await;
                assert_eq!((answer.status, answer.body.as_str(), answer.cut), (status, "", false), "{pair:?} {method}");
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_must_not_be_there_is_no_next_answer() {
    // The application sends a body with answers that have none; nobody may take it for the next answer.
    for (method, head) in
        [("HEAD", "200 OK\r\ncontent-length: 33"), ("GET", "204 No\r\nx: y"), ("GET", "304 Not\r\nx: y")]
    {
        let scene = Scene::with((H1, H1), move |_| {
            Then::Bytes(format!("HTTP/1.1 {head}\r\n\r\nHTTP/1.1 200 OK\r\nx-poison: 1\r\n\r\n"))
        })
        .await;
        for _ in 0..5 {
            let answer = scene.ask(Ask::get("/").method(method)).await;
            assert_eq!(answer.all("x-poison"), [""; 0], "{method} {head}");
            assert_ne!(answer.status, 0);
        }
    }
}

#[tokio::test]
async fn a_length_that_is_not_the_sum_of_data_resets_the_stream() {
    for up in BOTH {
        for (length, body) in
            [("4", "hello"), ("6", "hello"), ("0", "h"), ("x", ""), ("+5", "hello"), ("5, 5", "hello")]
        {
            let scene = Scene::plain((H2, up)).await;
            let answer = scene.ask(Ask::post("/", body).with(&[("content-length", length)])).await;
            assert!(answer.cut || answer.status == 400, "{length} with {body:?}: {answer:?}");
            assert!(scene.app.seen().iter().all(|seen| !seen.whole), "{length} with {body:?} became whole");
        }
        // Ended by its HEADERS already.
        let scene = Scene::plain((H2, up)).await;
        let answer = scene.ask(Ask::get("/").with(&[("content-length", "5")])).await;
        assert!(answer.cut || answer.status == 400, "{answer:?}");
        assert_eq!(scene.app.seen().len(), 0);
        let scene = Scene::plain((H2, up)).await;
        let answer = scene.ask(Ask::post("/", "hello").with(&[("content-length", "5"), ("content-length", "6")])).await;
        assert!(answer.cut || answer.status == 400, "{answer:?}");
        assert!(scene.app.seen().iter().all(|seen| !seen.whole));
    }
}

#[tokio::test]
async fn an_answers_length_that_is_not_the_sum_of_its_data_is_a_cut_answer() {
    for down in BOTH {
        for (length, body) in [("4", "hello"), ("6", "hello")] {
            let scene = Scene::with((down, H2), move |_| {
                Then::Frames(Box::new(move |stream| {
                    let head = headers(stream, &fields(&[(":status", "200"), ("content-length", length)]), false);
                    [head, super::raw::data(stream, body, true)].concat()
                }))
            })
            .await;
            let answer = scene.ask(Ask::get("/")).await;
            assert!(answer.cut || answer.status == 502, "{down:?} {length}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_get_may_have_a_body_and_it_is_no_next_request() {
    for pair in PAIRS {
        let scene = Scene::plain(pair).await;
        let mut client = scene.client().await;
        let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let ask = Ask { body: Some(inner.to_owned()), ..Ask::get("/1") };
        assert_eq!(client.ask(&ask).await.status, 200, "{pair:?}");
        assert_eq!(client.ask(&Ask::get("/2")).await.status, 200, "{pair:?}");
        let seen = scene.app.saw(2).await;
        assert_eq!((seen[0].body.as_str(), seen[1].target.as_str()), (inner, "/2"), "{pair:?}");
    }
}

#[tokio::test]
async fn what_is_refused_behind_a_good_request_is_answered_after_it() {
    let scene = Scene::plain((H1, H1)).await;
    let answers =
        spoken(&scene, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\n\r\n")
            .await;
    assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
    assert!(answers.contains("\r\n\r\nokHTTP/1.1 400 "), "{answers}");
    assert!(answers.contains("a line ends with a line feed alone"), "{answers}");
    assert_eq!(scene.app.saw_one().await.target, "/1");
}

#[tokio::test]
async fn a_refused_head_waits_for_the_answer_before_it() {
    let app = super::raw::App::start(H1, |seen| match seen.target.as_str() {
        "/slow" => Then::Silence,
        _ => Then::Answer(Answer::ok("ok")),
    })
    .await;
    let scene = Scene::before(app, (H1, H1), |policy| {
        policy.timeouts.first_byte = std::time::Duration::from_millis(500);
    })
    .await;
    let mut client = Bytes::connect(scene.proxy.address).await;
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/3.0\r\n\r\n").await;
    let first = soon("the answer", read_answer(&mut client, "GET")).await;
    assert_eq!((first.status, first.reason()), (504, "first_byte_timeout"));
    let second = soon("the refusal", read_answer(&mut client, "GET")).await;
    assert_eq!((second.status, second.reason()), (505, "version_refused"));
    assert_eq!(client.rest().await, "");
}
