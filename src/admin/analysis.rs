//! Is the canary worse? What every version has counted in a window of time, in numbers that an AnalysisTemplate of kind
//! `web` compares; `docs/analysis.md` is the page for their authors.
//!
//! [`look`] takes one reading of the history, [`Analysis::of`] is PURE. What too few requests say is not conclusive, and
//! nothing is guessed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::explain::encode;
use super::listen::Turn;
use super::query::{flag, parameters};
use super::{Context, peers, view};
use crate::history::{self, Counts, Window, Windowed};
use crate::metrics::cells::QuantileCounts;
use crate::route::{PortName, VersionHash};

/// Shown with every error.
pub const EXAMPLE: &str = "/analysis?window=60s&min-requests=50&all=true, or window=step, or window=rollout";

const PARAMETERS: [&str; 5] = ["window", "port", "min-requests", "all", "cells"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub window: Window,
    /// `None`: all ports together.
    pub port: Option<String>,
    /// Of the canary, failed tries included; with fewer nothing is concluded. At least 1.
    pub min_requests: u64,
    /// Of every ready replica, added up.
    pub all: bool,
    /// With the cells that quantiles are read from, so that replicas can be added up.
    cells: bool,
}

/// Reads the query string of `/analysis`. Says what is wrong in words for the person who asks.
pub fn from_query(query: &str) -> Result<Asked, String> {
    let [window, port, min_requests, all, cells] = parameters(query, PARAMETERS)?;
    Ok(Asked {
        window: window.map_or(Ok(Window::Last(Duration::from_secs(60))), |text| parse_window(&text))?,
        port,
        min_requests: match min_requests {
            None => 1,
            Some(text) => match text.parse() {
                Ok(n) if n > 0 => n,
                _ => return Err(format!("min-requests is {text:?}; expected a whole number from 1")),
            },
        },
        all: flag("all", all.as_deref())?,
        cells: flag("cells", cells.as_deref())?,
    })
}

fn parse_window(text: &str) -> Result<Window, String> {
    let expected = || {
        let most = humantime::format_duration(history::KEPT);
        format!("expected a time from 1s to {most}, such as 60s, or step, or rollout")
    };
    match text {
        "step" => return Ok(Window::Step),
        "rollout" => return Ok(Window::Rollout),
        _ => {}
    }
    match humantime::parse_duration(text) {
        Ok(time) if time < Duration::from_secs(1) => {
            Err(format!("window is {text}, which is too short; {}", expected()))
        }
        Ok(time) if time > history::KEPT => {
            Err(format!("window is {text}, which is more than is remembered; {}", expected()))
        }
        Ok(time) => Ok(Window::Last(time)),
        Err(_) => Err(format!("window is {text:?}; {}", expected())),
    }
}

impl Asked {
    /// The same, if there is such a port.
    pub fn at(self, ports: &[PortName]) -> Result<Self, String> {
        let Some(wanted) = &self.port else { return Ok(self) };
        super::port_number(ports, Some(wanted)).map(|_| self)
    }

    /// The target that asks one replica for what can be added up.
    fn to_target(&self) -> String {
        let port = self.port.iter().map(|port| format!("&port={}", encode(port.as_bytes())));
        format!("/analysis?window={}{}&cells=true", self.window_text(), port.collect::<String>())
    }

    fn window_text(&self) -> String {
        match self.window {
            Window::Last(time) | Window::Now(time) => humantime::format_duration(time).to_string().replace(' ', ""),
            Window::Step => "step".to_owned(),
            Window::Rollout => "rollout".to_owned(),
        }
    }
}

/// The answer, as JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Analysis {
    /// Whether the canary had requests enough to judge it by. If not, compare nothing.
    pub conclusive: bool,
    /// Why not; empty if it is.
    pub why: Vec<String>,
    /// What the canary lacks for `min-requests`.
    pub missing: u64,
    pub window: String,
    /// What the window really covers: less than was asked for if the process is younger.
    pub seconds: f64,
    /// RFC 3339, in UTC.
    pub from: Option<String>,
    pub to: Option<String>,
    /// `null`: there is none.
    pub canary: Option<Version>,
    pub stable: Option<Version>,
    /// Canary against stable; `null` unless both had requests.
    pub compare: Option<Compare>,
    /// All that had requests, these two among them.
    pub versions: Vec<Version>,
    /// How many replicas were added up.
    pub replicas: usize,
}

