//! What an Argo Rollout (`argoproj.io/v1alpha1`) says, as far as routing cares. PURE: an object in, answers out.
//!
//! Files, in reading order:
//!
//! * this one: the questions that one field or two answer;
//! * `object`: the view of the object;
//! * `intent`: which split the Rollout asks for now;
//! * `managed`: the header and mirror routes that its steps have set up so far;
//! * `progress`: where it stands and why, in words;
//! * `annotation`: routes and finer weights from an annotation of ours, where the controller refuses them in steps.
//!
//! Checked against what the real controller (v1.10.1) wrote in 25 recorded rollouts, `tests/data/rollouts`; where it
//! surprised us, the code says so.

mod annotation;
mod intent;
mod managed;
mod object;
mod progress;

pub use annotation::{Finer, ROUTES, Reading};
pub(super) use intent::shares;
pub use intent::{Intent, Pair, Wanted, intent};
pub use managed::{HeaderList, Managed, ManagedRoute, Mirror, managed_routes};
pub use object::*;
pub use progress::{Analysis, Fact, Progress, State, progress};

use crate::metrics::Names;
use crate::route::VersionHash;

/// The label that says which version a pod or ReplicaSet is, and the key of the controller's part of a Service selector.
pub const HASH_LABEL: &str = "rollouts-pod-template-hash";
const REVISION: &str = "rollout.argoproj.io/revision";
const WORKLOAD_GENERATION: &str = "rollout.argoproj.io/workload-generation";

/// How the controller handles traffic, which decides what its status can be read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A traffic provider is configured: the controller publishes the weights it has set.
    Published,
    /// `trafficRouting: {}`: all stable pods stay, as with a provider, but no weight is published.
    Empty,
    /// No `trafficRouting`: the numbers of pods are the weights, and stable shrinks while the canary grows.
    Basic,
}

/// Why the status must not be read together with the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The status was written for an older spec: its step index points into other steps. Lasts milliseconds.
    Behind,
    /// The controller refuses the spec and leaves the status as it was, but counts the spec as observed. Lasts until a
    /// person mends it.
    InvalidSpec(String),
}

/// The Services that a Rollout names, by what they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceNames<'a> {
    pub stable: Option<&'a str>,
    pub canary: Option<&'a str>,
}

impl Rollout {
    pub fn mode(&self) -> Mode {
        match self.canary().and_then(|canary| canary.traffic_routing.as_ref()) {
            None => Mode::Basic,
            Some(routing) if routing.has_provider() => Mode::Published,
            Some(_) => Mode::Empty,
        }
    }

    /// Whether spec and status must not be read together now.
    pub fn hold(&self) -> Option<Hold> {
        let status = self.status.as_ref()?;
        let invalid = status.conditions.iter().flatten().find(|condition| {
            condition.r#type.as_deref() == Some("InvalidSpec") && condition.status.as_deref() == Some("True")
        });
        if let Some(condition) = invalid {
            return Some(Hold::InvalidSpec(condition.message.clone().unwrap_or_default()));
        }
        let behind = |observed: &Option<String>, wanted: Option<i64>| match (number(observed.as_deref()), wanted) {
            (Some(observed), Some(wanted)) => observed < wanted,
            // Not a number counts as observed, as it does for the controller.
            _ => false,
        };
        let workload = self.spec.workload_ref.and(number(self.annotation(WORKLOAD_GENERATION)));
        let lags = behind(&status.observed_generation, self.metadata.generation)
            || behind(&status.workload_observed_generation, workload);
        lags.then_some(Hold::Behind)
    }

    /// The version that finished last; none before the first deployment.
    pub fn stable(&self) -> Option<VersionHash> {
        version(self.status.as_ref()?.stable_rs.as_deref())
    }

    /// The version that is wanted now. The same as [`Self::stable`] when no update is in progress.
    pub fn current(&self) -> Option<VersionHash> {
        version(self.status.as_ref()?.current_pod_hash.as_deref())
    }

    /// What all weights add up to.
    pub fn total(&self) -> u32 {
        let routing = self.canary().and_then(|canary| canary.traffic_routing.as_ref());
        routing
            .and_then(|routing| u32::try_from(routing.max_traffic_weight?).ok())
            .filter(|total| *total > 0)
            .unwrap_or(100)
    }

    /// Pods wanted per version; the controller writes 1 where the user wrote nothing.
    pub fn replicas(&self) -> u32 {
        self.spec.replicas.map_or(1, |replicas| u32::try_from(replicas).unwrap_or(0))
    }

