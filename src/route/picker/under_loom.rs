//! Every interleaving of a few threads, tried by loom:
//! `RUSTFLAGS="--cfg splitway_loom" CARGO_TARGET_DIR=target/loom cargo test --lib loom`.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread;

use super::*;

fn split(weight: u32, previous: Option<&Split>) -> Split {
    let shares = [(VersionHash::new("canary"), 1, weight), (VersionHash::new("stable"), 0, 10 - weight)];
    Split::new(&shares, Seed(1, 2), Turn::default(), previous)
}

#[test]
fn every_number_is_taken_exactly_once() {
    loom::model(|| {
        let split = Arc::new(split(3, None));
        let worker = |split: &Arc<Split>| {
            let split = split.clone();
            thread::spawn(move || [split.counter.take(), split.counter.take()])
        };
        let workers = [worker(&split), worker(&split)];
        let mut taken = vec![split.counter.take()];
        for worker in workers {
            let [first, second] = worker.join().unwrap();
            assert!(first < second);
            taken.extend([first, second]);
        }
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2, 3, 4]);
        assert_eq!(split.tally().requests, 5);
    });
}

#[test]
fn picks_of_all_threads_together_are_those_of_one() {
    loom::model(|| {
        let split = Arc::new(split(3, None));
        let worker = |split: &Arc<Split>| {
            let split = split.clone();
            thread::spawn(move || split.pick() + split.pick())
        };
        let workers = [worker(&split), worker(&split)];
        let own = split.pick() + split.pick();
        let sum = workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>() + own;
        assert_eq!(sum, (0..6).map(|number| split.at(number)).sum::<usize>());
    });
}

#[test]
fn a_change_in_the_middle_gives_no_number_twice_and_none_from_before_its_beginning() {
    loom::model(|| {
        let live = Arc::new(Mutex::new(Arc::new(split(3, None))));
        let worker = |live: &Arc<Mutex<Arc<Split>>>, times| {
            let live = live.clone();
            thread::spawn(move || {
                let mut taken = Vec::new();
                for _ in 0..times {
                    let current = live.lock().unwrap().clone();
                    let number = current.counter.take();
                    assert!(number >= current.begin, "number {number} of a split that begins at {}", current.begin);
                    taken.push(number);
                }
                taken
            })
        };
        let workers = [worker(&live, 2), worker(&live, 1)];
        let old = live.lock().unwrap().clone();
        let new = Arc::new(split(7, Some(&old)));
        *live.lock().unwrap() = new.clone();
        let mut taken: Vec<u64> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2]);
        assert_eq!((old.tally().requests, new.tally().requests), (3, 3));
    });
}
