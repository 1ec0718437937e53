//! What the proxy remembers, against what really happened: `/analysis`, `/report`, and the metrics that go with them.

use serde_json::{Value, json};
use splitway::control::Rejected;
use splitway::route::Routing;
use splitway::route::bucket::{KeySource, Sticky};

use crate::support::{App, Proxy, eventually, two};

async fn ask(proxy: &Proxy, target: &str) -> Value {
    let answer = proxy.ask_admin(target).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// Requests to `/`, and to `/status/503` each time the split gives one to the canary that is to fail: one at a time, so
/// that the clients know what every version has got. Returns requests and errors of stable and canary.
///
/// Returns when all of them are counted: a worker counts a request after its last byte has gone.
async fn load(proxy: &Proxy, requests: u64, fail_one_in: u64) -> [(u64, u64); 2] {
    let counted = || {
        let versions = proxy.running.metrics().totals().versions;
        versions.iter().map(|version| version.requests()).sum::<u64>()
    };
    let before = counted();
    let (mut client, mut counts) = (proxy.client().await, [(0, 0); 2]);
    for i in 0..requests {
        let target = if i % fail_one_in == fail_one_in - 1 { "/status/503" } else { "/" };
        let answer = client.get(target).await;
        let of = &mut counts[usize::from(answer.app() == "canary")];
        of.0 += 1;
        of.1 += u64::from(answer.status == 503);
    }
    eventually("all of them are counted", async || counted() == before + requests).await;
    counts
}

fn of(versions: &Value, name: &str) -> (u64, u64) {
    let one = versions.as_array().unwrap().iter().find(|one| one["version"] == name);
    one.map_or((0, 0), |one| (one["requests"].as_u64().unwrap(), one["errors"].as_u64().unwrap()))
}

async fn metrics(proxy: &Proxy, version: &str) -> (u64, u64) {
    let text = proxy.ask_admin("/metrics").await.text();
    let samples = text.lines().filter(|line| {
        line.starts_with("splitway_requests_total{") && line.contains(&format!("version=\"{version}\""))
    });
    let samples = samples.map(|line| (line, line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()));
    samples.fold((0, 0), |(all, errors), (line, count)| {
        (all + count, errors + if line.contains("code=\"5") { count } else { 0 })
    })
}

#[tokio::test]
async fn the_report_the_analysis_the_metrics_and_the_clients_agree() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (95, 5))).await;
    let first = load(&proxy, 400, 5).await;
    // A weight that was in force for less than 100 ms is told with the next.
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    proxy.set(two(&stable, &canary, (3, 1))).await;
    let second = load(&proxy, 201, 7).await;
    let [stable_counts, canary_counts] = [0, 1].map(|i| (first[i].0 + second[i].0, first[i].1 + second[i].1));
    assert!(canary_counts.1 > 0, "the test fails some");

    let step = ask(&proxy, "/analysis?window=step").await;
    assert_eq!((of(&step["versions"], "stable"), of(&step["versions"], "canary")), (second[0], second[1]), "{step:#}");
    assert_eq!(step["canary"]["error_rate"], json!(second[1].1 as f64 / second[1].0 as f64));
    for window in ["rollout", "60s"] {
        let all = ask(&proxy, &format!("/analysis?window={window}&min-requests=10")).await;
        assert_eq!((of(&all["versions"], "stable"), of(&all["versions"], "canary")), (stable_counts, canary_counts));
        assert_eq!(
            (&all["conclusive"], &all["why"], &all["missing"]),
            (&json!(true), &json!([]), &json!(0)),
            "{all:#}"
        );
        let rate = |version: (u64, u64)| version.1 as f64 / version.0 as f64;
        let difference = all["compare"]["error_rate"].as_f64().unwrap();
        assert!((difference - (rate(canary_counts) - rate(stable_counts))).abs() < 1e-9, "{all:#}");
        assert!(all["canary"]["p99"].as_f64().unwrap() > 0.0);
    }

    // The file takes it back.
    proxy.set(two(&stable, &canary, (1, 0))).await;
    load(&proxy, 50, 5).await;
    let reports = ask(&proxy, "/report").await;
    let report = &reports[0];
    assert_eq!(
        (report["outcome"].as_str(), reports.as_array().map(Vec::len)),
        (Some("withdrawn"), Some(1)),
        "{report:#}"
    );
    assert_eq!((of(&report["versions"], "stable"), of(&report["versions"], "canary")), (stable_counts, canary_counts));
    assert_eq!(metrics(&proxy, "canary").await, canary_counts);
    let window = ask(&proxy, "/analysis?window=rollout").await;
    assert_eq!((of(&window["versions"], "stable"), of(&window["versions"], "canary")), (stable_counts, canary_counts));
    let steps: Vec<_> = report["steps"].as_array().unwrap().iter().collect();
    assert_eq!(steps.iter().map(|step| step["asked"].as_f64().unwrap()).collect::<Vec<_>>(), [0.05, 0.25]);
    for (step, counts) in steps.iter().zip([first, second]) {
        assert_eq!(
            (of(&step["versions"], "stable"), of(&step["versions"], "canary")),
            (counts[0], counts[1]),
            "{step:#}"
        );
        let sent = counts[1].0 as f64 / (counts[0].0 + counts[1].0) as f64;
        assert!((step["sent"].as_f64().unwrap() - sent).abs() < 1e-9, "{step:#}");
        assert!(step["error_in_requests"].as_f64().unwrap().abs() < 2.0, "{step:#}");
    }
    assert_eq!(proxy.metric("splitway_rollouts_total{outcome=\"withdrawn\"}").await, 1.0);
    assert_eq!(proxy.metric("splitway_rollouts_total{outcome=\"promoted\"}").await, 0.0);
}

