//! One look at all that following a Rollout needs, for `check`: every permission is tried for real, with the requests that
//! the watches make. Reads only: get, list, and watches that end at once.
//!
//! What a request was refused for is kept beside what the others found, so that one missing permission hides nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, ListParams, ObjectList, WatchParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::control::plan;
use crate::control::rollout::Rollout;
use crate::route::VersionHash;

use super::client::{Trouble, TroubleKind};
use super::endpoints::{ByHash, PortNote, PortRef, of_pods, of_slices, version_of};
use super::objects::{PodSeen, ServiceSeen, SliceSeen, named_services, rollouts, selector, service_names, slices_of};

/// Each request has to be answered after this long.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What one request was answered.
pub type Answered = Result<(), Trouble>;

/// A permission that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    pub resource: &'static str,
    pub verb: &'static str,
    pub answered: Answered,
}

/// What the API server holds of the Rollout itself.
#[derive(Clone, Debug)]
pub enum Found {
    /// The list was refused.
    Unknown,
    Missing,
    /// Not the fields that we know. Why.
    Unreadable(String),
    Read(Box<Rollout>),
}

#[derive(Clone, Debug)]
pub struct Look {
    /// By resource, each in the order get, list, watch. Only the list of rollouts, if that got no answer.
    pub tried: Vec<Tried>,
    pub rollout: Found,
    name: String,
    /// `None`: they could not be listed.
    services: Option<BTreeMap<String, ServiceSeen>>,
    pods: Option<BTreeMap<String, PodSeen>>,
    slices: Option<BTreeMap<String, SliceSeen>>,
}

/// What one port is led to.
#[derive(Clone, Debug)]
pub struct AtPort {
    pub endpoints: ByHash,
    pub note: Option<PortNote>,
}

/// Pods of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    pub ready: usize,
    pub all: usize,
}

impl Look {
    /// Lasts for two times [`PATIENCE`] at most.
    pub async fn take(client: &kube::Client, namespace: &str, name: &str) -> Self {
        let rollouts = rollouts(client, namespace);
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        let listed = list("rollouts", &rollouts, &only).await;
        let mut look = Self {
            tried: Vec::new(),
            rollout: found(&listed, name),
            name: name.to_owned(),
            services: None,
            pods: None,
            slices: None,
        };
        let listed = answered(&listed);
        if let Err(Trouble { kind: TroubleKind::Unreachable | TroubleKind::Unauthorized, .. }) = listed {
            look.tried.push(Tried { resource: "rollouts", verb: "list", answered: listed });
            return look;
        }
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let rollout = look.rollout();
        let select_pods = match rollout.and_then(selector) {
            Some(labels) => ListParams::default().labels(&labels),
            // Whether it may be done can be told all the same.
            None => ListParams::default().limit(1),
        };
        let select_slices = match rollout.map(service_names).and_then(|names| slices_of(&names)) {
            Some(labels) => ListParams::default().labels(&labels),
            None => ListParams::default().limit(1),
        };
        let every = ListParams::default();
        // Any name will do for a get: whether there is such an object is decided after whether we may know.
        let gets = async {
            tokio::join!(
                get("rollouts", &rollouts, name),
                get("services", &services, name),
                get("endpointslices", &slices, name),
                get("pods", &pods, name),
            )
        };
        let watches = async {
            tokio::join!(
                watch("rollouts", &rollouts, &only),
                watch("services", &services, &every),
                watch("endpointslices", &slices, &select_slices),
                watch("pods", &pods, &select_pods),
            )
        };
        let (gets, watches, all_services, all_slices, all_pods) = tokio::join!(
            gets,
            watches,
            list("services", &services, &every),
            list("endpointslices", &slices, &select_slices),
            list("pods", &pods, &select_pods),
        );
        let rows = [
            ("rollouts", gets.0, listed, watches.0),
            ("services", gets.1, answered(&all_services), watches.1),
            ("endpointslices", gets.2, answered(&all_slices), watches.2),
            ("pods", gets.3, answered(&all_pods), watches.3),
        ];
        for (resource, get, list, watch) in rows {
            for (verb, answered) in [("get", get), ("list", list), ("watch", watch)] {
                look.tried.push(Tried { resource, verb, answered });
            }
        }
        let selects = look.rollout().is_some_and(|rollout| selector(rollout).is_some());
        look.services = kept(all_services);
        look.slices = kept(all_slices);
        look.pods = kept(all_pods).filter(|_| selects);
        look
    }

    pub fn rollout(&self) -> Option<&Rollout> {
        match &self.rollout {
            Found::Read(rollout) => Some(rollout),
            Found::Unknown | Found::Missing | Found::Unreadable(_) => None,
        }
    }

