//! A real Prometheus that scrapes proxies, and what it answers.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::process::{Folder, Process};
use crate::support::{Client, eventually, soon};

/// How often it scrapes.
pub const EVERY: Duration = Duration::from_millis(250);

pub struct Prometheus {
    address: SocketAddr,
    process: Process,
    _folder: Folder,
}

impl Prometheus {
    /// It scrapes these proxies as one job, and evaluates the alerts that are shipped.
    pub async fn scraping(proxies: &[SocketAddr]) -> Self {
        // It does not say which port it has taken, so a free one is chosen for it. Somebody may be faster.
        for _ in 0..5 {
            let prometheus = Self::start(proxies);
            if soon("Prometheus", prometheus.listens()).await {
                let up = r#"count(up{job="splitway"} == 1)"#;
                let all = proxies.len() as f64;
                eventually("a scrape of every proxy", async || prometheus.one(up).await == Some(all)).await;
                return prometheus;
            }
        }
        panic!("no free port stays free")
    }

    fn start(proxies: &[SocketAddr]) -> Self {
        let folder = Folder::new();
        folder.write("rules.yml", &super::alerts().to_string());
        let every = format!("{}ms", EVERY.as_millis());
        let targets: Vec<_> = proxies.iter().map(SocketAddr::to_string).collect();
        // JSON is YAML, too. Labels are honoured as by the ServiceMonitor that is shipped.
        let config = json!({
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{
                "job_name": "splitway",
                "honor_labels": true,
                "static_configs": [{"targets": targets, "labels": {"namespace": "services"}}],
            }],
        });
        let config = folder.write("prometheus.yml", &config.to_string());
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn");
        Self { address, process: Process::spawn(&mut command), _folder: folder }
    }

    /// `false`: it cannot, because its port is in use.
    async fn listens(&self) -> bool {
        loop {
            if self.process.log().iter().any(|line| line.contains("address already in use")) {
                return false;
            }
            if TcpStream::connect(self.address).await.is_ok()
                && Client::connect(self.address).await.get("/-/ready").await.status == 200
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let target = format!("/api/v1/{path}?{}", parameters.join("&"));
        let answer = Client::connect(self.address).await.get(&target).await;
        let mut answer: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
        assert_eq!(answer["status"], "success", "{parameters:?}: {}", answer["error"]);
        answer["data"].take()
    }

    /// What a query gives now: the numbers of a vector, or a scalar as the only one.
    pub async fn all(&self, query: &str) -> Vec<f64> {
        let data = self.api("query", &[("query", query)]).await;
        match data["resultType"].as_str() {
            Some("scalar") => vec![number(&data["result"][1])],
            Some("vector") => array(&data["result"]).iter().map(|one| number(&one["value"][1])).collect(),
            other => panic!("{query}: expected a vector or a scalar, found {other:?}"),
        }
    }

    /// The one number that a query gives, if it gives any.
    pub async fn one(&self, query: &str) -> Option<f64> {
        let all = self.all(query).await;
        assert!(all.len() <= 1, "{query}: expected at most one number, found {all:?}");
        all.first().copied()
    }

    /// The number that a query gives; there must be one.
    pub async fn number(&self, query: &str) -> f64 {
        self.one(query).await.unwrap_or_else(|| panic!("{query}: expected a number, found nothing"))
    }

    /// What a query gave at every moment between two, in steps shorter than a scrape. `None`: nothing.
    pub async fn history(&self, query: &str, from: SystemTime, to: SystemTime) -> Vec<Option<f64>> {
        const STEP: f64 = 0.1;
        let unix = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let (from, to) = (unix(from), unix(to));
        let parameters =
            [("query", query), ("start", &from.to_string()), ("end", &to.to_string()), ("step", &STEP.to_string())];
        let data = self.api("query_range", &parameters).await;
        let series = array(&data["result"]);
        assert!(series.len() <= 1, "{query}: expected at most one series, found {}", series.len());
        let mut history = vec![None; ((to - from) / STEP) as usize + 1];
        for point in series.iter().flat_map(|series| array(&series["values"])) {
            let at = ((point[0].as_f64().expect("a time") - from) / STEP).round() as usize;
            history[at] = Some(number(&point[1]));
        }
        history
    }

    /// Each alert by its name: whether it could be evaluated, and its state.
    pub async fn alerts(&self) -> Vec<(String, String, String)> {
        let groups = self.api("rules", &[]).await;
        let rules = array(&groups["groups"]).iter().flat_map(|group| array(&group["rules"]));
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        rules.map(|rule| (text(&rule["name"]), text(&rule["health"]), text(&rule["state"]))).collect()
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("expected a list, found {value}"))
}

/// Numbers are texts there, because JSON has no NaN.
fn number(value: &Value) -> f64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("expected a number, found {value}"))
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
