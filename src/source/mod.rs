//! Where observations come from. IMPURE and COLD: each source is a task that fills one channel with the newest complete
//! `control::Observed`.
//!
//! * this file: what a file (or the flags in its place) declares, and the task that follows it;
//! * `file`: notices that the file has changed;
//! * `names`: looks up the names of endpoints, again and again, without ever waiting for a stuck resolver.

pub mod file;
mod names;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::control::{Observed, Rejected, Sender};
use crate::route::bucket::Sticky;
use crate::route::policy::Policy;
use crate::route::{Backend, Override, Role, Route, Routing, Shares, VersionHash};

use file::Watch;
use names::Names;

/// What a file (or the flags in its place) declares. Endpoints may still be names.
#[derive(Clone, Debug)]
pub struct Declared {
    pub backends: Vec<DeclaredBackend>,
    pub split: Shares,
    pub routes: Vec<Route>,
    pub sticky: Option<Sticky>,
    pub override_: Option<Override>,
    pub policy: Policy,
    /// How often the names of endpoints are looked up again.
    pub dns_interval: Duration,
}

#[derive(Clone, Debug)]
pub struct DeclaredBackend {
    pub version: VersionHash,
    pub role: Role,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Address(SocketAddr),
    Name { host: String, port: u16 },
}

/// How long a change waits for names that were never looked up before. Half of the second in which a change of the file
/// is promised to be live.
const FIRST_ANSWER: Duration = Duration::from_millis(500);

/// Follows `declared`, and the file it came from if there is one, until nobody listens any more. `again` (SIGHUP) asks
/// for a fresh look at everything.
pub async fn follow(
    mut declared: Declared,
    origin: String,
    mut file: Option<Watch>,
    mut again: mpsc::Receiver<()>,
    observations: Sender,
) {
    let mut names = Names::default();
    let mut notes = Vec::new();
    let mut look_up = tokio::time::interval(declared.dns_interval);
    names.ask(&declared);
    names.first_answers(FIRST_ANSWER).await;
    look_up.reset();
    loop {
        let observed = observe(&declared, &origin, &notes, &names);
        if observations.send(Ok(observed)).await.is_err() {
            return;
        }
        // Until there is something new to tell.
        loop {
            let changed = tokio::select! {
                changed = names.answered() => {
                    if changed {
                        break;
                    }
                    continue;
                }
                _ = look_up.tick() => {
                    names.ask(&declared);
                    continue;
                }
                Some(changed) = next_change(&mut file) => changed,
                Some(()) = again.recv() => {
                    names.ask(&declared);
                    match &mut file {
                        Some(file) => file.read_again().await,
                        None => continue,
                    }
                }
                _ = observations.closed() => return,
            };
            match changed {
                Ok(loaded) => {
                    if loaded.declared.dns_interval != declared.dns_interval {
                        look_up = tokio::time::interval(loaded.declared.dns_interval);
                    }
                    (declared, notes) = (loaded.declared, loaded.notes);
                    names.ask(&declared);
                    names.first_answers(FIRST_ANSWER).await;
                    look_up.reset();
                    break;
                }
                Err(message) => {
                    let rejected = Rejected { origin: origin.clone(), message };
                    if observations.send(Err(rejected)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Never, without a file.
async fn next_change(file: &mut Option<Watch>) -> Option<Result<file::Loaded, String>> {
    match file {
        Some(file) => Some(file.changed().await),
        None => std::future::pending().await,
    }
}

/// What is declared, with the addresses that need no look-up: for questions that no endpoint has to answer.
pub fn without_names(declared: &Declared) -> Routing {
    observe(declared, "", &[], &Names::default()).routing
}

fn observe(declared: &Declared, origin: &str, notes: &[String], names: &Names) -> Observed {
    let mut notes = notes.to_vec();
    let backends = declared
        .backends
        .iter()
        .map(|backend| {
            let mut endpoints: Vec<SocketAddr> = Vec::new();
            for endpoint in &backend.endpoints {
                let found = names.addresses(endpoint, &mut notes);
                for address in found {
                    if !endpoints.contains(&address) {
                        endpoints.push(address);
                    }
                }
            }
            if endpoints.is_empty() {
                notes.push(format!(
                    "backend {} has no endpoint now: its share is answered by another version",
                    backend.version
                ));
            }
            Backend { version: backend.version.clone(), role: backend.role, endpoints: endpoints.into() }
        })
        .collect();
    Observed {
        routing: Routing {
            backends,
            split: declared.split.clone(),
            routes: declared.routes.clone(),
            sticky: declared.sticky.clone(),
            override_: declared.override_.clone(),
            policy: declared.policy.clone(),
        },
        origin: origin.to_owned(),
        notes,
    }
}
