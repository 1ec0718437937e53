//! Notices that files have changed: by the kernel's events for their *directories* (so that an atomic rename, and the symlink
//! swap of a mounted ConfigMap or Secret, are seen too), and by a slow look at the files themselves for file systems without
//! events.
//!
//! All of it on a thread of its own: reading a file can hang (on a network), and then nothing else shall wait for it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};

use super::Declared;

/// What was read from a file.
pub struct Loaded<T = Declared> {
    pub declared: T,
    /// What an operator should know: settings that only a restart changes, for example.
    pub notes: Vec<String>,
}

/// A text, or what it means, or the whole explanation why not.
pub type Outcome<T> = Result<T, String>;

pub type Read<C = String> = Box<dyn Fn() -> Outcome<C> + Send>;
/// May add to what was read what it read besides, so that a change of that is a change, too.
pub type Parse<T = Declared, C = String> = Box<dyn Fn(&mut C) -> Outcome<Loaded<T>> + Send>;

/// How files are read and understood.
pub struct Reader<T = Declared, C = String> {
    pub read: Read<C>,
    pub parse: Parse<T, C>,
    /// What cannot be used may be half written: it is refused only if it stays the same for this long.
    pub patience: Duration,
}

/// How often the file is looked at without an event.
const POLL: Duration = Duration::from_millis(250);
/// Editors write in several steps: a change is read once nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(30);
/// Something in the directory may never rest; then the file is read all the same after this long.
const RESTLESS: Duration = Duration::from_millis(300);
/// For one file, which editors write at once or almost. Also how often what cannot be used is looked at again.
pub const SECOND_LOOK: Duration = Duration::from_millis(250);
/// For files that belong together, such as a certificate and its key: whoever renews them may take a moment between the two.
pub const PAIRS: Duration = Duration::from_secs(2);
/// A file that is rewritten without end is refused at last.
const LOOKS: u32 = 10;

/// Files under watch. Dropping it ends the watch.
pub struct Watch<T = Declared> {
    // Dropped first: the thread sees that nobody listens.
    found: tokio::sync::mpsc::Receiver<Outcome<Loaded<T>>>,
    again: Arc<AtomicBool>,
    wake: SyncSender<()>,
}

impl<T: Send + 'static> Watch<T> {
    /// `text` is what the files said when they were first read.
    pub fn start<C: PartialEq + Send + 'static>(paths: &[PathBuf], text: C, reader: Reader<T, C>) -> io::Result<Self> {
        // Room for one: whoever finds it full knows that the file is going to be read anyway.
        let (wake, woken) = mpsc::sync_channel(1);
        let (tell, found) = tokio::sync::mpsc::channel(1);
        let again = Arc::<AtomicBool>::default();
        let directories = paths.iter().map(|path| directory(path)).collect();
        let look = Look { directories, reader, seen: Ok(text), again: again.clone(), woken, tell };
        let events = wake.clone();
        thread::Builder::new().name("file".to_owned()).spawn(move || look.run(events))?;
        Ok(Self { found, again, wake })
    }

    /// Waits for a text that differs from the last one, or that was asked for. Cancel safe.
    pub async fn changed(&mut self) -> Outcome<Loaded<T>> {
        match self.found.recv().await {
            Some(found) => found,
            // The thread has panicked and has said so on its way; what was read last stays in force.
            None => std::future::pending().await,
        }
    }

    /// Has the file read again now, changed or not: [`Self::changed`] tells the result.
    pub fn look_again(&self) {
        self.again.store(true, Ordering::Release);
        let _ = self.wake.try_send(());
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The thread's side.
struct Look<T, C> {
    directories: BTreeSet<PathBuf>,
    reader: Reader<T, C>,
    /// What was accepted or refused last.
    seen: Outcome<C>,
    again: Arc<AtomicBool>,
    woken: Receiver<()>,
    tell: tokio::sync::mpsc::Sender<Outcome<Loaded<T>>>,
}

impl<T, C: PartialEq> Look<T, C> {
    fn run(mut self, wake: SyncSender<()>) {
        // Dropping the watcher stops the events.
        let _watcher = self.events(wake);
        while !self.tell.is_closed() {
            if self.woken.recv_timeout(POLL).is_ok() {
                self.wait_for_quiet();
            }
            let asked = self.again.swap(false, Ordering::Acquire);
            let text = (self.reader.read)();
            if !asked && text == self.seen {
                continue;
            }
            let loaded = self.understand(text);
            if self.tell.blocking_send(loaded).is_err() {
                return;
            }
        }
    }

    fn events(&self, wake: SyncSender<()>) -> Option<notify::RecommendedWatcher> {
        let watcher = notify::recommended_watcher(move |seen: notify::Result<Event>| {
            if !seen.is_ok_and(|seen| is_mere_reading(seen.kind)) {
                let _ = wake.try_send(());
            }
        })
        .map(|mut watcher| {
            for directory in &self.directories {
                if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                    tracing::warn!("no events for {}: {error}; it is looked at every {POLL:?}", directory.display());
                }
            }
            watcher
        });
        if let Err(error) = &watcher {
            tracing::warn!("no events for files: {error}; they are looked at every {POLL:?}");
        }
        watcher.ok()
    }

    fn wait_for_quiet(&self) {
        let begun = Instant::now();
        while begun.elapsed() < RESTLESS && self.woken.recv_timeout(QUIET).is_ok() {}
    }

    fn understand(&mut self, mut text: Outcome<C>) -> Outcome<Loaded<T>> {
        let mut looks = 1;
        // Before it is understood, which may add to it.
        let mut refused_already = text == self.seen;
        let loaded = loop {
            let loaded = match &mut text {
                Ok(text) => (self.reader.parse)(text),
                Err(error) => Err(error.clone()),
            };
            if loaded.is_ok() || refused_already || looks == LOOKS {
                break loaded;
            }
            let Some(newer) = self.newer(&text) else { break loaded };
            refused_already = newer == self.seen;
            (text, looks) = (newer, looks + 1);
        };
        self.seen = text;
        loaded
    }

    /// What has taken the place of a text, if something does in time.
    fn newer(&self, text: &Outcome<C>) -> Option<Outcome<C>> {
        let begun = Instant::now();
        loop {
            thread::sleep(SECOND_LOOK.min(self.reader.patience.saturating_sub(begun.elapsed())));
            let now = (self.reader.read)();
            if now != *text {
                return Some(now);
            }
            if begun.elapsed() >= self.reader.patience {
                return None;
            }
        }
    }
}

