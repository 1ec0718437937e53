mod secure;

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::route::policy::{Outliers, Retry, Timeouts};
use crate::route::{Action, Role, Share, weight};

const GOOD: [&str; 3] = ["examples/splitway.yaml", "examples/full.yaml", "examples/probes.yaml"];

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn example(path: &str) -> String {
    std::fs::read_to_string(here(path)).unwrap()
}

fn good(text: &str) -> Config {
    parse(text, "test.yaml", &Flags::default()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bad(text: &str) -> Problems {
    match parse(text, "test.yaml", &Flags::default()) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => problems,
    }
}

/// What it declares by itself, without a Rollout.
fn declared(config: &Config) -> source::Declared {
    match &config.what {
        What::Declared(declared) => declared.clone(),
        What::Rollout(name, _) => panic!("it follows {name}"),
    }
}

/// Two configurations that print the same are the same; expressions have no other way to be compared.
fn same(one: &Config, other: &Config) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

const MINIMAL: &str = "listeners: [{ address: ':0' }]\nbackends: { stable: { endpoints: [':9001'] } }\n";

#[test]
fn the_examples_are_good() {
    for path in GOOD {
        load(&here(path), &Flags::default()).unwrap_or_else(|problems| panic!("{problems}"));
    }
}

#[test]
fn the_first_example_means_what_it_says() {
    let config = load(&here("examples/splitway.yaml"), &Flags::default()).unwrap();
    assert_eq!(config.proxy.listeners, [proxy::Listener::plain("127.0.0.1:8080".parse().unwrap(), 0)]);
    assert_eq!(config.admin.as_ref().unwrap().address.to_string(), "127.0.0.1:9090");
    let declared = &declared(&config);
    assert_eq!(declared.split.to_string(), "stable 945, canary 55 of 1000");
    let roles: Vec<_> = declared.backends.iter().map(|backend| backend.role).collect();
    assert_eq!(roles, [Role::Stable, Role::Canary]);
    assert_eq!(
        declared.backends[1].endpoints,
        [
            source::Endpoint::Address("127.0.0.1:9002".parse().unwrap()),
            source::Endpoint::Name { host: "app.local".to_owned(), port: 9002 },
        ]
    );
    assert_eq!(declared.routes.len(), 1);
    assert_eq!(declared.routes[0].matches.len(), 2);
    assert!(matches!(&declared.routes[0].action, Action::Send(version) if version.as_str() == "canary"));
    let sticky = declared.sticky.as_ref().unwrap();
    assert_eq!((sticky.keys.len(), sticky.salt.as_str()), (2, "spring"));
    let cookie = sticky.cookie.as_ref().unwrap();
    assert_eq!(cookie.max_age, Some(std::time::Duration::from_secs(86_400)));
}

/// Every file of tests/data/config/bad is refused with the text beside it. `UPDATE=1 cargo test` writes these texts anew.
#[test]
fn bad_files_are_refused_with_the_recorded_problems() {
    let folder = "tests/data/config/bad";
    let mut names: Vec<String> = std::fs::read_dir(here(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    assert!(names.len() > 25, "the folder holds {names:?}");
    let mut different = Vec::new();
    for name in names {
        let text = example(&format!("{folder}/{name}"));
        let problems = parse(&text, &format!("{folder}/{name}"), &Flags::default());
        let problems = problems.map(|config| panic!("{name} was accepted: {config:?}")).unwrap_err();
        let shown = format!("{problems}\n");
        let golden = here(&format!("{folder}/{}", name.replace(".yaml", ".txt")));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &shown).unwrap();
        } else if std::fs::read_to_string(&golden).ok().as_deref() != Some(shown.as_str()) {
            different.push(format!("{name} now gives:\n{shown}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// What is wrong, without where.
fn fields(problems: &Problems) -> Vec<(usize, usize, &str)> {
    problems.list().iter().map(|problem| (problem.line, problem.column, problem.field.as_str())).collect()
}

#[test]
fn six_different_mistakes_are_six_problems_each_with_its_place() {
    let problems = bad("\
listeners: [{ adress: 127.0.0.1:8080 }]
backends: { stable: { endpoints: [app] } }
split: { stabel: 1 }
routes: [{ name: qa, match: [{ headers: { x-user: { exact: 1, prefix: 2 } } }], backend: stable }]
timeouts: { connect: 5 }
drain: { dely: 1s }
");
    assert_eq!(
        fields(&problems),
        [
            (1, 15, "listeners[0].adress"),
            (2, 35, "backends.stable.endpoints[0]"),
            (3, 10, "split.stabel"),
            (4, 51, "routes[0].match[0].headers.x-user"),
            (5, 22, "timeouts.connect"),
            (6, 10, "drain.dely"),
        ]
    );
    assert_eq!(problems.count(), 6);
}

#[test]
fn columns_count_characters_not_bytes() {
    let problems = bad(
        "listeners: [{ address: ':0' }]\nbackends: { stable: { endpoints: [':1'] } }\nlog: { \"ä\": 1, levl: 1 }\n",
    );
    assert_eq!(fields(&problems), [(3, 8, "log.ä"), (3, 16, "log.levl")]);
}

#[test]
fn one_line_names_the_first_problem_and_counts_the_others() {
    let problems = bad(&format!("{MINIMAL}split: {{ stabel: 1 }}\nworkers: 0\n"));
    assert_eq!(
        problems.one_line(),
        "test.yaml:3:10: split.stabel: there is no backend \"stabel\" (did you mean `stable`?); and 1 more"
    );
}

#[test]
fn colours_are_there_only_when_asked_for() {
    let problems = bad("listeners: 1\n");
    assert!(problems.render(true).contains('\u{1b}'));
    assert!(!problems.render(false).contains('\u{1b}'));
}

#[test]
fn control_characters_of_a_file_never_reach_the_terminal() {
    let problems = bad(&format!("{MINIMAL}\"\\e[31mred\\a\": 1\nlog: {{ level: \"\\e[2J\" }}\n"));
    let shown = problems.to_string() + &problems.one_line();
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
}

#[test]
fn a_log_line_is_one_line_whatever_the_file_holds() {
    for text in ["a\n b", "? \"a\\nb\"\n: 1\n", "listeners: \"a\\u2028b\"\n"] {
        let line = bad(text).one_line();
        assert!(!line.contains(['\n', '\u{2028}']), "{line:?}");
    }
}

#[test]
fn a_missing_file_says_so() {
    let problems = load(Path::new("no/such/file.yaml"), &Flags::default()).unwrap_err();
    assert_eq!(fields(&problems), [(0, 0, "")]);
    assert!(problems.one_line().starts_with("no/such/file.yaml: cannot be read: "), "{}", problems.one_line());
}

#[test]
fn a_folder_or_a_file_that_is_not_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("binary.yaml");
    std::fs::write(&file, [b'a', 0xff]).unwrap();
    assert!(load(folder.path(), &Flags::default()).unwrap_err().one_line().contains("cannot be read"));
    let problems = load(&file, &Flags::default()).unwrap_err();
    assert!(problems.one_line().contains("expected UTF-8 text, found other bytes from byte 1 on"));
}

#[test]
fn a_secret_is_read_beside_the_file_without_its_line_break() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "0123456789abcdef\r\n").unwrap();
    let file = folder.path().join("splitway.yaml");
    std::fs::write(&file, format!("{MINIMAL}sticky: {{ cookie: {{ secret-file: secret }} }}\n")).unwrap();
    let config = load(&file, &Flags::default()).unwrap();
    let secret = declared(&config).sticky.unwrap().cookie.unwrap().secret.unwrap();
    assert_eq!(secret, b"0123456789abcdef");
}

#[test]
fn the_least_file_gets_every_default() {
    let config = good(MINIMAL);
    assert_eq!(declared(&config).split.to_string(), "stable 1 of 1");
    assert_eq!(declared(&config).policy, Default::default());
    assert_eq!(config.proxy.drain, Default::default());
    assert!(config.proxy.workers >= 1);
    assert_eq!(declared(&config).override_, None);
    assert_eq!((config.admin, config.replica), (None, None));
    assert_eq!(config.log, Log { level: "info".to_owned(), format: LogFormat::Auto });
}

#[test]
fn log_directives_beyond_ascii_are_refused() {
    // The parser that is given the directives panics over these.
    for text in ["\u{202f}a=", " \u{a90}u=", "info,\u{3000}x=debug"] {
        let problems = bad(&format!("{MINIMAL}log: {{ level: \"{text}\" }}\n"));
        assert!(problems.to_string().contains("in ASCII"), "{problems}");
    }
}

#[test]
fn a_mirror_copies_everything_unless_it_says_how_much() {
    let check = |percent: &str, weight: u32, total: u32| {
        let mirror = format!("{{ to: stable{percent} }}");
        let text = format!("{MINIMAL}routes: [{{ name: a, match: [{{ method: GET }}], mirror: {mirror} }}]\n");
        let expected = Share::new(weight, total).unwrap();
        for text in [text.clone(), round_trip(Some((&text, "test.yaml")), &Flags::default())] {
            let route = &declared(&good(&text)).routes[0];
            let Action::Mirror { to, share } = &route.action else { panic!("{route:?}") };
            assert_eq!((to.as_str(), share.weight() * expected.total()), ("stable", expected.weight() * share.total()));
        }
    };
    check("", 1, 1);
    check(", percent: 100", 1, 1);
    check(", percent: 0", 0, 1);
    check(", percent: 5", 5, 100);
    check(", percent: 5.5", 55, 1000);
    check(", percent: 0.0001%", 1, 1_000_000);
    check(", percent: '33.5 %'", 335, 1000);
    let policy =
        declared(&good(&format!("{MINIMAL}mirror: {{ shadow-host: false, concurrency: 0, buffer: 1MiB }}"))).policy;
    assert_eq!((policy.mirror.shadow_host, policy.mirror.concurrency, policy.mirror.buffer), (false, 0, 1 << 20));
    assert_eq!(policy.mirror.timeout, std::time::Duration::from_secs(60));
}

#[test]
fn what_is_written_about_faults_is_what_is_meant() {
    let seconds = std::time::Duration::from_secs;
    let text = "timeouts: { between-bytes: none, queue: 2s, first-byte: 9s, request: 8s }\n\
                limits: { endpoint-requests: 100, queue: 7 }\n\
                retry: { tries: 2, other-version: false, budget: 12.5, budget-min: 0 }\n\
                outliers: { connect-failures: none, server-errors: 6, base-time: 4s, max-time: 1h }\n\
                slow-start: 30s\n\
                routes:\n\
                - { name: a, match: [{ path: { exact: /a } }], backend: stable }\n\
                - { name: b, match: [{ path: { exact: /b } }], backend: stable, timeouts: { request: none, connect: 3s } }\n";
    let declared = declared(&good(&format!("{MINIMAL}{text}")));
    let policy = declared.policy;
    let Timeouts { between_bytes, queue, first_byte, request, .. } = policy.timeouts;
    assert_eq!((between_bytes, queue, first_byte, request), (None, seconds(2), seconds(9), Some(seconds(8))));
    assert_eq!((policy.limits.endpoint_requests, policy.limits.queue), (Some(100), 7));
    let budget = Share::new(125_000, 1_000_000).unwrap();
    let Retry { tries, other_version, budget: found, budget_min } = policy.retry;
    assert_eq!((tries, other_version, budget_min), (2, false, 0));
    assert_eq!(found.weight() * budget.total() / found.total(), budget.weight());
    let outliers =
        Outliers { connect_failures: None, server_errors: Some(6), base_time: seconds(4), max_time: seconds(3600) };
    assert_eq!((policy.outliers, policy.slow_start), (outliers, Some(seconds(30))));
    assert_eq!(declared.routes[0].timeouts, None);
    // What the route leaves out is as it is for all.
    let own = Timeouts { request: None, connect: seconds(3), ..policy.timeouts };
    assert_eq!(declared.routes[1].timeouts, Some(own));
}

#[test]
fn durations_and_sizes_are_read_in_their_usual_forms() {
    let timeout = |text: &str| {
        declared(&good(&format!("{MINIMAL}timeouts: {{ idle: {text} }}\n"))).policy.timeouts.idle.as_millis()
    };
    for (text, milliseconds) in [
        ("500ms", 500),
        ("10s", 10_000),
        ("1h30m", 5_400_000),
        ("1h30m0s", 5_400_000),
        ("2m 5s", 125_000),
        ("1d", 86_400_000),
    ] {
        assert_eq!(timeout(text), milliseconds, "{text}");
    }
    let limit =
        |text: &str| declared(&good(&format!("{MINIMAL}limits: {{ body-bytes: {text} }}\n"))).policy.limits.body_bytes;
    for (text, bytes) in [
        ("0", Some(0)),
        ("65536", Some(65_536)),
        ("64KiB", Some(65_536)),
        ("1 MB", Some(1_000_000)),
        ("2GiB", Some(2 << 30)),
        ("none", None),
    ] {
        assert_eq!(limit(text), bytes, "{text}");
    }
}

#[test]
fn aliases_repeat_a_value() {
    let config =
        good("listeners: [{ address: ':0' }]\nbackends:\n  stable: &one { endpoints: [':1'] }\n  canary: *one\n");
    assert_eq!(declared(&config).backends[0].endpoints, declared(&config).backends[1].endpoints);
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let before = vec![format!("*a{}", i - 1); 10].join(", ");
        aliases += &format!("a{i}: &a{i} [{before}]\n");
    }
    assert!(bad(&aliases).one_line().contains("expected at most 100000 values"));

    let mut tower = String::from("a0: &a0 [x]\n");
    for i in 1..100 {
        tower += &format!("a{i}: &a{i} [*a{}]\n", i - 1);
    }
    assert!(bad(&tower).one_line().contains("at most 32 lists and mappings"));

    assert!(bad("a: &a [*a]\n").one_line().contains("inside of what it repeats"));
    assert_eq!(bad(&"[".repeat(10_000)).count(), 1);
    assert_eq!(bad(&"- ".repeat(10_000)).count(), 1);
    assert!(bad(&"#".repeat((1 << 20) + 1)).one_line().contains("at most 1048576 bytes"));

    let expressions = "{ path: { regex: a } }, ".repeat(1001);
    let problems = bad(&format!("{MINIMAL}routes: [{{ name: x, backend: stable, match: [{expressions}] }}]\n"));
    assert_eq!(problems.list()[0].message, "expected at most 1000 regular expressions");
}

#[test]
fn of_a_thousand_problems_a_hundred_are_shown_and_all_are_counted() {
    let text: String = (0..1000).map(|i| format!("x{i}: 1\n")).collect();
    let problems = bad(&(text + MINIMAL));
    assert_eq!((problems.list().len(), problems.count()), (100, 1000));
    assert!(problems.to_string().ends_with("... and 900 more that are not shown\n\ntest.yaml: 1000 problems"));
}

fn flags(stable: &str, canary: &str) -> Flags {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Flags { listen: vec![":8080".to_owned()], stable: some(stable), canary: some(canary), ..Flags::default() }
}

#[test]
fn flags_alone_give_an_exact_split() {
    let check = |stable: &str, canary: &str, split: &str| {
        let config = from_flags(&flags(stable, canary)).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(declared(&config).split.to_string(), split);
        config
    };
    let config = check(":9001", ":9002=5.5%", "stable 945, canary 55 of 1000");
    assert_eq!(config.proxy.listeners[0].address, "0.0.0.0:8080".parse().unwrap());
    check(":9001", "", "stable 100 of 100");
    check(":9001", ":9002", "stable 100, canary 0 of 100");
    check(":9001=99.9%", ":9002", "stable 999, canary 1 of 1000");
    check(":9001=495", "a.local:9002=505", "stable 495, canary 505 of 1000");
    let config = check(":9001,:9003", "a:1,[::1]:2=50%", "stable 50, canary 50 of 100");
    assert_eq!(declared(&config).backends.iter().map(|backend| backend.endpoints.len()).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn flags_that_make_no_sense_are_refused_with_their_own_place() {
    let check = |stable: &str, canary: &str, expected: &str| {
        assert_eq!(from_flags(&flags(stable, canary)).unwrap_err().one_line(), expected);
    };
    check(
        ":9001",
        ":9002=5",
        "--canary:1:7: expected a percentage, found the whole number 5 alone \
         (write `5%`, or give --stable a whole number too)",
    );
    check(
        ":9001",
        ":9002=5.5",
        "--canary:1:7: expected a weight such as `495` or `5.5%`, found \"5.5\" \
         (write `5.5%`, or whole numbers with any total)",
    );
    check(
        "",
        ":9002=5%",
        "--canary:1:1: expected --stable as well, which is missing \
         (a canary needs a stable version beside it: add --stable HOST:PORT)",
    );
    check(
        ":9001,9002",
        "",
        "--stable:1:7: expected a host and a port such as `127.0.0.1:9001`, `[::1]:9001`, `app.local:9001` or `:9001`, \
         found \"9002\" (write `:9002` for port 9002)",
    );
    check(
        ":9001,:9001",
        "",
        "--stable:1:7: the endpoint 127.0.0.1:9001 is written twice (keep one of the two; requests spread evenly)",
    );
    check(":9001=60%", ":9002=50%", "--stable:1:1: expected percentages that add up to 100%, found 110%");
    check(
        "",
        "",
        "backends: expected at least a stable backend, found none \
         (add `backends: { stable: { endpoints: [\"127.0.0.1:9001\"] } }`, or --stable :9001, or follow a Rollout: --rollout services/shop)",
    );
}

#[test]
fn flags_override_the_file() {
    let flags = Flags {
        listen: vec![":1".to_owned(), "[::1]:2".to_owned()],
        admin: Some(":3".to_owned()),
        workers: Some("3".to_owned()),
        reuse_port: Some("true".to_owned()),
        drain_delay: Some("0s".to_owned()),
        drain_timeout: Some("1m".to_owned()),
        dns_interval: Some("250ms".to_owned()),
        replica: Some("2/3".to_owned()),
        log_level: Some("debug".to_owned()),
        log_format: Some("json".to_owned()),
        metrics_alias: vec!["nginx".to_owned(), "istio".to_owned(), "nginx".to_owned()],
        access_log: Some("text".to_owned()),
        access_log_sample: Some("5.5%".to_owned()),
        access_log_only: Some("canary".to_owned()),
        ..Flags::default()
    };
    let config = load(&here("examples/full.yaml"), &flags).unwrap_or_else(|problems| panic!("{problems}"));
    let seconds = std::time::Duration::from_secs;
    assert_eq!(config.proxy.listeners.len(), 2);
    assert_eq!(config.admin.as_ref().unwrap().address.to_string(), "0.0.0.0:3");
    assert_eq!(config.proxy.workers, 3);
    assert!(config.proxy.reuse_port);
    assert_eq!(config.proxy.drain, proxy::Drain { delay: seconds(0), timeout: seconds(60) });
    assert_eq!(declared(&config).dns_interval, seconds(1) / 4);
    assert_eq!(config.replica, Some(Replica { index: 2, of: 3, seed: "splitway".to_owned() }));
    assert_eq!(config.log, Log { level: "debug".to_owned(), format: LogFormat::Json });
    assert_eq!(config.aliases, [Alias::Nginx, Alias::Istio]);
    let (format, sample) = (access_log::Format::Text, Share::new(55, 1000).unwrap());
    assert_eq!(config.access_log, Some(access_log::Settings { format, sample, only: Some(Role::Canary) }));
}

#[test]
fn what_is_said_of_an_access_log_needs_one() {
    for (sample, only) in [(Some("5%"), None), (None, Some("canary")), (Some("5%"), Some("canary"))] {
        let [access_log_sample, access_log_only] = [sample, only].map(|text| text.map(str::to_owned));
        let flags = Flags { access_log_sample, access_log_only, ..Flags::default() };
        let problems = parse(MINIMAL, "test.yaml", &flags).unwrap_err().one_line();
        assert!(problems.contains("there is no access log"), "{problems}");
        let with = format!("{MINIMAL}access-log: {{ format: json }}\n");
        assert!(parse(&with, "test.yaml", &flags).is_ok());
    }
}

#[test]
fn an_alias_that_nobody_knows_is_refused_with_the_one_that_was_meant() {
    let flags = Flags { metrics_alias: vec!["istio".to_owned(), "ngnix".to_owned()], ..Flags::default() };
    let problems = parse(MINIMAL, "test.yaml", &flags).unwrap_err();
    assert_eq!(
        problems.one_line(),
        "--metrics-alias:1:1: expected one of `istio`, `nginx`, found \"ngnix\" (did you mean `nginx`?)"
    );
    let problems = parse(&format!("{MINIMAL}metrics: {{ aliases: [istoi] }}\n"), "test.yaml", &Flags::default());
    assert_eq!(fields(&problems.unwrap_err()), [(3, 22, "metrics.aliases[0]")]);
}

#[test]
fn a_flag_replaces_even_a_broken_value_of_the_file_but_its_problem_stays() {
    let flags = Flags { workers: Some("2".to_owned()), ..Flags::default() };
    let problems = parse(&format!("{MINIMAL}workers: none\n"), "test.yaml", &flags).unwrap_err();
    assert_eq!(fields(&problems), [(3, 10, "workers")]);
}

#[test]
fn versions_from_flags_and_from_the_file_are_two_answers() {
    let problems = parse(MINIMAL, "test.yaml", &flags(":9001", "")).unwrap_err();
    let shown = problems.to_string();
    assert_eq!(problems.count(), 1);
    assert!(shown.contains("--stable:1:1") && shown.contains("test.yaml:2:11"), "{shown}");
}

const SHOP: &str = "rollout: services/shop\n";

/// What goes beside the Rollout that it follows.
fn overlay(config: &Config) -> source::Overlay {
    match &config.what {
        What::Rollout(_, overlay) => overlay.clone(),
        What::Declared(declared) => panic!("it declares {declared:?}"),
    }
}

#[test]
fn listeners_point_at_the_ports_of_a_rollout_by_number_in_the_order_in_which_ports_are_named() {
    let config = good(&format!(
        "{SHOP}listeners:\n\
         - {{ address: ':1', port: http }}\n- {{ address: ':2', port: 05000 }}\n- {{ address: ':3' }}\n\
         - {{ address: ':4', port: '5000' }}\n- {{ address: ':5', port: http }}\n"
    ));
    assert_eq!(config.ports.iter().map(PortName::as_str).collect::<Vec<_>>(), ["http", "5000", ""]);
    assert_eq!(config.proxy.listeners.iter().map(|listener| listener.port).collect::<Vec<_>>(), [0, 1, 2, 1, 0]);
    assert_eq!(config.rollout().map(ToString::to_string).as_deref(), Some("services/shop"));
    let one = good(MINIMAL);
    assert_eq!((one.ports, one.proxy.listeners[0].port), (vec![PortName::default()], 0));
}

#[test]
fn flags_name_a_rollout_and_the_ports_behind_its_listeners() {
    let with = |rollout: &str, listen: &[&str], stable: &str| {
        let listen = listen.iter().map(|text| (*text).to_owned()).collect();
        Flags { rollout: Some(rollout.to_owned()), listen, ..flags(stable, "") }
    };
    let follow = with("services/shop", &[":8080=http", "[::1]:8081=5001", ":8082"], "");
    let config = from_flags(&follow).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.ports.iter().map(PortName::as_str).collect::<Vec<_>>(), ["http", "5001", ""]);
    assert_eq!(config.proxy.listeners[1], proxy::Listener::plain("[::1]:8081".parse().unwrap(), 1));
    assert!(overlay(&config).routes.is_empty());
    assert!(round_trip(None, &follow).contains("rollout: services/shop"));
    let bare = from_flags(&with("shop", &[":8080"], "")).unwrap();
    assert_eq!(bare.rollout(), Some(&RolloutName { namespace: None, name: "shop".to_owned() }));

    let check = |flags: Flags, expected: &str| {
        let problems = from_flags(&flags).expect_err(expected).one_line();
        assert_eq!(problems, expected);
    };
    check(
        with("services/shop", &[":8080=gRPC"], ""),
        "--listen:1:7: expected the name or the number of a container port such as `http` or `8080`, found \"gRPC\" \
         (a name has 1 to 15 small letters, digits and single `-` between them, and at least one letter)",
    );
    check(
        with("services/shop", &[":8080"], ":9001"),
        "--stable:1:1: a Rollout has the versions and their weights, so there are two answers \
         (leave out --stable and --canary, or the Rollout)",
    );
    check(
        Flags { rollout: None, ..with("", &[":8080=http"], ":9001") },
        "--listen:1:7: a listener has a port of the application only where a Rollout is followed \
         (leave it out: the endpoints of backends name their ports themselves)",
    );
    for wrong in ["", "/shop", "services/", "a/b/c", "services/Shop", "-a/shop", "services/shop."] {
        assert!(from_flags(&with(wrong, &[":8080"], "")).is_err(), "{wrong}");
    }
}

#[test]
fn beside_a_rollout_there_may_be_everything_that_is_not_a_version_or_its_weight() {
    let config = good(&format!(
        "{SHOP}listeners: [{{ address: ':0' }}]\n\
         routes:\n- {{ name: testers, backend: canary, match: [{{ headers: {{ x-tester: yes }} }}] }}\n\
         - {{ name: half, split: {{ canary: 50%, stable: 50% }}, match: [{{ path: {{ prefix: /new }} }}] }}\n\
         sticky: {{ cookie: {{}} }}\noverride: {{}}\nversion-header: x-version\n"
    ));
    let overlay = overlay(&config);
    assert!(matches!(&overlay.routes[0].action, Action::Send(role) if role.as_str() == "canary"));
    assert!(
        matches!(&overlay.routes[1].action, Action::Split(shares) if shares.to_string() == "canary 50, stable 50 of 100")
    );
    assert!(overlay.sticky.is_some() && overlay.override_.is_some() && overlay.policy.version_header.is_some());
}

#[test]
fn another_rollout_or_port_takes_effect_at_the_next_start() {
    let listen = |port: &str| good(&format!("{SHOP}listeners: [{{ address: ':0', port: {port} }}]\n"));
    let changes = |newer: &Config| -> Vec<String> {
        let changed = listen("http").needs_restart(newer);
        changed.iter().map(|note| note.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(changes(&listen("http")), [""; 0]);
    assert_eq!(changes(&listen("grpc")), ["listeners"]);
    assert_eq!(changes(&good("rollout: services/other\nlisteners: [{ address: ':0', port: http }]\n")), ["rollout"]);
    assert_eq!(changes(&good(MINIMAL)), ["listeners", "rollout"]);
}

/// Printing and reading again gives the same.
fn round_trip(file: Option<(&str, &str)>, flags: &Flags) -> String {
    let (config, _) = read(file, flags, &mut Beside::default()).unwrap_or_else(|problems| panic!("{problems}"));
    let yaml = print(file, flags).unwrap_or_else(|problems| panic!("{problems}"));
    let again = parse(&yaml, "again.yaml", &Flags::default()).unwrap_or_else(|problems| panic!("{yaml}\n{problems}"));
    assert!(same(&config, &again), "{yaml}\n{config:#?}\n{again:#?}");
    yaml
}

#[test]
fn what_is_printed_means_the_same() {
    for path in GOOD {
        let text = example(path);
        round_trip(Some((&text, path)), &Flags::default());
        let flags = Flags { listen: vec![":1".to_owned()], drain_delay: Some("0s".to_owned()), ..Flags::default() };
        round_trip(Some((&text, path)), &flags);
    }
    assert_eq!(
        round_trip(None, &flags(":9001", ":9002=5.5%")),
        "\
listeners:
- address: 0.0.0.0:8080
backends:
  stable:
    endpoints:
    - 127.0.0.1:9001
  canary:
    endpoints:
    - 127.0.0.1:9002
split:
  stable: 94.5%
  canary: 5.5%
"
    );
}

/// Texts that YAML, or this file, could take for something else.
fn odd_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[!-~]([ -~]{0,90}[!-~])?",
        "\\PC{1,20}".prop_map(|text| text.trim().to_owned()).prop_filter("not empty", |text| !text.is_empty()),
        proptest::sample::select(vec![
            "true",
            "null",
            "~",
            "1e3",
            "0x1",
            "no",
            "94.50",
            "-",
            "#a",
            "a: b",
            "{x",
            "2001-01-01"
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn any_text_survives_being_printed(salt in odd_text(), value in odd_text(), name in odd_text()) {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let text = format!(
            "{MINIMAL}sticky: {{ cookie: {{}}, salt: {} }}\nroutes: [{{ name: {}, backend: stable, match: [{{ headers: {{ x: {} }} }}] }}]\n",
            quoted(&salt), quoted(&name), quoted(&value),
        );
        if let Ok(config) = parse(&text, "test.yaml", &Flags::default()) {
            prop_assert_eq!(&declared(&config).sticky.unwrap().salt, &salt);
            round_trip(Some((&text, "test.yaml")), &Flags::default());
        }
    }

    #[test]
    fn any_split_from_flags_survives_being_printed(units in 0u32..=1_000_000) {
        let canary = format!(":9002={}", weight::Weight::Percent(units));
        round_trip(None, &flags(":9001", &canary));
    }

    #[test]
    fn no_text_makes_reading_or_rendering_panic(text in "\\PC*|[-a-z:{}\\[\\]\"'&*!|>%@# \n\t\r,0-9~.?<]{0,200}") {
        never_panics(&text);
    }

    #[test]
    fn no_flags_make_reading_or_rendering_panic(stable in "[:,=%a-z0-9.\\[\\]]{0,20}|\\PC*", canary in "[:,=%0-9.]{0,12}", other in "\\PC{0,8}|[0-9/]{0,9}") {
        let mut flags = flags(&stable, &canary);
        flags.replica = Some(other.clone());
        flags.drain_delay = Some(other.clone());
        flags.workers = Some(other.clone());
        flags.log_level = Some(other);
        if let Err(problems) = from_flags(&flags) {
            prop_assert!(!problems.list().is_empty());
            let _ = problems.render(true) + &problems.one_line();
        }
    }

    #[test]
    fn no_change_to_a_good_file_makes_reading_or_rendering_panic(
        which in 0..GOOD.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..6, "\\PC{0,3}|[-:{}\\[\\]\"'&*!|># \n\t,~%]{0,3}"), 1..6),
    ) {
        let mut text: Vec<char> = example(GOOD[which]).chars().collect();
        for (place, removed, added) in changes {
            let start = place.index(text.len() + 1).min(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, added.chars());
            if text.is_empty() {
                text.push(' ');
            }
        }
        never_panics(&text.into_iter().collect::<String>());
    }
}

/// Also: what is refused has a problem whose place is in the text, and what is accepted survives being printed.
fn never_panics(text: &str) {
    match parse(text, "test.yaml", &Flags::default()) {
        Ok(_) => drop(round_trip(Some((text, "test.yaml")), &Flags::default())),
        Err(problems) => {
            assert!(!problems.list().is_empty() && problems.count() >= problems.list().len());
            let lines = text.split('\n').count();
            assert!(problems.list().iter().all(|problem| problem.line <= lines), "{problems:?}");
            assert!(problems.render(true).len() >= problems.render(false).len());
            assert!(!problems.one_line().contains('\n'), "{:?}", problems.one_line());
        }
    }
}

fn compiled_schema() -> (serde_json::Value, jsonschema::Validator) {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    (schema, validator)
}

fn as_json(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).unwrap()
}

#[test]
fn the_schema_accepts_the_examples_and_what_is_printed() {
    let (_, validator) = compiled_schema();
    for path in GOOD {
        let text = example(path);
        for text in [&text, &round_trip(Some((&text, path)), &Flags::default())] {
            let errors: Vec<String> = validator.iter_errors(&as_json(text)).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{path}: {errors:?}");
        }
    }
}

/// All objects with fixed fields in `value` (according to its example), as JSON pointers.
fn objects(value: &serde_json::Value, at: &str, into: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            into.push(at.to_owned());
            for (key, value) in map {
                objects(value, &format!("{at}/{key}"), into);
            }
        }
        serde_json::Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                objects(item, &format!("{at}/{i}"), into);
            }
        }
        _ => {}
    }
}

