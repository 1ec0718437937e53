//! From what the API server has said to what is observed: the stage between a source that watches a Rollout and the loop
//! that compiles. COLD: it plans anew whenever something is seen, and when a plan asks to be woken.
//!
//! A source says what it saw, and decides nothing; what to serve for it is [`plan`]'s to say. A picture that changes
//! nothing about routing, nor the generation that it was planned for, is not compiled again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::route::bucket::Sticky;
use crate::route::picker::Turn;
use crate::route::policy::Policy;
use crate::route::transport::{Protocol, Transport};
use crate::route::{Action, Override, Role, Route, Routing, Shares, VersionHash};

use super::plan::{Applied, Endpoint, Moment, ObservedCluster, Options, Service, plan};
use super::rollout::{Fact, Progress, Rollout, progress};
use super::{Observed, Sender};

/// Everything that a source knows now.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// `None` until every list that it is made of was complete once.
    pub cluster: Option<Arc<Cluster>>,
    pub overlay: Arc<Overlay>,
    pub contact: Contact,
    /// When the first of the news in this picture came in.
    pub since: Option<Instant>,
}

/// What the API server holds about one Rollout: always the whole picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// `None`: it is known not to exist.
    pub rollout: Option<Rollout>,
    /// For each port of the proxy, by pod-template hash.
    pub ports: Vec<BTreeMap<VersionHash, Vec<Endpoint>>>,
    /// For each port of the proxy, what the stable Service says about it. Shorter where nothing is known.
    pub spoken: Vec<AppProtocol>,
    /// The Services that the Rollout names; `None` if they may not be read.
    pub services: Option<Vec<Service>>,
    /// What the source noticed: a missing permission, a port that no pod has.
    pub notes: Vec<String>,
    /// This proxy's place among its replicas; `None` if it is not known to have any.
    pub turn: Option<Turn>,
    /// The addresses of all ready replicas of this proxy, without their ports.
    pub peers: Vec<std::net::IpAddr>,
    /// When it was saved, if it comes from a file because the API server could not be asked.
    pub saved_at: Option<SystemTime>,
}

/// Whether the source hears from the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Contact {
    #[default]
    Connecting,
    Connected,
    /// What was known stays in force.
    Lost {
        since: SystemTime,
        error: String,
    },
}

/// A Service port's `appProtocol` (KEP-3726), as far as it concerns how endpoints are spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    /// Nothing, or a name that asks for nothing: `http`, `kubernetes.io/ws`.
    #[default]
    Http1,
    /// `kubernetes.io/h2c`: HTTP/2 in clear by prior knowledge.
    H2c,
    /// `https` or `kubernetes.io/wss`. Whom to trust it does not say, so it is not followed.
    Tls,
}

/// What a file adds to a Rollout: everything but backends and the split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    /// They come after those of the Rollout. Where they lead is a *role*, of which `stable` and `canary` are written as if
    /// they were versions: which versions these are changes with the Rollout.
    pub routes: Vec<Route>,
    pub sticky: Option<Sticky>,
    pub override_: Option<Override>,
    pub policy: Policy,
    /// How every version's endpoints are spoken to. `None`: as the Service's port says.
    pub transport: Option<Transport>,
    /// What an operator should know about the file.
    pub notes: Vec<String>,
    /// A newer text of the file was refused, and that stands.
    pub refusal_stands: bool,
}

/// How following goes, for the admin listener and for `check`.
#[derive(Clone, Debug, Default)]
pub struct Following {
    /// `NAMESPACE/NAME`.
    pub rollout: String,
    pub contact: Contact,
    /// The Rollout's `metadata.generation` in the picture that is served.
    pub rollout_generation: Option<i64>,
    pub saved_at: Option<SystemTime>,
    /// When something was last heard that changed the picture.
    pub heard_at: Option<SystemTime>,
    pub notes: Vec<String>,
    /// What is wrong with the annotation `splitway.dev/routes`, in the form of the API server's messages.
    pub annotation_error: Option<String>,
    pub turn: Option<Turn>,
    pub peers: Vec<std::net::IpAddr>,
    /// Where the Rollout stands. `None` until every list was complete once.
    pub progress: Option<Progress>,
}

pub type FollowingView = watch::Receiver<Following>;

