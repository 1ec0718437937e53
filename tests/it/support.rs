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
use hyper_util::rt::{TokioExecutor, TokioIo};
use splitway::control::{Observed, Rejected, Sender};
use splitway::proxy::{Drain, Listener};
use splitway::route::policy::Policy;
use splitway::route::{Backend, Generation, Identity, PortName, Role, Routing, Shares, VersionHash};
use splitway::{Running, Settings, control, proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Bounds a wait, and says what was waited for when it is over.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// Asks again and again until it is so: for what no channel announces, such as a counter of another thread.
pub async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// One endpoint of a version, for HTTP/1 and HTTP/2 in clear. Answers with its name, tells in `x-http` in which version it was
/// asked, and does what the path says:
/// `/echo` sends the request back, `/status/503` answers that status, `/bytes/1000` that many bytes, `/after/30` after that
/// many milliseconds, `/held` waits for [`App::release`].
pub struct App {
    pub name: String,
    pub address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

struct Seen {
    received: AtomicU64,
    /// The values of `x-id`, one per request that has one.
    ids: Mutex<Vec<String>>,
    arrived: Notify,
    gate: Semaphore,
}

impl App {
    pub async fn start(name: &str) -> Self {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a loopback port");
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            received: AtomicU64::new(0),
            ids: Mutex::default(),
            arrived: Notify::new(),
            gate: Semaphore::new(0),
        });
        let (shared, owned) = (seen.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            // Dropped with this task, so that `kill` closes every connection.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accept on loopback");
                stream.set_nodelay(true).unwrap();
                let (seen, name) = (shared.clone(), owned.clone());
                let service = service_fn(move |request| answer(name.clone(), seen.clone(), request));
                connections.spawn(async move {
                    let mut first = [0; 3];
                    let http2 = stream.peek(&mut first).await.is_ok_and(|read| first[..read] == *b"PRI");
                    let stream = TokioIo::new(stream);
                    // The proxy closing its connection is no failure.
                    let _ = match http2 {
                        true => {
                            server::conn::http2::Builder::new(TokioExecutor::new())
                                .serve_connection(stream, service)
                                .await
                        }
                        false => server::conn::http1::Builder::new().serve_connection(stream, service).await,
                    };
                });
            }
        });
        Self { name: name.to_owned(), address, seen, task }
    }

    /// Requests that have arrived.
    pub fn received(&self) -> u64 {
        self.seen.received.load(Ordering::SeqCst)
    }

    /// Waits until that many have arrived.
    pub async fn reaches(&self, received: u64) {
        let arrived = async {
            loop {
                let next = self.seen.arrived.notified();
                if self.received() >= received {
                    return;
                }
                next.await;
            }
        };
        soon("requests at the application", arrived).await
    }

    /// The `x-id` of every request that had one, in order.
    pub fn ids(&self) -> Vec<String> {
        self.seen.ids.lock().unwrap().clone()
    }

    /// Lets that many requests to `/held` be answered.
    pub fn release(&self, requests: usize) {
        self.seen.gate.add_permits(requests);
    }

    /// Ends at once: the port is closed and every connection is cut.
    pub async fn kill(self) {
        self.task.abort();
        // Aborted tasks end with an error; that is what was asked for.
        let _ = self.task.await;
    }
}

async fn answer(
    name: String,
    seen: Arc<Seen>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Some(id) = request.headers().get("x-id") {
        seen.ids.lock().unwrap().push(id.to_str().unwrap().to_owned());
    }
    seen.received.fetch_add(1, Ordering::SeqCst);
    seen.arrived.notify_waiters();
    let path = request.uri().path().to_owned();
    let version = format!("{:?}", request.version());
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
    } else if let Some(millis) = path.strip_prefix("/after/") {
        tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await;
    } else if path == "/held" {
        seen.gate.acquire().await.unwrap().forget();
    } else {
        // A body that nobody asks for is read all the same, so that the connection can be used again.
        let _ = request.into_body().collect().await;
    }
    answer.headers_mut().insert("x-app", name.parse().unwrap());
    answer.headers_mut().insert("x-http", version.parse().unwrap());
    Ok(answer)
}

