//! What is known of the certificates that listeners show. Written by whoever follows their files, on changes only.

use std::sync::Mutex;
use std::time::SystemTime;

use super::Reloads;

/// One certificate of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The listener's address.
    pub listener: String,
    pub file: String,
    /// The host names that it is for.
    pub names: Vec<String>,
    /// In seconds since the Unix epoch.
    pub not_before: i64,
    pub not_after: i64,
}

/// New contents of a file that cannot be used. What they should replace serves on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub at: SystemTime,
    pub file: String,
    /// What was expected and what was found.
    pub message: String,
}

/// Empty where no listener speaks TLS.
#[derive(Default)]
pub struct Certificates {
    pub reloads: Reloads,
    shown: Mutex<Vec<Certificate>>,
    refused: Mutex<Vec<Refusal>>,
}

impl Certificates {
    pub fn show(&self, certificates: Vec<Certificate>) {
        *self.shown.lock().expect("no holder of this lock panics") = certificates;
    }

    /// Those that clients are shown now, in the order of the listeners.
    pub fn shown(&self) -> Vec<Certificate> {
        self.shown.lock().expect("no holder of this lock panics").clone()
    }

    /// All that are refused now, in place of those before.
    pub fn refuse(&self, refused: Vec<Refusal>) {
        *self.refused.lock().expect("no holder of this lock panics") = refused;
    }

    pub fn refused(&self) -> Vec<Refusal> {
        self.refused.lock().expect("no holder of this lock panics").clone()
    }
}
