//! A network that misbehaves as it is told to: a relay in front of a server, with faults that can be changed while it runs.
//! In the spirit of toxiproxy. Random parts follow a seed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::random::Random;

/// What happens to the bytes of one direction. The default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Each piece waits so long before it is passed on...
    pub latency: Duration,
    /// ...and at most so much longer.
    pub jitter: Duration,
    /// Bytes per second.
    pub bandwidth: Option<u64>,
    /// Bytes in one piece, at most.
    pub slice: Option<usize>,
    /// Bytes are taken, and never passed on. A connection that has lost some is reset when this ends: no network leaves bytes
    /// out of the middle.
    pub swallow: bool,
    /// The end of the stream is passed on so much later.
    pub slow_close: Duration,
    /// Both sides are closed once a connection has passed on so many bytes.
    pub cut_after: Option<u64>,
    /// The same, with a reset.
    pub reset_after: Option<u64>,
}

impl Faults {
    /// Nothing but delay: whoever is patient notices nothing.
    pub fn is_harmless(&self) -> bool {
        !self.swallow && self.cut_after.is_none() && self.reset_after.is_none()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// Towards the server, and back.
    there: Faults,
    back: Faults,
    /// Nobody listens, and no connection lives.
    down: bool,
}

/// A relay in front of one server.
pub struct Link {
    /// Where clients connect to.
    pub address: SocketAddr,
    told: watch::Sender<Told>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    broken: AtomicU64,
}

impl Link {
    pub async fn to(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket");
        let (told, listen) = watch::channel(Told::default());
        let counts = Arc::<Counts>::default();
        let task = tokio::spawn(accept(listener, server, listen, counts.clone(), seed));
        Self { address, told, counts, task }
    }

    /// From now on, for open connections, too: what happens on the way to the server, and on the way back.
    pub fn set(&self, there: Faults, back: Faults) {
        self.told.send_modify(|told| (told.there, told.back) = (there, back));
    }

    /// Nothing happens any more, and whoever was down is up again.
    pub fn heal(&self) {
        self.told.send_replace(Told::default());
    }

    /// Resets every connection, and refuses new ones until it is healed.
    pub fn down(&self) {
        self.told.send_modify(|told| told.down = true);
    }

