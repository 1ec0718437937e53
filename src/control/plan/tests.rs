use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::rollout::tests::{V1, V2, V3, named, published, read, shop, stage, updating};
use super::*;
use crate::route::{Identity, Role, Snapshot};

const NOTHING: Value = Value::Null;

/// Ready pods of v1, v2 and v3, addressed 10.0.VERSION.NUMBER.
fn cluster(object: &Value, pods: [u8; 3]) -> ObservedCluster {
    let rollout = (!object.is_null()).then(|| read(object));
    let endpoints = [V1, V2, V3].into_iter().zip(1u8..).zip(pods).map(|((version, v), count)| {
        let address = |n| SocketAddr::from(([10, 0, v, n], 5000));
        let pods = (1..=count)
            .map(|n| Endpoint { address: address(n), ready: true, serving: true, terminating: false })
            .collect();
        (VersionHash::new(version), pods)
    });
    ObservedCluster { rollout, endpoints: endpoints.collect(), ..ObservedCluster::default() }
}

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

/// Plays one cluster after the other, a second apart, and tells what is served in the end.
fn play(clusters: &[ObservedCluster]) -> Plan {
    let mut applied = None;
    let mut last = None;
    for (second, cluster) in clusters.iter().enumerate() {
        let plan = plan(cluster, applied.as_ref(), at(second as u64));
        assert_sound(&plan, cluster);
        applied = plan.applied.clone();
        last = Some(plan);
    }
    last.unwrap()
}

/// What must be true of every plan: it compiles, and it sends nothing to an empty version while another one answers.
fn assert_sound(plan: &Plan, cluster: &ObservedCluster) {
    let Some(routing) = &plan.routing else { return };
    let snapshot = Snapshot::build(routing.clone(), &Identity::random(), None).expect("a plan compiles");
    let anybody = cluster.endpoints.values().flatten().any(|endpoint| endpoint.ready && !endpoint.terminating);
    let kept_from_canary = !cluster.options.aborted_canary_may_answer;
    for backend in snapshot.backends() {
        let empty = backend.endpoints.is_empty();
        assert!(!(empty && anybody && snapshot.weight(&backend.version) > 0) || kept_from_canary, "{plan:?}");
    }
}

fn split(plan: &Plan) -> String {
    plan.routing.as_ref().map_or("as before".to_owned(), |routing| named(&routing.split.to_string()))
}

#[track_caller]
fn check(clusters: &[ObservedCluster], expected: &str) {
    assert_eq!(split(&play(clusters)), expected);
}

#[test]
fn every_stage_of_an_update_is_served_with_the_share_it_asks_for() {
    // stage, ready pods of v1 and v2, with a provider, without
    let table = [
        ("S1", [3, 0], "v1 100 of 100", "v1 100 of 100"),
        ("S2", [3, 0], "v1 100 of 100", "v1 100 of 100"),
        ("S3", [3, 0], "v1 100 of 100", "v1 100 of 100"),
        ("S4", [3, 0], "v1 100 of 100", "v1 100 of 100"),
        ("S5", [3, 1], "v1 67, v2 33 of 100", "v1 67, v2 33 of 100"),
        ("S6", [3, 1], "v1 67, v2 33 of 100", "v1 67, v2 33 of 100"),
        ("S7", [3, 1], "v1 67, v2 33 of 100", "v1 67, v2 33 of 100"),
        ("S8", [3, 1], "v1 67, v2 33 of 100", "v1 67, v2 33 of 100"),
        ("S9", [3, 3], "v1 0, v2 100 of 100", "v1 0, v2 100 of 100"),
        ("S10", [3, 3], "v2 100 of 100", "v2 100 of 100"),
        ("S11", [3, 3], "v2 100 of 100", "v2 100 of 100"),
        ("S12", [0, 3], "v2 100 of 100", "v2 100 of 100"),
        ("A1", [3, 1], "v1 100 of 100", "v1 100 of 100"),
        ("A2", [3, 1], "v1 100 of 100", "v1 100 of 100"),
        ("A3", [3, 0], "v1 100 of 100", "v1 100 of 100"),
        ("R1", [3, 0], "v1 100 of 100", "v1 100 of 100"),
        ("R2", [3, 0], "v1 100 of 100", "v1 100 of 100"),
        ("U1", [3, 1], "v1 67, v2 33 of 100", "v1 100 of 100"),
        ("U2", [3, 1], "v1 100 of 100", "v1 100 of 100"),
        ("F1", [3, 1], "v1 67, v2 33 of 100", "v1 67, v2 33 of 100"),
        ("F1", [3, 2], "v1 67, v2 33 of 100", "v1 34, v2 66 of 100"),
        ("F1", [3, 3], "v1 67, v2 33 of 100", "v1 0, v2 100 of 100"),
        ("F2", [3, 3], "v2 100 of 100", "v2 100 of 100"),
    ];
    for (case, [v1, v2], with_provider, without) in table {
        let served = |routing| split(&play(&[cluster(&stage(case, routing), [v1, v2, 0])]));
        assert_eq!(served(published()), with_provider, "{case} with a provider, {v1}+{v2} pods");
        assert_eq!(served(json!({})), without, "{case} without, {v1}+{v2} pods");
    }
}

