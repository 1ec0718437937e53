//! What is counted, and how it is summed.
//!
//! Every worker counts in cells of its own and nobody else writes to them, so counting is a plain load, add and store;
//! a scrape reads the cells of all workers and adds them up. Which cell a request uses is settled when a snapshot
//! becomes visible to the worker, not when the request comes.
//!
//! **Ordering.** All cells are read and written with Relaxed: each number is true by itself, and a scrape promises no
//! more. The one exception is [`Table`], whose keys are stored with Release after their first count, and loaded with
//! Acquire, so that a scrape never sees a key without its count.
//!
//! `cells` holds the counters, `families` names every metric, `text` writes the two formats.

pub mod cells;
pub mod families;
pub mod text;

pub use cells::{Cell, Gauge, Labels, ProxyCells, VersionCells};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::route::live::Live;
use crate::route::{Role, RouteName, VersionHash};

/// Every counter of the process. Locks are taken on changes and scrapes only.
pub struct Metrics {
    workers: usize,
    live: Live,
    versions: Mutex<BTreeMap<(VersionHash, Role), Vec<Arc<VersionCells>>>>,
    routes: Mutex<Vec<RouteName>>,
    proxy: Vec<Arc<ProxyCells>>,
    pub reloads: Reloads,
}

/// Counted by the change path; one writer.
#[derive(Default)]
pub struct Reloads {
    pub good: Cell,
    pub bad: Cell,
}

impl Metrics {
    pub fn new(workers: usize, live: Live) -> Self {
        Self {
            workers,
            live,
            versions: Mutex::default(),
            routes: Mutex::default(),
            proxy: (0..workers).map(|_| Arc::default()).collect(),
            reloads: Reloads::default(),
        }
    }

    /// The cells of one worker that belong to no version.
    pub fn proxy(&self, worker: usize) -> Arc<ProxyCells> {
        self.proxy[worker].clone()
    }

    /// The cells of one worker for a version in a role. Asking creates the series, at 0, for all workers.
    pub fn version(&self, worker: usize, version: &VersionHash, role: Role) -> Arc<VersionCells> {
        let mut versions = self.versions.lock().expect("no holder of this lock panics");
        versions.entry((version.clone(), role)).or_insert_with(|| (0..self.workers).map(|_| Arc::default()).collect())
            [worker]
            .clone()
    }

    /// A small number for a route's name, the same for the life of the process; 0 means "no route".
    pub fn route(&self, name: &RouteName) -> u16 {
        let mut routes = self.routes.lock().expect("no holder of this lock panics");
        let known = routes.iter().position(|known| known == name).unwrap_or_else(|| {
            if routes.len() < cells::MAX_ROUTES {
                routes.push(name.clone());
            }
            routes.len() - 1
        });
        known as u16 + 1
    }
}
