//! What the dashboard shows, as Server-Sent Events: first everything, then each second what is new. Who lost the connection
//! sends the id of the last event, and hears what came since, if this process still knows it.
//!
//! Nothing is gathered for a reader who is slow: the next event is made when the last one is on its way, and has in it
//! whatever came in between. What it is made of is bounded, as the history is.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::unfold;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::listen::Place;
use super::view::{Refused, Rollout};
use super::{Body, Context, endpoints, report};
use crate::history::{Second, VersionSecond, Window};
use crate::metrics::cells::QuantileCounts;
use crate::route::bucket::KeySource;
use crate::route::{Role, Snapshot, VersionHash};

/// Proxies on the way close what is silent. There is an event each second, unless the history stands still.
const PING: Duration = Duration::from_secs(15);

/// What a version's card shows.
const NOW: Duration = Duration::from_secs(10);

/// Seconds that are told one by one at the beginning; older ones are told [`FOLD`] at a time, as long as what was asked for
/// stayed the same, so that half an hour is no more than a page.
const FINE: usize = 300;
const FOLD: usize = 5;

pub(super) fn stream(place: Arc<Place>, room: OwnedSemaphorePermit, last_id: &str) -> Body {
    let mut watcher = Watcher::new(place, room, last_id);
    // While it is still this request's turn.
    watcher.first = Some(format!("retry: 2000\n{}", watcher.event()).into());
    let events = unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((Ok(Frame::data(event)), watcher))
    });
    StreamBody::new(events).boxed_unsync()
}

/// One reader, and what it has been told.
struct Watcher {
    place: Arc<Place>,
    _room: OwnedSemaphorePermit,
    first: Option<Bytes>,
    ticks: watch::Receiver<u64>,
    stopped: watch::Receiver<bool>,
    until: Instant,
    /// It has nothing to go on from.
    is_new: bool,
    second: u64,
    change: u64,
    /// Ports and versions by the numbers that rows name them by.
    series: Vec<(usize, VersionHash)>,
    sections: Map<String, Value>,
    reports: Vec<Value>,
}

impl Watcher {
    fn new(place: Arc<Place>, room: OwnedSemaphorePermit, last_id: &str) -> Self {
        let house = place.house();
        let mut parts = last_id.split('-').map(|part| part.parse::<u64>().ok());
        let known = match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten()) {
            (Some(process), Some(second), Some(change)) if process == house.began => Some((second, change)),
            _ => None,
        };
        let (second, change) = known.unwrap_or_default();
        place.streams();
        Self {
            first: None,
            ticks: house.context.history.ticks(),
            stopped: house.stopped.clone(),
            until: Instant::now() + house.bounds.stream_life,
            is_new: known.is_none(),
            second,
            change,
            series: Vec::new(),
            sections: Map::new(),
            reports: Vec::new(),
            _room: room,
            place,
        }
    }

    /// Asked for when the last one is on its way.
    async fn next(&mut self) -> Option<Bytes> {
        self.place.moves();
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let is_news = tokio::select! {
            _ = self.stopped.wait_for(|stopped| *stopped) => return None,
            () = sleep_until(self.until) => return None,
            // An error: whoever kept the history has ended.
            ticked = self.ticks.changed() => ticked.map(|()| true).ok()?,
            () = sleep(PING) => false,
        };
        Some(if is_news { self.event().into() } else { Bytes::from_static(b": ping\n\n") })
    }

    fn event(&mut self) -> String {
        self.ticks.mark_unchanged();
        let place = self.place.clone();
        let context = &place.house().context;
        let mut news = Map::new();
        if std::mem::take(&mut self.is_new) {
            news.insert("whole".to_owned(), true.into());
        }
        self.section(&mut news, "proxy", proxy(context));
        self.section(&mut news, "rollout", rollout(context));
        self.section(&mut news, "ports", ports(context));

        let seconds = context.history.seconds(self.second);
        news.insert("now".to_owned(), now(context, seconds.last()));
        self.second = seconds.last().map_or(self.second, |second| second.number);
        let already = self.series.len();
        let rows: Vec<Value> = folded(&seconds).iter().map(|second| self.row(second)).collect();
        if !rows.is_empty() {
            news.insert("seconds".to_owned(), rows.into());
        }
        if self.series.len() > already {
            let new = self.series[already..].iter().map(|(port, version)| json!([port, version.as_str()]));
            news.insert("series".to_owned(), new.collect());
        }
        let changes = context.history.changes(self.change);
        self.change = changes.last().map_or(self.change, |change| change.number);
        if !changes.is_empty() {
            let told = changes.iter().map(|change| {
                json!({
                    "number": change.number, "at": unix(change.at), "kind": change.kind.as_str(),
                    "text": change.fact.text, "field": change.fact.field,
                })
            });
            news.insert("changes".to_owned(), told.collect());
        }
        // Without parameters it cannot fail.
        let reports = report::look(context, "").unwrap_or_default();
        let reports: Vec<Value> = reports.iter().filter_map(|report| serde_json::to_value(report).ok()).collect();
        let fresh: Vec<Value> = reports.iter().filter(|report| !self.reports.contains(report)).cloned().collect();
        if !fresh.is_empty() {
            news.insert("reports".to_owned(), fresh.into());
        }
        self.reports = reports;

        let began = place.house().began;
        let mut event = format!("id: {began}-{}-{}\ndata: ", self.second, self.change);
        write!(event, "{}\n\n", Value::Object(news)).expect("a String can be written to");
        event
    }

    /// Told if it is not what was told last.
    fn section(&mut self, news: &mut Map<String, Value>, name: &str, value: Value) {
        if self.sections.get(name) != Some(&value) {
            news.insert(name.to_owned(), value.clone());
            self.sections.insert(name.to_owned(), value);
        }
    }

    /// Short, because there are many: the page knows the places.
    fn row(&mut self, second: &Folded) -> Value {
        let versions = second.versions.iter().map(|one| {
            let (p50, p99) = (one.durations.quantile(0.5), one.durations.quantile(0.99));
            let newest = one.newest;
            json!([
                self.series(newest.port, &newest.version),
                newest.role.map_or("", |role| match role {
                    Role::Stable => "s",
                    Role::Canary => "c",
                    Role::Experiment => "e",
                }),
                short(newest.asked, 6),
                one.sent,
                short(one.asked_requests, 2),
                one.requests,
                one.errors,
                p50.map(|seconds| short(seconds, 5)),
                p99.map(|seconds| short(seconds, 5)),
                newest.in_flight,
                short(newest.error_in_requests, 3),
                one.tries,
                one.failed_tries,
            ])
        });
        let versions: Vec<Value> = versions.collect();
        json!([second.number, short(unix(second.at), 2), short(second.length.as_secs_f64(), 3), versions])
    }

    fn series(&mut self, port: usize, version: &VersionHash) -> usize {
        let known = self.series.iter().position(|(at, named)| *at == port && named == version);
        known.unwrap_or_else(|| {
            self.series.push((port, version.clone()));
            self.series.len() - 1
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.place.waits();
    }
}

/// One second, or a few.
struct Folded<'a> {
    number: u64,
    at: SystemTime,
    length: Duration,
    versions: Vec<FoldedVersion<'a>>,
    seconds: usize,
}

