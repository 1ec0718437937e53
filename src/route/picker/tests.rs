//! The promises of the picker, counted.
//!
//! Every key and walk comes from a fixed seed that stands in the message of a failure, so a failure repeats.

use super::*;

/// A stream of test numbers (SplitMix64), independent of the picker's own mixer.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, bound: u32) -> u32 {
        (self.roll() % u64::from(bound)) as u32
    }
    fn seed(&mut self) -> Seed {
        Seed(self.roll(), self.roll())
    }
}

/// Versions named by their backend's index.
fn shares(weights: &[(usize, u32)]) -> Vec<(VersionHash, usize, u32)> {
    weights.iter().map(|(version, weight)| (VersionHash::new(&format!("v{version}")), *version, *weight)).collect()
}

fn split(weights: &[(usize, u32)], seed: Seed, previous: Option<&Split>) -> Split {
    Split::new(&shares(weights), seed, Turn::default(), previous)
}

/// Canary (backend 1) against stable (backend 0).
fn pair(weight: u32, total: u32, seed: Seed, previous: Option<&Split>) -> Split {
    split(&[(1, weight), (0, total - weight)], seed, previous)
}

fn take(split: &Split, requests: u32) {
    for _ in 0..requests {
        split.pick();
    }
}

/// Runs of `n` independent trials of chance `p` stay within this of `n · p` but for one in 150,000.
fn deviation(n: f64, p: f64) -> f64 {
    4.5 * (n * p * (1.0 - p)).sqrt()
}

/// Given and asked, counted by the test itself in 2^-80 of a request.
#[derive(Default)]
struct Count {
    given: i128,
    asked: i128,
}

impl Count {
    const ONE: i128 = 1 << 80;

    fn add(&mut self, given: bool, weight: u32, total: u32) {
        self.given += i128::from(given) * Self::ONE;
        self.asked += i128::from(weight) * Self::ONE / i128::from(total);
    }
    fn error(&self) -> f64 {
        (self.given - self.asked) as f64 / Self::ONE as f64
    }
    fn is_within(&self, requests: i128) -> bool {
        (self.given - self.asked).abs() < requests * Self::ONE
    }
}

fn weights_and_totals() -> Vec<(u32, u32)> {
    let mut pairs = Vec::new();
    for total in [2, 3, 4, 5, 7, 10, 97, 100, 101, 1000, 1024, 999_983, 1_000_000] {
        for weight in [1, 2, 3, total / 20, total / 2 - 1, total / 2, total / 2 + 1, total - 2, total - 1] {
            if (1..total).contains(&weight) {
                pairs.push((weight, total));
            }
        }
    }
    let mut dice = Dice(11);
    while pairs.len() < 560 {
        let total = 2 + dice.below([20, 200, 5000, 999_999][pairs.len() % 4]);
        pairs.push((1 + dice.below(total - 1), total));
    }
    pairs
}

#[test]
fn every_prefix_is_within_one_request_of_its_share_and_every_round_is_exact() {
    let mut dice = Dice(1);
    for (weight, total) in weights_and_totals() {
        let seed = dice.seed();
        let split = pair(weight, total, seed, None);
        let mut given: u64 = 0;
        for n in 1..=20_000 {
            given += split.pick() as u64;
            let error = (given * u64::from(total)) as i64 - (n * u64::from(weight)) as i64;
            assert!(error.abs() < i64::from(total), "{weight}/{total} {seed:?}: {given} of the first {n}");
            if n % u64::from(total) == 0 {
                assert_eq!(error, 0, "{weight}/{total} {seed:?}: {given} of the first {n}");
            }
        }
    }
}

#[test]
fn the_bound_holds_far_from_the_beginning() {
    let mut dice = Dice(2);
    for (weight, total) in weights_and_totals() {
        let (weight, total) = (weight.min(total - weight), total);
        let line = Line::new(weight, total, Carry::default(), dice.seed(), [0; 2]);
        let index = dice.roll() >> 4;
        let mut chosen = line.chosen_before(index);
        for index in index..index + 2000 {
            assert_eq!(line.chosen_before(index), chosen, "{line:?} at {index}");
            let ideal = u128::from(index) * u128::from(weight);
            assert!(
                (u128::from(chosen) * u128::from(total)).abs_diff(ideal) < u128::from(total),
                "{line:?} at {index}"
            );
            chosen += u64::from(line.chooses(index));
        }
    }
}

