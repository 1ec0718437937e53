//! Medians, ratios, Markdown and JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::contestant::{Contestant, Kind};
use crate::{Measured, Options, SCENARIOS};

pub struct Report<'a> {
    options: &'a Options,
    contestants: &'a [Contestant],
    scenarios: &'a [usize],
    measured: &'a [Measured],
}

/// Median, least and greatest of some figures.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// `None` without any figure.
    fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median =
            if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 };
        Some(Self { median, min, max })
    }

    fn json(&self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl<'a> Report<'a> {
    pub fn new(
        options: &'a Options,
        contestants: &'a [Contestant],
        scenarios: &'a [usize],
        measured: &'a [Measured],
    ) -> Self {
        Self { options, contestants, scenarios, measured }
    }

    fn of(&self, scenario: usize, contestant: usize) -> impl Iterator<Item = &Measured> {
        self.measured.iter().filter(move |one| one.scenario == scenario && one.contestant == contestant)
    }

    fn spread(&self, scenario: usize, contestant: usize, figure: impl Fn(&Measured) -> f64) -> Option<Spread> {
        Spread::of(self.of(scenario, contestant).map(figure).collect())
    }

    /// The ratios of one proxy's CPU time per request to that of `other`, round by round.
    fn ratio(&self, scenario: usize, contestant: usize, other: Kind) -> Option<Spread> {
        let other = self.contestants.iter().position(|one| one.kind == other)?;
        let in_round = |round| self.of(scenario, other).find(|one| one.round == round);
        let ratio =
            |one: &Measured| Some(one.sample.cpu_us_per_request() / in_round(one.round)?.sample.cpu_us_per_request());
        Spread::of(self.of(scenario, contestant).filter_map(ratio).collect())
    }

    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let options = self.options;
        let _ = writeln!(
            text,
            "CPU time per request, {} rounds of {} s, {} keep-alive connections, one proxy thread, split 90/10, \
             profile `{}`, {} headers, {}.\n\nRatios are medians over rounds (least..greatest), each to the same round.\n",
            options.rounds,
            options.seconds,
            options.connections,
            options.profile,
            if options.equal_headers { "equal" } else { "lean" },
            if options.no_pin { "not pinned" } else { "a core for the proxy" },
        );
        let baseline = self.contestants.iter().any(|one| one.kind == Kind::Baseline);
        let (head, rule) = if baseline { (" x baseline |", "---|") } else { ("", "") };
        let _ = writeln!(
            text,
            "| scenario | proxy | x HAProxy |{head} CPU us/request | requests/s | canary | errors |\n\
             |---|---|---|{rule}---|---|---|---|"
        );
        for &scenario in self.scenarios {
            for (i, contestant) in self.contestants.iter().enumerate() {
                let cell = |spread: Option<Spread>, digits: usize| {
                    spread.map_or("-".to_owned(), |spread| {
                        let Spread { median, min, max } = spread;
                        format!("{median:.digits$} ({min:.digits$}..{max:.digits$})")
                    })
                };
                let against = match baseline {
                    true => format!(" {} |", cell(self.ratio(scenario, i, Kind::Baseline), 3)),
                    false => String::new(),
                };
                let (requests, canary, errors) = self.of(scenario, i).fold((0, 0, 0), |(r, c, e), one| {
                    (r + one.sample.requests, c + one.sample.canary, e + one.sample.errors)
                });
                let _ = writeln!(
                    text,
                    "| {} | {} | {} |{against} {} | {:.0} | {:.2} % | {errors} |",
                    SCENARIOS[scenario].name,
                    contestant.kind.as_str(),
                    cell(self.ratio(scenario, i, Kind::Haproxy), 3),
                    cell(self.spread(scenario, i, |one| one.sample.cpu_us_per_request()), 2),
                    self.spread(scenario, i, |one| one.sample.rate()).map_or(0.0, |spread| spread.median),
                    100.0 * canary as f64 / requests as f64,
                );
            }
        }
        text.push('\n');
        for &scenario in self.scenarios {
            let splitway = self.contestants.iter().position(|one| one.kind == Kind::Splitway);
            if let Some(ratio) = splitway.and_then(|i| self.ratio(scenario, i, Kind::Haproxy)) {
                let target = SCENARIOS[scenario].target;
                let verdict = if ratio.median <= target { "reached" } else { "missed" };
                let _ = writeln!(
                    text,
                    "- {}: {:.3} x HAProxy, target {target:.2}: {verdict}",
                    SCENARIOS[scenario].name, ratio.median
                );
            }
        }
        let _ = writeln!(text);
        for contestant in self.contestants {
            let _ = writeln!(text, "- {}: {}", contestant.kind.as_str(), contestant.version);
        }
        let _ = writeln!(text, "- {}", machine());
        text
    }

    pub fn json(&self) -> String {
        let options = self.options;
        let summaries: Vec<Value> = self
            .scenarios
            .iter()
            .flat_map(|&scenario| (0..self.contestants.len()).map(move |i| (scenario, i)))
            .map(|(scenario, i)| {
                json!({
                    "scenario": SCENARIOS[scenario].name,
                    "proxy": self.contestants[i].kind.as_str(),
                    "target": (self.contestants[i].kind == Kind::Splitway).then_some(SCENARIOS[scenario].target),
                    "ratio_to_haproxy": self.ratio(scenario, i, Kind::Haproxy).map(|spread| spread.json()),
                    "ratio_to_baseline": self.ratio(scenario, i, Kind::Baseline).map(|spread| spread.json()),
                    "cpu_us_per_request":
                        self.spread(scenario, i, |one| one.sample.cpu_us_per_request()).map(|spread| spread.json()),
                    "requests_per_second": self.spread(scenario, i, |one| one.sample.rate()).map(|spread| spread.json()),
                    "errors": self.of(scenario, i).map(|one| one.sample.errors).sum::<u64>(),
                })
            })
            .collect();
        let rounds: Vec<Value> = self
            .measured
            .iter()
            .map(|one| {
                json!({
                    "round": one.round + 1,
                    "scenario": SCENARIOS[one.scenario].name,
                    "proxy": self.contestants[one.contestant].kind.as_str(),
                    "requests": one.sample.requests,
                    "canary_share": one.sample.canary_share(),
                    "errors": one.sample.errors,
                    "first_error": one.sample.first_error,
                    "cpu_seconds": one.sample.cpu.as_secs_f64(),
                    "seconds": one.sample.elapsed.as_secs_f64(),
                })
            })
            .collect();
        let proxies: Vec<Value> =
            self.contestants.iter().map(|one| json!({ "proxy": one.kind.as_str(), "version": one.version })).collect();
        let report = json!({
            "rounds": options.rounds,
            "seconds": options.seconds,
            "connections": options.connections,
            "profile": options.profile,
            "equal_headers": options.equal_headers,
            "pinned": !options.no_pin,
            "machine": machine(),
            "proxies": proxies,
            "summary": summaries,
            "measurements": rounds,
        });
        format!("{report:#}\n")
    }

    /// Why the figures should not be used: errors, or a split that is not the one asked for.
    pub fn problem(&self) -> Option<String> {
        self.measured.iter().find_map(|one| {
            let place = || {
                let proxy = self.contestants[one.contestant].kind.as_str();
                format!("round {}, {}, {proxy}", one.round + 1, SCENARIOS[one.scenario].name)
            };
            if let Some(error) = &one.sample.first_error {
                return Some(format!("{}: {} errors, the first: {error}", place(), one.sample.errors));
            }
            let share = one.sample.canary_share();
            let few = one.sample.requests < 1000;
            (!few && !(0.085..=0.115).contains(&share))
                .then(|| format!("{}: expected 10 % at the canary, found {:.1} %", place(), share * 100.0))
        })
    }
}

/// Kernel and processor, for whoever compares figures.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |it| it.1);
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("Linux {}, {cores} cores, {model}", read("/proc/sys/kernel/osrelease").trim())
}
