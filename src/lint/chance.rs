//! What a number of requests can tell about an error rate: a one-sided exact binomial test, without approximation by the
//! normal distribution, which is badly wrong for the small numbers that canaries see.

/// The chance to condemn a canary that is as good as stable.
pub(super) const FALSE_ALARM: f64 = 0.05;
/// The chance to notice a canary that is as bad as we say can be noticed.
pub(super) const POWER: f64 = 0.8;
/// Beyond this many requests nothing changes that anybody could see.
pub(super) const MOST: u64 = 1_000_000_000;

/// So far off may a chance be that is computed, relative to itself.
const ROUNDING: f64 = 1e-12;

/// The test that `requests` allow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Test {
    /// So many errors, or more, tell the canary from the baseline.
    pub errors: u64,
    /// The smallest error rate that gives so many errors with a chance of [`POWER`].
    pub smallest_rate: f64,
}

/// `None`: not even a canary that fails every request could be told from the baseline.
pub(super) fn test(requests: u64, baseline: f64) -> Option<Test> {
    let n = requests.min(MOST);
    // The smallest number of errors that the baseline reaches with a chance of at most FALSE_ALARM.
    let (mut low, mut high) = (1, n + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if at_least(middle, n, baseline) <= FALSE_ALARM * (1.0 + ROUNDING) { high = middle } else { low = middle + 1 }
    }
    let errors = low;
    if errors > n {
        return None;
    }
    let (mut low, mut high) = (baseline, 1.0);
    // Each step halves an interval of at most 1, until floating-point numbers are used up.
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at_least(errors, n, middle) >= POWER { high = middle } else { low = middle }
    }
    Some(Test { errors, smallest_rate: high })
}

/// The fewest requests after which an error rate of `rate` can be told from the baseline.
pub(super) fn requests_for(rate: f64, baseline: f64) -> Option<u64> {
    // A thousand suffice for the ten percentage points that we ask about.
    (1..=1000).find(|n| test(*n, baseline).is_some_and(|test| test.smallest_rate <= rate))
}

/// P(X >= k) for X the number of errors among n requests that each fail with probability p.
///
/// The tail that is summed lies on the far side of the mean, so its terms fall at least geometrically in the end and none
/// cancels another.
fn at_least(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 {
        return 1.0;
    }
    if k > n || p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return 1.0;
    }
    let odds = p / (1.0 - p);
    if k as f64 > n as f64 * p {
        sum(probability(k, n, p), k..n, |i| (n - i) as f64 / (i + 1) as f64 * odds)
    } else {
        let below = sum(probability(k - 1, n, p), (0..k - 1).rev(), |i| (i + 1) as f64 / (n - i) as f64 / odds);
        (1.0 - below).clamp(0.0, 1.0)
    }
}

/// The first term and those that follow, each the one before times `ratio`, until they no longer count. Far out already the
/// first is 0, as floating-point numbers go.
fn sum(first: f64, steps: impl Iterator<Item = u64>, ratio: impl Fn(u64) -> f64) -> f64 {
    let (mut term, mut total) = (first, first);
    for i in steps {
        term *= ratio(i);
        total += term;
        if term <= total * 1e-17 {
            break;
        }
    }
    total.min(1.0)
}

/// P(X = k), for 0 < p < 1. Written as distances from the mean, so that large numbers do not eat each other's digits
/// (C. Loader, Fast and accurate computation of binomial probabilities, 2000).
fn probability(k: u64, n: u64, p: f64) -> f64 {
    let (x, m, q) = (k as f64, n as f64, 1.0 - p);
    if k == 0 {
        return (m * (-p).ln_1p()).exp();
    }
    if k == n {
        return (m * p.ln()).exp();
    }
    let exponent = rest(m) - rest(x) - rest(m - x) - distance(x, m * p) - distance(m - x, m * q);
    exponent.exp() * (m / (2.0 * std::f64::consts::PI * x * (m - x))).sqrt()
}

/// x ln(x / mean) + mean - x.
fn distance(x: f64, mean: f64) -> f64 {
    let d = (mean - x) / x;
    x * (d - d.ln_1p())
}

