//! What is in `deploy/` agrees with the program: its arguments, its metrics, its version. What needs a cluster, or the tools
//! of one, is in `tests/cluster`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

use crate::process::{Folder, run};

/// The files below a folder, but for the chart's templates, which are YAML only once rendered.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if !path.ends_with("chart/templates") {
                    folders.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Every YAML document of `deploy/`, with the file that it is in.
fn documents() -> Vec<(String, Value)> {
    let yaml = files("deploy").into_iter().filter(|path| path.extension().is_some_and(|it| it == "yaml"));
    yaml.flat_map(|path| {
        let name = path.display().to_string();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&read(&path)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!documents.is_empty(), "{name} is empty");
        documents.into_iter().map(move |document| (name.clone(), document))
    })
    .collect()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Every object that is somewhere in a value.
fn each<'a>(value: &'a Value, see: &mut impl FnMut(&'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            see(map);
            map.values().for_each(|inner| each(inner, see));
        }
        Value::Array(list) => list.iter().for_each(|inner| each(inner, see)),
        _ => {}
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().expect("a text")).collect()
}

/// Pods with a container of Splitway, each with that container.
fn proxies() -> Vec<(String, Value, Value)> {
    let mut found = Vec::new();
    for (file, document) in documents() {
        let pod = &document["spec"]["template"]["spec"];
        for list in ["containers", "initContainers"] {
            let containers = pod[list].as_array().into_iter().flatten();
            for container in containers.filter(|container| container["name"] == "splitway") {
                found.push((file.clone(), pod.clone(), container.clone()));
            }
        }
    }
    assert_eq!(found.len(), 2, "a Deployment and a sidecar");
    found
}

fn flag<'a>(arguments: &[&'a str], name: &str) -> &'a str {
    let found = arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {arguments:?}"))
}

#[test]
fn the_arguments_of_every_pod_are_known_to_the_program() {
    for (file, _, container) in proxies() {
        let variables: BTreeMap<&str, &str> = container["env"]
            .as_array()
            .expect("variables")
            .iter()
            .map(|one| (one["name"].as_str().expect("a name"), one["value"].as_str().unwrap_or("from-a-field")))
            .collect();
        let mut arguments: Vec<String> = texts(&container["args"]).into_iter().map(str::to_owned).collect();
        for argument in &mut arguments {
            for (name, value) in &variables {
                *argument = argument.replace(&format!("$({name})"), value);
            }
            assert!(!argument.contains("$("), "{file}: {argument} names a variable that is not set");
        }
        // The first unknown one ends the reading; the last one asks for nothing but that they are read.
        arguments.push("--help".into());
        let said = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(said.code, 0, "{file}: {arguments:?}: {}", said.err);
    }
}

/// `helm test` is not rendered here; its arguments are those of its template.
#[test]
fn the_arguments_of_helm_test_are_known_to_the_program() {
    let template = read("deploy/chart/templates/tests/check.yaml");
    let argument = Regex::new(r"(?m)^ +- (check|--[a-z]+=.*)$").expect("an expression");
    let value = Regex::new(r"\{\{[^}]*\}\}").expect("an expression");
    let mut arguments: Vec<String> =
        argument.captures_iter(&template).map(|found| value.replace_all(&found[1], "x").into_owned()).collect();
    assert_eq!(arguments, ["check", "--rollout=x/x", "--port=x"]);
    arguments.push("--help".into());
    let said = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(said.code, 0, "{}", said.err);
}

#[test]
fn the_chart_gives_the_arguments_that_the_base_gives() {
    let template = read("deploy/chart/templates/deployment.yaml");
    let base = proxies().into_iter().find(|(file, ..)| file == "deploy/base/deployment.yaml").expect("the base");
    for argument in texts(&base.2["args"]) {
        let name = argument.split('=').next().expect("a name");
        assert!(template.contains(&format!("            - {name}")), "{name} is not in the chart");
    }
}