struct FoldedVersion<'a> {
    newest: &'a VersionSecond,
    sent: u64,
    asked_requests: f64,
    requests: u64,
    errors: u64,
    tries: u64,
    failed_tries: u64,
    durations: QuantileCounts,
}

impl<'a> Folded<'a> {
    fn of(second: &'a Second) -> Self {
        let version = |one: &'a VersionSecond| FoldedVersion {
            newest: one,
            sent: one.sent,
            asked_requests: one.asked_requests,
            requests: one.requests,
            errors: one.errors,
            tries: one.tries,
            failed_tries: one.failed_tries,
            durations: one.durations(),
        };
        let versions = second.versions.iter().map(version).collect();
        Self { number: second.number, at: second.at, length: second.length, versions, seconds: 1 }
    }

    /// Only seconds of which the same was asked are one: else it would look as if what was sent were not what was asked.
    fn goes_with(&self, next: &Second) -> bool {
        self.versions.len() == next.versions.len()
            && self.versions.iter().zip(&next.versions).all(|(one, next)| {
                let one = one.newest;
                (one.port, &one.version, one.role) == (next.port, &next.version, next.role) && one.asked == next.asked
            })
    }

    fn add(&mut self, next: &'a Second) {
        (self.number, self.at) = (next.number, next.at);
        self.length += next.length;
        self.seconds += 1;
        for (sum, more) in self.versions.iter_mut().zip(&next.versions) {
            sum.newest = more;
            sum.sent += more.sent;
            sum.asked_requests += more.asked_requests;
            sum.requests += more.requests;
            sum.errors += more.errors;
            sum.tries += more.tries;
            sum.failed_tries += more.failed_tries;
            sum.durations.add(&more.durations());
        }
    }
}

fn folded(seconds: &[Second]) -> Vec<Folded<'_>> {
    let old = seconds.len().saturating_sub(FINE);
    let mut all: Vec<Folded<'_>> = Vec::new();
    for (i, second) in seconds.iter().enumerate() {
        match all.last_mut() {
            Some(last) if i < old && last.seconds < FOLD && last.goes_with(second) => last.add(second),
            _ => all.push(Folded::of(second)),
        }
    }
    all
}

