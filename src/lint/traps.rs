//! The known traps of a canary strategy: what the controller refuses, and what works but not as one would think.

use super::finding::Findings;
use super::object::{View, integer, is_true};
use super::{rules, span};
use crate::control::rollout::Mode;
use crate::text::node::Node;
use crate::text::problem::quoted;

/// Every provider of route steps has to edit its own objects, so each step knows its list.
const HEADER_PROVIDERS: [&str; 4] = ["istio", "alb", "apisix", "plugins"];
const MIRROR_PROVIDERS: [&str; 2] = ["istio", "plugins"];
const PING_PONG_PROVIDERS: [&str; 3] = ["alb", "istio", "plugins"];
const EXPERIMENT_PROVIDERS: [&str; 4] = ["smi", "alb", "istio", "plugins"];
const MAX_WEIGHT_PROVIDERS: [&str; 2] = ["nginx", "plugins"];

/// What any strategy can get wrong. `false`: there is no canary strategy to look at.
pub(super) fn strategy(object: &Node, findings: &mut Findings) -> bool {
    let Some((spec_key, spec)) = object.entry("spec") else { return false };
    let strategy = spec.entry("strategy");
    let place = strategy.map_or(&spec_key.at, |(key, _)| &key.at);
    let (canary, blue_green) = match strategy {
        Some((_, strategy)) => (strategy.entry("canary"), strategy.entry("blueGreen")),
        None => (None, None),
    };
    match (canary, blue_green) {
        (None, None) => {
            findings.add(&rules::NO_STRATEGY, place, "expected `canary` or `blueGreen`, found neither", None)
        }
        (Some(_), Some((key, _))) => {
            findings.add(&rules::NO_STRATEGY, &key.at, "expected `canary` or `blueGreen`, found both", None);
        }
        (None, Some((key, strategy))) => blue_green_only(&key.at, strategy, findings),
        (Some(_), None) => {}
    }
    for (_, strategy) in [strategy].into_iter().flatten() {
        nothing_written(strategy, findings);
    }
    progress(spec_key, spec, findings);
    canary.is_some()
}

fn blue_green_only(at: &crate::text::problem::At, strategy: &Node, findings: &mut Findings) {
    findings.add(&rules::BLUE_GREEN, at, "no weights: all requests go to the active version", None);
    let names = |field| strategy.entry(field).and_then(|(_, name)| Some((name, name.as_text()?)));
    if let (Some((_, active)), Some((node, preview))) = (names("activeService"), names("previewService"))
        && active == preview
    {
        let message = format!("activeService and previewService are both {}", quoted(active));
        findings.add(&rules::SERVICES_SAME, &node.at, message, None);
    }
}

/// Mappings whose value was forgotten.
fn nothing_written(node: &Node, findings: &mut Findings) {
    const MEANT: [&str; 9] =
        ["trafficRouting", "pause", "canary", "blueGreen", "istio", "smi", "nginx", "alb", "plugins"];
    for (key, value) in node.entries() {
        if value.is_nothing() && MEANT.contains(&key.text.as_str()) {
            let message = format!("`{}:` with nothing after it is as good as absent", key.text);
            let remedy = match key.text.as_str() {
                name @ ("trafficRouting" | "pause" | "smi") => Some(format!("write `{name}: {{}}`, or leave it out")),
                _ => None,
            };
            findings.add(&rules::NOTHING_WRITTEN, &key.at, message, remedy);
        }
        nothing_written(value, findings);
    }
    node.items().iter().for_each(|item| nothing_written(item, findings));
}

