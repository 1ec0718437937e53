//! A steady, bounded load: keep-alive clients that send at a fixed rate and check every answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// Clients at once; each sends its share of the rate.
pub const CLIENTS: u32 = 8;

/// How long requests in flight may take at the end: Ctrl-C ends within a second.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

#[derive(Default)]
pub struct Counts {
    pub sent: AtomicU64,
    /// Answered 500 or above.
    pub failed: AtomicU64,
    /// Not answered at all.
    pub lost: AtomicU64,
}

/// The clients, on a thread of their own so that they do not slow what they measure.
pub struct Load {
    pub counts: Arc<Counts>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Load {
    /// `rate` in requests per second, over all clients.
    pub fn start(proxy: SocketAddr, rate: u32) -> std::io::Result<Self> {
        let counts = Arc::<Counts>::default();
        let (stop, mut stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = {
            let counts = counts.clone();
            std::thread::Builder::new().name("load".to_owned()).spawn(move || {
                runtime.block_on(async {
                    let clients = CLIENTS.min(rate);
                    let pause = Duration::from_secs(1) * clients / rate;
                    let mut tasks = JoinSet::new();
                    for i in 0..clients {
                        tasks.spawn(client(proxy, pause * i / clients, pause, counts.clone(), stopped.clone()));
                    }
                    // A dropped sender is a stop, too.
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                    let finished = async { while tasks.join_next().await.is_some() {} };
                    let _ = tokio::time::timeout(LAST_ANSWERS, finished).await;
                    counts.lost.fetch_add(tasks.len() as u64, Ordering::Relaxed);
                });
            })?
        };
        Ok(Self { counts, stop, thread })
    }

    /// Lets the requests in flight finish; those that do not in time are lost.
    pub fn stop(self) -> Arc<Counts> {
        self.stop.send_replace(true);
        let _ = self.thread.join();
        self.counts
    }
}

async fn client(
    proxy: SocketAddr,
    offset: Duration,
    pause: Duration,
    counts: Arc<Counts>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval_at(Instant::now() + offset, pause);
    // A slow answer lowers the rate; it is not made up for by a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return,
            _ = ticks.tick() => {}
        }
        counts.sent.fetch_add(1, Ordering::Relaxed);
        match request(proxy, &mut connection).await {
            Some(status) if status < 500 => {}
            Some(_) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                connection = None;
                counts.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The answer's status once its whole body has come.
async fn request(proxy: SocketAddr, connection: &mut Option<SendRequest<Empty<Bytes>>>) -> Option<u16> {
    let mut sender = match connection.take().filter(|sender| !sender.is_closed()) {
        Some(sender) => sender,
        None => connect(proxy).await?,
    };
    sender.ready().await.ok()?;
    let request = Request::get("/").header(header::HOST, proxy.to_string()).body(Empty::new()).ok()?;
    let answer = sender.send_request(request).await.ok()?;
    let status = answer.status().as_u16();
    answer.into_body().collect().await.ok()?;
    *connection = Some(sender);
    Some(status)
}

async fn connect(proxy: SocketAddr) -> Option<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(proxy).await.ok()?;
    let _ = stream.set_nodelay(true);
    let (sender, engine) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Its end shows in the sender.
    tokio::spawn(async move { drop(engine.await) });
    Some(sender)
}
