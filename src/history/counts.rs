//! What a version had counted at one moment, and what came between two.

use std::collections::BTreeMap;

use crate::metrics::cells::QuantileCounts;
use crate::metrics::{Account, Totals};
use crate::route::VersionHash;

/// Of one version at one port, in whatever role it was.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub requests: u64,
    /// Answered 5xx.
    pub errors: u64,
    /// Answers, and tries that failed on the way to it, even if another endpoint or version then saved the request.
    pub tries: u64,
    /// Those answered 5xx, and those that failed on the way.
    pub failed_tries: u64,
    /// What the exact split gave to it. Requests of routes and overrides are not among them.
    pub sent: u64,
    /// What an ideal split would have given to it.
    pub asked: f64,
    pub durations: QuantileCounts,
}

impl Counts {
    pub fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        self.errors += more.errors;
        self.tries += more.tries;
        self.failed_tries += more.failed_tries;
        self.sent += more.sent;
        self.asked += more.asked;
        self.durations.add(&more.durations);
    }

    /// Whoever counted may have begun anew: then there is nothing between the two.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            errors: self.errors.saturating_sub(earlier.errors),
            tries: self.tries.saturating_sub(earlier.tries),
            failed_tries: self.failed_tries.saturating_sub(earlier.failed_tries),
            sent: self.sent.saturating_sub(earlier.sent),
            asked: (self.asked - earlier.asked).max(0.0),
            durations: self.durations.since(&earlier.durations),
        }
    }

    pub fn is_zero(&self) -> bool {
        self.requests == 0 && self.tries == 0 && self.sent == 0
    }

    /// Of tries: what a version is to be judged by. `None` without tries.
    pub fn error_rate(&self) -> Option<f64> {
        (self.tries > 0).then(|| self.failed_tries as f64 / self.tries as f64)
    }
}

/// By the number of the port and the version.
pub type ByVersion = BTreeMap<(usize, VersionHash), Counts>;

/// Everything that was counted until now. `accounts`: by the port's number.
pub fn counted(totals: &Totals, accounts: &[Account]) -> ByVersion {
    let mut all = ByVersion::new();
    for one in &totals.versions {
        let (tries, failed_tries) = one.tries();
        all.entry((one.port, one.version.clone())).or_default().add(&Counts {
            requests: one.requests(),
            errors: one.server_errors(),
            tries,
            failed_tries,
            sent: one.split,
            asked: 0.0,
            durations: one.quantiles.clone(),
        });
    }
    for (port, account) in accounts.iter().enumerate() {
        for one in &account.versions {
            all.entry((port, one.version.clone())).or_default().asked = one.asked_requests;
        }
    }
    all
}

/// What came between two moments. A version that was not there before counted from 0.
pub fn between(earlier: &ByVersion, later: &ByVersion) -> ByVersion {
    let nothing = Counts::default();
    later.iter().map(|(key, counts)| (key.clone(), counts.since(earlier.get(key).unwrap_or(&nothing)))).collect()
}

/// The same, of one version at all ports.
pub fn of_version(all: &ByVersion, version: &VersionHash) -> Counts {
    let mut sum = Counts::default();
    all.iter().filter(|((_, one), _)| one == version).for_each(|(_, counts)| sum.add(counts));
    sum
}