/// Our own reading makes events, too.
fn is_mere_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;

    use super::*;

    /// Takes `bad` for bad, and remembers everything that it was given to understand.
    fn reader(path: &Path) -> (Reader, Arc<Mutex<Vec<String>>>) {
        let (path, understood) = (path.to_owned(), Arc::<Mutex<Vec<String>>>::default());
        let remember = understood.clone();
        let reader = Reader {
            read: Box::new(move || fs::read_to_string(&path).map_err(|error| error.to_string())),
            parse: Box::new(move |text| {
                remember.lock().unwrap().push(text.clone());
                Err(format!("refused: {text}"))
            }),
            patience: SECOND_LOOK,
        };
        (reader, understood)
    }

    /// What the watch tells next. These tests need only explanations, which are easier to make than what is declared.
    async fn told(watch: &mut Watch) -> String {
        let told = tokio::time::timeout(Duration::from_secs(20), watch.changed()).await;
        told.expect("the watch tells something").err().expect("a refusal")
    }

    #[tokio::test]
    async fn a_change_is_told_once_and_the_same_text_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let (reader, understood) = reader(&path);
        let mut watch = Watch::start(std::slice::from_ref(&path), "one".to_owned(), reader).unwrap();
        // Nothing has changed: only what is asked for is told.
        watch.look_again();
        assert_eq!(told(&mut watch).await, "refused: one");
        fs::write(&path, "one").unwrap();
        fs::write(&path, "two").unwrap();
        assert_eq!(told(&mut watch).await, "refused: two");
        fs::remove_file(&path).unwrap();
        assert!(told(&mut watch).await.contains("No such file"));
        fs::write(&path, "two").unwrap();
        assert_eq!(told(&mut watch).await, "refused: two");
        assert!(understood.lock().unwrap().iter().all(|text| ["one", "two"].contains(&text.as_str())));
    }

    /// A folder that does not exist has no events; the file is looked at all the same, without end and without haste.
    #[tokio::test]
    async fn a_file_without_events_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/file");
        let (reader, _) = reader(&path);
        let mut watch = Watch::start(std::slice::from_ref(&path), "one".to_owned(), reader).unwrap();
        assert!(told(&mut watch).await.contains("No such file"));
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "two").unwrap();
        assert_eq!(told(&mut watch).await, "refused: two");
    }

    #[test]
    fn the_watch_ends_with_its_guard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let (reader, understood) = reader(&path);
        drop(Watch::start(std::slice::from_ref(&path), "one".to_owned(), reader).unwrap());
        // The thread drops its reader when it ends.
        let begun = Instant::now();
        while Arc::strong_count(&understood) > 1 {
            assert!(begun.elapsed() < Duration::from_secs(20), "the thread goes on");
            thread::yield_now();
        }
    }
}
