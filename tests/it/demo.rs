//! The demo: what a stranger sees first.

use std::net::{SocketAddr, TcpListener};

use crate::process::{Process, run};
use crate::support::{Client, soon};

const ANYWHERE: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
const STEPS: [&str; 5] = ["5.0", "10.0", "25.0", "50.0", "100.0"];

/// The number after the n-th place of a row, counted from 0.
fn number(row: &str, place: usize) -> f64 {
    let columns: Vec<&str> = row.split_whitespace().filter(|column| *column != "%").collect();
    columns[place].parse().unwrap_or_else(|_| panic!("{place} of {row:?}"))
}

#[test]
fn the_demo_walks_its_steps_once_and_is_exact() {
    let said = run(&[&["demo", "--once", "--step", "500ms", "--rate", "200"], &ANYWHERE[..]].concat());
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{}", said.out);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].starts_with("open    http://127.0.0.1:"), "{}", said.out);
    assert!(lines[1].starts_with("proxy   http://127.0.0.1:"), "{}", said.out);
    assert!(lines[2].starts_with("try     curl -i http://127.0.0.1:"), "{}", said.out);
    let heading = lines.iter().position(|line| line.starts_with("step ")).expect("a heading");
    for name in ["asked", "sent", "error", "stable/s", "canary/s", "p50 ms", "p99 ms", "failed", "lost"] {
        assert!(lines[heading].contains(name), "{}", lines[heading]);
    }
    let rows = &lines[heading + 1..heading + 6];
    for (i, (row, asked)) in rows.iter().zip(STEPS).enumerate() {
        assert!(row.starts_with(&format!(" {}/5 ", i + 1)) && row.contains(&format!(" {asked} %")), "{row}");
        assert!(number(row, 3).abs() < 1.0, "the error is below one request: {row}");
        assert_eq!((number(row, 8), number(row, 9)), (0.0, 0.0), "{row}");
    }
    let summary = &lines[heading + 6..];
    assert!(summary[0].contains(" requests, 0 failed, 0 lost. Canary: asked "), "{summary:?}");
    assert!(summary[1].starts_with("The versions have received "), "{summary:?}");
    assert!(summary[2].starts_with("Next: splitway run "), "{summary:?}");
    assert_eq!(summary.len(), 3);
    assert!(!said.out.contains('\x1b') && !said.out.contains('\r'));
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{}", said.out);
}

