//! Bugs of other proxies and of the libraries below, which this one shall not have.

use super::framing::{refused, spoken};
use super::raw::{Answer, Ask, BOTH, Bytes, H1, Scene, Then, read_answer};
use crate::support::soon;

#[tokio::test]
async fn a_request_of_http_1_0_has_no_body_that_ends_with_the_connection() {
    // CVE-2026-2835 (Pingora): HTTP/1.0 and odd codings gave bodies without an end.
    let scene = Scene::plain((H1, H1)).await;
    let answer = spoken(&scene, "POST / HTTP/1.0\r\nHost: a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
    let seen = scene.app.saw_one().await;
    assert_eq!((seen.target.as_str(), seen.body.as_str()), ("/", ""));
    for coding in ["identity", "xchunked", "chunked;", "chunked\0", "\"chunked\"", "chunked, identity"] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        refused(&request, 400, "bad_request").await;
    }
}

#[tokio::test]
async fn an_empty_or_signed_length_is_refused() {
    // CVE-2023-40225 (HAProxy), RUSTSEC-2021-0078 (hyper).
    for length in ["", " ", "+5", "-0", "5 5", "0x5", "\t"] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:{length}\r\n\r\nhello");
        refused(&request, 400, "bad_request").await;
    }
}

#[tokio::test]
async fn an_empty_or_very_long_field_name_does_not_shift_the_others() {
    // CVE-2023-25725: an empty name cut the list. CVE-2021-40346: a name of 270 bytes overflowed its length.
    refused("POST / HTTP/1.1\r\nHost: a\r\n: b\r\nContent-Length: 0\r\n\r\n", 400, "bad_request").await;
    for length in [255, 256, 257, 270, 4096, 16_000] {
        let scene = Scene::plain((H1, H1)).await;
        // The name begins with that of a length, as the attack's did.
        let name = format!("Content-Length0{}", "a".repeat(length - 15));
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{name}:\r\nConnection: close\r\nContent-Length: 37\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n  "
        );
        let answer = spoken(&scene, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{length}: {answer}");
        let seen = scene.app.saw_one().await;
        assert_eq!((seen.body.len(), seen.all(&name)), (37, vec![""]), "{length}");
    }
}

#[tokio::test]
async fn an_unread_expectation_does_not_spoil_a_reused_connection() {
    // CVE-2024-24791 (Go): an application that answers at once where 100 was expected.
    let scene = Scene::with((H1, H1), |seen| {
        Then::Answer(Answer::ok(&seen.target).status(if seen.target == "/1" { 417 } else { 200 }))
    })
    .await;
    let mut client = Bytes::connect(scene.proxy.address).await;
    for target in ["/1", "/2", "/1", "/3"] {
        client
            .send(format!("POST {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"))
            .await;
        let answer = soon("an answer", read_answer(&mut client, "POST")).await;
        assert_eq!(answer.body, target);
    }
    assert!(scene.app.saw(4).await.iter().all(|seen| seen.body == "hi" && seen.all("expect").is_empty()));
}

#[tokio::test]
async fn a_connect_does_not_poison_the_connections_behind() {
    // CVE-2026-71324 (Traefik).
    let scene = Scene::with((H1, H1), |seen| Then::Answer(Answer::ok(&seen.target))).await;
    let inner = "GET /poison HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..3 {
        let answers = spoken(&scene, &format!("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n{inner}")).await;
        assert!(answers.starts_with("HTTP/1.1 405 ") && answers.matches("HTTP/1.1 ").count() == 1, "{answers}");
        let answer = scene.ask(Ask::get("/next")).await;
        assert_eq!(answer.body, "/next");
    }
    assert!(scene.app.seen().iter().all(|seen| seen.target == "/next"));
}

#[tokio::test]
async fn an_upgrade_with_a_body_keeps_its_body() {
    // CVE-2026-58055 (nghttpx): the body went onto a reused connection as if it were the next request.
    for up in BOTH {
        let scene = Scene::with((H1, up), |seen| Then::Answer(Answer::ok(&seen.target))).await;
        let inner = "GET /poison HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = Bytes::connect(scene.proxy.address).await;
        for upgrade in ["websocket", "h2c"] {
            client
                .send(format!(
                    "POST /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\nContent-Length: {}\r\n\r\n{inner}",
                    inner.len()
                ))
                .await;
            let answer = soon("an answer", read_answer(&mut client, "POST")).await;
            assert!(answer.body == "/1" || answer.status == 400, "{answer:?}");
            if answer.status == 400 {
                client = Bytes::connect(scene.proxy.address).await;
            }
        }
        client.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(soon("an answer", read_answer(&mut client, "GET")).await.body, "/2");
        assert!(scene.app.seen().iter().all(|seen| seen.target != "/poison"));
    }
}

#[tokio::test]
async fn a_name_with_a_dot_or_underscore_is_another_field() {
    // CVE-2026-88011 (Traefik): `X.Forwarded.For` was taken for the field with dashes by applications behind, or survived
    // where that one was removed. Only the names that the proxy answers for are taken out.
    let scene = Scene::plain((H1, H1)).await;
    scene
        .ask(Ask::get("/").with(&[("X_Forwarded_For", "1.2.3.4"), ("x.forwarded.for", "1.2.3.4"), ("X.Name", "b")]))
        .await;
    let seen = scene.app.saw_one().await;
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x.name"), ["b"]);
    assert_eq!((seen.all("x_forwarded_for"), seen.all("x.forwarded.for")), (vec![], vec![]));
}

#[tokio::test]
async fn a_coding_that_is_malformed_or_not_chunked_at_the_end_is_refused() {
    // CVE-2022-1705 (Go), CVE-2026-89044 (netty), RUSTSEC-2021-0020 (hyper).
    for lines in [
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: chu\tnked",
        "Transfer-Encoding\t: chunked",
        "Transfer_Encoding: chunked\r\nTransfer-Encoding: x",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\n");
        refused(&request, 400, "bad_request").await;
    }
}

#[tokio::test]
async fn chunk_sizes_that_overflow_are_refused() {
    // RUSTSEC-2021-0079 (hyper), CVE-2025-22871 (Go).
    for size in
        ["fffffffffffffffff", "10000000000000000", "ffffffffffffffff", "8000000000000000", "00000000000000000", "5\n"]
    {
        let scene = Scene::plain((H1, H1)).await;
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nhello\r\n0\r\n\r\n");
        let answer = spoken(&scene, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{size:?}: {answer}");
        assert!(answer.contains("x-splitway-reason: bad_request\r\n"), "{size:?}: {answer}");
        assert!(scene.app.seen().iter().all(|seen| !seen.whole), "{size:?}");
    }
}
