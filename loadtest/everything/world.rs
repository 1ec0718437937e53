//! What changes under the load: weights, endpoints, certificates and faults, all in files as an operator changes them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use crate::apps::{App, Protocol};
use crate::faulty::{Faults, Link};
use crate::load::World;
use crate::process::Proxy;
use crate::random::Random;

/// How long an endpoint lives on after it has left the file: the longest request is shorter.
const FAREWELL: Duration = Duration::from_secs(25);

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// A new certificate in place of the old one, each file by a rename.
    pub fn renew(&self, folder: &Path) -> Result<(), String> {
        let signed = || {
            let mut params = CertificateParams::new(vec!["app.test".to_owned()])?;
            params.distinguished_name.push(DnType::CommonName, "app.test");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            let key = KeyPair::generate()?;
            Ok::<_, rcgen::Error>((params.signed_by(&key, &self.0)?.pem(), key.serialize_pem()))
        };
        let (certificate, key) = signed().map_err(|error| format!("cannot sign a certificate: {error}"))?;
        replace(&folder.join("app.pem"), &certificate)?;
        replace(&folder.join("app.key"), &key)
    }

    pub fn client(&self, protocol: &[u8]) -> Result<TlsConnector, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn replace(path: &Path, text: &str) -> Result<(), String> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[derive(Default)]
pub struct Counts {
    pub weights: u64,
    pub endpoints: u64,
    pub certificates: u64,
    pub faults: u64,
}

pub struct Versions {
    stable: Vec<App>,
    canary: Vec<App>,
    /// The faulty ones: two of each protocol, each behind its link.
    faulty: Vec<(Link, App)>,
    /// Those that have left the file, and when.
    leaving: Vec<(Instant, App)>,
    weight: u32,
    folder: PathBuf,
    authority: Authority,
    pub counts: Counts,
}

impl Versions {
    pub async fn start(folder: &Path, authority: Authority, seed: u64) -> io::Result<Self> {
        let mut faulty = Vec::new();
        for at in 0..4 {
            let app = App::start("faulty", if at < 2 { Protocol::Http1 } else { Protocol::H2c }).await?;
            faulty.push((Link::to(app.address, seed + at).await, app));
        }
        let mut versions = Self {
            stable: Vec::new(),
            canary: Vec::new(),
            faulty,
            leaving: Vec::new(),
            weight: 20,
            folder: folder.to_owned(),
            authority,
            counts: Counts::default(),
        };
        for _ in 0..3 {
            versions.stable.push(App::start("stable", Protocol::Http1).await?);
            versions.canary.push(App::start("canary", Protocol::H2c).await?);
        }
        Ok(versions)
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("splitway.yaml")
    }

    pub fn write(&self) -> Result<(), String> {
        let list = |apps: &[App]| apps.iter().map(|app| format!("\"{}\"", app.address)).collect::<Vec<_>>().join(", ");
        let links = |two: &[(Link, App)]| {
            two.iter().map(|(link, _)| format!("\"{}\"", link.address)).collect::<Vec<_>>().join(", ")
        };
        let (stable, canary) = (list(&self.stable), list(&self.canary));
        let (faulty1, faulty2) = (links(&self.faulty[..2]), links(&self.faulty[2..]));
        let (weight, rest) = (self.weight, 100 - self.weight);
        replace(
            &self.file(),
            &format!(
                r#"listeners:
  - address: 127.0.0.1:0
  - address: 127.0.0.1:0
    tls: {{ certificates: [{{ cert: app.pem, key: app.key }}] }}
backends:
  stable: {{ endpoints: [{stable}] }}
  canary: {{ protocol: h2c, endpoints: [{canary}] }}
  faulty-http1: {{ role: experiment, endpoints: [{faulty1}] }}
  faulty-h2c: {{ role: experiment, protocol: h2c, endpoints: [{faulty2}] }}
split: {{ stable: {rest}, canary: {weight}, faulty-http1: 0, faulty-h2c: 0 }}
routes:
  - {{ name: faulty over HTTP/1, backend: faulty-http1, match: [{{ headers: {{ x-endpoints: faulty-http1 }} }}] }}
  - {{ name: faulty over HTTP/2, backend: faulty-h2c, match: [{{ headers: {{ x-endpoints: faulty-h2c }} }}] }}
  - {{ name: testers, backend: canary, match: [{{ headers: {{ x-team: qa }} }}] }}
  - {{ name: streams, backend: canary, match: [{{ path: {{ prefix: /soak.Echo }} }}] }}
  - {{ name: tunnels, backend: stable, match: [{{ path: {{ exact: /ws }} }}] }}
sticky: {{ key: [{{ header: x-user }}] }}
timeouts: {{ connect: 1s, first-byte: 5s, between-bytes: 5s, request: 20s, idle: 5s, upstream-idle: 3s }}
outliers: {{ base-time: 1s, max-time: 4s }}
log: {{ level: error }}
"#
            ),
        )
    }

