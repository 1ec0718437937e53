//! Where observations come from. IMPURE and COLD: each source is a task that fills one channel with the newest complete
//! `control::Observed`.
//!
//! * this file: what a file (or the flags in its place) declares, and the task that follows it;
//! * `file`: notices that the file has changed;
//! * `certificates`: follows the files of what listeners show their clients;
//! * `kube`: watches a Rollout and its pods on the API server;
//! * `names`: looks up the names of endpoints, again and again; a stuck resolver delays the first snapshot that needs it,
//!   by half a second at most, and nothing else.

pub mod certificates;
pub mod file;
pub mod kube;
mod names;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::control::{Observed, Rejected, Sender};
use crate::route::bucket::Sticky;
use crate::route::policy::Policy;
use crate::route::transport::Transport;
use crate::route::{Backend, Override, Role, Route, Routing, Shares, VersionHash};

pub use crate::control::cluster::Overlay;
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
    pub transport: Transport,
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
    routing(declared, &Names::default(), &mut Vec::new())
}

fn observe(declared: &Declared, origin: &str, notes: &[String], names: &Names) -> Observed {
    let mut notes = notes.to_vec();
    // A file names the port of every endpoint, so there is no other.
    let routings = vec![routing(declared, names, &mut notes)];
    Observed { notes, ..Observed::plain(routings, origin) }
}

fn routing(declared: &Declared, names: &Names, notes: &mut Vec<String>) -> Routing {
    let backends = declared
        .backends
        .iter()
        .map(|backend| {
            let mut endpoints: Vec<SocketAddr> = Vec::new();
            for endpoint in &backend.endpoints {
                let found = names.addresses(endpoint, notes);
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
            Backend {
                version: backend.version.clone(),
                role: backend.role,
                endpoints: endpoints.into(),
                transport: backend.transport.clone(),
            }
        })
        .collect();
    Routing {
        backends,
        split: declared.split.clone(),
        routes: declared.routes.clone(),
        sticky: declared.sticky.clone(),
        override_: declared.override_.clone(),
        policy: declared.policy.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::control;
    use crate::source::file::{Loaded, Reader};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn declared(weight: u32, endpoints: Vec<Endpoint>) -> Declared {
        let version = VersionHash::new("stable");
        Declared {
            backends: vec![DeclaredBackend {
                version: version.clone(),
                role: Role::Stable,
                endpoints,
                transport: Transport::default(),
            }],
            split: Shares::new(vec![(version, weight)]).unwrap(),
            routes: Vec::new(),
            sticky: None,
            override_: None,
            policy: Policy::default(),
            dns_interval: Duration::from_millis(1),
        }
    }

    fn name(host: &str) -> Endpoint {
        Endpoint::Name { host: host.to_owned(), port: 80 }
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    /// A source under test, with what it sends.
    struct Source {
        file: tempfile::NamedTempFile,
        observations: control::Receiver,
        again: mpsc::Sender<()>,
        /// What the name `app` resolves to; the name `stuck` never does.
        app: Arc<Mutex<u8>>,
    }

    impl Source {
        /// The file has one number, a weight.
        fn start() -> Self {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), "1").unwrap();
            let all = || vec![name("app"), name("stuck"), Endpoint::Address(address(9))];
            let path = file.path().to_owned();
            let reader = Reader {
                read: Box::new(move || fs::read_to_string(&path).map_err(|error| error.to_string())),
                parse: Box::new(move |text| match text.parse() {
                    Ok(weight) => Ok(Loaded { declared: declared(weight, all()), notes: Vec::new() }),
                    Err(_) => Err(format!("no weight: {text}")),
                }),
                patience: file::SECOND_LOOK,
            };
            let watch = Watch::start(&[file.path().to_owned()], "1".to_owned(), reader).unwrap();
            let app = Arc::new(Mutex::new(1));
            let resolved = app.clone();
            let names = Names::new(Box::new(move |(host, _)| {
                let found = Ok(vec![address(*resolved.lock().unwrap())]);
                Box::pin(async move { if host == "app" { found } else { std::future::pending().await } })
            }));
            let ((sender, observations), (again, asked)) = (control::channel(), mpsc::channel(1));
            tokio::spawn(follow_with(names, declared(1, all()), "file".to_owned(), Some(watch), asked, sender));
            Self { file, observations, again, app }
        }

        async fn next(&mut self) -> Result<Observed, Rejected> {
            let next = tokio::time::timeout(PATIENCE, self.observations.recv()).await;
            next.expect("an observation").expect("the source goes on")
        }
    }

    #[tokio::test]
    async fn a_stuck_resolver_and_busy_names_do_not_keep_a_change_from_being_told() {
        let mut source = Source::start();
        let first = source.next().await.unwrap();
        assert_eq!(*first.routings[0].backends[0].endpoints, [address(1), address(9)]);
        assert!(first.notes.iter().any(|note| note.starts_with("stuck:80: the resolver has not answered yet")));
        for weight in 2..6 {
            // Names are asked every millisecond meanwhile.
            fs::write(source.file.path(), weight.to_string()).unwrap();
            assert_eq!(source.next().await.unwrap().routings[0].split.total(), weight);
        }
    }

    #[tokio::test]
    async fn a_refusal_stands_while_only_addresses_change() {
        let mut source = Source::start();
        assert!(!source.next().await.unwrap().refusal_stands);
        fs::write(source.file.path(), "ten").unwrap();
        assert_eq!(source.next().await.unwrap_err().message, "no weight: ten");
        *source.app.lock().unwrap() = 2;
        let moved = source.next().await.unwrap();
        assert!(moved.refusal_stands);
        assert_eq!(*moved.routings[0].backends[0].endpoints, [address(2), address(9)]);
        fs::write(source.file.path(), "10").unwrap();
        assert!(!source.next().await.unwrap().refusal_stands);
    }

    #[tokio::test]
    async fn a_fresh_look_that_is_asked_for_always_has_an_answer() {
        let mut source = Source::start();
        source.next().await.unwrap();
        for _ in 0..3 {
            source.again.send(()).await.unwrap();
            assert_eq!(source.next().await.unwrap().routings[0].split.total(), 1);
        }
        fs::write(source.file.path(), "ten").unwrap();
        assert!(source.next().await.is_err());
        source.again.send(()).await.unwrap();
        assert!(source.next().await.is_err());
    }
}