/// What one version has counted. Rates and quantiles are `null` without requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    pub requests: u64,
    /// Answered 5xx.
    pub errors: u64,
    /// Its answers, and tries that failed on the way to it even if another try saved the request. The rates are those of
    /// tries, because a version that cannot be reached is not a good one.
    pub tries: u64,
    pub failed_tries: u64,
    /// 0 to 1.
    pub error_rate: Option<f64>,
    pub success_rate: Option<f64>,
    pub requests_per_second: f64,
    /// Seconds, from the head of a request to the last byte of its answer; at most 13 % high.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    /// Only if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<(usize, u64)>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Compare {
    /// The canary's error rate less that of stable: above 0, the canary is worse.
    pub error_rate: f64,
    /// The canary's quantile over that of stable: above 1, the canary is slower.
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// What a replica has said, as far as it is added up.
#[derive(Clone, Debug, Default, Deserialize)]
struct Said {
    seconds: f64,
    canary: Option<Version>,
    stable: Option<Version>,
    versions: Vec<Version>,
    why: Vec<String>,
}

/// One version's counts, wherever they come from.
type Counted = Vec<(String, Counts)>;

/// Of this replica, and of all others if that is asked for. `turn`: for as long as this one works on it.
pub(super) async fn look(context: &Context, way: &peers::Way, asked: &Asked, turn: Turn<'_>) -> Analysis {
    let own = match context.history.window(asked.window) {
        Ok(windowed) => windowed,
        Err(why) => {
            let why = vec![why.to_owned()];
            return Analysis { window: asked.window_text(), missing: asked.min_requests, why, ..Analysis::default() };
        }
    };
    let number =
        asked.port.as_deref().and_then(|name| context.metrics.ports().iter().position(|port| port.as_str() == name));
    let mut counted = counted(&own, number);
    drop(turn);
    let (mut why, mut replicas) = (Vec::new(), 1);
    if asked.all {
        let following = context.following.as_ref().map(|following| following.borrow().clone());
        match peers::ask_others(following.as_ref(), way, &asked.to_target()).await {
            Err(none) => why.push(none),
            Ok(others) => {
                replicas += others.answers.len();
                for (address, answer) in others.answers {
                    match answer.and_then(|(status, text)| read(status, &text, &own)) {
                        Ok(said) => add(&mut counted, said),
                        Err(error) => why.push(format!("replica {address}: {error}")),
                    }
                }
            }
        }
    }
    Analysis::of(asked, &own, counted, why, replicas)
}

/// `port`: of this one only.
fn counted(windowed: &Windowed, port: Option<usize>) -> Counted {
    let mut all = Counted::new();
    let here = windowed.counts.iter().filter(|((number, _), _)| port.is_none_or(|port| port == *number));
    for ((_, version), counts) in here {
        match all.iter_mut().find(|(name, _)| *name == version.as_str()) {
            Some((_, sum)) => sum.add(counts),
            None => all.push((version.to_string(), counts.clone())),
        }
    }
    all
}

/// A replica that speaks of another canary is at another point of the rollout: its counts are not the same thing.
fn read(status: http::StatusCode, text: &str, own: &Windowed) -> Result<Said, String> {
    if status != http::StatusCode::OK {
        return Err(format!("answers {status}"));
    }
    let said: Said =
        serde_json::from_str(text).map_err(|_| "answers with something that is no answer to /analysis".to_owned())?;
    if said.seconds == 0.0 && said.versions.is_empty() {
        return Err(said.why.join("; "));
    }
    let other = |said: &Option<Version>, own: &Option<VersionHash>| {
        let (said, own) = (said.as_ref()?.version.as_str(), own.as_ref()?.as_str());
        (said != own).then(|| format!("has {said} where this one has {own}"))
    };
    match other(&said.canary, &own.canary).or_else(|| other(&said.stable, &own.stable)) {
        Some(difference) => Err(difference),
        None => Ok(said),
    }
}

fn add(counted: &mut Counted, said: Said) {
    for version in said.versions {
        let mut durations = QuantileCounts::default();
        version.cells.iter().for_each(|(cell, count)| durations.add_at(*cell, *count));
        let Version { requests, errors, tries, failed_tries, .. } = version;
        let more = Counts { requests, errors, tries, failed_tries, durations, ..Counts::default() };
        match counted.iter_mut().find(|(name, _)| *name == version.version) {
            Some((_, sum)) => sum.add(&more),
            None => counted.push((version.version, more)),
        }
    }
}

