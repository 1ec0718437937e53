//! What has been: seconds, changes, and a report of each rollout. COLD: it reads the counters once a second and at every
//! change, and nobody on the request path knows of it. All of it is bounded, and gone with the process.
//!
//! Files, in reading order:
//!
//! * `counts`: what a version had counted at one moment, and what came between two;
//! * `seconds`: the last half hour;
//! * `changes`: the last hundred changes, in sentences;
//! * `rollouts`: a report of each of the last twenty rollouts.

mod changes;
mod counts;
mod rollouts;
mod seconds;

pub use changes::{Change, Kind, who};
pub use counts::{ByVersion, Counts, of_version};
pub use rollouts::{Report, Step, StepCounts, Users};
pub use seconds::{KEPT, Second, VersionSecond};

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::control::News;
use crate::control::cluster::{Contact, Following, FollowingView};
use crate::control::rollout::{Fact, State};
use crate::metrics::{Account, Metrics, Totals};
use crate::route::live::Live;
use crate::route::{Role, Snapshot, VersionHash};

use changes::{Changes, Versions, differences, versions};
use rollouts::{Rollouts, Stage};
use seconds::{Seconds, Standing};

/// How often the counters are read.
const LOOK: Duration = Duration::from_secs(1);

/// The memory of the process. Locks are taken on changes, once a second, and when somebody asks.
pub struct History {
    metrics: Arc<Metrics>,
    live: Live,
    following: Option<FollowingView>,
    began: Instant,
    kept: Mutex<Kept>,
    ticks: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    seconds: Seconds,
    changes: Changes,
    rollouts: Rollouts,
    last: Option<(Instant, ByVersion)>,
    /// The counters when a weight last changed.
    weighed: Option<(Instant, ByVersion)>,
    /// By port.
    versions: Vec<Versions>,
    told: Told,
}

/// What was told of the Rollout last.
#[derive(Default)]
struct Told {
    why: Option<Fact>,
    contact: Contact,
}

/// The counters at one moment, and how things stand.
struct Reading {
    at: SystemTime,
    instant: Instant,
    snapshots: Vec<Option<Arc<Snapshot>>>,
    totals: Totals,
    accounts: Vec<Account>,
    counts: ByVersion,
    users: Users,
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The newest of this time, at most [`KEPT`].
    Last(Duration),
    /// The same, and nothing from before the weights last changed: what was asked is the same for all of it.
    Now(Duration),
    /// Since the canary's weight last changed.
    Step,
    /// The rollout that goes on, else the one that ended last.
    Rollout,
}

/// What was counted in a window.
#[derive(Clone, Debug)]
pub struct Windowed {
    pub from: SystemTime,
    pub to: SystemTime,
    pub counts: ByVersion,
    /// Who is what: in the live split, or in the rollout that the window is about.
    pub stable: Option<VersionHash>,
    pub canary: Option<VersionHash>,
}

impl History {
    pub fn new(metrics: Arc<Metrics>, live: Live, following: Option<FollowingView>) -> Self {
        Self { metrics, live, following, began: Instant::now(), kept: Mutex::default(), ticks: watch::channel(0).0 }
    }

    /// Takes note of a change, with the counters of this moment.
    pub fn tell(&self, news: News<'_>) {
        let reading = self.read();
        let mut kept = self.kept.lock().expect("no holder of this lock panics");
        match news {
            News::Refused(rejected) => {
                let first = rejected.message.lines().next().unwrap_or_default();
                let text = format!("refused, the last good state keeps serving: {}: {first}", rejected.origin);
                kept.changes.add(reading.at, Kind::Refused, Fact::new(text, ""));
            }
            News::Live { .. } => {
                for (port, snapshot) in reading.snapshots.iter().enumerate() {
                    let now = snapshot.as_deref().map(versions).unwrap_or_default();
                    let before = kept.versions.get(port).cloned().unwrap_or_default();
                    let name = &self.metrics.ports()[port];
                    let prefix = if name.is_unnamed() { String::new() } else { format!("port {}: ", name.as_str()) };
                    let field = self.field_of_weight();
                    for (kind, text) in differences(&prefix, &before, &now) {
                        if kind == Kind::Weight {
                            kept.weighed = Some((reading.instant, reading.counts.clone()));
                        }
                        let field = if kind == Kind::Weight { field.clone() } else { String::new() };
                        kept.changes.add(reading.at, kind, Fact::new(text, field));
                    }
                    kept.versions.resize_with(reading.snapshots.len(), Versions::new);
                    kept.versions[port] = now;
                }
                self.look(&mut kept, &reading);
            }
        }
    }

