//! The world of a test: versions of an application, a proxy in front of them, clients. Real sockets on port 0; nothing
//! sleeps to wait for something else.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use splitway::control::{Observed, Sender};
use splitway::proxy::{Drain, Listener};
use splitway::route::policy::Policy;
use splitway::route::{Backend, Generation, Identity, Role, Routing, Shares, VersionHash};
use splitway::{Running, Settings, control, proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Bounds a wait, and says what was waited for when it is over.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// One endpoint of a version. Answers with its name, and does what the path says:
/// `/echo` sends the request back, `/status/503` answers that status, `/bytes/1000` that many bytes.
pub struct App {
    pub name: String,
    pub address: SocketAddr,
    received: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl App {
    pub async fn start(name: &str) -> Self {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a loopback port");
        let address = listener.local_addr().unwrap();
        let received = Arc::<AtomicU64>::default();
        let (count, owned) = (received.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            // Dropped with this task, so that `kill` closes every connection.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accept on loopback");
                stream.set_nodelay(true).unwrap();
                let (count, name) = (count.clone(), owned.clone());
                let service = service_fn(move |request| {
                    count.fetch_add(1, Ordering::SeqCst);
                    answer(name.clone(), request)
                });
                connections.spawn(async move {
                    // The proxy closing its connection is no failure.
                    let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { name: name.to_owned(), address, received, task }
    }

    /// Requests that have arrived.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    /// Ends at once: the port is closed and every connection is cut.
    pub async fn kill(self) {
        self.task.abort();
        // Aborted tasks end with an error; that is what was asked for.
        let _ = self.task.await;
    }
}

async fn answer(name: String, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut answer = Response::new(Full::from(name.clone()));
    if path == "/echo" {
        let mut lines = format!("{} {}\n", request.method(), request.uri());
        for (header, value) in request.headers() {
            lines += &format!("{header}: {}\n", String::from_utf8_lossy(value.as_bytes()));
        }
        let body = match request.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::from_static(b"(cut)"),
        };
        lines += "\n";
        *answer.body_mut() = Full::from([lines.as_bytes(), &body].concat());
    } else if let Some(status) = path.strip_prefix("/status/") {
        *answer.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap();
    } else if let Some(length) = path.strip_prefix("/bytes/") {
        *answer.body_mut() = Full::from(vec![b'x'; length.parse().unwrap()]);
    } else {
        // A body that nobody asks for is read all the same, so that the connection can be used again.
        let _ = request.into_body().collect().await;
    }
    answer.headers_mut().insert("x-app", name.parse().unwrap());
    Ok(answer)
}

/// What a source would have seen: versions with their endpoints, and a split. Fields may be changed before use.
pub fn routing(versions: &[(&str, Role, u32, &[SocketAddr])]) -> Routing {
    let version = VersionHash::new;
    Routing {
        backends: versions
            .iter()
            .map(|(name, role, _, endpoints)| Backend {
                version: version(name),
                role: *role,
                endpoints: endpoints.to_vec().into(),
            })
            .collect(),
        split: Shares::new(versions.iter().map(|(name, _, weight, _)| (version(name), *weight)).collect()).unwrap(),
        routes: Vec::new(),
        sticky: None,
        override_: None,
        policy: Policy::default(),
    }
}

/// Stable and canary with one endpoint each.
pub fn two(stable: &App, canary: &App, weights: (u32, u32)) -> Routing {
    routing(&[
        (&stable.name, Role::Stable, weights.0, &[stable.address]),
        (&canary.name, Role::Canary, weights.1, &[canary.address]),
    ])
}

/// A proxy in this process.
pub struct Proxy {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub running: Running,
    observations: Sender,
}

impl Proxy {
    pub async fn start(routing: Routing) -> Self {
        Self::start_with(routing, |_| {}).await
    }

    /// `adjust` may change the settings before the sockets are bound.
    pub async fn start_with(routing: Routing, adjust: impl FnOnce(&mut Settings)) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = Settings {
            proxy: proxy::Settings {
                listeners: vec![Listener { address: loopback }],
                workers: 2,
                drain: Drain { delay: Duration::ZERO, timeout: Duration::from_secs(10) },
            },
            admin: Some(loopback),
            identity: Identity::random(),
        };
        adjust(&mut settings);
        let (observations, receiver) = control::channel();
        let running = splitway::bind(settings).expect("free ports").start(receiver).expect("threads");
        let proxy = Self {
            address: running.listeners()[0],
            admin: running.admin().expect("an admin listener"),
            running,
            observations,
        };
        proxy.set(routing).await;
        proxy
    }

    /// Sends what a source would send, and returns when it is live.
    pub async fn set(&self, routing: Routing) {
        let next = Generation(self.running.live().generation().0 + 1);
        let observed = Observed { routing, origin: "test".to_owned(), notes: Vec::new(), refusal_stands: false };
        self.observations.send(Ok(observed)).await.expect("the proxy runs");
        soon("the new generation", self.running.reached(next)).await;
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One request to the admin listener.
    pub async fn ask_admin(&self, target: &str) -> Answer {
        Client::connect(self.admin).await.get(target).await
    }

    /// The value of one sample in `/metrics`, named as it is written there: `name{label="value"}`. 0 if there is none.
    pub async fn metric(&self, sample: &str) -> f64 {
        let text = self.ask_admin("/metrics").await.text();
        text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok()).unwrap_or_default()
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The version that answered.
    pub fn app(&self) -> &str {
        self.header("x-app")
    }
}

/// A client with one keep-alive connection.
pub struct Client {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { address, sender: handshake(address).await.expect("a connection") }
    }

    pub async fn get(&mut self, target: &str) -> Answer {
        self.send(Request::get(target)).await
    }

    /// A GET with headers.
    pub async fn get_with(&mut self, target: &str, headers: &[(&str, &str)]) -> Answer {
        let request = headers.iter().fold(Request::get(target), |request, (name, value)| request.header(*name, *value));
        self.send(request).await
    }

    pub async fn send(&mut self, request: http::request::Builder) -> Answer {
        self.send_body(request, Bytes::new()).await
    }

    pub async fn send_body(&mut self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        self.try_send(request, body).await.expect("an answer")
    }

    /// Connects anew if the proxy has asked for that.
    pub async fn try_send(
        &mut self,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let mut request = request.body(Full::from(body.into()))?;
        if !request.headers().contains_key(http::header::HOST) {
            request.headers_mut().insert(http::header::HOST, self.address.to_string().parse()?);
        }
        let exchange = async {
            if self.sender.ready().await.is_err() {
                self.sender = handshake(self.address).await?;
            }
            let answer = self.sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            if head.headers.get(http::header::CONNECTION).is_some_and(|value| value == "close") {
                self.sender = handshake(self.address).await?;
            }
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        soon("an answer", exchange).await
    }
}

async fn handshake(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, engine) = http1::handshake(TokioIo::new(stream)).await?;
    // Its end shows in the sender.
    tokio::spawn(async move { drop(engine.await) });
    Ok(sender)
}

/// Writes bytes as they are, and returns everything that comes back until the connection ends.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A proxy that refuses early may reset the connection: whatever came before counts.
        let _ = stream.write_all(bytes.as_ref()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    soon("the end of the connection", exchange).await
}

/// An endpoint that reads a request's head and then writes exactly these bytes, once per connection, and closes.
pub async fn scripted(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = answer.into();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut chunk = [0; 4096];
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut chunk).await {
                        Ok(n) if n > 0 => head.extend_from_slice(&chunk[..n]),
                        _ => return,
                    }
                }
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

/// Counts answers by the version that gave them.
#[derive(Default)]
pub struct Tally(Mutex<HashMap<String, u64>>);

impl Tally {
    pub fn add(&self, answer: &Answer) {
        *self.0.lock().unwrap().entry(answer.app().to_owned()).or_default() += 1;
    }
    pub fn of(&self, app: &App) -> u64 {
        self.0.lock().unwrap().get(&app.name).copied().unwrap_or_default()
    }
}
