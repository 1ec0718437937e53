//! Conditions on a request's head, and their evaluation.
//!
//! The words and their meaning follow the Gateway API's `HTTPRouteMatch` (conditions of one match are ANDed, several
//! matches ORed) with Envoy's rule that a regular expression must match the *whole* value. Header names ignore case,
//! values do not. When a header appears several times, one line that fits is enough; `absent` wants none at all. Of two
//! cookies or query parameters with the same name the first one counts. Values are compared as received: nothing is
//! percent-decoded, because two readers could decode differently.

use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION};
use regex::bytes::Regex;

use super::Head;

/// One match: all of its conditions must hold. A match without conditions cannot be written in a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// Any of these methods, case-sensitive; empty: every method.
    pub methods: Vec<String>,
    /// A condition on the method beyond a list of names, as the steps of a Rollout may have it.
    pub method: Option<ValueMatch>,
    pub path: Option<PathMatch>,
    pub headers: Vec<(HeaderName, ValueMatch)>,
    pub cookies: Vec<(String, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    /// Members of the W3C `baggage` header, by key.
    pub baggage: Vec<(String, ValueMatch)>,
}

/// A condition on one value.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Regex(Whole),
    Present,
    Absent,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    Exact(String),
    /// By whole segments: `/shop` holds for `/shop` and `/shop/a`, not for `/shopping`. Stored without a final `/`.
    Prefix(String),
    /// By characters, as Istio takes a prefix: `/shop` holds for `/shopping`, too.
    Start(String),
    Regex(Whole),
}

/// An expression that must match a whole value. Made by [`whole`].
#[derive(Clone, Debug)]
pub struct Whole {
    framed: Regex,
    written: Box<str>,
}

/// The largest compiled size of one expression, in bytes.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// Compiles an expression (RE2-like syntax of the `regex` crate) that must match the whole value.
pub fn whole(pattern: &str) -> Result<Whole, regex::Error> {
    // Parsed and printed again, the pattern carries no flags, comments or stray brackets that could change the frame.
    let inner = regex_syntax::ParserBuilder::new()
        .utf8(false)
        .build()
        .parse(pattern)
        .map_err(|error| regex::Error::Syntax(error.to_string()))?;
    let framed = regex::bytes::RegexBuilder::new(&format!(r"\A(?:{inner})\z")).size_limit(REGEX_SIZE_LIMIT).build()?;
    Ok(Whole { framed, written: pattern.into() })
}

impl PartialEq for Whole {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Whole {
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.framed.is_match(value)
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.written
    }
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
            PathMatch::Start(wanted) => path.starts_with(wanted.as_str()),
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
        self.first_failing(head).is_none()
    }

    /// The first condition that does not hold, in the order of the fields. Costs no more than knowing that there is one.
    pub fn first_failing<'a>(&'a self, head: &impl Head) -> Option<Condition<'a>> {
        if !self.methods.is_empty() && !self.methods.iter().any(|method| method == head.method()) {
            return Some(Condition::Method(&self.methods));
        }
        if let Some(path) = self.path.as_ref().filter(|path| !path.holds(head.path())) {
            return Some(Condition::Path(path));
        }
        if let Some((name, wanted)) = self.headers.iter().find(|(name, value)| !value.holds(head.values(name))) {
            return Some(Condition::Header(name, wanted));
        }
        let cookies = self.cookies.iter().find(|(name, value)| !value.holds(cookie(head, name).into_iter()));
        if let Some((name, wanted)) = cookies {
            return Some(Condition::Cookie(name, wanted));
        }
        let query = self.query.iter().find(|(name, value)| !value.holds(query(head, name).into_iter()));
        if let Some((name, wanted)) = query {
            return Some(Condition::Query(name, wanted));
        }
        let baggage = self.baggage.iter().find(|(name, value)| !value.holds(baggage(head, name).into_iter()));
        if let Some((name, wanted)) = baggage {
            return Some(Condition::Baggage(name, wanted));
        }
        // Rare, so it comes last, where only requests that are otherwise wanted pay for the question.
        let method = self.method.as_ref().filter(|wanted| !wanted.holds([head.method().as_bytes()].into_iter()));
        method.map(Condition::MethodIs)
    }
}

