//! What clients may have, and what happens beyond: a word, a count, and nobody else is any the worse for it.

use std::process::Command;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use splitway::proxy::Listener;
use splitway::route::Role;
use splitway::route::policy::Policy;
use splitway::tls::Front;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Serving;
use crate::promise::{certificate, connector};
use crate::support::{App, Client, Proxy, Wire, eventually, raw, routing, soon};

async fn scene(workers: usize, adjust: impl FnOnce(&mut Policy, &mut Listener)) -> (App, Proxy) {
    let app = App::start("stable").await;
    let mut routing = routing(&[("stable", Role::Stable, 1, &[app.address])]);
    let mut listener = Listener::plain(([127, 0, 0, 1], 0).into(), 0);
    adjust(&mut routing.policy, &mut listener);
    let proxy = Proxy::start_with(routing, |settings| {
        settings.proxy.listeners = vec![listener];
        settings.proxy.workers = workers;
    })
    .await;
    (app, proxy)
}

async fn refused(proxy: &Proxy, failure: &str) -> f64 {
    proxy.metric(&format!("splitway_refused_requests_total{{failure=\"{failure}\"}}")).await
}

async fn ended(proxy: &Proxy) -> f64 {
    proxy.metric("splitway_downstream_connections_ended_total{limit=\"request_limit\"}").await
}

/// Names and defaults in README's table of limits, each as a file would have them.
fn table() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let table = readme.split_once("\n### Limits and timeouts\n").expect("the heading").1;
    let rows = table.lines().map_while(|line| match line {
        "" => Some(None),
        line if line.starts_with('|') => Some(Some(line)),
        _ => None,
    });
    let mut found = Vec::new();
    for row in rows.flatten().skip(2) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let names: Vec<&str> = cells[1].split(", ").map(|name| name.trim_matches('`')).collect();
        // A default is the beginning of its cell; or several, behind a colon if there are words before.
        let default = cells[2].rsplit_once(": ").map_or(cells[2], |(_, default)| default);
        let defaults: Vec<&str> = if names.len() == 1 { vec![default] } else { default.split(", ").collect() };
        assert_eq!(names.len(), defaults.len(), "{row}");
        for (name, default) in names.iter().zip(defaults) {
            // Numbers with a unit are sizes and times; what else follows is explanation.
            let words: Vec<&str> = default.split_whitespace().filter(|word| !matches!(*word, "at" | "least")).collect();
            let number = words[0].trim_end_matches(',').replace(',', "");
            let unit = words.get(1).map_or("", |word| word.trim_end_matches([',', ':']));
            let unit = if matches!(unit, "KiB" | "MiB" | "s" | "min" | "h") { unit } else { "" };
            found.push(((*name).to_owned(), format!("{number}{}", unit.replace("min", "m"))));
        }
    }
    found
}

#[test]
fn the_table_in_the_readme_has_every_limit_with_its_default() {
    let written = table();
    let mut file =
        String::from("listeners: [{ address: 127.0.0.1:0 }]\nbackends: { stable: { endpoints: [\"127.0.0.1:1\"] } }\n");
    for group in ["limits", "timeouts", "retry", "outliers"] {
        let fields: Vec<String> = written
            .iter()
            .filter_map(|(name, value)| Some(format!("{}: {value}", name.strip_prefix(group)?.strip_prefix('.')?)))
            .collect();
        assert!(!fields.is_empty(), "{group}");
        file += &format!("{group}: {{ {} }}\n", fields.join(", "));
    }
    let read =
        |text: &str| splitway::config::parse(text, "README.md", &Default::default()).unwrap_or_else(|e| panic!("{e}"));
    let splitway::config::What::Declared(declared) = &read(&file).what else { panic!("not from a Rollout") };
    assert_eq!(declared.policy, Policy::default(), "{file}");

    // And none is left out.
    let schema: serde_json::Value = serde_json::from_str(&splitway::config::schema()).unwrap();
    for group in ["limits", "timeouts"] {
        let fields = find(&schema, group).unwrap_or_else(|| panic!("{group} in the schema"));
        for field in fields.as_object().unwrap().keys() {
            let name = format!("{group}.{field}");
            assert!(written.iter().any(|(known, _)| *known == name), "README's table has no {name}");
        }
    }
}

