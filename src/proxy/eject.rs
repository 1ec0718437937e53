//! When is an endpoint left out for a while, and when does it come back? Pure: time comes in as ticks, chance as a number.
//!
//! Judged by what this worker has seen, by rules of `outliers` in the configuration. An endpoint that is out gets one
//! request when its time is over, the trial: if that goes well it is back, otherwise it stays out for twice as long.
//! [`Upstream`](super::upstream::Upstream) keeps the bound that at most half of a version's endpoints are out.

use std::cell::Cell;

use super::Failure;
use super::state::{TICK, Tick};
use crate::metrics::EndpointState;
use crate::route::policy::Outliers;

/// How one try at an endpoint went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// There was no connection to be had.
    Unreachable(Failure),
    /// It was there, and answered 5xx (`None`) or not at all.
    ServerError(Option<Failure>),
    Answer,
}

impl Seen {
    /// `None`: it says nothing about the endpoint.
    pub fn in_failure(failure: Failure) -> Option<Self> {
        match failure {
            Failure::ConnectRefused | Failure::ConnectTimeout | Failure::UpstreamTls => {
                Some(Seen::Unreachable(failure))
            }
            Failure::UpstreamClosed
            | Failure::UpstreamInvalid
            | Failure::FirstByteTimeout
            | Failure::RequestTimeout => Some(Seen::ServerError(Some(failure))),
            Failure::BadRequest
            | Failure::MethodRefused
            | Failure::TargetTooLong
            | Failure::HeadTooLarge
            | Failure::BodyTooLarge
            | Failure::HeadTimeout
            | Failure::ConnectionLimit
            | Failure::NotReady
            | Failure::NoEndpoint
            | Failure::UpstreamCut
            | Failure::ClientGone
            | Failure::BodyTimeout
            | Failure::IdleTimeout
            | Failure::Overflow
            | Failure::StreamRefused
            | Failure::VersionRefused
            | Failure::CodingRefused
            | Failure::MaxForwards
            | Failure::ProxyProtocol
            | Failure::AddressLimit
            | Failure::HandshakeLimit
            | Failure::NoDescriptors => None,
        }
    }
}

/// Fewer failed answers in a row are what a version's error rate is for.
const FAILING: u32 = 5;

/// What this worker remembers of an endpoint.
#[derive(Default)]
pub struct Health {
    unreachable: Cell<u32>,
    server_errors: Cell<u32>,
    /// How the last try failed that was no answer below 500; `None`: with an answer of 5xx.
    cause: Cell<Option<Failure>>,
    /// Until when, if it is out.
    out: Cell<Option<Tick>>,
    /// A trial is on its way, be it one of an earlier time out.
    on_trial: Cell<bool>,
    /// How often it was put out, without a good while in between.
    times: Cell<u32>,
    back_since: Cell<Tick>,
    /// How long it was out the last time, in ticks.
    lasted: Cell<u32>,
}

impl Health {
    #[inline]
    pub fn is_out(&self) -> bool {
        self.out.get().is_some()
    }

    /// Out, and it is time for the trial.
    pub fn is_due(&self, now: Tick) -> bool {
        !self.on_trial.get() && self.out.get().is_some_and(|until| until <= now)
    }

    /// When the trial is due, if it is out.
    pub fn until(&self) -> Option<Tick> {
        self.out.get()
    }

    /// From here on no other request is its trial, until [`Health::no_trial`].
    pub fn begin_trial(&self) {
        self.on_trial.set(true);
    }

    /// The trial has ended, with a verdict or because its client gave it up.
    pub fn no_trial(&self) {
        self.on_trial.set(false);
    }

    /// Notes how a try went. `true`: by the rules it is time to leave it out.
    #[inline]
    pub fn note(&self, seen: Seen, rules: &Outliers) -> bool {
        match seen {
            Seen::Answer => {
                self.unreachable.set(0);
                self.server_errors.set(0);
                false
            }
            Seen::Unreachable(failure) => {
                self.cause.set(Some(failure));
                self.unreachable.set(self.unreachable.get().saturating_add(1));
                rules.connect_failures.is_some_and(|most| self.unreachable.get() >= most)
            }
            Seen::ServerError(failure) => {
                self.cause.set(failure);
                self.unreachable.set(0);
                self.server_errors.set(self.server_errors.get().saturating_add(1));
                rules.server_errors.is_some_and(|most| self.server_errors.get() >= most)
            }
        }
    }

    /// Whether a trial that went like this brings it back: a version whose errors are no reason to leave its endpoints out
    /// is not kept out by them either.
    pub fn passes(seen: Seen, rules: &Outliers) -> bool {
        match seen {
            Seen::Answer => true,
            Seen::ServerError(_) => rules.server_errors.is_none(),
            Seen::Unreachable(_) => false,
        }
    }

