//! Which requests a worker writes down.

use std::cell::Cell;

use super::{Record, Sender};

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
    sender: Sender,
}

impl Pen {
    pub fn new(sender: Sender) -> Self {
        let pen = Self {
            interest: Cell::default(),
            samples: Cell::new(1),
            failures: Cell::new(FAILURES),
            alert: Cell::default(),
            ticks: Cell::default(),
            sender,
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

    /// Sends a record, or throws it away if the cold side is behind.
    pub fn send(&self, record: Record) {
        let _ = self.sender.0.try_send(Box::new(record));
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
        self.interest.set(self.samples.get() + self.alert.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pen() -> Pen {
        Pen::new(super::super::channel().0)
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
        let (sender, mut receiver) = super::super::channel();
        let pen = Pen::new(sender);
        for _ in 0..super::super::QUEUE + 10 {
            pen.send(super::super::recent::made_up(200, None, "stable"));
        }
        let mut left = 0;
        while receiver.0.try_recv().is_ok() {
            left += 1;
        }
        assert_eq!(left, super::super::QUEUE);
    }
}
