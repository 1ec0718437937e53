//! Routes and overrides, before the split.

use http::Request;
use splitway::route::matches::{Match, PathMatch, ValueMatch, whole};
use splitway::route::{Action, Override, Route, RouteName, Routing, Shares, VersionHash};

use crate::support::{Answer, App, Client, Proxy, eventually, two};

fn exact(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.into())
}

fn header(name: &'static str, value: ValueMatch) -> Match {
    Match { headers: vec![(http::HeaderName::from_static(name), value)], ..Match::default() }
}

fn cookie(name: &str, value: ValueMatch) -> Match {
    Match { cookies: vec![(name.to_owned(), value)], ..Match::default() }
}

fn query(name: &str, value: ValueMatch) -> Match {
    Match { query: vec![(name.to_owned(), value)], ..Match::default() }
}

fn path(path: PathMatch) -> Match {
    Match { path: Some(path), ..Match::default() }
}

fn route(name: &str, matches: Vec<Match>, version: &str) -> Route {
    Route {
        name: RouteName::new(name),
        matches,
        action: Action::Send(VersionHash::new(version)),
        count: true,
        timeouts: None,
    }
}

/// Everything to stable, but for the routes.
struct Scene {
    stable: App,
    canary: App,
    proxy: Proxy,
}

impl Scene {
    async fn with(adjust: impl FnOnce(&mut Routing)) -> Self {
        let (stable, canary) = (App::start("stable").await, App::start("canary").await);
        let mut routing = two(&stable, &canary, (1, 0));
        adjust(&mut routing);
        let proxy = Proxy::start(routing).await;
        Self { stable, canary, proxy }
    }

    async fn matching(one: Match) -> (Self, Client) {
        let scene = Self::with(|routing| routing.routes = vec![route("r", vec![one], "canary")]).await;
        let client = scene.proxy.client().await;
        (scene, client)
    }
}

/// Method, target, headers, and the version that is to answer.
type Expected<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

