//! Which requests are sent again, how often, and how it can be seen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use splitway::route::bucket::{BucketCookie, KeySource, SameSite, Sticky};
use splitway::route::{Role, Routing, Share};

use super::{failures, of, one_worker};
use crate::process::Serving;
use crate::support::{App, Scripted, Then, dead, eventually, routing};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CLOSES: &str = "/closes";

/// Answers everything but `/closes`, at which it closes without a word.
async fn closing() -> Scripted {
    Scripted::start(|_, request| if request.contains(CLOSES) { Then::Close } else { Then::Answer(OK.to_owned()) }).await
}

fn sent(app: &Scripted, target: &str) -> usize {
    app.requests().iter().filter(|request| request.contains(target)).count()
}

#[tokio::test]
async fn a_get_whose_bytes_may_have_arrived_is_sent_again_once_and_no_more() {
    let app = closing().await;
    for endpoints in [1, 3] {
        // The same one under several names would be several endpoints; here they are really several.
        let others = [closing().await, closing().await];
        let mut addresses = vec![app.address];
        addresses.extend(others.iter().map(|one| one.address).take(endpoints - 1));
        let mut routing = routing(&[("stable", Role::Stable, 1, &addresses)]);
        routing.policy.retry.tries = 10;
        let proxy = one_worker(routing).await;
        let before = sent(&app, CLOSES);
        let answer = proxy.client().await.get(CLOSES).await;
        assert_eq!((answer.status, answer.reason()), (502, "upstream_closed"));
        let all = sent(&app, CLOSES) - before + others.iter().map(|one| sent(one, CLOSES)).sum::<usize>();
        assert_eq!(all, 2);
    }
}

#[tokio::test]
async fn second_tries_stay_within_their_budget() {
    let app = closing().await;
    let mut routing = routing(&[("stable", Role::Stable, 1, &[app.address])]);
    routing.policy.retry.budget = Share::percent(10);
    routing.policy.retry.budget_min = 2;
    let proxy = one_worker(routing).await;
    let mut client = proxy.client().await;
    // 100 requests in all, within the window unless the machine stops for seconds: then fewer are allowed.
    for n in 0..100 {
        let target = if n < 60 { "/" } else { CLOSES };
        client.get(target).await;
    }
    let (tried, again) = (40, sent(&app, CLOSES) - 40);
    assert!((2..=10).contains(&again), "{again} second tries");
    let withheld = proxy.metric(&of("splitway_retries_withheld_total", Role::Stable)).await;
    assert_eq!(withheld, f64::from(tried) - again as f64, "each failed one was either sent again or not");
    assert_eq!(proxy.metric(&of("splitway_retries_total", Role::Stable)).await, again as f64);
}

#[tokio::test]
async fn without_a_budget_nothing_is_sent_twice_but_what_was_never_sent_is_still_tried_again() {
    let app = closing().await;
    let mut routing = routing(&[("stable", Role::Stable, 1, &[app.address, dead(1)])]);
    routing.policy.retry.budget = Share::percent(0);
    routing.policy.retry.budget_min = 0;
    routing.policy.outliers.connect_failures = None;
    let proxy = one_worker(routing).await;
    let mut client = proxy.client().await;
    for n in 0..50 {
        let answer = client.send_body(Request::post("/"), format!("body {n}")).await;
        assert_eq!(answer.status, 200);
    }
    assert!(
        proxy.metric(&failures(Role::Stable, "connect_refused")).await >= 5.0,
        "half of them met the dead one first"
    );
    assert_eq!(client.get(CLOSES).await.reason(), "upstream_closed");
    assert_eq!(sent(&app, CLOSES), 1);
}

/// The canary gets everything, and cannot be reached; stable is there.
fn lost_canary(stable: &App, canary: &[SocketAddr]) -> Routing {
    routing(&[("stable", Role::Stable, 0, &[stable.address]), ("canary", Role::Canary, 1, canary)])
}

#[tokio::test]
async fn another_version_that_stands_in_is_visible_in_the_answer_and_in_metrics() {
    let stable = App::start("stable").await;
    // More dead ones than tries: the last try is the other version's all the same.
    let dead: Vec<_> = (1..=6).map(dead).collect();
    for endpoints in [0, 1, 3, 6] {
        let proxy = one_worker(lost_canary(&stable, &dead[..endpoints])).await;
        let mut client = proxy.client().await;
        for n in 1..=4 {
            let answer = client.send_body(Request::post("/echo"), "hello").await;
            assert_eq!((answer.status, answer.app(), answer.reason()), (200, "stable", "fallback"), "{endpoints}");
            assert!(answer.text().ends_with("\n\nhello"));
            let stood_in_for = of("splitway_fallbacks_total", Role::Canary);
            eventually("the request in the metrics", async || proxy.metric(&stood_in_for).await == f64::from(n)).await;
        }
        assert_eq!(proxy.metric(&of("splitway_fallbacks_total", Role::Stable)).await, 0.0);
        let failure = if endpoints == 0 { "no_endpoint" } else { "connect_refused" };
        assert!(proxy.metric(&failures(Role::Canary, failure)).await >= 4.0, "they count for the one that failed");
        assert_eq!(proxy.metric(&failures(Role::Stable, failure)).await, 0.0);
    }
    let proxy = one_worker(lost_canary(&stable, &[stable.address])).await;
    assert_eq!(proxy.client().await.get("/").await.reason(), "", "nobody stood in");
}

