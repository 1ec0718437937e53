//! This worker's endpoints of one version: which one gets the next request.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};

use super::budget::Budget;
use super::eject::{Health, Seen};
use super::exchange::Exchange;
use super::pool::Pool;
use super::queue::{Place, Queue, Room, Rooms};
use super::state::{State, TICK, Tick};
use super::upload::RequestBody;
use super::wire::Failed;
use super::worker::Target;
use crate::metrics::{EndpointSeen, EndpointState, Gauge, VersionCells};
use crate::route::policy::{Outliers, Policy};

/// The endpoints of one version, as this worker sees them.
#[derive(Default)]
pub struct Upstream {
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    /// Those that left the snapshot while requests were open there, as long as there are any.
    leaving: RefCell<Vec<Rc<Endpoint>>>,
    /// How many of them are out. Never more than half.
    out: Cell<usize>,
    /// All of them are in, have their full share and take any number of requests: nothing but their load matters.
    calm: Cell<bool>,
    slow_start: Cell<Option<Duration>>,
    now: Cell<Tick>,
    pub budget: Budget,
}

/// The endpoint for the next try.
pub struct Chosen {
    pub endpoint: Rc<Endpoint>,
    /// This try decides whether the endpoint comes back.
    pub trial: Option<Trial>,
}

impl Upstream {
    /// Follows a new snapshot: endpoints that stay keep their connections and what is known of them, those that left lose
    /// their idle connections and finish what is open. One that left and comes again begins anew, with no past.
    pub fn align(&self, addresses: &[SocketAddr], policy: &Policy, rooms: &Rooms) {
        let mut endpoints = self.endpoints.borrow_mut();
        let now = self.now.get();
        // The first endpoints of a version have nobody to grow beside.
        let warming = if endpoints.is_empty() { None } else { policy.slow_start.map(|_| now) };
        let next = addresses
            .iter()
            .map(|address| {
                endpoints
                    .iter()
                    .find(|endpoint| endpoint.address == *address)
                    .cloned()
                    .unwrap_or_else(|| Rc::new(Endpoint::new(*address, warming)))
            })
            .collect();
        for endpoint in endpoints.iter().filter(|endpoint| !addresses.contains(&endpoint.address)) {
            endpoint.pool.leave();
            if endpoint.in_flight.get() > 0 {
                self.leaving.borrow_mut().push(endpoint.clone());
            }
        }
        *endpoints = next;
        for endpoint in endpoints.iter() {
            endpoint.limit(policy.limits.endpoint_requests, rooms);
        }
        // There may be fewer now, and still no more than half may be out.
        self.out.set(endpoints.iter().filter(|endpoint| endpoint.health.is_out()).count());
        while self.out.get() > endpoints.len() / 2 {
            let soonest = endpoints.iter().filter(|one| one.health.is_out()).min_by_key(|one| one.health.until());
            let Some(endpoint) = soonest else { break };
            endpoint.health.bring_back(now);
            self.out.set(self.out.get() - 1);
        }
        self.slow_start.set(policy.slow_start);
        self.settle(&endpoints);
    }

    fn settle(&self, endpoints: &[Rc<Endpoint>]) {
        let special = |endpoint: &Rc<Endpoint>| endpoint.warming.get().is_some() || endpoint.room.borrow().is_some();
        self.calm.set(self.out.get() == 0 && !endpoints.iter().any(special));
    }

    /// An endpoint whose trial is due, if there is one; otherwise as [`Upstream::choose`].
    #[inline]
    pub fn choose_or_try(&self, random: u64, failed: &[SocketAddr]) -> Option<Chosen> {
        if self.out.get() > 0
            && let Some(chosen) = self.trial(failed)
        {
            return Some(chosen);
        }
        self.choose(random, failed).map(|endpoint| Chosen { endpoint, trial: None })
    }

    fn trial(&self, failed: &[SocketAddr]) -> Option<Chosen> {
        let endpoints = self.endpoints.borrow();
        let due = |one: &&Rc<Endpoint>| one.health.is_due(self.now.get()) && !failed.contains(&one.address);
        let endpoint = endpoints.iter().find(due)?.clone();
        Some(Chosen { trial: Some(Trial::begin(endpoint.clone())), endpoint })
    }

