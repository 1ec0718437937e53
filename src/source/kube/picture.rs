//! Everything that is known about the Rollout, and the watches that keep it known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::Config;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::control::cluster::{Cluster, Contact};
use crate::control::rollout::Rollout;
use crate::metrics::Metrics;
use crate::route::picker::Turn;

use super::Settings;
use super::client::{Trouble, TroubleKind};
use super::endpoints::{ByHash, PortNote, PortRef, of_pods, of_slices, spoken};
use super::objects::{PodSeen, ServiceSeen, SliceSeen, named_services, rollouts, selector, service_names, slices_of};
use super::watched::{self, Event, Watch};

/// Something that one of the watches told. The number says which run of the watch, because the last words of one that has
/// ended may still be on their way.
pub enum News {
    Rollout(Event<Value>),
    Services(Event<ServiceSeen>),
    Pods(u64, Event<PodSeen>),
    Slices(u64, Event<SliceSeen>),
    Replicas(Event<SliceSeen>),
}

pub type Tell = mpsc::Sender<(Instant, News)>;

/// One kind of object: what is known of it, and the watch that keeps it known.
struct Kind<T> {
    /// `None` until a list was complete. Then the last known state, whatever happens to the watch.
    known: Option<BTreeMap<String, T>>,
    failing: Option<(SystemTime, Trouble)>,
    /// It may not be read: from the first refusal to the next complete list.
    forbidden: bool,
    /// What the running watch selects.
    selector: String,
    run: u64,
    watch: Option<Watch>,
}

impl<T> Default for Kind<T> {
    fn default() -> Self {
        Self { known: None, failing: None, forbidden: false, selector: String::new(), run: 0, watch: None }
    }
}

impl<T> Kind<T> {
    fn take(&mut self, event: Event<T>) {
        match event {
            Event::Listed(all) => {
                self.known = Some(all);
                self.forbidden = false;
            }
            Event::Changed(name, one) => {
                self.known.get_or_insert_default().insert(name, one);
            }
            Event::Gone(name) => {
                self.known.get_or_insert_default().remove(&name);
            }
            Event::Failed(trouble) => {
                let since = self.failing.take().map_or_else(SystemTime::now, |(since, _)| since);
                self.forbidden |= trouble.kind == TroubleKind::Forbidden;
                self.failing = Some((since, trouble));
                return;
            }
        }
        self.failing = None;
    }

    fn stop(&mut self) {
        *self = Self { run: self.run + 1, ..Self::default() };
    }
}

pub struct Picture {
    client: kube::Client,
    settings: Settings,
    tell: Tell,
    metrics: Arc<Metrics>,
    rollout: Kind<Value>,
    /// The newest that could be read, and why a newer one could not.
    parsed: Option<Rollout>,
    unreadable: Option<(SystemTime, String)>,
    services: Kind<ServiceSeen>,
    /// The stable Service as it was last, by which ports are found. It stays when the Service or the Rollout goes: pods that
    /// served go on serving.
    stable: Option<(String, ServiceSeen)>,
    pods: Kind<PodSeen>,
    /// Watched only while pods may not be read.
    slices: Kind<SliceSeen>,
    /// Of the proxy's own Service.
    replicas: Kind<SliceSeen>,
}

