//! The clients: each has one kind of request, sends one after the other at its part of the rate, and checks every answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

use crate::apps::{Piped, Sent, pattern, whole};
use crate::ledger::{Kind, Ledger, Outcome};
use crate::random::Random;

/// No request may take longer, faulty or not: all of the proxy's timeouts are shorter.
const LONGEST: Duration = Duration::from_secs(25);
/// Clients do not use connections that the proxy may be closing right now; its `timeouts.idle` is longer.
const IDLE: Duration = Duration::from_secs(2);

pub struct World {
    pub clear: SocketAddr,
    pub tls: SocketAddr,
    pub http1: TlsConnector,
    pub http2: TlsConnector,
    pub ledger: Ledger,
    /// Requests in a second, of all clients.
    pub rate: AtomicU64,
    /// The canary's weight and the number of the change that brought it; `None` while it changes.
    pub weight: Mutex<Option<(u64, u32)>>,
    /// The version that a user had under a weight.
    pub users: Mutex<HashMap<(u64, u32), String>>,
    pub ids: AtomicU64,
}

/// All clients until `stop` says true. Their connections end with them.
pub async fn run(world: &Arc<World>, seed: u64, stop: watch::Receiver<bool>) {
    let mut clients = JoinSet::new();
    for kind in Kind::ALL {
        let (count, share) = kind.clients();
        for client in 0..count {
            let random = Random::new(seed, (kind as u64) << 32 | client);
            clients.spawn(one(world.clone(), kind, share / 100.0 / count as f64, random, stop.clone()));
        }
    }
    while let Some(ended) = clients.join_next().await {
        if let Err(error) = ended {
            world.ledger.tell(format!("a client of the load failed: {error}"));
        }
    }
}

async fn one(world: Arc<World>, kind: Kind, share: f64, mut random: Random, mut stop: watch::Receiver<bool>) {
    let mut connection = Connection::new(front(kind, &mut random));
    while !*stop.borrow() {
        let rate = world.rate.load(Ordering::Relaxed) as f64 * share;
        // Half to one and a half of the mean.
        let wait = Duration::from_secs_f64((0.5 + random.below(1001) as f64 / 1000.0) / rate.max(0.01));
        tokio::select! {
            () = tokio::time::sleep(wait.min(Duration::from_secs(10))) => {}
            // Gone with its sender, too.
            _ = stop.changed() => continue,
        }
        if random.once_in(100) {
            connection.sender = None;
        }
        let outcome = match tokio::time::timeout(LONGEST, connection.act(&world, kind, &mut random)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                connection.sender = None;
                Outcome::Lost(format!("no end within {LONGEST:?}"))
            }
        };
        world.ledger.add(kind, outcome);
    }
}

/// Which front a client of a kind that can use several has.
fn front(kind: Kind, random: &mut Random) -> Front {
    match kind {
        Kind::Http1 => Front { tls: false, h2: false },
        Kind::Http2 => Front { tls: false, h2: true },
        Kind::Tls1 => Front { tls: true, h2: false },
        Kind::Tls2 => Front { tls: true, h2: true },
        Kind::Grpc => Front { tls: random.once_in(2), h2: true },
        Kind::WebSocket | Kind::Slow => Front { tls: random.once_in(2), h2: false },
        Kind::Sticky | Kind::Header | Kind::Cut | Kind::Faulty => {
            Front { tls: random.once_in(2), h2: random.once_in(2) }
        }
    }
}

#[derive(Clone, Copy)]
struct Front {
    tls: bool,
    h2: bool,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

enum Sender {
    Http1(http1::SendRequest<Sent>),
    Http2(http2::SendRequest<Sent>),
}

struct Connection {
    front: Front,
    sender: Option<Sender>,
    used: Instant,
    /// Which of the faulty backends.
    faulty: &'static str,
}

impl Connection {
    fn new(front: Front) -> Self {
        let faulty = if front.tls { "faulty-http1" } else { "faulty-h2c" };
        Self { front, sender: None, used: Instant::now(), faulty }
    }

