//! How many users a version has met, in 4 KiB however many they are.
//!
//! A user is a place on the line of `route::bucket`. What is kept is a HyperLogLog (Flajolet, Fusy, Gandouet and Meunier,
//! 2007) with Ertl's estimator (arXiv:1702.01284, "improved raw estimation"), which needs no table of corrections and holds
//! for few users as well as for many. Its standard error is 1.6 %; up to a few hundred users it is about one in a hundred.

use std::array;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::route::bucket::Place;

/// Bits of a user's hash that choose a register.
const CHOOSE: u32 = 12;
const REGISTERS: usize = 1 << CHOOSE;
/// Bits that are left to tell how rare a hash is.
const REST: usize = 64 - CHOOSE as usize;

/// What one worker saw. It alone raises registers, by a load, a comparison and at most a store. They may be cleared at any
/// moment: a user who comes at the same time counts as if he had come just before or just after it.
pub struct Users([AtomicU8; REGISTERS]);

impl Default for Users {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU8::new(0)))
    }
}

impl Users {
    #[inline]
    pub fn met(&self, user: Place) {
        let hash = mixed(user.0);
        let register = &self.0[(hash >> REST) as usize];
        // The bit behind the rest ends the count of zeros.
        let rank = (hash << CHOOSE | 1 << (CHOOSE - 1)).leading_zeros() as u8 + 1;
        if register.load(Ordering::Relaxed) < rank {
            register.store(rank, Ordering::Relaxed);
        }
    }

    pub fn clear(&self) {
        self.0.iter().for_each(|register| register.store(0, Ordering::Relaxed));
    }
}

/// Spreads places evenly: those of one version are neighbours, and a bucket's lower half is 0. (The finalizer of
/// SplitMix64: Steele, Lea and Flood, 2014. It is a bijection, so no two users become one.)
#[inline]
fn mixed(place: u64) -> u64 {
    let place = (place ^ (place >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let place = (place ^ (place >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    place ^ (place >> 31)
}

/// What several workers saw together: a user of all of them is one user.
pub struct AllUsers([u8; REGISTERS]);

impl Default for AllUsers {
    fn default() -> Self {
        Self([0; REGISTERS])
    }
}

impl AllUsers {
    pub fn add(&mut self, users: &Users) {
        for (most, register) in self.0.iter_mut().zip(&users.0) {
            *most = register.load(Ordering::Relaxed).max(*most);
        }
    }

    /// About how many they are; exactly 0 if there were none.
    pub fn estimate(&self) -> u64 {
        let mut of_rank = [0u32; REST + 2];
        self.0.iter().for_each(|rank| of_rank[usize::from(*rank)] += 1);
        let part = |rank: usize| f64::from(of_rank[rank]) / REGISTERS as f64;
        let beyond = REGISTERS as f64 * above_all(1.0 - part(REST + 1));
        let sum = (1..=REST).rev().fold(beyond, |sum, rank| 0.5 * (sum + f64::from(of_rank[rank])));
        let sum = sum + REGISTERS as f64 * below_all(part(0));
        (REGISTERS as f64 * REGISTERS as f64 / (2.0 * std::f64::consts::LN_2 * sum)).round() as u64
    }
}

/// Ertl's sigma, for the registers that are 0: infinite if all are.
fn below_all(zero: f64) -> f64 {
    if zero == 1.0 {
        return f64::INFINITY;
    }
    let (mut power, mut double, mut sum) = (zero, 1.0, zero);
    loop {
        power *= power;
        let before = sum;
        sum += power * double;
        double += double;
        if sum == before {
            return sum;
        }
    }
}

/// Ertl's tau, for the registers that have no room for more.
fn above_all(not_full: f64) -> f64 {
    if not_full == 0.0 || not_full == 1.0 {
        return 0.0;
    }
    let (mut root, mut half, mut sum) = (not_full, 1.0, 1.0 - not_full);
    loop {
        root = root.sqrt();
        half *= 0.5;
        let before = sum;
        sum -= (1.0 - root).powi(2) * half;
        if sum == before {
            return sum / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn estimate(places: impl IntoIterator<Item = u64>) -> u64 {
        let users = Users::default();
        places.into_iter().for_each(|place| users.met(Place(place)));
        all([&users]).estimate()
    }

    fn all<'a>(workers: impl IntoIterator<Item = &'a Users>) -> AllUsers {
        let mut all = AllUsers::default();
        workers.into_iter().for_each(|users| all.add(users));
        all
    }

    #[test]
    fn few_are_counted_almost_exactly() {
        assert_eq!(estimate([]), 0);
        for n in 1..=10u64 {
            assert_eq!(estimate((0..n).map(|i| i << 32)), n);
        }
    }

    /// Five standard errors, and one user for rounding.
    fn close(found: u64, truth: u64) -> bool {
        found.abs_diff(truth) as f64 <= 5.0 * 0.0165 * truth as f64 + 1.0
    }

    /// Every sketch is compared with numbers of users from 1 to more than the registers, wherever they stand on the line.
    #[test]
    fn the_error_stays_within_its_bound_from_one_user_to_a_million() {
        for n in [1, 2, 5, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 1_000_000u64] {
            // Buckets, evenly over the line; keys of a version with 5 %; one after the other.
            let found = [
                estimate((0..n).map(|i| u64::from((i as u32).reverse_bits()) << 32)),
                estimate((0..n).map(|i| i * (u64::MAX / 20 / n))),
                estimate(0..n),
            ];
            assert!(found.iter().all(|found| close(*found, n)), "{n}: {found:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However often users come, to whichever worker: they are as many as if each had come once to one.
        #[test]
        fn a_user_is_always_one(users in prop::collection::vec((any::<u64>(), 0..3usize, 1..4u8), 0..2000)) {
            let workers: [Users; 3] = Default::default();
            for (place, worker, times) in &users {
                (0..*times).for_each(|_| workers[*worker].met(Place(*place)));
            }
            let together = all(&workers).estimate();
            prop_assert_eq!(together, estimate(users.iter().map(|(place, ..)| *place)));
            prop_assert!(close(together, users.len() as u64), "{} of {}", together, users.len());
            workers[0].clear();
            workers[1].clear();
            let third = users.iter().filter(|(_, worker, _)| *worker == 2).map(|(place, ..)| *place);
            prop_assert_eq!(all(&workers).estimate(), estimate(third));
        }
    }
}
