//! The last half hour, second by second, in little memory: a second holds only versions that are live or had requests.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::metrics::cells::QuantileCounts;
use crate::route::{Role, VersionHash};

use super::counts::{ByVersion, Counts};

/// How long a second is remembered.
pub const KEPT: Duration = Duration::from_secs(30 * 60);

/// What one version did in one second.
#[derive(Clone, Debug)]
pub struct VersionSecond {
    /// By number.
    pub port: usize,
    pub version: VersionHash,
    /// `None`: no longer live.
    pub role: Option<Role>,
    /// The part of the split's requests that was asked for at the end of the second, from 0 to 1.
    pub asked: f64,
    /// Requests that the split gave to it, above (+) or below (-) what was asked, since the process started.
    pub error_in_requests: f64,
    pub in_flight: i64,
    pub requests: u64,
    pub errors: u64,
    pub tries: u64,
    pub failed_tries: u64,
    pub sent: u64,
    /// What an ideal split would have given to it in this second.
    pub asked_requests: f64,
    durations: Box<[(u8, u32)]>,
}

impl VersionSecond {
    pub fn durations(&self) -> QuantileCounts {
        let mut counts = QuantileCounts::default();
        self.durations.iter().for_each(|(cell, count)| counts.add_at(usize::from(*cell), u64::from(*count)));
        counts
    }

    fn counts(&self) -> Counts {
        Counts {
            requests: self.requests,
            errors: self.errors,
            tries: self.tries,
            failed_tries: self.failed_tries,
            sent: self.sent,
            asked: self.asked_requests,
            durations: self.durations(),
        }
    }
}

/// The time from one look to the next: about a second.
#[derive(Clone, Debug)]
pub struct Second {
    /// 1 is the first.
    pub number: u64,
    /// When it ended.
    pub at: SystemTime,
    pub length: Duration,
    pub versions: Vec<VersionSecond>,
}

/// How things stood when a second ended.
#[derive(Clone, Debug)]
pub struct Standing {
    pub port: usize,
    pub version: VersionHash,
    pub role: Option<Role>,
    pub asked: f64,
    pub error_in_requests: f64,
    pub in_flight: i64,
}

#[derive(Debug, Default)]
pub struct Seconds {
    all: VecDeque<Second>,
    number: u64,
}

impl Seconds {
    /// `more`: what was counted in it.
    pub fn push(&mut self, at: SystemTime, length: Duration, standing: Vec<Standing>, more: &ByVersion) -> u64 {
        let nothing = Counts::default();
        let versions = standing.into_iter().filter_map(|one| {
            let counts = more.get(&(one.port, one.version.clone())).unwrap_or(&nothing);
            let idle = one.role.is_none() && counts.is_zero() && one.in_flight == 0;
            (!idle).then(|| VersionSecond {
                port: one.port,
                version: one.version,
                role: one.role,
                asked: one.asked,
                error_in_requests: one.error_in_requests,
                in_flight: one.in_flight,
                requests: counts.requests,
                errors: counts.errors,
                tries: counts.tries,
                failed_tries: counts.failed_tries,
                sent: counts.sent,
                asked_requests: counts.asked,
                durations: counts.durations.cells().map(|(cell, n)| (cell as u8, n as u32)).collect(),
            })
        });
        self.number += 1;
        self.all.push_back(Second { number: self.number, at, length, versions: versions.collect() });
        // By number, not by time: a clock that jumps must neither empty it nor let it grow.
        while self.all.len() > KEPT.as_secs() as usize {
            self.all.pop_front();
        }
        self.number
    }

    /// Oldest first: those after this number.
    pub fn after(&self, number: u64) -> impl Iterator<Item = &Second> {
        self.all.iter().filter(move |second| second.number > number)
    }

    /// What was counted in the newest seconds that are at least as long as `window` together, and how long they really
    /// were; less if there are not so many.
    pub fn sum(&self, window: Duration) -> (ByVersion, Duration) {
        let (mut all, mut length) = (ByVersion::new(), Duration::ZERO);
        for second in self.all.iter().rev() {
            if length >= window {
                break;
            }
            length += second.length;
            for one in &second.versions {
                all.entry((one.port, one.version.clone())).or_default().add(&one.counts());
            }
        }
        (all, length)
    }
}

/// A second in which one version was asked for so much, and answered so many requests.
#[cfg(test)]
pub(crate) fn made_up(number: u64, version: &str, asked: f64, requests: u64) -> Second {
    let version = VersionSecond {
        port: 0,
        version: VersionHash::new(version),
        role: Some(Role::Stable),
        asked,
        error_in_requests: 0.0,
        in_flight: 0,
        requests,
        errors: 0,
        sent: requests,
        asked_requests: requests as f64,
        tries: 0,
        failed_tries: 0,
        durations: Box::default(),
    };
    Second { number, at: SystemTime::UNIX_EPOCH, length: Duration::from_secs(1), versions: vec![version] }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn standing(version: &str, role: Option<Role>) -> Standing {
        Standing { port: 0, version: VersionHash::new(version), role, asked: 0.5, error_in_requests: 0.0, in_flight: 0 }
    }

    fn counted(version: &str, requests: u64) -> ByVersion {
        [((0, VersionHash::new(version)), Counts { requests, ..Counts::default() })].into()
    }

    #[test]
    fn half_an_hour_is_kept_and_no_more() {
        let mut seconds = Seconds::default();
        for _ in 0..2000 {
            seconds.push(
                SystemTime::now(),
                Duration::from_secs(1),
                vec![standing("a", Some(Role::Stable))],
                &counted("a", 1),
            );
        }
        assert_eq!(seconds.after(0).count(), 1800);
        assert_eq!(seconds.after(0).next().map(|second| second.number), Some(201));
        assert_eq!(seconds.after(1999).count(), 1);
        let (sum, length) = seconds.sum(Duration::from_secs(3600));
        assert_eq!((sum[&(0, VersionHash::new("a"))].requests, length), (1800, KEPT));
    }

    #[test]
    fn a_version_that_is_gone_is_shown_while_it_still_has_requests() {
        let mut seconds = Seconds::default();
        let mut shown = |requests| {
            let more = counted("old", requests);
            seconds.push(SystemTime::now(), Duration::from_secs(1), vec![standing("old", None)], &more);
            seconds.all.back().map(|second| second.versions.len())
        };
        assert_eq!((shown(1), shown(0)), (Some(1), Some(0)));
    }

    proptest! {
        #[test]
        fn the_sum_is_always_that_of_the_newest_seconds(counts in prop::collection::vec(0..100u64, 1..50), window in 1..60u64) {
            let mut seconds = Seconds::default();
            for count in &counts {
                let live = vec![standing("a", Some(Role::Stable))];
                seconds.push(SystemTime::now(), Duration::from_secs(1), live, &counted("a", *count));
            }
            let (sum, length) = seconds.sum(Duration::from_secs(window));
            let expected: u64 = counts.iter().rev().take(window as usize).sum();
            prop_assert_eq!(sum[&(0, VersionHash::new("a"))].requests, expected);
            prop_assert_eq!(length.as_secs(), window.min(counts.len() as u64));
        }
    }
}
