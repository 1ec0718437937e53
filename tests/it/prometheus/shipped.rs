//! What is shipped for Prometheus and Grafana: /metrics itself, alerts, the dashboard, the queries of the manual.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Stdio;

use super::aliases::Followed;
use super::*;
use crate::follow::canary_is;

/// What promtool says, and whether it is content.
fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), said)
}

async fn metrics(proxy: &Serving) -> String {
    Client::connect(proxy.admin).await.get("/metrics").await.text()
}

#[tokio::test]
#[ignore = "tests/prometheus/run has the programs for it"]
async fn promtool_finds_nothing_to_say_about_the_metrics_but_for_names_that_are_others() {
    let world = World::new().await;
    let (content, said) = promtool(&["check", "metrics"], &metrics(&world.proxies[0]).await);
    assert!(content && said.is_empty(), "{said}");

    let followed = Followed::new().await;
    let (_, said) = promtool(&["check", "metrics"], &metrics(&followed.proxies[0]).await);
    let about: BTreeSet<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(about, ["istio_request_duration_milliseconds"].into(), "{said}");
}

#[test]
#[ignore = "tests/prometheus/run has the programs for it"]
fn promtool_finds_that_every_alert_fires_when_it_should_and_is_quiet_when_it_should() {
    let folder = Folder::new();
    let rules = folder.write("rules.yml", &alerts().to_string());
    let (content, said) = promtool(&["check", "rules", rules.to_str().expect("UTF-8")], "");
    assert!(content, "{said}");
    let scenarios = fs::read_to_string("tests/prometheus/rules.yaml").expect("the scenarios");
    for alert in alerts()["groups"][0]["rules"].as_array().expect("rules") {
        let name = alert["alert"].as_str().expect("a name");
        let asked = format!("alertname: {name}\n");
        assert!(scenarios.contains(&asked), "{name} has no scenario in which it fires");
        assert!(scenarios.contains(&format!("alertname: {name} }}")), "{name} has none in which it is quiet");
    }
    let scenarios = folder.write("scenarios.yml", &scenarios);
    let (content, said) = promtool(&["test", "rules", scenarios.to_str().expect("UTF-8")], "");
    assert!(content, "{said}");
}

/// The queries of the dashboard, each with the title of its panel, and its variables filled in.
fn dashboard() -> Vec<(String, String)> {
    let text = fs::read_to_string("deploy/chart/files/dashboard/splitway.json").expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut queries = Vec::new();
    for panel in array(&dashboard["panels"]) {
        for target in array(&panel["targets"]) {
            queries.push((panel["title"].as_str().expect("a title").to_owned(), target["expr"].clone()));
        }
    }
    for annotation in array(&dashboard["annotations"]["list"]) {
        queries.push((annotation["name"].as_str().expect("a name").to_owned(), annotation["expr"].clone()));
    }
    for variable in array(&dashboard["templating"]["list"]) {
        let (name, query) = (variable["name"].as_str().expect("a name"), variable["definition"].as_str());
        // `label_values(SELECTOR, LABEL)`
        if let Some(query) = query.and_then(|query| query.strip_prefix("label_values(")) {
            let (selector, label) = query.trim_end_matches(')').rsplit_once(", ").expect("two arguments");
            queries.push((format!("variable {name}"), format!("count by ({label}) ({selector})").into()));
        }
    }
    let filled_in = |(title, query): (String, Value)| {
        let mut query = query.as_str().unwrap_or_else(|| panic!("{title} has no query")).to_owned();
        for (variable, value) in [
            ("$namespace", "services"),
            ("$job", "splitway|other"),
            // As Grafana writes "all" of it.
            ("$instance", ".*"),
            ("$__rate_interval", "1m"),
        ] {
            query = query.replace(variable, value);
        }
        assert!(!query.contains('$'), "{title}: an unknown variable: {query}");
        (title, query)
    };
    queries.into_iter().map(filled_in).collect()
}

/// Panels that have nothing to show in a rollout without mirrors and TLS.
const EMPTY: [&str; 2] = ["Copies of mirrored requests", "Certificates expire in"];

