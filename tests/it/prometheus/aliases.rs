//! Queries that were written for others, pasted.

use super::load::Load;
use super::*;
use crate::follow;

/// Two proxies that follow a Rollout whose API server is the test's, with both aliases.
pub struct Followed {
    pub world: follow::World,
    pub proxies: [Serving; 2],
}

impl Followed {
    pub async fn new() -> Self {
        let world = follow::World::new().await;
        let kubeconfig = world.folder.write("kubeconfig", &world.api.kubeconfig());
        // Testers choose, so that the test knows who gets what.
        let file = world.folder.write("splitway.yaml", "override: {}\n");
        let (kubeconfig, file) = (kubeconfig.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
        let args = [
            "--rollout",
            follow::ROLLOUT,
            "--kubeconfig",
            kubeconfig,
            "--config",
            file,
            "--metrics-alias",
            "istio,nginx",
        ];
        let start = async || Serving::spawn(&mut program(), &args).await;
        let proxies = [start().await, start().await];
        for proxy in &proxies {
            proxy.until("the first weight", follow::canary_is(20)).await;
        }
        Self { world, proxies }
    }

    pub async fn prometheus(&self) -> Prometheus {
        let prometheus = Prometheus::scraping(&[self.proxies[0].admin, self.proxies[1].admin]).await;
        let known = r#"count(splitway_responses_total{class="2xx",outcome="answered"} == 0) == 4"#;
        eventually("the series of both versions", async || prometheus.one(known).await.is_some()).await;
        prometheus
    }

    /// 300 requests to the stable version of which 6 fail, and 100 to the canary of which 10 do; half of them to each proxy.
    pub async fn load(&self, prometheus: &Prometheus) {
        let load = Load::default()
            .and(147, Method::GET, "never", "/after/8")
            .and(3, Method::PUT, "never", "/status/502")
            .and(45, Method::GET, "always", "/after/30")
            .and(5, Method::GET, "always", "/status/500")
            .mixed();
        let (one, other) = tokio::join!(load.clone().send(self.proxies[0].proxy), load.send(self.proxies[1].proxy));
        assert_eq!(one.len() + other.len(), 400);
        let seen = async || {
            prometheus.number("sum(splitway_request_duration_seconds_count)").await == 400.0
                && prometheus.number("sum(splitway_requests_total)").await == 400.0
        };
        eventually("all requests scraped", seen).await;
    }
}

/// As people paste them, with what their arguments stand for here, and the number that they have to give.
const PASTED: [(&str, f64); 12] = [
    // Argo Rollouts, Istio: the Service, as the Rollout names it.
    (
        r#"sum(rate(istio_requests_total{reporter="source",
            destination_service=~"shop-canary.services.svc.cluster.local",response_code!~"5.*"}[5m]))
        / sum(rate(istio_requests_total{reporter="source",
            destination_service=~"shop-canary.services.svc.cluster.local"}[5m]))"#,
        0.9,
    ),
    (
        r#"sum(rate(istio_requests_total{destination_service_name="shop-stable",response_code!~"5.*"}[2m]))
        / sum(rate(istio_requests_total{destination_service_name="shop-stable"}[2m]))"#,
        0.98,
    ),
    // The same by the hash of the version.
    (
        r#"sum(rate(istio_requests_total{reporter="destination",destination_version="v2",response_code=~"5.*"}[1m]))
        / sum(rate(istio_requests_total{reporter="destination",destination_version="v2"}[1m]))"#,
        0.1,
    ),
    (
        r#"sum(rate(istio_requests_total{reporter="source",destination_canonical_revision="v1",
            response_code!~"5.*"}[1m]))
        / sum(rate(istio_requests_total{reporter="source",destination_canonical_revision="v1"}[1m]))"#,
        0.98,
    ),
    // Flagger, Istio: the target is the canary, and what serves beside it is called primary.
    (
        r#"sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="services",
            destination_workload=~"shop",response_code!~"5.*"}[1m]))
        / sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="services",
            destination_workload=~"shop"}[1m])) * 100"#,
        90.0,
    ),
    (
        r#"100 - sum(rate(istio_requests_total{reporter="destination",
            destination_workload_namespace="services",destination_workload="shop-primary",
            response_code!="404"}[1m]))
        / sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="services",
            destination_workload="shop-primary"}[1m])) * 100"#,
        0.0,
    ),
    // ingress-nginx: all of the application behind its Ingress.
    (
        r#"sum(rate(nginx_ingress_controller_requests{ingress="shop",status!~"[4-5].*"}[60s]))
        / sum(rate(nginx_ingress_controller_requests{ingress="shop"}[60s]))"#,
        0.96,
    ),
    (
        r#"sum(rate(nginx_ingress_controller_requests{namespace="services",ingress="shop",status!~"5.*"}[1m]))
        / sum(rate(nginx_ingress_controller_requests{namespace="services",ingress="shop"}[1m])) * 100"#,
        96.0,
    ),
    // Of it, the canary.
    (
        r#"sum(rate(nginx_ingress_controller_requests{namespace="services",ingress="shop",canary!="",
            status!~"5.*"}[1m]))
        / sum(rate(nginx_ingress_controller_requests{namespace="services",ingress="shop",canary!=""}[1m])) * 100"#,
        90.0,
    ),
    (
        r#"sum(rate(nginx_ingress_controller_requests{service="shop-canary",status=~"5.."}[1m]))
        / sum(rate(nginx_ingress_controller_requests{service="shop-canary"}[1m]))"#,
        0.1,
    ),
    // How many: each request once, for one reporter.
    (r#"sum(istio_requests_total{reporter="source",destination_service_namespace="services"})"#, 400.0),
    (r#"sum(nginx_ingress_controller_requests{namespace="services"})"#, 400.0),
];

/// Times in milliseconds, how they are asked for under our own name, and at least: 90 of the canary's 100 requests took 30 ms
/// or more.
const PASTED_TIMES: [(&str, &str, f64); 4] = [
    (
        r#"histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{reporter="destination",
            destination_workload_namespace="services",destination_workload=~"shop"}[1m])) by (le))"#,
        r#"1000 * histogram_quantile(0.99, sum by (le) (
            rate(splitway_request_duration_seconds_bucket{version="v2"}[1m])))"#,
        25.0,
    ),
    (
        r#"sum(rate(nginx_ingress_controller_ingress_upstream_latency_seconds_sum{namespace="services",
            ingress="shop",canary!=""}[1m]))
        / sum(rate(nginx_ingress_controller_ingress_upstream_latency_seconds_count{namespace="services",
            ingress="shop",canary!=""}[1m])) * 1000"#,
        r#"1000 * sum(rate(splitway_request_duration_seconds_sum{version="v2"}[1m]))
        / sum(rate(splitway_request_duration_seconds_count{version="v2"}[1m]))"#,
        27.0,
    ),
    (
        r#"1000 * histogram_quantile(0.95, sum by (le) (
            rate(nginx_ingress_controller_request_duration_seconds_bucket{ingress="shop",canary!=""}[2m])))"#,
        r#"1000 * histogram_quantile(0.95, sum by (le) (
            rate(splitway_request_duration_seconds_bucket{version="v2"}[2m])))"#,
        25.0,
    ),
    (
        r#"sum(rate(istio_request_duration_milliseconds_sum{reporter="source",
            destination_service_name="shop-canary"}[1m]))
        / sum(rate(istio_request_duration_milliseconds_count{reporter="source",
            destination_service_name="shop-canary"}[1m]))"#,
        r#"1000 * sum(rate(splitway_request_duration_seconds_sum{version="v2"}[1m]))
        / sum(rate(splitway_request_duration_seconds_count{version="v2"}[1m]))"#,
        27.0,
    ),
];

#[tokio::test]
#[ignore = "tests/prometheus/run has the programs for it"]
async fn queries_pasted_from_others_give_the_true_numbers_of_the_rollout() {
    let followed = Followed::new().await;
    let prometheus = followed.prometheus().await;
    followed.load(&prometheus).await;
    for (query, number) in PASTED {
        assert_near(prometheus.number(query).await, number, query);
    }
    for (query, ours, at_least) in PASTED_TIMES {
        let milliseconds = prometheus.number(query).await;
        assert!(milliseconds >= at_least, "{query}: expected at least {at_least}, found {milliseconds}");
        // The same times as under our own name, asked for in one breath: what is guessed differs from moment to moment.
        let ratio = format!("({query}) / ({ours})");
        assert_near(prometheus.number(&ratio).await, 1.0, &ratio);
    }
}
