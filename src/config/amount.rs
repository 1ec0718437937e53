//! Amounts: whole numbers, durations, sizes, threads and weights, each with its unit and its range.

use std::time::Duration;

use schemars::{Schema, json_schema};

use super::leaf::{Kind, Printed, wrong};
use super::problem::{Complaint, quoted};
use crate::route::weight::{self, Weight, WeightError};
use crate::route::{MAX_TOTAL, Share};

/// A whole number in a range.
#[derive(Clone, Debug)]
pub(super) struct Count<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Kind for Count<MIN, MAX> {
    type Value = u64;

    fn what() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn parse(text: &str, plain: bool) -> Result<u64, Complaint> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && plain && (MIN..=MAX).contains(&number) => Ok(number),
            Ok(_) if digits && !plain => Err(wrong::<Self>(text).help("leave out the quotes")),
            _ => Err(wrong::<Self>(text)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }

    fn print<'a>(value: &u64, _: &'a str) -> Printed<'a> {
        Printed::Number(*value)
    }
}

/// A duration from `MIN` to `MAX` milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Lasting<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Kind for Lasting<MIN, MAX> {
    type Value = Duration;

    fn what() -> String {
        "a duration such as `500ms`, `10s` or `1h30m`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<Duration, Complaint> {
        let complaint = wrong::<Self>(text);
        if text.contains('.') {
            return Err(complaint.help("durations have no decimal point: write `1s500ms` instead of `1.5s`"));
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(complaint.help(format!("add a unit: `{text}s` or `{text}ms`")));
        }
        let duration = humantime::parse_duration(text).map_err(|error| match error {
            humantime::DurationError::Empty => complaint.clone(),
            error => complaint.clone().help(format!("{error}; units are ms, s, m, h and d")),
        })?;
        let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
        if !(min..=max).contains(&duration) {
            let what = format!("a duration from {} to {}", shown(MIN), shown(MAX));
            return Err(Complaint::expected(&what, &quoted(text)));
        }
        Ok(duration)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^\\s*([0-9]+\\s*[a-zµA-Z]+\\s*)+$" })
    }
}

/// The bounds are whole days, seconds or milliseconds.
fn shown(milliseconds: u64) -> String {
    match milliseconds {
        0 => "0s".to_owned(),
        days if days % DAY == 0 => format!("{}d", days / DAY),
        seconds if seconds % 1000 == 0 => format!("{}s", seconds / 1000),
        milliseconds => format!("{milliseconds}ms"),
    }
}

/// The longest wait that a setting may ask for.
const DAY: u64 = 24 * 60 * 60 * 1000;

/// Bounds on waiting: at least 1 ms, at most one day.
pub(super) type Wait = Lasting<1, DAY>;
/// May also be none at all.
pub(super) type Delay = Lasting<0, DAY>;
/// Browsers keep no cookie longer than 400 days (RFC 6265bis, section 5.5).
pub(super) type CookieAge = Lasting<1000, { 400 * DAY }>;
/// Often enough to notice, seldom enough for a resolver.
pub(super) type LookupInterval = Lasting<100, DAY>;

/// A number of bytes in a range.
#[derive(Clone, Debug)]
pub(super) struct Size<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Kind for Size<MIN, MAX> {
    type Value = u64;

    fn what() -> String {
        "a number of bytes such as `65536` or `64KiB`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<u64, Complaint> {
        let complaint = wrong::<Self>(text);
        if text.contains('.') {
            return Err(complaint.help("write a whole number, with a smaller unit if need be"));
        }
        // Checked here, because the parser takes the largest number for one that is too large.
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        if digits.parse::<u64>().is_err() {
            return Err(complaint);
        }
        let size = text
            .parse::<bytesize::ByteSize>()
            .map_err(|_| complaint.help("units are B, KiB, MiB, GiB (powers of 1024) and kB, MB, GB (powers of 1000)"))?
            .as_u64();
        if !(MIN..=MAX).contains(&size) {
            let what = format!("a number of bytes from {MIN} to {MAX}");
            return Err(Complaint::expected(&what, &quoted(text)));
        }
        Ok(size)
    }

