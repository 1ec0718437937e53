//! The exact split's account at one port: what was asked for, and what was given.

use super::Totals;
use crate::route::{Role, Snapshot, VersionHash};

/// The counters of all workers beside the split's own arithmetic. While requests come in, the two may be apart by those
/// that have a number and are not counted yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// What the weights of the live split add up to; 0 before the first snapshot.
    pub total: u64,
    /// Numbers that the split has given out since the process started.
    pub requests: u64,
    /// Every version that the split ever named or whose backend was ever live, in a fixed order.
    pub versions: Vec<VersionAccount>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VersionAccount {
    pub version: VersionHash,
    /// `None`: not in the live snapshot.
    pub role: Option<Role>,
    pub weight: u64,
    pub asked_ratio: f64,
    /// Requests that the split gave to it.
    pub sent: u64,
    /// `None` before the first request.
    pub sent_ratio: Option<f64>,
    /// Requests that an ideal split would have given to it by now.
    pub asked_requests: f64,
}

impl Account {
    /// `snapshot` is the live one of that port.
    pub fn of(totals: &Totals, port: usize, snapshot: Option<&Snapshot>) -> Self {
        let at_port = || totals.versions.iter().filter(|one| one.port == port);
        let tally = snapshot.map(Snapshot::tally);
        let asked = tally.as_ref().map_or(&[][..], |tally| &tally.asked);
        let mut names: Vec<&VersionHash> =
            at_port().map(|one| &one.version).chain(asked.iter().map(|(version, _)| version)).collect();
        names.sort();
        names.dedup();
        let total = snapshot.map_or(0, |snapshot| u64::from(snapshot.shares().total()));
        let given = totals.split_of_all(port);
        let versions = names.into_iter().map(|version| {
            let weight = snapshot.map_or(0, |snapshot| u64::from(snapshot.weight(version)));
            let sent = totals.split(port, version);
            VersionAccount {
                version: version.clone(),
                role: snapshot.and_then(|snapshot| {
                    snapshot.backends().iter().find(|backend| backend.version == *version).map(|backend| backend.role)
                }),
                weight,
                asked_ratio: if total == 0 { 0.0 } else { weight as f64 / total as f64 },
                sent,
                sent_ratio: (given > 0).then(|| sent as f64 / given as f64),
                asked_requests: asked.iter().find(|(named, _)| named == version).map_or(0.0, |(_, asked)| *asked),
            }
        });
        Self { total, requests: tally.as_ref().map_or(0, |tally| tally.requests), versions: versions.collect() }
    }
}
