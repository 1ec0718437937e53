//! Several ports of one application, in one process.

use serde_json::{Value, json};
use splitway::control::Observed;
use splitway::route::bucket::{BucketCookie, KeySource, SameSite, Sticky};
use splitway::route::{Generation, Identity, PortName, Routing, VersionHash};
use splitway::{Settings, proxy};

use crate::support::{App, Client, Proxy, eventually, two};

/// Two versions that both serve HTTP and gRPC, each port by a process of its own.
struct Scene {
    http: [App; 2],
    grpc: [App; 2],
    proxy: Proxy,
}

impl Scene {
    async fn start(http: (u32, u32), grpc: (u32, u32), sticky: Option<Sticky>) -> Self {
        let http_apps = [App::start("stable").await, App::start("canary").await];
        let grpc_apps = [App::start("stable").await, App::start("canary").await];
        let routing =
            |[stable, canary]: &[App; 2], weights| Routing { sticky: sticky.clone(), ..two(stable, canary, weights) };
        let ports = [("http", routing(&http_apps, http)), ("grpc", routing(&grpc_apps, grpc))];
        let proxy = Proxy::start_ports(ports).await;
        Self { http: http_apps, grpc: grpc_apps, proxy }
    }

    /// What each port is routed by, without stickiness.
    fn routings(&self, http: (u32, u32), grpc: (u32, u32)) -> Vec<Routing> {
        vec![two(&self.http[0], &self.http[1], http), two(&self.grpc[0], &self.grpc[1], grpc)]
    }

    async fn clients(&self) -> [Client; 2] {
        let [http, grpc] = self.proxy.running.listeners() else { panic!("one listener before each port") };
        [Client::connect(*http).await, Client::connect(*grpc).await]
    }
}

#[tokio::test]
async fn each_port_has_an_exact_split_of_its_own() {
    let scene = Scene::start((9, 1), (945, 55), None).await;
    let [mut http, mut grpc] = scene.clients().await;
    for n in 1..=600u64 {
        // Two requests here for one there: neither port's share may depend on what the other is asked.
        http.get("/").await;
        http.get("/").await;
        grpc.get("/").await;
        for (apps, sent, share) in [(&scene.http, 2 * n, 0.1), (&scene.grpc, n, 0.055)] {
            let error = apps[1].received() as f64 - sent as f64 * share;
            assert!(error.abs() < 1.0, "after {sent} requests the canary has {}", apps[1].received());
            assert_eq!(apps[0].received() + apps[1].received(), sent, "nothing strays to another port");
        }
    }
}

#[tokio::test]
async fn a_change_moves_all_ports_together_and_their_shares_stay_exact() {
    let scene = Scene::start((1, 0), (1, 0), None).await;
    let [mut http, mut grpc] = scene.clients().await;
    let mut asked = 0.0;
    for percent in [5, 25, 50, 75, 100] {
        scene.proxy.set_all(scene.routings((100 - percent, percent), (100 - percent, percent))).await;
        for _ in 0..30 {
            http.get("/").await;
            grpc.get("/").await;
            asked += f64::from(percent) / 100.0;
            for apps in [&scene.http, &scene.grpc] {
                let error = apps[1].received() as f64 - asked;
                assert!(error.abs() < 1.0, "at {percent} %: the canary has {} of {asked}", apps[1].received());
            }
        }
    }
    assert_eq!(scene.proxy.running.live().generation(), Generation(6));
}

#[tokio::test]
async fn a_user_with_a_key_meets_the_same_version_at_every_port() {
    let sticky =
        Sticky { keys: vec![KeySource::Header("x-user".parse().unwrap())], salt: "s".to_owned(), cookie: None };
    let scene = Scene::start((1, 1), (1, 1), Some(sticky)).await;
    let [mut http, mut grpc] = scene.clients().await;
    for user in 0..200 {
        let user = [("x-user", &*user.to_string())];
        assert_eq!(http.get_with("/", &user).await.app(), grpc.get_with("/", &user).await.app(), "{user:?}");
    }
    assert!(scene.http.iter().all(|app| app.received() > 50), "both versions have users");
}

#[tokio::test]
async fn the_cookie_of_one_port_is_good_at_the_other() {
    let cookie = BucketCookie {
        name: "splitway".to_owned(),
        max_age: None,
        path: "/".to_owned(),
        same_site: SameSite::Lax,
        secure: false,
        http_only: true,
        secret: None,
    };
    let sticky = Sticky { keys: Vec::new(), salt: "s".to_owned(), cookie: Some(cookie) };
    let scene = Scene::start((3, 1), (3, 1), Some(sticky)).await;
    let [mut http, mut grpc] = scene.clients().await;
    for user in 0..80 {
        let (first, then) = if user % 2 == 0 { (&mut http, &mut grpc) } else { (&mut grpc, &mut http) };
        let answer = first.get("/").await;
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("splitway="), "{cookie}");
        let again = then.get_with("/", &[("cookie", &cookie)]).await;
        assert_eq!((again.app(), again.header("set-cookie")), (answer.app(), ""), "{cookie}");
    }
    // Of 40 new users at each port, bucket numbers in a row give 10 within 3: users at one port are no sample of the other.
    for apps in [&scene.http, &scene.grpc] {
        assert!(apps[1].received() >= 14 && apps[1].received() <= 26, "the canary has {}", apps[1].received());
    }
}

