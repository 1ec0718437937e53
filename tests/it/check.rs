//! `splitway check`: every cause is brought about, and its line fails, and no line before it.

use serde_json::{Value, json};

use crate::follow::server::ApiServer;
use crate::follow::{ROLLOUT, World, canary_is, rollout, service};
use crate::process::{Said, Serving, said, splitway};
use crate::support::{Client, Scripted, Then};

/// What is broken, and where the answers come from.
struct Case {
    world: World,
    /// The one that the proxy follows, so that it can be another than the one that is checked.
    of_proxy: World,
    proxy: Serving,
    /// What is asked with `--admin`.
    admin: String,
    port: &'static str,
}

impl Case {
    /// All is well.
    async fn new() -> Self {
        let (world, of_proxy) = (World::new().await, World::new().await);
        let proxy = of_proxy.proxy(&[]).await;
        proxy.until("the first weight", canary_is(20)).await;
        scrape(&proxy).await;
        let admin = proxy.admin.to_string();
        Self { world, of_proxy, proxy, admin, port: "http" }
    }

    async fn check(&self, output: &str) -> Said {
        let args = ["--admin", &self.admin, "--port", self.port, "--output", output];
        check(&self.world, &args).await
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut changed = rollout(1);
        change(&mut changed);
        self.world.api.put("rollouts", changed);
    }

    /// What the proxy's `/config` says goes through `change`, and so does what its `/metrics` says.
    async fn lie(&mut self, config: impl Fn(&mut Value), metrics: impl Fn(&str) -> String) {
        let mut admin = Client::connect(self.proxy.admin).await;
        let mut seen = self.proxy.config().await;
        config(&mut seen);
        let (config, metrics) = (seen.to_string(), metrics(&admin.get("/metrics").await.text()));
        let answer = |body: &str| {
            Then::AnswerAndClose(format!(
                "HTTP/1.1 200 OK\r\nserver: splitway/0\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ))
        };
        let liar = Scripted::start(move |_, request| match request.starts_with("GET /config ") {
            true => answer(&config),
            false => answer(&metrics),
        });
        self.admin = liar.await.address.to_string();
    }
}

/// The API server is a task of ours, and must not wait for the command that asks it.
async fn check(world: &World, args: &[&str]) -> Said {
    let kubeconfig = world.folder.write("kubeconfig", &world.api.kubeconfig());
    let all = ["check", "--rollout", ROLLOUT, "--kubeconfig", kubeconfig.to_str().unwrap()];
    let mut command = splitway(&[&all[..], args].concat());
    tokio::task::spawn_blocking(move || said(&mut command)).await.unwrap()
}

async fn scrape(proxy: &Serving) {
    let mut prometheus = Client::connect(proxy.admin).await;
    let answer = prometheus.get_with("/metrics", &[("user-agent", "Prometheus/3.1.0")]).await;
    assert_eq!(answer.status, 200);
}

const OF_A_PROXY: [&str; 7] = [
    "proxy.reachable",
    "proxy.follows",
    "proxy.heard",
    "proxy.generation",
    "proxy.weight",
    "metrics.served",
    "metrics.scraped",
];

/// Brings about what a check is for. The checks that fail with it, because it has more than one effect.
async fn break_it(id: &str, case: &mut Case) -> &'static [&'static str] {
    let api = &case.world.api;
    match id {
        "api.reachable" => case.world.api.crash().await,
        "api.credentials" => api.refuse("rollouts", 401),
        "rbac.rollouts.list" => api.refuse_verb("list", "rollouts", 403),
        "rollout.served" => api.refuse("rollouts", 404),
        "rollout.exists" => api.delete("rollouts", "shop"),
        "rollout.readable" => case.change(|rollout| rollout["spec"]["strategy"]["canary"]["steps"] = json!("many")),
        "rollout.spec" => case.change(|rollout| {
            rollout["status"]["conditions"] =
                json!([{"type": "InvalidSpec", "status": "True", "message": "spec.replicas: too many"}]);
        }),
        "rollout.strategy" => case.change(|rollout| {
            let written = json!({"spec": {"strategy": {"canary": {"trafficRouting": {"nginxx": {}}}}}});
            rollout["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
                json!(written.to_string());
        }),
        "services.named" => case.change(|rollout| {
            let canary = &mut rollout["spec"]["strategy"]["canary"];
            canary["trafficRouting"] = json!({"nginx": {"stableIngress": "shop"}});
            canary.as_object_mut().unwrap().remove("canaryService");
        }),
        "services.exist" => api.delete("services", "shop-canary"),
        "services.select" => {
            let mut other = service("shop-canary", "v2");
            other["spec"]["selector"]["app"] = json!("shoe");
            api.put("services", other);
            case.change(|rollout| rollout["spec"]["template"]["metadata"]["labels"] = json!({"app": "shop"}));
        }
        // Without the port there is no endpoint at which a weight could be served.
        "port.found" => {
            case.port = "grpc";
            return &["proxy.weight"];
        }
        "pods.stable" => {
            api.delete("pods", "shop-v1-aaaaa");
            return &["proxy.weight"];
        }
        "pods.canary" => {
            api.delete("pods", "shop-v2-bbbbb");
            return &["proxy.weight"];
        }
        "annotation.routes" => case.change(|rollout| {
            rollout["metadata"]["annotations"]["splitway.dev/routes"] = json!("rutes: []");
        }),
        "proxy.reachable" => {
            case.admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        }
        "proxy.follows" => {
            let stable = case.world.stable.address.to_string();
            case.proxy = Serving::start(&["--stable", &stable]).await;
            case.admin = case.proxy.admin.to_string();
            scrape(&case.proxy).await;
        }
        "proxy.heard" => {
            case.of_proxy.api.crash().await;
            case.proxy.until("the loss", |config| config["rollout"]["api"] == "lost").await;
        }
        "proxy.generation" => case.change(|rollout| {
            rollout["metadata"]["generation"] = json!(3);
            rollout["status"]["observedGeneration"] = json!("3");
        }),
        "proxy.weight" => case.world.step(3),
        "metrics.served" => {
            case.lie(|_| {}, |metrics| metrics.replace("splitway_requests_total", "splitway_demands_total")).await;
        }
        "metrics.scraped" => {
            case.lie(|config| config["last_scraped_at"] = json!("2020-01-01T00:00:00Z"), str::to_owned).await;
        }
        permission => {
            let (resource, verb) = permission.strip_prefix("rbac.").unwrap().split_once('.').unwrap();
            let verb = ["get", "list", "watch"].into_iter().find(|known| *known == verb).unwrap();
            // What is forbidden may be no more than a warning; what is broken is not.
            api.refuse_verb(verb, resource, if resource == "rollouts" && verb != "get" { 403 } else { 500 });
        }
    }
    &[]
}

fn checks(said: &Said) -> Vec<Value> {
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!(report["rollout"], ROLLOUT);
    assert_eq!(report["ok"], said.code == 0, "{report:#}");
    report["checks"].as_array().unwrap().clone()
}

fn ids(checks: &[Value], outcome: &str) -> Vec<String> {
    let wanted = checks.iter().filter(|check| check["outcome"] == outcome);
    wanted.map(|check| check["id"].as_str().unwrap().to_owned()).collect()
}

fn find<'a>(checks: &'a [Value], id: &str) -> &'a Value {
    checks.iter().find(|check| check["id"] == id).unwrap()
}

