//! One report per rollout: what was asked and sent step by step, who failed how often, and why it ended. PURE: it is told
//! how things stand, with the counters of that moment.
//!
//! A rollout begins when a version that is not stable is to get requests, or when the followed Rollout says that an update
//! is in progress. It ends when that version has become stable, when the Rollout is aborted, when the version is to get
//! nothing any more, or when another one takes its place.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use crate::control::rollout::{Analysis, Fact, Progress, State};
use crate::metrics::Outcome;
use crate::route::VersionHash;

use super::counts::{ByVersion, Counts, between, of_version};

/// Reports that are kept, the newest.
pub const KEPT: usize = 20;

/// Weight changes of one rollout that are kept apart; what comes after is added to the last.
const MAX_STEPS: usize = 200;

/// A weight that was in force for less is told with the one after it: what a Rollout says comes a moment before the split
/// that is made of it.
const SHORTEST: Duration = Duration::from_millis(100);

/// Requests that were open at the end are counted, if they end within this time.
const SETTLES: Duration = Duration::from_secs(60);

/// About how many users each version has met since the rollout began. Versions without any are left out.
pub type Users = BTreeMap<VersionHash, u64>;

/// How things stand now.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    pub stable: Option<VersionHash>,
    /// Only while it is being rolled out.
    pub canary: Option<VersionHash>,
    /// The canary's part of what is asked for, from 0 to 1.
    pub asked: f64,
    pub aborted: bool,
    /// What the Rollout's step says, if one is followed.
    pub step: Option<Fact>,
    pub why: Fact,
    pub analyses: Vec<Analysis>,
}

impl Stage {
    /// Of a Rollout that is followed.
    pub fn of_rollout(progress: &Progress, asked: impl Fn(&VersionHash) -> f64) -> Self {
        let canary = progress.canary.as_deref().map(VersionHash::new);
        // The weight in force was set by the last step that sets one and that has been reached.
        let mut reached = progress.steps.iter().take(progress.step + 1).rev();
        let step = reached.find(|step| step.field.ends_with(".setWeight"));
        Self {
            stable: progress.stable.as_deref().map(VersionHash::new),
            asked: canary.as_ref().map_or(0.0, asked),
            canary,
            aborted: progress.state == State::Aborted,
            step: step.cloned(),
            why: progress.why.first().cloned().unwrap_or_default(),
            analyses: progress.analyses.clone(),
        }
    }
}

/// One rollout, from its beginning to now or to its end.
#[derive(Clone, Debug)]
pub struct Report {
    /// 1 is the first of this process.
    pub number: u64,
    pub canary: VersionHash,
    pub stable: Option<VersionHash>,
    pub began: SystemTime,
    /// `None`: it goes on.
    pub ended: Option<(SystemTime, Outcome)>,
    pub why: Fact,
    /// The analyses that have judged it, each as it was seen last.
    pub analyses: Vec<Analysis>,
    pub steps: Vec<Step>,
    /// What every version counted from the beginning to the end.
    pub counts: ByVersion,
    /// Empty if no request was recognised as a user's.
    pub users: Users,
}

impl Report {
    /// The controller shows an analysis while it is the current one.
    fn hear(&mut self, stage: &Stage) {
        for analysis in &stage.analyses {
            match self.analyses.iter_mut().find(|known| known.field == analysis.field) {
                Some(known) => *known = analysis.clone(),
                None => self.analyses.push(analysis.clone()),
            }
        }
    }

    /// What a version counts late was sent to it in the last step in which the canary had a weight.
    fn add_late(&mut self, version: &VersionHash, requests: u64, errors: u64) {
        let Some(step) = self.steps.iter_mut().rfind(|step| step.asked > 0.0) else { return };
        match step.counts.iter_mut().find(|(one, _)| one == version) {
            Some((_, counts)) => {
                counts.requests += requests;
                counts.errors += errors;
            }
            None => step.counts.push((version.clone(), StepCounts { requests, errors, ..StepCounts::default() })),
        }
    }

    /// The one by which it was aborted.
    pub fn objection(&self) -> Option<Analysis> {
        self.ended.filter(|(_, outcome)| *outcome == Outcome::Aborted)?;
        self.analyses.iter().find_map(|analysis| analysis.objected(&self.why.text))
    }
}

