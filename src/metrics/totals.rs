//! What all workers counted together, as plain numbers.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::cells::{BUCKETS, CopyLabels, Labels, QuantileCounts};
use super::versions::Key;
use super::{Metrics, ProxyCells, VersionCells};
use crate::proxy::{Ending, Failure, Side};
use crate::route::{LeadsTo, Role, VersionHash};
use crate::tls::HandshakeFailure;

/// One reading of every cell. Each number is true by itself; two of them may be apart by the requests that came in
/// between.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Every version that has series, once per port and per role that it had there, in a fixed order.
    pub versions: Vec<VersionTotals>,
    /// What the split gave to versions, and what labels had no room, before their series were dropped.
    split_before: BTreeMap<Key, u64>,
    overflow_before: u64,
    pub proxy: ProxyTotals,
    /// Names of routes; a label's route 1 is the first one.
    routes: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct VersionTotals {
    /// By number.
    pub port: usize,
    pub version: VersionHash,
    pub role: Role,
    /// Requests by label, in a fixed order.
    pub requests: Vec<(Labels, u64)>,
    /// Requests whose labels found no room; not among `requests`.
    pub overflow: u64,
    pub uncounted: u64,
    /// Not cumulative; one more than there are bounds.
    pub duration_buckets: [u64; BUCKETS.len() + 1],
    pub duration_sum_ns: u64,
    pub quantiles: QuantileCounts,
    pub in_flight: i64,
    pub split: u64,
    pub failures: [u64; Failure::ALL.len()],
    pub retries: u64,
    pub retries_withheld: u64,
    pub stood_in_for: u64,
    pub endpoints_out: u64,
    pub endpoints_put_out: u64,
    pub endpoints_returned: u64,
    pub queued: i64,
    pub tunnels: i64,
    pub connections: i64,
    pub connections_opened: u64,
    /// Copies of mirrored requests by label, in a fixed order.
    pub copies: Vec<(CopyLabels, u64)>,
    /// Copies whose labels found no room.
    pub copies_overflow: u64,
    pub copies_in_flight: i64,
}

#[derive(Clone, Debug, Default)]
pub struct ProxyTotals {
    pub connections: i64,
    pub connections_accepted: u64,
    /// Full ones, and of resumed sessions.
    pub handshakes: [u64; 2],
    pub handshake_failures: [u64; HandshakeFailure::ALL.len()],
    pub panics: u64,
    pub refused: [u64; Failure::ALL.len()],
    pub ended: [u64; Ending::ALL.len()],
    pub lines_dropped: u64,
    pub spans_dropped: u64,
}

impl Metrics {
    /// Reads and adds up all cells. Versions and mirrors of the live snapshot are there even if no worker has noticed them
    /// yet; whatever was there once stays for a time (see [`super::versions`]).
    pub fn totals(&self) -> Totals {
        let mut versions = self.versions.lock().expect("no holder of this lock panics");
        versions.look(&self.live, self.workers, Instant::now());
        for snapshot in (0..self.ports.len()).filter_map(|port| self.live.current(port)) {
            for route in snapshot.routes() {
                if let LeadsTo::Mirror { .. } = route.leads_to() {
                    self.route(&route.name);
                }
            }
        }
        let (split_before, overflow_before) = (versions.split_before(), versions.overflow_before());
        let versions = versions
            .each()
            .map(|((port, version), role, cells)| VersionTotals::of(*port, version.clone(), role, cells))
            .collect();
        let routes = self.routes.lock().expect("no holder of this lock panics");
        Totals {
            versions,
            split_before,
            overflow_before,
            proxy: ProxyTotals::of(&self.proxy),
            routes: routes.iter().map(|name| name.as_str().to_owned()).collect(),
        }
    }
}

impl Totals {
    /// How many requests the exact split of a port gave to a version, in whatever role.
    pub fn split(&self, port: usize, version: &VersionHash) -> u64 {
        let before = self.split_before.get(&(port, version.clone())).copied().unwrap_or(0);
        self.of(port, version).map(|one| one.split).sum::<u64>() + before
    }

    /// All requests that the exact split of a port gave to anybody.
    pub fn split_of_all(&self, port: usize) -> u64 {
        let here = self.versions.iter().filter(|one| one.port == port).map(|one| one.split);
        let before = self.split_before.iter().filter(|((at, _), _)| *at == port).map(|(_, split)| *split);
        here.chain(before).sum()
    }

    /// Whether a version has series at a port.
    pub fn has(&self, port: usize, version: &VersionHash) -> bool {
        self.of(port, version).next().is_some()
    }

    /// Whether a version was ever live at a port, also if its series were dropped.
    pub fn was_here(&self, port: usize, version: &VersionHash) -> bool {
        self.has(port, version) || self.split_before.contains_key(&(port, version.clone()))
    }

    /// Requests and copies whose labels found no room.
    pub fn overflow(&self) -> u64 {
        self.versions.iter().map(|one| one.overflow + one.copies_overflow).sum::<u64>() + self.overflow_before
    }

    fn of(&self, port: usize, version: &VersionHash) -> impl Iterator<Item = &VersionTotals> {
        self.versions.iter().filter(move |one| one.port == port && one.version == *version)
    }

