//! Moves bytes. IMPURE and HOT: each worker is one thread with its own runtime, listeners, upstream connections and
//! counters, and shares nothing with the others but the snapshot it reads.
//!
//! Files, in reading order:
//!
//! * `request`: the life of one request (read this first);
//! * `headers`: what is checked, removed, added and rewritten;
//! * `attempt`: which endpoint, of which version, and whether once more;
//! * `budget`: how often a request may be sent a second time;
//! * `upstream`: this worker's endpoints of one version; chooses one;
//! * `eject`: when an endpoint is left out for a while;
//! * `queue`: places before an endpoint, if it takes so many requests at once and no more (the one thing besides that
//!   workers share, when it is asked for);
//! * `mirror`: copies of requests, which may be lost and never slow a client;
//! * `exchange`: an answer whose body is still to come, and its connection;
//! * `pool`: the connections to one endpoint; `dial` opens one, `wire` is one in HTTP/1, `shared` one in HTTP/2;
//! * `interim`: what an HTTP/1 endpoint says before its answer; `frames`: what an HTTP/2 endpoint says that carries nothing;
//! * `upload`: a request's body on its way through;
//! * `body`: an answer's, and what is counted when it ends;
//! * `draft`: what is written down of a request, if somebody wants to hear of it;
//! * `grpc`: what a proxy has to know of it;
//! * `strict`: a reader of HTTP/1 ahead of hyper, which refuses what hyper would let through;
//! * `socket`: bytes in clear or through TLS, and how they leave cheaply;
//! * `announced`: what a proxy in front says of a connection before its first byte;
//! * `connection`: one client connection: what it speaks, and its end;
//! * `tunnel`: what it becomes after a 101, bytes both ways;
//! * `state`: its phase and deadlines; `streams`: those of the requests in an HTTP/2 connection;
//! * `gates`: what clients may have at once over all workers;
//! * `listen`: a listener's sockets, which may share their port with another process;
//! * `worker`: threads, the accept loop, the slow tick, drain;
//! * `error`: what can go wrong, with a word, a status and a retry answer for each.

mod announced;
mod attempt;
mod body;
mod budget;
mod connection;
mod dial;
mod draft;
mod eject;
mod error;
mod exchange;
mod frames;
mod gates;
mod grpc;
mod headers;
mod interim;
mod listen;
mod mirror;
mod pool;
mod queue;
mod request;
mod shared;
mod socket;
mod state;
mod streams;
mod strict;
mod tunnel;
mod upload;
mod upstream;
mod wire;
mod worker;

pub use error::{Again, Ending, Failure, Side};
pub use headers::RequestHead;
pub use worker::{Bound, Running, Stage, bind};

/// What reads strangers' bytes before anything else does; public for `fuzz/` alone.
#[doc(hidden)]
pub mod readers {
    pub use super::announced::{Announced, LONGEST, read as announced};
    pub use super::grpc::timeout as grpc_timeout;
    pub use super::strict::{Bounds, Refusal, Scanner, Violation};
}

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::tls::Front;

/// What the data path needs before it can start. None of it changes while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listeners: Vec<Listener>,
    /// Threads, each with its own runtime, listeners and upstream connections. At least 1.
    pub workers: usize,
    /// Other processes may listen on the same addresses, if they want that, too: one takes over from another.
    pub reuse_port: bool,
    pub drain: Drain,
}

/// The cores that this process may use: the default number of workers.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Port 0: any free one.
    pub address: SocketAddr,
    /// Which of the application's ports it stands before, from 0.
    pub port: usize,
    /// `None`: in clear.
    pub tls: Option<Front>,
    /// Connections begin with a PROXY protocol header, from peers that are trusted proxies.
    pub proxy_protocol: bool,
    /// Headers in which the application learns who a client is, by its certificate, on this listener or another one. What
    /// clients themselves write in them is removed.
    pub subject_headers: Arc<[HeaderName]>,
    /// Answers every request with a redirect to the same host and target over TLS, at this port.
    pub redirect_to_tls: Option<u16>,
}

impl Listener {
    /// In clear, before the application's port of that number.
    pub fn plain(address: SocketAddr, port: usize) -> Self {
        let (tls, subject_headers) = (None, Arc::default());
        Self { address, port, tls, proxy_protocol: false, subject_headers, redirect_to_tls: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Between "not ready" and the end of accepting, so that load balancers notice.
    pub delay: Duration,
    /// For the requests in flight, after that.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), timeout: Duration::from_secs(30) }
    }
}
