//! The exact weighted split and the phase it carries from one snapshot to the next.
//!
//! # The method
//!
//! A split's promise has two halves that fight each other: *regular* (any number of requests is within one of its
//! share) and *random* (no client can fall in step with it). Smooth round robin has the first and aliases with clients
//! that alternate; a draw per request has the second and is off by ±1.35 percentage points after 1000 requests at 5 %.
//! Sampling people from a list, which needs the same two things, was solved long ago: cut the list into strata of equal
//! measure, select one member of each at random, and treat the members that lie across a border so that every chance
//! stays what it should be (Chromy 1979; Deville 1998; Tillé, *Sampling Algorithms*, 2006). `line` does that for
//! requests as a pure function of the request's number, so that one counter is the only state.
//!
//! Several versions are a chain of such choices between two: the outermost version against the rest, then the next one
//! against what is left. Each choice has a key of its own and counts only the requests that reach it, which again is a
//! closed form of the number. Weights that leave only one version need no draw; the counter counts all the same.
//!
//! # The promises
//!
//! The unit is requests; `N` is any number of requests since the process started, `w` of `W` a version's weight.
//!
//! * **Two versions:** |given − asked| < 1 at every `N`, through any changes of weight, where asked is the sum of `w/W`
//!   over the requests. Under one schedule that begins with the split, each round of `W` requests (in lowest terms)
//!   gives exactly `w`. (The account of "asked" is kept in 2^-64 of a request and rounded down once per change.)
//! * **More versions:** a choice is within one of its share of the requests that *reach* it, and the requests that
//!   reach it are themselves within bounds: in a chain of `m` versions, the one at place `d` (1 is the outermost) is
//!   off by less than `d`, the last by less than `m - 1`; with three, by less than 2 each. When the weights *inside*
//!   change while an outer choice exists, every change can add the amount by which the inner share moved: a walk from 0
//!   to 100 % adds less than one.
//! * **Every request is equally likely:** over the keys, the chance of each single number is `w/W`, also across changes
//!   and for the very first request. A client of any period meets every version as if drawn independently for it, or
//!   more evenly. (That still spreads: 1000 requests of one phase at 50 % have a standard deviation of 1.6 points.)
//! * **Several proxies** with keys of their own are unbiased from the first request. With a shared seed and a [`Turn`]
//!   each, the selections of one stratum are spread over it, so that the *sum* over proxies that receive equally many
//!   requests is nearly as exact as one proxy. That needs all of them to have seen the same changes; else they are
//!   merely unbiased.
//!
//! # Through changes
//!
//! All successive splits of one name share one counter, so every request of a process has its own number for life. A
//! new split begins at the number that the counter shows while it is built. What goes over is held per choice and known
//! by the version on its outer side:
//!
//! * same version, same weights: the schedule itself goes on, number by number. A reload that changes nothing, or only
//!   endpoints, roles or *other* choices of the chain, moves no request;
//! * same version, other weights: the fraction of the stratum under way and whether it has selected go over, and the
//!   rest is drawn anew with a fresh key;
//! * the innermost pair has swapped sides (a promotion or a rollback): the same, seen from the other side;
//! * a version that was not on an outer side before begins with a clean slate, so that its promise holds from its first
//!   request. The fraction, below one request, by which its predecessor was off stays with the versions that remain. A
//!   version that is away for a while (or has weight 0) finds its state again.
//!
//! The new split is in force from the moment in which it is built, exactly: an epoch in the counter's upper bits changes in
//! the same atomic step that fixes the number at which it begins. A worker that still holds the old split notices by the
//! epoch that its number belongs to a successor, and asks that one for the version. So the account is exact with any
//! number of threads. There are two exceptions, each at most for the microseconds until the worker has the new snapshot: a
//! version that the old snapshot does not have yet cannot be sent to, and if picks come so fast that the step cannot be
//! taken ([`ATTEMPTS`]), a few of them are decided by the old schedule.

mod line;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "loom"))]
mod under_loom;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use siphasher::sip128::SipHasher24;