fn only_reads(api: &ApiServer) {
    let asked = api.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| asked.starts_with("GET ")), "{asked:#?}");
}

#[tokio::test]
async fn where_all_is_well_every_line_is_ok() {
    let case = Case::new().await;
    let said = case.check("json").await;
    assert_eq!(said.code, 0, "{said:?}");
    let checks = checks(&said);
    assert_eq!(ids(&checks, "ok").len(), checks.len(), "{}", said.out);
    only_reads(&case.world.api);
    let scraped = find(&checks, "metrics.scraped")["message"].as_str().unwrap();
    assert!(scraped.contains("by Prometheus/3.1.0"), "{scraped}");
    // Our own reading is no scrape.
    assert_eq!(case.proxy.config().await["last_scraped_by"], "Prometheus/3.1.0");
    let text = case.check("text").await;
    assert_eq!(text.code, 0);
    assert!(text.out.ends_with(&format!("{} ok\n", checks.len())), "{}", text.out);
    assert!(text.err.starts_with("Next: "), "{}", text.err);
}

/// The first failure is the cause, with nothing before it that is not ok, and has a remedy and a section in the docs.
#[tokio::test]
async fn every_cause_is_found_by_its_own_line_and_by_no_line_before_it() {
    let all: Vec<String> = {
        let docs = std::fs::read_to_string("docs/check.md").unwrap();
        docs.lines().filter_map(|line| line.strip_prefix("### ").map(str::to_owned)).collect()
    };
    assert!(all.len() > 30);
    // A few at a time: each has programs of its own.
    for some in all.chunks(6) {
        let mut cases = tokio::task::JoinSet::new();
        for id in some {
            cases.spawn(is_found(id.clone(), all.clone()));
        }
        while let Some(found) = cases.join_next().await {
            found.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        }
    }
}

