//! The requests and their times once more, under the names and labels that queries written for a service mesh or an ingress
//! controller ask for, so that analyses go on working when Splitway takes its place. There are none unless they are asked
//! for. docs/metrics.md says which queries they answer.
//!
//! Their labels say `canary` of what is the canary *now*, by Services, workloads and the like; so do these names elsewhere.
//! What tells versions apart for good, `destination_version` and our own `version`, is there as well.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::super::{Alias, Metrics, Totals, VersionTotals};
use super::{CODES_FROM_THE_START, Family, Kind, PORT, Sample, Value, durations, sample};
use crate::route::Role;

const ISTIO_CODE: &[&str] = &[
    PORT,
    "reporter",
    "destination_workload",
    "destination_workload_namespace",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_canonical_service",
    "destination_canonical_revision",
    "request_protocol",
    "response_code",
];
const NGINX_CODE: &[&str] = &[PORT, "namespace", "ingress", "service", "canary", "version", "status"];

/// Times are told without the answer's code, which is the last label.
const ISTIO: &[&str] = ISTIO_CODE.split_at(ISTIO_CODE.len() - 1).0;
const NGINX: &[&str] = NGINX_CODE.split_at(NGINX_CODE.len() - 1).0;

/// There, each request is reported by the sidecars of both its ends. Queries ask for one of them.
const REPORTERS: [&str; 2] = ["source", "destination"];

type Label = Cow<'static, str>;

pub fn collect(metrics: &Metrics, totals: &Totals) -> Vec<Family> {
    let named = |alias| metrics.aliases.contains(&alias);
    let mut families = Vec::new();
    if named(Alias::Istio) {
        families.extend(istio(metrics, totals));
    }
    if named(Alias::Nginx) {
        families.extend(nginx(metrics, totals));
    }
    families
}

fn istio(metrics: &Metrics, totals: &Totals) -> [Family; 2] {
    let each = |samples: &dyn Fn(&VersionTotals, Vec<Label>) -> Vec<Sample>| {
        let of = |one: &VersionTotals| {
            REPORTERS.map(|reporter| samples(one, istio_labels(&Names::of(metrics, one), one, reporter))).concat()
        };
        totals.versions.iter().flat_map(of).collect()
    };
    [
        Family {
            name: "istio_requests_total",
            kind: Kind::Counter,
            labels: ISTIO_CODE,
            help: "splitway_requests_total in the words of Istio.",
            samples: each(&|one, labels| by_code(one, &labels)),
        },
        Family {
            name: "istio_request_duration_milliseconds",
            kind: Kind::Histogram,
            labels: ISTIO,
            help: "splitway_request_duration_seconds in the words of Istio.",
            samples: each(&|one, labels| vec![sample(labels, durations(one, 1e6))]),
        },
    ]
}

fn nginx(metrics: &Metrics, totals: &Totals) -> [Family; 3] {
    let requests = |one: &VersionTotals| -> Vec<Sample> {
        let labels = nginx_labels(&Names::of(metrics, one), one);
        by_code(one, &labels)
    };
    let times = |name, help| Family {
        name,
        kind: Kind::Histogram,
        labels: NGINX,
        help,
        samples: (totals.versions.iter())
            .map(|one| sample(nginx_labels(&Names::of(metrics, one), one), durations(one, 1e9)))
            .collect(),
    };
    [
        Family {
            name: "nginx_ingress_controller_requests",
            kind: Kind::Untyped,
            labels: NGINX_CODE,
            help: "splitway_requests_total in the words of ingress-nginx.",
            samples: totals.versions.iter().flat_map(requests).collect(),
        },
        times(
            "nginx_ingress_controller_request_duration_seconds",
            "splitway_request_duration_seconds in the words of ingress-nginx.",
        ),
        times(
            "nginx_ingress_controller_ingress_upstream_latency_seconds",
            "The same as splitway_request_duration_seconds, where older queries of ingress-nginx look for it.",
        ),
    ]
}

/// What belongs to one version in one role, as others name it.
struct Names {
    port: Label,
    /// Empty where no Rollout is followed.
    namespace: Label,
    app: Label,
    workload: Label,
    service: Label,
    ingress: Label,
}

impl Names {
    fn of(metrics: &Metrics, one: &VersionTotals) -> Self {
        let port = metrics.ports[one.port].as_str().to_owned().into();
        let Some((namespace, rollout)) = metrics.api.rollout.get() else {
            let name = || Label::from(one.version.to_string());
            return Self {
                port,
                namespace: "".into(),
                app: "splitway".into(),
                workload: name(),
                service: name(),
                ingress: "splitway".into(),
            };
        };
        let names = metrics.api.names();
        let (suffix, service) = match one.role {
            Role::Stable => ("-primary", names.stable_service),
            Role::Canary => ("", names.canary_service),
            Role::Experiment => ("-experiment", None),
        };
        let or_rollout = |name: Option<String>| Label::from(name.unwrap_or_else(|| rollout.clone()));
        Self {
            port,
            namespace: namespace.clone().into(),
            app: rollout.clone().into(),
            // The target of a query is the canary, and what serves beside it has another name.
            workload: format!("{rollout}{suffix}").into(),
            service: or_rollout(service),
            ingress: or_rollout(names.ingress),
        }
    }
}

