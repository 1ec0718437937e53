//! The two formats in which Prometheus reads metrics: its own text, version 0.0.4, unless OpenMetrics 1.0 was asked for.
//! Both carry the same series with the same numbers.

use std::fmt::{self, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::families::{Family, Kind, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for (RFC 9110 section 12.5.1). OpenMetrics has to be preferred, or at least named;
    /// everything else, also a header that asks for what we do not have, gets the plain text.
    pub fn wanted(accept: &str) -> Self {
        let openmetrics = Preference::of(accept, "application", "openmetrics-text", &["1.0.0"]);
        let prometheus = Preference::of(accept, "text", "plain", &["0.0.4", "1.0.0"]);
        let named = openmetrics.specificity == 2;
        if openmetrics.quality > prometheus.quality
            || (named && openmetrics.quality > 0 && openmetrics.quality == prometheus.quality)
        {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    pub fn write(self, families: Vec<Family>) -> String {
        match self {
            Format::Prometheus => prometheus(&families),
            Format::OpenMetrics => openmetrics(families),
        }
    }
}

/// How much one type is wanted: by its most specific range, in thousandths.
#[derive(Default)]
struct Preference {
    /// 0: not named at all, or by `*/*`; 1: `type/*`; 2: by name.
    specificity: u8,
    quality: u16,
}

impl Preference {
    fn of(accept: &str, kind: &str, subtype: &str, versions: &[&str]) -> Self {
        let mut best = Self::default();
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let (named_kind, named_subtype) = parts.next().and_then(|range| range.split_once('/')).unwrap_or_default();
            let specificity = match (named_kind, named_subtype) {
                ("*", "*") => 0,
                (named, "*") if named.eq_ignore_ascii_case(kind) => 1,
                (named, sub) if named.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subtype) => 2,
                _ => continue,
            };
            let (mut quality, mut fits) = (1000, true);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match key.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = (value.parse().unwrap_or(0.0f64).clamp(0.0, 1.0) * 1000.0).round() as u16,
                    "version" => fits = versions.contains(&value),
                    _ => {}
                }
            }
            if fits && (specificity > best.specificity || specificity == best.specificity && quality > best.quality) {
                best = Self { specificity, quality };
            }
        }
        best
    }
}

/// Version 0.0.4, written by ourselves: prometheus-client knows OpenMetrics only, where a counter's family lacks the
/// `_total` that readers of the older format insist on.
fn prometheus(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        write_family(&mut text, family).expect("writing to a string cannot fail");
    }
    text
}

fn write_family(text: &mut String, family: &Family) -> fmt::Result {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge | Kind::Info => "gauge",
        Kind::Untyped => "untyped",
        Kind::Histogram => "histogram",
    };
    writeln!(text, "# HELP {} {}", family.name, family.help.replace('\\', r"\\").replace('\n', r"\n"))?;
    writeln!(text, "# TYPE {} {kind}", family.name)?;
    for sample in &family.samples {
        let labels: Vec<(&str, &str)> = family.labels_of(sample).collect();
        let labels = || labels.iter().copied();
        match &sample.value {
            Value::Count(count) => {
                write_name(text, family.name, "", labels())?;
                writeln!(text, " {count}")?;
            }
            Value::Real(real) => {
                write_name(text, family.name, "", labels())?;
                writeln!(text, " {real}")?;
            }
            Value::Histogram { buckets, sum } => {
                let mut seen = 0;
                for (bound, count) in buckets {
                    seen += count;
                    // As OpenMetrics wants it (`1.0`, not `1`), so that both formats make the same series.
                    let bound = if bound.is_infinite() { "+Inf".to_owned() } else { format!("{bound:?}") };
                    write_name(text, family.name, "_bucket", labels().chain([("le", bound.as_str())]))?;
                    writeln!(text, " {seen}")?;
                }
                write_name(text, family.name, "_sum", labels())?;
                writeln!(text, " {sum}")?;
                write_name(text, family.name, "_count", labels())?;
                writeln!(text, " {seen}")?;
            }
        }
    }
    Ok(())
}

