//! `run --rollout`: the program follows a Rollout on an API server that does whatever the test wants. Busy clients check
//! every answer meanwhile, and none may be lost. (Whole rollouts by the real controller are in `tests/cluster`.)

mod replicas;
pub mod server;

use serde_json::{Value, json};

use crate::process::{Folder, Serving};
use crate::reload::Clients;
use crate::support::{App, Client, eventually};
use server::ApiServer;

/// An API server with a Rollout between two versions, an application for each, and a proxy that follows it.
pub struct World {
    pub api: ApiServer,
    pub stable: App,
    pub canary: App,
    pub folder: Folder,
}

pub const ROLLOUT: &str = "services/shop";

impl World {
    pub async fn new() -> Self {
        let (stable, canary) = (App::start("stable").await, App::start("canary").await);
        let world = Self { api: ApiServer::start().await, stable, canary, folder: Folder::new() };
        world.api.put("services", service("shop-stable", "v1"));
        world.api.put("services", service("shop-canary", "v2"));
        world.api.put("pods", pod("shop-v1-aaaaa", "v1", &world.stable));
        world.api.put("pods", pod("shop-v2-bbbbb", "v2", &world.canary));
        world.api.put("endpointslices", slice("shop-stable", "shop-v1-aaaaa", &world.stable));
        world.api.put("endpointslices", slice("shop-canary", "shop-v2-bbbbb", &world.canary));
        world.step(1);
        world
    }

    /// The Rollout at a step of 20 %, pause, 60 %, pause, 100 %.
    pub fn step(&self, index: usize) {
        self.api.put("rollouts", rollout(index));
    }

    pub async fn proxy(&self, args: &[&str]) -> Serving {
        let kubeconfig = self.folder.write("kubeconfig", &self.api.kubeconfig());
        let follow = ["--rollout", ROLLOUT, "--kubeconfig", kubeconfig.to_str().unwrap()];
        Serving::start(&[&follow[..], args].concat()).await
    }
}

/// `splitway-1`, a pod of the proxy's own, which the double of the API server finds at 127.0.0.1.
pub fn proxy_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running"},
        "metadata": {"name": "splitway-1", "namespace": "services", "labels": {"app.kubernetes.io/name": "splitway"}},
    })
}

pub fn rollout(index: usize) -> Value {
    let steps = json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 60}, {"pause": {}}, {"setWeight": 100}]);
    json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
        "metadata": {"name": "shop", "namespace": "services", "generation": 2,
            "annotations": {"rollout.argoproj.io/revision": "2"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "shop"}},
            "template": {"metadata": {"labels": {"app": "shop"}}}, "strategy": {"canary": {
            "stableService": "shop-stable", "canaryService": "shop-canary", "trafficRouting": {}, "steps": steps}}},
        "status": {"observedGeneration": "2", "stableRS": "v1", "currentPodHash": "v2", "currentStepIndex": index,
            "currentStepHash": "s", "selector": "app=shop"},
    })
}

pub fn service(name: &str, hash: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "services"},
        "spec": {"selector": {"app": "shop", "rollouts-pod-template-hash": hash},
            "ports": [{"name": "web", "port": 80, "targetPort": "http"}]},
    })
}

fn pod(name: &str, hash: &str, app: &App) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "services", "labels": {"app": "shop", "rollouts-pod-template-hash": hash}},
        "spec": {"containers": [{"name": "app", "ports": [{"name": "http", "containerPort": app.address.port()}]}]},
        "status": {"podIP": app.address.ip().to_string(), "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn slice(service: &str, pod: &str, app: &App) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-x"), "namespace": "services",
            "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "web", "port": app.address.port()}],
        "endpoints": [{"addresses": [app.address.ip().to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": pod, "namespace": "services"}}],
    })
}

