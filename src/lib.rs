//! Splitway: an exact HTTP traffic split in front of the versions of one application.
//!
//! Two paths, and four wires between them.
//!
//! **One request** (hot): [`proxy`] accepts it on one worker's thread, asks the live [`route::Snapshot`] for a decision,
//! sends it to an endpoint of that version and streams both bodies. Begin with `proxy/request.rs`.
//!
//! **One change** (cold): a [`source`] sends what it saw to [`control`], which compiles it into a snapshot and publishes
//! that with one pointer. Begin with `control/mod.rs`.
//!
//! The wires: the snapshot (cold to hot), the counters ([`metrics`], hot to cold), what is told of single requests
//! ([`record`], hot to cold), and the stage of the drain. [`history`] remembers what has been, [`admin`] shows all of it and
//! steers nothing. [`config`] turns what people write into settings; [`lint`] tells what would go wrong with a Rollout, and
//! [`check`] why one cannot be followed; [`demo`] uses the crate as a stranger would.
//!
//! This file is the only place that knows every room.

#![forbid(unsafe_code)]

pub mod admin;
pub mod check;
pub mod config;
pub mod control;
pub mod demo;
pub mod history;
pub mod lint;
pub mod metrics;
pub mod proxy;
pub mod record;
pub mod route;
pub mod source;
pub mod text;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use control::StatusView;
use control::cluster::FollowingView;
use history::History;
use metrics::Metrics;
use route::live::{Live, Publisher};
use route::{Generation, Identity, PortName};

/// What a proxy needs before it can start; none of it changes while it runs. Everything else is observed.
#[derive(Clone)]
pub struct Settings {
    pub proxy: proxy::Settings,
    /// `None`: no admin listener.
    pub admin: Option<admin::Settings>,
    pub identity: Identity,
    /// The application's ports that listeners stand before: at least one, none twice. One by itself needs no name.
    pub ports: Vec<PortName>,
    /// How following a Rollout goes, if one is followed.
    pub following: Option<FollowingView>,
    /// Under which other names requests are told, too.
    pub aliases: Vec<metrics::Alias>,
    /// Who wants to hear of single requests.
    pub record: record::Settings,
}

/// Every socket is open, nothing runs.
pub struct Bound {
    proxy: proxy::Bound,
    admin: Option<admin::Bound>,
    identity: Identity,
    ports: Vec<PortName>,
    workers: usize,
    reuse_port: bool,
    following: Option<FollowingView>,
    aliases: Vec<metrics::Alias>,
    record: record::Settings,
    /// What each listener shows its clients.
    fronts: Vec<Option<tls::Front>>,
}

/// Opens every socket, so that a port in use is an error before anything has started.
pub fn bind(settings: Settings) -> io::Result<Bound> {
    let ports = settings.ports;
    check_ports(&ports, &settings.proxy.listeners)
        .map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))?;
    let admin = settings.admin.map(|admin| admin::bind(admin, settings.proxy.reuse_port)).transpose()?;
    let (workers, reuse_port, following) = (settings.proxy.workers, settings.proxy.reuse_port, settings.following);
    let fronts = settings.proxy.listeners.iter().map(|listener| listener.tls.clone()).collect();
    let proxy = proxy::bind(settings.proxy)?;
    let (identity, aliases, record) = (settings.identity, settings.aliases, settings.record);
    Ok(Bound { proxy, admin, identity, ports, workers, reuse_port, following, aliases, record, fronts })
}

/// Whether the ports are told apart by their names, and every listener stands before one of them.
fn check_ports(ports: &[PortName], listeners: &[proxy::Listener]) -> Result<(), String> {
    if ports.is_empty() {
        return Err("expected at least one port, found none".to_owned());
    }
    if let Some((_, twice)) = ports.iter().enumerate().find(|(i, port)| ports[..*i].contains(port)) {
        return Err(format!("the port {:?} is there twice", twice.as_str()));
    }
    match listeners.iter().find(|listener| listener.port >= ports.len()) {
        Some(proxy::Listener { address, port, .. }) => {
            Err(format!("listener {address}: its port is number {port}, counted from 0, and there are {}", ports.len()))
        }
        None => Ok(()),
    }
}

