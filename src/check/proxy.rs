//! What a proxy that runs says about itself, held against what the API server says. PURE.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::control::plan::Plan;
use crate::control::rollout::{Mode, Rollout};
use crate::route::Shares;
use crate::source::kube::{Look, PortRef};

use super::Settings;
use super::cluster::plan_at;
use super::id::Id;
use super::report::Made;

/// What a proxy answered: `/config`, then `/metrics`.
pub struct Answers {
    pub config: Result<Value, String>,
    pub metrics: Result<String, String>,
}

/// The last scrape may be this old: several of the usual intervals.
const SCRAPED_WITHIN: Duration = Duration::from_secs(300);

pub fn checks(answers: &Answers, look: &Look, settings: &Settings, now: SystemTime) -> Made {
    let mut made = Made::default();
    let config = match &answers.config {
        Ok(config) => config,
        Err(error) => {
            made.fail(
                Id::ProxyReachable,
                error.clone(),
                "say --admin with the address of its admin listener; for one in a pod: kubectl port-forward deploy/splitway \
                 9090, then --admin :9090",
            );
            return made;
        }
    };
    let state = config["state"].as_str().unwrap_or("in a state that we do not know");
    let generation = &config["generation"];
    match config["generation"].as_u64() {
        Some(1..) => made.ok(Id::ProxyReachable, format!("it is {state}, and its snapshot {generation} is live")),
        _ => {
            let refused = config["refused"]["message"].as_str().map(|text| format!(": {text}")).unwrap_or_default();
            made.fail(
                Id::ProxyReachable,
                format!("it is {state}, and nothing is live yet{refused}"),
                "its log and rollout.notes in /config say what it waits for",
            );
        }
    }
    if follows(config, settings, &mut made) {
        heard(config, now, &mut made);
        if !made.failed(Id::ProxyReachable) {
            match look.rollout() {
                Some(rollout) => {
                    generations(config, rollout, &mut made);
                    weights(config, look, rollout, settings, &mut made);
                }
                None => {
                    let why = "the Rollout could not be read, so there is nothing to compare it with";
                    made.skip(Id::ProxyGeneration, why);
                    made.skip(Id::ProxyWeight, why);
                }
            }
        }
    }
    served(answers, config, &mut made);
    scraped(config, now, &mut made);
    made
}

/// Whether what is live is what the cluster asks for, so that asking again would change nothing.
pub fn settled(answers: &Answers, look: &Look, settings: &Settings) -> bool {
    let made = checks(answers, look, settings, SystemTime::UNIX_EPOCH);
    ![Id::ProxyReachable, Id::ProxyGeneration, Id::ProxyWeight, Id::MetricsServed].into_iter().any(|id| made.failed(id))
}

fn follows(config: &Value, settings: &Settings, made: &mut Made) -> bool {
    let wanted = settings.rollout();
    let found = match config["rollout"]["name"].as_str() {
        Some(name) if name == wanted => {
            made.ok(Id::ProxyFollows, format!("it follows Rollout {name}"));
            return true;
        }
        Some("") => "a Rollout that it has not looked for yet".to_owned(),
        Some(other) => format!("Rollout {other}"),
        None => format!("no Rollout, but {}", config["origin"].as_str().unwrap_or("nothing yet")),
    };
    made.fail(
        Id::ProxyFollows,
        format!("expected it to follow Rollout {wanted}, found {found}"),
        format!("start it with: splitway run --rollout {wanted}; or ask another proxy with --admin"),
    );
    false
}

fn heard(config: &Value, now: SystemTime, made: &mut Made) {
    let rollout = &config["rollout"];
    let text = |field: &str| rollout[field].as_str();
    let last = text("heard_at").map_or_else(|| "none yet".to_owned(), |at| format!("{} ({at})", ago(at, now)));
    let remedy = "what was known goes on being served; look at the API server and at the proxy's account and log: a check \
                  without --admin, in the proxy's pod, tries both";
    match (text("api"), text("saved_at")) {
        (Some("connected"), None) => {
            made.ok(Id::ProxyHeard, format!("it hears from the API server; the last change came {last}"));
        }
        (api, saved) => {
            let since = text("lost_since").map(|at| format!(" since {at}")).unwrap_or_default();
            let error = text("error").map(|error| format!(": {error}")).unwrap_or_default();
            let saved = saved.map(|at| format!("; it serves the state that was saved at {at}")).unwrap_or_default();
            made.fail(
                Id::ProxyHeard,
                format!(
                    "its contact to the API server is {}{since}{error}; the last change came {last}{saved}",
                    api.unwrap_or("not known")
                ),
                remedy,
            );
        }
    }
}