/// ln n! without Stirling's main terms.
fn rest(n: f64) -> f64 {
    if n < 16.0 {
        let factorial: f64 = (2..=n as u64).map(|i| i as f64).product();
        return factorial.ln() - ((n + 0.5) * n.ln() - n + 0.5 * (2.0 * std::f64::consts::PI).ln());
    }
    let s = n * n;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * s)) / s) / s) / n
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() <= 1e-10 * other.abs().max(1e-3)
    }

    #[test]
    fn examples_computed_by_hand_hold() {
        // One error in four is news when 0.1 % is usual: 1 - 0.999^4 = 0.004. It comes with a chance of 80 % when
        // 1 - (1 - p)^4 = 0.8.
        let four = test(4, 0.001).unwrap();
        assert_eq!(four.errors, 1);
        assert!(close(four.smallest_rate, 1.0 - 0.2f64.powf(0.25)), "{four:?}");
        // With 5 % usual, one error in two is not: 1 - 0.95^2 = 0.0975. Two are: 0.0025; and p^2 = 0.8.
        let two = test(2, 0.05).unwrap();
        assert_eq!(two.errors, 2);
        assert!(close(two.smallest_rate, 0.8f64.sqrt()), "{two:?}");
        // Exactly at the limit counts: a single error when 5 % are usual.
        assert_eq!(test(1, 0.05).unwrap().errors, 1);
        // Every second request fails anyway: even 4 of 4 happen with a chance of 0.0625, 5 of 5 with 0.03125.
        assert_eq!(test(4, 0.5), None);
        assert_eq!(test(5, 0.5).unwrap().errors, 5);
        assert_eq!(test(0, 0.001), None);
        // The table of docs/lint.md.
        for (n, errors, percent) in [(4, 1, "33.1"), (16, 1, "9.6"), (51, 1, "3.1"), (52, 2, "5.6")] {
            let test = test(n, 0.001).unwrap();
            assert_eq!((test.errors, format!("{:.1}", test.smallest_rate * 100.0)), (errors, percent.to_owned()));
        }
        // A baseline that never fails: one error is enough, however many requests.
        assert_eq!(test(MOST, 0.0).unwrap().errors, 1);
    }

    #[test]
    fn tails_agree_with_sums_of_plain_products() {
        for n in 1..=40u64 {
            for p in [0.0005f64, 0.01, 0.3, 0.5, 0.77, 0.999] {
                let term = |i: u64| {
                    let ways = (0..i).fold(1.0, |ways, j| ways * (n - j) as f64 / (j + 1) as f64);
                    ways * p.powi(i as i32) * (1.0 - p).powi((n - i) as i32)
                };
                for k in 0..=n {
                    let plain: f64 = (k..=n).map(term).sum();
                    assert!(close(at_least(k, n, p), plain), "{k} of {n} at {p}: {} {plain}", at_least(k, n, p));
                }
            }
        }
    }

    #[test]
    fn large_numbers_agree_with_the_normal_distribution_where_that_is_good() {
        // z = 1.6449 and 0.8416: the textbook's distance between the two rates.
        let (n, p) = (1_000_000, 0.1);
        let found = test(n, p).unwrap();
        let expected = p + (1.6449 + 0.8416) * (p * (1.0 - p) / n as f64).sqrt();
        assert!((found.smallest_rate - expected).abs() < 3e-6, "{found:?}, expected about {expected}");
        assert!(test(MOST, 0.001).unwrap().smallest_rate < 0.001_003);
    }

    #[test]
    fn ten_percentage_points_never_need_more_than_a_thousand_requests() {
        for baseline in 0..=500 {
            let baseline = f64::from(baseline) / 1000.0;
            assert!(requests_for(baseline + 0.1, baseline).is_some(), "{baseline}");
        }
        // 1 - 0.899^n >= 0.8 from n = 16 on.
        assert_eq!(requests_for(0.101, 0.001), Some(16));
    }

    /// SplitMix64: the same draws in every run.
    struct Dice(u64);

    impl Dice {
        /// Uniform in [0, 1).
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// Plays a canary of each kind many times, and judges it as the table says.
    #[test]
    fn simulated_canaries_are_noticed_as_often_as_promised_and_good_ones_rarely_condemned() {
        const PLAYS: u32 = 20_000;
        // Four standard deviations of a share near 80 %.
        const TOLERANCE: f64 = 0.0115;
        let mut dice = Dice(7);
        for (n, baseline) in [(4, 0.001), (16, 0.001), (60, 0.01), (250, 0.02), (400, 0.1), (90, 0.4)] {
            let test = test(n, baseline).unwrap();
            let mut condemned = |rate: f64| {
                let plays = (0..PLAYS).filter(|_| (0..n).filter(|_| dice.next() < rate).count() as u64 >= test.errors);
                plays.count() as f64 / f64::from(PLAYS)
            };
            let (noticed, false_alarms) = (condemned(test.smallest_rate), condemned(baseline));
            assert!((noticed - POWER).abs() <= TOLERANCE, "{n} at {baseline}: noticed {noticed}");
            assert!(false_alarms <= FALSE_ALARM + 0.006, "{n} at {baseline}: false alarms {false_alarms}");
        }
    }

    proptest! {
        #[test]
        fn the_test_keeps_its_two_promises_and_one_error_fewer_would_not(n in 1u64..100_000, baseline in 0.0..0.5f64) {
            let Some(test) = test(n, baseline) else {
                prop_assert!(baseline.powf(n as f64) > FALSE_ALARM * (1.0 - 1e-9));
                return Ok(());
            };
            prop_assert!(at_least(test.errors, n, baseline) <= FALSE_ALARM * (1.0 + ROUNDING));
            prop_assert!(at_least(test.errors - 1, n, baseline) > FALSE_ALARM);
            prop_assert!(at_least(test.errors, n, test.smallest_rate) >= POWER - 1e-9);
            prop_assert!(at_least(test.errors, n, test.smallest_rate - 1e-6) < POWER);
            prop_assert!(test.smallest_rate > baseline && test.smallest_rate <= 1.0);
        }
    }
}