    fn schema() -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": MIN, "maximum": MAX },
                { "type": "string", "pattern": "^[0-9]+\\s*[a-zA-Z]*$" },
            ]
        })
    }

    fn print<'a>(value: &u64, text: &'a str) -> Printed<'a> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            Printed::Number(*value)
        } else {
            Printed::Text(text.into())
        }
    }
}

/// A number of threads, or `auto`: as many as there are cores that may be used.
#[derive(Clone, Debug)]
pub(super) struct Workers;

/// More threads than any machine has cores.
const MOST_WORKERS: u64 = 1024;

impl Kind for Workers {
    type Value = Option<usize>;

    fn what() -> String {
        format!("a whole number from 1 to {MOST_WORKERS}, or `auto`")
    }

    fn parse(text: &str, plain: bool) -> Result<Self::Value, Complaint> {
        match text {
            "auto" => Ok(None),
            _ => match Count::<1, MOST_WORKERS>::parse(text, plain) {
                Ok(workers) => Ok(Some(workers as usize)),
                Err(_) => Err(wrong::<Self>(text)),
            },
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [Count::<1, MOST_WORKERS>::schema(), { "const": "auto" }] })
    }

    fn print<'a>(value: &Self::Value, text: &'a str) -> Printed<'a> {
        value.map_or(Printed::Text(text.into()), |workers| Printed::Number(workers as u64))
    }
}

/// A weight: see the module `weight`.
#[derive(Clone, Debug)]
pub(super) struct WeightKind;

impl Kind for WeightKind {
    type Value = Weight;

    fn what() -> String {
        "a weight such as `495` or `5.5%`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<Weight, Complaint> {
        Weight::parse(text).map_err(|error| {
            let help = match error {
                WeightError::DecimalWithoutPercent => {
                    format!("write `{}%`, or whole numbers with any total", shorten_number(text))
                }
                WeightError::NotANumber => "write digits only, or a percentage such as `5.5%`".to_owned(),
                WeightError::Negative => "write 0 to send nothing".to_owned(),
                WeightError::TooFine | WeightError::AboveHundred | WeightError::TooLarge => error.to_string(),
            };
            let complaint = wrong::<Self>(text);
            match error {
                WeightError::Negative | WeightError::DecimalWithoutPercent => complaint.note(error.to_string()),
                _ => complaint,
            }
            .help(help)
        })
    }

    fn schema() -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": crate::route::MAX_TOTAL },
                { "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? *%$" },
                { "type": "string", "pattern": "^[0-9]+$" },
            ]
        })
    }

    fn print<'a>(value: &Weight, _: &'a str) -> Printed<'a> {
        match value {
            Weight::Plain(weight) => Printed::Number(u64::from(*weight)),
            Weight::Percent(_) => Printed::Text(value.to_string().into()),
        }
    }
}

/// A part of all, in per cent, with or without the sign.
#[derive(Clone, Debug)]
pub(super) struct Percent;

impl Kind for Percent {
    type Value = Share;

    fn what() -> String {
        "a percentage from 0 to 100, such as `5` or `5.5`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<Share, Complaint> {
        let (weight, total) = weight::part(text.strip_suffix('%').unwrap_or(text)).map_err(|error| {
            let complaint = wrong::<Self>(text);
            match error {
                WeightError::NotANumber | WeightError::Negative => complaint,
                _ => complaint.help(error.to_string()),
            }
        })?;
        Share::new(weight, total).ok_or_else(|| wrong::<Self>(text))
    }

    fn schema() -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "number", "minimum": 0, "maximum": 100 },
                { "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? *%?$" },
            ]
        })
    }

    fn print<'a>(value: &Share, _: &'a str) -> Printed<'a> {
        let units = u64::from(value.weight()) * u64::from(MAX_TOTAL) / u64::from(value.total());
        let text = weight::percentage(units);
        match text.trim_end_matches('%').parse() {
            Ok(number) => Printed::Number(number),
            Err(_) => Printed::Text(text.into()),
        }
    }
}

fn shorten_number(text: &str) -> &str {
    text.get(..12).unwrap_or(text)
}
