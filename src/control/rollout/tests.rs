use proptest::prelude::*;
use serde_json::{Value, json};

use crate::route::matches::ValueMatch;
use crate::route::{MadeUp, VersionHash};

use super::*;

pub const V1: &str = "6d9b7c5f48";
pub const V2: &str = "78c5d4b9fd";
pub const V3: &str = "59f4d8b6c7";

/// The demo Rollout `shop`: 3 replicas, steps 33, pause, 100. With `status` for a status.
pub fn shop(traffic_routing: Value, status: Value) -> Value {
    let mut shop = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
        "metadata": {"name": "shop", "namespace": "demo", "generation": 2,
                     "annotations": {"rollout.argoproj.io/revision": "2"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "shop"}},
                 "template": {"metadata": {"labels": {"app": "shop"}}},
                 "strategy": {"canary": {
                     "stableService": "shop-stable", "canaryService": "shop-canary",
                     "steps": [{"setWeight": 33}, {"pause": {"duration": "1m"}}, {"setWeight": 100}]}}},
        "status": status,
    });
    if !traffic_routing.is_null() {
        shop["spec"]["strategy"]["canary"]["trafficRouting"] = traffic_routing;
    }
    shop
}

/// A status in the middle of the update from v1 to v2.
pub fn updating(index: i64) -> Value {
    json!({"observedGeneration": "2", "stableRS": V1, "currentPodHash": V2, "currentStepIndex": index, "canary": {}})
}

pub fn published() -> Value {
    json!({"nginx": {"stableIngress": "shop"}})
}

/// One of the recorded stages of an update, with the metadata and status that the controller wrote then.
pub fn stage(case: &str, traffic_routing: Value) -> Value {
    let stages = include_str!("../../../tests/data/rollouts/stages.jsonl");
    let stage: Value = stages
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|stage| stage["case"] == case)
        .unwrap_or_else(|| panic!("no stage {case}"));
    let publishes = traffic_routing.as_object().is_some_and(|routing| !routing.is_empty());
    let mut shop = shop(traffic_routing, stage["status"].clone());
    shop["metadata"]["generation"] = stage["metadata"]["generation"].clone();
    shop["metadata"]["annotations"] = stage["metadata"]["annotations"].clone();
    if !publishes {
        shop["status"]["canary"] = json!({});
    }
    shop
}

pub fn read(object: &Value) -> Rollout {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"))
}

/// Hashes as people call them.
pub fn named(text: &str) -> String {
    text.replace(V1, "v1").replace(V2, "v2").replace(V3, "v3")
}

fn told(object: &Value) -> String {
    let pair = |pair: &Pair, what: String| format!("{} against {}, {what} of {}", pair.canary, pair.stable, pair.total);
    named(&match intent(&read(object), &Finer::default()) {
        Err(Hold::Behind) => "hold: behind".to_owned(),
        Err(Hold::InvalidSpec(message)) => format!("hold: invalid: {message}"),
        Ok(Intent::All(version)) => format!("all {version}"),
        Ok(Intent::Bootstrap) => "bootstrap".to_owned(),
        Ok(Intent::Shares(wanted)) => {
            let experiments = wanted.experiments.iter().map(|version| format!(", experiment {version}"));
            format!("{}; stable {}{}", wanted.shares, wanted.stable, experiments.collect::<String>())
        }
        Ok(Intent::Exact { pair: it, weight }) => pair(&it, format!("{weight}")),
        Ok(Intent::Follow { pair: it, from, to }) => pair(&it, format!("follow {from}..{to}")),
        Ok(Intent::Ramp { pair: it, cap, replicas }) => pair(&it, format!("ramp to {cap} by {replicas} pods")),
    })
}

#[track_caller]
fn check(object: &Value, expected: &str) {
    assert_eq!(told(object), expected, "{object:#}");
}

/// `object` with the value at `path` replaced, or removed by `null`.
fn with(mut object: Value, path: &str, value: Value) -> Value {
    let (parent, key) = path.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("no {path}"));
    match value {
        Value::Null => drop(parent.as_object_mut().unwrap().remove(key)),
        value => parent[key] = value,
    }
    object
}

