//! What is counted, and how it is summed.
//!
//! Every worker counts in cells of its own and nobody else writes to them (`users` are cleared from the cold side, which says why it may), so counting is a plain load, add and store;
//! a scrape reads the cells of all workers and adds them up. Which cell a request uses is settled when a snapshot
//! becomes visible to the worker, not when the request comes.
//!
//! **Ordering.** All cells are read and written with Relaxed: each number is true by itself, and a scrape promises no
//! more. The one exception is [`Table`], whose keys are stored with Release after their first count, and loaded with
//! Acquire, so that a scrape never sees a key without its count.
//!
//! Files, in reading order:
//!
//! * `cells`: the counters of one worker;
//! * `users`: how many users a version has met;
//! * `endpoints`: how a worker sees the endpoints of a version;
//! * `versions`: the cells of all versions, and when they are given up;
//! * `totals`: their sums over all workers, as plain numbers;
//! * `api`: what following a Rollout counts;
//! * `certificates`: those that listeners show, and which were refused;
//! * `rollouts`: how they ended;
//! * `changed`: when what is live changed last;
//! * `scraped`: who read them last;
//! * `records`: what became of lines of the access log and of spans;
//! * `exemplars`: traces as examples of durations;
//! * `account`: what the exact split was asked for and what it gave;
//! * `notice`: the log lines about versions that get worse;
//! * `families`: every metric by name, with its help, type, labels and where its numbers come from;
//! * `text`: the two formats in which they are written.

mod account;
mod api;
pub mod cells;
mod certificates;
mod changed;
mod endpoints;
mod exemplars;
pub mod families;
pub mod notice;
mod records;
mod rollouts;
mod scraped;
pub mod text;
mod totals;
mod users;
mod versions;

pub use account::{Account, VersionAccount};
pub use api::{Api, Names};
pub use cells::{Cell, Gauge, Labels, ProxyCells, VersionCells};
pub use certificates::{Certificate, Certificates, Refusal};
pub use changed::Changed;
pub use endpoints::{EndpointSeen, EndpointState, Endpoints};
pub use exemplars::{Exemplar, Exemplars};
pub use records::Records;
pub use rollouts::{Outcome, Rollouts};
pub use scraped::Scraped;
pub use totals::{ProxyTotals, Totals, VersionTotals};
pub use users::Users;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use users::AllUsers;
use versions::Versions;

use crate::route::live::Live;
use crate::route::{PortName, Role, RouteName, VersionHash};

/// Names of others, under which requests and their times are told once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// `istio_requests_total` and what belongs to it.
    Istio,
    /// `nginx_ingress_controller_requests` and what belongs to it.
    Nginx,
}

/// Every counter of the process. Locks are taken on changes and scrapes only.
pub struct Metrics {
    started: SystemTime,
    workers: usize,
    live: Live,
    /// By number, as in `live`.
    ports: Vec<PortName>,
    versions: Mutex<Versions>,
    routes: Mutex<Vec<RouteName>>,
    proxy: Vec<Arc<ProxyCells>>,
    /// Set before anybody asks.
    pub aliases: Vec<Alias>,
    pub reloads: Reloads,
    pub rollouts: Rollouts,
    pub api: Api,
    pub certificates: Certificates,
    pub changed: Changed,
    pub scraped: Scraped,
    pub records: Records,
    pub exemplars: Exemplars,
}

/// Counted by the change path; one writer.
#[derive(Default)]
pub struct Reloads {
    pub good: Cell,
    pub bad: Cell,
}

impl Metrics {
    /// `ports` are those of `live`, in its order.
    pub fn new(workers: usize, live: Live, ports: Vec<PortName>) -> Self {
        assert_eq!(ports.len(), live.ports(), "one name per port");
        Self {
            started: SystemTime::now(),
            workers,
            live,
            ports,
            versions: Mutex::default(),
            routes: Mutex::default(),
            proxy: (0..workers).map(|_| Arc::default()).collect(),
            aliases: Vec::new(),
            reloads: Reloads::default(),
            rollouts: Rollouts::default(),
            api: Api::default(),
            certificates: Certificates::default(),
            changed: Changed::default(),
            scraped: Scraped::default(),
            records: Records::default(),
            exemplars: Exemplars::default(),
        }
    }

    /// To be called when something new is live.
    pub fn published(&self, now: SystemTime) {
        self.changed.look(&self.live, now);
        let mut versions = self.versions.lock().expect("no holder of this lock panics");
        versions.look(&self.live, self.workers, Instant::now());
    }

    /// The cells of one worker that belong to no version.
    pub fn proxy(&self, worker: usize) -> Arc<ProxyCells> {
        self.proxy[worker].clone()
    }

    /// The names of the application's ports, by number.
    pub fn ports(&self) -> &[PortName] {
        &self.ports
    }

    /// The cells of one worker for a version in a role at a port. Asking creates the series, at 0, for all workers.
    pub fn version(&self, worker: usize, port: usize, version: &VersionHash, role: Role) -> Arc<VersionCells> {
        let mut versions = self.versions.lock().expect("no holder of this lock panics");
        versions.cells(port, version, role, self.workers)[worker].clone()
    }

