//! Every metric: its name, type, labels and help, and where its numbers come from. A name or a label is part of what we
//! promise to dashboards and alerts; `tests/data/metrics.txt` lists them, and a test compares.

mod aliases;
mod following;
mod records;
mod secure;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::cells::{BUCKETS, CopyLabels, CopyOutcome, Labels, Method};
use super::{Account, Metrics, Totals, VersionAccount, VersionTotals};
use crate::proxy::{Ending, Failure, Side};
use crate::route::{LeadsTo, Reason, Snapshot};

/// One metric with all of its series.
#[derive(Clone, Debug)]
pub struct Family {
    /// As queries write it: a counter's ends in `_total`, that of build facts in `_info`.
    pub name: &'static str,
    pub kind: Kind,
    /// `port` comes first, where there is one.
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// Facts in labels, with the value 1.
    Info,
    /// A counter whose name, which is not ours, lacks the ending that OpenMetrics insists on.
    Untyped,
    Histogram,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// One value per label of the family. That of a port without a name is empty.
    pub labels: Vec<Cow<'static, str>>,
    pub value: Value,
}

impl Family {
    /// A sample's labels as they are written: an unnamed port is no label. (Prometheus takes an empty label for a missing
    /// one, so both mean the same.)
    pub fn labels_of<'a>(&'a self, sample: &'a Sample) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a> {
        let all = self.labels.iter().copied().zip(sample.labels.iter().map(Cow::as_ref));
        all.filter(|(label, value)| *label != PORT || !value.is_empty())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Count(u64),
    Real(f64),
    Histogram {
        /// Upper bound and count, not cumulative; the last bound is infinity.
        buckets: Vec<(f64, u64)>,
        sum: f64,
    },
}

/// The one family with examples, see [`super::exemplars`].
pub(super) const DURATION: &str = "splitway_request_duration_seconds";

pub(super) const PORT: &str = "port";
const VERSION: &[&str] = &[PORT, "version"];
const VERSION_ROLE: &[&str] = &[PORT, "version", "role"];

/// Answers that every version starts with, at 0, so that `rate()` is 0 instead of missing.
const CODES_FROM_THE_START: [u16; 5] = [200, 500, 502, 503, 504];

