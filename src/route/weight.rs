//! Weights as people write them, read exactly: digits become integers, never floats.

use std::fmt;

use super::MAX_TOTAL;

/// Ten-thousandths of a percent, so that 100 % are exactly [`MAX_TOTAL`].
const PER_CENT: u32 = MAX_TOTAL / 100;
/// Digits after the decimal point of a percentage.
const DECIMALS: usize = 4;

/// One weight as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// `495`: out of whatever all weights add up to.
    Plain(u32),
    /// `50.5%`, in ten-thousandths of a percent.
    Percent(u32),
}

/// What is wrong with one weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    #[error("weights cannot be negative")]
    Negative,
    #[error("a weight with a decimal point needs a percent sign")]
    DecimalWithoutPercent,
    #[error("a percentage has at most {DECIMALS} digits after the point")]
    TooFine,
    #[error("a percentage is at most 100 %")]
    AboveHundred,
    #[error("a weight is at most {MAX_TOTAL}")]
    TooLarge,
    #[error("it is neither a whole number nor a percentage")]
    NotANumber,
}

/// What is wrong with weights taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SumError {
    /// The index of the first one that is not like the first of all.
    Mixed(usize),
    /// What the percentages add up to, in ten-thousandths of a percent.
    NotHundred(u64),
}

impl Weight {
    pub fn parse(text: &str) -> Result<Self, WeightError> {
        if let Some(number) = text.strip_suffix('%') {
            return percent(number.trim_end_matches(' ')).map(Weight::Percent);
        }
        match text.strip_prefix('-') {
            Some(rest) if is_number(rest) => Err(WeightError::Negative),
            _ if !is_number(text) => Err(WeightError::NotANumber),
            _ if text.contains('.') => Err(WeightError::DecimalWithoutPercent),
            _ => match text.parse::<u32>() {
                Ok(weight) if weight <= MAX_TOTAL => Ok(Weight::Plain(weight)),
                _ => Err(WeightError::TooLarge),
            },
        }
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Weight::Plain(weight) => weight.fmt(f),
            Weight::Percent(units) => f.write_str(&percentage(u64::from(*units))),
        }
    }
}

/// `945000` as `94.5%`.
pub fn percentage(units: u64) -> String {
    let (whole, part) = (units / u64::from(PER_CENT), units % u64::from(PER_CENT));
    if part == 0 {
        return format!("{whole}%");
    }
    let digits = format!("{part:0DECIMALS$}");
    format!("{whole}.{}%", digits.trim_end_matches('0'))
}

/// Integers in the same ratio. Plain weights stay what they are. Percentages are scaled by the least power of ten that
/// makes all of them whole, so that 94.5 % and 5.5 % become 945 and 55 of 1000.
pub fn whole(weights: &[Weight]) -> Result<Vec<u32>, SumError> {
    let is_percent = |weight: &Weight| matches!(weight, Weight::Percent(_));
    let Some(first) = weights.first() else { return Ok(Vec::new()) };
    if let Some(other) = weights.iter().position(|weight| is_percent(weight) != is_percent(first)) {
        return Err(SumError::Mixed(other));
    }
    let units: Vec<u32> = weights
        .iter()
        .map(|weight| match weight {
            Weight::Plain(weight) | Weight::Percent(weight) => *weight,
        })
        .collect();
    if !is_percent(first) {
        return Ok(units);
    }
    let sum: u64 = units.iter().map(|units| u64::from(*units)).sum();
    if sum != u64::from(MAX_TOTAL) {
        return Err(SumError::NotHundred(sum));
    }
    let mut scale = PER_CENT;
    while units.iter().any(|units| units % scale != 0) {
        scale /= 10;
    }
    Ok(units.into_iter().map(|units| units / scale).collect())
}

/// A percentage without its sign, as so many of so many: `5.5` is 55 of 1000.
pub fn part(number: &str) -> Result<(u32, u32), WeightError> {
    let units = percent(number.trim_end_matches(' '))?;
    match whole(&[Weight::Percent(units), Weight::Percent(MAX_TOTAL - units)]).as_deref() {
        Ok([part, rest]) => Ok((*part, part + rest)),
        _ => Err(WeightError::AboveHundred),
    }
}