#[test]
fn without_traffic_routing_the_share_follows_the_pods_between_two_steps() {
    // step index, pods of v1 and v2, share of v2
    let table = [
        (0, [3, 0], 0),
        (0, [3, 1], 25),
        (0, [2, 1], 33),
        (1, [2, 1], 33),
        // Exact also while pods are missing on either side.
        (1, [1, 1], 33),
        (2, [2, 2], 50),
        (2, [1, 3], 75),
        (2, [0, 3], 100),
        (3, [0, 3], 100),
    ];
    for (index, [v1, v2], canary) in table {
        let plan = play(&[cluster(&shop(NOTHING, updating(index)), [v1, v2, 0])]);
        let routing = plan.routing.unwrap();
        assert_eq!(weight_of(&VersionHash::new(V2), &routing.split), canary, "step {index}, {v1}+{v2} pods");
        assert_eq!(routing.split.total(), 100);
    }
}

/// A status in the middle of an update, changed.
fn status(index: i64, change: Value) -> Value {
    let mut status = updating(index);
    status.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    status
}

#[test]
fn the_weight_of_a_version_that_lost_all_pods_moves_to_the_other_one() {
    let at_33 = shop(json!({}), updating(1));
    check(&[cluster(&at_33, [3, 1, 0]), cluster(&at_33, [3, 0, 0])], "v1 100 of 100");
    check(&[cluster(&at_33, [3, 1, 0]), cluster(&at_33, [0, 1, 0])], "v2 100 of 100");
    check(&[cluster(&at_33, [3, 1, 0]), cluster(&at_33, [3, 0, 0]), cluster(&at_33, [3, 1, 0])], "v1 67, v2 33 of 100");
}

#[test]
fn an_experiment_without_pods_gives_its_weight_to_stable() {
    let weights = json!({"canary": {"weights": {
        "canary": {"weight": 20, "podTemplateHash": V2}, "stable": {"weight": 70, "podTemplateHash": V1},
        "additional": [{"weight": 10, "podTemplateHash": V3}]}}});
    let object = shop(published(), status(1, weights));
    let plan = play(&[cluster(&object, [3, 1, 1])]);
    assert_eq!(split(&plan), "v1 70, v2 20, v3 10 of 100");
    let roles: Vec<Role> = plan.routing.unwrap().backends.iter().map(|backend| backend.role).collect();
    assert_eq!(roles, [Role::Stable, Role::Canary, Role::Experiment]);
    check(&[cluster(&object, [3, 1, 1]), cluster(&object, [3, 1, 0])], "v1 80, v2 20 of 100");
    check(&[cluster(&object, [3, 1, 1]), cluster(&object, [0, 1, 1])], "v2 90, v3 10 of 100");
}

#[test]
fn any_ready_pod_of_the_rollout_answers_before_nobody_does() {
    // A third version, while the only pods are those of the second one.
    let third = shop(NOTHING, status(0, json!({"currentPodHash": V3})));
    check(&[cluster(&third, [0, 3, 0])], "v2 100 of 100");
    let promoted = shop(json!({}), status(3, json!({"stableRS": V2})));
    check(&[cluster(&promoted, [2, 0, 0])], "v1 100 of 100");
}

