//! How everything stands, at a glance: `/status` as JSON, and the tree that `splitway status` draws of it, in the shape of
//! `kubectl argo rollouts get rollout`.
//!
//! [`look`] takes one reading, [`Status::tree`] is PURE.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::endpoints::{self, Endpoint};
use super::query::{flag, parameters};
use super::{Context, report, view};
use crate::control::cluster::Contact;
use crate::control::rollout::{Progress, State};
use crate::history::{ByVersion, Counts, Second, Window, who};
use crate::route::{Role, VersionHash};

/// What rates, errors and latencies are those of.
const NOW: Duration = Duration::from_secs(10);

/// A trend is so many parts of about so many seconds.
pub const PARTS: usize = 60;
pub const PART: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// 0: nothing is live yet.
    pub generation: u64,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// Only where a Rollout is followed.
    pub rollout: Option<Rollout>,
    /// The time that rates, shares, errors and latencies are those of: none of it from before the weights last changed.
    pub seconds: f64,
    pub ports: Vec<Port>,
    /// The rollout that goes on, else the one that ended last.
    pub last: Option<Last>,
    /// The change that was refused last, until a good one comes.
    pub refused: Option<String>,
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rollout {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// `connecting`, `connected` or `lost`.
    pub api: String,
    pub progress: Option<Progress>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    /// `null`: the one port that needs no name.
    pub port: Option<String>,
    /// The canary comes first.
    pub versions: Vec<Version>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    pub role: String,
    /// Parts of the split's requests, from 0 to 1. Sent: `null` without requests.
    pub asked: f64,
    pub sent: Option<f64>,
    /// Above (+) or below (-) what was asked, since the process started.
    pub error_in_requests: f64,
    pub requests_per_second: f64,
    /// Of tries, from 0 to 1; `null` without any.
    pub error_rate: Option<f64>,
    /// Seconds.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub in_flight: i64,
    /// Addresses of the live snapshot, all of them.
    pub endpoints: Vec<String>,
    /// How the first of them fare, the gravest first, with those that only finish requests; at most [`endpoints::LISTED`]. Empty
    /// where a proxy of an earlier version was asked.
    #[serde(default)]
    pub endpoint_states: Vec<Endpoint>,
    /// How many of them workers leave out for a while, each worker's added up.
    pub ejected: u64,
    /// The last five minutes, the newest part last. Only if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trend: Vec<Part>,
}

/// A few seconds of one version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// At its end.
    pub asked: f64,
    /// Requests that the split gave to it, of all that the split gave.
    pub sent: u64,
    pub of: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Last {
    pub number: u64,
    pub canary: String,
    /// As in `/report`.
    pub outcome: String,
    pub why: String,
    /// Of the canary.
    pub requests: u64,
    pub errors: u64,
}

/// Whether trends are asked for, in the query string of `/status`. Says what is wrong in words for the person who asks.
pub fn from_query(query: &str) -> Result<bool, String> {
    let [trend] = parameters(query, ["trend"])?;
    flag("trend", trend.as_deref())
}

