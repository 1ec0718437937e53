//! Notices that a file has changed: by the kernel's events for its *directory* (so that an atomic rename, and the symlink
//! swap of a mounted ConfigMap, are seen too), and by a slow look at the file itself for file systems without events.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Declared;

/// What was read from a file.
pub struct Loaded {
    pub declared: Declared,
    /// What an operator should know: settings that only a restart changes, for example.
    pub notes: Vec<String>,
}

/// Turns a file's text into what it declares, or explains what is wrong with it.
pub type Parse = Box<dyn Fn(&str) -> Result<Loaded, String> + Send>;

/// How often the file is looked at without an event.
const POLL: Duration = Duration::from_millis(500);
/// Editors write in several steps: a change is read once nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(30);
/// A text that cannot be read may be half written: it is refused only if it stays the same for this long.
const SECOND_LOOK: Duration = Duration::from_millis(100);

pub struct Watch {
    path: PathBuf,
    parse: Parse,
    /// The text that was accepted or refused last.
    seen: Result<String, String>,
    events: mpsc::Receiver<()>,
    // Dropped with us; it stops the events.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    /// `text` is what the file said when it was first read.
    pub fn new(path: &Path, text: String, parse: Parse) -> Self {
        let (event, events) = mpsc::channel(1);
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let watcher = notify::recommended_watcher(move |seen: notify::Result<Event>| {
            if !seen.is_ok_and(|seen| is_mere_reading(seen.kind)) {
                // Full: the file is going to be read anyway.
                let _ = event.try_send(());
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(&directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!("no events for {}: {error}; it is looked at every {POLL:?}", directory.display());
        }
        Self { path: path.to_owned(), parse, seen: Ok(text), events, _watcher: watcher.ok() }
    }

    /// Waits for a text that differs from the last one. Cancel safe.
    pub async fn changed(&mut self) -> Result<Loaded, String> {
        loop {
            let quiet = tokio::select! {
                event = self.events.recv() => event.is_some(),
                _ = tokio::time::sleep(POLL) => false,
            };
            if quiet {
                self.wait_for_quiet().await;
            }
            if self.text() != self.seen {
                return self.read_again().await;
            }
        }
    }

    /// Reads the file now, changed or not.
    pub async fn read_again(&mut self) -> Result<Loaded, String> {
        loop {
            let text = self.text();
            let loaded = text.clone().and_then(|text| (self.parse)(&text));
            if loaded.is_err() && text != self.seen {
                tokio::time::sleep(SECOND_LOOK).await;
                if self.text() != text {
                    continue;
                }
            }
            self.seen = text;
            return loaded;
        }
    }

    /// At most ten times `QUIET`, so that a file that never rests is read all the same.
    async fn wait_for_quiet(&mut self) {
        let deadline = Instant::now() + 10 * QUIET;
        while Instant::now() < deadline && tokio::time::timeout(QUIET, self.events.recv()).await.is_ok() {}
    }

    fn text(&self) -> Result<String, String> {
        read(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

/// Our own reading makes events, too.
fn is_mere_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// A file that is too large to be a configuration (a ConfigMap holds at most 1 MiB) is not read.
pub fn read(path: &Path) -> io::Result<String> {
    const MAX_BYTES: u64 = 1 << 20;
    let length = std::fs::metadata(path)?.len();
    if length > MAX_BYTES {
        return Err(io::Error::other(format!("the file has {length} bytes; expected at most {MAX_BYTES}")));
    }
    std::fs::read_to_string(path)
}
