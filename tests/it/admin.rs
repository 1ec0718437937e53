//! What the admin listener shows of a proxy that runs.

use serde_json::Value;
use splitway::control::{Observed, Rejected};
use splitway::route::bucket::{KeySource, Sticky};
use splitway::route::matches::{Match, PathMatch};
use splitway::route::{Action, Role, Route, RouteName, VersionHash};

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::process::run;
use crate::support::{App, Client, Proxy, eventually, routing, two};

async fn json(proxy: &Proxy, target: &str) -> Value {
    let answer = proxy.ask_admin(target).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[tokio::test]
async fn config_shows_what_is_live_and_what_became_of_it() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (945, 55))).await;
    let mut client = proxy.client().await;
    for _ in 0..200 {
        client.get("/").await;
    }
    let config = json(&proxy, "/config").await;
    assert_eq!(config["generation"], 1);
    assert_eq!(config["state"], "ready");
    assert_eq!(config["origin"], "test");
    assert_eq!(config["ports"][0]["split"]["total"], 1000);
    assert_eq!(config["ports"][0]["split"]["requests"], 200);
    let shown = &config["ports"][0]["split"]["versions"];
    for version in shown.as_array().unwrap() {
        let sent = if version["version"] == "canary" { canary.received() } else { stable.received() };
        assert_eq!(version["sent"], sent);
        assert!(version["error_in_requests"].as_f64().unwrap().abs() < 1.0, "{version}");
    }
    let endpoints: Vec<&Value> =
        config["ports"][0]["backends"].as_array().unwrap().iter().map(|backend| &backend["endpoints"][0]).collect();
    assert_eq!(endpoints, [&*stable.address.to_string(), &*canary.address.to_string()]);
    proxy.set(two(&stable, &canary, (1, 1))).await;
    let config = json(&proxy, "/config").await;
    assert_eq!((&config["generation"], &config["ports"][0]["split"]["total"]), (&Value::from(2), &Value::from(2)));
    assert_eq!(config["ports"][0]["split"]["requests"], 200, "the account goes on");
}

#[tokio::test]
async fn a_refused_change_is_shown_and_counted_and_the_old_state_keeps_serving() {
    let stable = App::start("stable").await;
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[stable.address])])).await;
    let rejected = Rejected { origin: "test".to_owned(), message: "line 3: no such field".to_owned() };
    proxy.observe(Err(rejected)).await;
    eventually("the refusal in /config", async || {
        let refused = json(&proxy, "/config").await["refused"].clone();
        refused["message"] == "line 3: no such field"
    })
    .await;
    // What does not fit together is refused as well.
    let mut broken = routing(&[("stable", Role::Stable, 1, &[stable.address])]);
    broken.routes = vec![Route {
        name: RouteName::new("r"),
        matches: vec![Match { path: Some(PathMatch::prefix("/")), ..Match::default() }],
        action: Action::Send(VersionHash::new("nobody")),
        count: true,
        timeouts: None,
    }];
    proxy.observe(Ok(Observed::plain(vec![broken], "test"))).await;
    eventually("both refusals counted", async || proxy.metric("splitway_reloads_total{outcome=\"bad\"}").await == 2.0)
        .await;
    let config = json(&proxy, "/config").await;
    assert_eq!(config["generation"], 1);
    assert!(config["refused"]["message"].as_str().unwrap().contains("nobody"), "{config}");
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    assert_eq!(proxy.ask_admin("/readyz").await.status, 200);
    proxy.set(routing(&[("stable", Role::Stable, 1, &[stable.address])])).await;
    assert_eq!(json(&proxy, "/config").await["refused"], Value::Null);
}

#[tokio::test]
async fn explain_says_what_the_proxy_then_does() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let mut routing = two(&stable, &canary, (3, 1));
    routing.sticky =
        Some(Sticky { keys: vec![KeySource::Header("x-user".parse().unwrap())], salt: "s".to_owned(), cookie: None });
    routing.routes = vec![Route {
        name: RouteName::new("beta"),
        matches: vec![Match { path: Some(PathMatch::prefix("/beta")), ..Match::default() }],
        action: Action::Send(VersionHash::new("canary")),
        count: true,
        timeouts: None,
    }];
    let proxy = Proxy::start(routing).await;
    let mut client = proxy.client().await;
    for user in 0..40 {
        let explained = json(&proxy, &format!("/explain?path=/&header=x-user:{user}")).await;
        let answer = client.get_with("/", &[("x-user", &user.to_string())]).await;
        assert_eq!(explained["version"], answer.app(), "{explained}");
        assert_eq!(explained["reason"], "sticky");
    }
    let explained = json(&proxy, "/explain?path=/beta/1").await;
    assert_eq!((&explained["version"], &explained["reason"]), (&"canary".into(), &"route".into()));
    // The next number of the split, which asking does not take.
    for _ in 0..40 {
        let (first, second) = (json(&proxy, "/explain?path=/").await, json(&proxy, "/explain?path=/").await);
        assert_eq!(first, second);
        assert_eq!(first["version"], client.get("/").await.app());
    }
    let text = Client::connect(proxy.admin).await.get_with("/explain?path=/beta", &[("accept", "text/plain")]).await;
    assert!(text.text().contains("canary"), "{}", text.text());
    assert_eq!(proxy.ask_admin("/explain?paht=/").await.status, 400);
}

