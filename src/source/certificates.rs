//! Follows the files of listeners' certificates, keys and client authorities: what is new and good is shown from the next
//! handshake on, what is not is refused and told, and nothing that is open notices.
//!
//! Apart from the settings' own file: a certificate that is renewed does not wait until somebody mends a typing error there,
//! and a broken one keeps nobody from changing weights.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use super::file::{Loaded, Outcome, PAIRS, Reader, Watch};
use crate::metrics::{Certificate, Metrics, Refusal};
use crate::tls::{Contents, Front, Wrong};

/// A listener's real address, and what it shows.
pub type Shown = (SocketAddr, Front);

type Files = BTreeMap<PathBuf, Contents>;

/// Follows until it is aborted. Fronts that were not read from files are left alone.
pub async fn follow(fronts: Vec<Shown>, metrics: Arc<Metrics>) {
    tell(&fronts, &metrics);
    warn(&fronts, |_| true);
    let Some(mut watch) = watch(fronts.clone(), metrics.clone()) else { return };
    let Watching { watch, wrong } = &mut watch;
    let mut known: Vec<Wrong> = Vec::new();
    loop {
        let outcome = watch.changed().await;
        let wrong = match outcome {
            Ok(_) => Vec::new(),
            Err(_) => wrong.lock().expect("no holder of this lock panics").clone(),
        };
        // What was refused before and is as it was is no news.
        for new in wrong.iter().filter(|wrong| !known.contains(wrong)) {
            metrics.certificates.reloads.bad.add(1);
            tracing::error!(file = %new.file.display(), "refused, the last good certificate serves on: {new}");
        }
        let before = metrics.certificates.refused();
        let refused = wrong.iter().map(|wrong| {
            let (file, message) = (wrong.file.display().to_string(), wrong.to_string());
            let same = before.iter().find(|before| before.file == file && before.message == message);
            same.cloned().unwrap_or_else(|| Refusal { at: SystemTime::now(), file, message })
        });
        metrics.certificates.refuse(refused.collect());
        known = wrong;
    }
}

struct Watching {
    watch: Watch<()>,
    /// What the last look came to.
    wrong: Arc<Mutex<Vec<Wrong>>>,
}

/// Everything that is good is live when the watch has understood it, also beside something that is not.
fn watch(fronts: Vec<Shown>, metrics: Arc<Metrics>) -> Option<Watching> {
    let mut paths: Vec<PathBuf> = fronts.iter().flat_map(|(_, front)| front.files()).collect();
    paths.sort();
    paths.dedup();
    if paths.is_empty() {
        return None;
    }
    let wrong = Arc::<Mutex<Vec<Wrong>>>::default();
    let (found, read) = (wrong.clone(), paths.clone());
    let reader = Reader {
        read: Box::new(move || Ok(read.iter().map(|path| (path.clone(), Contents::read(path))).collect())),
        parse: Box::new(move |files: &mut Files| {
            let wrong = take(&fronts, files, &metrics);
            let outcome: Outcome<_> = match wrong.is_empty() {
                true => Ok(Loaded { declared: (), notes: Vec::new() }),
                false => Err(wrong.iter().map(Wrong::to_string).collect::<Vec<_>>().join("; ")),
            };
            *found.lock().expect("no holder of this lock panics") = wrong;
            outcome
        }),
        patience: PAIRS,
    };
    // Nothing counts as seen: what has changed since the start is found by the first look.
    match Watch::start(&paths, Files::new(), reader) {
        Ok(watch) => Some(Watching { watch, wrong }),
        Err(error) => {
            tracing::error!("certificates are not followed, a restart reads them again: {error}");
            None
        }
    }
}

fn take(fronts: &[Shown], files: &mut Files, metrics: &Metrics) -> Vec<Wrong> {
    let bytes: BTreeMap<&PathBuf, _> = files.iter_mut().map(|(path, contents)| (path, contents.take())).collect();
    let mut read = |path: &Path| match bytes.get(&path.to_owned()) {
        Some(bytes) => bytes.clone(),
        None => Err("was not looked at".to_owned()),
    };
    let (mut fresh, mut wrong) = (Vec::new(), Vec::new());
    for (_, front) in fronts {
        let taken = front.take(&mut read);
        fresh.extend(taken.fresh);
        // Several listeners may show the same.
        wrong.extend(taken.wrong.into_iter().filter(|one| !wrong.contains(one)).collect::<Vec<_>>());
    }
    fresh.sort();
    fresh.dedup();
    for file in &fresh {
        metrics.certificates.reloads.good.add(1);
        tracing::info!(file = %file.display(), "live from the next handshake on");
    }
    if !fresh.is_empty() {
        tell(fronts, metrics);
        warn(fronts, |file| fresh.iter().any(|fresh| fresh == file));
    }
    wrong
}

fn tell(fronts: &[Shown], metrics: &Metrics) {
    let of_front = |(address, front): &Shown| {
        let listener = address.to_string();
        let one = move |loaded: crate::tls::Loaded| Certificate {
            listener: listener.clone(),
            file: loaded.pair.certificate.display().to_string(),
            names: loaded.about.names,
            not_before: loaded.about.not_before,
            not_after: loaded.about.not_after,
        };
        front.certificates().into_iter().map(one).collect::<Vec<_>>()
    };
    metrics.certificates.show(fronts.iter().flat_map(of_front).collect());
}

/// Says what is odd about certificates, of those in `which` files.
fn warn(fronts: &[Shown], which: impl Fn(&Path) -> bool) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    for (_, front) in fronts {
        for loaded in front.certificates().iter().filter(|loaded| which(&loaded.pair.certificate)) {
            if let Some(note) = loaded.about.note(&loaded.pair.certificate, now) {
                tracing::warn!("{note}");
            }
        }
    }
}
