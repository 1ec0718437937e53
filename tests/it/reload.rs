//! Changes of the file while clients are busy: each becomes live, nothing is lost, no connection is closed.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::process::{Folder, Serving, canary_is, yaml};
use crate::support::{App, soon};

/// Clients that never rest, each on one keep-alive connection, and check every answer.
pub struct Clients {
    answers: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<Found>>,
}

/// What clients complain about. Empty in a good world.
#[derive(Debug, Default)]
struct Found {
    lost: Vec<String>,
    wrong: Vec<String>,
    /// Connections beyond the first of each client, and those that the proxy announced to close.
    reconnects: u64,
}

impl Clients {
    pub fn start(proxy: &Serving) -> Self {
        let (stop, stopped) = watch::channel(false);
        let answers = Arc::<AtomicU64>::default();
        let tasks =
            (0..6).map(|client| tokio::spawn(work(client, proxy.proxy, answers.clone(), stopped.clone()))).collect();
        Self { answers, stop, tasks }
    }

    /// Returns once each of the clients has had some answers since now.
    pub async fn go_on(&self) {
        let wished = self.answers.load(Ordering::Relaxed) + 60;
        let more = async {
            while self.answers.load(Ordering::Relaxed) < wished {
                tokio::task::yield_now().await;
            }
        };
        soon("answers", more).await;
    }

    /// Lets them finish what they do. Panics unless every request was answered, correctly, on the first connection.
    pub async fn all_was_well(self) -> u64 {
        self.stop.send_replace(true);
        for task in self.tasks {
            let found = task.await.unwrap();
            assert!(found.lost.is_empty() && found.wrong.is_empty() && found.reconnects == 0, "{found:?}");
        }
        self.answers.load(Ordering::Relaxed)
    }
}

async fn work(
    client: usize,
    proxy: std::net::SocketAddr,
    answers: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
) -> Found {
    let mut found = Found::default();
    let mut connection = connect(proxy).await;
    let mut number = 0;
    while !*stopped.borrow() {
        number += 1;
        let body = if number % 2 == 0 { format!("{client}:{number}") } else { String::new() };
        let request = match body.as_str() {
            "" => Request::get("/"),
            _ => Request::post("/echo"),
        };
        let request = request.header("host", "app").body(Full::new(Bytes::from(body.clone()))).unwrap();
        match soon("an answer", exchange(&mut connection, request)).await {
            Ok((status, app, closes, text)) => {
                answers.fetch_add(1, Ordering::Relaxed);
                found.reconnects += u64::from(closes);
                let as_sent = if body.is_empty() { text == app } else { text.ends_with(&format!("\n\n{body}")) };
                if status != 200 || !["stable", "canary"].contains(&app.as_str()) || !as_sent {
                    found.wrong.push(format!("{status} from {app:?} for {body:?}: {text}"));
                }
            }
            Err(error) => {
                found.lost.push(format!("request {number}: {error}"));
                found.reconnects += 1;
                connection = connect(proxy).await;
            }
        }
    }
    found
}

type Connection = SendRequest<Full<Bytes>>;

async fn connect(proxy: std::net::SocketAddr) -> Connection {
    let stream = TcpStream::connect(proxy).await.expect("the proxy accepts");
    let (sender, engine) = http1::handshake(TokioIo::new(stream)).await.expect("a fresh connection");
    // Its end shows in the sender.
    tokio::spawn(async move { drop(engine.await) });
    sender
}

/// Status, version, whether the connection is going to close, body.
async fn exchange(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
) -> hyper::Result<(u16, String, bool, String)> {
    connection.ready().await?;
    let (head, body) = connection.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    let app = head.headers.get("x-app").map(|app| String::from_utf8_lossy(app.as_bytes()).into_owned());
    let closes = head.headers.get("connection").is_some_and(|value| value == "close");
    Ok((head.status.as_u16(), app.unwrap_or_default(), closes, String::from_utf8_lossy(&body).into_owned()))
}

/// Two versions, a proxy that follows a file, busy clients.
struct World {
    stable: App,
    canary: App,
    folder: Folder,
    proxy: Serving,
    clients: Clients,
}

const FILE: &str = "splitway.yaml";

impl World {
    async fn start() -> Self {
        Self::start_with(|folder, text| drop(folder.write(FILE, text))).await
    }