pub fn look(context: &Context, trend: bool) -> Status {
    let seconds_of_trend = if trend { last_seconds(context) } else { Vec::new() };
    let status = context.status.borrow().clone();
    let windowed = context.history.window(Window::Now(NOW)).ok();
    let seconds = windowed.as_ref().and_then(|one| one.to.duration_since(one.from).ok()).unwrap_or_default();
    let counts = windowed.map(|one| one.counts).unwrap_or_default();
    let totals = context.metrics.totals();
    let ports = context.metrics.ports().iter().enumerate().filter_map(|(number, name)| {
        let snapshot = context.live.current(number)?;
        let account = crate::metrics::Account::of(&totals, number, Some(&snapshot));
        let mut versions: Vec<Version> = Vec::new();
        for backend in snapshot.backends() {
            let split = account.versions.iter().find(|one| one.version == backend.version);
            let same = totals.versions.iter().filter(|one| one.port == number && one.version == backend.version);
            let mut version = Version::of(number, &backend.version, backend.role, &counts, seconds.as_secs_f64());
            version.asked = split.map_or(0.0, |one| one.asked_ratio);
            version.error_in_requests = split.map_or(0.0, |one| one.sent as f64 - one.asked_requests);
            version.trend = trend_of(&seconds_of_trend, number, &backend.version);
            version.endpoints = backend.endpoints.iter().map(ToString::to_string).collect();
            version.endpoint_states = endpoints::list(&context.metrics, number, backend);
            for one in same {
                version.in_flight += one.in_flight;
                version.ejected += one.endpoints_out;
            }
            versions.push(version);
        }
        versions.sort_by_key(|version| (version.role != Role::Canary.as_str(), version.role.clone()));
        Some(Port { port: (!name.is_unnamed()).then(|| name.as_str().to_owned()), versions })
    });
    let ports: Vec<Port> = ports.collect();
    let by_users = ports.iter().filter_map(Port::decided_by_users);
    let last = report::look(context, "").ok().and_then(|reports| reports.into_iter().next());
    Status {
        generation: status.generation.0,
        state: context.readiness.state().as_str().to_owned(),
        rollout: context.following.as_ref().map(|following| {
            let following = following.borrow();
            let api = match following.contact {
                Contact::Connecting => "connecting",
                Contact::Connected => "connected",
                Contact::Lost { .. } => "lost",
            };
            let progress = following.progress.clone();
            Rollout { name: following.rollout.clone(), api: api.to_owned(), progress }
        }),
        seconds: seconds.as_secs_f64(),
        notes: status.notes.into_iter().chain(by_users).collect(),
        ports,
        last: last.map(Last::of),
        refused: status.refused.map(|(at, rejected)| {
            let first = rejected.message.lines().next().unwrap_or_default();
            format!("{}: {first} (at {})", rejected.origin, view::time(at))
        }),
    }
}

impl Port {
    /// Where users and routes decide everything, the split has sent nothing, and only answers tell who gets how much.
    fn decided_by_users(&self) -> Option<String> {
        let all: f64 = self.versions.iter().map(|version| version.requests_per_second).sum();
        let idle = all == 0.0 || self.versions.iter().any(|version| version.sent.is_some());
        let share = |version: &Version| {
            let percent = version.requests_per_second / all * 100.0;
            format!("{} {percent:.2} %", who(&version.role, &version.version))
        };
        let shares = || self.versions.iter().map(share).collect::<Vec<_>>().join(", ");
        (!idle).then(|| format!("users and routes decided all of the last requests, the split none: {}", shares()))
    }
}

/// Those of [`PARTS`] whole parts, less what is still to come of the last.
fn last_seconds(context: &Context) -> Vec<Second> {
    let parts = context.history.ticks().borrow().div_ceil(PART.as_secs());
    context.history.seconds(parts.saturating_sub(PARTS as u64) * PART.as_secs())
}

/// Parts begin where their numbers say, not a while ago: each stays what it was while others come.
fn trend_of(seconds: &[Second], port: usize, version: &VersionHash) -> Vec<Part> {
    let parts = seconds.chunk_by(|a, b| (a.number - 1) / PART.as_secs() == (b.number - 1) / PART.as_secs());
    let part = |seconds: &[Second]| {
        let mut part = Part::default();
        for one in seconds.iter().flat_map(|second| &second.versions).filter(|one| one.port == port) {
            part.of += one.sent;
            if one.version == *version {
                (part.asked, part.sent) = (one.asked, part.sent + one.sent);
            }
        }
        part
    };
    parts.map(part).collect()
}

impl Status {
    /// What replicas of one proxy say, as one: rates and open requests add up, shares and error rates are weighed by rates, of
    /// latencies the largest counts. What is the same for all is the first one's.
    pub fn together(mut all: Vec<Status>) -> Option<Status> {
        if all.is_empty() {
            return None;
        }
        let others = all.split_off(1);
        let mut sum = all.remove(0);
        let (mut requests, mut errors) = sum.last.as_ref().map_or((0, 0), |last| (last.requests, last.errors));
        for last in others.iter().filter_map(|other| other.last.as_ref()) {
            if sum.last.as_ref().is_some_and(|own| own.canary == last.canary && own.outcome == last.outcome) {
                requests += last.requests;
                errors += last.errors;
            }
        }
        if let Some(last) = &mut sum.last {
            (last.requests, last.errors) = (requests, errors);
        }
        for port in &mut sum.ports {
            for version in &mut port.versions {
                for other in others.iter().flat_map(|other| &other.ports).filter(|other| other.port == port.port) {
                    if let Some(same) = other.versions.iter().find(|other| other.version == version.version) {
                        version.add(same);
                    }
                }
            }
        }
        sum.notes.extend((!others.is_empty()).then(|| format!("{} replicas, added up", others.len() + 1)));
        Some(sum)
    }
}

