//! At most so many requests at once on one endpoint, over all workers, and a short queue for more: first come, first
//! served. Only with `limits.endpoint-requests`, for then workers share something: a fair semaphore per endpoint, with one
//! atomic to take a place and a lock, held for a few instructions, to give it back or to stand in the queue.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Failure;
use super::state::State;
use crate::metrics::Gauge;

/// The rooms of all endpoints, shared by all workers. Asked when a snapshot changes, not per request.
#[derive(Default)]
pub struct Rooms(Mutex<HashMap<SocketAddr, Weak<Room>>>);

impl Rooms {
    /// The one room before an address, which from now on has so many places.
    pub fn of(&self, address: SocketAddr, most: u32) -> Arc<Room> {
        let mut rooms = self.0.lock().expect("no holder of this lock panics");
        if let Some(room) = rooms.get(&address).and_then(Weak::upgrade) {
            room.resize(most as usize);
            return room;
        }
        // Those of endpoints that are gone make room, so that addresses do not pile up.
        rooms.retain(|_, room| room.strong_count() > 0);
        let room = Arc::new(Room::new(most as usize));
        rooms.insert(address, Arc::downgrade(&room));
        room
    }
}

/// The places before one endpoint.
pub struct Room {
    /// Fair: who came first is served first, and nobody overtakes those who wait.
    places: Arc<Semaphore>,
    most: AtomicUsize,
    /// Places that are to vanish when they become free, because there shall be fewer.
    surplus: AtomicUsize,
    waiting: AtomicUsize,
}

impl Room {
    fn new(most: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(most)),
            most: AtomicUsize::new(most),
            surplus: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Called by one thread at a time, under the lock of the rooms.
    fn resize(&self, most: usize) {
        let before = self.most.swap(most, Ordering::Relaxed);
        if most < before {
            let gone = self.places.forget_permits(before - most);
            self.surplus.fetch_add(before - most - gone, Ordering::Relaxed);
        }
        for _ in before..most {
            if !self.take_surplus() {
                self.places.add_permits(1);
            }
        }
    }

    fn take_surplus(&self) -> bool {
        self.surplus.try_update(Ordering::Relaxed, Ordering::Relaxed, |surplus| surplus.checked_sub(1)).is_ok()
    }

    pub fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed) as u32
    }

    pub fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// A place, at once or after a wait in the queue. Whoever stops waiting leaves the queue. `client`: whose time may be
    /// over meanwhile; `None` for a copy, which never waits.
    pub async fn enter(self: &Arc<Self>, queue: Queue<'_>, client: Option<&State>) -> Result<Place, Failure> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Ok(Place::new(self.clone(), permit));
        }
        let Some(client) = client else { return Err(Failure::Overflow) };
        let _waiting = Waiting::begin(self, &queue).ok_or(Failure::Overflow)?;
        let began = Instant::now();
        let mut turn = pin!(tokio::time::timeout(queue.bound, self.places.clone().acquire_owned()));
        let place = std::future::poll_fn(|cx| {
            if let Some(failure) = client.expired() {
                return Poll::Ready(Err(failure));
            }
            turn.as_mut().poll(cx).map(|turn| match turn {
                Ok(Ok(permit)) => Ok(Place::new(self.clone(), permit)),
                // Nobody closes the semaphore: what is left is that the time is over.
                Ok(Err(_)) | Err(_) => Err(Failure::Overflow),
            })
        })
        .await;
        client.waited(began.elapsed(), Duration::ZERO);
        place
    }
}

/// How long the queue may be, in requests and in time.
pub struct Queue<'a> {
    pub most: usize,
    pub bound: Duration,
    /// Where those who wait are counted.
    pub gauge: &'a Gauge,
}

/// One in the queue, until it is dropped.
struct Waiting<'a> {
    room: &'a Room,
    gauge: &'a Gauge,
}