/// Follows `seen` until its source or the loop is gone.
pub async fn follow(
    rollout: String,
    mut seen: watch::Receiver<Seen>,
    observations: Sender,
    following: watch::Sender<Following>,
    metrics: Arc<Metrics>,
) {
    let started = Instant::now();
    let mut planner = Planner::default();
    let mut last: Option<Observed> = None;
    let mut notes = Vec::new();
    // What a plan does by itself, because its time has come, is no news of the API server.
    let mut is_news = true;
    loop {
        let now = seen.borrow_and_update().clone();
        tell(&rollout, &now, &following, &metrics);
        let mut wake_at = None;
        if let Some(cluster) = &now.cluster {
            if let Some(rollout) = &cluster.rollout {
                metrics.api.name(rollout.names());
            }
            let generation = cluster.rollout.as_ref().and_then(|rollout| rollout.metadata.generation);
            let planned = planner.plan(cluster, &now.overlay, started.elapsed());
            wake_at = planned.wake_at;
            for note in planned.notes.iter().filter(|note| !notes.contains(*note)) {
                tracing::warn!(rollout, "{note}");
            }
            metrics.api.annotation_refused.set(u64::from(planned.problem.is_some()));
            notes = planned.notes;
            following.send_modify(|following| {
                following.notes = notes.clone();
                following.annotation_error = planned.problem.clone();
                following.rollout_generation = generation;
                following.progress = Some(stands(cluster, &following.notes));
            });
            // The first snapshot makes the proxy ready: it waits until requests can be answered. Later ones are published
            // whatever they say.
            let may_serve = |routings: &Vec<Routing>| last.is_some() || routings.iter().all(has_endpoints);
            if let Some(routings) = planned.routings.filter(may_serve) {
                let plain = Observed::plain(routings, &format!("rollout {rollout}"));
                let refusal_stands = now.overlay.refusal_stands;
                let since = now.since.filter(|_| is_news);
                let observed =
                    Observed { turn: cluster.turn, since, refusal_stands, rollout_generation: generation, ..plain };
                if last.as_ref().is_none_or(|last| is_new(last, &observed)) {
                    last = Some(observed.clone());
                    if observations.send(Ok(observed)).await.is_err() {
                        return;
                    }
                }
                metrics.api.generation.set(generation.map_or(0, |generation| u64::try_from(generation).unwrap_or(0)));
            }
        }
        let woken = async {
            match wake_at {
                Some(at) => tokio::time::sleep(at.saturating_sub(started.elapsed())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = seen.changed() => {
                if changed.is_err() {
                    return;
                }
                is_news = true;
            }
            () = woken => is_news = false,
            () = observations.closed() => return,
        }
    }
}

/// With what the plan has to say about it: waiting for an endpoint, a version that nobody answers for.
fn stands(cluster: &Cluster, notes: &[String]) -> Progress {
    let ready = |version: &VersionHash| {
        let endpoints = cluster.ports.first().and_then(|versions| versions.get(version));
        let mut ready: Vec<_> =
            endpoints.into_iter().flatten().filter(|one| one.ready).map(|one| one.address).collect();
        ready.sort();
        ready.dedup();
        ready.len()
    };
    let mut progress = progress(cluster.rollout.as_ref(), ready);
    progress.why.extend(notes.iter().map(|note| Fact::new(note.as_str(), "")));
    progress
}

fn has_endpoints(routing: &Routing) -> bool {
    routing.backends.iter().any(|backend| !backend.endpoints.is_empty())
}

/// Whether there is something to compile, a refusal to take back, or a newer Rollout that asks for the same.
fn is_new(last: &Observed, next: &Observed) -> bool {
    last.routings != next.routings
        || last.turn != next.turn
        || last.refusal_stands && !next.refusal_stands
        || last.rollout_generation != next.rollout_generation
}

/// What does not wait for a plan: who is heard, and whom we share the work with.
fn tell(rollout: &str, seen: &Seen, following: &watch::Sender<Following>, metrics: &Metrics) {
    let api = &metrics.api;
    api.connected.set(u64::from(seen.contact == Contact::Connected));
    let cluster = seen.cluster.as_deref();
    api.saved.set(u64::from(cluster.is_some_and(|cluster| cluster.saved_at.is_some())));
    following.send_modify(|following| {
        if following.contact != seen.contact {
            match &seen.contact {
                Contact::Connecting => {}
                Contact::Connected => tracing::info!(rollout, "the API server is heard"),
                Contact::Lost { error, .. } => {
                    tracing::warn!(rollout, "the API server is not heard; the last state goes on serving: {error}")
                }
            }
        }
        following.rollout = rollout.to_owned();
        following.contact = seen.contact.clone();
        if let Some(cluster) = cluster {
            if cluster.saved_at.is_some() && following.saved_at.is_none() {
                tracing::warn!(rollout, "serving the state that was saved, until the API server is heard");
            }
            following.saved_at = cluster.saved_at;
            following.turn = cluster.turn;
            following.peers = cluster.peers.clone();
        }
        if seen.since.is_some() {
            following.heard_at = Some(SystemTime::now());
        }
    });
}

/// Remembers, for each port, what the next plan has to know about the last, and what was to be served for it.
#[derive(Default)]
struct Planner {
    ports: Vec<(Option<Applied>, Option<Routing>)>,
}

struct Planned {
    /// `None`: there is a port for which nothing can be served yet.
    routings: Option<Vec<Routing>>,
    notes: Vec<String>,
    /// With the annotation. The same for every port.
    problem: Option<String>,
    wake_at: Option<Moment>,
}

impl Planner {
    fn plan(&mut self, cluster: &Cluster, overlay: &Overlay, now: Moment) -> Planned {
        self.ports.resize(cluster.ports.len(), (None, None));
        let mut notes: Vec<String> = cluster.notes.iter().chain(&overlay.notes).cloned().collect();
        let (mut wake_at, mut problem): (Option<Moment>, _) = (None, None);
        if overlay.transport.is_none() && cluster.spoken.contains(&AppProtocol::Tls) {
            notes.push(
                "the Service's port has an `appProtocol` of TLS, and the endpoints are spoken to in clear: say whom to \
                 trust, with `upstream: { tls: { ca: FILE } }` in the file (--config)"
                    .to_owned(),
            );
        }
        for (endpoints, (applied, served)) in cluster.ports.iter().zip(&mut self.ports) {
            let observed = ObservedCluster {
                rollout: cluster.rollout.clone(),
                endpoints: endpoints.clone(),
                services: cluster.services.clone(),
                options: Options::default(),
            };
            let plan = plan(&observed, applied.as_ref(), now);
            *applied = plan.applied.or(applied.take());
            *served = plan.routing.or(served.take());
            // What is true of the Rollout is said once, not for each port.
            notes.extend(plan.notes.into_iter().filter(|note| !notes.contains(note)).collect::<Vec<_>>());
            problem = plan.problem;
            wake_at = [wake_at, plan.wake_at].into_iter().flatten().min();
        }
        let spoken = cluster.spoken.iter().copied().chain(std::iter::repeat(AppProtocol::default()));
        let routings = self.ports.iter().zip(spoken);
        let routings = routings.map(|((_, served), spoken)| Some(overlaid(served.clone()?, overlay, spoken)));
        Planned { routings: routings.collect(), notes, problem, wake_at }
    }
}

/// The file's part over the Rollout's. The Rollout's routes come first: so does Argo Rollouts rank managed routes.
fn overlaid(mut routing: Routing, overlay: &Overlay, spoken: AppProtocol) -> Routing {
    let has = |role: Role| routing.backends.iter().find(|backend| backend.role == role).map(|one| one.version.clone());
    let (stable, canary) = (has(Role::Stable), has(Role::Canary));
    let meant = |named: &VersionHash| match named.as_str() {
        "stable" => stable.clone(),
        "canary" => canary.clone(),
        _ => Some(named.clone()),
    };
    let taken: Vec<_> = routing.routes.iter().map(|route| route.name.clone()).collect();
    let routes = overlay.routes.iter().filter(|route| !taken.contains(&route.name)).filter_map(|route| {
        // A role that nobody has now: requests fall through to the split.
        let action = match &route.action {
            Action::Send(named) => Action::Send(meant(named)?),
            Action::Mirror { to, share } => Action::Mirror { to: meant(to)?, share: *share },
            Action::Split(shares) => {
                let weights = shares.weights().iter().map(|(named, weight)| Some((meant(named)?, *weight)));
                Action::Split(Shares::new(weights.collect::<Option<_>>()?).ok()?)
            }
        };
        Some(Route { action, ..route.clone() })
    });
    let routes: Vec<Route> = routes.collect();
    routing.routes.extend(routes);
    routing.sticky = overlay.sticky.clone();
    routing.override_ = overlay.override_.clone();
    routing.policy = overlay.policy.clone();
    let protocol = if spoken == AppProtocol::H2c { Protocol::Http2 } else { Protocol::Http1 };
    let transport = overlay.transport.clone().unwrap_or(Transport { protocol, tls: None });
    for backend in &mut routing.backends {
        backend.transport = transport.clone();
    }
    routing
}
