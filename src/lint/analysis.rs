//! AnalysisTemplates of the same input: guards that their conditions need, and how long they take.

use super::finding::Findings;
use super::object::{View, name, namespace};
use super::{rules, span};
use crate::text::node::Node;
use crate::text::problem::quoted;

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

/// Analyses that are steps: each has to end.
pub(super) fn steps(view: &View<'_>, rollout: &Node, objects: &[&Node], findings: &mut Findings) {
    for step in &view.steps {
        let Some((key, analysis)) = step.node.entry("analysis") else { continue };
        for metric in measured(analysis, rollout, objects).into_iter().flatten() {
            let name = || quoted(metric.node.get("name").and_then(Node::as_text).unwrap_or_default());
            match metric.lasts() {
                Some(Lasts::Forever) => {
                    let message = format!("metric {} measures again and again, without `count`", name());
                    findings.add(&rules::ENDLESS_STEP, &key.at, message, None);
                }
                Some(Lasts::Seconds(seconds)) if seconds >= DAY => {
                    let message = format!("metric {} takes {}", name(), span::written(seconds));
                    findings.add(&rules::LONG_STEP, &key.at, message, None);
                }
                _ => {}
            }
        }
    }
}

/// Seconds that an analysis step takes when all goes well: as long as its slowest metric. `None`: it cannot be told,
/// because a template is not in the input, an argument's value is somewhere else, or it never ends by itself.
pub(super) fn seconds(analysis: &Node, rollout: &Node, objects: &[&Node]) -> Option<u64> {
    let mut slowest = None;
    for metric in measured(analysis, rollout, objects)? {
        match metric.lasts()? {
            Lasts::Seconds(seconds) => slowest = slowest.max(Some(seconds)),
            Lasts::Forever => return None,
        }
    }
    slowest
}

/// The metrics of all its templates. `None`: a template is not in the input.
fn measured<'a>(analysis: &'a Node, rollout: &Node, objects: &[&'a Node]) -> Option<Vec<Metric<'a>>> {
    let mut all = Vec::new();
    for wanted in analysis.get("templates")?.items() {
        let wanted_name = wanted.get("templateName")?.as_text()?;
        let cluster = super::object::is_true(wanted.get("clusterScope"));
        let template = objects.iter().find(|object| {
            let (kind, own) = (super::object::kind(object), namespace(object));
            let same = cluster || own == namespace(rollout) || own.is_empty() || namespace(rollout).is_empty();
            kind == KINDS[usize::from(cluster)] && name(object) == wanted_name && same
        })?;
        all.extend(metrics(template).iter().map(|node| Metric { node, analysis, template }));
    }
    Some(all)
}

/// One metric of a template, with where its arguments get their values: the step, else the template.
struct Metric<'a> {
    node: &'a Node,
    analysis: &'a Node,
    template: &'a Node,
}

enum Lasts {
    Seconds(u64),
    Forever,
}

const DAY: u64 = 24 * 3600;

impl Metric<'_> {
    /// A measurement at once, then one per interval. `None`: it cannot be told.
    fn lasts(&self) -> Option<Lasts> {
        let seconds = |field| match self.value(field) {
            None => Some(0.0),
            Some(text) => span::go(text?),
        };
        let (delay, interval) = (seconds("initialDelay")?, seconds("interval")?);
        let count: u64 = match self.value("count") {
            None => 0,
            Some(text) => text?.parse().ok()?,
        };
        let count = match (count, self.node.get("interval")) {
            (0, None) => 1,
            (0, Some(_)) => return Some(Lasts::Forever),
            (count, _) => count,
        };
        Some(Lasts::Seconds((delay + interval * (count - 1) as f64) as u64))
    }

    /// What a field says, with an argument's value in its place. `None`: it is not there; `Some(None)`: the value is
    /// somewhere else.
    fn value(&self, field: &str) -> Option<Option<&str>> {
        let text = self.node.get(field)?.as_text()?;
        let inside = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
        let Some(argument) = inside.and_then(|inside| inside.trim().strip_prefix("args.")) else {
            return Some(Some(text));
        };
        let given = self.analysis.get("args").into_iter();
        let defaults = self.template.get("spec").and_then(|spec| spec.get("args"));
        let mut all = given.chain(defaults).flat_map(Node::items);
        let named = all.find(|one| one.get("name").and_then(Node::as_text) == Some(argument));
        Some(named.and_then(|named| named.get("value")?.as_text()))
    }
}
