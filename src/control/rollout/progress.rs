//! Where a Rollout stands, and why, in words: for people, never for routing. PURE.
//!
//! Every [`Fact`] names the field that says so, as `kubectl explain` and JSON paths write it.

use serde::{Deserialize, Serialize};

use super::{Duration, Hold, Intent, Rollout, Step, intent};
use crate::control::rollout::Finer;
use crate::route::VersionHash;

/// A sentence, and the field of the Rollout that it comes from; empty where it is no field of the Rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub text: String,
    pub field: String,
}

impl Fact {
    pub fn new(text: impl Into<String>, field: impl Into<String>) -> Self {
        Self { text: text.into(), field: field.into() }
    }
}

/// Where a Rollout stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub state: State,
    /// In order; may be none.
    pub steps: Vec<Fact>,
    /// The step that is being worked on, from 0; as many as there are steps when all are done.
    pub step: usize,
    pub stable: Option<String>,
    /// The version that is rolled out, or that was when the rollout was aborted. `None`: no update is in progress.
    pub canary: Option<String>,
    /// The controller's own word: `Healthy`, `Progressing`, `Paused`, `Degraded`. `None`: it has said nothing yet.
    pub phase: Option<String>,
    /// Why it stands where it does; the main reason first.
    pub why: Vec<Fact>,
    /// The AnalysisRuns that judge the canary now, or that have just ended.
    #[serde(default)]
    pub analyses: Vec<Analysis>,
}

/// An AnalysisRun, as the Rollout's status shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysis {
    pub name: String,
    /// `Running`, `Successful`, `Failed`, `Error`, `Inconclusive`; empty: it has not begun.
    pub phase: String,
    /// Its own words; may be none.
    pub message: String,
    /// Of the Rollout, where it is shown.
    pub field: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There is no Rollout, or its controller has not said anything yet.
    #[default]
    Unknown,
    /// No update is in progress.
    Idle,
    /// The controller works on a step.
    Step,
    /// It waits for a person or for time.
    Paused,
    /// Spec and status cannot be read together, so what was asked for last stays.
    Hold,
    /// Traffic follows the pods that are there.
    Ramp,
    /// The update was given up.
    Aborted,
}

/// `ready`: how many endpoints a version has.
pub fn progress(rollout: Option<&Rollout>, ready: impl Fn(&VersionHash) -> usize) -> Progress {
    let Some(rollout) = rollout else {
        let why = vec![Fact::new("there is no such Rollout: all pods that are ready share the requests evenly", "")];
        return Progress { why, ..Progress::default() };
    };
    let status = rollout.status.as_ref();
    let (stable, current) = (rollout.stable(), rollout.current());
    let canary = current.filter(|current| stable.is_some() && Some(current) != stable.as_ref());
    let (state, why) = stands(rollout, canary.as_ref(), ready);
    Progress {
        state,
        steps: rollout.steps().iter().enumerate().map(|(i, step)| step.fact(i)).collect(),
        step: rollout.step_index(),
        stable: stable.map(|version| version.to_string()),
        canary: canary.map(|version| version.to_string()),
        phase: status.and_then(|status| status.phase.clone()).filter(|phase| !phase.is_empty()),
        why,
        analyses: analyses(rollout),
    }
}

/// Where the status shows them, and what the controller calls each of them when it aborts because of it.
const RUNS: [(&str, &str); 2] = [
    ("status.canary.currentBackgroundAnalysisRunStatus", "Background analysis phase error/failed"),
    ("status.canary.currentStepAnalysisRunStatus", "Step-based analysis phase error/failed"),
];

fn analyses(rollout: &Rollout) -> Vec<Analysis> {
    let Some(canary) = rollout.status.as_ref().and_then(|status| status.canary.as_ref()) else { return Vec::new() };
    let runs = [&canary.current_background_analysis_run_status, &canary.current_step_analysis_run_status];
    let shown = RUNS.iter().zip(runs).filter_map(|((field, _), run)| {
        let run = run.as_ref()?;
        Some(Analysis {
            name: run.name.clone()?,
            phase: run.status.clone().unwrap_or_default(),
            message: run.message.clone().unwrap_or_default(),
            field: (*field).to_owned(),
        })
    });
    shown.collect()
}

