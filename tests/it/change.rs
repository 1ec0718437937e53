//! Changes under load.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::Request;
use splitway::route::{Role, Routing};

use crate::support::{App, Client, Proxy, routing};

const CHANGES: u32 = 500;
const CLIENTS: u64 = 8;

/// Two endpoints of each version, of which some changes take one away.
fn at(change: u32, apps: &[App; 4]) -> Routing {
    let [s1, s2, c1, c2] = apps.each_ref().map(|app| app.address);
    let weight = change * 7 % 101;
    let stable = [vec![s1], vec![s1, s2], vec![s2]][change as usize % 3].clone();
    let canary = [vec![c1], vec![c2, c1]][change as usize / 3 % 2].clone();
    routing(&[("stable", Role::Stable, 100 - weight, &stable), ("canary", Role::Canary, weight, &canary)])
}

#[tokio::test]
async fn five_hundred_changes_under_load_lose_nothing_and_repeat_nothing() {
    let apps = [
        App::start("stable").await,
        App::start("stable").await,
        App::start("canary").await,
        App::start("canary").await,
    ];
    let proxy = Proxy::start(at(0, &apps)).await;
    let (sent, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (address, sent, over) = (proxy.address, sent.clone(), over.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                while !over.load(Ordering::Relaxed) {
                    let id = sent.fetch_add(1, Ordering::Relaxed);
                    let request = if number % 2 == 0 { Request::get("/") } else { Request::post("/echo") };
                    let body = if number % 2 == 0 { String::new() } else { format!("body of {id}") };
                    let answer = client.send_body(request.header("x-id", id.to_string()), body.clone()).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert!(number % 2 == 0 || answer.text().ends_with(&format!("\n\n{body}")), "{}", answer.text());
                }
            })
        })
        .collect();
    for change in 1..=CHANGES {
        proxy.set(at(change, &apps)).await;
        // Some traffic between any two changes.
        let next = sent.load(Ordering::Relaxed) + 10;
        crate::support::soon("traffic", async {
            while sent.load(Ordering::Relaxed) < next {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request is lost");
    }
    let sent = sent.load(Ordering::Relaxed);
    let ids: Vec<String> = apps.iter().flat_map(App::ids).collect();
    let different: HashSet<&String> = ids.iter().collect();
    assert_eq!(ids.len() as u64, sent, "each request arrived exactly once");
    assert_eq!(different.len() as u64, sent);
    assert!(sent >= u64::from(CHANGES) * 10);
    assert!(apps.iter().all(|app| app.received() > 0), "every endpoint had its turn");
    assert_eq!(proxy.metric("splitway_snapshot_generation").await, f64::from(CHANGES + 1));
    assert_eq!(proxy.metric("splitway_reloads_total{outcome=\"good\"}").await, f64::from(CHANGES + 1));
    for failed in ["splitway_upstream_failures_total", "splitway_retries_total"] {
        let text = proxy.ask_admin("/metrics").await.text();
        for line in text.lines().filter(|line| line.starts_with(failed)) {
            assert!(line.ends_with(" 0"), "{line}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_leaves_finishes_what_it_has() {
    let (old, new) = (App::start("stable").await, App::start("stable").await);
    let with = |app: &App| routing(&[("stable", Role::Stable, 1, &[app.address])]);
    let proxy = Proxy::start(with(&old)).await;
    let address = proxy.address;
    let held = tokio::spawn(async move { Client::connect(address).await.get("/held").await });
    old.reaches(1).await;
    proxy.set(with(&new)).await;
    let mut client = proxy.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!((old.received(), new.received()), (1, 10));
    old.release(1);
    assert_eq!(held.await.unwrap().text(), "stable");
}

#[tokio::test]
async fn a_version_that_is_removed_finishes_what_it_has() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(crate::support::two(&stable, &canary, (0, 1))).await;
    let address = proxy.address;
    let held = tokio::spawn(async move { Client::connect(address).await.get("/held").await });
    canary.reaches(1).await;
    proxy.set(routing(&[("stable", Role::Stable, 1, &[stable.address])])).await;
    assert_eq!(proxy.client().await.get("/").await.app(), "stable");
    canary.release(1);
    assert_eq!(held.await.unwrap().app(), "canary");
}