/// `name{label="value"}`, with what has to be escaped.
pub(super) fn write_name<'a>(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: impl Iterator<Item = (&'a str, &'a str)>,
) -> fmt::Result {
    write!(text, "{name}{suffix}")?;
    let mut open = '{';
    for (label, value) in labels {
        write!(text, "{open}{label}=\"")?;
        for character in value.chars() {
            match character {
                '\\' => text.push_str(r"\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str(r"\n"),
                other => text.push(other),
            }
        }
        text.push('"');
        open = ',';
    }
    if open == ',' {
        text.push('}');
    }
    Ok(())
}

/// OpenMetrics 1.0, written by the official library.
fn openmetrics(families: Vec<Family>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(families)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("writing to a string cannot fail");
    text
}

#[derive(Debug)]
struct Collected(Vec<Family>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in &self.0 {
            // OpenMetrics names the family without the suffix of its samples; the library puts it back.
            let (name, kind) = match family.kind {
                Kind::Counter => (family.name.strip_suffix("_total"), MetricType::Counter),
                Kind::Info => (family.name.strip_suffix("_info"), MetricType::Info),
                Kind::Gauge => (None, MetricType::Gauge),
                Kind::Untyped => (None, MetricType::Unknown),
                Kind::Histogram => (None, MetricType::Histogram),
            };
            let mut encoder = encoder.encode_descriptor(name.unwrap_or(family.name), family.help, None, kind)?;
            for sample in &family.samples {
                let labels: Vec<_> = family.labels_of(sample).collect();
                if family.kind == Kind::Info {
                    encoder.encode_info(&labels)?;
                } else if labels.is_empty() {
                    encode_value(&mut encoder, family.kind, &sample.value)?;
                } else {
                    encode_value(&mut encoder.encode_family(&labels)?, family.kind, &sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(encoder: &mut MetricEncoder, kind: Kind, value: &Value) -> fmt::Result {
    match (kind, value) {
        (_, Value::Histogram { buckets, sum }) => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
        (Kind::Counter, Value::Count(count)) => encoder.encode_counter::<NoLabelSet, _, f64>(count, None),
        (Kind::Counter, Value::Real(real)) => encoder.encode_counter::<NoLabelSet, _, f64>(real, None),
        (_, Value::Count(count)) => encoder.encode_gauge(count),
        (_, Value::Real(real)) => encoder.encode_gauge(real),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::metrics::families::Sample;
    use crate::metrics::{Alias, families, made_up};
    use crate::route::{Role, RouteName, VersionHash};

    /// Reads either format strictly enough for our own text: series (name and labels, unescaped) with their numbers.
    fn read(text: &str) -> BTreeMap<(String, Vec<(String, String)>), f64> {
        let mut all = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let end = line.find(['{', ' ']).expect("a name ends");
            let (name, mut rest) = line.split_at(end);
            let mut labels = Vec::new();
            if let Some(inside) = rest.strip_prefix('{') {
                rest = inside;
                while !rest.starts_with('}') {
                    let (label, after) = rest.split_once("=\"").expect("a label has a value");
                    let mut value = String::new();
                    let mut characters = after.char_indices();
                    let closed = loop {
                        match characters.next().expect("a value ends") {
                            (_, '\\') => value.push(match characters.next() {
                                Some((_, 'n')) => '\n',
                                Some((_, escaped @ ('\\' | '"'))) => escaped,
                                other => panic!("unknown escape {other:?}"),
                            }),
                            (at, '"') => break at,
                            (_, other) => value.push(other),
                        }
                    };
                    labels.push((label.to_owned(), value));
                    rest = &after[closed + 1..];
                    rest = rest.strip_prefix(',').unwrap_or(rest);
                }
                rest = &rest[1..];
            }
            labels.sort();
            let number = rest.strip_prefix(' ').expect("a space stands before the number").parse().expect("a number");
            assert_eq!(all.insert((name.to_owned(), labels), number), None, "twice: {line}");
        }
        all
    }

    const KINDS: [(&str, Kind, &[&str]); 6] = [
        ("a_total", Kind::Counter, &["x", "y"]),
        ("b", Kind::Gauge, &["x"]),
        ("c_seconds", Kind::Histogram, &["x"]),
        ("d_info", Kind::Info, &["x", "y"]),
        ("e", Kind::Gauge, &[]),
        ("f_requests", Kind::Untyped, &["x"]),
    ];

    fn some_value(kind: Kind) -> BoxedStrategy<Value> {
        let real = prop_oneof![Just(0.0), 0.0..1e-6f64, 0.0..1.0f64, 0.0..1e18f64];
        match kind {
            Kind::Info => Just(Value::Count(1)).boxed(),
            Kind::Histogram => (prop::collection::vec(0..1000u64, 4), real)
                .prop_map(|(counts, sum)| Value::Histogram {
                    buckets: [0.005, 1.0, 10.0, f64::INFINITY].into_iter().zip(counts).collect(),
                    sum,
                })
                .boxed(),
            Kind::Counter | Kind::Gauge | Kind::Untyped => {
                prop_oneof![any::<u64>().prop_map(Value::Count), real.prop_map(Value::Real)].boxed()
            }
        }
    }

    fn some_families() -> impl Strategy<Value = Vec<Family>> {
        let text = prop_oneof!["[a-z0-9-]{0,5}", "[\\\\\"\n{}, =#a]{0,6}", "\\PC{0,4}"];
        let family = move |(name, kind, labels): (&'static str, Kind, &'static [&'static str])| {
            // No labels: one series.
            let most = if labels.is_empty() { 1 } else { 4 };
            prop::collection::btree_map(prop::collection::vec(text.clone(), labels.len()), some_value(kind), 0..=most)
                .prop_map(move |samples| Family {
                    name,
                    kind,
                    labels,
                    help: "Help.",
                    samples: samples
                        .into_iter()
                        .map(|(labels, value)| Sample { labels: labels.into_iter().map(Cow::Owned).collect(), value })
                        .collect(),
                })
        };
        KINDS.map(family).into_iter().collect::<Vec<_>>()
    }

    proptest! {
        #[test]
        fn both_formats_always_carry_the_same_series_with_the_same_numbers(families in some_families()) {
            let expected: usize = families
                .iter()
                .flat_map(|family| &family.samples)
                .map(|sample| if let Value::Histogram { buckets, .. } = &sample.value { buckets.len() + 2 } else { 1 })
                .sum();
            let prometheus = read(&Format::Prometheus.write(families.clone()));
            for family in families.iter().filter(|family| family.kind != Kind::Histogram) {
                for sample in &family.samples {
                    let mut labels: Vec<_> =
                        family.labels.iter().zip(&sample.labels).map(|(name, value)| (name.to_string(), value.to_string())).collect();
                    labels.sort();
                    let number = match sample.value {
                        Value::Count(count) => count as f64,
                        Value::Real(real) => real,
                        Value::Histogram { .. } => unreachable!(),
                    };
                    prop_assert_eq!(prometheus.get(&(family.name.to_owned(), labels)), Some(&number));
                }
            }
            prop_assert_eq!(prometheus.len(), expected);
            prop_assert_eq!(prometheus, read(&Format::OpenMetrics.write(families)));
        }
    }

    #[test]
    fn what_the_process_counts_is_the_same_in_both_formats() {
        let (_publisher, live) = made_up::live(&[("sta\"b\\le\n", Role::Stable, 1), ("canary", Role::Canary, 1)]);
        let mut metrics = made_up::metrics(2, live);
        metrics.aliases = vec![Alias::Istio, Alias::Nginx];
        metrics.version(1, 0, &VersionHash::new("canary"), Role::Canary).duration.record(3_000_000_000);
        metrics.route(&RouteName::new("testers"));
        let families = families::collect(&metrics, false);
        let prometheus = read(&Format::Prometheus.write(families.clone()));
        assert!(prometheus.len() > 100);
        assert!(prometheus.keys().any(|(_, labels)| labels.iter().any(|(_, value)| value == "sta\"b\\le\n")));
        assert_eq!(prometheus, read(&Format::OpenMetrics.write(families)));
    }

    #[test]
    fn the_two_formats_look_as_their_readers_expect() {
        let families = || {
            vec![
                Family {
                    name: "a_total",
                    kind: Kind::Counter,
                    labels: &["x"],
                    help: "Counts.",
                    samples: vec![Sample { labels: vec!["\\ \" \n".into()], value: Value::Count(3) }],
                },
                Family {
                    name: "b_seconds",
                    kind: Kind::Histogram,
                    labels: &[],
                    help: "Times.",
                    samples: vec![Sample {
                        labels: vec![],
                        value: Value::Histogram { buckets: vec![(0.5, 1), (1.0, 0), (f64::INFINITY, 2)], sum: 4.5 },
                    }],
                },
                Family {
                    name: "c_info",
                    kind: Kind::Info,
                    labels: &["v"],
                    help: "Facts.",
                    samples: vec![Sample { labels: vec!["1".into()], value: Value::Count(1) }],
                },
            ]
        };
        assert_eq!(
            Format::Prometheus.write(families()),
            r#"# HELP a_total Counts.
# TYPE a_total counter
a_total{x="\\ \" \n"} 3
# HELP b_seconds Times.
# TYPE b_seconds histogram
b_seconds_bucket{le="0.5"} 1
b_seconds_bucket{le="1.0"} 1
b_seconds_bucket{le="+Inf"} 3
b_seconds_sum 4.5
b_seconds_count 3
# HELP c_info Facts.
# TYPE c_info gauge
c_info{v="1"} 1
"#
        );
        assert_eq!(
            Format::OpenMetrics.write(families()),
            r#"# HELP a Counts.
# TYPE a counter
a_total{x="\\ \" \n"} 3
# HELP b_seconds Times.
# TYPE b_seconds histogram
b_seconds_sum 4.5
b_seconds_count 3
b_seconds_bucket{le="0.5"} 1
b_seconds_bucket{le="1.0"} 1
b_seconds_bucket{le="+Inf"} 3
# HELP c Facts.
# TYPE c info
c_info{v="1"} 1
# EOF
"#
        );
    }

    #[test]
    fn openmetrics_is_written_only_for_those_who_ask_for_it() {
        use Format::{OpenMetrics, Prometheus};
        for (accept, expected) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Prometheus),
            ("application/json", Prometheus),
            ("text/plain", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8", OpenMetrics),
            ("application/openmetrics-text; version=1.0.0, text/plain", OpenMetrics),
            ("application/openmetrics-text;q=0.4,text/plain;q=0.5", Prometheus),
            ("application/openmetrics-text;q=0", Prometheus),
            ("application/openmetrics-text;q=0,*/*", Prometheus),
            ("application/openmetrics-text;version=0.0.1", Prometheus),
            ("application/openmetrics-text;q=x,text/plain;q=0.1", Prometheus),
            (";;,=,/", Prometheus),
            // Prometheus 2.42.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            // Prometheus 3 that prefers protobuf, which we do not speak.
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
                 application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                OpenMetrics,
            ),
            // The same, told to use the older text.
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4,*/*;q=0.1", Prometheus),
        ] {
            assert_eq!(Format::wanted(accept), expected, "{accept}");
        }
    }
}