    /// The one with fewer requests in flight of two random endpoints; after a failure the one with the fewest of all
    /// that have not failed. Never one that is out. `None` if there is none.
    pub fn choose(&self, random: u64, failed: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        let endpoints = self.endpoints.borrow();
        match endpoints.as_slice() {
            [] => None,
            [only] => (!failed.contains(&only.address)).then(|| only.clone()),
            several if failed.is_empty() && self.calm.get() => {
                let n = several.len() as u64;
                // The two halves of one random number; the second skips the first, so that they differ.
                let first = (((random >> 32) * n) >> 32) as usize;
                let second = (first + 1 + (((random & 0xFFFF_FFFF) * (n - 1)) >> 32) as usize) % several.len();
                let (a, b) = (&several[first], &several[second]);
                Some(if b.in_flight.get() < a.in_flight.get() { b.clone() } else { a.clone() })
            }
            several => {
                let left = || several.iter().filter(|one| !one.health.is_out() && !failed.contains(&one.address));
                // One with a free place, if there is one; otherwise one with a queue.
                let free = || left().filter(|one| !one.is_full());
                if failed.is_empty() {
                    self.fewer_of_two(random, free()).or_else(|| self.fewer_of_two(random, left()))
                } else {
                    let load = |one: &&Rc<Endpoint>| one.in_flight.get();
                    free().min_by_key(load).or_else(|| left().min_by_key(load)).cloned()
                }
            }
        }
    }

    /// One that is out and has not failed this request: for when nobody else could answer it.
    pub fn choose_out(&self, failed: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        let endpoints = self.endpoints.borrow();
        let out = |one: &&Rc<Endpoint>| one.health.is_out() && !failed.contains(&one.address);
        endpoints.iter().find(out).cloned()
    }

    /// Both are drawn by their weights, and may be the same one.
    fn fewer_of_two<'a>(
        &self,
        random: u64,
        endpoints: impl Iterator<Item = &'a Rc<Endpoint>> + Clone,
    ) -> Option<Rc<Endpoint>> {
        let weight = |one: &Rc<Endpoint>| u64::from(one.weight(self.now.get(), self.slow_start.get()));
        let total: u64 = endpoints.clone().map(weight).sum();
        let draw = |half: u64| {
            let mut left = (half * total) >> 32;
            endpoints.clone().find(|one| {
                let found = left < weight(one);
                left = left.saturating_sub(weight(one));
                found
            })
        };
        let (a, b) = (draw(random >> 32)?, draw(random & 0xFFFF_FFFF)?);
        Some(if b.in_flight.get() < a.in_flight.get() { b.clone() } else { a.clone() })
    }

    /// How a try at an endpoint went. Puts it out or brings it back, if it is time for that.
    #[inline]
    pub fn saw(
        &self,
        endpoint: &Endpoint,
        trial: Option<Trial>,
        seen: Seen,
        random: impl FnOnce() -> u64,
        note: Note<'_>,
    ) {
        let to_be_put_out = endpoint.health.note(seen, note.rules);
        if let Some(trial) = trial {
            return self.judge(endpoint, trial, seen, random(), note);
        }
        if to_be_put_out {
            self.put_out(endpoint, random(), note);
        }
    }

    fn judge(&self, endpoint: &Endpoint, trial: Trial, seen: Seen, random: u64, note: Note<'_>) {
        drop(trial);
        if !endpoint.health.is_out() {
            // It was brought back, or has left, meanwhile.
            return;
        }
        let now = self.now.get();
        if Health::passes(seen, note.rules) {
            endpoint.health.bring_back(now);
            endpoint.warming.set(self.slow_start.get().map(|_| now));
            note.cells.endpoints_returned.add(1);
            let endpoints = self.endpoints.borrow();
            self.out.set(endpoints.iter().filter(|one| one.health.is_out()).count());
            self.settle(&endpoints);
        } else {
            endpoint.health.put_out(now, random, note.rules);
        }
    }

    fn put_out(&self, endpoint: &Endpoint, random: u64, note: Note<'_>) {
        let endpoints = self.endpoints.borrow();
        let room = self.out.get() < endpoints.len() / 2;
        if !room || endpoint.health.is_out() || endpoint.pool.is_gone() {
            return;
        }
        endpoint.health.put_out(self.now.get(), random, note.rules);
        note.cells.endpoints_put_out.add(1);
        self.out.set(self.out.get() + 1);
        self.settle(&endpoints);
    }

    /// How many are out.
    pub fn out(&self) -> usize {
        self.out.get()
    }

    /// The endpoints of which there is more to say than that they are in use. Mostly there are none, and then it costs no
    /// memory.
    pub fn notable(&self) -> Vec<EndpointSeen> {
        let endpoints = self.endpoints.borrow();
        let seen = |one: &Rc<Endpoint>, state| EndpointSeen { address: one.address, state };
        let notable = endpoints
            .iter()
            .filter_map(|one| one.state(self.now.get(), self.slow_start.get()).map(|state| seen(one, state)));
        let leaving = self.leaving.borrow();
        // One that came again is spoken of as what it is now.
        let gone = leaving.iter().filter(|one| !endpoints.iter().any(|other| other.address == one.address));
        let requests = |one: &Rc<Endpoint>| one.in_flight.get() as u64;
        notable.chain(gone.map(|one| seen(one, EndpointState::Leaving { requests: requests(one) }))).collect()
    }

    /// Once per tick: closes what is idle too long, and what the endpoint has closed; lets time go on.
    pub fn look(&self, now: Tick, bound: Duration) {
        self.now.set(now);
        self.budget.look(now);
        self.leaving.borrow_mut().retain(|one| one.in_flight.get() > 0);
        let endpoints = self.endpoints.borrow();
        for endpoint in endpoints.iter() {
            endpoint.pool.look(now, bound);
            let is_warm = |since: Tick| self.slow_start.get().is_none_or(|bound| since.is_older(now, bound));
            if endpoint.warming.get().is_some_and(is_warm) {
                endpoint.warming.set(None);
                self.settle(&endpoints);
            }
        }
    }
}

