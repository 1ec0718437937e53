//! A line for each request that was chosen, on stdout. The program's own log goes to stderr.
//!
//! Lines are made and written by a thread of their own, because whoever reads a pipe may stop reading. Then its queue fills
//! up, and what does not fit is counted and forgotten; nobody else waits.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use super::{Details, QUEUE, Record};
use crate::metrics::Metrics;
use crate::route::{Role, Share};

/// The most lines that are written at once.
const AT_ONCE: usize = 256;

/// How long the last lines may take at the end of the process.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub format: Format,
    /// The part of those that went well. Those that failed are all logged.
    pub sample: Share,
    /// Only requests that a version in this role answered.
    pub only: Option<Role>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One object per line, its members named as OpenTelemetry names attributes.
    Json,
    /// For people.
    Text,
}

/// The way to the thread that writes.
pub struct Log {
    lines: SyncSender<Box<Record>>,
    ended: oneshot::Receiver<()>,
    metrics: Arc<Metrics>,
}

impl Log {
    pub fn start(format: Format, metrics: Arc<Metrics>) -> io::Result<Self> {
        // A handle of our own: the process may print something else meanwhile, and must not wait for us.
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let (lines, queue) = sync_channel(QUEUE);
        let (end, ended) = oneshot::channel();
        let counted = metrics.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write(&queue, out, format, &counted);
            // Nobody waits for it, unless the process ends.
            let _ = end.send(());
        })?;
        Ok(Self { lines, ended, metrics })
    }

    pub fn log(&self, record: Box<Record>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.lines.try_send(record) {
            self.metrics.records.lines_dropped.add(1);
        }
    }

    /// Waits for the last lines, but not long.
    pub async fn end(self) {
        drop(self.lines);
        let _ = tokio::time::timeout(LAST_LINES, self.ended).await;
    }
}

/// Until nobody can send any more.
fn write(queue: &Receiver<Box<Record>>, mut out: File, format: Format, metrics: &Metrics) {
    let mut text = String::new();
    let mut works = true;
    while let Ok(first) = queue.recv() {
        let mut lines = 0;
        for record in std::iter::once(first).chain(queue.try_iter().take(AT_ONCE - 1)) {
            line(&mut text, &record, format);
            lines += 1;
        }
        let written = out.write_all(text.as_bytes());
        text.clear();
        match &written {
            Ok(()) => metrics.records.lines_written.add(lines),
            Err(_) => metrics.records.lines_failed.add(lines),
        }
        if let Err(error) = &written
            && works
        {
            tracing::warn!("the access log cannot be written to stdout: {error}; its lines are lost until that ends");
        }
        works = written.is_ok();
    }
}

fn line(text: &mut String, record: &Record, format: Format) {
    match format {
        Format::Json => match serde_json::to_string(&Line::of(record)) {
            Ok(line) => text.push_str(&line),
            Err(error) => tracing::error!("a line of the access log cannot be made: {error}"),
        },
        Format::Text => for_people(text, record).expect("writing to a string cannot fail"),
    }
    text.push('\n');
}

