//! How each endpoint fares is there for whoever asks: `/status` as JSON and as a tree, and the dashboard's stream.

use std::time::Duration;

use serde_json::Value;
use splitway::route::Role;

use super::one_worker;
use crate::support::{App, Proxy, dead, eventually, routing, soon};

/// What `/status` says of an endpoint of the first version, in words; empty: it is not in the list.
async fn state(proxy: &Proxy, address: std::net::SocketAddr) -> String {
    let status: Value = serde_json::from_slice(&proxy.ask_admin("/status").await.body).unwrap();
    let all = status["ports"][0]["versions"][0]["endpoint_states"].as_array().unwrap();
    let Some(one) = all.iter().find(|one| one["address"] == address.to_string()) else { return String::new() };
    format!("{} {}/{} {}", one["state"], one["workers"], one["of"], one["detail"]).replace('"', "")
}

#[tokio::test]
async fn an_endpoint_that_dies_is_seen_as_ejected_by_the_worker_that_noticed_and_then_as_active_again() {
    let (good, bad) = (App::start("stable").await, App::start("stable").await);
    let (kept, address) = (good.address, bad.address);
    let mut routing = routing(&[("stable", Role::Stable, 1, &[kept, address])]);
    routing.policy.outliers.base_time = Duration::from_secs(2);
    routing.policy.outliers.max_time = Duration::from_secs(2);
    // Two workers, and one connection, which belongs to one of them.
    let proxy = Proxy::start(routing).await;
    let mut client = proxy.client().await;
    assert_eq!(state(&proxy, address).await, "active 2/2 ");
    bad.kill().await;
    eventually("it is ejected", async || {
        assert_eq!(client.get("/").await.status, 200);
        let said = state(&proxy, address).await;
        let times = said.strip_prefix("ejected 1/2 connect refused; ");
        assert!(times.is_some() || said.starts_with("active") || said.starts_with("unreachable 1/2"), "{said}");
        times.is_some_and(|rest| rest.starts_with("tried again in ") && rest.ends_with(" s"))
    })
    .await;
    assert_eq!(state(&proxy, kept).await, "active 2/2 ");
    let accept = http::Request::get("/status").header("accept", "text/plain");
    let tree = crate::support::Client::connect(proxy.admin).await.send(accept).await.text();
    let line = tree.lines().find(|line| line.contains(&address.to_string())).unwrap();
    assert!(line.contains("ejected by 1 of 2 workers: connect refused; "), "{tree}");
    // The stream of the dashboard never ends; its first event has everything.
    let mut stream = crate::support::Wire::connect(proxy.admin).await;
    stream.send("GET /events HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let event = stream.until("\n\n").await;
    assert!(event.contains("ejected by 1 of 2 workers: connect refused"), "{event}");

    let again = App::start_at("stable", address).await;
    eventually("it is active again", async || {
        assert_eq!(client.get("/").await.status, 200);
        state(&proxy, address).await == "active 2/2 "
    })
    .await;
    assert!(again.received() > 0);
}

#[tokio::test]
async fn one_alone_is_never_ejected_and_yet_seen_as_unreachable() {
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[dead(1)])])).await;
    let mut client = proxy.client().await;
    for _ in 0..7 {
        assert_eq!(client.get("/").await.status, 503);
    }
    eventually("it is told", async || {
        state(&proxy, dead(1)).await == "unreachable 1/1 connect refused, 7 times in a row"
    })
    .await;
}

#[tokio::test]
async fn one_that_left_is_shown_until_its_last_request_has_finished() {
    let (old, new) = (App::start("stable").await, App::start("stable").await);
    let (left, came) = (old.address, new.address);
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[left])])).await;
    let mut client = proxy.client().await;
    let held = tokio::spawn(async move { client.get("/held").await.status });
    old.reaches(1).await;
    proxy.set(routing(&[("stable", Role::Stable, 1, &[came])])).await;
    eventually("it is leaving", async || state(&proxy, left).await == "leaving 1/1 1 request finishes there").await;
    assert_eq!(state(&proxy, came).await, "active 1/1 ");
    old.release(1);
    assert_eq!(soon("the held answer", held).await.unwrap(), 200);
    eventually("it is gone", async || state(&proxy, left).await.is_empty()).await;
}