#[test]
fn every_request_is_equally_likely() {
    const KEYS: u32 = 10_000;
    let mut dice = Dice(3);
    // The weights whose borders fall inside requests in every way: these go wrong first when a border is rounded.
    for (weight, total) in [(2, 5), (3, 7), (45, 100), (67, 100), (1, 2), (5, 100), (499_999, 1_000_000)] {
        let mut chosen = [0u32; 210];
        for _ in 0..KEYS {
            let split = pair(weight, total, dice.seed(), None);
            for chosen in &mut chosen {
                *chosen += split.pick() as u32;
            }
        }
        let p = f64::from(weight) / f64::from(total);
        let mean = f64::from(KEYS) * p;
        for (n, chosen) in chosen.iter().enumerate() {
            let off = f64::from(*chosen) - mean;
            assert!(off.abs() < deviation(f64::from(KEYS), p), "{weight}/{total}: request {n} off by {off}");
        }
    }
}

/// How often requests of each phase of a period were given to the canary, as a share.
fn phases(split: &Split, period: usize, requests: usize) -> Vec<f64> {
    let mut given = vec![0u32; period];
    for n in 0..requests {
        given[n % period] += split.pick() as u32;
    }
    (0..period).map(|phase| f64::from(given[phase]) / (requests - phase).div_ceil(period) as f64).collect()
}

#[test]
fn clients_that_alternate_see_the_share_in_every_phase() {
    let mut dice = Dice(4);
    // Three points are over four standard deviations of independent draws for these.
    for (weight, total, periods) in [(1, 100, &[2, 3, 5, 10][..]), (5, 100, &[2, 3, 5, 10]), (10, 100, &[2, 3, 5])] {
        for _ in 0..20 {
            let seed = dice.seed();
            for period in periods {
                for (phase, share) in phases(&pair(weight, total, seed, None), *period, 10_000).iter().enumerate() {
                    let off = share - f64::from(weight) / f64::from(total);
                    assert!(off.abs() < 0.03, "{weight}/{total} {seed:?} period {period}, phase {phase}: off by {off}");
                }
            }
        }
    }
}

#[test]
fn no_period_is_worse_off_than_with_independent_draws() {
    let mut dice = Dice(5);
    for (weight, total) in [(5, 100), (1, 10), (1, 4), (1, 3), (45, 100), (1, 2), (67, 100), (9, 10)] {
        let p = f64::from(weight) / f64::from(total);
        for period in [2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 20, 25, 50, 64, 100] {
            let seed = dice.seed();
            let n = 10_000.0 / period as f64;
            for (phase, share) in phases(&pair(weight, total, seed, None), period, 10_000).iter().enumerate() {
                // One request on top: a count is a whole number.
                let off = (share - p) * n;
                assert!(
                    off.abs() < deviation(n, p) + 1.0,
                    "{weight}/{total} {seed:?} period {period}, phase {phase}: off by {off} of {n}"
                );
            }
        }
    }
}

#[test]
fn random_walks_of_weights_never_leave_the_bound() {
    for walk in 0..2000 {
        let mut dice = Dice(walk);
        let seed = dice.seed();
        let mut count = Count::default();
        let mut previous: Option<Split> = None;
        for step in 0..=12 {
            let total = [2, 10, 100, 1000, 997, 1_000_000][dice.below(6) as usize];
            let weight = match dice.below(8) {
                0 => 0,
                1 => total,
                _ => dice.below(total + 1),
            };
            // Roles may move too: then the same pair stands the other way round.
            let weights = [(1, weight), (0, total - weight)];
            let split = match dice.below(4) {
                0 => split(&[weights[1], weights[0]], seed, previous.as_ref()),
                _ => split(&weights, seed, previous.as_ref()),
            };
            let longest = [5, 60, 300][dice.below(3) as usize];
            for _ in 0..dice.below(longest) {
                count.add(split.pick() == 1, weight, total);
                assert!(count.is_within(1), "walk {walk}, step {step}, {weight}/{total}: error {}", count.error());
            }
            let asked = &split.tally().asked;
            let canary = asked.iter().find(|(version, _)| version.as_str() == "v1").unwrap().1;
            assert!((canary - count.asked as f64 / Count::ONE as f64).abs() < 1e-9, "walk {walk}, step {step}");
            previous = Some(split);
        }
    }
}