/// The properties of the definition by this name.
fn find<'a>(schema: &'a serde_json::Value, group: &str) -> Option<&'a serde_json::Value> {
    let definitions = schema["$defs"].as_object()?;
    let (_, definition) = definitions.iter().find(|(name, _)| name.eq_ignore_ascii_case(group))?;
    definition.get("properties")
}

#[tokio::test]
async fn connections_of_one_address_are_counted_over_all_workers() {
    let (_app, proxy) = scene(4, |policy, _| policy.limits.connections_per_address = Some(5)).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = proxy.client().await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    for n in 1..=8 {
        let answer = raw(proxy.address, "").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("x-splitway-reason: address_limit\r\n"), "{answer}");
        assert_eq!(refused(&proxy, "address_limit").await, f64::from(n));
    }
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200);
    }
    clients.pop();
    eventually("room for another connection", async || {
        let mut client = Client::connect(proxy.address).await;
        client.try_send(Request::get("/"), "").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn behind_another_proxy_the_announced_addresses_are_counted() {
    let (_app, proxy) = scene(2, |policy, listener| {
        policy.limits.connections_per_address = Some(1);
        policy.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        listener.proxy_protocol = true;
    })
    .await;
    let mut kept = Vec::new();
    for client in 1..=3 {
        let mut wire = Wire::connect(proxy.address).await;
        wire.send(format!("PROXY TCP4 192.0.2.{client} 198.51.100.1 4711 443\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        assert!(wire.until("\r\n").await.contains(" 200 "));
        kept.push(wire);
    }
    let answer = raw(proxy.address, "PROXY TCP4 192.0.2.2 198.51.100.1 4712 443\r\n").await;
    assert!(answer.contains("x-splitway-reason: address_limit\r\n"), "{answer}");
    assert_eq!(refused(&proxy, "address_limit").await, 1.0);
}

#[tokio::test]
async fn with_its_last_request_an_http_1_connection_says_that_it_ends() {
    let (app, proxy) = scene(1, |policy, _| policy.limits.requests_per_connection = Some(3)).await;
    // All at once: the fourth is for another connection, and nobody takes it for served.
    let answer = raw(proxy.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(4)).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
    assert_eq!(answer.matches("connection: close\r\n").count(), 1, "{answer}");
    assert_eq!(app.received(), 3);
    eventually("its count", async || ended(&proxy).await == 1.0).await;
}

#[tokio::test]
async fn with_its_last_request_an_http_2_connection_says_that_it_ends_and_loses_none() {
    let (app, proxy) = scene(1, |policy, _| policy.limits.requests_per_connection = Some(3)).await;
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, engine) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let engine = tokio::spawn(engine);
    let mut answers = Vec::new();
    // The last two are sent before the client can know.
    for _ in 0..5 {
        let request = Request::get("http://a/").body(Empty::<Bytes>::new()).unwrap();
        soon("room for a request", sender.ready()).await.unwrap();
        answers.push(sender.send_request(request));
    }
    for answer in answers {
        assert_eq!(soon("an answer", answer).await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(app.received(), 5);
    // It ends without an error: GOAWAY named the last stream.
    soon("the end of the connection", engine).await.unwrap().unwrap();
    // One connection, however many of its answers said so.
    eventually("its count", async || ended(&proxy).await == 1.0).await;
}

#[tokio::test]
async fn a_client_behind_tls_that_takes_nothing_is_not_kept() {
    let (config, root) = certificate();
    // So small that TLS takes each answer whole, when the connection takes no more: only a flush shows that.
    let small = "GET /bytes/3000 HTTP/1.1\r\nHost: a\r\n\r\n";
    let (app, proxy) = scene(1, |policy, listener| {
        policy.timeouts.idle = Duration::from_secs(1);
        listener.tls = Some(Front::new(config));
    })
    .await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let tcp = socket.connect(proxy.address).await.unwrap();
    let name = ServerName::try_from("app.local").unwrap();
    let mut client = soon("the handshake", connector(&[root]).connect(name, tcp)).await.unwrap();
    // As many as it is asked to answer, until it stops reading.
    let asks = async { while client.write_all(small.as_bytes()).await.is_ok() && client.flush().await.is_ok() {} };
    let _ = tokio::time::timeout(Duration::from_secs(2), asks).await;
    assert!(app.received() > 10);
    eventually("no connection", async || proxy.metric("splitway_downstream_connections").await == 0.0).await;
}

#[tokio::test]
async fn handshakes_beyond_the_limit_are_closed_and_the_others_go_on() {
    let (config, root) = certificate();
    let front = Front::new(config);
    let (_app, proxy) = scene(1, |policy, listener| {
        policy.limits.handshakes = 1;
        listener.tls = Some(front);
    })
    .await;
    let connector = connector(&[root]);
    let handshake = async || {
        let name = ServerName::try_from("app.local").unwrap();
        let tcp = TcpStream::connect(proxy.address).await.unwrap();
        soon("the handshake or its end", connector.connect(name, tcp)).await
    };
    // Its handshake has ended, so it is not in the count.
    let open = handshake().await.expect("the only one");
    // One worker takes connections in the order in which they come.
    let silent = TcpStream::connect(proxy.address).await.unwrap();
    for n in 1..=3 {
        assert!(handshake().await.is_err());
        assert_eq!(refused(&proxy, "handshake_limit").await, f64::from(n));
    }
    drop(silent);
    eventually("another handshake", async || handshake().await.is_ok()).await;
    drop(open);
}

/// Ticks of a hundredth of a second that a process has used.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // After the name, which may contain anything, comes field 3; 14 and 15 are the time in user and kernel mode.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    [fields[11], fields[12]].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn without_descriptors_those_who_are_served_are_served_and_the_others_are_told() {
    let app = App::start("stable").await;
    let binary = env!("CARGO_BIN_EXE_splitway");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", binary, "run", "--print-addresses"]).env_clear();
    let proxy = Serving::spawn(&mut command, &["--stable", &app.address.to_string(), "--workers", "2"]).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);

    let mut idle = Vec::new();
    for _ in 0..128 {
        idle.push(TcpStream::connect(proxy.proxy).await.unwrap());
    }
    let told = idle.last_mut().unwrap();
    let mut words = String::new();
    soon("a word for the last one", told.read_to_string(&mut words)).await.unwrap();
    assert!(words.starts_with("HTTP/1.1 503 ") && words.contains("no_descriptors"), "{words}");

    // What is measured is a stretch of time, so time has to pass.
    let (before, began) = (ticks(proxy.process.id()), Instant::now());
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200, "a connection that is served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (used, passed) = (ticks(proxy.process.id()) - before, began.elapsed());
    println!("no descriptors: {used} hundredths of a second of CPU in {passed:?}");
    assert!((used as f64) < passed.as_secs_f64() * 5.0, "{used} ticks in {passed:?}");

    let freed = Instant::now();
    drop(idle);
    eventually("another connection", async || {
        let Ok(mut client) = TcpStream::connect(proxy.proxy).await else { return false };
        let asked = tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        let mut answer = String::new();
        asked.is_ok() && client.read_to_string(&mut answer).await.is_ok() && answer.contains(" 200 ")
    })
    .await;
    println!("accepted again {:?} after descriptors came back", freed.elapsed());
    assert_eq!(client.get("/").await.status, 200);
    assert!(proxy.metric("splitway_refused_requests_total", "no_descriptors").await >= 1.0);
}
