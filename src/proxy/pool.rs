//! This worker's connections to one endpoint: HTTP/1 ones, each with one request at a time, and HTTP/2 ones, which requests
//! share.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response};
use tokio::sync::Notify;

use super::Failure;
use super::dial::{Socket, dial};
use super::exchange::Exchange;
use super::shared::Shared;
use super::state::{State, Tick};
use super::upload::RequestBody;
use super::upstream::Flight;
use super::wire::{Failed, Wire};
use super::worker::Target;
use crate::route::policy::Policy;
use crate::route::transport::Protocol;

/// How many connections may end before a request has been taken by one, until that is the endpoint's failure.
const ENDINGS: usize = 8;

#[derive(Default)]
pub struct Pool {
    /// No longer part of the version: what is open finishes, nothing is kept.
    gone: Cell<bool>,
    /// HTTP/1. The last one in is the first one out, so that the others can grow old.
    idle: RefCell<Vec<Idle>>,
    /// HTTP/2.
    shared: RefCell<Vec<Rc<Shared>>>,
    dialing: Dialing,
}

struct Idle {
    wire: Box<Wire>,
    since: Tick,
}

/// While one request opens an HTTP/2 connection, others that would share it wait for that one.
#[derive(Default)]
struct Dialing {
    busy: Cell<bool>,
    /// How often it has failed, and how the last time.
    failures: Cell<(u64, Option<Failure>)>,
    done: Notify,
}

enum Connection {
    Alone(Box<Wire>),
    Shared(Rc<Shared>),
}

impl Pool {
    /// Sends a request over a connection that is there, or over a new one, and waits for the head of its answer.
    pub async fn send(
        &self,
        address: SocketAddr,
        mut request: Request<RequestBody>,
        flight: Flight,
        policy: &Policy,
        client: Option<&State>,
    ) -> Result<Response<Exchange>, Failed> {
        let mut endings = 0;
        loop {
            match self.connection(address, &flight.target, policy, client).await {
                Ok(Connection::Alone(wire)) => {
                    return wire.ask(request, flight, policy.limits.upstream_idle_connections, client).await;
                }
                Ok(Connection::Shared(shared)) => match shared.ask(request, client).await {
                    Ok((answer, part)) => {
                        return Ok(answer.map(|incoming| Exchange::shared(incoming, part, flight)));
                    }
                    // It ended before it took this one, as connections do: another takes it. One that has never
                    // answered says something about the endpoint.
                    Err(Failed { failure: Failure::UpstreamClosed, request: Some(unsent) })
                        if shared.has_answered() && endings < ENDINGS =>
                    {
                        endings += 1;
                        request = unsent;
                    }
                    Err(failed) => return Err(failed),
                },
                Err(failure) => return Err(Failed { failure, request: Some(request) }),
            }
        }
    }

    async fn connection(
        &self,
        address: SocketAddr,
        target: &Rc<Target>,
        policy: &Policy,
        client: Option<&State>,
    ) -> Result<Connection, Failure> {
        let protocol = target.transport.protocol;
        if protocol != Protocol::Http1 {
            return self.maybe_shared(address, target, policy, client).await;
        }
        match self.take_idle() {
            Some(wire) => Ok(Connection::Alone(wire)),
            None => {
                let socket = dial(address, target, policy.timeouts.connect, client).await?;
                Wire::begin(socket, policy.limits.header_bytes).await.map(Connection::Alone)
            }
        }
    }

    /// For HTTP/2, and where the endpoint decides.
    async fn maybe_shared(
        &self,
        address: SocketAddr,
        target: &Rc<Target>,
        policy: &Policy,
        client: Option<&State>,
    ) -> Result<Connection, Failure> {
        let failures = self.dialing.failures.get().0;
        loop {
            if let Some(shared) = self.shared.borrow().iter().find(|shared| shared.has_room()) {
                return Ok(Connection::Shared(shared.clone()));
            }
            if target.transport.protocol == Protocol::Auto
                && let Some(wire) = self.take_idle()
            {
                return Ok(Connection::Alone(wire));
            }
            if !self.dialing.busy.get() {
                break;
            }
            let began = Instant::now();
            let mut done = pin!(self.dialing.done.notified());
            let waited = std::future::poll_fn(|cx| match client.and_then(State::expired) {
                Some(failure) => Poll::Ready(Err(failure)),
                None => done.as_mut().poll(cx).map(Ok),
            })
            .await;
            if let Some(client) = client {
                client.waited(Duration::ZERO, began.elapsed());
            }
            waited?;
            if let (others, Some(failure)) = self.dialing.failures.get()
                && others != failures
            {
                return Err(failure);
            }
        }
        let mut turn = Turn { dialing: &self.dialing, failure: None };
        self.dialing.busy.set(true);
        let opened = self.open(address, target, policy, client).await;
        turn.failure = opened.as_ref().err().copied();
        opened
    }

    async fn open(
        &self,
        address: SocketAddr,
        target: &Rc<Target>,
        policy: &Policy,
        client: Option<&State>,
    ) -> Result<Connection, Failure> {
        let socket: Socket = dial(address, target, policy.timeouts.connect, client).await?;
        let secure = target.transport.tls.is_some();
        let header_bytes = policy.limits.header_bytes;
        let shares = match target.transport.protocol {
            // Over TLS it is agreed on or not spoken at all (RFC 9113 section 3.3).
            Protocol::Http2 if secure && !socket.speaks_http2() => return Err(Failure::UpstreamTls),
            Protocol::Http2 => true,
            Protocol::Http1 | Protocol::Auto => socket.speaks_http2(),
        };
        if !shares {
            return Wire::begin(socket, header_bytes).await.map(Connection::Alone);
        }
        let shared = Shared::begin(socket, secure, header_bytes).await?;
        if !self.gone.get() {
            self.shared.borrow_mut().push(shared.clone());
        }
        Ok(Connection::Shared(shared))
    }

    /// Keeps a connection for the next request, unless there are `most` already.
    pub fn keep(&self, wire: Box<Wire>, most: usize, now: Tick) {
        let mut idle = self.idle.borrow_mut();
        if !self.gone.get() && idle.len() < most {
            idle.push(Idle { wire, since: now });
        }
    }

    fn take_idle(&self) -> Option<Box<Wire>> {
        loop {
            let mut wire = self.idle.borrow_mut().pop()?.wire;
            if wire.is_free() {
                return Some(wire);
            }
        }
    }

    /// Drops the idle connections: their other end is gone.
    pub fn forget_idle(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().retain(|shared| shared.has_room());
    }

    /// The endpoint has left the version.
    pub fn leave(&self) {
        self.gone.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Once per tick: closes what is idle too long, and what the endpoint has closed.
    pub fn look(&self, now: Tick, bound: Duration) {
        self.idle.borrow_mut().retain_mut(|idle| !idle.since.is_older(now, bound) && idle.wire.is_alive());
        self.shared.borrow_mut().retain(|shared| shared.look(now, bound));
    }
}

/// Whoever opens a connection that others wait for tells them how it went, even when its request is given up.
struct Turn<'a> {
    dialing: &'a Dialing,
    failure: Option<Failure>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.dialing.busy.set(false);
        if self.failure.is_some() {
            self.dialing.failures.set((self.dialing.failures.get().0 + 1, self.failure));
        }
        self.dialing.done.notify_waiters();
    }
}