#[test]
fn reloads_every_ten_requests_leave_one_percent_exact() {
    let one_percent: [&[(u32, u32)]; 3] =
        [&[(1, 100)], &[(1, 100), (10, 1000)], &[(10_001, 1_000_000), (9_999, 1_000_000), (1, 100), (999, 99_900)]];
    for (kind, weights) in one_percent.iter().enumerate() {
        for key in 0..20 {
            let mut split = pair(1, 100, Dice(key).seed(), None);
            let mut given = 0;
            for reload in 0..1000 {
                let (weight, total) = weights[reload % weights.len()];
                split = pair(weight, total, Dice(key).seed(), Some(&split));
                given += (0..10).map(|_| split.pick()).sum::<usize>();
            }
            assert!((99..=101).contains(&given), "weights {kind}, key {key}: {given}");
        }
    }
}

#[test]
fn every_request_stays_equally_likely_through_changes() {
    const KEYS: u32 = 10_000;
    // Short steps, long ones, both sides of a half, both ends, and a swap of sides.
    let walk = [(5, 100, 7), (50, 100, 5), (80, 100, 4), (1, 3, 11), (0, 1, 3), (33, 100, 1), (34, 100, 1), (2, 5, 1)];
    let walk = [&walk[..], &[(1, 1, 3), (9, 20, 6), (11, 20, 6), (1, 100, 20), (3, 7, 9)]].concat();
    let length: usize = walk.iter().map(|(_, _, requests)| requests).sum();
    let mut given = vec![0u32; length];
    let mut dice = Dice(6);
    for _ in 0..KEYS {
        let seed = dice.seed();
        let mut previous: Option<Split> = None;
        let mut at = given.iter_mut();
        for (step, (weight, total, requests)) in walk.iter().enumerate() {
            let mut weights = [(1, *weight), (0, total - weight)];
            if step % 5 == 4 {
                weights.reverse();
            }
            let split = split(&weights, seed, previous.as_ref());
            at.by_ref().take(*requests).for_each(|given| *given += split.pick() as u32);
            previous = Some(split);
        }
    }
    let mut given = given.iter();
    for (weight, total, requests) in walk {
        let p = f64::from(weight) / f64::from(total);
        for given in given.by_ref().take(requests) {
            let off = f64::from(*given) - f64::from(KEYS) * p;
            assert!(off.abs() <= deviation(f64::from(KEYS), p), "at {weight}/{total}: off by {off}");
        }
    }
}

#[test]
fn several_proxies_are_unbiased_from_the_first_request() {
    const TIMES: u32 = 2000;
    let mut dice = Dice(7);
    for (replicas, requests, weight) in
        [3, 16].into_iter().flat_map(|r| [(r, 100, 1), (r, 100, 5), (r, 1000, 1), (r, 1000, 5)])
    {
        let mut sum = 0.0;
        for _ in 0..TIMES {
            let proxies: Vec<Split> = (0..replicas).map(|_| pair(weight, 100, dice.seed(), None)).collect();
            let given: usize = (0..requests).map(|n| proxies[n % replicas].pick()).sum();
            sum += given as f64 - requests as f64 * f64::from(weight) / 100.0;
        }
        let mean = sum / f64::from(TIMES);
        assert!(mean.abs() < 0.06, "{replicas} proxies, {requests} requests at {weight} %: mean error {mean}");
    }
}