fn progress(spec_key: &crate::text::node::Key, spec: &Node, findings: &mut Findings) {
    let deadline = spec.get("progressDeadlineSeconds");
    let seconds = deadline.and_then(integer).unwrap_or(600);
    let ready = spec.get("minReadySeconds").and_then(integer).unwrap_or(0);
    if seconds <= ready {
        let at = deadline.map_or_else(|| spec_key.at.missing("progressDeadlineSeconds"), |node| node.at.clone());
        let message = format!("{seconds} is not greater than minReadySeconds, {ready}");
        findings.add(&rules::PROGRESS_DEADLINE, &at, message, None);
    }
    if let Some((key, _)) = spec.entry("progressDeadlineAbort").filter(|(_, node)| is_true(Some(node))) {
        let message = format!("pods that are not ready within {seconds} s abort the rollout");
        findings.add(&rules::PROGRESS_ABORT, &key.at, message, None);
    }
    if let Some((key, _)) = spec.entry("rollbackWindow") {
        findings.add(
            &rules::ROLLBACK_WINDOW,
            &key.at,
            "going back within it skips every step and ignores aborts",
            None,
        );
    }
    if let Some((key, _)) = spec.entry("paused").filter(|(_, node)| is_true(Some(node))) {
        findings.add(&rules::PAUSED, &key.at, "the rollout stands still until this is taken out", None);
    }
}

pub(super) fn canary(view: &View<'_>, findings: &mut Findings) {
    routing(view, findings);
    scale(view, findings);
    for step in &view.steps {
        routes(view, step.node, findings);
        experiment(view, step.node, findings);
    }
    steps(view, findings);
    canary_scale(view, findings);
}

fn routing(view: &View<'_>, findings: &mut Findings) {
    let (canary_key, canary) = view.canary;
    let Some((_, routing)) = view.routing else {
        let message = "no `trafficRouting`: the numbers of pods are the weights, and stable shrinks";
        findings.add(&rules::NO_TRAFFIC_ROUTING, &canary_key.at, message, None);
        for field in ["scaleDownDelaySeconds", "dynamicStableScale"] {
            let refused = canary.entry(field).filter(|(_, node)| field != "dynamicStableScale" || is_true(Some(node)));
            if let Some((key, _)) = refused {
                let message = format!("`{field}` is refused without `trafficRouting`");
                findings.add(&rules::NEEDS_TRAFFIC_ROUTING, &key.at, message, None);
            }
        }
        return;
    };
    if let Some((key, _)) = canary.entry("dynamicStableScale").filter(|(_, node)| is_true(Some(node))) {
        if view.mode == Mode::Empty {
            let message = "without a provider, stable shrinks before the canary has pods";
            findings.add(&rules::DYNAMIC_STABLE_SCALE, &key.at, message, None);
        }
        if canary.get("scaleDownDelaySeconds").is_some() {
            let message = "`dynamicStableScale` and `scaleDownDelaySeconds` exclude each other";
            findings.add(&rules::DYNAMIC_WITH_DELAY, &key.at, message, None);
        }
    }
    if let Some((key, _)) = routing.entry("maxTrafficWeight")
        && !view.has_provider(&MAX_WEIGHT_PROVIDERS)
    {
        findings.add(&rules::MAX_WEIGHT, &key.at, "refused without `nginx` or `plugins`", None);
    }
    if let Some((key, _)) = canary.entry("pingPong") {
        if !view.has_provider(&PING_PONG_PROVIDERS) {
            findings.add(&rules::PING_PONG, &key.at, "refused without `alb`, `istio` or `plugins`", None);
        } else if !view.has_provider(&["alb", "istio"]) {
            let message = "ping-pong with a plugin is accepted from v1.10 on";
            findings.add(&rules::VERSION, &key.at, message, None);
        }
    }
    if let Some((key, _)) = canary.entry("replicaProgressThreshold") {
        findings.add(&rules::VERSION, &key.at, "known from v1.9 on; older CRDs drop it", None);
    }
    for (key, _) in routing.get("plugins").map(Node::entries).unwrap_or_default() {
        let message = format!("if the controller has no plugin {}, the rollout never moves", quoted(&key.text));
        findings.add(&rules::PLUGIN, &key.at, message, None);
    }
}