/// Users who come again, over another connection and so perhaps to another worker, are met once; a weight that grows adds
/// users; requests without a key are nobody's.
#[tokio::test]
async fn a_report_tells_how_many_users_met_a_version() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let sticky =
        Sticky { keys: vec![KeySource::Header("x-user".parse().unwrap())], salt: "spring".into(), cookie: None };
    let with = |weights| Routing { sticky: Some(sticky.clone()), ..two(&stable, &canary, weights) };
    let proxy = Proxy::start_with(with((1, 0)), |settings| settings.proxy.workers = 2).await;
    let visit = async |users: std::ops::Range<u32>| {
        let (mut client, mut met) = (proxy.client().await, [0u64; 2]);
        for user in users {
            let answer = client.get_with("/", &[("x-user", &user.to_string())]).await;
            met[usize::from(answer.app() == "canary")] += 1;
        }
        met
    };
    let close = |found: &Value, truth: u64| found.as_u64().unwrap().abs_diff(truth) as f64 <= 1.0 + 0.05 * truth as f64;
    let users = async || {
        let report = ask(&proxy, "/report?number=1").await;
        [0, 1].map(|i| report[0]["versions"][1 - i]["users"].clone())
    };

    visit(0..500).await;
    proxy.set(with((19, 1))).await;
    proxy.client().await.get("/").await;
    assert_eq!(users().await, [Value::Null, Value::Null], "nobody was recognised since it began");
    let mut met = [0, 0];
    for _ in 0..4 {
        met = visit(0..1000).await;
    }
    eventually("the users who met each", async || {
        let [stable, canary] = users().await;
        close(&stable, met[0]) && close(&canary, met[1])
    })
    .await;
    assert!((20..80).contains(&met[1]), "about one in twenty: {met:?}");
    proxy.set(with((1, 1))).await;
    let [_, more] = visit(0..1000).await;
    eventually("those who have moved to it", async || close(&users().await[1], more)).await;
    proxy.set(with((1, 0))).await;
    visit(1000..2000).await;
    assert!(users().await.iter().zip([1000, more]).all(|(found, truth)| close(found, truth)), "no more after its end");
    let changes = proxy.running.history().changes(0);
    let end = &changes.last().unwrap().fact.text;
    assert!(end.contains("rollout of canary withdrawn: about ") && end.contains(" users and "), "{end}");
    let mut client = crate::support::Client::connect(proxy.admin).await;
    let text = client.get_with("/report", &[("accept", "text/plain")]).await.text();
    assert!(text.contains(" requests of about "), "{text}");
}

#[tokio::test]
async fn a_version_that_becomes_stable_is_promoted() {
    let (v1, v2) = (App::start("v1").await, App::start("v2").await);
    let proxy = Proxy::start(two(&v1, &v2, (1, 1))).await;
    load(&proxy, 100, 1000).await;
    proxy.set(two(&v2, &v1, (1, 0))).await;
    let report = &ask(&proxy, "/report?number=1").await[0];
    assert_eq!((report["outcome"].as_str(), report["canary"].as_str()), (Some("promoted"), Some("v2")), "{report:#}");
    assert_eq!(of(&report["versions"], "v2").0, 50);
    let text = crate::support::Client::connect(proxy.admin).await;
    let text = { text }.get_with("/report", &[("accept", "text/plain")]).await.text();
    assert!(text.starts_with("rollout 1: canary v2 promoted\n  why     the version has become stable"), "{text}");
    assert!(text.contains("canary  v2: 50 requests, 0 failed (0.00 %)"), "{text}");
}

