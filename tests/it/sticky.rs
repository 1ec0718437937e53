//! Users keep their version.

use std::collections::BTreeSet;
use std::time::Duration;

use splitway::route::Routing;
use splitway::route::bucket::{BucketCookie, KeySource, SameSite, Sticky};

use crate::support::{App, Client, Proxy, two};

fn sticky(cookie: Option<BucketCookie>) -> Sticky {
    Sticky {
        keys: vec![KeySource::Header("x-user".parse().unwrap()), KeySource::Cookie("uid".to_owned())],
        salt: "spring".to_owned(),
        cookie,
    }
}

fn bucket_cookie() -> BucketCookie {
    BucketCookie {
        name: "splitway".to_owned(),
        max_age: Some(Duration::from_secs(86_400)),
        path: "/shop".to_owned(),
        same_site: SameSite::Strict,
        secure: true,
        http_only: true,
        secret: Some(b"a secret that only the proxies know".to_vec()),
    }
}

struct Scene {
    stable: App,
    canary: App,
    proxy: Proxy,
    sticky: Sticky,
}

impl Scene {
    async fn with(sticky: Sticky, weights: (u32, u32)) -> Self {
        let (stable, canary) = (App::start("stable").await, App::start("canary").await);
        let routing = Routing { sticky: Some(sticky.clone()), ..two(&stable, &canary, weights) };
        let proxy = Proxy::start(routing).await;
        Self { stable, canary, proxy, sticky }
    }

    async fn set(&self, weights: (u32, u32)) {
        let routing = Routing { sticky: Some(self.sticky.clone()), ..two(&self.stable, &self.canary, weights) };
        self.proxy.set(routing).await;
    }
}

const USERS: usize = 300;

async fn canary_users(client: &mut Client) -> BTreeSet<usize> {
    let mut users = BTreeSet::new();
    for user in 0..USERS {
        if client.get_with("/", &[("x-user", &user.to_string())]).await.app() == "canary" {
            users.insert(user);
        }
    }
    users
}

#[tokio::test]
async fn a_growing_canary_only_gains_users_and_a_shrinking_one_gives_the_same_back() {
    let scene = Scene::with(sticky(None), (90, 10)).await;
    let mut client = scene.proxy.client().await;
    let mut before = BTreeSet::new();
    let mut steps = Vec::new();
    for weight in [10, 25, 50, 100] {
        scene.set((100 - weight, weight)).await;
        let now = canary_users(&mut client).await;
        assert!(now.is_superset(&before), "at {weight} % users went back to stable");
        assert!(now.len() > before.len(), "at {weight} % nobody moved");
        before = now.clone();
        steps.push((weight, now));
    }
    assert_eq!(before.len(), USERS);
    for (weight, users) in steps.into_iter().rev() {
        scene.set((100 - weight, weight)).await;
        assert_eq!(canary_users(&mut client).await, users, "on the way back at {weight} %");
    }
}