/// Delays and sizes.
fn scale(view: &View<'_>, findings: &mut Findings) {
    let (canary_key, canary) = view.canary;
    if view.mode != Mode::Basic
        && let Some(delay) = canary.get("scaleDownDelaySeconds")
        && let Some(seconds) = integer(delay).filter(|seconds| *seconds < 10)
    {
        let message = format!("the old pods end {} s after the promotion", seconds.max(0));
        findings.add(&rules::SCALE_DOWN_SOON, &delay.at, message, None);
    }
    if let Some(delay) = canary.get("abortScaleDownDelaySeconds").filter(|node| integer(node) == Some(0)) {
        let message = match view.mode {
            Mode::Basic => "ignored without `trafficRouting`",
            Mode::Empty | Mode::Published => "0 means never: an aborted canary keeps its pods",
        };
        findings.add(&rules::ABORT_KEEPS, &delay.at, message, None);
    }
    // Without a value, a quarter.
    let is_zero = |field| {
        let text = canary.get(field).and_then(Node::as_text);
        text.is_some_and(|text| text.strip_suffix('%').unwrap_or(text).parse() == Ok(0))
    };
    if is_zero("maxSurge") && is_zero("maxUnavailable") {
        let at = canary.entry("maxSurge").map_or(&canary_key.at, |(key, _)| &key.at);
        findings.add(&rules::SURGE, at, "`maxSurge` and `maxUnavailable` are both zero", None);
    }
}

fn routes(view: &View<'_>, step: &Node, findings: &mut Findings) {
    let header = step.entry("setHeaderRoute").map(|(key, set)| (key, set, &HEADER_PROVIDERS[..]));
    let mirror = step.entry("setMirrorRoute").map(|(key, set)| (key, set, &MIRROR_PROVIDERS[..]));
    for (key, set, providers) in header.into_iter().chain(mirror) {
        let is_header = key.text == "setHeaderRoute";
        if !view.has_provider(providers) {
            let names: Vec<_> = providers.iter().map(|name| format!("`{name}`")).collect();
            let message = format!("refused without one of {}", names.join(", "));
            findings.add(&rules::ROUTE_PROVIDER, &key.at, message, None);
        } else if view.has_provider(&["plugins"]) {
            let others: Vec<_> = providers.iter().copied().filter(|name| *name != "plugins").collect();
            if !view.has_provider(&others) {
                let since = if is_header { "v1.7" } else { "v1.10" };
                let message = format!("with a plugin it is accepted from {since} on");
                findings.add(&rules::VERSION, &key.at, message, None);
            }
        }
        managed(view, set, findings);
        for item in set.get("match").map(Node::items).unwrap_or_default() {
            if is_header {
                let value = item.entry("headerValue").map(|(_, value)| value);
                one_of_three(item, value, view.has_provider(&["alb"]), findings);
            } else {
                for value in ["method", "path"].iter().filter_map(|field| item.get(field)) {
                    one_of_three(item, Some(value), false, findings);
                }
            }
        }
        if let Some(percentage) = set.get("percentage")
            && let Some(given) = integer(percentage).filter(|given| !(0..=100).contains(given))
        {
            findings.add(&rules::MIRROR_PERCENTAGE, &percentage.at, format!("{given} is not between 0 and 100"), None);
        }
    }
}

fn managed(view: &View<'_>, set: &Node, findings: &mut Findings) {
    let Some((_, routing)) = view.routing else { return };
    let Some((name, text)) = set.get("name").and_then(|name| Some((name, name.as_text()?))) else { return };
    let listed = routing.get("managedRoutes").map(Node::items).unwrap_or_default();
    let names: Vec<_> = listed.iter().filter_map(|item| item.get("name")?.as_text()).collect();
    if names.contains(&text) {
        return;
    }
    let remedy = match crate::text::problem::closest(text, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add `managedRoutes: [{{ name: {text} }}]` to `trafficRouting`, in the order of importance"),
    };
    let message = format!("{} is not listed in `trafficRouting.managedRoutes`", quoted(text));
    findings.add(&rules::ROUTE_MANAGED, &name.at, message, Some(remedy));
}