#[tokio::test]
async fn nothing_is_concluded_from_nothing() {
    let stable = App::start("stable").await;
    let proxy =
        Proxy::start(crate::support::routing(&[("stable", splitway::route::Role::Stable, 1, &[stable.address])])).await;
    let analysis = ask(&proxy, "/analysis?window=60s").await;
    assert_eq!((&analysis["conclusive"], &analysis["canary"]), (&json!(false), &Value::Null), "{analysis:#}");
    for window in ["step", "rollout"] {
        let analysis = ask(&proxy, &format!("/analysis?window={window}")).await;
        assert_eq!(analysis["conclusive"], json!(false));
        assert!(analysis["why"][0].as_str().unwrap().contains("no "), "{analysis:#}");
    }
    assert_eq!(ask(&proxy, "/report").await, json!([]));
    // One replica cannot be asked about all.
    let all = ask(&proxy, "/analysis?all=true").await;
    assert_eq!(all["conclusive"], json!(false));
    assert!(all["why"][0].as_str().unwrap().contains("--service NAME"), "{all:#}");
}

#[tokio::test]
async fn wrong_questions_get_clear_answers() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (1, 0))).await;
    for (target, part) in [
        ("/analysis?window=2h", "window is 2h, which is more than is remembered; expected a time from 1s to 30m"),
        ("/analysis?window=soon", "expected a time from 1s to 30m"),
        ("/analysis?widnow=60s", "did you mean window?"),
        ("/analysis?port=web", "there is no port"),
        ("/report?nmber=1", "did you mean number?"),
        ("/report?number=7", "there is no report 7: this process has seen no rollout yet"),
        ("/report?number=x", "expected the number of a report"),
    ] {
        let answer = proxy.ask_admin(target).await;
        let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(answer.status, 400, "{target}");
        assert!(problem["error"].as_str().unwrap().contains(part), "{target}: {problem}");
        assert!(problem["remedy"].as_str().unwrap().contains("ask like this: /"), "{problem}");
    }
}

#[tokio::test]
async fn seconds_and_changes_are_remembered() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (3, 1))).await;
    let history = proxy.running.history().clone();
    load(&proxy, 40, 1000).await;
    let counted = || {
        let seconds = history.seconds(0);
        let canary = seconds.iter().flat_map(|second| &second.versions).filter(|one| one.version.as_str() == "canary");
        canary.map(|one| (one.requests, one.sent)).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    eventually("a second with all requests", async || counted() == (10, 10)).await;
    proxy.set(two(&stable, &canary, (1, 1))).await;
    let rejected = Rejected { origin: "a file".to_owned(), message: "line 3: no".to_owned() };
    proxy.observe(Err(rejected)).await;
    let texts = || history.changes(0).iter().map(|change| change.fact.text.clone()).collect::<Vec<_>>();
    eventually("the refusal", async || texts().iter().any(|text| text.contains("refused"))).await;
    let texts = texts();
    assert!(texts.iter().any(|text| text == "canary is there, with 1 endpoint, asked 25%"), "{texts:#?}");
    assert!(texts.iter().any(|text| text == "canary is asked 50%, up to now 25%"), "{texts:#?}");
    assert_eq!(texts.last().unwrap(), "refused, the last good state keeps serving: a file: line 3: no");
    let last = history.changes(0).last().unwrap().number;
    assert!(history.changes(last).is_empty());
}

/// Right after a step what was sent is compared with what is asked now, and not with what was asked before.
#[tokio::test]
async fn the_status_says_nothing_of_before_the_last_change_of_weights() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (19, 1))).await;
    load(&proxy, 200, 1000).await;
    let canary_of = async || {
        let status = ask(&proxy, "/status").await;
        status["ports"][0]["versions"][0].clone()
    };
    assert_eq!((&canary_of().await["sent"], &canary_of().await["role"]), (&json!(0.05), &json!("canary")));
    proxy.set(two(&stable, &canary, (1, 1))).await;
    assert_eq!(canary_of().await["sent"], Value::Null);
    load(&proxy, 20, 1000).await;
    let version = canary_of().await;
    assert_eq!((&version["asked"], &version["sent"]), (&json!(0.5), &json!(0.5)), "{version:#}");
}

/// Where users decide, the split has sent nothing, and it is said who has got how much.
#[tokio::test]
async fn the_status_tells_what_users_decided() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let sticky = Sticky { keys: vec![KeySource::ClientAddress], salt: "spring".into(), cookie: None };
    let proxy = Proxy::start(Routing { sticky: Some(sticky), ..two(&stable, &canary, (0, 1)) }).await;
    load(&proxy, 20, 1000).await;
    let status = ask(&proxy, "/status").await;
    let note = "users and routes decided all of the last requests, the split none: canary 100.00 %, stable 0.00 %";
    assert_eq!((&status["notes"], &status["ports"][0]["versions"][0]["sent"]), (&json!([note]), &Value::Null));
}