/// The time from one change of the canary's weight to the next.
#[derive(Clone, Debug)]
pub struct Step {
    /// What asked for it, if a Rollout is followed.
    pub fact: Option<Fact>,
    pub began: SystemTime,
    pub seconds: f64,
    /// The canary's part of what was asked for, from 0 to 1.
    pub asked: f64,
    pub counts: Vec<(VersionHash, StepCounts)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepCounts {
    pub requests: u64,
    pub errors: u64,
    pub sent: u64,
    /// Requests.
    pub asked: f64,
}

/// The rollout that goes on, and those that have ended.
#[derive(Debug, Default)]
pub struct Rollouts {
    number: u64,
    open: Option<Open>,
    ended: VecDeque<Report>,
    settling: Option<Settling>,
}

#[derive(Debug)]
struct Open {
    /// Without the counts, and without the step that goes on.
    report: Report,
    at_beginning: ByVersion,
    step: OpenStep,
}

#[derive(Debug)]
struct OpenStep {
    fact: Option<Fact>,
    began: SystemTime,
    asked: f64,
    at_beginning: ByVersion,
}

/// The newest report, while requests that were open at its end go on, and the controller's reason is awaited.
#[derive(Debug)]
struct Settling {
    /// The version that gets no more: what it still counts belongs to the report.
    leaver: Option<VersionHash>,
    at_beginning: ByVersion,
    until: SystemTime,
}

impl OpenStep {
    fn until(&self, now: SystemTime, counts: &ByVersion) -> Step {
        let more = between(&self.at_beginning, counts);
        let mut versions: Vec<VersionHash> = more.keys().map(|(_, version)| version.clone()).collect();
        versions.sort();
        versions.dedup();
        let of = |version: VersionHash| {
            let Counts { requests, errors, sent, asked, .. } = of_version(&more, &version);
            (version, StepCounts { requests, errors, sent, asked })
        };
        let counts = versions.into_iter().map(of).filter(|(_, counts)| *counts != StepCounts::default()).collect();
        Step {
            fact: self.fact.clone(),
            began: self.began,
            seconds: seconds(self.began, now),
            asked: self.asked,
            counts,
        }
    }
}

impl Open {
    fn until(&self, now: SystemTime, counts: &ByVersion, users: &Users) -> Report {
        let mut report = self.report.clone();
        report.users = users.clone();
        report.counts = between(&self.at_beginning, counts);
        report.steps.push(self.step.until(now, counts));
        report
    }

    /// From a report until now.
    fn end(&self, mut report: Report, now: SystemTime, outcome: Outcome, stage: &Stage) -> (Report, Settling) {
        report.ended = Some((now, outcome));
        report.why = reason(outcome, stage);
        report.hear(stage);
        let leaver = match outcome {
            Outcome::Promoted => report.stable.clone(),
            Outcome::Aborted | Outcome::Withdrawn | Outcome::Superseded => Some(report.canary.clone()),
        };
        let settling = Settling { leaver, at_beginning: self.at_beginning.clone(), until: now + SETTLES };
        (report, settling)
    }
}

impl Rollouts {
    /// To be called whenever something has changed, and now and then. Returns how the rollout ended that has just ended.
    pub fn look(&mut self, stage: &Stage, now: SystemTime, counts: &ByVersion, users: &Users) -> Option<Outcome> {
        self.settle(stage, now, counts, users);
        let outcome = self.open.as_ref().and_then(|open| ends(&open.report, stage));
        if let Some((outcome, open)) = outcome.zip(self.open.take_if(|_| outcome.is_some())) {
            let report = open.until(now, counts, users);
            let (report, settling) = open.end(report, now, outcome, stage);
            self.ended.push_front(report);
            self.ended.truncate(KEPT);
            self.settling = Some(settling);
        }
        match (&mut self.open, &stage.canary) {
            (Some(open), _) => open.go_on(stage, now, counts),
            (None, Some(canary)) if !stage.aborted => {
                self.number += 1;
                self.settling = None;
                let report = Report {
                    number: self.number,
                    canary: canary.clone(),
                    stable: stage.stable.clone(),
                    began: now,
                    ended: None,
                    why: stage.why.clone(),
                    analyses: stage.analyses.clone(),
                    steps: Vec::new(),
                    counts: ByVersion::new(),
                    users: Users::new(),
                };
                let step = OpenStep::new(stage, now, counts);
                self.open = Some(Open { report, at_beginning: counts.clone(), step });
            }
            (None, _) => {}
        }
        outcome
    }