fn generations(config: &Value, rollout: &Rollout, made: &mut Made) {
    let (served, wanted) = (config["rollout"]["generation"].as_i64(), rollout.metadata.generation);
    let show = |generation: Option<i64>| generation.map_or_else(|| "none".to_owned(), |number| number.to_string());
    let against = (served < wanted)
        .then(|| format!("it serves generation {} of the Rollout; the API server has {}", show(served), show(wanted)));
    made.judge(
        Id::ProxyGeneration,
        against,
        format!("it serves generation {} of the Rollout", show(served)),
        "see proxy.heard; if that is well, refused and notes in /config say why the newer one is not served",
    );
}

fn weights(config: &Value, look: &Look, rollout: &Rollout, settings: &Settings, made: &mut Made) {
    let live = config["ports"].as_array().map_or(&[][..], Vec::as_slice);
    if rollout.hold().is_some() {
        let why = "the controller has not accepted the spec, so what was asked for before goes on (see rollout.spec)";
        return made.skip(Id::ProxyWeight, why);
    }
    let (mut same, mut other) = (Vec::new(), Vec::new());
    for port in live {
        let name = port["port"].as_str();
        let asked: PortRef = match name {
            Some(name) => name.parse().unwrap_or_default(),
            None => settings.ports.first().cloned().unwrap_or_default(),
        };
        let at = name.map(|name| format!("port {name}: ")).unwrap_or_default();
        let Some(Plan { routing: Some(planned), .. }) = plan_at(look, &asked) else {
            return made.skip(
                Id::ProxyWeight,
                "neither pods nor EndpointSlices could be read here, so nothing can be planned",
            );
        };
        let served = Split::live(&port["split"]);
        match served.is(&planned.split) || may_be_more(rollout) && served.gives_more(&planned.split, rollout) {
            true => same.push(format!("{at}{served}")),
            false => other.push(format!("{at}live is {served}; the Rollout asks for {}", planned.split)),
        }
    }
    if other.is_empty() {
        return made.ok(Id::ProxyWeight, format!("live is what the Rollout asks for: {}", same.join("; ")));
    }
    let notes = config["rollout"]["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    // Make before break: it knows, and waits for a pod.
    let waits: Vec<&str> = notes.filter(|note| note.contains("is to get requests but has no ready endpoint")).collect();
    match waits.is_empty() {
        true => made.fail(
            Id::ProxyWeight,
            other.join("; "),
            "see proxy.heard and proxy.generation; then rollout.notes and refused in /config",
        ),
        false => made.warn(Id::ProxyWeight, waits.join("; "), "wait for the pod, or look why it is not ready"),
    }
}

/// After the last step the share follows the pods and never falls back, which only a proxy that was there can know.
fn may_be_more(rollout: &Rollout) -> bool {
    let ends = rollout.promotes_full() || rollout.step_index() == rollout.steps().len();
    ends && !rollout.steps().is_empty() && rollout.mode() != Mode::Basic && !rollout.dynamic_stable_scale()
}

/// Weights that are live, by version.
struct Split {
    weights: BTreeMap<String, u64>,
    total: u64,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let weights: Vec<String> = self.weights.iter().map(|(version, weight)| format!("{version} {weight}")).collect();
        write!(f, "{} of {}", weights.join(", "), self.total)
    }
}

impl Split {
    fn live(split: &Value) -> Self {
        let versions = split["versions"].as_array().into_iter().flatten();
        let weight = |version: &Value| Some((version["version"].as_str()?.to_owned(), version["weight"].as_u64()?));
        // Those without a role are remembered for their counts only.
        let weights = versions.filter(|version| version["role"].is_string()).filter_map(weight).collect();
        Self { weights, total: split["total"].as_u64().unwrap_or(0) }
    }

