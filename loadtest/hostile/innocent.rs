//! The innocent: asks at a steady rate, on a connection it keeps and on new ones, and writes down how long it waits.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Between two requests on the kept connection, and between two new connections.
const KEPT_EVERY: Duration = Duration::from_millis(20);
const FRESH_EVERY: Duration = Duration::from_millis(50);

/// A request that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Nobody of the crowd has this address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub waits: Vec<Duration>,
    /// What became of those that were not answered well.
    pub lost: Vec<String>,
    /// New connections that were told that there are too many.
    pub turned_away: usize,
}

impl Heard {
    pub fn quantile(&self, quantile: f64) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let last = waits.len().saturating_sub(1);
        waits.get((last as f64 * quantile).ceil() as usize).copied().unwrap_or_default()
    }
}

/// It asks until this is dropped.
pub struct Innocent {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Innocent {
    /// On a thread of its own, so that it waits for the proxy and not for the crowd. `fresh`: also on new connections.
    pub fn start(proxy: SocketAddr, fresh: bool) -> Self {
        let heard = Arc::<Mutex<Heard>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (book, end) = (heard.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::join!(kept(proxy, &book, &end), async {
                    if fresh {
                        self::fresh(proxy, &book, &end).await;
                    }
                });
            });
        });
        Self { heard, stop, thread: Some(thread) }
    }

    /// What was heard since the last time.
    pub fn take(&self) -> Heard {
        std::mem::take(&mut *self.heard.lock().expect("no holder of this lock panics"))
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

enum Outcome {
    Answered,
    TurnedAway,
    Lost(String),
}

fn note(heard: &Mutex<Heard>, began: Instant, outcome: Outcome) {
    let mut heard = heard.lock().expect("no holder of this lock panics");
    match outcome {
        Outcome::Answered => heard.waits.push(began.elapsed()),
        Outcome::TurnedAway => heard.turned_away += 1,
        Outcome::Lost(why) => heard.lost.push(why),
    }
}

async fn kept(proxy: SocketAddr, heard: &Mutex<Heard>, stop: &AtomicBool) {
    let mut every = tokio::time::interval(KEPT_EVERY);
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        every.tick().await;
        let began = Instant::now();
        let outcome = ask(proxy, &mut connection).await;
        if !matches!(outcome, Outcome::Answered) {
            connection = None;
        }
        note(heard, began, outcome);
    }
}

async fn fresh(proxy: SocketAddr, heard: &Mutex<Heard>, stop: &AtomicBool) {
    let mut every = tokio::time::interval(FRESH_EVERY);
    while !stop.load(Ordering::Relaxed) {
        every.tick().await;
        let began = Instant::now();
        let outcome = ask(proxy, &mut None).await;
        note(heard, began, outcome);
    }
}

async fn ask(proxy: SocketAddr, connection: &mut Option<TcpStream>) -> Outcome {
    let exchange = async {
        if connection.is_none() {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((ADDRESS, 0)))?;
            let stream = socket.connect(proxy).await?;
            stream.set_nodelay(true)?;
            *connection = Some(stream);
        }
        let stream = connection.as_mut().expect("just made");
        // Who is turned away may find the connection closed; what it was told counts.
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: app.example\r\n\r\n").await;
        let mut answer = Vec::new();
        loop {
            if answer.ends_with(b"\r\n\r\nhello") || stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        sent?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Err(_) => Outcome::Lost(format!("no answer within {PATIENCE:?}")),
        Ok(Err(error)) => Outcome::Lost(error.to_string()),
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello") => Outcome::Answered,
        Ok(Ok(answer)) if answer.contains("connection_limit") || answer.contains("no_descriptors") => {
            Outcome::TurnedAway
        }
        Ok(Ok(answer)) => Outcome::Lost(format!("an answer that begins {:?}", answer.lines().next())),
    }
}
