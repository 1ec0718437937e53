//! The last requests that were written down.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::Record;

/// How many are kept of either kind, so that no flood of failures hides how the others fare, nor the other way round.
const KEPT: usize = 100;

/// Anybody may look; the cold side alone writes.
#[derive(Clone, Default)]
pub struct Recent(Arc<Mutex<Rings>>);

#[derive(Default)]
struct Rings {
    failures: VecDeque<Record>,
    others: VecDeque<Record>,
}

impl Recent {
    pub(super) fn keep(&self, record: Record) {
        let mut rings = self.0.lock().expect("no holder of this lock panics");
        let ring = if record.is_failure() { &mut rings.failures } else { &mut rings.others };
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(record);
    }

    /// The newest first, by when they began.
    pub fn last(&self) -> Vec<Record> {
        let rings = self.0.lock().expect("no holder of this lock panics");
        let mut all: Vec<Record> = rings.failures.iter().chain(&rings.others).cloned().collect();
        drop(rings);
        all.sort_by_key(|record| std::cmp::Reverse(record.time));
        all
    }
}

#[cfg(test)]
pub(super) fn made_up(code: u16, failure: Option<&'static str>, version: &str) -> Record {
    use crate::route::{Reason, Role};
    Record {
        time: std::time::SystemTime::UNIX_EPOCH,
        port_number: 0,
        port: String::new(),
        method: Some("GET".to_owned()),
        path: Some("/".to_owned()),
        status: Some(code),
        grpc_status: None,
        code,
        version: Some(version.to_owned()),
        role: Some(Role::Stable),
        reason: Some(Reason::Weighted),
        route_number: 0,
        route: None,
        failure,
        failed: None,
        duration: std::time::Duration::from_millis(1),
        is_counted: true,
        wanted: super::Wanted::default(),
        trace_id: None,
        details: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_newest_come_first_and_failures_hide_nothing() {
        let recent = Recent::default();
        for i in 0..10 * KEPT as u64 {
            let (code, failure) = if i == 0 || i > 500 { (503, Some("connect_refused")) } else { (200, None) };
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(i);
            recent.keep(Record { time, ..made_up(code, failure, "a") });
        }
        let last = recent.last();
        assert!(last.is_sorted_by(|a, b| a.time >= b.time));
        assert_eq!(last.iter().filter(|one| one.is_failure()).count(), KEPT);
        assert_eq!(last.len(), 2 * KEPT);
        assert_eq!(last[0].code, 503);
    }
}
