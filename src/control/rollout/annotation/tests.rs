use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::tests::{V1, V2, V3, named, published, read as rollout, shop, updating};
use super::super::{Intent, intent};
use super::finer::stands_for;
use super::*;
use crate::route::MAX_TOTAL;

/// Two weights, a header route set by a step, and steps of other kinds.
fn steps() -> Value {
    json!([
        {"setWeight": 5},
        {"pause": {}},
        {"setHeaderRoute": {"name": "by-step", "match": [{"headerName": "x-a", "headerValue": {"exact": "1"}}]}},
        {"setWeight": 50},
        {"pause": {}},
        {"setWeight": 100},
    ])
}

/// A Rollout that is at step `index`, with `text` as the annotation.
fn object(traffic_routing: Value, index: i64, text: &str) -> Value {
    let mut object = shop(traffic_routing, updating(index));
    object["spec"]["strategy"]["canary"]["steps"] = steps();
    object["metadata"]["annotations"][ROUTES] = json!(text);
    object
}

fn reading(object: &Value, previous: Option<&Reading>) -> Reading {
    Reading::of(&rollout(object), HeaderList::OneIsEnough, previous)
}

/// The message without the part that they all have.
fn problem(text: &str) -> String {
    let reading = reading(&object(json!({}), 0, text), None);
    let message = reading.problem().unwrap_or("fine");
    message.replace("metadata.annotations[splitway.dev/routes]", "@")
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(problem(text), expected, "{text}");
}

const TESTERS: &str =
    "routes: [setHeaderRoute: {name: testers, match: [{headerName: x-tester, headerValue: {exact: '1'}}]}]";