#[tokio::test]
async fn an_application_that_answers_is_never_stood_in_for() {
    let stable = App::start("stable").await;
    for answer in ["HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "hello"] {
        let answer = answer.to_owned();
        let canary = Scripted::start(move |_, _| Then::AnswerAndClose(answer.clone())).await;
        let proxy = one_worker(lost_canary(&stable, &[canary.address])).await;
        let answer = proxy.client().await.get("/").await;
        assert!(answer.status >= 502);
        assert_eq!(stable.received(), 0);
        assert_eq!(canary.requests().len(), 1, "once");
    }
}

#[tokio::test]
async fn users_stay_where_they_were_when_another_version_stands_in() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let address = canary.address;
    let mut routing =
        routing(&[("stable", Role::Stable, 1, &[stable.address]), ("canary", Role::Canary, 1, &[address])]);
    routing.sticky = Some(Sticky {
        keys: vec![KeySource::Header("x-user".parse().unwrap())],
        salt: "spring".to_owned(),
        cookie: Some(BucketCookie {
            name: "splitway".to_owned(),
            max_age: None,
            path: "/".to_owned(),
            same_site: SameSite::Lax,
            secure: false,
            http_only: true,
            secret: None,
        }),
    });
    let proxy = one_worker(routing).await;
    let mut client = proxy.client().await;
    let cookie = |answer: &crate::support::Answer| answer.header("set-cookie").split(';').next().unwrap().to_owned();
    let mut users: Vec<(String, String)> = Vec::new();
    for _ in 0..40 {
        let answer = client.get("/").await;
        users.push((cookie(&answer), answer.app().to_owned()));
    }
    let keys: Vec<_> = (0..40).map(|n| n.to_string()).collect();
    let mut known = Vec::new();
    for key in &keys {
        known.push(client.get_with("/", &[("x-user", key)]).await.app().to_owned());
    }
    assert!(known.iter().any(|app| app == "canary") && users.iter().any(|(_, app)| app == "canary"));

    canary.kill().await;
    for (cookie, app) in &users {
        let answer = client.get_with("/", &[("cookie", cookie)]).await;
        assert_eq!(answer.app(), "stable");
        assert_eq!(answer.reason(), if app == "canary" { "fallback" } else { "" });
        assert!(!answer.headers.contains_key("set-cookie"), "no other bucket");
    }
    // New users get their bucket meanwhile, as if nothing had happened.
    let mut new = Vec::new();
    for _ in 0..40 {
        let answer = client.get("/").await;
        assert_eq!(answer.app(), "stable");
        new.push((cookie(&answer), answer.reason() == "fallback"));
    }
    assert!(new.iter().any(|(_, fallback)| *fallback), "some of them belong to the canary");

    let canary = App::start_at("canary", address).await;
    for (cookie, app) in &users {
        assert_eq!(client.get_with("/", &[("cookie", cookie)]).await.app(), app, "back where they were");
    }
    for (key, app) in keys.iter().zip(&known) {
        assert_eq!(client.get_with("/", &[("x-user", key)]).await.app(), app);
    }
    for (cookie, fallback) in &new {
        let app = if *fallback { "canary" } else { "stable" };
        assert_eq!(client.get_with("/", &[("cookie", cookie)]).await.app(), app);
    }
    assert!(canary.received() > 0);
}

#[tokio::test]
async fn nothing_is_sent_again_after_the_client_has_had_a_byte() {
    let first = Arc::new(AtomicBool::new(true));
    let app = Scripted::start(move |_, _| {
        let cut = first.swap(false, Ordering::SeqCst);
        Then::AnswerAndClose(if cut { "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".into() } else { OK.into() })
    })
    .await;
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
    let mut client = proxy.client().await;
    assert!(client.try_send(Request::get("/"), "").await.is_err());
    assert_eq!(app.requests().len(), 1);
    assert_eq!(proxy.client().await.get("/").await.text(), "ok", "and the cut one fed nothing to the next");
}

#[tokio::test]
async fn the_log_names_a_version_that_is_stood_in_for() {
    let stable = App::start("stable").await;
    let (stable, canary) = (format!("--stable={}", stable.address), format!("--canary={}=50%", dead(1)));
    let mut proxy = Serving::start(&[&stable, &canary]).await;
    let mut client = proxy.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.app(), "stable");
    }
    let line = proxy.process.logged("answered by another version").await;
    assert!(line.contains("WARN") && line.contains("canary"), "{line}");
    let lines = proxy.process.log().iter().filter(|line| line.contains("answered by another")).count();
    assert_eq!(lines, 1, "not one for each");
}
