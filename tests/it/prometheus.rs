//! What a real Prometheus makes of our metrics: `tests/prometheus/run` runs these, because they need its programs. They
//! compare with what clients have seen.

mod aliases;
mod analysis;
mod load;
mod server;
mod shipped;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use http::Method;
use serde_json::Value;

use crate::process::{Folder, Serving, splitway};
use crate::support::{App, Client, eventually};
use load::{Load, Sent};
use server::Prometheus;

/// The program under test: as it is shipped, if the script has built that.
pub fn program() -> Command {
    let Some(path) = std::env::var_os("SPLITWAY").filter(|path| !path.is_empty()) else {
        return splitway(&["run", "--print-addresses"]);
    };
    let mut command = Command::new(path);
    command.args(["run", "--print-addresses"]).env_clear().current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// The groups of the alerts that are shipped, as Prometheus itself reads them.
pub fn alerts() -> Value {
    let text = fs::read_to_string("deploy/chart/files/rules/rules.yaml").expect("the alerts");
    let object: Value = serde_saphyr::from_str(&text).expect("YAML");
    object["spec"].clone()
}

/// Two versions, and two proxies that split between them: both read the same file.
struct World {
    apps: [App; 2],
    folder: Folder,
    proxies: [Serving; 2],
}

/// The versions as if they were hashes: roles move, these do not.
const VERSIONS: [&str; 2] = ["v1", "v2"];

impl World {
    async fn new() -> Self {
        let apps = [App::start(VERSIONS[0]).await, App::start(VERSIONS[1]).await];
        let folder = Folder::new();
        let file = folder.write("splitway.yaml", &yaml(&apps, "canary", "stable: 3, canary: 1"));
        let file = file.to_str().expect("UTF-8").to_owned();
        let start = async || Serving::spawn(&mut program(), &["--config", &file]).await;
        Self { apps, folder, proxies: [start().await, start().await] }
    }

    fn admins(&self) -> [SocketAddr; 2] {
        [self.proxies[0].admin, self.proxies[1].admin]
    }

    /// What was the canary is stable, and the only version.
    async fn promote(&self) {
        let before = self.proxies[0].generation().await;
        self.folder.replace("splitway.yaml", &yaml(&self.apps, "stable", "v2: 1"));
        for proxy in &self.proxies {
            proxy.until("the promotion", |config| config["generation"].as_u64() > Some(before)).await;
        }
    }
}

/// What is written in the file; `role` is that of `v2`.
fn yaml(apps: &[App; 2], role: &str, split: &str) -> String {
    let backend =
        |app: &App, role: &str| format!("  {}: {{ endpoints: [\"{}\"], role: {role} }}\n", app.name, app.address);
    let v1 = if role == "canary" { backend(&apps[0], "stable") } else { String::new() };
    let split = split.replace("stable:", "v1:").replace("canary:", "v2:");
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nbackends:\n{v1}{}split: {{ {split} }}\noverride: {{}}\n",
        backend(&apps[1], role)
    )
}

impl World {
    /// Waits until the series of both versions were scraped from both proxies, at 0.
    async fn is_known_to(&self, prometheus: &Prometheus) {
        let known = r#"count(splitway_responses_total{class="2xx",outcome="answered"} == 0) == 4"#;
        eventually("the series of both versions", async || prometheus.one(known).await.is_some()).await;
    }

    /// Sends the same to both proxies, and waits until all of it was scraped.
    async fn send(&self, prometheus: &Prometheus, load: Load) -> [Vec<Sent>; 2] {
        // The histogram has the same requests, and is counted with them.
        let counted = "sum(splitway_request_duration_seconds_count)";
        let before = prometheus.number(counted).await;
        let (one, other) = tokio::join!(load.clone().send(self.proxies[0].proxy), load.send(self.proxies[1].proxy));
        let all = before + (one.len() + other.len()) as f64;
        let seen = async || {
            prometheus.number(counted).await == all && prometheus.number("sum(splitway_responses_total)").await == all
        };
        eventually("all requests scraped", seen).await;
        [one, other]
    }
}

/// As equal as sums of floating-point numbers are.
#[track_caller]
fn assert_near(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < 1e-9, "{what}: expected {expected}, found {found}");
}

