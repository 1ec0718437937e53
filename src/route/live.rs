//! The one pointer through which the change path hands a snapshot to the request path.
//!
//! There is one [`Publisher`] (it cannot be cloned) and one [`View`] per worker (it is not `Sync`). A view keeps the
//! snapshot it saw last and compares one number per request; only when that number has grown does it touch the
//! reference count that all workers share.
//!
//! **Ordering.** `publish` stores the pointer first and the generation second, with Release; a view loads the generation
//! with Acquire. Whoever sees the new number therefore finds a pointer that is at least as new. A view that still reads
//! the old number routes one more request by the old snapshot: both are valid, and the split knows by its
//! epoch whose number that is (see `picker`).

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::{Generation, Snapshot};

struct Shared {
    /// The generation of `current`, or an older one for a moment. 0: nothing was published yet.
    generation: AtomicU64,
    current: ArcSwapOption<Snapshot>,
}

/// The writing end.
pub struct Publisher(Arc<Shared>);

/// The reading end for the cold parts (admin, metrics), which may share it and need no speed.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

/// The reading end of one worker.
pub struct View {
    shared: Arc<Shared>,
    seen: RefCell<Option<Arc<Snapshot>>>,
}

/// Nothing is live until the first `publish`.
pub fn channel() -> (Publisher, Live) {
    let shared = Arc::new(Shared { generation: AtomicU64::new(0), current: ArcSwapOption::empty() });
    (Publisher(shared.clone()), Live(shared))
}

impl Publisher {
    /// The moment of change: from here on requests are routed by `snapshot`.
    pub fn publish(&mut self, snapshot: Snapshot) {
        let generation = snapshot.generation().0;
        self.0.current.store(Some(Arc::new(snapshot)));
        self.0.generation.store(generation, Ordering::Release);
    }

    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.0.current.load_full()
    }
}

impl Live {
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.0.current.load_full()
    }

    /// The newest generation; 0 before the first.
    pub fn generation(&self) -> Generation {
        Generation(self.0.generation.load(Ordering::Acquire))
    }

    pub fn view(&self) -> View {
        View { shared: self.0.clone(), seen: RefCell::new(None) }
    }
}

impl View {
    /// The generation of what [`View::newest`] returned last; 0 before the first.
    pub fn seen(&self) -> Generation {
        self.seen.borrow().as_ref().map_or(Generation(0), |snapshot| snapshot.generation())
    }

    /// Whether there is something newer than what was seen last. One load and one compare.
    pub fn is_stale(&self) -> bool {
        self.shared.generation.load(Ordering::Acquire) > self.seen().0
    }

    /// The newest snapshot; remembered as seen. `None` before the first.
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        let newest = self.shared.current.load_full();
        *self.seen.borrow_mut() = newest.clone();
        newest
    }
}
