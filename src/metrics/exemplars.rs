//! For each bucket of the durations the last traced request that fell into it. COLD: kept by whoever gets finished requests,
//! read by a scrape.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::cells::BUCKETS;
use super::families::{DURATION, PORT};
use super::text::write_name;
use crate::route::{PortName, Role, VersionHash};

/// One request as an example of others.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// 32 hexadecimal digits.
    pub trace: String,
    pub ns: u64,
    pub time: SystemTime,
}

/// By port, version and role; one per bucket, and one for what is beyond the last.
#[derive(Default)]
pub struct Exemplars(Mutex<BTreeMap<(usize, VersionHash, Role), OfBuckets>>);

type OfBuckets = [Option<Exemplar>; BUCKETS.len() + 1];

impl Exemplars {
    pub fn keep(&self, port: usize, version: VersionHash, role: Role, exemplar: Exemplar) {
        let bucket = BUCKETS.iter().position(|bound| exemplar.ns <= *bound).unwrap_or(BUCKETS.len());
        let mut all = self.0.lock().expect("no holder of this lock panics");
        all.entry((port, version, role)).or_default()[bucket] = Some(exemplar);
    }

    /// OpenMetrics with the exemplars behind their buckets, which the library that writes the rest cannot be given.
    pub fn add_to(&self, text: &str, ports: &[PortName]) -> String {
        let ends = self.ends(ports).expect("writing to a string cannot fail");
        if ends.is_empty() {
            return text.to_owned();
        }
        let mut all = String::with_capacity(text.len() + 100 * ends.len());
        for line in text.lines() {
            all.push_str(line);
            if let Some(end) = line.rsplit_once(' ').and_then(|(series, _)| ends.get(series)) {
                all.push_str(end);
            }
            all.push('\n');
        }
        all
    }

    /// What stands behind which series.
    fn ends(&self, ports: &[PortName]) -> Result<HashMap<String, String>, fmt::Error> {
        let mut ends = HashMap::new();
        let all = self.0.lock().expect("no holder of this lock panics");
        for ((port, version, role), buckets) in all.iter() {
            for (bucket, exemplar) in buckets.iter().enumerate() {
                let Some(Exemplar { trace, ns, time }) = exemplar else { continue };
                let seconds = |ns: u64| ns as f64 / 1e9;
                let bound = BUCKETS.get(bucket).map_or("+Inf".to_owned(), |ns| format!("{:?}", seconds(*ns)));
                let port = Some(ports[*port].as_str()).filter(|port| !port.is_empty()).map(|port| (PORT, port));
                let labels = [("version", version.as_str()), ("role", role.as_str())];
                let labels = [("le", bound.as_str())].into_iter().chain(port).chain(labels);
                let mut series = String::new();
                write_name(&mut series, DURATION, "_bucket", labels)?;
                let mut end = String::from(" # ");
                write_name(&mut end, "", "", [("trace_id", trace.as_str())].into_iter())?;
                let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                write!(end, " {:?} {:.3}", seconds(*ns), time.as_secs_f64())?;
                ends.insert(series, end);
            }
        }
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::text::Format;
    use crate::metrics::{families, made_up};

    #[test]
    fn an_exemplar_stands_behind_its_own_bucket_and_nothing_else_changes() {
        let (_publisher, live, ports) =
            made_up::two_ports([("http", &[("a\"b", Role::Stable, 1)]), ("", &[("a\"b", Role::Stable, 1)])]);
        let metrics = crate::metrics::Metrics::new(1, live, ports.clone());
        let version = VersionHash::new("a\"b");
        let time = UNIX_EPOCH + Duration::from_millis(1_500);
        for (port, ns) in [(0, 4_000_000), (0, 5_000_000), (1, 60_000_000_000)] {
            metrics.version(0, port, &version, Role::Stable).duration.record(ns);
            let exemplar = Exemplar { trace: format!("{ns:032x}"), ns, time };
            metrics.exemplars.keep(port, version.clone(), Role::Stable, exemplar);
        }
        let plain = Format::OpenMetrics.write(families::collect(&metrics, true));
        let text = metrics.exemplars.add_to(&plain, &ports);
        let added: Vec<&str> = text.lines().filter(|line| line.contains(" # ")).collect();
        assert_eq!(
            added,
            [
                "splitway_request_duration_seconds_bucket{le=\"0.005\",port=\"http\",version=\"a\\\"b\",role=\"stable\"} 2 \
                 # {trace_id=\"000000000000000000000000004c4b40\"} 0.005 1.500",
                "splitway_request_duration_seconds_bucket{le=\"+Inf\",version=\"a\\\"b\",role=\"stable\"} 1 \
                 # {trace_id=\"00000000000000000000000df8475800\"} 60.0 1.500",
            ]
        );
        let without: String =
            text.lines().map(|line| line.split(" # {").next().unwrap_or_default().to_owned() + "\n").collect();
        assert_eq!(without, plain);
    }
}
