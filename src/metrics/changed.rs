//! When what is live changed last, and when the weights of each port's split did, so that a query can tell whether its window
//! lies behind that. COLD: written by the change path, once what it has published is live.

use std::sync::Mutex;
use std::time::SystemTime;

use super::cells::Cell;
use crate::route::live::Live;
use crate::route::{Shares, VersionHash};

#[derive(Default)]
pub struct Changed {
    /// 1 while the newest change is refused, and what was live before it serves on.
    pub refused: Cell,
    published: Mutex<Option<SystemTime>>,
    /// By the number of the port: the weights that are live, and since when. `None` before the first.
    weights: Mutex<Vec<Option<(Shares, SystemTime)>>>,
}

impl Changed {
    /// Looks at what was published just now. Only other shares are a change: neither the same ones in other numbers, nor a version that
    /// comes or goes with weight 0.
    pub fn look(&self, live: &Live, now: SystemTime) {
        *self.published.lock().expect("no holder of this lock panics") = Some(now);
        let mut ports = self.weights.lock().expect("no holder of this lock panics");
        ports.resize(live.ports(), None);
        for (port, known) in ports.iter_mut().enumerate() {
            let Some(snapshot) = live.current(port) else { continue };
            let shares = snapshot.shares();
            if !known.as_ref().is_some_and(|(before, _)| same(before, shares)) {
                *known = Some((shares.clone(), now));
            }
        }
    }

    /// `None` before the first snapshot.
    pub fn published(&self) -> Option<SystemTime> {
        *self.published.lock().expect("no holder of this lock panics")
    }

    /// `None` before the first split of that port.
    pub fn weights(&self, port: usize) -> Option<SystemTime> {
        let ports = self.weights.lock().expect("no holder of this lock panics");
        ports.get(port)?.as_ref().map(|(_, at)| *at)
    }
}

fn same(one: &Shares, other: &Shares) -> bool {
    let named = one.weights().iter().chain(other.weights()).map(|(version, _)| version);
    let mut named = named.map(|version| (weight(one, version), weight(other, version)));
    named.all(|(of_one, of_other)| of_one * u64::from(other.total()) == of_other * u64::from(one.total()))
}

fn weight(shares: &Shares, version: &VersionHash) -> u64 {
    shares.weights().iter().find(|(named, _)| named == version).map_or(0, |(_, weight)| u64::from(*weight))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::made_up;
    use crate::route::Role::{Canary, Stable};

    #[test]
    fn only_other_shares_are_a_change() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let changed = Changed::default();
        let (mut publisher, live) = made_up::nothing_live();
        changed.look(&live, at(1));
        assert_eq!(changed.weights(0), None);
        for (second, versions, since) in [
            (2, &[("a", Stable, 1)][..], 2),
            (3, &[("a", Stable, 1)], 2),
            (4, &[("a", Stable, 7), ("b", Canary, 0)], 2),
            (5, &[("a", Stable, 90), ("b", Canary, 10)], 5),
            (6, &[("a", Stable, 9), ("b", Canary, 1)], 5),
            (7, &[("a", Canary, 9), ("b", Stable, 1)], 5),
            (8, &[("a", Stable, 1), ("b", Canary, 9)], 8),
            (9, &[("c", Stable, 1), ("b", Canary, 9)], 9),
            (10, &[("b", Stable, 1)], 10),
        ] {
            made_up::publish(&mut publisher, versions);
            changed.look(&live, at(second));
            assert_eq!(changed.weights(0), Some(at(since)), "second {second}");
            assert_eq!(changed.published(), Some(at(second)));
        }
    }

    #[test]
    fn each_port_has_its_own_time() {
        let (_publisher, live, _) = made_up::two_ports([("http", &[("a", Stable, 1)]), ("grpc", &[("a", Stable, 1)])]);
        let changed = Changed::default();
        changed.look(&live, SystemTime::UNIX_EPOCH);
        assert_eq!([0, 1, 2].map(|port| changed.weights(port).is_some()), [true, true, false]);
    }
}
