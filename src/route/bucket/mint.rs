//! Bucket numbers for new users.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

/// Gives out bucket numbers for the life of a process: the count of numbers given so far with its bits reversed, XOR a
/// constant. That is a van der Corput sequence, digitally shifted. It fills the line so evenly that among the first `n`
/// users every share, whatever its weight, holds its part to within `log2(n) / 3 + 1` users, where numbers drawn at random
/// would be off by the root of `n`. Different constants keep several replicas unbiased.
///
/// **Ordering.** Relaxed: the count guards no other memory, and one atomic step gives every number once.
pub struct Mint {
    minted: AtomicU32,
    constant: u32,
}

impl Mint {
    pub fn new(constant: u32) -> Self {
        Self { minted: AtomicU32::new(0), constant }
    }

    /// With a constant that no other process has. The standard library's hash keys come from the system's randomness.
    pub fn random() -> Self {
        Self::new(RandomState::new().hash_one("bucket constant") as u32)
    }

    /// The bucket of the next new user.
    pub fn mint(&self) -> u32 {
        // After 2^32 users the sequence repeats, and stays as even as it was.
        self.number(self.minted.fetch_add(1, Ordering::Relaxed))
    }

    /// What [`Mint::mint`] would return now; takes nothing.
    pub fn peek(&self) -> u32 {
        self.number(self.minted.load(Ordering::Relaxed))
    }

    fn number(&self, count: u32) -> u32 {
        count.reverse_bits() ^ self.constant
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::route::Role;
    use crate::route::bucket::{Cuts, Place};

    const USERS: u32 = 20_000;

    fn constants() -> impl Iterator<Item = u32> {
        // The borders, and many in between by a full-period step.
        [0, u32::MAX, 1, 1 << 31].into_iter().chain((1..40).map(|i: u32| i.wrapping_mul(0x9e37_79b9)))
    }

    fn bound(n: u32) -> f64 {
        f64::from(n).log2() / 3.0 + 1.0
    }

    #[test]
    fn every_prefix_of_users_has_its_share_of_canaries() {
        let weights =
            [(1, 2), (1, 3), (1, 10), (9, 10), (5, 100), (55, 1000), (1, 1_000_000), (999_999, 1_000_000), (67, 100)];
        for (weight, total) in weights {
            let cuts = Cuts::new(&[(Role::Canary, 1, weight), (Role::Stable, 0, total - weight)]);
            for constant in constants() {
                let mint = Mint::new(constant);
                let mut canaries = 0usize;
                for n in 1..=USERS {
                    canaries += cuts.at(Place::of_bucket(mint.mint()));
                    let error = canaries as f64 - f64::from(n) * f64::from(weight) / f64::from(total);
                    assert!(
                        error.abs() <= bound(n),
                        "{weight}/{total}, constant {constant:#x}: {error} after {n} users"
                    );
                }
            }
        }
    }

    #[test]
    fn every_prefix_of_users_is_even_for_three_versions() {
        let weights = [20u32, 7, 3];
        let cuts = Cuts::new(&[
            (Role::Experiment, 2, weights[2]),
            (Role::Canary, 1, weights[1]),
            (Role::Stable, 0, weights[0]),
        ]);
        for constant in constants() {
            let mint = Mint::new(constant);
            let mut counts = [0u32; 3];
            for n in 1..=USERS {
                counts[cuts.at(Place::of_bucket(mint.mint()))] += 1;
                for (version, weight) in weights.into_iter().enumerate() {
                    let error = f64::from(counts[version]) - f64::from(n) * f64::from(weight) / 30.0;
                    // Stable lies between two cuts, so both errors may add up.
                    let bound = if version == 0 { 2.0 * bound(n) } else { bound(n) };
                    assert!(error.abs() <= bound, "version {version}, constant {constant:#x}: {error} after {n} users");
                }
            }
        }
    }

    #[test]
    fn a_bucket_is_canary_just_below_its_part_of_all_buckets() {
        for (weight, total) in [(1u32, 2u32), (1, 3), (55, 1000), (999_999, 1_000_000)] {
            let cuts = Cuts::new(&[(Role::Canary, 1, weight), (Role::Stable, 0, total - weight)]);
            let edge = (u64::from(weight) << 32).div_ceil(u64::from(total)) as u32;
            assert_eq!(cuts.at(Place::of_bucket(edge - 1)), 1, "{weight}/{total}");
            assert_eq!(cuts.at(Place::of_bucket(edge)), 0, "{weight}/{total}");
        }
    }

    #[test]
    fn looking_takes_no_number() {
        let mint = Mint::new(5);
        assert_eq!([mint.peek(), mint.peek(), mint.mint(), mint.peek()], [5, 5, 5, 5 ^ (1 << 31)]);
    }

    #[test]
    fn several_threads_get_every_number_once() {
        let mint = Mint::random();
        let minted: Vec<u32> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..2_500).map(|_| mint.mint()).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let expected: HashSet<u32> = (0..10_000).map(|count| mint.number(count)).collect();
        assert_eq!(minted.len(), 10_000);
        assert_eq!(minted.into_iter().collect::<HashSet<_>>(), expected);
    }
}