#[test]
fn a_pod_has_more_time_to_end_than_its_proxy_takes() {
    for (file, pod, container) in proxies() {
        let arguments = texts(&container["args"]);
        let seconds = |name| humantime::parse_duration(flag(&arguments, name)).expect("a duration").as_secs();
        let needed = seconds("--drain-delay") + seconds("--drain-timeout");
        let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a grace period");
        assert!(grace >= needed + 5, "{file}: {grace} s, and the proxy may take {needed} s");
    }
}

#[test]
fn every_pod_keeps_the_strictest_pod_security_standard() {
    for (file, document) in documents() {
        let pod = &document["spec"]["template"]["spec"];
        // A patch of a Rollout's steps has none.
        if pod.is_null() {
            continue;
        }
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{file}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{file}");
        let containers = ["containers", "initContainers"].map(|list| pod[list].as_array().into_iter().flatten());
        for container in containers.into_iter().flatten() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{file}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{file}");
            assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"], "{file}");
        }
    }
}

#[test]
fn no_permission_is_asked_for_but_to_read() {
    let mut roles = 0;
    for (file, document) in documents() {
        assert_ne!(document["kind"], "ClusterRole", "{file}");
        if document["kind"] != "Role" {
            continue;
        }
        roles += 1;
        for rule in document["rules"].as_array().expect("rules") {
            assert_eq!(texts(&rule["verbs"]), ["get", "list", "watch"], "{file}: {rule}");
        }
    }
    assert_eq!(roles, 1);
    let chart = read("deploy/chart/templates/access.yaml");
    for line in chart.lines().filter(|line| line.contains("verbs:")) {
        assert_eq!(line.trim(), "verbs: [get, list, watch]");
    }
    assert!(!chart.contains("ClusterRole"));
}

/// The names of all metrics, each with its labels.
fn metrics() -> BTreeMap<String, Vec<String>> {
    let known =
        ["metrics-named-ports", "metrics-rollout", "metrics-tls"].map(|name| read(format!("tests/data/{name}.txt")));
    let known = known.concat();
    let mut metrics = BTreeMap::new();
    for line in known.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let mut labels: Vec<String> =
            words.get(2).into_iter().flat_map(|labels| labels.split(',')).map(str::to_owned).collect();
        if words[1] == "histogram" {
            labels.push("le".into());
            for part in ["bucket", "sum", "count"] {
                metrics.insert(format!("{}_{part}", words[0]), labels.clone());
            }
        } else {
            metrics.insert(words[0].to_owned(), labels);
        }
    }
    metrics
}

