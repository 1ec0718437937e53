//! What is kept of each object: the few fields that routing needs. And which objects belong to a Rollout.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};

use crate::control::cluster::AppProtocol;
use crate::control::plan;
use crate::control::rollout::{HASH_LABEL, Rollout};

#[derive(Clone, Debug, PartialEq)]
pub struct PodSeen {
    pub hash: Option<String>,
    pub address: Option<IpAddr>,
    /// Its `Ready` condition, which goes on while it terminates.
    pub ready: bool,
    pub terminating: bool,
    /// Of all containers, TCP only.
    pub ports: Vec<NamedPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    pub name: Option<String>,
    pub number: u16,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceSeen {
    pub selector: BTreeMap<String, String>,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Option<String>,
    pub number: u16,
    pub target: Target,
    pub spoken: AppProtocol,
}

/// A container's port, as a Service names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Name(String),
    Number(u16),
}

#[derive(Clone, Debug, PartialEq)]
pub struct SliceSeen {
    pub service: String,
    /// The Service's names with the containers' numbers.
    pub ports: Vec<NamedPort>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    pub address: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub pod: Option<String>,
}

impl From<Pod> for PodSeen {
    fn from(pod: Pod) -> Self {
        let status = pod.status.unwrap_or_default();
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
        let ports = containers.into_iter().flat_map(|container| container.ports.unwrap_or_default());
        Self {
            hash: pod.metadata.labels.and_then(|mut labels| labels.remove(HASH_LABEL)).filter(|hash| !hash.is_empty()),
            address: status.pod_ip.and_then(|address| address.parse().ok()),
            ready,
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ports: ports
                .filter(|port| is_tcp(port.protocol.as_deref()))
                .filter_map(|port| Some(NamedPort { name: port.name, number: number(port.container_port)? }))
                .collect(),
        }
    }
}

impl From<Service> for ServiceSeen {
    fn from(service: Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default().into_iter().filter(|port| is_tcp(port.protocol.as_deref()));
        Self {
            selector: spec.selector.unwrap_or_default(),
            ports: ports
                .filter_map(|port| {
                    let own = number(port.port)?;
                    let target = match port.target_port {
                        Some(IntOrString::String(name)) => match name.parse() {
                            Ok(number) => Target::Number(number),
                            Err(_) => Target::Name(name),
                        },
                        Some(IntOrString::Int(target)) => Target::Number(number(target)?),
                        None => Target::Number(own),
                    };
                    Some(ServicePort {
                        name: port.name.filter(|name| !name.is_empty()),
                        number: own,
                        target,
                        spoken: match port.app_protocol.as_deref() {
                            Some("kubernetes.io/h2c") => AppProtocol::H2c,
                            Some("https" | "HTTPS" | "kubernetes.io/wss") => AppProtocol::Tls,
                            _ => AppProtocol::Http1,
                        },
                    })
                })
                .collect(),
        }
    }
}

impl From<EndpointSlice> for SliceSeen {
    fn from(slice: EndpointSlice) -> Self {
        let service = slice.metadata.labels.and_then(|mut labels| labels.remove("kubernetes.io/service-name"));
        let ports = slice.ports.unwrap_or_default().into_iter().filter(|port| is_tcp(port.protocol.as_deref()));
        Self {
            service: service.unwrap_or_default(),
            ports: ports
                .filter_map(|port| {
                    let name = port.name.filter(|name| !name.is_empty());
                    Some(NamedPort { name, number: number(port.port?)? })
                })
                .collect(),
            endpoints: slice
                .endpoints
                .into_iter()
                .filter_map(|endpoint| {
                    let conditions = endpoint.conditions.unwrap_or_default();
                    // What is not said: ready counts as true, serving as ready, terminating as false (the API's docs).
                    let ready = conditions.ready.unwrap_or(true);
                    Some(SliceEndpoint {
                        // All addresses of one endpoint are the same pod.
                        address: endpoint.addresses.first()?.parse().ok()?,
                        ready,
                        serving: conditions.serving.unwrap_or(ready),
                        terminating: conditions.terminating.unwrap_or(false),
                        pod: endpoint
                            .target_ref
                            .filter(|target| target.kind.as_deref() == Some("Pod"))
                            .and_then(|pod| pod.name),
                    })
                })
                .collect(),
        }
    }
}

/// Rollouts as they are sent: generated types would fail on what a newer controller adds.
pub fn rollouts(client: &kube::Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Rollout");
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, "rollouts"))
}

/// Every Service behind which there may be pods of the Rollout.
pub fn service_names(rollout: &Rollout) -> BTreeSet<String> {
    let names = rollout.services();
    let named = [names.stable, names.canary].into_iter().flatten().chain(rollout.experiment_services());
    named.map(str::to_owned).collect()
}

/// Selects their slices; `None` where there is none.
pub fn slices_of(services: &BTreeSet<String>) -> Option<String> {
    let names: Vec<&str> = services.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| format!("kubernetes.io/service-name in ({})", names.join(",")))
}

/// The two that the Rollout names, whether they are there or not.
pub fn named_services(rollout: Option<&Rollout>, services: &BTreeMap<String, ServiceSeen>) -> Vec<plan::Service> {
    let names = rollout.map(Rollout::services).unwrap_or_default();
    let seen = |name: &str| plan::Service {
        name: name.to_owned(),
        selector: services.get(name).map(|service| service.selector.clone()),
    };
    [names.stable, names.canary].into_iter().flatten().map(seen).collect()
}

/// By which labels the Rollout selects its pods. The status has it in full, also where the template is another object's.
pub fn selector(rollout: &Rollout) -> Option<String> {
    if let Some(selector) = rollout.status.as_ref().and_then(|status| status.selector.clone())
        && !selector.is_empty()
    {
        return Some(selector);
    }
    let labels = rollout.spec.selector.as_ref()?.match_labels.as_ref()?;
    let pairs: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}