    async fn act(&mut self, world: &World, kind: Kind, random: &mut Random) -> Outcome {
        let id = world.ids.fetch_add(1, Ordering::Relaxed);
        let done = match kind {
            Kind::Http1 | Kind::Http2 | Kind::Tls1 | Kind::Tls2 => {
                self.exchange(world, id, random, &[]).await.map(|_| Outcome::Answered)
            }
            Kind::Header => self.exchange(world, id, random, &[("x-team", "qa")]).await.map(|app| match app.as_str() {
                "canary" => Outcome::Answered,
                other => Outcome::Lost(format!("{id}: its header says canary, and {other} answered")),
            }),
            Kind::Sticky => self.sticky(world, id, random).await,
            Kind::Faulty => match self.exchange(world, id, random, &[("x-endpoints", self.faulty)]).await {
                Ok(_) => Ok(Outcome::Answered),
                Err(Trouble::Wrong(why)) => Err(Trouble::Wrong(why)),
                Err(Trouble::Broken(why) | Trouble::Refused(why)) => {
                    self.sender = None;
                    Ok(Outcome::Failed(why))
                }
            },
            Kind::Grpc => self.stream(world, id, random).await.map(|()| Outcome::Answered),
            Kind::WebSocket => self.websocket(world, id, random).await.map(|()| Outcome::Answered),
            Kind::Slow => self.slowly(world, id, random).await.map(|()| Outcome::Answered),
            Kind::Cut => self.cut(world, id, random).await.map(|()| Outcome::Cut),
        };
        done.unwrap_or_else(|trouble| {
            self.sender = None;
            let (Trouble::Broken(why) | Trouble::Refused(why) | Trouble::Wrong(why)) = trouble;
            Outcome::Lost(format!("{id}: {why}"))
        })
    }

    async fn open(&self, world: &World) -> Result<Box<dyn Stream>, Trouble> {
        let address = if self.front.tls { world.tls } else { world.clear };
        let tcp = TcpStream::connect(address).await.map_err(broken("connecting"))?;
        tcp.set_nodelay(true).map_err(broken("connecting"))?;
        if !self.front.tls {
            return Ok(Box::new(tcp));
        }
        let connector = if self.front.h2 { &world.http2 } else { &world.http1 };
        let name = ServerName::try_from("app.test").expect("a name");
        Ok(Box::new(connector.connect(name, tcp).await.map_err(broken("the handshake of TLS"))?))
    }

    /// Sends over the connection that there is, or a new one if it has not taken the request.
    async fn send(&mut self, world: &World, mut request: Request<Sent>) -> Result<Response<Incoming>, Trouble> {
        for last in [false, true] {
            if self.used.elapsed() > IDLE {
                self.sender = None;
            }
            let ready = match &mut self.sender {
                Some(Sender::Http1(sender)) => sender.ready().await.is_ok(),
                Some(Sender::Http2(sender)) => sender.ready().await.is_ok(),
                None => false,
            };
            if !ready {
                let io = TokioIo::new(self.open(world).await?);
                self.sender = Some(if self.front.h2 {
                    let (sender, engine) =
                        http2::handshake(TokioExecutor::new(), io).await.map_err(broken("a connection"))?;
                    tokio::spawn(async move { drop(engine.await) });
                    Sender::Http2(sender)
                } else {
                    let (sender, engine) = http1::handshake(io).await.map_err(broken("a connection"))?;
                    tokio::spawn(async move { drop(engine.await) });
                    Sender::Http1(sender)
                });
            }
            let sent = match self.sender.as_mut().expect("opened above") {
                Sender::Http1(sender) => sender.try_send_request(request).await,
                Sender::Http2(sender) => sender.try_send_request(request).await,
            };
            self.used = Instant::now();
            match sent {
                Ok(answer) => return Ok(answer),
                Err(mut error) => {
                    self.sender = None;
                    match error.take_message() {
                        Some(unsent) if !last => {
                            world.ledger.resent.fetch_add(1, Ordering::Relaxed);
                            request = unsent;
                        }
                        _ => return Err(broken("waiting for the answer")(error.into_error())),
                    }
                }
            }
        }
        unreachable!("the second time returns")
    }

    fn request(&self, path: &str) -> http::request::Builder {
        let scheme = if self.front.tls { "https" } else { "http" };
        let builder = Request::builder();
        if self.front.h2 {
            builder.uri(format!("{scheme}://app.test{path}"))
        } else {
            builder.uri(path).header(header::HOST, "app.test")
        }
    }