/// By which rules, and where it is counted.
#[derive(Clone, Copy)]
pub struct Note<'a> {
    pub rules: &'a Outliers,
    pub cells: &'a VersionCells,
}

/// The one request that an endpoint gets when its time out is over. Dropped without a verdict, another one is the trial.
pub struct Trial(Rc<Endpoint>);

impl Trial {
    fn begin(endpoint: Rc<Endpoint>) -> Self {
        endpoint.health.begin_trial();
        Self(endpoint)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.health.no_trial();
    }
}

/// One address of a version.
pub struct Endpoint {
    pub address: SocketAddr,
    in_flight: Cell<usize>,
    health: Health,
    /// Since when its share grows, while it does.
    warming: Cell<Option<Tick>>,
    /// Its places, if there is a limit.
    room: RefCell<Option<Arc<Room>>>,
    pub pool: Pool,
}

impl Endpoint {
    fn new(address: SocketAddr, warming: Option<Tick>) -> Self {
        Self {
            address,
            in_flight: Cell::new(0),
            health: Health::default(),
            warming: Cell::new(warming),
            room: RefCell::default(),
            pool: Pool::default(),
        }
    }

    fn limit(&self, most: Option<u32>, rooms: &Rooms) {
        let mut room = self.room.borrow_mut();
        if room.as_ref().map(|room| room.most()) != most {
            *room = most.map(|most| rooms.of(self.address, most));
        }
    }

    fn is_full(&self) -> bool {
        self.room.borrow().as_ref().is_some_and(|room| room.is_full())
    }

    fn state(&self, now: Tick, slow_start: Option<Duration>) -> Option<EndpointState> {
        let full = || {
            let room = self.room.borrow();
            room.as_ref().filter(|room| room.is_full()).map(|room| EndpointState::Full { requests: room.most() })
        };
        let warming = || {
            let is_warming = self.warming.get().is_some();
            is_warming.then(|| EndpointState::Warming { percent: self.weight(now, slow_start) })
        };
        self.health.state(now).or_else(full).or_else(warming)
    }

    /// From 1, when it is new, to 100.
    fn weight(&self, now: Tick, slow_start: Option<Duration>) -> u32 {
        let (Some(since), Some(bound)) = (self.warming.get(), slow_start) else { return 100 };
        let age = u128::from(now.0.saturating_sub(since.0)) * TICK.as_millis();
        (1 + 99 * age / bound.as_millis().max(1)).min(100) as u32
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
        let room = self.room.borrow().clone();
        let place = match room {
            None => None,
            Some(room) => {
                let queue =
                    Queue { most: policy.limits.queue, bound: policy.timeouts.queue, gauge: &target.cells.queued };
                match room.enter(queue, client).await {
                    Ok(place) => Some(place),
                    Err(failure) => return Err(Failed { failure, request: Some(request) }),
                }
            }
        };
        let flight = Flight::new(self.clone(), target.clone(), client.is_none(), place);
        self.pool.send(self.address, request, flight, policy, client).await
    }
}

/// One request in flight on an endpoint.
pub struct Flight {
    pub endpoint: Rc<Endpoint>,
    pub target: Rc<Target>,
    is_copy: bool,
    /// Its place before the endpoint, if there is a limit.
    _place: Option<Place>,
}

impl Flight {
    fn new(endpoint: Rc<Endpoint>, target: Rc<Target>, is_copy: bool, place: Option<Place>) -> Self {
        endpoint.in_flight.set(endpoint.in_flight.get() + 1);
        let flight = Self { endpoint, target, is_copy, _place: place };
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

#[cfg(test)]
mod tests;
