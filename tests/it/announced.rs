//! The PROXY protocol: what a proxy in front says of its client is believed from trusted proxies, and from nobody else.

use std::time::Duration;

use rustls::pki_types::ServerName;
use splitway::proxy::Listener;
use splitway::route::Role;
use splitway::route::policy::Policy;
use splitway::tls::Front;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::promise::{certificate, connector};
use crate::support::{App, Proxy, Wire, eventually, raw, routing, soon};

const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
const REQUEST: &str = "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const REFUSED: &str = "splitway_refused_requests_total{failure=\"proxy_protocol\"}";

struct Scene {
    app: App,
    proxy: Proxy,
}

impl Scene {
    async fn with(trusted: &[&str], adjust: impl FnOnce(&mut Policy, &mut Listener)) -> Self {
        let app = App::start("stable").await;
        let mut routing = routing(&[("stable", Role::Stable, 1, &[app.address])]);
        routing.policy.trusted_proxies = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let mut listener = Listener::plain(([127, 0, 0, 1], 0).into(), 0);
        listener.proxy_protocol = true;
        adjust(&mut routing.policy, &mut listener);
        let proxy = Proxy::start_with(routing, |settings| settings.proxy.listeners = vec![listener]).await;
        Self { app, proxy }
    }

    /// Before a proxy that is trusted: this machine.
    async fn trusting() -> Self {
        Self::with(&["127.0.0.0/8"], |_, _| {}).await
    }

    async fn refused_are(&self, count: f64) {
        eventually("the refusals counted", async || self.proxy.metric(REFUSED).await == count).await;
    }
}

fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, body].concat()
}

#[tokio::test]
async fn an_announced_client_is_the_one_that_the_application_hears_of() {
    let scene = Scene::trusting().await;
    let mut body = [192, 0, 2, 7, 198, 51, 100, 1].to_vec();
    body.extend([4711u16.to_be_bytes(), 443u16.to_be_bytes()].concat());
    body.extend(b"\x02\0\x05shop.");
    for header in [LINE.as_bytes().to_vec(), version_2(0x21, 0x11, &body)] {
        let answer = raw(scene.proxy.address, [&header, REQUEST.as_bytes()].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("\nx-forwarded-for: 192.0.2.7\n"), "{answer}");
        assert!(!answer.contains("127.0.0.1,"), "{answer}");
    }
    let six = "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n";
    let answer = raw(scene.proxy.address, [six, REQUEST].concat()).await;
    assert!(answer.contains("\nx-forwarded-for: 2001:db8::7\n"), "{answer}");
    assert_eq!(scene.app.received(), 3);
    scene.refused_are(0.0).await;
}

/// Trusted to say who its client is, the proxy in front is not thereby one that its client may pretend to have passed.
#[tokio::test]
async fn an_announced_client_is_not_trusted_itself() {
    let scene = Scene::trusting().await;
    let request = "GET /echo HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nConnection: close\r\n\r\n";
    let answer = raw(scene.proxy.address, [LINE, request].concat()).await;
    assert!(answer.contains("\nx-forwarded-for: 192.0.2.7\n"), "{answer}");
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_has_its_own_address() {
    let scene = Scene::trusting().await;
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), version_2(0x20, 0, &[]), version_2(0x21, 0, b"\x04\0\x01x")] {
        let answer = raw(scene.proxy.address, [&header, REQUEST.as_bytes()].concat()).await;
        assert!(answer.contains("\nx-forwarded-for: 127.0.0.1\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_header_may_come_in_any_pieces() {
    let scene = Scene::trusting().await;
    for cut in 1..LINE.len() {
        let mut wire = Wire::connect(scene.proxy.address).await;
        wire.send(&LINE[..cut]).await;
        // Lets what was sent be read alone, as a rule; it has to be right either way.
        tokio::task::yield_now().await;
        wire.send(&LINE[cut..]).await;
        wire.send(REQUEST).await;
        let answer = wire.end().await;
        assert!(answer.contains("\nx-forwarded-for: 192.0.2.7\n"), "cut at {cut}: {answer}");
    }
    let mut wire = Wire::connect(scene.proxy.address).await;
    for byte in [LINE, REQUEST].concat().bytes() {
        wire.send([byte]).await;
    }
    assert!(wire.end().await.contains("\nx-forwarded-for: 192.0.2.7\n"));
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_is_served_neither_with_a_header_nor_without() {
    let scene = Scene::with(&["192.0.2.0/24"], |_, _| {}).await;
    for bytes in [[LINE, REQUEST].concat(), REQUEST.to_owned()] {
        assert_eq!(raw(scene.proxy.address, bytes).await, "");
    }
    assert_eq!(scene.app.received(), 0);
    scene.refused_are(2.0).await;
}

#[tokio::test]
async fn a_connection_without_a_right_header_is_closed_and_counted() {
    let scene = Scene::trusting().await;
    let wrong = [
        REQUEST.to_owned(),
        ["PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n", REQUEST].concat(),
        ["PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n", REQUEST].concat(),
        ["PROXY UNKNOWN ", &"x".repeat(200), "\r\n", REQUEST].concat(),
    ];
    for bytes in &wrong {
        assert_eq!(raw(scene.proxy.address, bytes).await, "", "{bytes:?}");
    }
    scene.refused_are(wrong.len() as f64).await;
    // A second header is read as HTTP, which it is not.
    let answer = raw(scene.proxy.address, [LINE, LINE, REQUEST].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(scene.app.received(), 0);
}

#[tokio::test]
async fn a_look_whether_the_port_is_open_is_no_refusal_but_half_a_header_is() {
    let scene = Scene::trusting().await;
    drop(TcpStream::connect(scene.proxy.address).await.unwrap());
    let mut half = TcpStream::connect(scene.proxy.address).await.unwrap();
    half.write_all(b"PROXY TC").await.unwrap();
    half.shutdown().await.unwrap();
    assert_eq!(soon("the end", half.read(&mut [0; 16])).await.unwrap(), 0);
    scene.refused_are(1.0).await;
}

#[tokio::test]
async fn a_header_has_as_long_as_a_handshake() {
    let scene = Scene::with(&["127.0.0.0/8"], |policy, _| {
        policy.timeouts.handshake = Duration::from_millis(200);
    })
    .await;
    for bytes in ["", "PROXY TCP4 192.0.2.7"] {
        assert_eq!(raw(scene.proxy.address, bytes).await, "");
    }
    scene.refused_are(2.0).await;
    assert!(raw(scene.proxy.address, [LINE, REQUEST].concat()).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn tls_begins_behind_the_header() {
    let (config, root) = certificate();
    let scene = Scene::with(&["127.0.0.0/8"], |_, listener| listener.tls = Some(Front::new(config))).await;
    let mut tcp = TcpStream::connect(scene.proxy.address).await.unwrap();
    tcp.write_all(LINE.as_bytes()).await.unwrap();
    let name = ServerName::try_from("app.local").unwrap();
    let mut tls = soon("a handshake", connector(&[root]).connect(name, tcp)).await.unwrap();
    tls.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // Whether TLS ends politely is not the question here.
    let _ = soon("an answer", tls.read_to_string(&mut answer)).await;
    assert!(answer.contains("\nx-forwarded-for: 192.0.2.7\n"), "{answer}");
    assert!(answer.contains("\nx-forwarded-proto: https\n"), "{answer}");
}
