//! From pods, or from EndpointSlices, to the endpoints of one port by pod-template hash. PURE.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::control::cluster::AppProtocol;
use crate::control::plan::Endpoint;
use crate::control::rollout::HASH_LABEL;
use crate::route::VersionHash;

use super::objects::{NamedPort, PodSeen, ServicePort, ServiceSeen, SliceSeen, Target};

/// Which of the application's ports is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PortRef {
    /// What the stable Service leads to.
    #[default]
    Default,
    /// A container's port by its name, else the port of the stable Service of that name.
    Name(String),
    /// A container's port, else what the port of the stable Service with that number leads to.
    Number(u16),
}

impl FromStr for PortRef {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match (text, text.parse()) {
            ("", _) => PortRef::Default,
            (_, Ok(number)) => PortRef::Number(number),
            _ => PortRef::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortRef::Default => f.write_str("the default port"),
            PortRef::Name(name) => write!(f, "port {name}"),
            PortRef::Number(number) => write!(f, "port {number}"),
        }
    }
}

/// The pods that have no hash, of a Deployment that is being replaced by the Rollout, for example.
const UNVERSIONED: &str = "unversioned";

pub type ByHash = BTreeMap<VersionHash, Vec<Endpoint>>;

/// What an operator should know about a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortNote {
    /// Some pods, or all of them, have no such port.
    NotFound(String),
    /// There are several, and one was taken.
    Several(String),
}

impl PortNote {
    pub fn text(self) -> String {
        match self {
            PortNote::NotFound(text) | PortNote::Several(text) => text,
        }
    }
}

/// The version that a pod is.
pub fn version_of(pod: &PodSeen) -> VersionHash {
    VersionHash::new(pod.hash.as_deref().unwrap_or(UNVERSIONED))
}

/// The endpoints of `port`, and what an operator should know about it.
pub fn of_pods(
    pods: &BTreeMap<String, PodSeen>,
    port: &PortRef,
    service: Option<(&str, &ServiceSeen)>,
) -> (ByHash, Option<PortNote>) {
    let declared = |named: &NamedPort| match port {
        PortRef::Default => false,
        PortRef::Name(name) => named.name.as_deref() == Some(name),
        PortRef::Number(number) => named.number == *number,
    };
    let is_a_containers = pods.values().any(|pod| pod.ports.iter().any(declared));
    let through_service = service.and_then(|(_, service)| service_port(service, port)).map(|found| &found.target);
    let target = match (port, through_service) {
        (PortRef::Name(name), _) if is_a_containers => Target::Name(name.clone()),
        (PortRef::Number(number), _) if is_a_containers => Target::Number(*number),
        (_, Some(target)) => target.clone(),
        // A container may listen on a port that it does not declare.
        (PortRef::Number(number), None) => Target::Number(*number),
        (PortRef::Name(name), None) => Target::Name(name.clone()),
        (PortRef::Default, None) => match only_port(pods) {
            Some(number) => Target::Number(number),
            None if pods.is_empty() => return (ByHash::new(), None),
            None => return (ByHash::new(), Some(PortNote::NotFound(not_found(port, pods, service)))),
        },
    };
    let mut endpoints = ByHash::new();
    let mut without = false;
    for pod in pods.values() {
        let Some(address) = pod.address else { continue };
        let number = match &target {
            Target::Number(number) => Some(*number),
            Target::Name(name) => {
                pod.ports.iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.number)
            }
        };
        let Some(number) = number else {
            without = true;
            continue;
        };
        endpoints.entry(version_of(pod)).or_default().push(Endpoint {
            address: SocketAddr::new(address, number),
            ready: pod.ready && !pod.terminating,
            serving: pod.ready,
            terminating: pod.terminating,
        });
    }
    let note = match (without, port, service) {
        (true, ..) => Some(PortNote::NotFound(not_found(port, pods, service))),
        (false, PortRef::Default, Some((name, service))) if service.ports.len() > 1 => {
            let chosen = service_port(service, port).map(show).unwrap_or_default();
            Some(PortNote::Several(format!(
                "Service {name} has several ports ({}): {chosen} is taken; say --port NAME, or a port for each listener",
                list(service.ports.iter().map(show))
            )))
        }
        _ => None,
    };
    (endpoints, note)
}

