//! What should the split be now? PURE and COLD, but for the loop below: observe, build, publish.
//!
//! A source (file, demo script, test) sends what it saw last through [`channel`]; [`run`] compiles it into a snapshot and
//! publishes that. Whatever cannot be compiled is refused, counted and shown, and the last good snapshot keeps serving.

pub mod plan;
pub mod rollout;

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};

use crate::metrics::Metrics;
use crate::route::live::Publisher;
use crate::route::{Generation, Identity, Routing, Snapshot};

/// What a source saw last: always the whole picture, never a difference.
#[derive(Clone, Debug)]
pub struct Observed {
    pub routing: Routing,
    /// Where it comes from, for people: a file's path, `flags`, `demo`.
    pub origin: String,
    /// What an operator should know about it: names that do not resolve, settings that need a restart.
    pub notes: Vec<String>,
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
    pub origin: String,
    /// When the live snapshot was published.
    pub applied_at: Option<SystemTime>,
    pub notes: Vec<String>,
    /// The last refusal, until something good comes from the same place.
    pub refused: Option<(SystemTime, Rejected)>,
}

pub type StatusView = watch::Receiver<Status>;

/// Runs until every sender is gone.
pub async fn run(
    mut observations: Receiver,
    mut publisher: Publisher,
    identity: Identity,
    metrics: Arc<Metrics>,
    status: watch::Sender<Status>,
) {
    while let Some(observation) = observations.recv().await {
        let outcome = observation.and_then(|Observed { routing, origin, notes }| {
            match Snapshot::build(routing, &identity, publisher.current().as_deref()) {
                Ok(snapshot) => Ok((snapshot, origin, notes)),
                Err(error) => Err(Rejected { origin, message: error.to_string() }),
            }
        });
        let now = SystemTime::now();
        match outcome {
            Ok((snapshot, origin, notes)) => {
                let generation = snapshot.generation();
                let split = snapshot.shares().to_string();
                publisher.publish(snapshot);
                metrics.reloads.good.add(1);
                tracing::info!(generation = generation.0, origin, split, "snapshot is live");
                for note in &notes {
                    tracing::warn!(generation = generation.0, origin, "{note}");
                }
                status.send_replace(Status { generation, origin, applied_at: Some(now), notes, refused: None });
            }
            Err(rejected) => {
                metrics.reloads.bad.add(1);
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
