//! The split, through real sockets.

use splitway::route::Role;

use crate::support::{App, Client, Proxy, Tally, routing, two};

#[tokio::test]
async fn the_canary_gets_exactly_its_share() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (945, 55))).await;
    let mut client = proxy.client().await;
    for n in 1..=2000u64 {
        client.get("/").await;
        let error = canary.received() as f64 - n as f64 * 0.055;
        assert!(error.abs() < 1.0, "after {n} requests the canary has {}", canary.received());
    }
    assert_eq!(stable.received() + canary.received(), 2000);
}

#[tokio::test]
async fn clients_at_once_share_one_exact_split() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (2, 1))).await;
    let tally = std::sync::Arc::new(Tally::default());
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (address, tally) = (proxy.address, tally.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for _ in 0..150 {
                    tally.add(&client.get("/").await);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!((tally.of(&stable), tally.of(&canary)), (2000, 1000));
}

#[tokio::test]
async fn three_versions_stay_within_two_requests_each() {
    let apps = [App::start("stable").await, App::start("canary").await, App::start("experiment").await];
    let weights = [70, 20, 10];
    let proxy = Proxy::start(routing(&[
        ("stable", Role::Stable, weights[0], &[apps[0].address]),
        ("canary", Role::Canary, weights[1], &[apps[1].address]),
        ("experiment", Role::Experiment, weights[2], &[apps[2].address]),
    ]))
    .await;
    let mut client = proxy.client().await;
    for n in 1..=1000u64 {
        client.get("/").await;
        for (app, weight) in apps.iter().zip(weights) {
            let error = app.received() as f64 - n as f64 * f64::from(weight) / 100.0;
            assert!(error.abs() < 2.0, "after {n} requests {} has {}", app.name, app.received());
        }
    }
}

#[tokio::test]
async fn the_share_stays_exact_through_a_thousand_changes() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (99, 1))).await;
    let mut client = proxy.client().await;
    for _ in 0..1000 {
        for _ in 0..10 {
            client.get("/").await;
        }
        // A change that changes nothing, as any edit elsewhere in the file does.
        proxy.set(two(&stable, &canary, (99, 1))).await;
    }
    assert!((99..=101).contains(&canary.received()), "the canary has {} of 10,000", canary.received());
}
