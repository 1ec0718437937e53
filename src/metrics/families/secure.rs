//! The families about TLS with clients. There are none where no listener speaks it.

use super::super::{Metrics, ProxyTotals};
use super::{Family, Kind, Value, sample};
use crate::tls::HandshakeFailure;

pub fn collect(metrics: &Metrics, totals: &ProxyTotals) -> Vec<Family> {
    let certificates = metrics.certificates.shown();
    if certificates.is_empty() {
        return Vec::new();
    }
    let expiry = certificates.into_iter().map(|one| {
        let not_after = Value::Real(one.not_after as f64);
        sample(vec![one.listener.into(), one.file.into()], not_after)
    });
    let reloads = &metrics.certificates.reloads;
    vec![
        Family {
            name: "splitway_certificate_not_after_timestamp_seconds",
            kind: Kind::Gauge,
            labels: &["listener", "file"],
            help: "When the certificate that clients are shown expires, in seconds since the Unix epoch.",
            samples: expiry.collect(),
        },
        Family {
            name: "splitway_certificate_reloads_total",
            kind: Kind::Counter,
            labels: &["outcome"],
            help: "Certificates and client authorities whose files changed: live (good), or refused (bad).",
            samples: [("good", &reloads.good), ("bad", &reloads.bad)]
                .map(|(outcome, cell)| sample(vec![outcome.into()], Value::Count(cell.get())))
                .into(),
        },
        Family {
            name: "splitway_tls_handshakes_total",
            kind: Kind::Counter,
            labels: &["kind"],
            help: "Handshakes with clients that came to their end: full, or of a resumed session.",
            samples: ["full", "resumed"]
                .into_iter()
                .zip(totals.handshakes)
                .map(|(kind, count)| sample(vec![kind.into()], Value::Count(count)))
                .collect(),
        },
        Family {
            name: "splitway_tls_handshake_failures_total",
            kind: Kind::Counter,
            labels: &["failure"],
            help: "Handshakes with clients that did not, and why.",
            samples: HandshakeFailure::ALL
                .into_iter()
                .zip(totals.handshake_failures)
                .map(|(failure, count)| sample(vec![failure.as_str().into()], Value::Count(count)))
                .collect(),
        },
    ]
}
