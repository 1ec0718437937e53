//! The cells of every version, and when they are given up. COLD: locked on changes and on scrapes.
//!
//! A version that is no longer in the live snapshot keeps its series for [`KEPT`], so that no window of a query ends in
//! nothing, and gauges are seen to come down. Then they are dropped, all roles at once: a hash never comes back under
//! the controller, unless it is rolled back to, and then its series begin at 0 again, which `rate` takes for the restart
//! that it is.
//!
//! **Nothing is lost that somebody still counts.** Cells are dropped only while nobody but this table holds them; a worker
//! holds those of its own snapshot and those of every request that it has not finished. Whoever wants them again asks here,
//! under the same lock, and gets new ones.
//!
//! **The split's account goes on.** It is about all requests since the process started, so what the split gave to a version
//! is remembered for good, in one number beside the name (the split itself remembers as much). What is freed is the rest: about
//! 17 KiB per worker and role.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::VersionCells;
use crate::route::live::Live;
use crate::route::{Role, VersionHash};

/// Longer than any window that decides about a rollout.
pub const KEPT: Duration = Duration::from_secs(3600);

/// One port, by number, and one version.
pub type Key = (usize, VersionHash);

#[derive(Default)]
pub struct Versions {
    all: BTreeMap<Key, Version>,
    /// What cells that were dropped had counted of labels without room.
    overflow_before: u64,
}

#[derive(Default)]
struct Version {
    /// For each role that it ever had here: the cells of every worker. None once they are dropped.
    roles: BTreeMap<Role, Vec<Arc<VersionCells>>>,
    /// What cells that were dropped had counted of the split.
    split_before: u64,
    /// Since when it is not in the live snapshot.
    gone: Option<Instant>,
}

impl Versions {
    /// The cells of all workers. Asking creates the series, at 0.
    pub fn cells(&mut self, port: usize, version: &VersionHash, role: Role, workers: usize) -> &[Arc<VersionCells>] {
        let fresh = || (0..workers).map(|_| Arc::default()).collect();
        self.all.entry((port, version.clone())).or_default().roles.entry(role).or_insert_with(fresh)
    }

    /// Looks at what is live: creates the series that are missing, and drops those that are too old.
    pub fn look(&mut self, live: &Live, workers: usize, now: Instant) {
        let mut here = HashSet::new();
        for port in 0..live.ports() {
            let Some(snapshot) = live.current(port) else { continue };
            for backend in snapshot.backends() {
                self.cells(port, &backend.version, backend.role, workers);
                here.insert((port, backend.version.clone()));
            }
        }
        for (key, version) in &mut self.all {
            version.gone = if here.contains(key) { None } else { version.gone.or(Some(now)) };
            if version.gone.is_some_and(|gone| now.duration_since(gone) >= KEPT) && !version.is_held() {
                for cells in std::mem::take(&mut version.roles).values().flatten() {
                    version.split_before += cells.split.get();
                    self.overflow_before += cells.requests.overflow.get() + cells.copies.overflow.get();
                }
            }
        }
    }

    /// Each version in each role, in a fixed order, with the cells of every worker.
    pub fn each(&self) -> impl Iterator<Item = (&Key, Role, &[Arc<VersionCells>])> {
        self.all
            .iter()
            .flat_map(|(key, version)| version.roles.iter().map(move |(role, cells)| (key, *role, cells.as_slice())))
    }

    /// What the split gave to versions before their series were dropped; there are none of those that never were.
    pub fn split_before(&self) -> BTreeMap<Key, u64> {
        let dropped = self.all.iter().filter(|(_, version)| version.split_before > 0 || version.roles.is_empty());
        dropped.map(|(key, version)| (key.clone(), version.split_before)).collect()
    }

    pub fn overflow_before(&self) -> u64 {
        self.overflow_before
    }
}

