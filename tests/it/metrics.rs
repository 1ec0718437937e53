//! Every number after a known load, as a scrape sees it.

use std::collections::BTreeMap;

use http::Request;
use serde_json::json;
use splitway::route::{Role, Routing};

use crate::follow;
use crate::support::{App, Client, Proxy, Wire, dead, eventually, routing, two};

/// Samples by their name and labels, as written.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(proxy: &Proxy) -> Self {
        Self::read(&proxy.ask_admin("/metrics").await.text())
    }

    fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
            (sample.to_owned(), value.parse().expect("a number"))
        });
        Self(samples.collect())
    }

    fn has(&self, sample: &str) -> bool {
        self.0.contains_key(sample)
    }

    /// The value of one sample; it must be there.
    fn at(&self, sample: &str) -> f64 {
        *self.0.get(sample).unwrap_or_else(|| panic!("no {sample}"))
    }

    /// The sum over a family's series that have all of these labels.
    fn sum(&self, family: &str, labels: &[&str]) -> f64 {
        let fits = |sample: &str| {
            sample.split('{').next() == Some(family) && labels.iter().all(|label| sample.contains(label))
        };
        self.0.iter().filter(|(sample, _)| fits(sample)).map(|(_, value)| value).sum()
    }
}

async fn one_worker(routing: Routing) -> Proxy {
    Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await
}

fn of(version: &str) -> String {
    format!("{{version=\"{version}\",role=\"{version}\"}}")
}

fn requests(version: &str, method: &str, code: u16, reason: &str) -> String {
    format!(
        "splitway_requests_total{{version=\"{version}\",role=\"{version}\",method=\"{method}\",code=\"{code}\",\
         reason=\"{reason}\",route=\"\",failure=\"\"}}"
    )
}

#[tokio::test]
async fn both_versions_are_there_at_0_from_the_first_scrape() {
    let proxy =
        Proxy::start(routing(&[("stable", Role::Stable, 9, &[dead(1)]), ("canary", Role::Canary, 1, &[])])).await;
    // The workers look at a new snapshot within a tick.
    eventually("both versions", async || {
        let scrape = Scrape::of(&proxy).await;
        ["stable", "canary"].iter().all(|version| scrape.has(&requests(version, "GET", 200, "weighted")))
    })
    .await;
    let scrape = Scrape::of(&proxy).await;
    for version in ["stable", "canary"] {
        for code in [200, 500, 502, 503, 504] {
            assert_eq!(scrape.at(&requests(version, "GET", code, "weighted")), 0.0);
        }
        for family in [
            "splitway_uncounted_requests_total",
            "splitway_request_duration_seconds_count",
            "splitway_request_duration_seconds_sum",
            "splitway_requests_in_flight",
            "splitway_retries_total",
            "splitway_upstream_connections",
            "splitway_upstream_connections_opened_total",
        ] {
            assert_eq!(scrape.at(&format!("{family}{}", of(version))), 0.0, "{family}");
        }
        for failure in ["connect_refused", "upstream_closed", "upstream_cut", "no_endpoint"] {
            let labels = format!("{{version=\"{version}\",role=\"{version}\",failure=\"{failure}\"}}");
            assert_eq!(scrape.at(&format!("splitway_upstream_failures_total{labels}")), 0.0);
        }
    }
    assert_eq!(scrape.at(&format!("splitway_split_weight{}", of("canary"))), 1.0);
    assert_eq!(scrape.at("splitway_split_total_weight"), 10.0);
    assert_eq!(scrape.at("splitway_split_asked_ratio{version=\"canary\"}"), 0.1);
    assert_eq!(scrape.at("splitway_split_sent_ratio{version=\"canary\"}"), 0.0);
    assert_eq!(scrape.at(&format!("splitway_endpoints{}", of("stable"))), 1.0);
    assert_eq!(scrape.at(&format!("splitway_endpoints{}", of("canary"))), 0.0);
    assert_eq!(scrape.at("splitway_ready"), 1.0);
}