async fn check(one: Match, requests: &[Expected<'_>]) {
    let (_scene, mut client) = Scene::matching(one.clone()).await;
    for (method, target, headers, version) in requests {
        let request = headers.iter().fold(Request::builder().method(*method).uri(*target), |request, (name, value)| {
            request.header(*name, *value)
        });
        let answer = client.send(request).await;
        assert_eq!(answer.app(), *version, "{method} {target} {headers:?} with {one:?}");
    }
}

#[tokio::test]
async fn a_header_decides_with_every_kind_of_condition() {
    check(
        header("x-user", exact("42")),
        &[
            ("GET", "/", &[("x-user", "42")], "canary"),
            ("GET", "/", &[("X-USER", "42")], "canary"),
            ("GET", "/", &[("x-user", "1"), ("x-user", "42")], "canary"),
            ("GET", "/", &[("x-user", "421")], "stable"),
            ("GET", "/", &[], "stable"),
        ],
    )
    .await;
    check(
        header("x-user", ValueMatch::Regex(whole("[0-9]+|qa").unwrap())),
        &[
            ("GET", "/", &[("x-user", "7")], "canary"),
            ("GET", "/", &[("x-user", "qa")], "canary"),
            ("GET", "/", &[("x-user", "7a")], "stable"),
        ],
    )
    .await;
    check(
        header("x-user", ValueMatch::Absent),
        &[("GET", "/", &[], "canary"), ("GET", "/", &[("x-user", "")], "stable")],
    )
    .await;
    check(
        header("x-user", ValueMatch::Suffix("-qa".into())),
        &[("GET", "/", &[("x-user", "anna-qa")], "canary"), ("GET", "/", &[("x-user", "qa-anna")], "stable")],
    )
    .await;
}

#[tokio::test]
async fn cookies_query_parameters_and_baggage_decide_by_their_whole_name() {
    check(
        cookie("team", ValueMatch::Prefix("qa-".into())),
        &[
            ("GET", "/", &[("cookie", "a=b; team=qa-1")], "canary"),
            ("GET", "/", &[("cookie", "xteam=qa-1")], "stable"),
            ("GET", "/", &[("cookie", "team=dev")], "stable"),
        ],
    )
    .await;
    check(
        query("v", exact("2")),
        &[
            ("GET", "/?a=1&v=2", &[], "canary"),
            ("GET", "/?vv=2", &[], "stable"),
            ("GET", "/?v=22", &[], "stable"),
            ("GET", "/v=2", &[], "stable"),
        ],
    )
    .await;
    check(
        Match { baggage: vec![("team".to_owned(), exact("qa"))], ..Match::default() },
        &[
            ("GET", "/", &[("baggage", "a=b, team=qa;p=1")], "canary"),
            ("GET", "/", &[("baggage", "a=team, b=qa")], "stable"),
        ],
    )
    .await;
}

#[tokio::test]
async fn methods_and_paths_decide() {
    check(
        Match { methods: vec!["POST".to_owned(), "PURGE".to_owned()], ..Match::default() },
        &[("POST", "/", &[], "canary"), ("PURGE", "/", &[], "canary"), ("GET", "/", &[], "stable")],
    )
    .await;
    check(
        path(PathMatch::prefix("/shop")),
        &[
            ("GET", "/shop", &[], "canary"),
            ("GET", "/shop/a?b", &[], "canary"),
            ("GET", "/shopping", &[], "stable"),
            ("GET", "/a?/shop", &[], "stable"),
        ],
    )
    .await;
    check(
        path(PathMatch::Exact("/a".to_owned())),
        &[("GET", "/a?x", &[], "canary"), ("GET", "/a/", &[], "stable"), ("GET", "/%61", &[], "stable")],
    )
    .await;
}

#[tokio::test]
async fn all_conditions_of_a_match_must_hold_and_one_match_is_enough() {
    let both = Match { path: Some(PathMatch::prefix("/shop")), ..cookie("team", exact("qa")) };
    let scene = Scene::with(|routing| {
        routing.routes = vec![route("r", vec![both, header("x-user", exact("42"))], "canary")];
    })
    .await;
    let mut client = scene.proxy.client().await;
    assert_eq!(client.get_with("/shop", &[("cookie", "team=qa")]).await.app(), "canary");
    assert_eq!(client.get_with("/", &[("cookie", "team=qa")]).await.app(), "stable");
    assert_eq!(client.get("/shop").await.app(), "stable");
    assert_eq!(client.get_with("/", &[("x-user", "42")]).await.app(), "canary");
}

#[tokio::test]
async fn the_first_route_that_matches_decides() {
    let scene = Scene::with(|routing| {
        routing.routes = vec![
            route("narrow", vec![path(PathMatch::prefix("/shop/old"))], "stable"),
            route("wide", vec![path(PathMatch::prefix("/shop"))], "canary"),
        ];
    })
    .await;
    let mut client = scene.proxy.client().await;
    assert_eq!(client.get("/shop/old/1").await.app(), "stable");
    assert_eq!(client.get("/shop/new").await.app(), "canary");
    assert_eq!(client.get("/").await.app(), "stable");
    let by_route = |name: &str, version: &str| {
        format!(
            "splitway_requests_total{{version=\"{version}\",role=\"{version}\",method=\"GET\",code=\"200\",\
             reason=\"route\",route=\"{name}\",failure=\"\"}}"
        )
    };
    eventually("both routes in the metrics", async || {
        scene.proxy.metric(&by_route("narrow", "stable")).await == 1.0
            && scene.proxy.metric(&by_route("wide", "canary")).await == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_routes_own_split_is_exact_and_takes_nothing_from_the_main_one() {
    let scene = Scene::with(|routing| {
        let version = VersionHash::new;
        routing.split = Shares::new(vec![(version("stable"), 9), (version("canary"), 1)]).unwrap();
        routing.routes = vec![Route {
            action: Action::Split(Shares::new(vec![(version("stable"), 1), (version("canary"), 3)]).unwrap()),
            ..route("half", vec![path(PathMatch::prefix("/beta"))], "canary")
        }];
    })
    .await;
    let mut client = scene.proxy.client().await;
    let (mut beta, mut main) = (0, 0);
    for n in 1..=400u64 {
        beta += u64::from(client.get("/beta").await.app() == "canary");
        main += u64::from(client.get("/").await.app() == "canary");
        assert!((beta as f64 - n as f64 * 0.75).abs() < 1.0, "{beta} of {n} in the route");
        assert!((main as f64 - n as f64 * 0.1).abs() < 1.0, "{main} of {n} in the split");
    }
}

#[tokio::test]
async fn uncounted_requests_are_in_no_share_and_no_error_rate() {
    let scene = Scene::with(|routing| {
        let agent = header("user-agent", ValueMatch::Prefix("kube-probe/".into()));
        routing.routes = vec![Route { count: false, ..route("probes", vec![agent], "stable") }];
    })
    .await;
    let mut client = scene.proxy.client().await;
    for _ in 0..5 {
        let answer = client.get_with("/status/500", &[("user-agent", "kube-probe/1.30")]).await;
        assert_eq!((answer.status, answer.app()), (500, "stable"));
    }
    client.get("/").await;
    let stable = "{version=\"stable\",role=\"stable\"}";
    eventually("all requests in the metrics", async || {
        scene.proxy.metric(&format!("splitway_uncounted_requests_total{stable}")).await == 5.0
            && scene.proxy.metric(&format!("splitway_request_duration_seconds_count{stable}")).await == 1.0
    })
    .await;
    let text = scene.proxy.ask_admin("/metrics").await.text();
    let failed = text.lines().find(|line| line.starts_with("splitway_requests_total") && line.contains("code=\"500\""));
    assert!(failed.unwrap().ends_with(" 0"), "{failed:?}");
    assert_eq!(scene.proxy.metric("splitway_split_requests_total{version=\"stable\"}").await, 1.0);
    assert_eq!(scene.stable.received(), 6);
}

#[tokio::test]
async fn a_testers_override_comes_before_every_route() {
    let scene = Scene::with(|routing| {
        routing.override_ =
            Some(Override { header: http::HeaderName::from_static("x-canary"), cookie: "canary".to_owned() });
        routing.routes = vec![route("r", vec![path(PathMatch::prefix("/canary"))], "canary")];
    })
    .await;
    let mut client = scene.proxy.client().await;
    let mut ask = async |target: &str, headers: &[(&str, &str)]| -> Answer { client.get_with(target, headers).await };
    assert_eq!(ask("/", &[("x-canary", "always")]).await.app(), "canary");
    assert_eq!(ask("/canary", &[("x-canary", "never")]).await.app(), "stable");
    assert_eq!(ask("/", &[("cookie", "canary=always")]).await.app(), "canary");
    assert_eq!(ask("/canary", &[("cookie", "canary=never")]).await.app(), "stable");
    assert_eq!(ask("/", &[("x-canary", "never"), ("cookie", "canary=always")]).await.app(), "stable");
    assert_eq!(ask("/", &[("x-canary", "perhaps")]).await.app(), "stable");
    assert_eq!(ask("/canary", &[("x-canary", "perhaps")]).await.app(), "canary");
    assert_eq!(scene.canary.received(), 3);
}

#[tokio::test]
async fn an_override_that_is_not_switched_on_does_nothing() {
    let scene = Scene::with(|_| {}).await;
    let mut client = scene.proxy.client().await;
    let answer = client.get_with("/", &[("x-canary", "always"), ("cookie", "canary=always")]).await;
    assert_eq!(answer.app(), "stable");
}