/// One object. No header field is ever read for it but the host and the client's name of itself: no `Authorization`, no
/// `Cookie`. The query is left out, because tokens travel in it.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    #[serde(rename = "http.request.method", skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(rename = "url.scheme", skip_serializing_if = "Option::is_none")]
    scheme: Option<&'static str>,
    #[serde(rename = "url.path", skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(rename = "http.response.status_code", skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(rename = "rpc.grpc.status_code", skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    #[serde(rename = "error.type", skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "server.address", skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(rename = "server.port", skip_serializing_if = "Option::is_none")]
    server_port: Option<u16>,
    #[serde(rename = "client.address", skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(rename = "network.peer.address", skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(rename = "network.protocol.version", skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(rename = "user_agent.original", skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(rename = "http.request.resend_count", skip_serializing_if = "Option::is_none")]
    resent: Option<usize>,
    #[serde(rename = "splitway.port", skip_serializing_if = "str::is_empty")]
    port: &'a str,
    #[serde(rename = "splitway.version", skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(rename = "splitway.role", skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(rename = "splitway.reason", skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(rename = "splitway.route", skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(rename = "splitway.failure", skip_serializing_if = "Option::is_none")]
    failure: Option<&'static str>,
    #[serde(rename = "splitway.failed.version", skip_serializing_if = "Option::is_none")]
    failed_version: Option<&'a str>,
    #[serde(rename = "splitway.failed.role", skip_serializing_if = "Option::is_none")]
    failed_role: Option<&'static str>,
    #[serde(rename = "splitway.failed.failure", skip_serializing_if = "Option::is_none")]
    failed_failure: Option<&'static str>,
    #[serde(rename = "splitway.endpoint", skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(rename = "splitway.duration.queue", skip_serializing_if = "Option::is_none")]
    queue: Option<f64>,
    #[serde(rename = "splitway.duration.connect", skip_serializing_if = "Option::is_none")]
    connect: Option<f64>,
    #[serde(rename = "splitway.duration.first_byte", skip_serializing_if = "Option::is_none")]
    first_byte: Option<f64>,
    #[serde(rename = "splitway.duration.total")]
    total: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record) -> Self {
        let details = record.details.as_deref();
        let tries = details.map_or(&[][..], |details| &details.tries);
        let waited = |wait: fn(&Details) -> Duration| {
            details.filter(|details| !details.tries.is_empty()).map(|details| wait(details).as_secs_f64())
        };
        let context = details.and_then(|details| details.context);
        Self {
            timestamp: humantime::format_rfc3339_micros(record.time).to_string(),
            method: record.method.as_deref(),
            scheme: details.map(Details::scheme),
            path: record.path.as_deref(),
            status: record.status,
            grpc_status: record.grpc_status,
            error: record.error_type(),
            server: details.map(|details| &*details.server.0),
            server_port: details.map(|details| details.server.1),
            client: details.map(|details| details.client.to_string()),
            peer: details.map(|details| details.peer.ip().to_canonical().to_string()),
            protocol: details.map(|details| details.protocol),
            user_agent: details.and_then(|details| details.user_agent.as_deref()),
            resent: tries.len().checked_sub(1).filter(|again| *again > 0),
            port: &record.port,
            version: record.version.as_deref(),
            role: record.role.map(Role::as_str),
            reason: record.reason.map(crate::route::Reason::as_str),
            route: record.route.as_deref(),
            failure: record.failure,
            failed_version: record.failed.as_ref().map(|failed| failed.version.as_str()),
            failed_role: record.failed.as_ref().map(|failed| failed.role.as_str()),
            failed_failure: record.failed.as_ref().map(|failed| failed.failure),
            endpoint: tries.last().map(|last| last.endpoint.to_string()),
            queue: waited(|details| details.queue),
            connect: waited(|details| details.connect),
            first_byte: details.and_then(|details| details.first_byte).map(|wait| wait.as_secs_f64()),
            total: record.duration.as_secs_f64(),
            trace_id: context.map(|context| context.trace.to_string()),
            span_id: context.map(|context| context.span.to_string()),
        }
    }
}

/// `TIME CLIENT METHOD PATH STATUS` and then names with values. What strangers chose is quoted, so that one line stays one.
fn for_people(text: &mut String, record: &Record) -> std::fmt::Result {
    let line = Line::of(record);
    let or_dash = |text: Option<&str>| text.unwrap_or("-").escape_debug().to_string().replace(' ', "\\x20");
    write!(text, "{} {}", line.timestamp, line.client.as_deref().unwrap_or("-"))?;
    write!(text, " {} {}", or_dash(line.method), or_dash(line.path))?;
    match line.status {
        Some(status) => write!(text, " {status}")?,
        None => write!(text, " -")?,
    }
    let words = [
        ("version", line.version),
        ("role", line.role),
        ("reason", line.reason),
        ("route", line.route),
        ("failure", line.failure),
        ("failed-version", line.failed_version),
        ("failed-role", line.failed_role),
        ("failed-failure", line.failed_failure),
        ("endpoint", line.endpoint.as_deref()),
    ];
    for (name, value) in words.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        write!(text, " {name}={}", or_dash(Some(value)))?;
    }
    if let Some(status) = line.grpc_status {
        write!(text, " grpc-status={status}")?;
    }
    if let Some(resent) = line.resent {
        write!(text, " resent={resent}")?;
    }
    let waits = [
        ("total", Some(line.total)),
        ("queue", line.queue),
        ("connect", line.connect),
        ("first-byte", line.first_byte),
    ];
    for (name, seconds) in waits.into_iter().filter_map(|(name, seconds)| Some((name, seconds?))) {
        write!(text, " {name}={:.3}ms", seconds * 1000.0)?;
    }
    if let Some(agent) = line.user_agent {
        write!(text, " agent={agent:?}")?;
    }
    if let Some(trace) = line.trace_id {
        write!(text, " trace={trace}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::recent::made_up;
    use super::*;

    #[test]
    fn one_request_is_one_line_whatever_strangers_chose() {
        let mut record = made_up(200, None, "a");
        record.path = Some("/a\n{\"forged\": 1}\u{1b}[31m b".to_owned());
        for format in [Format::Json, Format::Text] {
            let mut text = String::new();
            line(&mut text, &record, format);
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
    }

    #[test]
    fn a_line_for_people_says_what_matters_first() {
        let mut text = String::new();
        line(&mut text, &made_up(503, Some("connect_refused"), "5d4f"), Format::Text);
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000000Z - GET / 503 version=5d4f role=stable reason=weighted \
             failure=connect_refused total=1.000ms\n"
        );
    }
}