/// The line fails, with nothing before it that is not ok, and nothing after it but what the same cause has broken.
async fn is_found(id: String, all: Vec<String>) {
    let mut case = Case::new().await;
    let also = break_it(&id, &mut case).await;
    let said = case.check("json").await;
    assert_eq!(said.code, 1, "{id}: {said:?}");
    let checks = checks(&said);
    assert_eq!(checks.iter().map(|check| check["id"].as_str().unwrap()).collect::<Vec<_>>(), all);
    let failed = ids(&checks, "FAIL");
    assert_eq!(failed.first(), Some(&id), "{}", said.out);
    let extra: Vec<_> = failed[1..].iter().filter(|failed| !also.contains(&failed.as_str())).collect();
    assert!(extra.is_empty(), "{id}: {extra:?} as well: {}", said.out);
    let before = checks.iter().take_while(|check| check["id"] != id);
    assert!(before.clone().all(|check| check["outcome"] == "ok"), "{id}: {}", said.out);
    for check in checks.iter().filter(|check| check["outcome"] == "FAIL") {
        assert!(check["remedy"].as_str().is_some_and(|remedy| remedy.len() > 20), "{check}");
        assert_eq!(check["docs"], format!("docs/check.md#{}", check["id"].as_str().unwrap().replace('.', "")));
    }
    only_reads_if_any(&case.world.api);

    // The text says the same, a line for each check.
    let text = case.check("text").await;
    assert_eq!(text.code, 1);
    let lines: Vec<&str> = text.out.lines().collect();
    let line_of =
        |check: &Value| format!("  {:<4}  {}: ", check["outcome"].as_str().unwrap(), check["id"].as_str().unwrap());
    let places: Vec<usize> = checks
        .iter()
        .map(|check| {
            lines
                .iter()
                .position(|line| line.starts_with(&line_of(check)))
                .unwrap_or_else(|| panic!("{}", line_of(check)))
        })
        .collect();
    assert!(places.is_sorted(), "{}", text.out);
    let flat = text.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for check in checks.iter().filter(|check| check["outcome"] == "FAIL") {
        assert!(flat.contains(&format!("remedy: {} see ", check["remedy"].as_str().unwrap())), "{}", text.out);
    }
    assert!(text.err.starts_with("Next: mend what failed"), "{}", text.err);
}

/// A server that is gone is asked nothing.
fn only_reads_if_any(api: &ApiServer) {
    assert!(api.asked().iter().all(|asked| asked.starts_with("GET ")));
}