    fn of(&self, version: &str) -> u64 {
        self.weights.get(version).copied().unwrap_or(0)
    }

    /// Whether every version has the same part of its total, whatever the totals are.
    fn is(&self, asked: &Shares) -> bool {
        let asked_of = |version: &str| {
            asked
                .weights()
                .iter()
                .find(|(named, _)| named.as_str() == version)
                .map_or(0, |(_, weight)| u64::from(*weight))
        };
        let named = asked.weights().iter().map(|(version, _)| version.as_str());
        let mut all = self.weights.keys().map(String::as_str).chain(named);
        self.total > 0
            && all.all(|version| self.of(version) * u64::from(asked.total()) == asked_of(version) * self.total)
    }

    /// Whether the canary has at least what is asked for it, and nobody else but stable has anything.
    fn gives_more(&self, asked: &Shares, rollout: &Rollout) -> bool {
        let (Some(stable), Some(canary)) = (rollout.stable(), rollout.current()) else { return false };
        let known = [stable.as_str(), canary.as_str()];
        let asked_of =
            asked.weights().iter().find(|(named, _)| *named == canary).map_or(0, |(_, weight)| u64::from(*weight));
        self.weights.iter().all(|(version, weight)| *weight == 0 || known.contains(&version.as_str()))
            && self.of(canary.as_str()) * u64::from(asked.total()) >= asked_of * self.total
    }
}

fn served(answers: &Answers, config: &Value, made: &mut Made) {
    let remedy = "ask for it by hand: curl -s http://ADDRESS/metrics | grep ^splitway_requests_total";
    let text = match &answers.metrics {
        Ok(text) => text,
        Err(error) => return made.fail(Id::MetricsServed, error.clone(), remedy),
    };
    let ports = config["ports"].as_array().into_iter().flatten();
    let backends = ports.flat_map(|port| port["backends"].as_array().into_iter().flatten());
    let mut versions: Vec<&str> = backends.filter_map(|backend| backend["version"].as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.is_empty() {
        return made.skip(Id::MetricsServed, "no version is live, so none can have metrics");
    }
    let counted = |version: &str| {
        let label = format!("version=\"{version}\"");
        text.lines().any(|line| line.starts_with("splitway_requests_total{") && line.contains(&label))
    };
    let missing: Vec<&str> = versions.iter().copied().filter(|version| !counted(version)).collect();
    made.judge(
        Id::MetricsServed,
        (!missing.is_empty()).then(|| {
            format!("expected splitway_requests_total for every live version, found none for {}", missing.join(", "))
        }),
        format!("/metrics has splitway_requests_total for {}", versions.join(" and ")),
        remedy,
    );
}

fn scraped(config: &Value, now: SystemTime, made: &mut Made) {
    let remedy = "let Prometheus scrape /metrics on the admin port: a ServiceMonitor or the scrape annotations of deploy/, and \
                  a NetworkPolicy that lets it in; a proxy that has just started needs one scrape interval";
    let by = config["last_scraped_by"].as_str().filter(|name| !name.is_empty()).unwrap_or("somebody without a name");
    match config["last_scraped_at"].as_str() {
        None => made.fail(Id::MetricsScraped, "nobody but people has read /metrics since the proxy started", remedy),
        Some(at) => {
            let said = format!("/metrics was last read {} by {by}", ago(at, now));
            let fresh = age(at, now).is_none_or(|age| age <= SCRAPED_WITHIN);
            match fresh {
                true => made.ok(Id::MetricsScraped, said),
                false => made.fail(Id::MetricsScraped, format!("{said}; expected it within 5 minutes"), remedy),
            }
        }
    }
}

fn age(at: &str, now: SystemTime) -> Option<Duration> {
    let at = humantime::parse_rfc3339(at).ok()?;
    // Clocks of two machines differ: what is yet to come is now.
    Some(now.duration_since(at).unwrap_or_default())
}

fn ago(at: &str, now: SystemTime) -> String {
    match age(at, now) {
        Some(age) => format!("{} ago", humantime::format_duration(Duration::from_secs(age.as_secs()))),
        None => format!("at {at}"),
    }
}