impl Analysis {
    /// Whether a rollout that was aborted for this reason was so by this analysis, which then has failed: the controller takes
    /// it out of the status so soon that its last phase may not have been seen.
    pub fn objected(&self, why: &str) -> Option<Analysis> {
        if self.phase == "Failed" || self.phase == "Error" {
            return Some(self.clone());
        }
        let (_, words) = RUNS.iter().find(|(field, _)| *field == self.field)?;
        let (_, message) = why.split_once(words)?;
        let message = message.trim_start_matches(": ").to_owned();
        Some(Analysis { phase: "Failed".to_owned(), message, ..self.clone() })
    }
}

fn stands(
    rollout: &Rollout,
    canary: Option<&VersionHash>,
    ready: impl Fn(&VersionHash) -> usize,
) -> (State, Vec<Fact>) {
    let Some(status) = &rollout.status else {
        return (State::Unknown, vec![Fact::new("the controller has not looked at the Rollout yet", "status")]);
    };
    let message = status.message.as_deref().filter(|message| !message.is_empty());
    if rollout.aborted() {
        // The controller's word comes one patch after the abort.
        let text = match message.filter(|_| status.phase.as_deref() == Some("Degraded")) {
            Some(message) => format!("aborted: {}", message.strip_prefix("RolloutAborted: ").unwrap_or(message)),
            None => "aborted; the controller has not said why yet".to_owned(),
        };
        return (State::Aborted, vec![Fact::new(text, "status.abort"), said(status.phase.as_deref(), message)]);
    }
    match rollout.hold() {
        Some(Hold::InvalidSpec(message)) => {
            let text = format!("hold: the controller refuses the spec, so the split stays as it was: {message}");
            return (State::Hold, vec![Fact::new(text, "status.conditions[type=InvalidSpec]")]);
        }
        Some(Hold::Behind) => {
            let text = "hold: the controller has not read the newest spec yet, so the split stays as it was";
            return (State::Hold, vec![Fact::new(text, "status.observedGeneration")]);
        }
        None => {}
    }
    let Some(canary) = canary else {
        let text = match (rollout.stable(), message) {
            (None, _) => "the first version is being deployed",
            (_, Some(message)) => message,
            (_, None) => "no update is in progress",
        };
        return (State::Idle, vec![Fact::new(text, "status.stableRS")]);
    };
    let (step, steps) = (rollout.step_index(), rollout.steps());
    let place = || match steps.len() {
        0 => "without steps".to_owned(),
        of if step >= of => "after the last step".to_owned(),
        of => format!("at step {} of {of}", step + 1),
    };
    if rollout.spec.paused == Some(true) {
        return (State::Paused, vec![Fact::new(format!("paused {} by a person", place()), "spec.paused")]);
    }
    if let Some(pause) = status.pause_conditions.as_deref().and_then(<[_]>::first) {
        let since = pause.start_time.as_deref().map(|at| format!(", since {at}")).unwrap_or_default();
        let until = match (pause.reason.as_deref(), steps.get(step).and_then(|step| step.pause.as_ref())) {
            (Some("InconclusiveAnalysisRun"), _) => {
                "because an analysis could not tell; a person has to go on or to abort".to_owned()
            }
            (_, Some(pause)) => pause.until(),
            (reason, None) => format!("({})", reason.unwrap_or("no reason given")),
        };
        let text = format!("paused {} {until}{since}", place());
        return (State::Paused, vec![Fact::new(text, format!("spec.strategy.canary.steps[{step}].pause"))]);
    }
    let (is, want) = (ready(canary), rollout.replicas());
    let pods = Fact::new(format!("{is} of {want} pods of canary {canary} are ready"), "spec.replicas");
    let in_words = |intent| match intent {
        Intent::Ramp { .. } => Some(format!("ramp {}: the canary gets what its ready pods can carry", place())),
        Intent::Follow { from, to, pair } => Some(format!(
            "ramp {}: the split follows the pods that are ready, from {from} to {to} of {}",
            place(),
            pair.total
        )),
        Intent::All(_) | Intent::Bootstrap | Intent::Shares(_) | Intent::Exact { .. } => None,
    };
    if let Some(text) = intent(rollout, &Finer::default()).ok().and_then(in_words) {
        return (State::Ramp, vec![Fact::new(text, "status.currentStepIndex"), pods]);
    }
    let works = match steps.get(step) {
        Some(step_now) => {
            let fact = step_now.fact(step);
            Fact::new(format!("works {}: {}", place(), fact.text), fact.field)
        }
        None => Fact::new(format!("works {}", place()), "status.currentStepIndex"),
    };
    (State::Step, vec![works, said(status.phase.as_deref(), message), pods])
}