#[tokio::test]
async fn without_admin_a_proxy_is_not_asked_and_the_lines_say_how() {
    let world = World::new().await;
    let said = check(&world, &["-o", "json", "--port", "http"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let checks = checks(&said);
    assert_eq!(ids(&checks, "skip"), OF_A_PROXY);
    assert!(find(&checks, "proxy.weight")["message"].as_str().unwrap().contains("--admin"));
    assert!(said.err.contains("--admin ADDRESS"), "{}", said.err);
}

#[tokio::test]
async fn what_can_be_done_without_is_a_warning_and_no_failure() {
    let world = World::new().await;
    let look = async || {
        let said = check(&world, &["-o", "json", "--port", "web"]).await;
        (said.code, checks(&said))
    };
    world.api.refuse_verb("get", "services", 403);
    world.api.refuse("pods", 403);
    let (code, found) = look().await;
    assert_eq!(code, 0, "{found:#?}");
    assert_eq!(ids(&found, "warn"), ["rbac.services.get", "rbac.pods.get", "rbac.pods.list", "rbac.pods.watch"]);
    assert!(find(&found, "pods.stable")["message"].as_str().unwrap().contains("1 ready of 1 pods"));
    // Without pods, slices cannot be done without.
    world.api.refuse("endpointslices", 403);
    let (code, found) = look().await;
    assert_eq!(code, 1);
    let failed = ["rbac.endpointslices.list", "rbac.endpointslices.watch", "rbac.pods.list", "rbac.pods.watch"];
    assert_eq!(ids(&found, "FAIL"), failed, "{found:#?}");
    assert_eq!(find(&found, "pods.stable")["outcome"], "skip");
    // With pods they can.
    world.api.allow("pods");
    let (code, found) = look().await;
    assert_eq!(code, 0, "{found:#?}");
    let slices = ["rbac.endpointslices.get", "rbac.endpointslices.list", "rbac.endpointslices.watch"];
    assert_eq!(ids(&found, "warn"), [&["rbac.services.get"][..], &slices].concat());
}

#[tokio::test]
async fn a_rollout_at_rest_scaled_to_nothing_or_aborted_is_no_failure() {
    let world = World::new().await;
    let look = async |change: fn(&mut Value)| {
        let mut changed = rollout(1);
        change(&mut changed);
        world.api.put("rollouts", changed);
        let said = check(&world, &["-o", "json", "--port", "http"]).await;
        assert_eq!(said.code, 0, "{said:?}");
        checks(&said)
    };
    let found = look(|rollout| rollout["status"]["currentPodHash"] = json!("v1")).await;
    assert_eq!(find(&found, "pods.canary")["message"], "no update is in progress");
    world.api.delete("pods", "shop-v2-bbbbb");
    let found = look(|rollout| rollout["status"]["abort"] = json!(true)).await;
    assert_eq!(find(&found, "pods.canary")["outcome"], "ok");
    let found = look(|rollout| rollout["status"]["observedGeneration"] = json!("1")).await;
    assert_eq!(find(&found, "rollout.spec")["outcome"], "warn");
    world.api.delete("pods", "shop-v1-aaaaa");
    let found = look(|rollout| {
        rollout["spec"]["replicas"] = json!(0);
        rollout["status"]["currentPodHash"] = json!("v1");
    })
    .await;
    assert_eq!(find(&found, "pods.stable")["outcome"], "warn");
    assert_eq!(find(&found, "port.found")["outcome"], "skip");
}

#[tokio::test]
async fn a_silent_api_server_is_not_waited_for() {
    let world = World::new().await;
    world.api.be_silent(true);
    let found = checks(&check(&world, &["-o", "json"]).await);
    let message = find(&found, "api.reachable")["message"].as_str().unwrap();
    assert!(message.contains("cannot list rollouts: the API server has not answered within 5 s"), "{message}");
    assert_eq!(ids(&found, "FAIL"), ["api.reachable"]);
}

/// Somebody who reads both must not wonder whether it is the same thing.
#[tokio::test]
async fn run_and_check_say_the_same_about_the_same_cause() {
    for (id, begins) in [
        ("api.credentials", "cannot list rollouts: the API server does not accept our credentials (401)"),
        ("rbac.rollouts.list", "may not list rollouts (403): the account's Role needs"),
        ("rollout.served", "cannot list rollouts: the API server does not know them (404)"),
        ("rollout.exists", "there is no Rollout shop in namespace services"),
        ("rollout.readable", "Rollout services/shop cannot be read"),
        ("rollout.spec", "the controller refuses the Rollout's spec, so the split stays as it was"),
        ("rollout.strategy", "trafficRouting was written with nginxx"),
        ("services.exist", "Service shop-canary, which the Rollout names, does not exist"),
        ("services.select", "Service shop-canary selects app=shoe"),
        ("port.found", "port grpc is not found: the pods declare http"),
        ("annotation.routes", "metadata.annotations[splitway.dev/routes]"),
    ] {
        let mut case = Case::new().await;
        break_it(id, &mut case).await;
        let found = checks(&case.check("json").await);
        let message = find(&found, id)["message"].as_str().unwrap();
        assert!(message.starts_with(begins), "{id}: {message}");
        let proxy = case.world.proxy(&["--port", case.port]).await;
        proxy.until(begins, |config| config["rollout"].to_string().contains(begins)).await;
    }
}

#[test]
fn what_is_wrong_with_the_settings_is_told_as_by_run() {
    let refuses = |args: &[&str], code: i32, part: &str| {
        let said = said(&mut splitway(&[&["check"][..], args].concat()));
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{said:?}");
        assert!(said.err.contains(part), "{part:?} is not in {}", said.err);
    };
    refuses(&[], 2, "--rollout <NS/NAME>");
    refuses(&["--rollout", "services/shop", "-o", "yaml"], 2, "[possible values: text, json]");
    refuses(&["--rollout", "services/shop", "--admin", "here"], 2, "such as 127.0.0.1:8080");
    refuses(&["--rollout", "Services/shop"], 1, "a namespace has 1 to 63 small letters");
    refuses(&["--rollout", "services/shop", "--kubeconfig", "no.yaml"], 1, "--kubeconfig no.yaml cannot be read");
    refuses(&["--rollout", "services/shop"], 1, "no API server is known");
}
