//! The fields of a Rollout that routing looks at, as the API server sends them.
//!
//! Every field is optional: the API server prunes what its CRD does not know, the controller leaves out what is empty,
//! and minor releases add fields. What is absent is *unknown*, never zero. A field of another type than the CRD's fails
//! to parse, on purpose: then the API is not the one we know, and keeping the last good state beats guessing.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The object, as the API server sends it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rollout {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Option<Status>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Metadata {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub generation: Option<i64>,
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub replicas: Option<i64>,
    pub selector: Option<Selector>,
    pub template: Option<Template>,
    /// Present when the pod template lives in another object, a Deployment for example.
    pub workload_ref: Option<IgnoredAny>,
    /// A person has stopped it.
    pub paused: Option<bool>,
    pub strategy: Option<Strategy>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    pub match_labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Template {
    pub metadata: Option<TemplateMetadata>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TemplateMetadata {
    pub labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Strategy {
    pub canary: Option<Canary>,
    pub blue_green: Option<BlueGreen>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Canary {
    pub canary_service: Option<String>,
    pub stable_service: Option<String>,
    pub ping_pong: Option<PingPong>,
    pub dynamic_stable_scale: Option<bool>,
    pub traffic_routing: Option<TrafficRouting>,
    pub steps: Option<Vec<Step>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PingPong {
    pub ping_service: Option<String>,
    pub pong_service: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BlueGreen {
    pub active_service: Option<String>,
    pub preview_service: Option<String>,
}

/// Only whether a provider is there matters; what it says is a name for metrics at most.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficRouting {
    pub max_traffic_weight: Option<i64>,
    pub managed_routes: Option<Vec<ManagedName>>,
    pub istio: Option<IgnoredAny>,
    pub nginx: Option<Nginx>,
    pub alb: Option<IgnoredAny>,
    pub smi: Option<IgnoredAny>,
    pub ambassador: Option<IgnoredAny>,
    pub app_mesh: Option<IgnoredAny>,
    pub traefik: Option<IgnoredAny>,
    pub apisix: Option<IgnoredAny>,
    pub plugins: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Nginx {
    pub stable_ingress: Option<String>,
    pub stable_ingresses: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ManagedName {
    pub name: Option<String>,
}

/// One step: exactly one field is set. The fields that routing has no use for are read to say what is waited for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Step {
    pub set_weight: Option<i64>,
    pub set_header_route: Option<SetHeaderRoute>,
    pub set_mirror_route: Option<SetMirrorRoute>,
    pub pause: Option<Pause>,
    pub set_canary_scale: Option<IgnoredAny>,
    pub analysis: Option<StepAnalysis>,
    pub experiment: Option<IgnoredAny>,
    pub plugin: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pause {
    /// A Go duration, or a number of seconds. `None`: until a person resumes it.
    pub duration: Option<Duration>,
}

/// Only shown.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Duration {
    Seconds(i64),
    Text(String),
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StepAnalysis {
    pub templates: Option<Vec<TemplateName>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TemplateName {
    pub template_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SetHeaderRoute {
    pub name: Option<String>,
    pub r#match: Option<Vec<HeaderRouteMatch>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderRouteMatch {
    pub header_name: Option<String>,
    pub header_value: Option<StringMatch>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SetMirrorRoute {
    pub name: Option<String>,
    pub percentage: Option<i64>,
    pub r#match: Option<Vec<MirrorMatch>>,
}

/// The conditions of one match are ANDed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MirrorMatch {
    pub method: Option<StringMatch>,
    pub path: Option<StringMatch>,
    pub headers: Option<BTreeMap<String, StringMatch>>,
}

/// At most one is set; none means "present".
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StringMatch {
    pub exact: Option<String>,
    pub prefix: Option<String>,
    pub regex: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// A number in a string.
    pub observed_generation: Option<String>,
    pub workload_observed_generation: Option<String>,
    #[serde(rename = "stableRS")]
    pub stable_rs: Option<String>,
    pub current_pod_hash: Option<String>,
    pub current_step_index: Option<i64>,
    /// Of the steps that the index points into. Only good for comparing with an earlier one: it cannot be recomputed,
    /// because it is taken from how one version of the controller writes the steps.
    pub current_step_hash: Option<String>,
    /// Of all the Rollout's pods, as a label selector.
    pub selector: Option<String>,
    pub abort: Option<bool>,
    pub promote_full: Option<bool>,
    /// `Healthy`, `Progressing`, `Paused` or `Degraded`, and why.
    pub phase: Option<String>,
    pub message: Option<String>,
    pub pause_conditions: Option<Vec<PauseCondition>>,
    pub canary: Option<CanaryStatus>,
    pub blue_green: Option<BlueGreenStatus>,
    pub conditions: Option<Vec<Condition>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PauseCondition {
    pub reason: Option<String>,
    /// RFC 3339.
    pub start_time: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CanaryStatus {
    pub weights: Option<Weights>,
    pub stable_ping_pong: Option<String>,
    /// Soon after an abort the controller takes these away.
    pub current_step_analysis_run_status: Option<AnalysisRunStatus>,
    pub current_background_analysis_run_status: Option<AnalysisRunStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AnalysisRunStatus {
    pub name: Option<String>,
    /// `Pending`, `Running`, `Successful`, `Failed`, `Error` or `Inconclusive`.
    pub status: Option<String>,
    pub message: Option<String>,
}

/// The last split that the controller's traffic router accepted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Weights {
    pub canary: Option<Weight>,
    pub stable: Option<Weight>,
    pub additional: Option<Vec<Weight>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Weight {
    pub weight: Option<i64>,
    pub service_name: Option<String>,
    pub pod_template_hash: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BlueGreenStatus {
    pub active_selector: Option<String>,
    pub preview_selector: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Condition {
    pub r#type: Option<String>,
    pub status: Option<String>,
    pub message: Option<String>,
}

impl TrafficRouting {
    pub fn has_provider(&self) -> bool {
        let built_in =
            [&self.istio, &self.alb, &self.smi, &self.ambassador, &self.app_mesh, &self.traefik, &self.apisix];
        self.nginx.is_some()
            || built_in.iter().any(|provider| provider.is_some())
            || self.plugins.as_ref().is_some_and(|plugins| !plugins.is_empty())
    }
}
