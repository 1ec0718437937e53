//! Recorded rollouts, and a small index that turns what watches deliver into what `plan` wants to know.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use splitway::control::plan::{Endpoint, ObservedCluster, Options, Service};
use splitway::control::rollout::{HASH_LABEL, Rollout};
use splitway::route::VersionHash;

pub const FILES: [&str; 25] = [
    "analysis-fails",
    "analysis-ok",
    "basic-services",
    "blue-green",
    "empty-abort",
    "empty-abort-retry",
    "empty-dynamic",
    "empty-full",
    "empty-full-promote",
    "empty-never-ready",
    "empty-pods-killed",
    "empty-scale",
    "empty-third",
    "empty-undo",
    "invalid-spec",
    "published-505",
    "published-abort",
    "published-dynamic",
    "published-dynamic-abort",
    "published-full",
    "published-full-promote",
    "published-third",
    "recreated",
    "seed",
    "seed-10s",
];

const PORT: u16 = 5000;

/// One thing that a watch delivered.
#[derive(Clone)]
pub struct Event {
    pub at: Duration,
    pub change: Change,
}

#[derive(Clone)]
pub enum Change {
    /// With the object as it came, for rules that are not to be read by the code under test.
    Rollout(Option<Box<(Rollout, Value)>>),
    Pod(String, Option<Pod>),
    Slice(String, Vec<Pod>),
    Service(String, BTreeMap<String, String>),
}

#[derive(Clone)]
pub struct Pod {
    version: VersionHash,
    endpoint: Endpoint,
}

/// Where endpoints are taken from: with and without the permission to read pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Pods,
    Slices,
}

pub fn load(file: &str) -> Vec<Event> {
    lines(file).iter().filter_map(Event::read).collect()
}

/// Every state that a Rollout had in any of the recordings.
pub fn rollouts() -> Vec<Value> {
    let lines = FILES.iter().flat_map(|file| lines(file));
    lines.filter(|line| line["kind"] == "Rollout").map(|mut line| line["object"].take()).collect()
}

fn lines(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/rollouts/{file}.jsonl"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl Event {
    fn read(line: &Value) -> Option<Event> {
        let object = &line["object"];
        let deleted = line["type"] == "DELETED";
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let change = match line["kind"].as_str()? {
            "Rollout" => Change::Rollout((!deleted).then(|| {
                let rollout = serde_json::from_value(object.clone()).expect("a recorded Rollout can be read");
                Box::new((rollout, object.clone()))
            })),
            "Pod" => Change::Pod(name, (!deleted).then(|| Pod::of_pod(object)).flatten()),
            "EndpointSlice" => {
                let endpoints = object["endpoints"].as_array();
                Change::Slice(name, endpoints.into_iter().flatten().flat_map(Pod::of_slice).collect())
            }
            "Service" => {
                let selector = serde_json::from_value(object["spec"]["selector"].clone()).unwrap();
                Change::Service(name, selector)
            }
            // ReplicaSets and AnalysisRuns: nothing that routing looks at.
            _ => return None,
        };
        Some(Event { at: Duration::from_secs_f64(line["at"].as_f64()?), change })
    }
}

impl Pod {
    fn of_pod(object: &Value) -> Option<Pod> {
        let version = object["metadata"]["labels"][HASH_LABEL].as_str()?;
        let address: IpAddr = object["status"]["podIP"].as_str()?.parse().ok()?;
        let conditions = object["status"]["conditions"].as_array();
        let ready = conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True");
        let terminating = object["metadata"].get("deletionTimestamp").is_some();
        let endpoint = Endpoint { address: SocketAddr::new(address, PORT), ready, serving: ready, terminating };
        Some(Pod { version: VersionHash::new(version), endpoint })
    }

    /// By the name of its pod, `ROLLOUT-HASH-SUFFIX`, whatever Service the slice belongs to.
    fn of_slice(object: &Value) -> Option<Pod> {
        let version = object["targetRef"]["name"].as_str()?.rsplit('-').nth(1)?;
        let address: IpAddr = object["addresses"][0].as_str()?.parse().ok()?;
        let is = |name: &str| object["conditions"][name] == true;
        let (ready, serving, terminating) = (is("ready"), is("serving"), is("terminating"));
        let endpoint = Endpoint { address: SocketAddr::new(address, PORT), ready, serving, terminating };
        Some(Pod { version: VersionHash::new(version), endpoint })
    }
}

/// What the watches have delivered so far.
#[derive(Default)]
pub struct Index {
    pub rollout: Option<Box<(Rollout, Value)>>,
    pods: BTreeMap<String, Pod>,
    slices: BTreeMap<String, Vec<Pod>>,
    services: BTreeMap<String, BTreeMap<String, String>>,
}

impl Index {
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Rollout(rollout) => self.rollout = rollout,
            Change::Pod(name, Some(pod)) => drop(self.pods.insert(name, pod)),
            Change::Pod(name, None) => drop(self.pods.remove(&name)),
            Change::Slice(name, endpoints) => drop(self.slices.insert(name, endpoints)),
            Change::Service(name, selector) => drop(self.services.insert(name, selector)),
        }
    }

    pub fn observe(&self, from: From) -> ObservedCluster {
        let mut endpoints: BTreeMap<VersionHash, Vec<Endpoint>> = BTreeMap::new();
        let pods: Box<dyn Iterator<Item = &Pod>> = match from {
            From::Pods => Box::new(self.pods.values()),
            From::Slices => Box::new(self.slices.values().flatten()),
        };
        for pod in pods {
            endpoints.entry(pod.version.clone()).or_default().push(pod.endpoint);
        }
        let rollout = self.rollout.as_ref().map(|both| both.0.clone());
        let names = rollout.as_ref().map(|rollout| {
            let names = rollout.services();
            [names.stable, names.canary].into_iter().flatten().map(str::to_owned).collect::<Vec<_>>()
        });
        let service = |name: String| Service { selector: self.services.get(&name).cloned(), name };
        let services = Some(names.into_iter().flatten().map(service).collect());
        ObservedCluster { rollout, endpoints, services, options: Options::default() }
    }
}

/// The same events in another order that six independent watches could have delivered: the order within a kind stays.
/// Every other seed lets a kind run far ahead of the rest before the next one gets its turn.
pub fn reordered(events: &[Event], seed: u64) -> Vec<Event> {
    let kind = |event: &Event| match event.change {
        Change::Rollout(_) => 0,
        Change::Pod(..) => 1,
        Change::Slice(..) => 2,
        Change::Service(..) => 3,
    };
    let mut queues: Vec<Vec<Event>> = vec![Vec::new(); 4];
    for event in events.iter().rev() {
        queues[kind(event)].push(event.clone());
    }
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move |bound: usize| {
        // Marsaglia's xorshift, good enough for shuffling.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 33) as usize % bound
    };
    let mut order = Vec::with_capacity(events.len());
    while order.len() < events.len() {
        let which = next(queues.len());
        let most = queues[which].len();
        let burst = if seed.is_multiple_of(2) { 1 } else { 1 + next(most.max(1)) };
        for _ in 0..burst.min(most) {
            order.extend(queues[which].pop());
        }
    }
    order
}