#[test]
fn what_an_analysis_asks_for_is_measured() {
    let metrics = metrics();
    let used = Regex::new(r"(splitway_[a-z_]+)(?:\{([^}]*)\})?").expect("an expression");
    let label = Regex::new(r#"([a-z_]+)(?:=~|!~|!=|=)""#).expect("an expression");
    let argument = Regex::new(r"\{\{args\.([^}]*)\}\}").expect("an expression");
    let mut queries = 0;
    for (file, document) in documents() {
        if document["kind"] != "AnalysisTemplate" {
            continue;
        }
        let arguments: Vec<&str> = document["spec"]["args"]
            .as_array()
            .expect("arguments")
            .iter()
            .filter_map(|one| one["name"].as_str())
            .collect();
        let text = document["spec"].to_string();
        for used in argument.captures_iter(&text) {
            assert!(arguments.contains(&&used[1]), "{file}: no argument {}", &used[1]);
        }
        for name in arguments {
            assert!(text.contains(&format!("{{{{args.{name}}}}}")), "{file}: {name} is used nowhere");
        }
        for metric in document["spec"]["metrics"].as_array().expect("metrics") {
            let Some(query) = metric["provider"]["prometheus"]["query"].as_str() else { continue };
            queries += 1;
            // The braces of an argument would end those of a metric.
            let query = argument.replace_all(query, "x");
            let mut names = 0;
            for found in used.captures_iter(&query) {
                let Some(labels) = metrics.get(&found[1]) else { panic!("{file}: there is no metric {}", &found[1]) };
                for asked in label.captures_iter(found.get(2).map_or("", |labels| labels.as_str())) {
                    assert!(labels.contains(&asked[1].to_owned()), "{file}: {} has no label {}", &found[1], &asked[1]);
                }
                names += 1;
            }
            assert!(names > 0, "{file}: {query}");
            for condition in ["successCondition", "failureCondition"] {
                let condition = metric[condition].as_str().expect("a condition");
                assert!(condition.starts_with("len(result) > 0 && !isNaN(result[0]) && "), "{file}: {condition}");
            }
        }
    }
    assert_eq!(queries, 3);
}

/// Every metric that a query names, and every label that it asks of one, is there.
#[track_caller]
fn is_measured(whence: &str, query: &str) {
    /// Prometheus itself gives these to everything that it scrapes.
    const OF_TARGETS: [&str; 3] = ["namespace", "job", "instance"];
    let metrics = metrics();
    let used = Regex::new(r"((?:splitway|process)_[a-z_]+)(?:\{([^}]*)\})?").expect("an expression");
    let label = Regex::new(r#"([a-z_]+)(?:=~|!~|!=|=)""#).expect("an expression");
    let mut names = 0;
    for found in used.captures_iter(query) {
        let Some(labels) = metrics.get(&found[1]) else { panic!("{whence}: there is no metric {}", &found[1]) };
        for asked in label.captures_iter(found.get(2).map_or("", |labels| labels.as_str())) {
            let known = OF_TARGETS.contains(&&asked[1]) || labels.contains(&asked[1].to_owned());
            assert!(known, "{whence}: {} has no label {}", &found[1], &asked[1]);
        }
        names += 1;
    }
    assert!(names > 0, "{whence}: {query}");
}

#[test]
fn alerts_ask_for_what_is_measured_and_say_what_to_do() {
    let page = read("docs/alerts.md");
    let documents = documents();
    let rules = documents.iter().find(|(_, document)| document["kind"] == "PrometheusRule").expect("alerts");
    let mut alerts = 0;
    for rule in rules.1["spec"]["groups"][0]["rules"].as_array().expect("rules") {
        let name = rule["alert"].as_str().expect("a name");
        is_measured(name, rule["expr"].as_str().expect("a query"));
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().expect("a severity")), "{name}");
        for annotation in ["summary", "description"] {
            let text = rule["annotations"][annotation].as_str().expect("a text");
            assert!(text.ends_with('.') && text.len() < 300, "{name}: {annotation}: {text}");
        }
        let (file, heading) =
            rule["annotations"]["runbook"].as_str().and_then(|pointer| pointer.split_once('#')).expect("a pointer");
        assert_eq!(file, "docs/alerts.md", "{name}");
        let heading = format!("## {heading}\n");
        assert!(page.to_lowercase().contains(&heading), "{name}: the page has no {heading}");
        assert!(page.contains(name), "{name} is not on the page");
        alerts += 1;
    }
    assert!(alerts >= 10, "{alerts}");
}

#[test]
fn the_dashboard_asks_for_what_is_measured_of_the_data_source_that_is_chosen() {
    let text = read("deploy/chart/files/dashboard/splitway.json");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(dashboard["uid"], "splitway", "links to it stay");
    let (mut queries, mut ids, mut places) = (0, BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{title}: its number is there twice");
        let side = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        assert!(side("x") + side("w") <= 24, "{title} is too wide");
        for (x, y) in
            (side("x")..side("x") + side("w")).flat_map(|x| (side("y")..side("y") + side("h")).map(move |y| (x, y)))
        {
            assert!(places.insert((x, y)), "{title} lies over another one");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            is_measured(title, target["expr"].as_str().expect("a query"));
            queries += 1;
        }
    }
    assert!(queries > 40, "{queries}");
    each(&dashboard, &mut |map| {
        if let Some(source) = map.get("datasource") {
            assert_eq!(source["uid"], "${datasource}", "{map:?}");
        }
        if let Some(query) = map.get("expr").and_then(Value::as_str) {
            let variables = "{namespace=~\"$namespace\",job=~\"$job\",instance=~\"$instance\"";
            assert!(query.contains(variables), "{query} does not obey the variables");
        }
    });
}