    /// Until the task is aborted.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut following = self.following.clone();
        // The first one is at once, and there is no second yet.
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.second(),
                () = changed(&mut following) => {
                    let reading = self.read();
                    self.look(&mut self.kept.lock().expect("no holder of this lock panics"), &reading);
                }
            }
        }
    }

    pub(crate) fn second(&self) {
        let reading = self.read();
        let mut kept = self.kept.lock().expect("no holder of this lock panics");
        self.look(&mut kept, &reading);
        let (length, more) = match &kept.last {
            Some((before, counts)) => {
                (reading.instant.duration_since(*before), counts::between(counts, &reading.counts))
            }
            None => (LOOK, reading.counts.clone()),
        };
        let number = kept.seconds.push(reading.at, length, reading.standing(), &more);
        kept.last = Some((reading.instant, reading.counts));
        drop(kept);
        self.ticks.send_replace(number);
    }

    /// How the Rollout stands, and whether that begins or ends a rollout.
    fn look(&self, kept: &mut Kept, reading: &Reading) {
        let following = self.following.as_ref().map(|following| following.borrow().clone());
        if let Some(following) = &following {
            kept.told.hear(following, reading.at, &mut kept.changes);
        }
        let stage = stage(following.as_ref(), reading);
        let before = kept.rollouts.number();
        let outcome = kept.rollouts.look(&stage, reading.at, &reading.counts, &reading.users);
        if kept.rollouts.number() != before {
            self.metrics.forget_users();
        }
        let Some(outcome) = outcome else { return };
        self.metrics.rollouts.ended(outcome);
        let Some(report) = kept.rollouts.newest_ended() else { return };
        let met = of_version(&report.counts, &report.canary);
        let users = match report.users.get(&report.canary) {
            Some(users) => format!("about {users} users and "),
            None => String::new(),
        };
        let text = format!(
            "rollout of {} {}: {users}{} requests met it, {} of them failed",
            report.canary,
            outcome.as_str(),
            met.requests,
            met.errors
        );
        tracing::info!(
            canary = report.canary.as_str(),
            outcome = outcome.as_str(),
            requests = met.requests,
            errors = met.errors,
            "rollout has ended: {}",
            report.why.text
        );
        kept.changes.add(reading.at, Kind::Outcome, Fact::new(text, report.why.field.clone()));
    }

    /// What asked for the weights that are there now.
    fn field_of_weight(&self) -> String {
        let following = self.following.as_ref().map(|following| following.borrow().clone());
        let Some(progress) = following.and_then(|following| following.progress) else { return String::new() };
        match progress.state {
            State::Step | State::Paused => Stage::of_rollout(&progress, |_| 0.0).step.map(|step| step.field),
            _ => progress.why.first().map(|why| why.field.clone()),
        }
        .unwrap_or_default()
    }

    fn read(&self) -> Reading {
        Reading::take(&self.metrics, &self.live)
    }

    /// The number of the newest second, whenever there is one more.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    /// Oldest first: the seconds after this number, at most half an hour.
    pub fn seconds(&self, after: u64) -> Vec<Second> {
        self.kept.lock().expect("no holder of this lock panics").seconds.after(after).cloned().collect()
    }

    /// Oldest first: the changes after this number, at most a hundred.
    pub fn changes(&self, after: u64) -> Vec<Change> {
        self.kept.lock().expect("no holder of this lock panics").changes.after(after)
    }

    /// Newest first; the rollout that goes on, if one does, comes first.
    pub fn reports(&self) -> Vec<Report> {
        let reading = self.read();
        let kept = self.kept.lock().expect("no holder of this lock panics");
        kept.rollouts.reports(reading.at, &reading.counts, &reading.users)
    }

    /// What was counted in a window, or why there is no such window.
    pub fn window(&self, window: Window) -> Result<Windowed, &'static str> {
        let reading = self.read();
        let kept = self.kept.lock().expect("no holder of this lock panics");
        let following = self.following.as_ref().map(|following| following.borrow().clone());
        let stage = stage(following.as_ref(), &reading);
        let live_canary = reading.snapshots.iter().flatten().find_map(|snapshot| of_role(snapshot, Role::Canary));
        let now = |counts, from| Windowed {
            from,
            to: reading.at,
            counts,
            stable: stage.stable.clone(),
            canary: stage.canary.clone().or(live_canary.clone()),
        };
        match window {
            Window::Now(length) => match &kept.weighed {
                Some((since, counts)) if reading.instant.duration_since(*since) < length => {
                    let age = reading.instant.duration_since(*since);
                    Ok(now(counts::between(counts, &reading.counts), reading.at - age))
                }
                _ => {
                    drop(kept);
                    self.window(Window::Last(length))
                }
            },
            Window::Last(length) => {
                let (mut counts, mut covered) = kept.seconds.sum(length);
                // What came since the newest second.
                let (before, at) = match &kept.last {
                    Some((at, before)) => (before.clone(), *at),
                    None => (ByVersion::new(), self.began),
                };
                for (key, more) in counts::between(&before, &reading.counts) {
                    counts.entry(key).or_default().add(&more);
                }
                covered += reading.instant.duration_since(at);
                Ok(now(counts, reading.at - covered))
            }
            Window::Step => match kept.rollouts.step(&reading.counts) {
                Some((counts, from)) => Ok(now(counts, from)),
                None => Err("no rollout is in progress, so there is no step"),
            },
            Window::Rollout => {
                match kept.rollouts.reports(reading.at, &reading.counts, &reading.users).into_iter().next() {
                    Some(report) => Ok(Windowed {
                        from: report.began,
                        to: report.ended.map_or(reading.at, |(at, _)| at),
                        counts: report.counts,
                        stable: report.stable,
                        canary: Some(report.canary),
                    }),
                    None => Err("this process has seen no rollout yet"),
                }
            }
        }
    }
}

