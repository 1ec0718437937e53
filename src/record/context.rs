//! Where a request belongs in a trace, as its headers say it (W3C Trace Context, Recommendation of 23 November 2021).
//!
//! Pure: headers and random numbers in, decisions and headers out. What cannot be understood begins a new trace, and never
//! fails a request.

use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Of a whole trace, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

/// Of one span in it, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a client has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub trace: TraceId,
    pub span: SpanId,
    pub sampled: bool,
}

impl Parent {
    /// Of several lines none can be believed.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        let (line, other) = (lines.next()?, lines.next());
        if other.is_some() { None } else { Self::parse(line.as_bytes()) }
    }

    /// `00-<32 digits>-<16 digits>-<2 digits>`; what a later version adds stands behind another dash (section 3.2.4).
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let version = number(&known[..2])?;
        let is_whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => matches!(rest.first(), None | Some(b'-')),
        };
        if !is_whole || [2, 35, 52].iter().any(|dash| known[*dash] != b'-') {
            return None;
        }
        let (trace, span) = (number(&known[3..35])?, number(&known[36..52])?);
        let flags = number(&known[53..])?;
        // The numbers fit: they have as many digits as their types.
        (trace != 0 && span != 0).then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span as u64),
            sampled: flags & 1 == 1,
        })
    }
}

/// Hexadecimal digits; small letters only.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Our part of a request's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: TraceId,
    /// The client's span, if it said one that can be understood.
    pub parent: Option<SpanId>,
    /// The span of the request here.
    pub span: SpanId,
    /// Whether spans are made. What follows us is told the same.
    pub sampled: bool,
}

impl Context {
    /// Continues the client's trace, or begins one; then what its `tracestate` says belongs to no trace that is known.
    pub fn begin(headers: &mut HeaderMap, sampler: Sampler, mut random: impl FnMut() -> u64) -> Self {
        let parent = Parent::of(headers);
        let span = SpanId(random().max(1));
        match parent {
            Some(Parent { trace, span: parent, sampled }) => {
                let sampled = sampler.samples(Some(sampled), trace);
                Self { trace, parent: Some(parent), span, sampled }
            }
            None => {
                headers.remove(TRACEPARENT);
                headers.remove(TRACESTATE);
                let trace = TraceId((u128::from(random()) << 64 | u128::from(random())).max(1));
                Self { trace, parent: None, span, sampled: sampler.samples(None, trace) }
            }
        }
    }

    /// What the application is told: `span` is what asks it.
    pub fn to_header(self, span: SpanId) -> HeaderValue {
        let text = format!("00-{}-{span}-{:02x}", self.trace, u8::from(self.sampled));
        HeaderValue::try_from(text).expect("hexadecimal digits and dashes are visible ASCII")
    }
}

/// Which traces have spans: `OTEL_TRACES_SAMPLER` and its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// Whatever the client says.
    Root(Root),
    /// As the client says; the rest as this says.
    ByParent(Root),
}

/// For traces by themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Root {
    All,
    None,
    /// A part of them, from 0 to 1: the same traces wherever the same part is asked for.
    Ratio(f64),
}

impl Sampler {
    const NAMES: [&str; 6] = [
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ];