#[test]
fn what_is_written_like_the_steps_is_read() {
    check(
        r#"
routes:
  - setHeaderRoute:
      name: testers
      match:
        - headerName: X-Tester
          headerValue: {exact: "true"}
        - headerName: user-agent
          headerValue: {regex: ".*Firefox.*"}
    fromStep: 0
    toStep: 3
  - setMirrorRoute:
      name: copies
      percentage: 10
      match:
        - method: {exact: GET}
          path: {prefix: /api}
          headers: {x-copy: {prefix: team-}}
weights:
  - {step: 0, weight: 4.5%}
  - {step: 3, weight: 50.5 %}
headerList: And
"#,
        "fine",
    );
    check(
        r#"{"routes": [{"setHeaderRoute": {"name": "a", "match": [{"headerName": "b", "headerValue": {"prefix": "c"}}]}}],
            "weights": [{"step": 3, "weight": "50.0001%"}]}"#,
        "fine",
    );
    for nothing in ["", "# nothing yet", "{}", "null", "routes: []", "routes:\nweights:\nheaderList:"] {
        check(nothing, "fine");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_what_was_expected() {
    let table = [
        ("[]", "@: Invalid value: a list: expected a mapping with routes, weights, headerList"),
        ("route: []", "@.route: Forbidden: unknown field; did you mean routes?"),
        ("'a b': 1", "@[a b]: Forbidden: unknown field; known here: routes, weights, headerList"),
        ("routes: {}", "@.routes: Invalid value: a mapping: expected a list"),
        ("headerList: or", "@.headerList: Invalid value: \"or\": expected Or or And"),
        ("routes: [{}]", "@.routes[0]: Required value: expected setHeaderRoute or setMirrorRoute"),
        (
            "routes: [{setHeaderRout: {}}]",
            "[@.routes[0].setHeaderRout: Forbidden: unknown field; did you mean setHeaderRoute?, \
             @.routes[0]: Required value: expected setHeaderRoute or setMirrorRoute]",
        ),
        (
            "routes: [{setHeaderRoute: {name: a}, setMirrorRoute: {name: a}}]",
            "@.routes[0]: Forbidden: expected setHeaderRoute or setMirrorRoute, found both; make two routes",
        ),
        (
            "routes: [{setMirrorRoute: {name: a, match: []}}]",
            "@.routes[0].setMirrorRoute.match: Required value: expected at least one match, such as \
             [{path: {prefix: /}}], which copies everything",
        ),
        (
            "routes: [{setMirrorRoute: {name: a, match: [{}]}}]",
            "@.routes[0].setMirrorRoute.match[0]: Required value: expected a method, a path or headers",
        ),
        (
            "routes: [{setMirrorRoute: {name: a, percentage: 101, match: [{path: {prefix: /}}]}}]",
            "@.routes[0].setMirrorRoute.percentage: Invalid value: 101: expected a whole number from 0 to 100",
        ),
        (
            "routes: [{setMirrorRoute: {name: a, percentage: 0.5, match: [{path: {prefix: /}}]}}]",
            "@.routes[0].setMirrorRoute.percentage: Invalid value: 0.5: expected a whole number from 0 to 100",
        ),
        (
            "routes: [{setMirrorRoute: {name: a, match: [{headers: {'x y': {exact: a}}}]}}]",
            "@.routes[0].setMirrorRoute.match[0].headers[x y]: Invalid value: \"x y\": expected the name of a header: \
             letters, digits and !#$%&'*+-.^_`|~",
        ),
        (
            "routes: [{setHeaderRoute: {match: [{headerName: a, headerValue: {exact: b}}]}}]",
            "@.routes[0].setHeaderRoute.name: Required value: expected a name for this route",
        ),
        (
            "routes: [{setHeaderRoute: {name: '', match: [{headerName: a, headerValue: {exact: b}}]}}]",
            "@.routes[0].setHeaderRoute.name: Invalid value: \"\": expected a text that is not empty",
        ),
        (
            "routes: [{setHeaderRoute: {name: by-step, match: [{headerName: a, headerValue: {exact: b}}]}}]",
            "@.routes[0].setHeaderRoute.name: Duplicate value: \"by-step\": a step sets a route of this name",
        ),
        (
            "weights: [{step: 9, weight: 5.5%}]",
            "@.weights[0].step: Invalid value: 9: expected the number of a step, from 0 to 5",
        ),
        (
            "weights: [{step: 1, weight: 5.5%}]",
            "@.weights[0].step: Invalid value: 1: expected a setWeight step, this one is of another kind",
        ),
        (
            "weights: [{step: 0, weight: 6%}]",
            "@.weights[0].weight: Invalid value: \"6%\": expected less than 1 away from the 5 of 100 that this step sets",
        ),
        (
            "weights: [{step: 5, weight: 99.5%}]",
            "@.weights[0].weight: Invalid value: \"99.5%\": expected nothing finer, because this step sets 100 of 100",
        ),
        (
            "weights: [{step: 0, weight: 4.5}]",
            "@.weights[0].weight: Invalid value: 4.5: expected a percentage with its sign, such as 50.5%",
        ),
        (
            "weights: [{step: 0, weight: '45'}]",
            "@.weights[0].weight: Invalid value: \"45\": expected a percentage with its sign, such as 50.5%",
        ),
        (
            "weights: [{step: 0, weight: 4.50001%}]",
            "@.weights[0].weight: Invalid value: \"4.50001%\": expected a percentage, such as 50.5%: a percentage has at \
             most 4 digits after the point",
        ),
        (
            "weights: [{step: 0, weight: 5.1%}, {step: 0, weight: 5.2%}]",
            "@.weights[1].step: Duplicate value: 0: a step has one weight",
        ),
        (
            "weights: [{}]",
            "[@.weights[0].step: Required value: expected the number of a setWeight step, counted from 0, \
             @.weights[0].weight: Required value: expected a percentage, such as \"50.5%\"]",
        ),
    ];
    for (text, expected) in table {
        check(text, expected);
    }
    let twice = TESTERS.replace("]}]", "]}, {setMirrorRoute: {name: testers, match: [{path: {prefix: /}}]}}]");
    let duplicate = "Duplicate value: \"testers\": another route of this annotation has this name";
    check(&twice, &format!("@.routes[1].setMirrorRoute.name: {duplicate}"));
}

#[test]
fn what_is_wrong_with_a_condition_is_told_with_its_place() {
    let one_of = "expected exactly one of exact, prefix, regex";
    let table = [
        ("{exact: a, prefix: b}", format!(": Invalid value: a mapping: {one_of}")),
        ("{}", format!(": Required value: {one_of}")),
        ("null", format!(": Required value: {one_of}")),
        ("{exact: true}", ".exact: Invalid value: true: expected a text; put it in quotes".to_owned()),
        ("{exact: 42}", ".exact: Invalid value: 42: expected a text; put it in quotes".to_owned()),
        ("{prefix: ''}", ".prefix: Invalid value: \"\": expected a text that is not empty".to_owned()),
        ("{regex: [a]}", ".regex: Invalid value: a list: expected a text".to_owned()),
        ("a", ": Invalid value: \"a\": expected a mapping with exact, prefix, regex".to_owned()),
        (
            "{regex: '('}",
            ".regex: Invalid value: \"(\": expected a regular expression: error: unclosed group".to_owned(),
        ),
        (
            "{regex: '(a{1000}){1000}'}",
            ".regex: Invalid value: \"(a{1000}){1000}\": expected a regular expression: Compiled regex exceeds size \
             limit of 1048576 bytes."
                .to_owned(),
        ),
    ];
    for (value, expected) in table {
        let text = format!("routes: [setHeaderRoute: {{name: a, match: [{{headerName: x, headerValue: {value}}}]}}]");
        check(&text, &format!("@.routes[0].setHeaderRoute.match[0].headerValue{expected}"));
        // Without a value, nothing is said about the path.
        if value != "null" {
            let text = format!("routes: [setMirrorRoute: {{name: a, match: [{{path: {value}}}]}}]");
            check(&text, &format!("@.routes[0].setMirrorRoute.match[0].path{expected}"));
        }
    }
}

#[test]
fn text_that_is_no_yaml_is_told_with_its_line() {
    for text in ["{", "routes: [", "a: b: c", "a: 1\na: 2", "--- a\n--- b", "*a", "&a [*a]"] {
        let problem = problem(text);
        assert!(problem.starts_with("@: Invalid value: expected YAML or JSON: "), "{text:?}: {problem}");
        assert!(problem.contains("line") && problem.lines().count() == 1, "{text:?}: {problem}");
    }
}

#[test]
fn what_would_cost_too_much_is_refused() {
    let route = |i: usize, value: &str| {
        format!("{{setHeaderRoute: {{name: a{i}, match: [{{headerName: x, headerValue: {value}}}]}}}}")
    };
    let routes = |count: usize| format!("routes: [{}]", (0..count).map(|i| route(i, "{exact: a}")).collect::<String>());
    let routes = |count| routes(count).replace("}{", "},{");
    check(&routes(100), "fine");
    check(&routes(101), "@.routes: Too many: 101: must have at most 100 items");
    let expressions = |count: usize| {
        let items = vec!["{headerName: x, headerValue: {regex: a}}"; count].join(",");
        format!("{{setHeaderRoute: {{name: a{count}, match: [{items}]}}}}")
    };
    check(&format!("routes: [{}]", expressions(100)), "fine");
    check(
        &format!("routes: [{}, {}]", expressions(99), expressions(2)),
        "@.routes[1].setHeaderRoute.match[1].headerValue.regex: Forbidden: at most 100 expressions are allowed",
    );
    check(&" ".repeat((256 << 10) + 1), "@: Too long: may not be more than 262144 bytes");
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    assert!(problem(&deep).starts_with("@: Invalid value: expected YAML or JSON: "));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]";
    assert!(problem(bomb).starts_with("@: Invalid value: expected YAML or JSON: "));
    // Many mistakes are counted, not listed.
    let many = problem(&format!("routes: [{}]", vec!["{}"; 50].join(",")));
    assert!(many.ends_with(", and 42 more]") && many.matches("Required value").count() == 8, "{many}");
}