impl Version {
    /// Whether somebody else may still count. If nobody does, all that was counted is seen from here on, because
    /// `get_mut` synchronizes with the last one who let go.
    fn is_held(&mut self) -> bool {
        self.roles.values_mut().flatten().any(|cells| Arc::get_mut(cells).is_none())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::made_up;
    use crate::route::Role::{Canary, Stable};
    use crate::route::live::Publisher;

    /// What the table holds: versions with their roles.
    fn held(versions: &Versions) -> Vec<(&str, Role)> {
        versions.each().map(|((_, version), role, _)| (version.as_str(), role)).collect()
    }

    #[test]
    fn a_version_that_is_gone_keeps_all_its_series_for_an_hour_and_then_loses_them_all() {
        let (a, b) = (VersionHash::new("a"), VersionHash::new("b"));
        let start = Instant::now();
        let minutes = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let (mut publisher, live) = made_up::live(&[("a", Stable, 1), ("b", Canary, 1)]);
        let mut versions = Versions::default();
        versions.look(&live, 2, minutes(0));
        versions.cells(0, &b, Canary, 2)[1].split.add(5);
        versions.cells(0, &b, Canary, 2)[0].requests.overflow.add(3);
        // The promotion, and then a version that takes the place of `a`.
        made_up::publish(&mut publisher, &[("b", Stable, 1)]);
        versions.look(&live, 2, minutes(10));
        made_up::publish(&mut publisher, &[("b", Stable, 1), ("c", Canary, 1)]);
        versions.look(&live, 2, minutes(69));
        assert_eq!(held(&versions), [("a", Stable), ("b", Stable), ("b", Canary), ("c", Canary)]);
        versions.look(&live, 2, minutes(70));
        assert_eq!(
            held(&versions),
            [("b", Stable), ("b", Canary), ("c", Canary)],
            "the role is gone, the version is not"
        );
        assert_eq!(versions.split_before(), [((0, a.clone()), 0)].into(), "it was here");

        // A rollback to `a`: it begins anew, and `b` is gone.
        made_up::publish(&mut publisher, &[("a", Stable, 1)]);
        versions.look(&live, 2, minutes(80));
        assert_eq!(versions.cells(0, &a, Stable, 2)[0].split.get(), 0);
        versions.look(&live, 2, minutes(140));
        assert_eq!(held(&versions), [("a", Stable)]);
        assert_eq!(versions.split_before(), [((0, b), 5), ((0, VersionHash::new("c")), 0)].into());
        assert_eq!(versions.overflow_before(), 3);
    }

    #[test]
    fn cells_that_somebody_holds_stay_however_old_they_are() {
        let start = Instant::now();
        let (mut publisher, live) = made_up::live(&[("a", Stable, 1)]);
        let mut versions = Versions::default();
        let worker = versions.cells(0, &VersionHash::new("a"), Stable, 2)[1].clone();
        made_up::publish(&mut publisher, &[("b", Stable, 1)]);
        versions.look(&live, 2, start);
        versions.look(&live, 2, start + 9 * KEPT);
        worker.split.add(7);
        drop(worker);
        assert_eq!(held(&versions), [("a", Stable), ("b", Stable)]);
        versions.look(&live, 2, start + 9 * KEPT);
        assert_eq!(held(&versions), [("b", Stable)]);
        assert_eq!(versions.split_before()[&(0, VersionHash::new("a"))], 7, "what was counted last is not lost");
    }

    #[test]
    fn a_thousand_rollouts_leave_the_cells_of_those_of_the_last_hour() {
        let start = Instant::now();
        let (mut publisher, live) = made_up::nothing_live();
        let mut versions = Versions::default();
        for rollout in 0..1000u32 {
            made_up::publish(&mut publisher, &[(&format!("v{rollout}"), Stable, 1)]);
            versions.look(&live, 1, start + rollout * Duration::from_secs(360));
        }
        assert_eq!(held(&versions).len(), 10 + 1);
        assert_eq!(versions.split_before().len(), 1000 - 11);
    }

    /// What may happen to a few versions.
    #[derive(Clone, Debug)]
    enum Event {
        /// Two of them go live, in these roles.
        Publish(usize, usize),
        /// A worker takes the cells of one, or counts in those that it has, or lets go of them.
        Hold(usize),
        Count(u64),
        Release,
        Minutes(u64),
    }

    fn some_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..4usize, 0..4usize).prop_map(|(stable, canary)| Event::Publish(stable, canary)),
            (0..4usize).prop_map(Event::Hold),
            (1..9u64).prop_map(Event::Count),
            Just(Event::Release),
            (1..50u64).prop_map(Event::Minutes),
        ]
    }

    fn publish(publisher: &mut Publisher, stable: &str, canary: &str) {
        match stable == canary {
            true => made_up::publish(publisher, &[(stable, Stable, 1)]),
            false => made_up::publish(publisher, &[(stable, Stable, 1), (canary, Canary, 1)]),
        }
    }

    proptest! {
        #[test]
        fn whatever_is_dropped_and_comes_again_the_split_s_account_is_whole(events in prop::collection::vec(some_event(), 0..60)) {
            const NAMES: [&str; 4] = ["a", "b", "c", "d"];
            let (mut publisher, live) = made_up::live(&[("a", Stable, 1)]);
            let mut versions = Versions::default();
            let mut now = Instant::now();
            let mut counted = BTreeMap::new();
            let mut holding: Option<(&str, Arc<VersionCells>)> = None;
            for event in events {
                match event {
                    Event::Publish(stable, canary) => publish(&mut publisher, NAMES[stable], NAMES[canary]),
                    Event::Hold(i) => {
                        let cells = versions.cells(0, &VersionHash::new(NAMES[i]), Canary, 1)[0].clone();
                        holding = Some((NAMES[i], cells));
                    }
                    Event::Count(amount) => if let Some((name, cells)) = &holding {
                        cells.split.add(amount);
                        *counted.entry(*name).or_insert(0) += amount;
                    },
                    Event::Release => holding = None,
                    Event::Minutes(minutes) => now += Duration::from_secs(60 * minutes),
                }
                versions.look(&live, 1, now);
                for name in NAMES {
                    let key = (0, VersionHash::new(name));
                    let in_cells: u64 = versions.each().filter(|(one, ..)| **one == key).map(|(.., cells)| cells[0].split.get()).sum();
                    let before = versions.split_before().get(&key).copied().unwrap_or(0);
                    prop_assert_eq!(in_cells + before, counted.get(name).copied().unwrap_or(0), "{}", name);
                }
                let held = held(&versions);
                if let Some((name, _)) = &holding {
                    prop_assert!(held.contains(&(*name, Canary)), "{} is held", name);
                }
                for backend in live.current(0).unwrap().backends() {
                    prop_assert!(held.contains(&(backend.version.as_str(), backend.role)), "{} is live", backend.version);
                }
            }
        }
    }
}
