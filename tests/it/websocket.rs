//! Tunnels: WebSocket, byte by byte and as a library speaks it.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use splitway::proxy::Drain;
use splitway::route::bucket::{KeySource, Sticky};
use splitway::route::{Role, Routing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{App, Proxy, eventually, routing, soon};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An application whose connections the test holds itself: each comes with the head of its first request.
struct Application {
    address: SocketAddr,
    accepted: mpsc::UnboundedReceiver<(String, TcpStream)>,
}

impl Application {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, accepted) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = head(&mut stream).await;
                if sender.send((head, stream)).is_err() {
                    return;
                }
            }
        });
        Self { address, accepted }
    }

    async fn next(&mut self) -> (String, TcpStream) {
        soon("a request at the application", self.accepted.recv()).await.expect("it runs")
    }

    fn routing(&self) -> Routing {
        routing(&[("stable", Role::Stable, 1, &[self.address])])
    }
}

/// One head and not a byte more; whatever came before the end, if that comes first.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match soon("a head", stream.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    soon("a connection", TcpStream::connect(proxy.address)).await.unwrap()
}

async fn send(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    soon("room to write", stream.write_all(bytes.as_ref())).await.unwrap();
}

async fn expect(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    let mut read = vec![0; bytes.as_ref().len()];
    soon("bytes", stream.read_exact(&mut read)).await.unwrap();
    assert_eq!(read, bytes.as_ref());
}

/// Everything until the end, however it comes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut read)).await;
    read
}

/// A client and an application with a tunnel between them.
async fn tunnel(proxy: &Proxy, application: &mut Application) -> (TcpStream, TcpStream) {
    let mut client = connect(proxy).await;
    send(&mut client, ASK).await;
    let (_, mut other) = application.next().await;
    send(&mut other, SWITCH).await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
    (client, other)
}

async fn open_tunnels(proxy: &Proxy) -> f64 {
    proxy.metric("splitway_open_tunnels{version=\"stable\",role=\"stable\"}").await
}

fn lines(head: &str) -> Vec<String> {
    head.lines().map(str::to_ascii_lowercase).collect()
}

#[tokio::test]
async fn messages_of_a_mebibyte_come_back_whole() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() || message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[address])])).await;
    let stream = connect(&proxy).await;
    let url = format!("ws://{}/chat", proxy.address);
    let (mut socket, answer) = soon("a handshake", tokio_tungstenite::client_async(url, stream)).await.unwrap();
    assert_eq!(answer.status(), 101);
    for round in 0..4u8 {
        let payload: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8 ^ round).collect();
        soon("room", socket.send(Message::binary(payload.clone()))).await.unwrap();
        soon("room", socket.send(Message::text("short"))).await.unwrap();
        assert_eq!(soon("a message", socket.next()).await.unwrap().unwrap().into_data(), payload);
        assert_eq!(soon("a message", socket.next()).await.unwrap().unwrap(), Message::text("short"));
    }
    assert_eq!(open_tunnels(&proxy).await, 1.0);
    soon("the close", socket.close(None)).await.unwrap();
    while soon("the end", socket.next()).await.is_some_and(|one| one.is_ok()) {}
    drop(socket);
    soon("the application", echo).await.unwrap();
    eventually("the tunnel to end", async || open_tunnels(&proxy).await == 0.0).await;
    let counted = "splitway_requests_total{version=\"stable\",role=\"stable\",method=\"GET\",code=\"101\",\
                   reason=\"weighted\",route=\"\",failure=\"\"}";
    assert_eq!(proxy.metric(counted).await, 1.0);
    assert_eq!(proxy.metric("splitway_requests_in_flight{version=\"stable\",role=\"stable\"}").await, 0.0);
}

#[tokio::test]
async fn the_handshake_passes_with_its_upgrade_and_bytes_behind_the_101_belong_to_the_tunnel() {
    let mut application = Application::start().await;
    let proxy = Proxy::start(application.routing()).await;
    let mut client = connect(&proxy).await;
    send(&mut client, ASK).await;
    let (asked, mut other) = application.next().await;
    let asked = lines(&asked);
    for line in ["get /chat http/1.1", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"] {
        assert!(asked.iter().any(|one| one == line), "{line}: {asked:?}");
    }
    send(&mut other, format!("{SWITCH}early")).await;
    let switched = lines(&head(&mut client).await);
    assert!(switched[0].starts_with("http/1.1 101 "), "{switched:?}");
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="] {
        assert!(switched.iter().any(|one| one == line), "{line}: {switched:?}");
    }
    assert!(!switched.iter().any(|line| line.starts_with("content-length") || line.starts_with("transfer-encoding")));
    expect(&mut client, "early").await;
    // What is neither HTTP nor a frame is none of the proxy's business.
    for bytes in [&b"\0\r\n\r\nGET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 300], b"HTTP/1.1 200 OK\r\n\r\n"] {
        send(&mut client, bytes).await;
        expect(&mut other, bytes).await;
        send(&mut other, bytes).await;
        expect(&mut client, bytes).await;
    }
}