fn timed(name: &str, from: &str, to: &str) -> String {
    format!(
        "{{setHeaderRoute: {{name: {name}, match: [{{headerName: x-a, headerValue: {{exact: a}}}}]}}, \
         fromStep: {from}, toStep: {to}}}"
    )
}

fn name(route: &ManagedRoute) -> &str {
    match route {
        ManagedRoute::Header { name, .. } => name.as_str(),
        ManagedRoute::Mirror(mirror) => mirror.name.as_str(),
    }
}

/// The names of the routes in force.
fn routes(object: &Value) -> String {
    let (reading, rollout) = (reading(object, None), rollout(object));
    assert_eq!(reading.problem(), None);
    let Some(managed) = reading.annotation().routes(&rollout, HeaderList::OneIsEnough) else {
        return "as before".to_owned();
    };
    assert!(managed.notes.is_empty(), "{:?}", managed.notes);
    managed.routes.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn declared() -> Value {
    json!({"managedRoutes": [{"name": "by-step"}]})
}

#[test]
fn a_route_is_in_force_from_its_first_to_its_last_step_and_before_those_of_the_steps() {
    let mirror = "{setMirrorRoute: {name: copies, match: [{path: {prefix: /}}]}, fromStep: 4}";
    let text = format!("routes: [{}, {}, {mirror}]", timed("a", "1", "3"), timed("b", "null", "2"));
    let expected = ["b", "a b", "a b by-step", "a by-step", "copies by-step", "copies by-step", "copies by-step"];
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(routes(&object(declared(), index as i64, &text)), *expected, "at step {index}");
    }
    check(
        &format!("routes: [{}]", timed("a", "3", "2")),
        "@.routes[0].toStep: Invalid value: 2: expected a step that is not before fromStep, which is 3",
    );
    check(
        &format!("routes: [{}]", timed("a", "-1", "6")),
        "[@.routes[0].fromStep: Invalid value: -1: expected the number of a step, from 0 to 5, \
         @.routes[0].toStep: Invalid value: 6: expected the number of a step, from 0 to 5]",
    );
}

