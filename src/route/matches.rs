//! Conditions on a request's head, and their evaluation.
//!
//! The words and their meaning follow the Gateway API's `HTTPRouteMatch` (conditions of one match are ANDed, several
//! matches ORed) with Envoy's rule that a regular expression must match the *whole* value. Header names ignore case,
//! values do not. When a header appears several times, one line that fits is enough; `absent` wants none at all. Of two
//! cookies or query parameters with the same name the first one counts. Values are compared as received: nothing is
//! percent-decoded, because two readers could decode differently.

use http::header::{COOKIE, HeaderName};
use regex::bytes::Regex;

use super::Head;

/// One match: all of its conditions must hold. A match without conditions cannot be written in a file.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Any of these methods, case-sensitive; empty: every method.
    pub methods: Vec<String>,
    pub path: Option<PathMatch>,
    pub headers: Vec<(HeaderName, ValueMatch)>,
    pub cookies: Vec<(String, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    /// Members of the W3C `baggage` header, by key.
    pub baggage: Vec<(String, ValueMatch)>,
}

/// A condition on one value.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    /// Compiled by [`whole`].
    Regex(Regex),
    Present,
    Absent,
}

/// A condition on the path.
#[derive(Clone, Debug)]
pub enum PathMatch {
    Exact(String),
    /// By whole segments: `/shop` holds for `/shop` and `/shop/a`, not for `/shopping`. Stored without a final `/`.
    Prefix(String),
    Regex(Regex),
}

/// The largest compiled size of one expression, in bytes.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// Compiles an expression (RE2-like syntax of the `regex` crate) that must match the whole value.
pub fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    // Parsed and printed again, the pattern carries no flags, comments or stray brackets that could change the frame.
    let inner = regex_syntax::ParserBuilder::new()
        .utf8(false)
        .build()
        .parse(pattern)
        .map_err(|error| regex::Error::Syntax(error.to_string()))?;
    regex::bytes::RegexBuilder::new(&format!(r"\A(?:{inner})\z")).size_limit(REGEX_SIZE_LIMIT).build()
}

impl PathMatch {
    pub fn prefix(path: &str) -> Self {
        PathMatch::Prefix(path.trim_end_matches('/').to_owned())
    }

    fn holds(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(wanted) => path == wanted,
            PathMatch::Prefix(wanted) => {
                path.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Regex(wanted) => wanted.is_match(path.as_bytes()),
        }
    }
}

impl ValueMatch {
    /// `values` are all values that the request has under the name.
    fn holds<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        match self {
            ValueMatch::Exact(wanted) => values.any(|value| value == wanted),
            ValueMatch::Prefix(wanted) => values.any(|value| value.starts_with(wanted)),
            ValueMatch::Suffix(wanted) => values.any(|value| value.ends_with(wanted)),
            ValueMatch::Regex(wanted) => values.any(|value| wanted.is_match(value)),
            ValueMatch::Present => values.next().is_some(),
            ValueMatch::Absent => values.next().is_none(),
        }
    }
}

impl Match {
    pub fn holds(&self, head: &impl Head) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| method == head.method()))
            && self.path.as_ref().is_none_or(|path| path.holds(head.path()))
            && self.headers.iter().all(|(name, value)| value.holds(head.values(name)))
            && self.cookies.iter().all(|(name, value)| value.holds(cookie(head, name).into_iter()))
            && self.query.iter().all(|(name, value)| value.holds(query(head, name).into_iter()))
            && self.baggage.iter().all(|(name, value)| value.holds(baggage(head, name).into_iter()))
    }
}

/// The first cookie of that name (RFC 6265 section 5.4 gives no meaning to a second one).
pub fn cookie<'a>(head: &'a impl Head, name: &str) -> Option<&'a [u8]> {
    head.values(&COOKIE).find_map(|line| {
        line.split(|byte| *byte == b';').find_map(|pair| {
            let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.trim_ascii();
            Some(value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value))
        })
    })
}

/// The first query parameter of that name; without `=` its value is empty.
pub fn query<'a>(head: &'a impl Head, name: &str) -> Option<&'a [u8]> {
    head.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value.as_bytes())
    })
}

static BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The value of one member of the `baggage` header (W3C Baggage, section 3.2), without its properties.
pub fn baggage<'a>(head: &'a impl Head, name: &str) -> Option<&'a [u8]> {
    head.values(&BAGGAGE).find_map(|line| {
        line.split(|byte| *byte == b',').find_map(|member| {
            let pair = member.split(|byte| *byte == b';').next()?;
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            (pair[..equals].trim_ascii() == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii())
        })
    })
}