    /// About how many users each version has met since [`Metrics::forget_users`], at all ports together. Versions without any
    /// are left out.
    pub fn users(&self) -> BTreeMap<VersionHash, u64> {
        let mut all = BTreeMap::<_, AllUsers>::new();
        let versions = self.versions.lock().expect("no holder of this lock panics");
        for ((_, version), _, workers) in versions.each() {
            let all = all.entry(version.clone()).or_default();
            workers.iter().for_each(|cells| all.add(&cells.users));
        }
        let counted = all.into_iter().map(|(version, users)| (version, users.estimate()));
        counted.filter(|(_, users)| *users > 0).collect()
    }

    pub fn forget_users(&self) {
        let versions = self.versions.lock().expect("no holder of this lock panics");
        versions.each().flat_map(|(.., workers)| workers).for_each(|cells| cells.users.clear());
    }

    /// How each worker sees a version's endpoints, where there is anything to say.
    pub fn endpoints(&self, port: usize, version: &VersionHash) -> Vec<Vec<EndpointSeen>> {
        let versions = self.versions.lock().expect("no holder of this lock panics");
        let mut told = vec![Vec::new(); self.workers];
        for (.., cells) in versions.each().filter(|(key, ..)| key.0 == port && key.1 == *version) {
            told.iter_mut().zip(cells).for_each(|(told, cells)| told.extend(cells.endpoints.told()));
        }
        told
    }

    /// A small number for a route's name, the same for the life of the process; 0 means "no route". All names beyond
    /// [`cells::MAX_ROUTES`] share one number.
    pub fn route(&self, name: &RouteName) -> u16 {
        let mut routes = self.routes.lock().expect("no holder of this lock panics");
        let known = routes.iter().position(|known| known == name).unwrap_or_else(|| {
            if routes.len() < cells::MAX_ROUTES {
                routes.push(name.clone());
                routes.len() - 1
            } else {
                cells::MAX_ROUTES
            }
        });
        known as u16 + 1
    }

    /// The name behind such a number.
    pub fn route_name(&self, number: u16) -> Option<String> {
        let index = usize::from(number.checked_sub(1)?);
        let routes = self.routes.lock().expect("no holder of this lock panics");
        Some(routes.get(index).map_or("_OTHER", RouteName::as_str).to_owned())
    }
}

/// Snapshots for tests of metrics and of the views that show them.
#[cfg(test)]
pub(crate) mod made_up {
    use super::*;
    use crate::route::live::{self, Publisher};
    use crate::route::{Backend, Identity, Routing, Shares, Snapshot, bucket, picker};

    pub(crate) fn nothing_live() -> (Publisher, Live) {
        live::channel(1)
    }

    /// Each version with its role and weight.
    pub(crate) fn live(versions: &[(&str, Role, u32)]) -> (Publisher, Live) {
        let (mut publisher, live) = live::channel(1);
        publish(&mut publisher, versions);
        (publisher, live)
    }

    pub(crate) fn publish(publisher: &mut Publisher, versions: &[(&str, Role, u32)]) {
        publish_routing(publisher, routing(versions));
    }

    pub(crate) fn publish_routing(publisher: &mut Publisher, routing: Routing) {
        let identity =
            Identity { seed: picker::Seed(1, 2), turn: Default::default(), mint: Arc::new(bucket::Mint::random()) };
        let snapshot = Snapshot::build(routing, &identity, publisher.current(0).as_deref()).expect("it fits together");
        publisher.publish(vec![snapshot]);
    }

    /// Metrics of a proxy whose one port needs no name.
    pub(crate) fn metrics(workers: usize, live: Live) -> Metrics {
        Metrics::new(workers, live, vec![PortName::default()])
    }

    /// Each version with its role and weight.
    type Weighted<'a> = &'a [(&'a str, Role, u32)];

    /// Two ports, each with its versions.
    pub(crate) fn two_ports(ports: [(&str, Weighted<'_>); 2]) -> (Publisher, Live, Vec<PortName>) {
        let (mut publisher, live) = live::channel(2);
        let identity = Identity::random();
        let build = |(name, versions): &(&str, Weighted<'_>)| {
            Snapshot::build(routing(versions), &identity.at(&PortName::new(name)), None).expect("it fits together")
        };
        publisher.publish(ports.iter().map(build).collect());
        (publisher, live, ports.map(|(name, _)| PortName::new(name)).into())
    }

    pub(crate) fn routing(versions: &[(&str, Role, u32)]) -> Routing {
        let endpoint = |i: usize| ([127, 0, 0, 1], 9001 + i as u16).into();
        Routing {
            backends: versions
                .iter()
                .enumerate()
                .map(|(i, (version, role, _))| Backend {
                    version: VersionHash::new(version),
                    role: *role,
                    endpoints: [endpoint(i)].into(),
                    transport: Default::default(),
                })
                .collect(),
            split: Shares::new(
                versions.iter().map(|(version, _, weight)| (VersionHash::new(version), *weight)).collect(),
            )
            .expect("weights add up"),
            routes: Vec::new(),
            sticky: None,
            override_: None,
            policy: Default::default(),
        }
    }
}