impl Version {
    fn add(&mut self, other: &Version) {
        let (own, more) = (self.requests_per_second, other.requests_per_second);
        let weighed = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) if own + more > 0.0 => Some((a * own + b * more) / (own + more)),
            (a, b) => a.or(b),
        };
        self.sent = weighed(self.sent, other.sent);
        self.error_rate = weighed(self.error_rate, other.error_rate);
        self.p50 = self.p50.into_iter().chain(other.p50).reduce(f64::max);
        self.p95 = self.p95.into_iter().chain(other.p95).reduce(f64::max);
        self.p99 = self.p99.into_iter().chain(other.p99).reduce(f64::max);
        self.requests_per_second += more;
        self.error_in_requests += other.error_in_requests;
        self.in_flight += other.in_flight;
        self.ejected += other.ejected;
        for endpoint in &other.endpoint_states {
            match self.endpoint_states.iter_mut().find(|own| own.address == endpoint.address) {
                Some(own) => own.add(endpoint),
                None => self.endpoint_states.push(endpoint.clone()),
            }
        }
        endpoints::first(&mut self.endpoint_states);
        // The newest parts are about the same time.
        for (own, more) in self.trend.iter_mut().rev().zip(other.trend.iter().rev()) {
            (own.sent, own.of) = (own.sent + more.sent, own.of + more.of);
        }
    }

    fn of(port: usize, version: &VersionHash, role: Role, counts: &ByVersion, seconds: f64) -> Self {
        let nothing = Counts::default();
        let own = counts.get(&(port, version.clone())).unwrap_or(&nothing);
        let all: u64 = counts.iter().filter(|((at, _), _)| *at == port).map(|(_, one)| one.sent).sum();
        Self {
            version: version.to_string(),
            role: role.as_str().to_owned(),
            asked: 0.0,
            sent: (all > 0).then(|| own.sent as f64 / all as f64),
            error_in_requests: 0.0,
            requests_per_second: if seconds > 0.0 { own.requests as f64 / seconds } else { 0.0 },
            error_rate: own.error_rate(),
            p50: own.durations.quantile(0.5),
            p95: own.durations.quantile(0.95),
            p99: own.durations.quantile(0.99),
            in_flight: 0,
            endpoints: Vec::new(),
            endpoint_states: Vec::new(),
            ejected: 0,
            trend: Vec::new(),
        }
    }
}

impl Last {
    fn of(report: report::Report) -> Self {
        let canary = report.versions.iter().find(|version| version.version == report.canary);
        Self {
            number: report.number,
            requests: canary.map_or(0, |canary| canary.requests),
            errors: canary.map_or(0, |canary| canary.errors),
            canary: report.canary,
            outcome: report.outcome,
            why: report.why.text,
        }
    }

    pub fn tone(&self) -> Tone {
        match self.outcome.as_str() {
            "promoted" => Tone::Good,
            "aborted" => Tone::Bad,
            _ => Tone::Waits,
        }
    }

    /// In words: who met it, and why it ended as it did.
    pub fn met(&self) -> String {
        let why = if self.outcome == "running" { String::new() } else { format!("; {}", self.why) };
        format!("{} requests met {}, {} failed{why}", self.requests, self.canary, self.errors)
    }
}

/// What a word says about how things go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Waits,
    Bad,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Tone::Good => GREEN,
            Tone::Waits => YELLOW,
            Tone::Bad => RED,
        }
    }
}

/// How a tree is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// ANSI escapes; anstream takes them out where nobody could see them.
    pub colour: bool,
    /// Else ASCII.
    pub unicode: bool,
}

impl Style {
    pub const PLAIN: Style = Style { colour: false, unicode: true };
}

/// The glyphs are those of `kubectl argo rollouts`.
struct Glyphs {
    branch: &'static str,
    last: &'static str,
    down: &'static str,
    rollout: &'static str,
    version: &'static str,
    endpoint: &'static str,
    done: &'static str,
    here: &'static str,
}