/// The controller's own words.
fn said(phase: Option<&str>, message: Option<&str>) -> Fact {
    let text = match (phase, message) {
        (Some(phase), Some(message)) => format!("the controller says {phase}: {message}"),
        (Some(phase), None) => format!("the controller says {phase}"),
        (None, _) => "the controller has said nothing yet".to_owned(),
    };
    Fact::new(text, "status.message")
}

impl Step {
    /// What it does, as its author wrote it.
    fn fact(&self, index: usize) -> Fact {
        let (field, text) = if let Some(weight) = self.set_weight {
            ("setWeight", format!("setWeight {weight}"))
        } else if let Some(pause) = &self.pause {
            ("pause", format!("pause {}", pause.until()))
        } else if let Some(route) = &self.set_header_route {
            ("setHeaderRoute", format!("setHeaderRoute {}", route.name.as_deref().unwrap_or_default()))
        } else if let Some(route) = &self.set_mirror_route {
            ("setMirrorRoute", format!("setMirrorRoute {}", route.name.as_deref().unwrap_or_default()))
        } else if let Some(analysis) = &self.analysis {
            let templates = analysis.templates.iter().flatten();
            let names: Vec<_> = templates.filter_map(|template| template.template_name.as_deref()).collect();
            ("analysis", format!("analysis {}", names.join(", ")))
        } else if self.experiment.is_some() {
            ("experiment", "experiment".to_owned())
        } else if self.set_canary_scale.is_some() {
            ("setCanaryScale", "setCanaryScale".to_owned())
        } else if self.plugin.is_some() {
            ("plugin", "plugin".to_owned())
        } else {
            ("", "a step of a kind that is not known here".to_owned())
        };
        let dot = if field.is_empty() { "" } else { "." };
        Fact::new(text.trim_end(), format!("spec.strategy.canary.steps[{index}]{dot}{field}"))
    }
}

