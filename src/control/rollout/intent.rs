//! Which split does the Rollout ask for? From spec and status only: targets are pod-template hashes, never the names of
//! Services, because the controller re-points Services before and after it changes weights.

use crate::route::{MAX_TOTAL, Shares, VersionHash};

use super::{Finer, Hold, Mode, Rollout, Weight, Weights, version};

/// What the Rollout asks for. Where pods decide about the weight, the variant says how: so "0, because nobody knows yet"
/// cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Everything to one version.
    All(VersionHash),
    /// No version has ever finished: everything that is ready, as one.
    Bootstrap,
    /// The weights that the controller has published.
    Shares(Wanted),
    /// This weight for the canary, the rest for stable.
    Exact { pair: Pair, weight: u32 },
    /// Pods are being moved from one weight to the other: as many in the total as the canary has of the ready pods, but
    /// never outside of the two.
    Follow { pair: Pair, from: u32, to: u32 },
    /// The steps are over, but the canary is not at full size: as much as its ready pods can carry of all `replicas`,
    /// never less than it had, never more than `cap`.
    Ramp { pair: Pair, cap: u32, replicas: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub canary: VersionHash,
    pub stable: VersionHash,
    pub total: u32,
}

/// A split, and who is what in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub shares: Shares,
    pub stable: VersionHash,
    pub experiments: Vec<VersionHash>,
}

impl Intent {
    /// Whether the current step decided it.
    pub fn is_of_steps(&self) -> bool {
        match self {
            Intent::All(_) | Intent::Bootstrap | Intent::Shares(_) => false,
            Intent::Exact { .. } | Intent::Follow { .. } | Intent::Ramp { .. } => true,
        }
    }
}

/// What the Rollout asks for, or why that cannot be told now: then whatever it asked for last goes on. `finer`: weights
/// that its steps could not say, in whose units the answer is.
pub fn intent(rollout: &Rollout, finer: &Finer) -> Result<Intent, Hold> {
    if rollout.blue_green().is_some() {
        return Ok(live(rollout).map_or(Intent::Bootstrap, Intent::All));
    }
    let Some(stable) = rollout.stable() else { return Ok(Intent::Bootstrap) };
    let (mode, dynamic) = (rollout.mode(), rollout.dynamic_stable_scale());
    // An abort is obeyed in the moment it is asked for, without waiting for the controller, if all stable pods are up.
    if mode == Mode::Published
        && (dynamic || !rollout.aborted())
        && let Some(published) = published(rollout, &stable, finer)
    {
        return Ok(Intent::Shares(published));
    }
    // Before the hold: it needs no step, and whoever aborts while the spec is invalid waits for a controller that does not
    // reconcile.
    if rollout.aborted() {
        return Ok(Intent::All(stable));
    }
    if let Some(hold) = rollout.hold() {
        return Err(hold);
    }
    let canary = match rollout.current() {
        Some(current) if current != stable => current,
        _ => return Ok(Intent::All(stable)),
    };

    let total = finer.total(rollout);
    let pair = Pair { canary, stable, total };
    // The controller takes stable pods away as the canary grows. Without published weights `dynamicStableScale` is the
    // same: the recorded `empty-dynamic` has no stable pod left a second before the canary has all of its own.
    let shrinking = mode == Mode::Basic || dynamic;
    let steps = rollout.steps();
    if steps.is_empty() {
        return Ok(match shrinking {
            true => Intent::Follow { pair, from: 0, to: total },
            // Traffic moves by the promotion only.
            false => Intent::All(pair.stable),
        });
    }
    let weight = |step: usize| finer.weight(rollout, step);
    let index = rollout.step_index();
    // Strictly before the index: the controller moves the index in the very patch that would have published the weight.
    let before = (0..index).rev().find_map(weight).unwrap_or(0);
    let next = match index < steps.len() {
        false => total,
        true => weight(index).unwrap_or(before),
    };
    let replicas = rollout.replicas();
    Ok(match (rollout.promotes_full(), shrinking) {
        (true, true) => Intent::Follow { pair, from: 0, to: total },
        (true, false) => Intent::Ramp { pair, cap: total, replicas },
        (false, true) if before != next => Intent::Follow { pair, from: before, to: next },
        (false, false) if index == steps.len() => Intent::Ramp { pair, cap: before, replicas },
        (false, _) => Intent::Exact { pair, weight: before },
    })
}

/// The version that a blue-green Rollout has made live. Before the first switch it is the one that is being deployed.
fn live(rollout: &Rollout) -> Option<VersionHash> {
    let status = rollout.status.as_ref()?.blue_green.as_ref();
    status.and_then(|status| version(status.active_selector.as_deref())).or_else(|| rollout.stable())
}

/// The weights in the status: the last split that the controller's router accepted. Believed even when no update is in
/// progress any more, because they lag behind the promotion on purpose. A pruned weight makes all of them unknown.
fn published(rollout: &Rollout, stable: &VersionHash, finer: &Finer) -> Option<Wanted> {
    let Weights { canary, stable: kept, additional } =
        rollout.status.as_ref()?.canary.as_ref()?.weights.as_ref()?.clone();
    let (canary, kept) = (canary?, kept?);
    let hash = |weight: &Weight| version(weight.pod_template_hash.as_deref());
    // Promoted, while the weights still name the new version as the canary. They lag by one patch, and the controller
    // promotes only a version with all of its pods: nothing is to be waited for. (An undo, which names the stable version
    // as stable all the time, is followed step by step.)
    if rollout.current().as_ref() == Some(stable) && hash(&canary).as_ref() == Some(stable) {
        return shares(vec![(stable.clone(), u64::from(rollout.total()))]).map(|shares| Wanted {
            shares,
            stable: stable.clone(),
            experiments: Vec::new(),
        });
    }
    let kept_version = hash(&kept).unwrap_or_else(|| stable.clone());
    let canary_version = hash(&canary).or_else(|| rollout.current()).unwrap_or_else(|| stable.clone());
    let mut weights = vec![(kept_version.clone(), amount(&kept)?), (canary_version.clone(), amount(&canary)?)];
    let mut experiments = Vec::new();
    for extra in additional.iter().flatten() {
        let version = hash(extra).or_else(|| version(extra.service_name.as_deref()))?;
        weights.push((version.clone(), amount(extra)?));
        if version != kept_version && version != canary_version {
            experiments.push(version);
        }
    }
    // Only the version that the steps are about.
    if canary_version != kept_version && rollout.current().as_ref() == Some(&canary_version) {
        finer.refine(rollout, &mut weights);
    }
    Some(Wanted { shares: shares(weights)?, stable: kept_version, experiments })
}

fn amount(weight: &Weight) -> Option<u64> {
    u64::try_from(weight.weight?).ok()
}

/// Adds up what is said twice, and makes room where the total is larger than a split can have. `None` if nobody gets
/// anything.
pub(in crate::control) fn shares(weights: Vec<(VersionHash, u64)>) -> Option<Shares> {
    let mut merged: Vec<(VersionHash, u64)> = Vec::with_capacity(weights.len());
    for (version, weight) in weights {
        match merged.iter_mut().find(|(named, _)| *named == version) {
            Some((_, sum)) => *sum = sum.saturating_add(weight),
            None => merged.push((version, weight)),
        }
    }
    let total: u128 = merged.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let fitting = |weight: u64| match total > u128::from(MAX_TOTAL) {
        true => u128::from(weight) * u128::from(MAX_TOTAL) / total,
        false => u128::from(weight),
    };
    Shares::new(merged.into_iter().map(|(version, weight)| (version, fitting(weight) as u32)).collect()).ok()
}