use super::VersionHash;
use line::{Carry, Line};

#[cfg(all(test, feature = "loom"))]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(all(test, feature = "loom")))]
use std::sync::atomic::{AtomicU64, Ordering};

/// What makes one process's draws differ from another's: the key of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64, pub u64);

impl Seed {
    /// One that no other process has. The standard library's hash keys come from the system's randomness.
    pub fn random() -> Self {
        Self(RandomState::new().hash_one(0), RandomState::new().hash_one(1))
    }

    /// The same in every process that is given the same text: for replicas that take turns. It stays the same in every
    /// version of Splitway.
    pub fn shared(text: &str) -> Self {
        Seed(0x7370_6c69_7477_6179, 0x7069_636b_6572).derive(b"shared", text.as_bytes())
    }

    /// An independent one for a split of that name.
    pub fn of(self, name: &str) -> Self {
        self.derive(b"split", name.as_bytes())
    }

    /// An independent one for a port of that name.
    pub fn at_port(self, name: &str) -> Self {
        self.derive(b"port", name.as_bytes())
    }

    fn derive(self, purpose: &[u8], name: &[u8]) -> Self {
        let hash = SipHasher24::new_with_keys(self.0, self.1).hash(&[purpose, b"\0", name].concat());
        Self(hash.h1, hash.h2)
    }
}

/// Which of several replicas this is: number `index`, counted from 0, of `of`. With a shared seed they take turns. The
/// default is the only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    index: u32,
    of: u32,
}

impl Turn {
    /// `None` unless `index < of`.
    pub fn new(index: u32, of: u32) -> Option<Self> {
        (index < of).then_some(Self { index, of })
    }

    pub fn index(self) -> u32 {
        self.index
    }

    pub fn of(self) -> u32 {
        self.of
    }

