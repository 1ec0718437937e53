//! The counters of one worker.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::{Endpoints, Users};
use crate::proxy::{Ending, Failure};
use crate::route::Reason;
use crate::tls::HandshakeFailure;

/// A counter with one writer and any number of readers.
#[derive(Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// To be called by the one writer only: a load, an add and a store, no locked instruction.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }
    /// For what is not counted but told, such as a time. Also by the one writer only.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down, with one writer.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    #[inline]
    pub fn add(&self, amount: i64) {
        self.0.store(self.0.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
    }
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the duration buckets in nanoseconds: OpenTelemetry's advice for `http.server.request.duration`.
pub const BUCKETS: [u64; 14] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

#[derive(Default)]
pub struct Histogram {
    /// One per bound and one beyond the last; not cumulative.
    buckets: [Cell; BUCKETS.len() + 1],
    sum_ns: Cell,
}

impl Histogram {
    #[inline]
    pub fn record(&self, ns: u64) {
        // Most requests are fast, so the search from the left ends at once.
        let bucket = BUCKETS.iter().position(|bound| ns <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket].add(1);
        self.sum_ns.add(ns);
    }
    pub fn bucket(&self, i: usize) -> u64 {
        self.buckets[i].get()
    }
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns.get()
    }
}

/// Finer cells for quantiles in views, where the buckets above are too coarse: bounds grow by 2^(1/8), 9 %.
pub struct Quantiles([Cell; QUANTILE_CELLS]);

/// From 1 microsecond to about 67 seconds.
const QUANTILE_CELLS: usize = 26 * 8 + 1;

impl Default for Quantiles {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::default()))
    }
}

impl Quantiles {
    /// An integer form of `floor(8 * log2(us))`: the exponent, and the top three bits below the leading one.
    #[inline]
    pub fn record(&self, ns: u64) {
        let us = (ns / 1000).max(1);
        let exponent = us.ilog2() as usize;
        let eighth = ((us << 3 >> exponent) & 7) as usize;
        self.0[(exponent * 8 + eighth).min(QUANTILE_CELLS - 1)].add(1);
    }

    pub fn add_to(&self, counts: &mut QuantileCounts) {
        for (count, cell) in counts.0.iter_mut().zip(&self.0) {
            *count += cell.get();
        }
    }
}

/// Summed cells, from which quantiles are read.
#[derive(Clone, Debug)]
pub struct QuantileCounts([u64; QUANTILE_CELLS]);

impl Default for QuantileCounts {
    fn default() -> Self {
        Self([0; QUANTILE_CELLS])
    }
}

impl QuantileCounts {
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count += more;
        }
    }

    /// The cells that are not 0, each with its number, which is below 256.
    pub fn cells(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// To a cell of [`Self::cells`]; one that there is not is left out.
    pub fn add_at(&mut self, cell: usize, count: u64) {
        if let Some(sum) = self.0.get_mut(cell) {
            *sum += count;
        }
    }

    /// The counts since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].saturating_sub(earlier.0[i])))
    }

    /// The upper bound, in seconds, of the cell in which the quantile lies; `None` without requests. At most 13 % high.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let total: u64 = self.0.iter().sum();
        let wanted = ((total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        self.0.iter().enumerate().find_map(|(i, count)| {
            seen += count;
            (seen >= wanted).then(|| ((1u64 << (i / 8)) as f64) * (1.0 + (i % 8 + 1) as f64 / 8.0) * 1e-6)
        })
    }
}

/// The labels of one request, packed into a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    pub method: Method,
    pub code: u16,
    pub reason: Reason,
    pub failure: Option<Failure>,
    /// From [`super::Metrics::route`].
    pub route: u16,
}

/// Names of routes that get a number of their own, so that the number fits beside the other labels.
pub const MAX_ROUTES: usize = 1000;

/// The methods of RFC 9110 and 5789; a stranger cannot make more series by inventing names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Other,
}

impl Method {
    pub const ALL: [Method; 8] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Options,
        Method::Patch,
        Method::Other,
    ];

    pub fn of(method: &http::Method) -> Self {
        match *method {
            http::Method::GET => Method::Get,
            http::Method::HEAD => Method::Head,
            http::Method::POST => Method::Post,
            http::Method::PUT => Method::Put,
            http::Method::DELETE => Method::Delete,
            http::Method::OPTIONS => Method::Options,
            http::Method::PATCH => Method::Patch,
            _ => Method::Other,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Other => "_OTHER",
        }
    }

    pub fn is_known(name: &str) -> bool {
        Method::ALL.iter().any(|method| *method != Method::Other && method.as_str() == name)
    }
}