    fn settle(&mut self, stage: &Stage, now: SystemTime, counts: &ByVersion, users: &Users) {
        let Some((settling, report)) = self.settling.as_ref().zip(self.ended.front_mut()) else { return };
        if now >= settling.until {
            self.settling = None;
            return;
        }
        if let Some(leaver) = &settling.leaver {
            let before = of_version(&report.counts, leaver);
            let late = between(&settling.at_beginning, counts);
            report.counts.extend(late.into_iter().filter(|((_, version), _)| version == leaver));
            let now = of_version(&report.counts, leaver);
            if now.requests > before.requests {
                let errors = now.errors.saturating_sub(before.errors);
                report.add_late(leaver, now.requests - before.requests, errors);
            }
        }
        if let Some((version, users)) = settling.leaver.as_ref().and_then(|leaver| users.get_key_value(leaver)) {
            report.users.insert(version.clone(), *users);
        }
        // The controller gives its reason one patch after the abort.
        let same = stage.canary.as_ref() == Some(&report.canary);
        if same && stage.aborted && matches!(report.ended, Some((_, Outcome::Aborted))) {
            report.why = stage.why.clone();
            report.hear(stage);
        }
    }

    /// Of the newest rollout; 0 before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Of those that have ended.
    pub fn newest_ended(&self) -> Option<&Report> {
        self.ended.front()
    }

    /// Newest first; the one that goes on, if one does, comes first.
    pub fn reports(&self, now: SystemTime, counts: &ByVersion, users: &Users) -> Vec<Report> {
        let open = self.open.iter().map(|open| open.until(now, counts, users));
        open.chain(self.ended.iter().cloned()).collect()
    }