/// One condition of a match.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'a> {
    Method(&'a [String]),
    Path(&'a PathMatch),
    Header(&'a HeaderName, &'a ValueMatch),
    Cookie(&'a str, &'a ValueMatch),
    Query(&'a str, &'a ValueMatch),
    Baggage(&'a str, &'a ValueMatch),
    MethodIs(&'a ValueMatch),
}

impl Condition<'_> {
    /// Why it does not hold for this request, for people: what was found, and what was wanted.
    pub fn why_not(&self, head: &impl Head) -> String {
        match *self {
            Condition::Method(wanted) => format!("method is {}, not {}", head.method(), wanted.join(" or ")),
            Condition::Path(wanted) => {
                let path = shown(head.path().as_bytes());
                match wanted {
                    PathMatch::Exact(wanted) => format!("path is {path}, not {wanted:?}"),
                    PathMatch::Prefix(wanted) => format!("path {path} is not below \"{wanted}/\""),
                    PathMatch::Start(wanted) => format!("path {path} does not begin with {wanted:?}"),
                    PathMatch::Regex(wanted) => format!("path {path} is not wholly matched by {:?}", wanted.as_str()),
                }
            }
            Condition::Header(name, wanted) => {
                let found = head.values(name).map(|value| shown_header(name, value)).collect();
                unmet(&format!("header {name}"), found, wanted)
            }
            Condition::Cookie(name, wanted) => {
                unmet(&format!("cookie {name}"), cookie(head, name).map(shown).into_iter().collect(), wanted)
            }
            Condition::Query(name, wanted) => {
                unmet(&format!("query parameter {name}"), query(head, name).map(shown).into_iter().collect(), wanted)
            }
            Condition::Baggage(name, wanted) => {
                unmet(&format!("baggage member {name}"), baggage(head, name).map(shown).into_iter().collect(), wanted)
            }
            Condition::MethodIs(wanted) => unmet("method", vec![shown(head.method().as_bytes())], wanted),
        }
    }
}

fn unmet(what: &str, found: Vec<String>, wanted: &ValueMatch) -> String {
    if found.is_empty() {
        return format!("{what} is absent");
    }
    let what = format!("{what} is {}", found.join(" and "));
    match wanted {
        ValueMatch::Exact(wanted) => format!("{what}, not {}", shown(wanted)),
        ValueMatch::Prefix(wanted) => format!("{what}, which does not begin with {}", shown(wanted)),
        ValueMatch::Suffix(wanted) => format!("{what}, which does not end with {}", shown(wanted)),
        ValueMatch::Regex(wanted) => format!("{what}, which is not wholly matched by {:?}", wanted.as_str()),
        ValueMatch::Present | ValueMatch::Absent => format!("{what}, but should be absent"),
    }
}

/// How many characters of a value people are shown.
const SHOWN: usize = 80;

/// A value in quotes, with everything unprintable escaped, and cut when it is long.
pub fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], value.len()),
        None => format!("{text:?}"),
    }
}

/// The same for a header's value, unless it is a credential.
pub fn shown_header(name: &HeaderName, value: &[u8]) -> String {
    if [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(name) {
        return format!("(hidden, {} bytes)", value.len());
    }
    shown(value)
}

/// The first cookie of that name (RFC 6265 section 5.4 gives no meaning to a second one). Quotes around the value are
/// not part of it (section 4.1.1).
pub fn cookie<'a>(head: &'a impl Head, name: &str) -> Option<&'a [u8]> {
    cookies(head, name).next()
}