/// The same from the slices of the Services that the Rollout names. An endpoint belongs to the version that its pod's name
/// tells, never to the Service whose slice it is in: the controller re-points Services at other moments than it changes
/// weights.
pub fn of_slices(
    rollout: &str,
    slices: &BTreeMap<String, SliceSeen>,
    services: &BTreeMap<String, ServiceSeen>,
    port: &PortRef,
    service: Option<(&str, &ServiceSeen)>,
) -> (ByHash, Option<PortNote>) {
    let mut endpoints = ByHash::new();
    let mut without = None;
    for slice in slices.values() {
        let own = services.get(&slice.service);
        let Some(number) = slice_port(slice, port, own) else {
            if !slice.endpoints.is_empty() {
                without = Some(slice);
            }
            continue;
        };
        for endpoint in &slice.endpoints {
            let hash = endpoint.pod.as_deref().and_then(|pod| hash_of(rollout, pod));
            let hash = hash.or_else(|| own?.selector.get(HASH_LABEL).map(String::as_str));
            endpoints.entry(VersionHash::new(hash.unwrap_or(UNVERSIONED))).or_default().push(Endpoint {
                address: SocketAddr::new(endpoint.address, number),
                ready: endpoint.ready,
                serving: endpoint.serving,
                terminating: endpoint.terminating,
            });
        }
    }
    let note = without.map(|slice| {
        PortNote::NotFound(format!(
            "{port} is not found: the slices of Service {} have {}; say --port NAME, or a port for each listener",
            slice.service,
            list(slice.ports.iter().map(show_named))
        ))
    });
    let several = match (port, service) {
        (PortRef::Default, Some((name, service))) if service.ports.len() > 1 => Some(PortNote::Several(format!(
            "Service {name} has several ports ({}); say --port NAME, or a port for each listener",
            list(service.ports.iter().map(show))
        ))),
        _ => None,
    };
    (endpoints, note.or(several))
}

/// `<rollout>-<hash>-<five characters>`; none if the name was cut because it is too long.
fn hash_of<'a>(rollout: &str, pod: &'a str) -> Option<&'a str> {
    let (hash, _) = pod.strip_prefix(rollout)?.strip_prefix('-')?.rsplit_once('-')?;
    (!hash.is_empty() && !hash.contains('-')).then_some(hash)
}

/// The port of a Service that is meant: the only one, else the one named `http`, else the first.
fn service_port<'a>(service: &'a ServiceSeen, port: &PortRef) -> Option<&'a ServicePort> {
    let ports = &service.ports;
    match port {
        PortRef::Default => ports.iter().find(|port| port.name.as_deref() == Some("http")).or(ports.first()),
        PortRef::Name(name) => ports.iter().find(|port| port.name.as_deref() == Some(name)),
        PortRef::Number(number) => ports.iter().find(|port| port.number == *number),
    }
}

/// What a Service says about how `port` is spoken to, also where that is a container's port behind one of the Service's.
pub fn spoken(service: &ServiceSeen, port: &PortRef) -> AppProtocol {
    let leads_to = |found: &&ServicePort| match port {
        PortRef::Default => false,
        PortRef::Name(name) => found.target == Target::Name(name.clone()),
        PortRef::Number(number) => found.target == Target::Number(*number),
    };
    let found = service_port(service, port).or_else(|| service.ports.iter().find(leads_to));
    found.map(|port| port.spoken).unwrap_or_default()
}

fn slice_port(slice: &SliceSeen, port: &PortRef, service: Option<&ServiceSeen>) -> Option<u16> {
    let by_name = |name: Option<&str>| slice.ports.iter().find(|port| port.name.as_deref() == name);
    let led_to = || {
        let service = service?;
        let through = |wanted: &Target| service.ports.iter().find(|port| port.target == *wanted);
        let found = match port {
            PortRef::Name(name) => through(&Target::Name(name.clone())).or_else(|| service_port(service, port)),
            _ => service_port(service, port),
        }?;
        by_name(found.name.as_deref())
    };
    let found = match port {
        PortRef::Number(number) => slice.ports.iter().find(|port| port.number == *number).or_else(led_to),
        PortRef::Name(name) => led_to().or_else(|| by_name(Some(name))),
        PortRef::Default => led_to().or_else(|| by_name(Some("http"))).or(slice.ports.first()),
    };
    found.map(|port| port.number)
}

