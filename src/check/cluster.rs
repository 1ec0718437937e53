//! What a look at the API server says about the Rollout and the way to it. PURE.

use crate::control::plan::{ObservedCluster, Options, Plan, notes, plan};
use crate::control::rollout::{Hold, Mode, ROUTES, Rollout};
use crate::route::VersionHash;
use crate::source::kube::{AtPort, Found, Look, PortNote, PortRef, Tried, Trouble, TroubleKind};

use super::Settings;
use super::id::Id;
use super::report::Made;

pub fn checks(look: &Look, settings: &Settings) -> Made {
    let mut made = Made::default();
    if !reached(look, settings, &mut made) {
        return made;
    }
    for tried in &look.tried {
        permission(look, tried, settings, &mut made);
    }
    if let Some(rollout) = rollout(look, settings, &mut made) {
        services(look, rollout, settings, &mut made);
        let plan = plan_at(look, settings.ports.first().unwrap_or(&PortRef::Default));
        port(look, settings, &mut made);
        pods(look, rollout, plan.as_ref(), settings, &mut made);
        annotation(rollout, plan.as_ref(), settings, &mut made);
    }
    made
}

/// What a proxy that knew nothing before would serve. `None`: its endpoints cannot be known.
pub fn plan_at(look: &Look, port: &PortRef) -> Option<Plan> {
    let AtPort { endpoints, .. } = look.at(port)?;
    let observed = ObservedCluster {
        rollout: look.rollout().cloned(),
        endpoints,
        services: look.services(),
        options: Options::default(),
    };
    Some(plan(&observed, None, std::time::Duration::ZERO))
}

fn reached(look: &Look, settings: &Settings, made: &mut Made) -> bool {
    let server = &settings.server;
    let Some(Err(trouble)) = look.answered("rollouts", "list") else {
        made.ok(Id::ApiReachable, format!("{server} answers"));
        made.ok(Id::ApiCredentials, "the API server knows who we are");
        return true;
    };
    match trouble.kind {
        TroubleKind::Unreachable => {
            made.fail(
                Id::ApiReachable,
                format!("{server}: {trouble}"),
                "look whether the API server runs, and whether address, CA and proxy of the kubeconfig (or a NetworkPolicy \
                 around the pod) let us reach it: kubectl get --raw /readyz",
            );
            false
        }
        TroubleKind::Unauthorized => {
            made.ok(Id::ApiReachable, format!("{server} answers"));
            made.fail(
                Id::ApiCredentials,
                trouble.to_string(),
                "log in again, or make a new token (kubectl create token), or correct --context: kubectl auth whoami",
            );
            false
        }
        TroubleKind::Forbidden | TroubleKind::Unknown => {
            made.ok(Id::ApiReachable, format!("{server} answers"));
            made.ok(Id::ApiCredentials, "the API server knows who we are");
            true
        }
    }
}

/// Whether this kind of object can be followed.
fn followed(look: &Look, resource: &str) -> bool {
    ["list", "watch"].iter().all(|verb| matches!(look.answered(resource, verb), Some(Ok(()))))
}

fn permission(look: &Look, tried: &Tried, settings: &Settings, made: &mut Made) {
    let Tried { resource, verb, answered } = tried;
    let Some(id) = Id::permission(resource, verb) else { return };
    let trouble = match answered {
        Ok(()) => return made.ok(id, format!("may {verb} {resource}")),
        // Who may not know is told so first: the kind itself is `rollout.served`.
        Err(Trouble { kind: TroubleKind::Unknown, .. }) if *resource == "rollouts" => {
            return made.ok(id, format!("may {verb} {resource}"));
        }
        Err(trouble) => trouble,
    };
    let remedy = format!(
        "add {verb} on {resource} to the account's Role in namespace {}, as in deploy/base/access: kubectl auth can-i \
         {verb} {resource} -n {0}",
        settings.namespace
    );
    let forbidden = trouble.kind == TroubleKind::Forbidden;
    match (*resource, *verb) {
        (_, "get") if forbidden => {
            made.warn(id, format!("{trouble}. Nothing that is done today needs it"), remedy);
        }
        ("pods", _) if forbidden && followed(look, "endpointslices") => made.warn(
            id,
            format!(
                "{trouble}. The EndpointSlices of the Rollout's Services are followed instead, which know of a change a \
                 moment later"
            ),
            remedy,
        ),
        ("endpointslices", _) if forbidden && followed(look, "pods") => made.warn(
            id,
            format!("{trouble}. The pods are followed; --service, which finds the proxy's replicas, needs slices"),
            remedy,
        ),
        _ => made.fail(id, trouble.to_string(), remedy),
    }
}