    /// As the variables say it.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let root = |name: &str| match name {
            "always_on" => Ok(Root::All),
            "always_off" => Ok(Root::None),
            "traceidratio" => match argument.map_or(Ok(1.0), str::parse::<f64>) {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Root::Ratio(ratio)),
                _ => Err(format!(
                    "OTEL_TRACES_SAMPLER_ARG is {:?}; expected a number from 0 to 1, such as 0.05",
                    argument.unwrap_or_default()
                )),
            },
            _ => Err(format!("OTEL_TRACES_SAMPLER is {name:?}; expected one of {}", Self::NAMES.join(", "))),
        };
        match name.strip_prefix("parentbased_") {
            Some(name) => root(name).map(Self::ByParent),
            None => root(name).map(Self::Root),
        }
    }

    fn samples(self, parent: Option<bool>, trace: TraceId) -> bool {
        let root = match (self, parent) {
            (Self::ByParent(_), Some(sampled)) => return sampled,
            (Self::ByParent(root) | Self::Root(root), _) => root,
        };
        match root {
            Root::All => true,
            Root::None => false,
            // As the SDKs of OpenTelemetry have it, so that all agree: by the last 63 bits.
            Root::Ratio(ratio) => ((trace.0 as u64) >> 1) < (ratio * (1u64 << 63) as f64) as u64,
        }
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::ByParent(Root::All)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_the_recommendation_allows_is_taken_and_nothing_else() {
        let good = Parent {
            trace: TraceId(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
            span: SpanId(0xb7ad_6b71_6920_3331),
            sampled: true,
        };
        for (text, expected) in [
            (GOOD.to_owned(), Some(good)),
            (GOOD.replace("-01", "-00"), Some(Parent { sampled: false, ..good })),
            // Other flags mean nothing here.
            (GOOD.replace("-01", "-fe"), Some(Parent { sampled: false, ..good })),
            (GOOD.replace("-01", "-09"), Some(good)),
            // Later versions.
            (GOOD.replacen("00", "01", 1), Some(good)),
            (GOOD.replacen("00", "cc", 1) + "-what-the-future-will-be", Some(good)),
            (GOOD.replacen("00", "cc", 1) + ".what-the-future-will-not-be", None),
            (GOOD.replacen("00", "ff", 1), None),
            (GOOD.to_owned() + "-more", None),
            (GOOD.to_owned() + " ", None),
            (GOOD[..54].to_owned(), None),
            (GOOD.to_uppercase(), None),
            (GOOD.replacen('-', "_", 1), None),
            (GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), None),
            (GOOD.replace("b7ad6b7169203331", &"0".repeat(16)), None),
            (GOOD.replace("0af7", "0ag7"), None),
            (GOOD.replacen("00", ".0", 1), None),
            (GOOD.replace("-01", "-.1"), None),
            (String::new(), None),
        ] {
            assert_eq!(Parent::parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_trace_is_continued_with_its_state_or_begun_without_one() {
        let mut known = headers(&[(TRACEPARENT, GOOD), (TRACESTATE, "a=1"), (TRACESTATE, "b=2")]);
        let mut random = 0;
        let mut next = || {
            random += 1;
            random
        };
        let context = Context::begin(&mut known, Sampler::default(), &mut next);
        assert_eq!(context.parent, Some(SpanId(0xb7ad_6b71_6920_3331)));
        assert!(context.sampled);
        assert_eq!(known.get_all(TRACESTATE).iter().count(), 2);
        let header = context.to_header(SpanId(7));
        assert_eq!(header, "00-0af7651916cd43dd8448eb211c80319c-0000000000000007-01");
        for lines in [vec![(TRACEPARENT, GOOD), (TRACEPARENT, GOOD)], vec![(TRACEPARENT, "nonsense")], vec![]] {
            let mut unknown = headers(&lines);
            unknown.insert(TRACESTATE, HeaderValue::from_static("a=1"));
            let context = Context::begin(&mut unknown, Sampler::ByParent(Root::None), &mut next);
            assert_eq!((context.parent, context.sampled), (None, false));
            assert!(unknown.is_empty());
            assert!(Parent::parse(context.to_header(context.span).as_bytes()).is_some());
        }
    }

    #[test]
    fn samplers_are_named_as_the_specification_has_it() {
        for name in Sampler::NAMES {
            assert!(Sampler::parse(name, None).is_ok(), "{name}");
        }
        let ratio = |argument| Sampler::parse("parentbased_traceidratio", Some(argument));
        assert_eq!(ratio("0.25"), Ok(Sampler::ByParent(Root::Ratio(0.25))));
        for wrong in ["", "2", "-1", "half", "NaN"] {
            assert!(ratio(wrong).is_err_and(|error| error.contains("from 0 to 1")), "{wrong}");
        }
        assert!(Sampler::parse("jaeger_remote", None).is_err_and(|error| error.contains("always_off")));
    }

    #[test]
    fn a_part_of_the_traces_is_that_part_and_parents_are_obeyed() {
        let mut state = 1u64;
        let mut trace = || {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            TraceId(u128::from(state ^ state >> 29))
        };
        let quarter = Sampler::ByParent(Root::Ratio(0.25));
        let sampled = (0..100_000).filter(|_| quarter.samples(None, trace())).count();
        // Nine standard deviations of a fair draw.
        assert!((23_700..26_300).contains(&sampled), "{sampled}");
        assert!(quarter.samples(Some(true), TraceId(u128::MAX)) && !quarter.samples(Some(false), TraceId(1)));
        assert!(Sampler::Root(Root::All).samples(Some(false), TraceId(1)));
        assert!(Sampler::Root(Root::Ratio(1.0)).samples(None, TraceId(u128::MAX)));
        assert!(!Sampler::Root(Root::Ratio(0.0)).samples(None, TraceId(1)));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_we_say_is_understood(
            text in prop::collection::vec(any::<u8>(), 0..80),
            near in "[0-9a-f-]{50,60}",
            (trace, span, sampled) in (1u128.., 1u64.., any::<bool>()),
        ) {
            let _ = Parent::parse(&text);
            let _ = Parent::parse(near.as_bytes());
            let (trace, span) = (TraceId(trace), SpanId(span));
            let said = Context { trace, parent: None, span, sampled }.to_header(span);
            prop_assert_eq!(Parent::parse(said.as_bytes()), Some(Parent { trace, span, sampled }));
        }
    }
}