fn percent(number: &str) -> Result<u32, WeightError> {
    if number.strip_prefix('-').is_some_and(is_number) {
        return Err(WeightError::Negative);
    }
    if !is_number(number) {
        return Err(WeightError::NotANumber);
    }
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let part = part.trim_end_matches('0');
    let whole: u32 = whole.parse().map_err(|_| WeightError::AboveHundred)?;
    if part.len() > DECIMALS {
        return Err(WeightError::TooFine);
    }
    let part: u32 = format!("{part:0<DECIMALS$}").parse().map_err(|_| WeightError::NotANumber)?;
    match whole.checked_mul(PER_CENT).and_then(|whole| whole.checked_add(part)) {
        Some(units) if units <= MAX_TOTAL => Ok(units),
        _ => Err(WeightError::AboveHundred),
    }
}

/// Digits, or digits, a point and digits.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part),
        None => digits(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<Weight, WeightError>) {
        assert_eq!(Weight::parse(text), expected, "{text:?}");
    }

    #[test]
    fn weights_are_read_exactly() {
        check("0", Ok(Weight::Plain(0)));
        check("505", Ok(Weight::Plain(505)));
        check("007", Ok(Weight::Plain(7)));
        check("1000000", Ok(Weight::Plain(1_000_000)));
        check("5.5%", Ok(Weight::Percent(55_000)));
        check("94.50 %", Ok(Weight::Percent(945_000)));
        check("0.0001%", Ok(Weight::Percent(1)));
        check("33.333300000%", Ok(Weight::Percent(333_333)));
        check("100%", Ok(Weight::Percent(1_000_000)));
        check("0%", Ok(Weight::Percent(0)));
    }

    #[test]
    fn what_is_no_weight_says_why() {
        check("-1", Err(WeightError::Negative));
        check("-0.5%", Err(WeightError::Negative));
        check("5.5", Err(WeightError::DecimalWithoutPercent));
        check("0.00001%", Err(WeightError::TooFine));
        check("100.0001%", Err(WeightError::AboveHundred));
        check("99999999999%", Err(WeightError::AboveHundred));
        check("1000001", Err(WeightError::TooLarge));
        check("99999999999999999999", Err(WeightError::TooLarge));
        for text in ["", "%", ".5%", "5.%", "1e3", "0x10", "+5", "1_000", "five", "5 5", "٥", "5%%", "NaN", "1.2.3%"] {
            check(text, Err(WeightError::NotANumber));
        }
    }

    #[test]
    fn percentages_become_the_smallest_total_that_is_a_power_of_ten() {
        let whole = |texts: &[&str]| whole(&texts.iter().map(|text| Weight::parse(text).unwrap()).collect::<Vec<_>>());
        assert_eq!(whole(&["94.5%", "5.5%"]), Ok(vec![945, 55]));
        assert_eq!(whole(&["50%", "50.0%"]), Ok(vec![50, 50]));
        assert_eq!(whole(&["99.9999%", "0.0001%"]), Ok(vec![999_999, 1]));
        assert_eq!(whole(&["100%", "0%"]), Ok(vec![100, 0]));
        assert_eq!(whole(&["495", "505"]), Ok(vec![495, 505]));
        assert_eq!(whole(&["95", "5%"]), Err(SumError::Mixed(1)));
        assert_eq!(whole(&["95%", "4.9%"]), Err(SumError::NotHundred(999_000)));
    }

    proptest! {
        #[test]
        fn a_percentage_survives_being_printed(units in 0u32..=MAX_TOTAL) {
            prop_assert_eq!(Weight::parse(&Weight::Percent(units).to_string()), Ok(Weight::Percent(units)));
        }

        #[test]
        fn percentages_that_add_up_keep_their_ratio(units in 0u32..=MAX_TOTAL) {
            let whole = whole(&[Weight::Percent(units), Weight::Percent(MAX_TOTAL - units)]).unwrap();
            let total = whole[0] + whole[1];
            prop_assert!([100, 1_000, 10_000, 100_000, 1_000_000].contains(&total));
            prop_assert_eq!(u64::from(whole[0]) * u64::from(MAX_TOTAL), u64::from(units) * u64::from(total));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*|[-+0-9.% ]{0,12}") {
            let _ = Weight::parse(&text);
        }
    }
}
