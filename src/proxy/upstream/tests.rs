//! Which endpoint gets a request while others are out, new or full. Time is a number here, and so is chance.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::proxy::Failure;

const REFUSED: Seen = Seen::Unreachable(Failure::ConnectRefused);
const ERROR: Seen = Seen::ServerError(None);

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], n))
}

fn addresses(n: u16) -> Vec<SocketAddr> {
    (1..=n).map(address).collect()
}

/// One version's endpoints, and everything that a worker would bring.
struct Scene {
    upstream: Upstream,
    policy: Policy,
    cells: VersionCells,
    rooms: Rooms,
    tick: u32,
    random: u64,
}

impl Scene {
    fn new(endpoints: u16, adjust: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy::default();
        adjust(&mut policy);
        let scene = Self {
            upstream: Upstream::default(),
            policy,
            cells: VersionCells::default(),
            rooms: Rooms::default(),
            tick: 0,
            random: 88_172_645_463_325_252,
        };
        scene.align(&addresses(endpoints));
        scene
    }

    fn align(&self, addresses: &[SocketAddr]) {
        self.upstream.align(addresses, &self.policy, &self.rooms);
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn choose(&mut self, failed: &[SocketAddr]) -> Option<Chosen> {
        let random = self.random();
        self.upstream.choose_or_try(random, failed)
    }

    fn saw(&mut self, chosen: Chosen, seen: Seen) {
        let random = self.random();
        let note = Note { rules: &self.policy.outliers, cells: &self.cells };
        self.upstream.saw(&chosen.endpoint, chosen.trial, seen, || random, note);
    }

    fn wait(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.tick += 1;
            self.upstream.look(Tick(self.tick), Duration::from_secs(30));
        }
    }

    /// One request, tried until an endpoint answers that is not among the `dead` ones. Who answered, if anybody.
    fn request(&mut self, dead: &[SocketAddr]) -> Option<SocketAddr> {
        let mut failed = Vec::new();
        while let Some(chosen) = self.choose(&failed) {
            let address = chosen.endpoint.address;
            if !dead.contains(&address) {
                self.saw(chosen, Seen::Answer);
                return Some(address);
            }
            self.saw(chosen, REFUSED);
            failed.push(address);
        }
        None
    }

    fn out(&self) -> Vec<u16> {
        let endpoints = self.upstream.endpoints.borrow();
        endpoints.iter().filter(|one| one.health.is_out()).map(|one| one.address.port()).collect()
    }
}

#[test]
fn an_endpoint_that_refuses_is_left_out_and_comes_back_through_one_request() {
    let mut scene = Scene::new(3, |_| {});
    let dead = [address(2)];
    for _ in 0..100 {
        assert!(scene.request(&dead).is_some());
    }
    assert_eq!(scene.out(), [2]);
    assert_eq!(scene.cells.endpoints_put_out.get(), 1);
    // While it is out nobody is sent there.
    for _ in 0..1000 {
        let chosen = scene.choose(&[]).unwrap();
        assert_ne!(chosen.endpoint.address, address(2));
        assert!(chosen.trial.is_none());
    }
    // When its time is over exactly one request is.
    scene.wait(130);
    let trial = scene.choose(&[]).unwrap();
    assert_eq!((trial.endpoint.address, trial.trial.is_some()), (address(2), true));
    for _ in 0..1000 {
        assert_ne!(scene.choose(&[]).unwrap().endpoint.address, address(2));
    }
    // It fails: out again, for about twice as long.
    scene.saw(trial, REFUSED);
    scene.wait(140);
    assert!((0..100).all(|_| scene.choose(&[]).unwrap().trial.is_none()));
    scene.wait(120);
    // A client that leaves says nothing: the next request is the trial.
    drop(scene.choose(&[]).unwrap().trial.expect("a trial"));
    let trial = scene.choose(&[]).unwrap();
    assert!(trial.trial.is_some());
    scene.saw(trial, Seen::Answer);
    assert!(scene.out().is_empty());
    assert_eq!((scene.cells.endpoints_put_out.get(), scene.cells.endpoints_returned.get()), (1, 1));
    assert!((0..1000).any(|_| scene.choose(&[]).unwrap().endpoint.address == address(2)));
}