fn proxy(context: &Context) -> Value {
    let status = context.status.borrow().clone();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": context.readiness.state().as_str(),
        "generation": context.live.generation().0,
        "origin": status.origin,
        "notes": status.notes,
        "refused": status.refused.map(Refused::of),
    })
}

fn rollout(context: &Context) -> Value {
    let Some(following) = &context.following else { return Value::Null };
    let following = following.borrow();
    let mut rollout = json!(Rollout::of(&following));
    rollout["progress"] = json!(following.progress);
    rollout
}

fn ports(context: &Context) -> Value {
    let port = |(number, name): (usize, &crate::route::PortName)| {
        let snapshot = context.live.current(number);
        let backends = snapshot.as_deref().map(|snapshot| backends(context, number, snapshot));
        let keys = snapshot.as_ref().and_then(|snapshot| {
            let keys = snapshot.users()?.sticky().keys.iter().map(|key| match key {
                KeySource::Header(name) => format!("header {name}"),
                KeySource::Cookie(name) => format!("cookie {name}"),
                KeySource::Query(name) => format!("query {name}"),
                KeySource::ClientAddress => "client address".to_owned(),
            });
            Some(keys.collect::<Vec<_>>())
        });
        json!({
            "port": (!name.is_unnamed()).then(|| name.as_str()),
            "backends": backends.unwrap_or_default(),
            "sticky": keys,
        })
    };
    context.metrics.ports().iter().enumerate().map(port).collect()
}

fn backends(context: &Context, port: usize, snapshot: &Snapshot) -> Vec<Value> {
    let total = snapshot.shares().total();
    let backend = |backend: &crate::route::Backend| {
        let weight = snapshot.weight(&backend.version);
        let listed = endpoints::list(&context.metrics, port, backend);
        let listed = listed.iter().map(|one| json!([one.address, one.state, one.in_words()]));
        json!({
            "version": backend.version.as_str(), "role": backend.role.as_str(), "weight": weight, "total": total,
            "asked": f64::from(weight) / f64::from(total.max(1)), "endpoints": backend.endpoints.len(),
            "listed": listed.collect::<Vec<_>>(),
        })
    };
    snapshot.backends().iter().map(backend).collect()
}

fn now(context: &Context, newest: Option<&Second>) -> Value {
    let Ok(windowed) = context.history.window(Window::Now(NOW)) else { return Value::Null };
    let length = windowed.to.duration_since(windowed.from).unwrap_or_default().as_secs_f64();
    let versions = windowed.counts.iter().map(|((port, version), counts)| {
        let rows = newest.iter().flat_map(|second| &second.versions);
        let open: i64 = rows.filter(|one| one.port == *port && one.version == *version).map(|one| one.in_flight).sum();
        let quantile = |q| counts.durations.quantile(q).map(|seconds| short(seconds, 5));
        json!({
            "port": port, "version": version.as_str(), "requests": counts.requests, "errors": counts.errors,
            "tries": counts.tries, "failed_tries": counts.failed_tries,
            "p50": quantile(0.5), "p95": quantile(0.95), "p99": quantile(0.99), "in_flight": open,
        })
    });
    json!({ "seconds": short(length.max(1.0), 2), "versions": versions.collect::<Vec<_>>() })
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// With so many digits after the point.
fn short(number: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (number * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::made_up::second;

    fn told(seconds: &[Second]) -> Vec<(u64, u64, usize)> {
        folded(seconds).iter().map(|one| (one.number, one.versions[0].requests, one.seconds)).collect()
    }

    #[test]
    fn old_seconds_are_told_a_few_at_a_time_and_no_request_is_lost() {
        let seconds: Vec<Second> = (1..=1800).map(|number| second(number, "v1", 0.5, 7)).collect();
        let all = told(&seconds);
        assert_eq!(all.len(), FINE + (1800 - FINE) / FOLD);
        assert_eq!(all.iter().map(|(_, requests, _)| requests).sum::<u64>(), 7 * 1800);
        assert!(all[all.len() - FINE..].iter().all(|(_, _, seconds)| *seconds == 1));
        assert_eq!(all.last().map(|(number, ..)| *number), Some(1800));
    }

    #[test]
    fn seconds_of_which_different_shares_were_asked_are_never_one() {
        let asked = |number: u64| if number < 8 { 0.05 } else { 0.25 };
        let seconds: Vec<Second> = (1..=320).map(|number| second(number, "v1", asked(number), 1)).collect();
        let old: Vec<_> = told(&seconds).into_iter().take(4).map(|(number, _, seconds)| (number, seconds)).collect();
        assert_eq!(old, [(5, 5), (7, 2), (12, 5), (17, 5)]);
    }
}