impl Analysis {
    fn of(asked: &Asked, own: &Windowed, counted: Counted, mut why: Vec<String>, replicas: usize) -> Self {
        let seconds = own.to.duration_since(own.from).unwrap_or_default().as_secs_f64();
        let counts_of = |name: &VersionHash| {
            let counts = counted.iter().find(|(version, _)| version == name.as_str()).map(|(_, counts)| counts);
            counts.cloned().unwrap_or_default()
        };
        let canary = own.canary.as_ref().map(|name| (name.as_str(), counts_of(name)));
        let stable = own.stable.as_ref().map(|name| (name.as_str(), counts_of(name)));
        let had = canary.as_ref().map_or(0, |(_, counts)| counts.tries);
        let missing = asked.min_requests.saturating_sub(had);
        match &canary {
            None => why.push("no canary is live, and none was in the window".to_owned()),
            Some((name, _)) if missing > 0 => {
                why.push(format!("canary {name} had {had} tries, {missing} fewer than min-requests asks for"))
            }
            Some(_) => {}
        }
        let compare = canary.as_ref().zip(stable.as_ref()).and_then(|((_, canary), (_, stable))| {
            let ratio = |quantile| Some(canary.durations.quantile(quantile)? / stable.durations.quantile(quantile)?);
            Some(Compare {
                error_rate: canary.error_rate()? - stable.error_rate()?,
                p50: ratio(0.5)?,
                p95: ratio(0.95)?,
                p99: ratio(0.99)?,
            })
        });
        let shown = |(name, counts): (&str, Counts)| Version::of(name, &counts, seconds, asked.cells);
        Self {
            conclusive: why.is_empty(),
            why,
            missing,
            window: asked.window_text(),
            seconds,
            from: Some(view::time(own.from)),
            to: Some(view::time(own.to)),
            canary: canary.map(shown),
            stable: stable.map(shown),
            compare,
            versions: counted
                .iter()
                .filter(|(_, counts)| counts.requests > 0 || counts.tries > 0)
                .map(|(name, counts)| shown((name, counts.clone())))
                .collect(),
            replicas,
        }
    }
}

