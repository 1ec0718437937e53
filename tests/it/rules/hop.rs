//! What belongs to one connection, and what an intermediary adds: rules 35 to 41 and 46 to 49. Much of it is proved in
//! `headers` and `stream`, too.

use tokio::io::AsyncReadExt;

use super::framing::spoken;
use super::raw::{
    Answer, Ask, BOTH, Bytes, Frames, H1, H2, PAIRS, Scene, Then, data, fields, headers, read_answer, request_fields,
};
use crate::support::soon;

#[tokio::test]
async fn fields_of_one_connection_stay_on_it_in_both_directions() {
    for pair @ (down, up) in PAIRS {
        let of_connection = [
            ("Connection", "X-One, x-two"),
            ("CONNECTION", "keep-alive ,,\tX-Three"),
            ("x-one", "1"),
            ("X-TWO", "2"),
            ("x-three", "3"),
            ("x-three", "3"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Upgrade", "h2c"),
        ];
        let kept = [("x-kept", "yes")];
        let mut answered = Answer::ok("ok").with(&kept);
        if up == H1 {
            answered = answered.with(&of_connection);
        }
        let scene = Scene::answering(pair, answered).await;
        let mut ask = Ask::get("/").with(&kept);
        if down == H1 {
            ask = ask.with(&of_connection).with(&[("TE", "gzip")]);
        }
        let answer = scene.ask(ask).await;
        let seen = scene.app.saw_one().await;
        for side in [&seen.fields, &answer.fields] {
            let gone = |name: &&str| !super::raw::all(side, name).is_empty();
            let names = ["connection", "x-one", "x-two", "x-three", "keep-alive", "proxy-connection", "upgrade", "te"];
            assert_eq!(names.iter().find(|name| gone(name)), None, "{pair:?}: {side:?}");
            assert_eq!(super::raw::all(side, "x-kept"), ["yes"], "{pair:?}");
        }
    }
}

#[tokio::test]
async fn no_client_can_have_the_proxys_own_fields_removed() {
    for up in BOTH {
        let scene = Scene::plain((H1, up)).await;
        let named = "close, Host, content-length, X-Forwarded-For, x-forwarded-host, X-FORWARDED-PROTO, x-forwarded-port, \
                     forwarded, VIA, x-request-id, x-real-ip, te, cookie";
        let ask =
            Ask::post("/", "hello").with(&[("Connection", named), ("X-Request-Id", "mine"), ("X-Real-Ip", "1.2.3.4")]);
        assert_eq!(scene.ask(ask).await.status, 200);
        let seen = scene.app.saw_one().await;
        assert_eq!((seen.host(), seen.body.as_str(), seen.whole), ("a", "hello", true));
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.all("x-forwarded-host"), ["a"]);
        assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
        assert_eq!(seen.all("x-forwarded-port"), [scene.proxy.address.port().to_string()]);
        assert_eq!(seen.all("forwarded"), ["for=127.0.0.1;host=\"a\";proto=http"]);
        assert_eq!(seen.all("x-request-id"), ["mine"]);
        assert_eq!(seen.all("via").len(), 1);
    }
}