#[test]
fn every_stage_of_an_update_asks_for_what_the_controller_means() {
    let table = [
        // stage, with a provider, without
        ("S1", "v1 100 of 100; stable v1", "all v1"),
        ("S2", "v1 100 of 100; stable v1", "hold: behind"),
        ("S3", "v1 100 of 100; stable v1", "v2 against v1, 0 of 100"),
        ("S4", "v1 100, v2 0 of 100; stable v1", "v2 against v1, 0 of 100"),
        ("S5", "v1 67, v2 33 of 100; stable v1", "v2 against v1, 33 of 100"),
        ("S6", "v1 67, v2 33 of 100; stable v1", "v2 against v1, 33 of 100"),
        ("S7", "v1 67, v2 33 of 100; stable v1", "v2 against v1, 33 of 100"),
        ("S8", "v1 67, v2 33 of 100; stable v1", "v2 against v1, 33 of 100"),
        ("S9", "v1 0, v2 100 of 100; stable v1", "v2 against v1, ramp to 100 by 3 pods of 100"),
        ("S10", "v2 100 of 100; stable v2", "all v2"),
        ("S11", "v2 100 of 100; stable v2", "all v2"),
        ("S12", "v2 100 of 100; stable v2", "all v2"),
        ("A1", "all v1", "all v1"),
        ("A2", "all v1", "all v1"),
        ("A3", "all v1", "all v1"),
        ("R1", "v1 100, v2 0 of 100; stable v1", "v2 against v1, 0 of 100"),
        ("R2", "v1 100, v2 0 of 100; stable v1", "v2 against v1, 0 of 100"),
        ("U1", "v1 67, v2 33 of 100; stable v1", "all v1"),
        ("U2", "v1 100 of 100; stable v1", "all v1"),
        ("F1", "v1 67, v2 33 of 100; stable v1", "v2 against v1, ramp to 100 by 3 pods of 100"),
        ("F2", "v2 100 of 100; stable v2", "all v2"),
    ];
    for (case, with_provider, without) in table {
        assert_eq!(told(&stage(case, published())), with_provider, "{case} with a provider");
        assert_eq!(told(&stage(case, json!({}))), without, "{case} without");
    }
}

#[test]
fn the_mode_follows_from_traffic_routing_alone() {
    let mode = |routing: Value| read(&shop(routing, json!({}))).mode();
    assert_eq!(mode(Value::Null), Mode::Basic);
    assert_eq!(mode(json!({})), Mode::Empty);
    assert_eq!(mode(json!({"managedRoutes": [{"name": "testers"}], "maxTrafficWeight": 1000})), Mode::Empty);
    assert_eq!(mode(json!({"nginx": null, "plugins": {}})), Mode::Empty);
    assert_eq!(mode(json!({"plugins": {"org/name": {}}})), Mode::Published);
    for provider in ["istio", "nginx", "alb", "smi", "ambassador", "appMesh", "traefik", "apisix"] {
        assert_eq!(mode(json!({provider: {}})), Mode::Published, "{provider}");
    }
    assert_eq!(mode(json!({"ngnix": {}})), Mode::Empty, "the API server would have dropped it");
}

#[test]
fn without_a_provider_the_step_before_the_index_is_the_weight() {
    let weights = json!([{"setWeight": 5}, {"pause": {}}, {"setWeight": 10}, {"analysis": {}}, {"setWeight": 7}]);
    let expected = ["0", "5", "5", "10", "10", "ramp to 7 by 3 pods", "ramp to 7 by 3 pods"];
    for (index, expected) in expected.iter().enumerate() {
        let object = with(shop(json!({}), updating(index as i64)), "/spec/strategy/canary/steps", weights.clone());
        check(&object, &format!("v2 against v1, {expected} of 100"));
    }
    check(&with(shop(json!({}), updating(2)), "/status/currentStepIndex", Value::Null), "v2 against v1, 0 of 100");
    check(&shop(json!({}), updating(-3)), "v2 against v1, 0 of 100");
}

#[test]
fn without_traffic_routing_pods_carry_the_weight_from_one_step_to_the_next() {
    let at = |index| shop(Value::Null, updating(index));
    check(&at(0), "v2 against v1, follow 0..33 of 100");
    check(&at(1), "v2 against v1, 33 of 100");
    check(&at(2), "v2 against v1, follow 33..100 of 100");
    check(&at(3), "v2 against v1, 100 of 100");
    let up_to = |weight: i64| with(at(3), "/spec/strategy/canary/steps", json!([{"setWeight": weight}]));
    check(&up_to(50), "v2 against v1, follow 50..100 of 100");
    let down = json!([{"setWeight": 50}, {"setWeight": 20}]);
    check(&with(at(1), "/spec/strategy/canary/steps", down), "v2 against v1, follow 50..20 of 100");
    check(&with(at(1), "/status/promoteFull", json!(true)), "v2 against v1, follow 0..100 of 100");
    check(&with(at(1), "/status/abort", json!(true)), "all v1");
    check(&with(at(3), "/status/currentPodHash", json!(V1)), "all v1");
}