const UNICODE: Glyphs = Glyphs {
    branch: "├──",
    last: "└──",
    down: "│  ",
    rollout: "⟳ ",
    version: "# ",
    endpoint: "□ ",
    done: "✔",
    here: "●",
};

const ASCII: Glyphs = Glyphs {
    branch: "|--",
    last: "`--",
    down: "|  ",
    rollout: "",
    version: "# ",
    endpoint: "- ",
    done: "x",
    here: ">",
};

const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";
const DIM: &str = "2";

impl Status {
    pub fn tree(&self, style: Style) -> String {
        let glyphs = if style.unicode { UNICODE } else { ASCII };
        let paint = |code: &str, text: &str| match style.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            if !value.is_empty() {
                let name = if name.is_empty() { String::new() } else { format!("{name}:") };
                writeln!(text, "{name:<10} {value}").expect("a String can be written to");
            }
        };
        let progress = self.rollout.as_ref().and_then(|rollout| rollout.progress.as_ref());
        if let Some(rollout) = &self.rollout {
            line("Rollout", &rollout.name);
            line("API", if rollout.api == "connected" { "" } else { &rollout.api });
        }
        line("Proxy", &format!("{}, generation {}", self.state, self.generation));
        if let Some(progress) = progress {
            let (word, tone) = state(progress);
            line("Status", &paint(tone.code(), word));
            for (i, fact) in progress.why.iter().enumerate() {
                let field =
                    if fact.field.is_empty() { String::new() } else { paint(DIM, &format!("  ({})", fact.field)) };
                line(if i == 0 { "Why" } else { "" }, &format!("{}{field}", fact.text));
            }
            if !progress.steps.is_empty() {
                let step = (progress.step + 1).min(progress.steps.len());
                line("Step", &format!("{step}/{}", progress.steps.len()));
            }
        }
        if let Some(refused) = &self.refused {
            line("Refused", &paint(RED, refused));
        }
        self.notes.iter().for_each(|note| line("Note", note));
        if let Some(last) = &self.last {
            let outcome = paint(last.tone().code(), &last.outcome);
            line("Report", &format!("{} {outcome}: {}", last.number, last.met()));
        }
        let steps = progress.map(|progress| &progress.steps[..]).unwrap_or_default();
        for (i, fact) in steps.iter().enumerate() {
            let now = progress.map_or(0, |progress| progress.step);
            let mark = match i {
                i if i < now => paint(GREEN, glyphs.done),
                i if i == now => paint(YELLOW, glyphs.here),
                _ => " ".to_owned(),
            };
            let space = if i == 0 { "\n" } else { "" };
            writeln!(text, "{space}  {mark} {}", fact.text).expect("a String can be written to");
        }

        text.push('\n');
        let heading = format!(
            "{:<34} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>6}",
            "NAME", "ASKED", "SENT", "ERROR", "REQ/S", "FAILED", "P99", "OPEN"
        );
        writeln!(text, "{}", paint(DIM, &heading)).expect("a String can be written to");
        for port in &self.ports {
            let name = match (&self.rollout, &port.port) {
                (Some(rollout), Some(port)) => format!("{} port {port}", rollout.name),
                (Some(rollout), None) => rollout.name.clone(),
                (None, Some(port)) => format!("port {port}"),
                (None, None) => "application".to_owned(),
            };
            writeln!(text, "{}{name}", glyphs.rollout).expect("a String can be written to");
            for (i, version) in port.versions.iter().enumerate() {
                let is_last = i + 1 == port.versions.len();
                let branch = if is_last { glyphs.last } else { glyphs.branch };
                let down = if is_last { "   " } else { glyphs.down };
                version.draw(&mut text, &glyphs, branch, down, &paint);
            }
        }
        if self.ports.is_empty() {
            text.push_str("nothing is live yet\n");
        }
        text
    }
}

/// Where a rollout stands, in one word.
pub fn state(progress: &Progress) -> (&'static str, Tone) {
    match progress.state {
        State::Unknown => ("unknown", Tone::Waits),
        State::Idle => ("idle", Tone::Good),
        State::Step => ("progressing", Tone::Waits),
        State::Paused => ("paused", Tone::Waits),
        State::Hold => ("hold", Tone::Waits),
        State::Ramp => ("ramp", Tone::Waits),
        State::Aborted => ("aborted", Tone::Bad),
    }
}

