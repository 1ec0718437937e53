//! What routing costs: one pick of the exact split, one whole decision, and building a snapshot.
//!
//! `cargo bench --bench decide`. Times are per request, except for `build`; with several threads they are the wall time in which
//! *each* of the threads does one, so a counter that did not share well would show here.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::HeaderName;
use splitway::route::bucket::{KeySource, Mint, Sticky};
use splitway::route::matches::{Match, PathMatch, ValueMatch};
use splitway::route::picker::{Seed, Split, Turn};
use splitway::route::policy::Policy;
use splitway::route::{
    Action, Backend, Head, Identity, Role, Route, RouteName, Routing, Shares, Snapshot, VersionHash,
};

criterion_group!(benches, pick, pick_on_threads, decide, decide_on_threads, build);
criterion_main!(benches);

const SEED: Seed = Seed(0x5eed, 0x0dd5);

fn split(weights: &[u32]) -> Split {
    let name = |i: usize| VersionHash::new(&format!("version-{i}"));
    let shares: Vec<_> = weights.iter().enumerate().map(|(i, weight)| (name(i), i, *weight)).collect();
    Split::new(&shares, SEED, Turn::default(), None)
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    let chains: [(&str, &[u32]); 7] = [
        ("100 %", &[100]),
        ("1 %", &[1, 99]),
        ("5 %", &[5, 95]),
        ("5.5 %", &[55, 945]),
        ("45 %", &[45, 55]),
        ("95 %", &[95, 5]),
        ("10 + 20 + 70 %", &[10, 20, 70]),
    ];
    for (name, weights) in chains {
        let split = split(weights);
        group.bench_function(name, |b| b.iter(|| split.pick()));
    }
    group.finish();
}

fn pick_on_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick on threads");
    for threads in 1..=cores() {
        let split = split(&[5, 95]);
        group.bench_function(BenchmarkId::from_parameter(threads), |b| {
            b.iter_custom(|times| together(threads, times, || split.pick()));
        });
    }
    group.finish();
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    let browser = MadeUp::browser();
    for routes in [0, 10, 100] {
        let weighted = snapshot(routes, false);
        group.bench_function(format!("weighted, {routes} routes"), |b| b.iter(|| weighted.decide(black_box(&browser))));
        let sticky = snapshot(routes, true);
        group.bench_function(format!("sticky, {routes} routes"), |b| b.iter(|| sticky.decide(black_box(&browser))));
    }
    group.finish();
}

fn decide_on_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide weighted, 10 routes, on threads");
    let browser = MadeUp::browser();
    for threads in 1..=cores() {
        let snapshot = snapshot(10, false);
        group.bench_function(BenchmarkId::from_parameter(threads), |b| {
            b.iter_custom(|times| together(threads, times, || snapshot.decide(black_box(&browser))));
        });
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let identity = identity();
    let routing = routing(100, true);
    let previous = Snapshot::build(routing.clone(), &identity, None).unwrap();
    c.bench_function("build, 100 routes", |b| {
        b.iter_batched(
            || routing.clone(),
            |routing| Snapshot::build(routing, &identity, Some(&previous)),
            criterion::BatchSize::SmallInput,
        );
    });
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The time in which every one of `threads` does it `times` times, all at once.
fn together<T>(threads: usize, times: u64, it: impl Fn() -> T + Sync) -> Duration {
    let ready = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let (ready, it) = (&ready, &it);
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(move || {
                    ready.wait();
                    let start = Instant::now();
                    for _ in 0..times {
                        black_box(it());
                    }
                    start.elapsed()
                })
            })
            .collect();
        ready.wait();
        workers.into_iter().map(|worker| worker.join().unwrap()).max().unwrap()
    })
}

/// Routes that look at a header, a cookie and the path, none of which holds for [`MadeUp::browser`].
fn routing(routes: usize, sticky: bool) -> Routing {
    let version = |role: Role| VersionHash::new(role.as_str());
    let backend = |role: Role, port: u16| Backend {
        version: version(role),
        role,
        endpoints: [(Ipv4Addr::LOCALHOST, port).into()].into(),
    };
    let route = |i: usize| Route {
        name: RouteName::new(&format!("route {i}")),
        matches: vec![
            Match {
                headers: vec![(
                    HeaderName::from_static("x-user"),
                    ValueMatch::Exact(format!("tester {i}").into_bytes()),
                )],
                ..Match::default()
            },
            Match {
                path: Some(PathMatch::prefix(&format!("/shop/{i}"))),
                cookies: vec![("team".to_owned(), ValueMatch::Prefix(b"qa-".to_vec()))],
                ..Match::default()
            },
        ],
        action: if i % 10 == 9 {
            Action::Split(Shares::new(vec![(version(Role::Canary), 1), (version(Role::Stable), 1)]).unwrap())
        } else {
            Action::Send(version(Role::Canary))
        },
        count: true,
    };
    Routing {
        backends: vec![backend(Role::Stable, 9001), backend(Role::Canary, 9002)],
        split: Shares::new(vec![(version(Role::Stable), 945), (version(Role::Canary), 55)]).unwrap(),
        routes: (0..routes).map(route).collect(),
        sticky: sticky.then(|| Sticky {
            keys: vec![KeySource::Header(HeaderName::from_static("x-user"))],
            salt: "spring".to_owned(),
            cookie: None,
        }),
        override_: None,
        policy: Policy::default(),
    }
}

fn snapshot(routes: usize, sticky: bool) -> Snapshot {
    Snapshot::build(routing(routes, sticky), &identity(), None).unwrap()
}

fn identity() -> Identity {
    Identity { seed: SEED, turn: Turn::default(), mint: Arc::new(Mint::random()) }
}

/// A request's head as a plain list.
struct MadeUp {
    headers: Vec<(HeaderName, &'static str)>,
}

impl MadeUp {
    fn browser() -> Self {
        let headers = [
            ("host", "shop.example"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            ("accept-language", "en-US,en;q=0.5"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("x-user", "4711"),
            ("cookie", "session=0123456789abcdef; theme=dark; uid=4711"),
        ];
        Self { headers: headers.map(|(name, value)| (HeaderName::from_static(name), value)).into() }
    }
}

impl Head for MadeUp {
    fn method(&self) -> &str {
        "GET"
    }
    fn path(&self) -> &str {
        "/cart/items"
    }
    fn query(&self) -> Option<&str> {
        Some("page=2")
    }
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_bytes())
    }
    fn client(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }
}
