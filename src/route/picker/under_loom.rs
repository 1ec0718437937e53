//! Every interleaving of a few threads, tried by loom:
//! `cargo test --features loom --lib under_loom`.

use std::sync::Arc;

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
            thread::spawn(move || [split.0.counter.take(), split.0.counter.take()])
        };
        let workers = [worker(&split), worker(&split)];
        let mut taken = vec![split.0.counter.take()];
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
        assert_eq!(sum, (0..6).map(|number| split.0.at(number)).sum::<usize>());
    });
}

#[test]
fn a_change_in_the_middle_is_exact_for_those_who_still_hold_the_old_split() {
    loom::model(|| {
        let old = split(3, None);
        let worker = |old: &Split, times: usize| {
            let old = old.clone();
            thread::spawn(move || (0..times).map(|_| old.pick()).sum::<usize>())
        };
        let workers = [worker(&old, 2), worker(&old, 1)];
        let new = split(7, Some(&old));
        let own = new.pick();
        let given = workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>() + own;
        let tally = new.tally();
        let (_, asked) = tally.asked.iter().find(|(version, _)| version.as_str() == "canary").unwrap();
        assert!((given as f64 - asked).abs() < 1.0, "{given} given, {asked} asked");
        // Each number was decided by the phase it belongs to, wherever the change fell.
        let begin = new.0.begin;
        let expected = (0..4).map(|n| if n < begin { old.0.at(n) } else { new.0.at(n) }).sum::<usize>();
        assert_eq!((given, tally.requests), (expected, 4));
    });
}
