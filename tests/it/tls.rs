//! TLS with clients and with endpoints, through the real binary: what is shown, what is believed, and what happens when files
//! change while clients are busy.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::process::{Folder, Process, Serving, splitway};
use crate::support::{App, Client, eventually, soon};

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Signed {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn sign(&self, names: &[&str]) -> Signed {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        Signed { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

impl Signed {
    /// Into `NAME.pem` and `NAME.key`, one after the other and in place, as careless programs do.
    pub fn write(&self, folder: &Folder, name: &str) {
        folder.write(&format!("{name}.pem"), &self.certificate);
        folder.write(&format!("{name}.key"), &self.key);
    }

    /// Each by a rename.
    fn replace(&self, folder: &Folder, name: &str) {
        folder.replace(&format!("{name}.pem"), &self.certificate);
        folder.replace(&format!("{name}.key"), &self.key);
    }

    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()]
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client that trusts an authority and perhaps shows a certificate.
fn connector(trusts: &Authority, shows: Option<&Signed>, protocol: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusts.0.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(signed) => builder.with_client_auth_cert(signed.chain(), signed.key()).unwrap(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

type Secure = TlsStream<TcpStream>;

async fn connect(connector: &TlsConnector, address: SocketAddr, name: &str) -> std::io::Result<Secure> {
    let tcp = TcpStream::connect(address).await?;
    soon("a handshake", connector.connect(ServerName::try_from(name.to_owned()).unwrap(), tcp)).await
}

fn shown(secure: &Secure) -> CertificateDer<'static> {
    secure.get_ref().1.peer_certificates().unwrap()[0].clone()
}

type Sender = http1::SendRequest<Empty<Bytes>>;

async fn speak(secure: Secure) -> Sender {
    let (sender, engine) = http1::handshake(TokioIo::new(secure)).await.unwrap();
    // Its end shows in the sender.
    tokio::spawn(async move { drop(engine.await) });
    sender
}

/// Status and body.
async fn get(sender: &mut Sender) -> hyper::Result<(u16, String)> {
    let request = Request::get("/").header("host", "app.test").body(Empty::new()).unwrap();
    let exchange = async {
        sender.ready().await?;
        whole(sender.send_request(request).await?).await
    };
    soon("an answer", exchange).await
}

async fn whole(answer: Response<Incoming>) -> hyper::Result<(u16, String)> {
    let (head, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((head.status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

/// A proxy with the listeners of its file.
struct Proxy {
    serving: Serving,
    listeners: Vec<SocketAddr>,
}

impl Proxy {
    async fn start(file: &Path) -> Self {
        let arguments = ["run", "--print-addresses", "--admin", "127.0.0.1:0", "--config", file.to_str().unwrap()];
        let mut process = Process::spawn(&mut splitway(&arguments));
        let Some(line) = process.line().await else { panic!("it has not started: {:#?}", process.log()) };
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let address = |value: &Value| value.as_str().unwrap().parse::<SocketAddr>().unwrap();
        let listeners: Vec<_> = addresses["listeners"].as_array().unwrap().iter().map(address).collect();
        let serving = Serving { process, proxy: listeners[0], admin: address(&addresses["admin"]) };
        Self { serving, listeners }
    }

    async fn reloads(&self, outcome: &str) -> f64 {
        self.serving.metric("splitway_certificate_reloads_total", &format!("outcome=\"{outcome}\"")).await
    }
}

/// One listener, one version.
fn yaml(tls: &str, app: SocketAddr) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0, tls: {{ {tls} }} }}]\nbackends: {{ stable: {{ endpoints: [\"{app}\"] }} }}\n"
    )
}

const APP: &str = "certificates: [{ cert: app.pem, key: app.key }]";

#[tokio::test]
async fn renewals_while_clients_are_busy_lose_nothing_and_close_nothing() {
    let (app, folder, authority) = (App::start("stable").await, Folder::new(), Authority::new());
    authority.sign(&["app.test"]).write(&folder, "app");
    let mut proxy = Proxy::start(&folder.write("splitway.yaml", &yaml(APP, app.address))).await;
    let (address, connector) = (proxy.listeners[0], connector(&authority, None, b"http/1.1"));

    let (stop, stopped) = watch::channel(false);
    let answers = Arc::<AtomicU64>::default();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut sender = speak(connect(&connector, address, "app.test").await.unwrap()).await;
        let (answers, stopped) = (answers.clone(), stopped.clone());
        clients.push(tokio::spawn(async move {
            while !*stopped.borrow() {
                assert_eq!(get(&mut sender).await.expect("on the first connection"), (200, "stable".to_owned()));
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    for renewal in 0..10 {
        let signed = authority.sign(&["app.test"]);
        if renewal % 2 == 0 {
            signed.write(&folder, "app")
        } else {
            signed.replace(&folder, "app")
        }
        eventually("the renewed certificate", async || {
            let secure = connect(&connector, address, "app.test").await.expect("every handshake goes well");
            shown(&secure) == signed.chain()[0]
        })
        .await;
    }
    assert_eq!((proxy.reloads("good").await, proxy.reloads("bad").await), (10.0, 0.0));

    // A broken one: told, counted, and the old one serves on until it is mended.
    let before = shown(&connect(&connector, address, "app.test").await.unwrap());
    folder.write("app.key", &authority.sign(&["app.test"]).key);
    let refused = |config: &Value| config["tls"]["refused"].as_array().is_some_and(|refused| !refused.is_empty());
    let config = proxy.serving.until("a refusal", refused).await;
    let message = config["tls"]["refused"][0]["message"].as_str().unwrap();
    assert!(message.contains("app.key: this key is not that of the certificate in"), "{message}");
    assert!(proxy.serving.process.logged("refused, the last good one serves on").await.contains("app.key"));
    assert_eq!(shown(&connect(&connector, address, "app.test").await.unwrap()), before);
    assert_eq!(proxy.reloads("bad").await, 1.0);
    let signed = authority.sign(&["app.test"]);
    signed.write(&folder, "app");
    let config = proxy.serving.until("no refusal", |config| !refused(config)).await;
    assert_eq!(config["tls"]["certificates"][0]["names"][0], "app.test");
    assert_eq!(shown(&connect(&connector, address, "app.test").await.unwrap()), signed.chain()[0]);
    assert_eq!(config["generation"], 1, "certificates of listeners are no part of the settings");

    stop.send_replace(true);
    for client in clients {
        soon("a client's end", client).await.unwrap();
    }
    assert_eq!(app.received(), answers.load(Ordering::Relaxed));
    let expiry = proxy.serving.metric("splitway_certificate_not_after_timestamp_seconds", "app.pem").await;
    assert!(expiry > 1.7e9, "{expiry}");
}

#[tokio::test]
async fn a_certificate_is_chosen_by_name_and_both_protocols_are_agreed_on() {
    let (app, folder, authority) = (App::start("stable").await, Folder::new(), Authority::new());
    let (first, second) = (authority.sign(&["first.test"]), authority.sign(&["*.second.test"]));
    first.write(&folder, "first");
    fs::create_dir(folder.path("secret")).unwrap();
    folder.write("secret/tls.crt", &second.certificate);
    folder.write("secret/tls.key", &second.key);
    let tls = "certificates: [{ cert: first.pem, key: first.key }, { secret: secret }]";
    let proxy = Proxy::start(&folder.write("splitway.yaml", &yaml(tls, app.address))).await;
    let address = proxy.listeners[0];
    for (name, signed) in [("first.test", &first), ("a.second.test", &second)] {
        let secure = connect(&connector(&authority, None, b"h2"), address, name).await.unwrap();
        assert_eq!((shown(&secure), secure.get_ref().1.alpn_protocol()), (signed.chain()[0].clone(), Some(&b"h2"[..])));
        let (mut sender, engine) = http2::handshake(TokioExecutor::new(), TokioIo::new(secure)).await.unwrap();
        tokio::spawn(async move { drop(engine.await) });
        let request = Request::get(format!("https://{name}/")).body(Empty::<Bytes>::new()).unwrap();
        let answer = soon("an answer", sender.send_request(request)).await.unwrap();
        assert_eq!(whole(answer).await.unwrap(), (200, "stable".to_owned()));
        let secure = connect(&connector(&authority, None, b"http/1.1"), address, name).await.unwrap();
        assert_eq!(get(&mut speak(secure).await).await.unwrap().0, 200);
    }
    let unknown = connect(&connector(&authority, None, b"h2"), address, "other.test").await;
    assert!(unknown.is_err(), "the client is shown the first one, which has another name");
}

#[tokio::test]
async fn only_clients_of_the_authority_reach_the_application_until_another_authority_takes_its_place() {
    let (app, folder, authority, other) =
        (App::start("stable").await, Folder::new(), Authority::new(), Authority::new());
    authority.sign(&["app.test"]).write(&folder, "app");
    folder.write("clients.pem", &authority.pem());
    let tls = format!("{APP}, client-ca: clients.pem");
    let proxy = Proxy::start(&folder.write("splitway.yaml", &yaml(&tls, app.address))).await;
    let (known, stranger) = (authority.sign(&["client"]), other.sign(&["client"]));
    // With TLS 1.3 a client learns of a refusal when it reads.
    let status = async |shows: Option<&Signed>| {
        let secure = connect(&connector(&authority, shows, b"http/1.1"), proxy.listeners[0], "app.test").await;
        match secure {
            Ok(secure) => get(&mut speak(secure).await).await.ok().map(|(status, _)| status),
            Err(_) => None,
        }
    };
    assert_eq!(status(Some(&known)).await, Some(200));
    assert_eq!((status(None).await, status(Some(&stranger)).await), (None, None));
    assert_eq!(app.received(), 1);
    folder.replace("clients.pem", &other.pem());
    eventually("the other authority", async || status(Some(&stranger)).await == Some(200)).await;
    assert_eq!(status(Some(&known)).await, None);
}

/// The application answers `/echo` with what it was sent.
#[tokio::test]
async fn the_application_learns_who_the_client_is_and_nobody_can_say_so_for_himself() {
    let (app, folder, authority) = (App::start("stable").await, Folder::new(), Authority::new());
    authority.sign(&["app.test"]).write(&folder, "app");
    folder.write("clients.pem", &authority.pem());
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0, tls: {{ {APP}, client-ca: clients.pem, client-certificates: optional }} }},
                     {{ address: 127.0.0.1:0 }}]
backends: {{ stable: {{ endpoints: [\"{}\"] }} }}
",
        app.address
    );
    let proxy = Proxy::start(&folder.write("splitway.yaml", &text)).await;
    let forged = "POST /echo HTTP/1.1\r\nhost: a\r\nx-client-subject: CN=admin\r\nX_Client.Subject: CN=admin\r\n\
                  connection: close\r\ncontent-length: 0\r\n\r\n";
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut answers = Vec::new();
    let known = authority.sign(&["client"]);
    for shows in [Some(&known), None] {
        let mut secure =
            connect(&connector(&authority, shows, b"http/1.1"), proxy.listeners[0], "app.test").await.unwrap();
        secure.write_all(forged.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("an answer", secure.read_to_string(&mut answer)).await.unwrap();
        answers.push(answer);
    }
    answers.push(crate::support::raw(proxy.listeners[1], forged).await);
    for answer in &answers {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(!answer.contains("admin"), "{answer}");
    }
    let said = |answer: &str| answer.to_ascii_lowercase().matches("x-client-subject: cn=client").count();
    assert_eq!(answers.iter().map(|answer| said(answer)).collect::<Vec<_>>(), [1, 0, 0]);
    assert!(answers[0].contains("x-forwarded-proto: https") && answers[2].contains("x-forwarded-proto: http\n"));
    // Handshakes are counted by kind.
    assert!(proxy.serving.metric("splitway_tls_handshakes_total", "kind=\"full\"").await >= 2.0);
}

#[tokio::test]
async fn a_session_is_resumed_whichever_worker_a_client_comes_to() {
    let (app, folder, authority) = (App::start("stable").await, Folder::new(), Authority::new());
    authority.sign(&["app.test"]).write(&folder, "app");
    let text = yaml(APP, app.address) + "workers: 4\n";
    let proxy = Proxy::start(&folder.write("splitway.yaml", &text)).await;
    let connector = connector(&authority, None, b"http/1.1");
    // The kernel spreads connections over the workers' sockets: that one of four gets all of 40 does not happen.
    for number in 0..40 {
        let mut secure = connect(&connector, proxy.listeners[0], "app.test").await.unwrap();
        let kind = secure.get_ref().1.handshake_kind();
        let expected = if number == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
        assert_eq!(kind, Some(expected), "connection {number}");
        // Tickets come with the first answer, and a ticket is used once.
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        secure.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        soon("an answer", secure.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn a_listener_in_clear_redirects_to_tls_and_the_application_never_sees_it() {
    let (app, folder, authority) = (App::start("stable").await, Folder::new(), Authority::new());
    authority.sign(&["app.test"]).write(&folder, "app");
    let text =
        yaml(APP, app.address).replace("listeners: [", "listeners: [{ address: 127.0.0.1:0, redirect-to-tls: 8443 }, ");
    let proxy = Proxy::start(&folder.write("splitway.yaml", &text)).await;
    let mut client = Client::connect(proxy.listeners[0]).await;
    let answer = client.get_with("/shop?a=b", &[("host", "app.test:8080")]).await;
    assert_eq!((answer.status, answer.header("location")), (308, "https://app.test:8443/shop?a=b"));
    assert_eq!(app.received(), 0);
    let secure = connect(&connector(&authority, None, b"http/1.1"), proxy.listeners[1], "app.test").await.unwrap();
    assert_eq!(get(&mut speak(secure).await).await.unwrap().0, 200);
}

/// A server's side. `asks`: it wants certificates of clients, which this authority has signed.
pub fn acceptor(shows: &Signed, asks: Option<&Authority>, protocols: &[&[u8]]) -> TlsAcceptor {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match asks {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let mut config = builder.with_single_cert(shows.chain(), shows.key()).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// An endpoint that speaks TLS, and answers with the protocol that was agreed on.
async fn endpoint(signed: &Signed) -> SocketAddr {
    let (acceptor, listener) =
        (acceptor(signed, None, &[b"h2", b"http/1.1"]), TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Those who do not trust us leave.
                let Ok(secure) = acceptor.accept(tcp).await else { return };
                let protocol =
                    String::from_utf8_lossy(secure.get_ref().1.alpn_protocol().unwrap_or_default()).into_owned();
                let is_h2 = protocol == "h2";
                let service = service_fn(move |_: Request<Incoming>| {
                    let answer = Response::new(Full::new(Bytes::from(protocol.clone())));
                    async move { Ok::<_, Infallible>(answer) }
                });
                let io = TokioIo::new(secure);
                // The proxy closing its connection is no failure.
                let _ = match is_h2 {
                    true => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await
                    }
                    false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
                };
            });
        }
    });
    address
}

#[tokio::test]
async fn an_endpoint_is_spoken_to_as_the_file_says_and_believed_only_if_it_proves_its_name() {
    let (folder, authority, other) = (Folder::new(), Authority::new(), Authority::new());
    let address = endpoint(&authority.sign(&["app.local"])).await;
    folder.write("ca.pem", &authority.pem());
    folder.write("other.pem", &other.pem());
    let text = |protocol: &str, tls: &str| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nbackends:\n  stable: {{ protocol: {protocol}, tls: {{ {tls} }}, endpoints: [\"{address}\"] }}\n"
        )
    };
    let good = "ca: ca.pem, server-name: app.local";
    let file = folder.write("splitway.yaml", &text("http1", good));
    let proxy = Proxy::start(&file).await;
    let mut generation = 1;
    for (protocol, tls, expected) in [
        ("http1", good, Ok("http/1.1")),
        ("h2", good, Ok("h2")),
        ("auto", good, Ok("h2")),
        ("h2", "ca: other.pem, server-name: app.local", Err("upstream_tls")),
        ("http1", "ca: ca.pem, server-name: other.local", Err("upstream_tls")),
        ("http1", "ca: ca.pem", Err("upstream_tls")),
        ("http1", good, Ok("http/1.1")),
    ] {
        if generation > 1 || protocol != "http1" {
            folder.replace("splitway.yaml", &text(protocol, tls));
            generation += 1;
            let newer = |config: &Value| config["generation"].as_u64() >= Some(generation);
            proxy.serving.until("the new settings", newer).await;
        }
        let answer = Client::connect(proxy.listeners[0]).await.get("/").await;
        match expected {
            Ok(protocol) => assert_eq!((answer.status, answer.text()), (200, protocol.to_owned()), "{tls}"),
            Err(reason) => assert_eq!((answer.status >= 500, answer.reason()), (true, reason), "{tls}"),
        }
    }
}

#[tokio::test]
async fn a_file_that_settings_name_and_that_changes_alone_changes_them() {
    let (folder, authority, other) = (Folder::new(), Authority::new(), Authority::new());
    let address = endpoint(&authority.sign(&["app.local"])).await;
    folder.write("ca.pem", &other.pem());
    folder.write("secret", "0123456789abcdef");
    let file = folder.write(
        "splitway.yaml",
        &format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nbackends: {{ stable: {{ endpoints: [\"{address}\"] }} }}\n\
             upstream: {{ tls: {{ ca: ca.pem, server-name: app.local }} }}\nsticky: {{ cookie: {{ secret-file: secret }} }}\n"
        ),
    );
    let proxy = Proxy::start(&file).await;
    let ask = async || Client::connect(proxy.listeners[0]).await.get("/").await;
    assert_eq!(ask().await.reason(), "upstream_tls");

    folder.write("ca.pem", "no authority");
    let refused = |config: &Value| config["refused"]["message"].as_str().is_some_and(|text| text.contains("ca.pem"));
    let config = proxy.serving.until("a refusal", refused).await;
    assert!(config["refused"]["message"].as_str().unwrap().contains("expected a certificate, found no PEM at all"));

    folder.write("ca.pem", &authority.pem());
    eventually("an answer", async || ask().await.status == 200).await;
    let before = proxy.serving.generation().await;
    folder.write("secret", "fedcba9876543210");
    let config = proxy.serving.until("another secret", |config| config["generation"].as_u64() > Some(before)).await;
    assert_eq!((&config["refused"], ask().await.status), (&Value::Null, 200));
}
