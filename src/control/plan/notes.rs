//! What an operator should know about a Rollout and its Services: what is wrong, and the remedy.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::control::rollout::{HASH_LABEL, Hold, Mode, Rollout};
use crate::route::{Shares, VersionHash};

use super::{ObservedCluster, PATIENCE};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub fn about(observed: &ObservedCluster) -> Vec<String> {
    let Some(rollout) = &observed.rollout else {
        return vec!["the Rollout does not exist: all pods that are ready share the requests evenly".to_owned()];
    };
    let mut notes = Vec::from_iter(invalid_spec(rollout));
    notes.extend(dynamic_without_provider(rollout));
    notes.extend(pruned_providers(rollout));
    for service in observed.services.iter().flatten() {
        notes.extend(selects_nothing(rollout, &service.name, service.selector.as_ref()));
    }
    notes
}

pub fn invalid_spec(rollout: &Rollout) -> Option<String> {
    match rollout.hold() {
        Some(Hold::InvalidSpec(message)) => Some(format!(
            "the controller refuses the Rollout's spec, so the split stays as it was until the spec is mended: {message}"
        )),
        Some(Hold::Behind) | None => None,
    }
}

pub fn dynamic_without_provider(rollout: &Rollout) -> Option<String> {
    (rollout.mode() == Mode::Empty && rollout.dynamic_stable_scale()).then(|| {
        "dynamicStableScale without a traffic provider: stable pods are taken away before canary pods are there to \
         replace them, so the split follows the pods that are ready; remove dynamicStableScale, or add a provider"
            .to_owned()
    })
}

pub fn waits(version: &VersionHash, newest: &Shares, kept: &Shares) -> String {
    format!(
        "version {version} is to get requests but has no ready endpoint: {kept} stays in place of {newest} until it has \
         one, for {} s at most",
        PATIENCE.as_secs()
    )
}

/// The API server drops what it does not know: a misspelt provider leaves `trafficRouting: {}` without a word. What the
/// user wrote is still in kubectl's annotation.
pub fn pruned_providers(rollout: &Rollout) -> Option<String> {
    #[derive(Deserialize)]
    struct Written {
        spec: Value,
    }
    if rollout.mode() != Mode::Empty {
        return None;
    }
    let written: Written = serde_json::from_str(rollout.annotation(LAST_APPLIED)?).ok()?;
    let routing = written.spec.pointer("/strategy/canary/trafficRouting")?.as_object()?;
    let known = ["managedRoutes", "maxTrafficWeight"];
    let lost: Vec<&str> = routing.keys().map(String::as_str).filter(|key| !known.contains(key)).collect();
    (!lost.is_empty()).then(|| {
        format!(
            "trafficRouting was written with {}, which the API server does not know and has dropped: the controller will \
             not publish weights; check the spelling, or write trafficRouting: {{}} on purpose",
            lost.join(", ")
        )
    })
}

/// A Service selects the Rollout's pods if every label it asks for, but the hash, is one of the pod template's.
pub fn selects_nothing(rollout: &Rollout, name: &str, selector: Option<&BTreeMap<String, String>>) -> Option<String> {
    let Some(selector) = selector else {
        return Some(format!(
            "Service {name}, which the Rollout names, does not exist: create it, or correct the name"
        ));
    };
    // With workloadRef the labels are in another object, which is not watched.
    let labels = rollout.spec.template.as_ref()?.metadata.as_ref()?.labels.as_ref()?;
    let (label, value) =
        selector.iter().find(|(label, value)| *label != HASH_LABEL && labels.get(*label) != Some(value))?;
    Some(format!(
        "Service {name} selects {label}={value}, which the Rollout's pod template does not have: it never has an endpoint"
    ))
}