#[test]
fn proxies_that_take_turns_are_exact_together() {
    const REQUESTS: usize = 1000;
    let mut dice = Dice(8);
    for (replicas, weight) in [2, 3, 16].into_iter().flat_map(|r| [(r, 1), (r, 5), (r, 45), (r, 67)]) {
        // The sums of squares of the errors after each request, and the largest error with turns.
        let (mut apart, mut together, mut largest) = (0.0, 0.0, 0.0f64);
        let runs = 100;
        for _ in 0..runs {
            let errors = |proxies: Vec<Split>| -> Vec<f64> {
                let mut given = 0;
                let mut error = |n: usize| {
                    given += proxies[n % proxies.len()].pick();
                    given as f64 - (n + 1) as f64 * f64::from(weight) / 100.0
                };
                (0..REQUESTS).map(&mut error).collect()
            };
            let shares = shares(&[(1, weight), (0, 100 - weight)]);
            let seed = dice.seed();
            let turn = |index| Split::new(&shares, seed, Turn::new(index, replicas).unwrap(), None);
            let with_turns = errors((0..replicas).map(turn).collect());
            let without = errors((0..replicas).map(|_| pair(weight, 100, dice.seed(), None)).collect());
            together += with_turns.iter().map(|error| error * error).sum::<f64>();
            apart += without.iter().map(|error| error * error).sum::<f64>();
            largest = with_turns.iter().fold(largest, |largest, error| largest.max(error.abs()));
        }
        let root = |sum: f64| (sum / (runs * REQUESTS) as f64).sqrt();
        let (apart, together) = (root(apart), root(together));
        let what =
            format!("{replicas} proxies at {weight} %: {together} in turns (at most {largest}), {apart} without");
        assert!(together < 0.9 * apart && together < 0.85, "{what}");
        if weight <= 5 {
            assert!(together < 0.55 && largest < 2.0, "{what}");
        }
    }
}

#[test]
fn two_or_three_proxies_in_turns_are_within_two_requests_together_through_changes() {
    let mut dice = Dice(8);
    for (replicas, walk) in [2u32, 3].into_iter().flat_map(|replicas| {
        [[1u32, 1, 1], [5, 20, 50], [33, 33, 33], [45, 45, 45], [1, 33, 45]].map(|walk| (replicas, walk))
    }) {
        let mut largest = 0.0f64;
        for _ in 0..500 {
            let seed = dice.seed();
            let (mut proxies, mut error): (Vec<Split>, f64) = (Vec::new(), 0.0);
            for weight in walk {
                let shares = shares(&[(1, weight), (0, 100 - weight)]);
                let next =
                    |index| Split::new(&shares, seed, Turn::new(index, replicas).unwrap(), proxies.get(index as usize));
                proxies = (0..replicas).map(next).collect();
                for n in 0..300usize {
                    error += proxies[n % proxies.len()].pick() as f64 - f64::from(weight) / 100.0;
                    largest = largest.max(error.abs());
                }
            }
        }
        assert!(largest < 2.0, "{replicas} proxies along {walk:?} %: {largest}");
    }
}

#[test]
fn a_turn_does_not_change_the_promises_of_one_proxy() {
    let mut dice = Dice(9);
    for (weight, total) in [(1, 100), (45, 100), (2, 5), (3, 7)] {
        let mut chosen = [0u32; 60];
        for run in 0..3000 {
            let turn = Turn::new(run % 16, 16).unwrap();
            let split = Split::new(&shares(&[(1, weight), (0, total - weight)]), dice.seed(), turn, None);
            let mut count = Count::default();
            for (n, chosen) in chosen.iter_mut().enumerate() {
                let picked = split.pick();
                *chosen += picked as u32;
                count.add(picked == 1, weight, total);
                assert!(count.is_within(1), "{weight}/{total}, run {run}, request {n}");
            }
        }
        let p = f64::from(weight) / f64::from(total);
        for (n, chosen) in chosen.iter().enumerate() {
            let off = f64::from(*chosen) - 3000.0 * p;
            assert!(off.abs() < deviation(3000.0, p), "{weight}/{total}: request {n} off by {off}");
        }
    }
}

#[test]
fn a_version_at_place_d_of_a_chain_is_within_d_requests() {
    let mut dice = Dice(10);
    let chains: [&[u32]; 8] = [
        &[1, 1, 1],
        &[5, 5, 90],
        &[20, 10, 70],
        &[1, 998, 1],
        &[333_333, 333_333, 333_334],
        &[60, 30, 10],
        &[10, 20, 30, 40],
        &[1, 50, 7, 13, 29],
    ];
    for chain in chains {
        let weights: Vec<(usize, u32)> = chain.iter().copied().enumerate().collect();
        let total: u32 = chain.iter().sum();
        for _ in 0..20 {
            let seed = dice.seed();
            let split = split(&weights, seed, None);
            let mut counts: Vec<Count> = chain.iter().map(|_| Count::default()).collect();
            for n in 0..5000 {
                let picked = split.pick();
                for (place, (count, weight)) in counts.iter_mut().zip(chain).enumerate() {
                    count.add(picked == place, *weight, total);
                    let bound = (place + 1).min(chain.len() - 1);
                    assert!(count.is_within(bound as i128), "{chain:?} {seed:?}: version {place} at request {n}");
                }
            }
        }
    }
}