/// The one port that all pods declare, if it is one.
fn only_port(pods: &BTreeMap<String, PodSeen>) -> Option<u16> {
    let mut ports = pods.values().flat_map(|pod| pod.ports.iter().map(|port| port.number));
    let first = ports.next()?;
    ports.all(|port| port == first).then_some(first)
}

fn not_found(port: &PortRef, pods: &BTreeMap<String, PodSeen>, service: Option<(&str, &ServiceSeen)>) -> String {
    let mut declared: Vec<String> = pods.values().flat_map(|pod| pod.ports.iter().map(show_named)).collect();
    declared.sort();
    declared.dedup();
    let of_service = service.map_or_else(
        || "and no Service to look it up in".to_owned(),
        |(name, service)| format!("and Service {name} has {}", list(service.ports.iter().map(show))),
    );
    format!(
        "{port} is not found: the pods declare {}, {of_service}; say --port NAME or NUMBER, or a port for each listener",
        list(declared.into_iter())
    )
}

fn show(port: &ServicePort) -> String {
    let target = match &port.target {
        Target::Name(name) => name.clone(),
        Target::Number(number) => number.to_string(),
    };
    match &port.name {
        Some(name) => format!("{name} {}, leading to {target}", port.number),
        None => format!("{}, leading to {target}", port.number),
    }
}

fn show_named(port: &NamedPort) -> String {
    match &port.name {
        Some(name) => format!("{name} {}", port.number),
        None => port.number.to_string(),
    }
}