#[test]
fn a_pod_on_its_way_out_answers_only_when_there_is_no_other() {
    let mut observed = cluster(&shop(json!({}), updating(1)), [2, 1, 0]);
    for endpoint in observed.endpoints.get_mut(&VersionHash::new(V1)).unwrap() {
        *endpoint = Endpoint { ready: false, terminating: true, ..*endpoint };
    }
    check(std::slice::from_ref(&observed), "v2 100 of 100");
    let canary = VersionHash::new(V2);
    observed.endpoints.insert(canary.clone(), Vec::new());
    let plan = play(std::slice::from_ref(&observed));
    assert_eq!(split(&plan), "v1 100 of 100");
    assert_eq!(plan.routing.unwrap().backends[0].endpoints.len(), 2);

    // With nobody at all, requests are refused in the name of those they were meant for.
    for endpoints in observed.endpoints.values_mut() {
        endpoints.clear();
    }
    check(&[observed], "v1 67, v2 33 of 100");
}

#[test]
fn a_split_waits_for_the_first_pod_of_a_version_for_thirty_seconds_at_most() {
    // The weights go from the second version, which still has pods, to the third, which has none yet.
    let weights = |version: &str, weight: u32| {
        let weights = json!({"canary": {"weight": weight, "podTemplateHash": version},
                             "stable": {"weight": 100 - weight, "podTemplateHash": V1}});
        shop(published(), status(1, json!({"canary": {"weights": weights}})))
    };
    let first = plan(&cluster(&weights(V2, 25), [3, 1, 0]), None, at(0));
    assert_eq!((split(&first), first.wake_at), ("v1 75, v2 25 of 100".to_owned(), None));

    let newer = cluster(&weights(V3, 40), [3, 1, 0]);
    let waiting = plan(&newer, first.applied.as_ref(), at(5));
    assert_eq!((split(&waiting), waiting.wake_at), ("v1 75, v2 25 of 100".to_owned(), Some(at(35))));
    assert_eq!(
        waiting.notes.iter().map(|note| named(note)).collect::<Vec<_>>(),
        [
            "version v3 is to get requests but has no ready endpoint: v1 75, v2 25 of 100 stays in place of v1 60, v3 40 of \
          100 until it has one, for 30 s at most"
        ]
    );
    // It keeps waiting for the same version, however the split changes meanwhile.
    let still = plan(&cluster(&weights(V3, 50), [3, 1, 0]), waiting.applied.as_ref(), at(20));
    assert_eq!((split(&still), still.wake_at), ("v1 75, v2 25 of 100".to_owned(), Some(at(35))));
    let there = plan(&cluster(&weights(V3, 50), [3, 1, 1]), still.applied.as_ref(), at(21));
    assert_eq!((split(&there), there.wake_at), ("v1 50, v3 50 of 100".to_owned(), None));

    let given_up = plan(&newer, still.applied.as_ref(), at(35));
    assert_eq!((split(&given_up), given_up.wake_at), ("v1 100 of 100".to_owned(), None));
    // Not once more: the split is in force now, and its version just has no pod.
    let later = plan(&newer, given_up.applied.as_ref(), at(36));
    assert_eq!((split(&later), later.wake_at), ("v1 100 of 100".to_owned(), None));
}

#[test]
fn an_abort_is_served_at_once() {
    let aborted = |routing| shop(routing, status(2, json!({"abort": true})));
    for routing in [NOTHING, json!({}), published()] {
        check(
            &[cluster(&shop(routing.clone(), updating(2)), [1, 2, 0]), cluster(&aborted(routing), [1, 2, 0])],
            "v1 100 of 100",
        );
    }
    // With no stable pod left, the canary answers, unless that was switched off.
    let mut observed = cluster(&aborted(NOTHING), [0, 3, 0]);
    let before = cluster(&shop(NOTHING, updating(2)), [0, 3, 0]);
    check(&[before.clone(), observed.clone()], "v2 100 of 100");
    observed.options.aborted_canary_may_answer = false;
    let plan = play(&[before, observed]);
    assert_eq!(split(&plan), "v1 100 of 100");
    let routing = plan.routing.unwrap();
    assert!(routing.backends.iter().all(|backend| backend.endpoints.is_empty() && backend.version.as_str() == V1));
}

