//! A cut answer never looks whole to the client, and nothing comes after it: neither on the client's connection nor on
//! the application's.

use std::time::Duration;

use splitway::route::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{failures, one_worker};
use crate::support::{Wire, eventually, routing, soon};

/// How the application ends an answer before its time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Close,
    Reset,
    Silence,
}

/// Reads one request, answers with `begin`, and ends like that. Connections after the first answer `next`.
async fn ends(begin: &'static str, end: End) -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            if number > 0 {
                let next = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nnext";
                stream.write_all(next.as_bytes()).await.unwrap();
                continue;
            }
            stream.write_all(begin.as_bytes()).await.unwrap();
            match end {
                End::Close => drop(stream),
                End::Reset => reset(stream),
                End::Silence => silent.push(stream),
            }
        }
    });
    address
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

#[tokio::test]
async fn after_a_cut_answer_nothing_comes_on_either_side() {
    for begin in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\ntrailer: x\r\n",
    ] {
        for (end, request_bound) in
            [(End::Close, false), (End::Reset, false), (End::Silence, false), (End::Silence, true)]
        {
            let address = ends(begin, end).await;
            let mut routing = routing(&[("stable", Role::Stable, 1, &[address])]);
            let short = Some(Duration::from_millis(200));
            if request_bound {
                routing.policy.timeouts.request = short;
            } else {
                routing.policy.timeouts.between_bytes = short;
            }
            let proxy = one_worker(routing).await;
            let mut wire = Wire::connect(proxy.address).await;
            // The second request is there already when the first answer is cut.
            wire.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = wire.end().await;
            assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{begin:?} {end:?}: {answer:?}");
            assert!(!answer.contains("next"), "{begin:?} {end:?}: {answer:?}");
            assert!(!answer.ends_with("0\r\n\r\n"), "{begin:?} {end:?} looks whole: {answer:?}");
            let word = match (end, request_bound) {
                (End::Silence, false) => "idle_timeout",
                (End::Silence, true) => "request_timeout",
                _ => "upstream_cut",
            };
            eventually("the cut in the metrics", async || proxy.metric(&failures(Role::Stable, word)).await == 1.0)
                .await;
            // The connection of the cut answer serves nobody any more.
            let open = "splitway_upstream_connections{version=\"stable\",role=\"stable\"}";
            eventually("no connection left", async || proxy.metric(open).await == 0.0).await;
            assert_eq!(proxy.client().await.get("/3").await.text(), "next");
        }
    }
}

/// An answer without a length ends with its connection: in HTTP/1.1 chunks tell the end from a cut.
#[tokio::test]
async fn an_answer_without_a_length_that_is_reset_does_not_look_whole() {
    let address = ends("HTTP/1.1 200 OK\r\n\r\nhalf", End::Reset).await;
    let proxy = one_worker(routing(&[("stable", Role::Stable, 1, &[address])])).await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = soon("the end", wire.end()).await;
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer:?}");
}