#[test]
fn a_route_ends_with_the_update_an_abort_and_a_full_promotion() {
    for routing in [Value::Null, declared(), published()] {
        let with = |path: &str, value: Value| {
            let mut object = object(routing.clone(), 1, TESTERS);
            *object.pointer_mut(path).unwrap() = value;
            routes(&object)
        };
        assert_eq!(with("/status/currentStepIndex", json!(1)), "testers");
        assert_eq!(with("/status/stableRS", json!(V2)), "");
        assert_eq!(with("/status/stableRS", json!("")), "");
        assert_eq!(with("/metadata/annotations/rollout.argoproj.io~1revision", json!("1")), "");
        assert_eq!(with("/status/canary", json!({})), "testers");
        assert_eq!(with("/metadata/generation", json!(3)), "as before");
        for flag in ["abort", "promoteFull"] {
            let mut object = object(routing.clone(), 1, TESTERS);
            object["status"][flag] = json!(true);
            assert_eq!(routes(&object), "", "{flag}");
        }
    }
}

#[test]
fn without_steps_a_route_lasts_as_long_as_the_update() {
    let mut stepless = object(json!({}), 0, TESTERS);
    stepless["spec"]["strategy"]["canary"]["steps"] = json!([]);
    assert_eq!(routes(&stepless), "testers");
    stepless["metadata"]["annotations"][ROUTES] = json!(format!("routes: [{}]", timed("a", "0", "null")));
    let reading = reading(&stepless, None);
    assert!(reading.problem().unwrap().ends_with("fromStep: Invalid value: 0: the Rollout has no steps; leave it out"));
}

#[test]
fn the_way_conditions_combine_holds_for_the_routes_of_the_steps_too() {
    let two = "match: [{headerName: a, headerValue: {exact: '1'}}, {headerName: b, headerValue: {exact: '2'}}]";
    for (list, alternatives) in [("", 2), ("headerList: Or", 2), ("headerList: And", 1)] {
        let mut object = object(declared(), 2, &format!("routes: [setHeaderRoute: {{name: own, {two}}}]\n{list}"));
        object["spec"]["strategy"]["canary"]["steps"][2]["setHeaderRoute"]["match"] = json!([
            {"headerName": "a", "headerValue": {"exact": "1"}}, {"headerName": "b", "headerValue": {"exact": "2"}}]);
        let reading = reading(&object, None);
        let managed = reading.annotation().routes(&rollout(&object), HeaderList::OneIsEnough).unwrap();
        let counts = managed.routes.iter().map(|route| match route {
            ManagedRoute::Header { matches, .. } => matches.len(),
            ManagedRoute::Mirror(_) => 0,
        });
        assert_eq!(counts.collect::<Vec<_>>(), [alternatives; 2], "{list:?}");
    }
}