impl<'a> Waiting<'a> {
    fn begin(room: &'a Room, queue: &Queue<'a>) -> Option<Self> {
        let one_more = |waiting: usize| (waiting < queue.most).then_some(waiting + 1);
        room.waiting.try_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        queue.gauge.add(1);
        Some(Self { room, gauge: queue.gauge })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gauge.add(-1);
        self.room.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place that is taken, until this is dropped.
pub struct Place {
    room: Arc<Room>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    fn new(room: Arc<Room>, permit: OwnedSemaphorePermit) -> Self {
        Self { room, permit: Some(permit) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.room.take_surplus()
        {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::rc::Rc;
    use std::task::{Context, Waker};

    use super::*;
    use crate::proxy::state::Tick;

    const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9001);

    fn queue(most: usize, gauge: &Gauge) -> Queue<'_> {
        Queue { most, bound: Duration::from_secs(3600), gauge }
    }

    fn client() -> Rc<State> {
        State::new(0, Tick(0))
    }

    fn poll<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> Poll<T> {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_their_order_and_nobody_overtakes_them() {
        let (room, gauge, client) = (Arc::new(Room::new(2)), Gauge::default(), client());
        let mut taken: Vec<_> = vec![
            room.enter(queue(8, &gauge), Some(&client)).await.ok().unwrap(),
            room.enter(queue(8, &gauge), Some(&client)).await.ok().unwrap(),
        ];
        let mut waiting: Vec<_> = (0..8).map(|_| Box::pin(room.enter(queue(8, &gauge), Some(&client)))).collect();
        for one in &mut waiting {
            assert!(poll(one).is_pending());
        }
        assert_eq!(gauge.get(), 8);
        let mut ninth = Box::pin(room.enter(queue(8, &gauge), Some(&client)));
        assert!(matches!(poll(&mut ninth), Poll::Ready(Err(Failure::Overflow))), "the queue is full");
        // One in the middle leaves, and its place in the queue is free.
        drop(waiting.remove(3));
        assert_eq!(gauge.get(), 7);
        let mut late = Box::pin(room.enter(queue(8, &gauge), Some(&client)));
        assert!(poll(&mut late).is_pending());
        waiting.push(late);
        while !waiting.is_empty() {
            taken.remove(0);
            // Whoever comes now is not first.
            let mut new = Box::pin(room.enter(queue(100, &gauge), Some(&client)));
            assert!(poll(&mut new).is_pending());
            drop(new);
            for later in &mut waiting[1..] {
                assert!(poll(later).is_pending(), "somebody overtook the first");
            }
            let Poll::Ready(Ok(place)) = poll(&mut waiting.remove(0)) else { panic!("the first has its turn") };
            taken.push(place);
        }
        assert_eq!(gauge.get(), 0);
    }

    #[tokio::test]
    async fn a_wait_ends_with_its_bound() {
        let (room, gauge, client) = (Arc::new(Room::new(1)), Gauge::default(), client());
        let place = room.enter(queue(1, &gauge), Some(&client)).await.ok().unwrap();
        let short = Queue { bound: Duration::from_millis(20), ..queue(1, &gauge) };
        let began = std::time::Instant::now();
        assert_eq!(room.enter(short, Some(&client)).await.err(), Some(Failure::Overflow));
        assert!(began.elapsed() >= Duration::from_millis(20));
        assert_eq!(gauge.get(), 0);
        drop(place);
        assert!(room.enter(queue(0, &gauge), Some(&client)).await.is_ok(), "its place is free");
    }

    #[tokio::test]
    async fn a_copy_never_waits() {
        let (room, gauge) = (Arc::new(Room::new(1)), Gauge::default());
        let place = room.enter(queue(1, &gauge), None).await.ok().unwrap();
        assert_eq!(room.enter(queue(1, &gauge), None).await.err(), Some(Failure::Overflow));
        drop(place);
        assert!(room.enter(queue(1, &gauge), None).await.is_ok());
    }

    #[tokio::test]
    async fn a_new_limit_holds_for_what_is_under_way_as_well() {
        let (rooms, gauge) = (Rooms::default(), Gauge::default());
        let room = rooms.of(ADDRESS, 4);
        let enter = async || room.enter(queue(0, &gauge), None).await.ok();
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(enter().await.unwrap());
        }
        assert!(Arc::ptr_eq(&rooms.of(ADDRESS, 2), &room));
        for left in (2..4).rev() {
            taken.pop();
            assert_eq!(taken.len(), left);
            assert!(enter().await.is_none(), "{left} of 2 are taken");
        }
        taken.pop();
        taken.push(enter().await.unwrap());
        assert!(enter().await.is_none());
        rooms.of(ADDRESS, 3);
        taken.push(enter().await.unwrap());
        assert!(enter().await.is_none());
        // Fewer, and more again before anybody has left.
        rooms.of(ADDRESS, 1);
        rooms.of(ADDRESS, 4);
        taken.push(enter().await.unwrap());
        assert!(enter().await.is_none());
        taken.clear();
        for _ in 0..4 {
            taken.push(enter().await.unwrap());
        }
        assert!(enter().await.is_none());
    }

    /// Four threads, each with its own gauge as workers have, and one address.
    #[test]
    fn threads_together_never_have_more_places_than_there_are_and_lose_none() {
        let rooms = Rooms::default();
        let inside = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (room, inside) = (rooms.of(ADDRESS, 3), inside.clone());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let local = tokio::task::LocalSet::new();
                    local.block_on(&runtime, async move {
                        let tasks: Vec<_> = (0..8)
                            .map(|_| {
                                let (room, inside) = (room.clone(), inside.clone());
                                tokio::task::spawn_local(async move {
                                    let (gauge, client) = (Gauge::default(), client());
                                    for _ in 0..200 {
                                        let entered = room.enter(queue(100, &gauge), Some(&client)).await;
                                        let place = entered.expect("the queue has room for all");
                                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                                        tokio::task::yield_now().await;
                                        inside.fetch_sub(1, Ordering::SeqCst);
                                        drop(place);
                                    }
                                })
                            })
                            .collect();
                        for task in tasks {
                            task.await.unwrap();
                        }
                    });
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let room = rooms.of(ADDRESS, 3);
        assert_eq!(room.places.available_permits(), 3);
        assert_eq!(room.waiting.load(Ordering::Relaxed), 0);
    }
}