    /// By how much of a stratum this replica's selections are moved, in 2^-64: a multiple of `1 / of`, in even strata
    /// and in odd ones. All replicas together use every multiple once, so that their selections are evenly spread over
    /// the stratum. They go round in steps and not in a row, and in other steps in odd strata, so that those who are
    /// ahead at a moment are spread as well, and those for whom a border request of the stratum before is still free.
    /// (The fractions were found by trying; what counts is that they are not near simple ones.)
    fn shifts(self) -> [u64; 2] {
        let (index, of) = (u64::from(self.index), u64::from(self.of));
        [0.382, 0.276].map(|fraction| {
            let near = ((of as f64 * fraction) as u64).max(1);
            let step = (near..).find(|step| coprime(*step, of)).unwrap_or(1);
            ((u128::from(index * step % of) << 64) / u128::from(of)) as u64
        })
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

/// A compiled split.
#[derive(Clone)]
pub struct Split(Arc<Phase>);

/// A split between two changes. Nothing in it changes but the counter, which it shares with the phases before and after
/// it, and the link to its successor.
struct Phase {
    counter: Arc<Counter>,
    /// What the counter's upper bits say while this phase is in force.
    epoch: u64,
    /// The first number that is this phase's to decide.
    begin: u64,
    /// Outermost first. Empty when only one version has a weight above 0.
    choices: Box<[Choice]>,
    /// The backend of whatever no choice takes, and its version.
    last: usize,
    last_version: VersionHash,
    total: u32,
    /// The number at which these weights came into force: an earlier one than `begin` if only other things have changed.
    since: u64,
    /// Every version of this phase, also those with weight 0.
    backends: Box<[(VersionHash, usize)]>,
    accounts: Vec<Account>,
    seed: Seed,
    turn: Turn,
    next: ArcSwapOption<Phase>,
}

/// One version against the rest of the chain.
struct Choice {
    line: Line,
    /// The line chooses what does *not* go to this version.
    negated: bool,
    backend: usize,
    /// The line's index at the split's beginning, and how many requests the version had received by then.
    origin: u64,
    taken: u64,
    version: VersionHash,
}

/// What is remembered of a version for the life of the process, as of a split's beginning.
#[derive(Clone)]
struct Account {
    version: VersionHash,
    /// Its weight in this split.
    weight: u32,
    asked: Asked,
    given: u64,
    /// `asked` and `given` as of the moment in which the weights of this split came into force.
    before: (Asked, u64),
    /// The state of its choice; `None` if it has had none, or if the choice has swapped sides since.
    carry: Option<Carry>,
    /// The other side of that choice, if that was a single version.
    against: Option<VersionHash>,
    /// How many schedules it has begun. Makes each schedule's key a new one, and the same one in all replicas.
    schedules: u64,
}

/// An ideal count: whole requests, and a part in 2^-64.
#[derive(Clone, Copy, Default)]
struct Asked {
    whole: u64,
    part: u64,
}

/// The numbers of one named split: the number in the lower bits, the epoch in the upper ones. It has a cache line (and its
/// neighbour, which is fetched along with it) for itself, because every worker writes to it and nothing else that workers
/// read should be near.
///
/// **Ordering.** A number is taken by one `fetch_add`, and all changes of a single atomic have one order that every
/// thread agrees on, so no number is given twice and none is left out. A change stores the successor's link first and
/// moves the epoch with Release; a pick takes its number with Acquire (on x86 and ARMv8.1 the same instruction as
/// Relaxed). Whoever sees the new epoch therefore finds the link, also through the picks of others in between, because a
/// read-modify-write continues the release sequence. That a phase never receives a number from before its beginning needs
/// no ordering here: whoever holds it got it through a link or through the publishing pointer (Release and Acquire), so
/// the step that fixed the beginning happened before, and a later `fetch_add` cannot return less.
#[repr(align(128))]
struct Counter(AtomicU64);

/// At a hundred thousand requests per second they last for 89 years.
const NUMBER_BITS: u32 = 48;
const NUMBERS: u64 = (1 << NUMBER_BITS) - 1;

/// How often a change tries to begin between two picks. One try takes a few microseconds, so that even at 200,000 picks
/// per second more than a handful of tries has never been seen.
const ATTEMPTS: u32 = 64;

impl Counter {
    #[inline]
    fn take(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Acquire)
    }

    #[inline]
    fn read(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Moves the epoch if no number was taken since `seen`.
    fn turn(&self, seen: u64, epoch: u64) -> bool {
        let next = epoch << NUMBER_BITS | (seen & NUMBERS);
        self.0.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Moves the epoch whatever happens; returns what was there before.
    fn force(&self) -> u64 {
        self.0.fetch_add(1 << NUMBER_BITS, Ordering::AcqRel)
    }
}

/// A split's account since the process started.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// How many numbers were taken.
    pub requests: u64,
    /// How many requests every version ever named should have received by then: the sum of its share at the time of
    /// each request.
    pub asked: Vec<(VersionHash, f64)>,
    /// The number at which the present weights came into force.
    pub since: u64,
    /// What has happened since then, for the versions of `asked` in their order.
    pub window: Vec<Window>,
}

/// A version's account since the present weights came into force. With `m` versions that have a weight, what was given is
/// less than `2 * (m - 1)` requests away from what was asked for: at both ends a choice is within one of its share, and
/// what reaches it as well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Requests that it was given before.
    pub given_before: u64,
    /// Requests that an ideal split would have given to it since.
    pub asked: f64,
}

impl Split {
    /// Compiles `shares`: versions, their backends in this snapshot, and their weights, outermost first: what comes and
    /// goes stands before what lasts. The state of `previous` goes over as the module's text says, and from here on the
    /// new split is in force, also for those who still hold `previous`.
    ///
    /// # Panics
    ///
    /// If no weight is above 0 or their total is above [`super::MAX_TOTAL`]; [`super::Shares`] rules both out.
    pub fn new(shares: &[(VersionHash, usize, u32)], seed: Seed, turn: Turn, previous: Option<&Split>) -> Self {
        let Some(previous) = previous else {
            let counter = Arc::new(Counter(AtomicU64::new(0)));
            return Self(Arc::new(Phase::after(None, counter, 0, shares, seed, turn)));
        };
        let previous = Phase::newest(&previous.0);
        let counter = &previous.counter;
        let after = |seen: u64| {
            let phase = Phase::after(Some(&previous), counter.clone(), seen & NUMBERS, shares, seed, turn);
            let phase = Arc::new(phase);
            previous.next.store(Some(phase.clone()));
            phase
        };
        for _ in 0..ATTEMPTS {
            let seen = counter.read();
            let phase = after(seen);
            if phase.epoch == previous.epoch || counter.turn(seen, phase.epoch) {
                return Self(phase);
            }
        }
        Self(after(counter.force()))
    }