#[test]
fn after_a_promotion_the_old_version_is_gone_even_while_its_pods_live() {
    for (case, routing) in [("S10", json!({})), ("S10", published()), ("S11", json!({})), ("S11", published())] {
        let before = cluster(&stage("S9", routing.clone()), [3, 3, 0]);
        let plan = play(&[before, cluster(&stage(case, routing), [3, 3, 0])]);
        let versions: Vec<_> = plan.routing.unwrap().backends.iter().map(|backend| backend.version.clone()).collect();
        assert_eq!(versions, [VersionHash::new(V2)], "{case}");
    }
}

#[test]
fn a_canary_without_weight_can_still_be_asked_for() {
    let plan = play(&[cluster(&shop(json!({}), updating(0)), [3, 1, 0])]);
    assert_eq!(split(&plan), "v1 100, v2 0 of 100");
    let blue_green = json!({"blueGreen": {"activeService": "a", "previewService": "p"}});
    let mut preview = shop(NOTHING, status(0, json!({"blueGreen": {"activeSelector": V1, "previewSelector": V2}})));
    preview["spec"]["strategy"] = blue_green;
    let plan = play(&[cluster(&preview, [3, 3, 0])]);
    assert_eq!(split(&plan), "v1 100 of 100");
    let roles: Vec<_> = plan.routing.unwrap().backends.iter().map(|it| (named(it.version.as_str()), it.role)).collect();
    assert_eq!(roles, [("v1".to_owned(), Role::Stable), ("v2".to_owned(), Role::Canary)]);
}

#[test]
fn a_hold_keeps_the_split_and_follows_the_pods() {
    let mut held = shop(json!({}), updating(1));
    held["metadata"]["generation"] = json!(3);
    // The steps are new, the index is not.
    held["spec"]["strategy"]["canary"]["steps"] = json!([{"setWeight": 90}, {"pause": {}}]);
    let at_33 = cluster(&shop(json!({}), updating(1)), [3, 1, 0]);
    check(&[at_33.clone(), cluster(&held, [3, 1, 0])], "v1 67, v2 33 of 100");
    check(&[at_33.clone(), cluster(&held, [3, 0, 0])], "v1 100 of 100");
    let plan = play(&[at_33, cluster(&held, [3, 4, 0])]);
    assert_eq!(plan.routing.unwrap().backends[1].endpoints.len(), 4);
    // After a restart nothing is known about before: stable is what has proved itself.
    check(&[cluster(&held, [3, 1, 0])], "v1 100 of 100");
}

#[test]
fn an_index_into_older_steps_is_not_read() {
    let at = |steps: Value, hash: &str, index: i64| {
        let mut object = shop(json!({}), status(index, json!({"currentStepHash": hash})));
        object["spec"]["strategy"]["canary"]["steps"] = steps;
        cluster(&object, [3, 1, 0])
    };
    let (old, new) = (json!([{"setWeight": 33}, {"pause": {}}]), json!([{"setWeight": 90}, {"pause": {}}]));
    let before = at(old.clone(), "6f8d", 1);
    check(std::slice::from_ref(&before), "v1 67, v2 33 of 100");
    // The generation is observed already, the mark of the steps says that the index is the one of before.
    let between = at(new.clone(), "6f8d", 1);
    check(&[before.clone(), between.clone()], "v1 67, v2 33 of 100");
    check(&[before.clone(), between.clone(), between.clone()], "v1 67, v2 33 of 100");
    check(&[before.clone(), between.clone(), at(new.clone(), "75c4", 0)], "v1 100, v2 0 of 100");
    check(&[before.clone(), between.clone(), at(new.clone(), "75c4", 1)], "v1 10, v2 90 of 100");
    check(&[before, between, at(old, "6f8d", 1)], "v1 67, v2 33 of 100");
}

