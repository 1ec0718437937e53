//! Weights that are finer than those of the steps.
//!
//! Everything else in the cluster believes the number in the step: the controller sizes the canary by it, dashboards show
//! it. So a finer weight is never a whole unit away from it, and 0 and the total, which promise that nobody gets the one
//! version or the other, have no finer weight at all. That bounds what any confusion about the current step could do.

use std::collections::BTreeMap;

use crate::control::rollout::Rollout;
use crate::route::{MAX_TOTAL, VersionHash};

/// By the index of their step; none at all by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finer {
    /// Units in one unit of the Rollout's own weights, so many that every weight here is a whole number of them.
    scale: u32,
    weights: BTreeMap<usize, u32>,
}

impl Default for Finer {
    fn default() -> Self {
        Self { scale: 1, weights: BTreeMap::new() }
    }
}

/// Whether weights of that total can be said in parts of [`MAX_TOTAL`].
pub fn can_be_finer(total: u32) -> bool {
    total > 0 && MAX_TOTAL.is_multiple_of(total)
}

/// Whether `fine`, in parts of [`MAX_TOTAL`], may stand for the step's `whole` of `total`.
pub fn stands_for(fine: u32, whole: u32, total: u32) -> bool {
    let (fine, whole) = (u64::from(fine) * u64::from(total), u64::from(whole) * u64::from(MAX_TOTAL));
    let none_or_all = whole == 0 || whole == u64::from(MAX_TOTAL) * u64::from(total);
    fine == whole || !none_or_all && fine.abs_diff(whole) < u64::from(MAX_TOTAL)
}

impl Finer {
    /// `weights` are in parts of [`MAX_TOTAL`], and [`can_be_finer`] holds for `total`.
    pub fn new(total: u32, weights: BTreeMap<usize, u32>) -> Self {
        let most = MAX_TOTAL / total;
        let in_units = |fine: u32, scale: u32| u64::from(fine) * u64::from(total) * u64::from(scale);
        let is_whole = |scale: &u32| {
            most.is_multiple_of(*scale)
                && weights.values().all(|fine| in_units(*fine, *scale).is_multiple_of(u64::from(MAX_TOTAL)))
        };
        // Tens, because 505 of 1000 is easier to read than 101 of 200.
        let scale = [1, 10, 100, 1000, 10_000, 100_000].into_iter().find(is_whole).unwrap_or(most);
        let whole = |fine: u32| (in_units(fine, scale) / u64::from(MAX_TOTAL)) as u32;
        Self { scale, weights: weights.into_iter().map(|(step, fine)| (step, whole(fine))).collect() }
    }

    /// What all weights of the Rollout add up to in these units.
    pub fn total(&self, rollout: &Rollout) -> u32 {
        rollout.total().saturating_mul(self.scale)
    }

    /// The weight that a step sets, in these units.
    pub fn weight(&self, rollout: &Rollout, step: usize) -> Option<u32> {
        let whole = rollout.steps().get(step)?.set_weight?;
        let whole = u32::try_from(whole).unwrap_or(0).min(rollout.total());
        Some(self.weights.get(&step).copied().unwrap_or(whole.saturating_mul(self.scale)))
    }

    /// Takes the published weights (stable's first, then the canary's, then others) over into these units and makes the
    /// canary's the finer one of the step that it comes from. Which step that is, the status does not say: it is the last
    /// one before the index that sets this number, or else the one at the index, whose weight is published a moment before
    /// the index moves on. If none does, or nothing can be taken from stable, the weights stay as published.
    pub fn refine(&self, rollout: &Rollout, published: &mut [(VersionHash, u64)]) {
        let total: u64 = published.iter().map(|(_, weight)| weight).sum();
        let [(_, stable), (_, canary), ..] = published else { return };
        let index = rollout.step_index();
        let sets_it = |step: &usize| {
            let step = rollout.steps().get(*step);
            step.and_then(|step| u64::try_from(step.set_weight?).ok()) == Some(*canary)
        };
        let step = (0..index).rev().find(sets_it).or(Some(index).filter(sets_it));
        let Some(fine) = step.and_then(|step| self.weights.get(&step)) else { return };
        if *stable == 0 || total != u64::from(rollout.total()) {
            return;
        }
        let both = (*stable + *canary) * u64::from(self.scale);
        published.iter_mut().for_each(|(_, weight)| *weight *= u64::from(self.scale));
        published[1].1 = u64::from(*fine);
        published[0].1 = both.saturating_sub(u64::from(*fine));
    }
}