#[test]
fn schema_and_reader_refuse_an_unknown_field_everywhere() {
    let (_, validator) = compiled_schema();
    let full = as_json(&example("examples/full.yaml"));
    let mut places = Vec::new();
    objects(&full, "", &mut places);
    let chosen_names = ["/backends", "/split", "/headers", "/cookies", "/query", "/baggage"];
    places.retain(|place| !chosen_names.iter().any(|name| place.ends_with(name)));
    assert!(places.len() > 30, "{places:?}");
    for place in places {
        let mut changed = full.clone();
        let object = changed.pointer_mut(&place).unwrap().as_object_mut().unwrap();
        object.insert("no-such-field".to_owned(), 1.into());
        assert!(!validator.is_valid(&changed), "the schema accepts an unknown field in {place:?}");
        let problems = bad(&changed.to_string());
        let unknown = problems.list().iter().filter(|problem| problem.field.ends_with("no-such-field")).count();
        assert_eq!(unknown, 1, "in {place:?}: {problems}");
    }
}

#[test]
fn schema_and_reader_refuse_the_same_bad_shapes() {
    let (_, validator) = compiled_schema();
    let shapes = ["unknown-fields", "wrong-types", "empty-lists", "a-list", "six-mistakes"];
    for name in shapes {
        let json = as_json(&example(&format!("tests/data/config/bad/{name}.yaml")));
        assert!(!validator.is_valid(&json), "the schema accepts {name}.yaml");
    }
}