#[test]
fn all_steps_done_gives_a_growing_canary_what_it_can_carry() {
    let full = shop(json!({}), status(3, json!({"promoteFull": true})));
    let at_33 = cluster(&shop(json!({}), updating(1)), [3, 1, 0]);
    check(&[at_33.clone(), cluster(&full, [3, 1, 0])], "v1 67, v2 33 of 100");
    check(&[at_33.clone(), cluster(&full, [3, 2, 0])], "v1 34, v2 66 of 100");
    // Never less than it had.
    check(&[at_33.clone(), cluster(&full, [3, 2, 0]), cluster(&full, [3, 1, 0])], "v1 34, v2 66 of 100");
    // Skipped steps without a full promotion end at the last weight.
    let mut skipped = shop(json!({}), updating(1));
    skipped["spec"]["strategy"]["canary"]["steps"] = json!([{"setWeight": 60}]);
    check(&[at_33.clone(), cluster(&skipped, [3, 3, 0])], "v1 40, v2 60 of 100");
    // Scaled to nothing, a pod that is still there carries everything it may.
    let mut none = full;
    none["spec"]["replicas"] = json!(0);
    check(&[at_33, cluster(&none, [0, 1, 0])], "v2 100 of 100");
}

#[test]
fn before_the_first_version_has_finished_and_after_the_end_all_pods_share() {
    check(&[cluster(&shop(json!({}), json!({})), [3, 1, 0])], "v1 3, v2 1 of 4");
    check(&[cluster(&shop(json!({}), updating(1)), [3, 1, 0]), cluster(&NOTHING, [2, 2, 0])], "v1 2, v2 2 of 4");
    check(&[cluster(&shop(json!({}), json!({})), [0, 0, 0])], "as before");
    check(&[cluster(&NOTHING, [0, 0, 0])], "as before");
    // What served and is gone is refused in its own name.
    check(&[cluster(&NOTHING, [3, 0, 0]), cluster(&NOTHING, [0, 0, 0])], "v1 3 of 3");
}

#[test]
fn a_provider_that_is_taken_away_mid_update_leaves_the_weight() {
    let with_provider = cluster(&stage("S6", published()), [3, 1, 0]);
    check(&[with_provider, cluster(&stage("S6", json!({})), [3, 1, 0])], "v1 67, v2 33 of 100");
}