    /// How a permission was answered; `None`: it was not tried.
    pub fn answered(&self, resource: &str, verb: &str) -> Option<&Answered> {
        self.tried.iter().find(|tried| tried.resource == resource && tried.verb == verb).map(|tried| &tried.answered)
    }

    /// Those that the Rollout names, with their selectors.
    pub fn services(&self) -> Option<Vec<plan::Service>> {
        Some(named_services(Some(self.rollout()?), self.services.as_ref()?))
    }

    /// The pods of each version, from the slices if pods may not be read.
    pub fn pods(&self) -> Option<BTreeMap<VersionHash, Pods>> {
        let mut found = BTreeMap::<VersionHash, Pods>::new();
        let mut add = |version, ready| {
            let pods = found.entry(version).or_default();
            pods.all += 1;
            pods.ready += usize::from(ready);
        };
        match &self.pods {
            Some(pods) => pods.values().for_each(|pod| add(version_of(pod), pod.ready && !pod.terminating)),
            None => {
                let endpoints = self.at(&PortRef::Default)?.endpoints;
                for (version, endpoints) in endpoints {
                    // The same pod is in the slices of several Services.
                    let addresses = |of: &dyn Fn(&plan::Endpoint) -> bool| -> BTreeSet<_> {
                        endpoints.iter().filter(|endpoint| of(endpoint)).map(|endpoint| endpoint.address).collect()
                    };
                    let ready = addresses(&|endpoint| endpoint.ready && !endpoint.terminating);
                    addresses(&|_| true).iter().for_each(|address| add(version.clone(), ready.contains(address)));
                }
            }
        }
        Some(found)
    }

    /// `None`: neither pods nor slices could be read.
    pub fn at(&self, port: &PortRef) -> Option<AtPort> {
        let no_services = BTreeMap::new();
        let services = self.services.as_ref();
        let stable = self.rollout()?.services().stable.and_then(|name| Some((name, services?.get(name)?)));
        let (endpoints, note) = match (&self.pods, &self.slices) {
            (Some(pods), _) => of_pods(pods, port, stable),
            (None, Some(slices)) => of_slices(&self.name, slices, services.unwrap_or(&no_services), port, stable),
            (None, None) => return None,
        };
        Some(AtPort { endpoints, note })
    }
}

fn found(listed: &Result<ObjectList<DynamicObject>, Trouble>, name: &str) -> Found {
    let Ok(listed) = listed else { return Found::Unknown };
    let Some(object) = listed.items.iter().find(|object| object.name_any() == name) else { return Found::Missing };
    let sent = serde_json::to_value(object).unwrap_or_default();
    match serde_json::from_value(sent) {
        Ok(rollout) => Found::Read(Box::new(rollout)),
        Err(error) => Found::Unreadable(error.to_string()),
    }
}

fn kept<K: ResourceExt + Clone, T: From<K>>(listed: Result<ObjectList<K>, Trouble>) -> Option<BTreeMap<String, T>> {
    let objects = listed.ok()?.items.into_iter();
    Some(objects.map(|object| (object.name_any(), T::from(object))).collect())
}

fn answered<T>(outcome: &Result<T, Trouble>) -> Answered {
    outcome.as_ref().map(drop).map_err(Trouble::clone)
}

async fn list<K>(resource: &str, api: &Api<K>, select: &ListParams) -> Result<ObjectList<K>, Trouble>
where
    K: Clone + DeserializeOwned + Debug,
{
    in_time(resource, "list", api.list(select)).await
}

/// That there is no such object is a good answer: who may not ask is told so first.
async fn get<K>(resource: &str, api: &Api<K>, name: &str) -> Answered
where
    K: Clone + DeserializeOwned + Debug,
{
    match in_time(resource, "get", api.get(name)).await {
        Err(trouble) if trouble.kind != TroubleKind::Unknown => Err(trouble),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A watch that is answered is ended by us, and by the server a second later.
async fn watch<K>(resource: &str, api: &Api<K>, select: &ListParams) -> Answered
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let select = WatchParams {
        label_selector: select.label_selector.clone(),
        field_selector: select.field_selector.clone(),
        ..WatchParams::default().timeout(1)
    };
    in_time(resource, "watch", api.watch(&select, "0")).await.map(drop)
}

async fn in_time<T>(
    resource: &str,
    verb: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(|error| Trouble::from_client(resource, verb, &error)),
        Err(_) => Err(Trouble {
            kind: TroubleKind::Unreachable,
            message: format!(
                "cannot {verb} {resource}: the API server has not answered within {} s",
                PATIENCE.as_secs()
            ),
        }),
    }
}