#[tokio::test]
#[ignore = "tests/prometheus/run has the programs for it"]
async fn queries_give_the_true_numbers_of_a_load_through_two_proxies() {
    let began = unix_now();
    let world = World::new().await;
    let prometheus = Prometheus::scraping(&world.admins()).await;
    world.is_known_to(&prometheus).await;
    // Nothing was sent: rates are 0, and what is divided by nothing is not a number.
    let rate = "sum(rate(splitway_responses_total[1m]))";
    eventually("a second scrape", async || prometheus.one(rate).await.is_some()).await;
    assert_eq!(prometheus.number(rate).await, 0.0);
    assert!(prometheus.number(&success("version=\"v2\"")).await.is_nan());

    let load = Load::default()
        .and(60, Method::GET, "", "/")
        .and(10, Method::DELETE, "", "/status/500")
        .and(6, Method::GET, "", "/status/404")
        .and(14, Method::GET, "always", "/after/30")
        .and(4, Method::POST, "always", "/status/503")
        .and(4, Method::GET, "never", "/after/60")
        .and(2, Method::POST, "never", "/after/110")
        .mixed();
    let sent = world.send(&prometheus, load).await;
    // One proxy, and what it counted of one version.
    for (proxy, sent) in world.admins().iter().zip(&sent) {
        for version in VERSIONS {
            let labels = format!("version=\"{version}\",instance=\"{proxy}\"");
            every_number_is_true(&prometheus, &labels, &load::of(sent, version)).await;
        }
    }
    // Both together. Sums are exact; of a rate, Prometheus guesses what lies beyond the last scrape, for each proxy another
    // part, so that a ratio is a mean of theirs with a little more weight for one of them.
    let [stable, canary] = VERSIONS.map(|version| sent.each_ref().map(|sent| load::of(sent, version)));
    for (version, sent) in VERSIONS.into_iter().zip([&stable, &canary]) {
        let all = (sent[0].len() + sent[1].len()) as f64;
        let errors = load::errors(&sent[0]) + load::errors(&sent[1]);
        for (query, number) in [
            (format!("sum(splitway_responses_total{{version=\"{version}\"}})"), all),
            (format!("sum(splitway_requests_total{{version=\"{version}\"}})"), all),
            (format!("sum(splitway_responses_total{{version=\"{version}\",class=\"5xx\"}})"), errors),
        ] {
            assert_eq!(prometheus.number(&query).await, number, "{query}");
        }
        let rates = sent.each_ref().map(|sent| 1.0 - load::errors(sent) / sent.len() as f64);
        let (low, high) = (rates[0].min(rates[1]) - 1e-9, rates[0].max(rates[1]) + 1e-9);
        let found = prometheus.number(&success(&format!("version=\"{version}\""))).await;
        assert!((low..=high).contains(&found), "{version}: expected {low} to {high}, found {found}");
    }
    let canary: Vec<&Sent> = canary.concat();

    // By role, which is what a dashboard shows.
    let by_role = r#"sum by (role) (splitway_responses_total{role="canary"})"#;
    assert_eq!(prometheus.number(by_role).await, canary.len() as f64);
    // Each proxy by itself has kept its split: 76 requests, of which 19 are the canary's.
    for (query, number) in [
        ("count(splitway_split_requests_total{version=\"v2\"} == 19)", 2.0),
        ("count(abs(splitway_split_requests_total - splitway_split_asked_requests_total) < 1)", 4.0),
        ("count(splitway_split_asked_ratio{version=\"v2\"} == 0.25)", 2.0),
        ("count(splitway_weight_changed_timestamp_seconds)", 2.0),
        ("sum(splitway_snapshot_refused)", 0.0),
    ] {
        assert_eq!(prometheus.number(query).await, number, "{query}");
    }
    // Those of now, and none of the future.
    for query in ["min(splitway_weight_changed_timestamp_seconds)", "min(splitway_snapshot_timestamp_seconds)"] {
        let found = prometheus.number(query).await;
        assert!((began - 1.0..=unix_now()).contains(&found), "{query}: {found}");
    }

    // Once the canary is stable, what it counted before is still its own, and nothing new is the canary's.
    let changed = prometheus.number("min(splitway_weight_changed_timestamp_seconds)").await;
    world.promote().await;
    let newer = format!("min(splitway_weight_changed_timestamp_seconds) > {changed}");
    eventually("the change of weights", async || prometheus.one(&newer).await.is_some()).await;
    let zero =
        r#"count(splitway_responses_total{version="v2",role="stable",class="5xx",outcome="answered"} == 0) == 2"#;
    eventually("the new role", async || prometheus.one(zero).await.is_some()).await;
    let before = canary.len() as f64;
    let errors_before = load::errors(&canary);
    let more = Load::default().and(30, Method::GET, "", "/").and(10, Method::PATCH, "", "/status/500").mixed();
    let more = world.send(&prometheus, more).await;
    let all = before + more.concat().len() as f64;
    let errors = errors_before + 20.0;
    assert_near(prometheus.number(r#"sum(splitway_responses_total{version="v2"})"#).await, all, "all of v2");
    assert_eq!(prometheus.number(by_role).await, before, "all of the canary");
    // Series of two roles begin at two moments, so what is guessed beyond the last scrape weighs a little differently.
    let found = prometheus.number(&success("version=\"v2\"")).await;
    assert!((found - (1.0 - errors / all)).abs() < 0.05, "expected about {}, found {found}", 1.0 - errors / all);
    let new_role = r#"sum(rate(splitway_responses_total{version="v2",role="stable",class="5xx"}[1m]))
        / sum(rate(splitway_responses_total{version="v2",role="stable"}[1m]))"#;
    assert_near(prometheus.number(new_role).await, 0.25, "the error rate of what is stable now");
}

/// What Prometheus says about all requests with these labels, beside what the clients know of them.
async fn every_number_is_true(prometheus: &Prometheus, labels: &str, sent: &[&Sent]) {
    let (all, errors) = (sent.len() as f64, load::errors(sent));
    let of = |metric: &str, more: &str| format!("{metric}{{{labels}{more}}}");
    let [failed, answered] = [",class=\"5xx\"", ""].map(|more| of("splitway_responses_total", more));
    for (query, number) in [
        (format!("sum({answered})"), all),
        (format!("sum({failed})"), errors),
        (format!("sum({})", of("splitway_requests_total", "")), all),
        (format!("sum({})", of("splitway_requests_total", ",code=~\"5..\"")), errors),
        (success(labels), 1.0 - errors / all),
        (format!("sum(rate({failed}[1m])) / sum(rate({answered}[1m]))"), errors / all),
    ] {
        assert_near(prometheus.number(&query).await, number, &query);
    }
    for quantile in [0.5, 0.95, 0.99] {
        let buckets = of("splitway_request_duration_seconds_bucket", "");
        let query = format!("histogram_quantile({quantile}, sum by (le) (rate({buckets}[1m])))");
        let (low, high) = load::quantile(sent, quantile);
        let found = prometheus.number(&query).await;
        assert!((low..=high).contains(&found), "{query}: expected {low} to {high}, found {found}");
    }
    let mean =
        |time: fn(&Sent) -> std::time::Duration| sent.iter().map(|one| time(one).as_secs_f64()).sum::<f64>() / all;
    let [sum, count] = ["sum", "count"].map(|part| of(&format!("splitway_request_duration_seconds_{part}"), ""));
    let query = format!("sum(rate({sum}[1m])) / sum(rate({count}[1m]))");
    let found = prometheus.number(&query).await;
    let (low, high) = (mean(|one| one.at_least), mean(|one| one.at_most));
    assert!((low..=high).contains(&found), "{query}: expected {low} to {high}, found {found}");
    // What is beyond the last scrape is guessed, from nothing to a little more than one scrape.
    let query = format!("sum(increase({answered}[1m]))");
    let found = prometheus.number(&query).await;
    assert!((all - 1e-6..all * 2.2).contains(&found), "{query}: expected {all} or a little more, found {found}");
}

/// The success rate of what has these labels.
fn success(labels: &str) -> String {
    let of = |more: &str| format!("sum(rate(splitway_responses_total{{{labels}{more}}}[1m]))");
    format!("{} / {}", of(",class!=\"5xx\""), of(""))
}

fn unix_now() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    now.expect("after 1970").as_secs_f64()
}