#[test]
fn one_endpoint_alone_is_never_left_out() {
    let mut scene = Scene::new(1, |policy| policy.outliers.server_errors = Some(1));
    for seen in [REFUSED, ERROR] {
        for _ in 0..100 {
            let chosen = scene.choose(&[]).unwrap();
            scene.saw(chosen, seen);
        }
    }
    assert!(scene.out().is_empty());
}

#[test]
fn a_version_that_answers_errors_keeps_all_of_its_endpoints_unless_that_is_wanted() {
    let mut scene = Scene::new(4, |_| {});
    for _ in 0..1000 {
        let chosen = scene.choose(&[]).unwrap();
        scene.saw(chosen, ERROR);
    }
    assert!(scene.out().is_empty());
    let mut scene = Scene::new(4, |policy| policy.outliers.server_errors = Some(3));
    for _ in 0..1000 {
        let chosen = scene.choose(&[]).unwrap();
        scene.saw(chosen, ERROR);
    }
    assert_eq!(scene.out().len(), 2, "half of them, although all are bad");
}

#[test]
fn an_endpoint_that_left_and_comes_again_has_no_past() {
    let mut scene = Scene::new(4, |_| {});
    for _ in 0..200 {
        scene.request(&[address(3)]);
    }
    assert_eq!(scene.out(), [3]);
    scene.align(&[address(1), address(2), address(4)]);
    assert_eq!(scene.upstream.out(), 0);
    scene.align(&addresses(4));
    assert_eq!(scene.upstream.out(), 0);
    let again = (0..100).any(|_| {
        let chosen = scene.choose(&[]).unwrap();
        chosen.endpoint.address == address(3) && chosen.trial.is_none()
    });
    assert!(again, "tried at once");
}

#[test]
fn what_is_out_is_tried_before_a_request_is_refused() {
    let mut scene = Scene::new(2, |_| {});
    for _ in 0..100 {
        scene.request(&[address(1)]);
    }
    assert_eq!(scene.out(), [1]);
    assert!(scene.choose(&[address(2)]).is_none());
    assert_eq!(scene.upstream.choose_out(&[address(2)]).map(|one| one.address), Some(address(1)));
    assert!(scene.upstream.choose_out(&addresses(2)).is_none());
}

#[test]
fn the_share_of_a_new_endpoint_grows_from_almost_nothing_to_all_of_it() {
    let mut scene = Scene::new(3, |policy| policy.slow_start = Some(Duration::from_secs(30)));
    let share = |scene: &mut Scene| {
        let new = (0..30_000).filter(|_| scene.choose(&[]).unwrap().endpoint.address == address(4)).count();
        new as f64 / 30_000.0
    };
    let among = (0..30_000).filter(|_| scene.choose(&[]).unwrap().endpoint.address == address(3)).count();
    assert!((0.32..0.35).contains(&(among as f64 / 30_000.0)), "the first ones are not new to anybody");
    scene.align(&addresses(4));
    let mut shares = vec![share(&mut scene)];
    for _ in 0..4 {
        scene.wait(76);
        shares.push(share(&mut scene));
    }
    // Its part p of the full weight gives it p of 3 + p.
    for (quarter, share) in shares.iter().enumerate() {
        let part = quarter as f64 / 4.0;
        assert!((share - part / (3.0 + part)).abs() < 0.02, "{shares:?}");
    }
}

