//! The query strings of endpoints whose parameters are each said once.

use super::explain::decode;
use super::nearest;

/// The values of the named parameters, in their order. Says what is wrong in words for the person who asks.
pub fn parameters<const N: usize>(query: &str, names: [&'static str; N]) -> Result<[Option<String>; N], String> {
    parameters_read_by(query, names, |_, value| decode(value).map(Into::into))
}

/// The same, where `read` makes the value of a parameter out of what stands in the query.
pub fn parameters_read_by<const N: usize>(
    query: &str,
    names: [&'static str; N],
    read: impl Fn(&str, &str) -> Result<String, String>,
) -> Result<[Option<String>; N], String> {
    let mut values = [const { None }; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)?;
        let Some(place) = names.iter().position(|known| *known == name) else {
            let hint = match nearest(&name, names) {
                Some(close) => format!("did you mean {close}?"),
                None => format!("expected {}", names.join(", ")),
            };
            return Err(format!("{name:?} is not a parameter; {hint}"));
        };
        if values[place].replace(read(&name, value)?).is_some() {
            return Err(format!("{name} is there twice; expected it once"));
        }
    }
    Ok(values)
}

/// A parameter that is there or not, or says which.
pub fn flag(name: &str, text: Option<&str>) -> Result<bool, String> {
    match text {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(other) => Err(format!("{name} is {other:?}; expected true or false")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_parameter_is_in_its_place_once() {
        let read = |query| parameters(query, ["window", "port"]);
        assert_eq!(read("port=a%26b&&window="), Ok([Some(String::new()), Some("a&b".to_owned())]));
        assert_eq!(read(""), Ok([None, None]));
        for (query, part) in [
            ("windw=1", "did you mean window?"),
            ("q=1", "expected window, port"),
            ("port=1&port=2", "port is there twice"),
            ("port=%2", "two hexadecimal digits"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(part), "{query}: {error}");
        }
        assert_eq!(
            (flag("all", None), flag("all", Some("")), flag("all", Some("0"))),
            (Ok(false), Ok(true), Ok(false))
        );
        assert_eq!(flag("all", Some("perhaps")), Err("all is \"perhaps\"; expected true or false".to_owned()));
    }

    proptest! {
        #[test]
        fn no_query_string_panics(query in "[a-z%=&:+/0-9\\x00-\\xff]{0,40}") {
            let _ = parameters(&query, ["a", "b"]);
        }
    }
}