#[test]
fn every_request_is_equally_likely_for_each_of_three_versions() {
    const KEYS: u32 = 10_000;
    let mut dice = Dice(12);
    for chain in [[20, 10, 70], [3, 2, 2], [60, 30, 10]] {
        let weights: Vec<(usize, u32)> = chain.into_iter().enumerate().collect();
        let changed: Vec<(usize, u32)> = chain.into_iter().rev().enumerate().collect();
        let mut given = [[0u32; 3]; 60];
        for _ in 0..KEYS {
            let before = split(&weights, dice.seed(), None);
            (0..30).for_each(|n| given[n][before.pick()] += 1);
            let after = split(&changed, before.0.seed, Some(&before));
            (30..60).for_each(|n| given[n][after.pick()] += 1);
        }
        let total: u32 = chain.iter().sum();
        for (n, given) in given.iter().enumerate() {
            for version in 0..3 {
                let weight = if n < 30 { chain[version] } else { chain[2 - version] };
                let p = f64::from(weight) / f64::from(total);
                let off = f64::from(given[version]) - f64::from(KEYS) * p;
                assert!(off.abs() < deviation(f64::from(KEYS), p), "{chain:?}: version {version}, request {n}: {off}");
            }
        }
    }
}

#[test]
fn a_walk_of_the_canary_beside_an_experiment_stays_within_its_bound() {
    let steps = [0, 5, 10, 25, 50, 75, 90];
    for key in 0..200 {
        let mut counts = [Count::default(), Count::default(), Count::default()];
        let mut previous: Option<Split> = None;
        for weight in steps {
            let weights = [(2, 10), (1, weight), (0, 90 - weight)];
            let split = split(&weights, Dice(key).seed(), previous.as_ref());
            for _ in 0..137 {
                let picked = split.pick();
                for (version, weight) in weights {
                    counts[version].add(picked == version, weight, 100);
                }
                // The share inside moves from 0 to 1 once, which adds at most one.
                let within = counts[2].is_within(1) && counts[1].is_within(3) && counts[0].is_within(3);
                assert!(within, "key {key}: {:?}", counts.each_ref().map(Count::error));
            }
            previous = Some(split);
        }
    }
}

#[test]
fn an_outer_version_that_comes_and_goes_does_not_touch_the_choice_inside() {
    for key in 0..50 {
        let mut dice = Dice(key);
        let seed = dice.seed();
        let undisturbed = pair(37, 100, seed, None);
        let mut previous = pair(37, 100, seed, None);
        for change in 0..40 {
            // Experiments of several names and weights, or none; always 37 : 63 inside.
            let experiment = dice.below(4);
            let weights = [(2 + experiment as usize, experiment * 20), (1, 37), (0, 63)];
            let split = split(&weights, seed, Some(&previous));
            for _ in 0..dice.below(40) {
                let picked = split.pick();
                if picked < 2 {
                    assert_eq!(picked, undisturbed.pick(), "key {key}, change {change}");
                }
            }
            previous = split;
        }
    }
}

/// The next picks of a split, by looking at its function and taking no number.
fn future(split: &Split) -> Vec<usize> {
    let next = split.0.counter.read() & NUMBERS;
    (next..next + 500).map(|number| split.0.at(number)).collect()
}

#[test]
fn a_reload_that_changes_nothing_moves_no_request() {
    let mut dice = Dice(13);
    for weights in [&[(1, 5), (0, 95)][..], &[(1, 2), (0, 1)], &[(2, 10), (1, 30), (0, 60)], &[(0, 1)]] {
        let seed = dice.seed();
        let mut old = split(weights, seed, None);
        for _ in 0..30 {
            take(&old, dice.below(50));
            // The same weights in other numbers.
            let doubled: Vec<_> = weights.iter().map(|(version, weight)| (*version, weight * 2)).collect();
            let new = split(&doubled, seed, Some(&old));
            assert_eq!(future(&new), future(&old), "{weights:?} {seed:?}");
            old = new;
        }
    }
}

