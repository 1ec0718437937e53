//! "May the rollout go on?": whether this proxy serves a weight, and whether anything is open on a version. For gates
//! between the steps of a rollout; `docs/verify.md` is the page for their authors.
//!
//! [`look`] takes one reading of the snapshots and counters, [`judge`] is PURE. What is not certain is not verified.

use serde::Serialize;

use super::Context;
use super::explain::{decode, encode};
use super::query::{flag, parameters_read_by};
use crate::control::Status;
use crate::metrics::Totals;
use crate::route::picker::{Tally, Window};
use crate::route::weight::{Weight, WeightError, percentage};
use crate::route::{MAX_TOTAL, PortName, Role, Shares, Snapshot, VersionHash};

/// Shown with every error.
pub const EXAMPLE: &str = "/verify?weight=25&version=HASH&all=true or /verify?drained=HASH&all=true";

const PARAMETERS: [&str; 6] = ["weight", "version", "generation", "drained", "port", "all"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub question: Question,
    /// `None`: every port.
    pub port: Option<String>,
    /// Of every ready replica, not of this one alone.
    pub all: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Weight {
        share: Share,
        /// `None`: whatever is the canary.
        version: Option<VersionHash>,
        generation: Option<u64>,
    },
    Drained(VersionHash),
}

/// An exact part of all requests of the split.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    part: u64,
    of: u64,
}

impl Share {
    pub fn new(part: u64, of: u64) -> Self {
        Self { part, of }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("weight is {text:?}: {why}; expected a percentage such as 25 or 5.5, or a part such as 505/1000")
        };
        if let Some((part, of)) = text.split_once('/') {
            let whole = |text: &str| match Weight::parse(text) {
                Ok(Weight::Plain(number)) => Ok(u64::from(number)),
                Ok(Weight::Percent(_)) => Err(wrong("a part is made of whole numbers")),
                Err(error) => Err(wrong(&error.to_string())),
            };
            return match (whole(part)?, whole(of)?) {
                (_, 0) => Err(wrong("there is no part of 0")),
                (part, of) if part > of => Err(wrong("it is more than all")),
                (part, of) => Ok(Self { part, of }),
            };
        }
        match Weight::parse(&format!("{}%", text.strip_suffix('%').unwrap_or(text))) {
            Ok(Weight::Percent(units)) => Ok(Self { part: u64::from(units), of: u64::from(MAX_TOTAL) }),
            Ok(Weight::Plain(_)) => Err(wrong(&WeightError::NotANumber.to_string())),
            Err(error) => Err(wrong(&error.to_string())),
        }
    }

    /// For people: in percent, with four digits at most.
    fn percent(self) -> String {
        let units = u128::from(self.part) * u128::from(MAX_TOTAL) / u128::from(self.of.max(1));
        percentage(units as u64)
    }
}

/// Exactly, whatever the units.
impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        u128::from(self.part) * u128::from(other.of) == u128::from(other.part) * u128::from(self.of)
    }
}

impl Eq for Share {}

/// Reads the query string of `/verify`. Says what is wrong in words for the person who asks.
pub fn from_query(query: &str) -> Result<Asked, String> {
    // People write the percent sign as it is.
    let read = |name: &str, value: &str| match name == "weight" && value.ends_with('%') {
        true => Ok(value.to_owned()),
        false => decode(value).map(Into::into),
    };
    let [weight, version, generation, drained, port, all] = parameters_read_by(query, PARAMETERS, read)?;
    let hash = |name: &str, text: String| match text.is_empty() {
        true => Err(format!("{name} is empty; expected a pod-template hash, or the name of a backend")),
        false => Ok(VersionHash::new(&text)),
    };
    let question = match (weight, drained) {
        (Some(weight), None) => Question::Weight {
            share: Share::parse(&weight)?,
            version: version.map(|version| hash("version", version)).transpose()?,
            generation: generation
                .map(|text| {
                    text.parse().map_err(|_| {
                        format!("generation is {text:?}; expected a whole number, the Rollout's generation")
                    })
                })
                .transpose()?,
        },
        (None, Some(drained)) => {
            if let Some((name, _)) =
                [("version", version), ("generation", generation)].iter().find(|(_, v)| v.is_some())
            {
                return Err(format!("{name} goes with weight, not with drained: leave it out"));
            }
            Question::Drained(hash("drained", drained)?)
        }
        (Some(_), Some(_)) => return Err("weight and drained are two questions: ask one at a time".to_owned()),
        (None, None) => return Err("expected a question: weight=PERCENT or drained=HASH".to_owned()),
    };
    Ok(Asked { question, port, all: flag("all", all.as_deref())? })
}

