//! How many requests the canary sees at each weight, and what they can tell about it.

use std::fmt::Write as _;

use serde::Serialize;

use super::finding::Findings;
use super::object::{View, full_name};
use super::{Traffic, analysis, chance, rules, span};
use crate::text::node::Node;

/// A step is said to prove nothing if it would often let a canary pass whose error rate is higher by this.
pub(super) const JUMP: f64 = 0.1;

/// Steps with one weight in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// From 1, as people count.
    pub first_step: usize,
    pub last_step: usize,
    pub weight: i64,
    /// What all weights add up to.
    pub total: i64,
    /// As far as it is known beforehand.
    pub seconds: u64,
    /// What else must come to pass before it ends.
    pub then: Vec<&'static str>,
    /// That the canary sees in `seconds`, to the nearest whole one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// The smallest error rate that these can tell from the baseline. `None` also when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smallest_error_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proves_nothing: Option<bool>,
}

/// The stages of one Rollout.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// Such as `services/shop`.
    pub rollout: String,
    #[serde(flatten)]
    pub traffic: Option<Traffic>,
    pub stages: Vec<Stage>,
}

pub(super) fn table(
    rollout: &Node,
    view: &View<'_>,
    objects: &[&Node],
    traffic: Option<Traffic>,
    findings: &mut Findings,
) -> Table {
    let mut stages: Vec<Stage> = Vec::new();
    for (i, step) in view.steps.iter().enumerate() {
        let weight = step.weight().map(|weight| weight.clamp(0, view.total));
        if weight.is_some() || stages.is_empty() {
            let (weight, total) = (weight.unwrap_or(0), view.total);
            let (first_step, last_step) = (step.number, step.number);
            stages.push(Stage {
                first_step,
                last_step,
                weight,
                total,
                seconds: 0,
                then: Vec::new(),
                requests: None,
                smallest_error_rate: None,
                proves_nothing: None,
            });
        }
        let stage = stages.last_mut().expect("one was pushed");
        stage.last_step = step.number;
        match lasts(step.node, rollout, objects) {
            Ok(seconds) => stage.seconds = stage.seconds.saturating_add(seconds),
            Err(event) => stage.then.push(event),
        }
        if i + 1 == view.steps.len() && stage.weight == stage.total && stage.seconds == 0 && stage.then.is_empty() {
            stage.then.push("promotion");
        }
    }
    if let Some(traffic) = &traffic {
        for stage in &mut stages {
            judge(stage, traffic, view, findings);
        }
    }
    Table { rollout: full_name(rollout), traffic, stages }
}

/// Seconds, or what ends the step.
fn lasts(step: &Node, rollout: &Node, objects: &[&Node]) -> Result<u64, &'static str> {
    if let Some(pause) = step.get("pause") {
        let Some(duration) = pause.get("duration") else { return Err("promoted") };
        return Ok(duration.as_text().and_then(span::pause).unwrap_or(0));
    }
    if let Some(analysis) = step.get("analysis") {
        return analysis::seconds(analysis, rollout, objects).ok_or("analysis");
    }
    if let Some(experiment) = step.get("experiment") {
        let duration = experiment.get("duration").and_then(|duration| span::go(duration.as_text()?));
        return duration.map(|seconds| seconds as u64).ok_or("experiment");
    }
    if step.get("plugin").is_some() { Err("plugin") } else { Ok(0) }
}

