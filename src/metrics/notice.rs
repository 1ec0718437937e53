//! What the request path does about versions that get worse, in the log. COLD: the request path counts and never waits for
//! a log, so the lines are made here, from the counters: at once when something new happens, and then at most one per
//! version and [`QUIET`], with all that came in between.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Metrics, VersionCells};
use crate::proxy::Failure;
use crate::route::{Role, VersionHash};

const LOOK: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(10);

/// Until the metrics are gone.
pub async fn run(metrics: Weak<Metrics>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::default();
    loop {
        ticks.tick().await;
        let Some(metrics) = metrics.upgrade() else { return };
        let troubles = metrics.troubles();
        told.forget_all_but(&troubles);
        for (port, version, role, counts) in troubles {
            let now = Instant::now();
            let Some(news) = told.news((port, version.clone(), role), counts, now) else { continue };
            let port = metrics.ports()[port].as_str();
            let role = role.as_str();
            if port.is_empty() {
                tracing::warn!(version = version.as_str(), role, "{news}");
            } else {
                tracing::warn!(port, version = version.as_str(), role, "{news}");
            }
        }
    }
}

/// What is counted of a version that is worth a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Troubles {
    fallbacks: u64,
    put_out: u64,
    returned: u64,
    overflow: u64,
    withheld: u64,
}

impl Troubles {
    fn of(workers: &[Arc<VersionCells>]) -> Self {
        let sum = |cell: fn(&VersionCells) -> u64| workers.iter().map(|cells| cell(cells)).sum();
        Self {
            fallbacks: sum(|cells| cells.stood_in_for.get()),
            put_out: sum(|cells| cells.endpoints_put_out.get()),
            returned: sum(|cells| cells.endpoints_returned.get()),
            overflow: sum(|cells| cells.failures[Failure::Overflow as usize].get()),
            withheld: sum(|cells| cells.retries_withheld.get()),
        }
    }

    /// Series that were dropped and begin anew count less than before: nothing new until they have caught up.
    fn since(&self, before: &Self) -> Self {
        Self {
            fallbacks: self.fallbacks.saturating_sub(before.fallbacks),
            put_out: self.put_out.saturating_sub(before.put_out),
            returned: self.returned.saturating_sub(before.returned),
            overflow: self.overflow.saturating_sub(before.overflow),
            withheld: self.withheld.saturating_sub(before.withheld),
        }
    }

    /// What happened, in one sentence.
    fn sentence(&self) -> String {
        let requests = |n: u64| if n == 1 { "1 request".to_owned() } else { format!("{n} requests") };
        let times = |n: u64| if n == 1 { "once".to_owned() } else { format!("{n} times") };
        let mut parts = Vec::new();
        if self.fallbacks > 0 {
            parts.push(format!(
                "{} answered by another version, because no endpoint could be reached",
                requests(self.fallbacks)
            ));
        }
        if self.put_out > 0 {
            parts.push(format!(
                "an endpoint left out for a while {}, because it failed again and again",
                times(self.put_out)
            ));
        }
        if self.returned > 0 {
            parts.push(format!("an endpoint back after a trial {}", times(self.returned)));
        }
        if self.overflow > 0 {
            parts.push(format!(
                "{} refused, because the endpoints had as many as their limit allows",
                requests(self.overflow)
            ));
        }
        if self.withheld > 0 {
            parts.push(format!("{} not sent a second time, because the budget was used up", requests(self.withheld)));
        }
        parts.join("; ")
    }
}

type Key = (usize, VersionHash, Role);

/// What the log knows already, and since when.
#[derive(Default)]
struct Told(BTreeMap<Key, (Troubles, Instant)>);

impl Told {
    /// What was said of versions whose series were dropped is of no use any more.
    fn forget_all_but(&mut self, troubles: &[(usize, VersionHash, Role, Troubles)]) {
        self.0.retain(|known, _| {
            troubles.iter().any(|(port, version, role, _)| (*port, version, *role) == (known.0, &known.1, known.2))
        });
    }

    fn news(&mut self, key: Key, counts: Troubles, now: Instant) -> Option<String> {
        let before = self.0.get(&key);
        if before.is_some_and(|(_, at)| now.duration_since(*at) < QUIET) {
            return None;
        }
        let new = counts.since(&before.map(|(counts, _)| *counts).unwrap_or_default());
        if new == Troubles::default() {
            return None;
        }
        self.0.insert(key, (counts, now));
        Some(new.sentence())
    }
}

impl Metrics {
    fn troubles(&self) -> Vec<(usize, VersionHash, Role, Troubles)> {
        let versions = self.versions.lock().expect("no holder of this lock panics");
        versions
            .each()
            .map(|((port, version), role, cells)| (*port, version.clone(), role, Troubles::of(cells)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_news_is_told_at_once_and_what_follows_is_told_together() {
        let key = || (0, VersionHash::new("canary"), Role::Canary);
        let (mut told, start) = (Told::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let fallbacks = |fallbacks| Troubles { fallbacks, ..Troubles::default() };
        assert_eq!(told.news(key(), Troubles::default(), after(0)), None);
        let first = told.news(key(), fallbacks(1), after(1)).unwrap();
        assert_eq!(first, "1 request answered by another version, because no endpoint could be reached");
        for second in 2..11 {
            assert_eq!(told.news(key(), fallbacks(second * 100), after(second)), None, "second {second}");
        }
        let other = (1, VersionHash::new("canary"), Role::Canary);
        assert!(told.news(other, fallbacks(1), after(5)).is_some(), "each port and version by itself");
        let counts = Troubles { put_out: 2, returned: 1, ..fallbacks(1001) };
        let later = told.news(key(), counts, after(11)).unwrap();
        assert!(later.starts_with("1000 requests answered by another version"), "{later}");
        assert!(
            later.contains("; an endpoint left out for a while 2 times, ") && later.contains(" trial once"),
            "{later}"
        );
        assert_eq!(told.news(key(), counts, after(60)), None, "nothing new");
    }
}