async fn changed(following: &mut Option<FollowingView>) {
    if let Some(view) = following
        && view.changed().await.is_ok()
    {
        return;
    }
    // Nobody is followed, or the source has ended: nothing more will be heard.
    *following = None;
    std::future::pending().await
}

impl Told {
    fn hear(&mut self, following: &Following, at: SystemTime, changes: &mut Changes) {
        if std::mem::discriminant(&self.contact) != std::mem::discriminant(&following.contact) {
            let text = match &following.contact {
                Contact::Connecting => None,
                Contact::Connected => Some("the API server is heard".to_owned()),
                Contact::Lost { error, .. } => {
                    Some(format!("the API server is not heard, the last state goes on serving: {error}"))
                }
            };
            if let Some(text) = text {
                changes.add(at, Kind::Rollout, Fact::new(text, ""));
            }
            self.contact = following.contact.clone();
        }
        let why = following.progress.as_ref().and_then(|progress| progress.why.first());
        if why.is_some() && why != self.why.as_ref() {
            changes.add(at, Kind::Rollout, why.cloned().unwrap_or_default());
            self.why = why.cloned();
        }
    }
}

/// From the Rollout if one is followed, else from who has which role and weight.
fn stage(following: Option<&Following>, reading: &Reading) -> Stage {
    let asked = |version: &VersionHash| {
        let ports = reading.snapshots.iter().flatten();
        ports.map(|snapshot| ratio(snapshot, version)).fold(0.0, f64::max)
    };
    if let Some(progress) = following.and_then(|following| following.progress.as_ref())
        && progress.state != State::Unknown
    {
        return Stage::of_rollout(progress, asked);
    }
    let has = |role: Role| reading.snapshots.iter().flatten().find_map(|snapshot| of_role(snapshot, role));
    let canary = has(Role::Canary).filter(|canary| asked(canary) > 0.0);
    Stage {
        stable: has(Role::Stable),
        asked: canary.as_ref().map_or(0.0, asked),
        canary,
        why: Fact::new("the weights say so", ""),
        ..Stage::default()
    }
}

fn of_role(snapshot: &Arc<Snapshot>, role: Role) -> Option<VersionHash> {
    snapshot.backends().iter().find(|backend| backend.role == role).map(|backend| backend.version.clone())
}

fn ratio(snapshot: &Snapshot, version: &VersionHash) -> f64 {
    f64::from(snapshot.weight(version)) / f64::from(snapshot.shares().total().max(1))
}

impl Reading {
    fn take(metrics: &Metrics, live: &Live) -> Self {
        let snapshots: Vec<_> = (0..live.ports()).map(|port| live.current(port)).collect();
        let totals = metrics.totals();
        let accounts: Vec<_> =
            snapshots.iter().enumerate().map(|(port, one)| Account::of(&totals, port, one.as_deref())).collect();
        let counts = counts::counted(&totals, &accounts);
        let users = metrics.users();
        Self { at: SystemTime::now(), instant: Instant::now(), snapshots, totals, accounts, counts, users }
    }

    fn standing(&self) -> Vec<Standing> {
        let of_port = |(port, account): (usize, &Account)| {
            let in_flight = |version: &VersionHash| {
                let same = self.totals.versions.iter().filter(|one| one.port == port && one.version == *version);
                same.map(|one| one.in_flight).sum()
            };
            let versions = account.versions.iter().map(|one| Standing {
                port,
                version: one.version.clone(),
                role: one.role,
                asked: one.asked_ratio,
                error_in_requests: one.sent as f64 - one.asked_requests,
                in_flight: in_flight(&one.version),
            });
            versions.collect::<Vec<_>>()
        };
        self.accounts.iter().enumerate().flat_map(of_port).collect()
    }
}

/// Seconds for tests of what is made of them.
#[cfg(test)]
pub(crate) mod made_up {
    use super::*;
    pub(crate) use seconds::made_up as second;
}