    /// One request with a body or without, and the version that answered it.
    async fn exchange(
        &mut self,
        world: &World,
        id: u64,
        random: &mut Random,
        headers: &[(&str, &str)],
    ) -> Result<String, Trouble> {
        let length = random.pick(&[0, 10, 1024, 1024, 16 * 1024, 100_000]);
        let upload = random.pick(&[0, 0, 0, 10, 5000, 100_000]);
        let mut request = self.request(&format!("/x/{id}/{length}")).header("x-upload", upload);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if upload > 0 {
            request = request.method("POST");
        }
        let body = match upload {
            // In pieces, and without a length.
            5000 => {
                let (sender, receiver) = mpsc::channel(2);
                for piece in [0..2000, 2000..5000] {
                    let piece = pattern(id, 5000).slice(piece);
                    sender.try_send(Frame::data(piece)).expect("there is room for both");
                }
                Piped(receiver).boxed_unsync()
            }
            _ => whole(pattern(id, upload)),
        };
        let answer = self.send(world, request.body(body).expect("a request")).await?;
        let (head, body) = answer.into_parts();
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (reason, app) = (header("x-splitway-reason").to_owned(), header("x-app").to_owned());
        let body = body.collect().await.map_err(broken("the answer's body"))?.to_bytes();
        self.used = Instant::now();
        match head.status.as_u16() {
            200 if header("x-tag") != id.to_string() => {
                Err(Trouble::Wrong(format!("the answer of {}", header("x-tag"))))
            }
            200 if body != pattern(id, length) => {
                Err(Trouble::Wrong(format!("another body: {} bytes instead of {length}", body.len())))
            }
            200 => Ok(app),
            502..=504 if !reason.is_empty() => Err(Trouble::Refused(reason)),
            status => Err(Trouble::Wrong(format!("status {status}, reason {reason:?}"))),
        }
    }

    /// Under one weight, a user has one version.
    async fn sticky(&mut self, world: &World, id: u64, random: &mut Random) -> Result<Outcome, Trouble> {
        let before = *world.weight.lock().expect("nobody panics");
        let user = random.below(300) as u64;
        let app = self.exchange(world, id, random, &[("x-user", &user.to_string())]).await?;
        let after = *world.weight.lock().expect("nobody panics");
        let Some((_, weight)) = before.filter(|_| before == after) else { return Ok(Outcome::Answered) };
        let mut users = world.users.lock().expect("nobody panics");
        let had = users.entry((user, weight)).or_insert_with(|| app.clone());
        Ok(match *had == app {
            true => Outcome::Answered,
            false => Outcome::Lost(format!("{id}: user {user} had {had} at weight {weight}, and now {app}")),
        })
    }

    /// Messages to and fro in one stream, then trailers.
    async fn stream(&mut self, world: &World, id: u64, random: &mut Random) -> Result<(), Trouble> {
        let (sender, receiver) = mpsc::channel(1);
        let request = self
            .request("/soak.Echo/Stream")
            .method("POST")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Piped(receiver).boxed_unsync())
            .expect("a request");
        let answer = self.send(world, request).await?;
        if answer.status() != 200 || answer.headers().contains_key("grpc-status") {
            return Err(Trouble::Wrong(format!("{} {:?}", answer.status(), answer.headers())));
        }
        let mut body = answer.into_body();
        for n in 0..1 + random.below(8) as u64 {
            let message = pattern(id + n, random.pick(&[5, 700, 30_000]));
            let gone = |_| Trouble::Broken("the stream does not take messages any more".into());
            sender.send(Frame::data(message.clone())).await.map_err(gone)?;
            let mut back = Vec::new();
            while back.len() < message.len() {
                let frame = body.frame().await.ok_or_else(|| Trouble::Broken("the stream ended early".into()))?;
                let data = frame.map_err(broken("a message"))?.into_data();
                back.extend_from_slice(&data.map_err(|_| Trouble::Wrong("trailers before the end".into()))?);
            }
            if back != message {
                return Err(Trouble::Wrong("another message".into()));
            }
        }
        drop(sender);
        let mut status = None;
        while let Some(frame) = body.frame().await {
            if let Ok(trailers) = frame.map_err(broken("trailers"))?.into_trailers() {
                status = trailers.get("grpc-status").cloned();
            }
        }
        self.used = Instant::now();
        match status {
            Some(status) if status == "0" => Ok(()),
            other => Err(Trouble::Wrong(format!("grpc-status {other:?}"))),
        }
    }

