//! How many of a version's requests may be sent a second time although bytes of the first may have arrived: a part of all
//! its requests within the last ten seconds. When everything dies at once, second tries add that part and no more.
//!
//! One worker's, so nothing is shared. Costs one addition per request; the window moves on with the worker's tick.

use std::cell::Cell;

use super::state::Tick;
use crate::route::Share;

/// The window moves on by one second at a time.
const TICKS: u32 = 10;
const SECONDS: usize = 10;

/// Counts since the worker started, so that the window is a difference.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
struct Counts {
    requests: u64,
    again: u64,
}

#[derive(Default)]
pub struct Budget {
    requests: Cell<u64>,
    again: Cell<u64>,
    /// What the counts were when each of the last seconds began; the second `n` is at `n % SECONDS`.
    begun: Cell<[Counts; SECONDS]>,
    second: Cell<u32>,
}

impl Budget {
    #[inline]
    pub fn count(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// Takes one second try from the budget, if there is one left.
    pub fn take(&self, share: Share, least: u32) -> bool {
        let oldest = self.begun.get()[(self.second.get() as usize + 1) % SECONDS];
        let (requests, again) = (self.requests.get() - oldest.requests, self.again.get() - oldest.again);
        let part = u128::from(requests) * u128::from(share.weight()) / u128::from(share.total());
        let granted = u128::from(again) < part.max(u128::from(least));
        self.again.set(self.again.get() + u64::from(granted));
        granted
    }

    /// Once per tick.
    pub fn look(&self, now: Tick) {
        let (before, second) = (self.second.get(), now.0 / TICKS);
        if second == before {
            return;
        }
        let mut begun = self.begun.get();
        let counts = Counts { requests: self.requests.get(), again: self.again.get() };
        // After a long pause all of them begin anew.
        for passed in (before + 1..=second).rev().take(SECONDS) {
            begun[passed as usize % SECONDS] = counts;
        }
        self.begun.set(begun);
        self.second.set(second);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Request,
        Again,
        Ticks(u32),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => Just(Event::Request),
            3 => Just(Event::Again),
            2 => (1..40u32).prop_map(Event::Ticks),
            1 => (40..400u32).prop_map(Event::Ticks),
        ]
    }

    proptest! {
        /// Beside a list of everything that happened, with its second.
        #[test]
        fn the_budget_is_never_exceeded_and_never_kept_back(
            events in prop::collection::vec(event(), 1..400),
            percent in 0..=100u8,
            least in 0..5u32,
        ) {
            let (budget, share) = (Budget::default(), Share::percent(percent));
            let (mut now, mut requests, mut again) = (0u32, Vec::new(), Vec::new());
            for event in events {
                let within = |seconds: &Vec<u32>| {
                    seconds.iter().filter(|second| now / TICKS - **second < SECONDS as u32).count() as u64
                };
                match event {
                    Event::Request => {
                        budget.count();
                        requests.push(now / TICKS);
                    }
                    Event::Again => {
                        let allowed = (within(&requests) * u64::from(percent) / 100).max(u64::from(least));
                        let granted = budget.take(share, least);
                        prop_assert_eq!(granted, within(&again) < allowed);
                        if granted {
                            again.push(now / TICKS);
                        }
                    }
                    Event::Ticks(ticks) => {
                        // The worker's clock goes on one by one, but a thread that had no core may have missed some.
                        now += ticks;
                        budget.look(Tick(now));
                    }
                }
            }
        }
    }

    #[test]
    fn a_quiet_version_has_the_least_of_them() {
        let budget = Budget::default();
        let granted = (0..10).filter(|_| budget.take(Share::percent(20), 3)).count();
        assert_eq!(granted, 3);
        budget.look(Tick(100));
        assert!(budget.take(Share::percent(20), 3), "ten seconds later there are some again");
    }
}
