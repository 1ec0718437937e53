//! The families about following a Rollout. There are none when no Rollout is followed.

use std::borrow::Cow;

use super::super::Metrics;
use super::super::cells::{BUCKETS, Cell, Histogram};
use super::{Family, Kind, Sample, Value, sample, seconds};

const ROLLOUT: &[&str] = &["namespace", "rollout"];

pub fn collect(metrics: &Metrics) -> Vec<Family> {
    let api = &metrics.api;
    let Some((namespace, rollout)) = api.rollout.get() else { return Vec::new() };
    let labels = || -> Vec<Cow<'static, str>> { vec![namespace.clone().into(), rollout.clone().into()] };
    let one = |value: Value| -> Vec<Sample> { vec![sample(labels(), value)] };
    let gauge = |name, help, cell: &Cell| Family {
        name,
        kind: Kind::Gauge,
        labels: ROLLOUT,
        help,
        samples: one(Value::Count(cell.get())),
    };
    vec![
        gauge(
            "splitway_rollout_connected",
            "1 while the API server is heard; 0: the last known state goes on serving.",
            &api.connected,
        ),
        gauge(
            "splitway_rollout_saved_state",
            "1 while what is served was read from --state-dir, because the API server could not be asked since the start.",
            &api.saved,
        ),
        gauge(
            "splitway_rollout_last_event_timestamp_seconds",
            "When the API server last told something, in seconds since the Unix epoch.",
            &api.heard_at,
        ),
        gauge(
            "splitway_rollout_generation",
            "The Rollout's metadata.generation in what is served; 0 before the first.",
            &api.generation,
        ),
        gauge(
            "splitway_rollout_annotation_refused",
            "1 while the annotation splitway.dev/routes has an error; /config says which.",
            &api.annotation_refused,
        ),
        Family {
            name: "splitway_rollout_watch_failures_total",
            kind: Kind::Counter,
            labels: &["namespace", "rollout", "resource"],
            help: "Watches that failed and began again, by the kind of object.",
            samples: api
                .failures()
                .into_iter()
                .map(|(resource, count)| sample([labels(), vec![resource.into()]].concat(), Value::Count(count)))
                .collect(),
        },
        Family {
            name: "splitway_rollout_propagation_seconds",
            kind: Kind::Histogram,
            labels: ROLLOUT,
            help: "From a change told by the API server to the last request decided without it.",
            samples: one(histogram(&api.propagation)),
        },
    ]
}

fn histogram(cells: &Histogram) -> Value {
    let bounds = BUCKETS.iter().map(|ns| seconds(*ns)).chain([f64::INFINITY]);
    let buckets = bounds.enumerate().map(|(i, bound)| (bound, cells.bucket(i))).collect();
    Value::Histogram { buckets, sum: seconds(cells.sum_ns()) }
}