#[test]
fn a_mirror_copies_everything_that_matches_unless_told_otherwise() {
    for (percentage, expected) in [("", 100), ("percentage: 0, ", 0), ("percentage: 7, ", 7)] {
        let text = format!("routes: [setMirrorRoute: {{name: a, {percentage}match: [{{path: {{prefix: /}}}}]}}]");
        let reading = reading(&object(json!({}), 0, &text), None);
        let [Timed { route: ManagedRoute::Mirror(mirror), .. }] = reading.annotation().routes.as_slice() else {
            panic!()
        };
        assert_eq!(mirror.percentage, expected);
    }
}

#[test]
fn a_mistake_leaves_in_force_what_was_said_before_about_the_same_steps() {
    let at = |text: &str| object(declared(), 1, text);
    let names =
        |reading: &Reading| reading.annotation().routes.iter().map(|it| name(&it.route).to_owned()).collect::<Vec<_>>();
    let good = reading(&at(TESTERS), None);
    assert_eq!((names(&good), good.problem(), good.note()), (vec!["testers".to_owned()], None, None));

    let bad = reading(&at("route: []"), Some(&good));
    assert_eq!(names(&bad), ["testers"]);
    assert_eq!(
        bad.note().unwrap(),
        "metadata.annotations[splitway.dev/routes].route: Forbidden: unknown field; did you mean routes?; until it is \
         mended, what the annotation said before stays in force"
    );
    // One mistake after the other, and the same one again.
    let worse = reading(&at("{"), Some(&bad));
    assert_eq!((names(&worse), names(&reading(&at("{"), Some(&worse)))), (vec!["testers".to_owned()], names(&good)));
    let mended = reading(&at(&TESTERS.replace("name: testers", "name: mended")), Some(&worse));
    assert_eq!((names(&mended), mended.problem()), (vec!["mended".to_owned()], None));

    // Of other steps nothing is known.
    let mut other = at("{");
    other["spec"]["strategy"]["canary"]["steps"] = json!([{"setWeight": 5}]);
    let ignored = reading(&other, Some(&worse));
    assert!(names(&ignored).is_empty());
    assert!(
        ignored.note().unwrap().ends_with("until it is mended, the annotation is ignored and the rest is followed")
    );
    assert!(reading(&other, Some(&ignored)).note().unwrap().contains("ignored"));
    assert!(reading(&at("{"), None).note().unwrap().contains("ignored"));
    other["metadata"]["annotations"][ROUTES] = json!("[]");
    assert!(reading(&other, Some(&ignored)).note().unwrap().contains("ignored"));

    // What is taken away is gone, and does not come back.
    let mut none = at("");
    none["metadata"]["annotations"].as_object_mut().unwrap().remove(ROUTES);
    let none = reading(&none, Some(&worse));
    assert_eq!((names(&none).len(), none.problem()), (0, None));
    assert!(names(&reading(&at("{"), Some(&none))).is_empty());
}

#[test]
fn what_has_been_read_is_not_read_again() {
    let object = object(json!({}), 0, TESTERS);
    let first = reading(&object, None);
    assert!(Arc::ptr_eq(&first.annotation, &reading(&object, Some(&first)).annotation));
    assert!(!Arc::ptr_eq(&first.annotation, &reading(&object, None).annotation));
}

const FINER: &str = "weights: [{step: 0, weight: 4.5%}, {step: 3, weight: 50.25%}]";

/// What the Rollout asks for, finer weights included.
fn told(object: &Value) -> String {
    let (reading, rollout) = (reading(object, None), rollout(object));
    assert_eq!(reading.problem(), None);
    named(&match intent(&rollout, reading.annotation().finer()).unwrap() {
        Intent::Shares(wanted) => wanted.shares.to_string(),
        Intent::Exact { pair, weight } => format!("{weight} of {}", pair.total),
        Intent::Follow { pair, from, to } => format!("follow {from}..{to} of {}", pair.total),
        Intent::Ramp { pair, cap, .. } => format!("ramp to {cap} of {}", pair.total),
        Intent::All(version) => format!("all {version}"),
        Intent::Bootstrap => "bootstrap".to_owned(),
    })
}

