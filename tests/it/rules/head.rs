//! Lines, fields, targets, hosts, methods and versions: rules 17 to 34, 57, 58, 59, 61 and 62.

use super::framing::{refused, spoken};
use super::raw::{Answer, Ask, BOTH, Frames, H1, H2, PAIRS, Scene, Then, fields, headers};

#[tokio::test]
async fn a_bare_line_feed_ends_no_line() {
    for request in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\nC: d\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        refused(request, 400, "bad_request").await;
    }
}

#[tokio::test]
async fn every_refusal_of_a_head_says_why() {
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400, "bad_request"),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version_refused"),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, "version_refused"),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", 400, "bad_request"),
    ] {
        refused(request, status, reason).await;
    }
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(200));
    refused(&large, 431, "head_too_large").await;
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "b".repeat(70_000));
    refused(&large, 431, "head_too_large").await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "b".repeat(70_000));
    refused(&long, 414, "target_too_long").await;
}

#[tokio::test]
async fn a_well_formed_version_that_is_not_ours_gets_505_and_a_malformed_one_400() {
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9", "HTTP/1.2", "HTTP/9.9"] {
        refused(&format!("GET / {version}\r\nHost: a\r\n\r\n"), 505, "version_refused").await;
    }
    for version in ["http/1.1", "HTTP/1.10", "HTTP/01.1", "HTTP/1", "HTTP/a.b", "HTTP /1.1", "HTTPS/1.1"] {
        refused(&format!("GET / {version}\r\nHost: a\r\n\r\n"), 400, "bad_request").await;
    }
}

#[tokio::test]
async fn an_empty_line_before_a_request_is_no_request() {
    let scene = Scene::plain((H1, H1)).await;
    let answer = spoken(&scene, "\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn lines_of_one_name_keep_their_order_and_bytes_beyond_ascii_both_ways() {
    for pair in PAIRS {
        let lines = [("x-list", "1"), ("x-name", "J\u{f6}rg \u{80}\u{ff}"), ("x-list", "2"), ("x-list", "1")];
        let scene = Scene::answering(pair, Answer::ok("ok").with(&lines)).await;
        let answer = scene.ask(Ask::get("/").with(&lines)).await;
        let seen = scene.app.saw_one().await;
        for (name, values) in [("x-list", &["1", "2", "1"][..]), ("x-name", &["J\u{f6}rg \u{80}\u{ff}"])] {
            assert_eq!(seen.all(name), values, "{pair:?}");
            assert_eq!(answer.all(name), values, "{pair:?}");
        }
    }
}

#[tokio::test]
async fn targets_methods_and_hosts_arrive_as_they_were_sent() {
    for pair in PAIRS {
        for (method, target) in [
            ("GET", "/"),
            ("get", "/a//b/../%2e%2E/c;d?e=%zz&&f=?/"),
            ("M-SEARCH", "//a"),
            ("PURGE", "/a?"),
            ("OPTIONS", "*"),
            ("PATCH", "/?a=b{}|~'"),
        ] {
            let scene = Scene::plain(pair).await;
            let ask = Ask { authority: "shop.example:8443".to_owned(), ..Ask::get(target).method(method) };
            assert_eq!(scene.ask(ask).await.status, 200, "{pair:?} {method} {target}");
            let seen = scene.app.saw_one().await;
            assert_eq!((seen.method.as_str(), seen.target.as_str()), (method, target), "{pair:?}");
            assert_eq!(seen.host(), "shop.example:8443", "{pair:?}");
        }
    }
}

#[tokio::test]
async fn a_target_of_8000_bytes_passes_and_one_above_the_limit_gets_414() {
    for pair in PAIRS {
        let scene = Scene::plain(pair).await;
        let target = format!("/{}", "a".repeat(7_999));
        assert_eq!(scene.ask(Ask::get(&target)).await.status, 200, "{pair:?}");
        assert_eq!(scene.app.saw_one().await.target, target);
        let answer = scene.ask(Ask::get(&format!("/{}", "a".repeat(17_000)))).await;
        assert_eq!((answer.status, answer.reason()), (414, "target_too_long"), "{pair:?}");
    }
}

#[tokio::test]
async fn an_absolute_targets_authority_is_the_only_host_behind() {
    for (up, target, path) in [
        (H1, "http://shop.example/a?b", "/a?b"),
        (H1, "http://shop.example", "/"),
        (H1, "http://shop.example?b", "/?b"),
        (H2, "http://shop.example/a?b", "/a?b"),
    ] {
        let scene = Scene::plain((H1, up)).await;
        let ask = Ask { authority: "other.example".to_owned(), ..Ask::get(target) };
        assert_eq!(scene.ask(ask).await.status, 200, "{target}");
        let seen = scene.app.saw_one().await;
        assert_eq!((seen.host(), seen.target.as_str()), ("shop.example", path));
    }
}

#[tokio::test]
async fn connect_and_trace_go_nowhere() {
    for up in BOTH {
        let scene = Scene::plain((H1, up)).await;
        for request in ["CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            assert!(spoken(&scene, request).await.starts_with("HTTP/1.1 405 "), "{request}");
        }
        let scene = Scene::plain((H2, up)).await;
        assert_eq!(scene.ask(Ask::get("/").method("TRACE")).await.status, 405);
        let mut frames = Frames::connect(scene.proxy.address).await;
        frames.send(headers(1, &fields(&[(":method", "CONNECT"), (":authority", "a:443")]), false)).await;
        match frames.answer(1).await {
            Ok(answer) => assert_eq!(answer.status, 405),
            Err(super::raw::End::Reset(_, answer)) => assert!(matches!(answer.status, 0 | 405)),
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(scene.app.seen().len(), 0);
    }
}

/// A request on HTTP/2 that is malformed: its stream is reset or answered 400, its connection goes on, and nothing of it
/// goes upstream (9113 section 8.1.1).
async fn malformed(what: &[(&str, &str)]) {
    for up in BOTH {
        let scene = Scene::plain((H2, up)).await;
        let mut frames = Frames::connect(scene.proxy.address).await;
        frames.send(headers(1, &fields(what), true)).await;
        match frames.answer(1).await {
            Err(super::raw::End::Reset(1, _)) => {}
            Ok(answer) => assert_eq!(answer.status, 400, "{what:?}"),
            // A name that no name can be is an error of the whole connection, as it may be (9113 section 5.4.1).
            Err(super::raw::End::GoAway(1, _)) => {
                assert_eq!(scene.app.seen().len(), 0, "{what:?} went on");
                continue;
            }
            other => panic!("{what:?}: {other:?}"),
        }
        assert_eq!(scene.app.seen().len(), 0, "{what:?} went on");
        frames.send(headers(3, &good(&[]), true)).await;
        assert_eq!(frames.answer(3).await.map(|answer| answer.status), Ok(200), "after {what:?}");
    }
}

fn good(more: &[(&str, &str)]) -> super::raw::Fields {
    let mut all = fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]);
    all.extend(fields(more));
    all
}

