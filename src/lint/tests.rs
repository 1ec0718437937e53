use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

const TRAFFIC: Traffic = Traffic { requests_per_second: 0.2, baseline_error_rate: 0.001 };

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn report(text: &str) -> Report {
    lint("test.yaml", text, Some(TRAFFIC)).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The inputs of tests/data/lint, by their names.
fn inputs() -> Vec<(PathBuf, String)> {
    let files = std::fs::read_dir(here("tests/data/lint")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_none_or(|extension| extension != "txt")).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Every file of tests/data/lint gives the text beside it. `UPDATE=1 cargo test` writes these texts anew.
#[test]
fn inputs_give_the_recorded_reports() {
    let mut wrong = String::new();
    for (path, text) in inputs() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let found = match lint(name, &text, Some(TRAFFIC)) {
            Ok(report) => report.render(false),
            Err(problems) => problems.render(false) + "\n",
        };
        let recorded = path.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&recorded, &found).unwrap();
        } else if std::fs::read_to_string(&recorded).unwrap_or_default() != found {
            wrong += &format!("{name}: found\n{found}\n");
        }
    }
    assert_eq!(wrong, "");
}

#[test]
fn every_rule_is_broken_by_some_input() {
    let mut broken = BTreeSet::new();
    for (path, text) in inputs() {
        let report = lint("input", &text, Some(TRAFFIC)).unwrap_or_else(|_| panic!("{}", path.display()));
        broken.extend(report.findings.iter().map(|finding| finding.rule.id));
    }
    let never: Vec<_> = rules::ALL.iter().map(|rule| rule.id).filter(|id| !broken.contains(id)).collect();
    assert!(never.is_empty(), "{never:?}");
}

/// `UPDATE=1 cargo test` prints the rules anew.
#[test]
fn the_documentation_has_every_rule() {
    const MARK: &str = "<!-- rules -->\n";
    let path = here("docs/lint.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let parts: Vec<&str> = page.split(MARK).collect();
    let [before, rules, after] = parts[..] else { panic!("docs/lint.md has the rules between two marks") };
    let printed = format!("\n{}\n", documentation());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, [before, &printed, after].join(MARK)).unwrap();
    } else {
        assert_eq!(rules, printed, "UPDATE=1 cargo test prints docs/lint.md anew");
    }
}

#[test]
fn lines_that_people_read_are_at_most_a_hundred_columns_wide() {
    for (path, text) in inputs() {
        let Ok(report) = lint("rollout.yaml", &text, Some(TRAFFIC)) else { continue };
        let rendered = report.render(false);
        // Excerpts are as wide as what they show.
        let own =
            rendered.lines().filter(|line| !line.starts_with(|c: char| c.is_ascii_digit()) && !line.contains('^'));
        for line in own {
            let width = line.chars().count();
            assert!(width <= 100, "{}: {width} columns: {line}", path.display());
        }
    }
}

#[test]
fn the_case_of_the_readme_sees_four_requests_which_prove_nothing() {
    let report = report(&std::fs::read_to_string(here("tests/data/lint/case.yaml")).unwrap());
    let [first, last] = &report.tables[0].stages[..] else { panic!("{:?}", report.tables) };
    assert_eq!((first.first_step, first.last_step, first.weight, first.seconds), (1, 2, 33, 60));
    assert_eq!((first.requests, first.proves_nothing), (Some(4), Some(true)));
    assert_eq!((last.weight, last.seconds, &last.then[..]), (100, 0, &["promotion"][..]));
    let messages: Vec<_> = report.findings.iter().map(|finding| (finding.rule.id, finding.message.as_str())).collect();
    assert!(
        messages.contains(&("proves-nothing", "33 % for 1m at 0.2 requests/s is 4 canary requests: proves nothing"))
    );
    assert_eq!(report.findings.iter().filter(|finding| finding.rule.id == "unknown-field").count(), 1);
}