#[test]
fn without_steps_only_a_rolling_update_moves_traffic_before_the_promotion() {
    let stepless = |routing| with(shop(routing, updating(0)), "/spec/strategy/canary/steps", Value::Null);
    check(&stepless(Value::Null), "v2 against v1, follow 0..100 of 100");
    check(&stepless(json!({})), "all v1");
    check(&stepless(published()), "all v1");
}

#[test]
fn stable_pods_that_are_taken_away_make_the_split_follow_the_pods() {
    let dynamic =
        |routing, index| with(shop(routing, updating(index)), "/spec/strategy/canary/dynamicStableScale", json!(true));
    check(&dynamic(json!({}), 2), "v2 against v1, follow 33..100 of 100");
    check(&dynamic(json!({}), 1), "v2 against v1, 33 of 100");
    check(&with(dynamic(json!({}), 2), "/status/abort", json!(true)), "all v1");

    // With a provider the weights that the controller takes down step by step are followed, even after an abort.
    let weights = json!({"weights": {"canary": {"weight": 34, "podTemplateHash": V2},
                                     "stable": {"weight": 66, "podTemplateHash": V1}}});
    let aborting = with(with(dynamic(published(), 0), "/status/abort", json!(true)), "/status/canary", weights.clone());
    check(&aborting, "v1 66, v2 34 of 100; stable v1");
    let undone = with(with(dynamic(published(), 3), "/status/currentPodHash", json!(V1)), "/status/canary", weights);
    check(&undone, "v1 66, v2 34 of 100; stable v1");
}

#[test]
fn published_weights_are_taken_as_they_are() {
    let weights = |weights: Value| {
        let routing = json!({"maxTrafficWeight": 1000, "plugins": {"org/name": {}}});
        with(shop(routing, updating(1)), "/status/canary", json!({"weights": weights}))
    };
    let (canary, stable) =
        (json!({"weight": 505, "podTemplateHash": V2}), json!({"weight": 495, "podTemplateHash": V1}));
    check(&weights(json!({"canary": canary, "stable": stable})), "v1 495, v2 505 of 1000; stable v1");
    let experiment = json!({"weight": 100, "podTemplateHash": V3, "serviceName": "trial"});
    let kept = json!({"weight": 395, "podTemplateHash": V1});
    check(
        &weights(json!({"canary": canary, "stable": kept, "additional": [experiment]})),
        "v1 395, v2 505, v3 100 of 1000; stable v1, experiment v3",
    );
    let by_service = json!({"weight": 100, "serviceName": "trial"});
    check(
        &weights(json!({"canary": canary, "stable": kept, "additional": [by_service]})),
        "v1 395, v2 505, trial 100 of 1000; stable v1, experiment trial",
    );
    // A third version is being rolled out, and the weights still name the second one.
    let third = with(weights(json!({"canary": canary, "stable": stable})), "/status/currentPodHash", json!(V3));
    check(&third, "v1 495, v2 505 of 1000; stable v1");
    // Hashes that are left out are those of the status.
    check(&weights(json!({"canary": {"weight": 5}, "stable": {"weight": 995}})), "v1 995, v2 5 of 1000; stable v1");
    // Weights that cannot be known are not zero: the steps decide.
    let steps_decide = "v2 against v1, 33 of 1000";
    for unknown in [
        json!({"canary": {"podTemplateHash": V2}, "stable": stable}),
        json!({"stable": stable}),
        json!({"canary": {"weight": 0}, "stable": {"weight": 0}}),
        json!({"canary": {"weight": -1}, "stable": {"weight": 101}}),
        json!({"canary": canary, "stable": stable, "additional": [{"podTemplateHash": V3}]}),
        Value::Null,
    ] {
        check(&weights(unknown), steps_decide);
    }
}

