//! The last requests, as the admin listener shows them.

use http::{HeaderName, Request};
use serde_json::{Value, json};
use splitway::route::matches::{Match, PathMatch, ValueMatch};
use splitway::route::{Action, Role, Route, RouteName, VersionHash};

use crate::support::{App, Proxy, dead, eventually, routing, two};

async fn shown(proxy: &Proxy, query: &str) -> Vec<Value> {
    let answer = proxy.ask_admin(&format!("/requests{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    answer["requests"].as_array().unwrap().clone()
}

#[tokio::test]
async fn requests_are_shown_with_what_became_of_them_and_why_and_without_their_query() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let mut routing = two(&stable, &canary, (1, 0));
    routing.routes.push(Route {
        name: RouteName::new("testers"),
        matches: vec![Match {
            headers: vec![(HeaderName::from_static("x-tester"), ValueMatch::Exact("1".into()))],
            ..Match::default()
        }],
        action: Action::Send(VersionHash::new("canary")),
        count: true,
        timeouts: None,
    });
    let proxy = Proxy::start(routing).await;
    // A sample is taken when a tick has passed, and another worker takes another one: until both are there.
    eventually("both requests", async || {
        let mut client = proxy.client().await;
        client.get("/plain?token=secret").await;
        client.get_with("/tested", &[("x-tester", "1")]).await;
        let all = shown(&proxy, "").await;
        ["/plain", "/tested"].iter().all(|path| all.iter().any(|one| one["path"] == *path))
    })
    .await;
    let canaries = shown(&proxy, "?role=canary").await;
    assert!(!canaries.is_empty() && canaries.iter().all(|one| one["path"] == "/tested"));
    let one = &canaries[0];
    for (field, expected) in [
        ("method", json!("GET")),
        ("status", json!(200)),
        ("code", json!(200)),
        ("version", json!("canary")),
        ("reason", json!("route")),
        ("route", json!("testers")),
        ("failure", Value::Null),
    ] {
        assert_eq!(one[field], expected, "{field}");
    }
    assert!(one["duration_seconds"].as_f64().unwrap() > 0.0);
    assert!(one["time"].as_str().unwrap().ends_with('Z'));
    let plain = shown(&proxy, "?reason=weighted&version=stable").await;
    assert!(!plain.is_empty() && plain.iter().all(|one| one["role"] == "stable" && one["route"] == Value::Null));
    let text = proxy.ask_admin("/requests").await.text();
    assert!(!text.contains("secret") && !text.contains("token"), "{text}");
    assert_eq!(shown(&proxy, "?version=stable&role=canary").await, Vec::<Value>::new());
    let unknown = proxy.ask_admin("/requests?vresion=a").await;
    assert_eq!(unknown.status, 400);
    assert!(unknown.text().contains("did you mean version?"), "{}", unknown.text());
}

#[tokio::test]
async fn failures_are_shown_though_nobody_chose_them() {
    let app = App::start("stable").await;
    let proxy =
        Proxy::start(routing(&[("stable", Role::Stable, 1, &[app.address]), ("canary", Role::Canary, 0, &[dead(1)])]))
            .await;
    let mut client = proxy.client().await;
    // More than samples are taken of, on one connection and so on one worker.
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    for _ in 0..5 {
        assert_eq!(client.send(Request::get("/status/503")).await.status, 503);
    }
    assert_eq!(client.send(Request::builder().method("TRACE").uri("/trace")).await.status, 405);
    eventually("all failures", async || shown(&proxy, "").await.iter().filter(|one| one["code"] != 200).count() == 6)
        .await;
    let all = shown(&proxy, "").await;
    let failures: Vec<&Value> = all.iter().filter(|one| one["code"] == 503).collect();
    assert_eq!(failures.len(), 5);
    for failure in &failures {
        assert_eq!((&failure["path"], &failure["status"]), (&json!("/status/503"), &json!(503)));
        assert_eq!((&failure["version"], &failure["failure"]), (&json!("stable"), &Value::Null));
    }
    let refused = all.iter().find(|one| one["code"] == 405).unwrap();
    assert_eq!((&refused["failure"], &refused["version"]), (&json!("method_refused"), &Value::Null));
    // The newest first.
    assert!(all.is_sorted_by(|a, b| a["time"].as_str() >= b["time"].as_str()));
}

/// What a worker has not written down when a request began is read from its head, as long as that is at hand.
#[tokio::test]
async fn the_first_failure_of_a_busy_worker_has_its_path() {
    let app = App::start("stable").await;
    for (what, endpoints, request, status) in [
        ("an answer of 5xx", vec![app.address], Request::get("/status/503"), 503),
        ("nobody there", vec![dead(1)], Request::get("/status/503"), 503),
        ("nobody there, and a body", vec![dead(1)], Request::post("/status/503"), 503),
        ("no endpoint", vec![], Request::post("/status/503"), 503),
        ("refused before it is decided", vec![app.address], Request::builder().method("TRACE").uri("/status/503"), 405),
    ] {
        let versions: [(_, _, _, &[_]); 2] =
            [("stable", Role::Stable, 1, &[app.address]), ("canary", Role::Canary, 0, &endpoints)];
        let mut routing = routing(&versions);
        routing.routes.push(Route {
            name: RouteName::new("failing"),
            matches: vec![Match { path: Some(PathMatch::prefix("/status")), ..Match::default() }],
            action: Action::Send(VersionHash::new("canary")),
            count: true,
            timeouts: None,
        });
        routing.policy.retry.other_version = false;
        let proxy = Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await;
        let mut client = proxy.client().await;
        // More than samples are taken of.
        for _ in 0..50 {
            assert_eq!(client.get("/").await.status, 200);
        }
        let body = if what.ends_with("body") { "a body" } else { "" };
        assert_eq!(client.send_body(request, body).await.status, status, "{what}");
        let failure = async || shown(&proxy, "").await.into_iter().find(|one| one["code"] == status);
        eventually(what, async || failure().await.is_some()).await;
        let failure = failure().await.unwrap();
        assert_eq!(failure["path"], "/status/503", "{what}: {failure}");
        assert!(failure["method"].is_string(), "{what}: {failure}");
    }
}

/// A canary that nobody can reach costs no client anything, and is seen all the same: in the last requests, and in the report.
#[tokio::test]
async fn a_version_whose_requests_others_save_is_shown_and_told() {
    let stable = App::start("stable").await;
    let gone = dead(1);
    let split = routing(&[
        ("stable", Role::Stable, 1, &[stable.address]),
        ("canary", Role::Canary, 1, std::slice::from_ref(&gone)),
    ]);
    let proxy = Proxy::start(split).await;
    let mut client = proxy.client().await;
    for _ in 0..40 {
        assert_eq!(client.get("/saved").await.status, 200);
    }
    // Records come a moment after their requests.
    eventually("the requests", async || !shown(&proxy, "?role=canary").await.is_empty()).await;
    for query in ["?role=canary", "?version=canary", "?role=stable"] {
        let all = shown(&proxy, query).await;
        let one = all.iter().find(|one| !one["failed"].is_null()).unwrap_or_else(|| panic!("{query}: {all:#?}"));
        let failed = json!({ "version": "canary", "role": "canary", "failure": "connect_refused" });
        assert_eq!((&one["failed"], &one["version"], &one["path"]), (&failed, &json!("stable"), &json!("/saved")));
        assert_eq!((&one["status"], &one["failure"], &one["reason"]), (&json!(200), &Value::Null, &json!("fallback")));
    }
    let mut admin = crate::support::Client::connect(proxy.admin).await;
    let text = admin.get_with("/report", &[("accept", "text/plain")]).await.text();
    let canary = text.lines().find(|line| line.starts_with("  canary")).expect("the canary");
    let (tries, rate) = canary.split_once(" tries failed (").unwrap_or_else(|| panic!("{text}"));
    assert!(tries.starts_with("  canary  canary: 0 requests, 0 failed; ") && rate.starts_with("100.00 %)"), "{text}");
    let reports: Value = serde_json::from_slice(&proxy.ask_admin("/report").await.body).unwrap();
    let version = &reports[0]["versions"][0];
    assert_eq!((&version["requests"], &version["tries"]), (&json!(0), &version["failed_tries"]), "{version:#}");
    assert!(version["tries"].as_u64().unwrap() > 0);
}