    /// Out from now on, for longer than the last time.
    pub fn put_out(&self, now: Tick, random: u64, rules: &Outliers) {
        // Once it was good for as long as it was out, the past is forgiven.
        let forgiven = !self.is_out() && now.0.saturating_sub(self.back_since.get().0) > self.lasted.get();
        let times = if forgiven { 0 } else { self.times.get() };
        let ticks = time_out(times, random, rules);
        self.times.set(times + 1);
        self.lasted.set(ticks);
        self.unreachable.set(0);
        self.server_errors.set(0);
        self.out.set(Some(Tick(now.0.saturating_add(ticks))));
    }

    /// What there is to say of it besides that it is in use.
    pub fn state(&self, now: Tick) -> Option<EndpointState> {
        let cause = self.cause.get();
        if let Some(until) = self.out.get() {
            let ticks = until.0.saturating_sub(now.0);
            let seconds = (TICK * ticks).as_secs_f64().ceil() as u32;
            return Some(EndpointState::Ejected { cause, seconds });
        }
        match (self.unreachable.get(), self.server_errors.get()) {
            (0, FAILING..) => Some(EndpointState::Failing { cause, times: self.server_errors.get() }),
            (0, _) => None,
            (times, _) => Some(EndpointState::Unreachable { cause, times }),
        }
    }

    pub fn bring_back(&self, now: Tick) {
        self.out.set(None);
        self.back_since.set(now);
        self.unreachable.set(0);
        self.server_errors.set(0);
    }
}

/// Twice as long each time, give or take a quarter, so that what went out together does not come back together. In ticks,
/// at least one.
fn time_out(times: u32, random: u64, rules: &Outliers) -> u32 {
    let doubled = rules.base_time.saturating_mul(1 << times.min(20)).min(rules.max_time.max(rules.base_time));
    // From 768 to 1279 of 1024 parts.
    let jittered = doubled.as_nanos() * u128::from(768 + (random >> 55)) / 1024;
    (jittered / TICK.as_nanos()).clamp(1, u128::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const REFUSED: Seen = Seen::Unreachable(Failure::ConnectRefused);
    const ERROR: Seen = Seen::ServerError(None);

    fn rules() -> Outliers {
        Outliers { server_errors: Some(3), ..Outliers::default() }
    }

    #[test]
    fn failures_count_only_in_a_row() {
        let health = Health::default();
        for _ in 0..10 {
            for _ in 0..4 {
                assert!(!health.note(REFUSED, &rules()));
            }
            health.note(Seen::Answer, &rules());
        }
        for n in 1..=5 {
            assert_eq!(health.note(REFUSED, &rules()), n == 5);
        }
    }

    #[test]
    fn errors_are_no_reason_unless_that_is_wanted() {
        let health = Health::default();
        for _ in 0..1000 {
            assert!(!health.note(ERROR, &Outliers::default()));
        }
        assert!(health.note(ERROR, &rules()));
        let off = Outliers { connect_failures: None, ..rules() };
        for _ in 0..1000 {
            assert!(!health.note(REFUSED, &off));
        }
    }

    #[test]
    fn the_time_out_doubles_up_to_its_bound_and_a_good_while_ends_that() {
        let (health, rules) = (Health::default(), rules());
        let middle = 1 << 63;
        let mut now = Tick(0);
        let mut seconds = Vec::new();
        for _ in 0..8 {
            health.put_out(now, middle, &rules);
            let until = health.until().unwrap();
            seconds.push((until.0 - now.0) / 10);
            now = until;
        }
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300, 300]);
        health.bring_back(now);
        health.put_out(Tick(now.0 + 100), middle, &rules);
        assert_eq!(health.until().unwrap().0 - now.0 - 100, 3000, "bad again at once");
        health.bring_back(now);
        health.put_out(Tick(now.0 + 3001), middle, &rules);
        assert_eq!(health.until().unwrap().0 - now.0 - 3001, 100, "good for as long as it was out");
    }

    proptest! {
        #[test]
        fn the_time_out_is_jittered_by_a_quarter_at_most(times in 0..40u32, random: u64, base in 1..100_000u64, more in 0..1_000_000u64) {
            let rules = Outliers {
                base_time: Duration::from_millis(base),
                max_time: Duration::from_millis(base + more),
                ..Outliers::default()
            };
            let middle = (base << times.min(20)).min(base + more);
            let ticks = u64::from(time_out(times, random, &rules));
            prop_assert!(ticks >= 1);
            prop_assert!(ticks * 100 <= (middle + middle / 4).max(100) + 1);
            prop_assert!((ticks + 1) * 100 + 1 >= middle - middle / 4);
        }
    }
}