    /// `place` puts the file where it belongs.
    async fn start_with(place: impl FnOnce(&Folder, &str)) -> Self {
        let (stable, canary, folder) = (App::start("stable").await, App::start("canary").await, Folder::new());
        place(&folder, &yaml(&stable, &canary, 5));
        let proxy = Serving::from_file(&folder.path(FILE), &[]).await;
        let clients = Clients::start(&proxy);
        clients.go_on().await;
        Self { stable, canary, folder, proxy, clients }
    }

    fn yaml(&self, percent: u32) -> String {
        yaml(&self.stable, &self.canary, percent)
    }

    /// Waits until the share is live, and says how long that took: a promise of a second, which a busy machine that runs
    /// tests may break, so it is not asserted.
    async fn live(&self, how: &str, percent: u32) {
        let begun = Instant::now();
        self.proxy.until(&format!("{percent} % after {how}"), canary_is(percent)).await;
        println!("{how}: live after {:?}", begun.elapsed());
        self.clients.go_on().await;
    }

    async fn refused(&self) -> u64 {
        self.proxy.metric("splitway_reloads_total", "outcome=\"bad\"").await as u64
    }

    /// Nothing lost. (How exact the split stays through changes is tested where nothing else happens meanwhile: here,
    /// requests that a worker decides while the new split is being built belong to neither account.)
    async fn ends_well(self) {
        let answers = self.clients.all_was_well().await;
        assert_eq!(self.stable.received() + self.canary.received(), answers);
        println!("{answers} requests, none lost");
    }
}

#[tokio::test]
async fn a_file_edited_in_place_is_live_and_nothing_is_lost() {
    let world = World::start().await;
    for percent in [10, 25, 50] {
        world.folder.write(FILE, &world.yaml(percent));
        world.live("an edit in place", percent).await;
    }
    world.ends_well().await;
}

#[tokio::test]
async fn a_file_replaced_by_a_rename_is_live_and_nothing_is_lost() {
    let world = World::start().await;
    for percent in [10, 25, 50] {
        world.folder.replace(FILE, &world.yaml(percent));
        world.live("a rename", percent).await;
    }
    world.ends_well().await;
}

/// As the kubelet mounts a ConfigMap: `splitway.yaml -> ..data/splitway.yaml`, `..data -> ..2026_1`; a change is a new
/// folder and a new `..data`, renamed over the old one.
#[tokio::test]
async fn the_swap_of_a_config_maps_symlink_is_live_and_nothing_is_lost() {
    let swap = |folder: &Folder, version: u32, text: &str| {
        let real = folder.path(&format!("..2026_{version}"));
        fs::create_dir(&real).unwrap();
        fs::write(real.join(FILE), text).unwrap();
        symlink(format!("..2026_{version}"), folder.path("..data_tmp")).unwrap();
        fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
        if version > 0 {
            fs::remove_dir_all(folder.path(&format!("..2026_{}", version - 1))).unwrap();
        }
    };
    let world = World::start_with(|folder, text| {
        swap(folder, 0, text);
        symlink(format!("..data/{FILE}"), folder.path(FILE)).unwrap();
    })
    .await;
    for (version, percent) in [(1, 10), (2, 25), (3, 50)] {
        swap(&world.folder, version, &world.yaml(percent));
        world.live("a ConfigMap's swap", percent).await;
    }
    world.ends_well().await;
}

/// No event tells of a file behind a symlink to another folder: it is looked at all the same.
#[tokio::test]
async fn a_file_behind_a_symlink_is_live_without_any_event() {
    let elsewhere = Folder::new();
    let world = World::start_with(|folder, text| {
        symlink(elsewhere.write(FILE, text), folder.path(FILE)).unwrap();
    })
    .await;
    elsewhere.write(FILE, &world.yaml(10));
    world.live("an edit without an event", 10).await;
    world.ends_well().await;
}

#[tokio::test]
async fn sighup_reads_the_file_again_even_if_it_is_the_same() {
    let world = World::start().await;
    for _ in 0..3 {
        let before = world.proxy.generation().await;
        let begun = Instant::now();
        world.proxy.process.signal("HUP");
        world.proxy.until("a new generation", |config| config["generation"].as_u64() > Some(before)).await;
        println!("SIGHUP: live after {:?}", begun.elapsed());
        world.clients.go_on().await;
    }
    world.ends_well().await;
}

