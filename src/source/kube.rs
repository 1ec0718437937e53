//! Watches one Rollout, its pods and its Services, and tells `control::cluster` what it saw. Reads only: list and watch.
//!
//! * this file: the settings and the task;
//! * `picture`: everything that is known, and the watches that keep it known;
//! * `client`: how the API server is reached, and what its refusals mean;
//! * `watched`: one list-then-watch that begins again after every failure;
//! * `objects`: what is kept of each object;
//! * `endpoints`: from pods, or from EndpointSlices where pods may not be read, to endpoints by pod-template hash;
//! * `proxies`: those who follow it, found and asked through the API server;
//! * `look`: one look at all of it, permission by permission, for `check`;
//! * `saved`: the picture in a file, for a start while the API server is away.
//!
//! **Where endpoints come from.** Pods are asked first: they tell the hash, and readiness and termination a moment before
//! EndpointSlices do. Without the permission to read pods, the slices of the Services that the Rollout names are read.
//!
//! **After a failure** a watch lists again, always: so a gap, an expired resource version (410) and an etcd that was
//! restored from an older copy all end the same way, in the truth. What was known stays in force until the new list is
//! complete.

mod client;
mod endpoints;
mod look;
mod objects;
mod picture;
pub mod proxies;
mod saved;
mod watched;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::file::{Loaded, Watch};
use crate::control::cluster::{Contact, Overlay, Seen};
use crate::control::{Rejected, Sender};
use crate::metrics::Metrics;

pub use ::kube::Client;
pub use client::{Access, Trouble, TroubleKind};
pub use endpoints::{PortNote, PortRef};
pub use look::{AtPort, Found, Look, Pods, Tried};
use picture::Picture;
use saved::Store;

/// Which Rollout is followed, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    pub namespace: String,
    pub name: String,
    /// One per port of the proxy.
    pub ports: Vec<PortRef>,
    /// The proxy's own Service, in whose ready addresses it finds its place among its replicas.
    pub service: Option<OwnService>,
    /// Where the last picture is kept, for a start without the API server.
    pub state_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnService {
    pub namespace: String,
    pub name: String,
    /// This process's address, as the Service knows it.
    pub address: IpAddr,
}

/// How long a start waits for an API server that does not answer before it serves what was saved. One that refuses is not
/// waited for.
const SAVED_AFTER: Duration = Duration::from_secs(2);

/// Follows what a file says beside the Rollout, until nobody listens any more. `again` (SIGHUP) asks for a fresh look.
pub async fn follow_file(
    mut watch: Watch<Overlay>,
    mut again: mpsc::Receiver<()>,
    origin: String,
    overlay: watch::Sender<Arc<Overlay>>,
    observations: Sender,
) {
    loop {
        let changed = tokio::select! {
            changed = watch.changed() => changed,
            Some(()) = again.recv() => {
                watch.look_again();
                continue;
            }
            () = overlay.closed() => return,
        };
        match changed {
            Ok(Loaded { declared, notes }) => overlay.send_replace(Arc::new(Overlay { notes, ..declared })),
            Err(message) => {
                let refused = Overlay { refusal_stands: true, ..Overlay::clone(&overlay.borrow()) };
                let before = overlay.send_replace(Arc::new(refused));
                if observations.send(Err(Rejected { origin: origin.clone(), message })).await.is_err() {
                    return;
                }
                before
            }
        };
    }
}

/// Keeps the picture until nobody looks at it any more.
pub async fn follow(
    client: Client,
    settings: Settings,
    mut overlay: watch::Receiver<Arc<Overlay>>,
    seen: watch::Sender<Seen>,
    metrics: Arc<Metrics>,
) {
    let _ = metrics.api.rollout.set((settings.namespace.clone(), settings.name.clone()));
    let ports = settings.ports.len();
    let store = settings
        .state_dir
        .as_deref()
        .map(|folder| Store::open(folder, &format!("{}.{}", settings.namespace, settings.name)));
    let patience = tokio::time::sleep(SAVED_AFTER);
    tokio::pin!(patience);
    let (tell, mut told) = mpsc::channel(1024);
    let mut picture = Picture::start(client, settings, tell, metrics);
    let mut saved = None;
    // Whether what was saved may still be needed.
    let mut at_start = true;
    loop {
        let mut since = None;
        tokio::select! {
            news = told.recv() => {
                let Some((at, news)) = news else { return };
                since = Some(at);
                picture.take(news);
                // Whatever else has come already belongs to the same moment: one picture for all of it.
                while let Ok((_, news)) = told.try_recv() {
                    picture.take(news);
                }
            }
            Ok(()) = overlay.changed() => {}
            () = &mut patience, if at_start && saved.is_none() => {
                saved = store.as_ref().and_then(|store| store.load(ports)).map(Arc::new);
                at_start = saved.is_some();
            }
            () = seen.closed() => return,
        }
        let contact = picture.contact();
        let overlay = overlay.borrow_and_update().clone();
        let cluster = match picture.cluster() {
            Some(cluster) => {
                at_start = false;
                saved = None;
                Some(Arc::new(cluster))
            }
            None => {
                if at_start && saved.is_none() && matches!(contact, Contact::Lost { .. }) {
                    saved = store.as_ref().and_then(|store| store.load(ports)).map(Arc::new);
                    at_start = saved.is_some();
                }
                saved.clone()
            }
        };
        seen.send_if_modified(|before| {
            let news = before.cluster != cluster;
            if news
                && let (Some(store), Some(cluster)) = (&store, &cluster)
                && cluster.saved_at.is_none()
            {
                store.keep(picture.rollout_as_sent(), cluster);
            }
            let changed = news || before.contact != contact || before.overlay != overlay;
            if changed {
                *before = Seen { cluster, overlay, contact, since: since.filter(|_| news) };
            }
            changed
        });
    }
}