#[test]
fn without_a_provider_a_finer_weight_takes_the_place_of_the_one_in_the_step() {
    let expected = ["0", "450", "450", "450", "5025", "5025", "ramp to 10000"];
    for (index, expected) in expected.iter().enumerate() {
        let asked = told(&object(json!({}), index as i64, FINER));
        assert_eq!(asked, format!("{expected} of 10000"), "at step {index}");
    }
    let mut skipped = object(json!({}), 6, FINER);
    skipped["spec"]["strategy"]["canary"]["steps"][5] = json!({"pause": {}});
    assert_eq!(told(&skipped), "ramp to 5025 of 10000");
    skipped["status"]["promoteFull"] = json!(true);
    assert_eq!(told(&skipped), "ramp to 10000 of 10000");
    skipped["status"]["abort"] = json!(true);
    assert_eq!(told(&skipped), "all v1");
}

#[test]
fn without_traffic_routing_pods_carry_the_weight_up_to_the_finer_one() {
    let expected = ["follow 0..450", "450", "450", "follow 450..5025", "5025", "follow 5025..10000", "10000"];
    for (index, expected) in expected.iter().enumerate() {
        let asked = told(&object(Value::Null, index as i64, FINER));
        assert_eq!(asked, format!("{expected} of 10000"), "at step {index}");
    }
}

#[test]
fn a_published_weight_that_a_step_set_becomes_the_finer_one_of_that_step() {
    let weights = |index: i64, canary: (&str, i64), stable: (&str, i64), extra: i64| {
        let mut object = object(published(), index, FINER);
        object["status"]["canary"] = json!({"weights": {
            "canary": {"weight": canary.1, "podTemplateHash": canary.0},
            "stable": {"weight": stable.1, "podTemplateHash": stable.0}}});
        if extra > 0 {
            object["status"]["canary"]["weights"]["additional"] = json!([{"weight": extra, "podTemplateHash": V3}]);
        }
        told(&object)
    };
    let plain = |index, canary: i64| weights(index, (V2, canary), (V1, 100 - canary), 0);
    assert_eq!(plain(0, 0), "v1 100, v2 0 of 100");
    // Published before the index moves on, and after.
    assert_eq!(plain(0, 5), "v1 9550, v2 450 of 10000");
    assert_eq!(plain(2, 5), "v1 9550, v2 450 of 10000");
    assert_eq!(plain(4, 50), "v1 4975, v2 5025 of 10000");
    assert_eq!(plain(5, 100), "v1 0, v2 100 of 100");
    // Held back, frozen by a full promotion, or taken down step by step: the step of that number.
    assert_eq!(plain(4, 5), "v1 9550, v2 450 of 10000");
    assert_eq!(plain(6, 50), "v1 4975, v2 5025 of 10000");
    // Of no step, or of one that has not come yet.
    assert_eq!(plain(4, 34), "v1 66, v2 34 of 100");
    assert_eq!(plain(1, 50), "v1 50, v2 50 of 100");
    // Experiments keep what they have.
    assert_eq!(weights(4, (V2, 50), (V1, 40), 10), "v1 3975, v2 5025, v3 1000 of 10000");
    // Nothing could be taken from stable; weights that do not add up; another update's; no update.
    assert_eq!(weights(4, (V2, 50), (V1, 0), 50), "v1 0, v2 50, v3 50 of 100");
    assert_eq!(weights(4, (V2, 50), (V1, 51), 0), "v1 51, v2 50 of 101");
    assert_eq!(weights(4, (V3, 50), (V1, 50), 0), "v1 50, v3 50 of 100");
    assert_eq!(weights(4, (V2, 50), (V2, 50), 0), "v2 100 of 100");
}

#[test]
fn of_two_steps_with_the_same_number_the_last_one_before_the_index_counts() {
    let at = |index: i64| {
        let text = "weights: [{step: 0, weight: 50.1%}, {step: 2, weight: 50.2%}]";
        let mut object = object(published(), index, text);
        object["spec"]["strategy"]["canary"]["steps"] =
            json!([{"setWeight": 50}, {"pause": {}}, {"setWeight": 50}, {"setWeight": 50}, {"pause": {}}]);
        object["status"]["canary"] = json!({"weights": {
            "canary": {"weight": 50, "podTemplateHash": V2}, "stable": {"weight": 50, "podTemplateHash": V1}}});
        told(&object)
    };
    let expected = ["501 of 1000", "501 of 1000", "501 of 1000", "502 of 1000", "of 100", "of 100"];
    for (index, expected) in expected.iter().enumerate() {
        assert!(at(index as i64).ends_with(expected), "at step {index}: {}", at(index as i64));
    }
}