async fn malformed_field(more: &[(&str, &str)]) {
    let whole = good(more);
    let whole: Vec<_> = whole.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    malformed(&whole).await;
}

#[tokio::test]
async fn names_and_values_that_http_2_does_not_allow_reset_the_stream() {
    for field in [
        ("X-Upper", "a"),
        ("x a", "b"),
        ("x:a", "b"),
        ("", "b"),
        ("x\u{e9}", "b"),
        ("x-a", "b\nc"),
        ("x-a", "b\rc"),
        ("x-a", "b\0c"),
        ("x-a", " b"),
        ("x-a", "b "),
        ("x-a", "\tb"),
        ("x-a", "b\t"),
    ] {
        malformed_field(&[field]).await;
    }
}

#[tokio::test]
async fn fields_of_a_connection_reset_a_stream() {
    for field in [
        ("connection", "close"),
        ("connection", "x-a"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ] {
        malformed_field(&[field]).await;
    }
    let scene = Scene::plain((H2, H1)).await;
    assert_eq!(scene.ask(Ask::get("/").with(&[("te", "trailers")])).await.status, 200);
}

#[tokio::test]
async fn pseudo_fields_are_known_once_first_and_complete() {
    let (method, scheme, path, authority) =
        ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"));
    for what in [
        vec![scheme, path, authority],
        vec![method, path, authority],
        vec![method, scheme, authority],
        vec![method, method, scheme, path, authority],
        vec![method, scheme, path, path, authority],
        vec![method, scheme, scheme, path, authority],
        vec![method, scheme, path, authority, authority],
        vec![method, scheme, path, authority, (":unknown", "x")],
        vec![method, scheme, path, authority, (":status", "200")],
        vec![method, scheme, path, authority, (":protocol", "websocket")],
        vec![method, scheme, path, ("x-a", "b"), authority],
        vec![("x-a", "b"), method, scheme, path, authority],
        vec![method, scheme, ("host", "a")],
        vec![method, scheme, (":path", ""), authority],
        vec![method, scheme, (":path", "a"), authority],
        vec![method, scheme, (":path", "*"), authority],
        vec![(":method", "G T"), scheme, path, authority],
        vec![(":method", ""), scheme, path, authority],
        vec![method, scheme, (":path", "/a b"), authority],
        vec![method, scheme, (":path", "/a\r\nx: y"), authority],
    ] {
        malformed(&what).await;
    }
    // A fragment is no part of a request; it goes nowhere.
    let scene = Scene::plain((H2, H1)).await;
    scene.ask(Ask::get("/a#b")).await;
    assert!(scene.app.seen().iter().all(|seen| seen.target == "/a"), "{:?}", scene.app.seen());
}

#[tokio::test]
async fn pseudo_fields_in_trailers_go_nowhere() {
    for up in BOTH {
        for trailer in [(":path", "/x"), (":method", "GET"), (":status", "200"), (":authority", "evil.example")] {
            let scene = Scene::plain((H2, up)).await;
            let answer = scene.ask(Ask::post("/", "hi").trailers(&[trailer, ("x-sum", "1")])).await;
            assert!(answer.cut || matches!(answer.status, 200 | 400), "{trailer:?}: {answer:?}");
            for seen in scene.app.seen() {
                assert_eq!(
                    (seen.target.as_str(), seen.method.as_str(), seen.host()),
                    ("/", "POST", "a"),
                    "{trailer:?}"
                );
                assert!(seen.trailers.iter().all(|(name, _)| name == "x-sum"), "{trailer:?}: {seen:?}");
            }
        }
    }
}

#[tokio::test]
async fn exactly_one_host_goes_on_and_it_is_the_authority() {
    for up in BOTH {
        for (authority, host) in [("a.example", None), ("a.example", Some("a.example")), ("", Some("a.example"))] {
            let scene = Scene::plain((H2, up)).await;
            let mut ask = Ask { authority: authority.to_owned(), ..Ask::get("/") };
            if let Some(host) = host {
                ask = ask.with(&[("host", host)]);
            }
            assert_eq!(scene.ask(ask).await.status, 200, "{authority:?} {host:?}");
            assert_eq!(scene.app.saw_one().await.host(), "a.example");
        }
        // A different one loses, or is refused; either way nobody behind sees it.
        let scene = Scene::plain((H2, up)).await;
        let ask = Ask { authority: "a.example".to_owned(), ..Ask::get("/").with(&[("host", "b.example")]) };
        let answer = scene.ask(ask).await;
        assert!(matches!(answer.status, 0 | 200 | 400), "{answer:?}");
        assert!(scene.app.seen().iter().all(|seen| seen.host() == "a.example"));
    }
    for more in [
        &[("host", "a"), ("host", "a")][..],
        &[("host", "a"), ("host", "b")],
        &[("host", "a b")],
        &[("host", "user@a")],
        &[("host", "")],
    ] {
        malformed_field(more).await;
    }
    for authority in ["user@a", "a b", "a:x", "a/b", "a,b"] {
        malformed(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", authority)]).await;
    }
    // Neither.
    malformed(&[(":method", "GET"), (":scheme", "http"), (":path", "/")]).await;
}

#[tokio::test]
async fn cookie_crumbs_become_one_line_of_http_1() {
    let scene = Scene::plain((H2, H1)).await;
    scene.ask(Ask::get("/").with(&[("cookie", "a=1"), ("x-a", "b"), ("cookie", "b=2; c=3"), ("cookie", "d=4")])).await;
    assert_eq!(scene.app.saw_one().await.all("cookie"), ["a=1; b=2; c=3; d=4"]);
    let scene = Scene::plain((H2, H2)).await;
    scene.ask(Ask::get("/").with(&[("cookie", "a=1"), ("cookie", "b=2")])).await;
    assert_eq!(scene.app.saw_one().await.all("cookie").join("; "), "a=1; b=2");
}

#[tokio::test]
async fn answers_that_are_malformed_become_502_whoever_asked() {
    for down in BOTH {
        for head in [
            "HTTP/1.1 200 OK\r\nA : b\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nA: b\0c\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok!",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551618\r\n\r\nok",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 99 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
        ] {
            let scene = Scene::with((down, H1), move |_| Then::Last(head.to_owned())).await;
            let answer = scene.ask(Ask::get("/")).await;
            // White space before the colon may also be taken out of an answer (9112 section 5.1), and a fold unfolded.
            let mended = head.contains("A : b") || head.contains("\r\n c");
            assert!(answer.status == 502 || (mended && answer.status == 200), "{down:?} {head:?}: {answer:?}");
            if answer.status == 200 {
                assert!(matches!(answer.all("a")[..], ["b"] | ["b c"]), "{down:?} {head:?}: {answer:?}");
                assert_eq!(answer.body, "ok");
            }
        }
    }
}

#[tokio::test]
async fn answers_of_http_2_that_are_malformed_become_502_or_a_reset() {
    for down in BOTH {
        for head in [
            &[("x-a", "b")][..],
            &[(":status", "200"), (":status", "200")],
            &[(":status", "abc")],
            &[(":status", "2000")],
            &[(":status", "200"), (":path", "/")],
            &[("x-a", "b"), (":status", "200")],
            &[(":status", "200"), ("X-Upper", "b")],
            &[(":status", "200"), ("x-a", "b\r\nc: d")],
            &[(":status", "200"), ("connection", "close")],
            &[(":status", "200"), ("transfer-encoding", "chunked")],
            &[(":status", "101")],
        ] {
            let scene = Scene::with((down, H2), move |_| {
                Then::Frames(Box::new(move |stream| headers(stream, &fields(head), true)))
            })
            .await;
            let answer = scene.ask(Ask::get("/")).await;
            // A pseudo-field of requests may also be dropped.
            let dropped =
                head.contains(&(":path", "/")) && answer.fields.iter().all(|(name, _)| !name.contains("path"));
            assert!(answer.status == 502 || answer.cut || dropped, "{down:?} {head:?}: {answer:?}");
        }
    }
}