fn judge(stage: &mut Stage, traffic: &Traffic, view: &View<'_>, findings: &mut Findings) {
    if stage.weight == 0 || stage.total == 0 {
        stage.requests = Some(0);
        return;
    }
    let share = stage.weight as f64 / stage.total as f64;
    let requests = (traffic.requests_per_second * share * stage.seconds as f64).round() as u64;
    stage.requests = Some(requests);
    let test = chance::test(requests, traffic.baseline_error_rate);
    // Six digits, so that no machine's last bit shows.
    stage.smallest_error_rate = test.map(|test| (test.smallest_rate * 1e6).ceil() / 1e6);
    if stage.seconds == 0 {
        return;
    }
    let enough = traffic.baseline_error_rate + JUMP;
    let proves_nothing = test.is_none_or(|test| test.smallest_rate > enough);
    stage.proves_nothing = Some(proves_nothing);
    // Somebody or something else decides how long it lasts.
    if !proves_nothing || !stage.then.is_empty() {
        return;
    }
    let step = &view.steps[stage.first_step - 1];
    let at = step.node.entry("setWeight").map_or(&step.node.at, |(key, _)| &key.at);
    let message = format!(
        "{} for {} at {} requests/s is {}: proves nothing",
        percent(share),
        span::written(stage.seconds),
        number(traffic.requests_per_second),
        counted(requests, "canary request"),
    );
    let needed = chance::requests_for(enough, traffic.baseline_error_rate);
    let remedy = needed.map(|needed| {
        let seconds = (needed as f64 / (traffic.requests_per_second * share)).ceil() as u64;
        format!(
            "it takes {}, so hold this weight for {}; then a canary that fails {} of its requests is noticed 4 times in 5",
            counted(needed, "request"),
            span::written(seconds),
            percent(enough)
        )
    });
    findings.add(&rules::PROVES_NOTHING, at, message, remedy);
}

/// The table for people.
pub(super) fn render(table: &Table) -> String {
    let mut out = String::new();
    let name = &table.rollout;
    match &table.traffic {
        Some(traffic) => {
            let (rate, base) = (number(traffic.requests_per_second), percent(traffic.baseline_error_rate));
            let _ = writeln!(out, "{name}: {rate} requests/s in all, {base} errors as a baseline\n");
            let _ =
                writeln!(out, "steps    weight  lasts                 canary requests  notices a canary that fails");
        }
        None => {
            let _ = writeln!(out, "{name}: requests that the canary sees per request/s of traffic\n");
            let _ = writeln!(out, "steps    weight  lasts                 canary requests");
        }
    }
    for stage in &table.stages {
        let steps = match (stage.first_step, stage.last_step) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let share = stage.weight as f64 / stage.total.max(1) as f64;
        let known = stage.seconds > 0;
        let more = if stage.then.is_empty() { "" } else { "+" };
        let requests = match stage.requests {
            _ if !known => "-".to_owned(),
            Some(requests) => format!("{requests}{more}"),
            None => format!("{}{more}", number(share * stage.seconds as f64)),
        };
        let _ = write!(out, "{steps:<7}{:>8}  {:<20}{requests:>17}", percent(share), lasting(stage));
        if let (Some(_), true) = (&table.traffic, known && stage.weight > 0) {
            let rate = stage.smallest_error_rate.map(|rate| format!("{} of them", percent_up(rate)));
            let verdict = if stage.proves_nothing == Some(true) { "proves nothing" } else { "" };
            let words: Vec<String> =
                rate.into_iter().chain((!verdict.is_empty()).then(|| verdict.to_owned())).collect();
            let _ = write!(out, "  {}", words.join(": "));
        }
        let trimmed = out.trim_end().len();
        out.truncate(trimmed);
        out.push('\n');
    }
    out
}

fn lasting(stage: &Stage) -> String {
    let mut parts: Vec<String> = Vec::new();
    if stage.seconds > 0 {
        parts.push(span::written(stage.seconds));
    }
    match stage.then[..] {
        [] => {}
        ["promoted"] => parts.push("until promoted".to_owned()),
        [one] => parts.push(one.to_owned()),
        [..] => parts.push("and more".to_owned()),
    }
    if parts.is_empty() { "until its pods are up".to_owned() } else { parts.join(", ") }
}

pub(super) fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Up to three digits behind the point, without zeros at the end.
fn number(n: f64) -> String {
    let text = format!("{n:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn percent(share: f64) -> String {
    format!("{} %", number(share * 100.0))
}

/// Never better than the truth.
fn percent_up(rate: f64) -> String {
    let digits = if rate < 0.01 { 1000.0 } else { 10.0 };
    percent((rate * 100.0 * digits - 1e-9).ceil() / digits / 100.0)
}