    /// Changes until it is told to stop. An error: a change did not become live.
    pub async fn change(
        &mut self,
        world: &World,
        proxy: &Proxy,
        random: &mut Random,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), String> {
        for round in 1u64.. {
            // Ends the round early, too.
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(500 + random.below(1000) as u64)) => {}
                _ = stop.changed() => {}
            }
            if *stop.borrow() {
                break;
            }
            self.misbehave(random);
            self.leaving.retain(|(since, _)| since.elapsed() < FAREWELL);
            if round.is_multiple_of(10) {
                self.authority.renew(&self.folder)?;
                self.counts.certificates += 1;
            }
            if !round.is_multiple_of(4) {
                continue;
            }
            // At most a handful on their way out at any time, so memory and descriptors have a bound.
            if round.is_multiple_of(8) {
                let (apps, name, protocol) = match round.is_multiple_of(16) {
                    true => (&mut self.stable, "stable", Protocol::Http1),
                    false => (&mut self.canary, "canary", Protocol::H2c),
                };
                let new = App::start(name, protocol).await.map_err(|error| format!("no new endpoint: {error}"))?;
                apps.push(new);
                let gone = apps.remove(0);
                self.leaving.push((Instant::now(), gone));
                self.counts.endpoints += 1;
            }
            let others: Vec<u32> = [1, 10, 25, 50, 75, 90].into_iter().filter(|other| *other != self.weight).collect();
            self.weight = random.pick(&others);
            self.counts.weights += 1;
            *world.weight.lock().expect("nobody panics") = None;
            self.write()?;
            self.live(proxy).await?;
            *world.weight.lock().expect("nobody panics") = Some((round, self.weight));
        }
        for (link, _) in &self.faulty {
            link.heal();
        }
        Ok(())
    }

    /// Waits until the proxy has the weight of the file.
    pub async fn live(&self, proxy: &Proxy) -> Result<(), String> {
        for _ in 0..200 {
            let metrics = proxy.metrics().await.map_err(|error| format!("cannot read the proxy's metrics: {error}"))?;
            if metrics.sum("splitway_split_weight", "version=\"canary\"") == f64::from(self.weight) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("a canary's weight of {} was not live within 10 s", self.weight))
    }

    /// Another fault on one of the links, or none.
    fn misbehave(&mut self, random: &mut Random) {
        let link = &self.faulty[random.below(self.faulty.len())].0;
        link.heal();
        let after = Some(random.below(60_000) as u64);
        let back = match random.below(8) {
            0 => return link.down(),
            1 => Faults { latency: Duration::from_millis(30), jitter: Duration::from_millis(30), ..Faults::default() },
            2 => Faults { bandwidth: Some(500_000), slice: Some(500), ..Faults::default() },
            3 => Faults { cut_after: after, ..Faults::default() },
            4 => Faults { reset_after: after, ..Faults::default() },
            5 => Faults { swallow: true, ..Faults::default() },
            _ => return,
        };
        self.counts.faults += u64::from(!back.is_harmless());
        match random.once_in(2) {
            true => link.set(back, Faults::default()),
            false => link.set(Faults::default(), back),
        }
    }

    pub fn broken(&self) -> (u64, u64) {
        self.faulty.iter().fold((0, 0), |(all, broken), (link, _)| (all + link.accepted(), broken + link.broken()))
    }

    /// Nobody is on the way out any more.
    pub fn settle(&mut self) {
        self.leaving.clear();
    }
}
