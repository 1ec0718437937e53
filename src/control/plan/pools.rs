//! Who can answer, by version.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::route::VersionHash;

use super::Endpoint;

/// The endpoints that may be sent requests to. Every pool has at least one.
pub struct Pools(BTreeMap<VersionHash, Vec<SocketAddr>>);

impl Pools {
    /// Ready endpoints that are not terminating. If there is none in the whole Rollout, those that at least still serve:
    /// a pod on its way out is better than no answer.
    pub fn of(endpoints: &BTreeMap<VersionHash, Vec<Endpoint>>) -> Self {
        let ready = Self::which(endpoints, |endpoint| endpoint.ready && !endpoint.terminating);
        match ready.0.is_empty() {
            true => Self::which(endpoints, |endpoint| endpoint.serving),
            false => ready,
        }
    }

    fn which(endpoints: &BTreeMap<VersionHash, Vec<Endpoint>>, wanted: impl Fn(&Endpoint) -> bool) -> Self {
        let pools = endpoints.iter().filter_map(|(version, endpoints)| {
            let mut addresses: Vec<SocketAddr> =
                endpoints.iter().filter(|endpoint| wanted(endpoint)).map(|endpoint| endpoint.address).collect();
            // The order of watch events must not make two equal sets look like a change.
            addresses.sort_unstable();
            addresses.dedup();
            (!addresses.is_empty()).then(|| (version.clone(), addresses))
        });
        Self(pools.collect())
    }

    pub fn count(&self, version: &VersionHash) -> u64 {
        self.0.get(version).map_or(0, |addresses| addresses.len() as u64)
    }

    pub fn counts(&self) -> impl Iterator<Item = (&VersionHash, u64)> {
        self.0.iter().map(|(version, addresses)| (version, addresses.len() as u64))
    }

    /// The version with the most endpoints; of equals the first by name, so that the answer does not waver.
    pub fn largest(&self) -> Option<&VersionHash> {
        self.0.iter().min_by_key(|(_, addresses)| std::cmp::Reverse(addresses.len())).map(|(version, _)| version)
    }

    pub fn addresses(&self, version: &VersionHash) -> Arc<[SocketAddr]> {
        self.0.get(version).map(|addresses| addresses.as_slice().into()).unwrap_or_default()
    }
}
