//! Every rule: what it finds, why that matters, what to do, and where one can read it. `docs/lint.md` is printed from
//! here.

use serde::Serialize;

#[derive(Debug)]
pub struct Rule {
    /// Also the anchor in `docs/lint.md`.
    pub id: &'static str,
    pub severity: Severity,
    /// One sentence: what is found.
    pub what: &'static str,
    pub why: &'static str,
    pub remedy: &'static str,
    pub source: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Refused, dropped, or sure to go wrong.
    Error,
    /// Works, and is probably not what was meant.
    Warning,
    /// Good to know.
    Info,
}

impl Rule {
    /// Its place in [`ALL`].
    pub(super) fn number(&self) -> usize {
        ALL.iter().position(|rule| rule.id == self.id).expect("every rule is listed")
    }
}

macro_rules! rules {
    ($($name:ident $severity:ident $id:literal {
        what: $what:literal, why: $why:literal, remedy: $remedy:literal, source: $source:literal $(,)?
    })*) => {
        $(pub(super) static $name: Rule = Rule {
            id: $id,
            severity: Severity::$severity,
            what: $what,
            why: $why,
            remedy: $remedy,
            source: $source,
        };)*

        /// In the order of the documentation.
        pub static ALL: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    // Shape: what the API server keeps.
    UNKNOWN_FIELD Error "unknown-field" {
        what: "A field that the CRD of a Rollout does not have, such as `pause.termination`.",
        why: "The API server stores the object without it. kubectl refuses such an object by default; Helm, Argo CD and others may drop the field without a word, and nothing of what it was meant for happens.",
        remedy: "Mend its name or its place, or leave it out.",
        source: "Kubernetes: custom resources, field pruning; Argo Rollouts v1.10.1: manifests/crds/rollout-crd.yaml",
    }
    UNKNOWN_PROVIDER Error "unknown-provider" {
        what: "A name in `trafficRouting` that is no traffic provider.",
        why: "The API server drops it. What is left is `trafficRouting` without a provider: the rollout walks its steps and nobody is told any weight.",
        remedy: "Mend the name. Third-party routers, the Gateway API's for example, belong into `plugins`.",
        source: "Argo Rollouts: issue 4569; manifests/crds/rollout-crd.yaml",
    }
    WRONG_TYPE Error "wrong-type" {
        what: "A value of another type than the CRD's.",
        why: "The API server refuses the whole object. Unquoted `on`, `yes`, `1.10` and `0777` are no texts: kubectl reads YAML 1.1.",
        remedy: "Write the type that is expected; texts that look like something else need quotes.",
        source: "Argo Rollouts: manifests/crds/rollout-crd.yaml",
    }
    MISSING_FIELD Error "missing-field" {
        what: "A field that the CRD demands is missing.",
        why: "The API server refuses the whole object.",
        remedy: "Add it.",
        source: "Argo Rollouts: manifests/crds/rollout-crd.yaml",
    }
    NOTHING_WRITTEN Warning "nothing-written" {
        what: "A mapping of the strategy has a name and no value, such as `trafficRouting:`.",
        why: "The API server drops fields without a value, so it is as if the line were not there. For `pause:` that leaves a step that does nothing, for `trafficRouting:` pods that are counted instead of requests.",
        remedy: "Write `{}` after it if every default is meant, or leave it out.",
        source: "Kubernetes: custom resources, nullable and defaulting",
    }
    WRITTEN_TWICE Error "written-twice" {
        what: "The same field is written twice in one mapping.",
        why: "Only one of them counts, with most programs the last; others refuse the file.",
        remedy: "Keep one of the two.",
        source: "YAML 1.2, section 3.2.1.3: keys are unique",
    }
    WRONG_VERSION Error "wrong-api-version" {
        what: "A Rollout of another API than `argoproj.io/v1alpha1`.",
        why: "That is the only one the controller has, so the API server refuses the object.",
        remedy: "Write `apiVersion: argoproj.io/v1alpha1`.",
        source: "Argo Rollouts: manifests/crds/rollout-crd.yaml",
    }

    // Strategy.
    NO_STRATEGY Error "no-strategy" {
        what: "Not exactly one of `canary` and `blueGreen`.",
        why: "The controller marks the Rollout InvalidSpec and does nothing.",
        remedy: "Keep one of the two under `spec.strategy`.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    BLUE_GREEN Info "blue-green" {
        what: "The strategy is blueGreen.",
        why: "It has no weights: Splitway sends everything to the version behind the active Service, and changes over when the controller does.",
        remedy: "Nothing, if that is what you want; shares of traffic need `strategy.canary`.",
        source: "Argo Rollouts docs: BlueGreen",
    }
    NO_TRAFFIC_ROUTING Warning "no-traffic-routing" {
        what: "The canary strategy has no `trafficRouting`.",
        why: "Then the numbers of pods are the weights: stable pods are taken away as the canary grows, and are gone before the last step is over. Splitway serves the asked share as far as the pods that are left can carry it; going back means waiting for pods.",
        remedy: "Add `trafficRouting: {}`: stable keeps all its pods until the end, and Splitway does the splitting.",
        source: "Argo Rollouts docs: Canary, without traffic management",
    }
    NEEDS_TRAFFIC_ROUTING Error "needs-traffic-routing" {
        what: "A field or step that the controller refuses without `trafficRouting`: `scaleDownDelaySeconds`, `dynamicStableScale`, `setCanaryScale`, an experiment's `weight`.",
        why: "The controller marks the Rollout InvalidSpec and does nothing until that is mended.",
        remedy: "Add `trafficRouting: {}`, or leave the field out.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    DYNAMIC_STABLE_SCALE Warning "dynamic-stable-scale" {
        what: "`dynamicStableScale` with `trafficRouting` but without a provider.",
        why: "No weight is recorded, so the controller shrinks stable at the moment a setWeight step begins, before the canary has pods: capacity is missing exactly then. Splitway can only follow the pods.",
        remedy: "Leave `dynamicStableScale` out, or name a provider.",
        source: "Argo Rollouts: utils/replicaset/canary.go; recorded rollout `empty-dynamic`",
    }
    DYNAMIC_WITH_DELAY Error "dynamic-stable-scale-with-delay" {
        what: "`dynamicStableScale` together with `scaleDownDelaySeconds`.",
        why: "The controller marks the Rollout InvalidSpec: with the one, the other means nothing.",
        remedy: "Keep one of the two.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    MAX_WEIGHT Error "max-weight-needs-provider" {
        what: "`maxTrafficWeight` without `nginx` or `plugins`.",
        why: "The controller marks the Rollout InvalidSpec.",
        remedy: "Leave it out; weights finer than 1 % can be had from the annotation `splitway.dev/routes`.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go (nginx and plugins from v1.7 on)",
    }
    PING_PONG Error "ping-pong-needs-provider" {
        what: "`pingPong` without `alb`, `istio` or `plugins`.",
        why: "The controller marks the Rollout InvalidSpec.",
        remedy: "Name `stableService` and `canaryService` instead.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    EXPERIMENT_WEIGHT Error "experiment-weight-needs-provider" {
        what: "An experiment's template has a `weight`, without `smi`, `alb`, `istio` or `plugins`.",
        why: "The controller marks the Rollout InvalidSpec.",
        remedy: "Leave the weight out.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    PLUGIN Info "plugin-must-be-known" {
        what: "`trafficRouting.plugins` names a plugin.",
        why: "A plugin that the controller has not been started with is no error that anybody sees: every reconcile fails before pods are resized, and the rollout simply does not move.",
        remedy: "Look into the ConfigMap argo-rollouts-config, `trafficRouterPlugins`, in the controller's namespace.",
        source: "Argo Rollouts docs: Traffic Router Plugins",
    }
    VERSION Info "needs-version" {
        what: "A combination that older controllers refuse.",
        why: "They mark the Rollout InvalidSpec, or drop the field.",
        remedy: "Compare with the controller's version: kubectl argo rollouts version, or its image's tag.",
        source: "Argo Rollouts: CRDs and validation.go of v1.6 to v1.10",
    }

    // Header and mirror routes.
    ROUTE_PROVIDER Error "route-needs-provider" {
        what: "`setHeaderRoute` without `istio`, `alb`, `apisix` or `plugins`, or `setMirrorRoute` without `istio` or `plugins`.",
        why: "The controller marks the Rollout InvalidSpec.",
        remedy: "Take the step out and write the route into the annotation `splitway.dev/routes`, which Splitway reads itself.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    ROUTE_MANAGED Error "route-not-managed" {
        what: "A step sets a route that `trafficRouting.managedRoutes` does not list.",
        why: "The controller marks the Rollout InvalidSpec. The list is also the order in which routes are tried.",
        remedy: "Add `- name: ...` to `trafficRouting.managedRoutes`.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    ROUTE_MATCH Error "route-match" {
        what: "A condition of a route without exactly one of `exact`, `prefix` and `regex` (`alb` takes `exact` only).",
        why: "The controller marks the Rollout InvalidSpec.",
        remedy: "Keep one of them. Presence alone is `regex: .+`.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    MIRROR_PERCENTAGE Warning "mirror-percentage" {
        what: "A mirror's `percentage` is not between 0 and 100.",
        why: "Nobody checks it. Splitway takes the nearest of the two.",
        remedy: "Write 0 to 100, or leave it out for 100.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }

    // Steps.
    NO_STEPS Warning "no-steps" {
        what: "A canary strategy without steps.",
        why: "With `trafficRouting` the canary gets no request until it is promoted, and then all of them at once; without it, it is a rolling update.",
        remedy: "Add steps: `- setWeight: 5`, `- pause: { duration: 5m }` and so on.",
        source: "Argo Rollouts docs: Canary",
    }
    STEP_KIND Error "step-kind" {
        what: "A step that says nothing, or more than one of `setWeight`, `pause`, `experiment` and `analysis`.",
        why: "The controller marks the Rollout InvalidSpec.",
        remedy: "One item of the list per step. A pause until somebody promotes is `pause: {}`.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    WEIGHT_RANGE Error "weight-range" {
        what: "`setWeight` below 0 or above the total (100, or `maxTrafficWeight`).",
        why: "The controller marks the Rollout InvalidSpec.",
        remedy: "Write 0 to the total.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    WEIGHT_FALLS Warning "weight-falls" {
        what: "`setWeight` is lower than the step before it.",
        why: "The canary loses traffic in the middle of the rollout, and its promotion comes as a larger jump.",
        remedy: "Put the weights in growing order.",
        source: "Argo Rollouts docs: Canary",
    }
    WEIGHT_STAYS Info "weight-stays" {
        what: "`setWeight` asks for the weight that is in force already.",
        why: "The step changes nothing about traffic.",
        remedy: "Leave the step out.",
        source: "Argo Rollouts docs: Canary",
    }
    WEIGHT_PASSES Warning "weight-passes" {
        what: "A weight that nothing holds: no pause, analysis, experiment or plugin follows before the next weight or the end.",
        why: "The step is over as soon as its pods are available, so the canary is judged by nothing at this weight.",
        remedy: "Add `- pause: { duration: 5m }` after it.",
        source: "Argo Rollouts: rollout/canary.go",
    }
    ENDS_BELOW Info "ends-below-total" {
        what: "The last weight is below the total.",
        why: "That is fine, but the promotion is a jump from it to everything.",
        remedy: "Add a last weight nearer to the total if the jump is too large.",
        source: "Argo Rollouts docs: Canary",
    }
    PAUSE_FOREVER Info "pause-forever" {
        what: "A pause without a duration.",
        why: "The rollout waits there until a person promotes it.",
        remedy: "kubectl argo rollouts promote NAME; or give it a duration.",
        source: "Argo Rollouts docs: Canary",
    }
    PAUSE_DURATION Error "pause-duration" {
        what: "A pause's duration that is neither a number of seconds nor a Go duration (`30s`, `5m`, `1h30m`), or a negative one.",
        why: "The controller marks the Rollout InvalidSpec. There is no unit for days.",
        remedy: "Write for example `90s`, `5m` or `24h`.",
        source: "Argo Rollouts: pkg/apis/rollouts/v1alpha1/types.go",
    }
    CANARY_TOO_SMALL Warning "canary-too-small" {
        what: "`setCanaryScale` keeps the canary smaller than the weight would make it.",
        why: "It stays in force until a later `setCanaryScale`, so a growing share of the traffic meets the same few pods.",
        remedy: "Add `- setCanaryScale: { matchTrafficWeight: true }` before the weight grows.",
        source: "Argo Rollouts: utils/replicaset/canary.go",
    }

    // Services.
    SERVICES_MISSING Error "services-missing" {
        what: "`stableService` or `canaryService` is not named.",
        why: "The controller may do without, Splitway does not: it needs both to find the application's port, and its pods where it may not watch pods.",
        remedy: "Create two Services with the application's selector and name them here.",
        source: "Argo Rollouts docs: Canary, stableService and canaryService",
    }
    SERVICES_SAME Error "services-same" {
        what: "Two Services that must differ are the same.",
        why: "The controller marks the Rollout InvalidSpec: it writes a different selector into each.",
        remedy: "Create a second Service.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    SERVICE_ABSENT Warning "service-absent" {
        what: "The input has Services, but not one that the Rollout names.",
        why: "If the cluster does not have it either, the controller marks the Rollout InvalidSpec.",
        remedy: "Mend the name, or add the Service.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation_references.go",
    }
    SERVICE_SELECTOR Error "service-selector" {
        what: "A Service that the Rollout names selects by a label that the pod template does not have.",
        why: "The controller marks the Rollout InvalidSpec; the Service would select no pod.",
        remedy: "Take the label out of the Service's selector, or put it on the pod template.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation_references.go",
    }
    SELECTOR Error "selector" {
        what: "The Rollout's selector is empty, missing, or asks for a label that the pod template does not have.",
        why: "The controller marks the Rollout InvalidSpec: it would not find its own pods.",
        remedy: "Let `selector.matchLabels` repeat labels of `template.metadata.labels`.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }

    // Time.
    SCALE_DOWN_SOON Warning "scale-down-soon" {
        what: "`scaleDownDelaySeconds` below 10.",
        why: "So soon after the promotion the old pods are told to end, while clients, kube-proxy and proxies that are behind may still send to them. Splitway leaves ending pods and tries unsent requests again, but an API server that answers late costs requests.",
        remedy: "Leave it out (30 seconds), or write at least 10.",
        source: "Argo Rollouts docs: Traffic Management, scaleDownDelaySeconds",
    }
    ABORT_KEEPS Info "abort-keeps-canary" {
        what: "`abortScaleDownDelaySeconds` is 0.",
        why: "Zero means never: after an abort the canary's pods stay. Without `trafficRouting` the field is ignored.",
        remedy: "Nothing, if you want to look at them; else leave it out (30 seconds).",
        source: "Argo Rollouts docs: Canary, abortScaleDownDelaySeconds",
    }
    PROGRESS_DEADLINE Error "progress-deadline" {
        what: "`progressDeadlineSeconds` (600 if left out) is not greater than `minReadySeconds`.",
        why: "The controller marks the Rollout InvalidSpec.",
        remedy: "Make it greater.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }
    PROGRESS_ABORT Info "progress-deadline-abort" {
        what: "`progressDeadlineAbort` is true.",
        why: "Pods that are slow to become ready abort the rollout, and all traffic goes back to stable at once.",
        remedy: "Make `progressDeadlineSeconds` longer than the slowest start.",
        source: "Argo Rollouts docs: Rollout specification",
    }
    ROLLBACK_WINDOW Info "rollback-window" {
        what: "`rollbackWindow` is set.",
        why: "Going back within the window skips all steps, pauses and analyses: traffic follows the pods as they come up, and an abort has no effect meanwhile.",
        remedy: "Nothing, if quick rollbacks are what you want.",
        source: "Argo Rollouts docs: Rollback Windows; issue 4461",
    }
    PAUSED Info "paused" {
        what: "`spec.paused` is true.",
        why: "Steps do not go on and pods are not resized; weights that are in force stay.",
        remedy: "Take it out to let the rollout go on.",
        source: "Argo Rollouts docs: Rollout specification",
    }
    SURGE Error "surge" {
        what: "`maxSurge` and `maxUnavailable` are both zero.",
        why: "The controller marks the Rollout InvalidSpec: no pod could be replaced.",
        remedy: "Leave one of them out (25 % each).",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }

    // Pods.
    READINESS Warning "no-readiness-probe" {
        what: "No container of the pod has a readiness probe.",
        why: "A pod then counts as ready as soon as its processes have started, and receives requests before it listens.",
        remedy: "Add a `readinessProbe` to the container that serves.",
        source: "Kubernetes docs: Liveness, Readiness and Startup Probes",
    }
    GRACE Warning "no-grace" {
        what: "`terminationGracePeriodSeconds` is 0.",
        why: "Pods are killed at once when they are scaled down, with whatever they were answering.",
        remedy: "Leave it out (30 seconds).",
        source: "Kubernetes docs: Pod Lifecycle, termination of Pods",
    }
    PRE_STOP Info "no-pre-stop" {
        what: "No container has a `preStop` hook.",
        why: "Then the application must go on accepting for a moment after SIGTERM. Splitway leaves a pod as soon as it sees that it ends and tries unsent requests elsewhere; other clients of these pods may meet closed ports.",
        remedy: "Add `lifecycle: { preStop: { sleep: { seconds: 5 } } }`, or let the application wait after SIGTERM.",
        source: "Kubernetes docs: Pod Lifecycle, termination of Pods",
    }
    WORKLOAD_REF Info "workload-ref" {
        what: "The pod template lives in another object (`workloadRef`).",
        why: "Checks of labels, selectors, probes and grace were skipped.",
        remedy: "Check them in that object.",
        source: "Argo Rollouts docs: Migrating to Rollouts",
    }
    WORKLOAD_REF_TEMPLATE Error "workload-ref-with-template" {
        what: "Both `workloadRef` and `template`, or neither.",
        why: "The controller marks the Rollout InvalidSpec, or has no pod to start.",
        remedy: "Keep one of the two.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation.go",
    }

    // Analysis.
    EMPTY_RESULT Warning "analysis-empty-result" {
        what: "A condition on a Prometheus query looks at `result[0]` without asking whether there is one.",
        why: "A query without data gives an empty list, `result[0]` is then an error, and five in a row abort the rollout.",
        remedy: "Begin the condition with `len(result) == 0 || ...`.",
        source: "Argo Rollouts: utils/evaluate, analysis/analysis.go",
    }
    NAN_RESULT Warning "analysis-nan" {
        what: "A condition on a Prometheus query that divides does not ask for `isNaN`.",
        why: "Without traffic the query is 0/0. NaN compares as false with everything: for a success condition that is a failure, for a failure condition a success.",
        remedy: "Write `isNaN(result[0]) || ...` into the success condition.",
        source: "Argo Rollouts: metricproviders/prometheus, utils/evaluate",
    }
    FAILURE_LIMIT Info "analysis-failure-limit" {
        what: "A repeated metric without `failureLimit`.",
        why: "The default is 0: the first measurement that fails aborts the rollout.",
        remedy: "Write the number that you want, such as `failureLimit: 2`.",
        source: "Argo Rollouts docs: Analysis",
    }
    INCONCLUSIVE Info "analysis-inconclusive" {
        what: "A metric with both a success and a failure condition.",
        why: "A result that fulfils neither is inconclusive; `inconclusiveLimit` is 0 by default, so the rollout pauses and waits for a person.",
        remedy: "Nothing, if that is what you want; one condition alone has no such gap.",
        source: "Argo Rollouts docs: Analysis, inconclusive runs",
    }
    ENDLESS_STEP Error "analysis-step-without-end" {
        what: "A step with an analysis that measures again and again and has no `count`.",
        why: "The controller marks the Rollout InvalidSpec: a step has to end by itself.",
        remedy: "Give the metric a `count`, or its template an argument for it and the step the argument's value.",
        source: "Argo Rollouts: pkg/apis/rollouts/validation/validation_references.go",
    }
    LONG_STEP Warning "analysis-step-of-days" {
        what: "A step with an analysis that takes a day or more when all goes well.",
        why: "The rollout waits in this step until the last measurement. Templates that also serve beside the steps have a large `count` by default.",
        remedy: "Give the step the `count` that it needs among its `args`.",
        source: "Argo Rollouts docs: Analysis",
    }
    BACKGROUND Info "analysis-from-the-start" {
        what: "A background analysis without `startingStep`.",
        why: "It begins with the canary's pods, before the canary has any traffic.",
        remedy: "Set `startingStep` to the first step with traffic, or an `initialDelay` in the template.",
        source: "Argo Rollouts docs: Analysis, background analysis",
    }

    // Numbers.
    PROVES_NOTHING Warning "proves-nothing" {
        what: "A weight whose requests are too few to tell a bad canary (only with `--rps`).",
        why: "Even a canary that fails ten percentage points more of its requests than usual would pass this step more often than one time in five.",
        remedy: "Hold the weight longer, or ask for more.",
        source: "The method is described under “The table of steps”",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rules_have_the_same_id_and_every_text_is_a_sentence() {
        for (i, rule) in ALL.iter().enumerate() {
            assert!(ALL[..i].iter().all(|earlier| earlier.id != rule.id), "{}", rule.id);
            assert!(rule.id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", rule.id);
            for text in [rule.what, rule.why, rule.remedy] {
                assert!(text.ends_with('.'), "{}: {text}", rule.id);
            }
        }
    }
}