    pub fn steps(&self) -> &[Step] {
        self.canary().and_then(|canary| canary.steps.as_deref()).unwrap_or_default()
    }

    /// The step that is being worked on, `steps().len()` when all are done. Promotion can leave a number beyond the end.
    pub fn step_index(&self) -> usize {
        let index = self.status.as_ref().and_then(|status| status.current_step_index).unwrap_or(0);
        usize::try_from(index).unwrap_or(0).min(self.steps().len())
    }

    /// What the steps looked like, and the controller's mark of those that the index points into.
    pub fn progress(&self) -> Option<(&[Step], &str)> {
        let hash = self.status.as_ref()?.current_step_hash.as_deref()?;
        Some((self.steps(), hash))
    }

    /// Whether header and mirror routes may be in force at all.
    pub fn may_have_routes(&self) -> bool {
        let in_progress = self.stable().is_some() && self.stable() != self.current();
        in_progress && !self.aborted() && !self.promotes_full() && self.revision() > 1
    }

    /// Whether the update is given up. True as soon as a user says so, before the controller has reacted.
    pub fn aborted(&self) -> bool {
        self.status.as_ref().and_then(|status| status.abort) == Some(true)
    }

    pub fn promotes_full(&self) -> bool {
        self.status.as_ref().and_then(|status| status.promote_full) == Some(true)
    }

    pub fn dynamic_stable_scale(&self) -> bool {
        self.canary().and_then(|canary| canary.dynamic_stable_scale) == Some(true)
    }

    /// How many templates there have been: 1 is the first deployment. 0 when unknown.
    pub fn revision(&self) -> i64 {
        number(self.annotation(REVISION)).unwrap_or(0)
    }

    /// The Services that the Rollout names. With ping-pong the two keep their selectors and swap their roles instead.
    pub fn services(&self) -> ServiceNames<'_> {
        if let Some(names) = self.blue_green() {
            return ServiceNames { stable: name(&names.active_service), canary: name(&names.preview_service) };
        }
        let Some(canary) = self.canary() else { return ServiceNames::default() };
        let Some(names) = &canary.ping_pong else {
            return ServiceNames { stable: name(&canary.stable_service), canary: name(&canary.canary_service) };
        };
        let (ping, pong) = (name(&names.ping_service), name(&names.pong_service));
        let status = self.status.as_ref().and_then(|status| status.canary.as_ref());
        // Anything but `ping` means that pong is stable: so reads the controller.
        match status.and_then(|status| status.stable_ping_pong.as_deref()) {
            Some("ping") => ServiceNames { stable: ping, canary: pong },
            _ => ServiceNames { stable: pong, canary: ping },
        }
    }

    /// What metrics that go by others' names call its parts.
    pub fn names(&self) -> Names {
        let services = self.services();
        let routing = self.canary().and_then(|canary| canary.traffic_routing.as_ref());
        let nginx = routing.and_then(|routing| routing.nginx.as_ref());
        let ingress = nginx.and_then(|nginx| {
            name(&nginx.stable_ingress).or_else(|| nginx.stable_ingresses.as_deref()?.first().map(String::as_str))
        });
        Names {
            stable_service: services.stable.map(str::to_owned),
            canary_service: services.canary.map(str::to_owned),
            ingress: ingress.map(str::to_owned),
        }
    }

    /// The Services of running experiments that take a share.
    pub fn experiment_services(&self) -> impl Iterator<Item = &str> {
        let canary = self.status.as_ref().and_then(|status| status.canary.as_ref());
        let weights = canary.and_then(|canary| canary.weights.as_ref());
        weights
            .and_then(|weights| weights.additional.as_deref())
            .into_iter()
            .flatten()
            .filter_map(|one| name(&one.service_name))
    }

    pub(super) fn canary(&self) -> Option<&Canary> {
        self.spec.strategy.as_ref()?.canary.as_ref()
    }

    pub(super) fn blue_green(&self) -> Option<&BlueGreen> {
        self.spec.strategy.as_ref()?.blue_green.as_ref()
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// An empty hash is how Go writes "none".
fn version(hash: Option<&str>) -> Option<VersionHash> {
    hash.filter(|hash| !hash.is_empty()).map(VersionHash::new)
}

fn name(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn number(text: Option<&str>) -> Option<i64> {
    text?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests;
