//! What an Argo Rollout (`argoproj.io/v1alpha1`) says, as far as routing cares. PURE: an object in, answers out.
//!
//! Files, in reading order:
//!
//! * this one: the view of the object, and the questions that one field or two answer;
//! * `intent`: which split the Rollout asks for now;
//! * `managed`: the header and mirror routes that its steps have set up so far.
//!
//! Every field is optional: the API server prunes what its CRD does not know, the controller leaves out what is empty,
//! and minor releases add fields. What is absent is *unknown*, never zero. A field of another type than the CRD's fails
//! to parse, on purpose: then the API is not the one we know, and keeping the last good state beats guessing.
//!
//! Checked against what the real controller (v1.10.1) wrote in 25 recorded rollouts, `tests/data/rollouts`; where it
//! surprised us, the code says so.

mod intent;
mod managed;

pub(super) use intent::shares;
pub use intent::{Intent, Pair, Wanted, intent};
pub use managed::{HeaderList, Managed, ManagedRoute, Mirror, managed_routes};

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::route::VersionHash;

/// The label that says which version a pod or ReplicaSet is, and the key of the controller's part of a Service selector.
pub const HASH_LABEL: &str = "rollouts-pod-template-hash";
const REVISION: &str = "rollout.argoproj.io/revision";
const WORKLOAD_GENERATION: &str = "rollout.argoproj.io/workload-generation";

/// The object, as the API server sends it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rollout {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Option<Status>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Metadata {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub generation: Option<i64>,
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub replicas: Option<i64>,
    pub selector: Option<Selector>,
    pub template: Option<Template>,
    /// Present when the pod template lives in another object, a Deployment for example.
    pub workload_ref: Option<IgnoredAny>,
    pub strategy: Option<Strategy>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    pub match_labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Template {
    pub metadata: Option<TemplateMetadata>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TemplateMetadata {
    pub labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Strategy {
    pub canary: Option<Canary>,
    pub blue_green: Option<BlueGreen>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Canary {
    pub canary_service: Option<String>,
    pub stable_service: Option<String>,
    pub ping_pong: Option<PingPong>,
    pub dynamic_stable_scale: Option<bool>,
    pub traffic_routing: Option<TrafficRouting>,
    pub steps: Option<Vec<Step>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PingPong {
    pub ping_service: Option<String>,
    pub pong_service: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BlueGreen {
    pub active_service: Option<String>,
    pub preview_service: Option<String>,
}

/// Only whether a provider is there matters, not what it says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficRouting {
    pub max_traffic_weight: Option<i64>,
    pub managed_routes: Option<Vec<ManagedName>>,
    pub istio: Option<IgnoredAny>,
    pub nginx: Option<IgnoredAny>,
    pub alb: Option<IgnoredAny>,
    pub smi: Option<IgnoredAny>,
    pub ambassador: Option<IgnoredAny>,
    pub app_mesh: Option<IgnoredAny>,
    pub traefik: Option<IgnoredAny>,
    pub apisix: Option<IgnoredAny>,
    pub plugins: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ManagedName {
    pub name: Option<String>,
}

/// One step. Steps of other kinds (pause, analysis, experiment, plugin) are those without any of these.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Step {
    pub set_weight: Option<i64>,
    pub set_header_route: Option<SetHeaderRoute>,
    pub set_mirror_route: Option<SetMirrorRoute>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SetHeaderRoute {
    pub name: Option<String>,
    pub r#match: Option<Vec<HeaderRouteMatch>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderRouteMatch {
    pub header_name: Option<String>,
    pub header_value: Option<StringMatch>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SetMirrorRoute {
    pub name: Option<String>,
    pub percentage: Option<i64>,
    pub r#match: Option<Vec<MirrorMatch>>,
}

/// The conditions of one match are ANDed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MirrorMatch {
    pub method: Option<StringMatch>,
    pub path: Option<StringMatch>,
    pub headers: Option<BTreeMap<String, StringMatch>>,
}

/// At most one is set; none means "present".
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StringMatch {
    pub exact: Option<String>,
    pub prefix: Option<String>,
    pub regex: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// A number in a string.
    pub observed_generation: Option<String>,
    pub workload_observed_generation: Option<String>,
    #[serde(rename = "stableRS")]
    pub stable_rs: Option<String>,
    pub current_pod_hash: Option<String>,
    pub current_step_index: Option<i64>,
    /// Of the steps that the index points into. Only good for comparing with an earlier one: it cannot be recomputed,
    /// because it is taken from how one version of the controller writes the steps.
    pub current_step_hash: Option<String>,
    pub abort: Option<bool>,
    pub promote_full: Option<bool>,
    pub canary: Option<CanaryStatus>,
    pub blue_green: Option<BlueGreenStatus>,
    pub conditions: Option<Vec<Condition>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CanaryStatus {
    pub weights: Option<Weights>,
    pub stable_ping_pong: Option<String>,
}

/// The last split that the controller's traffic router accepted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Weights {
    pub canary: Option<Weight>,
    pub stable: Option<Weight>,
    pub additional: Option<Vec<Weight>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Weight {
    pub weight: Option<i64>,
    pub service_name: Option<String>,
    pub pod_template_hash: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BlueGreenStatus {
    pub active_selector: Option<String>,
    pub preview_selector: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Condition {
    pub r#type: Option<String>,
    pub status: Option<String>,
    pub message: Option<String>,
}

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

impl TrafficRouting {
    fn has_provider(&self) -> bool {
        let built_in = [
            &self.istio,
            &self.nginx,
            &self.alb,
            &self.smi,
            &self.ambassador,
            &self.app_mesh,
            &self.traefik,
            &self.apisix,
        ];
        built_in.iter().any(|provider| provider.is_some())
            || self.plugins.as_ref().is_some_and(|plugins| !plugins.is_empty())
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