#[test]
fn finer_weights_need_a_total_that_they_can_be_told_in() {
    let at = |total: i64, text: &str| {
        let routing = json!({"nginx": {}, "maxTrafficWeight": total});
        let reading = reading(&object(routing, 0, text), None);
        reading.problem().map(|problem| problem.rsplit("]").next().unwrap().to_owned())
    };
    assert_eq!(at(1000, "weights: [{step: 3, weight: 5.05%}]"), None);
    assert_eq!(at(1_000_000, "weights: [{step: 3, weight: 0.005%}]"), None);
    let refused =
        ".weights: Forbidden: finer weights need a maxTrafficWeight that divides 1000000, such as 1000; it is 300";
    assert_eq!(at(300, "weights: [{step: 3, weight: 16.7%}]").as_deref(), Some(refused));
    assert_eq!(at(300, "weights: []"), None);
    assert_eq!(at(2_000_000_000, TESTERS), None);
}

#[test]
fn the_page_for_users_is_right() {
    let page = include_str!("../../../../docs/routes.md");
    let block = |start: &str| page.split(start).nth(1).unwrap().split("```").next().unwrap();
    let mut shop: Value = serde_saphyr::from_str(block("```yaml\n")).unwrap();
    shop["status"] = updating(3);
    shop["metadata"]["annotations"]["rollout.argoproj.io/revision"] = json!("2");
    assert_eq!(told(&shop), "50 of 10000");
    for (index, expected) in ["testers", "testers copies", "testers", "testers"].iter().enumerate() {
        shop["status"]["currentStepIndex"] = json!(index);
        assert_eq!(routes(&shop), *expected, "at step {index}");
    }
    shop["status"]["currentStepIndex"] = json!(5);
    assert_eq!(told(&shop), "5025 of 10000");

    let text = shop["metadata"]["annotations"][ROUTES].as_str().unwrap().to_owned();
    let mistakes = [("\"true\"", "true"), ("setMirrorRoute", "setMirorRoute"), ("50.25%", "52%")]
        .map(|(good, bad)| text.replace(good, bad));
    let messages = block("like an error of the API server, which cannot check\nannotations itself:\n\n```\n");
    for (text, message) in mistakes.iter().zip(messages.lines()) {
        shop["metadata"]["annotations"][ROUTES] = json!(text);
        let problem = reading(&shop, None).problem().unwrap().to_owned();
        assert!(problem.contains(message), "{problem}");
    }
    assert_eq!(messages.lines().count(), mistakes.len());
}

fn divisors() -> impl Strategy<Value = u32> {
    let all: Vec<u32> = (1..=MAX_TOTAL).filter(|total| MAX_TOTAL.is_multiple_of(*total)).collect();
    prop::sample::select(all)
}

