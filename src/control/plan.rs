//! What to serve now, for a Rollout and the pods that are there. PURE: (observed, previous, now) in, a plan out.
//!
//! The rules, in the order in which they apply:
//!
//! 1. [`intent`] says what the Rollout asks for. While that cannot be told, what it asked for last goes on, with today's
//!    pods.
//! 2. Make before break: a split that gives weight to a version which had none, and which has no endpoint yet, waits for
//!    one, at most [`PATIENCE`]. An abort never waits.
//! 3. What a version without endpoints should get goes to one that has some: to stable, else to the canary, else to
//!    whatever is ready. So nothing is ever sent to an empty version while another one could answer.
//! 4. Versions that get nothing are left out, except the canary of an update in progress, which testers may ask for. After
//!    a promotion that leaves out the old one, whose pods live on for a while.
//!
//! Endpoints belong to a version by their pod-template hash, never by the Service they were found behind: the controller
//! re-points Services at other moments than it changes weights, and in `published-abort` it flips one of them 567 times
//! in 12 s.

pub mod notes;
mod pools;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::route::policy::Policy;
use crate::route::{Action, Route, Routing, Share, Shares, VersionHash};

use super::rollout::{
    Finer, HeaderList, Intent, Managed, ManagedRoute, Mirror, Pair, Reading, Rollout, Step, Wanted, intent, shares,
};
use pools::Pools;
use settle::{backends, settle};

/// How long a split waits for the first endpoint of a version that it gives weight to.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A moment, as the time since any start that stays the same between calls. It never runs backwards.
pub type Moment = Duration;

/// Everything that was seen last: always the whole picture.
#[derive(Clone, Debug, Default)]
pub struct ObservedCluster {
    /// `None`: it is *known* not to exist. Not yet knowing is no reason to plan.
    pub rollout: Option<Rollout>,
    /// By pod-template hash. The same endpoint may be listed more than once, from several slices.
    pub endpoints: BTreeMap<VersionHash, Vec<Endpoint>>,
    /// For diagnostics only; `None` if they were not looked at.
    pub services: Option<Vec<Service>>,
    pub options: Options,
}

/// One pod at one port, with the three conditions of an EndpointSlice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub ready: bool,
    /// Answers, even if it is terminating.
    pub serving: bool,
    pub terminating: bool,
}

/// A Service that was looked up because the Rollout names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    /// `None`: there is no such Service.
    pub selector: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub header_list: HeaderList,
    /// Whether, after an abort, the canary answers while stable has no endpoint at all. Otherwise requests are refused.
    pub aborted_canary_may_answer: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { header_list: HeaderList::default(), aborted_canary_may_answer: true }
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// What to serve; `None`: keep what is served. The caller adds stickiness, override and policy.
    pub routing: Option<Routing>,
    /// When to plan again even if nothing changes.
    pub wake_at: Option<Moment>,
    /// What an operator should know.
    pub notes: Vec<String>,
    /// What is wrong with the annotation `splitway.dev/routes`, in the form of the API server's messages. In `notes`, too.
    pub problem: Option<String>,
    /// For the next call. `None`: the one before is still the last.
    pub applied: Option<Applied>,
}

/// What the next plan has to know about this one.
#[derive(Clone, Debug)]
pub struct Applied {
    /// What the Rollout asked for when that could last be told.
    intent: Intent,
    managed: Managed,
    /// The split in force, before weight moves away from versions without endpoints.
    wanted: Wanted,
    /// The version that a newer split waits for, and since when.
    waiting: Option<(VersionHash, Moment)>,
    /// The steps that the Rollout's index pointed into, and the controller's mark of them.
    progress: Option<(Vec<Step>, String)>,
    /// What has come of the Rollout's annotation.
    reading: Reading,
}

impl Applied {
    /// Whether the steps have changed and the index has not followed yet. `observedGeneration` does not tell: in
    /// `empty-third` and `published-third` the controller advances it one patch, about 10 ms, before everything else.
    fn progress_is_older(&self, rollout: &Rollout) -> bool {
        match (&self.progress, rollout.progress()) {
            (Some((steps, hash)), Some((new_steps, new_hash))) => steps != new_steps && hash == new_hash,
            _ => false,
        }
    }
}

