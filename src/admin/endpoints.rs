//! A version's endpoints and how each of them fares, as one list: every worker judges for itself, and the gravest judgement
//! is shown, with how many workers are of that opinion.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::metrics::{EndpointState, Metrics};
use crate::proxy::Failure;
use crate::route::Backend;

/// Endpoints that are listed, the gravest first; of more only the number is told.
pub const LISTED: usize = 20;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: String,
    pub state: State,
    /// How many workers see it so, and how many there are.
    pub workers: usize,
    pub of: usize,
    /// Why, and what comes next; empty if there is nothing to add.
    pub detail: String,
}

/// From good to grave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is in use, and there is nothing more to say.
    #[default]
    Active,
    /// No longer in the snapshot; requests finish there.
    Leaving,
    /// New: its share still grows.
    Warming,
    /// As many requests as it may have at once.
    Full,
    /// Answered with errors, again and again.
    Failing,
    /// Refuses connections, or cannot be reached.
    Unreachable,
    /// Left out for a while.
    Ejected,
}

/// The first of them; those that only finish requests come beside those of the snapshot.
pub fn list(metrics: &Metrics, port: usize, backend: &Backend) -> Vec<Endpoint> {
    let told = metrics.endpoints(port, &backend.version);
    let mut seen: HashMap<SocketAddr, Vec<EndpointState>> = HashMap::new();
    for one in told.iter().flatten() {
        seen.entry(one.address).or_default().push(one.state);
    }
    let endpoint = |address: &SocketAddr, states: &[EndpointState]| Endpoint::of(address, states, told.len());
    let mut all: Vec<Endpoint> =
        backend.endpoints.iter().map(|address| endpoint(address, &seen.remove(address).unwrap_or_default())).collect();
    // A worker may not have noticed yet what left, and speaks of it for one more tick.
    let leaves = |state: &EndpointState| matches!(state, EndpointState::Leaving { .. });
    let mut leaving: Vec<_> = seen.into_iter().filter(|(_, states)| states.iter().all(leaves)).collect();
    leaving.sort_by_key(|(address, _)| *address);
    all.extend(leaving.iter().map(|(address, states)| endpoint(address, states)));
    first(&mut all);
    all
}

/// Those that are to be seen first, and no more than fit.
pub fn first(all: &mut Vec<Endpoint>) {
    all.sort_by_key(|one| std::cmp::Reverse(one.state));
    all.truncate(LISTED);
}

impl Endpoint {
    fn of(address: &SocketAddr, states: &[EndpointState], of: usize) -> Self {
        let state = states.iter().map(State::of).max().unwrap_or_default();
        let same = || states.iter().filter(move |one| State::of(one) == state);
        Self {
            address: address.to_string(),
            state,
            workers: if state == State::Active { of } else { same().count() },
            of,
            detail: same().copied().reduce(both).map(detail).unwrap_or_default(),
        }
    }

    /// What another replica says of the same one.
    pub fn add(&mut self, other: &Endpoint) {
        let of = self.of + other.of;
        match self.state.cmp(&other.state) {
            std::cmp::Ordering::Less => *self = other.clone(),
            std::cmp::Ordering::Equal => self.workers += other.workers,
            std::cmp::Ordering::Greater => {}
        }
        self.of = of;
    }

    pub fn in_words(&self) -> String {
        let by = |word: &str, by: &str| match (self.workers, self.of) {
            (_, 0 | 1) => word.to_owned(),
            (workers, of) if workers == of => format!("{word} {by} all {of} workers"),
            (workers, of) => format!("{word} {by} {workers} of {of} workers"),
        };
        let words = match self.state {
            State::Active => "active".to_owned(),
            State::Leaving => "leaving".to_owned(),
            State::Warming => "warming up".to_owned(),
            State::Full => "full".to_owned(),
            State::Failing => by("failing", "for"),
            State::Unreachable => by("unreachable", "for"),
            State::Ejected => by("ejected", "by"),
        };
        if self.detail.is_empty() { words } else { format!("{words}: {}", self.detail) }
    }
}

impl State {
    fn of(state: &EndpointState) -> Self {
        match state {
            EndpointState::Leaving { .. } => State::Leaving,
            EndpointState::Warming { .. } => State::Warming,
            EndpointState::Full { .. } => State::Full,
            EndpointState::Failing { .. } => State::Failing,
            EndpointState::Unreachable { .. } => State::Unreachable,
            EndpointState::Ejected { .. } => State::Ejected,
        }
    }
}

