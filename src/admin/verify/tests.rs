use proptest::prelude::*;

use super::*;
use crate::metrics::made_up;
use crate::route::Generation;

fn weight(share: Share) -> Asked {
    Asked { question: Question::Weight { share, version: None, generation: None }, port: None, all: false }
}

#[test]
fn a_weight_is_read_exactly() {
    for (text, part, of) in [
        ("25", 25, 100),
        ("25%", 25, 100),
        ("25%25", 25, 100),
        ("50.5", 505, 1000),
        ("5.5%", 11, 200),
        ("0.0001", 1, 1_000_000),
        ("505/1000", 505, 1000),
        ("0", 0, 1),
        ("100", 1, 1),
        ("1000000/1000000", 1, 1),
    ] {
        assert_eq!(from_query(&format!("weight={text}")), Ok(weight(Share::new(part, of))), "{text}");
    }
    assert_ne!(Share::new(505, 1000), Share::new(504_999, 1_000_000));
}

#[test]
fn a_question_may_be_narrowed_and_asked_of_all() {
    let asked = from_query("weight=25&version=abc&generation=7&port=http&all=true").unwrap();
    let question =
        Question::Weight { share: Share::new(1, 4), version: Some(VersionHash::new("abc")), generation: Some(7) };
    assert_eq!(asked, Asked { question, port: Some("http".to_owned()), all: true });
    let asked = from_query("drained=a%26b&all").unwrap();
    assert_eq!(asked, Asked { question: Question::Drained(VersionHash::new("a&b")), port: None, all: true });
    assert!(!from_query("drained=a&all=false").unwrap().all);
}

#[test]
fn what_is_passed_on_is_the_same_question_to_one() {
    for query in ["weight=5.5&version=a%26all=true&generation=3&port=a%2Fb&all=true", "drained=%C3%A4%25&all=1"] {
        let asked = from_query(query).unwrap();
        let target = asked.to_target();
        let passed_on = from_query(target.strip_prefix("/verify?").unwrap()).unwrap();
        assert_eq!(passed_on, Asked { all: false, ..asked }, "{target}");
    }
}

#[test]
fn a_bad_question_is_told_what_was_expected() {
    for (query, part) in [
        ("", "weight=PERCENT or drained=HASH"),
        ("all=true", "weight=PERCENT or drained=HASH"),
        ("wieght=25", "did you mean weight?"),
        ("something=25", "expected weight, version"),
        ("weight=25&weight=25", "weight is there twice"),
        ("weight=", "expected a percentage such as 25"),
        ("weight=many", "neither a whole number nor a percentage"),
        ("weight=-1", "cannot be negative"),
        ("weight=101", "at most 100 %"),
        ("weight=0.00001", "at most 4 digits"),
        ("weight=2/1", "more than all"),
        ("weight=0/0", "no part of 0"),
        ("weight=1.5/3", "needs a percent sign"),
        ("weight=1%25/3", "whole numbers"),
        ("weight=25&generation=new", "expected a whole number"),
        ("weight=25&version=", "version is empty"),
        ("weight=25&drained=a", "one at a time"),
        ("drained=", "drained is empty"),
        ("drained=a&generation=3", "generation goes with weight"),
        ("drained=a&all=maybe", "expected true or false"),
        ("drained=%zz", "without two hexadecimal digits"),
    ] {
        let error = from_query(query).expect_err(query);
        assert!(error.contains(part), "{query}: {error}");
    }
}

/// One port, between `stable` and `canary`, with so many requests counted since the present weights came into force.
fn seen(weights: (u32, u32), before: (u64, u64), since: (u64, u64)) -> Seen {
    let (stable, canary) = (VersionHash::new("stable"), VersionHash::new("canary"));
    let total = f64::from(weights.0 + weights.1);
    let (earlier, requests) = (before.0 + before.1, since.0 + since.1);
    let asked = |weight: u32| requests as f64 * f64::from(weight) / total;
    Seen {
        port: PortName::default(),
        shares: Shares::new(vec![(stable.clone(), weights.0), (canary.clone(), weights.1)]).unwrap(),
        roles: vec![(stable.clone(), Role::Stable), (canary.clone(), Role::Canary)],
        tally: Tally {
            requests: earlier + requests,
            asked: vec![(stable, 0.0), (canary, 0.0)],
            since: earlier,
            window: vec![
                Window { given_before: before.0, asked: asked(weights.0) },
                Window { given_before: before.1, asked: asked(weights.1) },
            ],
        },
        sent: vec![before.0 + since.0, before.1 + since.1],
    }
}

fn status() -> Status {
    Status { generation: Generation(3), ..Status::default() }
}

fn verified(seen: Seen, share: Share) -> bool {
    judge(Some(&[seen]), share, None, None, &status()).verified
}