    /// Takes the next number and returns the backend it leads to. One atomic step, no lock, no loop over requests.
    #[inline]
    pub fn pick(&self) -> usize {
        self.0.decide(self.0.counter.take())
    }

    /// The backend that the next [`Split::pick`] will return, unless another thread picks first. Takes no number.
    pub fn peek(&self) -> usize {
        self.0.decide(self.0.counter.read())
    }

    /// The account since the process started, over this split and all before it, and after it.
    pub fn tally(&self) -> Tally {
        let phase = Phase::newest(&self.0);
        let requests = phase.counter.read() & NUMBERS;
        let asked = |account: &Account| account.asked_after(requests - phase.begin, phase.total);
        let window = |account: &Account| {
            let (asked_before, given_before) = account.before;
            Window { given_before, asked: asked(account).since(asked_before).value() }
        };
        Tally {
            requests,
            asked: phase.accounts.iter().map(|account| (account.version.clone(), asked(account).value())).collect(),
            since: phase.since,
            window: phase.accounts.iter().map(window).collect(),
        }
    }
}

impl Phase {
    /// The phase that begins at a number.
    fn after(
        previous: Option<&Phase>,
        counter: Arc<Counter>,
        begin: u64,
        shares: &[(VersionHash, usize, u32)],
        seed: Seed,
        turn: Turn,
    ) -> Self {
        let indices = previous.map_or_else(Vec::new, |previous| previous.indices(begin));
        let mut accounts = previous.map_or_else(Vec::new, |previous| previous.settled(begin, &indices));
        for (version, _, weight) in shares {
            account(&mut accounts, version).weight = *weight;
        }
        let same = |previous: &&Phase| accounts.iter().all(|now| previous.weight(&now.version) == now.weight);
        let since = previous.filter(same).map(|previous| previous.since);
        if since.is_none() {
            accounts.iter_mut().for_each(|account| account.before = (account.asked, account.given));
        }

        let chain: Vec<_> = shares.iter().filter(|(_, _, weight)| *weight > 0).collect();
        let total: u32 = chain.iter().map(|(_, _, weight)| weight).sum();
        let Some(((last_version, last, _), outer)) = chain.split_last() else {
            panic!("a split needs a weight above 0");
        };
        let mut remaining = total;
        let mut choices = Vec::with_capacity(outer.len());
        let mut unchanged = previous.is_some_and(|previous| {
            // Without a choice the last version is all there is; with one, the choice knows both sides.
            previous.choices.len() == outer.len() && (!outer.is_empty() || previous.last_version == *last_version)
        });
        for (i, (version, backend, weight)) in outer.iter().enumerate() {
            // The other side, if that is a single version.
            let against = (i + 1 == outer.len()).then_some(last_version);
            let carry = take_over(&mut accounts, version, against);
            let kept =
                previous.filter(|previous| previous.seed == seed && previous.turn == turn).and_then(|previous| {
                    let (place, negated) = previous.schedule(version, *weight, remaining, against)?;
                    Some((place, previous.choices[place].line.clone(), negated))
                });
            unchanged &= kept.as_ref().is_some_and(|(place, ..)| *place == i);
            let (line, negated, origin) = match kept {
                Some((place, line, negated)) => (line, negated, indices[place]),
                None => {
                    let account = account(&mut accounts, version);
                    let key = seed.of(version.as_str()).derive(b"schedule", &account.schedules.to_le_bytes());
                    account.schedules += 1;
                    let negated = u64::from(*weight) * 2 > u64::from(remaining);
                    let (chosen, carry) =
                        if negated { (remaining - weight, carry.flipped()) } else { (*weight, carry) };
                    (Line::new(chosen, remaining, carry, key, turn.shifts()), negated, 0)
                }
            };
            let mut choice = Choice { line, negated, backend: *backend, origin, taken: 0, version: version.clone() };
            choice.taken = choice.taken_before(origin);
            choices.push(choice);
            remaining -= weight;
        }
        // The last pair may have been kept while its other side is now another version.
        unchanged &= previous.is_some_and(|previous| {
            let pair = |phase_last: &VersionHash, choices: &[Choice]| {
                let mut pair = [choices.last().map(|choice| choice.version.clone()), Some(phase_last.clone())];
                pair.sort();
                pair
            };
            pair(&previous.last_version, &previous.choices) == pair(last_version, &choices)
        });
        let epoch = previous.map_or(0, |previous| {
            let step = u64::from(!unchanged);
            (previous.epoch + step) & (u64::MAX >> NUMBER_BITS)
        });
        Self {
            counter,
            epoch,
            begin,
            choices: choices.into(),
            last: *last,
            last_version: last_version.clone(),
            total,
            since: since.unwrap_or(begin),
            backends: shares.iter().map(|(version, backend, _)| (version.clone(), *backend)).collect(),
            accounts,
            seed,
            turn,
            next: ArcSwapOption::empty(),
        }
    }

