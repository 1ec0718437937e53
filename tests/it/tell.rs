//! `status`, `report` and `man`: what the program tells about proxies that run.

use serde_json::{Value, json};

use crate::follow::{ROLLOUT, World, proxy_pod};
use crate::process::{Folder, Said, Serving, run, splitway, yaml};
use crate::support::{App, Client, eventually};

/// Without blocking the thread that the applications are on.
async fn said(args: &[&str]) -> Said {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let work = move || run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn requests(proxy: &Serving, n: usize) {
    let mut client = proxy.client().await;
    for _ in 0..n {
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_proxy_is_asked_by_its_admin_address() {
    let (stable, canary, folder) = (App::start("stable").await, App::start("canary").await, Folder::new());
    let proxy = Serving::from_file(&folder.write("splitway.yaml", &yaml(&stable, &canary, 25)), &[]).await;
    requests(&proxy, 40).await;
    let admin = proxy.admin.to_string();
    let counted = async || {
        let said = said(&["status", "--admin", &admin, "-o", "json"]).await;
        let status: Value = serde_json::from_str(&said.out).expect("JSON");
        status["ports"][0]["versions"][0]["requests_per_second"].as_f64().unwrap() > 0.0
    };
    eventually("the requests show", counted).await;
    // Of whichever seconds they were counted in.
    let trend = async || {
        let answer = Client::connect(proxy.admin).await.get("/status?trend=true").await;
        let status: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let parts = status["ports"][0]["versions"][0]["trend"].as_array().cloned().unwrap_or_default();
        let sum = |count: &str| parts.iter().map(|part| part[count].as_u64().unwrap()).sum::<u64>();
        (sum("sent"), sum("of")) == (10, 40) && parts.last().is_some_and(|part| part["asked"] == 0.25)
    };
    eventually("the trend has them all", trend).await;
    let wrong = Client::connect(proxy.admin).await.get("/status?trnd=true").await;
    assert!(wrong.status == 400 && wrong.text().contains("did you mean trend?"), "{}", wrong.text());
    let table = said(&["status", "--admin", &admin]).await;
    assert_eq!((table.code, table.err.as_str()), (0, ""), "{}", table.out);
    for part in
        ["Proxy:     ready, generation 1", "canary canary", "stable stable", &canary.address.to_string(), "25.00 %"]
    {
        assert!(table.out.contains(part), "{part}: {}", table.out);
    }
    assert!(table.out.lines().all(|line| line.chars().count() <= 100) && !table.out.contains('\x1b'), "{}", table.out);
    let yaml = said(&["status", "--admin", &admin, "-o", "yaml"]).await;
    assert!(yaml.out.contains("generation: 1\n") && yaml.out.contains("role: canary"), "{}", yaml.out);

    let report = said(&["report", "--admin", &admin]).await;
    assert!(report.out.starts_with("rollout 1: canary canary running"), "{}", report.out);
    let report = said(&["report", "--admin", &admin, "--number", "1", "-o", "json"]).await;
    let reports: Value = serde_json::from_str(&report.out).expect("JSON");
    assert_eq!((&reports[0]["outcome"], &reports[0]["versions"][0]["requests"]), (&json!("running"), &json!(10)));
    let none = said(&["report", "--admin", &admin, "--number", "7"]).await;
    assert_eq!(none.code, 1);
    assert!(none.err.contains("there is no report 7: those from 1 to 1 are kept"), "{}", none.err);
}

#[tokio::test]
async fn a_wrong_address_is_told_with_the_remedy() {
    let app = App::start("stable").await;
    let not_ours = app.address.to_string();
    let wrong = said(&["status", "--admin", &not_ours]).await;
    assert_eq!(wrong.code, 1);
    assert!(
        wrong.err.contains("is not an admin listener") || wrong.err.contains("admin listener of a proxy"),
        "{}",
        wrong.err
    );
    let nobody = said(&["status", "--admin", "127.0.0.1:1"]).await;
    assert!(
        nobody.code == 1 && nobody.err.contains("is it the admin listener of a proxy that runs?"),
        "{}",
        nobody.err
    );
    let neither = said(&["status"]).await;
    assert!(neither.code == 2 && neither.err.contains("--admin"), "{}", neither.err);
}

#[tokio::test]
async fn the_proxies_of_a_rollout_are_found_through_the_api_server() {
    let world = World::new().await;
    let file = world.folder.write("splitway.yaml", "sticky: { key: [{ cookie: uid }], salt: spring }\n");
    let proxy = world.proxy(&["--config", file.to_str().unwrap()]).await;
    proxy.until("the Rollout", |config| config["generation"].as_u64() > Some(0)).await;
    world.api.put("pods", proxy_pod());
    let kubeconfig = world.folder.path("kubeconfig");
    let port = proxy.admin.port().to_string();
    let common = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--admin-port", &port];
    let table = said(&[&["status", "--rollout", ROLLOUT][..], &common].concat()).await;
    assert_eq!((table.code, table.err.as_str()), (0, ""), "{}", table.out);
    for part in ["Rollout:   services/shop", "canary v2", "stable v1", "Step:      2/5", "setWeight 60"] {
        assert!(table.out.contains(part), "{part}: {}", table.out);
    }
    let report = said(&[&["report", "--rollout", ROLLOUT][..], &common].concat()).await;
    assert!(report.out.starts_with("rollout 1 of services/shop: canary v2 running"), "{}", report.out);
    let user = said(&[&["explain", "--key", "alice", "--rollout", ROLLOUT][..], &common].concat()).await;
    assert!(user.code == 0 && user.out.contains("- key: sent as cookie uid"), "{user:?}");
    let version = proxy.client().await.get_with("/", &[("cookie", "uid=alice")]).await.app().to_owned();
    assert!(user.out.contains(&format!("({version}), reason sticky")), "{version}: {}", user.out);
    assert!(user.err.contains("Next: splitway status --rollout services/shop"), "{}", user.err);
    let both = [&["explain", "--key", "alice", "--cookie", "uid=bob", "--rollout", ROLLOUT][..], &common].concat();
    let both = said(&both).await;
    assert!(both.code == 1 && both.err.contains("splitway-1 answers 400"), "{}", both.err);
    assert!(both.err.contains("cookie uid is said as well; leave out one of the two"), "{}", both.err);
    let other = said(&[&["status", "--rollout", "services/other"][..], &common].concat()).await;
    assert!(other.code == 1 && other.err.contains("splitway-1 follows services/shop"), "{}", other.err);
    world.api.refuse_verb("list", "pods", 403);
    let refused = said(&[&["status", "--rollout", ROLLOUT][..], &common].concat()).await;
    assert!(refused.code == 1 && refused.err.contains("may not list pods (403)"), "{}", refused.err);
    world.api.allow("pods");
    world.api.delete("pods", "splitway-1");
    let none = said(&[&["status", "--rollout", ROLLOUT][..], &common].concat()).await;
    assert!(none.code == 1 && none.err.contains("has the label app.kubernetes.io/name=splitway"), "{}", none.err);
}

/// The API server keeps `Authorization` for itself, so the token goes another way.
#[tokio::test]
async fn a_token_reaches_the_proxies_through_the_api_server() {
    let world = World::new().await;
    let [good, bad] = ["0123456789abcdef", "fedcba9876543210"].map(|text| world.folder.write(text, text));
    let [good, bad] = [good.to_str().unwrap(), bad.to_str().unwrap()];
    let proxy = world.proxy(&["--admin-token-file", good]).await;
    world.api.put("pods", proxy_pod());
    let kubeconfig = world.folder.path("kubeconfig");
    let port = proxy.admin.port().to_string();
    let asked = ["status", "--rollout", ROLLOUT, "--kubeconfig", kubeconfig.to_str().unwrap(), "--admin-port", &port];
    let with = |token| [&asked[..], &["--admin-token-file", token]].concat();
    let works = async || said(&with(good)).await.out.contains("canary v2");
    eventually("the Rollout shows", works).await;
    let none = said(&asked).await;
    assert!(
        none.code == 1 && none.err.contains("splitway-1 asks for a token: say --admin-token-file FILE"),
        "{none:?}"
    );
    let wrong = said(&with(bad)).await;
    assert!(wrong.code == 1 && wrong.err.contains("asks for another token than the one in that file"), "{wrong:?}");
}

/// As people write it, and as the program shows it.
#[tokio::test]
async fn an_admin_listener_has_many_names() {
    let app = App::start("stable").await;
    let proxy = Serving::start(&["--stable", &app.address.to_string()]).await;
    let port = proxy.admin.port();
    for name in ["127.0.0.1", "http://127.0.0.1", "", "localhost"] {
        let status = said(&["status", "--admin", &format!("{name}:{port}/")]).await;
        assert!(status.code == 0 && status.out.contains("stable stable"), "{name}: {status:?}");
    }
    for (name, expected) in [
        (format!("https://127.0.0.1:{port}"), "has no TLS"),
        ("127.0.0.1".to_owned(), "or a name and a port"),
        ("127.0.0.1:9090/config".to_owned(), "or a name and a port"),
        // Too long for a name, so that nobody is asked for it.
        (format!("{}:9090", "x".repeat(64)), "the name is not known"),
    ] {
        let wrong = said(&["status", "--admin", &name]).await;
        assert!(wrong.code == 2 && wrong.err.contains(expected), "{name}: {wrong:?}");
    }
}

#[tokio::test]
async fn watching_goes_on_while_the_proxy_is_away() {
    let (stable, canary, folder) = (App::start("stable").await, App::start("canary").await, Folder::new());
    let file = folder.write("splitway.yaml", &yaml(&stable, &canary, 25));
    let proxy = Serving::from_file(&file, &[]).await;
    let admin = proxy.admin.to_string();
    let mut command = splitway(&["status", "--watch", "--admin", &admin]);
    let mut watch = crate::process::Process::spawn(&mut command);
    while !watch.line().await.expect("it watches").starts_with("Proxy:     ready") {}
    proxy.process.signal("KILL");
    watch.logged("is it the admin listener of a proxy that runs?").await;
    watch.signal("INT");
}

#[test]
fn a_manual_page_is_written_for_each_command() {
    let folder = Folder::new();
    let out = folder.path("man");
    let said = run(&["man", "--out", out.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{}", said.err);
    for page in
        ["splitway.1", "splitway-run.1", "splitway-status.1", "splitway-top.1", "splitway-report.1", "splitway-lint.1"]
    {
        let text = std::fs::read_to_string(out.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH "), "{page}");
    }
}