/// The Rollout, if there is one that can be read.
fn rollout<'a>(look: &'a Look, settings: &Settings, made: &mut Made) -> Option<&'a Rollout> {
    let Settings { namespace, name, .. } = settings;
    match look.answered("rollouts", "list") {
        Some(Ok(())) => made.ok(Id::RolloutServed, "argoproj.io/v1alpha1 has rollouts"),
        Some(Err(trouble)) if trouble.kind == TroubleKind::Unknown => {
            made.fail(
                Id::RolloutServed,
                trouble.to_string(),
                "install Argo Rollouts 1.x and its CRDs in this cluster, or correct --context: kubectl get crd \
                 rollouts.argoproj.io",
            );
            return None;
        }
        Some(Err(_)) | None => return None,
    }
    let rollout = match &look.rollout {
        Found::Unknown => return None,
        Found::Missing => {
            made.fail(
                Id::RolloutExists,
                format!("there is no Rollout {name} in namespace {namespace}"),
                format!("create it, or correct --rollout: kubectl get rollouts -A | grep {name}"),
            );
            return None;
        }
        Found::Unreadable(error) => {
            made.ok(Id::RolloutExists, format!("namespace {namespace} has a Rollout {name}"));
            made.fail(
                Id::RolloutReadable,
                format!(
                    "Rollout {namespace}/{name} cannot be read: {error}; expected the fields of argoproj.io/v1alpha1"
                ),
                "compare the CRD with that of Argo Rollouts 1.x: kubectl explain rollout.spec",
            );
            return None;
        }
        Found::Read(rollout) => rollout.as_ref(),
    };
    made.ok(Id::RolloutExists, format!("namespace {namespace} has a Rollout {name}"));
    made.ok(Id::RolloutReadable, "its fields are those that we know");
    let generation = rollout.metadata.generation.unwrap_or(0);
    let observed = rollout.status.as_ref().map(|status| status.observed_generation.clone().unwrap_or_default());
    match (notes::invalid_spec(rollout), rollout.hold(), observed) {
        (Some(invalid), ..) => made.fail(
            Id::RolloutSpec,
            invalid,
            format!("mend the field that it names: kubectl argo rollouts get rollout {name} -n {namespace}"),
        ),
        (None, None, Some(_)) => {
            made.ok(Id::RolloutSpec, format!("the controller has accepted its generation {generation}"));
        }
        (None, Some(Hold::Behind | Hold::InvalidSpec(_)), observed) | (None, None, observed @ None) => made.warn(
            Id::RolloutSpec,
            format!(
                "the controller has not looked at generation {generation} yet, but at {}",
                observed.filter(|text| !text.is_empty()).unwrap_or_else(|| "none".to_owned())
            ),
            "ask again; if it stays so, the Argo Rollouts controller does not run, or not for this namespace: kubectl get \
             deployments -n argo-rollouts",
        ),
    }
    let remedy = "expected strategy.canary with trafficRouting: {}, with a provider, or without trafficRouting; or \
                  strategy.blueGreen: splitway lint FILE shows what the API server drops";
    match (notes::pruned_providers(rollout), notes::dynamic_without_provider(rollout)) {
        (Some(pruned), _) => made.fail(Id::RolloutStrategy, pruned, remedy),
        (None, Some(dynamic)) => made.warn(Id::RolloutStrategy, dynamic, remedy),
        (None, None) => made.ok(Id::RolloutStrategy, strategy(rollout)),
    }
    Some(rollout)
}