fn one_of_three(item: &Node, value: Option<&Node>, exact_only: bool, findings: &mut Findings) {
    let given = |field: &&str| value.and_then(|value| value.get(field)?.as_text()).is_some_and(|text| !text.is_empty());
    let given: Vec<&str> = ["exact", "prefix", "regex"].into_iter().filter(|field| given(field)).collect();
    let at = value.map_or(&item.at, |value| &value.at);
    let message = match given[..] {
        ["exact"] => return,
        [other] if exact_only => format!("`alb` takes `exact` only, found `{other}`"),
        [_] => return,
        [] => "expected one of `exact`, `prefix`, `regex`, found none".to_owned(),
        _ => format!("expected one of `exact`, `prefix`, `regex`, found {}", given.len()),
    };
    findings.add(&rules::ROUTE_MATCH, at, message, None);
}

fn experiment(view: &View<'_>, step: &Node, findings: &mut Findings) {
    let Some(templates) = step.get("experiment").and_then(|experiment| experiment.get("templates")) else { return };
    for (key, _) in templates.items().iter().filter_map(|template| template.entry("weight")) {
        if view.mode == Mode::Basic {
            let message = "an experiment's weight is refused without `trafficRouting`";
            findings.add(&rules::NEEDS_TRAFFIC_ROUTING, &key.at, message, None);
        } else if !view.has_provider(&EXPERIMENT_PROVIDERS) {
            findings.add(
                &rules::EXPERIMENT_WEIGHT,
                &key.at,
                "refused without `smi`, `alb`, `istio` or `plugins`",
                None,
            );
        } else if !view.has_provider(&["smi", "alb", "istio"]) {
            findings.add(&rules::VERSION, &key.at, "with a plugin it is accepted from v1.8 on", None);
        }
    }
}

fn steps(view: &View<'_>, findings: &mut Findings) {
    let (canary_key, canary) = view.canary;
    if view.steps.is_empty() {
        let at = canary.entry("steps").map_or_else(|| canary_key.at.missing("steps"), |(key, _)| key.at.clone());
        let message = match view.mode {
            Mode::Basic => "no steps: this is a rolling update",
            Mode::Empty | Mode::Published => "no steps: the promotion is a jump from 0 to everything",
        };
        findings.add(&rules::NO_STEPS, &at, message, None);
        return;
    }
    let mut before = 0;
    for (i, step) in view.steps.iter().enumerate() {
        step_kind(step.node, findings);
        if let Some(pause) = step.node.entry("pause") {
            duration(pause, findings);
        }
        let Some((key, node)) = step.node.entry("setWeight") else { continue };
        let Some(weight) = integer(node) else { continue };
        if !(0..=view.total).contains(&weight) {
            let message = format!("expected 0 to {}, found {weight}", view.total);
            findings.add(&rules::WEIGHT_RANGE, &node.at, message, None);
        } else if weight < before {
            findings.add(&rules::WEIGHT_FALLS, &node.at, format!("{weight} after {before}"), None);
        } else if weight == before {
            findings.add(&rules::WEIGHT_STAYS, &node.at, format!("{weight} is in force already"), None);
        }
        before = weight;
        let rest = &view.steps[i + 1..];
        let held = step.holds() || rest.iter().take_while(|step| step.weight().is_none()).any(|step| step.holds());
        let is_last = rest.iter().all(|step| step.weight().is_none());
        if !held && weight > 0 && !(is_last && weight >= view.total) {
            let message = format!("nothing holds the weight {weight}: it passes as soon as its pods are available");
            findings.add(&rules::WEIGHT_PASSES, &key.at, message, None);
        }
        if is_last && (0..view.total).contains(&weight) {
            let message = format!("the promotion is a jump from {weight} to {}", view.total);
            findings.add(&rules::ENDS_BELOW, &node.at, message, None);
        }
    }
    if view.steps.iter().all(|step| step.weight().is_none()) {
        let message = format!("no `setWeight`: the promotion is a jump from 0 to {}", view.total);
        findings.add(&rules::ENDS_BELOW, &view.steps[0].node.at, message, None);
    }
}

