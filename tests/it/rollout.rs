//! Recorded rollouts of the real controller, played through `plan` as watches delivered them, and as they could have.

mod annotated;
mod recorded;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use splitway::control::plan::{Applied, ObservedCluster, PATIENCE, Plan, plan};
use splitway::control::rollout::Rollout;
use splitway::route::{Identity, Snapshot, VersionHash};

use recorded::{Event, FILES, From, Index, load, reordered, rollouts};

/// Plays events one by one and hands each plan, with what it was made from, to `look`.
fn play(events: &[Event], from: From, mut look: impl FnMut(usize, &Index, &ObservedCluster, &Plan)) {
    let (mut index, mut now) = (Index::default(), Duration::ZERO);
    let mut applied: Option<Applied> = None;
    for (i, event) in events.iter().enumerate() {
        index.apply(event.change.clone());
        now = now.max(event.at);
        let observed = index.observe(from);
        let plan = plan(&observed, applied.as_ref(), now);
        look(i, &index, &observed, &plan);
        applied = plan.applied.clone().or(applied);
    }
}

fn ready(observed: &ObservedCluster, version: &str) -> usize {
    let endpoints = observed.endpoints.get(&VersionHash::new(version)).into_iter().flatten();
    let mut addresses: Vec<_> = endpoints.filter(|one| one.ready && !one.terminating).map(|one| one.address).collect();
    addresses.sort();
    addresses.dedup();
    addresses.len()
}

/// Who gets something, and how much.
type Split = BTreeMap<String, u64>;

fn served(plan: &Plan) -> Split {
    let weights = plan.routing.iter().flat_map(|routing| routing.split.weights());
    weights
        .filter(|(_, weight)| *weight > 0)
        .map(|(version, weight)| (version.to_string(), u64::from(*weight)))
        .collect()
}

/// The split that an object asks for, where object and ready pods decide it. Written against the controller's rules and
/// the raw object, so that it does not share a mistake with the code under test.
fn rule(rollout: &Value, observed: &ObservedCluster) -> Option<Split> {
    let (spec, status) = (&rollout["spec"], &rollout["status"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = |version: String, total: u64| Some(Split::from([(version, total)]));
    if spec["strategy"]["blueGreen"].is_object() {
        let active = text(&status["blueGreen"]["activeSelector"]);
        return all(if active.is_empty() { text(&status["stableRS"]) } else { active }, 100);
    }
    let canary = &spec["strategy"]["canary"];
    let (stable, current) = (text(&status["stableRS"]), text(&status["currentPodHash"]));
    let total = canary["trafficRouting"]["maxTrafficWeight"].as_u64().unwrap_or(100);
    let dynamic = canary["dynamicStableScale"] == true;
    if stable.is_empty() {
        return None;
    }
    let weights = &status["canary"]["weights"];
    if weights.is_object() && (dynamic || status["abort"] != true) {
        if stable == current && text(&weights["canary"]["podTemplateHash"]) == stable {
            return all(stable, total);
        }
        let mut split = Split::new();
        for one in [&weights["canary"], &weights["stable"]] {
            *split.entry(text(&one["podTemplateHash"])).or_default() += one["weight"].as_u64()?;
        }
        split.retain(|_, weight| *weight > 0);
        return Some(split);
    }
    if status["abort"] == true || stable == current {
        return all(stable, total);
    }
    let conditions = status["conditions"].as_array()?;
    let invalid = conditions.iter().any(|one| one["type"] == "InvalidSpec" && one["status"] == "True");
    let generation = rollout["metadata"]["generation"].as_i64()?;
    if invalid || text(&status["observedGeneration"]).parse() != Ok(generation) {
        return None;
    }
    let steps = canary["steps"].as_array()?;
    let index = status["currentStepIndex"].as_u64().unwrap_or(0) as usize;
    let last = |until: usize| steps[..until].iter().rev().find_map(|step| step["setWeight"].as_u64()).unwrap_or(0);
    let (pods, stable_pods) = (ready(observed, &current) as u64, ready(observed, &stable) as u64);
    let weight = if index >= steps.len() {
        // All of the canary's pods are there: all of the traffic.
        (pods >= spec["replicas"].as_u64()?).then_some(total)?
    } else if status["promoteFull"] == true {
        return None;
    } else if canary["trafficRouting"].is_object() && !dynamic {
        last(index)
    } else {
        let (low, high) = (last(index), last(index + 1));
        (total * pods / (pods + stable_pods).max(1)).clamp(low.min(high), low.max(high))
    };
    let mut split = Split::from([(current, weight), (stable, total - weight)]);
    split.retain(|_, weight| *weight > 0);
    Some(split)
}

/// What must hold after every event, in every order. Counts in `checked` how often the rule could decide.
fn assert_holds(
    index: &Index,
    observed: &ObservedCluster,
    plan: &Plan,
    previous: Option<&Snapshot>,
    checked: &mut usize,
) -> Option<Snapshot> {
    let routing = plan.routing.clone()?;
    let snapshot = Snapshot::build(routing, &Identity::random(), previous).expect("a plan compiles");
    let split = served(plan);
    let anybody = observed.endpoints.keys().any(|version| ready(observed, version.as_str()) > 0);
    if anybody {
        for version in split.keys() {
            assert!(ready(observed, version) > 0, "{version} gets requests without a ready pod");
        }
    }
    let Some(both) = &index.rollout else { return Some(snapshot) };
    let raw = &both.1;

    let rule = rule(raw, observed);
    if let Some(rule) = rule.as_ref().filter(|rule| rule.keys().all(|version| ready(observed, version) > 0)) {
        assert_eq!(&split, rule, "the split is not what the rule says");
        assert_eq!(plan.wake_at, None, "there is nothing to wait for");
        *checked += 1;
    }
    let (stable, current) = (&raw["status"]["stableRS"], &raw["status"]["currentPodHash"]);
    let promoted = stable.is_string() && stable == current;
    if promoted && ready(observed, stable.as_str().unwrap()) > 0 {
        // Published weights lag for one patch; an old version that they still name with a weight is not over.
        let named = |version: &str| rule.as_ref().is_some_and(|rule| rule.contains_key(version));
        for backend in snapshot.backends() {
            let version = backend.version.as_str();
            assert!(version == stable || named(version), "{version} is still there after the promotion of {stable}");
        }
    }
    Some(snapshot)
}

/// Says which play went wrong, at which event, if one does.
struct Place<'a>(&'a str, From, &'a str, u64, usize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in {}, endpoints from {:?}, {} order {}, event {}", self.0, self.1, self.2, self.3, self.4);
        }
    }
}

