//! Which requests a worker writes down.

use std::cell::Cell;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::context::Sampler;
use super::{Record, Sender, Settings};
use crate::metrics::ProxyCells;
use crate::route::Role;

/// One request in so many ticks is written down whatever becomes of it: five in a second.
const SAMPLE_EVERY: u32 = 2;

/// Failures that are sent on in one tick.
const FAILURES: u32 = 10;

/// For so many ticks after a failure that was not expected, ten seconds, every request is written down when it begins, so
/// that it is known what it was if it fails, too.
const ALERT: u32 = 100;

/// One worker's. Never waits, and shares nothing until a record is sent.
pub struct Pen {
    /// 0: nobody wants to hear of the next request. The one integer that each request looks at.
    interest: Cell<u32>,
    /// Requests that are still to be sampled in this tick.
    samples: Cell<u32>,
    /// Failures that may still be sent in this tick.
    failures: Cell<u32>,
    /// Ticks for which every request is written down.
    alert: Cell<u32>,
    ticks: Cell<u32>,
    settings: Arc<Settings>,
    records: mpsc::Sender<Box<Record>>,
    cells: Arc<ProxyCells>,
}

impl Pen {
    /// `cells`: where it is counted what could not be sent.
    pub fn new(sender: Sender, cells: Arc<ProxyCells>) -> Self {
        let pen = Self {
            interest: Cell::default(),
            samples: Cell::new(1),
            failures: Cell::new(FAILURES),
            alert: Cell::default(),
            ticks: Cell::default(),
            settings: sender.settings,
            records: sender.records,
            cells,
        };
        pen.settle();
        pen
    }

    /// Whether the request that begins now is to be written down.
    #[inline]
    pub fn wants(&self) -> bool {
        self.interest.get() != 0
    }

    /// It is. Whether it is a sample, to be sent however it ends.
    pub fn begin(&self) -> bool {
        let is_sample = self.samples.get() > 0;
        self.samples.set(0);
        self.settle();
        is_sample
    }

    /// Whether a failure may be sent. `expected`: it was written down from its beginning.
    pub fn takes_failure(&self, expected: bool) -> bool {
        if !expected || self.alert.get() > 0 {
            self.alert.set(ALERT);
            self.settle();
        }
        let left = self.failures.get();
        self.failures.set(left.saturating_sub(1));
        left > 0
    }

    /// Which requests are traced, if any.
    pub fn sampler(&self) -> Option<Sampler> {
        self.settings.tracing.as_ref().map(|tracing| tracing.sampler)
    }

    /// Whether there is a line in the access log for a request that was written down. Those that went well are drawn.
    /// `roles`: of the version that answered, and of one that failed before.
    pub fn logs(&self, roles: [Option<Role>; 2], is_failure: bool, random: u64) -> bool {
        let Some(log) = &self.settings.access_log else { return false };
        let drawn = || ((u128::from(random) * u128::from(log.sample.total())) >> 64) < u128::from(log.sample.weight());
        (log.only.is_none() || roles.contains(&log.only)) && (is_failure || drawn())
    }

    /// Sends a record, or throws it away if the cold side is behind.
    pub fn send(&self, record: Record) {
        if let Err(unsent) = self.records.try_send(Box::new(record)) {
            let record = unsent.into_inner();
            self.cells.lines_dropped.add(u64::from(record.wanted.line));
            if record.wanted.spans {
                let tries = record.details.as_ref().map_or(0, |details| details.tries.len());
                self.cells.spans_dropped.add(1 + tries as u64);
            }
        }
    }

    /// A tick has passed.
    pub fn look(&self) {
        self.ticks.set(self.ticks.get().wrapping_add(1));
        if self.ticks.get().is_multiple_of(SAMPLE_EVERY) {
            self.samples.set(1);
        }
        self.failures.set(FAILURES);
        self.alert.set(self.alert.get().saturating_sub(1));
        self.settle();
    }

    fn settle(&self) {
        let always = self.settings.access_log.is_some() || self.settings.tracing.is_some();
        self.interest.set(self.samples.get() + self.alert.get() + u32::from(always));
    }
}

#[cfg(test)]
mod tests {
    use super::super::access_log;
    use super::*;
    use crate::route::Share;

    fn pen() -> Pen {
        Pen::new(super::super::channel(Settings::default()).0, Arc::default())
    }

    #[test]
    fn of_a_busy_worker_five_requests_in_a_second_are_samples() {
        let pen = pen();
        let mut samples = 0;
        for _ in 0..10 {
            for _ in 0..1000 {
                if pen.wants() {
                    samples += u32::from(pen.begin());
                }
            }
            pen.look();
        }
        assert_eq!(samples, 5);
        assert!(pen.wants());
    }

    #[test]
    fn after_a_failure_that_nobody_wrote_down_all_are_for_a_while() {
        let pen = pen();
        assert!(pen.begin());
        assert!(!pen.wants());
        assert!(pen.takes_failure(false));
        assert!(pen.wants() && !pen.begin() && pen.wants());
        for _ in 0..ALERT {
            assert!(pen.wants());
            pen.look();
        }
        assert!(pen.begin() && !pen.wants());
    }

    #[test]
    fn failures_have_a_bound_in_each_tick() {
        let pen = pen();
        let taken = |pen: &Pen| (0..50).filter(|_| pen.takes_failure(true)).count();
        assert_eq!((taken(&pen), taken(&pen)), (FAILURES as usize, 0));
        pen.look();
        assert_eq!(taken(&pen), FAILURES as usize);
    }

    #[test]
    fn a_full_queue_costs_the_record_and_nothing_else() {
        let (sender, mut receiver) = super::super::channel(Settings::default());
        let cells: Arc<ProxyCells> = Arc::default();
        let pen = Pen::new(sender, cells.clone());
        for _ in 0..super::super::QUEUE + 10 {
            let mut record = super::super::recent::made_up(200, None, "stable");
            record.wanted.line = true;
            pen.send(record);
        }
        let mut left = 0;
        while receiver.records.try_recv().is_ok() {
            left += 1;
        }
        assert_eq!((left, cells.lines_dropped.get()), (super::super::QUEUE, 10));
    }

    fn logging(sample: Share, only: Option<Role>) -> Pen {
        let access_log = Some(access_log::Settings { format: access_log::Format::Json, sample, only });
        let settings = Settings { access_log, tracing: None };
        Pen::new(super::super::channel(settings).0, Arc::default())
    }

    #[test]
    fn failures_are_logged_always_and_the_rest_in_part() {
        let pen = logging(Share::new(5, 100).unwrap(), None);
        assert!((0..1000).all(|_| pen.wants()));
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            (random ^ random >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD)
        };
        let logged = (0..100_000).filter(|_| pen.logs([None; 2], false, next())).count();
        // Seven standard deviations of a fair draw.
        assert!((4500..5500).contains(&logged), "{logged}");
        assert!((0..1000).all(|_| pen.logs([None; 2], true, next())));
        assert!(!logging(Share::new(0, 100).unwrap(), None).logs([None; 2], false, 0));
        assert!(logging(Share::ALL, None).logs([None; 2], false, u64::MAX));
    }

    #[test]
    fn one_role_alone_can_be_logged() {
        let pen = logging(Share::ALL, Some(Role::Canary));
        assert!(
            pen.logs([Some(Role::Canary), None], false, 0)
                && pen.logs([Some(Role::Stable), Some(Role::Canary)], true, 0)
        );
        assert!(!pen.logs([Some(Role::Stable), None], true, 0) && !pen.logs([None; 2], true, 0));
    }
}