#[test]
fn a_promotion_that_swaps_sides_and_keeps_weights_moves_no_request() {
    let mut dice = Dice(14);
    for weight in [5, 50, 80] {
        let seed = dice.seed();
        let mut old = pair(weight, 100, seed, None);
        for swap in 0..20 {
            take(&old, dice.below(50));
            let mut weights = [(1, weight), (0, 100 - weight)];
            if swap % 2 == 0 {
                weights.reverse();
            }
            let new = split(&weights, seed, Some(&old));
            assert_eq!(future(&new), future(&old), "{weight} {seed:?}, swap {swap}");
            old = new;
        }
    }
}

#[test]
fn backends_may_change_their_index() {
    let old = Split::new(&shares(&[(1, 30), (0, 70)]), Seed(1, 2), Turn::default(), None);
    take(&old, 17);
    let moved: Vec<_> = shares(&[(1, 30), (0, 70)]).into_iter().map(|(v, i, weight)| (v, i + 5, weight)).collect();
    let new = Split::new(&moved, Seed(1, 2), Turn::default(), Some(&old));
    assert_eq!(future(&new), future(&old).into_iter().map(|backend| backend + 5).collect::<Vec<_>>());
}

#[test]
fn a_version_that_was_away_finds_its_state_again() {
    for key in 0..200 {
        let mut dice = Dice(key);
        let seed = dice.seed();
        let mut count = Count::default();
        let mut previous = pair(5, 100, seed, None);
        for step in 0..30 {
            let (weights, canary) = match dice.below(4) {
                // Gone from the split, or there with weight 0.
                0 => (vec![(0, 1)], 0),
                1 => (vec![(1, 0), (0, 1)], 0),
                _ => (vec![(1, 5 + step), (0, 95 - step)], 5 + step),
            };
            let split = split(&weights, seed, Some(&previous));
            for _ in 0..dice.below(60) {
                count.add(split.pick() == 1, canary, 100);
                assert!(count.is_within(1), "key {key}, step {step}: {}", count.error());
            }
            previous = split;
        }
    }
}

#[test]
fn a_new_version_is_within_one_request_from_its_first() {
    for key in 0..300 {
        let mut dice = Dice(key);
        let seed = dice.seed();
        let mut previous: Option<Split> = None;
        // Rollouts one after the other: each canary becomes the next one's stable.
        for rollout in 0..10 {
            let mut count = Count::default();
            for weight in [1, 20, 50, 100] {
                let split = split(&[(rollout + 1, weight), (rollout, 100 - weight)], seed, previous.as_ref());
                for _ in 0..dice.below(40) {
                    count.add(split.pick() == rollout + 1, weight, 100);
                    assert!(count.is_within(1), "key {key}, rollout {rollout} at {weight} %: {}", count.error());
                }
                previous = Some(split);
            }
        }
    }
}

#[test]
fn the_tally_knows_every_version_ever_named() {
    for key in 0..200 {
        let mut dice = Dice(key);
        let seed = dice.seed();
        let mut asked = [0.0f64; 4];
        let mut given = [0u32; 4];
        let mut requests = 0;
        let mut previous: Option<Split> = None;
        for _ in 0..20 {
            let weights: Vec<(usize, u32)> = (0..4).rev().map(|version| (version, dice.below(50))).collect();
            let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
            let split = split(&weights, seed, previous.as_ref());
            for _ in 0..dice.below(100) {
                given[split.pick()] += 1;
                requests += 1;
                weights.iter().for_each(|(version, weight)| asked[*version] += f64::from(*weight) / f64::from(total));
            }
            let tally = split.tally();
            assert_eq!(tally.requests, requests);
            assert_eq!(tally.asked.len(), 4);
            for (version, counted) in &tally.asked {
                let version: usize = version.as_str()[1..].parse().unwrap();
                assert!((counted - asked[version]).abs() < 1e-6, "key {key}: {counted} {}", asked[version]);
            }
            let sum: f64 = tally.asked.iter().map(|(_, asked)| asked).sum();
            assert!((sum - requests as f64).abs() < 1e-6, "key {key}: {sum} of {requests}");
            previous = Some(split);
        }
        assert_eq!(u64::from(given.iter().sum::<u32>()), requests);
    }
}

