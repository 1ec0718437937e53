//! Endpoints that refuse, die, close, lie or are not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Request;
use splitway::route::{Role, Routing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{App, Client, Proxy, Scripted, Then, dead, eventually, raw, routing, scripted, soon};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// One worker, so that one client meets the same upstream connections again and again.
async fn one_worker(routing: Routing) -> Proxy {
    Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await
}

fn failures(version: &str, failure: &str) -> String {
    format!("splitway_upstream_failures_total{{version=\"{version}\",role=\"{version}\",failure=\"{failure}\"}}")
}

#[tokio::test]
async fn a_refused_connection_goes_to_another_endpoint_of_the_version() {
    let canary = App::start("canary").await;
    let proxy = one_worker(routing(&[
        ("stable", Role::Stable, 0, &[dead(2)]),
        ("canary", Role::Canary, 1, &[dead(1), canary.address]),
    ]))
    .await;
    let mut client = proxy.client().await;
    for n in 0..50 {
        let answer = client.send_body(Request::post("/echo"), format!("body {n}")).await;
        assert_eq!((answer.status, answer.app()), (200, "canary"));
        assert!(answer.text().ends_with(&format!("\n\nbody {n}")), "{}", answer.text());
    }
    assert_eq!(canary.received(), 50);
    let refused = proxy.metric(&failures("canary", "connect_refused")).await;
    assert!(refused > 0.0);
    let retries = proxy.metric("splitway_retries_total{version=\"canary\",role=\"canary\"}").await;
    assert_eq!(retries, refused, "every failed try was followed by one that succeeded");
}

#[tokio::test]
async fn a_version_that_cannot_be_reached_is_stood_in_for_and_its_failure_is_its_own() {
    let stable = App::start("stable").await;
    let mut routing =
        routing(&[("stable", Role::Stable, 0, &[stable.address]), ("canary", Role::Canary, 1, &[dead(1), dead(2)])]);
    routing.policy.version_header = Some("x-version".parse().unwrap());
    routing.policy.tell_upstream = true;
    let proxy = one_worker(routing).await;
    let answer = proxy.client().await.send_body(Request::post("/echo"), "hello").await;
    assert_eq!((answer.status, answer.app(), answer.header("x-version")), (200, "stable", "stable"));
    assert!(answer.text().contains("splitway-version: stable\n"), "{}", answer.text());
    assert!(answer.text().ends_with("\n\nhello"));
    assert_eq!(proxy.metric(&failures("canary", "connect_refused")).await, 2.0);
    assert_eq!(proxy.metric(&failures("stable", "connect_refused")).await, 0.0);
    let fallback = "splitway_requests_total{version=\"stable\",role=\"stable\",method=\"POST\",code=\"200\",\
                    reason=\"fallback\",route=\"\",failure=\"\"}";
    eventually("the answer in the metrics", async || proxy.metric(fallback).await == 1.0).await;
    assert_eq!(proxy.metric("splitway_split_requests_total{version=\"canary\"}").await, 1.0, "the split stays true");
}

#[tokio::test]
async fn another_version_stands_in_only_if_that_is_wanted() {
    let stable = App::start("stable").await;
    let mut routing =
        routing(&[("stable", Role::Stable, 0, &[stable.address]), ("canary", Role::Canary, 1, &[dead(1)])]);
    routing.policy.retry.other_version = false;
    let proxy = one_worker(routing).await;
    let answer = proxy.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "connect_refused"));
    assert_eq!(stable.received(), 0);
}

#[tokio::test]
async fn tries_are_bounded() {
    for tries in [0, 1, 3] {
        let addresses: Vec<_> = (1..=6).map(dead).collect();
        let mut routing = routing(&[("stable", Role::Stable, 1, &addresses)]);
        routing.policy.retry.tries = tries;
        let proxy = one_worker(routing).await;
        let answer = proxy.client().await.get("/").await;
        assert_eq!((answer.status, answer.reason()), (503, "connect_refused"));
        assert_eq!(proxy.metric(&failures("stable", "connect_refused")).await, f64::from(tries + 1));
        let retries = proxy.metric("splitway_retries_total{version=\"stable\",role=\"stable\"}").await;
        assert_eq!(retries, f64::from(tries));
    }
}

#[tokio::test]
async fn no_endpoint_at_all_is_said_in_a_word_for_programs() {
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[]), ("canary", Role::Canary, 0, &[])])).await;
    let mut client = proxy.client().await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoint"));
    assert!(answer.text().starts_with("splitway: no_endpoint: "), "{}", answer.text());
    assert_eq!(client.get("/").await.status, 503, "the connection goes on");
}

#[tokio::test]
async fn a_version_without_endpoints_is_stood_in_for() {
    let stable = App::start("stable").await;
    let proxy =
        one_worker(routing(&[("stable", Role::Stable, 0, &[stable.address]), ("canary", Role::Canary, 1, &[])])).await;
    assert_eq!(proxy.client().await.get("/").await.app(), "stable");
    assert_eq!(proxy.metric(&failures("canary", "no_endpoint")).await, 1.0);
}

