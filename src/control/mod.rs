//! What should the split be now? PURE and COLD, but for the loop below: observe, build, publish.
//!
//! A source (file, demo script, test) sends what it saw last through [`channel`]; [`run`] compiles it into a snapshot and
//! publishes that. Whatever cannot be compiled is refused, counted and shown, and the last good snapshot keeps serving.

pub mod cluster;
pub mod plan;
pub mod rollout;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, watch};

use crate::metrics::Metrics;
use crate::route::live::Publisher;
use crate::route::picker::Turn;
use crate::route::{Checked, Generation, Identity, PortName, Routing, Snapshot};

/// What a source saw last: always the whole picture, never a difference.
#[derive(Clone, Debug)]
pub struct Observed {
    /// One per port, in the order of the settings.
    pub routings: Vec<Routing>,
    /// Where it comes from, for people: a file's path, `flags`, `demo`.
    pub origin: String,
    /// What an operator should know about it: names that do not resolve, settings that need a restart.
    pub notes: Vec<String>,
    /// The source has said something since that was refused, and has not taken it back: what changed now came from
    /// elsewhere, such as a name's addresses.
    pub refusal_stands: bool,
    /// This process's place among its replicas, if the source knows it; else the one from the start stays.
    pub turn: Option<Turn>,
    /// When the news behind it came in, if the source measures that.
    pub since: Option<Instant>,
    /// The `metadata.generation` of the Rollout that it was planned for.
    pub rollout_generation: Option<i64>,
}

impl Observed {
    /// What nothing need be said about.
    pub fn plain(routings: Vec<Routing>, origin: &str) -> Self {
        Self {
            routings,
            origin: origin.to_owned(),
            notes: Vec::new(),
            refusal_stands: false,
            turn: None,
            since: None,
            rollout_generation: None,
        }
    }
}

/// A source found something that it could not read.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub origin: String,
    /// The whole explanation; may have several lines.
    pub message: String,
}

pub type Sender = mpsc::Sender<Result<Observed, Rejected>>;
pub type Receiver = mpsc::Receiver<Result<Observed, Rejected>>;

/// Room for one: a source that is faster than the loop waits, and then sends what is newest.
pub fn channel() -> (Sender, Receiver) {
    mpsc::channel(1)
}

/// How the last changes went. Read by the admin listener, and by whoever waits for a change to be live.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The number of the live snapshot; 0 before the first.
    pub generation: Generation,
    /// The `metadata.generation` of the Rollout that the live snapshot was planned for, if one is followed.
    pub rollout_generation: Option<i64>,
    pub origin: String,
    /// When the live snapshot was published.
    pub applied_at: Option<SystemTime>,
    pub notes: Vec<String>,
    /// The last refusal, until something good comes from the same place.
    pub refused: Option<(SystemTime, Rejected)>,
}

pub type StatusView = watch::Receiver<Status>;

/// Told while it happens, to whoever keeps the history.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A snapshot has just come into force.
    Live {
        generation: Generation,
        origin: &'a str,
    },
    Refused(&'a Rejected),
}