/// Whether the live share of version `v2` is this one.
pub fn canary_is(percent: u32) -> impl Fn(&Value) -> bool {
    move |config| {
        let versions = config["ports"][0]["split"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
        let canary = versions.iter().find(|version| version["version"] == "v2");
        canary.map_or(percent == 0, |canary| canary["asked_ratio"] == f64::from(percent) / 100.0)
    }
}

pub fn says(config: &Value, part: &str) -> bool {
    let notes = config["rollout"]["notes"].as_array().map_or(&[][..], Vec::as_slice);
    notes.iter().any(|note| note.as_str().is_some_and(|note| note.contains(part)))
}

#[tokio::test]
async fn endpoints_are_spoken_to_as_the_service_says_unless_the_file_does() {
    let world = World::new().await;
    let proxy = world.proxy(&[]).await;
    proxy.until("the first weight", canary_is(20)).await;
    let clients = Clients::start(&proxy);
    let says = |spoken: Option<&str>| {
        let mut service = service("shop-stable", "v1");
        service["spec"]["ports"][0]["appProtocol"] = json!(spoken);
        world.api.put("services", service);
    };
    for (spoken, version) in
        [(None, "HTTP/1.1"), (Some("kubernetes.io/h2c"), "HTTP/2.0"), (Some("kubernetes.io/ws"), "HTTP/1.1")]
    {
        says(spoken);
        eventually(version, async || Client::connect(proxy.proxy).await.get("/").await.header("x-http") == version)
            .await;
        clients.go_on().await;
    }
    // Whom to trust no Service says.
    says(Some("https"));
    proxy.until("a note", |config| self::says(config, "`appProtocol`")).await;
    assert_eq!(Client::connect(proxy.proxy).await.get("/").await.header("x-http"), "HTTP/1.1");
    clients.all_was_well().await;

    let file = world.folder.write("splitway.yaml", "upstream: { protocol: h2c }\n");
    let proxy = world.proxy(&["--config", file.to_str().unwrap()]).await;
    proxy.until("the first weight", canary_is(20)).await;
    let answer = Client::connect(proxy.proxy).await.get("/").await;
    assert_eq!(answer.header("x-http"), "HTTP/2.0", "the file's word is the last");
}

async fn readyz(proxy: &Serving) -> (u16, String) {
    let answer = crate::support::Client::connect(proxy.admin).await.get("/readyz?verbose").await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn weights_and_pods_are_followed_and_no_request_is_lost() {
    let world = World::new().await;
    let proxy = world.proxy(&[]).await;
    proxy.until("the first weight", canary_is(20)).await;
    let clients = Clients::start(&proxy);
    clients.go_on().await;
    for (index, percent) in [(3, 60), (1, 20), (5, 100)] {
        world.step(index);
        proxy.until(&format!("{percent} %"), canary_is(percent)).await;
        clients.go_on().await;
    }
    // Another pod of the new version, then the old version goes.
    let second = App::start("canary").await;
    world.api.put("pods", pod("shop-v2-ccccc", "v2", &second));
    let mut promoted = rollout(5);
    promoted["status"]["stableRS"] = json!("v2");
    world.api.put("rollouts", promoted);
    world.api.delete("pods", "shop-v1-aaaaa");
    proxy
        .until("the new version alone", |config| {
            let backends = config["ports"][0]["backends"].as_array().unwrap();
            backends.len() == 1
                && backends[0]["version"] == "v2"
                && backends[0]["endpoints"].as_array().unwrap().len() == 2
        })
        .await;
    clients.go_on().await;
    clients.all_was_well().await;
    assert!(proxy.metric("splitway_rollout_propagation_seconds_count", "").await >= 5.0);
    assert!(world.api.asked().iter().all(|asked| asked.starts_with("GET ")));
}

#[tokio::test]
async fn an_api_server_that_goes_away_and_comes_back_loses_nothing_and_is_told_about() {
    let mut world = World::new().await;
    let proxy = world.proxy(&[]).await;
    proxy.until("the first weight", canary_is(20)).await;
    let clients = Clients::start(&proxy);
    world.api.crash().await;
    proxy.until("the loss is told", |config| config["rollout"]["api"] == "lost").await;
    clients.go_on().await;
    let (status, text) = readyz(&proxy).await;
    assert_eq!(status, 200, "what was known serves on");
    assert!(text.contains("the API server is not heard"), "{text}");
    assert_eq!(proxy.metric("splitway_rollout_connected", "").await, 0.0);
    // What changes meanwhile is found by the list.
    world.step(3);
    world.api.revive().await;
    proxy.until("the new weight", canary_is(60)).await;
    proxy.until("all is heard again", |config| config["rollout"]["api"] == "connected").await;
    clients.go_on().await;
    clients.all_was_well().await;
}

#[tokio::test]
async fn an_expired_watch_lists_again_and_a_watch_that_was_cut_goes_on() {
    let world = World::new().await;
    let proxy = world.proxy(&[]).await;
    proxy.until("the first weight", canary_is(20)).await;
    let clients = Clients::start(&proxy);
    // Only a list can know of it.
    world.api.change_in_secret("rollouts", "shop", |rollout| rollout["status"]["currentStepIndex"] = json!(3));
    world.api.expire("rollouts");
    proxy.until("what the list says", canary_is(60)).await;
    world.api.cut("rollouts");
    eventually("a new watch", async || world.api.watches("rollouts") == 1).await;
    world.step(1);
    proxy.until("what the new watch says", canary_is(20)).await;
    clients.go_on().await;
    clients.all_was_well().await;
    assert!(proxy.metric("splitway_rollout_watch_failures_total", "rollouts").await >= 1.0);
}

#[tokio::test]
async fn without_the_permission_for_pods_slices_are_followed_until_it_is_given() {
    let world = World::new().await;
    world.api.refuse("pods", 403);
    let proxy = world.proxy(&[]).await;
    let config = proxy.until("the first weight", canary_is(20)).await;
    assert!(says(&config, "may not list pods (403)"), "{config:#}");
    let clients = Clients::start(&proxy);
    clients.go_on().await;
    world.api.allow("pods");
    proxy.until("no complaint", |config| !says(config, "pods")).await;
    eventually("no watch of slices", async || world.api.watches("endpointslices") == 0).await;
    // Only pods are followed now.
    let third = App::start("canary").await;
    world.api.put("pods", pod("shop-v2-ccccc", "v2", &third));
    proxy.until("the new pod", |config| config.to_string().contains(&third.address.to_string())).await;
    clients.go_on().await;
    clients.all_was_well().await;
}

#[tokio::test]
async fn a_start_without_the_api_server_serves_what_was_saved_and_says_so() {
    let mut world = World::new().await;
    let folder = world.folder.path("state");
    let state = ["--state-dir", folder.to_str().unwrap()];
    let proxy = world.proxy(&state).await;
    proxy.until("the first weight", canary_is(20)).await;
    let file = folder.join("services.shop.json");
    eventually("a saved state", async || file.exists()).await;
    world.api.crash().await;
    drop(proxy);

    let proxy = world.proxy(&state).await;
    let config = proxy.until("the saved weight", canary_is(20)).await;
    assert!(config["rollout"]["saved_at"].is_string(), "{config:#}");
    let (status, text) = readyz(&proxy).await;
    assert_eq!(status, 200);
    assert!(text.contains("serving the state saved at"), "{text}");
    assert_eq!(proxy.metric("splitway_rollout_saved_state", "").await, 1.0);
    let clients = Clients::start(&proxy);
    clients.go_on().await;
    world.step(3);
    world.api.revive().await;
    let config = proxy.until("the new weight", canary_is(60)).await;
    assert!(config["rollout"]["saved_at"].is_null(), "{config:#}");
    clients.go_on().await;
    clients.all_was_well().await;
}

#[tokio::test]
async fn what_is_missing_is_named_with_the_remedy_and_is_found_when_it_comes() {
    let world = World::new().await;
    world.api.delete("rollouts", "shop");
    world.api.refuse("pods", 401);
    let proxy = world.proxy(&[]).await;
    proxy
        .until("the missing Rollout is told", |config| says(config, "there is no Rollout shop in namespace services"))
        .await;
    assert_eq!(readyz(&proxy).await.0, 503);
    world.step(1);
    proxy
        .until("the token is told", |config| {
            config["rollout"]["error"].as_str().is_some_and(|error| error.contains("the token may have expired"))
        })
        .await;
    world.api.allow("pods");
    proxy.until("the weight", canary_is(20)).await;
    assert_eq!(readyz(&proxy).await.0, 200);
    // A Rollout that cannot be read changes nothing.
    let mut strange = rollout(3);
    strange["spec"]["strategy"]["canary"]["steps"] = json!("many");
    world.api.put("rollouts", strange);
    let config = proxy.until("the complaint", |config| says(config, "cannot be read")).await;
    assert!(canary_is(20)(&config), "{config:#}");
}

#[tokio::test]
async fn pods_that_served_go_on_when_the_service_and_the_rollout_are_deleted() {
    let world = World::new().await;
    // A second port, so that only the Service tells which one is meant.
    let with_metrics = |name: &str, hash: &str, app: &App| {
        let mut pod = pod(name, hash, app);
        let ports = pod["spec"]["containers"][0]["ports"].as_array_mut().unwrap();
        ports.push(json!({"name": "metrics", "containerPort": 9}));
        world.api.put("pods", pod);
    };
    with_metrics("shop-v1-aaaaa", "v1", &world.stable);
    with_metrics("shop-v2-bbbbb", "v2", &world.canary);
    let proxy = world.proxy(&[]).await;
    proxy.until("the first weight", canary_is(20)).await;
    let clients = Clients::start(&proxy);
    clients.go_on().await;
    world.api.delete("services", "shop-stable");
    proxy.until("the missing Service is told", |config| says(config, "Service shop-stable")).await;
    clients.go_on().await;
    world.api.delete("rollouts", "shop");
    proxy.until("the missing Rollout is told", |config| says(config, "there is no Rollout shop")).await;
    clients.go_on().await;
    clients.all_was_well().await;
}

#[tokio::test]
async fn a_proxy_that_could_answer_nothing_is_not_ready_and_says_why() {
    let world = World::new().await;
    let proxy = world.proxy(&["--port", "grpc"]).await;
    proxy.until("the missing port is told", |config| says(config, "port grpc is not found")).await;
    let (status, text) = readyz(&proxy).await;
    assert_eq!((status, text.contains("port grpc is not found")), (503, true), "{text}");
    drop(proxy);

    // Without pods, and without Services whose slices could be followed.
    world.api.refuse("pods", 403);
    let mut nameless = rollout(1);
    let canary = nameless["spec"]["strategy"]["canary"].as_object_mut().unwrap();
    canary.retain(|field, _| !field.ends_with("Service"));
    world.api.put("rollouts", nameless);
    let proxy = world.proxy(&[]).await;
    proxy.until("the way out is told", |config| says(config, "has to name its Services")).await;
    assert_eq!(readyz(&proxy).await.0, 503);
    world.step(1);
    proxy.until("the first weight, by slices", canary_is(20)).await;
    assert_eq!(readyz(&proxy).await.0, 200);
}

#[tokio::test]
async fn an_api_server_without_rollouts_is_told_and_one_that_is_silent_is_not_waited_for() {
    let world = World::new().await;
    world.api.refuse("rollouts", 404);
    let proxy = world.proxy(&[]).await;
    proxy
        .until("the missing CRD", |config| {
            config["rollout"]["error"].as_str().is_some_and(|error| error.contains("install Argo Rollouts"))
        })
        .await;
    world.api.allow("rollouts");
    drop(proxy);
    let folder = world.folder.path("state");
    let state = ["--state-dir", folder.to_str().unwrap()];
    let proxy = world.proxy(&state).await;
    proxy.until("the weight", canary_is(20)).await;
    eventually("a saved state", async || folder.join("services.shop.json").exists()).await;
    drop(proxy);
    world.api.be_silent(true);
    let proxy = world.proxy(&state).await;
    let config = proxy.until("the saved weight", canary_is(20)).await;
    assert_eq!(config["rollout"]["api"], "connecting");
    assert!(config["rollout"]["saved_at"].is_string(), "{config:#}");
}

#[tokio::test]
async fn a_file_beside_the_rollout_adds_routes_for_its_roles() {
    let world = World::new().await;
    let file = world.folder.write(
        "splitway.yaml",
        "routes:\n- name: testers\n  match: [{ headers: { x-tester: \"1\" } }]\n  backend: canary\n",
    );
    let proxy = world.proxy(&["--config", file.to_str().unwrap()]).await;
    proxy.until("the first weight", canary_is(20)).await;
    let mut client = proxy.client().await;
    for _ in 0..20 {
        assert_eq!(client.get_with("/", &[("x-tester", "1")]).await.app(), "canary");
    }
    std::fs::write(&file, "routes:\n- name: testers\n  match: [{ headers: { x-tester: \"1\" } }]\n  backend: stable\n")
        .unwrap();
    proxy.until("the edited file", |config| config["ports"][0]["routes"][0]["leads_to"]["version"] == "v1").await;
    for _ in 0..20 {
        assert_eq!(client.get_with("/", &[("x-tester", "1")]).await.app(), "stable");
    }
}

#[tokio::test]
async fn the_annotation_adds_a_route_and_a_finer_weight_and_its_mistakes_are_told() {
    let world = World::new().await;
    let annotate = |text: &str| {
        let mut rollout = rollout(1);
        rollout["metadata"]["annotations"]["splitway.dev/routes"] = json!(text);
        world.api.put("rollouts", rollout);
    };
    let finer = |config: &Value| {
        let versions = config["ports"][0]["split"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
        versions.iter().any(|version| version["version"] == "v2" && version["asked_ratio"] == 0.205)
    };
    let good = "weights: [{step: 0, weight: 20.5%}]\n\
                routes: [setHeaderRoute: {name: testers, match: [{headerName: x-tester, headerValue: {exact: 'yes'}}]}]";
    annotate(good);
    let proxy = world.proxy(&[]).await;
    let config = proxy.until("the finer weight", finer).await;
    assert!(config["rollout"]["annotation_error"].is_null(), "{config:#}");
    let all_testers_see_the_canary = async || {
        let mut client = Client::connect(proxy.proxy).await;
        for _ in 0..20 {
            assert_eq!(client.get_with("/", &[("x-tester", "yes")]).await.app(), "canary");
        }
    };
    all_testers_see_the_canary().await;
    assert_eq!(proxy.metric("splitway_rollout_annotation_refused", "").await, 0.0);

    // A mistake changes nothing but what is told.
    annotate(&good.replace("setHeaderRoute", "setHeaderRout"));
    let config = proxy.until("the mistake is told", |config| config["rollout"]["annotation_error"].is_string()).await;
    let error = config["rollout"]["annotation_error"].as_str().unwrap();
    let place = "metadata.annotations[splitway.dev/routes].routes[0].setHeaderRout: Forbidden: unknown field";
    assert!(error.contains(place) && says(&config, place) && finer(&config), "{config:#}");
    assert_eq!(proxy.metric("splitway_rollout_annotation_refused", "").await, 1.0);
    all_testers_see_the_canary().await;

    annotate("");
    let config = proxy.until("the whole weight", canary_is(20)).await;
    assert!(config["rollout"]["annotation_error"].is_null() && !says(&config, place), "{config:#}");
    assert_eq!(config["ports"][0]["routes"].as_array().map_or(0, Vec::len), 0, "{config:#}");
    assert_eq!(proxy.metric("splitway_rollout_annotation_refused", "").await, 0.0);
}