#[tokio::test]
async fn every_request_is_marked_with_via_in_the_version_it_came_in() {
    for pair in PAIRS {
        let scene = Scene::plain(pair).await;
        scene.ask(Ask::get("/").with(&[("via", "1.0 edge")])).await;
        let version = if pair.0 == H1 { "1.1" } else { "2" };
        let seen = scene.app.saw_one().await;
        assert_eq!(seen.all("via").join(", "), format!("1.0 edge, {version} splitway"), "{pair:?}");
    }
    let scene = Scene::plain((H1, H1)).await;
    spoken(&scene, "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!(scene.app.saw_one().await.all("via"), ["1.0 splitway"]);
}

#[tokio::test]
async fn options_with_no_forwards_left_are_answered_here() {
    for pair in PAIRS {
        let scene = Scene::plain(pair).await;
        let options = |value: &str| Ask::get("*").method("OPTIONS").with(&[("Max-Forwards", value)]);
        let mut client = scene.client().await;
        let answer = client.ask(&options("0")).await;
        assert_eq!((answer.status, answer.reason()), (200, "max_forwards"), "{pair:?}");
        assert_eq!(scene.app.seen().len(), 0, "{pair:?}");
        assert_eq!(client.ask(&options("7")).await.status, 200, "{pair:?}");
        assert_eq!(scene.app.saw_one().await.all("max-forwards"), ["6"], "{pair:?}");
        // Other methods do not know it (9110 section 7.6.2), and what is no number is no bound.
        client.ask(&Ask::get("/").with(&[("max-forwards", "0")])).await;
        client.ask(&options("x")).await;
        let seen = scene.app.saw(3).await;
        assert_eq!((seen[1].all("max-forwards"), seen[2].all("max-forwards")), (vec!["0"], vec!["x"]), "{pair:?}");
    }
}

#[tokio::test]
async fn an_upgrade_that_is_not_both_asked_for_and_meant_is_not_passed_on() {
    for fields in [
        "Upgrade: websocket",
        "Connection: keep-alive\r\nUpgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: h2c",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c",
    ] {
        for up in BOTH {
            let scene = Scene::plain((H1, up)).await;
            let mut client = Bytes::connect(scene.proxy.address).await;
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")).await;
            let answer = soon("an answer", read_answer(&mut client, "GET")).await;
            assert_eq!(answer.status, 200, "{fields}");
            let seen = scene.app.saw_one().await;
            assert!(!seen.all("upgrade").iter().any(|token| !token.eq_ignore_ascii_case("websocket")), "{seen:?}");
            assert_eq!(seen.all("http2-settings"), [""; 0], "{fields}");
            if !fields.starts_with("Connection: Upgrade\r\nUpgrade: websocket") {
                assert_eq!((seen.all("upgrade"), seen.all("connection")), (vec![], vec![]), "{fields}");
            }
        }
    }
}

#[tokio::test]
async fn a_101_nobody_asked_for_is_a_502_and_no_tunnel() {
    for down in BOTH {
        for upgrade in ["websocket", "h2c"] {
            let scene = Scene::with((down, H1), move |_| {
                Then::Bytes(format!(
                    "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: {upgrade}\r\n\r\nHTTP/1.1 200 x\r\n\r\n"
                ))
            })
            .await;
            let mut client = scene.client().await;
            for _ in 0..2 {
                let answer = client.ask(&Ask::get("/")).await;
                assert_eq!((answer.status, answer.reason()), (502, "upstream_invalid"), "{down:?} {upgrade}");
            }
        }
    }
}

#[tokio::test]
async fn a_200_with_upgrade_is_an_answer_like_any_other() {
    let scene = Scene::with((H1, H1), |seen| match seen.target.as_str() {
        "/" => Then::Bytes(
            "HTTP/1.1 200 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nok".into(),
        ),
        _ => Then::Answer(Answer::ok("next")),
    })
    .await;
    let mut client = Bytes::connect(scene.proxy.address).await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    let answer = soon("an answer", read_answer(&mut client, "GET")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    assert_eq!(answer.all("upgrade"), [""; 0]);
    // What comes next is a request, and no bytes of a tunnel.
    client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let next = soon("an answer", read_answer(&mut client, "GET")).await;
    assert_eq!((next.status, next.body.as_str()), (200, "next"));
    assert_eq!(scene.app.saw(2).await[1].target, "/next");
}

#[tokio::test]
async fn bytes_after_an_upgrade_request_do_not_pass_before_a_101() {
    let scene = Scene::with((H1, H1), |_| Then::Answer(Answer::ok("no").status(403))).await;
    let answers = spoken(
        &scene,
        "GET /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answers.starts_with("HTTP/1.1 403 "), "{answers}");
    // Each is a request of its own, with the proxy's own fields, or was not passed on at all.
    for seen in scene.app.seen() {
        assert_eq!(seen.all("via").len(), 1, "{seen:?}");
        assert_eq!(seen.body, "");
    }
}

#[tokio::test]
async fn only_clients_of_http_1_1_and_2_are_told_to_continue() {
    for up in BOTH {
        let scene = Scene::plain((H1, up)).await;
        let answer =
            spoken(&scene, "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
                .await;
        assert!(answer.split_once("\r\n").unwrap().0.contains(" 200 "), "no 100 to HTTP/1.0: {answer}");
        let seen = scene.app.saw_one().await;
        assert_eq!((seen.body.as_str(), seen.all("expect")), ("hello", vec![]));

        let scene = Scene::plain((H1, up)).await;
        let mut client = Bytes::connect(scene.proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-CONTINUE\r\n\r\n").await;
        let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        let mut told = vec![0; go_on.len()];
        soon("100", client.stream.read_exact(&mut told)).await.unwrap();
        assert_eq!(super::raw::text(&told), go_on);
        client.send("hello").await;
        assert_eq!(soon("an answer", read_answer(&mut client, "POST")).await.status, 200);
        assert_eq!(scene.app.saw_one().await.body, "hello");

        // A client of HTTP/2 may wait for it, too.
        let scene = Scene::plain((H2, up)).await;
        let mut frames = Frames::connect(scene.proxy.address).await;
        let ask = Ask::post("/", "").with(&[("expect", "100-continue"), ("content-length", "5")]);
        frames.send(headers(1, &request_fields(&ask), false)).await;
        frames.send(data(1, "hello", true)).await;
        assert_eq!(frames.answer(1).await.map(|answer| answer.status), Ok(200));
        assert_eq!(scene.app.saw_one().await.all("expect"), [""; 0], "answered here");
    }
}

#[tokio::test]
async fn a_100_of_the_application_is_not_passed_on_twice() {
    for pair in PAIRS {
        let answered = Answer { before: vec![(100, Vec::new())], ..Answer::ok("ok") };
        let scene = Scene::answering(pair, answered).await;
        let mut client = scene.client().await;
        for _ in 0..3 {
            let answer = client.ask(&Ask::post("/", "hello")).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{pair:?}");
            assert!(answer.before.len() <= 1, "{pair:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn early_hints_reach_the_client_before_the_answer() {
    for pair in PAIRS {
        let hints = |n: &str| (103, fields(&[("link", n)]));
        let answered = Answer { before: vec![hints("</a.css>"), hints("</b.css>")], ..Answer::ok("ok") };
        let scene = Scene::answering(pair, answered).await;
        let answer = scene.ask(Ask::get("/")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{pair:?}");
        let links: Vec<_> =
            answer.before.iter().map(|(status, more)| (*status, super::raw::all(more, "link"))).collect();
        // hyper has no way to take or send them in HTTP/2: there they are left out, which costs a hint and no more.
        let told = [(103, vec!["</a.css>"]), (103, vec!["</b.css>"])];
        assert_eq!(links, if pair == (H1, H1) { &told[..] } else { &[] }, "{pair:?}");
    }
    // HTTP/1.0 does not know them.
    let answered = Answer { before: vec![(103, Vec::new())], ..Answer::ok("ok") };
    let scene = Scene::answering((H1, H1), answered).await;
    let answer = spoken(&scene, "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(answer.split_once("\r\n").unwrap().0.contains(" 200 "), "{answer}");
}