/// Runs until every sender is gone. `tell` must not wait.
pub async fn run(
    mut observations: Receiver,
    mut publisher: Publisher,
    identity: Identity,
    metrics: Arc<Metrics>,
    status: watch::Sender<Status>,
    tell: impl Fn(News<'_>),
) {
    // Every port keeps its identity for life.
    let mut ports: Vec<(PortName, Identity)> =
        metrics.ports().iter().map(|port| (port.clone(), identity.at(port))).collect();
    while let Some(observation) = observations.recv().await {
        let outcome = observation.and_then(|observed| {
            let Observed { routings, origin, notes, refusal_stands, turn, since, rollout_generation } = observed;
            if let Some(turn) = turn {
                ports.iter_mut().for_each(|(_, identity)| identity.turn = turn);
            }
            match compile(routings, &ports, &publisher) {
                Ok(snapshots) => Ok((snapshots, origin, notes, refusal_stands, since, rollout_generation)),
                Err(message) => Err(Rejected { origin, message }),
            }
        });
        let now = SystemTime::now();
        match outcome {
            Ok((snapshots, origin, notes, refusal_stands, since, rollout_generation)) => {
                let split = splits(&snapshots, &ports);
                publisher.publish(snapshots);
                metrics.published(now);
                let generation = publisher.generation();
                tell(News::Live { generation, origin: &origin });
                metrics.reloads.good.add(1);
                if let Some(since) = since {
                    metrics.api.propagation.record(since.elapsed().as_nanos() as u64);
                }
                tracing::info!(generation = generation.0, origin, split, "snapshot is live");
                for note in &notes {
                    tracing::warn!(generation = generation.0, origin, "{note}");
                }
                status.send_modify(|status| {
                    let refused = status.refused.take().filter(|_| refusal_stands);
                    metrics.changed.refused.set(u64::from(refused.is_some()));
                    *status = Status { generation, rollout_generation, origin, applied_at: Some(now), notes, refused };
                });
            }
            Err(rejected) => {
                metrics.reloads.bad.add(1);
                tell(News::Refused(&rejected));
                metrics.changed.refused.set(1);
                tracing::error!(
                    origin = rejected.origin,
                    "refused, the last good state keeps serving: {}",
                    rejected.message
                );
                status.send_modify(|status| status.refused = Some((now, rejected)));
            }
        }
    }
}

/// The snapshots of all ports, or why one of them cannot be. A split is in force once it is built, so everything that can
/// fail comes first, for every port: a refusal of one leaves all of them as they are.
fn compile(
    routings: Vec<Routing>,
    ports: &[(PortName, Identity)],
    publisher: &Publisher,
) -> Result<Vec<Snapshot>, String> {
    if routings.len() != ports.len() {
        return Err(format!("expected a routing for each of {} ports, found {}", ports.len(), routings.len()));
    }
    let checked = routings
        .into_iter()
        .zip(ports)
        .map(|(routing, (port, _))| Snapshot::check(routing).map_err(|error| at(port, &error.to_string())))
        .collect::<Result<Vec<_>, _>>()?;
    let build = |(i, checked): (usize, Checked)| checked.build(&ports[i].1, publisher.current(i).as_deref());
    Ok(checked.into_iter().enumerate().map(build).collect())
}

/// Every port's split, for people.
fn splits(snapshots: &[Snapshot], ports: &[(PortName, Identity)]) -> String {
    let split = |(snapshot, (port, _)): (&Snapshot, &(PortName, _))| at(port, &snapshot.shares().to_string());
    snapshots.iter().zip(ports).map(split).collect::<Vec<_>>().join("; ")
}

fn at(port: &PortName, text: &str) -> String {
    if port.is_unnamed() { text.to_owned() } else { format!("port {}: {text}", port.as_str()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::policy::Policy;
    use crate::route::{Backend, Role, Shares, VersionHash};

    fn observed(refusal_stands: bool) -> Result<Observed, Rejected> {
        let version = VersionHash::new("stable");
        let backend = Backend {
            version: version.clone(),
            role: Role::Stable,
            endpoints: [].into(),
            transport: Default::default(),
        };
        let routing = Routing {
            backends: vec![backend],
            split: Shares::new(vec![(version, 1)]).unwrap(),
            routes: Vec::new(),
            sticky: None,
            override_: None,
            policy: Policy::default(),
        };
        Ok(Observed { notes: vec!["note".to_owned()], refusal_stands, ..Observed::plain(vec![routing], "test") })
    }

    /// What the source could read, and nothing can serve: no backend at all.
    fn impossible() -> Result<Observed, Rejected> {
        let mut observed = observed(false)?;
        observed.routings[0].backends.clear();
        Ok(observed)
    }

    fn rejected() -> Result<Observed, Rejected> {
        Err(Rejected { origin: "test".to_owned(), message: "not read".to_owned() })
    }

    /// Follows these observations; returns the last state, and how many were good and bad.
    async fn after(observations: Vec<Result<Observed, Rejected>>) -> (Status, u64, u64) {
        let (sender, receiver) = channel();
        let (publisher, live) = crate::route::live::channel(1);
        let metrics = Arc::new(Metrics::new(1, live, vec![PortName::default()]));
        let (status, view) = watch::channel(Status::default());
        let follow = tokio::spawn(run(receiver, publisher, Identity::random(), metrics.clone(), status, |_| ()));
        for observation in observations {
            sender.send(observation).await.unwrap();
        }
        drop(sender);
        follow.await.unwrap();
        (view.borrow().clone(), metrics.reloads.good.get(), metrics.reloads.bad.get())
    }

    fn refusal(status: &Status) -> Option<&str> {
        status.refused.as_ref().map(|(_, rejected)| rejected.message.as_str())
    }

    #[tokio::test]
    async fn what_is_refused_is_counted_and_shown_beside_the_last_good_state() {
        for (bad, part) in [(rejected(), "not read"), (impossible(), "no backend")] {
            let (status, good, refused) = after(vec![observed(false), bad]).await;
            assert_eq!((status.generation, good, refused), (Generation(1), 1, 1));
            assert!(refusal(&status).is_some_and(|message| message.contains(part)), "{status:?}");
            assert_eq!(status.notes, ["note"], "what is live has its own notes");
        }
    }

    #[tokio::test]
    async fn a_refusal_goes_with_the_next_good_word_of_its_source_and_with_nothing_else() {
        let (status, ..) = after(vec![observed(false), rejected(), observed(true)]).await;
        assert_eq!((status.generation, refusal(&status)), (Generation(2), Some("not read")));
        let (status, ..) = after(vec![observed(false), rejected(), observed(true), observed(false)]).await;
        assert_eq!((status.generation, refusal(&status)), (Generation(3), None));
    }

    #[tokio::test]
    async fn nothing_is_live_after_a_bad_start() {
        let (status, good, bad) = after(vec![impossible()]).await;
        assert_eq!((status.generation, good, bad), (Generation(0), 0, 1));
        assert!(refusal(&status).is_some());
    }
}
