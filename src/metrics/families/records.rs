//! The families about what is told of single requests.

use super::super::{Metrics, ProxyTotals};
use super::{Family, Kind, Value, sample};

pub fn collect(metrics: &Metrics, totals: &ProxyTotals) -> Vec<Family> {
    let records = &metrics.records;
    let family = |name, help, outcomes: [(&'static str, u64); 3]| Family {
        name,
        kind: Kind::Counter,
        labels: &["outcome"],
        help,
        samples: outcomes.map(|(outcome, count)| sample(vec![outcome.into()], Value::Count(count))).into(),
    };
    vec![
        family(
            "splitway_access_log_lines_total",
            "Lines of the access log: written, dropped because whoever reads them is behind, or failed to be written.",
            [
                ("written", records.lines_written.get()),
                ("dropped", records.lines_dropped.get() + totals.lines_dropped),
                ("failed", records.lines_failed.get()),
            ],
        ),
        family(
            "splitway_trace_spans_total",
            "Spans: exported, dropped because the collector is behind, or failed because it did not take them.",
            [
                ("exported", records.spans_exported.get()),
                ("dropped", records.spans_dropped.get() + totals.spans_dropped),
                ("failed", records.spans_failed.get()),
            ],
        ),
    ]
}