    /// Connections that were accepted.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// Connections that a fault has ended.
    pub fn broken(&self) -> u64 {
        self.counts.broken.load(Ordering::SeqCst)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    mut told: watch::Receiver<Told>,
    counts: Arc<Counts>,
    seed: u64,
) {
    let address = listener.local_addr().expect("a bound socket");
    let mut listener = Some(listener);
    // Dropped with this task.
    let mut connections = JoinSet::new();
    loop {
        let down = told.borrow_and_update().down;
        if down {
            listener = None;
        } else if listener.is_none() {
            // A port of the range that is given out by chance may be somebody else's for a moment.
            listener = TcpListener::bind(address).await.ok();
        }
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                None if down => std::future::pending().await,
                None => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    None
                }
            }
        };
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            accepted = next => if let Some((client, _)) = accepted {
                let number = counts.accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(connection(client, server, told.clone(), counts.clone(), Random::new(seed, number)));
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// Why a connection ended before its time.
enum Break {
    Cut,
    Reset,
    /// One side has gone by itself.
    Gone,
}

async fn connection(
    mut client: TcpStream,
    server: SocketAddr,
    told: watch::Receiver<Told>,
    counts: Arc<Counts>,
    mut random: Random,
) {
    // Whoever connects to a server that is not there sees what it would see without the relay, but for the moment.
    let Ok(mut server) = TcpStream::connect(server).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut here, mut there) = (Random::new(random.next(), 0), random);
    let ended = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let mut watched = told.clone();
        let down = async {
            match watched.wait_for(|told| told.down).await {
                Ok(_) => Break::Reset,
                Err(_) => Break::Gone,
            }
        };
        let both = async {
            tokio::try_join!(
                pump(client_read, server_write, told.clone(), |told| told.there, &mut there),
                pump(server_read, client_write, told.clone(), |told| told.back, &mut here),
            )
        };
        tokio::select! {
            ended = both => ended.err(),
            ended = down => Some(ended),
        }
    };
    if let Some(Break::Cut | Break::Reset) = ended {
        counts.broken.fetch_add(1, Ordering::SeqCst);
    }
    if let Some(Break::Reset) = ended {
        // Fails on dead sockets only.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// One direction of a connection, until its end.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut told: watch::Receiver<Told>,
    way: impl Fn(&Told) -> Faults,
    random: &mut Random,
) -> Result<(), Break> {
    let mut passed = 0;
    let mut buffer = [0; 16 * 1024];
    loop {
        let faults = way(&told.borrow_and_update());
        // Bytes that may pass before the connection breaks, and how it does.
        let bounds = [(faults.cut_after, Break::Cut), (faults.reset_after, Break::Reset)];
        let bound = bounds.into_iter().filter_map(|(after, how)| Some((after?, how))).min_by_key(|(after, _)| *after);
        let room = match bound {
            Some((after, how)) if after <= passed => return Err(how),
            Some((after, _)) => usize::try_from(after - passed).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        let most = buffer.len().min(faults.slice.unwrap_or(usize::MAX).max(1)).min(room);
        let read = tokio::select! {
            read = from.read(&mut buffer[..most]) => read.map_err(|_| Break::Gone)?,
            // The sender lives as long as the relay.
            changed = told.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Err(Break::Gone),
            },
        };
        if read == 0 {
            tokio::time::sleep(faults.slow_close).await;
            return to.shutdown().await.map_err(|_| Break::Gone);
        }
        passed += read as u64;
        let jitter = faults.jitter.mul_f64(random.below(1001) as f64 / 1000.0);
        let sending =
            faults.bandwidth.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(read as f64 / rate as f64));
        let wait = faults.latency + jitter + sending;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        // As it is told now: what was on its way when bytes began to vanish vanishes.
        if way(&told.borrow()).swallow {
            return match told.wait_for(|told| !way(told).swallow).await {
                Ok(_) => Err(Break::Reset),
                Err(_) => Err(Break::Gone),
            };
        }
        to.write_all(&buffer[..read]).await.map_err(|_| Break::Gone)?;
        if faults.slice.is_some() {
            // Lets the other side read the piece by itself.
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Instant;

    use super::*;
    use crate::support::soon;

    /// A server that sends everything back, and a link before it.
    async fn echo() -> Link {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                });
            }
        });
        Link::to(address, 1).await
    }

    async fn connect(link: &Link) -> TcpStream {
        TcpStream::connect(link.address).await.unwrap()
    }

    /// Sends so many bytes and the end, and returns what comes back until its end, and how that came.
    async fn sent(mut stream: TcpStream, bytes: usize) -> (usize, Option<ErrorKind>) {
        let _ = stream.write_all(&vec![b'x'; bytes]).await;
        let _ = stream.shutdown().await;
        let mut back = Vec::new();
        let end = soon("the end", stream.read_to_end(&mut back)).await;
        (back.len(), end.err().map(|error| error.kind()))
    }

    #[tokio::test]
    async fn without_faults_everything_passes() {
        let link = echo().await;
        assert_eq!(sent(connect(&link).await, 100_000).await, (100_000, None));
        assert_eq!((link.accepted(), link.broken()), (1, 0));
    }

    #[tokio::test]
    async fn harmless_faults_change_nothing_but_the_time() {
        let link = echo().await;
        let slow = Faults {
            latency: Duration::from_millis(2),
            jitter: Duration::from_millis(2),
            bandwidth: Some(100_000),
            slice: Some(100),
            slow_close: Duration::from_millis(50),
            ..Faults::default()
        };
        assert!(slow.is_harmless());
        link.set(slow, Faults::default());
        let begun = Instant::now();
        assert_eq!(sent(connect(&link).await, 1000).await, (1000, None));
        // Ten pieces with 2 ms and 1 ms of sending each, and the end.
        assert!(begun.elapsed() >= Duration::from_millis(80), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_cut_passes_exactly_so_many_bytes() {
        let link = echo().await;
        link.set(Faults::default(), Faults { cut_after: Some(10), ..Faults::default() });
        let mut stream = connect(&link).await;
        stream.write_all(&[b'x'; 10]).await.unwrap();
        assert_eq!(sent(stream, 0).await.0, 10);
        link.set(Faults { cut_after: Some(0), ..Faults::default() }, Faults::default());
        assert_eq!(sent(connect(&link).await, 0).await.0, 0);
        assert_eq!(link.broken(), 2);
    }

    #[tokio::test]
    async fn a_reset_is_one() {
        let link = echo().await;
        link.set(Faults { reset_after: Some(0), ..Faults::default() }, Faults::default());
        assert_eq!(sent(connect(&link).await, 0).await, (0, Some(ErrorKind::ConnectionReset)));
    }

    #[tokio::test]
    async fn what_is_swallowed_never_comes_and_its_connection_ends_with_the_fault() {
        let link = echo().await;
        let mut stream = connect(&link).await;
        stream.write_all(b"a").await.unwrap();
        assert_eq!(soon("the first byte", stream.read_u8()).await.unwrap(), b'a');
        link.set(Faults { swallow: true, ..Faults::default() }, Faults::default());
        stream.write_all(b"b").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await.is_err());
        link.heal();
        assert_eq!(sent(stream, 0).await, (0, Some(ErrorKind::ConnectionReset)));
        assert_eq!(sent(connect(&link).await, 1).await, (1, None));
    }

    #[tokio::test]
    async fn down_is_refused_until_it_is_healed() {
        let link = echo().await;
        let mut stream = connect(&link).await;
        stream.write_all(b"a").await.unwrap();
        stream.read_u8().await.unwrap();
        link.down();
        assert_eq!(sent(stream, 0).await, (0, Some(ErrorKind::ConnectionReset)));
        let refused = async || TcpStream::connect(link.address).await.is_err();
        crate::support::eventually("a refused connection", refused).await;
        link.heal();
        crate::support::eventually("a connection", async || {
            let Ok(stream) = TcpStream::connect(link.address).await else { return false };
            sent(stream, 5).await == (5, None)
        })
        .await;
    }

    #[tokio::test]
    async fn faults_reach_connections_that_are_open() {
        let link = echo().await;
        let mut stream = connect(&link).await;
        stream.write_all(b"a").await.unwrap();
        stream.read_u8().await.unwrap();
        link.set(Faults { cut_after: Some(1), ..Faults::default() }, Faults::default());
        assert_eq!(sent(stream, 0).await.0, 0);
    }
}