/// How often the rule could decide.
fn play_and_check(file: &str, events: &[Event], from: From, order: &str, seed: u64) -> usize {
    let mut place = Place(file, from, order, seed, 0);
    let mut live: Option<Snapshot> = None;
    let mut checked = 0;
    play(events, from, |i, index, observed, plan| {
        place.4 = i;
        if let Some(snapshot) = assert_holds(index, observed, plan, live.as_ref(), &mut checked) {
            live = Some(snapshot);
        }
    });
    assert!(live.is_some(), "nothing was ever served");
    checked
}

#[test]
fn recorded_rollouts_are_served_by_the_rule_after_every_event() {
    for file in FILES {
        let events = load(file);
        for from in [From::Pods, From::Slices] {
            let checked = play_and_check(file, &events, from, "recorded", 0);
            println!("{file} {from:?}: the rule decided after {checked} of {} events", events.len());
            assert!(checked > events.len() / 4);
        }
    }
}

#[test]
fn recorded_rollouts_are_served_by_the_rule_in_every_order_of_the_watches() {
    for file in FILES {
        let events = load(file);
        for seed in 0..40 {
            let events = reordered(&events, seed);
            let from = if seed % 4 < 2 { From::Pods } else { From::Slices };
            play_and_check(file, &events, from, "seeded", seed);
        }
    }
}

/// The splits of a recording in their order, with versions as people call them: by their first appearance.
fn story(file: &str) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut story: Vec<String> = Vec::new();
    play(&load(file), From::Pods, |_, index, _, plan| {
        let Some(both) = &index.rollout else { return };
        let current = both.1["status"]["currentPodHash"].as_str();
        names.extend(current.filter(|current| !names.iter().any(|name| name == current)).map(str::to_owned));
        let split = served(plan);
        let parts = names.iter().enumerate().filter_map(|(i, name)| Some((i + 1, *split.get(name)?)));
        let told = match split.len() {
            1 => parts.map(|(i, _)| format!("v{i}")).collect::<String>(),
            _ => parts.map(|(i, weight)| format!("v{i} {weight}")).collect::<Vec<_>>().join("+"),
        };
        if !told.is_empty() && story.last() != Some(&told) {
            story.push(told);
        }
    });
    story.join(", ")
}

