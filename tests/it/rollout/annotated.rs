//! The recordings once more, with an annotation of ours on every Rollout: what the controller does is the same, as it does
//! not know the annotation; what we serve follows both.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use splitway::control::plan::{ObservedCluster, Plan};
use splitway::control::rollout::{ROUTES, Rollout};
use splitway::route::{Identity, Snapshot};

use super::recorded::{Change, Event, FILES, From, Index, load, reordered};
use super::{Place, play, ready, rule, served};

/// Tenths of a unit that every weight gets on top of the step's number.
const TENTHS: u64 = 4;

fn total(rollout: &Value) -> u64 {
    rollout["spec"]["strategy"]["canary"]["trafficRouting"]["maxTrafficWeight"].as_u64().unwrap_or(100)
}

fn steps(rollout: &Value) -> &[Value] {
    rollout["spec"]["strategy"]["canary"]["steps"].as_array().map_or(&[], Vec::as_slice)
}

fn set_weight(step: &Value, total: u64) -> Option<u64> {
    step["setWeight"].as_u64().filter(|weight| (1..total).contains(weight))
}

/// A route for the whole update, one for a part of it, and a finer weight for every step that can have one.
fn annotation(rollout: &Value) -> String {
    let (steps, total) = (steps(rollout), total(rollout));
    let route = |name: &str| json!({"name": name, "match": [{"headerName": "x-a", "headerValue": {"exact": name}}]});
    let mut some = json!({"setHeaderRoute": route("some")});
    if steps.len() > 2 {
        (some["fromStep"], some["toStep"]) = (json!(1), json!(steps.len() - 2));
    }
    let weights = steps.iter().enumerate().filter_map(|(i, step)| {
        let units = (set_weight(step, total)? * 10 + TENTHS) * 1_000_000 / (10 * total);
        Some(json!({"step": i, "weight": format!("{}.{:04}%", units / 10_000, units % 10_000)}))
    });
    json!({"routes": [{"setHeaderRoute": route("whole")}, some], "weights": weights.collect::<Vec<_>>()}).to_string()
}

/// The events with every Rollout annotated by `text`, which is given the number of the Rollout's event.
fn annotated(events: &[Event], text: impl Fn(usize, &Value) -> String) -> Vec<Event> {
    let mut number = 0;
    let annotate = |event: &Event| {
        let mut event = event.clone();
        if let Change::Rollout(Some(both)) = &mut event.change {
            both.1["metadata"]["annotations"][ROUTES] = json!(text(number, &both.1));
            both.0 = serde_json::from_value::<Rollout>(both.1.clone()).expect("an annotation is only a text");
            number += 1;
        }
        event
    };
    events.iter().map(annotate).collect()
}

/// Our routes, in their order.
fn names(plan: &Plan) -> Vec<&str> {
    plan.routing.iter().flat_map(|routing| &routing.routes).map(|route| route.name.as_str()).filter(is_ours).collect()
}

fn is_ours(name: &&str) -> bool {
    ["whole", "some"].contains(name)
}

/// What has been seen of the steps, to know when the index does not point into them.
#[derive(Default)]
struct Progress(Option<(Value, Value)>);

impl Progress {
    fn is_stale(&mut self, rollout: &Value) -> bool {
        let now =
            (rollout["spec"]["strategy"]["canary"]["steps"].clone(), rollout["status"]["currentStepHash"].clone());
        let stale = self.0.as_ref().is_some_and(|(steps, hash)| *steps != now.0 && *hash == now.1);
        if !stale && !now.1.is_null() {
            self.0 = Some(now);
        }
        stale
    }
}

fn holds(rollout: &Value) -> bool {
    let status = &rollout["status"];
    let observed: Option<i64> = status["observedGeneration"].as_str().and_then(|text| text.parse().ok());
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    observed != rollout["metadata"]["generation"].as_i64()
        || conditions.any(|one| one["type"] == "InvalidSpec" && one["status"] == "True")
}

/// How often the split was finer, a route was in force, and none was although an update was going on.
#[derive(Default)]
struct Seen {
    finer: usize,
    whole: usize,
    some: usize,
    without: usize,
}