/// Two workers of the same opinion: requests add up, of the rest what is sooner or more.
fn both(one: EndpointState, other: EndpointState) -> EndpointState {
    use EndpointState::{Ejected, Failing, Leaving, Unreachable, Warming};
    match (one, other) {
        (Leaving { requests: a }, Leaving { requests: b }) => Leaving { requests: a + b },
        (Warming { percent: a }, Warming { percent: b }) => Warming { percent: a.min(b) },
        (Failing { cause, times: a }, Failing { times: b, .. }) => Failing { cause, times: a.max(b) },
        (Unreachable { cause, times: a }, Unreachable { times: b, .. }) => Unreachable { cause, times: a.max(b) },
        (Ejected { cause, seconds: a }, Ejected { seconds: b, .. }) => Ejected { cause, seconds: a.min(b) },
        // `Full` is one: all workers share the places of an endpoint. Two different ones are never asked.
        (one, _) => one,
    }
}

fn detail(state: EndpointState) -> String {
    let why = |cause: Option<Failure>| match cause {
        Some(failure) => failure.as_str().replace('_', " "),
        None => "answers of 5xx".to_owned(),
    };
    let row = |times| if times == 1 { "at the last try".to_owned() } else { format!("{times} times in a row") };
    match state {
        EndpointState::Leaving { requests: 1 } => "1 request finishes there".to_owned(),
        EndpointState::Leaving { requests } => format!("{requests} requests finish there"),
        EndpointState::Warming { percent } => format!("{percent} % of its share so far"),
        EndpointState::Full { requests } => format!("it has all {requests} requests that it may have at once"),
        EndpointState::Failing { cause, times } | EndpointState::Unreachable { cause, times } => {
            format!("{}, {}", why(cause), row(times))
        }
        EndpointState::Ejected { cause, seconds: 0 } => format!("{}; the next request tries it again", why(cause)),
        EndpointState::Ejected { cause, seconds } => format!("{}; tried again in {seconds} s", why(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Option<Failure> = Some(Failure::ConnectRefused);

    fn words(states: &[EndpointState], of: usize) -> String {
        Endpoint::of(&([10, 0, 0, 1], 5000).into(), states, of).in_words()
    }

    #[test]
    fn each_state_is_a_sentence_and_the_gravest_counts() {
        use EndpointState::{Ejected, Failing, Full, Leaving, Unreachable, Warming};
        for (states, of, expected) in [
            (&[][..], 2, "active"),
            (&[Leaving { requests: 1 }], 1, "leaving: 1 request finishes there"),
            (&[Leaving { requests: 1 }, Leaving { requests: 2 }], 2, "leaving: 3 requests finish there"),
            (&[Warming { percent: 40 }, Warming { percent: 39 }], 2, "warming up: 39 % of its share so far"),
            (&[Full { requests: 8 }, Full { requests: 8 }], 2, "full: it has all 8 requests that it may have at once"),
            (&[Failing { cause: None, times: 9 }], 2, "failing for 1 of 2 workers: answers of 5xx, 9 times in a row"),
            (&[Unreachable { cause: REFUSED, times: 1 }], 1, "unreachable: connect refused, at the last try"),
            (
                &[Ejected { cause: REFUSED, seconds: 8 }, Ejected { cause: REFUSED, seconds: 0 }],
                2,
                "ejected by all 2 workers: connect refused; the next request tries it again",
            ),
            (
                &[Unreachable { cause: REFUSED, times: 3 }, Ejected { cause: REFUSED, seconds: 8 }],
                4,
                "ejected by 1 of 4 workers: connect refused; tried again in 8 s",
            ),
        ] {
            assert_eq!(words(states, of), expected);
        }
    }

    #[test]
    fn replicas_are_asked_for_the_gravest_opinion_too() {
        let one = |state, workers, detail: &str| Endpoint {
            address: "10.0.0.1:5000".to_owned(),
            state,
            workers,
            of: 2,
            detail: detail.to_owned(),
        };
        let (good, bad) = (one(State::Active, 2, ""), one(State::Ejected, 1, "connect refused"));
        for (mut first, second, expected) in [
            (good.clone(), good.clone(), "active"),
            (good.clone(), bad.clone(), "ejected by 1 of 4 workers: connect refused"),
            (bad.clone(), good, "ejected by 1 of 4 workers: connect refused"),
            (bad.clone(), bad, "ejected by 2 of 4 workers: connect refused"),
        ] {
            first.add(&second);
            assert_eq!(first.in_words(), expected);
        }
    }

    #[test]
    fn of_many_the_gravest_are_listed() {
        let mut all: Vec<_> = (0..100)
            .map(|n| Endpoint {
                address: n.to_string(),
                state: if n == 70 { State::Ejected } else { State::Active },
                ..Endpoint::default()
            })
            .collect();
        first(&mut all);
        assert_eq!((all.len(), all[0].address.as_str(), all[1].address.as_str()), (LISTED, "70", "0"));
    }
}