pub fn plan(observed: &ObservedCluster, previous: Option<&Applied>, now: Moment) -> Plan {
    let pools = Pools::of(&observed.endpoints);
    let rollout = observed.rollout.as_ref();
    let aborted = rollout.is_some_and(Rollout::aborted);
    let mut notes = notes::about(observed);

    let stale = rollout.zip(previous).is_some_and(|(rollout, previous)| previous.progress_is_older(rollout));
    let reading = rollout
        .map(|rollout| Reading::of(rollout, observed.options.header_list, previous.map(|previous| &previous.reading)));
    let reading = reading.unwrap_or_default();
    let problem = reading.problem().map(str::to_owned);
    notes.extend(reading.note());
    let annotation = reading.annotation();
    let asked = asked(rollout, previous, stale, annotation.finer());
    let total = rollout.map_or(100, Rollout::total);
    let Some(newest) = resolve(&asked, total, &pools, previous) else {
        notes.push("no pod is ready and no version is known yet: nothing can be served".to_owned());
        return Plan { routing: None, wake_at: None, notes, problem, applied: None };
    };

    let waiting = previous.filter(|_| !aborted).and_then(|previous| waits(&newest, previous, &pools, now));
    let wanted = match (&waiting, previous) {
        (Some((version, _)), Some(previous)) => {
            notes.push(notes::waits(version, &newest.shares, &previous.wanted.shares));
            previous.wanted.clone()
        }
        _ => newest,
    };
    let managed = match rollout {
        None => Managed::default(),
        Some(rollout) if stale && rollout.may_have_routes() => kept_routes(previous),
        Some(rollout) => {
            annotation.routes(rollout, observed.options.header_list).unwrap_or_else(|| kept_routes(previous))
        }
    };
    notes.extend(managed.notes.iter().cloned());

    let progress = match previous {
        Some(previous) if stale => previous.progress.clone(),
        _ => rollout.and_then(Rollout::progress).map(|(steps, hash)| (steps.to_vec(), hash.to_owned())),
    };

    let canary = rollout.and_then(Rollout::current).filter(|_| !aborted);
    let stable = rollout.and_then(Rollout::stable);
    let only_stable = aborted && !observed.options.aborted_canary_may_answer;
    let split = settle(&wanted, stable.as_ref(), canary.as_ref(), only_stable, &pools, &mut notes);
    let backends = backends(&split, &wanted, canary.as_ref(), &pools);
    // Without a canary that answers, a header route would lead nowhere and a mirror's copies to nobody: requests fall
    // through to the split.
    let routes = match canary.as_ref().filter(|canary| pools.count(canary) > 0) {
        Some(canary) => managed.routes.iter().map(|managed| route(managed, canary)).collect(),
        None => Vec::new(),
    };
    let routing = Routing { backends, split, routes, sticky: None, override_: None, policy: Policy::default() };
    Plan {
        routing: Some(routing),
        wake_at: waiting.as_ref().map(|(_, since)| *since + PATIENCE),
        notes,
        problem,
        applied: Some(Applied { intent: asked, managed, wanted, waiting, progress, reading }),
    }
}

/// What the Rollout asks for, or, while that cannot be told, what it asked for last. `stale`: its index is not one into
/// its steps.
fn asked(rollout: Option<&Rollout>, previous: Option<&Applied>, stale: bool, finer: &Finer) -> Intent {
    let Some(rollout) = rollout else { return Intent::Bootstrap };
    match (intent(rollout, finer), previous) {
        (Ok(intent), Some(previous)) if stale && intent.is_of_steps() => previous.intent.clone(),
        (Ok(intent), _) => intent,
        (Err(_), Some(previous)) => previous.intent.clone(),
        // After a restart: what has proved itself.
        (Err(_), None) => rollout.stable().map_or(Intent::Bootstrap, Intent::All),
    }
}

fn kept_routes(previous: Option<&Applied>) -> Managed {
    previous.map(|previous| previous.managed.clone()).unwrap_or_default()
}

