//! From what is wanted to who is there: rules 3 and 4.

use crate::control::rollout::{Wanted, shares};
use crate::route::{Backend, Role, Shares, VersionHash};

use super::pools::Pools;

/// The wanted split without versions that nobody answers for. If nobody answers for any, the wanted split itself: then
/// requests are refused, and counted for whom they were meant.
pub fn settle(
    wanted: &Wanted,
    stable: Option<&VersionHash>,
    canary: Option<&VersionHash>,
    only_stable: bool,
    pools: &Pools,
    notes: &mut Vec<String>,
) -> Shares {
    let answers = |version: &&VersionHash| pools.count(version) > 0;
    let known = [Some(&wanted.stable), stable].into_iter().flatten();
    let named = wanted.shares.weights().iter().map(|(version, _)| version);
    let canaries = named.filter(|version| !wanted.experiments.contains(version)).chain(canary);
    let shelter = match only_stable {
        true => known.into_iter().find(answers),
        false => known.chain(canaries).find(answers).or_else(|| pools.largest()),
    };
    let mut weights = Vec::new();
    for (version, weight) in wanted.shares.weights() {
        let current = [stable, canary].contains(&Some(version)) || *version == wanted.stable && stable.is_none();
        match (answers(&version), shelter) {
            // Rule 4: right after a promotion the published weights still name the old version, with 0.
            (true, _) if *weight == 0 && !current && !wanted.experiments.contains(version) => {}
            (true, _) => weights.push((version.clone(), u64::from(*weight))),
            (false, Some(shelter)) if *weight > 0 => {
                notes.push(format!(
                    "version {version} has no ready endpoint: its {weight} of {} goes to {shelter}",
                    wanted.shares.total()
                ));
                weights.push((shelter.clone(), u64::from(*weight)));
            }
            (false, _) => {}
        }
    }
    shares(weights).unwrap_or_else(|| wanted.shares.clone())
}

/// Those of the split, and the canary of an update in progress, which testers may ask for before it has a weight.
pub fn backends(split: &Shares, wanted: &Wanted, canary: Option<&VersionHash>, pools: &Pools) -> Vec<Backend> {
    let mut versions: Vec<&VersionHash> = split.weights().iter().map(|(version, _)| version).collect();
    versions.extend(canary.filter(|canary| pools.count(canary) > 0 && weightless(canary, split)));
    let role = |version: &VersionHash| match version {
        version if *version == wanted.stable => Role::Stable,
        version if wanted.experiments.contains(version) => Role::Experiment,
        _ => Role::Canary,
    };
    let backend = |version: &VersionHash| Backend {
        version: version.clone(),
        role: role(version),
        endpoints: pools.addresses(version),
        transport: Default::default(),
    };
    versions.into_iter().map(backend).collect()
}

fn weightless(version: &VersionHash, split: &Shares) -> bool {
    split.weights().iter().all(|(named, _)| named != version)
}