/// A valid annotation for [`steps`].
fn valid() -> impl Strategy<Value = (String, Vec<(usize, Option<usize>)>)> {
    let route = (0..6usize, prop::option::of(0..6usize), 0..4u8);
    (prop::collection::vec(route, 0..6), prop::option::of(40_001..60_000u32), any::<bool>()).prop_map(
        |(routes, weight, json)| {
            let spans: Vec<_> = routes.iter().map(|(from, to, _)| (*from, to.map(|to| to.max(*from)))).collect();
            let routes = routes.iter().zip(&spans).enumerate().map(|(i, ((.., kind), (from, to)))| {
                let value = [json!({"exact": "a: b"}), json!({"prefix": "ü"}), json!({"regex": "[a-z]+"})];
                let value = &value[usize::from(*kind) % 3];
                let name = format!("route-{i}");
                let route = match kind {
                    3 => json!({"setMirrorRoute": {"name": name, "percentage": i, "match": [
                        {"method": {"exact": "GET"}, "headers": {"x-b": value}}]}}),
                    _ => json!({"setHeaderRoute": {"name": name, "match": [
                        {"headerName": "X-A", "headerValue": value}]}}),
                };
                let mut route = route;
                route["fromStep"] = json!(from);
                route["toStep"] = json!(to);
                route
            });
            let weights = weight
                .map(|weight| json!({"step": 0, "weight": format!("{}.{:04}%", weight / 10_000, weight % 10_000)}));
            let whole =
                json!({"routes": routes.collect::<Vec<_>>(), "weights": weights.into_iter().collect::<Vec<_>>()});
            let text = if json { whole.to_string() } else { serde_saphyr::to_string(&whole).unwrap() };
            (text, spans)
        },
    )
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in prop_oneof![any::<String>(), "[-:{}\\[\\],&*!|>'\"%@` \n\ta-z0-9~#?]{0,200}"]) {
        let object = object(json!({}), 1, &text);
        let reading = reading(&object, None);
        prop_assert!(reading.problem().is_none_or(|problem| problem.lines().count() == 1));
        prop_assert_eq!(reading.problem().is_some(), reading.note().is_some());
    }

    #[test]
    fn a_valid_annotation_with_anything_changed_gets_an_answer_and_never_half_of_one(
        (text, _) in valid(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6),
    ) {
        let mut bytes = text.clone().into_bytes();
        for (at, byte, kind) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let good = reading(&object(json!({}), 1, &text), None);
        prop_assert_eq!(good.problem(), None);
        let changed = reading(&object(json!({}), 1, &String::from_utf8_lossy(&bytes)), Some(&good));
        match changed.problem() {
            Some(_) => prop_assert!(Arc::ptr_eq(&good.annotation, &changed.annotation)),
            None => {
                let timed = changed.annotation();
                let ordered = timed.routes.iter().all(|timed| timed.to.is_none_or(|to| timed.from <= to && to < 6));
                prop_assert!(ordered);
                let weight = timed.finer().weight(&rollout(&object(json!({}), 1, "")), 0).unwrap();
                let share = f64::from(weight) / f64::from(timed.finer().total(&rollout(&object(json!({}), 1, ""))));
                prop_assert!(share > 0.04 && share < 0.06, "{}", share);
            }
        }
    }

    #[test]
    fn routes_are_in_force_between_their_steps_and_at_no_other_time((text, spans) in valid(), index in 0..9usize) {
        let expected: Vec<_> = spans.iter().enumerate().filter(|(_, (from, to))| {
            let index = index.min(6);
            *from <= index && to.is_none_or(|to| index <= to)
        }).map(|(i, _)| format!("route-{i}")).chain((index >= 2).then(|| "by-step".to_owned())).collect();
        prop_assert_eq!(routes(&object(declared(), index as i64, &text)), expected.join(" "));
    }

    #[test]
    fn finer_weights_are_exact_and_never_a_unit_away(
        total in divisors(),
        parts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let unit = MAX_TOTAL / total;
        let mut weights = BTreeMap::new();
        let mut wholes = Vec::new();
        for (step, (whole, fine)) in parts.iter().enumerate() {
            let whole = whole.index(total as usize + 1) as u32;
            let near = (whole * unit).saturating_sub(unit)..=(whole * unit + unit).min(MAX_TOTAL);
            let fine = near.clone().nth(fine.index(near.count())).unwrap();
            let may = stands_for(fine, whole, total);
            let none_or_all = whole == 0 || whole == total;
            prop_assert_eq!(may, if none_or_all { fine == whole * unit } else { fine.abs_diff(whole * unit) < unit });
            wholes.push(json!({"setWeight": whole}));
            if may {
                prop_assert!(none_or_all || fine > 0 && fine < MAX_TOTAL);
                weights.insert(step, fine);
            }
        }
        let mut object = object(json!({"nginx": {}, "maxTrafficWeight": total}), 0, "");
        object["spec"]["strategy"]["canary"]["steps"] = json!(wholes);
        let rollout = rollout(&object);
        let finer = Finer::new(total, weights.clone());
        let units = finer.total(&rollout);
        prop_assert!(units <= MAX_TOTAL && units.is_multiple_of(total));
        for (step, whole) in wholes.iter().enumerate() {
            let whole = whole["setWeight"].as_u64().unwrap() as u32 * unit;
            let expected = weights.get(&step).copied().unwrap_or(whole);
            let weight = finer.weight(&rollout, step).unwrap();
            prop_assert_eq!(u64::from(weight) * u64::from(MAX_TOTAL), u64::from(expected) * u64::from(units));
        }
    }
}