impl Version {
    fn of(name: &str, counts: &Counts, seconds: f64, cells: bool) -> Self {
        let error_rate = counts.error_rate();
        Self {
            version: name.to_owned(),
            requests: counts.requests,
            errors: counts.errors,
            tries: counts.tries,
            failed_tries: counts.failed_tries,
            error_rate,
            success_rate: error_rate.map(|rate| 1.0 - rate),
            requests_per_second: if seconds > 0.0 { counts.requests as f64 / seconds } else { 0.0 },
            p50: counts.durations.quantile(0.5),
            p95: counts.durations.quantile(0.95),
            p99: counts.durations.quantile(0.99),
            cells: if cells { counts.durations.cells().collect() } else { Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;

    fn windowed(canary: Option<&str>) -> Windowed {
        Windowed {
            from: SystemTime::UNIX_EPOCH,
            to: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
            counts: Default::default(),
            stable: Some(VersionHash::new("v1")),
            canary: canary.map(VersionHash::new),
        }
    }

    fn counts(requests: u64, errors: u64) -> Counts {
        let mut durations = QuantileCounts::default();
        durations.add_at(80, requests);
        Counts { requests, errors, tries: requests, failed_tries: errors, durations, ..Counts::default() }
    }

    fn analysis(query: &str, v1: (u64, u64), v2: (u64, u64)) -> Analysis {
        let counted = vec![("v1".to_owned(), counts(v1.0, v1.1)), ("v2".to_owned(), counts(v2.0, v2.1))];
        Analysis::of(&from_query(query).unwrap(), &windowed(Some("v2")), counted, Vec::new(), 1)
    }

    #[test]
    fn the_canary_is_held_against_stable() {
        let analysis = analysis("window=10s", (100, 1), (50, 10));
        assert!(analysis.conclusive && analysis.why.is_empty() && analysis.missing == 0);
        let canary = analysis.canary.unwrap();
        assert_eq!((canary.requests, canary.errors, canary.error_rate), (50, 10, Some(0.2)));
        assert_eq!((canary.success_rate, canary.requests_per_second), (Some(0.8), 5.0));
        let compare = analysis.compare.unwrap();
        assert!((compare.error_rate - 0.19).abs() < 1e-9 && compare.p99 == 1.0, "{compare:?}");
    }

    #[test]
    fn too_few_requests_conclude_nothing_and_say_how_many_are_missing() {
        let few = analysis("min-requests=50", (100, 1), (49, 10));
        assert!(!few.conclusive && few.missing == 1, "{few:?}");
        assert_eq!(few.why, ["canary v2 had 49 tries, 1 fewer than min-requests asks for"]);
        let none = analysis("", (100, 1), (0, 0));
        assert!(!none.conclusive && none.missing == 1 && none.compare.is_none());
        assert_eq!(none.canary.unwrap().error_rate, None);
        let nobody = Analysis::of(&from_query("").unwrap(), &windowed(None), Vec::new(), Vec::new(), 1);
        assert!(!nobody.conclusive && nobody.canary.is_none());
    }

    #[test]
    fn a_window_is_a_time_that_is_remembered_or_a_name() {
        let window = |text: &str| from_query(&format!("window={text}")).map(|asked| asked.window);
        assert_eq!(from_query("").unwrap().window, Window::Last(Duration::from_secs(60)));
        assert_eq!(window("step"), Ok(Window::Step));
        assert_eq!(window("rollout"), Ok(Window::Rollout));
        assert_eq!(window("30m"), Ok(Window::Last(history::KEPT)));
        for (wrong, part) in [
            ("31m", "more than is remembered"),
            ("0s", "too short"),
            ("-1s", "expected a time"),
            ("steps", "expected a time from 1s to 30m"),
            ("", "expected a time"),
        ] {
            let error = window(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_was_expected() {
        for (query, part) in [
            ("windw=60s", "did you mean window?"),
            ("q=1", "expected window, port, min-requests, all, cells"),
            ("min-requests=0", "whole number from 1"),
            ("min-requests=x", "whole number from 1"),
            ("all=perhaps", "expected true or false"),
            ("window=1m&window=2m", "twice"),
        ] {
            let error = from_query(query).unwrap_err();
            assert!(error.contains(part), "{query}: {error}");
        }
    }

    #[test]
    fn replicas_at_another_point_of_the_rollout_are_not_added_up() {
        let said = |canary: &str| {
            let own =
                Analysis::of(&from_query("cells=true").unwrap(), &windowed(Some(canary)), Vec::new(), Vec::new(), 1);
            read(http::StatusCode::OK, &serde_json::to_string(&own).unwrap(), &windowed(Some("v2"))).map(drop)
        };
        assert_eq!(said("v2"), Ok(()));
        assert_eq!(said("v3"), Err("has v3 where this one has v2".to_owned()));
        assert!(read(http::StatusCode::OK, "{}", &windowed(None)).is_err());
        assert!(read(http::StatusCode::NOT_FOUND, "", &windowed(None)).is_err());
    }

    proptest! {
        /// Two replicas say together what one would have said of all requests.
        #[test]
        fn replicas_always_add_up(
            a in (0..1000u64, 0..209usize), b in (0..1000u64, 0..209usize), errors in (0..1000u64, 0..1000u64)
        ) {
            let counts = |(requests, cell): (u64, usize), errors: u64| {
                let mut durations = QuantileCounts::default();
                durations.add_at(cell, requests);
                Counts { requests, errors: errors.min(requests), durations, ..Counts::default() }
            };
            let (one, two) = (counts(a, errors.0), counts(b, errors.1));
            let asked = from_query("cells=true").unwrap();
            let other = Analysis::of(&asked, &windowed(Some("v2")), vec![("v2".to_owned(), two.clone())], Vec::new(), 1);
            let text = serde_json::to_string(&other).unwrap();
            let mut counted = vec![("v2".to_owned(), one.clone())];
            add(&mut counted, read(http::StatusCode::OK, &text, &windowed(Some("v2"))).unwrap());
            let mut whole = one;
            whole.add(&two);
            let whole = Version::of("v2", &whole, 10.0, true);
            let added = Version::of("v2", &counted[0].1, 10.0, true);
            prop_assert_eq!(serde_json::to_string(&whole).unwrap(), serde_json::to_string(&added).unwrap());
        }
    }
}
