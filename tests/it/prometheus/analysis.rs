//! The AnalysisTemplates that are shipped, asked as the controller of Argo Rollouts asks. Its verdicts are the ones of the
//! conditions, which are expressions of one form; that the real controller agrees about those is tested in `tests/cluster`.

use std::time::SystemTime;

use regex::Regex;

use super::load::{Load, errors, of};
use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Successful,
    Failed,
    /// Neither good nor bad: it pauses a rollout after a while, and never aborts it.
    Inconclusive,
}

/// A template with its arguments filled in.
struct Analysis {
    query: String,
    success: Condition,
    failure: Condition,
}

/// `len(result) > 0 && !isNaN(result[0]) && result[0] >= 0.99`
struct Condition {
    comparison: String,
    number: f64,
}

impl Condition {
    fn read(text: &str) -> Self {
        let form = Regex::new(r"^len\(result\) > 0 && !isNaN\(result\[0\]\) && result\[0\] (>=|<=|<|>) ([0-9.]+)$");
        let form = form.expect("an expression");
        let found = form.captures(text).unwrap_or_else(|| panic!("not the form that is known here: {text}"));
        Self { comparison: found[1].to_owned(), number: found[2].parse().expect("a number") }
    }

    fn holds(&self, result: Option<f64>) -> bool {
        let Some(result) = result.filter(|result| !result.is_nan()) else { return false };
        match self.comparison.as_str() {
            ">=" => result >= self.number,
            "<=" => result <= self.number,
            "<" => result < self.number,
            _ => result > self.number,
        }
    }
}

impl Analysis {
    fn new(name: &str, arguments: &[(&str, &str)]) -> Self {
        let text = fs::read_to_string(format!("deploy/chart/files/analysis/{name}.yaml")).expect("a template");
        let template: Value = serde_saphyr::from_str(&text).expect("YAML");
        let metric = &template["spec"]["metrics"][0];
        let filled_in = |value: &Value| {
            let mut text = value.as_str().expect("a text").to_owned();
            for argument in template["spec"]["args"].as_array().expect("arguments") {
                let name = argument["name"].as_str().expect("a name");
                let given = arguments.iter().find(|(given, _)| *given == name).map(|(_, value)| *value);
                if let Some(value) = given.or(argument["value"].as_str()) {
                    text = text.replace(&format!("{{{{args.{name}}}}}"), value);
                }
            }
            assert!(!text.contains("{{"), "an argument is missing: {text}");
            text
        };
        Self {
            query: filled_in(&metric["provider"]["prometheus"]["query"]),
            success: Condition::read(&filled_in(&metric["successCondition"])),
            failure: Condition::read(&filled_in(&metric["failureCondition"])),
        }
    }

    fn judges(&self, result: Option<f64>) -> Verdict {
        match (self.success.holds(result), self.failure.holds(result)) {
            (true, false) => Verdict::Successful,
            (false, true) => Verdict::Failed,
            (false, false) => Verdict::Inconclusive,
            (true, true) => panic!("{result:?} is good and bad"),
        }
    }

    async fn verdict(&self, prometheus: &Prometheus) -> Verdict {
        self.judges(prometheus.one(&self.query).await)
    }

    /// The verdict at every moment since then.
    async fn verdicts(&self, prometheus: &Prometheus, since: SystemTime) -> Vec<Verdict> {
        let history = prometheus.history(&self.query, since, SystemTime::now()).await;
        history.into_iter().map(|result| self.judges(result)).collect()
    }
}