#[test]
fn the_weight_the_generation_and_the_sent_share_all_have_to_be_right() {
    let quarter = Share::new(1, 4);
    let fine = || seen((75, 25), (1000, 0), (75, 25));
    assert!(verified(fine(), quarter));
    assert!(!verified(fine(), Share::new(26, 100)));
    // Bounds: 2 for two versions, and one for a change.
    assert!(verified(seen((75, 25), (1000, 0), (72, 28)), quarter));
    assert!(!verified(seen((75, 25), (1000, 0), (71, 29)), quarter));
    let judged = |version: Option<&str>, generation, status: &Status| {
        judge(Some(&[fine()]), quarter, version.map(VersionHash::new).as_ref(), generation, status)
    };
    assert!(judged(None, Some(3), &status()).verified);
    assert!(!judged(None, Some(4), &status()).verified);
    assert!(judged(Some("canary"), None, &status()).verified);
    for version in ["stable", "another"] {
        let report = judged(Some(version), None, &status());
        assert!(!report.verified && report.why[0].starts_with(&format!("version {version} has")), "{report:?}");
    }
    // The Rollout's own generation, where one is followed.
    let of_rollout = Status { rollout_generation: Some(7), ..status() };
    assert!(judged(None, Some(7), &of_rollout).verified);
    assert!(!judged(None, Some(8), &of_rollout).verified);
    assert!(!judge(None, quarter, None, None, &status()).verified);
}

#[test]
fn every_port_has_to_serve_the_weight() {
    let named = |name: &str, seen: Seen| Seen { port: PortName::new(name), ..seen };
    let http = named("http", seen((75, 25), (0, 0), (0, 0)));
    let grpc = |weights| named("grpc", seen(weights, (0, 0), (0, 0)));
    let judged = |grpc: Seen| judge(Some(&[http.clone(), grpc]), Share::new(1, 4), None, None, &status());
    assert!(judged(grpc((3, 1))).verified);
    let report = judged(grpc((4, 1)));
    assert!(!report.verified && report.why[0].starts_with("port grpc: the canary has 1 of 5 (20%)"), "{report:?}");
}

#[test]
fn requests_that_are_not_counted_yet_count_for_whoever_needs_them() {
    let mut waiting = seen((75, 25), (0, 0), (75, 25));
    waiting.tally.requests += 10;
    let report = judge(Some(&[waiting.clone()]), Share::new(1, 4), None, None, &status());
    assert!(report.verified && report.ports[0].uncounted == 10);
    waiting.tally.window[1].asked += 14.0;
    assert!(!verified(waiting, Share::new(1, 4)));
}

proptest! {
    #[test]
    fn another_weight_is_never_verified(stable in 0u32..2000, canary in 0u32..2000, part in 0u64..3000, of in 1u64..3000) {
        prop_assume!(stable + canary > 0 && part <= of);
        let is_right = u64::from(canary) * of == part * u64::from(stable + canary);
        prop_assert_eq!(verified(seen((stable, canary), (0, 0), (0, 0)), Share::new(part, of)), is_right);
    }

    #[test]
    fn a_share_out_of_its_bound_is_never_verified(
        weights in (1u32..100, 1u32..100), before in (0u64..1000, 0u64..1000), since in (0u64..500, 0u64..500),
    ) {
        let share = Share::new(weights.1.into(), (weights.0 + weights.1).into());
        let asked = (since.0 + since.1) as f64 * f64::from(weights.1) / f64::from(weights.0 + weights.1);
        let is_within = (since.1 as f64 - asked).abs() <= 3.0;
        prop_assert_eq!(verified(seen(weights, before, since), share), is_within);
    }
}

#[test]
fn a_version_is_drained_when_nothing_is_open_in_any_role_or_worker() {
    let (_publisher, live) = made_up::live(&[("old", Role::Stable, 1), ("new", Role::Canary, 1)]);
    let metrics = made_up::metrics(2, live);
    let old = VersionHash::new("old");
    let ask = |version: &str| drained(&metrics.totals(), &[0], &VersionHash::new(version), 1);
    assert!(ask("old").verified);
    let (one, two) = (metrics.version(0, 0, &old, Role::Stable), metrics.version(1, 0, &old, Role::Canary));
    one.in_flight.add(1);
    two.in_flight.add(2);
    let report = ask("old");
    assert_eq!((report.verified, report.open, report.known), (false, Some(3), Some(true)));
    assert!(ask("new").verified);
    one.in_flight.add(-1);
    assert!(!ask("old").verified);
    two.in_flight.add(-2);
    assert!(ask("old").verified);
    let report = ask("odl");
    assert_eq!((report.verified, report.open, report.known), (false, Some(0), Some(false)));
    assert!(report.why[0].ends_with("served were: new, old"), "{report:?}");
}
