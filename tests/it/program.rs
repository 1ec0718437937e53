//! The command line: what each command says, to whom, and with which exit code.

use std::process::Stdio;

use serde_json::Value;

use crate::process::{Folder, Process, Said, Serving, canary_is, run, said, splitway, yaml};
use crate::support::{App, Client};

/// The commands below `splitway`.
const COMMANDS: [&str; 13] = [
    "demo",
    "run",
    "validate",
    "status",
    "top",
    "report",
    "man",
    "explain",
    "lint",
    "check",
    "app",
    "schema",
    "completions",
];

const SIX_MISTAKES: &str = "tests/data/config/bad/six-mistakes.yaml";

/// Asserts that a text has all of these parts.
#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// A failure that is explained on stderr, and nothing else.
#[track_caller]
fn refuses(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!((said.code, said.out.as_str()), (code, ""), "{said:?}");
    has(&said.err, parts);
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

/// The files in `tests/cmd` have the commands with all that they print. `TRYCMD=overwrite` records what has changed.
#[test]
fn commands_print_what_is_recorded() {
    trycmd::TestCases::new()
        .register_bin("splitway", std::path::Path::new(env!("CARGO_BIN_EXE_splitway")))
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .case("tests/cmd/*.trycmd");
}

#[test]
fn splitway_alone_shows_four_ways_to_begin() {
    let said = run(&[]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    has(&said.out, &["splitway demo", "splitway run --listen", "splitway run --config", "--rollout", "Next: "]);
}

#[test]
fn every_help_fits_a_screen_begins_with_examples_and_names_the_next_command() {
    let levels = COMMANDS.map(|command| vec![command]);
    for level in levels.iter().map(Vec::as_slice).chain([&[][..]]) {
        for (flag, columns) in [("--help", 80), ("-h", 80), ("--help", 100), ("--help", 200)] {
            let said = said(splitway(&[level, &[flag]].concat()).env("COLUMNS", columns.to_string()));
            assert_eq!((said.code, said.err.as_str()), (0, ""));
            assert!(said.out.starts_with("Example"), "{level:?}:\n{}", said.out);
            let lines: Vec<&str> = said.out.lines().collect();
            // `run` has the settings of two worlds, and hides none of them.
            let screen = if level == ["run"] { 40 } else { 24 };
            assert!(lines.len() <= screen, "{level:?}: {} lines:\n{}", lines.len(), said.out);
            let long = lines.iter().find(|line| line.chars().count() > columns.min(100));
            assert_eq!(long, None, "{level:?}");
            assert!(lines.last().is_some_and(|line| line.starts_with("Next")), "{level:?}:\n{}", said.out);
        }
    }
    has(&run(&["--help"]).out, &COMMANDS);
}

#[test]
fn version_tells_version_commit_and_features() {
    let said = run(&["--version"]);
    assert_eq!(said.code, 0);
    has(&said.out, &[env!("CARGO_PKG_VERSION"), "commit:", "profile:", "features: HTTP/1.1"]);
    assert_eq!(run(&["-V"]).out, concat!("splitway ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn what_was_mistyped_is_answered_with_what_was_probably_meant() {
    refuses(&run(&["demmo"]), 2, &["'demmo'", "'demo'"]);
    refuses(&run(&["run", "--lisen", ":8080"]), 2, &["'--lisen'", "'--listen'"]);
    refuses(&run(&["demo", "--fail-cannary"]), 2, &["'--fail-canary'"]);
    refuses(&run(&["completions", "bsh"]), 2, &["'bsh'", "'bash'"]);
}

#[test]
fn a_value_that_cannot_be_is_refused_with_what_was_expected() {
    for (args, expected) in [
        (["demo", "--step", "soon"], "expected for example 500ms"),
        (["demo", "--step", "1ms"], "expected 100ms to 1h"),
        (["demo", "--rate", "0"], "1..=5000"),
        (["demo", "--listen", "8080"], "such as 127.0.0.1:8080"),
        (["app", "--listen", ":99999"], "such as 127.0.0.1:8080"),
        (["app", "--fail-one-in", "0"], "1.."),
        (["explain", "--admin", "here"], "such as 127.0.0.1:8080"),
    ] {
        refuses(&run(&args), 2, &[args[2], expected]);
    }
}

#[test]
fn run_without_any_setting_teaches_how_to_begin() {
    refuses(&run(&["run"]), 1, &["--listen :8080", "--stable :9001", "the flags: 2 problems\n", "Next: "]);
    refuses(&run(&["run", "--listen", "127.0.0.1:0"]), 1, &["--stable :9001", "the flags: 1 problem\n"]);
    refuses(
        &run(&["run", "--listen", ":0", "--canary", ":9002=5%"]),
        1,
        &["expected --stable as well", "add --stable HOST:PORT"],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    for args in [&["run", "--config", "no.yaml"][..], &["validate", "no.yaml"], &["explain", "--config", "no.yaml"]] {
        refuses(&run(args), 1, &["no.yaml", "No such file", "check the name"]);
    }
}

/// A setting with its three places.
struct Setting {
    flag: &'static str,
    variable: &'static str,
    /// Where it is in the file, as in `/drain/delay`.
    field: &'static str,
    /// What the file, the variable and the flag say, as the printed settings show it.
    values: [&'static str; 3],
    /// How the file says it, with `VALUE` for the value.
    yaml: &'static str,
    /// What flag and variable add to the value.
    suffix: &'static str,
}

#[test]
fn a_flag_wins_over_its_variable_and_that_over_the_file() {
    let setting = |flag, variable, field, values, yaml| Setting { flag, variable, field, values, yaml, suffix: "" };
    let addresses = ["127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003"];
    let settings = [
        setting(
            "--listen",
            "SPLITWAY_LISTEN",
            "/listeners/0/address",
            addresses,
            "listeners: [{ address: \"VALUE\" }]",
        ),
        setting("--admin", "SPLITWAY_ADMIN", "/admin/address", addresses, "admin: { address: \"VALUE\" }"),
        setting("--workers", "SPLITWAY_WORKERS", "/workers", ["1", "2", "3"], "workers: VALUE"),
        setting("--reuse-port", "SPLITWAY_REUSE_PORT", "/reuse-port", ["true", "false", "true"], "reuse-port: VALUE"),
        Setting {
            suffix: "/9",
            ..setting(
                "--replica",
                "SPLITWAY_REPLICA",
                "/replica/index",
                ["1", "2", "3"],
                "replica: { index: VALUE, of: 9 }",
            )
        },
        setting(
            "--drain-delay",
            "SPLITWAY_DRAIN_DELAY",
            "/drain/delay",
            ["1s", "2s", "3s"],
            "drain: { delay: VALUE, timeout: 9s }",
        ),
        setting(
            "--drain-timeout",
            "SPLITWAY_DRAIN_TIMEOUT",
            "/drain/timeout",
            ["1s", "2s", "3s"],
            "drain: { timeout: VALUE }",
        ),
        setting(
            "--dns-interval",
            "SPLITWAY_DNS_INTERVAL",
            "/dns/interval",
            ["1s", "2s", "3s"],
            "dns: { interval: VALUE }",
        ),
        setting("--log-level", "SPLITWAY_LOG_LEVEL", "/log/level", ["warn", "error", "debug"], "log: { level: VALUE }"),
        setting(
            "--log-format",
            "SPLITWAY_LOG_FORMAT",
            "/log/format",
            ["auto", "text", "json"],
            "log: { format: VALUE }",
        ),
    ];
    let folder = Folder::new();
    for Setting { flag, variable, field, values: [in_file, in_variable, in_flag], yaml, suffix } in settings {
        let listeners =
            if yaml.starts_with("listeners") { "" } else { "listeners: [{ address: \"127.0.0.1:1000\" }]\n" };
        let backends = "backends: { stable: { endpoints: [\":9001\"] } }\n";
        let path = folder.write("splitway.yaml", &format!("{listeners}{backends}{}\n", yaml.replace("VALUE", in_file)));
        let path = path.to_str().unwrap();
        let printed = |variable_is: Option<&str>, flag_is: Option<&str>| {
            let mut command = splitway(&["run", "--print-config", "--config", path]);
            if let Some(value) = variable_is {
                command.env(variable, if value.is_empty() { String::new() } else { format!("{value}{suffix}") });
            }
            if let Some(value) = flag_is {
                command.args([flag, &format!("{value}{suffix}")]);
            }
            let said = said(&mut command);
            assert_eq!(said.code, 0, "{flag}: {}", said.err);
            let yaml: Value = serde_saphyr::from_str(&said.out).expect("YAML");
            let value = yaml.pointer(field).unwrap_or_else(|| panic!("{field} is not in {}", said.out));
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        };
        assert_eq!(printed(None, None), in_file, "{flag}");
        assert_eq!(printed(Some(in_variable), None), in_variable, "{flag}");
        assert_eq!(printed(None, Some(in_flag)), in_flag, "{flag}");
        assert_eq!(printed(Some(in_variable), Some(in_flag)), in_flag, "{flag}");
        assert_eq!(printed(Some(""), None), in_file, "{flag}: an empty variable is as good as none");
    }
}

/// Versions come from flags or from the file, not from both.
#[test]
fn versions_of_flags_win_over_those_of_variables_and_contradict_those_of_a_file() {
    let mut command = splitway(&["run", "--print-config", "--listen", ":0", "--stable", ":1", "--canary", ":2=5.5%"]);
    let said_by_flags = said(command.env("SPLITWAY_STABLE", ":3").env("SPLITWAY_CANARY", ":4=9%"));
    has(&said_by_flags.out, &["- 127.0.0.1:1\n", "- 127.0.0.1:2\n", "canary: 5.5%", "stable: 94.5%"]);
    let mut command = splitway(&["run", "--print-config"]);
    let said_by_variables = said(
        command
            .env("SPLITWAY_LISTEN", "127.0.0.1:5,127.0.0.1:6")
            .env("SPLITWAY_STABLE", ":3")
            .env("SPLITWAY_CANARY", ":4=9%"),
    );
    has(&said_by_variables.out, &["- address: 127.0.0.1:5\n- address: 127.0.0.1:6\n", "- 127.0.0.1:3\n", "canary: 9%"]);
    let both = run(&["run", "--config", "examples/splitway.yaml", "--stable", ":1"]);
    refuses(&both, 1, &["the file has its own `backends`", "leave out --stable and --canary"]);
}

#[test]
fn the_flag_for_the_file_wins_over_its_variable() {
    let by_variable = said(splitway(&["run", "--print-config"]).env("SPLITWAY_CONFIG", "examples/probes.yaml"));
    has(&by_variable.out, &["kube-probe/"]);
    let mut command = splitway(&["run", "--print-config", "--config", "examples/splitway.yaml"]);
    has(&said(command.env("SPLITWAY_CONFIG", "examples/probes.yaml")).out, &["app.local:9002"]);
    let none = said(splitway(&["run"]).env("SPLITWAY_CONFIG", ""));
    refuses(&none, 1, &["the flags: 2 problems"]);
}

#[tokio::test]
async fn printed_settings_mean_the_same_when_they_are_read_again() {
    let folder = Folder::new();
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let flags = [
        "run",
        "--print-config",
        "--listen=127.0.0.1:0",
        &format!("--stable={}", stable.address),
        &format!("--canary={}=25%", canary.address),
        "--drain-delay=1ms",
        "--replica=1/3",
    ];
    for args in [
        &flags[..],
        &["run", "--print-config", "--config", "examples/splitway.yaml"],
        &["run", "--print-config", "--config", "examples/full.yaml"],
        &["run", "--print-config", "--config", "examples/probes.yaml"],
    ] {
        let once = run(args);
        assert_eq!(once.code, 0, "{}", once.err);
        has(&once.err, &["Next: "]);
        let file = folder.write("printed.yaml", &once.out);
        let twice = run(&["run", "--print-config", "--config", file.to_str().unwrap()]);
        assert_eq!(twice.out, once.out, "{args:?}");
    }

    let file = folder.write("printed.yaml", &run(&flags).out);
    let proxy = Serving::from_file(&file, &[]).await;
    let mut client = proxy.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(canary_is(25)(&proxy.config().await));
    assert_eq!(stable.received() + canary.received(), 20);
}

#[tokio::test]
async fn print_addresses_is_one_line_of_json_with_the_ports_really_bound() {
    let stable = App::start("stable").await;
    let args = [
        "run",
        "--print-addresses",
        "--listen=127.0.0.1:0,[::1]:0",
        "--admin=127.0.0.1:0",
        "--stable",
        &stable.address.to_string(),
    ];
    let mut process = Process::start(&args);
    let line = process.line().await.expect("a line");
    let addresses: Value = serde_json::from_str(&line).unwrap();
    let listeners: Vec<std::net::SocketAddr> = serde_json::from_value(addresses["listeners"].clone()).unwrap();
    let admin: std::net::SocketAddr = serde_json::from_value(addresses["admin"].clone()).unwrap();
    assert_eq!(listeners.len(), 2);
    for address in &listeners {
        assert_eq!(Client::connect(*address).await.get("/").await.app(), "stable");
    }
    assert_eq!(Client::connect(admin).await.get("/readyz").await.status, 200);
    process.signal("TERM");
    process.signal("TERM");
    let (_, rest) = process.exit().await;
    assert_eq!(rest, Vec::<String>::new(), "nothing but that line");
}

#[tokio::test]
async fn without_print_addresses_a_person_reads_where_and_what_next() {
    let mut process = Process::start(&["run", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--stable=:1"]);
    let lines = [process.line().await.unwrap(), process.line().await.unwrap(), process.line().await.unwrap()];
    assert!(lines[0].starts_with("proxy   http://127.0.0.1:"), "{lines:?}");
    assert!(lines[1].starts_with("admin   http://127.0.0.1:"), "{lines:?}");
    assert!(lines[2].starts_with("Next: curl -s http://127.0.0.1:"), "{lines:?}");
}

#[test]
fn a_port_in_use_is_one_clear_message_and_exit_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (listen, admin) in [(taken.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", taken.as_str())] {
        let said = run(&["run", "--listen", listen, "--admin", admin, "--stable", ":1"]);
        refuses(&said, 1, &[&format!("cannot listen on {taken}"), "in use", "choose another port"]);
    }
    refuses(&run(&["app", "--listen", &taken]), 1, &[&format!("cannot listen on {taken}"), "choose another port"]);
    // 192.0.2.0/24 is for documentation (RFC 5737): nobody's address.
    let said = run(&["run", "--listen", "192.0.2.1:0", "--stable", ":1"]);
    refuses(&said, 1, &["cannot listen on 192.0.2.1:0", "This machine has no such address"]);
}

#[test]
fn validate_shows_all_problems_at_once_and_exits_with_1() {
    let said = run(&["validate", SIX_MISTAKES]);
    refuses(&said, 1, &["did you mean `listeners`?", "did you mean `canary`?", "1s500ms", "7 problems\n", "Next: "]);
    assert_eq!(said.err.matches("\nerror: ").count() + 1, 7, "{}", said.err);
    assert_eq!(said.err.matches(&format!("--> {SIX_MISTAKES}:")).count(), 7);
}

#[test]
fn validate_of_a_good_file_sums_it_up_and_exits_with_0() {
    for file in ["examples/splitway.yaml", "examples/full.yaml", "examples/probes.yaml"] {
        let said = run(&["validate", file]);
        assert_eq!((said.code, said.err.as_str()), (0, ""));
        has(&said.out, &[&format!("{file}: ok: "), &format!("Next: splitway run --config {file}\n")]);
    }
    has(&run(&["validate", "examples/splitway.yaml"]).out, &["2 backends, split ", "1 route\n"]);
}

#[tokio::test]
async fn explain_says_the_same_from_a_file_and_from_a_proxy_that_runs() {
    let (stable, canary, folder) = (App::start("stable").await, App::start("canary").await, Folder::new());
    let file = folder.write(
        "splitway.yaml",
        &(yaml(&stable, &canary, 30)
            + "routes: [{ name: testers, match: [{ headers: { x-team: qa } }], backend: canary }]\n\
               sticky: { key: [{ header: x-user }], salt: spring }\n"),
    );
    let proxy = Serving::from_file(&file, &[]).await;
    let (file, admin) = (file.to_str().unwrap(), proxy.admin.to_string());
    let mut client = proxy.client().await;
    for (header, name, value) in
        [("x-user: 7", "x-user", "7"), ("x-user: 42", "x-user", "42"), ("x-team: qa", "x-team", "qa")]
    {
        let question = ["explain", "/shop?a=1", "--header", header];
        let from_file = run(&[&question[..], &["--config", file]].concat());
        let from_proxy = run(&[&question[..], &["--admin", &admin]].concat());
        assert_eq!((from_file.code, from_proxy.code), (0, 0), "{from_file:?} {from_proxy:?}");
        assert_eq!(from_file.out, from_proxy.out);
        has(&from_file.err, &[&format!("Next: splitway run --config {file}")]);
        has(&from_proxy.err, &["Next: "]);

        let json = |args: &[&str]| -> Value { serde_json::from_str(&run(args).out).expect("JSON") };
        let from_file = json(&[&question[..], &["-o", "json", "--config", file]].concat());
        let from_proxy = json(&[&question[..], &["-o", "json", "--admin", &admin]].concat());
        assert_eq!(from_file, from_proxy);
        // And so it happens.
        let answer = client.get_with("/shop?a=1", &[(name, value)]).await;
        assert_eq!(from_file["version"], answer.app(), "{from_file:#}");
    }
    for user in ["7", "42"] {
        let question = ["explain", "--path", "/shop?a=1", "--key", user];
        let from_file = run(&[&question[..], &["--config", file]].concat());
        let from_proxy = run(&[&question[..], &["--admin", &admin]].concat());
        assert_eq!((from_file.code, &from_file.out), (0, &from_proxy.out), "{from_file:?} {from_proxy:?}");
        has(
            &from_file.out,
            &["reason sticky", "  - key: sent as header x-user, where this split looks for users first\n"],
        );
        let answer = client.get_with("/shop", &[("x-user", user)]).await;
        assert!(from_file.out.starts_with(answer.app()), "{}", from_file.out);
        let yaml = run(&[&question[..], &["-o", "yaml", "--admin", &admin]].concat()).out;
        has(&yaml, &[&format!("version: {}\n", answer.app()), "what: key\n"]);
    }
    for (more, parts) in [
        (&["--header", "x-user: 42"][..], &["the key is sent as header x-user", "leave out one of the two"][..]),
        (&["--path", "/a", "/b"], &["cannot be used with"]),
    ] {
        for way in [["--config", file], ["--admin", &admin]] {
            let said = run(&[&["explain", "--key", "7"][..], &way, more].concat());
            refuses(&said, if more.len() == 2 { 1 } else { 2 }, parts);
        }
    }
}

#[test]
fn explain_needs_to_know_whom_to_ask_and_says_when_nobody_answers() {
    refuses(&run(&["explain"]), 2, &["--admin <ADDRESS>|--rollout <NS/NAME>|--config <FILE>"]);
    refuses(&run(&["explain", "--config", "a.yaml", "--rollout", "a/b"]), 2, &["cannot be used with"]);
    refuses(&run(&["explain", "--config", "a.yaml", "--admin", ":1"]), 2, &["cannot be used with"]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    refuses(&run(&["explain", "--admin", &free]), 1, &[&free, "is it the admin listener of a proxy that runs?"]);
    let said = run(&["explain", "--config", "examples/splitway.yaml", "--header", "x-user"]);
    refuses(&said, 1, &["expected NAME: VALUE"]);
}

/// Where a proxy would listen has nothing to do with where a request would go.
#[test]
fn explain_does_without_listeners() {
    let folder = Folder::new();
    let file = folder.write("splitway.yaml", "backends: { stable: { endpoints: [\":9001\"] } }\n");
    let said = run(&["explain", "--config", file.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.starts_with("stable, "), "{}", said.out);
}

#[test]
fn schema_is_json_and_accepts_the_examples() {
    let said = run(&["schema"]);
    assert_eq!(said.code, 0);
    has(&said.err, &["Next: "]);
    let schema: Value = serde_json::from_str(&said.out).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for file in ["examples/splitway.yaml", "examples/full.yaml", "examples/probes.yaml"] {
        let text = std::fs::read_to_string(file).unwrap();
        let yaml: Value = serde_saphyr::from_str(&text).unwrap();
        assert!(validator.is_valid(&yaml), "{file}");
    }
    assert!(!validator.is_valid(&serde_json::json!({ "listener": [] })));
}

#[test]
fn there_are_completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = run(&["completions", shell]);
        assert_eq!(said.code, 0);
        has(&said.out, &COMMANDS);
        has(&said.out, &["drain-timeout"]);
        has(&said.err, &["Next: "]);
    }
}

#[test]
fn pipes_and_no_color_are_free_of_escape_codes() {
    let bad = ["validate", SIX_MISTAKES];
    for args in [&["--help"][..], &["run", "--help"], &["demmo"], &["run"], &bad, &["run", "--lisen"], &[]] {
        let said = run(args);
        assert!(!said.out.contains('\x1b') && !said.err.contains('\x1b'), "{args:?}: {said:?}");
    }
    // Where colours are forced, they can be seen, so the above shows something; NO_COLOR is stronger.
    let forced = said(splitway(&bad).env("CLICOLOR_FORCE", "1"));
    assert!(forced.err.contains('\x1b'), "{}", forced.err);
    let without = said(splitway(&bad).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1"));
    assert!(!without.err.contains('\x1b'), "{}", without.err);
}

#[tokio::test]
async fn logs_are_json_where_no_person_reads_them() {
    let stable = App::start("stable").await;
    let mut proxy = Serving::start(&["--stable", &stable.address.to_string()]).await;
    let line = proxy.process.logged("snapshot is live").await;
    let entry: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((entry["level"].as_str(), entry["fields"]["generation"].as_u64()), (Some("INFO"), Some(1)));
    for line in proxy.process.log() {
        serde_json::from_str::<Value>(&line).expect(&line);
    }
}

#[tokio::test]
async fn logs_are_text_without_escape_codes_when_asked_for_in_a_pipe() {
    let stable = App::start("stable").await;
    let mut proxy = Serving::start(&["--stable", &stable.address.to_string(), "--log-format", "text"]).await;
    let line = proxy.process.logged("snapshot is live").await;
    assert!(line.contains(" INFO ") && !line.contains('\x1b') && !line.starts_with('{'), "{line}");
}

/// Nobody reads: the pipe's other end is closed before the command starts.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let commands: [&[&str]; 8] = [
        &[],
        &["schema"],
        &["completions", "bash"],
        &["run", "--print-config", "--config", "examples/full.yaml"],
        &["validate", "examples/splitway.yaml"],
        &["explain", "--config", "examples/splitway.yaml"],
        &["demo", "--listen", ":0", "--admin", ":0"],
        &["app"],
    ];
    for args in commands {
        let output = splitway(args).stdout(unread()).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {err}");
        assert!(!err.contains("panicked"), "{args:?}: {err}");
    }
    let status = splitway(&["validate", SIX_MISTAKES]).stderr(unread()).stdout(unread()).status().unwrap();
    assert_eq!(status.code(), Some(1), "what nobody reads is wrong all the same");
}

/// Whoever collects the logs may die: the proxy must not, and must still follow its file.
#[tokio::test]
async fn a_proxy_outlives_the_readers_of_its_output() {
    let (stable, canary, folder) = (App::start("stable").await, App::start("canary").await, Folder::new());
    let file = folder.write("splitway.yaml", &yaml(&stable, &canary, 5));
    let mut process =
        splitway(&["run", "--print-addresses", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]);
    let mut child = process.arg(&file).stdout(Stdio::piped()).stderr(unread()).spawn().unwrap();
    let mut line = String::new();
    {
        use std::io::BufRead;
        let out = child.stdout.take().unwrap();
        std::io::BufReader::new(out).read_line(&mut line).unwrap();
    }
    let addresses: Value = serde_json::from_str(&line).unwrap();
    let admin: std::net::SocketAddr = serde_json::from_value(addresses["admin"].clone()).unwrap();
    let outcome = tokio::spawn(async move {
        for percent in [10, 20] {
            folder.write("splitway.yaml", "bad: file");
            wait_for(admin, |config| !config["refused"].is_null()).await;
            folder.write("splitway.yaml", &yaml(&stable, &canary, percent));
            wait_for(admin, canary_is(percent)).await;
        }
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
    outcome.unwrap();
}

async fn wait_for(admin: std::net::SocketAddr, wished: impl Fn(&Value) -> bool) {
    let looks = async {
        loop {
            let text = Client::connect(admin).await.get("/config").await.text();
            if wished(&serde_json::from_str(&text).unwrap()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    crate::support::soon("a change", looks).await;
}

/// As in `--config <(command)`: what can be read once only serves, and is not taken for a file that was emptied.
#[tokio::test]
async fn a_configuration_from_a_pipe_is_read_once() {
    use std::io::Write;
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(yaml(&stable, &canary, 50).as_bytes()).unwrap();
    drop(writer);
    let mut command = splitway(&["run", "--print-addresses", "--config", "/dev/stdin"]);
    let mut proxy = Serving::spawn(command.stdin(reader), &[]).await;
    proxy.process.logged("it is not read again").await;
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    assert!(proxy.config().await["refused"].is_null());
}

#[tokio::test]
async fn the_tiny_application_says_who_it_is_fails_as_asked_and_ends_at_once() {
    let mut app = Process::start(&["app", "--name", "blue", "--listen", ":0", "--fail-one-in", "2"]);
    let (first, next) = (app.line().await.unwrap(), app.line().await.unwrap());
    let address = first.strip_prefix("blue   http://").and_then(|rest| rest.strip_suffix('/')).expect(&first);
    assert_eq!(next, format!("Next: splitway run --listen :8080 --stable {address}"));
    let mut client = Client::connect(address.parse().unwrap()).await;
    for path in ["/", "/any/thing?x=1"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello from the blue version\n"));
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.text().as_str()), (500, "the blue version has failed\n"));
    }
    for _ in 0..4 {
        let health = client.get("/health").await;
        assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    }
    app.signal("TERM");
    assert_eq!(app.exit().await, (0, vec!["blue has received 8 requests.".to_owned()]));
}