#[test]
fn among_several_the_one_with_a_free_place_is_chosen() {
    let mut scene = Scene::new(4, |policy| policy.limits.endpoint_requests = Some(1));
    let endpoints = scene.upstream.endpoints.borrow().clone();
    let queue = || Queue { most: 0, bound: Duration::from_secs(1), gauge: &scene.cells.queued };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let taken: Vec<_> = endpoints[..3]
        .iter()
        .map(|one| {
            let room = one.room.borrow().clone().unwrap();
            runtime.block_on(room.enter(queue(), None)).ok().unwrap()
        })
        .collect();
    assert!((0..100).all(|_| scene.choose(&[]).unwrap().endpoint.address == address(4)));
    drop(taken);
    let mut seen: HashMap<SocketAddr, u32> = HashMap::new();
    for _ in 0..1000 {
        *seen.entry(scene.choose(&[]).unwrap().endpoint.address).or_default() += 1;
    }
    assert_eq!(seen.len(), 4);
}

#[derive(Clone, Debug)]
enum Event {
    /// Requests begin, are in flight, and end like this, in some order.
    Begin,
    End(usize, Option<Seen>),
    Ticks(u32),
    /// From here on these endpoints, out of six.
    Align(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let seen = prop_oneof![Just(None), Just(Some(REFUSED)), Just(Some(ERROR)), Just(Some(Seen::Answer))];
    prop_oneof![
        8 => Just(Event::Begin),
        8 => (any::<usize>(), seen).prop_map(|(which, seen)| Event::End(which, seen)),
        1 => (1..200u32).prop_map(Event::Ticks),
        1 => (1..64u8).prop_map(Event::Align),
    ]
}

proptest! {
    #[test]
    fn at_most_half_are_out_each_has_one_trial_at_a_time_and_there_is_always_one_to_choose(
        events in prop::collection::vec(event(), 1..500),
        connect_failures in 1..4u32,
        server_errors in prop::option::of(1..4u32),
        slow_start in any::<bool>(),
    ) {
        let mut scene = Scene::new(4, |policy| {
            policy.outliers.connect_failures = Some(connect_failures);
            policy.outliers.server_errors = server_errors;
            policy.slow_start = slow_start.then_some(Duration::from_secs(5));
        });
        let mut open: Vec<Chosen> = Vec::new();
        for event in events {
            match event {
                Event::Begin => {
                    let chosen = scene.choose(&[]);
                    prop_assert!(chosen.is_some(), "a request was lost");
                    let chosen = chosen.unwrap();
                    prop_assert_eq!(chosen.endpoint.health.is_out(), chosen.trial.is_some());
                    prop_assert!(!chosen.endpoint.pool.is_gone());
                    let same = |other: &&Chosen| other.trial.is_some() && Rc::ptr_eq(&other.endpoint, &chosen.endpoint);
                    if chosen.trial.is_some() {
                        prop_assert_eq!(open.iter().filter(same).count(), 0, "two trials at once");
                    }
                    open.push(chosen);
                }
                Event::End(which, seen) if !open.is_empty() => {
                    let chosen = open.swap_remove(which % open.len());
                    if let Some(seen) = seen {
                        scene.saw(chosen, seen);
                    }
                }
                Event::End(..) => {}
                Event::Ticks(ticks) => scene.wait(ticks),
                Event::Align(which) => {
                    let some: Vec<_> = (0..6).filter(|n| which & 1 << n != 0).map(address).collect();
                    scene.align(&some);
                }
            }
            let endpoints = scene.upstream.endpoints.borrow();
            let out = endpoints.iter().filter(|one| one.health.is_out()).count();
            prop_assert!(out * 2 <= endpoints.len(), "{} of {} are out", out, endpoints.len());
            prop_assert_eq!(out, scene.upstream.out());
        }
        // Whatever happened, with good answers all are back in the end.
        open.clear();
        for _ in 0..20 {
            scene.wait(4000);
            while let Some(chosen @ Chosen { trial: Some(_), .. }) = scene.choose(&[]) {
                scene.saw(chosen, Seen::Answer);
            }
        }
        prop_assert_eq!(scene.upstream.out(), 0);
    }
}