#[tokio::test]
async fn two_hundred_edits_in_a_row_lose_nothing() {
    let world = World::start().await;
    let mut seen = world.proxy.generation().await;
    for edit in 1..=200 {
        let percent = 1 + edit * 37 % 99;
        // Renames: a file in the middle of being written may be seen as such, and refused for a moment.
        world.folder.replace(FILE, &world.yaml(percent));
        if edit % 10 == 0 {
            // The others follow each other as fast as they can be written.
            let live = world.proxy.until(&format!("edit {edit}"), canary_is(percent)).await;
            assert!(live["generation"].as_u64() > Some(seen));
            seen = live["generation"].as_u64().unwrap();
        }
    }
    assert_eq!(world.refused().await, 0);
    world.ends_well().await;
}

#[tokio::test]
async fn a_bad_file_is_refused_with_its_place_and_the_old_state_serves_until_it_is_mended() {
    let mut world = World::start().await;
    world.folder.write(FILE, &world.yaml(10).replace("canary: 10%", "canari: 10%"));
    let refused = |config: &Value| config["refused"]["message"].as_str().is_some_and(|text| text.contains("canari"));
    let config = world.proxy.until("a refusal", refused).await;
    let message = config["refused"]["message"].as_str().unwrap();
    let file = world.folder.path(FILE);
    for part in [&format!("{}:5:23", file.display()), "split", "no backend \"canari\"", "did you mean `canary`?"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(canary_is(5)(&config), "the old state serves");
    let logged = world.proxy.process.logged("canari").await;
    assert!(logged.contains("did you mean `canary`?") && logged.contains(":5:23"), "{logged}");
    assert_eq!(world.refused().await, 1);
    world.clients.go_on().await;

    // What was expected and what was found.
    world.folder.write(FILE, &world.yaml(10).replace("canary: 10%", "canary: ten"));
    let refused = |config: &Value| config["refused"]["message"].as_str().is_some_and(|text| text.contains("ten"));
    let config = world.proxy.until("another refusal", refused).await;
    let message = config["refused"]["message"].as_str().unwrap();
    assert!(message.contains("expected a weight") && message.contains("found \"ten\""), "{message}");
    assert_eq!(world.refused().await, 2);

    world.folder.write(FILE, &world.yaml(10));
    world.live("mending", 10).await;
    assert_eq!(world.proxy.config().await["refused"], Value::Null);
    world.ends_well().await;
}

/// Mended by going back to the text that is live: the refusal must go, too.
#[tokio::test]
async fn a_bad_file_that_becomes_the_old_one_again_is_no_longer_refused() {
    let world = World::start().await;
    world.folder.write(FILE, "listeners: [");
    world.proxy.until("a refusal", |config| !config["refused"].is_null()).await;
    world.folder.write(FILE, &world.yaml(5));
    world.proxy.until("no refusal", |config| config["refused"].is_null()).await;
    world.ends_well().await;
}

#[tokio::test]
async fn a_file_that_is_deleted_is_refused_and_read_again_when_it_is_back() {
    let world = World::start().await;
    fs::remove_file(world.folder.path(FILE)).unwrap();
    let config = world.proxy.until("a refusal", |config| !config["refused"].is_null()).await;
    let message = config["refused"]["message"].as_str().unwrap();
    assert!(message.contains(FILE) && message.contains("cannot be read"), "{message}");
    world.clients.go_on().await;
    world.folder.write(FILE, &world.yaml(20));
    world.live("a file that is back", 20).await;
    world.ends_well().await;
}

#[tokio::test]
async fn what_only_a_restart_changes_is_noted_and_the_rest_is_live() {
    let world = World::start().await;
    world.folder.write(FILE, &format!("{}drain: {{ delay: 7s }}\nworkers: 7\n", world.yaml(20)));
    let config = world.proxy.until("20 %", canary_is(20)).await;
    let notes: Vec<&str> = config["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    for (note, field) in notes.iter().zip(["workers", "drain"]) {
        assert!(note.starts_with(field) && note.contains("next start"), "{note}");
    }
    world.ends_well().await;
}