#[tokio::test]
async fn after_a_known_load_every_number_is_right() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (3, 1))).await;
    let address = proxy.address;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for _ in 0..50 {
                    client.get("/").await;
                    client.send_body(Request::post("/"), "hello").await;
                    client.get("/status/404").await;
                    client.get("/status/500").await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    eventually("all answers counted", async || Scrape::of(&proxy).await.sum("splitway_requests_total", &[]) == 800.0)
        .await;
    let scrape = Scrape::of(&proxy).await;
    for (app, share) in [(&stable, 600.0), (&canary, 200.0)] {
        let version = format!("version=\"{}\"", app.name);
        assert_eq!(app.received() as f64, share);
        assert_eq!(scrape.sum("splitway_requests_total", &[&version, "reason=\"weighted\""]), share);
        assert_eq!(scrape.sum("splitway_request_duration_seconds_count", &[&version]), share);
        assert_eq!(scrape.sum("splitway_request_duration_seconds_bucket", &[&version, "le=\"+Inf\""]), share);
        assert_eq!(scrape.sum("splitway_split_requests_total", &[&version]), share);
        assert!((scrape.sum("splitway_split_asked_requests_total", &[&version]) - share).abs() < 1e-6);
        assert_eq!(scrape.sum("splitway_split_sent_ratio", &[&version]), share / 800.0);
        assert_eq!(scrape.sum("splitway_split_asked_ratio", &[&version]), share / 800.0);
        assert_eq!(scrape.at(&format!("splitway_requests_in_flight{}", of(&app.name))), 0.0);
        assert_eq!(scrape.at(&format!("splitway_retries_total{}", of(&app.name))), 0.0);
        assert!(scrape.at(&format!("splitway_request_duration_seconds_sum{}", of(&app.name))) > 0.0);
    }
    for (label, count) in
        [("method=\"GET\"", 600.0), ("method=\"POST\"", 200.0), ("code=\"404\"", 200.0), ("code=\"500\"", 200.0)]
    {
        assert_eq!(scrape.sum("splitway_requests_total", &[label]), count, "{label}");
    }
    assert_eq!(scrape.sum("splitway_upstream_failures_total", &[]), 0.0);
    assert_eq!(scrape.sum("splitway_refused_requests_total", &[]), 0.0);
    assert_eq!(scrape.at("splitway_downstream_connections_accepted_total"), 4.0);
    eventually("connections closed", async || proxy.metric("splitway_downstream_connections").await == 0.0).await;
}

#[tokio::test]
async fn what_is_in_flight_shows_while_it_is() {
    let app = App::start("stable").await;
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
    let mut wires = Vec::new();
    for n in 1..=3 {
        let mut wire = Wire::connect(proxy.address).await;
        wire.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
        app.reaches(n).await;
        wires.push(wire);
    }
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.at(&format!("splitway_requests_in_flight{}", of("stable"))), 3.0);
    assert_eq!(scrape.at(&format!("splitway_upstream_connections{}", of("stable"))), 3.0);
    assert_eq!(scrape.at("splitway_downstream_connections"), 3.0);
    assert_eq!(scrape.at(&requests("stable", "GET", 200, "weighted")), 0.0, "counted when it ends");
    app.release(3);
    for wire in &mut wires {
        wire.until("\r\n\r\nstable").await;
    }
    eventually("nothing in flight", async || {
        let scrape = Scrape::of(&proxy).await;
        scrape.at(&format!("splitway_requests_in_flight{}", of("stable"))) == 0.0
            && scrape.at(&requests("stable", "GET", 200, "weighted")) == 3.0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_is_counted() {
    let app = App::start("stable").await;
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    app.reaches(1).await;
    drop(wire);
    let gone = "splitway_requests_total{version=\"stable\",role=\"stable\",method=\"GET\",code=\"499\",\
                reason=\"weighted\",route=\"\",failure=\"client_gone\"}";
    eventually("the request counted", async || proxy.metric(gone).await == 1.0).await;
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.sum("splitway_requests_total", &[]), 1.0);
    assert_eq!(scrape.sum("splitway_request_duration_seconds_count", &[]), 1.0);
    // For the version that was too slow for it.
    assert_eq!(scrape.at(&format!("splitway_request_duration_seconds_count{}", of("stable"))), 1.0);
    assert_eq!(scrape.at(&format!("splitway_requests_in_flight{}", of("stable"))), 0.0);
    assert_eq!(scrape.sum("splitway_upstream_failures_total", &[]), 0.0, "not the application's fault");
}

#[tokio::test]
async fn retries_failures_and_reasons_are_told_apart() {
    let stable = App::start("stable").await;
    let mut routing =
        routing(&[("stable", Role::Stable, 1, &[stable.address]), ("canary", Role::Canary, 1, &[dead(1), dead(2)])]);
    // One of the two would be left out after a while.
    routing.policy.outliers.connect_failures = None;
    let proxy = one_worker(routing).await;
    let mut client = proxy.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.app(), "stable");
    }
    eventually("all answers counted", async || Scrape::of(&proxy).await.sum("splitway_requests_total", &[]) == 20.0)
        .await;
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.at(&requests("stable", "GET", 200, "weighted")), 10.0);
    assert_eq!(scrape.at(&requests("stable", "GET", 200, "fallback")), 10.0);
    assert_eq!(scrape.at(&format!("splitway_retries_total{}", of("canary"))), 20.0, "two for each request");
    assert_eq!(
        scrape.at("splitway_upstream_failures_total{version=\"canary\",role=\"canary\",failure=\"connect_refused\"}"),
        20.0
    );
    assert_eq!(scrape.sum("splitway_upstream_failures_total", &[]), 20.0);
    assert_eq!(scrape.at("splitway_split_requests_total{version=\"canary\"}"), 10.0, "the split stays true");
}