impl Asked {
    /// The same, if there is such a port.
    pub fn at(self, ports: &[PortName]) -> Result<Self, String> {
        let Some(wanted) = &self.port else { return Ok(self) };
        super::port_number(ports, Some(wanted)).map(|_| self)
    }

    /// The target that asks one replica for the same.
    pub fn to_target(&self) -> String {
        let mut target = match &self.question {
            Question::Weight { share, version, generation } => {
                let version = version.iter().map(|version| format!("&version={}", encode(version.as_str().as_bytes())));
                let generation = generation.iter().map(|generation| format!("&generation={generation}"));
                let more: String = version.chain(generation).collect();
                format!("/verify?weight={}/{}{more}", share.part, share.of)
            }
            Question::Drained(version) => format!("/verify?drained={}", encode(version.as_str().as_bytes())),
        };
        if let Some(port) = &self.port {
            target += &format!("&port={}", encode(port.as_bytes()));
        }
        target
    }
}

/// The answer, as JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub verified: bool,
    /// What is not as it should be; empty if all is.
    pub why: Vec<String>,
    /// Of the Rollout in what is served; where a file is followed, that of the snapshot. 0: nothing is live.
    pub generation: u64,
    /// Only of `drained`: whether this process has ever served the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<bool>,
    /// Only of `drained`: requests and streams that are open on the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<i64>,
    /// Only of `weight`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Only of `all=true`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<super::peers::Replica>,
}

/// What the split of one port was asked for and gave since its present weights came into force.
#[derive(Clone, Debug, Serialize)]
pub struct Port {
    /// `null`: the one port that needs no name.
    pub port: Option<String>,
    /// Of the version, or of the canary, as live.
    pub weight: u64,
    pub total: u64,
    /// Requests that the split has decided since these weights came into force.
    pub requests: u64,
    /// Those of them that have a number and are not counted yet.
    pub uncounted: u64,
    /// By how many requests `sent` may be away from `asked_requests`.
    pub bound_in_requests: u64,
    pub versions: Vec<Version>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Version {
    pub version: String,
    /// `null`: not live.
    pub role: Option<&'static str>,
    pub weight: u64,
    pub sent: i64,
    pub asked_requests: f64,
    pub error_in_requests: f64,
}

/// What is known of one port at one moment.
#[derive(Clone, Debug)]
pub struct Seen {
    pub port: PortName,
    pub shares: Shares,
    pub roles: Vec<(VersionHash, Role)>,
    pub tally: Tally,
    /// Requests of the split that were counted since the process started, for the versions of the tally in its order.
    pub sent: Vec<u64>,
}

/// How often a reading is taken again because requests came in meanwhile. Each takes some microseconds.
const READINGS: usize = 50;

/// What this proxy has to say.
pub fn look(context: &Context, asked: &Asked) -> Report {
    let status = context.status.borrow().clone();
    let ports: Vec<usize> = (0..context.live.ports())
        .filter(|port| asked.port.as_ref().is_none_or(|name| context.metrics.ports()[*port].as_str() == name))
        .collect();
    match &asked.question {
        Question::Weight { share, version, generation } => {
            let seen: Option<Vec<Seen>> = ports.iter().map(|port| Seen::at(context, *port)).collect();
            judge(seen.as_deref(), *share, version.as_ref(), *generation, &status)
        }
        Question::Drained(version) => drained(&context.metrics.totals(), &ports, version, served(&status)),
    }
}

/// What is served, by the number that people compare it with.
fn served(status: &Status) -> u64 {
    match status.rollout_generation {
        Some(generation) => u64::try_from(generation).unwrap_or(0),
        None => status.generation.0,
    }
}

impl Seen {
    /// A consistent reading, if one can be had while requests come in; else one with the fewest that are not counted yet.
    fn at(context: &Context, port: usize) -> Option<Self> {
        let mut best: Option<Self> = None;
        for _ in 0..READINGS {
            let before = context.live.current(port)?;
            let totals = context.metrics.totals();
            // After the counters: so every request that is counted has its number in the tally.
            let seen = Self::of(&context.metrics.ports()[port], port, &before, &totals);
            let after = context.live.current(port)?;
            if before.generation() != after.generation() {
                continue;
            }
            let uncounted = seen.uncounted();
            if best.as_ref().is_none_or(|best| uncounted < best.uncounted()) {
                best = Some(seen);
            }
            if uncounted == 0 {
                break;
            }
        }
        best
    }

    fn of(name: &PortName, port: usize, snapshot: &Snapshot, totals: &Totals) -> Self {
        let tally = snapshot.tally();
        Self {
            port: name.clone(),
            shares: snapshot.shares().clone(),
            roles: snapshot.backends().iter().map(|backend| (backend.version.clone(), backend.role)).collect(),
            sent: tally.asked.iter().map(|(version, _)| totals.split(port, version)).collect(),
            tally,
        }
    }

