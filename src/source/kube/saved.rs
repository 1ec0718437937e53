//! The last picture in a file: so that a proxy which starts while the API server is away serves what was true last.
//!
//! One file, replaced whole: what is read is never half written. Writing happens aside; a disk that hangs or is full is
//! told about and delays nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::control::cluster::{AppProtocol, Cluster};
use crate::control::plan::{Endpoint, Service};
use crate::route::VersionHash;

/// The form of the file. One of another form is not read.
const FORM: u32 = 1;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    form: u32,
    /// Seconds since 1970.
    saved_at: u64,
    /// As the API server sent it.
    rollout: Option<Value>,
    ports: Vec<BTreeMap<String, Vec<SavedEndpoint>>>,
    #[serde(default)]
    spoken: Vec<AppProtocol>,
    services: Option<Vec<SavedService>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedEndpoint {
    address: SocketAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedService {
    name: String,
    selector: Option<BTreeMap<String, String>>,
}

pub struct Store {
    path: PathBuf,
    newest: watch::Sender<Option<String>>,
}

impl Store {
    /// Must be called on a tokio runtime. `name` tells several proxies with one folder apart.
    pub fn open(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("{name}.json"));
        let (newest, written) = watch::channel(None);
        tokio::spawn(write(path.clone(), written));
        Self { path, newest }
    }

    /// Keeps what is true now. `rollout`: the object as the API server sent it.
    pub fn keep(&self, rollout: Option<&Value>, cluster: &Cluster) {
        let endpoints = |endpoints: &Vec<Endpoint>| {
            let save = |one: &Endpoint| SavedEndpoint {
                address: one.address,
                ready: one.ready,
                serving: one.serving,
                terminating: one.terminating,
            };
            endpoints.iter().map(save).collect()
        };
        let saved = Saved {
            form: FORM,
            saved_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            rollout: rollout.cloned(),
            ports: cluster
                .ports
                .iter()
                .map(|port| port.iter().map(|(version, one)| (version.to_string(), endpoints(one))).collect())
                .collect(),
            spoken: cluster.spoken.clone(),
            services: cluster.services.as_ref().map(|services| {
                let save = |one: &Service| SavedService { name: one.name.clone(), selector: one.selector.clone() };
                services.iter().map(save).collect()
            }),
        };
        self.newest.send_replace(serde_json::to_string(&saved).ok());
    }

    /// What was kept by an earlier process. `ports`: how many the proxy has now.
    pub fn load(&self, ports: usize) -> Option<Cluster> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("the saved state {} cannot be read: {error}", self.path.display());
                return None;
            }
        };
        match understand(&text, ports) {
            Ok(cluster) => Some(cluster),
            Err(why) => {
                tracing::warn!("the saved state {} cannot be used: {why}", self.path.display());
                None
            }
        }
    }
}

fn understand(text: &str, ports: usize) -> Result<Cluster, String> {
    let saved: Saved = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if saved.form != FORM {
        return Err(format!("expected form {FORM}, found {}", saved.form));
    }
    if saved.ports.len() != ports {
        return Err(format!("it is about {} ports, and the proxy has {ports} now", saved.ports.len()));
    }
    let endpoint = |one: SavedEndpoint| Endpoint {
        address: one.address,
        ready: one.ready,
        serving: one.serving,
        terminating: one.terminating,
    };
    Ok(Cluster {
        rollout: saved.rollout.map(serde_json::from_value).transpose().map_err(|error| error.to_string())?,
        ports: saved
            .ports
            .into_iter()
            .map(|port| {
                let one = |(version, endpoints): (String, Vec<SavedEndpoint>)| {
                    (VersionHash::new(&version), endpoints.into_iter().map(endpoint).collect())
                };
                port.into_iter().map(one).collect()
            })
            .collect(),
        spoken: saved.spoken,
        services: saved.services.map(|services| {
            services.into_iter().map(|one| Service { name: one.name, selector: one.selector }).collect()
        }),
        saved_at: Some(UNIX_EPOCH + Duration::from_secs(saved.saved_at)),
        ..Cluster::default()
    })
}

/// Writes whatever is newest, one at a time.
async fn write(path: PathBuf, mut newest: watch::Receiver<Option<String>>) {
    let mut failed = false;
    while newest.changed().await.is_ok() {
        let Some(text) = newest.borrow_and_update().clone() else { continue };
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || replace(&to, &text)).await;
        match written {
            Ok(Ok(())) => failed = false,
            Ok(Err(error)) if !failed => {
                failed = true;
                tracing::warn!("the state cannot be saved to {}: {error}", path.display());
            }
            _ => {}
        }
        // Weights and pods change in bursts; what a crash may lose is half a second.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let aside = path.with_extension("json.new");
    let mut file = fs::File::create(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cluster() -> Cluster {
        let endpoint =
            Endpoint { address: ([10, 0, 0, 1], 5000).into(), ready: true, serving: true, terminating: false };
        let rollout = json!({"metadata": {"name": "shop"}, "spec": {}, "status": {"stableRS": "v1"}});
        Cluster {
            rollout: Some(serde_json::from_value(rollout).unwrap()),
            ports: vec![BTreeMap::from([(VersionHash::new("v1"), vec![endpoint])])],
            spoken: vec![AppProtocol::H2c],
            services: Some(vec![Service { name: "shop-stable".to_owned(), selector: Some(BTreeMap::new()) }]),
            ..Cluster::default()
        }
    }

    #[tokio::test]
    async fn what_was_kept_is_found_again_and_says_when_it_was_true() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("not/there/yet");
        let store = Store::open(&below, "services.shop");
        assert_eq!(store.load(1), None);
        let rollout = json!({"metadata": {"name": "shop"}, "spec": {}, "status": {"stableRS": "v1"}});
        store.keep(Some(&rollout), &cluster());
        let begun = std::time::Instant::now();
        let found = loop {
            if let Some(found) = store.load(1) {
                break found;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing is written");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(found.saved_at.is_some());
        assert_eq!(Cluster { saved_at: None, ..found }, cluster());
        assert_eq!(store.load(2), None, "another number of ports");
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_with_a_reason() {
        for (text, part) in [
            ("", "EOF"),
            ("[]", "invalid length"),
            (r#"{"form":9,"saved_at":1,"rollout":null,"ports":[],"services":null}"#, "expected form 1, found 9"),
            (r#"{"form":1,"saved_at":1,"rollout":7,"ports":[{}],"services":null}"#, "invalid type"),
        ] {
            let why = understand(text, 1).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