#[tokio::test]
async fn the_admin_listener_only_shows() {
    let stable = App::start("stable").await;
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[stable.address])])).await;
    let mut client = Client::connect(proxy.admin).await;
    for path in ["/metrics", "/healthz", "/readyz", "/config", "/explain", "/verify?weight=0", "/"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
        assert_eq!(client.send(http::Request::post(path)).await.status, 405, "{path}");
    }
    assert_eq!(client.get("/nothing").await.status, 404);
    // And the traffic listener shows nothing of it.
    assert_eq!(proxy.client().await.get("/metrics").await.app(), "stable");
}

/// Asks as fast as answers come, on a thread of its own, until it is told to stop.
struct Hammer {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Hammer {
    const CLIENTS: usize = 24;
    const TARGETS: [&str; 6] = ["/metrics", "/config", "/explain", "/verify?weight=0", "/report", "/page.js"];

    fn start(admin: std::net::SocketAddr) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), answers.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let clients = (0..Self::CLIENTS).map(|n| {
                    let (stopped, counted) = (stopped.clone(), counted.clone());
                    tokio::spawn(async move {
                        let mut client = Client::connect(admin).await;
                        for i in n.. {
                            if stopped.load(Ordering::Relaxed) {
                                break;
                            }
                            let answer = client.get(Self::TARGETS[i % Self::TARGETS.len()]).await;
                            assert_eq!(answer.status, 200);
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                });
                for client in clients.collect::<Vec<_>>() {
                    client.await.unwrap();
                }
            });
        });
        Self { stop, answers, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.answers.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn whoever_hammers_the_admin_listener_slows_nothing_down_and_nothing_is_lost() {
    const ROUNDS: u64 = 3;
    const REQUESTS: u64 = 200;
    let stable = App::start("stable").await;
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[stable.address])])).await;
    let mut client = proxy.client().await;
    let mut medians = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        // In turns, so that whatever else the machine does falls on both.
        for (hammered, medians) in [false, true].into_iter().zip(&mut medians) {
            let hammer = hammered.then(|| Hammer::start(proxy.admin));
            let began = Instant::now();
            let mut times = Vec::new();
            for _ in 0..REQUESTS {
                let one = Instant::now();
                assert_eq!(client.get("/").await.status, 200);
                times.push(one.elapsed());
            }
            if let Some(hammer) = hammer {
                // Somebody who is quick would be done before the hammer has begun.
                eventually("the hammer", async || hammer.answers.load(Ordering::Relaxed) > 50).await;
                // The listener is on this thread.
                let answers = tokio::task::spawn_blocking(|| hammer.stop()).await.unwrap();
                // After each answer there is a pause of three times its cost, which is taken for 100 us at least.
                let least = Duration::from_micros(300) * (answers as u32 - 1);
                assert!(began.elapsed() >= least, "{answers} answers in {:?}", began.elapsed());
                // Probes have a lane of their own, and are answered at once meanwhile and afterwards.
                assert_eq!(proxy.ask_admin("/healthz").await.status, 200);
            }
            times.sort();
            medians.push(times[times.len() / 2]);
        }
    }
    let all = (2 * ROUNDS * REQUESTS) as f64;
    assert_eq!(stable.received() as f64, all);
    let text = proxy.ask_admin("/metrics").await.text();
    let found: f64 = text
        .lines()
        .filter(|line| line.starts_with("splitway_requests_total{") && line.contains("code=\"200\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(found, all);
    // The clients that hammer take time as well, on the same cores: what is to be seen here is a worker that waits.
    let [quiet, hammered] = medians.map(|mut medians| {
        medians.sort();
        medians[medians.len() / 2]
    });
    assert!(hammered < 30 * quiet + Duration::from_millis(20), "quiet {quiet:?}, hammered {hammered:?}");
}

#[tokio::test]
async fn commands_that_ask_say_what_is_wrong_with_an_address_or_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let token = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (good, other, short) =
        (token("good", "a-token-that-nobody-guesses\n"), token("other", "another-one-than-that"), token("short", "x"));
    let app = App::start("stable").await;
    let proxy = Proxy::start_with(routing(&[("stable", Role::Stable, 1, &[app.address])]), |settings| {
        settings.admin.as_mut().unwrap().token = Some(splitway::admin::Token::read(Path::new(&good)).unwrap());
    })
    .await;
    let (admin, traffic) = (proxy.admin.to_string(), proxy.address.to_string());
    let explain = |more: &[&str]| {
        let args = [&["explain", "/shop", "--admin"], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
        async move {
            tokio::task::spawn_blocking(move || run(&args.iter().map(String::as_str).collect::<Vec<_>>()))
                .await
                .unwrap()
        }
    };
    let said = explain(&[&admin, "--admin-token-file", &good]).await;
    assert!(said.code == 0 && said.out.starts_with("stable, reason weighted"), "{said:?}");
    for (args, expected) in [
        (&[&*admin][..], "asks for a token: say --admin-token-file FILE"),
        (&[&*admin, "--admin-token-file", &other], "asks for another token than the one in that file"),
        (&[&*admin, "--admin-token-file", &short], "expected a token of at least 16 characters, found 1"),
        (&[&*admin, "--admin-token-file", "/nobody/has/this"], "cannot be read"),
        // The application answers there, through the proxy, and whatever it says is not taken for an answer.
        (&[&*traffic], "it is not an admin listener"),
        (&["127.0.0.1:1"], "is it the admin listener of a proxy that runs?"),
    ] {
        let said = explain(args).await;
        assert!(said.code == 1 && said.err.contains(expected), "{args:?}: {said:?}");
        assert!(!said.err.contains("another-one-than-that"), "{said:?}");
    }
}