#[tokio::test]
#[ignore = "tests/prometheus/run has the programs for it"]
async fn every_query_of_the_dashboard_and_of_the_manual_finds_the_rollout_and_no_alert_fires() {
    let followed = Followed::new().await;
    let prometheus = followed.prometheus().await;
    followed.load(&prometheus).await;

    // The canary fails one request in ten, and an alert about that is on its way; about nothing else.
    let pending = async || {
        let alerts = prometheus.alerts().await;
        alerts.iter().any(|(name, _, state)| name == "SplitwayCanaryErrors" && state == "pending")
    };
    eventually("the alert about the canary", pending).await;
    let alerts = prometheus.alerts().await;
    assert!(alerts.len() >= 10, "{alerts:?}");
    for (name, health, state) in alerts {
        let expected = if name == "SplitwayCanaryErrors" { "pending" } else { "inactive" };
        assert_eq!((health.as_str(), state.as_str()), ("ok", expected), "{name}");
    }

    followed.world.step(3);
    for proxy in &followed.proxies {
        proxy.until("the next weight", canary_is(60)).await;
    }
    eventually("the next weight", async || {
        prometheus.one("count(splitway_split_asked_ratio{version=\"v2\"} == 0.6) == 2").await.is_some()
    })
    .await;

    let queries = dashboard();
    assert!(queries.len() > 40, "{} queries", queries.len());
    for (title, query) in &queries {
        let found = prometheus.all(query).await;
        // What shows only what is not 0 may find nothing.
        let may_be_empty = EMPTY.contains(&title.as_str()) || query.ends_with("> 0");
        assert!(may_be_empty || !found.is_empty(), "{title}: {query} finds nothing");
    }
    let shown = |title: &'static str| {
        let (_, query) = queries.iter().find(|(panel, _)| panel == title).expect("a panel");
        prometheus.number(query)
    };
    assert_near(shown("Canary errors").await, 0.1, "Canary errors");
    assert_near(shown("Stable errors").await, 0.02, "Stable errors");
    assert_near(shown("Canary asked for").await, 0.6, "Canary asked for");
    assert_eq!(shown("Proxies").await, 2.0);

    let page = fs::read_to_string("docs/metrics.md").expect("the manual");
    let blocks: Vec<&str> =
        page.split("```promql\n").skip(1).map(|rest| rest.split("```").next().expect("an end")).collect();
    assert!(blocks.len() >= 4, "{} queries", blocks.len());
    for query in blocks {
        // What is to be appended is tried behind something.
        let query = if query.starts_with("and ") {
            format!("splitway_ready {query}").replace("> 300", "> 0")
        } else {
            query.to_owned()
        };
        let query = query.replace("HASH", "v2");
        assert!(!prometheus.all(&query).await.is_empty(), "{query} finds nothing");
    }
}

#[tokio::test]
#[ignore = "tests/prometheus/run has the programs for it"]
async fn a_proxy_that_hears_nothing_and_one_that_refuses_a_change_are_seen() {
    let world = World::new().await;
    let prometheus = Prometheus::scraping(&world.admins()).await;
    world.is_known_to(&prometheus).await;
    let state = async |name: &str| {
        let alerts = prometheus.alerts().await;
        alerts.into_iter().find(|(alert, ..)| alert == name).expect("an alert").2
    };
    world.folder.replace("splitway.yaml", "listeners: [{ address: 127.0.0.1:0 }]\nbackends: {}\n");
    eventually("the refusal", async || prometheus.number("sum(splitway_snapshot_refused)").await == 2.0).await;
    eventually("the alert", async || state("SplitwaySnapshotRefused").await == "pending").await;
    world.promote().await;
    eventually("no refusal", async || prometheus.number("sum(splitway_snapshot_refused)").await == 0.0).await;
    eventually("no alert", async || state("SplitwaySnapshotRefused").await == "inactive").await;

    let mut followed = Followed::new().await;
    let prometheus = followed.prometheus().await;
    assert_eq!(prometheus.number("sum(splitway_rollout_connected)").await, 2.0);
    followed.world.api.crash().await;
    eventually("the loss", async || prometheus.number("sum(splitway_rollout_connected)").await == 0.0).await;
    let state = async || prometheus.alerts().await.into_iter().find(|(name, ..)| name == "SplitwayWatchLost");
    eventually("the alert", async || state().await.is_some_and(|(.., state)| state == "pending")).await;
}