    fn uncounted(&self) -> u64 {
        self.tally.requests.saturating_sub(self.sent.iter().sum())
    }

    fn weight(&self, version: &VersionHash) -> u64 {
        self.shares.weights().iter().find(|(named, _)| named == version).map_or(0, |(_, weight)| u64::from(*weight))
    }

    fn role(&self, version: &VersionHash) -> Option<Role> {
        self.roles.iter().find(|(named, _)| named == version).map(|(_, role)| *role)
    }

    /// `2 (m - 1)` with `m` versions that have a weight, see [`Window`]; and one more for a request that a worker decides
    /// in the microseconds in which it does not have the new snapshot.
    fn bound(&self) -> u64 {
        let weighted = self.shares.weights().iter().filter(|(_, weight)| *weight > 0).count() as u64;
        2 * weighted.saturating_sub(1) + 1
    }

    fn row(&self, (version, window, sent): (&VersionHash, &Window, u64)) -> Version {
        let sent = sent as i64 - window.given_before as i64;
        Version {
            version: version.to_string(),
            role: self.role(version).map(Role::as_str),
            weight: self.weight(version),
            sent,
            asked_requests: window.asked,
            error_in_requests: sent as f64 - window.asked,
        }
    }
}

/// Whether this share, of this version or else of the canary, is what every port serves and has given.
pub fn judge(
    seen: Option<&[Seen]>,
    share: Share,
    version: Option<&VersionHash>,
    generation: Option<u64>,
    status: &Status,
) -> Report {
    let mut report = Report { generation: served(status), ..Report::default() };
    let Some(seen) = seen else {
        report.why.push("no snapshot is live yet: /readyz says why".to_owned());
        return report;
    };
    if let Some(wanted) = generation.filter(|wanted| report.generation < *wanted) {
        report.why.push(format!("generation {} is served, asked for is {wanted} or a newer one", report.generation));
    }
    for seen in seen {
        let at = if seen.port.is_unnamed() { String::new() } else { format!("port {}: ", seen.port.as_str()) };
        let is_meant = |named: &VersionHash| match version {
            Some(version) => named == version,
            None => seen.role(named) == Some(Role::Canary),
        };
        let weights = seen.shares.weights().iter().filter(|(named, _)| is_meant(named));
        let weight: u64 = weights.map(|(_, weight)| u64::from(*weight)).sum();
        let total = u64::from(seen.shares.total());
        let live = Share::new(weight, total);
        if live != share {
            let who = version.map_or_else(|| "the canary".to_owned(), |version| format!("version {version}"));
            report.why.push(format!(
                "{at}{who} has {weight} of {total} ({}), asked for is {}; the split is {}",
                live.percent(),
                share.percent(),
                seen.shares
            ));
        }
        let (uncounted, bound) = (seen.uncounted(), seen.bound());
        let rows = seen.tally.asked.iter().zip(&seen.tally.window).zip(&seen.sent);
        let rows = rows.map(|(((version, _), window), sent)| seen.row((version, window, *sent)));
        let mut versions = Vec::new();
        for row in rows {
            // Any of those that are not counted yet may be this version's.
            let (low, high) = (row.error_in_requests, row.error_in_requests + uncounted as f64);
            if low > bound as f64 || high < -(bound as f64) {
                report.why.push(format!(
                    "{at}version {} has received {} requests since these weights are in force, {:.2} were asked for: \
                     more than {bound} away",
                    row.version, row.sent, row.asked_requests
                ));
            }
            if row.role.is_some() || row.weight > 0 || row.sent != 0 {
                versions.push(row);
            }
        }
        report.ports.push(Port {
            port: (!seen.port.is_unnamed()).then(|| seen.port.as_str().to_owned()),
            weight,
            total,
            requests: seen.tally.requests - seen.tally.since,
            uncounted,
            bound_in_requests: bound,
            versions,
        });
    }
    report.verified = report.why.is_empty();
    report
}

/// Whether nothing is open on a version, in whatever role, at these ports.
fn drained(totals: &Totals, ports: &[usize], version: &VersionHash, generation: u64) -> Report {
    let here = || totals.versions.iter().filter(|one| ports.contains(&one.port));
    let open: i64 = here().filter(|one| one.version == *version).map(|one| one.in_flight).sum();
    let known = ports.iter().any(|port| totals.was_here(*port, version));
    let mut why = Vec::new();
    if open != 0 {
        why.push(format!("{open} requests or streams are open on version {version}"));
    }
    if !known {
        let mut names: Vec<&str> = here().map(|one| one.version.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        why.push(format!("version {version} has never been served here; served were: {names}"));
    }
    Report { verified: why.is_empty(), why, generation, known: Some(known), open: Some(open), ..Report::default() }
}

#[cfg(test)]
mod tests;