impl Bound {
    /// The traffic listeners' addresses, in the order of the settings; port 0 has become a real one.
    pub fn listeners(&self) -> &[SocketAddr] {
        self.proxy.addresses()
    }

    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(admin::Bound::address)
    }

    /// Starts the workers, the loop that follows `observations`, and the admin listener. Must be called inside a tokio
    /// runtime, which carries the cold parts.
    pub fn start(self, observations: control::Receiver) -> io::Result<Running> {
        let listeners = self.proxy.addresses().to_vec();
        let admin_address = self.admin();
        let (publisher, live): (Publisher, Live) = route::live::channel(self.ports.len());
        let mut metrics = Metrics::new(self.workers, live.clone(), self.ports);
        metrics.aliases = self.aliases;
        let metrics = Arc::new(metrics);
        let (status, status_view) = tokio::sync::watch::channel(control::Status::default());
        let (records, received) = record::channel(self.record);
        let recent = record::Recent::default();
        let last_words = received.run(recent.clone(), metrics.clone())?;
        let proxy = self.proxy.run(&live, &metrics, &records)?;
        let last_words = tokio::spawn(last_words);
        let readiness = admin::Readiness::new(live.clone());
        tokio::spawn(metrics::notice::run(Arc::downgrade(&metrics)));
        let history = Arc::new(History::new(metrics.clone(), live.clone(), self.following.clone()));
        let told = history.clone();
        let tell = move |news: control::News<'_>| told.tell(news);
        tokio::spawn(control::run(observations, publisher, self.identity, metrics.clone(), status, tell));
        let remembers = tokio::spawn(history.clone().run());
        let shown = listeners.iter().zip(self.fronts).filter_map(|(address, front)| Some((*address, front?)));
        let shown: Vec<_> = shown.collect();
        let certificates =
            (!shown.is_empty()).then(|| tokio::spawn(source::certificates::follow(shown, metrics.clone())));
        let (admin_leaves, told) = tokio::sync::oneshot::channel();
        let admin = self.admin.map(|admin| {
            let context = admin::Context {
                live: live.clone(),
                metrics: metrics.clone(),
                status: status_view.clone(),
                readiness: readiness.clone(),
                following: self.following,
                history: history.clone(),
                recent,
            };
            tokio::spawn(admin.serve_until_succeeded(context, async {
                if told.await.is_err() {
                    // Nobody can tell any more. The task ends with the process.
                    std::future::pending().await
                }
            }))
        });
        let beside = [admin, certificates, Some(remembers)].into_iter().flatten().collect();
        let admin_leaves = self.reuse_port.then_some(admin_leaves);
        Ok(Running {
            proxy,
            last_words,
            beside,
            admin_leaves,
            readiness,
            live,
            metrics,
            history,
            status: status_view,
            listeners,
            admin_address,
        })
    }
}

/// A proxy at work. Dropping it does not stop it; [`Running::drain`] and [`Running::stop`] do.
pub struct Running {
    proxy: proxy::Running,
    /// Ends when everything about the last request has been told.
    last_words: tokio::task::JoinHandle<()>,
    /// The tasks that end with it: the admin listener, the history, and what follows certificates.
    beside: Vec<tokio::task::JoinHandle<()>>,
    /// Tells the admin listener to leave its address to a successor, where ports are shared.
    admin_leaves: Option<tokio::sync::oneshot::Sender<()>>,
    readiness: admin::Readiness,
    live: Live,
    metrics: Arc<Metrics>,
    history: Arc<History>,
    status: StatusView,
    listeners: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
}

impl Running {
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin_address
    }
    pub fn live(&self) -> &Live {
        &self.live
    }
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }
    pub fn status(&self) -> StatusView {
        self.status.clone()
    }

    /// Waits until a snapshot of at least this generation is live; 1 is the first.
    pub async fn reached(&self, generation: Generation) {
        let mut status = self.status.clone();
        // An error means that the loop has ended: nothing newer will come.
        let _ = status.wait_for(|status| status.generation >= generation).await;
    }

    /// Where ports are shared: waits for the first snapshot, then lets connections come. Until then they go to others that
    /// listen on the same ports. Elsewhere they come from the start, and this returns at once.
    pub async fn open(&mut self) -> io::Result<()> {
        if self.admin_leaves.is_some() {
            self.reached(Generation(1)).await;
        }
        self.proxy.open()
    }

    /// Ends politely: readiness goes false (where ports are shared, the admin address is
    /// left to a successor, if there is one), then see [`proxy::Running::drain`]. Returns how many connections were cut.
    pub async fn drain(self) -> usize {
        self.readiness.drain();
        if let Some(leaves) = self.admin_leaves {
            let _ = leaves.send(());
        }
        let cut = self.proxy.drain().await;
        let _ = tokio::time::timeout(record::LAST_WORDS, self.last_words).await;
        self.beside.iter().for_each(tokio::task::JoinHandle::abort);
        cut
    }

    /// Ends at once.
    pub fn stop(self) {
        self.readiness.drain();
        self.proxy.stop();
        self.beside.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
