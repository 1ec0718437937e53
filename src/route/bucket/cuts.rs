//! Which part of the line from 0 to 1 belongs to which backend.

use super::Place;
use crate::route::Role;

/// The parts of the line, from left to right: canaries, stable versions, experiments.
///
/// Canaries start at the left end and experiments at the right one, so a canary and an experiment both grow into the
/// stable part between them: whoever joins one of them comes from stable, and goes back to stable when it shrinks.
///
/// A part that ends at `c` of a total `W` holds the places below `c * 2^64 / W`, compared exactly: a whole number is
/// below a fraction just when it is below the fraction rounded up. So a weight of 0 holds nobody and one of `W` everybody.
pub struct Cuts {
    /// Where each part but the last ends, exclusive. Parts without weight are left out.
    ends: Box<[(u64, usize)]>,
    last: usize,
}

impl Cuts {
    /// From each backend's role, index and weight. Among several of one role the order given counts: canaries and stable
    /// versions from the left, experiments from the right. The weights add up to more than 0.
    pub fn new(shares: &[(Role, usize, u32)]) -> Self {
        let total: u128 = shares.iter().map(|(_, _, weight)| u128::from(*weight)).sum();
        let of = |wanted: Role| shares.iter().filter(move |(role, _, weight)| *role == wanted && *weight > 0);
        let mut covered = 0;
        let mut ends: Vec<(u128, usize)> = of(Role::Canary)
            .chain(of(Role::Stable))
            .chain(of(Role::Experiment).rev())
            .map(|(_, backend, weight)| {
                covered += u128::from(*weight);
                ((covered << 64).div_ceil(total), *backend)
            })
            .collect();
        // The last part ends at 2^64, which no place reaches.
        let (_, last) = ends.pop().expect("some weight is above 0");
        Self { ends: ends.into_iter().map(|(end, backend)| (end as u64, backend)).collect(), last }
    }

    /// The backend of a place.
    pub fn at(&self, place: Place) -> usize {
        self.ends.iter().find(|(end, _)| place.0 < *end).map_or(self.last, |(_, backend)| *backend)
    }

    /// For people: the place as a fraction, between the cuts around it, such as `place 0.0312 < 0.0550`.
    pub fn describe(&self, place: Place) -> String {
        let part = self.ends.iter().position(|(end, _)| place.0 < *end).unwrap_or(self.ends.len());
        let from = part.checked_sub(1).map(|before| self.ends[before].0);
        let to = self.ends.get(part).map(|(end, _)| *end);
        // As many digits as it takes to tell them apart; 20 tell any two places apart.
        let digits = (4..20)
            .find(|digits| {
                let text = |place| decimal(place, *digits);
                let shown = text(place.0);
                from.is_none_or(|from| from == place.0 || text(from) != shown) && to.is_none_or(|to| text(to) != shown)
            })
            .unwrap_or(20);
        let shown = decimal(place.0, digits);
        match (from.map(|from| decimal(from, digits)), to.map(|to| decimal(to, digits))) {
            (None, None) => format!("place {shown}, and one version has everybody"),
            (None, Some(to)) => format!("place {shown} < {to}"),
            (Some(from), None) => format!("place {shown} >= {from}"),
            (Some(from), Some(to)) => format!("{from} <= place {shown} < {to}"),
        }
    }
}