/// Of parts from 0 to 1.
pub fn percent(ratio: f64) -> String {
    format!("{:.2} %", ratio * 100.0)
}

/// Of seconds.
pub fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

impl Version {
    fn draw(
        &self,
        text: &mut String,
        glyphs: &Glyphs,
        branch: &str,
        down: &str,
        paint: &impl Fn(&str, &str) -> String,
    ) {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let failed = or_dash(self.error_rate.map(percent));
        let failed = format!("{failed:>8}");
        let failed = if self.error_rate.is_some_and(|rate| rate > 0.0) { paint(RED, &failed) } else { failed };
        let p99 = or_dash(self.p99.map(milliseconds));
        let name = format!("{branch}{}{} {}", glyphs.version, self.role, self.version);
        writeln!(
            text,
            "{name:<34} {:>8} {:>8} {:>+8.2} {:>8.1} {failed} {p99:>9} {:>6}",
            percent(self.asked),
            or_dash(self.sent.map(percent)),
            self.error_in_requests,
            self.requests_per_second,
            self.in_flight
        )
        .expect("a String can be written to");
        let mut lines: Vec<String> = self
            .endpoint_states
            .iter()
            .map(|one| {
                let words = match one.state {
                    endpoints::State::Active => one.in_words(),
                    endpoints::State::Leaving | endpoints::State::Warming => paint(DIM, &one.in_words()),
                    endpoints::State::Full => paint(YELLOW, &one.in_words()),
                    _ => paint(RED, &one.in_words()),
                };
                format!("{}{:<21}  {words}", glyphs.endpoint, one.address)
            })
            .collect();
        // Those that leave are listed and are none of them.
        let leaving = self.endpoint_states.iter().filter(|one| one.state == endpoints::State::Leaving).count();
        let more = (self.endpoints.len() + leaving).saturating_sub(self.endpoint_states.len());
        lines.extend((more > 0).then(|| format!("{more} more")));
        lines.extend(self.endpoints.is_empty().then(|| paint(RED, "no endpoint")));
        for (i, line) in lines.iter().enumerate() {
            let branch = if i + 1 == lines.len() { glyphs.last } else { glyphs.branch };
            writeln!(text, "{down}{branch}{line}").expect("a String can be written to");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::rollout::Fact;

    fn status() -> Status {
        let endpoint = |address: &str, state, detail: &str| Endpoint {
            address: address.to_owned(),
            state,
            workers: 1,
            of: 2,
            detail: detail.to_owned(),
        };
        let version = |name: &str, role: &str, asked: f64, failed: f64| Version {
            version: name.to_owned(),
            role: role.to_owned(),
            asked,
            sent: Some(asked),
            error_in_requests: 0.25,
            requests_per_second: asked * 100.0,
            error_rate: Some(failed),
            p50: Some(0.001),
            p95: Some(0.01),
            p99: Some(0.0125),
            in_flight: 1,
            endpoints: vec!["10.0.0.1:5000".to_owned(), "10.0.0.2:5000".to_owned()],
            endpoint_states: vec![
                endpoint("10.0.0.2:5000", endpoints::State::Ejected, "connect refused; tried again in 8 s"),
                endpoint("10.0.0.1:5000", endpoints::State::Active, ""),
            ],
            ejected: 1,
            trend: Vec::new(),
        };
        let fact = |text: &str, field: &str| Fact::new(text, field);
        Status {
            generation: 7,
            state: "ready".to_owned(),
            rollout: Some(Rollout {
                name: "services/shop".to_owned(),
                api: "connected".to_owned(),
                progress: Some(Progress {
                    state: State::Paused,
                    steps: vec![
                        fact("setWeight 33", "a"),
                        fact("pause until a person resumes it", "b"),
                        fact("setWeight 100", "c"),
                    ],
                    step: 1,
                    why: vec![fact(
                        "paused at step 2 of 3 until a person resumes it",
                        "spec.strategy.canary.steps[1].pause",
                    )],
                    ..Progress::default()
                }),
            }),
            seconds: 10.0,
            ports: vec![Port {
                port: None,
                versions: vec![version("7f9c", "canary", 0.33, 0.2), version("5fb4", "stable", 0.67, 0.0)],
            }],
            last: Some(Last {
                number: 1,
                canary: "7f9c".to_owned(),
                outcome: "running".to_owned(),
                why: String::new(),
                requests: 312,
                errors: 63,
            }),
            refused: None,
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_tree_has_the_shape_that_users_of_argo_rollouts_know() {
        let expected = "\
Rollout:   services/shop
Proxy:     ready, generation 7
Status:    paused
Why:       paused at step 2 of 3 until a person resumes it  (spec.strategy.canary.steps[1].pause)
Step:      2/3
Report:    1 running: 312 requests met 7f9c, 63 failed

  ✔ setWeight 33
  ● pause until a person resumes it
    setWeight 100

NAME                                  ASKED     SENT    ERROR    REQ/S   FAILED       P99   OPEN
⟳ services/shop
├──# canary 7f9c                    33.00 %  33.00 %    +0.25     33.0  20.00 %   12.5 ms      1
│  ├──□ 10.0.0.2:5000          ejected by 1 of 2 workers: connect refused; tried again in 8 s
│  └──□ 10.0.0.1:5000          active
└──# stable 5fb4                    67.00 %  67.00 %    +0.25     67.0   0.00 %   12.5 ms      1
   ├──□ 10.0.0.2:5000          ejected by 1 of 2 workers: connect refused; tried again in 8 s
   └──□ 10.0.0.1:5000          active
";
        assert_eq!(status().tree(Style::PLAIN), expected);
    }

    #[test]
    fn a_terminal_without_unicode_or_colours_is_served_too() {
        let ascii = status().tree(Style { colour: false, unicode: false });
        assert!(ascii.is_ascii() && ascii.contains("`--# stable 5fb4"), "{ascii}");
        let colours = status().tree(Style { colour: true, unicode: true });
        assert!(colours.contains("\x1b[31m 20.00 %\x1b[0m") && colours.contains("\x1b[33mpaused\x1b[0m"), "{colours}");
        assert_eq!(anstream::adapter::strip_str(&colours).to_string(), status().tree(Style::PLAIN));
    }

    #[test]
    fn what_is_missing_is_said() {
        let empty = Status { state: "starting".to_owned(), ..Status::default() };
        assert!(empty.tree(Style::PLAIN).ends_with("nothing is live yet\n"));
        let mut lonely = status();
        lonely.ports[0].versions[0].endpoints.clear();
        lonely.ports[0].versions[0].endpoint_states.clear();
        lonely.ports[0].versions[1].endpoints.extend((3..83).map(|n| format!("10.0.0.{n}:5000")));
        let tree = lonely.tree(Style::PLAIN);
        assert!(tree.contains("└──no endpoint") && tree.ends_with("   └──80 more\n"), "{tree}");
    }

    #[test]
    fn what_was_said_as_json_is_read_again() {
        let text = serde_json::to_string(&status()).unwrap();
        let read: Status = serde_json::from_str(&text).unwrap();
        assert_eq!(read.tree(Style::PLAIN), status().tree(Style::PLAIN));
        // One of a proxy that says less.
        let mut less = serde_json::to_value(status()).unwrap();
        less["ports"][0]["versions"][0].as_object_mut().unwrap().remove("endpoint_states");
        let read: Status = serde_json::from_value(less).unwrap();
        assert!(read.tree(Style::PLAIN).contains("│  └──2 more\n"));
    }

    #[test]
    fn trends_of_replicas_add_up_from_their_newest_parts() {
        let part = |sent: u64| Part { asked: 0.25, sent, of: 10 };
        let (mut young, mut old) = (status(), status());
        young.ports[0].versions[0].trend = vec![part(1), part(2)];
        old.ports[0].versions[0].trend = vec![part(7), part(3), part(4)];
        let summed = |parts: &[(u64, u64)]| -> Vec<Part> {
            parts.iter().map(|(sent, of)| Part { asked: 0.25, sent: *sent, of: *of }).collect()
        };
        let all = Status::together(vec![young.clone(), old.clone()]).unwrap();
        assert_eq!(all.ports[0].versions[0].trend, summed(&[(4, 20), (6, 20)]));
        let all = Status::together(vec![old, young]).unwrap();
        assert_eq!(all.ports[0].versions[0].trend, summed(&[(7, 10), (4, 20), (6, 20)]));
        assert_eq!(from_query("trend=true"), Ok(true));
        assert_eq!(from_query(""), Ok(false));
        assert!(from_query("trend=perhaps").is_err());
    }
}