#[tokio::test]
async fn a_key_is_the_same_user_in_a_header_and_in_a_cookie() {
    let scene = Scene::with(sticky(None), (1, 1)).await;
    let mut client = scene.proxy.client().await;
    for user in 0..50 {
        let by_header = client.get_with("/", &[("x-user", &user.to_string())]).await;
        let by_cookie = client.get_with("/", &[("cookie", &format!("a=b; uid={user}"))]).await;
        assert_eq!(by_header.app(), by_cookie.app(), "user {user}");
        // The header comes first in the order of preference.
        let other = user + 1000;
        let both = client.get_with("/", &[("x-user", &user.to_string()), ("cookie", &format!("uid={other}"))]).await;
        assert_eq!(both.app(), by_header.app(), "user {user}");
        assert!(!both.headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn requests_without_a_key_follow_the_exact_split() {
    let scene = Scene::with(sticky(None), (9, 1)).await;
    let mut client = scene.proxy.client().await;
    for n in 1..=300u64 {
        let answer = client.get("/").await;
        assert!(!answer.headers.contains_key("set-cookie"));
        // Known users in between take nothing from it.
        client.get_with("/", &[("x-user", "known")]).await;
        let known = if client.get_with("/", &[("x-user", "known")]).await.app() == "canary" { 2 * n } else { 0 };
        let canary = scene.canary.received() - known;
        assert!((canary as f64 - n as f64 * 0.1).abs() < 1.0, "{canary} of {n}");
    }
}

/// `name=value` of the cookie that an answer sets.
fn pair(answer: &crate::support::Answer) -> Option<String> {
    let mut lines = answer.headers.get_all("set-cookie").iter();
    let line = lines.next()?.to_str().unwrap();
    assert!(lines.next().is_none(), "two cookies");
    Some(line.split(';').next().unwrap().to_owned())
}

#[tokio::test]
async fn a_bucket_cookie_is_issued_once_and_honoured_from_then_on() {
    let scene = Scene::with(sticky(Some(bucket_cookie())), (1, 1)).await;
    let mut client = scene.proxy.client().await;
    for _ in 0..30 {
        let first = client.get("/").await;
        let cookie = pair(&first).expect("a cookie for a new user");
        let line = first.header("set-cookie");
        assert!(!line.contains("stable") && !line.contains("canary"), "no version inside: {line}");
        let attributes = line.strip_prefix(&cookie).unwrap();
        assert_eq!(attributes, "; Path=/shop; Max-Age=86400; SameSite=Strict; Secure; HttpOnly");
        for _ in 0..3 {
            let again = client.get_with("/", &[("cookie", &format!("a=b; {cookie}"))]).await;
            assert_eq!(again.app(), first.app());
            assert_eq!(pair(&again), None, "a user who has a bucket gets no other");
        }
    }
}

#[tokio::test]
async fn the_applications_own_cookies_stay() {
    let stable =
        crate::support::scripted("HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n")
            .await;
    let routing = Routing {
        sticky: Some(sticky(Some(bucket_cookie()))),
        ..crate::support::routing(&[("stable", splitway::route::Role::Stable, 1, &[stable])])
    };
    let answer = Proxy::start(routing).await.client().await.get("/").await;
    let lines: Vec<_> = answer.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap()).collect();
    assert_eq!(lines[..2], ["a=1", "b=2"]);
    assert!(lines[2].starts_with("splitway=v1.") && lines.len() == 3, "{lines:?}");
}

#[tokio::test]
async fn a_tampered_cookie_gives_a_new_bucket() {
    let scene = Scene::with(sticky(Some(bucket_cookie())), (1, 1)).await;
    let mut client = scene.proxy.client().await;
    let cookie = pair(&client.get("/").await).unwrap();
    let bucket = cookie.find("v1.").unwrap() + 3;
    let mut forged = cookie.clone().into_bytes();
    forged[bucket] = if forged[bucket] == b'0' { b'1' } else { b'0' };
    let forged = String::from_utf8(forged).unwrap();
    for bad in [forged.as_str(), "splitway=canary", "splitway=", "splitway=v1.00000000.", &cookie[..cookie.len() - 1]] {
        let fresh = pair(&client.get_with("/", &[("cookie", bad)]).await).expect("a new bucket");
        assert!(fresh != bad && fresh != cookie, "{bad}: {fresh}");
        let after = client.get_with("/", &[("cookie", &fresh)]).await;
        assert_eq!(pair(&after), None, "the new one holds");
    }
    assert_eq!(pair(&client.get_with("/", &[("cookie", &cookie)]).await), None, "the true one still holds");
}

#[tokio::test]
async fn new_users_are_spread_evenly_over_the_versions() {
    let scene = Scene::with(sticky(Some(bucket_cookie())), (9, 1)).await;
    let mut client = scene.proxy.client().await;
    for n in 1..=500u32 {
        client.get("/").await;
        let canary = scene.canary.received() as f64;
        // What `docs/sticky.md` promises for every weight.
        let bound = f64::from(n).log2() / 3.0 + 1.0;
        assert!((canary - f64::from(n) * 0.1).abs() <= bound, "{canary} of {n} users");
    }
}