#[test]
fn a_total_beyond_what_a_split_can_have_is_scaled_down() {
    let routing = json!({"maxTrafficWeight": 2_000_000_000, "nginx": {}});
    let weights = json!({"weights": {"canary": {"weight": 500_000_000, "podTemplateHash": V2},
                                     "stable": {"weight": 1_500_000_000, "podTemplateHash": V1}}});
    let object = with(shop(routing, updating(1)), "/status/canary", weights);
    check(&object, "v1 750000, v2 250000 of 1000000; stable v1");
}

#[test]
fn a_status_that_is_not_about_the_spec_holds_what_is_served() {
    let object = shop(json!({}), updating(1));
    check(&with(object.clone(), "/metadata/generation", json!(3)), "hold: behind");
    check(&with(object.clone(), "/status/observedGeneration", json!("")), "v2 against v1, 33 of 100");
    check(&with(object.clone(), "/status/observedGeneration", json!("7d6f")), "v2 against v1, 33 of 100");
    let conditions = |status: &str| json!([{"type": "InvalidSpec", "status": status, "message": "setWeight: 120"}]);
    let invalid = with(object.clone(), "/status/conditions", conditions("True"));
    check(&invalid, "hold: invalid: setWeight: 120");
    check(&with(object.clone(), "/status/conditions", conditions("False")), "v2 against v1, 33 of 100");
    // An abort needs no step, and the controller would not react to it while the spec is invalid.
    check(&with(invalid, "/status/abort", json!(true)), "all v1");

    let workload = |observed: &str| {
        let object = with(object.clone(), "/spec/workloadRef", json!({"kind": "Deployment", "name": "shop"}));
        let annotations = json!({"rollout.argoproj.io/revision": "2", "rollout.argoproj.io/workload-generation": "4"});
        let object = with(object, "/metadata/annotations", annotations);
        with(object, "/status/workloadObservedGeneration", json!(observed))
    };
    check(&workload("3"), "hold: behind");
    check(&workload("4"), "v2 against v1, 33 of 100");
    check(&with(workload("3"), "/spec/workloadRef", Value::Null), "v2 against v1, 33 of 100");
}

#[test]
fn blue_green_follows_the_active_selector() {
    let blue_green = |status: Value| {
        let strategy = json!({"blueGreen": {"activeService": "shop-active", "previewService": "shop-preview"}});
        with(shop(Value::Null, status), "/spec/strategy", strategy)
    };
    check(&blue_green(json!({})), "bootstrap");
    check(&blue_green(json!({"stableRS": V1, "blueGreen": {"previewSelector": V1}})), "all v1");
    let switched = json!({"stableRS": V1, "currentPodHash": V2, "blueGreen": {"activeSelector": V2}});
    check(&blue_green(switched), "all v2");
    let services = read(&blue_green(json!({})));
    assert_eq!(services.services(), ServiceNames { stable: Some("shop-active"), canary: Some("shop-preview") });
}

#[test]
fn before_the_first_version_has_finished_everything_ready_serves() {
    check(&shop(json!({}), Value::Null), "bootstrap");
    check(&shop(json!({}), json!({"currentPodHash": V1, "stableRS": ""})), "bootstrap");
    check(&shop(published(), json!({"currentPodHash": V1})), "bootstrap");
    check(&shop(json!({}), json!({"stableRS": V1})), "all v1");
}

#[test]
fn ping_pong_swaps_the_roles_of_the_services() {
    let object = |stable: Value| {
        let routing = json!({"alb": {"ingress": "shop"}});
        let names = json!({"pingService": "shop-ping", "pongService": "shop-pong"});
        let object = with(shop(routing, updating(0)), "/spec/strategy/canary/pingPong", names);
        read(&with(object, "/status/canary/stablePingPong", stable))
    };
    let (ping, pong) = (Some("shop-ping"), Some("shop-pong"));
    assert_eq!(object(json!("ping")).services(), ServiceNames { stable: ping, canary: pong });
    assert_eq!(object(json!("pong")).services(), ServiceNames { stable: pong, canary: ping });
    assert_eq!(object(json!("")).services(), ServiceNames { stable: pong, canary: ping });
    assert_eq!(object(Value::Null).services(), ServiceNames { stable: pong, canary: ping });
}

#[test]
fn a_field_of_another_type_is_refused_instead_of_guessed() {
    let object = with(shop(json!({}), updating(1)), "/status/stableRS", json!(5));
    let error = serde_json::from_value::<Rollout>(object).unwrap_err().to_string();
    assert!(error.contains("invalid type: integer `5`, expected a string"), "{error}");
}

