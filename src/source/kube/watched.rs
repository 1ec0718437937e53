//! One list-then-watch of one kind of object. It never ends by itself: after every failure it waits a little and lists
//! anew.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::client::Trouble;

/// What a watch tells. Objects go by their names: all of them are in one namespace.
#[derive(Debug)]
pub enum Event<T> {
    /// All there is.
    Listed(BTreeMap<String, T>),
    Changed(String, T),
    Gone(String),
    Failed(Trouble),
}

/// The server ends a watch after this long, and a watch that has been silent for a little longer is taken for dead: so
/// long can a connection that nobody told us is broken keep news from us. Resuming costs one request.
pub const WATCH_SECONDS: u32 = 60;
/// A list has to be complete after this long. (The client itself has no bound on an answer.)
const LIST_PATIENCE: Duration = Duration::from_secs(20);
/// Waiting after a failure: at first, and at most. Twice as long each time, and each time a random part of it, so that
/// many proxies do not ask a server that has just come back all at once.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A watch that lasted this long was a good one: the next failure is a first one.
const GOOD: Duration = Duration::from_secs(10);

/// A watch at work. It ends when this is dropped.
pub struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `keep`: what to remember of an object. `tell` gets each event with the moment when it came in.
pub fn watch<K, T, N>(
    resource: &'static str,
    api: Api<K>,
    config: watcher::Config,
    keep: impl Fn(K) -> T + Send + Sync + 'static,
    tell: mpsc::Sender<(Instant, N)>,
    news: impl Fn(Event<T>) -> N + Send + Sync + 'static,
) -> Watch
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    T: Send + 'static,
    N: Send + 'static,
{
    let config = config.timeout(WATCH_SECONDS);
    let task = tokio::spawn(async move {
        let mut wait = FIRST_WAIT;
        loop {
            let begun = Instant::now();
            let trouble = match follow(resource, &api, &config, &keep, &tell, &news).await {
                Some(trouble) => trouble,
                // Nobody listens.
                None => return,
            };
            if tell.send((Instant::now(), news(Event::Failed(trouble)))).await.is_err() {
                return;
            }
            if begun.elapsed() > GOOD {
                wait = FIRST_WAIT;
            }
            tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * random())).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    });
    Watch(task.abort_handle())
}

/// Until something fails.
async fn follow<K, T, N>(
    resource: &'static str,
    api: &Api<K>,
    config: &watcher::Config,
    keep: &impl Fn(K) -> T,
    tell: &mpsc::Sender<(Instant, N)>,
    news: &impl Fn(Event<T>) -> N,
) -> Option<Trouble>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = pin!(watcher(api.clone(), config.clone()));
    let mut listing = None;
    let deadline = tokio::time::Instant::now() + LIST_PATIENCE;
    let mut listed = false;
    loop {
        let next = match listed {
            true => events.next().await,
            false => match tokio::time::timeout_at(deadline, events.next()).await {
                Ok(next) => next,
                Err(_) => return Some(Trouble::silent(resource, LIST_PATIENCE)),
            },
        };
        let at = Instant::now();
        let event = match next {
            None => return Some(Trouble::silent(resource, Duration::ZERO)),
            Some(Err(error)) => return Some(Trouble::of(resource, &error)),
            Some(Ok(watcher::Event::Init)) => {
                listing = Some(BTreeMap::new());
                continue;
            }
            Some(Ok(watcher::Event::InitApply(object))) => {
                let name = object.name_any();
                listing.get_or_insert_default().insert(name, keep(object));
                continue;
            }
            Some(Ok(watcher::Event::InitDone)) => {
                listed = true;
                Event::Listed(listing.take().unwrap_or_default())
            }
            Some(Ok(watcher::Event::Apply(object))) => Event::Changed(object.name_any(), keep(object)),
            Some(Ok(watcher::Event::Delete(object))) => Event::Gone(object.name_any()),
        };
        tell.send((at, news(event))).await.ok()?;
    }
}

/// In [0, 1). Hash seeds are random, and this needs no more.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
}