/// Everything that is known now, in the order in which it is written.
pub fn collect(metrics: &Metrics, ready: bool) -> Vec<Family> {
    let snapshots: Vec<_> = (0..metrics.ports.len()).map(|port| metrics.live.current(port)).collect();
    let totals = metrics.totals();
    let port = |number: usize| -> Cow<'static, str> { metrics.ports[number].as_str().to_owned().into() };
    let splits: Vec<(Cow<'static, str>, Account)> = snapshots
        .iter()
        .enumerate()
        .map(|(number, snapshot)| {
            let mut account = Account::of(&totals, number, snapshot.as_deref());
            // The account is of all versions that ever were; series are dropped some time after them.
            account.versions.retain(|one| totals.has(number, &one.version));
            (port(number), account)
        })
        .collect();
    let version_role = |one: &VersionTotals| version_role(port(one.port), one);
    let each = |value: &dyn Fn(&VersionTotals) -> Value| {
        totals.versions.iter().map(|one| sample(version_role(one), value(one))).collect::<Vec<_>>()
    };
    // What the live snapshot says of a version in a role; 0 for what is no longer there.
    let planned = |value: &dyn Fn(&Snapshot, usize) -> u64| {
        each(&|one| {
            let found = snapshots[one.port].as_deref().and_then(|snapshot| {
                let index = snapshot
                    .backends()
                    .iter()
                    .position(|backend| backend.version == one.version && backend.role == one.role)?;
                Some(value(snapshot, index))
            });
            Value::Count(found.unwrap_or(0))
        })
    };

    let mut families = vec![
        Family {
            name: "splitway_requests_total",
            kind: Kind::Counter,
            labels: &[PORT, "version", "role", "method", "code", "reason", "route", "failure"],
            help: "Requests by the version that answered, or failed last. reason: why it was chosen; route: the route \
                   that decided; failure: what went wrong on our way, if anything.",
            samples: totals.versions.iter().flat_map(|one| requests(&totals, one, &version_role(one))).collect(),
        },
        Family {
            name: "splitway_responses_total",
            kind: Kind::Counter,
            labels: &[PORT, "version", "role", "class", "outcome"],
            help: "The same requests by the class of their code, as in 5xx, with every series from the start. outcome: \
                   answered, or failed if something went wrong on our way.",
            samples: totals.versions.iter().flat_map(|one| responses(one, &version_role(one))).collect(),
        },
        Family {
            name: "splitway_uncounted_requests_total",
            kind: Kind::Counter,
            labels: VERSION_ROLE,
            help: "Requests of routes with count: false. They are in no other request metric.",
            samples: each(&|one| Value::Count(one.uncounted)),
        },
        Family {
            name: DURATION,
            kind: Kind::Histogram,
            labels: VERSION_ROLE,
            help: "From the head of a request to the last byte of its answer.",
            samples: each(&|one| durations(one, 1e9)),
        },
        Family {
            name: "splitway_requests_in_flight",
            kind: Kind::Gauge,
            labels: VERSION_ROLE,
            help: "Requests that a version is working on now.",
            samples: each(&|one| level(one.in_flight)),
        },
        Family {
            name: "splitway_retries_total",
            kind: Kind::Counter,
            labels: VERSION_ROLE,
            help: "Tries after one that failed on this version.",
            samples: each(&|one| Value::Count(one.retries)),
        },
        Family {
            name: "splitway_retries_withheld_total",
            kind: Kind::Counter,
            labels: VERSION_ROLE,
            help: "Requests that were not sent a second time, because retry.budget was used up.",
            samples: each(&|one| Value::Count(one.retries_withheld)),
        },
        Family {
            name: "splitway_fallbacks_total",
            kind: Kind::Counter,
            labels: VERSION_ROLE,
            help: "Requests of a version that could not be reached, and that another version answered.",
            samples: each(&|one| Value::Count(one.stood_in_for)),
        },
        Family {
            name: "splitway_endpoints_ejected",
            kind: Kind::Gauge,
            labels: VERSION_ROLE,
            help: "Endpoints that are left out for a while because they failed again and again; each worker judges for \
                   itself, and all are added up.",
            samples: each(&|one| Value::Count(one.endpoints_out)),
        },
        Family {
            name: "splitway_endpoint_ejections_total",
            kind: Kind::Counter,
            labels: VERSION_ROLE,
            help: "How often a worker began to leave out an endpoint.",
            samples: each(&|one| Value::Count(one.endpoints_put_out)),
        },
        Family {
            name: "splitway_endpoint_returns_total",
            kind: Kind::Counter,
            labels: VERSION_ROLE,
            help: "How often an endpoint that was left out passed its trial.",
            samples: each(&|one| Value::Count(one.endpoints_returned)),
        },
        Family {
            name: "splitway_requests_queued",
            kind: Kind::Gauge,
            labels: VERSION_ROLE,
            help: "Requests that wait for a busy endpoint now, see limits.endpoint-requests.",
            samples: each(&|one| level(one.queued)),
        },
        Family {
            name: "splitway_open_tunnels",
            kind: Kind::Gauge,
            labels: VERSION_ROLE,
            help: "WebSocket connections that are open now; each is among the requests in flight, too.",
            samples: each(&|one| level(one.tunnels)),
        },
        Family {
            name: "splitway_upstream_failures_total",
            kind: Kind::Counter,
            labels: &[PORT, "version", "role", "failure"],
            help: "Failed tries, by the version that failed, also when a later try succeeded.",
            samples: totals
                .versions
                .iter()
                .flat_map(|one| {
                    failures(&one.failures, |side| side == Side::Upstream)
                        .map(|(failure, count)| sample([version_role(one), vec![failure]].concat(), count))
                })
                .collect(),
        },
        Family {
            name: "splitway_upstream_connections",
            kind: Kind::Gauge,
            labels: VERSION_ROLE,
            help: "Connections to endpoints that are open now.",
            samples: each(&|one| level(one.connections)),
        },
        Family {
            name: "splitway_upstream_connections_opened_total",
            kind: Kind::Counter,
            labels: VERSION_ROLE,
            help: "Connections to endpoints that were opened.",
            samples: each(&|one| Value::Count(one.connections_opened)),
        },
        Family {
            name: "splitway_endpoints",
            kind: Kind::Gauge,
            labels: VERSION_ROLE,
            help: "Addresses that serve a version in the live snapshot.",
            samples: planned(&|snapshot, i| snapshot.backends()[i].endpoints.len() as u64),
        },
        Family {
            name: "splitway_split_weight",
            kind: Kind::Gauge,
            labels: VERSION_ROLE,
            help: "The weight of a version in the live split, out of splitway_split_total_weight.",
            samples: planned(&|snapshot, i| u64::from(snapshot.weight(&snapshot.backends()[i].version))),
        },
        Family {
            name: "splitway_split_total_weight",
            kind: Kind::Gauge,
            labels: &[PORT],
            help: "What the weights of the live split add up to; 0 before the first snapshot.",
            samples: splits.iter().map(|(port, split)| sample(vec![port.clone()], Value::Count(split.total))).collect(),
        },
        Family {
            name: "splitway_weight_changed_timestamp_seconds",
            kind: Kind::Gauge,
            labels: &[PORT],
            help: "When the weights of the live split last became others, in seconds since the Unix epoch; missing before \
                   the first.",
            samples: (0..metrics.ports.len())
                .filter_map(|number| Some(sample(vec![port(number)], unix(metrics.changed.weights(number)?))))
                .collect(),
        },
        Family {
            name: "splitway_split_asked_ratio",
            kind: Kind::Gauge,
            labels: VERSION,
            help: "The share of a version that the live split asks for, 0 to 1.",
            samples: per_version(&splits, |one| Value::Real(one.asked_ratio)),
        },
        Family {
            name: "splitway_split_sent_ratio",
            kind: Kind::Gauge,
            labels: VERSION,
            help: "The share of a version in all that the exact split has given out since the process started, 0 to 1; \
                   0 before the first request.",
            samples: per_version(&splits, |one| Value::Real(one.sent_ratio.unwrap_or(0.0))),
        },
        Family {
            name: "splitway_split_requests_total",
            kind: Kind::Counter,
            labels: VERSION,
            help: "Requests that the exact split gave to a version, whatever became of them.",
            samples: per_version(&splits, |one| Value::Count(one.sent)),
        },
        Family {
            name: "splitway_split_asked_requests_total",
            kind: Kind::Counter,
            labels: VERSION,
            help: "Requests that an ideal split would have given to a version: the sum of its share over all requests. \
                   Never further than 1 from splitway_split_requests_total when there are two versions.",
            samples: per_version(&splits, |one| Value::Real(one.asked_requests)),
        },
        Family {
            name: "splitway_mirror_requests_total",
            kind: Kind::Counter,
            labels: &[PORT, "version", "role", "route", "outcome", "code"],
            help: "Copies of mirrored requests by the version they went to; in no other request metric. route: the \
                   mirror; outcome: answered, failed, dropped_busy (too many at once), dropped_slow (behind its \
                   request) or cut (given up with its request); code: the answer's status, which nobody sees.",
            samples: totals
                .versions
                .iter()
                .flat_map(|one| copies(metrics, &totals, snapshots[one.port].as_deref(), one, &version_role(one)))
                .collect(),
        },
        Family {
            name: "splitway_mirror_requests_in_flight",
            kind: Kind::Gauge,
            labels: VERSION_ROLE,
            help: "Copies of mirrored requests that a version is working on now.",
            samples: each(&|one| level(one.copies_in_flight)),
        },
        Family {
            name: "splitway_downstream_connections",
            kind: Kind::Gauge,
            labels: &[],
            help: "Client connections that are open now.",
            samples: one(level(totals.proxy.connections)),
        },
        Family {
            name: "splitway_downstream_connections_accepted_total",
            kind: Kind::Counter,
            labels: &[],
            help: "Client connections that were accepted.",
            samples: one(Value::Count(totals.proxy.connections_accepted)),
        },
        Family {
            name: "splitway_panics_total",
            kind: Kind::Counter,
            labels: &[],
            help: "Faults of the proxy itself that ended a client's connection.",
            samples: one(Value::Count(totals.proxy.panics)),
        },
        Family {
            name: "splitway_refused_requests_total",
            kind: Kind::Counter,
            labels: &["failure"],
            help: "Requests and connections that were refused before a version was chosen.",
            samples: failures(&totals.proxy.refused, |side| side != Side::Upstream)
                .map(|(failure, count)| sample(vec![failure], count))
                .collect(),
        },
        Family {
            name: "splitway_downstream_connections_ended_total",
            kind: Kind::Counter,
            labels: &["limit"],
            help: "Client connections that a limit has ended after it had served them.",
            samples: (Ending::ALL.iter().zip(totals.proxy.ended))
                .map(|(ending, count)| sample(vec![ending.as_str().into()], Value::Count(count)))
                .collect(),
        },
        Family {
            name: "splitway_reloads_total",
            kind: Kind::Counter,
            labels: &["outcome"],
            help: "Changes that became the live snapshot (good) or were refused (bad).",
            samples: [("good", &metrics.reloads.good), ("bad", &metrics.reloads.bad)]
                .map(|(outcome, cell)| sample(vec![outcome.into()], Value::Count(cell.get())))
                .into(),
        },
        Family {
            name: "splitway_rollouts_total",
            kind: Kind::Counter,
            labels: &["outcome"],
            help: "Rollouts that ended while this process ran: promoted, aborted, withdrawn or superseded.",
            samples: metrics
                .rollouts
                .all()
                .map(|(outcome, count)| sample(vec![outcome.as_str().into()], Value::Count(count)))
                .collect(),
        },
        Family {
            name: "splitway_snapshot_generation",
            kind: Kind::Gauge,
            labels: &[],
            help: "The number of the live snapshot; 0 before the first.",
            samples: one(Value::Count(metrics.live.generation().0)),
        },
        Family {
            name: "splitway_snapshot_timestamp_seconds",
            kind: Kind::Gauge,
            labels: &[],
            help: "When the live snapshot was published, in seconds since the Unix epoch; missing before the first.",
            samples: metrics.changed.published().map(unix).map_or_else(Vec::new, one),
        },
        Family {
            name: "splitway_snapshot_refused",
            kind: Kind::Gauge,
            labels: &[],
            help: "1 while the newest change is refused, and what was live before it serves on.",
            samples: one(Value::Count(metrics.changed.refused.get())),
        },
        Family {
            name: "splitway_ready",
            kind: Kind::Gauge,
            labels: &[],
            help: "1 when the proxy wants traffic: a snapshot is live and it is not draining. As /readyz.",
            samples: one(Value::Count(u64::from(ready))),
        },
        Family {
            name: "splitway_label_overflow_total",
            kind: Kind::Counter,
            labels: &[],
            help: "Requests and copies with more combinations of labels than are kept; missing in \
                   splitway_requests_total or splitway_mirror_requests_total only.",
            samples: one(Value::Count(totals.overflow())),
        },
        Family {
            name: "splitway_build_info",
            kind: Kind::Info,
            labels: &["version", "commit"],
            help: "The version of splitway and the commit it was built from.",
            samples: vec![sample(
                vec![
                    env!("CARGO_PKG_VERSION").into(),
                    option_env!("SPLITWAY_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown").into(),
                ],
                Value::Count(1),
            )],
        },
        Family {
            name: "process_start_time_seconds",
            kind: Kind::Gauge,
            labels: &[],
            help: "When the process started, in seconds since the Unix epoch.",
            samples: one(unix(metrics.started)),
        },
        Family {
            name: "process_open_fds",
            kind: Kind::Gauge,
            labels: &[],
            help: "Open file descriptors.",
            samples: open_fds().map(Value::Count).map_or_else(Vec::new, one),
        },
        Family {
            name: "process_resident_memory_bytes",
            kind: Kind::Gauge,
            labels: &[],
            help: "Resident memory in bytes.",
            samples: resident_bytes().map(Value::Count).map_or_else(Vec::new, one),
        },
    ];
    families.extend(records::collect(metrics, &totals.proxy));
    families.extend(secure::collect(metrics, &totals.proxy));
    families.extend(following::collect(metrics));
    families.extend(aliases::collect(metrics, &totals));
    families
}

fn per_version(splits: &[(Cow<'static, str>, Account)], value: impl Fn(&VersionAccount) -> Value) -> Vec<Sample> {
    let of_port = |(port, account): &(Cow<'static, str>, Account)| -> Vec<Sample> {
        let labels = |one: &VersionAccount| vec![port.clone(), one.version.to_string().into()];
        account.versions.iter().map(|one| sample(labels(one), value(one))).collect()
    };
    splits.iter().flat_map(of_port).collect()
}

/// `labels`: port, version and role.
fn requests(totals: &Totals, version: &VersionTotals, labels: &[Cow<'static, str>]) -> Vec<Sample> {
    let from_the_start = CODES_FROM_THE_START
        .map(|code| Labels { method: Method::Get, code, reason: Reason::Weighted, failure: None, route: 0 })
        .into_iter()
        .filter(|labels| !version.requests.iter().any(|(seen, _)| seen == labels))
        .map(|labels| (labels, 0));
    version
        .requests
        .iter()
        .copied()
        .chain(from_the_start)
        .map(|(one, count)| {
            let own: [Cow<'static, str>; 5] = [
                one.method.as_str().into(),
                one.code.to_string().into(),
                one.reason.as_str().into(),
                totals.route(one.route).into(),
                one.failure.map_or("", Failure::as_str).into(),
            ];
            sample([labels, &own].concat(), Value::Count(count))
        })
        .collect()
}

/// `labels`: port, version and role.
fn responses(version: &VersionTotals, labels: &[Cow<'static, str>]) -> Vec<Sample> {
    let all = (1..=5).flat_map(|class| [((class, "answered"), 0), ((class, "failed"), 0)]);
    let mut counts: BTreeMap<(u16, &'static str), u64> = all.collect();
    for (one, count) in &version.requests {
        let outcome = if one.failure.is_none() { "answered" } else { "failed" };
        *counts.entry((one.code / 100, outcome)).or_default() += count;
    }
    let of = |((class, outcome), count): ((u16, &'static str), u64)| {
        sample([labels, &[format!("{class}xx").into(), outcome.into()]].concat(), Value::Count(count))
    };
    counts.into_iter().map(of).collect()
}

/// The outcomes of a live mirror are there at 0 from the start.
fn copies(
    metrics: &Metrics,
    totals: &Totals,
    snapshot: Option<&Snapshot>,
    version: &VersionTotals,
    version_role: &[Cow<'static, str>],
) -> Vec<Sample> {
    let mut counts = version.copies.clone();
    for (route, to) in
        snapshot.iter().flat_map(|snapshot| snapshot.routes()).filter_map(|route| match route.leads_to() {
            LeadsTo::Mirror { to, .. } => Some((route, to)),
            _ => None,
        })
    {
        let backend = snapshot.map(|snapshot| &snapshot.backends()[to]);
        if !backend.is_some_and(|backend| backend.version == version.version && backend.role == version.role) {
            continue;
        }
        let route = metrics.route(&route.name);
        for outcome in CopyOutcome::ALL {
            let code = if outcome == CopyOutcome::Answered { 200 } else { 0 };
            let labels = CopyLabels { route, outcome, code };
            if !counts.iter().any(|(seen, _)| *seen == labels) {
                counts.push((labels, 0));
            }
        }
    }
    let sample_of = |(labels, count): (CopyLabels, u64)| {
        let code = if labels.code == 0 { "".into() } else { labels.code.to_string().into() };
        let own = [totals.route(labels.route).into(), labels.outcome.as_str().into(), code];
        sample([version_role, &own].concat(), Value::Count(count))
    };
    counts.into_iter().map(sample_of).collect()
}

/// Failures of an expected side from the start, others once they have happened.
fn failures(
    counts: &[u64; Failure::ALL.len()],
    expected: impl Fn(Side) -> bool,
) -> impl Iterator<Item = (Cow<'static, str>, Value)> {
    Failure::ALL
        .into_iter()
        .zip(counts)
        .filter(move |(failure, count)| **count > 0 || expected(failure.side()))
        .map(|(failure, count)| (failure.as_str().into(), Value::Count(*count)))
}

fn sample(labels: Vec<Cow<'static, str>>, value: Value) -> Sample {
    Sample { labels, value }
}

fn one(value: Value) -> Vec<Sample> {
    vec![sample(Vec::new(), value)]
}

fn version_role(port: Cow<'static, str>, one: &VersionTotals) -> Vec<Cow<'static, str>> {
    vec![port, one.version.to_string().into(), one.role.as_str().into()]
}

/// A sum of gauges, none of which goes below 0.
fn level(sum: i64) -> Value {
    Value::Count(sum.max(0) as u64)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// How long requests took, in units of so many nanoseconds.
fn durations(one: &VersionTotals, unit: f64) -> Value {
    let bounds = BUCKETS.iter().map(|ns| *ns as f64 / unit).chain([f64::INFINITY]);
    Value::Histogram { buckets: bounds.zip(one.duration_buckets).collect(), sum: one.duration_sum_ns as f64 / unit }
}

fn unix(time: SystemTime) -> Value {
    Value::Real(time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))
}

/// `None` where there is no /proc.
fn open_fds() -> Option<u64> {
    // The descriptor that reads the folder is listed, too.
    Some((std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::metrics::{Alias, made_up};
    use crate::route::{Role, VersionHash};

    /// At the port without a name.
    fn find(families: &[Family], name: &str, labels: &[&str]) -> Option<Value> {
        find_at(families, "", name, labels)
    }

    fn find_at(families: &[Family], port: &str, name: &str, labels: &[&str]) -> Option<Value> {
        let family = families.iter().find(|family| family.name == name).expect("the family is always there");
        let port: &[&str] = if family.labels.first() == Some(&PORT) { &[port] } else { &[] };
        let labels = [port, labels].concat();
        family.samples.iter().find(|sample| sample.labels == labels).map(|sample| sample.value.clone())
    }

    /// Each family on a line, with its labels: those that are always there, or there when ports have names.
    fn promises(families: &[Family], named_ports: bool) -> String {
        let line = |family: &Family| {
            let kind = format!("{:?}", family.kind).to_lowercase();
            let labels: Vec<_> = family.labels.iter().copied().filter(|label| named_ports || *label != PORT).collect();
            format!("{} {kind} {}", family.name, labels.join(",")).trim_end().to_owned() + "\n"
        };
        families.iter().map(line).collect()
    }

    #[test]
    fn names_types_and_labels_are_those_promised() {
        let (_publisher, live) = made_up::nothing_live();
        let metrics = made_up::metrics(1, live);
        let families = collect(&metrics, false);
        metrics.certificates.show(vec![crate::metrics::Certificate {
            listener: "127.0.0.1:8443".to_owned(),
            file: "app.pem".to_owned(),
            names: Vec::new(),
            not_before: 1_700_000_000,
            not_after: 1_800_000_000,
        }]);
        let with_tls = collect(&metrics, false);
        assert_eq!(promises(&with_tls[families.len()..], false), include_str!("../../tests/data/metrics-tls.txt"));
        let expiry = "splitway_certificate_not_after_timestamp_seconds";
        assert_eq!(find(&with_tls, expiry, &["127.0.0.1:8443", "app.pem"]), Some(Value::Real(1.8e9)));
        metrics.certificates.show(Vec::new());
        metrics.api.rollout.set(("services".to_owned(), "shop".to_owned())).expect("it was not set before");
        let with_rollout = collect(&metrics, false);
        assert_eq!(
            promises(&with_rollout[families.len()..], false),
            include_str!("../../tests/data/metrics-rollout.txt"),
            "as below"
        );
        let mut metrics = metrics;
        metrics.aliases = vec![Alias::Istio, Alias::Nginx];
        let with_aliases = collect(&metrics, false);
        let promised = include_str!("../../tests/data/metrics-aliases.txt");
        assert_eq!(promises(&with_aliases[with_rollout.len()..], true), promised, "as below");
        for (named_ports, promised) in [
            (false, include_str!("../../tests/data/metrics.txt")),
            (true, include_str!("../../tests/data/metrics-named-ports.txt")),
        ] {
            assert_eq!(
                promises(&families, named_ports),
                promised,
                "dashboards and alerts depend on these: change tests/data/metrics*.txt only together with CHANGELOG.md"
            );
        }
    }

    #[test]
    fn samples_carry_the_name_of_their_port_and_a_port_without_a_name_is_no_label() {
        let versions: &[_] = &[("stable", Role::Stable, 3), ("canary", Role::Canary, 1)];
        for (names, named) in [(["http", "grpc"], 2), (["", "grpc"], 1)] {
            let (_publisher, live, ports) = made_up::two_ports(names.map(|name| (name, versions)));
            for family in collect(&Metrics::new(1, live, ports), true) {
                let with_port = family.labels.first() == Some(&PORT);
                assert_eq!(with_port, family.labels.contains(&PORT), "{}: first, or not at all", family.name);
                let mut seen = BTreeSet::new();
                for sample in &family.samples {
                    let port = family.labels_of(sample).find(|(label, _)| *label == PORT).map(|(_, port)| port);
                    assert_ne!(port, Some(""), "{}", family.name);
                    seen.extend(port.map(str::to_owned));
                }
                // There is no mirror here.
                let expected = if with_port && !family.samples.is_empty() { named } else { 0 };
                assert_eq!(seen.len(), expected, "{}: {seen:?}", family.name);
            }
        }
    }

    #[test]
    fn each_port_has_counters_and_a_split_of_its_own() {
        let stable = VersionHash::new("stable");
        let (_publisher, live, ports) = made_up::two_ports([
            ("http", &[("stable", Role::Stable, 3), ("canary", Role::Canary, 1)]),
            ("grpc", &[("stable", Role::Stable, 9), ("canary", Role::Canary, 1)]),
        ]);
        let metrics = Metrics::new(2, live, ports);
        metrics.version(0, 0, &stable, Role::Stable).split.add(3);
        metrics.version(0, 0, &VersionHash::new("canary"), Role::Canary).split.add(1);
        metrics.version(1, 1, &stable, Role::Stable).split.add(5);
        let families = collect(&metrics, true);
        let find = |port, name, labels: &[&str]| find_at(&families, port, name, labels).expect("the series is there");
        for (port, sent, ratio, weight, total) in [("http", 3, 0.75, 3, 4), ("grpc", 5, 1.0, 9, 10)] {
            assert_eq!(find(port, "splitway_split_requests_total", &["stable"]), Value::Count(sent), "{port}");
            assert_eq!(find(port, "splitway_split_sent_ratio", &["stable"]), Value::Real(ratio), "{port}");
            assert_eq!(find(port, "splitway_split_weight", &["stable", "stable"]), Value::Count(weight), "{port}");
            assert_eq!(find(port, "splitway_split_total_weight", &[]), Value::Count(total), "{port}");
        }
    }

    #[test]
    fn every_family_keeps_the_conventions() {
        let (_publisher, live) = made_up::live(&[("stable", Role::Stable, 90), ("canary", Role::Canary, 10)]);
        let families = collect(&made_up::metrics(1, live), true);
        let names: BTreeSet<_> = families.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), families.len(), "two families have the same name");
        for family in &families {
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert_eq!(family.name.ends_with("_info"), family.kind == Kind::Info, "{}", family.name);
            assert!(family.help.ends_with('.'), "{}: {:?}", family.name, family.help);
            assert!(!family.help.contains(['\n', '"', '\\']) && !family.help.contains("  "), "{}", family.help);
            let mut seen = BTreeSet::new();
            for sample in &family.samples {
                assert_eq!(sample.labels.len(), family.labels.len(), "{}", family.name);
                assert!(seen.insert(&sample.labels), "{} has {:?} twice", family.name, sample.labels);
                assert_eq!(matches!(sample.value, Value::Histogram { .. }), family.kind == Kind::Histogram);
            }
        }
    }

    #[test]
    fn both_versions_have_their_series_at_0_before_any_worker_has_seen_them() {
        let (_publisher, live) = made_up::live(&[("stable", Role::Stable, 900), ("canary", Role::Canary, 100)]);
        let families = collect(&made_up::metrics(2, live), true);
        for (version, role) in [("stable", "stable"), ("canary", "canary")] {
            for code in ["200", "500", "502", "503", "504"] {
                let labels = [version, role, "GET", code, "weighted", "", ""];
                assert_eq!(find(&families, "splitway_requests_total", &labels), Some(Value::Count(0)), "{labels:?}");
            }
            for failure in Failure::ALL.into_iter().filter(|failure| failure.side() == Side::Upstream) {
                let labels = [version, role, failure.as_str()];
                assert_eq!(find(&families, "splitway_upstream_failures_total", &labels), Some(Value::Count(0)));
            }
            assert_eq!(find(&families, "splitway_split_requests_total", &[version]), Some(Value::Count(0)));
            assert_eq!(find(&families, "splitway_split_sent_ratio", &[version]), Some(Value::Real(0.0)));
        }
        assert_eq!(find(&families, "splitway_split_weight", &["canary", "canary"]), Some(Value::Count(100)));
        assert_eq!(find(&families, "splitway_split_total_weight", &[]), Some(Value::Count(1000)));
        assert_eq!(find(&families, "splitway_split_asked_ratio", &["canary"]), Some(Value::Real(0.1)));
        assert_eq!(find(&families, "splitway_endpoints", &["stable", "stable"]), Some(Value::Count(1)));
        assert_eq!(find(&families, "splitway_refused_requests_total", &["bad_request"]), Some(Value::Count(0)));
        assert_eq!(find(&families, "splitway_ready", &[]), Some(Value::Count(1)));
        assert_eq!(find(&families, "splitway_snapshot_generation", &[]), Some(Value::Count(1)));
    }

    #[test]
    fn the_cells_of_all_workers_are_added_up() {
        let (_publisher, live) = made_up::live(&[("stable", Role::Stable, 3), ("canary", Role::Canary, 1)]);
        let metrics = made_up::metrics(3, live);
        let route = metrics.route(&crate::route::RouteName::new("testers"));
        let (stable, canary) = (VersionHash::new("stable"), VersionHash::new("canary"));
        for worker in 0..3 {
            let cells = metrics.version(worker, 0, &canary, Role::Canary);
            for (code, failure, route) in [(200, None, 0), (503, Some(Failure::ConnectRefused), route)] {
                let reason = if route == 0 { Reason::Weighted } else { Reason::Route };
                cells.requests.count(Labels { method: Method::Post, code, reason, failure, route });
                cells.duration.record(7_000_000);
            }
            cells.split.add(1);
            cells.failures[Failure::ConnectRefused as usize].add(2);
            cells.in_flight.add(1);
            metrics.version(worker, 0, &stable, Role::Stable).split.add(3);
            metrics.proxy(worker).connections_accepted.add(5);
            metrics.proxy(worker).refused[Failure::HeadTimeout as usize].add(1);
        }
        metrics.reloads.bad.add(1);
        let families = collect(&metrics, true);
        for (name, labels, count) in [
            ("splitway_requests_total", &["canary", "canary", "POST", "200", "weighted", "", ""][..], 3),
            ("splitway_requests_total", &["canary", "canary", "POST", "503", "route", "testers", "connect_refused"], 3),
            ("splitway_responses_total", &["canary", "canary", "2xx", "answered"], 3),
            ("splitway_responses_total", &["canary", "canary", "5xx", "answered"], 0),
            ("splitway_responses_total", &["canary", "canary", "5xx", "failed"], 3),
            ("splitway_upstream_failures_total", &["canary", "canary", "connect_refused"], 6),
            ("splitway_requests_in_flight", &["canary", "canary"], 3),
            ("splitway_split_requests_total", &["stable"], 9),
            ("splitway_downstream_connections_accepted_total", &[], 15),
            ("splitway_refused_requests_total", &["head_timeout"], 3),
            ("splitway_reloads_total", &["bad"], 1),
            ("splitway_reloads_total", &["good"], 0),
        ] {
            assert_eq!(find(&families, name, labels), Some(Value::Count(count)), "{name} {labels:?}");
        }
        assert_eq!(find(&families, "splitway_split_sent_ratio", &["canary"]), Some(Value::Real(0.25)));
        let Some(Value::Histogram { buckets, sum }) =
            find(&families, "splitway_request_duration_seconds", &["canary", "canary"])
        else {
            panic!("the histogram is there")
        };
        assert_eq!((buckets[0], buckets[1], buckets.len()), ((0.005, 0), (0.01, 6), 15));
        assert_eq!(sum, 0.042);
    }

    #[test]
    fn series_of_a_version_that_is_gone_stay_with_weight_0() {
        let (mut publisher, live) = made_up::live(&[("stable", Role::Stable, 3), ("canary", Role::Canary, 1)]);
        let metrics = made_up::metrics(1, live);
        metrics.version(0, 0, &VersionHash::new("stable"), Role::Stable).split.add(3);
        // Nobody has looked at the first snapshot but this scrape.
        collect(&metrics, true);
        made_up::publish(&mut publisher, &[("canary", Role::Stable, 1)]);
        let families = collect(&metrics, true);
        assert_eq!(find(&families, "splitway_split_requests_total", &["stable"]), Some(Value::Count(3)));
        assert_eq!(find(&families, "splitway_split_weight", &["stable", "stable"]), Some(Value::Count(0)));
        // A promoted version keeps what it counted in its old role.
        assert_eq!(find(&families, "splitway_split_weight", &["canary", "canary"]), Some(Value::Count(0)));
        assert_eq!(find(&families, "splitway_split_weight", &["canary", "stable"]), Some(Value::Count(1)));
        assert_eq!(find(&families, "splitway_snapshot_generation", &[]), Some(Value::Count(2)));
    }

    #[test]
    fn routes_beyond_the_last_number_share_a_label() {
        let (_publisher, live) = made_up::nothing_live();
        let metrics = made_up::metrics(1, live);
        let number = |i: usize| metrics.route(&crate::route::RouteName::new(&format!("r{i}")));
        let numbers: Vec<u16> = (0..crate::metrics::cells::MAX_ROUTES + 2).map(number).collect();
        let totals = metrics.totals();
        assert_eq!(totals.route(numbers[999]), "r999");
        assert_eq!(totals.route(numbers[1000]), "_OTHER");
        assert_eq!(numbers[1000], numbers[1001]);
        assert_eq!(totals.route(0), "");
    }
}
