//! The promise as a whole, under load: while the weight changes, endpoints come and go and the certificate is replaced,
//! nothing is lost or done twice, the split is exact to one request, and no user moves but by the rule.
//!
//! `PROMISE_REQUESTS=1000000 cargo test --test it promise` is the long form: one change per hundred requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use splitway::proxy::Listener;
use splitway::route::Role;
use splitway::route::bucket::{KeySource, Sticky};
use splitway::tls::Front;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::random::Random;
use crate::support::{Proxy, routing};

/// Requests from one change to the next.
const PACE: u64 = 100;
const CLIENTS: usize = 12;
const USERS: usize = 200;
const ENDPOINTS: usize = 3;

/// How often each request has arrived at an application.
type Arrivals = Arc<Vec<AtomicU8>>;

/// An application that answers with its version, as fast as it can.
async fn application(name: &'static str, arrivals: Arrivals, count: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (arrivals, count) = (arrivals.clone(), count.clone());
            tokio::spawn(async move {
                let answer = format!("HTTP/1.1 200 OK\r\nx-app: {name}\r\ncontent-length: 2\r\n\r\nok");
                let mut buffer = Vec::new();
                while let Some(head) = head(&mut stream, &mut buffer).await {
                    let id: usize = field(&head, "x-id").unwrap().parse().unwrap();
                    arrivals[id].fetch_add(1, Ordering::Relaxed);
                    if field(&head, "x-user").is_none() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The next head, without its last line end. `None`: the end of the connection.
async fn head(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = buffer.drain(..end + 4).collect();
            return Some(String::from_utf8(head).unwrap());
        }
        if stream.read_buf(buffer).await.ok().is_none_or(|read| read == 0) {
            return None;
        }
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.split_once(": ").filter(|(field, _)| *field == name)).map(|(_, value)| value)
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A certificate for `app.local`, and a client that trusts nothing else.
fn certificate() -> (rustls::ServerConfig, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["app.local".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (config, made.cert.der().clone())
}

fn connector(trusted: &[CertificateDer<'static>]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// What all clients and the changes share.
struct Shared {
    most: u64,
    next: AtomicU64,
    answered: AtomicU64,
    /// The canary's weight now, in percent, and above it the number of the change.
    weight: AtomicU32,
}

/// What one client has found.
#[derive(Default)]
struct Found {
    lost: Vec<String>,
    /// By user: the largest weight at which stable answered, and the smallest at which the canary did.
    users: HashMap<usize, (u32, u32)>,
    connections: u64,
}

async fn client(shared: Arc<Shared>, address: SocketAddr, tls: Option<TlsConnector>, seed: u64) -> Found {
    let mut found = Found::default();
    let mut random = Random::new(seed, 0);
    'connections: loop {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut stream: Box<dyn Wire> = match &tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(tls.connect(ServerName::try_from("app.local").unwrap(), tcp).await.unwrap()),
        };
        found.connections += 1;
        let mut buffer = Vec::new();
        // A new connection now and then, so that new certificates are seen.
        for _ in 0..2000 {
            let id = shared.next.fetch_add(1, Ordering::Relaxed);
            if id >= shared.most {
                return found;
            }
            let user = (random.below(10) == 0).then(|| random.below(USERS));
            let line = user.map_or_else(String::new, |user| format!("x-user: {user}\r\n"));
            let request = format!("GET / HTTP/1.1\r\nhost: app.local\r\nx-id: {id}\r\n{line}\r\n");
            let before = shared.weight.load(Ordering::SeqCst);
            let outcome = tokio::time::timeout(Duration::from_secs(20), async {
                stream.write_all(request.as_bytes()).await.ok()?;
                let head = head(&mut stream, &mut buffer).await?;
                while buffer.len() < 2 {
                    if stream.read_buf(&mut buffer).await.ok()? == 0 {
                        return None;
                    }
                }
                buffer.drain(..2);
                Some(head)
            });
            let head = outcome.await.ok().flatten();
            let after = shared.weight.load(Ordering::SeqCst);
            shared.answered.fetch_add(1, Ordering::Relaxed);
            let head = match head {
                Some(head) if head.starts_with("HTTP/1.1 200 ") => head,
                other => {
                    found.lost.push(format!("request {id}: {other:?}"));
                    continue 'connections;
                }
            };
            if let Some(user) = user
                && before == after
            {
                let weight = before % 1000;
                let (stable, canary) = found.users.entry(user).or_insert((0, 100));
                match field(&head, "x-app") {
                    Some("canary") => *canary = (*canary).min(weight),
                    _ => *stable = (*stable).max(weight),
                }
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_or_done_twice_and_the_split_is_exact_while_everything_changes() {
    let most: u64 = std::env::var("PROMISE_REQUESTS").map_or(30_000, |text| text.parse().expect("a number"));
    let arrivals: Arrivals = Arc::new((0..most).map(|_| AtomicU8::new(0)).collect());
    let counts: [Arc<AtomicU64>; 2] = Default::default();
    let mut endpoints: [Vec<SocketAddr>; 2] = Default::default();
    for (version, name) in ["stable", "canary"].into_iter().enumerate() {
        for _ in 0..ENDPOINTS {
            endpoints[version].push(application(name, arrivals.clone(), counts[version].clone()).await);
        }
    }
    let versions = |weight: u32, some: &[Vec<SocketAddr>; 2]| {
        let mut routing =
            routing(&[("stable", Role::Stable, 100 - weight, &some[0]), ("canary", Role::Canary, weight, &some[1])]);
        let key = KeySource::Header("x-user".parse().unwrap());
        routing.sticky = Some(Sticky { keys: vec![key], salt: "promise".to_owned(), cookie: None });
        routing
    };

    let certificates: Vec<_> = (0..5).map(|_| certificate()).collect();
    let trusted: Vec<_> = certificates.iter().map(|(_, certificate)| certificate.clone()).collect();
    let front = Front::new(certificates[0].0.clone());
    let proxy = Proxy::start_with(versions(50, &endpoints), |settings| {
        let clear = settings.proxy.listeners[0].clone();
        settings.proxy.listeners.push(Listener { tls: Some(front.clone()), ..clear });
    })
    .await;
    let (clear, secure) = (proxy.running.listeners()[0], proxy.running.listeners()[1]);

    let shared =
        Arc::new(Shared { most, next: AtomicU64::new(0), answered: AtomicU64::new(0), weight: AtomicU32::new(50) });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let tls = (number % 4 == 0).then(|| connector(&trusted));
            let address = if tls.is_some() { secure } else { clear };
            tokio::spawn(client(shared.clone(), address, tls, number as u64 + 1))
        })
        .collect();

    let mut random = Random::new(most, 0);
    let mut changes: u32 = 0;
    while shared.answered.load(Ordering::Relaxed) < most {
        changes += 1;
        let weight = 1 + random.below(99) as u32;
        // Now and then one of the endpoints is not there.
        let mut some = endpoints.clone();
        for version in &mut some {
            if random.below(3) == 0 {
                version.remove(random.below(ENDPOINTS));
            }
        }
        if changes.is_multiple_of(50) {
            front.replace(certificates[random.below(5)].0.clone());
        }
        // While it changes, no weight is certain.
        shared.weight.store(changes * 2000 + 1999, Ordering::SeqCst);
        proxy.set(versions(weight, &some)).await;
        shared.weight.store((changes * 2 + 1) * 1000 + weight, Ordering::SeqCst);
        while shared.answered.load(Ordering::Relaxed) < most.min(u64::from(changes) * PACE) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    let mut users: HashMap<usize, (u32, u32)> = HashMap::new();
    let (mut lost, mut connections) = (Vec::new(), 0);
    for client in clients {
        let found = client.await.unwrap();
        lost.extend(found.lost);
        connections += found.connections;
        for (user, (stable, canary)) in found.users {
            let (all_stable, all_canary) = users.entry(user).or_insert((0, 100));
            (*all_stable, *all_canary) = ((*all_stable).max(stable), (*all_canary).min(canary));
        }
    }
    assert!(lost.is_empty(), "{} lost: {:?}", lost.len(), &lost[..lost.len().min(3)]);
    let twice = arrivals.iter().filter(|times| times.load(Ordering::Relaxed) != 1).count();
    assert_eq!(twice, 0, "requests that have not arrived exactly once");

    // Each user changes the version at one weight only, the user's own.
    assert_eq!(users.len(), USERS);
    for (user, (stable, canary)) in users {
        assert!(stable < canary, "user {user}: stable at {stable} %, the canary at {canary} %");
    }

    // What the split gave, as it says and as the applications say.
    for (version, name) in ["stable", "canary"].into_iter().enumerate() {
        let sample = |family: &str| format!("splitway_split_{family}_total{{version=\"{name}\"}}");
        let sent = proxy.metric(&sample("requests")).await;
        let asked = proxy.metric(&sample("asked_requests")).await;
        assert_eq!(sent, counts[version].load(Ordering::Relaxed) as f64, "{name}");
        assert!((sent - asked).abs() <= 1.0, "{name}: asked for {asked}, sent {sent}");
    }
    println!("{most} requests over {connections} connections, {changes} changes: 0 lost, 0 twice, exact to 1");
}