#[test]
fn the_tally_of_two_versions_is_within_one_request_of_what_was_given() {
    for key in 0..300 {
        let mut dice = Dice(key);
        let seed = dice.seed();
        let mut given = [0u32; 2];
        let mut split = pair(1, 2, seed, None);
        for step in 0..12 {
            split = pair(dice.below(101), 100, seed, Some(&split));
            for _ in 0..dice.below(80) {
                given[split.pick()] += 1;
                for (version, asked) in split.tally().asked {
                    let given = f64::from(given[version.as_str()[1..].parse::<usize>().unwrap()]);
                    assert!((given - asked).abs() < 1.0, "key {key}, step {step}: {version} {given}, asked {asked}");
                }
            }
        }
    }
}

#[test]
fn the_window_begins_with_the_weights_and_is_exact_whatever_came_before() {
    for trial in 0..500 {
        let mut dice = Dice(trial);
        let seed = dice.seed();
        let (mut given, mut before, mut since, mut requests) = ([0u64; 4], [0u64; 4], 0, 0);
        let mut weights: Vec<(usize, u32)> = Vec::new();
        let mut current: Option<Split> = None;
        for _ in 0..10 {
            // Now and then something else changes, and the weights go on.
            if weights.is_empty() || dice.below(3) > 0 {
                let next: Vec<_> = (1..4).chain([0]).map(|version| (version, dice.below(4) * dice.below(50))).collect();
                if next.iter().all(|(_, weight)| *weight == 0) {
                    continue;
                }
                if next != weights {
                    (weights, before, since) = (next, given, requests);
                }
            }
            let next = split(&weights, seed, current.as_ref());
            for _ in 0..dice.below(200) {
                given[next.pick()] += 1;
                requests += 1;
                let tally = next.tally();
                assert_eq!((tally.requests, tally.since), (requests, since), "trial {trial}");
                let named = weights.iter().filter(|(_, weight)| *weight > 0).count();
                let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
                for ((version, _), window) in tally.asked.iter().zip(&tally.window) {
                    let (i, weight) =
                        *weights.iter().find(|(i, _)| *version == VersionHash::new(&format!("v{i}"))).expect("named");
                    assert_eq!(window.given_before, before[i], "trial {trial}");
                    let asked = (requests - since) as f64 * f64::from(weight) / f64::from(total);
                    assert!((window.asked - asked).abs() < 1e-6, "trial {trial}: {window:?}, {asked}");
                    let error = (given[i] - before[i]) as f64 - window.asked;
                    assert!(error.abs() < (2 * (named - 1)) as f64 + 1e-6, "trial {trial}: {error}");
                }
            }
            current = Some(next);
        }
    }
}

#[test]
fn one_version_gets_everything_and_is_counted() {
    for weights in [&[(7, 1)][..], &[(1, 0), (7, 100)], &[(7, 100), (0, 0)]] {
        let split = split(weights, Seed(1, 2), None);
        assert!((0..1000).all(|_| split.pick() == 7));
        assert_eq!(split.tally().requests, 1000);
        assert!(split.tally().asked.contains(&(VersionHash::new("v7"), 1000.0)));
    }
}

#[test]
fn peek_tells_the_next_pick_and_takes_nothing() {
    let split = split(&[(2, 10), (1, 30), (0, 60)], Seed(3, 4), None);
    for n in 0..2000 {
        let next = split.peek();
        assert_eq!(split.tally().requests, n);
        assert_eq!(split.pick(), next);
    }
}

#[test]
fn the_sum_over_threads_obeys_the_bound() {
    const THREADS: usize = 4;
    const EACH: usize = 25_000;
    let mut previous: Option<Split> = None;
    let mut count = Count::default();
    for (weight, total) in [(1, 100), (45, 100), (2, 3), (1, 2)] {
        let split = pair(weight, total, Seed(5, 6), previous.as_ref());
        let given: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..THREADS).map(|_| scope.spawn(|| (0..EACH).map(|_| split.pick()).sum::<usize>())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        for n in 0..THREADS * EACH {
            count.add(n < given, weight, total);
        }
        assert!(count.is_within(1), "{weight}/{total}: {given} given, error {}", count.error());
        previous = Some(split);
    }
    assert_eq!(previous.unwrap().tally().requests, (4 * THREADS * EACH) as u64);
}