/// All three, with bounds that a good version keeps on any machine.
fn all() -> [(&'static str, Analysis); 3] {
    [
        ("success-rate", Analysis::new("success-rate", &[("hash", "v2")])),
        ("latency", Analysis::new("latency", &[("hash", "v2"), ("at-most", "10")])),
        ("canary-against-stable", Analysis::new("canary-against-stable", &[("canary", "v2"), ("stable", "v1")])),
    ]
}

#[tokio::test]
#[ignore = "tests/prometheus/run has the programs for it"]
async fn a_good_canary_is_failed_at_no_moment_from_before_its_first_request_to_after_its_promotion() {
    let world = World::new().await;
    let began = SystemTime::now();
    let prometheus = Prometheus::scraping(&world.admins()).await;
    world.is_known_to(&prometheus).await;
    for (name, analysis) in all() {
        assert_eq!(analysis.verdict(&prometheus).await, Verdict::Inconclusive, "{name}, with no traffic");
    }

    // Few requests prove nothing.
    let few = Load::default().and(5, Method::GET, "always", "/status/404");
    let mut sent = world.send(&prometheus, few).await.concat();
    for (name, analysis) in all() {
        assert_eq!(analysis.verdict(&prometheus).await, Verdict::Inconclusive, "{name}, after {} requests", sent.len());
    }

    // The stable version fails sometimes, the canary never: from its first request on, in whatever part of its load.
    let load = Load::default()
        .and(150, Method::GET, "always", "/")
        .and(50, Method::POST, "always", "/")
        .and(196, Method::GET, "never", "/")
        .and(4, Method::POST, "never", "/status/503")
        .mixed();
    sent.extend(world.send(&prometheus, load).await.concat());
    for (name, analysis) in all() {
        assert_eq!(analysis.verdict(&prometheus).await, Verdict::Successful, "{name}, with traffic");
    }

    world.promote().await;
    let found =
        r#"count(splitway_responses_total{version="v2",role="stable",class="2xx",outcome="answered"} == 0) == 2"#;
    eventually("the new role", async || prometheus.one(found).await.is_some()).await;
    sent.extend(world.send(&prometheus, Load::default().and(100, Method::GET, "", "/")).await.concat());
    for (name, analysis) in all() {
        assert_eq!(analysis.verdict(&prometheus).await, Verdict::Successful, "{name}, after the promotion");
    }

    for (name, analysis) in all() {
        let verdicts = analysis.verdicts(&prometheus, began).await;
        assert!(!verdicts.contains(&Verdict::Failed), "{name}: {verdicts:?}");
        assert_eq!(verdicts[0], Verdict::Inconclusive, "{name}: before the first scrape");
    }
    assert_eq!(errors(&of(&sent, "v2")), 0.0, "this is what the analyses had to find out");
}

#[tokio::test]
#[ignore = "tests/prometheus/run has the programs for it"]
async fn a_bad_canary_is_failed_as_soon_as_there_are_enough_requests_and_then_at_every_moment() {
    let world = World::new().await;
    let began = SystemTime::now();
    let prometheus = Prometheus::scraping(&world.admins()).await;
    world.is_known_to(&prometheus).await;
    // One request in ten fails, always with a method that has no series from the start; and each takes 30 ms or more.
    let load = Load::default()
        .and(90, Method::GET, "always", "/after/30")
        .and(10, Method::PUT, "always", "/status/500")
        .and(100, Method::GET, "never", "/")
        .mixed();
    let sent = world.send(&prometheus, load).await.concat();
    assert_eq!(errors(&of(&sent, "v2")), 20.0);
    for (name, analysis) in [
        ("success-rate", Analysis::new("success-rate", &[("hash", "v2")])),
        ("latency", Analysis::new("latency", &[("hash", "v2"), ("at-most", "0.025"), ("quantile", "0.5")])),
        ("canary-against-stable", Analysis::new("canary-against-stable", &[("canary", "v2"), ("stable", "v1")])),
    ] {
        assert_eq!(analysis.verdict(&prometheus).await, Verdict::Failed, "{name}");
        let verdicts = analysis.verdicts(&prometheus, began).await;
        assert!(!verdicts.contains(&Verdict::Successful), "{name}: {verdicts:?}");
        let first = verdicts.iter().position(|verdict| *verdict == Verdict::Failed).expect("it has failed");
        assert!(verdicts[first..].iter().all(|verdict| *verdict == Verdict::Failed), "{name}: {verdicts:?}");
    }
    // Their results are the true numbers.
    let rate = Analysis::new("success-rate", &[("hash", "v2")]);
    assert_near(prometheus.number(&rate.query).await, 0.9, "the success rate");
    let against = Analysis::new("canary-against-stable", &[("canary", "v2"), ("stable", "v1")]);
    assert_near(prometheus.number(&against.query).await, 0.1, "by how much more of the canary's fail");
}

#[tokio::test]
#[ignore = "tests/prometheus/run has the programs for it"]
async fn a_canary_whose_requests_are_all_saved_by_the_stable_version_is_failed() {
    let stable = App::start("v1").await;
    let folder = Folder::new();
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nbackends:\n  v1: {{ endpoints: [\"{}\"], role: stable }}\n  \
         v2: {{ endpoints: [\"{}\"], role: canary }}\nsplit: {{ v1: 1, v2: 1 }}\n",
        stable.address,
        crate::support::dead(1)
    );
    let file = folder.write("splitway.yaml", &text);
    let proxy = Serving::spawn(&mut program(), &["--config", file.to_str().expect("UTF-8")]).await;
    let prometheus = Prometheus::scraping(&[proxy.admin]).await;
    let zero = r#"splitway_upstream_failures_total{version="v2",failure="connect_refused"} == 0"#;
    eventually("the canary's series", async || prometheus.one(zero).await.is_some()).await;
    let sent = Load::default().and(120, Method::GET, "", "/").send(proxy.proxy).await;
    assert!(sent.iter().all(|one| one.version == "v1" && one.status == 200), "nobody has noticed");
    let analysis = Analysis::new("success-rate", &[("hash", "v2")]);
    eventually("the verdict", async || analysis.verdict(&prometheus).await == Verdict::Failed).await;
    assert_near(prometheus.number(&analysis.query).await, 0.0, "the share of tries that went well");
    let stable = Analysis::new("success-rate", &[("hash", "v1")]);
    eventually("that of the other", async || stable.verdict(&prometheus).await == Verdict::Successful).await;
}
