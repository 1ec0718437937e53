//! The pointers through which the change path hands snapshots to the request path: one per port of the application, all
//! of one generation.
//!
//! There is one [`Publisher`] (it cannot be cloned) and, for each port, one [`View`] per worker (it is not `Sync`). A view
//! keeps the snapshot it saw last and compares one number per request; only when that number has grown does it touch the
//! reference count that all workers share.
//!
//! **Ordering.** `publish` stores every port's pointer first and the generation last, with Release; a view loads the
//! generation with Acquire. Whoever sees the new number therefore finds a pointer that is at least as new, whichever its
//! port. A view that still reads the old number routes one more request by the old snapshot: both are valid, and the split
//! knows by its epoch whose number that is (see `picker`). While `publish` runs, one port's pointer may be newer than
//! another's; no request looks at two.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::{Generation, Snapshot};

struct Shared {
    /// The generation of all of `current`, or an older one for a moment. 0: nothing was published yet.
    generation: AtomicU64,
    /// One per port.
    current: Box<[ArcSwapOption<Snapshot>]>,
}

/// The writing end.
pub struct Publisher(Arc<Shared>);

/// The reading end for the cold parts (admin, metrics), which may share it and need no speed.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

/// The reading end of one worker, for one port.
pub struct View {
    shared: Arc<Shared>,
    port: usize,
    seen: RefCell<Option<Arc<Snapshot>>>,
}

/// For so many ports, at least one. Nothing is live until the first `publish`.
pub fn channel(ports: usize) -> (Publisher, Live) {
    let current = (0..ports).map(|_| ArcSwapOption::empty()).collect();
    let shared = Arc::new(Shared { generation: AtomicU64::new(0), current });
    (Publisher(shared.clone()), Live(shared))
}

impl Publisher {
    /// The moment of change: from here on requests at each port are routed by that port's snapshot.
    ///
    /// # Panics
    ///
    /// Unless there is one snapshot for each port, and all are of one generation.
    pub fn publish(&mut self, snapshots: Vec<Snapshot>) {
        let generation = snapshots.first().map_or(Generation(0), Snapshot::generation);
        assert_eq!(snapshots.len(), self.0.current.len(), "one snapshot per port");
        assert!(snapshots.iter().all(|snapshot| snapshot.generation() == generation), "one generation for all ports");
        for (current, snapshot) in self.0.current.iter().zip(snapshots) {
            current.store(Some(Arc::new(snapshot)));
        }
        self.0.generation.store(generation.0, Ordering::Release);
    }

    /// `None` before the first.
    pub fn current(&self, port: usize) -> Option<Arc<Snapshot>> {
        self.0.current[port].load_full()
    }

    /// The generation that was published last; 0 before the first.
    pub fn generation(&self) -> Generation {
        Generation(self.0.generation.load(Ordering::Relaxed))
    }
}

impl Live {
    /// `None` before the first, and for a port that does not exist.
    pub fn current(&self, port: usize) -> Option<Arc<Snapshot>> {
        self.0.current.get(port)?.load_full()
    }

    /// How many ports there are; their numbers begin with 0.
    pub fn ports(&self) -> usize {
        self.0.current.len()
    }

    /// The newest generation; 0 before the first.
    pub fn generation(&self) -> Generation {
        Generation(self.0.generation.load(Ordering::Acquire))
    }

    pub fn view(&self, port: usize) -> View {
        View { shared: self.0.clone(), port, seen: RefCell::new(None) }
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

    /// The newest snapshot of the port; remembered as seen. `None` before the first.
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        let newest = self.shared.current[self.port].load_full();
        *self.seen.borrow_mut() = newest.clone();
        newest
    }
}