/// The intent in numbers. `None`: nothing was ever deployed, nothing was ever served, and nothing is ready.
fn resolve(intent: &Intent, total: u32, pools: &Pools, previous: Option<&Applied>) -> Option<Wanted> {
    match intent {
        Intent::All(version) => Some(all(version, total)),
        // One share per endpoint is what one pool of them all would give, and keeps versions apart in metrics.
        Intent::Bootstrap => match (pools.largest(), previous) {
            (Some(largest), _) => {
                let shares = shares(pools.counts().map(|(version, count)| (version.clone(), count)).collect())?;
                Some(Wanted { shares, stable: largest.clone(), experiments: Vec::new() })
            }
            (None, previous) => previous.map(|previous| previous.wanted.clone()),
        },
        Intent::Shares(wanted) => Some(wanted.clone()),
        Intent::Exact { pair, weight } => two(pair, *weight),
        Intent::Follow { pair, from, to } => {
            let (canary, stable) = (pools.count(&pair.canary), pools.count(&pair.stable));
            let carried = match canary + stable {
                0 => *from,
                both => part(pair.total, canary, both),
            };
            two(pair, carried.clamp(*from.min(to), *from.max(to)))
        }
        Intent::Ramp { pair, cap, replicas } => {
            let canary = pools.count(&pair.canary);
            let carried = match u64::from(*replicas) {
                0 => pair.total,
                replicas => part(pair.total, canary.min(replicas), replicas),
            };
            let had = previous.map_or(0, |previous| share_of(&pair.canary, &previous.wanted.shares, pair.total));
            two(pair, carried.max(had).min(*cap))
        }
    }
}

fn all(version: &VersionHash, total: u32) -> Wanted {
    let shares = shares(vec![(version.clone(), u64::from(total))]).unwrap_or_else(|| Shares::all(version.clone()));
    Wanted { shares, stable: version.clone(), experiments: Vec::new() }
}

fn two(pair: &Pair, weight: u32) -> Option<Wanted> {
    let rest = pair.total.saturating_sub(weight);
    let weights = vec![(pair.stable.clone(), u64::from(rest)), (pair.canary.clone(), u64::from(weight))];
    Some(Wanted { shares: shares(weights)?, stable: pair.stable.clone(), experiments: Vec::new() })
}

/// `count` of `of` in units of `total`, rounded down: pods that are only partly there carry nothing.
fn part(total: u32, count: u64, of: u64) -> u32 {
    (u128::from(total) * u128::from(count) / u128::from(of)) as u32
}

fn share_of(version: &VersionHash, shares: &Shares, total: u32) -> u32 {
    part(total, u64::from(weight_of(version, shares)), u64::from(shares.total()))
}

fn weight_of(version: &VersionHash, shares: &Shares) -> u32 {
    shares.weights().iter().find(|(named, _)| named == version).map_or(0, |(_, weight)| *weight)
}

/// The version that the newest split has to wait for, and since when it does.
fn waits(newest: &Wanted, previous: &Applied, pools: &Pools, now: Moment) -> Option<(VersionHash, Moment)> {
    let (version, _) = newest.shares.weights().iter().find(|(version, weight)| {
        *weight > 0 && pools.count(version) == 0 && weight_of(version, &previous.wanted.shares) == 0
    })?;
    let since = match &previous.waiting {
        Some((earlier, since)) if earlier == version => *since,
        _ => now,
    };
    (now.saturating_sub(since) < PATIENCE).then(|| (version.clone(), since))
}

/// Order stays: the first that matches wins, whether it is a header route or a mirror.
fn route(managed: &ManagedRoute, canary: &VersionHash) -> Route {
    let (name, matches, action) = match managed {
        ManagedRoute::Header { name, matches } => (name, matches, Action::Send(canary.clone())),
        ManagedRoute::Mirror(Mirror { name, percentage, matches }) => {
            (name, matches, Action::Mirror { to: canary.clone(), share: Share::percent(*percentage) })
        }
    };
    Route { name: name.clone(), matches: matches.clone(), action, count: true, timeouts: None }
}
