//! What following a Rollout counts. COLD: written by the change path alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use super::cells::{Cell, Histogram};

/// Nothing of it is shown until [`Api::rollout`] is set.
#[derive(Default)]
pub struct Api {
    /// Namespace and name of the Rollout that is followed.
    pub rollout: OnceLock<(String, String)>,
    /// 1 while the API server is heard.
    pub connected: Cell,
    /// 1 while the state that is served comes from a file.
    pub saved: Cell,
    /// When the last news came in, in seconds since 1970.
    pub heard_at: Cell,
    /// The Rollout's `metadata.generation` in the snapshot that is live.
    pub generation: Cell,
    /// 1 while the annotation `splitway.dev/routes` cannot be read.
    pub annotation_refused: Cell,
    /// From news of the API server to the snapshot that serves it.
    pub propagation: Histogram,
    names: Mutex<Names>,
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

/// What the Rollout calls that which belongs to it; `None`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub stable_service: Option<String>,
    pub canary_service: Option<String>,
    /// The Ingress of the stable Service.
    pub ingress: Option<String>,
}

impl Api {
    pub fn name(&self, names: Names) {
        *self.names.lock().expect("no holder of this lock panics") = names;
    }

    pub fn names(&self) -> Names {
        self.names.lock().expect("no holder of this lock panics").clone()
    }

    /// A watch of `resource` has failed and begins again.
    pub fn failed(&self, resource: &'static str) {
        *self.failures.lock().expect("no holder of this lock panics").entry(resource).or_default() += 1;
    }

    pub fn failures(&self) -> Vec<(&'static str, u64)> {
        let failures = self.failures.lock().expect("no holder of this lock panics");
        failures.iter().map(|(resource, count)| (*resource, *count)).collect()
    }
}