/// What a number in a [`Table`] stands for.
pub trait Pack: Copy {
    /// Never 0.
    fn pack(self) -> u32;
    fn unpack(key: u32) -> Self;
}

/// What became of a copy of a mirrored request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CopyOutcome {
    /// The head of an answer has come, whatever it said.
    Answered,
    /// It could not be sent, or was not answered in time.
    Failed,
    /// Not sent, because as many copies as may be were on their way.
    DroppedBusy,
    /// Given up, because its connection did not take the body as fast as the request's own.
    DroppedSlow,
    /// Given up, because the request was, or because the process ended.
    Cut,
}

impl CopyOutcome {
    pub const ALL: [CopyOutcome; 5] = [
        CopyOutcome::Answered,
        CopyOutcome::Failed,
        CopyOutcome::DroppedBusy,
        CopyOutcome::DroppedSlow,
        CopyOutcome::Cut,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            CopyOutcome::Answered => "answered",
            CopyOutcome::Failed => "failed",
            CopyOutcome::DroppedBusy => "dropped_busy",
            CopyOutcome::DroppedSlow => "dropped_slow",
            CopyOutcome::Cut => "cut",
        }
    }
}

/// The labels of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CopyLabels {
    /// From [`super::Metrics::route`]: the mirror that asked for it.
    pub route: u16,
    pub outcome: CopyOutcome,
    /// The answer's status; 0 without an answer.
    pub code: u16,
}

impl Pack for CopyLabels {
    /// outcome 3 bits, code 10, route 10; and one bit that is always set.
    fn pack(self) -> u32 {
        1 << 31 | self.outcome as u32 | u32::from(self.code.min(1023)) << 3 | u32::from(self.route) << 13
    }

    fn unpack(key: u32) -> Self {
        Self {
            outcome: CopyOutcome::ALL[(key & 7) as usize],
            code: (key >> 3 & 1023) as u16,
            route: (key >> 13 & 1023) as u16,
        }
    }
}

impl Pack for Labels {
    /// method 3 bits, code 10, reason 3, failure 5, route 10; and one bit that is always set, so that 0 means "empty".
    fn pack(self) -> u32 {
        let failure = self.failure.map_or(0, |failure| failure as u32 + 1);
        1 << 31
            | self.method as u32
            | u32::from(self.code.min(1023)) << 3
            | (self.reason as u32) << 13
            | failure << 16
            | u32::from(self.route) << 21
    }

    fn unpack(key: u32) -> Self {
        let failure = (key >> 16 & 31) as usize;
        Self {
            method: Method::ALL[(key & 7) as usize],
            code: (key >> 3 & 1023) as u16,
            reason: Reason::ALL[(key >> 13 & 7) as usize],
            failure: failure.checked_sub(1).map(|i| Failure::ALL[i]),
            route: (key >> 21 & 1023) as u16,
        }
    }
}

/// Counters by label; one writer. Open addressing in a fixed array: no allocation and, as a rule, one probe.
pub struct Table<L = Labels, const SLOTS: usize = TABLE_SLOTS> {
    slots: Box<[(AtomicU32, Cell); SLOTS]>,
    /// Requests whose labels found no room. Applications use a few dozen of the slots.
    pub overflow: Cell,
    labels: PhantomData<L>,
}

const TABLE_SLOTS: usize = 512;
const COPY_SLOTS: usize = 128;

impl<L, const SLOTS: usize> Default for Table<L, SLOTS> {
    fn default() -> Self {
        let slots = Box::new(std::array::from_fn(|_| Default::default()));
        Self { slots, overflow: Cell::default(), labels: PhantomData }
    }
}

impl<L: Pack, const SLOTS: usize> Table<L, SLOTS> {
    #[inline]
    pub fn count(&self, labels: L) {
        let key = labels.pack();
        let start = (key.wrapping_mul(0x9E37_79B1) >> 23) as usize;
        for probe in 0..32 {
            let (slot, cell) = &self.slots[(start + probe) % SLOTS];
            let found = slot.load(Ordering::Relaxed);
            if found == key {
                return cell.add(1);
            }
            if found == 0 {
                cell.add(1);
                return slot.store(key, Ordering::Release);
            }
        }
        self.overflow.add(1);
    }

    pub fn each(&self, mut see: impl FnMut(L, u64)) {
        for (slot, cell) in self.slots.iter() {
            match slot.load(Ordering::Acquire) {
                0 => {}
                key => see(L::unpack(key), cell.get()),
            }
        }
    }
}