fn is_blue_green(rollout: &Rollout) -> bool {
    rollout.spec.strategy.as_ref().is_some_and(|strategy| strategy.blue_green.is_some())
}

fn strategy(rollout: &Rollout) -> String {
    if is_blue_green(rollout) {
        return "blueGreen: all requests go to the active version".to_owned();
    }
    match rollout.mode() {
        Mode::Published => "canary with a traffic provider: the weights that the controller publishes are served",
        Mode::Empty => "canary with trafficRouting: {}: the weights of its steps are served",
        Mode::Basic => "canary without trafficRouting: the weights of its steps, as far as pods can carry them",
    }
    .to_owned()
}

fn services(look: &Look, rollout: &Rollout, settings: &Settings, made: &mut Made) {
    let names = rollout.services();
    // Where nobody but the controller moves traffic it does without, and accepts a spec that names none.
    let canary = ["strategy.canary.stableService", "strategy.canary.canaryService"];
    let (fields, needed) = match (is_blue_green(rollout), rollout.mode()) {
        (true, _) => (["strategy.blueGreen.activeService", "strategy.blueGreen.previewService"], [true, false]),
        (false, Mode::Basic | Mode::Empty) => (canary, [false, false]),
        (false, Mode::Published) => (canary, [true, true]),
    };
    let missing: Vec<&str> = [names.stable, names.canary]
        .iter()
        .zip(fields.iter().zip(needed))
        .filter(|(name, (_, needed))| name.is_none() && *needed)
        .map(|(_, (field, _))| *field)
        .collect();
    let named: Vec<&str> = [names.stable, names.canary].into_iter().flatten().collect();
    let remedy = format!("name two Services of their own in spec.{}", fields.join(" and spec."));
    // Without pods, a Service is the only way to endpoints.
    let blind = named.is_empty() && look.answered("pods", "list").is_none_or(Result::is_err);
    match (missing.is_empty() && !blind, named.is_empty()) {
        (false, _) => {
            let missing = if missing.is_empty() { fields[..1].to_vec() } else { missing };
            made.fail(
                Id::ServicesNamed,
                format!("expected a Service in spec.{}, found none", missing.join(" and in spec.")),
                remedy,
            );
        }
        (true, true) => {
            made.ok(Id::ServicesNamed, "none is named, and none is needed: the Rollout's pods are followed");
        }
        (true, false) => made.ok(Id::ServicesNamed, format!("the Rollout names {}", named.join(" and "))),
    }
    let Some(services) = look.services() else { return };
    if services.is_empty() {
        let why = "the Rollout names no Service";
        made.skip(Id::ServicesExist, why);
        return made.skip(Id::ServicesSelect, why);
    }
    let wrong: Vec<String> = services
        .iter()
        .filter(|service| service.selector.is_none())
        .filter_map(|service| notes::selects_nothing(rollout, &service.name, None))
        .collect();
    let exist = wrong.is_empty();
    made.judge(
        Id::ServicesExist,
        (!exist).then(|| wrong.join(". ")),
        format!("{} of {0} are there", services.len()),
        format!("kubectl get services -n {}", settings.namespace),
    );
    if !exist {
        return;
    }
    if rollout.spec.workload_ref.is_some() {
        return made.skip(
            Id::ServicesSelect,
            "the pod template is in another object (workloadRef), which is not read; port.found and pods.stable tell",
        );
    }
    let wrong: Vec<String> = services
        .iter()
        .filter_map(|service| notes::selects_nothing(rollout, &service.name, service.selector.as_ref()))
        .collect();
    made.judge(
        Id::ServicesSelect,
        (!wrong.is_empty()).then(|| wrong.join(". ")),
        "they select labels that the pod template has",
        "make spec.selector of the Service a part of spec.template.metadata.labels of the Rollout",
    );
}

