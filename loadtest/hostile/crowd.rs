//! Crowds of clients who want something else than answers.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::frames::{self, INITIAL_WINDOW, MOST_WINDOW};

/// What one of them does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// A head, byte by byte, that never ends.
    SlowHead,
    /// A body, byte by byte.
    SlowBody,
    /// Nothing.
    Silent,
    /// One request, then nothing.
    Idle,
    /// Asks for a large answer in HTTP/1, and takes nothing of it.
    Unread,
    /// The same in HTTP/2, with windows that allow all of it.
    UnreadStream,
    /// The same with a window of 0: it reads, but may be sent nothing.
    NoWindow,
}

/// Between two bytes of somebody slow.
const SLOW: Duration = Duration::from_secs(1);

/// Before somebody whose connection was ended comes again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub struct Counts {
    /// Connections that are where their owner wants them.
    pub in_place: Cell<usize>,
    /// Connections that were ended by the proxy, or could not be made.
    pub ended: Cell<usize>,
}

/// They go on until this is dropped.
pub struct Crowd {
    pub counts: Rc<Counts>,
    #[allow(dead_code, reason = "its tasks end when it is dropped")]
    members: JoinSet<()>,
}

impl Crowd {
    /// So many of each. They come one after the other, a few in a millisecond, from many addresses.
    pub fn gather(proxy: SocketAddr, who: &[(Habit, usize)]) -> Self {
        let counts = Rc::<Counts>::default();
        let mut members = JoinSet::new();
        let all = who.iter().flat_map(|(habit, count)| std::iter::repeat_n(*habit, *count));
        for (n, habit) in all.enumerate() {
            let counts = counts.clone();
            members.spawn_local(async move {
                tokio::time::sleep(Duration::from_micros(250 * n as u64)).await;
                loop {
                    // However it ends, its owner comes again.
                    let _ = one(proxy, address(n), habit, n, &counts).await;
                    counts.ended.set(counts.ended.get() + 1);
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Self { counts, members }
    }
}

/// Each address has a few hundred of them, and the innocent's has none.
fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1 + (n % 50) as u8)
}

struct InPlace<'a>(&'a Counts);

impl<'a> InPlace<'a> {
    fn new(counts: &'a Counts) -> Self {
        counts.in_place.set(counts.in_place.get() + 1);
        Self(counts)
    }
}

impl Drop for InPlace<'_> {
    fn drop(&mut self) {
        self.0.in_place.set(self.0.in_place.get() - 1);
    }
}

async fn one(proxy: SocketAddr, from: Ipv4Addr, habit: Habit, n: usize, counts: &Counts) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    if matches!(habit, Habit::Unread | Habit::UnreadStream) {
        // So that what is not read waits at the proxy.
        socket.set_recv_buffer_size(4096)?;
    }
    socket.bind((from, 0).into())?;
    let mut stream = socket.connect(proxy).await?;
    stream.set_nodelay(true)?;
    match habit {
        Habit::SlowHead => {
            let _here = InPlace::new(counts);
            let head = format!("GET /?{n} HTTP/1.1\r\nhost: app.example\r\nx-slow: ");
            slowly(stream, head.bytes().chain(std::iter::repeat(b's'))).await
        }
        Habit::SlowBody => {
            stream.write_all(b"POST / HTTP/1.1\r\nhost: app.example\r\ncontent-length: 1000000\r\n\r\n").await?;
            let _here = InPlace::new(counts);
            slowly(stream, std::iter::repeat(b's')).await
        }
        Habit::Silent => {
            let _here = InPlace::new(counts);
            until_end(stream).await
        }
        Habit::Idle => {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: app.example\r\n\r\n").await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"hello") {
                if stream.read_buf(&mut answer).await? == 0 {
                    return Ok(());
                }
            }
            drop(answer);
            let _here = InPlace::new(counts);
            until_end(stream).await
        }
        Habit::Unread => {
            stream.write_all(b"GET /large HTTP/1.1\r\nhost: app.example\r\n\r\n").await?;
            let _here = InPlace::new(counts);
            for_ever(stream).await
        }
        Habit::UnreadStream => {
            let hello = frames::hello(&[(INITIAL_WINDOW, MOST_WINDOW)]);
            let window = frames::window(0, MOST_WINDOW - 65_535);
            stream.write_all(&[hello, window, frames::get(1, "/large")].concat()).await?;
            let _here = InPlace::new(counts);
            for_ever(stream).await
        }
        Habit::NoWindow => {
            stream.write_all(&[frames::hello(&[(INITIAL_WINDOW, 0)]), frames::get(1, "/large")].concat()).await?;
            let _here = InPlace::new(counts);
            until_end(stream).await
        }
    }
}

async fn slowly(stream: TcpStream, bytes: impl Iterator<Item = u8>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let slow = async {
        for byte in bytes {
            to.write_all(&[byte]).await?;
            tokio::time::sleep(SLOW).await;
        }
        Ok(())
    };
    tokio::select! {
        ended = slow => ended,
        ended = until_end(from) => ended,
    }
}

/// Reads, and sends nothing.
async fn until_end(mut from: impl tokio::io::AsyncRead + Unpin) -> io::Result<()> {
    // Small: there are ten thousand of them.
    let mut waste = [0; 512];
    while from.read(&mut waste).await? > 0 {}
    Ok(())
}

/// Keeps a connection without looking at it.
async fn for_ever(stream: TcpStream) -> io::Result<()> {
    std::future::pending::<()>().await;
    drop(stream);
    Ok(())
}