/// Every field that the schema describes stands in examples/full.yaml, has a description, and, where the schema states a
/// default, stands there with that default, without which the file means the same.
#[test]
fn every_field_is_described_and_its_default_is_true() {
    let (schema, _) = compiled_schema();
    let full = as_json(&example("examples/full.yaml"));
    let whole = good(&full.to_string());
    let mut seen = Vec::new();
    walk(&schema, &schema, &full, "", &mut |place, parent, name, described| {
        assert!(described["description"].is_string(), "{place} has no description");
        let Some(default) = described.get("default") else { return seen.push(place.to_owned()) };
        let value = full.pointer(&format!("{parent}/{name}")).unwrap_or_else(|| panic!("{place} is not in full.yaml"));
        assert_eq!(value, default, "{place}");
        let mut without = full.clone();
        without.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        assert!(same(&good(&without.to_string()), &whole), "{place} has another default than {default}");
        seen.push(place.to_owned());
    });
    for place in ["/timeouts/connect", "/limits/body-bytes", "/sticky/cookie/http-only", "/routes/0/count", "/workers"]
    {
        assert!(seen.iter().any(|seen| seen == place), "{place} is not in {seen:?}");
    }
}

/// Visits the schema of every property along the values of an example.
fn walk(
    root: &serde_json::Value,
    schema: &serde_json::Value,
    value: &serde_json::Value,
    at: &str,
    visit: &mut impl FnMut(&str, &str, &str, &serde_json::Value),
) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#')).unwrap();
        walk(root, target, value, at, visit);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let place = format!("{at}/{name}");
        visit(&place, at, name, property);
        if let Some(value) = value.get(name) {
            walk(root, property, value, &place, visit);
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (i, value) in values.iter().enumerate() {
            walk(root, items, value, &format!("{at}/{i}"), visit);
        }
    }
    if let (Some(named), Some(map)) = (schema.get("additionalProperties"), value.as_object()) {
        for (name, value) in map {
            walk(root, named, value, &format!("{at}/{name}"), visit);
        }
    }
}