/// Steps with a header route, its replacement, a mirror, and the removal of both.
fn routed(index: i64) -> Value {
    let header = |value: Value| json!([{"headerName": "X-Tester", "headerValue": value}]);
    let mirror = json!([{"method": {"exact": "GET"}, "path": {"prefix": "/"}, "headers": {"x-copy": {}}}]);
    let steps = json!([
        {"setHeaderRoute": {"name": "testers", "match": header(json!({"exact": "yes"}))}},
        {"setWeight": 10},
        {"setMirrorRoute": {"name": "copies", "percentage": 20, "match": mirror}},
        {"setHeaderRoute": {"name": "testers", "match": header(json!({"prefix": "team-"}))}},
        {"setHeaderRoute": {"name": "testers"}},
        {"setMirrorRoute": {"name": "copies", "match": []}},
        {"setWeight": 100}
    ]);
    let routing = json!({"istio": {}, "managedRoutes": [{"name": "copies"}, {"name": "testers"}]});
    with(shop(routing, updating(index)), "/spec/strategy/canary/steps", steps)
}

fn routes(object: &Value) -> String {
    let Some(managed) = managed_routes(&read(object), HeaderList::OneIsEnough) else { return "as before".to_owned() };
    assert!(managed.notes.is_empty(), "{:?}", managed.notes);
    let told = managed.routes.iter().map(|route| match route {
        ManagedRoute::Header { name, matches } => {
            let values = matches.iter().map(|one| match &one.headers[0].1 {
                ValueMatch::Exact(value) => format!("={}", String::from_utf8_lossy(value)),
                ValueMatch::Prefix(value) => format!("^{}", String::from_utf8_lossy(value)),
                other => format!("{other:?}"),
            });
            format!("{} {}", name.as_str(), values.collect::<Vec<_>>().join("|"))
        }
        ManagedRoute::Mirror(mirror) => format!("{} {}%", mirror.name.as_str(), mirror.percentage),
    });
    told.collect::<Vec<_>>().join(", ")
}

#[test]
fn routes_are_folded_from_the_steps_up_to_the_current_one() {
    let expected = [
        "testers =yes",
        "testers =yes",
        "copies 20%, testers =yes",
        "copies 20%, testers ^team-",
        "copies 20%",
        "",
        "",
        "",
    ];
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(routes(&routed(index as i64)), *expected, "at step {index}");
    }
}

#[test]
fn routes_end_with_the_update_an_abort_and_a_full_promotion() {
    let object = routed(3);
    assert_eq!(routes(&with(object.clone(), "/status/abort", json!(true))), "");
    assert_eq!(routes(&with(object.clone(), "/status/promoteFull", json!(true))), "");
    assert_eq!(routes(&with(object.clone(), "/status/stableRS", json!(V2))), "");
    assert_eq!(routes(&with(object.clone(), "/status/stableRS", json!(""))), "");
    let first = json!({"rollout.argoproj.io/revision": "1"});
    assert_eq!(routes(&with(object.clone(), "/metadata/annotations", first)), "");
    assert_eq!(routes(&with(object, "/metadata/generation", json!(3))), "as before");
}