/// What one worker counts for one version in one role.
#[derive(Default)]
pub struct VersionCells {
    pub requests: Table,
    /// Requests of routes with `count: false`.
    pub uncounted: Cell,
    pub duration: Histogram,
    pub quantiles: Quantiles,
    pub in_flight: Gauge,
    /// Requests that the exact split gave to this version, whatever became of them.
    pub split: Cell,
    /// Failed tries by kind.
    pub failures: [Cell; Failure::ALL.len()],
    /// Tries after a failed one.
    pub retries: Cell,
    /// Requests that were not sent again, because the budget was used up.
    pub retries_withheld: Cell,
    /// Requests of this version that another one answered, because this one could not be reached.
    pub stood_in_for: Cell,
    /// Endpoints that are left out now. Told by the tick.
    pub endpoints_out: Cell,
    pub endpoints_put_out: Cell,
    /// Endpoints whose trial went well.
    pub endpoints_returned: Cell,
    /// Told by the tick.
    pub endpoints: Endpoints,
    /// Requests that wait for a place before a busy endpoint.
    pub queued: Gauge,
    pub tunnels: Gauge,
    pub connections: Gauge,
    pub connections_opened: Cell,
    /// Copies of mirrored requests that went to this version. They are in nothing above but the connections.
    pub copies: Table<CopyLabels, COPY_SLOTS>,
    pub copies_in_flight: Gauge,
    /// Those whose requests are counted, and who were recognised.
    pub users: Users,
}

/// What one worker counts apart from versions.
#[derive(Default)]
pub struct ProxyCells {
    pub connections: Gauge,
    pub connections_accepted: Cell,
    /// Handshakes of TLS with clients that came to their end: full ones, and of resumed sessions.
    pub handshakes: [Cell; 2],
    pub handshake_failures: [Cell; HandshakeFailure::ALL.len()],
    /// Panics that a connection or a stream ended with.
    pub panics: Cell,
    /// Requests and connections that were refused before any version was chosen.
    pub refused: [Cell; Failure::ALL.len()],
    /// Connections that a limit has ended.
    pub ended: [Cell; Ending::ALL.len()],
    /// Of the access log, and of traces: what found no room on the way to the cold side.
    pub lines_dropped: Cell,
    pub spans_dropped: Cell,
}

impl ProxyCells {
    pub fn handshake(&self, resumed: bool) {
        self.handshakes[usize::from(resumed)].add(1);
    }
    pub fn connection_ended(&self, ending: Ending) {
        self.ended[ending as usize].add(1);
    }
    pub fn handshake_failure(&self, failure: HandshakeFailure) {
        self.handshake_failures[failure as usize].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_survive_packing() {
        for method in Method::ALL {
            for reason in Reason::ALL {
                for failure in std::iter::once(None).chain(Failure::ALL.map(Some)) {
                    for (code, route) in [(100, 0), (200, 1), (599, 1000), (999, 512)] {
                        let labels = Labels { method, code, reason, failure, route };
                        assert_eq!(Labels::unpack(labels.pack()), labels);
                    }
                }
            }
        }
    }

    #[test]
    fn labels_of_copies_survive_packing() {
        for outcome in CopyOutcome::ALL {
            for (code, route) in [(0, 1), (200, 2), (599, 1001), (999, 512)] {
                let labels = CopyLabels { route, outcome, code };
                assert_eq!(CopyLabels::unpack(labels.pack()), labels);
            }
        }
    }

    #[test]
    fn a_full_table_counts_the_rest_as_overflow() {
        let table: Table = Table::default();
        for code in 100..999 {
            table.count(Labels { method: Method::Get, code, reason: Reason::Weighted, failure: None, route: 0 });
        }
        let mut counted = 0;
        table.each(|_, count| counted += count);
        assert_eq!(counted + table.overflow.get(), 899);
        assert!(counted >= 400);
    }

    #[test]
    fn a_quantile_is_at_most_an_eighth_too_high() {
        let cells = Quantiles::default();
        for us in 1..=1000u64 {
            cells.record(us * 1000);
        }
        let mut counts = QuantileCounts::default();
        cells.add_to(&mut counts);
        for (quantile, truth) in [(0.5, 500e-6), (0.99, 990e-6), (1.0, 1000e-6)] {
            let found = counts.quantile(quantile).unwrap();
            assert!(found >= truth && found <= truth * 1.13, "{quantile}: {found}");
        }
        assert_eq!(counts.since(&counts).quantile(0.5), None);
    }
}