    /// The last one of those that follow, or this one.
    fn newest(this: &Arc<Phase>) -> Arc<Phase> {
        let mut phase = this.clone();
        while let Some(next) = phase.next.load_full() {
            phase = next;
        }
        phase
    }

    #[inline]
    fn decide(&self, taken: u64) -> usize {
        if taken >> NUMBER_BITS == self.epoch { self.at(taken) } else { self.decide_late(taken) }
    }

    /// A number of a successor's: that one says which version, and this one knows where that is, if it has it.
    #[cold]
    fn decide_late(&self, taken: u64) -> usize {
        let epoch = taken >> NUMBER_BITS;
        let mut successor = self.next.load_full();
        while let Some(phase) = successor {
            if phase.epoch == epoch {
                let backend = phase.at(taken);
                let version = phase.backends.iter().find(|(_, known)| *known == backend).map(|(version, _)| version);
                let here = self.backends.iter().find(|(known, _)| Some(known) == version);
                return here.map_or_else(|| self.at(taken), |(_, backend)| *backend);
            }
            successor = phase.next.load_full();
        }
        self.at(taken)
    }

    /// The backend of a number, whatever its epoch.
    #[inline]
    fn at(&self, taken: u64) -> usize {
        let mut reached = (taken & NUMBERS) - self.begin;
        let mut choices = self.choices.iter();
        while let Some(choice) = choices.next() {
            let index = choice.origin + reached;
            if choice.takes(index) {
                return choice.backend;
            }
            if choices.as_slice().is_empty() {
                break;
            }
            reached -= choice.taken_before(index) - choice.taken;
        }
        self.last
    }

    /// The index of every choice's line at a number.
    fn indices(&self, number: u64) -> Vec<u64> {
        let mut reached = number - self.begin;
        let step = |choice: &Choice| {
            let index = choice.origin + reached;
            reached -= choice.taken_before(index) - choice.taken;
            index
        };
        self.choices.iter().map(step).collect()
    }

    /// The accounts as of a number, at which the choices' lines have these indices. No version has a weight yet.
    fn settled(&self, number: u64, indices: &[u64]) -> Vec<Account> {
        let mut accounts = self.accounts.clone();
        for account in &mut accounts {
            account.asked = account.asked_after(number - self.begin, self.total);
            account.weight = 0;
        }
        let mut rest = number - self.begin;
        for (i, choice) in self.choices.iter().enumerate() {
            let carry = choice.line.carry(indices[i]);
            let account = account(&mut accounts, &choice.version);
            let given = choice.taken_before(indices[i]) - choice.taken;
            account.given += given;
            rest -= given;
            account.carry = Some(if choice.negated { carry.flipped() } else { carry });
            account.against = (i + 1 == self.choices.len()).then(|| self.last_version.clone());
        }
        account(&mut accounts, &self.last_version).given += rest;
        accounts
    }