#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let documents = documents();
    let chart = documents.iter().find(|(file, _)| file == "deploy/chart/Chart.yaml").expect("a chart");
    assert_eq!((chart.1["version"].as_str(), chart.1["appVersion"].as_str()), (Some(version), Some(version)));
    let mut tags = 0;
    for (file, document) in &documents {
        each(document, &mut |map| {
            if map.get("name").is_some_and(|name| name == "splitway")
                && let Some(tag) = map.get("newTag")
            {
                assert_eq!(tag, version, "{file}");
                tags += 1;
            }
        });
    }
    assert_eq!(tags, 2, "the base and the sidecar");
}

/// The table of the chart's values, made from the comments that begin with `--`.
fn table(values: &str) -> String {
    let defaults: Value = serde_saphyr::from_str(values).expect("YAML");
    let mut table = String::from("| value | default | |\n|---|---|---|\n");
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut comment = None;
    let key = Regex::new(r"^( *)([A-Za-z]+):").expect("an expression");
    for line in values.lines() {
        if let Some(text) = line.trim_start().strip_prefix("# -- ") {
            comment = Some(text.to_owned());
        } else if let Some(found) = key.captures(line) {
            path.retain(|(indent, _)| *indent < found[1].len());
            path.push((found[1].len(), found[2].to_owned()));
            if let Some(comment) = comment.take() {
                let names: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
                let default = names.iter().fold(&defaults, |value, name| &value[name]);
                table += &format!("| `{}` | `{default}` | {comment} |\n", names.join("."));
            }
        }
    }
    table
}

/// `UPDATE=1 cargo test chart` writes it anew.
#[test]
fn the_readme_of_the_chart_has_every_value_with_its_default() {
    const FILE: &str = "deploy/chart/README.md";
    const BEGIN: &str = "<!-- values -->\n";
    const END: &str = "<!-- /values -->\n";
    let values = read("deploy/chart/values.yaml");
    let table = table(&values);
    let readme = read(FILE);
    let (head, rest) = readme.split_once(BEGIN).expect("the begin of the table");
    let (found, tail) = rest.split_once(END).expect("the end of the table");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(FILE, format!("{head}{BEGIN}{table}{END}{tail}")).expect("write the README");
        return;
    }
    assert_eq!(found, table, "UPDATE=1 cargo test chart");

    // Every value that can be set is in the table: itself, or what it is part of.
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).expect("JSON");
    for (name, of) in schema["properties"].as_object().expect("values") {
        if name == "global" {
            continue;
        }
        if table.contains(&format!("| `{name}` |")) {
            continue;
        }
        for inner in of["properties"].as_object().unwrap_or_else(|| panic!("{name} is not in the table")).keys() {
            assert!(table.contains(&format!("| `{name}.{inner}` |")), "{name}.{inner} is not in the table");
        }
    }
}

/// Nothing is wrong with a file of settings.
#[track_caller]
fn is_valid(text: &str) {
    let folder = Folder::new();
    let path = folder.write("splitway.yaml", text);
    let said = run(&["validate", path.to_str().expect("UTF-8")]);
    assert_eq!(said.code, 0, "{}", said.err);
}

#[test]
fn the_file_of_the_migration_page_is_a_good_one() {
    let page = read("docs/migration.md");
    let (_, file) = page.split_once("```yaml\n# splitway.yaml\n").expect("the file");
    let (file, _) = file.split_once("```").expect("its end");
    is_valid(file);
}

#[test]
fn the_settings_beside_the_rollout_are_good_ones() {
    // What the arguments of the pod say.
    let arguments = "rollout: services/tracing-demo-frontend\nlisteners: [{ address: ':8080' }]\n";
    is_valid(&format!("{arguments}{}", read("deploy/components/settings/splitway.yaml")));
}
