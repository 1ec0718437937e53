//! The pod template, the selector, and the Services beside it.

use super::finding::Findings;
use super::object::{integer, kind, name, namespace};
use super::rules;
use crate::control::rollout::HASH_LABEL;
use crate::text::node::{Key, Node};
use crate::text::problem::{closest, quoted};

/// What any Rollout's pods can get wrong. `objects` is everything in the input.
pub(super) fn check(rollout: &Node, objects: &[&Node], findings: &mut Findings) {
    let Some((spec_key, spec)) = rollout.entry("spec") else { return };
    let services = services(spec, findings);
    let (template, workload) = (spec.entry("template"), spec.entry("workloadRef"));
    match (template, workload) {
        (Some((key, _)), Some(_)) => {
            findings.add(&rules::WORKLOAD_REF_TEMPLATE, &key.at, "`template` beside `workloadRef`", None);
        }
        (None, Some((key, _))) => {
            let message = "labels, selectors, probes and grace could not be checked";
            findings.add(&rules::WORKLOAD_REF, &key.at, message, None);
        }
        (None, None) => {
            let message = "expected `template` or `workloadRef`, found neither";
            findings.add(&rules::WORKLOAD_REF_TEMPLATE, &spec_key.at, message, None);
        }
        (Some((_, template)), None) => {
            selector(spec_key, spec, template, findings);
            containers(template, findings);
        }
    }
    // Without a template no label is known.
    let template = template.filter(|_| workload.is_none()).map(|(_, template)| template);
    beside(rollout, template, &services, objects, findings);
}

/// The Services that the strategy names, with their places.
fn services<'a>(spec: &'a Node, findings: &mut Findings) -> Vec<(&'a Node, &'a str)> {
    let Some(strategy) = spec.get("strategy") else { return Vec::new() };
    let named = |node: &'a Node, field: &str| node.get(field).and_then(|name| Some((name, name.as_text()?)));
    if let Some(blue_green) = strategy.get("blueGreen") {
        return ["activeService", "previewService"].iter().filter_map(|field| named(blue_green, field)).collect();
    }
    let Some((key, canary)) = strategy.entry("canary") else { return Vec::new() };
    let (place, holder, fields) = match canary.entry("pingPong") {
        Some((key, ping_pong)) => (key, ping_pong, ["pingService", "pongService"]),
        None => (key, canary, ["stableService", "canaryService"]),
    };
    let found: Vec<_> = fields.iter().filter_map(|field| named(holder, field)).collect();
    for field in fields {
        if named(holder, field).is_none_or(|(_, name)| name.is_empty()) {
            findings.add(&rules::SERVICES_MISSING, &place.at.missing(field), "expected the name of a Service", None);
        }
    }
    if let [(_, one), (node, other)] = found[..]
        && one == other
        && !one.is_empty()
    {
        let message = format!("{} and {} are both {}", fields[0], fields[1], quoted(one));
        findings.add(&rules::SERVICES_SAME, &node.at, message, None);
    }
    found
}

fn selector(spec_key: &Key, spec: &Node, template: &Node, findings: &mut Findings) {
    let labels = template.get("metadata").and_then(|metadata| metadata.get("labels"));
    let Some((key, selector)) = spec.entry("selector") else {
        findings.add(&rules::SELECTOR, &spec_key.at.missing("selector"), "expected a selector, which is missing", None);
        return;
    };
    let wanted = selector.get("matchLabels").map(Node::entries).unwrap_or_default();
    let expressions = selector.get("matchExpressions").map(Node::items).unwrap_or_default();
    if wanted.is_empty() && expressions.is_empty() {
        findings.add(&rules::SELECTOR, &key.at, "an empty selector", None);
    }
    for (key, value) in wanted {
        let Some(value) = value.as_text() else { continue };
        let message = match labels.and_then(|labels| labels.get(&key.text)).map(Node::as_text) {
            None => format!("the pod template has no label {}", quoted(&key.text)),
            Some(Some(other)) if other != value => format!("the pod template's label says {}", quoted(other)),
            Some(_) => continue,
        };
        findings.add(&rules::SELECTOR, &key.at, message, None);
    }
}

fn containers(template: &Node, findings: &mut Findings) {
    let Some(pod) = template.get("spec") else { return };
    let Some((key, list)) = pod.entry("containers") else { return };
    let any = |has: fn(&Node) -> bool| list.items().iter().any(has);
    // Since Kubernetes 1.28 a sidecar is an init container that goes on; its probe counts as well.
    let sidecars = pod.get("initContainers").map(Node::items).unwrap_or_default();
    let probed = |container: &Node| container.get("readinessProbe").is_some();
    if !list.items().is_empty() && !any(probed) && !sidecars.iter().any(probed) {
        findings.add(&rules::READINESS, &key.at, "no container has a readiness probe", None);
    }
    let waits = |container: &Node| container.get("lifecycle").is_some_and(|hooks| hooks.get("preStop").is_some());
    if let Some((grace, _)) =
        pod.entry("terminationGracePeriodSeconds").filter(|(_, seconds)| integer(seconds) == Some(0))
    {
        findings.add(&rules::GRACE, &grace.at, "pods are killed in the middle of their answers", None);
    } else if !list.items().is_empty() && !any(waits) {
        let at = key.at.clone();
        findings.add(&rules::PRE_STOP, &at, "no container waits before it stops accepting", None);
    }
}

/// Services and Rollout of the same input have to fit.
fn beside(
    rollout: &Node,
    template: Option<&Node>,
    named: &[(&Node, &str)],
    objects: &[&Node],
    findings: &mut Findings,
) {
    let same_namespace = |service: &Node| {
        let (one, other) = (namespace(service), namespace(rollout));
        one == other || one.is_empty() || other.is_empty()
    };
    let services: Vec<&Node> =
        objects.iter().copied().filter(|object| kind(object) == "Service" && same_namespace(object)).collect();
    let labels = template.and_then(|template| template.get("metadata")?.get("labels"));
    for (node, wanted) in named.iter().filter(|(_, wanted)| !wanted.is_empty()) {
        let Some(service) = services.iter().find(|service| name(service) == *wanted) else {
            if !services.is_empty() {
                let near = closest(wanted, services.iter().map(|service| name(service)));
                let message = format!("no Service {} in this input", quoted(wanted));
                findings.add(
                    &rules::SERVICE_ABSENT,
                    &node.at,
                    message,
                    near.map(|near| format!("did you mean `{near}`?")),
                );
            }
            continue;
        };
        let Some(labels) = labels else { continue };
        let selector = service.get("spec").and_then(|spec| spec.get("selector")).map(Node::entries);
        for (key, value) in selector.unwrap_or_default().iter().filter(|(key, _)| key.text != HASH_LABEL) {
            let Some(value) = value.as_text() else { continue };
            let found = match labels.get(&key.text).map(Node::as_text) {
                None => "has no such label".to_owned(),
                Some(Some(other)) if other != value => format!("says {}", quoted(other)),
                Some(_) => continue,
            };
            let message =
                format!("Service {} selects {}={value}, and the pod template {found}", quoted(wanted), key.text);
            findings.add(&rules::SERVICE_SELECTOR, &key.at, message, None);
        }
    }
}
