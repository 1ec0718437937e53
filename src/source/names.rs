//! Looks up the names of endpoints with the system's resolver (search domains, hosts file: what `getent hosts` shows).
//!
//! At most one look-up per name is under way; its answer arrives when it arrives, and until then the last good answer
//! counts. A name that stops resolving keeps its last addresses: an empty answer from a broken resolver must not take
//! a version's endpoints away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Declared, Endpoint};

type Name = (String, u16);

pub struct Names {
    known: BTreeMap<Name, Known>,
    asked: BTreeSet<Name>,
    answers: mpsc::UnboundedReceiver<(Name, Result<Vec<SocketAddr>, String>)>,
    /// Bounded by `asked`: one message per name under way.
    answer: mpsc::UnboundedSender<(Name, Result<Vec<SocketAddr>, String>)>,
}

#[derive(Default)]
struct Known {
    /// Sorted, so that a resolver that rotates its answers changes nothing.
    addresses: Vec<SocketAddr>,
    failed: Option<String>,
}

impl Default for Names {
    fn default() -> Self {
        let (answer, answers) = mpsc::unbounded_channel();
        Self { known: BTreeMap::new(), asked: BTreeSet::new(), answers, answer }
    }
}

impl Names {
    /// Starts a look-up for every declared name that has none under way, and forgets names that are not declared.
    pub fn ask(&mut self, declared: &Declared) {
        let names: BTreeSet<Name> = declared
            .backends
            .iter()
            .flat_map(|backend| &backend.endpoints)
            .filter_map(|endpoint| match endpoint {
                Endpoint::Address(_) => None,
                Endpoint::Name { host, port } => Some((host.clone(), *port)),
            })
            .collect();
        self.known.retain(|name, _| names.contains(name));
        for name in names {
            if self.asked.insert(name.clone()) {
                let answer = self.answer.clone();
                tokio::spawn(async move {
                    let found = match tokio::net::lookup_host(&name).await {
                        Ok(addresses) => Ok(addresses.collect()),
                        Err(error) => Err(error.to_string()),
                    };
                    // Nobody listens any more: the process ends.
                    let _ = answer.send((name, found));
                });
            }
        }
    }

    /// Waits until every name under way has its first answer, but not longer than `bound`.
    pub async fn first_answers(&mut self, bound: Duration) {
        let all = async {
            while self.asked.iter().any(|name| !self.known.contains_key(name)) {
                self.answered().await;
            }
        };
        // Too late is no loss: the answer is a change of its own when it comes.
        let _ = tokio::time::timeout(bound, all).await;
    }

    /// Takes one answer in. Returns whether it changed any address or what there is to say about a name.
    pub async fn answered(&mut self) -> bool {
        let (name, found) = self.answers.recv().await.expect("we hold a sender ourselves");
        self.asked.remove(&name);
        let known = self.known.entry(name).or_default();
        match found {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.sort();
                addresses.dedup();
                let changed = known.addresses != addresses || known.failed.is_some();
                *known = Known { addresses, failed: None };
                changed
            }
            other => {
                let error = other.err().unwrap_or_else(|| "it has no address".to_owned());
                let changed = known.failed.as_ref() != Some(&error);
                known.failed = Some(error);
                changed
            }
        }
    }

    /// The addresses of an endpoint as far as they are known, and a note when there is something to say.
    pub fn addresses(&self, endpoint: &Endpoint, notes: &mut Vec<String>) -> Vec<SocketAddr> {
        let (host, port) = match endpoint {
            Endpoint::Address(address) => return vec![*address],
            Endpoint::Name { host, port } => (host, *port),
        };
        match self.known.get(&(host.clone(), port)) {
            None => {
                notes.push(format!("{host}:{port}: the resolver has not answered yet"));
                Vec::new()
            }
            Some(Known { addresses, failed: None }) => addresses.clone(),
            Some(Known { addresses, failed: Some(error) }) if addresses.is_empty() => {
                notes.push(format!("{host}:{port} does not resolve: {error}; it is asked for again"));
                Vec::new()
            }
            Some(Known { addresses, failed: Some(error) }) => {
                notes.push(format!("{host}:{port} does not resolve any more: {error}; its last addresses stay in use"));
                addresses.clone()
            }
        }
    }
}
