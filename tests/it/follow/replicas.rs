//! Several processes of the proxy that know each other by their own Service: on loopback each has an address of its own,
//! and all have the same admin port, as pods do.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{ROLLOUT, World, canary_is, rollout};
use crate::process::{Process, Serving, splitway};
use crate::support::{Client, eventually};

fn address(i: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, i])
}

/// The slice of the proxy's own Service, with these addresses and whether they are ready.
fn own_slice(replicas: &[(u8, bool)]) -> Value {
    let endpoint = |(i, ready): &(u8, bool)| json!({"addresses": [address(*i)], "conditions": {"ready": ready}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "splitway-x", "namespace": "services", "labels": {"kubernetes.io/service-name": "splitway"}},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": replicas.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

impl World {
    fn ready(&self, replicas: &[u8]) {
        self.api.put("endpointslices", own_slice(&replicas.iter().map(|i| (*i, true)).collect::<Vec<_>>()));
    }

    /// The Rollout at a pause after this weight.
    fn weigh(&self, percent: u32, generation: u32) {
        let mut object = rollout(1);
        object["spec"]["strategy"]["canary"]["steps"] = json!([{"setWeight": percent}, {"pause": {}}]);
        // With steps of its own, so that the index is one into them.
        object["status"]["currentStepHash"] = json!(format!("of-{percent}"));
        object["metadata"]["generation"] = json!(generation);
        object["status"]["observedGeneration"] = json!(generation.to_string());
        self.api.put("rollouts", object);
    }

    /// Replica `i`, whose admin listener has the port of the first one's; 0 for the first.
    async fn replica(&self, i: u8, port: u16) -> Serving {
        let kubeconfig = self.folder.write("kubeconfig", &self.api.kubeconfig());
        let mut command =
            splitway(&["run", "--print-addresses", "--rollout", ROLLOUT, "--service", "services/splitway"]);
        command.args(["--kubeconfig", kubeconfig.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
        command.args(["--admin", &SocketAddr::new(address(i), port).to_string()]);
        let mut process = Process::spawn(command.env("POD_IP", address(i).to_string()));
        let Some(line) = process.line().await else { panic!("it has not started: {:#?}", process.log()) };
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let parse = |value: &Value| value.as_str().unwrap().parse().unwrap();
        Serving { process, proxy: parse(&addresses["listeners"][0]), admin: parse(&addresses["admin"]) }
    }

    async fn replicas(&self, n: u8) -> Vec<Serving> {
        self.ready(&(1..=n).collect::<Vec<_>>());
        let mut all = vec![self.replica(1, 0).await];
        let port = all[0].admin.port();
        for i in 2..=n {
            all.push(self.replica(i, port).await);
        }
        all
    }
}

async fn verify(proxy: &Serving, query: &str) -> (u16, Value) {
    let answer = Client::connect(proxy.admin).await.get(&format!("/verify?{query}")).await;
    let value: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(value["verified"].as_bool().unwrap_or(false), answer.status == 200, "{value}");
    (answer.status, value)
}

async fn until_verified(proxy: &Serving, query: &str) {
    eventually(query, async || verify(proxy, query).await.0 == 200).await;
}

fn is_replica(index: usize, of: usize) -> impl Fn(&Value) -> bool {
    move |config| config["rollout"]["replica"] == json!([index, of])
}

#[tokio::test]
async fn replicas_take_turns_and_their_sum_is_exact_at_every_request() {
    let world = World::new().await;
    world.weigh(1, 2);
    let replicas = world.replicas(3).await;
    let mut clients = Vec::new();
    for (i, replica) in replicas.iter().enumerate() {
        replica.until("its place", is_replica(i, 3)).await;
        clients.push(replica.client().await);
    }
    let (mut asked, mut sent, mut n) = (0.0f64, 0u64, 0usize);
    for (generation, percent) in [(2, 1), (3, 33), (4, 45)] {
        world.weigh(percent, generation);
        let query = format!("weight={percent}&version=v2&generation={generation}&all=true");
        until_verified(&replicas[0], &query).await;
        for _ in 0..300 {
            sent += u64::from(clients[n % 3].get("/").await.app() == "canary");
            n += 1;
            asked += f64::from(percent) / 100.0;
            let error = sent as f64 - asked;
            assert!(error.abs() < 2.0, "{percent} %, request {n}: {error}");
        }
        // What the replicas say is what was seen.
        let (status, report) = verify(&replicas[1], &query).await;
        assert_eq!((status, report["replicas"].as_array().map(Vec::len)), (200, Some(3)), "{report:#}");
    }
    assert_eq!(world.stable.received() + world.canary.received(), n as u64);
}

#[tokio::test]
async fn a_replica_that_comes_or_goes_loses_nothing_and_each_account_stays_exact() {
    let world = World::new().await;
    world.weigh(33, 2);
    let mut replicas = world.replicas(2).await;
    let mut n = 0;
    for ready in [&[1u8, 2][..], &[1, 2, 3], &[2, 3], &[2]] {
        world.ready(ready);
        if ready.len() == 3 {
            replicas.push(world.replica(3, replicas[0].admin.port()).await);
        }
        for (index, i) in ready.iter().enumerate() {
            replicas[usize::from(*i) - 1].until("its place", is_replica(index, ready.len())).await;
        }
        for _ in 0..50 {
            for replica in &replicas {
                assert_eq!(replica.client().await.get("/").await.status, 200);
                n += 1;
            }
        }
        for replica in &replicas {
            until_verified(replica, "weight=33").await;
            let config = replica.config().await;
            for version in config["ports"][0]["split"]["versions"].as_array().unwrap() {
                assert!(version["error_in_requests"].as_f64().unwrap().abs() < 1.0, "{version}");
            }
        }
    }
    assert_eq!(world.stable.received() + world.canary.received(), n);
}

#[tokio::test]
async fn all_is_verified_only_when_every_ready_replica_is() {
    let world = World::new().await;
    world.weigh(20, 2);
    let replicas = world.replicas(2).await;
    let port = replicas[0].admin.port();
    let everybody = "weight=20&all=true";
    for replica in &replicas {
        until_verified(replica, everybody).await;
        // It is asked without the network, and once.
        let (_, report) = verify(replica, everybody).await;
        let own: Vec<&Value> = report["replicas"].as_array().unwrap().iter().filter(|one| one["own"] == true).collect();
        assert_eq!(own.len(), 1, "{report:#}");
        assert_eq!(own[0]["address"], replica.admin.to_string());
    }
    let why = async |part: &str| {
        let (status, report) = verify(&replicas[0], everybody).await;
        let text = report["why"].to_string();
        status == 503 && text.contains(part)
    };
    // Nobody is there.
    world.ready(&[1, 2, 4]);
    eventually("the dead peer is told", async || why(&format!("127.0.0.4:{port}: cannot be asked")).await).await;
    // One that takes the question and says nothing.
    let silent = TcpListener::bind((address(5), port)).await.unwrap();
    let kept = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(silent.accept().await);
        }
    });
    world.ready(&[1, 2, 5]);
    eventually("the slow peer is told", async || why(&format!("127.0.0.5:{port}: no answer within 2s")).await).await;
    kept.abort();
    // One that says 200 and something else.
    let liar = TcpListener::bind((address(6), port)).await.unwrap();
    let lies = tokio::spawn(async move {
        loop {
            let (mut stream, _) = liar.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = b"HTTP/1.1 200 OK\r\nserver: splitway/0\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            let _ = stream.write_all(answer).await;
        }
    });
    world.ready(&[1, 2, 6]);
    eventually("the liar is told", async || why(&format!("127.0.0.6:{port}: answers 200 OK with something")).await)
        .await;
    lies.abort();
    // One that is not ready is not asked.
    world.api.put("endpointslices", own_slice(&[(1, true), (2, true), (4, false)]));
    until_verified(&replicas[0], everybody).await;
    // One alone tells what it serves, not what others do.
    assert_eq!(verify(&replicas[0], "weight=20").await.0, 200);
}

#[tokio::test]
async fn a_replica_that_has_not_heard_of_the_weight_is_told_about() {
    let world = World::new().await;
    world.weigh(20, 2);
    // It follows an API server of its own, which says nothing new.
    let held = World::new().await;
    held.weigh(20, 2);
    world.ready(&[1, 2]);
    held.ready(&[1, 2]);
    let first = world.replica(1, 0).await;
    let second = held.replica(2, first.admin.port()).await;
    until_verified(&first, "weight=20&generation=2&all=true").await;
    world.weigh(60, 3);
    first.until("the new weight", canary_is(60)).await;
    until_verified(&first, "weight=60&generation=3").await;
    let (status, report) = verify(&first, "weight=60&generation=3&all=true").await;
    assert_eq!(status, 503);
    let why = report["why"].to_string();
    assert!(why.contains(&format!("replica {}", second.admin)) && why.contains("asked for is 60%"), "{report:#}");
    // The same weight of an older Rollout is not the newer one's.
    world.weigh(20, 4);
    until_verified(&first, "weight=20&generation=4").await;
    assert_eq!(verify(&first, "weight=20&generation=4&all=true").await.0, 503);
    assert_eq!(verify(&first, "weight=20&all=true").await.0, 200);
    held.weigh(20, 4);
    until_verified(&first, "weight=20&generation=4&all=true").await;
}

#[tokio::test]
async fn a_version_is_drained_when_nothing_is_open_on_it_in_any_replica() {
    let world = World::new().await;
    let replicas = world.replicas(2).await;
    replicas[1].until("the weight", canary_is(20)).await;
    // Everything to the new version, while a request is open on the old one at the second replica.
    let target = replicas[1].proxy;
    let mut open = Vec::new();
    for n in 1..=5u64 {
        open.push(tokio::spawn(async move { Client::connect(target).await.get("/held").await.app().to_owned() }));
        eventually("it arrives", async || world.stable.received() + world.canary.received() == n).await;
    }
    let old = world.stable.received() as usize;
    assert!((3..=5).contains(&old));
    world.step(5);
    until_verified(&replicas[0], "weight=100&version=v2&all=true").await;
    assert_eq!(verify(&replicas[0], "drained=v1").await.0, 200, "nothing is open here");
    let (status, report) = verify(&replicas[0], "drained=v1&all=true").await;
    assert_eq!(status, 503, "{report:#}");
    assert!(
        report["why"].to_string().contains(&format!("{old} requests or streams are open on version v1")),
        "{report}"
    );
    world.stable.release(old);
    world.canary.release(5);
    until_verified(&replicas[0], "drained=v1&all=true").await;
    for request in open {
        request.await.expect("an answer");
    }
    // A replica that has never served the version has nothing open; if none has, the name is wrong.
    assert_eq!(verify(&replicas[0], "drained=v0&all=true").await.0, 503);
    world.api.delete("pods", "shop-v1-aaaaa");
    let mut promoted = rollout(5);
    promoted["status"]["stableRS"] = json!("v2");
    world.api.put("rollouts", promoted);
    world.ready(&[1, 2, 3]);
    let third = world.replica(3, replicas[0].admin.port()).await;
    third.until("its place", is_replica(2, 3)).await;
    assert_eq!(verify(&third, "drained=v1").await.0, 503);
    until_verified(&third, "drained=v1&all=true").await;
}

#[tokio::test]
async fn without_a_service_all_is_never_verified_and_says_what_to_set() {
    let world = World::new().await;
    let proxy = world.proxy(&[]).await;
    proxy.until("the weight", canary_is(20)).await;
    assert_eq!(verify(&proxy, "weight=20").await.0, 200);
    let (status, report) = verify(&proxy, "weight=20&all=true").await;
    assert_eq!(status, 503);
    assert!(report["why"].to_string().contains("--service NAME"), "{report}");
}
