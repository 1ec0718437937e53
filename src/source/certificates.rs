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
    let Some(Watching { mut watch, wrong }) = watch(fronts, metrics.clone()) else { return };
    let mut known = Vec::new();
    loop {
        let now = match watch.changed().await {
            Ok(_) => Vec::new(),
            Err(_) => wrong.lock().expect("no holder of this lock panics").clone(),
        };
        refuse(&now, &known, &metrics);
        known = now;
    }
}

/// Tells what is wrong now. What was `known` and is as it was is no news.
fn refuse(wrong: &[Wrong], known: &[Wrong], metrics: &Metrics) {
    for new in wrong.iter().filter(|wrong| !known.contains(wrong)) {
        metrics.certificates.reloads.bad.add(1);
        tracing::error!("refused, the last good one serves on: {new}");
    }
    let before = metrics.certificates.refused();
    let refused = wrong.iter().map(|wrong| {
        let (file, message) = (wrong.file.display().to_string(), wrong.to_string());
        let same = before.iter().find(|before| before.file == file && before.message == message);
        same.cloned().unwrap_or_else(|| Refusal { at: SystemTime::now(), file, message })
    });
    metrics.certificates.refuse(refused.collect());
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::metrics::made_up;
    use crate::tls::made_up::{Authority, Signed};
    use crate::tls::{Oldest, Pair, front, pem};

    const BOUND: Duration = Duration::from_secs(20);

    /// A listener with one certificate, whose files are followed.
    struct World {
        folder: tempfile::TempDir,
        authority: Authority,
        front: Front,
        metrics: Arc<Metrics>,
        watching: Watching,
    }

    impl World {
        /// `place` writes the first pair.
        async fn start(place: impl FnOnce(&Path, Signed) -> Pair) -> Self {
            let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
            let pair = place(folder.path(), authority.sign(&["first"]));
            let loaded = pair.load(&mut pem::read).unwrap();
            let settings = front::Settings { certificates: vec![pair], clients: None, oldest: Oldest::Tls12 };
            let front = Front::read(settings, vec![loaded], None).unwrap();
            let (_publisher, live) = made_up::nothing_live();
            let metrics = Arc::new(made_up::metrics(1, live));
            let shown = vec![(SocketAddr::from(([127, 0, 0, 1], 8443)), front.clone())];
            let mut world =
                Self { folder, authority, front, watching: watch(shown, metrics.clone()).unwrap(), metrics };
            assert_eq!(world.next().await, Ok(()), "the first look finds nothing new");
            assert_eq!(world.metrics.certificates.reloads.good.get(), 0);
            world
        }

        async fn next(&mut self) -> Result<(), String> {
            let told = tokio::time::timeout(BOUND, self.watching.watch.changed()).await;
            told.expect("the watch tells something").map(|_| ())
        }

        fn wrong(&self) -> Vec<Wrong> {
            self.watching.wrong.lock().unwrap().clone()
        }

        fn names(&self) -> Vec<String> {
            self.front.certificates().into_iter().flat_map(|loaded| loaded.about.names).collect()
        }
    }

    fn plain(folder: &Path, signed: Signed) -> Pair {
        signed.write(folder, "app")
    }

    #[tokio::test]
    async fn a_new_pair_is_live_and_a_broken_one_is_refused_until_it_is_mended() {
        let mut world = World::start(plain).await;
        let folder = world.folder.path().to_owned();
        world.authority.sign(&["second"]).write(&folder, "app");
        assert_eq!(world.next().await, Ok(()));
        assert_eq!(world.names(), ["second"]);
        let shown = world.metrics.certificates.shown();
        assert_eq!(
            (shown.len(), &*shown[0].names, &*shown[0].listener),
            (1, &["second".to_owned()][..], "127.0.0.1:8443")
        );

        fs::write(folder.join("app.key"), "no key").unwrap();
        assert!(world.next().await.unwrap_err().contains("app.key: expected a private key, found no PEM at all"));
        assert_eq!(world.wrong()[0].file, folder.join("app.key"));
        assert_eq!(world.names(), ["second"]);

        world.authority.sign(&["third"]).write(&folder, "app");
        assert_eq!(world.next().await, Ok(()));
        assert_eq!((world.names(), world.wrong()), (vec!["third".to_owned()], Vec::new()));
        assert_eq!(world.metrics.certificates.reloads.good.get(), 2);
    }

    #[tokio::test]
    async fn halves_that_do_not_fit_yet_are_waited_for_and_never_refused() {
        let mut world = World::start(plain).await;
        let signed = world.authority.sign(&["second"]);
        fs::write(world.folder.path().join("app.pem"), &signed.certificate).unwrap();
        let begun = Instant::now();
        while world.wrong().is_empty() {
            assert!(begun.elapsed() < BOUND, "nobody looks");
            tokio::task::yield_now().await;
        }
        assert!(world.wrong()[0].message.contains("this key is not that of the certificate"));
        fs::write(world.folder.path().join("app.key"), &signed.key).unwrap();
        assert_eq!(world.next().await, Ok(()), "no refusal comes first");
        assert_eq!(world.names(), ["second"]);
    }

    #[tokio::test]
    async fn a_mounted_secret_is_swapped_as_kubernetes_does() {
        let version = |folder: &Path, name: &str, signed: &Signed| {
            fs::create_dir(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("tls.crt"), &signed.certificate).unwrap();
            fs::write(folder.join(name).join("tls.key"), &signed.key).unwrap();
            symlink(name, folder.join("..data_tmp")).unwrap();
            fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        };
        let mut world = World::start(|folder, signed| {
            version(folder, "..1", &signed);
            for name in ["tls.crt", "tls.key"] {
                symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
            }
            Pair::of_secret(folder)
        })
        .await;
        version(world.folder.path(), "..2", &world.authority.sign(&["second"]));
        fs::remove_dir_all(world.folder.path().join("..1")).unwrap();
        assert_eq!(world.next().await, Ok(()));
        assert_eq!(world.names(), ["second"]);
    }

    #[tokio::test]
    async fn a_refusal_is_counted_once_and_shown_for_as_long_as_it_stands() {
        let world = World::start(plain).await;
        let certificates = &world.metrics.certificates;
        let bad = world.folder.path().join("none.pem");
        let wrong = |key: &str| Pair { certificate: bad.clone(), key: key.into() }.load(&mut pem::read).unwrap_err();
        let one = vec![wrong("one.key")];
        refuse(&one, &[], &world.metrics);
        refuse(&one, &one, &world.metrics);
        assert_eq!((certificates.reloads.bad.get(), certificates.refused().len()), (1, 1));
        let since = certificates.refused()[0].at;
        refuse(&one, &one, &world.metrics);
        assert_eq!(certificates.refused()[0].at, since);
        refuse(&[], &one, &world.metrics);
        assert!(certificates.refused().is_empty());
        refuse(&one, &[], &world.metrics);
        assert_eq!(certificates.reloads.bad.get(), 2);
    }
}
