//! Leaving politely.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use splitway::proxy::Drain;
use splitway::route::{Role, Routing};

use crate::support::{App, Client, Proxy, Wire, eventually, routing, soon};

fn before(app: &App) -> Routing {
    routing(&[("stable", Role::Stable, 1, &[app.address])])
}

async fn start(app: &App, delay: Duration, timeout: Duration) -> Proxy {
    Proxy::start_with(before(app), |settings| settings.proxy.drain = Drain { delay, timeout }).await
}

const LONG: Duration = Duration::from_secs(600);

/// 503 from the admin listener: the drain has begun.
async fn is_leaving(admin: std::net::SocketAddr) {
    eventually("readiness to go", async || Client::connect(admin).await.get("/readyz").await.status == 503).await;
}

#[tokio::test]
async fn nothing_is_lost_when_clients_go_where_they_are_sent() {
    let app = App::start("stable").await;
    let leaving = start(&app, Duration::from_secs(1), Duration::from_secs(10)).await;
    let staying = Proxy::start(before(&app)).await;
    let (done, moved) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let clients: Vec<_> = (0..8u64)
        .map(|number| {
            let (first, second) = (leaving.address, staying.address);
            let (done, moved) = (done.clone(), moved.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(first).await;
                let mut after = 0;
                while after < 100 {
                    let id = format!("{number}-{}", done.fetch_add(1, Ordering::Relaxed));
                    let answer = client.send(http::Request::post("/").header("x-id", id)).await;
                    assert_eq!(answer.status, 200);
                    if answer.header("connection") == "close" {
                        // As a client behind a load balancer that has noticed.
                        client = Client::connect(second).await;
                        moved.fetch_add(1, Ordering::Relaxed);
                    }
                    after += u64::from(moved.load(Ordering::Relaxed) == 8);
                }
            })
        })
        .collect();
    app.reaches(500).await;
    let cut = soon("the drain", leaving.running.drain()).await;
    for client in clients {
        client.await.expect("no request is lost");
    }
    assert_eq!(cut, 0);
    assert_eq!(moved.load(Ordering::Relaxed), 8, "everybody was asked to go exactly once");
    assert_eq!(app.received(), done.load(Ordering::Relaxed), "every request arrived exactly once");
}

#[tokio::test]
async fn requests_in_flight_finish_and_idle_connections_close() {
    let app = App::start("stable").await;
    let proxy = start(&app, Duration::ZERO, LONG).await;
    let mut idle = Wire::connect(proxy.address).await;
    idle.send("GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    idle.until("xxx").await;
    let fresh = Wire::connect(proxy.address).await;
    let mut busy = Wire::connect(proxy.address).await;
    busy.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    app.reaches(2).await;

    let Proxy { address, running, .. } = proxy;
    let drain = tokio::spawn(running.drain());
    assert_eq!(idle.end().await, "", "an idle connection closes without a word");
    assert_eq!(fresh.end().await, "", "so does one that has never asked, after a moment");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody new is taken");
    assert!(!drain.is_finished(), "a request is in flight");
    app.release(1);
    let answer = busy.end().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("stable"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(soon("the drain", drain).await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_that_has_arrived_before_the_drain_is_answered() {
    let app = App::start("stable").await;
    for _ in 0..20 {
        let proxy = start(&app, Duration::ZERO, Duration::from_secs(10)).await;
        let mut wire = Wire::connect(proxy.address).await;
        wire.send("GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // On its way, or accepted, or not even that.
        let drain = tokio::spawn(proxy.running.drain());
        let answer = wire.end().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("xxx"), "{answer:?}");
        assert_eq!(soon("the drain", drain).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_request_that_has_half_arrived_before_the_drain_is_answered() {
    let app = App::start("stable").await;
    let proxy = Proxy::start_with(before(&app), |settings| {
        settings.proxy.workers = 1;
        settings.proxy.drain = Drain { delay: Duration::ZERO, timeout: Duration::from_secs(10) };
    })
    .await;
    let (address, admin) = (proxy.address, proxy.admin);
    let mut wire = Wire::connect(address).await;
    wire.send("GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.until("xxx").await;
    wire.send("GET /bytes/3 HTTP/1.1\r\n").await;
    // The one worker has seen those bytes when it has answered what came after them.
    let mut other = Client::connect(address).await;
    for _ in 0..20 {
        other.get("/").await;
    }
    let drain = tokio::spawn(proxy.running.drain());
    is_leaving(admin).await;
    eventually("the other connection closed", async || other.is_closed()).await;
    wire.send("Host: a\r\n\r\n").await;
    let answer = wire.end().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("xxx"), "{answer:?}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(soon("the drain", drain).await.unwrap(), 0);
}

#[tokio::test]
async fn a_stuck_request_is_cut_when_the_time_is_over() {
    let app = App::start("stable").await;
    let proxy = start(&app, Duration::ZERO, Duration::from_millis(300)).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    app.reaches(1).await;
    assert_eq!(soon("the drain", proxy.running.drain()).await, 1);
    assert_eq!(wire.end().await, "", "there is no answer to be had");
}

#[tokio::test]
async fn during_the_delay_requests_are_served_and_readiness_is_gone() {
    let app = App::start("stable").await;
    let proxy = start(&app, LONG, LONG).await;
    let mut old = proxy.client().await;
    let before = old.get("/").await;
    assert_eq!((before.status, before.header("connection")), (200, ""));
    assert_eq!(proxy.ask_admin("/readyz").await.status, 200);

    let Proxy { address, admin, running, .. } = proxy;
    let drain = tokio::spawn(running.drain());
    is_leaving(admin).await;
    let ready = Client::connect(admin).await.get("/readyz").await.text();
    assert!(ready.starts_with("draining"), "{ready}");
    assert_eq!(Client::connect(admin).await.get("/healthz").await.status, 200, "it is alive all the same");
    eventually("answers to ask for a new connection", async || {
        let answer = Client::connect(address).await.get("/").await;
        assert_eq!(answer.status, 200);
        answer.header("connection") == "close"
    })
    .await;
    let answer = old.get("/").await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert!(!drain.is_finished());
    drain.abort();
}

#[tokio::test]
async fn a_second_word_stops_at_once() {
    let app = App::start("stable").await;
    let proxy = start(&app, LONG, LONG).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    app.reaches(1).await;
    let Proxy { admin, running, .. } = proxy;
    let drain = tokio::spawn(running.drain());
    is_leaving(admin).await;
    // What `main` does at the second signal: the drain is dropped where it stands.
    drain.abort();
    assert_eq!(wire.end().await, "");
}