fn istio_labels(names: &Names, one: &VersionTotals, reporter: &'static str) -> Vec<Label> {
    let host = if names.namespace.is_empty() {
        names.service.clone()
    } else {
        format!("{}.{}.svc.cluster.local", names.service, names.namespace).into()
    };
    let version = Label::from(one.version.to_string());
    vec![
        names.port.clone(),
        reporter.into(),
        names.workload.clone(),
        names.namespace.clone(),
        names.app.clone(),
        version.clone(),
        host,
        names.service.clone(),
        names.namespace.clone(),
        names.app.clone(),
        version,
        "http".into(),
    ]
}

fn nginx_labels(names: &Names, one: &VersionTotals) -> Vec<Label> {
    // Queries ask whether it is empty.
    let canary = match one.role {
        Role::Canary if names.namespace.is_empty() => names.service.clone(),
        Role::Canary => format!("{}-{}", names.namespace, names.service).into(),
        Role::Stable | Role::Experiment => "".into(),
    };
    vec![
        names.port.clone(),
        names.namespace.clone(),
        names.ingress.clone(),
        names.service.clone(),
        canary,
        one.version.to_string().into(),
    ]
}

/// What was counted, by its code, which comes last among the labels.
fn by_code(one: &VersionTotals, labels: &[Label]) -> Vec<Sample> {
    let mut counts: BTreeMap<u16, u64> = CODES_FROM_THE_START.map(|code| (code, 0)).into();
    for (labels, count) in &one.requests {
        *counts.entry(labels.code).or_default() += count;
    }
    let of = |(code, count): (u16, u64)| sample([labels, &[code.to_string().into()]].concat(), Value::Count(count));
    counts.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::cells::{Labels, Method};
    use crate::metrics::{Names as Said, made_up};
    use crate::route::{Reason, VersionHash};

    /// The sum over all series of a family that have these labels.
    fn sum(families: &[Family], name: &str, wanted: &[(&str, &str)]) -> f64 {
        let family = families.iter().find(|family| family.name == name).expect("the family is there");
        let fits = |sample: &&Sample| {
            let labels: Vec<_> = family.labels_of(sample).collect();
            wanted.iter().all(|label| labels.contains(label))
        };
        let value = |sample: &Sample| match &sample.value {
            Value::Count(count) => *count as f64,
            Value::Histogram { sum, .. } => *sum,
            Value::Real(real) => *real,
        };
        family.samples.iter().filter(fits).map(value).sum()
    }

    /// 6 requests of the stable version, and 4 of the canary, one of which failed.
    fn counted(aliases: &[Alias]) -> Metrics {
        let (_publisher, live) = made_up::live(&[("aaa", Role::Stable, 6), ("bbb", Role::Canary, 4)]);
        let mut metrics = made_up::metrics(2, live);
        metrics.aliases = aliases.into();
        for (version, role, code, method, count) in [
            ("aaa", Role::Stable, 200, Method::Get, 5),
            ("aaa", Role::Stable, 404, Method::Post, 1),
            ("bbb", Role::Canary, 200, Method::Get, 3),
            ("bbb", Role::Canary, 503, Method::Post, 1),
        ] {
            for i in 0..count {
                let cells = metrics.version(i % 2, 0, &VersionHash::new(version), role);
                // Labels that the others do not know are added up.
                let reason = if i == 0 { Reason::Sticky } else { Reason::Weighted };
                cells.requests.count(Labels { method, code, reason, failure: None, route: 0 });
                cells.duration.record(20_000_000);
            }
        }
        metrics
    }

    fn following(metrics: &Metrics, names: Said) {
        metrics.api.rollout.set(("shop".to_owned(), "cart".to_owned())).expect("it was not set before");
        metrics.api.name(names);
    }

    fn services() -> Said {
        Said {
            stable_service: Some("cart-stable".to_owned()),
            canary_service: Some("cart-canary".to_owned()),
            ingress: Some("cart-ingress".to_owned()),
        }
    }

    #[test]
    fn there_are_those_that_were_asked_for_and_no_others() {
        for (aliases, names) in [
            (&[][..], vec![]),
            (&[Alias::Istio], vec!["istio_requests_total", "istio_request_duration_milliseconds"]),
            (
                &[Alias::Nginx],
                vec![
                    "nginx_ingress_controller_requests",
                    "nginx_ingress_controller_request_duration_seconds",
                    "nginx_ingress_controller_ingress_upstream_latency_seconds",
                ],
            ),
        ] {
            let metrics = counted(aliases);
            let families = collect(&metrics, &metrics.totals());
            assert_eq!(families.iter().map(|family| family.name).collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn queries_written_for_istio_find_what_belongs_to_the_rollout() {
        let metrics = counted(&[Alias::Istio]);
        following(&metrics, services());
        let families = collect(&metrics, &metrics.totals());
        let requests = |labels: &[(&str, &str)]| sum(&families, "istio_requests_total", labels);
        for (labels, count) in [
            (&[("reporter", "source")][..], 10.0),
            (&[("reporter", "destination")], 10.0),
            (&[("reporter", "source"), ("destination_service", "cart-canary.shop.svc.cluster.local")], 4.0),
            (&[("reporter", "source"), ("destination_service_name", "cart-stable")], 6.0),
            (
                &[
                    ("reporter", "destination"),
                    ("destination_workload_namespace", "shop"),
                    ("destination_workload", "cart"),
                ],
                4.0,
            ),
            (&[("reporter", "destination"), ("destination_workload", "cart-primary")], 6.0),
            (&[("reporter", "source"), ("destination_version", "bbb"), ("response_code", "503")], 1.0),
            (&[("reporter", "source"), ("destination_canonical_revision", "bbb"), ("response_code", "200")], 3.0),
            (&[("reporter", "source"), ("destination_app", "cart"), ("destination_service_namespace", "shop")], 10.0),
        ] {
            assert_eq!(requests(labels), count, "{labels:?}");
        }
        let milliseconds = sum(
            &families,
            "istio_request_duration_milliseconds",
            &[("reporter", "destination"), ("destination_workload", "cart")],
        );
        assert!((milliseconds - 80.0).abs() < 1e-9, "{milliseconds}");
    }

    #[test]
    fn queries_written_for_ingress_nginx_find_what_belongs_to_the_rollout() {
        let metrics = counted(&[Alias::Nginx]);
        following(&metrics, services());
        let families = collect(&metrics, &metrics.totals());
        let requests = |labels: &[(&str, &str)]| sum(&families, "nginx_ingress_controller_requests", labels);
        for (labels, count) in [
            (&[("namespace", "shop"), ("ingress", "cart-ingress")][..], 10.0),
            (&[("ingress", "cart-ingress"), ("canary", "shop-cart-canary")], 4.0),
            (&[("ingress", "cart-ingress"), ("canary", "shop-cart-canary"), ("status", "503")], 1.0),
            (&[("ingress", "cart-ingress"), ("canary", "")], 6.0),
            (&[("service", "cart-stable"), ("status", "404")], 1.0),
        ] {
            assert_eq!(requests(labels), count, "{labels:?}");
        }
        for name in [
            "nginx_ingress_controller_request_duration_seconds",
            "nginx_ingress_controller_ingress_upstream_latency_seconds",
        ] {
            let seconds = sum(&families, name, &[("canary", "shop-cart-canary")]);
            assert!((seconds - 0.08).abs() < 1e-12, "{seconds}");
        }
    }

    #[test]
    fn a_rollout_that_names_nothing_gives_its_own_name_and_without_one_versions_have_theirs() {
        let metrics = counted(&[Alias::Istio, Alias::Nginx]);
        let families = collect(&metrics, &metrics.totals());
        for (name, labels, count) in [
            ("istio_requests_total", [("reporter", "source"), ("destination_service", "bbb")], 4.0),
            ("istio_requests_total", [("reporter", "source"), ("destination_workload", "aaa")], 6.0),
            ("nginx_ingress_controller_requests", [("ingress", "splitway"), ("canary", "bbb")], 4.0),
        ] {
            assert_eq!(sum(&families, name, &labels), count, "{name} {labels:?}");
        }
        following(&metrics, Said::default());
        let families = collect(&metrics, &metrics.totals());
        for (name, labels, count) in [
            ("istio_requests_total", [("reporter", "source"), ("destination_service_name", "cart")], 10.0),
            ("istio_requests_total", [("reporter", "source"), ("destination_workload", "cart")], 4.0),
            ("nginx_ingress_controller_requests", [("ingress", "cart"), ("canary", "shop-cart")], 4.0),
        ] {
            assert_eq!(sum(&families, name, &labels), count, "{name} {labels:?}");
        }
    }

    #[test]
    fn every_series_is_there_once_and_from_the_start() {
        let (_publisher, live, ports) = made_up::two_ports([
            ("http", &[("aaa", Role::Stable, 6), ("bbb", Role::Canary, 4), ("ccc", Role::Experiment, 0)]),
            ("grpc", &[("aaa", Role::Stable, 6), ("bbb", Role::Canary, 4)]),
        ]);
        let mut metrics = Metrics::new(1, live, ports);
        metrics.aliases = vec![Alias::Istio, Alias::Nginx];
        following(&metrics, services());
        for family in collect(&metrics, &metrics.totals()) {
            let mut seen = std::collections::BTreeSet::new();
            for sample in &family.samples {
                assert_eq!(sample.labels.len(), family.labels.len(), "{}", family.name);
                assert!(seen.insert(&sample.labels), "{} has {:?} twice", family.name, sample.labels);
            }
            let of_codes = if family.kind == Kind::Histogram { 1 } else { CODES_FROM_THE_START.len() };
            let reporters = if family.name.starts_with("istio") { 2 } else { 1 };
            assert_eq!(seen.len(), 5 * of_codes * reporters, "{}", family.name);
        }
    }
}
