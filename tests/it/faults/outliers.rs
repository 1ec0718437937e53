//! Endpoints that fail again and again are left out for a while, and no request is lost meanwhile.

use std::time::Duration;

use splitway::proxy::Drain;
use splitway::route::{Role, Routing};

use super::{failures, of, one_worker};
use crate::support::{App, Client, Proxy, dead, eventually, routing};

const BASE: Duration = Duration::from_millis(300);

fn quick(mut routing: Routing) -> Routing {
    routing.policy.outliers.base_time = BASE;
    routing.policy.outliers.max_time = BASE;
    routing
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_left_out_and_tried_again_by_single_requests() {
    let good = App::start("stable").await;
    let bad = App::start("stable").await;
    let address = bad.address;
    bad.kill().await;
    let proxy = one_worker(quick(routing(&[("stable", Role::Stable, 1, &[good.address, address])]))).await;
    let mut client = proxy.client().await;
    let out = of("splitway_endpoints_ejected", Role::Stable);
    let refused = failures(Role::Stable, "connect_refused");
    eventually("one is out", async || {
        assert_eq!(client.get("/").await.status, 200);
        proxy.metric(&out).await == 1.0
    })
    .await;
    let before = proxy.metric(&refused).await;
    assert!(before >= 5.0);
    assert_eq!(proxy.metric(&of("splitway_endpoint_ejections_total", Role::Stable)).await, 1.0);
    // Trials fail, one request each, and that request is answered by the other one.
    eventually("two trials", async || {
        assert_eq!(client.get("/").await.status, 200);
        proxy.metric(&refused).await >= before + 2.0
    })
    .await;
    assert_eq!(proxy.metric(&out).await, 1.0);
    let again = App::start_at("stable", address).await;
    eventually("it is back", async || {
        assert_eq!(client.get("/").await.status, 200);
        proxy.metric(&of("splitway_endpoint_returns_total", Role::Stable)).await == 1.0
    })
    .await;
    let before = again.received();
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(again.received() > before + 10, "and has its share again");
    eventually("nobody is out", async || proxy.metric(&out).await == 0.0).await;
}

#[tokio::test]
async fn a_version_none_of_whose_endpoints_can_be_reached_falls_back_or_is_refused_as_configured() {
    let stable = App::start("stable").await;
    for other_version in [true, false] {
        let endpoints: Vec<_> = (1..=4).map(dead).collect();
        let mut routing =
            routing(&[("stable", Role::Stable, 0, &[stable.address]), ("canary", Role::Canary, 1, &endpoints)]);
        routing.policy.retry.other_version = other_version;
        let proxy = one_worker(routing).await;
        let mut client = proxy.client().await;
        for _ in 0..40 {
            let answer = client.get("/").await;
            let expected = if other_version { (200, "fallback") } else { (503, "connect_refused") };
            assert_eq!((answer.status, answer.reason()), expected);
        }
        let out = of("splitway_endpoints_ejected", Role::Canary);
        eventually("half of them out", async || proxy.metric(&out).await == 2.0).await;
        let failed = proxy.metric(&failures(Role::Canary, "connect_refused")).await;
        assert!(failed >= 40.0, "every request shows as a failure of the canary: {failed}");
    }
}

#[tokio::test]
async fn a_sick_endpoint_is_left_out_for_its_errors_only_if_that_is_wanted() {
    let (good, sick) = (
        App::start("stable").await,
        crate::support::Scripted::start(|_, _| {
            crate::support::Then::Answer("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_owned())
        })
        .await,
    );
    for errors in [None, Some(3)] {
        let mut routing = routing(&[("stable", Role::Stable, 1, &[good.address, sick.address])]);
        routing.policy.outliers.server_errors = errors;
        let proxy = one_worker(routing).await;
        let mut client = proxy.client().await;
        let mut seen = 0;
        for _ in 0..200 {
            seen += usize::from(client.get("/").await.status == 500);
        }
        match errors {
            None => assert!(seen > 50, "those who judge the version see all of its errors: {seen}"),
            Some(_) => assert_eq!(seen, 3),
        }
    }
}

/// Endpoints die and come back while clients are busy: every request is answered by somebody.
#[tokio::test]
async fn no_request_is_lost_while_endpoints_are_left_out_and_come_back() {
    let mut apps = Vec::new();
    for _ in 0..4 {
        apps.push(Some(App::start("stable").await));
    }
    let addresses: Vec<_> = apps.iter().flatten().map(|app| app.address).collect();
    let routing = quick(routing(&[("stable", Role::Stable, 1, &addresses)]));
    let proxy = Proxy::start_with(routing, |settings| {
        settings.proxy.drain = Drain { delay: Duration::ZERO, timeout: Duration::from_secs(10) };
    })
    .await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (address, stopped) = (proxy.address, stopped.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut answered = 0u64;
                while !*stopped.borrow() {
                    let answer = client.get("/").await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    let out = of("splitway_endpoints_ejected", Role::Stable);
    // So that there is a budget for what is on its way when an endpoint dies.
    apps[0].as_ref().unwrap().reaches(300).await;
    for n in 0..3 {
        apps[n].take().unwrap().kill().await;
        eventually("it is out", async || proxy.metric(&out).await >= 1.0).await;
        apps[n] = Some(App::start_at("stable", addresses[n]).await);
        eventually("all are in", async || proxy.metric(&out).await == 0.0).await;
    }
    stop.send_replace(true);
    let mut answered = 0;
    for client in clients {
        answered += client.await.expect("no request is lost");
    }
    let counted = "splitway_requests_total{version=\"stable\",role=\"stable\",method=\"GET\",code=\"200\",\
                   reason=\"weighted\",route=\"\",failure=\"\"}";
    eventually("all of them counted", async || proxy.metric(counted).await == answered as f64).await;
    let out = proxy.metric(&of("splitway_endpoint_ejections_total", Role::Stable)).await;
    assert!(out >= 3.0);
    assert!(proxy.metric(&of("splitway_endpoint_returns_total", Role::Stable)).await >= 3.0);
}
