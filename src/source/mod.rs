//! Where observations come from. IMPURE and COLD: each source is a task that fills one channel with the newest complete
//! `control::Observed`.
//!
//! * this file: what a file (or the flags in its place) declares, and the task that follows it;
//! * `file`: notices that the file has changed;
//! * `names`: looks up the names of endpoints, again and again; a stuck resolver delays the first snapshot that needs it,
//!   by half a second at most, and nothing else.

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
    declared: Declared,
    origin: String,
    file: Option<Watch>,
    again: mpsc::Receiver<()>,
    observations: Sender,
) {
    follow_with(Names::default(), declared, origin, file, again, observations).await;
}

async fn follow_with(
    mut names: Names,
    mut declared: Declared,
    origin: String,
    mut file: Option<Watch>,
    mut again: mpsc::Receiver<()>,
    observations: Sender,
) {
    let mut notes = Vec::new();
    let mut refusal_stands = false;
    let mut look_up = ticks(declared.dns_interval);
    names.ask(&declared);
    names.first_answers(FIRST_ANSWER).await;
    loop {
        let observed = Observed { refusal_stands, ..observe(&declared, &origin, &notes, &names) };
        if observations.send(Ok(observed)).await.is_err() {
            return;
        }
        // Until there is something new to tell. Every branch is cancel safe: what it waits for happens elsewhere.
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
                changed = next_change(&mut file) => changed,
                Some(()) = again.recv() => {
                    names.ask(&declared);
                    if let Some(file) = &file {
                        file.look_again();
                    }
                    continue;
                }
                _ = observations.closed() => return,
            };
            match changed {
                Ok(loaded) => {
                    if loaded.declared.dns_interval != declared.dns_interval {
                        look_up = ticks(loaded.declared.dns_interval);
                    }
                    (declared, notes, refusal_stands) = (loaded.declared, loaded.notes, false);
                    names.ask(&declared);
                    names.first_answers(FIRST_ANSWER).await;
                    break;
                }
                Err(message) => {
                    refusal_stands = true;
                    let rejected = Rejected { origin: origin.clone(), message };
                    if observations.send(Err(rejected)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The first one after a whole interval.
fn ticks(interval: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    // After a pause of the whole machine one look is enough.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Never, without a file.
async fn next_change(file: &mut Option<Watch>) -> file::Outcome<file::Loaded> {
    match file {
        Some(file) => file.changed().await,
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
        refusal_stands: false,
    }
}