#[test]
fn what_helps_against_too_few_requests_really_helps() {
    let traffic = Traffic { requests_per_second: 3.0, baseline_error_rate: 0.02 };
    let text = |seconds: &str| {
        format!(
            "{{apiVersion: argoproj.io/v1alpha1, kind: Rollout, spec: {{strategy: {{canary: {{trafficRouting: {{}}, \
             steps: [{{setWeight: 5}}, {{pause: {{duration: {seconds}}}}}]}}}}}}}}"
        )
    };
    let proves_nothing = |seconds: &str| {
        let report = lint("test.yaml", &text(seconds), Some(traffic)).unwrap();
        report.findings.into_iter().find(|finding| finding.rule.id == "proves-nothing")
    };
    let finding = proves_nothing("30").expect("4 requests");
    let held = finding.remedy.split("weight for ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    assert!(proves_nothing(&held).is_none(), "{held}");
    let less = span::pause(&held).unwrap() * 9 / 10;
    assert!(proves_nothing(&less.to_string()).is_some(), "{less}");
}

#[test]
fn json_has_findings_with_places_and_remedies_and_the_table() {
    let json = report(&std::fs::read_to_string(here("tests/data/lint/case.yaml")).unwrap()).json();
    let finding = &json["findings"].as_array().unwrap().iter().find(|one| one["rule"] == "unknown-field").unwrap();
    assert_eq!(finding["path"], "spec.strategy.canary.steps[1].pause.termination");
    assert_eq!((&finding["line"], &finding["column"], &finding["severity"]), (&21.into(), &13.into(), &"error".into()));
    assert_eq!(finding["docs"], "docs/lint.md#unknown-field");
    assert!(finding["remedy"].is_string() && finding["why"].is_string() && finding["message"].is_string());
    let table = &json["steps"][0];
    assert_eq!(
        (&table["rollout"], &table["requestsPerSecond"]),
        (&"services/tracing-demo-frontend".into(), &0.2.into())
    );
    assert_eq!((&table["stages"][0]["requests"], &table["stages"][0]["provesNothing"]), (&4.into(), &true.into()));
    assert_eq!(json["counts"]["errors"], 1);
}

#[test]
fn good_is_the_file_in_which_nothing_is_found() {
    let text = std::fs::read_to_string(here("tests/data/lint/good.yaml")).unwrap();
    let report = lint("good.yaml", &text, Some(Traffic { requests_per_second: 50.0, baseline_error_rate: 0.001 }));
    let report = report.unwrap();
    assert_eq!(report.counts, Counts::default(), "{}", report.render(false));
    // 4 intervals of 30 s; 300 s and another 120 s.
    let seconds: Vec<_> = report.tables[0].stages.iter().map(|stage| stage.seconds).collect();
    assert_eq!(seconds, [120, 420, 5400, 0]);
}

/// The list of fields knows at least all that a real API server has stored.
#[test]
fn recorded_rollouts_have_no_field_that_is_not_known() {
    let mut seen = 0;
    for entry in std::fs::read_dir(here("tests/data/rollouts")).unwrap() {
        let path = entry.unwrap().path();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            if event["kind"] != "Rollout" || event["object"]["spec"].is_null() {
                continue;
            }
            let mut object = event["object"].clone();
            object["kind"] = "Rollout".into();
            seen += 1;
            let report = lint("event.json", &object.to_string(), None).unwrap();
            for finding in &report.findings {
                let shape = ["unknown-field", "unknown-provider", "wrong-type", "missing-field", "written-twice"];
                assert!(
                    !shape.contains(&finding.rule.id),
                    "{}: {}: {}",
                    path.display(),
                    finding.field,
                    finding.message
                );
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn texts_without_a_rollout_are_refused_with_what_they_have() {
    for (text, found) in [
        ("", "no object at all"),
        ("# nothing\n---\n---\n", "no object at all"),
        ("kind: Deployment\n---\nkind: Service\n---\nkind: Service\n", "only Deployment, Service"),
        ("[1, 2]", "no object at all"),
        ("a: [", "this is not YAML"),
        ("\"\\xff", "this is not YAML"),
    ] {
        let problems = lint("test.yaml", text, None).expect_err(text);
        assert!(problems.one_line().contains(found), "{text:?}: {}", problems.one_line());
    }
}

#[test]
fn hostile_inputs_are_refused_or_looked_at_and_cost_little() {
    let deep = format!("kind: Rollout\nspec: {}", "[".repeat(100_000));
    assert!(lint("test.yaml", &deep, None).is_err());
    let almost = format!("kind: Rollout\nspec: {}{}", "[".repeat(120), "]".repeat(120));
    assert!(lint("test.yaml", &almost, None).is_ok());
    assert!(lint("test.yaml", &"#".repeat(LARGEST + 1), None).is_err());
    let many = format!("kind: Rollout\nspec: {{ {} }}", "bad: 1, ".repeat(20_000));
    let report = lint("test.yaml", &many, None).unwrap();
    assert!(report.counts.errors > 20_000 && report.findings.len() == 1000, "{:?}", report.counts);
    assert!(report.render(false).len() < 200_000);
    let hostile = "kind: Rollout\nmetadata: { name: \"\\e[2J\\u202e\" }\nspec: { \"\\e[31mred\": 1 }\n";
    assert!(!lint("test.yaml", hostile, None).unwrap().render(false).contains(['\u{1b}', '\u{202e}']));
    let bomb = "kind: Rollout\na: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: [*f,*f,*f,*f,*f,*f,*f,*f]\n";
    assert!(lint("test.yaml", bomb, None).is_err());
}

/// A Rollout with something else in one place.
fn changed(lines: Vec<&str>, at: usize, by: &str) -> String {
    let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    let at = at % lines.len();
    let keep = lines[at].find([':', '-']).map_or(0, |colon| colon + 1);
    lines[at] = format!("{} {by}", &lines[at][..keep]);
    lines.join("\n")
}

proptest! {
    #[test]
    fn any_text_is_looked_at_or_refused(text in "\\PC{0,300}", rps in 0.0001..1e9f64, baseline in 0.0..=0.5f64) {
        let traffic = Some(Traffic { requests_per_second: rps, baseline_error_rate: baseline });
        if let Ok(report) = lint("test.yaml", &text, traffic) {
            report.render(true);
            report.json();
        }
    }

    #[test]
    fn a_rollout_with_anything_in_the_place_of_something_is_looked_at(
        file in 0..100usize,
        at in 0..1000usize,
        by in prop_oneof![
            "\\PC{0,20}",
            proptest::sample::select(vec![
                "", "~", "[]", "{}", "-1", "9223372036854775807", "-9223372036854775808", "1e308", "[[]]", "{a: {}}",
                "\"\"", "999999999999h", "0x7fffffffffffffff", "&a [*a]", "<<: 1", "{<<: {a: 1}}", "{<<: [{}, {}]}",
            ]).prop_map(str::to_owned),
        ],
        rps in 0.0001..1e9f64,
    ) {
        let inputs = inputs();
        let (_, text) = &inputs[file % inputs.len()];
        let text = changed(text.lines().collect(), at, &by);
        let traffic = Some(Traffic { requests_per_second: rps, baseline_error_rate: 0.001 });
        if let Ok(report) = lint("test.yaml", &text, traffic) {
            for finding in &report.findings {
                prop_assert!(finding.line >= 1 && finding.line <= text.lines().count() + 1 && finding.column >= 1);
            }
            report.render(false);
            report.json();
        }
    }
}