#[tokio::test]
async fn a_refused_change_of_one_port_changes_nothing_at_the_other() {
    let scene = Scene::start((1, 0), (1, 0), None).await;
    let [mut http, mut grpc] = scene.clients().await;
    let before = [0, 1].map(|port| scene.proxy.running.live().current(port).unwrap());
    let mut half = scene.routings((0, 1), (0, 1));
    half[1].backends[0].version = VersionHash::new("nobody");
    let missing = scene.routings((0, 1), (0, 1))[..1].to_vec();
    for (number, broken, expected) in
        [(1.0, half, "port grpc: split names version stable"), (2.0, missing, "each of 2 ports, found 1")]
    {
        scene.proxy.observe(Ok(Observed::plain(broken, "test"))).await;
        let bad = "splitway_reloads_total{outcome=\"bad\"}";
        eventually("the refusal", async || scene.proxy.metric(bad).await == number).await;
        let config: Value = serde_json::from_str(&scene.proxy.ask_admin("/config").await.text()).unwrap();
        assert!(config["refused"]["message"].as_str().unwrap().contains(expected), "{config}");
        for (port, before) in before.iter().enumerate() {
            let now = scene.proxy.running.live().current(port).unwrap();
            assert!(std::sync::Arc::ptr_eq(before, &now), "port {port}");
        }
        for _ in 0..20 {
            assert_eq!([http.get("/").await.app(), grpc.get("/").await.app()], ["stable", "stable"]);
        }
    }
    scene.proxy.set_all(scene.routings((0, 1), (0, 1))).await;
    assert_eq!([http.get("/").await.app(), grpc.get("/").await.app()], ["canary", "canary"]);
}

#[test]
fn a_listener_before_no_port_and_two_ports_of_one_name_are_refused_before_anything_is_bound() {
    let bind = |names: &[&str], port| {
        let listener = proxy::Listener::plain(([127, 0, 0, 1], 0).into(), port);
        let error = splitway::bind(Settings {
            proxy: proxy::Settings {
                listeners: vec![listener],
                workers: 1,
                reuse_port: false,
                drain: proxy::Drain::default(),
            },
            admin: None,
            identity: Identity::random(),
            ports: names.iter().map(|name| PortName::new(name)).collect(),
            following: None,
            aliases: Vec::new(),
            record: Default::default(),
        });
        error.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(bind(&["http", "grpc"], 1), "");
    assert!(bind(&["http", "grpc"], 2).contains("number 2, counted from 0, and there are 2"));
    assert!(bind(&["http", "grpc", "http"], 0).contains("\"http\" is there twice"));
    assert!(bind(&[], 0).contains("at least one port"));
}

#[tokio::test]
async fn metrics_and_the_admin_listener_tell_the_ports_apart() {
    let scene = Scene::start((1, 0), (0, 1), None).await;
    let [mut http, mut grpc] = scene.clients().await;
    for _ in 0..3 {
        http.get("/").await;
    }
    grpc.get("/").await;
    for (port, version, requests) in [("http", "stable", 3.0), ("grpc", "canary", 1.0)] {
        let labels = format!("port=\"{port}\",version=\"{version}\",role=\"{version}\"");
        let total = format!(
            "splitway_requests_total{{{labels},method=\"GET\",code=\"200\",reason=\"weighted\",route=\"\",failure=\"\"}}"
        );
        eventually("the requests counted", async || scene.proxy.metric(&total).await == requests).await;
        let split = format!("splitway_split_requests_total{{port=\"{port}\",version=\"{version}\"}}");
        assert_eq!(scene.proxy.metric(&split).await, requests);
        assert_eq!(scene.proxy.metric(&format!("splitway_split_total_weight{{port=\"{port}\"}}")).await, 1.0);
        assert_eq!(scene.proxy.metric(&format!("splitway_split_weight{{{labels}}}")).await, 1.0);
        let explained = scene.proxy.ask_admin(&format!("/explain?port={port}")).await.text();
        assert_eq!(serde_json::from_str::<Value>(&explained).unwrap()["version"], version);
    }
    assert_eq!(scene.proxy.ask_admin("/explain").await.status, 400);
    let config: Value = serde_json::from_str(&scene.proxy.ask_admin("/config").await.text()).unwrap();
    let ports: Vec<_> = config["ports"].as_array().unwrap().iter().collect();
    assert_eq!(ports.iter().map(|port| port["port"].clone()).collect::<Vec<_>>(), [json!("http"), json!("grpc")]);
    assert_eq!((&ports[0]["split"]["requests"], &ports[1]["split"]["requests"]), (&json!(3), &json!(1)));
    assert_eq!(ports[1]["backends"][1]["endpoints"], json!([scene.grpc[1].address.to_string()]));
}