#[tokio::test]
async fn an_answer_of_our_own_is_an_answer_of_the_version_that_failed() {
    let mut routing = routing(&[("stable", Role::Stable, 1, &[dead(1)])]);
    routing.policy.retry.tries = 0;
    let proxy = one_worker(routing).await;
    assert_eq!(proxy.client().await.get("/").await.status, 503);
    let sample = "splitway_requests_total{version=\"stable\",role=\"stable\",method=\"GET\",code=\"503\",\
                  reason=\"weighted\",route=\"\",failure=\"connect_refused\"}";
    eventually("the answer counted", async || proxy.metric(sample).await == 1.0).await;
    assert_eq!(Scrape::of(&proxy).await.sum("splitway_request_duration_seconds_count", &[]), 1.0);
}

#[tokio::test]
async fn openmetrics_says_the_same() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (3, 1))).await;
    let mut client = proxy.client().await;
    for _ in 0..40 {
        client.get("/").await;
    }
    drop(client);
    eventually("all answers counted", async || {
        let scrape = Scrape::of(&proxy).await;
        scrape.sum("splitway_requests_total", &[]) == 40.0 && scrape.at("splitway_downstream_connections") == 0.0
    })
    .await;
    let plain = proxy.ask_admin("/metrics").await;
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let open = Client::connect(proxy.admin).await.get_with("/metrics", &accept).await;
    assert!(open.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    let text = open.text();
    assert!(text.ends_with("# EOF\n"));
    // Memory and descriptors are measured anew for each scrape; labels may stand in any order.
    let splitways = |scrape: Scrape| -> BTreeMap<Vec<String>, f64> {
        let words = |sample: String| {
            let mut words: Vec<String> = sample.split(['{', ',', '}']).map(str::to_owned).collect();
            words[1..].sort();
            words
        };
        let ours = scrape.0.into_iter().filter(|(sample, _)| sample.starts_with("splitway_"));
        ours.map(|(sample, value)| (words(sample), value)).collect()
    };
    let (plain, open) = (splitways(Scrape::read(&plain.text())), splitways(Scrape::read(&text)));
    assert!(plain.len() > 80, "{} samples", plain.len());
    assert_eq!(plain, open);
}

#[tokio::test]
async fn roles_that_change_hands_start_series_of_their_own() {
    let (old, new) = (App::start("old").await, App::start("new").await);
    let with =
        |first: Role, second: Role| routing(&[("old", first, 1, &[old.address]), ("new", second, 1, &[new.address])]);
    let proxy = one_worker(with(Role::Stable, Role::Canary)).await;
    let mut client = proxy.client().await;
    for _ in 0..10 {
        client.get("/").await;
    }
    proxy.set(with(Role::Canary, Role::Stable)).await;
    for _ in 0..10 {
        client.get("/").await;
    }
    eventually("all answers counted", async || Scrape::of(&proxy).await.sum("splitway_requests_total", &[]) == 20.0)
        .await;
    let scrape = Scrape::of(&proxy).await;
    for version in ["old", "new"] {
        for role in ["stable", "canary"] {
            let labels = [format!("version=\"{version}\""), format!("role=\"{role}\"")];
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            assert_eq!(scrape.sum("splitway_requests_total", &labels), 5.0, "{labels:?}");
        }
        assert_eq!(scrape.at(&format!("splitway_split_requests_total{{version=\"{version}\"}}")), 10.0);
    }
}

#[tokio::test]
async fn the_names_of_others_are_those_that_the_rollout_gives() {
    let world = follow::World::new().await;
    let mut rollout = follow::rollout(1);
    let nginx = json!({"nginx": {"stableIngress": "shop-ingress"}});
    rollout["spec"]["strategy"]["canary"]["trafficRouting"] = nginx;
    world.api.put("rollouts", rollout);
    let proxy = world.proxy(&["--metrics-alias", "nginx,istio"]).await;
    proxy.until("a snapshot", |config| config["generation"] != 0).await;
    for (family, labels) in [
        ("nginx_ingress_controller_requests", r#"namespace="services",ingress="shop-ingress",service="shop-canary""#),
        ("nginx_ingress_controller_requests", r#"service="shop-stable",canary="",version="v1",status="200"} 0"#),
        ("istio_requests_total", r#"destination_service="shop-stable.services.svc.cluster.local""#),
        ("istio_requests_total", r#"destination_workload="shop-primary""#),
    ] {
        let scrape = Client::connect(proxy.admin).await.get("/metrics").await.text();
        let found = scrape.lines().any(|line| line.starts_with(family) && line.contains(labels));
        assert!(found, "no {family} with {labels}");
    }
    assert!(proxy.metric("splitway_weight_changed_timestamp_seconds", "").await > 1.7e9);
}