/// An address at which nobody listens: ports this low are given to nobody by chance. `n` from 1 to 6.
pub fn dead(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], n))
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
                transport: Default::default(),
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
        Self::start_all(vec![routing], adjust).await
    }

    /// One listener before each port, in this order.
    pub async fn start_ports<const N: usize>(ports: [(&str, Routing); N]) -> Self {
        let names = ports.iter().map(|(name, _)| PortName::new(name)).collect();
        let routings = ports.map(|(_, routing)| routing).into();
        Self::start_all(routings, |settings| {
            settings.proxy.listeners =
                (0..N).map(|port| Listener { port, ..settings.proxy.listeners[0].clone() }).collect();
            settings.ports = names;
        })
        .await
    }

    async fn start_all(routings: Vec<Routing>, adjust: impl FnOnce(&mut Settings)) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = Settings {
            proxy: proxy::Settings {
                listeners: vec![Listener::plain(loopback, 0)],
                workers: 2,
                reuse_port: false,
                drain: Drain { delay: Duration::ZERO, timeout: Duration::from_secs(10) },
            },
            admin: Some(loopback.into()),
            identity: Identity::random(),
            ports: vec![PortName::default()],
            following: None,
            aliases: Vec::new(),
            record: Default::default(),
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
        proxy.set_all(routings).await;
        proxy
    }

    /// Sends what a source would send, and returns when it is live.
    pub async fn set(&self, routing: Routing) {
        self.set_all(vec![routing]).await;
    }

    /// The same for several ports.
    pub async fn set_all(&self, routings: Vec<Routing>) {
        let next = Generation(self.running.live().generation().0 + 1);
        self.observe(Ok(Observed::plain(routings, "test"))).await;
        soon("the new generation", self.running.reached(next)).await;
    }

    /// Sends what a source would send, good or bad.
    pub async fn observe(&self, observation: Result<Observed, Rejected>) {
        self.observations.send(observation).await.expect("the proxy runs");
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

    /// Why the proxy answered by itself.
    pub fn reason(&self) -> &str {
        self.header("x-splitway-reason")
    }

    /// The version that answered.
    pub fn app(&self) -> &str {
        self.header("x-app")
    }
}

/// A client with one keep-alive connection.
pub struct Client {
    address: SocketAddr,
    /// `None` after an answer that asked for a new connection.
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { address, sender: Some(handshake(address).await.expect("a connection")) }
    }

    /// Whether the proxy has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.sender.as_ref().is_none_or(SendRequest::is_closed)
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
            let mut sender = match self.sender.take() {
                Some(sender) => sender,
                None => handshake(self.address).await?,
            };
            if sender.ready().await.is_err() {
                // It was closed while it was idle.
                sender = handshake(self.address).await?;
            }
            let answer = sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            if head.headers.get(http::header::CONNECTION).is_none_or(|value| value != "close") {
                self.sender = Some(sender);
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

/// Writes bytes as they are, and returns everything that comes back until the proxy closes the connection.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut wire = Wire::connect(address).await;
    wire.send(bytes).await;
    wire.end().await
}

/// A client's connection, byte by byte.
pub struct Wire {
    stream: TcpStream,
    /// Read and not yet given out.
    read: Vec<u8>,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.expect("a connection");
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A proxy that refuses early may have closed: what it says counts.
        let _ = soon("room to write", self.stream.write_all(bytes.as_ref())).await;
    }

    /// Everything up to the first occurrence of `text`, which must come before the end of the connection.
    pub async fn until(&mut self, text: &str) -> String {
        let found = async {
            loop {
                if let Some(at) = self.read.windows(text.len()).position(|part| part == text.as_bytes()) {
                    return self.read.drain(..at + text.len()).collect::<Vec<u8>>();
                }
                let n = self.stream.read_buf(&mut self.read).await.expect("more bytes");
                assert!(n > 0, "the end came before {text:?}: {}", String::from_utf8_lossy(&self.read));
            }
        };
        String::from_utf8(soon(text, found).await).unwrap()
    }

    /// Everything until the end of the connection.
    pub async fn end(mut self) -> String {
        // A reset is an end, too: whatever came before counts.
        let _ = soon("the end of the connection", self.stream.read_to_end(&mut self.read)).await;
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// The socket itself, for tests that read or write a lot. Nothing that was read may be left.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.read.is_empty());
        self.stream
    }
}

/// What a scripted endpoint does with a request.
pub enum Then {
    Answer(String),
    AnswerAndClose(String),
    Close,
}

/// An endpoint that speaks byte by byte, and remembers every request, head and body.
pub struct Scripted {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// `script` is given the number of the request on its connection, from 1, and its text.
    pub async fn start(script: impl Fn(usize, &str) -> Then + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (script, seen) = (Arc::new(script), requests.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, seen) = (script.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut wire = Wire { stream, read: Vec::new() };
                    for number in 1.. {
                        let Some(request) = wire.request().await else { return };
                        seen.lock().unwrap().push(request.clone());
                        match script(number, &request) {
                            Then::Answer(answer) => wire.send(answer).await,
                            Then::AnswerAndClose(answer) => return wire.send(answer).await,
                            Then::Close => return,
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Wire {
    /// One request with its body, if it has a length; `None` at the end of the connection.
    async fn request(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(4).position(|end| end == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.read[..at]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                let whole = at + 4 + length.unwrap_or(0usize);
                if self.read.len() >= whole {
                    let request: Vec<u8> = self.read.drain(..whole).collect();
                    return Some(String::from_utf8_lossy(&request).into_owned());
                }
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }
}

/// An endpoint that reads a request and then writes exactly these bytes, once per connection, and closes.
pub async fn scripted(answer: &str) -> SocketAddr {
    let answer = answer.to_owned();
    Scripted::start(move |_, _| Then::AnswerAndClose(answer.clone())).await.address
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
