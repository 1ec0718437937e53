//! How a worker sees endpoints of which there is more to say than that they are in use.
//!
//! Told by the worker's tick, read when somebody asks. The lock is between these two: no request ever takes it, and a worker,
//! on whose thread requests wait, does not wait for it.

use std::net::SocketAddr;
use std::sync::Mutex;

use crate::proxy::Failure;

/// One endpoint, as one worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointSeen {
    pub address: SocketAddr,
    pub state: EndpointState,
}

/// What there is to say of it. `cause`: how its last try failed; `None` for an answer of 5xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// It is no longer in the snapshot; so many requests finish there.
    Leaving { requests: u64 },
    /// New: so much of its share it gets.
    Warming { percent: u32 },
    /// It has as many requests as it may have at once.
    Full { requests: u32 },
    /// It was there, and has failed so many times in a row.
    Failing { cause: Option<Failure>, times: u32 },
    /// There was no connection to be had, so many times in a row.
    Unreachable { cause: Option<Failure>, times: u32 },
    /// Left out for a while. 0 seconds: the next request is its trial.
    Ejected { cause: Option<Failure>, seconds: u32 },
}

/// What one worker has told last, of one version in one role.
#[derive(Default)]
pub struct Endpoints(Mutex<Vec<EndpointSeen>>);

impl Endpoints {
    /// Each tick again; while somebody reads, not this time.
    pub fn tell(&self, seen: Vec<EndpointSeen>) {
        if let Ok(mut told) = self.0.try_lock() {
            *told = seen;
        }
    }

    /// When nothing more will be told.
    pub fn forget(&self) {
        self.0.lock().expect("no holder of this lock panics").clear();
    }

    pub fn told(&self) -> Vec<EndpointSeen> {
        self.0.lock().expect("no holder of this lock panics").clone()
    }
}