fn list(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    match texts.is_empty() {
        true => "no port".to_owned(),
        false => texts.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(hash: Option<&str>, last: u8, ports: &[(&str, u16)]) -> (String, PodSeen) {
        let named = |(name, number): &(&str, u16)| NamedPort {
            name: (!name.is_empty()).then(|| name.to_string()),
            number: *number,
        };
        let seen = PodSeen {
            hash: hash.map(str::to_owned),
            address: Some([10, 0, 0, last].into()),
            ready: true,
            terminating: false,
            ports: ports.iter().map(named).collect(),
        };
        (format!("shop-{}-abcd{last}", hash.unwrap_or("x")), seen)
    }

    fn service(ports: &[(&str, u16, Target)]) -> ServiceSeen {
        let port = |(name, number, target): &(&str, u16, Target)| ServicePort {
            name: (!name.is_empty()).then(|| name.to_string()),
            number: *number,
            target: target.clone(),
            spoken: if *number == 81 { AppProtocol::H2c } else { AppProtocol::Http1 },
        };
        ServiceSeen { selector: BTreeMap::new(), ports: ports.iter().map(port).collect() }
    }

    /// The addresses of each version.
    fn shown(found: &ByHash) -> String {
        let one = |(version, endpoints): (&VersionHash, &Vec<Endpoint>)| {
            format!("{version}: {}", list(endpoints.iter().map(|endpoint| endpoint.address.to_string())))
        };
        found.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_a_service_says_of_a_port_holds_by_every_way_of_naming_it() {
        let both = service(&[("http", 80, Target::Number(7000)), ("rpc", 81, Target::Name("grpc".to_owned()))]);
        for (port, said) in [
            ("", "Http1"),
            ("http", "Http1"),
            ("7000", "Http1"),
            ("rpc", "H2c"),
            ("81", "H2c"),
            ("grpc", "H2c"),
            ("other", "Http1"),
        ] {
            assert_eq!(format!("{:?}", spoken(&both, &port.parse().unwrap())), said, "{port:?}");
        }
    }

    #[test]
    fn a_port_is_found_by_every_way_of_naming_it() {
        let pods = BTreeMap::from([
            pod(Some("v1"), 1, &[("http", 5000), ("grpc", 5001)]),
            pod(Some("v2"), 2, &[("http", 6000), ("grpc", 6001)]),
        ]);
        let by_name = service(&[("web", 80, Target::Name("http".to_owned()))]);
        let both = service(&[("rpc", 81, Target::Name("grpc".to_owned())), ("http", 80, Target::Number(7000))]);
        let cases = [
            ("", Some(&by_name), "v1: 10.0.0.1:5000, v2: 10.0.0.2:6000"),
            ("web", Some(&by_name), "v1: 10.0.0.1:5000, v2: 10.0.0.2:6000"),
            ("80", Some(&by_name), "v1: 10.0.0.1:5000, v2: 10.0.0.2:6000"),
            ("grpc", Some(&by_name), "v1: 10.0.0.1:5001, v2: 10.0.0.2:6001"),
            ("grpc", None, "v1: 10.0.0.1:5001, v2: 10.0.0.2:6001"),
            ("5000", None, "v1: 10.0.0.1:5000, v2: 10.0.0.2:5000"),
            ("9999", Some(&by_name), "v1: 10.0.0.1:9999, v2: 10.0.0.2:9999"),
            ("rpc", Some(&both), "v1: 10.0.0.1:5001, v2: 10.0.0.2:6001"),
            ("", Some(&both), "v1: 10.0.0.1:7000, v2: 10.0.0.2:7000"),
        ];
        for (port, service, expected) in cases {
            let (found, _) = of_pods(&pods, &port.parse().unwrap(), service.map(|service| ("shop", service)));
            assert_eq!(shown(&found), expected, "{port:?} with {service:?}");
        }
    }

    #[test]
    fn a_port_that_nobody_has_is_named_with_those_that_there_are() {
        let pods = BTreeMap::from([pod(Some("v1"), 1, &[("http", 5000)])]);
        let service = service(&[("", 80, Target::Number(5000))]);
        let (found, note) = of_pods(&pods, &PortRef::Name("grpc".to_owned()), Some(("shop-stable", &service)));
        assert!(found.is_empty());
        assert_eq!(
            note.unwrap().text(),
            "port grpc is not found: the pods declare http 5000, and Service shop-stable has 80, leading to 5000; say \
             --port NAME or NUMBER, or a port for each listener"
        );
    }

    #[test]
    fn a_pod_that_terminates_still_serves_and_is_not_ready() {
        let (name, mut leaving) = pod(Some("v1"), 1, &[("", 5000)]);
        leaving.terminating = true;
        let (nowhere, mut new) = pod(None, 2, &[("", 5000)]);
        new.ready = false;
        let pods = BTreeMap::from([(name, leaving), (nowhere, new)]);
        let (found, note) = of_pods(&pods, &PortRef::Default, None);
        assert_eq!(note, None);
        let of = |version| found[&VersionHash::new(version)][0];
        assert_eq!((of("v1").ready, of("v1").serving, of("v1").terminating), (false, true, true));
        assert_eq!((of("unversioned").ready, of("unversioned").serving), (false, false));
    }

    #[test]
    fn slices_are_sorted_by_the_names_of_pods_and_not_by_service() {
        use super::super::objects::SliceEndpoint;
        let endpoint = |last: u8, pod: Option<&str>| SliceEndpoint {
            address: [10, 0, 0, last].into(),
            ready: true,
            serving: true,
            terminating: false,
            pod: pod.map(str::to_owned),
        };
        let ports = vec![NamedPort { name: None, number: 5000 }];
        let slice = SliceSeen {
            service: "shop-canary".to_owned(),
            ports,
            endpoints: vec![
                endpoint(1, Some("shop-v1-aaaaa")),
                endpoint(2, Some("shop-v2-bbbbb")),
                endpoint(3, Some("other-thing")),
                endpoint(4, None),
            ],
        };
        let mut canary = service(&[("", 80, Target::Number(5000))]);
        canary.selector.insert(HASH_LABEL.to_owned(), "v3".to_owned());
        let slices = BTreeMap::from([("a".to_owned(), slice)]);
        let services = BTreeMap::from([("shop-canary".to_owned(), canary)]);
        let (found, note) = of_slices("shop", &slices, &services, &PortRef::Default, None);
        assert_eq!(note, None);
        assert_eq!(shown(&found), "v1: 10.0.0.1:5000, v2: 10.0.0.2:5000, v3: 10.0.0.3:5000; 10.0.0.4:5000");
        for (port, found_too) in [("80", true), ("5000", true), ("grpc", false)] {
            let (found, note) = of_slices("shop", &slices, &services, &port.parse().unwrap(), None);
            assert_eq!((found.len() == 3, note.is_none()), (found_too, found_too), "{port}");
        }
    }

    #[test]
    fn a_hash_is_read_from_whole_names_only() {
        for (pod, hash) in [
            ("shop-6d9b7c5f48-x2x4z", Some("6d9b7c5f48")),
            ("shop-x2x4z", None),
            ("shop-web-6d9b7c5f48-x2x4z", None),
            ("shopping-6d9b7c5f48-x2x4z", None),
            ("", None),
        ] {
            assert_eq!(hash_of("shop", pod), hash, "{pod}");
        }
    }
}