#[tokio::test]
async fn each_way_of_a_tunnel_ends_for_itself() {
    let mut application = Application::start().await;
    let proxy = Proxy::start(application.routing()).await;
    for client_first in [true, false] {
        let (client, other) = tunnel(&proxy, &mut application).await;
        let (mut first, mut second) = if client_first { (client, other) } else { (other, client) };
        send(&mut first, "last").await;
        first.shutdown().await.unwrap();
        assert_eq!(rest(&mut second).await, b"last");
        assert_eq!(open_tunnels(&proxy).await, 1.0, "half of it is still open");
        for _ in 0..3 {
            send(&mut second, "more").await;
            expect(&mut first, "more").await;
        }
        second.shutdown().await.unwrap();
        assert_eq!(rest(&mut first).await, b"");
        eventually("the tunnel to end", async || open_tunnels(&proxy).await == 0.0).await;
    }
}

#[tokio::test]
async fn only_a_get_of_http_1_1_without_a_body_is_upgraded_and_only_to_websocket() {
    let mut application = Application::start().await;
    let proxy = Proxy::start(application.routing()).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.0\r\nHost: a\r\n{upgrade}\r\n"),
        format!("POST / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n"),
        format!("HEAD / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n"),
        format!("POST / HTTP/1.1\r\nHost: a\r\n{upgrade}Content-Length: 2\r\n\r\nhi"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}Content-Length: 2\r\n\r\nhi"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let mut client = connect(&proxy).await;
        send(&mut client, &request).await;
        let (asked, mut other) = application.next().await;
        assert!(!lines(&asked).iter().any(|line| line.starts_with("upgrade:") || line.contains("upgrade")), "{asked}");
        send(&mut other, SWITCH).await;
        let answer = head(&mut client).await;
        assert!(answer.split_once("\r\n").unwrap().0.contains(" 502 "), "{request}: {answer}");
        assert_eq!(open_tunnels(&proxy).await, 0.0);
    }
}

#[tokio::test]
async fn a_101_that_does_not_say_websocket_is_a_502() {
    let mut application = Application::start().await;
    let proxy = Proxy::start(application.routing()).await;
    for fields in [
        "",
        "Connection: Upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
    ] {
        let mut client = connect(&proxy).await;
        send(&mut client, ASK).await;
        let (_, mut other) = application.next().await;
        send(&mut other, format!("HTTP/1.1 101 x\r\n{fields}\r\n")).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{fields}: {answer}");
        assert!(answer.contains("x-splitway-reason: upstream_invalid"), "{answer}");
        assert_eq!(rest(&mut other).await, b"", "that connection is of no use any more");
    }
}

#[tokio::test]
async fn bytes_sent_before_the_101_wait_for_it() {
    let mut application = Application::start().await;
    let proxy = Proxy::start(application.routing()).await;
    for early in [&[0x81, 0x83, 1, 2, 3, 4, b'a', b'b', b'c'][..], b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"] {
        // Together with the request, and behind it.
        for together in [true, false] {
            let mut client = connect(&proxy).await;
            if together {
                send(&mut client, [ASK.as_bytes(), early].concat()).await;
            } else {
                send(&mut client, ASK).await;
            }
            let (_, mut other) = application.next().await;
            if !together {
                send(&mut client, early).await;
            }
            let mut byte = [0];
            let passed = tokio::time::timeout(Duration::from_millis(50), other.read(&mut byte)).await;
            assert!(passed.is_err(), "nothing of it has passed");
            send(&mut other, SWITCH).await;
            assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
            expect(&mut other, early).await;
            send(&mut client, "then").await;
            expect(&mut other, "then").await;
        }
    }
}