#[test]
fn a_header_route_leads_to_the_canary_while_it_has_pods() {
    let mut object = shop(json!({"istio": {}, "managedRoutes": [{"name": "testers"}]}), updating(1));
    let testers = json!({"name": "testers", "match": [{"headerName": "x-tester", "headerValue": {"exact": "yes"}}]});
    object["spec"]["strategy"]["canary"]["steps"] = json!([{"setHeaderRoute": testers}, {"setWeight": 33}]);
    let routes = |clusters: &[ObservedCluster]| {
        let plan = play(clusters);
        let routes = plan.routing.unwrap().routes;
        routes.iter().map(|route| format!("{:?}", route.action)).map(|text| named(&text)).collect::<Vec<_>>()
    };
    let (there, lost) = (cluster(&object, [3, 1, 0]), cluster(&object, [3, 0, 0]));
    assert_eq!(routes(std::slice::from_ref(&there)), [r#"Send("v2")"#]);
    assert!(routes(&[there.clone(), lost.clone()]).is_empty());
    assert_eq!(routes(&[there.clone(), lost, there.clone()]), [r#"Send("v2")"#]);
    // Kept while the status is behind, dropped by an abort.
    let mut behind = object.clone();
    behind["metadata"]["generation"] = json!(3);
    behind["spec"]["strategy"]["canary"]["steps"] = json!([]);
    assert_eq!(routes(&[there.clone(), cluster(&behind, [3, 1, 0])]), [r#"Send("v2")"#]);
    object["status"]["abort"] = json!(true);
    assert!(routes(&[there, cluster(&object, [3, 1, 0])]).is_empty());
}

#[test]
fn routes_and_weights_of_the_annotation_are_served_and_its_mistakes_told() {
    let with = |text: &str, index: i64| {
        let mut object = shop(json!({}), updating(index));
        object["metadata"]["annotations"]["splitway.dev/routes"] = json!(text);
        cluster(&object, [3, 1, 0])
    };
    let text = "weights: [{step: 0, weight: 33.5%}]\n\
                routes: [setHeaderRoute: {name: qa, match: [{headerName: x-qa, headerValue: {prefix: a}}]}]";
    let good = with(text, 1);
    let names = |plan: &Plan| {
        let routes = plan.routing.iter().flat_map(|routing| &routing.routes);
        routes
            .map(|route| format!("{} {:?}", route.name.as_str(), route.action))
            .map(|it| named(&it))
            .collect::<Vec<_>>()
    };
    let plan = play(std::slice::from_ref(&good));
    assert_eq!(
        (split(&plan), names(&plan)),
        ("v1 665, v2 335 of 1000".to_owned(), vec![r#"qa Send("v2")"#.to_owned()])
    );
    assert_eq!((plan.problem, plan.notes.len()), (None, 0));

    let broken = "metadata.annotations[splitway.dev/routes].weight: Forbidden: unknown field; did you mean weights?";
    for (clusters, served, told) in [
        (vec![good.clone(), with("weight: []", 1)], "v1 665, v2 335 of 1000", Some(broken)),
        (vec![with("weight: []", 1)], "v1 67, v2 33 of 100", Some(broken)),
        (vec![good.clone(), with("weight: []", 1), with("", 1)], "v1 67, v2 33 of 100", None),
        (vec![good.clone(), cluster(&NOTHING, [3, 1, 0]), with("weight: []", 1)], "v1 67, v2 33 of 100", Some(broken)),
    ] {
        let plan = play(&clusters);
        assert_eq!((split(&plan), plan.problem.as_deref()), (served.to_owned(), told));
        assert_eq!(names(&plan).len(), usize::from(served.contains("1000")));
        assert_eq!(plan.notes.iter().filter(|note| note.starts_with(broken)).count(), usize::from(told.is_some()));
    }
    // Nobody can be sent to a canary without pods, and an abort needs no annotation.
    let lost = ObservedCluster { endpoints: cluster(&NOTHING, [3, 0, 0]).endpoints, ..good.clone() };
    let plan = play(&[good.clone(), lost]);
    assert_eq!((split(&plan), names(&plan).len()), ("v1 1000 of 1000".to_owned(), 0));
    let mut aborted = good.clone();
    aborted.rollout.as_mut().unwrap().status.as_mut().unwrap().abort = Some(true);
    let plan = play(&[good, aborted]);
    assert_eq!((split(&plan), names(&plan).len()), ("v1 100 of 100".to_owned(), 0));
}

#[test]
fn mirrors_and_header_routes_keep_the_order_of_the_managed_routes() {
    let object = |managed: [&str; 2]| {
        let managed = managed.map(|name| json!({"name": name}));
        let mut object = shop(json!({"istio": {}, "managedRoutes": managed}), updating(2));
        let testers =
            json!({"name": "testers", "match": [{"headerName": "x-tester", "headerValue": {"exact": "yes"}}]});
        let copies = json!({"name": "copies", "percentage": 35, "match": [{"method": {"exact": "GET"}}]});
        let steps = json!([{"setHeaderRoute": testers}, {"setMirrorRoute": copies}, {"setWeight": 33}]);
        object["spec"]["strategy"]["canary"]["steps"] = steps;
        object
    };
    let routes = |object: &Value, pods| {
        let routes = play(&[cluster(object, pods)]).routing.unwrap().routes;
        routes.iter().map(|route| named(&format!("{:?}", route.action))).collect::<Vec<_>>()
    };
    let (send, mirror) = (r#"Send("v2")"#, r#"Mirror { to: "v2", share: Share { weight: 35, total: 100 } }"#);
    assert_eq!(routes(&object(["testers", "copies"]), [3, 1, 0]), [send, mirror]);
    assert_eq!(routes(&object(["copies", "testers"]), [3, 1, 0]), [mirror, send]);
    assert!(routes(&object(["copies", "testers"]), [3, 0, 0]).is_empty());
}

#[test]
fn traps_are_told_with_their_remedy() {
    let notes = |object: &Value, services: Vec<Service>| {
        let observed = ObservedCluster { services: Some(services), ..cluster(object, [3, 0, 0]) };
        plan(&observed, None, at(0))
            .notes
            .iter()
            .map(|note| note.split(':').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let quiet = shop(json!({}), updating(0));
    assert!(notes(&quiet, Vec::new()).is_empty());

    let mut dynamic = quiet.clone();
    dynamic["spec"]["strategy"]["canary"]["dynamicStableScale"] = json!(true);
    assert_eq!(notes(&dynamic, Vec::new()), ["dynamicStableScale without a traffic provider"]);

    let mut misspelt = quiet.clone();
    let written = json!({"spec": {"strategy": {"canary": {"trafficRouting": {"ngnix": {"stableIngress": "shop"}}}}}});
    misspelt["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
        json!(written.to_string());
    assert_eq!(
        notes(&misspelt, Vec::new()),
        ["trafficRouting was written with ngnix, which the API server does not know and has dropped"]
    );

    let service = |name: &str, selector: Option<&[(&str, &str)]>| Service {
        name: name.to_owned(),
        selector: selector.map(|labels| labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()),
    };
    let hashed = ("rollouts-pod-template-hash", V1);
    let services = vec![
        service("good", Some(&[("app", "shop"), hashed])),
        service("bad", Some(&[("app", "shopp"), hashed])),
        service("none", None),
    ];
    assert_eq!(
        notes(&quiet, services),
        [
            "Service bad selects app=shopp, which the Rollout's pod template does not have",
            "Service none, which the Rollout names, does not exist"
        ]
    );
    assert_eq!(notes(&NOTHING, Vec::new()), ["the Rollout does not exist"]);
}

/// Rollouts in all modes and situations, with any numbers of pods.
fn situations() -> impl Strategy<Value = (ObservedCluster, u64)> {
    let routing = prop::sample::select(vec![NOTHING, json!({}), published()]);
    let version = || prop::sample::select(vec![V1, V2, V3, ""]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let weights = (version(), version(), 0..=100u32);
    (routing, (version(), version()), -1..5i64, flags, weights, prop::array::uniform3(0..4u8), 0..40u64).prop_map(
        |(routing, (stable, current), index, flags, (canary, kept, weight), pods, wait)| {
            let (abort, full, dynamic, behind, cautious) = flags;
            let mut object = shop(routing, updating(index));
            object["status"]["stableRS"] = json!(stable);
            object["status"]["currentPodHash"] = json!(current);
            object["status"]["abort"] = json!(abort);
            object["status"]["promoteFull"] = json!(full);
            object["status"]["canary"]["weights"] = json!({
                "canary": {"weight": weight, "podTemplateHash": canary},
                "stable": {"weight": 100 - weight, "podTemplateHash": kept}});
            object["spec"]["strategy"]["canary"]["dynamicStableScale"] = json!(dynamic);
            object["metadata"]["generation"] = json!(if behind { 3 } else { 2 });
            let mut observed = cluster(&object, pods);
            observed.options.aborted_canary_may_answer = !cautious;
            (observed, wait)
        },
    )
}

proptest! {
    #[test]
    fn every_plan_compiles_and_sends_nothing_to_the_empty(situations in prop::collection::vec(situations(), 1..8)) {
        let (mut applied, mut now) = (None, Duration::ZERO);
        for (observed, wait) in situations {
            now += at(wait);
            let plan = plan(&observed, applied.as_ref(), now);
            assert_sound(&plan, &observed);
            // Nothing to wait for that is not in the future, and never longer than promised.
            if let Some(wake_at) = plan.wake_at {
                prop_assert!(wake_at > now && wake_at <= now + PATIENCE);
            }
            applied = plan.applied.or(applied);
        }
    }

    #[test]
    fn planning_again_changes_nothing(situations in prop::collection::vec(situations(), 1..4)) {
        let mut applied: Option<Applied> = None;
        for (observed, _) in situations {
            let once = plan(&observed, applied.as_ref(), at(1));
            let again = plan(&observed, once.applied.as_ref().or(applied.as_ref()), at(2));
            prop_assert_eq!(split(&once), split(&again));
            prop_assert_eq!(once.wake_at, again.wake_at);
            applied = again.applied.or(applied);
        }
    }
}