#[test]
fn a_split_is_in_force_from_the_moment_it_is_built() {
    let seed = Seed(7, 8);
    let first = pair(5, 100, seed, None);
    let mut newest = first.clone();
    let mut count = Count::default();
    for n in 0..1000 {
        let weight = n % 99 + 1;
        newest = pair(weight, 100, seed, Some(&newest));
        let expected = future(&newest);
        for expected in &expected[..3] {
            // Whoever still holds the first one picks as the newest would.
            assert_eq!(first.pick(), *expected, "change {n}");
            count.add(*expected == 1, weight, 100);
            assert!(count.is_within(1));
        }
    }
    assert_eq!((first.tally(), newest.tally().requests), (newest.tally(), 3000));
}

#[test]
fn a_version_that_the_old_split_does_not_have_is_decided_by_the_old_one() {
    let old = split(&[(1, 50), (0, 50)], Seed(1, 2), None);
    let new = split(&[(7, 100)], Seed(1, 2), Some(&old));
    assert!((0..100).all(|_| old.pick() < 2));
    assert!((0..100).all(|_| new.pick() == 7));
}

#[test]
fn the_account_stays_exact_while_weights_change_under_threads_that_pick() {
    const PICKS: u32 = 10_000;
    let seed = Seed(9, 10);
    let live = std::sync::Mutex::new(pair(5, 100, seed, None));
    let picking = std::sync::atomic::AtomicUsize::new(2);
    let given: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut own = live.lock().unwrap().clone();
                    let mut given = 0;
                    for n in 0..PICKS {
                        given += own.pick();
                        // A worker looks for a new snapshot now and then, and has other things to do.
                        if n % 5 == 0 {
                            own = live.lock().unwrap().clone();
                        }
                        (0..2000).for_each(|_| std::hint::spin_loop());
                    }
                    picking.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
                    given
                })
            })
            .collect();
        let mut dice = Dice(15);
        while picking.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            let old = live.lock().unwrap().clone();
            // Built while others pick, and published a little later.
            let new = pair(dice.below(101), 100, seed, Some(&old));
            std::thread::yield_now();
            *live.lock().unwrap() = new;
        }
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    let tally = live.lock().unwrap().tally();
    let (_, asked) = tally.asked.iter().find(|(version, _)| version.as_str() == "v1").unwrap();
    assert_eq!(tally.requests, u64::from(2 * PICKS));
    assert!((given as f64 - asked).abs() < 1.0, "{given} given, {asked} asked");
}

#[test]
fn a_long_row_of_changes_is_dropped_without_recursion() {
    let first = pair(1, 2, Seed(1, 2), None);
    let mut newest = first.clone();
    for n in 0..100_000 {
        newest = pair(n % 2 + 1, 3, Seed(1, 2), Some(&newest));
    }
    drop(newest);
    drop(first);
}

#[test]
fn keys_differ_by_process_and_name_and_agree_when_shared() {
    assert_ne!(Seed::random(), Seed::random());
    assert_eq!(Seed::shared("shop"), Seed::shared("shop"));
    assert_ne!(Seed::shared("shop"), Seed::shared("shop2"));
    let seed = Seed(1, 2);
    assert_eq!(seed.of("a"), seed.of("a"));
    assert_ne!(seed.of("a"), seed.of("b"));
    assert_ne!(seed.of("a"), seed);
    // Replicas take turns also while Splitway itself is being upgraded, so this value stays.
    assert_eq!(Seed::shared("shop"), Seed(2371862523438241053, 3410853318165963795));
}

#[test]
fn a_turn_is_one_of_those_there_are() {
    assert_eq!(Turn::new(0, 1), Some(Turn::default()));
    assert_eq!(Turn::new(2, 3).map(|turn| (turn.index(), turn.of())), Some((2, 3)));
    assert_eq!((Turn::new(3, 3), Turn::new(0, 0)), (None, None));
}

#[test]
fn turns_are_spread_evenly_over_a_stratum() {
    for of in 1..200 {
        for parity in 0..2 {
            let mut shifts: Vec<u64> = (0..of).map(|index| Turn::new(index, of).unwrap().shifts()[parity]).collect();
            shifts.sort_unstable();
            let expected: Vec<u64> = (0..of).map(|i| ((u128::from(i) << 64) / u128::from(of)) as u64).collect();
            assert_eq!(shifts, expected, "{of} replicas");
        }
    }
    // Many replicas need no more than 64 bits.
    assert_ne!(Turn::new(u32::MAX - 1, u32::MAX).unwrap().shifts(), [0; 2]);
}