    fn weight(&self, version: &VersionHash) -> u32 {
        self.accounts.iter().find(|account| account.version == *version).map_or(0, |account| account.weight)
    }

    /// The choice of this split whose schedule gives `version` that weight, and whether it is to be negated: the
    /// version's own choice, or the innermost one seen from its other side.
    fn schedule(
        &self,
        version: &VersionHash,
        weight: u32,
        total: u32,
        against: Option<&VersionHash>,
    ) -> Option<(usize, bool)> {
        let swapped = |(i, choice): (usize, &Choice)| {
            i + 1 == self.choices.len() && Some(&choice.version) == against && self.last_version == *version
        };
        let fits = |(i, choice): (usize, &Choice)| choice.version == *version || swapped((i, choice));
        let i = self.choices.iter().enumerate().position(fits)?;
        let choice = &self.choices[i];
        let negated = choice.negated ^ (choice.version != *version);
        choice.line.has(if negated { total - weight } else { weight }, total).then_some((i, negated))
    }
}

/// Link by link: a recursion over as many phases as there were changes could overflow the stack.
impl Drop for Phase {
    fn drop(&mut self) {
        let mut next = self.next.swap(None);
        while let Some(mut phase) = next.and_then(Arc::into_inner) {
            next = std::mem::take(&mut phase.next).into_inner();
        }
    }
}

impl Choice {
    #[inline]
    fn takes(&self, index: u64) -> bool {
        self.line.chooses(index) ^ self.negated
    }

    #[inline]
    fn taken_before(&self, index: u64) -> u64 {
        let chosen = self.line.chosen_before(index);
        if self.negated { index - chosen } else { chosen }
    }
}

impl Account {
    fn asked_after(&self, requests: u64, total: u32) -> Asked {
        let asked = u128::from(requests) * u128::from(self.weight);
        let total = u128::from(total);
        let (part, over) = self.asked.part.overflowing_add((((asked % total) << 64) / total) as u64);
        Asked { whole: self.asked.whole + (asked / total) as u64 + u64::from(over), part }
    }
}

impl Asked {
    fn since(self, before: Self) -> Self {
        let (part, under) = self.part.overflowing_sub(before.part);
        Self { whole: self.whole - before.whole - u64::from(under), part }
    }

    fn value(self) -> f64 {
        self.whole as f64 + self.part as f64 / 2f64.powi(64)
    }
}

/// The account of a version; a new one if it was never named.
fn account<'a>(accounts: &'a mut Vec<Account>, version: &VersionHash) -> &'a mut Account {
    let i = accounts.iter().position(|account| account.version == *version).unwrap_or_else(|| {
        accounts.push(Account {
            version: version.clone(),
            weight: 0,
            asked: Asked::default(),
            given: 0,
            before: Default::default(),
            carry: None,
            against: None,
            schedules: 0,
        });
        accounts.len() - 1
    });
    &mut accounts[i]
}

/// The state with which the choice of `version` goes on: that of the same pair seen from the other side, if that is how
/// it was known last, else the version's own.
fn take_over(accounts: &mut Vec<Account>, version: &VersionHash, against: Option<&VersionHash>) -> Carry {
    if let Some(against) = against {
        let other = account(accounts, against);
        if other.against.as_ref() == Some(version) {
            // Taken, not copied: from here on the pair is known by its new outer side.
            other.against = None;
            if let Some(carry) = other.carry.take() {
                return carry.flipped();
            }
        }
    }
    account(accounts, version).carry.unwrap_or_default()
}

fn coprime(a: u64, b: u64) -> bool {
    if b == 0 { a == 1 } else { coprime(b, a % b) }
}
