//! `/verify` on one proxy: the weight that is served, and what is open on a version. (Several replicas: `follow/replicas`.)

use serde_json::Value;
use splitway::route::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{App, Proxy, Wire, eventually, routing, soon, two};

async fn verify(proxy: &Proxy, query: &str) -> (u16, Value) {
    let answer = proxy.ask_admin(&format!("/verify?{query}")).await;
    (answer.status, serde_json::from_slice(&answer.body).expect("JSON"))
}

async fn is_drained(proxy: &Proxy, version: &str) -> bool {
    verify(proxy, &format!("drained={version}")).await.0 == 200
}

#[tokio::test]
async fn a_weight_is_verified_while_it_is_served_and_from_the_moment_it_is() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (3, 1))).await;
    let mut client = proxy.client().await;
    for (generation, (weights, right, wrong)) in
        [((3, 1), "25", "25.0001"), ((945, 55), "5.5", "5"), ((0, 1), "100", "99"), ((1, 0), "0", "1")]
            .iter()
            .enumerate()
    {
        if generation > 0 {
            proxy.set(two(&stable, &canary, *weights)).await;
        }
        let generation = generation + 1;
        let before = canary.received();
        for _ in 0..57 {
            client.get("/").await;
            let (status, report) = verify(&proxy, &format!("weight={right}&generation={generation}")).await;
            assert_eq!(status, 200, "{report:#}");
        }
        let (_, report) = verify(&proxy, &format!("weight={right}")).await;
        let port = &report["ports"][0];
        assert_eq!((&port["requests"], &port["uncounted"]), (&57.into(), &0.into()), "{report:#}");
        let shown = port["versions"].as_array().unwrap().iter().find(|one| one["version"] == "canary").unwrap();
        assert_eq!(shown["sent"], canary.received() - before, "since these weights are in force");
        assert_eq!(verify(&proxy, &format!("weight={wrong}")).await.0, 503);
        assert_eq!(verify(&proxy, &format!("weight={right}&generation={}", generation + 1)).await.0, 503);
    }
}

#[tokio::test]
async fn a_weight_is_verified_under_load() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (55, 45))).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (address, stopped) = (proxy.address, stopped.clone());
            tokio::spawn(async move {
                let mut client = crate::support::Client::connect(address).await;
                while !*stopped.borrow() {
                    assert_eq!(client.get("/").await.status, 200);
                }
            })
        })
        .collect();
    for _ in 0..100 {
        let (status, report) = verify(&proxy, "weight=45").await;
        assert_eq!(status, 200, "{report:#}");
    }
    stop.send_replace(true);
    for client in load {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_held_request_is_open_until_its_answer() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let proxy = Proxy::start(two(&stable, &canary, (1, 0))).await;
    assert!(is_drained(&proxy, "stable").await);
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    stable.reaches(1).await;
    let (status, report) = verify(&proxy, "drained=stable").await;
    assert_eq!((status, &report["open"]), (503, &1.into()), "{report}");
    // Not the other version's, and still its own when it is no longer served.
    assert!(is_drained(&proxy, "canary").await);
    proxy.set(routing(&[("canary", Role::Stable, 1, &[canary.address])])).await;
    assert!(!is_drained(&proxy, "stable").await);
    stable.release(1);
    wire.until("stable").await;
    eventually("nothing open", async || is_drained(&proxy, "stable").await).await;
}

#[tokio::test]
async fn a_download_is_open_until_its_last_byte() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[listener.local_addr().unwrap()])])).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut stream, _) = soon("the request", listener.accept()).await.unwrap();
    assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await.unwrap();
    wire.until("first").await;
    assert!(!is_drained(&proxy, "stable").await);
    stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
    wire.until("last").await;
    eventually("nothing open", async || is_drained(&proxy, "stable").await).await;
}

#[tokio::test]
async fn an_upload_is_open_until_its_end_even_after_the_answer() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[listener.local_addr().unwrap()])])).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    let (mut stream, _) = soon("the request", listener.accept()).await.unwrap();
    let mut got = Vec::new();
    while !got.windows(5).any(|part| part == b"first") {
        assert!(soon("the upload", stream.read_buf(&mut got)).await.unwrap() > 0);
    }
    assert!(!is_drained(&proxy, "stable").await);
    // The whole answer, while the body is still on its way.
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    wire.until("done").await;
    assert!(!is_drained(&proxy, "stable").await, "the answer has ended, and the body has not");
    wire.send("4\r\nlast\r\n0\r\n\r\n").await;
    while !got.windows(4).any(|part| part == b"last") {
        assert!(soon("the upload", stream.read_buf(&mut got)).await.unwrap() > 0);
    }
    drop(stream);
    eventually("nothing open", async || is_drained(&proxy, "stable").await).await;
}
