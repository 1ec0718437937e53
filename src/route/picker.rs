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
//! A worker that still holds the old split when the new one has begun decides by the old schedule, with a number that
//! nobody else gets. These requests, and only these, are not accounted for. With unchanged weights both give the same
//! answer.

mod line;
#[cfg(test)]
mod tests;
#[cfg(all(test, splitway_loom))]
mod under_loom;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use siphasher::sip128::SipHasher24;

use super::VersionHash;
use line::{Carry, Line};

#[cfg(all(test, splitway_loom))]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(all(test, splitway_loom)))]
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

/// A compiled split. Nothing in it changes but the counter, which it shares with the splits before and after it.
pub struct Split {
    counter: Arc<Counter>,
    /// The first number that is this split's to decide.
    begin: u64,
    /// Outermost first. Empty when only one version has a weight above 0.
    choices: Box<[Choice]>,
    /// The backend of whatever no choice takes, and its version.
    last: usize,
    last_version: VersionHash,
    total: u32,
    accounts: Vec<Account>,
    seed: Seed,
    turn: Turn,
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

/// The numbers of one named split. It has a cache line (and its neighbour, which is fetched along with it) for itself,
/// because every worker writes to it and nothing else that workers read should be near.
///
/// **Ordering.** Relaxed. A number is taken by one `fetch_add`, and all changes of a single atomic have one order that
/// every thread agrees on, so no number is given twice and none is left out; no other memory depends on the number,
/// because a decision is a function of the number and of a split that does not change. That a new split never receives
/// a number from before its beginning needs no ordering here either: whoever can use it got it through the publishing
/// pointer (Release and Acquire), so the load that read the beginning happened before, and a later `fetch_add` cannot
/// return less.
#[repr(align(128))]
struct Counter(AtomicU64);

impl Counter {
    #[inline]
    fn take(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    #[inline]
    fn next(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
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
}

impl Split {
    /// Compiles `shares`: versions, their backends in this snapshot, and their weights, outermost first: what comes and
    /// goes stands before what lasts. The state of `previous` goes over as the module's text says; `previous` itself is
    /// not changed, so a split that is built and thrown away leaves no trace.
    ///
    /// # Panics
    ///
    /// If no weight is above 0 or their total is above [`super::MAX_TOTAL`]; [`super::Shares`] rules both out.
    pub fn new(shares: &[(VersionHash, usize, u32)], seed: Seed, turn: Turn, previous: Option<&Split>) -> Self {
        let counter =
            previous.map_or_else(|| Arc::new(Counter(AtomicU64::new(0))), |previous| previous.counter.clone());
        let begin = counter.next();
        let indices = previous.map_or_else(Vec::new, |previous| previous.indices(begin));
        let mut accounts = previous.map_or_else(Vec::new, |previous| previous.settled(begin, &indices));
        for (version, _, weight) in shares {
            account(&mut accounts, version).weight = *weight;
        }

        let chain: Vec<_> = shares.iter().filter(|(_, _, weight)| *weight > 0).collect();
        let total: u32 = chain.iter().map(|(_, _, weight)| weight).sum();
        let Some(((last_version, last, _), outer)) = chain.split_last() else {
            panic!("a split needs a weight above 0");
        };
        let mut remaining = total;
        let mut choices = Vec::with_capacity(outer.len());
        for (i, (version, backend, weight)) in outer.iter().enumerate() {
            // The other side, if that is a single version.
            let against = (i + 1 == outer.len()).then_some(last_version);
            let carry = take_over(&mut accounts, version, against);
            let kept =
                previous.filter(|previous| previous.seed == seed && previous.turn == turn).and_then(|previous| {
                    let (i, negated) = previous.schedule(version, *weight, remaining, against)?;
                    Some((previous.choices[i].line.clone(), negated, indices[i]))
                });
            let (line, negated, origin) = kept.unwrap_or_else(|| {
                let account = account(&mut accounts, version);
                let key = seed.of(version.as_str()).derive(b"schedule", &account.schedules.to_le_bytes());
                account.schedules += 1;
                let negated = u64::from(*weight) * 2 > u64::from(remaining);
                let (chosen, carry) = if negated { (remaining - weight, carry.flipped()) } else { (*weight, carry) };
                (Line::new(chosen, remaining, carry, key, turn.shifts()), negated, 0)
            });
            let mut choice = Choice { line, negated, backend: *backend, origin, taken: 0, version: version.clone() };
            choice.taken = choice.taken_before(origin);
            choices.push(choice);
            remaining -= weight;
        }
        Self {
            counter,
            begin,
            choices: choices.into(),
            last: *last,
            last_version: last_version.clone(),
            total,
            accounts,
            seed,
            turn,
        }
    }

    /// Takes the next number and returns the backend it leads to. One atomic step, no lock, no loop over requests.
    #[inline]
    pub fn pick(&self) -> usize {
        self.at(self.counter.take())
    }

    /// The backend that the next [`Split::pick`] will return, unless another thread picks first. Takes no number.
    pub fn peek(&self) -> usize {
        self.at(self.counter.next())
    }

    /// The account since the process started, over this split and all before it.
    pub fn tally(&self) -> Tally {
        let requests = self.counter.next();
        let asked = |account: &Account| account.asked_after(requests - self.begin, self.total).value();
        Tally {
            requests,
            asked: self.accounts.iter().map(|account| (account.version.clone(), asked(account))).collect(),
        }
    }

    #[inline]
    fn at(&self, number: u64) -> usize {
        let mut reached = number - self.begin;
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
        for (i, choice) in self.choices.iter().enumerate() {
            let carry = choice.line.carry(indices[i]);
            let account = account(&mut accounts, &choice.version);
            account.carry = Some(if choice.negated { carry.flipped() } else { carry });
            account.against = (i + 1 == self.choices.len()).then(|| self.last_version.clone());
        }
        accounts
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
