//! AnalysisTemplates of the same input: guards that their conditions need, and how long they take.

use super::finding::Findings;
use super::object::{integer, name, namespace};
use super::{rules, span};
use crate::text::node::Node;

const KINDS: [&str; 2] = ["AnalysisTemplate", "ClusterAnalysisTemplate"];

pub(super) fn is_template(kind: &str) -> bool {
    KINDS.contains(&kind)
}

pub(super) fn check(template: &Node, findings: &mut Findings) {
    for metric in metrics(template) {
        let conditions: Vec<_> =
            ["successCondition", "failureCondition"].iter().filter_map(|field| metric.entry(field)).collect();
        let prometheus = metric.get("provider").and_then(|provider| provider.get("prometheus"));
        let query = prometheus.and_then(|prometheus| prometheus.get("query")?.as_text()).unwrap_or_default();
        for (key, node) in &conditions {
            let Some(condition) = node.as_text().filter(|_| prometheus.is_some()) else { continue };
            if condition.contains("result[") && !condition.contains("len(result)") {
                let message = "an empty result is an error here";
                findings.add(&rules::EMPTY_RESULT, &node.at, message, None);
            }
            if query.contains('/') && !condition.contains("isNaN") {
                let message = match key.text.as_str() {
                    "successCondition" => "0/0 is NaN, which fails this",
                    _ => "0/0 is NaN, which passes this",
                };
                findings.add(&rules::NAN_RESULT, &node.at, message, None);
            }
        }
        let repeated = metric.get("interval").is_some();
        if let Some(first) = metric.entries().first()
            && repeated
            && metric.get("failureLimit").is_none()
        {
            let message = "the first measurement that fails aborts the rollout";
            findings.add(&rules::FAILURE_LIMIT, &first.0.at.clone(), message, None);
        }
        if let [_, (key, _)] = conditions[..]
            && metric.get("inconclusiveLimit").is_none()
        {
            let message = "a result that fulfils neither condition pauses the rollout";
            findings.add(&rules::INCONCLUSIVE, &key.at, message, None);
        }
    }
}

/// An analysis that runs beside the steps.
pub(super) fn background(canary: &Node, findings: &mut Findings) {
    if let Some((key, analysis)) = canary.entry("analysis")
        && analysis.get("startingStep").is_none()
    {
        let message = "measures from the canary's first pod on, before it has traffic";
        findings.add(&rules::BACKGROUND, &key.at, message, None);
    }
}

fn metrics(template: &Node) -> &[Node] {
    template.get("spec").and_then(|spec| spec.get("metrics")).map(Node::items).unwrap_or_default()
}

/// Seconds that an analysis step takes when all goes well: as long as its slowest metric. `None`: it cannot be told,
/// because a template is not in the input, takes its numbers from arguments, or never ends by itself.
pub(super) fn seconds(analysis: &Node, rollout: &Node, objects: &[&Node]) -> Option<u64> {
    let templates = analysis.get("templates")?.items();
    let mut slowest = None;
    for wanted in templates {
        let wanted_name = wanted.get("templateName")?.as_text()?;
        let cluster = super::object::is_true(wanted.get("clusterScope"));
        let template = objects.iter().find(|object| {
            let (kind, own) = (super::object::kind(object), namespace(object));
            let same = cluster || own == namespace(rollout) || own.is_empty() || namespace(rollout).is_empty();
            kind == KINDS[usize::from(cluster)] && name(object) == wanted_name && same
        })?;
        for metric in metrics(template) {
            slowest = slowest.max(Some(of_metric(metric)?));
        }
    }
    slowest
}

/// A measurement at once, then one per interval.
fn of_metric(metric: &Node) -> Option<u64> {
    let read = |field| match metric.get(field) {
        None => Some(0.0),
        Some(node) => span::go(node.as_text()?),
    };
    let (delay, interval) = (read("initialDelay")?, read("interval")?);
    let count = match metric.get("count") {
        None => 0,
        Some(node) => integer(node).or_else(|| node.as_text()?.parse().ok())?,
    };
    let count = match (count, metric.get("interval")) {
        (0, None) => 1,
        // Until it is stopped.
        (0, Some(_)) => return None,
        (count, _) => count.max(1),
    };
    Some((delay + interval * (count - 1) as f64) as u64)
}