fn assert_holds(index: &Index, observed: &ObservedCluster, plan: &Plan, progress: &mut Progress, seen: &mut Seen) {
    let Some(both) = &index.rollout else {
        assert!(names(plan).is_empty() && plan.problem.is_none());
        return;
    };
    let raw = &both.1;
    assert_eq!(plan.problem, None);
    let Some(routing) = plan.routing.clone() else { return };
    Snapshot::build(routing, &Identity::random(), None).expect("a plan compiles");
    let (steps, total, status) = (steps(raw), total(raw), &raw["status"]);
    let stale = progress.is_stale(raw);
    let at = status["currentStepIndex"].as_u64().unwrap_or(0) as usize;
    let current = status["currentPodHash"].as_str().unwrap_or_default();

    // Less than a unit away from what the rule says, and the very weight where a step decides.
    let split = served(plan);
    let sum: u64 = split.values().sum();
    if let Some(rule) = rule(raw, observed).filter(|rule| rule.keys().all(|one| ready(observed, one) > 0))
        && !stale
    {
        assert_eq!(split.keys().collect::<Vec<_>>(), rule.keys().collect::<Vec<_>>());
        let asked: u64 = rule.values().sum();
        assert_eq!(asked, total);
        for (version, weight) in &rule {
            assert!((split[version] * total).abs_diff(weight * sum) < sum, "{split:?} for {rule:?}");
        }
        let weight = rule.get(current).copied().unwrap_or(0);
        let by_step = steps.iter().take(at + 1).any(|step| set_weight(step, total) == Some(weight));
        let routing = &raw["spec"]["strategy"]["canary"]["trafficRouting"];
        let published = status["canary"]["weights"].is_object();
        let dynamic = raw["spec"]["strategy"]["canary"]["dynamicStableScale"] == true;
        if rule.len() == 2 && by_step && (published || routing.is_object() && !dynamic) {
            assert_eq!(split[current] * 10 * total, (weight * 10 + TENTHS) * sum, "{split:?} for {rule:?}");
            seen.finer += 1;
        }
    }

    let names = names(plan);
    let updating = status["stableRS"].is_string() && status["stableRS"] != status["currentPodHash"];
    let may = updating && status["abort"] != true && status["promoteFull"] != true;
    let revision = &raw["metadata"]["annotations"]["rollout.argoproj.io/revision"];
    let lost = ready(observed, current) == 0;
    if !may || revision == "1" || lost && anybody(observed) {
        assert!(names.is_empty(), "{names:?} without an update or a canary");
        seen.without += usize::from(updating);
    } else if !holds(raw) && !stale && !lost {
        let some = steps.len() <= 2 || (1..=steps.len() - 2).contains(&at);
        assert_eq!(names, if some { vec!["whole", "some"] } else { vec!["whole"] }, "at step {at}");
        seen.whole += 1;
        seen.some += usize::from(some);
    }
}

fn anybody(observed: &ObservedCluster) -> bool {
    observed.endpoints.keys().any(|version| ready(observed, version.as_str()) > 0)
}

#[test]
fn annotated_rollouts_have_their_routes_and_weights_after_every_event() {
    let mut all = BTreeMap::new();
    for file in FILES {
        let events = annotated(&load(file), |_, rollout| annotation(rollout));
        let mut seen = Seen::default();
        for seed in 0..12 {
            let order = if seed == 0 { events.clone() } else { reordered(&events, seed) };
            let from = if seed % 4 < 2 { From::Pods } else { From::Slices };
            let mut place = Place(file, from, "seeded", seed, 0);
            let mut progress = Progress::default();
            play(&order, from, |i, index, observed, plan| {
                place.4 = i;
                assert_holds(index, observed, plan, &mut progress, &mut seen);
            });
        }
        all.insert(file, seen);
    }
    // Not by looking away.
    for file in ["empty-full", "published-full", "empty-abort", "published-abort", "published-505"] {
        let seen = &all[file];
        let counts = [seen.finer, seen.whole, seen.some, seen.without];
        assert!(counts.iter().all(|count| *count > 20), "{file}: {counts:?}");
    }
    assert!(all["basic-services"].whole > 20 && all["invalid-spec"].whole > 20);
}

#[test]
fn an_annotation_that_is_broken_for_a_while_changes_nothing_but_what_is_told() {
    for file in FILES {
        let events = load(file);
        let good = annotated(&events, |_, rollout| annotation(rollout));
        // Broken where it was good for the same steps just before.
        let broken = annotated(&events, |number, rollout| {
            let text = annotation(rollout);
            match number % 3 {
                0 => text,
                1 => format!("{text}]"),
                _ => text.replace("\"routes\"", "\"route\""),
            }
        });
        let mut expected = Vec::new();
        let mut texts: Vec<Option<String>> = Vec::new();
        play(&good, From::Pods, |_, index, _, plan| {
            let names: Vec<String> = names(plan).into_iter().map(str::to_owned).collect();
            expected.push((served(plan), names));
            texts.push(index.rollout.as_ref().map(|both| both.1["spec"]["strategy"]["canary"]["steps"].to_string()));
        });
        let (mut told, mut good_for) = (0, None);
        play(&broken, From::Pods, |i, _, _, plan| {
            let Some(steps) = texts[i].clone() else {
                good_for = None;
                return;
            };
            match &plan.problem {
                None => good_for = Some(steps.clone()),
                Some(problem) => {
                    told += 1;
                    assert!(problem.starts_with("metadata.annotations[splitway.dev/routes]"), "{problem}");
                    assert!(plan.notes.iter().any(|note| note.starts_with(problem.as_str())));
                }
            }
            if good_for.as_ref() == Some(&steps) {
                let names: Vec<String> = names(plan).into_iter().map(str::to_owned).collect();
                assert_eq!((served(plan), names), expected[i], "{file}, event {i}: {:?}", plan.problem);
            } else {
                good_for = None;
            }
        });
        assert!(told > 0, "{file}");
    }
}
