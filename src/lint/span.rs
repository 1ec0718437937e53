//! Spans of time, as Argo Rollouts reads and people write them.

/// What a pause's duration means, in whole seconds: a number, a number in quotes, or a Go duration. `None`: the
/// controller refuses it.
pub(super) fn pause(text: &str) -> Option<u64> {
    match text.parse::<i32>() {
        Ok(seconds) => u64::try_from(seconds).ok(),
        // Cut to whole seconds, as the controller does.
        Err(_) => go(text).map(|seconds| seconds as u64),
    }
}

/// Go's `time.ParseDuration`, for durations that are not negative: `1h30m`, `1.5h`, `300ms`, `0`. In seconds.
pub(super) fn go(text: &str) -> Option<f64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..number_end].parse().ok()?;
        rest = &rest[number_end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[unit_end..];
    }
    // What Go's 64 bits of nanoseconds can hold.
    (seconds < 9.2e9).then_some(seconds)
}

/// `90` is `1m30s`.
pub(super) fn written(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let parts = [(hours, "h"), (minutes, "m"), (seconds, "s")];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_are_read_as_the_controller_reads_them() {
        for (text, seconds) in
            [("60", 60), ("1m", 60), ("1h30m", 5400), ("1.5h", 5400), ("300ms", 0), ("0", 0), ("+5s", 5), ("1m.5s", 60)]
        {
            assert_eq!(pause(text), Some(seconds), "{text}");
        }
        for text in ["1d", "", "-1", "-5s", "5 m", "m", "1h 30m", "5min", ".s", "9999999999999h"] {
            assert_eq!(pause(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(seconds in 0u64..2_000_000) {
            prop_assert_eq!(pause(&written(seconds)), Some(seconds));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            pause(&text);
        }
    }
}