    /// The name behind [`Labels::route`]; empty when no route decided.
    pub fn route(&self, number: u16) -> String {
        match number.checked_sub(1) {
            None => String::new(),
            Some(index) => self.routes.get(usize::from(index)).cloned().unwrap_or_else(|| "_OTHER".to_owned()),
        }
    }
}

impl VersionTotals {
    fn of(port: usize, version: VersionHash, role: Role, workers: &[impl AsRef<VersionCells>]) -> Self {
        let mut requests = HashMap::new();
        let mut copies = BTreeMap::new();
        let mut all = Self {
            port,
            version,
            role,
            requests: Vec::new(),
            overflow: 0,
            uncounted: 0,
            duration_buckets: Default::default(),
            duration_sum_ns: 0,
            quantiles: QuantileCounts::default(),
            in_flight: 0,
            split: 0,
            failures: Default::default(),
            retries: 0,
            retries_withheld: 0,
            stood_in_for: 0,
            endpoints_out: 0,
            endpoints_put_out: 0,
            endpoints_returned: 0,
            queued: 0,
            tunnels: 0,
            connections: 0,
            connections_opened: 0,
            copies: Vec::new(),
            copies_overflow: 0,
            copies_in_flight: 0,
        };
        for cells in workers.iter().map(AsRef::as_ref) {
            cells.requests.each(|labels, count| *requests.entry(labels).or_default() += count);
            all.overflow += cells.requests.overflow.get();
            all.uncounted += cells.uncounted.get();
            for (i, bucket) in all.duration_buckets.iter_mut().enumerate() {
                *bucket += cells.duration.bucket(i);
            }
            all.duration_sum_ns += cells.duration.sum_ns();
            cells.quantiles.add_to(&mut all.quantiles);
            all.in_flight += cells.in_flight.get();
            all.split += cells.split.get();
            for (sum, cell) in all.failures.iter_mut().zip(&cells.failures) {
                *sum += cell.get();
            }
            all.retries += cells.retries.get();
            all.retries_withheld += cells.retries_withheld.get();
            all.stood_in_for += cells.stood_in_for.get();
            all.endpoints_out += cells.endpoints_out.get();
            all.endpoints_put_out += cells.endpoints_put_out.get();
            all.endpoints_returned += cells.endpoints_returned.get();
            all.queued += cells.queued.get();
            all.tunnels += cells.tunnels.get();
            all.connections += cells.connections.get();
            all.connections_opened += cells.connections_opened.get();
            cells.copies.each(|labels, count| *copies.entry(labels).or_default() += count);
            all.copies_overflow += cells.copies.overflow.get();
            all.copies_in_flight += cells.copies_in_flight.get();
        }
        all.copies = copies.into_iter().collect();
        all.requests = requests.into_iter().collect();
        all.requests.sort_by_key(|(labels, _)| {
            (labels.method as u8, labels.code, labels.reason, labels.route, labels.failure.map(|failure| failure as u8))
        });
        all
    }

    /// All counted requests, whatever their labels.
    pub fn requests(&self) -> u64 {
        self.requests.iter().map(|(_, count)| count).sum::<u64>() + self.overflow
    }

    /// Tries on this version, and how many of them failed: answered with a server error (5xx), or failed on the way to it,
    /// even if another try then saved the request. What went wrong on the client's side says nothing about the version.
    pub fn tries(&self) -> (u64, u64) {
        let answered = |bad: bool| -> u64 {
            let answers = self.requests.iter().filter(|(labels, _)| labels.failure.is_none());
            answers.filter(|(labels, _)| (labels.code >= 500) == bad).map(|(_, count)| count).sum()
        };
        let on_the_way = |failure: &&Failure| failure.side() != Side::Downstream;
        let lost: u64 = Failure::ALL.iter().filter(on_the_way).map(|failure| self.failures[*failure as usize]).sum();
        let failed = answered(true) + lost;
        (answered(false) + failed, failed)
    }

    /// Counted requests whose answer was a server error (5xx).
    pub fn server_errors(&self) -> u64 {
        self.requests.iter().filter(|(labels, _)| labels.code >= 500).map(|(_, count)| count).sum()
    }
}

impl ProxyTotals {
    fn of(workers: &[impl AsRef<ProxyCells>]) -> Self {
        let mut all = Self::default();
        for cells in workers.iter().map(AsRef::as_ref) {
            all.connections += cells.connections.get();
            all.connections_accepted += cells.connections_accepted.get();
            for (sum, cell) in all.handshakes.iter_mut().zip(&cells.handshakes) {
                *sum += cell.get();
            }
            for (sum, cell) in all.handshake_failures.iter_mut().zip(&cells.handshake_failures) {
                *sum += cell.get();
            }
            all.panics += cells.panics.get();
            all.lines_dropped += cells.lines_dropped.get();
            all.spans_dropped += cells.spans_dropped.get();
            for (sum, cell) in all.refused.iter_mut().zip(&cells.refused) {
                *sum += cell.get();
            }
            for (sum, cell) in all.ended.iter_mut().zip(&cells.ended) {
                *sum += cell.get();
            }
        }
        all
    }
}
