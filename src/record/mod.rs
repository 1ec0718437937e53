//! What is told of single requests: the last ones with the reasons for what became of them, an access log, and traces.
//!
//! COLD, but for [`Pen`], which a worker asks once per request. When a request begins, the worker compares one integer of its
//! own: whether anybody wants to hear of this one. Only then is something written down, and when the request has ended a
//! [`Record`] goes into one bounded queue, or nowhere if that is full. Everything else happens on the cold side, and whoever
//! is slow there loses what was meant for him and nothing else.
//!
//! Knows nothing of the proxy's insides: a record is plain text and numbers.
//!
//! Files, in reading order:
//!
//! * this one: a record, and the way it takes;
//! * `pen`: which requests a worker writes down;
//! * `recent`: the last ones, for people who look;
//! * `access_log`: a line for each that was chosen;
//! * `context`: where a request belongs in a trace;
//! * `export`: spans for a collector; `client` carries them over HTTP.

pub mod access_log;
mod client;
pub mod context;
pub mod export;
mod pen;
mod recent;

pub use pen::Pen;
pub use recent::Recent;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use crate::metrics::{Exemplar, Metrics};
use crate::route::{Reason, Role, VersionHash};
use access_log::Log;
use context::{Context, SpanId};
use export::{Spans, Tracing};

/// Records that wait for the cold side. Each is a few hundred bytes, and at most [`Record::LONGEST`] times the texts it has.
const QUEUE: usize = 4096;

/// The most that is taken from the queue at once.
const BATCH: usize = 256;

/// How long records gather: a worker then does not have to wake anybody for each.
const GATHER: Duration = Duration::from_millis(10);

/// How long it may take at the end of the process until everything is told that waits.
pub const LAST_WORDS: Duration = Duration::from_secs(4);

/// Who wants to hear of requests. None of it changes while the process runs.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `None`: no access log.
    pub access_log: Option<access_log::Settings>,
    /// `None`: no traces, and what headers say of them is passed on as it is.
    pub tracing: Option<Tracing>,
}

/// Who wants to hear of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub recent: bool,
    pub line: bool,
    pub spans: bool,
}

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
    /// The last word of a call of gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
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
    /// A version that was asked first and failed, if another try then went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
    /// From the head of the request to the last byte of its answer.
    #[serde(rename = "duration_seconds", serialize_with = "as_seconds")]
    pub duration: Duration,
    /// Whether it is in the metrics, too.
    #[serde(skip)]
    pub is_counted: bool,
    #[serde(skip)]
    pub wanted: Wanted,
    /// Where there are spans of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// `None`: it was not written down when the request began.
    #[serde(skip)]
    pub details: Option<Box<Details>>,
}

/// A try that failed, and for whose request another one went well.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    pub version: String,
    #[serde(serialize_with = "as_name")]
    pub role: Role,
    pub failure: &'static str,
}

/// What only lines and spans tell.
#[derive(Clone, Debug)]
pub struct Details {
    /// The host and port that the client asked for.
    pub server: (String, u16),
    /// As trusted proxies have it, and at the other end of the connection.
    pub client: IpAddr,
    pub peer: SocketAddr,
    pub secure: bool,
    /// `1.0`, `1.1` or `2`.
    pub protocol: &'static str,
    pub user_agent: Option<String>,
    /// In queues of busy endpoints, and for connections, over all tries.
    pub queue: Duration,
    pub connect: Duration,
    /// From the moment the last try could be sent to the head of its answer.
    pub first_byte: Option<Duration>,
    pub tries: Vec<Try>,
    /// `None`: there are no traces here.
    pub context: Option<Context>,
    /// `tracestate` of the trace that is continued, as it came.
    pub trace_state: Option<String>,
}

/// One endpoint that was asked.
#[derive(Clone, Debug)]
pub struct Try {
    pub span: SpanId,
    /// After the request.
    pub began: Duration,
    pub took: Duration,
    pub endpoint: SocketAddr,
    pub secure: bool,
    pub version: String,
    pub role: Role,
    pub status: Option<u16>,
    pub failure: Option<&'static str>,
}

