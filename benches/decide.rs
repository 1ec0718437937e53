//! What routing costs: one pick of the exact split, one whole decision, and building a snapshot.
//!
//! `cargo bench --bench decide`. Times are per request, except for `build`; with several threads they are the wall time in which
//! *each* of the threads does one, so a counter that did not share well would show here.

mod world;

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use splitway::route::Snapshot;

use world::{MadeUp, identity, routing, snapshot, split};

criterion_group!(benches, pick, pick_on_threads, decide, decide_on_threads, build);
criterion_main!(benches);

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
