//! Looks up the names of endpoints with the system's resolver (search domains, hosts file: what `getent hosts` shows).
//!
//! At most one look-up per name is under way; its answer arrives when it arrives, and until then the last good answer
//! counts. A name that stops resolving keeps its last addresses: an empty answer from a broken resolver must not take
//! a version's endpoints away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Declared, Endpoint};

/// A host and a port.
pub type Name = (String, u16);

/// The addresses of a name, or why there are none.
pub type Answer = Result<Vec<SocketAddr>, String>;

/// Looks up one name, once.
pub type Resolver = Box<dyn Fn(Name) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

pub struct Names {
    resolver: Resolver,
    /// What is declared now.
    declared: BTreeSet<Name>,
    known: BTreeMap<Name, Known>,
    /// Under way; may contain names that are no longer declared.
    asked: BTreeSet<Name>,
    /// Asked for the first time since the last wait.
    fresh: BTreeSet<Name>,
    answers: mpsc::UnboundedReceiver<(Name, Answer)>,
    /// Bounded by `asked`: one message per name under way.
    answer: mpsc::UnboundedSender<(Name, Answer)>,
}

#[derive(Default)]
struct Known {
    /// Sorted, so that a resolver that rotates its answers changes nothing.
    addresses: Vec<SocketAddr>,
    failed: Option<String>,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(Box::new(|name| {
            Box::pin(async move {
                match tokio::net::lookup_host(&name).await {
                    Ok(addresses) => Ok(addresses.collect()),
                    Err(error) => Err(error.to_string()),
                }
            })
        }))
    }
}

impl Names {
    pub fn new(resolver: Resolver) -> Self {
        let (answer, answers) = mpsc::unbounded_channel();
        Self {
            resolver,
            declared: BTreeSet::new(),
            known: BTreeMap::new(),
            asked: BTreeSet::new(),
            fresh: BTreeSet::new(),
            answers,
            answer,
        }
    }

    /// Starts a look-up for every declared name that has none under way, and forgets names that are not declared.
    pub fn ask(&mut self, declared: &Declared) {
        self.declared = declared
            .backends
            .iter()
            .flat_map(|backend| &backend.endpoints)
            .filter_map(|endpoint| match endpoint {
                Endpoint::Address(_) => None,
                Endpoint::Name { host, port } => Some((host.clone(), *port)),
            })
            .collect();
        self.known.retain(|name, _| self.declared.contains(name));
        self.fresh.retain(|name| self.declared.contains(name));
        for name in &self.declared {
            if !self.asked.insert(name.clone()) {
                continue;
            }
            if !self.known.contains_key(name) {
                self.fresh.insert(name.clone());
            }
            let (look_up, name, answer) = ((self.resolver)(name.clone()), name.clone(), self.answer.clone());
            tokio::spawn(async move {
                let found = look_up.await;
                // Nobody listens any more: the process ends.
                let _ = answer.send((name, found));
            });
        }
    }

    /// Waits for the first answer of every name that was asked for the first time, but not longer than `bound`. A name
    /// that is stuck is waited for once, not at every change.
    pub async fn first_answers(&mut self, bound: Duration) {
        let all = async {
            while !self.fresh.is_empty() {
                self.answered().await;
            }
        };
        // Too late is no loss: the answer is a change of its own when it comes.
        let _ = tokio::time::timeout(bound, all).await;
        self.fresh.clear();
    }