/// A place as a decimal fraction, rounded down.
fn decimal(place: u64, digits: usize) -> String {
    let mut text = "0.".to_owned();
    let mut rest = place;
    for _ in 0..digits {
        let tenfold = u128::from(rest) * 10;
        text.push(char::from(b'0' + (tenfold >> 64) as u8));
        rest = tenfold as u64;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STABLE: usize = 0;
    const CANARY: usize = 1;
    const EXPERIMENT: usize = 2;

    fn two(canary: u32, total: u32) -> Cuts {
        Cuts::new(&[(Role::Canary, CANARY, canary), (Role::Stable, STABLE, total - canary)])
    }

    fn three(canary: u32, experiment: u32, total: u32) -> Cuts {
        Cuts::new(&[
            (Role::Experiment, EXPERIMENT, experiment),
            (Role::Canary, CANARY, canary),
            (Role::Stable, STABLE, total - canary - experiment),
        ])
    }

    #[test]
    fn no_weight_holds_nobody_and_the_whole_weight_holds_everybody() {
        for place in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            assert_eq!(two(0, 100).at(Place(place)), STABLE);
            assert_eq!(two(100, 100).at(Place(place)), CANARY);
            assert_eq!(three(0, 1_000_000, 1_000_000).at(Place(place)), EXPERIMENT);
        }
        assert_eq!(two(999_999, 1_000_000).at(Place(u64::MAX)), STABLE);
        assert_eq!(two(1, 1_000_000).at(Place(0)), CANARY);
    }

    #[test]
    fn the_canary_stands_left_and_the_experiment_right() {
        let cuts = three(10, 20, 100);
        let at = |percent: u64| cuts.at(Place(u64::MAX / 100 * percent));
        assert_eq!([at(0), at(9), at(11), at(79), at(81), at(99)], [1, 1, 0, 0, 2, 2]);
    }

    #[test]
    fn the_first_of_several_experiments_stands_at_the_right_end() {
        let cuts = Cuts::new(&[(Role::Experiment, 7, 1), (Role::Experiment, 8, 1), (Role::Stable, 9, 2)]);
        assert_eq!([0, 1 << 63, 3 << 62, u64::MAX].map(|place| cuts.at(Place(place))), [9, 8, 7, 7]);
    }

    #[test]
    fn a_place_is_described_between_its_cuts() {
        let check = |cuts: &Cuts, place: u64, expected: &str| assert_eq!(cuts.describe(Place(place)), expected);
        check(&two(55, 1000), 1 << 59, "place 0.0312 < 0.0550");
        check(&two(55, 1000), 1 << 63, "place 0.5000 >= 0.0550");
        check(&two(1, 2), 1 << 63, "place 0.5000 >= 0.5000");
        check(&two(1, 2), (1 << 63) - 1, "place 0.4999 < 0.5000");
        check(&two(1, 3), 0x5555555555555555, "place 0.33333333333333333331 < 0.33333333333333333336");
        check(&three(1, 1, 4), 1 << 63, "0.2500 <= place 0.5000 < 0.7500");
        check(&two(0, 1), 1 << 63, "place 0.5000, and one version has everybody");
    }

    fn weights() -> impl Strategy<Value = (u32, u32, u32)> {
        // Shares of two versions and a total that has room for both.
        (1u32..=1_000_000).prop_flat_map(|total| {
            (0..=total).prop_flat_map(move |canary| (Just(canary), 0..=total - canary, Just(total)))
        })
    }

    /// Places at random, and those around a cut, where a mistake would show.
    fn places(canary: u32, experiment: u32, total: u32) -> impl Strategy<Value = u64> {
        let cut = |weight: u32| ((u128::from(weight) << 64) / u128::from(total)) as u64;
        prop_oneof![
            any::<u64>(),
            (Just(cut(canary)), -2i64..=2).prop_map(|(cut, by)| cut.wrapping_add_signed(by)),
            (Just(cut(total - experiment)), -2i64..=2).prop_map(|(cut, by)| cut.wrapping_add_signed(by)),
        ]
    }

    proptest! {
        #[test]
        fn the_cut_is_exact((canary, experiment, total, place) in weights()
            .prop_flat_map(|(c, e, total)| (Just(c), Just(e), Just(total), places(c, e, total))))
        {
            // place / 2^64 < canary / total, and place / 2^64 >= 1 - experiment / total, without a division.
            let scaled = u128::from(place) * u128::from(total);
            let expected = if scaled < u128::from(canary) << 64 {
                CANARY
            } else if scaled >= u128::from(total - experiment) << 64 {
                EXPERIMENT
            } else {
                STABLE
            };
            prop_assert_eq!(three(canary, experiment, total).at(Place(place)), expected);
        }

        #[test]
        fn a_growing_share_takes_users_from_stable_only(
            (before, after, place) in (weights(), weights()).prop_flat_map(|((c, e, t), (c2, e2, t2))| {
                // Grown one at a time, in whatever totals: the shares are fractions.
                (Just((c, e, t)), Just((c2, e2, t2)), prop_oneof![places(c, e, t), places(c2, e2, t2)])
            }),
        ) {
            let share = |weight: u32, total: u32| f64::from(weight) / f64::from(total);
            let (old, new) = (three(before.0, before.1, before.2), three(after.0, after.1, after.2));
            let (from, to) = (old.at(Place(place)), new.at(Place(place)));
            let bigger = |which: usize| match which {
                CANARY => share(after.0, after.2) >= share(before.0, before.2),
                _ => share(after.1, after.2) >= share(before.1, before.2),
            };
            // Nobody leaves a share that did not shrink; nobody joins one that did not grow; where both of the outer
            // shares grow or both shrink, whoever moves comes from stable or goes to it.
            if from != to && from != STABLE {
                prop_assert!(!bigger(from), "{place:#x} left {from}, which did not shrink");
            }
            if from != to && bigger(CANARY) && bigger(EXPERIMENT) {
                prop_assert_eq!(from, STABLE);
            }
        }

        #[test]
        fn a_shrinking_share_gives_back_the_users_it_took(
            (canary, experiment, total) in weights(),
            smaller in 0.0..1.0f64,
            places in prop::collection::vec(any::<u64>(), 100),
        ) {
            let smaller = (f64::from(canary) * smaller) as u32;
            let (low, high) = (three(smaller, experiment, total), three(canary, experiment, total));
            for place in places.into_iter().map(Place) {
                let (before, grown) = (low.at(place), high.at(place));
                prop_assert!(before == grown || (before == STABLE && grown == CANARY));
                // A cut has no memory: the way down is the way up, backwards.
                prop_assert_eq!(three(smaller, experiment, total).at(place), before);
            }
        }

        #[test]
        fn two_versions_move_users_only_towards_the_share_that_grows(
            (a, b, total) in weights(),
            places in prop::collection::vec(any::<u64>(), 100),
        ) {
            let (low, high) = (two(a.min(b), total), two(a.max(b), total));
            for place in places.into_iter().map(Place) {
                prop_assert!(low.at(place) == high.at(place) || (low.at(place), high.at(place)) == (STABLE, CANARY));
            }
        }

        #[test]
        fn the_description_never_contradicts_the_cut(
            (canary, experiment, total, place) in weights()
                .prop_flat_map(|(c, e, total)| (Just(c), Just(e), Just(total), places(c, e, total))),
        ) {
            let text = three(canary, experiment, total).describe(Place(place));
            let numbers: Vec<&str> = text.split(' ').map(|word| word.trim_end_matches(','))
                .filter(|word| word.starts_with("0.")).collect();
            if text.contains(" < ") {
                prop_assert!(numbers[numbers.len() - 2] < numbers[numbers.len() - 1], "{text}");
            }
            if text.contains("<= ") {
                prop_assert!(numbers[0] <= numbers[1], "{text}");
            }
        }
    }
}