#[test]
fn a_route_that_cannot_be_read_is_told_and_never_matches() {
    let object = |items: Value, declared: &str| {
        let object =
            with(routed(0), "/spec/strategy/canary/steps", json!([{"setHeaderRoute": {"name": "a", "match": items}}]));
        read(&with(object, "/spec/strategy/canary/trafficRouting/managedRoutes", json!([{"name": declared}])))
    };
    let items =
        json!([{"headerName": "x y"}, {"headerName": "x", "headerValue": {"regex": "("}}, {"headerName": "ok"}]);
    let one = managed_routes(&object(items.clone(), "a"), HeaderList::OneIsEnough).unwrap();
    assert_eq!((one.routes.len(), one.notes.len()), (1, 2), "{one:?}");
    let all = managed_routes(&object(items, "a"), HeaderList::All).unwrap();
    assert_eq!((all.routes.len(), all.notes.len()), (0, 2), "{all:?}");
    let unknown = managed_routes(&object(json!([{"headerName": "ok"}]), "b"), HeaderList::OneIsEnough).unwrap();
    assert!(unknown.routes.is_empty());
    assert_eq!(unknown.notes, [r#"route "a" is set by a step but not listed in managedRoutes: ignored"#]);
}

#[test]
fn a_mirrors_conditions_hold_together_and_its_alternatives_apart() {
    let rollout = |items: Value| {
        let steps = json!([{"setMirrorRoute": {"name": "copies", "match": items}}]);
        read(&with(routed(0), "/spec/strategy/canary/steps", steps))
    };
    let mirror = |items: Value| {
        let managed = managed_routes(&rollout(items), HeaderList::OneIsEnough).unwrap();
        let mirror = managed.routes.into_iter().map(|route| match route {
            ManagedRoute::Mirror(mirror) => mirror,
            other => panic!("{other:?}"),
        });
        (mirror.collect::<Vec<_>>(), managed.notes)
    };
    let items = json!([
        {"method": {"exact": "GET"}, "path": {"prefix": "/sho"}, "headers": {"X-Copy": {"regex": "[0-9]+"}}},
        {"method": {"regex": "P.*T"}, "path": {"exact": "/a"}},
        {"method": {"prefix": "DEL"}, "path": {"regex": "/b/.*"}, "headers": {"x-any": {}}}
    ]);
    let (mirrors, notes) = mirror(items);
    assert_eq!((mirrors.len(), mirrors[0].percentage, notes.len()), (1, 100, 0));
    let holds = |method: &str, target: &str, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let head = MadeUp::new(method, target, headers, [127, 0, 0, 1].into());
        mirrors[0].matches.iter().position(|one| one.holds(&head))
    };
    assert_eq!(holds("GET", "/shopping?q", &[("x-copy", "42")]), Some(0));
    assert_eq!(holds("GET", "/shopping", &[("x-copy", "4a")]), None);
    assert_eq!(holds("GET", "/s", &[("x-copy", "42")]), None);
    assert_eq!(holds("POST", "/a?b", &[]), Some(1));
    assert_eq!(holds("PUT", "/a", &[]), Some(1));
    assert_eq!(holds("PATCH", "/a", &[]), None);
    assert_eq!(holds("PUT", "/ab", &[]), None);
    assert_eq!(holds("DELETE", "/b/c", &[("x-any", "")]), Some(2));
    assert_eq!(holds("DELETE", "/b/c", &[]), None);

    // What cannot be compiled is never taken as fulfilled.
    let broken = json!([{"path": {"regex": "("}}, {"headers": {"x y": {"exact": "1"}}}]);
    let (mirrors, notes) = mirror(broken);
    assert_eq!((mirrors.len(), notes.len()), (0, 2), "{notes:?}");
}

#[test]
fn the_items_of_a_header_route_are_alternatives_unless_all_are_wanted() {
    let items = json!([{"headerName": "a", "headerValue": {"exact": "1"}}, {"headerName": "b", "headerValue": {"regex": "2."}}]);
    let steps = json!([{"setHeaderRoute": {"name": "testers", "match": items}}]);
    let rollout = read(&with(routed(0), "/spec/strategy/canary/steps", steps));
    let holds = |list, headers: &[(&str, &str)]| {
        let managed = managed_routes(&rollout, list).unwrap();
        let [ManagedRoute::Header { matches, .. }] = managed.routes.as_slice() else { panic!("{managed:?}") };
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let head = MadeUp::new("GET", "/", headers, [127, 0, 0, 1].into());
        matches.iter().any(|one| one.holds(&head))
    };
    for (headers, one, all) in [
        (&[("a", "1")][..], true, false),
        (&[("b", "22")], true, false),
        (&[("b", "222")], false, false),
        (&[("a", "1"), ("b", "23")], true, true),
        (&[], false, false),
    ] {
        assert_eq!(holds(HeaderList::OneIsEnough, headers), one, "{headers:?}");
        assert_eq!(holds(HeaderList::All, headers), all, "{headers:?}");
    }
}

proptest! {
    #[test]
    fn shares_add_up_and_name_nobody_twice(weights in prop::collection::vec((0..4u8, any::<u64>()), 0..6)) {
        let weights: Vec<_> = weights.into_iter().map(|(v, weight)| (VersionHash::new(&format!("v{v}")), weight)).collect();
        let something = weights.iter().any(|(_, weight)| *weight > 0);
        if let Some(shares) = shares(weights) {
            prop_assert!(something);
            prop_assert_eq!(shares.weights().iter().map(|(_, weight)| weight).sum::<u32>(), shares.total());
        }
    }
}