#[tokio::test]
async fn a_failing_canary_shows_in_the_table_and_in_the_metrics() {
    let mut demo = Process::start(&[&["demo", "--fail-canary", "--step", "500ms"], &ANYWHERE[..]].concat());
    let mut admin = None;
    loop {
        let line = demo.line().await.expect("the demo goes on");
        if let Some(url) = line.strip_prefix("open    http://") {
            admin = url.trim_end_matches('/').parse::<SocketAddr>().ok();
        }
        if line.starts_with(" 2/5") && number(&line, 8) > 0.0 {
            break;
        }
    }
    let metrics = Client::connect(admin.expect("a URL")).await.get("/metrics").await.text();
    let failed = |version: &str| {
        let samples = metrics.lines().filter(|line| {
            let parts = [format!("version=\"{version}\""), "code=\"500\"".to_owned()];
            line.starts_with("splitway_requests_total{") && parts.iter().all(|part| line.contains(part))
        });
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    assert!(failed("canary") > 0.0 && failed("stable") == 0.0, "{metrics}");

    demo.signal("INT");
    let (code, rest) = demo.exit().await;
    assert_eq!(code, 0, "{rest:?}");
    let summary = rest.iter().find(|line| line.contains(" requests, ")).expect("a summary");
    assert!(summary.contains(" 0 lost") && !summary.contains(" 0 failed"), "{summary}");
}

/// Who asks whom about the rollout that went wrong: all of them say the same.
#[tokio::test]
async fn of_an_aborted_rollout_everybody_tells_the_same() {
    let mut demo = Process::start(&[&["demo", "--fail-canary", "--once", "--step", "3s"], &ANYWHERE[..]].concat());
    let mut admin = None;
    loop {
        let line = demo.line().await.expect("the demo goes on");
        if let Some(url) = line.strip_prefix("open    http://") {
            admin = url.trim_end_matches('/').parse::<SocketAddr>().ok();
        }
        if line.starts_with("aborted at step ") {
            break;
        }
    }
    let mut admin = Client::connect(admin.expect("a URL")).await;
    // The canary's requests that were open at the abort end within moments, and no more come.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let metrics = admin.get("/metrics").await.text();
    let counted = |code: &str| {
        let canary = metrics.lines().filter(|line| line.starts_with("splitway_requests_total{"));
        let canary = canary.filter(|line| line.contains("version=\"canary\"") && line.contains(code));
        canary.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    let in_metrics = (counted(""), counted("code=\"500\""));
    let asked = async |admin: &mut Client, target: &str| {
        serde_json::from_slice::<serde_json::Value>(&admin.get(target).await.body).expect("JSON")
    };
    let of = |versions: &serde_json::Value| {
        let canary = versions.as_array().unwrap().iter().find(|one| one["version"] == "canary").unwrap();
        (canary["requests"].as_u64().unwrap(), canary["errors"].as_u64().unwrap())
    };
    let report = asked(&mut admin, "/report?number=1").await;
    assert_eq!(report[0]["outcome"], "aborted", "{report:#}");
    let analysis = asked(&mut admin, "/analysis?window=rollout").await;
    let (code, rest) = demo.exit().await;
    assert_eq!(code, 0, "{rest:?}");
    // What the load saw failing, and what the application says it has received.
    let number = |line: &str, before: &str| {
        let text = line.split(before).next().unwrap().rsplit([' ', '(']).next().unwrap().to_owned();
        text.parse::<u64>().unwrap_or_else(|_| panic!("{line}"))
    };
    let line = |part: &str| rest.iter().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{rest:?}"));
    let by_clients = (number(line("have received"), " (canary)"), number(line(" lost."), " failed"));
    assert!(by_clients.1 > 0, "{rest:?}");
    assert_eq!([of(&report[0]["versions"]), of(&analysis["versions"]), in_metrics], [by_clients; 3]);
}

/// However rarely it sends and however long its steps are.
#[tokio::test]
async fn either_signal_ends_the_demo_with_its_summary() {
    for signal in ["INT", "TERM"] {
        let mut demo = Process::start(&[&["demo", "--step", "1h", "--rate", "1"], &ANYWHERE[..]].concat());
        while !demo.line().await.expect("the demo goes on").starts_with("step ") {}
        demo.signal(signal);
        let (code, rest) = demo.exit().await;
        assert_eq!(code, 0, "{rest:?}");
        assert!(rest.iter().any(|line| line.contains(" requests, 0 failed, 0 lost.")), "{rest:?}");
        assert!(rest.last().is_some_and(|line| line.starts_with("Next: ")), "{rest:?}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_told_and_another_one_is_taken() {
    let (proxy, admin) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let wished = [proxy.local_addr().unwrap(), admin.local_addr().unwrap()];
    let [listen, admin] = wished.map(|address| address.to_string());
    let mut demo = Process::start(&["demo", "--step", "1h", "--listen", &listen, "--admin", &admin]);
    let mut lines = Vec::new();
    for _ in 0..4 {
        lines.push(demo.line().await.expect("the demo goes on"));
    }
    let address =
        |line: &str| line.split("http://").nth(1).unwrap().trim_end_matches('/').parse::<SocketAddr>().unwrap();
    let bound = [address(&lines[1]), address(&lines[0])];
    assert!(!bound.iter().any(|address| wished.contains(address)), "{lines:?}");
    assert!(lines[2].contains(&format!("not {listen} for the proxy: ")) && lines[2].contains("in use"), "{lines:?}");
    assert!(lines[3].contains(&format!("not {admin} for the admin listener: ")), "{lines:?}");
    let answer = soon("an answer", async { Client::connect(bound[0]).await.get("/").await }).await;
    assert_eq!(answer.text(), format!("hello from the {} version\n", answer.header("splitway-version")));
}
