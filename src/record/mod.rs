//! What is remembered of single requests: the last ones with the reasons for what became of them.
//!
//! COLD, but for [`Pen`], which a worker asks once per request. When a request begins, the worker compares one integer of its
//! own: whether anybody wants to hear of this one. Only then is something written down, and when the request has ended a
//! [`Record`] goes into one bounded queue, or nowhere if that is full. Everything else happens on the cold side.
//!
//! Knows nothing of the proxy's insides: a record is plain text and numbers.
//!
//! Files, in reading order:
//!
//! * this one: a record, and the way it takes;
//! * `pen`: which requests a worker writes down;
//! * `recent`: the last ones, for people who look.

mod pen;
mod recent;

pub use pen::Pen;
pub use recent::Recent;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::route::{Reason, Role};

/// Records that wait for the cold side. Each is a few hundred bytes, and at most [`Record::LONGEST`] times the texts it has.
const QUEUE: usize = 4096;

/// The most that is taken from the queue at once.
const BATCH: usize = 256;

/// How long records gather: a worker then does not have to wake anybody for each.
const GATHER: Duration = Duration::from_millis(10);

/// One request that has ended.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// When its head was there.
    #[serde(serialize_with = "as_rfc3339")]
    pub time: SystemTime,
    /// The number of the application's port.
    #[serde(skip)]
    pub port_number: usize,
    /// That port's name, if it has one. Filled in on the cold side.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port: String,
    /// `None`: it was not written down when the request began.
    pub method: Option<String>,
    /// Without its query.
    pub path: Option<String>,
    /// What the client was told; `None` if it went away before.
    pub status: Option<u16>,
    /// The `code` of the metrics: of a call of gRPC what its own status means in HTTP, and 499 without an answer.
    pub code: u16,
    pub version: Option<String>,
    #[serde(serialize_with = "as_role")]
    pub role: Option<Role>,
    #[serde(serialize_with = "as_reason")]
    pub reason: Option<Reason>,
    /// [`Labels::route`](crate::metrics::Labels), and its name, which is filled in on the cold side.
    #[serde(skip)]
    pub route_number: u16,
    pub route: Option<String>,
    /// What went wrong on our way, in one word.
    pub failure: Option<&'static str>,
    /// From the head of the request to the last byte of its answer.
    #[serde(rename = "duration_seconds", serialize_with = "as_seconds")]
    pub duration: Duration,
}

impl Record {
    /// Bytes of a text that are kept, so that the queue has a bound in bytes, too.
    pub const LONGEST: usize = 1024;

    /// Whether it belongs to those that are always kept: something went wrong on our way, or in the application.
    pub fn is_failure(&self) -> bool {
        self.failure.is_some() || self.code >= 500
    }
}

/// A text of a request, cut to a bearable length.
pub fn kept(text: &[u8]) -> String {
    let cut = &text[..text.len().min(Record::LONGEST)];
    String::from_utf8_lossy(cut).into_owned()
}

fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn as_role<S: Serializer>(role: &Option<Role>, serializer: S) -> Result<S::Ok, S::Error> {
    role.map(Role::as_str).serialize(serializer)
}

fn as_reason<S: Serializer>(reason: &Option<Reason>, serializer: S) -> Result<S::Ok, S::Error> {
    reason.map(Reason::as_str).serialize(serializer)
}

/// The workers' end of the queue; each worker makes its [`Pen`] from it.
#[derive(Clone)]
pub struct Sender(mpsc::Sender<Box<Record>>);

/// The cold side's end.
pub struct Receiver(mpsc::Receiver<Box<Record>>);

pub fn channel() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Sender(sender), Receiver(receiver))
}

impl Receiver {
    /// Hands every record on, until no worker is left.
    pub async fn run(mut self, recent: Recent, metrics: Arc<Metrics>) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.0.recv_many(&mut batch, BATCH).await > 0 {
            let is_all = batch.len() < BATCH;
            for mut record in batch.drain(..) {
                record.port = metrics.ports()[record.port_number].as_str().to_owned();
                record.route = metrics.route_name(record.route_number);
                recent.keep(*record);
            }
            if is_all {
                tokio::time::sleep(GATHER).await;
            }
        }
    }
}
