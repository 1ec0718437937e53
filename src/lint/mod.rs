//! What would go wrong with a Rollout, told before it is applied. PURE: a text in, findings out.
//!
//! Files, in reading order:
//!
//! * this one: from the text to a report;
//! * `rules`: every rule with its reasons, from which `docs/lint.md` is printed;
//! * `fields`, `fields.txt`: what the API server keeps, drops and refuses;
//! * `object`: the objects of the input, and one Rollout as the rules look at it;
//! * `traps`: what the controller refuses, and what works but not as one would think;
//! * `pods`: the pod template, and the Services beside it;
//! * `analysis`: the AnalysisTemplates beside it;
//! * `steps`: how many requests the canary sees at each weight, and what they can tell;
//! * `chance`: the statistics of that;
//! * `span`: spans of time;
//! * `finding`: how findings are shown.

mod analysis;
mod chance;
mod fields;
mod finding;
mod object;
mod pods;
mod rules;
mod span;
mod steps;
mod traps;

#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::{Value, json};

pub use crate::text::problem::{Problem, Problems};
pub use finding::{Counts, Finding};
pub use rules::{Rule, Severity};
pub use steps::{Stage, Table};

use crate::text::node::{self, Limits, Node};
use crate::text::problem::{At, Complaint};
use finding::Findings;
use object::{View, full_name, kind};

/// Bytes. A rendered chart is larger than a ConfigMap.
pub const LARGEST: usize = 8 << 20;
/// The CRDs in a rendered chart are deep.
const LIMITS: Limits = Limits { bytes: LARGEST, depth: 128, nodes: 1_000_000 };

/// What the application has to carry.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Of both versions together; above 0.
    pub requests_per_second: f64,
    /// The share of requests that fail anyway, 0 to 0.5.
    pub baseline_error_rate: f64,
}

/// What was found in one input.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    text: String,
    /// In the order of the text; at most a thousand.
    pub findings: Vec<Finding>,
    pub counts: Counts,
    /// One per Rollout with a canary strategy and steps.
    pub tables: Vec<Table>,
    /// The Rollouts, as `namespace/name`.
    pub rollouts: Vec<String>,
}

/// Looks at every Rollout of a text, with the Services and AnalysisTemplates beside them. `name` is for messages.
///
/// The error is a text that is not YAML, or one without any Rollout.
pub fn lint(name: &str, text: &str, traffic: Option<Traffic>) -> Result<Report, Problems> {
    let mut problems = Problems::new(name, text);
    let documents = node::parse_all(text, &LIMITS, &mut problems);
    let mut documents = problems.clone().unless(documents)?;
    documents.iter_mut().for_each(object::follow_merges);
    let objects = object::objects(&documents);
    let mut findings = Findings::new(text);
    let (mut tables, mut rollouts) = (Vec::new(), Vec::new());
    for object in &objects {
        let about = format!("{} {}", kind(object), full_name(object));
        if analysis::is_template(kind(object)) {
            findings.about(about);
            analysis::check(object, &mut findings);
        } else if kind(object) == "Rollout" {
            findings.about(about);
            rollouts.push(full_name(object));
            tables.extend(rollout(object, &objects, traffic, &mut findings));
        }
    }
    if rollouts.is_empty() {
        problems.add(&At::default(), no_rollout(&objects));
        return problems.unless(None);
    }
    let mut list = findings.list;
    list.sort_by_key(|finding| (finding.line, finding.column));
    Ok(Report {
        name: name.to_owned(),
        text: text.to_owned(),
        findings: list,
        counts: findings.counts,
        tables,
        rollouts,
    })
}

fn rollout(object: &Node, objects: &[&Node], traffic: Option<Traffic>, findings: &mut Findings) -> Option<Table> {
    let version = object.entry("apiVersion");
    if let Some((_, node)) = version.filter(|(_, node)| node.as_text() != Some("argoproj.io/v1alpha1")) {
        findings.add(&rules::WRONG_VERSION, &node.at, "expected `argoproj.io/v1alpha1`", None);
    } else if version.is_none() {
        findings.add(&rules::WRONG_VERSION, &object.at.missing("apiVersion"), "expected `argoproj.io/v1alpha1`", None);
    }
    let stored = fields::check(object, findings);
    pods::check(object, objects, findings);
    if !traps::strategy(object, findings) {
        return None;
    }
    // Of another shape than the CRD's: that was reported, and no rule could be trusted.
    let view = View::new(object, &stored)?;
    analysis::background(view.canary.1, findings);
    analysis::steps(&view, object, objects, findings);
    traps::canary(&view, findings);
    let table = steps::table(object, &view, objects, traffic, findings);
    (!table.stages.is_empty()).then_some(table)
}

fn no_rollout(objects: &[&Node]) -> Complaint {
    let mut kinds: Vec<&str> = objects.iter().map(|object| kind(object)).filter(|kind| !kind.is_empty()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let found = match kinds[..] {
        [] => "no object at all".to_owned(),
        _ => format!("only {}", kinds.iter().take(10).copied().collect::<Vec<_>>().join(", ")),
    };
    Complaint::expected("an object of kind Rollout", &found)
        .help("give a file with one, or pipe it in: ... | splitway lint -")
}

impl Report {
    /// For a person, without the last word about what to do next. With ANSI colours when `colour` is true.
    pub fn render(&self, colour: bool) -> String {
        let mut out = finding::render(&self.findings, &self.name, &self.text, colour);
        for table in &self.tables {
            out.push_str(&steps::render(table));
            out.push('\n');
        }
        let Counts { errors, warnings, infos } = self.counts;
        let count = |n: usize, what| steps::counted(n as u64, what);
        let counts = [(errors, "error"), (warnings, "warning"), (infos, "note")];
        let said: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| count(*n, what)).collect();
        let said = if said.is_empty() { "ok".to_owned() } else { said.join(", ") };
        out + &format!("{}: {}: {said}\n", self.name, count(self.rollouts.len(), "Rollout"))
    }

    /// For a program.
    pub fn json(&self) -> Value {
        json!({
            "file": self.name,
            "counts": self.counts,
            "findings": self.findings.iter().map(Finding::json).collect::<Vec<_>>(),
            "steps": self.tables,
        })
    }
}

/// `docs/lint.md`'s part about rules.
pub fn documentation() -> String {
    let sections = rules::ALL.iter().map(|rule| {
        let severity = match rule.severity {
            Severity::Error => "Error",
            Severity::Warning => "Warning",
            Severity::Info => "Note",
        };
        format!(
            "### {}\n\n{severity}. {}\n\n*Why:* {}  \n*Remedy:* {}  \n*Source:* {}.\n",
            rule.id, rule.what, rule.why, rule.remedy, rule.source
        )
    });
    sections.collect::<Vec<_>>().join("\n")
}