impl super::Pause {
    fn until(&self) -> String {
        match &self.duration {
            None => "until a person resumes it".to_owned(),
            Some(Duration::Seconds(seconds)) => format!("for {seconds}s"),
            Some(Duration::Text(text)) => format!("for {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rollout(steps: Value, status: Value) -> Rollout {
        let mut whole =
            json!({"observedGeneration": "2", "stableRS": "v1", "currentPodHash": "v2", "currentStepIndex": 0});
        whole.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": 3, "strategy": {"canary": {"trafficRouting": {}, "steps": steps}}},
            "status": whole,
        }))
        .unwrap()
    }

    fn steps() -> Value {
        json!([
            {"setWeight": 33}, {"pause": {}}, {"pause": {"duration": "10m"}}, {"pause": {"duration": 5}},
            {"analysis": {"templates": [{"templateName": "errors"}]}}, {"experiment": {"templates": []}},
            {"setCanaryScale": {"weight": 1}}, {"setHeaderRoute": {"name": "testers"}}, {"plugin": {"name": "x"}}, {}
        ])
    }

    fn main_reason(status: Value, ready: usize) -> (State, String, String) {
        let progress = progress(Some(&rollout(steps(), status)), |_| ready);
        let main = progress.why[0].clone();
        (progress.state, main.text, main.field)
    }

    #[test]
    fn every_kind_of_step_has_words_and_its_field() {
        let progress = progress(Some(&rollout(steps(), json!({}))), |_| 0);
        let texts: Vec<_> = progress.steps.iter().map(|fact| fact.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "setWeight 33",
                "pause until a person resumes it",
                "pause for 10m",
                "pause for 5s",
                "analysis errors",
                "experiment",
                "setCanaryScale",
                "setHeaderRoute testers",
                "plugin",
                "a step of a kind that is not known here"
            ]
        );
        assert_eq!(progress.steps[1].field, "spec.strategy.canary.steps[1].pause");
        assert_eq!(progress.steps[9].field, "spec.strategy.canary.steps[9]");
        assert_eq!((progress.stable.as_deref(), progress.canary.as_deref()), (Some("v1"), Some("v2")));
    }

    #[test]
    fn what_is_waited_for_is_said_first() {
        let paused = json!({"currentStepIndex": 1, "phase": "Paused",
            "pauseConditions": [{"reason": "CanaryPauseStep", "startTime": "2026-11-24T02:30:36Z"}]});
        let (state, text, field) = main_reason(paused, 1);
        assert_eq!(
            (state, text.as_str(), field.as_str()),
            (
                State::Paused,
                "paused at step 2 of 10 until a person resumes it, since 2026-11-24T02:30:36Z",
                "spec.strategy.canary.steps[1].pause"
            )
        );
        let (state, text, _) = main_reason(json!({"phase": "Progressing", "message": "more replicas"}), 1);
        assert_eq!((state, text.as_str()), (State::Step, "works at step 1 of 10: setWeight 33"));
        let (state, text, _) = main_reason(json!({"observedGeneration": "1"}), 1);
        assert!(state == State::Hold && text.contains("newest spec"), "{text}");
        let (state, text, field) = main_reason(
            json!({"conditions": [{"type": "InvalidSpec", "status": "True", "message": "no such step"}]}),
            1,
        );
        assert!(state == State::Hold && text.ends_with("no such step") && field.contains("InvalidSpec"), "{text}");
        let (state, text, _) = main_reason(json!({"currentStepIndex": 10}), 1);
        assert!(state == State::Ramp && text.starts_with("ramp after the last step"), "{text}");
        let (state, text, _) = main_reason(json!({"currentPodHash": "v1", "phase": "Healthy"}), 3);
        assert_eq!((state, text.as_str()), (State::Idle, "no update is in progress"));
        let inconclusive = json!({"pauseConditions": [{"reason": "InconclusiveAnalysisRun"}]});
        assert!(main_reason(inconclusive, 1).1.contains("an analysis could not tell"));
    }

    #[test]
    fn an_abort_is_told_at_once_and_explained_when_the_controller_explains_it() {
        let (state, text, field) =
            main_reason(json!({"abort": true, "phase": "Paused", "message": "CanaryPauseStep"}), 1);
        assert_eq!(
            (state, text.as_str(), field.as_str()),
            (State::Aborted, "aborted; the controller has not said why yet", "status.abort")
        );
        let degraded = "RolloutAborted: Rollout aborted update to revision 2: metric \"errors\" assessed Failed";
        let (_, text, _) = main_reason(json!({"abort": true, "phase": "Degraded", "message": degraded}), 1);
        assert_eq!(text, "aborted: Rollout aborted update to revision 2: metric \"errors\" assessed Failed");
    }

    #[test]
    fn an_analysis_is_shown_and_known_as_the_one_that_objected_even_if_its_end_was_not_seen() {
        for (field, kind) in
            [("currentBackgroundAnalysisRunStatus", "Background"), ("currentStepAnalysisRunStatus", "Step-based")]
        {
            let shown = |phase: &str, message: &str| {
                let run = json!({"name": "shop-7f9c-2", "status": phase, "message": message});
                progress(Some(&rollout(steps(), json!({"canary": {field: run}}))), |_| 1).analyses
            };
            let message = "Metric \"errors\" assessed Failed due to failed (2) > failureLimit (1)";
            let failed = shown("Failed", message);
            assert_eq!(failed[0].field, format!("status.canary.{field}"));
            assert_eq!(failed[0].objected(""), Some(failed[0].clone()));
            let running = &shown("Running", "")[0];
            assert_eq!(running.objected("aborted by a person"), None);
            let why =
                format!("aborted: Rollout aborted update to revision 2: {kind} analysis phase error/failed: {message}");
            assert_eq!(running.objected(&why), Some(failed[0].clone()));
        }
        assert_eq!(progress(Some(&rollout(steps(), json!({}))), |_| 1).analyses, []);
    }

    #[test]
    fn nothing_is_known_before_the_controller_has_spoken() {
        assert_eq!(progress(None, |_| 0).state, State::Unknown);
        assert_eq!(progress(Some(&Rollout::default()), |_| 0).state, State::Unknown);
    }
}