    async fn websocket(&mut self, world: &World, id: u64, random: &mut Random) -> Result<(), Trouble> {
        let io = self.open(world).await?;
        let (mut socket, _) =
            tokio_tungstenite::client_async("ws://app.test/ws", io).await.map_err(broken("the handshake"))?;
        for n in 0..1 + random.below(10) as u64 {
            let message = pattern(id + n, random.pick(&[5, 700, 30_000]));
            socket.send(Message::Binary(message.clone())).await.map_err(broken("a message"))?;
            match socket.next().await {
                Some(Ok(Message::Binary(back))) if back == message => {}
                Some(Ok(_)) => return Err(Trouble::Wrong("another message".into())),
                Some(Err(error)) => return Err(broken("a message")(error)),
                None => return Err(Trouble::Broken("it ended early".into())),
            }
            tokio::time::sleep(Duration::from_millis(random.below(300) as u64)).await;
        }
        socket.close(None).await.map_err(broken("closing"))?;
        while let Some(message) = socket.next().await {
            match message {
                Ok(Message::Close(_)) => {}
                Ok(_) => return Err(Trouble::Wrong("a message after the last".into())),
                Err(error) => return Err(broken("closing")(error)),
            }
        }
        Ok(())
    }

    /// A head in pieces, and an answer that is read in small bites.
    async fn slowly(&mut self, world: &World, id: u64, random: &mut Random) -> Result<(), Trouble> {
        let mut io = self.open(world).await?;
        let length = crate::apps::LONGEST;
        let head = format!("GET /x/{id}/{length} HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n");
        for piece in head.as_bytes().chunks(10) {
            io.write_all(piece).await.map_err(broken("the head"))?;
            io.flush().await.map_err(broken("the head"))?;
            tokio::time::sleep(Duration::from_millis(random.below(200) as u64)).await;
        }
        let (mut answer, mut bite) = (Vec::new(), vec![0; 8 * 1024]);
        loop {
            match io.read(&mut bite).await.map_err(broken("the answer"))? {
                0 => break,
                read => answer.extend_from_slice(&bite[..read]),
            }
            tokio::time::sleep(Duration::from_millis(random.below(60) as u64)).await;
        }
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4).unwrap_or(answer.len());
        let first = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        match first == "HTTP/1.1 200" && answer[end..] == pattern(id, length)[..] {
            true => Ok(()),
            false => Err(Trouble::Wrong(format!("{first:?} with {} bytes", answer.len() - end))),
        }
    }

    /// Goes away in the middle, in one of several ways.
    async fn cut(&mut self, world: &World, id: u64, random: &mut Random) -> Result<(), Trouble> {
        if self.front.h2 {
            let (sender, receiver) = mpsc::channel(1);
            let upload = random.once_in(2);
            let request = self.request(&format!("/x/{id}/{}", crate::apps::LONGEST));
            let request = match upload {
                true => request.method("POST").header("x-upload", 100_000).body(Piped(receiver).boxed_unsync()),
                false => request.body(whole(Bytes::new())),
            };
            let request = request.expect("a request");
            if upload {
                let sending = self.send(world, request);
                let _ = sender.try_send(Frame::data(pattern(id, 30_000)));
                // The future is dropped with the request on its way: RST_STREAM.
                let wait = Duration::from_millis(random.below(30) as u64);
                return match tokio::time::timeout(wait, sending).await {
                    Err(_) => Ok(()),
                    Ok(Ok(answer)) => Err(Trouble::Wrong(format!("{} to half a request", answer.status()))),
                    Ok(Err(trouble)) => Err(trouble),
                };
            }
            let mut body = self.send(world, request).await?.into_body();
            let frame = body.frame().await.ok_or_else(|| Trouble::Broken("the answer ended early".into()))?;
            return frame.map(drop).map_err(broken("the answer"));
        }
        let mut io = self.open(world).await?;
        let head = match random.below(3) {
            0 => {
                format!("POST /x/{id}/10 HTTP/1.1\r\nhost: app.test\r\nx-upload: 9\r\ncontent-length: 90000\r\n\r\nabc")
            }
            1 => format!("GET /x/{id}/10 HTTP/1.1\r\nhost: a"),
            _ => format!("GET /x/{id}/{} HTTP/1.1\r\nhost: app.test\r\n\r\n", crate::apps::LONGEST),
        };
        io.write_all(head.as_bytes()).await.map_err(broken("the head"))?;
        io.flush().await.map_err(broken("the head"))?;
        // With bytes of the answer unread, the end is a reset.
        let wait = Duration::from_millis(random.below(30) as u64);
        // Nothing that comes here is a whole answer.
        let _ = tokio::time::timeout(wait, io.read(&mut [0; 1000])).await;
        Ok(())
    }
}

enum Trouble {
    /// The connection or the stream ended visibly before its time.
    Broken(String),
    /// An error of the proxy's own, with its reason.
    Refused(String),
    /// Something that no fault explains.
    Wrong(String),
}

fn broken<E: std::error::Error>(what: &str) -> impl FnOnce(E) -> Trouble {
    move |error| {
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Trouble::Broken(text)
    }
}
