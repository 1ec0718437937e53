//! What the admin listener shows of a proxy that runs.

use serde_json::Value;
use splitway::control::{Observed, Rejected};
use splitway::route::bucket::{KeySource, Sticky};
use splitway::route::matches::{Match, PathMatch};
use splitway::route::{Action, Role, Route, RouteName, VersionHash};

use crate::support::{App, Client, Proxy, eventually, routing, two};

async fn json(proxy: &Proxy, target: &str) -> Value {
    let answer = proxy.ask_admin(target).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[tokio::test]
async fn config_shows_what_is_live_and_what_became_of_it() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (945, 55))).await;
    let mut client = proxy.client().await;
    for _ in 0..200 {
        client.get("/").await;
    }
    let config = json(&proxy, "/config").await;
    assert_eq!(config["generation"], 1);
    assert_eq!(config["state"], "ready");
    assert_eq!(config["origin"], "test");
    assert_eq!(config["ports"][0]["split"]["total"], 1000);
    assert_eq!(config["ports"][0]["split"]["requests"], 200);
    let shown = &config["ports"][0]["split"]["versions"];
    for version in shown.as_array().unwrap() {
        let sent = if version["version"] == "canary" { canary.received() } else { stable.received() };
        assert_eq!(version["sent"], sent);
        assert!(version["error_in_requests"].as_f64().unwrap().abs() < 1.0, "{version}");
    }
    let endpoints: Vec<&Value> =
        config["ports"][0]["backends"].as_array().unwrap().iter().map(|backend| &backend["endpoints"][0]).collect();
    assert_eq!(endpoints, [&*stable.address.to_string(), &*canary.address.to_string()]);
    proxy.set(two(&stable, &canary, (1, 1))).await;
    let config = json(&proxy, "/config").await;
    assert_eq!((&config["generation"], &config["ports"][0]["split"]["total"]), (&Value::from(2), &Value::from(2)));
    assert_eq!(config["ports"][0]["split"]["requests"], 200, "the account goes on");
}

#[tokio::test]
async fn a_refused_change_is_shown_and_counted_and_the_old_state_keeps_serving() {
    let stable = App::start("stable").await;
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[stable.address])])).await;
    let rejected = Rejected { origin: "test".to_owned(), message: "line 3: no such field".to_owned() };
    proxy.observe(Err(rejected)).await;
    eventually("the refusal in /config", async || {
        let refused = json(&proxy, "/config").await["refused"].clone();
        refused["message"] == "line 3: no such field"
    })
    .await;
    // What does not fit together is refused as well.
    let mut broken = routing(&[("stable", Role::Stable, 1, &[stable.address])]);
    broken.routes = vec![Route {
        name: RouteName::new("r"),
        matches: vec![Match { path: Some(PathMatch::prefix("/")), ..Match::default() }],
        action: Action::Send(VersionHash::new("nobody")),
        count: true,
        timeouts: None,
    }];
    proxy.observe(Ok(Observed::plain(vec![broken], "test"))).await;
    eventually("both refusals counted", async || proxy.metric("splitway_reloads_total{outcome=\"bad\"}").await == 2.0)
        .await;
    let config = json(&proxy, "/config").await;
    assert_eq!(config["generation"], 1);
    assert!(config["refused"]["message"].as_str().unwrap().contains("nobody"), "{config}");
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    assert_eq!(proxy.ask_admin("/readyz").await.status, 200);
    proxy.set(routing(&[("stable", Role::Stable, 1, &[stable.address])])).await;
    assert_eq!(json(&proxy, "/config").await["refused"], Value::Null);
}

#[tokio::test]
async fn explain_says_what_the_proxy_then_does() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let mut routing = two(&stable, &canary, (3, 1));
    routing.sticky =
        Some(Sticky { keys: vec![KeySource::Header("x-user".parse().unwrap())], salt: "s".to_owned(), cookie: None });
    routing.routes = vec![Route {
        name: RouteName::new("beta"),
        matches: vec![Match { path: Some(PathMatch::prefix("/beta")), ..Match::default() }],
        action: Action::Send(VersionHash::new("canary")),
        count: true,
        timeouts: None,
    }];
    let proxy = Proxy::start(routing).await;
    let mut client = proxy.client().await;
    for user in 0..40 {
        let explained = json(&proxy, &format!("/explain?path=/&header=x-user:{user}")).await;
        let answer = client.get_with("/", &[("x-user", &user.to_string())]).await;
        assert_eq!(explained["version"], answer.app(), "{explained}");
        assert_eq!(explained["reason"], "sticky");
    }
    let explained = json(&proxy, "/explain?path=/beta/1").await;
    assert_eq!((&explained["version"], &explained["reason"]), (&"canary".into(), &"route".into()));
    // The next number of the split, which asking does not take.
    for _ in 0..40 {
        let (first, second) = (json(&proxy, "/explain?path=/").await, json(&proxy, "/explain?path=/").await);
        assert_eq!(first, second);
        assert_eq!(first["version"], client.get("/").await.app());
    }
    let text = Client::connect(proxy.admin).await.get_with("/explain?path=/beta", &[("accept", "text/plain")]).await;
    assert!(text.text().contains("canary"), "{}", text.text());
    assert_eq!(proxy.ask_admin("/explain?paht=/").await.status, 400);
}

#[tokio::test]
async fn the_admin_listener_only_shows() {
    let stable = App::start("stable").await;
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[stable.address])])).await;
    let mut client = Client::connect(proxy.admin).await;
    for path in ["/metrics", "/healthz", "/readyz", "/config", "/explain", "/verify?weight=0", "/"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
        assert_eq!(client.send(http::Request::post(path)).await.status, 405, "{path}");
    }
    assert_eq!(client.get("/nothing").await.status, 404);
    // And the traffic listener shows nothing of it.
    assert_eq!(proxy.client().await.get("/metrics").await.app(), "stable");
}
