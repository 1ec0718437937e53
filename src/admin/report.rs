//! What became of each rollout, as plain serializable data and as text for people.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::query::parameters;
use super::{Context, view};
use crate::control::rollout::{Analysis, Fact};
use crate::history::{self, of_version};
use crate::route::VersionHash;

/// Shown with every error.
pub const EXAMPLE: &str = "/report, or /report?number=1 for one of them";

/// One rollout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// 1 is the first that this process has seen.
    pub number: u64,
    /// `NAMESPACE/NAME`, if a Rollout is followed.
    pub rollout: Option<String>,
    pub canary: String,
    pub stable: Option<String>,
    /// `running`, `promoted`, `aborted`, `withdrawn` or `superseded`.
    pub outcome: String,
    pub why: Fact,
    /// The AnalysisRun by which it was aborted, if the controller has shown one.
    #[serde(default)]
    pub objection: Option<Analysis>,
    /// RFC 3339, in UTC.
    pub began: String,
    pub ended: Option<String>,
    pub seconds: f64,
    /// From one change of the canary's weight to the next.
    pub steps: Vec<Step>,
    pub versions: Vec<Version>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// What asked for it, if a Rollout is followed.
    pub fact: Option<Fact>,
    pub began: String,
    pub seconds: f64,
    /// The canary's part of the split's requests, from 0 to 1.
    pub asked: f64,
    /// `null` without requests.
    pub sent: Option<f64>,
    /// Requests that the canary got above (+) or below (-) what was asked, in this step.
    pub error_in_requests: f64,
    pub versions: Vec<StepVersion>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepVersion {
    pub version: String,
    pub requests: u64,
    pub errors: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    pub requests: u64,
    /// Answered 5xx.
    pub errors: u64,
    /// About how many users (standard error 1.6 %) whom the split recognised; `null` if it recognised nobody.
    pub users: Option<u64>,
    /// With those that another endpoint or version then answered instead.
    pub tries: u64,
    pub failed_tries: u64,
    /// As `/analysis` has it: 0 to 1, of tries; `null` without any, as are the quantiles.
    pub error_rate: Option<f64>,
    /// Seconds; at most 13 % high.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

/// Newest first. Reads the query string of `/report`.
pub fn look(context: &Context, query: &str) -> Result<Vec<Report>, String> {
    let [number] = parameters(query, ["number"])?;
    let read = |text: String| match text.parse::<u64>() {
        Ok(number) => Ok(number),
        Err(_) => Err(format!("number is {text:?}; expected the number of a report, from 1")),
    };
    let wanted = number.map(read).transpose()?;
    let rollout = context.following.as_ref().map(|following| following.borrow().rollout.clone());
    let now = SystemTime::now();
    let all: Vec<_> = context.history.reports().iter().map(|one| Report::of(one, rollout.clone(), now)).collect();
    let Some(wanted) = wanted else { return Ok(all) };
    let numbers = match (all.first(), all.last()) {
        (Some(newest), Some(oldest)) => format!("those from {} to {} are kept", oldest.number, newest.number),
        _ => "this process has seen no rollout yet".to_owned(),
    };
    let one: Vec<_> = all.into_iter().filter(|report| report.number == wanted).collect();
    if one.is_empty() { Err(format!("there is no report {wanted}: {numbers}")) } else { Ok(one) }
}

impl Report {
    fn of(report: &history::Report, rollout: Option<String>, now: SystemTime) -> Self {
        let mut versions: Vec<_> = report.counts.keys().map(|(_, version)| version.clone()).collect();
        versions.sort();
        versions.dedup();
        // The two that it is about come first.
        versions.sort_by_key(|version| (*version != report.canary, Some(version) != report.stable.as_ref()));
        let recognised = !report.users.is_empty();
        let about = |version: &VersionHash| *version == report.canary || Some(version) == report.stable.as_ref();
        let version = |version: VersionHash| {
            let counts = of_version(&report.counts, &version);
            (about(&version) || counts.requests > 0).then(|| Version {
                version: version.to_string(),
                requests: counts.requests,
                errors: counts.errors,
                users: recognised.then(|| report.users.get(&version).copied().unwrap_or(0)),
                tries: counts.tries,
                failed_tries: counts.failed_tries,
                error_rate: counts.error_rate(),
                p50: counts.durations.quantile(0.5),
                p95: counts.durations.quantile(0.95),
                p99: counts.durations.quantile(0.99),
            })
        };
        let until = report.ended.map_or(now, |(at, _)| at);
        Self {
            number: report.number,
            rollout,
            canary: report.canary.to_string(),
            stable: report.stable.as_ref().map(ToString::to_string),
            outcome: report.ended.map_or("running", |(_, outcome)| outcome.as_str()).to_owned(),
            why: report.why.clone(),
            objection: report.objection(),
            began: view::time(report.began),
            ended: report.ended.map(|(at, _)| view::time(at)),
            seconds: until.duration_since(report.began).unwrap_or_default().as_secs_f64(),
            steps: report.steps.iter().map(|step| Step::of(step, &report.canary)).collect(),
            versions: versions.into_iter().filter_map(version).collect(),
        }
    }
}

impl Step {
    fn of(step: &history::Step, canary: &VersionHash) -> Self {
        let sent: u64 = step.counts.iter().map(|(_, counts)| counts.sent).sum();
        let of_canary = step.counts.iter().find(|(version, _)| version == canary).map(|(_, counts)| *counts);
        let of_canary = of_canary.unwrap_or_default();
        Self {
            fact: step.fact.clone(),
            began: view::time(step.began),
            seconds: step.seconds,
            asked: step.asked,
            sent: (sent > 0).then(|| of_canary.sent as f64 / sent as f64),
            error_in_requests: of_canary.sent as f64 - of_canary.asked,
            versions: step
                .counts
                .iter()
                .map(|(version, counts)| StepVersion {
                    version: version.to_string(),
                    requests: counts.requests,
                    errors: counts.errors,
                })
                .collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.rollout.as_deref().map(|name| format!(" of {name}")).unwrap_or_default();
        writeln!(f, "rollout {}{name}: canary {} {}", self.number, self.canary, self.outcome)?;
        let field = if self.why.field.is_empty() { String::new() } else { format!(" ({})", self.why.field) };
        writeln!(f, "  why     {}{field}", self.why.text)?;
        if let Some(Analysis { name, phase, field, .. }) = &self.objection {
            writeln!(f, "  by      AnalysisRun {name}, which is {phase} ({field})")?;
        }
        writeln!(f, "  began   {}, {:.1} s", self.began, self.seconds)?;
        for version in &self.versions {
            let role = if version.version == self.canary { "canary" } else { "stable" };
            let role = if role == "stable" && self.stable.as_ref() != Some(&version.version) { "other" } else { role };
            let rate = match version.requests {
                0 => String::new(),
                all => format!(" ({:.2} %)", version.errors as f64 / all as f64 * 100.0),
            };
            // Where another endpoint or version has answered instead.
            let tries = match (version.tries, version.failed_tries) {
                (tries, failed) if (tries, failed) != (version.requests, version.errors) => {
                    format!("; {failed} of {tries} tries failed ({:.2} %)", version.error_rate.unwrap_or(0.0) * 100.0)
                }
                _ => String::new(),
            };
            let users = version.users.map(|users| format!(" of about {users} users")).unwrap_or_default();
            let p99 = version.p99.map_or("-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1e3));
            writeln!(
                f,
                "  {role:<7} {}: {} requests{users}, {} failed{rate}{tries}, p99 {p99}",
                version.version, version.requests, version.errors
            )?;
        }
        for (number, step) in (1..).zip(&self.steps) {
            let sent = step.sent.map_or("-".to_owned(), |sent| format!("{:.2} %", sent * 100.0));
            writeln!(
                f,
                "  step    {number}: {:.1} s, asked {:.2} %, sent {sent} (error {:+.2} requests){}",
                step.seconds,
                step.asked * 100.0,
                step.error_in_requests,
                step.fact.as_ref().map(|fact| format!(", {}", fact.text)).unwrap_or_default()
            )?;
        }
        Ok(())
    }
}

/// All of them, for people.
pub fn text(reports: &[Report]) -> String {
    if reports.is_empty() {
        return "this process has seen no rollout yet\n".to_owned();
    }
    reports.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