    /// Takes one answer in. Returns whether it changed any address or what there is to say about a name. Cancel safe.
    pub async fn answered(&mut self) -> bool {
        let (name, found) = self.answers.recv().await.expect("we hold a sender ourselves");
        self.asked.remove(&name);
        self.fresh.remove(&name);
        if !self.declared.contains(&name) {
            return false;
        }
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::route::policy::Policy;
    use crate::route::{Role, Shares, VersionHash};
    use crate::source::DeclaredBackend;

    /// What the resolver shall say about each host; about others it says nothing, ever.
    #[derive(Clone, Default)]
    struct Script(Arc<Mutex<BTreeMap<String, Answer>>>);

    impl Script {
        fn say(&self, host: &str, answer: Result<&[u8], &str>) {
            let addresses = |last: &[u8]| last.iter().map(|last| SocketAddr::from(([10, 0, 0, *last], 80))).collect();
            self.0.lock().unwrap().insert(host.to_owned(), answer.map(addresses).map_err(str::to_owned));
        }

        fn names(&self) -> Names {
            let script = self.clone();
            Names::new(Box::new(move |(host, _)| {
                let answer = script.0.lock().unwrap().get(&host).cloned();
                Box::pin(async move {
                    match answer {
                        Some(answer) => answer,
                        None => std::future::pending().await,
                    }
                })
            }))
        }
    }

    fn declared(hosts: &[&str]) -> Declared {
        let version = VersionHash::new("stable");
        Declared {
            backends: vec![DeclaredBackend {
                version: version.clone(),
                role: Role::Stable,
                endpoints: hosts.iter().map(|host| endpoint(host)).collect(),
                transport: Default::default(),
            }],
            split: Shares::new(vec![(version, 1)]).unwrap(),
            routes: Vec::new(),
            sticky: None,
            override_: None,
            policy: Policy::default(),
            dns_interval: Duration::from_secs(5),
        }
    }

    fn endpoint(host: &str) -> Endpoint {
        Endpoint::Name { host: host.to_owned(), port: 80 }
    }

    /// The last bytes of the addresses of a host, and how many notes there are.
    fn known(names: &Names, host: &str) -> (Vec<u8>, usize) {
        let mut notes = Vec::new();
        let addresses = names.addresses(&endpoint(host), &mut notes);
        let last = addresses.iter().map(|address| match address {
            SocketAddr::V4(address) => address.ip().octets()[3],
            SocketAddr::V6(_) => panic!("the script has no such address"),
        });
        (last.collect(), notes.len())
    }

    #[tokio::test]
    async fn an_answer_in_another_order_changes_nothing_and_another_answer_does() {
        let script = Script::default();
        let mut names = script.names();
        let declared = declared(&["app"]);
        for (answer, changes) in [(&[1, 2][..], true), (&[2, 1], false), (&[2, 1, 2], false), (&[3], true)] {
            script.say("app", Ok(answer));
            names.ask(&declared);
            assert_eq!(names.answered().await, changes, "{answer:?}");
        }
        assert_eq!(known(&names, "app"), (vec![3], 0));
    }

    #[tokio::test]
    async fn a_name_that_stops_resolving_keeps_its_last_addresses_and_is_noted() {
        let script = Script::default();
        let mut names = script.names();
        let declared = declared(&["app"]);
        script.say("app", Ok(&[1]));
        names.ask(&declared);
        names.first_answers(Duration::from_secs(1)).await;
        for (answer, changes) in [(Err("broken"), true), (Err("broken"), false), (Ok(&[][..]), true)] {
            script.say("app", answer);
            names.ask(&declared);
            assert_eq!(names.answered().await, changes, "{answer:?}");
            assert_eq!(known(&names, "app"), (vec![1], 1));
        }
        script.say("app", Ok(&[1]));
        names.ask(&declared);
        assert!(names.answered().await, "the note goes");
        assert_eq!(known(&names, "app"), (vec![1], 0));
    }

    #[tokio::test]
    async fn a_stuck_resolver_is_waited_for_once_and_asked_once() {
        let script = Script::default();
        let mut names = script.names();
        script.say("app", Ok(&[1]));
        let declared = declared(&["stuck", "app"]);
        names.ask(&declared);
        names.answered().await;
        names.first_answers(Duration::from_millis(1)).await;
        assert_eq!((known(&names, "app"), known(&names, "stuck")), ((vec![1], 0), (vec![], 1)));
        names.ask(&declared);
        let again = names.first_answers(Duration::from_secs(3600));
        tokio::time::timeout(Duration::from_secs(20), again).await.expect("the second change does not wait");
        assert_eq!(names.asked.iter().filter(|(host, _)| host == "stuck").count(), 1);
    }

    #[tokio::test]
    async fn the_answer_for_a_name_that_is_no_longer_declared_is_dropped() {
        let script = Script::default();
        let mut names = script.names();
        script.say("old", Ok(&[1]));
        names.ask(&declared(&["old"]));
        names.ask(&declared(&[]));
        assert!(!names.answered().await);
        assert!(names.known.is_empty() && names.asked.is_empty() && names.fresh.is_empty());
    }
}
