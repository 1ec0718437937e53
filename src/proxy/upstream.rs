//! This worker's endpoints of one version: which one gets the next request.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};

use super::body::RequestBody;
use super::exchange::Exchange;
use super::pool::Pool;
use super::state::{State, Tick};
use super::wire::Failed;
use super::worker::Target;
use crate::metrics::Gauge;
use crate::route::policy::Policy;

/// The endpoints of one version, as this worker sees them.
#[derive(Default)]
pub struct Upstream {
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
}

impl Upstream {
    /// Follows a new snapshot: endpoints that stay keep their connections, those that left lose their idle ones and
    /// finish what is open.
    pub fn align(&self, addresses: &[SocketAddr]) {
        let mut endpoints = self.endpoints.borrow_mut();
        let next = addresses
            .iter()
            .map(|address| {
                endpoints
                    .iter()
                    .find(|endpoint| endpoint.address == *address)
                    .cloned()
                    .unwrap_or_else(|| Rc::new(Endpoint::new(*address)))
            })
            .collect();
        for endpoint in endpoints.iter().filter(|endpoint| !addresses.contains(&endpoint.address)) {
            endpoint.pool.leave();
        }
        *endpoints = next;
    }

    /// The one with fewer requests in flight of two random endpoints; after a failure the one with the fewest of all
    /// that have not failed. `None` if there is none.
    pub fn choose(&self, random: u64, failed: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        let endpoints = self.endpoints.borrow();
        match endpoints.as_slice() {
            [] => None,
            [only] => (!failed.contains(&only.address)).then(|| only.clone()),
            several if failed.is_empty() => {
                let n = several.len() as u64;
                // The two halves of one random number; the second skips the first, so that they differ.
                let first = (((random >> 32) * n) >> 32) as usize;
                let second = (first + 1 + (((random & 0xFFFF_FFFF) * (n - 1)) >> 32) as usize) % several.len();
                let (a, b) = (&several[first], &several[second]);
                Some(if b.in_flight.get() < a.in_flight.get() { b.clone() } else { a.clone() })
            }
            several => several
                .iter()
                .filter(|endpoint| !failed.contains(&endpoint.address))
                .min_by_key(|endpoint| endpoint.in_flight.get())
                .cloned(),
        }
    }

    /// Once per tick: closes what is idle too long, and what the endpoint has closed.
    pub fn look(&self, now: Tick, bound: Duration) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.pool.look(now, bound);
        }
    }
}

/// One address of a version.
pub struct Endpoint {
    pub address: SocketAddr,
    in_flight: Cell<usize>,
    pub pool: Pool,
}

impl Endpoint {
    fn new(address: SocketAddr) -> Self {
        Self { address, in_flight: Cell::new(0), pool: Pool::default() }
    }

    /// Sends a request and waits for the head of its answer. `client`: whose request it is, for which the time may be
    /// over; `None` for a copy, whose time is kept by its task.
    pub async fn send(
        self: &Rc<Self>,
        request: Request<RequestBody>,
        target: &Rc<Target>,
        policy: &Policy,
        client: Option<&State>,
    ) -> Result<Response<Exchange>, Failed> {
        let flight = Flight::new(self.clone(), target.clone(), client.is_none());
        self.pool.send(self.address, request, flight, policy, client).await
    }
}

/// One request in flight on an endpoint.
pub struct Flight {
    pub endpoint: Rc<Endpoint>,
    pub target: Rc<Target>,
    is_copy: bool,
}

impl Flight {
    fn new(endpoint: Rc<Endpoint>, target: Rc<Target>, is_copy: bool) -> Self {
        endpoint.in_flight.set(endpoint.in_flight.get() + 1);
        let flight = Self { endpoint, target, is_copy };
        flight.gauge().add(1);
        flight
    }

    /// Copies are counted apart, but are work for the endpoint all the same.
    fn gauge(&self) -> &Gauge {
        let cells = &self.target.cells;
        if self.is_copy { &cells.copies_in_flight } else { &cells.in_flight }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.endpoint.in_flight.set(self.endpoint.in_flight.get() - 1);
        self.gauge().add(-1);
    }
}
