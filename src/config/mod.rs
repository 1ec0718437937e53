//! Start-up settings and the configuration file: from what was written to what was meant.

use std::net::SocketAddr;

use crate::{proxy, source};

/// What was meant: checked, complete, with every default filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Takes effect at start only; a reload that changes it says so and leaves it.
    pub proxy: proxy::Settings,
    pub admin: Option<SocketAddr>,
    /// Takes effect at start and at every reload.
    pub declared: source::Declared,
}