fn port(look: &Look, settings: &Settings, made: &mut Made) {
    let (mut missing, mut several, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for port in &settings.ports {
        let Some(AtPort { endpoints, note }) = look.at(port) else { return };
        let mut numbers: Vec<u16> = endpoints.values().flatten().map(|endpoint| endpoint.address.port()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
        match note {
            Some(PortNote::NotFound(text)) => missing.push(text),
            Some(PortNote::Several(text)) => several.push(text),
            None if endpoints.is_empty() => {
                return made.skip(Id::PortFound, "there is no pod yet to find it at");
            }
            None => found.push(format!("{port} is {} of the pods", numbers.join(", "))),
        }
    }
    let remedy =
        "say --port with the name or number of a containerPort of the pods, or of a port of the stable Service";
    match (missing.is_empty(), several.is_empty()) {
        (false, _) => made.fail(Id::PortFound, missing.join(". "), remedy),
        (true, false) => made.warn(Id::PortFound, several.join(". "), remedy),
        (true, true) => made.ok(Id::PortFound, found.join("; ")),
    }
}

fn pods(look: &Look, rollout: &Rollout, plan: Option<&Plan>, settings: &Settings, made: &mut Made) {
    // With slices, no port means no endpoint: then nothing can be said about pods.
    if made.failed(Id::PortFound) && look.answered("pods", "list").is_none_or(Result::is_err) {
        return;
    }
    let Some(pods) = look.pods() else { return };
    let says = |version: &VersionHash| {
        let found = pods.get(version).copied().unwrap_or_default();
        (found.ready, format!("version {version} has {} ready of {} pods", found.ready, found.all))
    };
    let remedy = format!("look why: kubectl argo rollouts get rollout {} -n {}", settings.name, settings.namespace);
    let active = rollout.status.as_ref().and_then(|status| status.blue_green.as_ref());
    let active = active.and_then(|status| status.active_selector.as_deref()).filter(|hash| !hash.is_empty());
    let stable = active.filter(|_| is_blue_green(rollout)).map(VersionHash::new).or_else(|| rollout.stable());
    match stable.as_ref().or(rollout.current().as_ref()) {
        None => made.skip(Id::PodsStable, "the controller has not named a version yet: see rollout.spec"),
        Some(version) => match (says(version), rollout.replicas()) {
            ((0, found), 0) => {
                made.warn(Id::PodsStable, format!("{found}: the Rollout is scaled to 0"), remedy.clone());
            }
            ((0, found), replicas) => made.fail(
                Id::PodsStable,
                format!("{found}; expected {replicas}, and without one no request to it can be answered"),
                remedy.clone(),
            ),
            ((_, found), _) => made.ok(Id::PodsStable, found),
        },
    }
    let canary = rollout.current().filter(|current| stable.as_ref().is_some_and(|stable| stable != current));
    let Some(canary) = canary else { return made.ok(Id::PodsCanary, "no update is in progress") };
    if rollout.aborted() {
        return made.ok(Id::PodsCanary, format!("the update to version {canary} was aborted: it gets no request"));
    }
    let goes_elsewhere = format!("version {canary} has no ready endpoint");
    let wanted = plan.is_some_and(|plan| plan.notes.iter().any(|note| note.starts_with(&goes_elsewhere)));
    match says(&canary) {
        (0, found) if wanted => made.fail(
            Id::PodsCanary,
            format!("{found}, but the Rollout's step gives it a share, which goes to the other version"),
            remedy,
        ),
        (0, found) => made.ok(Id::PodsCanary, format!("{found}, and no share yet")),
        (_, found) => made.ok(Id::PodsCanary, found),
    }
}

fn annotation(rollout: &Rollout, plan: Option<&Plan>, settings: &Settings, made: &mut Made) {
    let Some(plan) = plan else { return };
    let there = rollout.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(ROUTES));
    let good = match there {
        true => format!("{ROUTES} can be read"),
        false => format!("there is no {ROUTES}, and none is needed"),
    };
    let remedy =
        format!("docs/routes.md has its fields: kubectl edit rollout {} -n {}", settings.name, settings.namespace);
    made.judge(Id::AnnotationRoutes, plan.problem.clone(), good, remedy);
}
