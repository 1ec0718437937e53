//! At most so many requests at once on one endpoint, and a short queue for more.

use std::time::Duration;

use splitway::route::{Role, Routing};

use super::{failures, of, one_worker};
use crate::support::{App, Client, Proxy, Wire, eventually, routing, soon};

fn limited(app: &App, most: u32, queue: usize) -> Routing {
    let mut routing = routing(&[("stable", Role::Stable, 1, &[app.address])]);
    routing.policy.limits.endpoint_requests = Some(most);
    routing.policy.limits.queue = queue;
    routing.policy.timeouts.queue = Duration::from_secs(60);
    routing
}

/// A request to `/held` on a connection of its own, with this `x-id`.
async fn held(proxy: &Proxy, id: usize) -> Wire {
    let mut wire = Wire::connect(proxy.address).await;
    wire.send(format!("GET /held HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\n\r\n")).await;
    wire
}

async fn queued(proxy: &Proxy, expected: f64) {
    let gauge = of("splitway_requests_queued", Role::Stable);
    eventually(&format!("{expected} in the queue"), async || proxy.metric(&gauge).await == expected).await;
}

#[tokio::test]
async fn more_than_the_limit_wait_in_their_order_and_more_than_the_queue_are_told_when_to_come_again() {
    let app = App::start("stable").await;
    // Two workers, one limit.
    let proxy = Proxy::start(limited(&app, 2, 3)).await;
    let mut first = vec![held(&proxy, 0).await, held(&proxy, 1).await];
    app.reaches(2).await;
    let mut waiting = Vec::new();
    for id in 2..5 {
        waiting.push(held(&proxy, id).await);
        queued(&proxy, (id - 1) as f64).await;
    }
    let answer = proxy.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason(), answer.header("retry-after")), (503, "overflow", "1"));
    assert!(answer.text().starts_with("splitway: overflow: "), "{}", answer.text());
    assert_eq!(proxy.metric(&failures(Role::Stable, "overflow")).await, 1.0);
    assert_eq!(app.received(), 2, "the application has no more than it is to have");
    // One that leaves makes room for one more.
    drop(waiting.remove(1));
    queued(&proxy, 2.0).await;
    waiting.push(held(&proxy, 5).await);
    queued(&proxy, 3.0).await;
    for served in 0..3 {
        app.release(1);
        app.reaches(3 + served).await;
    }
    app.release(2);
    for mut wire in first.drain(..).chain(waiting) {
        assert!(wire.until("stable").await.starts_with("HTTP/1.1 200 "));
    }
    let order: Vec<_> = app.ids();
    assert_eq!(order[2..], ["2", "4", "5"], "first come, first served");
    queued(&proxy, 0.0).await;
}

#[tokio::test]
async fn a_wait_in_the_queue_ends_with_its_bound() {
    let app = App::start("stable").await;
    let mut routing = limited(&app, 1, 10);
    routing.policy.timeouts.queue = Duration::from_millis(100);
    let proxy = one_worker(routing).await;
    let mut busy = held(&proxy, 0).await;
    app.reaches(1).await;
    let answer = proxy.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "overflow"));
    app.release(1);
    busy.until("stable").await;
    assert_eq!(proxy.client().await.get("/").await.status, 200);
}

#[tokio::test]
async fn a_request_that_overflows_is_not_another_versions() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let mut routing =
        routing(&[("stable", Role::Stable, 0, &[stable.address]), ("canary", Role::Canary, 1, &[canary.address])]);
    routing.policy.limits.endpoint_requests = Some(1);
    routing.policy.limits.queue = 0;
    let proxy = one_worker(routing).await;
    let mut busy = held(&proxy, 0).await;
    canary.reaches(1).await;
    assert_eq!(proxy.client().await.get("/").await.reason(), "overflow");
    assert_eq!(stable.received(), 0);
    canary.release(1);
    busy.until("canary").await;
}

#[tokio::test]
async fn a_place_is_free_when_the_answer_has_gone_or_its_client_has() {
    let app = App::start("stable").await;
    let proxy = one_worker(limited(&app, 1, 0)).await;
    let mut client = proxy.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/bytes/100000").await.status, 200);
    }
    for n in 0..10 {
        let before = app.received();
        let wire = held(&proxy, n).await;
        app.reaches(before + 1).await;
        drop(wire);
        let in_flight = of("splitway_requests_in_flight", Role::Stable);
        eventually("it is given up", async || proxy.metric(&in_flight).await == 0.0).await;
    }
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn the_limit_holds_over_all_workers_and_nothing_is_lost_in_the_queue() {
    let app = App::start("stable").await;
    let proxy = Proxy::start_with(limited(&app, 3, 1000), |settings| settings.proxy.workers = 4).await;
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let address = proxy.address;
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for _ in 0..50 {
                    assert_eq!(client.get("/").await.status, 200);
                }
            })
        })
        .collect();
    for client in clients {
        soon("the client", client).await.expect("no request is lost");
    }
    assert_eq!(app.received(), 24 * 50);
    queued(&proxy, 0.0).await;
    // With all places taken, none of the workers has one more.
    let mut busy = Vec::new();
    for id in 0..3 {
        busy.push(held(&proxy, id).await);
        app.reaches(24 * 50 + id as u64 + 1).await;
    }
    let mut waiting = Vec::new();
    for id in 3..19 {
        waiting.push(held(&proxy, id).await);
        queued(&proxy, id as f64 - 2.0).await;
    }
    assert_eq!(app.received(), 24 * 50 + 3);
    app.release(19);
    for mut wire in busy.into_iter().chain(waiting) {
        wire.until("stable").await;
    }
    assert_eq!(app.received(), 24 * 50 + 19);
}
