//! Two proxies in a row: who is the canary's user at the first one is the canary's user at the second one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use splitway::route::bucket::{KeySource, Sticky};
use splitway::route::matches::{Match, ValueMatch};
use splitway::route::{Action, Role, Route, RouteName, Routing, VersionHash};

use crate::support::{App, Client, Proxy, routing, two};

const USERS: u64 = 10_000;
const CLIENTS: u64 = 8;

fn users() -> Sticky {
    Sticky { keys: vec![KeySource::Header("x-user".parse().unwrap())], salt: "spring".to_owned(), cookie: None }
}

/// Stable and canary, 90 to 10, both reached through the second proxy, as the application of the first one calls it.
fn first(second: SocketAddr) -> Routing {
    let mut routing = routing(&[("stable", Role::Stable, 90, &[second]), ("canary", Role::Canary, 10, &[second])]);
    routing.sticky = Some(users());
    routing.policy.version_header = Some("x-first".parse().unwrap());
    routing
}

/// Sends every user through the first proxy and, each time, one request of the second proxy's own. Returns how many
/// users met the canary at the first one.
async fn everybody(first: &Proxy, second: &Proxy) -> u64 {
    let canaries = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (first, second, canaries) = (first.address, second.address, canaries.clone());
            tokio::spawn(async move {
                let (mut first, mut second) = (Client::connect(first).await, Client::connect(second).await);
                for user in (client..USERS).step_by(CLIENTS as usize) {
                    let answer = first.get_with("/", &[("x-user", &user.to_string())]).await;
                    assert_eq!(answer.header("x-first"), answer.app(), "user {user} met two roles");
                    if answer.app() == "canary" {
                        canaries.fetch_add(1, Ordering::Relaxed);
                    }
                    second.get("/").await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let canaries = canaries.load(Ordering::Relaxed);
    // A tenth of 10,000 hashed users, with a deviation of 30.
    assert!((850..=1150).contains(&canaries), "{canaries} users met the canary");
    canaries
}

#[tokio::test]
async fn baggage_keeps_the_role_and_the_second_proxys_own_requests_stay_exact() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let mut behind = two(&stable, &canary, (90, 10));
    behind.routes = ["canary", "stable"]
        .map(|role| Route {
            name: RouteName::new(role),
            matches: vec![Match {
                baggage: vec![("splitway".to_owned(), ValueMatch::Exact(role.into()))],
                ..Match::default()
            }],
            action: Action::Send(VersionHash::new(role)),
            count: true,
            timeouts: None,
        })
        .into();
    let second = Proxy::start(behind).await;
    let mut front = first(second.address);
    front.policy.tell_upstream = true;
    let first = Proxy::start(front).await;
    let canaries = everybody(&first, &second).await;
    // Whoever came through the first proxy took no number of the second one's split: a tenth of its own is exact.
    assert_eq!(canary.received() - canaries, USERS / 10);
    assert_eq!(stable.received(), 2 * USERS - canary.received());
}

#[tokio::test]
async fn a_shared_salt_keeps_the_role_without_any_header() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let second = Proxy::start(Routing { sticky: Some(users()), ..two(&stable, &canary, (90, 10)) }).await;
    let first = Proxy::start(first(second.address)).await;
    let canaries = everybody(&first, &second).await;
    // Requests without a key follow the second one's exact split.
    assert_eq!(canary.received() - canaries, USERS / 10);
}