fn step_kind(step: &Node, findings: &mut Findings) {
    const ALONE: [&str; 4] = ["setWeight", "pause", "experiment", "analysis"];
    const ANY: [&str; 8] = [
        "setWeight",
        "pause",
        "experiment",
        "analysis",
        "setCanaryScale",
        "setHeaderRoute",
        "setMirrorRoute",
        "plugin",
    ];
    let alone: Vec<&str> = ALONE.into_iter().filter(|kind| step.get(kind).is_some()).collect();
    if alone.len() > 1 {
        let message = format!("`{}` in one step", alone.join("` and `"));
        findings.add(&rules::STEP_KIND, &step.at, message, Some("make each an item of the list".to_owned()));
    } else if ANY.iter().all(|kind| step.get(kind).is_none()) {
        findings.add(&rules::STEP_KIND, &step.at, "this step does nothing", None);
    }
}

fn duration((key, pause): (&crate::text::node::Key, &Node), findings: &mut Findings) {
    let Some(duration) = pause.get("duration") else {
        // Misspelt fields have been reported, and may have meant one.
        findings.add(&rules::PAUSE_FOREVER, &key.at, "waits until a person promotes", None);
        return;
    };
    if let Some(text) = duration.as_text()
        && span::pause(text).is_none()
    {
        let message = format!("expected seconds or a duration such as `5m`, found {}", quoted(text));
        let remedy = text
            .strip_suffix('d')
            .and_then(|days| days.parse::<u32>().ok())
            .map(|days| format!("write `{}h`", u64::from(days) * 24));
        findings.add(&rules::PAUSE_DURATION, &duration.at, message, remedy);
    }
}

/// Weights that meet a canary which an earlier step has fixed to fewer pods.
fn canary_scale(view: &View<'_>, findings: &mut Findings) {
    /// What the last `setCanaryScale` asked for.
    enum Fixed {
        Weight(i64),
        Pods(i64),
    }
    let mut fixed = None;
    for step in &view.steps {
        if let Some((key, scale)) = step.node.entry("setCanaryScale") {
            if view.mode == Mode::Basic {
                let message = "`setCanaryScale` is refused without `trafficRouting`";
                findings.add(&rules::NEEDS_TRAFFIC_ROUTING, &key.at, message, None);
                return;
            }
            let field = |name| scale.get(name).and_then(integer);
            fixed = match (is_true(scale.get("matchTrafficWeight")), field("replicas"), field("weight")) {
                (true, ..) => None,
                (false, Some(pods), _) => Some(Fixed::Pods(pods)),
                (false, None, Some(weight)) => Some(Fixed::Weight(weight)),
                (false, None, None) => None,
            };
        }
        let Some((_, node)) = step.node.entry("setWeight") else { continue };
        let Some(weight) = integer(node).filter(|weight| (1..=view.total).contains(weight)) else { continue };
        // Saturating: the numbers are a stranger's.
        let pods = |weight: i64| {
            let replicas = view.replicas()?;
            Some(weight.saturating_mul(replicas).saturating_add(view.total - 1) / view.total)
        };
        let message = match (&fixed, pods(weight)) {
            (Some(Fixed::Pods(have)), Some(want)) if *have < want => {
                format!("{weight} of {} meets {have} canary pods instead of {want}", view.total)
            }
            (Some(Fixed::Weight(have)), want) if *have < weight && pods(*have).is_none_or(|have| Some(have) < want) => {
                format!("{weight} of {} meets a canary sized for {have}", view.total)
            }
            _ => continue,
        };
        findings.add(&rules::CANARY_TOO_SMALL, &node.at, message, None);
    }
}