#[tokio::test]
async fn nothing_is_lost_when_an_endpoint_dies_under_load_and_another_lives() {
    let (first, second, canary) = (App::start("stable").await, App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(routing(&[
        ("stable", Role::Stable, 9, &[first.address, second.address]),
        ("canary", Role::Canary, 1, &[canary.address]),
    ]))
    .await;
    let done = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (address, done) = (proxy.address, done.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for _ in 0..500 {
                    let answer = client.get("/").await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    first.reaches(600).await;
    first.kill().await;
    for client in clients {
        client.await.expect("no request is lost");
    }
    assert_eq!(done.load(Ordering::Relaxed), 4000);
}

#[tokio::test]
async fn a_restarted_endpoint_loses_no_request_either() {
    let app = App::start("stable").await;
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);
    let address = app.address;
    app.kill().await;
    let again = App::start_at("stable", address).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(again.received(), 1);
}

/// Answers the first request of each connection, and closes at the second one without a word.
async fn closes_at_the_second() -> (Scripted, Proxy) {
    let app = Scripted::start(|number, _| if number == 1 { Then::Answer(OK.to_owned()) } else { Then::Close }).await;
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
    (app, proxy)
}

#[tokio::test]
async fn a_get_on_a_reused_connection_that_was_closed_is_sent_again() {
    let (app, proxy) = closes_at_the_second().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/first").await.status, 200);
    assert_eq!(client.get("/second").await.status, 200);
    let lines: Vec<_> = app.requests().iter().map(|request| request.lines().next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["GET /first HTTP/1.1", "GET /second HTTP/1.1", "GET /second HTTP/1.1"]);
    assert_eq!(proxy.metric(&failures("stable", "upstream_closed")).await, 1.0);
}

#[tokio::test]
async fn a_post_whose_bytes_may_have_arrived_is_not_sent_again() {
    for (method, body) in [("POST", "hello"), ("POST", ""), ("PATCH", "hello"), ("PURGE", "")] {
        let (app, proxy) = closes_at_the_second().await;
        let mut client = proxy.client().await;
        assert_eq!(client.get("/first").await.status, 200);
        let answer = client.send_body(Request::builder().method(method).uri("/once"), body).await;
        assert_eq!((answer.status, answer.reason()), (502, "upstream_closed"), "{method} {body:?}");
        let sent = app.requests().iter().filter(|request| request.contains("/once")).count();
        assert_eq!(sent, 1, "{method} {body:?}");
        assert_eq!(client.get("/after").await.status, 200, "the client's connection goes on");
    }
}

#[tokio::test]
async fn a_get_that_is_closed_every_time_ends_within_the_bound() {
    let app = Scripted::start(|_, _| Then::Close).await;
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
    let answer = proxy.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_closed"));
    let sent = app.requests().len();
    assert!((2..=4).contains(&sent), "at most three more tries, not {sent}");
}

#[tokio::test]
async fn answers_that_are_no_http_become_502() {
    for garbage in [
        "hello\r\n\r\n",
        "HTTP/1.1 20x OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\na",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\na",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-len",
    ] {
        let address = scripted(garbage).await;
        let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[address])])).await;
        let mut client = proxy.client().await;
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.reason()), (502, "upstream_invalid"), "{garbage:?}");
        assert_eq!(proxy.metric(&failures("stable", "upstream_invalid")).await, 1.0, "{garbage:?}");
    }
}

#[tokio::test]
async fn bytes_after_an_answer_never_become_the_next_one() {
    let address = scripted(&format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")).await;
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[address])])).await;
    let mut client = proxy.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_sees_a_cut_too() {
    let address = scripted("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[address])])).await;
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
    // Without a length or chunks, an orderly end would be the end of the answer.
    let mut answer = Vec::new();
    let end = soon("the end", stream.read_to_end(&mut answer)).await;
    assert!(end.is_err(), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_cut_answer_is_seen_as_cut() {
    for (head, cut) in [
        ("content-length: 100\r\n", "half"),
        ("transfer-encoding: chunked\r\n", "4\r\nhalf\r\n"),
        ("transfer-encoding: chunked\r\n", "9\r\nhalf"),
        ("transfer-encoding: chunked\r\n", "4\r\nhalf\r\n0\r\n"),
        ("transfer-encoding: chunked\r\n", "4\r\nhalf\r\nx\r\n"),
    ] {
        let address = scripted(&format!("HTTP/1.1 200 OK\r\n{head}\r\n{cut}")).await;
        let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[address])])).await;
        let answer = raw(proxy.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // The head may not have left when the cut was found; then there is room for a better answer, or none at all.
        if answer.starts_with("HTTP/1.1 200 ") {
            assert!(!answer.ends_with("0\r\n\r\n"), "{head}{cut}: {answer}");
            assert!(
                answer.contains("content-length: 100") || answer.contains("transfer-encoding: chunked"),
                "{answer}"
            );
        }
        let mut client = Client::connect(proxy.address).await;
        let outcome = client.try_send(Request::get("/"), "").await;
        assert!(outcome.is_err(), "{head}{cut} was taken for whole: {outcome:?}");
        eventually("the cut in the metrics", async || proxy.metric(&failures("stable", "upstream_cut")).await == 2.0)
            .await;
    }
}