#[test]
fn each_recording_is_served_as_its_story_says() {
    let stories = [
        ("analysis-fails", "v1, v1 75+v2 25, v1"),
        ("analysis-ok", "v1, v1 75+v2 25, v1 50+v2 50, v2"),
        ("basic-services", "v1, v1 75+v2 25, v1 67+v2 33, v1 50+v2 50, v1 34+v2 66, v1 25+v2 75, v2"),
        ("blue-green", "v1, v2"),
        ("empty-abort", "v1, v1 95+v2 5, v1 75+v2 25, v1"),
        ("empty-abort-retry", "v1, v1 75+v2 25, v1, v1 75+v2 25, v2"),
        ("empty-dynamic", "v1, v1 75+v2 25, v1 67+v2 33, v1 50+v2 50, v1 34+v2 66, v2"),
        ("empty-full", "v1, v1 95+v2 5, v1 90+v2 10, v1 75+v2 25, v1 50+v2 50, v2"),
        ("empty-full-promote", "v1, v1 90+v2 10, v1 67+v2 33, v1 34+v2 66, v2"),
        ("empty-never-ready", "v1"),
        ("empty-pods-killed", "v1, v1 50+v2 50, v1, v1 50+v2 50, v2"),
        ("empty-scale", "v1, v1 75+v2 25, v1 50+v2 50, v2"),
        ("empty-third", "v1, v1 75+v2 25, v1, v1 75+v3 25, v1 50+v3 50, v3"),
        ("empty-undo", "v1, v1 75+v2 25, v1, v1 75+v3 25, v3"),
        // Mended steps are begun again, and the controller did not get to the first one before the end.
        ("invalid-spec", "v1, v1 75+v2 25, v1"),
        ("published-505", "v1, v1 495+v2 505, v2"),
        ("published-abort", "v1, v1 75+v2 25, v1"),
        ("published-dynamic", "v1, v1 75+v2 25, v1 50+v2 50, v2"),
        ("published-dynamic-abort", "v1, v1 50+v2 50, v1 66+v2 34, v1"),
        ("published-full", "v1, v1 95+v2 5, v1 90+v2 10, v1 75+v2 25, v1 50+v2 50, v2"),
        ("published-full-promote", "v1, v1 90+v2 10, v2"),
        ("published-third", "v1, v1 75+v2 25, v1, v1 75+v3 25, v3"),
        ("recreated", "v1"),
        ("seed", "v1, v1 75+v2 25, v1 67+v2 33, v1 50+v2 50, v1 34+v2 66, v1 25+v2 75, v2"),
        ("seed-10s", "v1, v1 75+v2 25, v1 67+v2 33, v1 50+v2 50, v1 34+v2 66, v1 25+v2 75, v2"),
    ];
    assert_eq!(stories.map(|(file, _)| file), FILES);
    for (file, expected) in stories {
        assert_eq!(story(file), expected, "{file}");
    }
}

#[test]
fn providers_make_no_difference_to_the_sequence_of_splits() {
    for (published, empty) in [("published-full", "empty-full"), ("published-abort", "empty-abort-retry")] {
        let (published, empty) = (story(published), story(empty));
        assert!(empty.starts_with(&published), "{published} and {empty}");
    }
}

static ROLLOUTS: LazyLock<Vec<Value>> = LazyLock::new(rollouts);

/// Removes one value, chosen by `random`, somewhere in the tree, or writes null there.
fn prune(value: &mut Value, random: u64) {
    let mut paths = Vec::new();
    collect(value, String::new(), &mut paths);
    let Some(path) = paths.get((random >> 1) as usize % paths.len().max(1)) else { return };
    let (parent, key) = path.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/").replace("~0", "~");
    // Kubernetes has no null in maps of strings, nor in place of a whole spec.
    let may_be_null =
        !parent.is_empty() && !["labels", "matchLabels", "annotations"].iter().any(|map| parent.ends_with(map));
    match value.pointer_mut(parent).unwrap() {
        Value::Array(items) => drop(items.remove(key.parse().unwrap())),
        Value::Object(fields) if random.is_multiple_of(2) && may_be_null => drop(fields.insert(key, json!(null))),
        Value::Object(fields) => drop(fields.remove(&key)),
        _ => unreachable!("only lists and objects have children"),
    }
}

fn collect(value: &Value, path: String, paths: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
        _ => return,
    };
    for (key, child) in children {
        let path = format!("{path}/{key}");
        collect(child, path.clone(), paths);
        paths.push(path);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_rollout_with_anything_missing_is_read_and_planned_for(
        which in any::<prop::sample::Index>(),
        before in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<u64>(), 1..12),
    ) {
        let whole = which.get(&ROLLOUTS);
        let mut pruned = whole.clone();
        for cut in cuts {
            prune(&mut pruned, cut);
        }
        let first = before.get(&ROLLOUTS);
        let mut applied = None;
        for (second, object) in [first, &pruned, whole].into_iter().enumerate() {
            let rollout: Rollout = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
            let observed = ObservedCluster { rollout: Some(rollout), ..ObservedCluster::default() };
            let plan = plan(&observed, applied.as_ref(), PATIENCE * second as u32 / 2);
            if let Some(routing) = &plan.routing {
                Snapshot::build(routing.clone(), &Identity::random(), None).expect("a plan compiles");
            }
            applied = plan.applied.or(applied);
        }
    }
}