    /// What was counted since the canary's weight last changed in the rollout that goes on, and when that was.
    pub fn step(&self, counts: &ByVersion) -> Option<(ByVersion, SystemTime)> {
        let step = &self.open.as_ref()?.step;
        Some((between(&step.at_beginning, counts), step.began))
    }
}

impl OpenStep {
    fn new(stage: &Stage, now: SystemTime, counts: &ByVersion) -> Self {
        Self { fact: stage.step.clone(), began: now, asked: stage.asked, at_beginning: counts.clone() }
    }
}

impl Open {
    fn go_on(&mut self, stage: &Stage, now: SystemTime, counts: &ByVersion) {
        self.report.why = stage.why.clone();
        self.report.stable = stage.stable.clone().or(self.report.stable.take());
        self.report.hear(stage);
        if stage.asked == self.step.asked {
            return;
        }
        let short = now.duration_since(self.step.began).is_ok_and(|time| time < SHORTEST);
        if short || self.report.steps.len() == MAX_STEPS {
            self.step.asked = stage.asked;
            self.step.fact = stage.step.clone();
        } else {
            self.report.steps.push(self.step.until(now, counts));
            self.step = OpenStep::new(stage, now, counts);
        }
    }
}

fn ends(report: &Report, stage: &Stage) -> Option<Outcome> {
    if stage.stable.as_ref() == Some(&report.canary) {
        return Some(Outcome::Promoted);
    }
    match &stage.canary {
        Some(canary) if *canary != report.canary => Some(Outcome::Superseded),
        Some(_) if stage.aborted => Some(Outcome::Aborted),
        Some(_) => None,
        None => Some(Outcome::Withdrawn),
    }
}

fn reason(outcome: Outcome, stage: &Stage) -> Fact {
    match outcome {
        Outcome::Aborted => stage.why.clone(),
        Outcome::Promoted => Fact::new("the version has become stable", "status.stableRS"),
        Outcome::Withdrawn => Fact::new("the version is to get no requests any more", stage.why.field.clone()),
        Outcome::Superseded => {
            let next = stage.canary.as_ref().map(ToString::to_string).unwrap_or_default();
            Fact::new(format!("version {next} has taken its place"), "status.currentPodHash")
        }
    }
}

fn seconds(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    /// Requests and errors of `v1` and `v2`.
    fn counts(v1: (u64, u64), v2: (u64, u64)) -> ByVersion {
        [("v1", v1), ("v2", v2)]
            .map(|(version, (requests, errors))| {
                let sent = requests;
                (
                    (0, VersionHash::new(version)),
                    Counts { requests, errors, sent, asked: sent as f64, ..Counts::default() },
                )
            })
            .into()
    }

    fn stage(canary: Option<&str>, asked: f64) -> Stage {
        Stage {
            stable: Some(VersionHash::new("v1")),
            canary: canary.map(VersionHash::new),
            asked,
            why: Fact::new("because", "field"),
            ..Stage::default()
        }
    }

    fn aborted(why: &str) -> Stage {
        Stage { aborted: true, why: Fact::new(why, "status.abort"), ..stage(Some("v2"), 0.0) }
    }

    fn of(report: &Report, version: &str) -> (u64, u64) {
        let counts = of_version(&report.counts, &VersionHash::new(version));
        (counts.requests, counts.errors)
    }

    #[test]
    fn an_aborted_rollout_tells_what_was_met_and_why_it_ended() {
        let mut rollouts = Rollouts::default();
        assert_eq!(rollouts.look(&stage(None, 0.0), at(0), &counts((50, 0), (0, 0)), &Users::new()), None);
        assert!(rollouts.reports(at(0), &counts((50, 0), (0, 0)), &Users::new()).is_empty());
        rollouts.look(&stage(Some("v2"), 0.05), at(10), &counts((100, 1), (0, 0)), &Users::new());
        rollouts.look(&stage(Some("v2"), 0.2), at(20), &counts((195, 1), (5, 1)), &Users::new());
        let running = rollouts.reports(at(25), &counts((235, 1), (15, 3)), &Users::new());
        assert!(running.len() == 1 && running[0].ended.is_none());
        assert_eq!((of(&running[0], "v1"), of(&running[0], "v2")), ((135, 0), (15, 3)));
        let analysis = |phase: &str| Analysis {
            name: "v2-1".to_owned(),
            phase: phase.to_owned(),
            field: "status.canary.currentStepAnalysisRunStatus".to_owned(),
            ..Analysis::default()
        };
        let first = Stage { analyses: vec![analysis("Failed")], ..aborted("not said yet") };
        let outcome = rollouts.look(&first, at(30), &counts((275, 1), (25, 5)), &Users::new());
        assert_eq!(outcome, Some(Outcome::Aborted));
        // One request was open at the end. Its version gets no more; the other one does.
        assert_eq!(rollouts.look(&aborted("too many errors"), at(31), &counts((375, 1), (26, 6)), &Users::new()), None);
        let [report] = &rollouts.reports(at(40), &counts((400, 1), (26, 6)), &Users::new())[..] else {
            panic!("one report")
        };
        assert_eq!((of(report, "v1"), of(report, "v2")), ((175, 0), (26, 6)));
        assert_eq!(report.why, Fact::new("too many errors", "status.abort"));
        assert_eq!(report.objection(), Some(analysis("Failed")), "the controller has taken it away meanwhile");
        assert_eq!(report.ended, Some((at(30), Outcome::Aborted)));
        let steps: Vec<_> =
            report.steps.iter().map(|step| (step.asked, step.seconds, step.counts[1].1.errors)).collect();
        assert_eq!(steps, [(0.05, 10.0, 1), (0.2, 10.0, 5)], "the late one, too");
    }

    #[test]
    fn users_who_met_a_version_are_those_of_its_own_rollout() {
        let users = |v1, v2| Users::from([(VersionHash::new("v1"), v1), (VersionHash::new("v2"), v2)]);
        let of = |report: &Report, version| report.users.get(&VersionHash::new(version)).copied();
        let (mut rollouts, nothing) = (Rollouts::default(), ByVersion::new());
        rollouts.look(&stage(Some("v2"), 0.1), at(0), &nothing, &Users::new());
        assert_eq!(of(&rollouts.reports(at(1), &nothing, &users(50, 4))[0], "v2"), Some(4));
        rollouts.look(&aborted("x"), at(2), &nothing, &users(90, 9));
        // One more was on the way when it ended. The other version goes on, and what it meets is not this rollout's.
        rollouts.look(&aborted("x"), at(3), &nothing, &users(200, 10));
        // The next one begins, and from then on they are counted anew.
        rollouts.look(&stage(Some("v3"), 0.1), at(4), &nothing, &users(300, 10));
        assert_eq!(rollouts.number(), 2);
        rollouts.look(&stage(Some("v3"), 0.1), at(5), &nothing, &users(7, 2));
        let reports = rollouts.reports(at(5), &nothing, &users(7, 2));
        assert_eq!((of(&reports[1], "v1"), of(&reports[1], "v2")), (Some(90), Some(10)));
        assert_eq!((of(&reports[0], "v1"), of(&reports[0], "v3")), (Some(7), None));
    }

    #[test]
    fn every_end_has_its_name() {
        let promoted = Stage { stable: Some(VersionHash::new("v2")), ..stage(None, 0.0) };
        for (end, outcome) in [
            (promoted, Outcome::Promoted),
            (aborted("x"), Outcome::Aborted),
            (stage(None, 0.0), Outcome::Withdrawn),
            (stage(Some("v3"), 0.05), Outcome::Superseded),
        ] {
            let mut rollouts = Rollouts::default();
            rollouts.look(&stage(Some("v2"), 0.5), at(0), &ByVersion::new(), &Users::new());
            assert_eq!(rollouts.look(&end, at(1), &ByVersion::new(), &Users::new()), Some(outcome));
            let reports = rollouts.reports(at(1), &ByVersion::new(), &Users::new());
            let next = usize::from(outcome == Outcome::Superseded);
            assert_eq!(reports.len(), 1 + next, "only a successor goes on");
            assert_eq!(reports[next].ended, Some((at(1), outcome)));
        }
    }

    #[test]
    fn a_retry_of_an_aborted_rollout_is_a_rollout_of_its_own() {
        let mut rollouts = Rollouts::default();
        rollouts.look(&stage(Some("v2"), 0.1), at(0), &counts((0, 0), (0, 0)), &Users::new());
        rollouts.look(&aborted("x"), at(1), &counts((9, 0), (1, 1)), &Users::new());
        rollouts.look(&stage(Some("v2"), 0.1), at(100), &counts((90, 0), (1, 1)), &Users::new());
        let reports = rollouts.reports(at(101), &counts((99, 0), (2, 1)), &Users::new());
        assert_eq!(reports.iter().map(|report| report.number).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((of(&reports[0], "v2"), of(&reports[1], "v2")), ((1, 0), (1, 1)));
    }

    #[test]
    fn twenty_are_kept() {
        let mut rollouts = Rollouts::default();
        for i in 0..50 {
            rollouts.look(&stage(Some("v2"), 0.1), at(2 * i), &ByVersion::new(), &Users::new());
            rollouts.look(&stage(None, 0.0), at(2 * i + 1), &ByVersion::new(), &Users::new());
        }
        let reports = rollouts.reports(at(100), &ByVersion::new(), &Users::new());
        assert_eq!((reports.len(), reports[0].number, reports[19].number), (20, 50, 31));
    }

    proptest! {
        /// Whatever the weights do, the steps of a report add up to the whole.
        #[test]
        fn steps_always_add_up(changes in prop::collection::vec((0..5u32, 0..100u64, 0..100u64), 1..300)) {
            let mut rollouts = Rollouts::default();
            rollouts.look(&stage(Some("v2"), 0.9), at(0), &counts((0, 0), (0, 0)), &Users::new());
            let (mut v1, mut v2, mut now) = (0, 0, 0);
            for (weight, more_v1, more_v2) in changes {
                v1 += more_v1;
                v2 += more_v2;
                now += 1;
                rollouts.look(&stage(Some("v2"), f64::from(weight) / 5.0), at(now), &counts((v1, 0), (v2, 0)), &Users::new());
            }
            let report = &rollouts.reports(at(now), &counts((v1, 0), (v2, 0)), &Users::new())[0];
            let sum = |version: &str| -> u64 {
                let version = VersionHash::new(version);
                report.steps.iter().flat_map(|step| &step.counts).filter(|(v, _)| *v == version).map(|(_, c)| c.requests).sum()
            };
            prop_assert_eq!((sum("v1"), sum("v2")), (v1, v2));
            prop_assert_eq!((of(report, "v1").0, of(report, "v2").0), (v1, v2));
            prop_assert!(report.steps.len() <= MAX_STEPS + 1);
        }
    }
}