impl Picture {
    /// Starts the watches that need to know nothing but the settings.
    pub fn start(client: kube::Client, settings: Settings, tell: Tell, metrics: Arc<Metrics>) -> Self {
        let rollouts = rollouts(&client, &settings.namespace);
        let only = Config::default().fields(&format!("metadata.name={}", settings.name));
        let rollout = watched::watch("rollouts", rollouts, only, as_sent, tell.clone(), News::Rollout);
        let services: Api<Service> = Api::namespaced(client.clone(), &settings.namespace);
        let services =
            watched::watch("services", services, Config::default(), ServiceSeen::from, tell.clone(), News::Services);
        let replicas = settings.service.as_ref().map(|own| {
            let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &own.namespace);
            let of_service = Config::default().labels(&format!("kubernetes.io/service-name={}", own.name));
            watched::watch("endpointslices", slices, of_service, SliceSeen::from, tell.clone(), News::Replicas)
        });
        Self {
            client,
            settings,
            tell,
            metrics,
            rollout: Kind { watch: Some(rollout), ..Kind::default() },
            parsed: None,
            unreadable: None,
            services: Kind { watch: Some(services), ..Kind::default() },
            stable: None,
            pods: Kind::default(),
            slices: Kind::default(),
            replicas: Kind { watch: replicas, ..Kind::default() },
        }
    }

    pub fn take(&mut self, news: News) {
        self.count(&news);
        match news {
            News::Rollout(event) => {
                self.rollout.take(event);
                self.read_rollout();
            }
            News::Services(event) => self.services.take(event),
            News::Pods(run, event) if run == self.pods.run => self.pods.take(event),
            News::Slices(run, event) if run == self.slices.run => self.slices.take(event),
            News::Replicas(event) => self.replicas.take(event),
            News::Pods(..) | News::Slices(..) => return,
        }
        self.select_pods();
        self.select_slices();
        self.remember_stable();
    }

    fn remember_stable(&mut self) {
        let named = self.parsed.as_ref().and_then(|rollout| rollout.services().stable);
        if let Some(name) = named
            && let Some(service) = self.services.known.as_ref().and_then(|services| services.get(name))
        {
            self.stable = Some((name.to_owned(), service.clone()));
        }
    }

    fn count(&self, news: &News) {
        let failed = match news {
            News::Rollout(Event::Failed(trouble)) => Some(("rollouts", trouble)),
            News::Services(Event::Failed(trouble)) => Some(("services", trouble)),
            News::Pods(_, Event::Failed(trouble)) => Some(("pods", trouble)),
            News::Slices(_, Event::Failed(trouble)) | News::Replicas(Event::Failed(trouble)) => {
                Some(("endpointslices", trouble))
            }
            _ => None,
        };
        match failed {
            Some((resource, trouble)) => {
                self.metrics.api.failed(resource);
                tracing::debug!(resource, "a watch begins again: {trouble}");
            }
            None => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                self.metrics.api.heard_at.set(now.as_secs());
            }
        }
    }

    fn read_rollout(&mut self) {
        let Some(known) = &self.rollout.known else { return };
        let unreadable = self.unreadable.take();
        match known.get(&self.settings.name) {
            None => self.parsed = None,
            Some(sent) => match serde_json::from_value(sent.clone()) {
                Ok(rollout) => self.parsed = Some(rollout),
                Err(error) => {
                    let since = unreadable.map_or_else(SystemTime::now, |(since, _)| since);
                    let text = format!(
                        "Rollout {}/{} cannot be read, and what it said before stays in force: {error}; expected the \
                         fields of argoproj.io/v1alpha1",
                        self.settings.namespace, self.settings.name
                    );
                    self.unreadable = Some((since, text));
                }
            },
        }
    }

    /// Watches the pods that the Rollout selects. Without a Rollout those that it selected last.
    fn select_pods(&mut self) {
        let Some(selector) = self.parsed.as_ref().and_then(selector) else { return };
        if selector == self.pods.selector {
            return;
        }
        let (run, api) = (self.pods.run + 1, Api::<Pod>::namespaced(self.client.clone(), &self.settings.namespace));
        let selected = Config::default().labels(&selector);
        let news = move |event| News::Pods(run, event);
        self.pods.watch = Some(watched::watch("pods", api, selected, PodSeen::from, self.tell.clone(), news));
        // Those of the old selector stay known until the new list is complete.
        (self.pods.run, self.pods.selector) = (run, selector);
    }

    /// Watches the slices of the Services that the Rollout names, while pods may not be read.
    fn select_slices(&mut self) {
        if !self.pods.forbidden {
            if self.pods.known.is_some() && self.slices.watch.is_some() {
                self.slices.stop();
            }
            return;
        }
        let Some(selector) = self.parsed.as_ref().map(service_names).and_then(|names| slices_of(&names)) else {
            return;
        };
        if selector == self.slices.selector {
            return;
        }
        let run = self.slices.run + 1;
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &self.settings.namespace);
        let selected = Config::default().labels(&selector);
        let news = move |event| News::Slices(run, event);
        self.slices.watch =
            Some(watched::watch("endpointslices", api, selected, SliceSeen::from, self.tell.clone(), news));
        (self.slices.run, self.slices.selector) = (run, selector);
    }

    pub fn rollout_as_sent(&self) -> Option<&Value> {
        self.rollout.known.as_ref()?.get(&self.settings.name)
    }

    /// Whether the API server is heard, and if not, since when, and what went wrong first.
    pub fn contact(&self) -> Contact {
        if let Some((since, error)) = self.unreadable.clone().filter(|_| self.parsed.is_none()) {
            return Contact::Lost { since, error };
        }
        let failing = [
            &self.rollout.failing,
            &self.services.failing,
            &self.pods.failing,
            &self.slices.failing,
            &self.replicas.failing,
        ];
        // A permission that can be done without is no loss of contact; those for the Rollout and for endpoints cannot.
        let needed = |kind: TroubleKind, place: usize| kind != TroubleKind::Forbidden || place == 0 || place == 3;
        let lost = failing
            .into_iter()
            .enumerate()
            .find_map(|(place, failing)| failing.as_ref().filter(|(_, trouble)| needed(trouble.kind, place)));
        match lost {
            Some((since, trouble)) => Contact::Lost { since: *since, error: trouble.message.clone() },
            None if self.rollout.known.is_none() => Contact::Connecting,
            None => Contact::Connected,
        }
    }

    /// All of it; `None` until every part was complete once.
    pub fn cluster(&self) -> Option<Cluster> {
        self.rollout.known.as_ref()?;
        if self.unreadable.is_some() && self.parsed.is_none() {
            return None;
        }
        let no_services = BTreeMap::new();
        let services = match &self.services.known {
            Some(services) => Some(services),
            None if self.services.forbidden => None,
            None => return None,
        };
        if self.settings.service.is_some() && self.replicas.known.is_none() && self.replicas.failing.is_none() {
            return None;
        }
        let stable = self.stable.as_ref().map(|(name, service)| (name.as_str(), service));
        let endpoints = |port: &PortRef| -> Option<(ByHash, Option<PortNote>)> {
            match (&self.pods.known, &self.slices.known) {
                (Some(pods), _) if !self.pods.forbidden => Some(of_pods(pods, port, stable)),
                (_, Some(slices)) => {
                    let services = services.unwrap_or(&no_services);
                    Some(of_slices(&self.settings.name, slices, services, port, stable))
                }
                // There is nothing to select pods or slices by.
                (None, None) if self.pods.watch.is_none() || self.has_no_way() => Some(Default::default()),
                (Some(pods), None) => Some(of_pods(pods, port, stable)),
                (None, None) => None,
            }
        };
        let mut notes = self.notes();
        let mut ports = Vec::new();
        for port in &self.settings.ports {
            let (found, note) = endpoints(port)?;
            ports.push(found);
            notes.extend(note.map(PortNote::text));
        }
        let of_service = |service| self.settings.ports.iter().map(move |port| spoken(service, port));
        let (turn, peers) = self.replicas();
        Some(Cluster {
            rollout: self.parsed.clone(),
            ports,
            spoken: stable.iter().flat_map(|(_, service)| of_service(service)).collect(),
            services: services.map(|services| named_services(self.parsed.as_ref(), services)),
            notes,
            turn,
            peers,
            saved_at: None,
        })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let Settings { namespace, name, .. } = &self.settings;
        if self.parsed.is_none() && self.unreadable.is_none() {
            notes.push(format!(
                "there is no Rollout {name} in namespace {namespace}: create it, or correct --rollout; pods that one of \
                 this name selected before go on serving"
            ));
        }
        notes.extend(self.unreadable.iter().map(|(_, error)| error.clone()));
        if let Some((_, trouble)) = self.pods.failing.as_ref().filter(|_| self.has_no_way()) {
            notes.push(format!(
                "{trouble}. Without pods the Rollout has to name its Services (stableService and canaryService), and it \
                 names none"
            ));
        } else if let Some((_, trouble)) = self.pods.failing.as_ref().filter(|_| self.pods.forbidden) {
            notes.push(format!(
                "{trouble}. Until then the EndpointSlices of the Rollout's Services are followed instead, which know of a \
                 change a moment later"
            ));
        }
        if let Some((_, trouble)) = self.services.failing.as_ref().filter(|_| self.services.forbidden) {
            notes.push(format!("{trouble}. Until then ports of Services and their selectors are not known"));
        }
        if let Some((_, trouble)) = &self.replicas.failing {
            notes.push(format!("the replicas of this proxy are not known: {trouble}"));
        }
        notes
    }

    /// Pods may not be read, and there is no Service whose slices could be.
    fn has_no_way(&self) -> bool {
        self.pods.forbidden && self.slices.watch.is_none()
    }

    /// This proxy's place among the ready addresses of its own Service.
    fn replicas(&self) -> (Option<Turn>, Vec<IpAddr>) {
        let (Some(own), Some(slices)) = (&self.settings.service, &self.replicas.known) else {
            return (None, Vec::new());
        };
        let ready = slices.values().flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.ready);
        let peers: BTreeSet<IpAddr> = ready.map(|endpoint| endpoint.address).collect();
        let index = peers.iter().position(|peer| *peer == own.address);
        let turn = index.and_then(|index| Turn::new(u32::try_from(index).ok()?, u32::try_from(peers.len()).ok()?));
        (turn, peers.into_iter().collect())
    }
}

/// The object without what nobody reads, which is most of it.
fn as_sent(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    serde_json::to_value(object).unwrap_or_default()
}
