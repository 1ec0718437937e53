//! The account of every request.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http1,
    Http2,
    Tls1,
    Tls2,
    Sticky,
    Header,
    Grpc,
    WebSocket,
    Slow,
    Cut,
    Faulty,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::Http1,
        Self::Http2,
        Self::Tls1,
        Self::Tls2,
        Self::Sticky,
        Self::Header,
        Self::Grpc,
        Self::WebSocket,
        Self::Slow,
        Self::Cut,
        Self::Faulty,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1",
            Self::Http2 => "HTTP/2",
            Self::Tls1 => "HTTP/1 over TLS",
            Self::Tls2 => "HTTP/2 over TLS",
            Self::Sticky => "sticky users",
            Self::Header => "header route",
            Self::Grpc => "streams with trailers",
            Self::WebSocket => "WebSocket",
            Self::Slow => "slow clients",
            Self::Cut => "clients that cut",
            Self::Faulty => "faulty endpoints",
        }
    }

    /// How many clients there are of it, and their part of all requests in per cent.
    pub fn clients(self) -> (u64, f64) {
        match self {
            Self::Http1 => (8, 30.0),
            Self::Http2 => (4, 18.0),
            Self::Tls1 => (4, 12.0),
            Self::Tls2 => (4, 12.0),
            Self::Sticky => (3, 9.0),
            Self::Header => (2, 5.0),
            Self::Grpc => (4, 3.0),
            Self::WebSocket => (6, 1.0),
            Self::Slow => (8, 1.0),
            Self::Cut => (4, 3.0),
            Self::Faulty => (16, 6.0),
        }
    }
}

pub enum Outcome {
    /// A whole answer, and the right one.
    Answered,
    /// Its endpoint was faulty, and the proxy said so: an error of its own, or a connection that visibly broke.
    Failed(String),
    /// The client went away itself.
    Cut,
    /// What must not be: an innocent request without its answer, or a wrong answer for anybody.
    Lost(String),
}

#[derive(Default)]
pub struct Row {
    pub answered: AtomicU64,
    pub failed: AtomicU64,
    pub cut: AtomicU64,
    pub lost: AtomicU64,
}

#[derive(Default)]
pub struct Ledger {
    pub rows: [Row; Kind::ALL.len()],
    /// Requests that a connection had not taken before it ended, and that went over a new one.
    pub resent: AtomicU64,
    /// The first of them.
    pub told: Mutex<Vec<String>>,
    /// Failures of requests with faulty endpoints by reason; there are few reasons.
    pub reasons: Mutex<std::collections::BTreeMap<String, u64>>,
}

impl Ledger {
    pub fn add(&self, kind: Kind, outcome: Outcome) {
        let row = &self.rows[kind as usize];
        let cell = match outcome {
            Outcome::Answered => &row.answered,
            Outcome::Failed(why) => {
                *self.reasons.lock().expect("nobody panics").entry(why).or_default() += 1;
                &row.failed
            }
            Outcome::Cut => &row.cut,
            Outcome::Lost(why) => {
                self.tell(format!("{}: {why}", kind.as_str()));
                &row.lost
            }
        };
        cell.fetch_add(1, Ordering::Relaxed);
    }

    /// Something that fails the run.
    pub fn tell(&self, what: String) {
        let mut told = self.told.lock().expect("nobody panics");
        if told.len() < 50 {
            eprintln!("soak: {what}");
            told.push(what);
        }
    }

    pub fn total(&self) -> u64 {
        let all = |row: &Row| {
            [&row.answered, &row.failed, &row.cut, &row.lost].iter().map(|c| c.load(Ordering::Relaxed)).sum::<u64>()
        };
        self.rows.iter().map(all).sum()
    }
}