/// All cookies of that name, in order.
pub fn cookies<'a>(head: &'a impl Head, name: &str) -> impl Iterator<Item = &'a [u8]> {
    head.values(&COOKIE).flat_map(|line| line.split(|byte| *byte == b';')).filter_map(move |pair| {
        let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.trim_ascii();
        Some(value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value))
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::route::MadeUp;

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> MadeUp {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
            .collect();
        MadeUp::new(method, target, headers, [127, 0, 0, 1].into())
    }

    fn name(text: &str) -> HeaderName {
        text.parse().unwrap()
    }

    fn regex(pattern: &str) -> ValueMatch {
        ValueMatch::Regex(whole(pattern).unwrap())
    }

    fn exact(text: &str) -> ValueMatch {
        ValueMatch::Exact(text.into())
    }

    fn prefix(text: &str) -> ValueMatch {
        ValueMatch::Prefix(text.into())
    }

    /// Which of `values` the condition holds for, each sent alone in one header.
    fn check_value(wanted: ValueMatch, values: &[(&str, bool)]) {
        for (value, expected) in values {
            let one = Match { headers: vec![(name("x-a"), wanted.clone())], ..Match::default() };
            assert_eq!(one.holds(&head("GET", "/", &[("x-a", value)])), *expected, "{wanted:?} and {value:?}");
        }
    }

    #[test]
    fn each_kind_compares_as_its_name_says() {
        check_value(exact("42"), &[("42", true), ("042", false), ("421", false), ("", false)]);
        check_value(exact("Ab"), &[("Ab", true), ("ab", false)]);
        check_value(prefix("qa-"), &[("qa-", true), ("qa-1", true), ("xqa-", false), ("qa", false)]);
        check_value(ValueMatch::Suffix("-qa".into()), &[("-qa", true), ("1-qa", true), ("-qa1", false)]);
        check_value(regex("[0-9]+"), &[("42", true), ("42a", false), ("a42", false), ("", false), ("4\u{e9}", false)]);
        check_value(regex(".*"), &[("anything", true), ("", true)]);
        check_value(ValueMatch::Present, &[("", true), ("x", true)]);
        check_value(ValueMatch::Absent, &[("", false), ("x", false)]);
    }

    #[test]
    fn a_value_need_not_be_text() {
        let one = Match { headers: vec![(name("x-a"), regex(r"(?-u:\xff)+"))], ..Match::default() };
        let sent = |bytes: &[u8]| {
            MadeUp::new("GET", "/", vec![(name("x-a"), HeaderValue::from_bytes(bytes).unwrap())], [0; 4].into())
        };
        assert!(one.holds(&sent(b"\xff\xff")));
        assert!(!one.holds(&sent(b"\xff\xfe")));
    }

    #[test]
    fn header_names_ignore_case_and_one_fitting_line_is_enough() {
        let one = Match { headers: vec![(name("X-User"), exact("42"))], ..Match::default() };
        assert!(one.holds(&head("GET", "/", &[("x-USER", "42")])));
        assert!(one.holds(&head("GET", "/", &[("x-user", "1"), ("x-user", "42")])));
        // A list in one line is one value: only the application knows whether a comma separates.
        assert!(!one.holds(&head("GET", "/", &[("x-user", "1, 42")])));
        let none = Match { headers: vec![(name("x-user"), ValueMatch::Absent)], ..Match::default() };
        assert!(none.holds(&head("GET", "/", &[("x-users", "42")])));
        assert!(!none.holds(&head("GET", "/", &[("x-a", "1"), ("x-user", "")])));
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let check = |sent: &[&str], wanted: &str, expected: Option<&str>| {
            let lines: Vec<_> = sent.iter().map(|line| ("cookie", *line)).collect();
            let head = head("GET", "/", &lines);
            assert_eq!(cookie(&head, wanted), expected.map(str::as_bytes), "{wanted} in {sent:?}");
        };
        check(&["team=qa"], "team", Some("qa"));
        check(&["xteam=qa"], "team", None);
        check(&["teams=qa"], "team", None);
        check(&["Team=qa"], "team", None);
        check(&["team"], "team", None);
        check(&["team=", "team=qa"], "team", Some(""));
        check(&["xteam=a; team=b; teamx=c"], "team", Some("b"));
        check(&["x=team=a; team=b"], "team", Some("b"));
        check(&["a=1;team=b"], "team", Some("b"));
        check(&["a=1;  team=b  ;c"], "team", Some("b"));
        check(&["a=1", "team=b"], "team", Some("b"));
        check(&["team=a; team=b"], "team", Some("a"));
        check(&["team=a=b=="], "team", Some("a=b=="));
        check(&["team=\"qa 1\""], "team", Some("qa 1"));
        check(&["team=\""], "team", Some("\""));
        check(&["team=\"\""], "team", Some(""));
        check(&["team=\"a"], "team", Some("\"a"));
        // A semicolon ends a value, quoted or not: browsers do not know another way.
        check(&["a=\"; team=b\""], "team", Some("b\""));
        check(&[], "team", None);
        check(&[";;; ;"], "team", None);
    }

    #[test]
    fn a_query_parameter_is_compared_as_received() {
        let check = |target: &str, wanted: &str, expected: Option<&str>| {
            assert_eq!(query(&head("GET", target, &[]), wanted), expected.map(str::as_bytes), "{wanted} in {target}");
        };
        check("/?uid=42", "uid", Some("42"));
        check("/?xuid=1&uid=42&uidx=3", "uid", Some("42"));
        check("/?uid=1&uid=2", "uid", Some("1"));
        check("/?uid", "uid", Some(""));
        check("/?uid=", "uid", Some(""));
        check("/?uid=a%2Fb+c", "uid", Some("a%2Fb+c"));
        check("/?%75id=1", "uid", None);
        check("/?UID=1", "uid", None);
        check("/?a=b=c", "a", Some("b=c"));
        check("/?a=1;uid=2", "uid", None);
        check("/uid=1", "uid", None);
    }

    #[test]
    fn a_baggage_member_is_its_value_without_properties() {
        let check = |sent: &[&str], wanted: &str, expected: Option<&str>| {
            let lines: Vec<_> = sent.iter().map(|line| ("baggage", *line)).collect();
            let head = head("GET", "/", &lines);
            assert_eq!(baggage(&head, wanted), expected.map(str::as_bytes), "{wanted} in {sent:?}");
        };
        check(&["version=canary"], "version", Some("canary"));
        check(&["a=1, version = canary ;ttl=5;x, b=2"], "version", Some("canary"));
        check(&["xversion=1,versionx=2"], "version", None);
        check(&["a=1;version=2"], "version", None);
        check(&["a=1", "version=2"], "version", Some("2"));
        check(&["version=1,version=2"], "version", Some("1"));
        check(&["version=a=b"], "version", Some("a=b"));
        check(&["version", ","], "version", None);
    }

    #[test]
    fn a_path_is_compared_as_received() {
        let check = |wanted: PathMatch, paths: &[(&str, bool)]| {
            for (path, expected) in paths {
                let one = Match { path: Some(wanted.clone()), ..Match::default() };
                assert_eq!(one.holds(&head("GET", path, &[])), *expected, "{wanted:?} and {path}");
            }
        };
        check(
            PathMatch::Exact("/shop".into()),
            &[("/shop", true), ("/shop?a=b", true), ("/shop/", false), ("/Shop", false), ("/%73hop", false)],
        );
        for shop in ["/shop", "/shop/", "/shop//"] {
            check(
                PathMatch::prefix(shop),
                &[
                    ("/shop", true),
                    ("/shop/", true),
                    ("/shop/a", true),
                    ("/shop?x", true),
                    ("/shopping", false),
                    ("/shop%2Fa", false),
                    ("/sho", false),
                    ("/a/shop", false),
                ],
            );
        }
        check(PathMatch::prefix("/"), &[("/", true), ("/a", true), ("*", false)]);
        check(
            PathMatch::Regex(whole("/v[0-9]+/.*").unwrap()),
            &[("/v1/a", true), ("/v12/", true), ("/v1", false), ("/x/v1/a", false), ("/v1/a?/v1/b", true)],
        );
    }

    #[test]
    fn any_of_the_methods_is_enough() {
        let one = Match { methods: vec!["GET".into(), "HEAD".into()], ..Match::default() };
        assert!(one.holds(&head("HEAD", "/", &[])));
        assert!(!one.holds(&head("POST", "/", &[])));
        assert!(!one.holds(&head("get", "/", &[])));
    }

    /// A match with one condition of each sort, a head for which all hold, and for each condition a head for which only
    /// that one fails, with the words that say so.
    #[test]
    fn all_conditions_must_hold_and_the_first_that_fails_is_named() {
        let one = Match {
            methods: vec!["GET".into(), "HEAD".into()],
            path: Some(PathMatch::prefix("/shop")),
            headers: vec![(name("x-user"), exact("42")), (name("x-bot"), ValueMatch::Absent)],
            cookies: vec![("team".into(), prefix("qa-"))],
            query: vec![("v".into(), regex("[0-9]"))],
            baggage: vec![("tenant".into(), ValueMatch::Suffix("-eu".into()))],
            method: Some(regex("[A-Z]E.*")),
        };
        let all = [("x-user", "42"), ("cookie", "team=qa-1"), ("baggage", "tenant=a-eu")];
        let without = |left_out: &str| all.iter().filter(|(name, _)| *name != left_out).copied().collect::<Vec<_>>();
        let with = |name: &'static str, value: &'static str| {
            let mut headers = without(name);
            headers.push((name, value));
            headers
        };
        let check = |head: MadeUp, expected: Option<&str>| {
            let found = one.first_failing(&head).map(|condition| condition.why_not(&head));
            assert_eq!(found.as_deref(), expected);
            assert_eq!(one.holds(&head), expected.is_none());
        };
        let good = "/shop/1?v=1";
        check(head("GET", good, &all), None);
        check(head("PUT", good, &all), Some("method is PUT, not GET or HEAD"));
        let other = Match { methods: Vec::new(), ..one.clone() };
        let post = head("POST", good, &all);
        let words = other.first_failing(&post).map(|condition| condition.why_not(&post));
        assert_eq!(words.as_deref(), Some(r#"method is "POST", which is not wholly matched by "[A-Z]E.*""#));
        let start = Match { path: Some(PathMatch::Start("/shop".into())), ..Match::default() };
        let elsewhere = head("GET", "/sho", &[]);
        assert!(start.holds(&head("GET", "/shopping", &[])));
        let words = start.first_failing(&elsewhere).map(|condition| condition.why_not(&elsewhere));
        assert_eq!(words.as_deref(), Some(r#"path "/sho" does not begin with "/shop""#));
        check(head("GET", "/shopping?v=1", &all), Some(r#"path "/shopping" is not below "/shop/""#));
        check(head("GET", good, &without("x-user")), Some("header x-user is absent"));
        check(head("GET", good, &with("x-user", "41")), Some(r#"header x-user is "41", not "42""#));
        check(head("GET", good, &with("x-bot", "1")), Some(r#"header x-bot is "1", but should be absent"#));
        check(head("GET", good, &without("cookie")), Some("cookie team is absent"));
        check(
            head("GET", good, &with("cookie", "team=dev")),
            Some(r#"cookie team is "dev", which does not begin with "qa-""#),
        );
        check(
            head("GET", "/shop?v=10", &all),
            Some(r#"query parameter v is "10", which is not wholly matched by "[0-9]""#),
        );
        check(
            head("GET", good, &with("baggage", "tenant=a-us")),
            Some(r#"baggage member tenant is "a-us", which does not end with "-eu""#),
        );
        // The order is that of the fields, so the method speaks before the header.
        check(head("PUT", good, &[]), Some("method is PUT, not GET or HEAD"));
    }

    #[test]
    fn credentials_and_long_values_are_not_shown() {
        assert_eq!(shown_header(&AUTHORIZATION, b"Bearer abc"), "(hidden, 10 bytes)");
        assert_eq!(shown_header(&name("x-a"), b"a\"\x00b"), r#""a\"\0b""#);
        assert_eq!(shown(&[b'a'; 100]), format!("\"{}\"... (100 bytes)", "a".repeat(SHOWN)));
        assert_eq!(shown(b"\xff"), "\"\u{fffd}\"");
    }

    #[test]
    fn flags_comments_and_brackets_cannot_break_the_frame() {
        let check = |pattern: &str, values: &[(&str, bool)]| {
            let whole = whole(pattern).unwrap();
            assert_eq!(whole.as_str(), pattern);
            for (value, expected) in values {
                assert_eq!(whole.is_match(value.as_bytes()), *expected, "{pattern} and {value:?}");
            }
        };
        check("a|b", &[("a", true), ("b", true), ("ab", false), ("xb", false), ("ax", false)]);
        check("(?x) a | b # tail", &[("a", true), ("b", true), ("bc", false), ("b # tail", false)]);
        check("(?x)a#", &[("a", true), ("ab", false)]);
        check("(?i)a|b", &[("A", true), ("B", true), ("Ab", false)]);
        check("(?m)^a$", &[("a", true), ("a\nb", false), ("b\na", false)]);
        check("(?s).", &[("\n", true), ("\n\n", false)]);
        check("(?-u)a|b", &[("a", true), ("ba", false)]);
        check("(?U)a+", &[("aaa", true), ("aab", false)]);
        check("", &[("", true), ("a", false)]);
        check("a|", &[("", true), ("a", true), ("aa", false)]);
        check("^a|b$", &[("a", true), ("b", true), ("ax", false), ("xb", false)]);
        check(r"\x{e9}", &[("\u{e9}", true), ("e", false)]);
        for broken in ["a)|(?:b", "a)", "(?:a", "(?x)a)#", "[a", "a\\", "(?:a))(?:", "a**{"] {
            assert!(whole(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn an_expression_that_would_need_much_memory_is_refused() {
        let error = whole("(?:[a-z]{1000}){1000}").unwrap_err();
        assert!(matches!(error, regex::Error::CompiledTooBig(_)), "{error}");
    }

    /// An expression as a tree, with a meaning of its own to compare with.
    #[derive(Clone, Debug)]
    enum Tree {
        Letter(char),
        Then(Box<Tree>, Box<Tree>),
        Or(Box<Tree>, Box<Tree>),
        Maybe(Box<Tree>),
        Many(Box<Tree>),
    }

    impl Tree {
        /// As few brackets as possible, so that the frame has something to break on.
        fn written(&self, spaced: bool) -> String {
            let space = if spaced { " # )|(\n" } else { "" };
            match self {
                Tree::Letter(letter) => letter.to_string(),
                Tree::Then(a, b) => format!("{}{space}{}", a.grouped(spaced), b.grouped(spaced)),
                Tree::Or(a, b) => format!("{}{space}|{}", a.written(spaced), b.written(spaced)),
                Tree::Maybe(a) => format!("{}?{space}", a.grouped(spaced)),
                Tree::Many(a) => format!("{}*{space}", a.grouped(spaced)),
            }
        }

        fn grouped(&self, spaced: bool) -> String {
            match self {
                Tree::Letter(_) => self.written(spaced),
                _ => format!("({})", self.written(spaced)),
            }
        }

        /// Where a match that begins at `from` can end.
        fn ends(&self, text: &[char], from: usize) -> Vec<usize> {
            let mut ends = match self {
                Tree::Letter(letter) => {
                    text.get(from).filter(|found| *found == letter).map(|_| from + 1).into_iter().collect()
                }
                Tree::Then(a, b) => a.ends(text, from).into_iter().flat_map(|end| b.ends(text, end)).collect(),
                Tree::Or(a, b) => [a.ends(text, from), b.ends(text, from)].concat(),
                Tree::Maybe(a) => [vec![from], a.ends(text, from)].concat(),
                Tree::Many(a) => {
                    let mut reached = vec![from];
                    let mut at = 0;
                    while at < reached.len() {
                        for end in a.ends(text, reached[at]) {
                            if !reached.contains(&end) {
                                reached.push(end);
                            }
                        }
                        at += 1;
                    }
                    reached
                }
            };
            ends.sort_unstable();
            ends.dedup();
            ends
        }
    }

    fn trees() -> impl Strategy<Value = Tree> {
        let letter = prop_oneof![Just('a'), Just('b')].prop_map(Tree::Letter);
        letter.prop_recursive(4, 16, 2, |inner| {
            let two = (inner.clone(), inner.clone());
            prop_oneof![
                two.clone().prop_map(|(a, b)| Tree::Then(a.into(), b.into())),
                two.prop_map(|(a, b)| Tree::Or(a.into(), b.into())),
                inner.clone().prop_map(|a| Tree::Maybe(a.into())),
                inner.prop_map(|a| Tree::Many(a.into())),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_expression_matches_only_the_whole_value(tree in trees(), spaced: bool, value in "[ab]{0,6}") {
            let pattern = if spaced { format!("(?x){}#", tree.written(true)) } else { tree.written(false) };
            let text: Vec<char> = value.chars().collect();
            let expected = tree.ends(&text, 0).contains(&text.len());
            prop_assert_eq!(whole(&pattern).unwrap().is_match(value.as_bytes()), expected, "{}", pattern);
        }

        #[test]
        fn alternatives_are_compared_whole(
            alternatives in prop::collection::vec("[a-c]{0,3}", 1..5),
            value in "[a-c]{0,5}",
        ) {
            let whole = whole(&alternatives.join("|")).unwrap();
            prop_assert_eq!(whole.is_match(value.as_bytes()), alternatives.contains(&value));
        }

        /// The frame adds nothing that could make a broken expression good.
        #[test]
        fn only_an_expression_that_stands_alone_compiles(pattern in r"[()|\[\]a-c?*#x:\\^$ \n-]{0,12}") {
            prop_assert_eq!(whole(&pattern).is_ok(), Regex::new(&pattern).is_ok(), "{}", pattern);
        }

        #[test]
        fn a_prefix_ends_where_a_segment_ends(
            segments in prop::collection::vec("[a-z]{1,3}", 1..4),
            more in "[a-z%._~-]{1,3}",
        ) {
            let path = format!("/{}", segments.join("/"));
            let wanted = PathMatch::prefix(&path);
            prop_assert!(wanted.holds(&path));
            let with_slash = format!("{path}/");
            prop_assert!(wanted.holds(&with_slash));
            let deeper = format!("{path}/{more}");
            prop_assert!(wanted.holds(&deeper));
            let longer = format!("{path}{more}");
            prop_assert!(!wanted.holds(&longer));
            let longer_and_deeper = format!("{path}{more}/{more}");
            prop_assert!(!wanted.holds(&longer_and_deeper));
            prop_assert!(!wanted.holds(&path[..path.len() - 1]));
        }

        /// Scanning for a name agrees with splitting first and comparing then.
        #[test]
        fn a_cookie_is_what_a_plain_parser_finds(line in "[ab=;\" ]{0,16}") {
            let head = head("GET", "/", &[("cookie", &line)]);
            let expected = line.split(';').filter_map(|pair| pair.split_once('='))
                .find(|(name, _)| name.trim_start() == "a")
                .map(|(_, value)| {
                    let value = value.trim();
                    let quoted = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
                    if quoted { &value[1..value.len() - 1] } else { value }
                });
            prop_assert_eq!(cookie(&head, "a"), expected.map(str::as_bytes));
        }

        #[test]
        fn present_and_absent_are_opposites(lines in prop::collection::vec("[a-c=;, ]{0,6}", 0..3)) {
            let headers: Vec<(&str, &str)> = ["x-a", "cookie", "baggage"].into_iter()
                .flat_map(|name| lines.iter().map(move |line| (name, line.as_str()))).collect();
            let head = head("GET", &format!("/?{}", lines.join("&")), &headers);
            let each = |wanted: ValueMatch| {
                let of = |name: &str| vec![(name.to_owned(), wanted.clone())];
                [
                    Match { headers: vec![(name("x-a"), wanted.clone())], ..Match::default() },
                    Match { cookies: of("a"), ..Match::default() },
                    Match { query: of("a"), ..Match::default() },
                    Match { baggage: of("a"), ..Match::default() },
                ].map(|one| one.holds(&head))
            };
            let (present, absent) = (each(ValueMatch::Present), each(ValueMatch::Absent));
            for (present, absent) in present.into_iter().zip(absent) {
                prop_assert_ne!(present, absent);
            }
        }
    }
}
