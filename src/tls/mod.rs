//! TLS on both sides: certificates become configurations that rustls obeys.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

/// What a listener shows its clients, replaced whole when its certificates change. A handshake that has begun goes on with
/// what it began with, and connections that are open do not notice.
#[derive(Clone)]
pub struct Front(Arc<ArcSwap<ServerConfig>>);

impl Front {
    pub fn new(config: ServerConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// For the next handshake.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }

    pub fn replace(&self, config: ServerConfig) {
        self.0.store(Arc::new(config));
    }
}

/// The same one, not one that says the same.
impl PartialEq for Front {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Front {}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Front")
    }
}