#[tokio::test]
async fn an_upgrade_that_is_answered_otherwise_stays_http() {
    let mut application = Application::start().await;
    let proxy = Proxy::start(application.routing()).await;
    for status in ["200 OK", "403 Forbidden", "426 Upgrade Required"] {
        let answer =
            format!("HTTP/1.1 {status}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n");
        let mut client = connect(&proxy).await;
        send(&mut client, ASK).await;
        let (_, mut other) = application.next().await;
        send(&mut other, &answer).await;
        let first = head(&mut client).await;
        assert!(first.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{first}");
        assert!(!first.to_lowercase().contains("upgrade:"), "{first}");
        // The next request, on the same two connections.
        send(&mut client, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let next = head(&mut other).await;
        assert!(next.starts_with("GET /next HTTP/1.1\r\n") && !next.to_lowercase().contains("upgrade"), "{next}");
        send(&mut other, "HTTP/1.1 204 No Content\r\n\r\n").await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 204 "));

        // A client that has begun to speak WebSocket all the same is refused.
        send(&mut client, ASK).await;
        assert!(head(&mut other).await.starts_with("GET /chat "));
        send(&mut client, [0x81, 0x83, 1, 2, 3, 4, b'a', b'b', b'c']).await;
        send(&mut other, &answer).await;
        assert!(head(&mut client).await.starts_with(&format!("HTTP/1.1 {status}\r\n")));
        let refused = String::from_utf8(rest(&mut client).await).unwrap();
        assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
        drop(client);
        // Whoever is next on that connection finds nothing of it.
        let mut innocent = connect(&proxy).await;
        send(&mut innocent, "GET /innocent HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let seen = tokio::select! {
            seen = head(&mut other) => seen,
            (seen, stream) = application.next() => { other = stream; seen }
        };
        assert!(seen.starts_with("GET /innocent HTTP/1.1\r\n"), "{seen}");
        send(&mut other, "HTTP/1.1 204 No Content\r\n\r\n").await;
        assert!(head(&mut innocent).await.starts_with("HTTP/1.1 204 "));
    }
}

#[tokio::test]
async fn two_hundred_handshakes_are_split_exactly() {
    let (mut stable, mut canary) = (Application::start().await, Application::start().await);
    let weights = [("stable", Role::Stable, 9, &[stable.address][..]), ("canary", Role::Canary, 1, &[canary.address])];
    let proxy = Proxy::start(routing(&weights)).await;
    let mut open = Vec::new();
    let mut of_canary = 0;
    for _ in 0..200 {
        let mut client = connect(&proxy).await;
        send(&mut client, ASK).await;
        let (mut other, is_canary) = tokio::select! {
            (_, stream) = stable.next() => (stream, false),
            (_, stream) = canary.next() => (stream, true),
        };
        of_canary += u32::from(is_canary);
        send(&mut other, SWITCH).await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
        open.push((client, other));
    }
    assert_eq!(of_canary, 20);
    assert_eq!(proxy.metric("splitway_open_tunnels{version=\"canary\",role=\"canary\"}").await, 20.0);
    assert_eq!(open_tunnels(&proxy).await, 180.0);
    // What is open stays where it is, whatever becomes of the weights.
    let weights = [("stable", Role::Stable, 0, &[stable.address][..]), ("canary", Role::Canary, 1, &[canary.address])];
    proxy.set(routing(&weights)).await;
    for (client, other) in &mut open {
        send(client, "still").await;
        expect(other, "still").await;
    }
}

#[tokio::test]
async fn a_sticky_user_has_every_tunnel_to_the_same_version() {
    let (mut stable, mut canary) = (Application::start().await, Application::start().await);
    let keys = vec![KeySource::Header("x-user".parse().unwrap())];
    let sticky = Some(Sticky { keys, salt: "spring".to_owned(), cookie: None });
    let weights = [("stable", Role::Stable, 1, &[stable.address][..]), ("canary", Role::Canary, 1, &[canary.address])];
    let proxy = Proxy::start(Routing { sticky, ..routing(&weights) }).await;
    let mut both = [0, 0];
    for user in 0..12 {
        let mut seen = Vec::new();
        for _ in 0..4 {
            let mut client = connect(&proxy).await;
            send(&mut client, ASK.replace("Host: a", &format!("Host: a\r\nX-User: {user}"))).await;
            let is_canary = tokio::select! {
                (_, mut other) = stable.next() => { send(&mut other, SWITCH).await; false },
                (_, mut other) = canary.next() => { send(&mut other, SWITCH).await; true },
            };
            assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
            seen.push(is_canary);
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "user {user}");
        both[usize::from(seen[0])] += 1;
    }
    assert!(both[0] > 0 && both[1] > 0, "{both:?}");
}

/// A close frame with the code 1001, as a server and as a client would write it.
fn is_going_away(bytes: &[u8], masked: bool) -> bool {
    match bytes {
        [0x88, 2, 3, 0xE9] => !masked,
        [0x88, 0x82, a, b, _, _, high, low] => masked && [high ^ a, low ^ b] == [3, 0xE9],
        _ => false,
    }
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let mut application = Application::start().await;
    let mut routing = application.routing();
    routing.policy.timeouts.tunnel_idle = Duration::from_millis(300);
    let proxy = Proxy::start(routing).await;
    let (mut client, mut other) = tunnel(&proxy, &mut application).await;
    assert!(is_going_away(&rest(&mut client).await, false));
    assert!(is_going_away(&rest(&mut other).await, true));
    eventually("the tunnel to end", async || open_tunnels(&proxy).await == 0.0).await;
}

#[tokio::test]
async fn tunnels_outlive_the_drain_until_its_limit_and_are_told_that_it_ends() {
    let mut application = Application::start().await;
    let proxy = Proxy::start_with(application.routing(), |settings| {
        settings.proxy.drain = Drain { delay: Duration::ZERO, timeout: Duration::from_secs(1) };
    })
    .await;
    let mut between = Vec::new();
    for _ in 0..100 {
        between.push(tunnel(&proxy, &mut application).await);
    }
    // The middle of a frame of 5 bytes, in both directions.
    let (mut client, mut other) = tunnel(&proxy, &mut application).await;
    send(&mut client, [0x81, 0x85, 0, 0, 0, 0, b'h', b'a']).await;
    send(&mut other, [0x81, 0x05, b'h', b'a']).await;
    expect(&mut other, [0x81, 0x85, 0, 0, 0, 0, b'h', b'a']).await;
    expect(&mut client, [0x81, 0x05, b'h', b'a']).await;

    let address = proxy.address;
    let draining = tokio::spawn(proxy.running.drain());
    // A connection without a tunnel would be closed now.
    eventually("the end of accepting", async || TcpStream::connect(address).await.is_err()).await;
    for (client, other) in &mut between {
        send(client, [0x81, 0x80, 1, 2, 3, 4]).await;
        expect(other, [0x81, 0x80, 1, 2, 3, 4]).await;
        send(other, [0x81, 0x02, b'h', b'i']).await;
        expect(client, [0x81, 0x02, b'h', b'i']).await;
    }
    assert_eq!(soon("the drain", draining).await.unwrap(), 101);
    for (client, other) in &mut between {
        assert!(is_going_away(&rest(client).await, false));
        assert!(is_going_away(&rest(other).await, true));
    }
    assert_eq!(rest(&mut client).await, b"", "nothing is put into a frame");
    assert_eq!(rest(&mut other).await, b"");
}

#[tokio::test]
async fn when_one_side_dies_so_does_the_other() {
    let mut application = Application::start().await;
    let proxy = Proxy::start(application.routing()).await;
    for client_dies in [true, false] {
        let (client, other) = tunnel(&proxy, &mut application).await;
        let (dies, mut stays) = if client_dies { (client, other) } else { (other, client) };
        dies.set_zero_linger().unwrap();
        drop(dies);
        rest(&mut stays).await;
        eventually("the tunnel to end", async || open_tunnels(&proxy).await == 0.0).await;
    }
}

#[tokio::test]
async fn the_connections_of_a_tunnel_serve_nothing_after_it() {
    let mut application = Application::start().await;
    let proxy = Proxy::start_with(application.routing(), |settings| settings.proxy.workers = 1).await;
    let (mut client, mut other) = tunnel(&proxy, &mut application).await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut other).await, b"");
    other.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
    let mut client = connect(&proxy).await;
    send(&mut client, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (asked, mut fresh) = application.next().await;
    assert!(asked.starts_with("GET /next "), "on a connection of its own: {asked}");
    send(&mut fresh, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 204 "));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_application_and_loses_nothing() {
    let mut application = Application::start().await;
    let proxy = Proxy::start(application.routing()).await;
    let (mut client, mut other) = tunnel(&proxy, &mut application).await;
    let piece = [7; 64 * 1024];
    let mut sent = 0;
    // The kernel's buffers of two connections, and a piece of ours.
    while let Ok(n) = tokio::time::timeout(Duration::from_millis(500), other.write(&piece)).await {
        sent += n.unwrap();
        assert!(sent < 64 << 20, "it is never stopped");
    }
    let reader = tokio::spawn(async move {
        let read = rest(&mut client).await;
        assert!(read.iter().all(|byte| *byte == 7));
        read.len()
    });
    other.shutdown().await.unwrap();
    assert_eq!(soon("the rest", reader).await.unwrap(), sent);
}

#[tokio::test]
async fn an_answer_before_a_tunnel_comes_before_it() {
    let app = App::start("stable").await;
    let proxy = Proxy::start(routing(&[("stable", Role::Stable, 1, &[app.address])])).await;
    let mut client = connect(&proxy).await;
    // An application that knows nothing of WebSocket ignores the Upgrade.
    for _ in 0..2 {
        send(&mut client, ASK).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        expect(&mut client, "stable").await;
    }
    assert_eq!(app.received(), 2);
}