impl Failed {
    /// The first of several.
    pub fn of(tries: &[Try]) -> Option<Self> {
        let (last, earlier) = tries.split_last()?;
        let one = earlier.iter().find(|_| last.failure.is_none()).filter(|one| one.failure.is_some())?;
        Some(Self { version: one.version.clone(), role: one.role, failure: one.failure? })
    }
}

impl Details {
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

impl Record {
    /// Bytes of a text that are kept, so that the queue has a bound in bytes, too.
    pub const LONGEST: usize = 1024;

    /// Whether it belongs to those that are always kept: something went wrong on our way, in a try of
    /// several, or in the application.
    pub fn is_failure(&self) -> bool {
        self.failure.is_some() || self.code >= 500 || self.failed.is_some()
    }

    /// OpenTelemetry's `error.type`: our word for what went wrong, or the application's status.
    pub fn error_type(&self) -> Option<String> {
        let status = || (self.code >= 500).then(|| self.status.unwrap_or(self.code).to_string());
        self.failure.map(str::to_owned).or_else(status)
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

fn as_name<S: Serializer>(role: &Role, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(role.as_str())
}

fn as_role<S: Serializer>(role: &Option<Role>, serializer: S) -> Result<S::Ok, S::Error> {
    role.map(Role::as_str).serialize(serializer)
}

fn as_reason<S: Serializer>(reason: &Option<Reason>, serializer: S) -> Result<S::Ok, S::Error> {
    reason.map(Reason::as_str).serialize(serializer)
}

/// The workers' end of the queue; each worker makes its [`Pen`] from it.
#[derive(Clone)]
pub struct Sender {
    records: mpsc::Sender<Box<Record>>,
    settings: Arc<Settings>,
}

/// The cold side's end.
pub struct Receiver {
    records: mpsc::Receiver<Box<Record>>,
    settings: Arc<Settings>,
}

pub fn channel(settings: Settings) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let settings = Arc::new(settings);
    (Sender { records: sender, settings: settings.clone() }, Receiver { records: receiver, settings })
}

impl Receiver {
    /// Hands every record on, until no worker is left. An error is that of opening the access log.
    pub fn run(mut self, recent: Recent, metrics: Arc<Metrics>) -> io::Result<impl Future<Output = ()>> {
        let log = self.settings.access_log.as_ref().map(|log| Log::start(log.format, metrics.clone())).transpose()?;
        let spans = self.settings.tracing.as_ref().map(|tracing| Spans::start(tracing, metrics.clone()));
        Ok(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while self.records.recv_many(&mut batch, BATCH).await > 0 {
                let is_all = batch.len() < BATCH;
                for mut record in batch.drain(..) {
                    record.port = metrics.ports()[record.port_number].as_str().to_owned();
                    record.route = metrics.route_name(record.route_number);
                    hand_on(record, &recent, &metrics, log.as_ref(), spans.as_ref());
                }
                if is_all {
                    tokio::time::sleep(GATHER).await;
                }
            }
            if let Some(log) = log {
                log.end().await;
            }
            if let Some(spans) = spans {
                spans.end().await;
            }
        })
    }
}

fn hand_on(record: Box<Record>, recent: &Recent, metrics: &Metrics, log: Option<&Log>, spans: Option<&Spans>) {
    let Wanted { recent: shown, line, spans: traced } = record.wanted;
    if let Some(spans) = spans.filter(|_| traced) {
        spans.send(&record);
        if let (true, Some(version), Some(role), Some(trace)) =
            (record.is_counted, &record.version, record.role, &record.trace_id)
        {
            let (ns, time) = (record.duration.as_nanos() as u64, record.time + record.duration);
            let exemplar = Exemplar { trace: trace.clone(), ns, time };
            metrics.exemplars.keep(record.port_number, VersionHash::new(version), role, exemplar);
        }
    }
    match log.filter(|_| line) {
        Some(log) if shown => {
            recent.keep(Record::clone(&record));
            log.log(record);
        }
        Some(log) => log.log(record),
        None if shown => recent.keep(*record),
        None => {}
    }
}
