//! An answer whose body is still to come, with the connection it comes over.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};

use super::shared::Part;
use super::state::Tick;
use super::tunnel::Half;
use super::upstream::Flight;
use super::wire::{Engine, Wire};

/// Dropping it gives the answer up: an HTTP/1 connection is closed, an HTTP/2 stream reset.
pub struct Exchange {
    incoming: Incoming,
    over: Over,
    flight: Flight,
}

enum Over {
    /// HTTP/1.
    Alone {
        wire: Box<Wire>,
        /// How many idle connections the endpoint may keep.
        keep: usize,
        has_upload: bool,
    },
    /// HTTP/2.
    Shared(#[allow(dead_code, reason = "counts the request as part of the connection until it is dropped")] Part),
}

impl Exchange {
    pub fn alone(incoming: Incoming, wire: Box<Wire>, flight: Flight, keep: usize, has_upload: bool) -> Self {
        Self { incoming, over: Over::Alone { wire, keep, has_upload }, flight }
    }

    pub fn shared(incoming: Incoming, part: Part, flight: Flight) -> Self {
        Self { incoming, over: Over::Shared(part), flight }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Over::Alone { wire, .. } = &mut self.over else {
            return Pin::new(&mut self.incoming).poll_frame(cx);
        };
        // Only the engine can fetch more, so it is the one that needs the waker, and only if there is nothing yet: a
        // waker that it does not need would have this connection polled once more, for nothing.
        let mut noop = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(&mut noop) {
            return Poll::Ready(frame);
        }
        let _ = wire.engine.poll(&mut noop);
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(&mut noop) {
            return Poll::Ready(frame);
        }
        let _ = wire.engine.poll(cx);
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    pub fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// After a 101 that was asked for: what the tunnel needs of it. `None`: the connection is not there for that.
    pub fn switch(self) -> Option<Half> {
        let Over::Alone { mut wire, .. } = self.over else { return None };
        let (socket, early) = wire.engine.take_switched()?;
        Some(Half { socket, early, flight: self.flight })
    }

    /// As [`Self::give_back`], for a copy, which leaves nothing behind: a connection that still has some of the body to send
    /// is closed.
    pub fn give_back_whole(mut self, now: Tick) {
        let whole = match &mut self.over {
            Over::Alone { wire, .. } => wire.is_free(),
            Over::Shared(_) => true,
        };
        if whole {
            self.give_back(now);
        }
    }

    /// After the last frame: keeps the connection for the next request, unless the body of this one is not through yet.
    /// Then it is left to itself, and ends when the body has ended.
    pub fn give_back(self, now: Tick) {
        let Over::Alone { mut wire, keep, has_upload } = self.over else { return };
        let flight = self.flight;
        if has_upload && wire.is_alive() && !wire.is_ready() {
            wire.engine.set_apart();
        }
        match wire.engine {
            Engine::Here(_) => flight.endpoint.clone().pool.keep(wire, keep, now),
            // The body's task goes on by itself, and the request is in flight until then.
            Engine::Apart(_) => {
                if let Engine::Apart(body) = std::mem::replace(&mut wire.engine, Engine::Ended) {
                    tokio::task::spawn_local(async move {
                        let _ = body.await;
                        drop(flight);
                    });
                }
            }
            Engine::Asking(_) | Engine::Switched(_) | Engine::Ended => {}
        }
    }
}
