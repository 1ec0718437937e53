//! "Which version would this request, or this user, get, and why?": a request that nobody sent, to be decided by the live
//! snapshot.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use http::header::{COOKIE, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use crate::route::bucket::{KeySource, Users};
use crate::route::{Considered, Explanation, Head, MadeUp, Snapshot, matches};

/// What may be asked, in the query string of `/explain`.
const PARAMETERS: [&str; 7] = ["method", "path", "key", "header", "cookie", "client", "port"];

/// Shown with every error.
pub const EXAMPLE: &str = "/explain?method=GET&path=/shop&header=x-user:42&cookie=uid=7&client=10.0.0.1";

/// What was asked, and about which port.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// `None`: the one without a name, or the only one.
    pub port: Option<String>,
    /// The user, in the place where the split looks for one first.
    pub key: Option<String>,
    /// Whether the client's address was said, or is only made up.
    pub says_client: bool,
    pub question: MadeUp,
}

/// Why a question has no answer, and what to ask instead.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub error: String,
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.error, self.remedy)
    }
}

impl Asked {
    /// What this snapshot says to it.
    pub fn explain(&self, snapshot: &Snapshot) -> Result<Explanation, Refusal> {
        let Some(key) = &self.key else { return Ok(snapshot.explain(&self.question)) };
        let (question, source) = self.with_key(key, snapshot.users())?;
        let mut explanation = snapshot.explain(&question);
        let why = format!("sent as {source}, where this split looks for users first");
        explanation.considered.insert(0, Considered { what: "key".into(), decided: false, why });
        Ok(explanation)
    }

    fn with_key<'a>(&self, key: &str, users: Option<&'a Users>) -> Result<(MadeUp, &'a KeySource), Refusal> {
        let refuse = |error: String, remedy: String| Refusal { error, remedy };
        let Some(users) = users else {
            let error = "no user keeps a version here: the split is not sticky, so a key changes nothing".to_owned();
            return Err(refuse(error, "ask without a key, or make the split sticky (docs/sticky.md)".to_owned()));
        };
        let Some(source) = users.sticky().keys.first() else {
            let name = users.cookie_name().unwrap_or_default();
            let error =
                format!("users have no key here: they are known by the cookie {name}, which the proxy alone signs");
            return Err(refuse(error, format!("ask with the cookie that a browser has: {name}=VALUE")));
        };
        let mut head = self.question.clone();
        let is_said = match source {
            KeySource::Header(name) => head.values(name).next().is_some(),
            KeySource::Cookie(name) => matches::cookie(&head, name).is_some(),
            KeySource::Query(name) => matches::query(&head, name).is_some(),
            KeySource::ClientAddress => self.says_client,
        };
        if is_said {
            let error = format!("the key is sent as {source}, and {source} is said as well");
            return Err(refuse(error, "leave out one of the two".to_owned()));
        }
        let header = |text: String| HeaderValue::from_bytes(text.as_bytes()).ok();
        let put = match source {
            KeySource::Header(name) => header(key.to_owned()).map(|value| head.headers.push((name.clone(), value))),
            KeySource::Cookie(name) => header(format!("{name}={key}")).map(|value| head.headers.push((COOKIE, value))),
            KeySource::Query(name) => {
                let before = head.query.take().map(|query| query + "&").unwrap_or_default();
                let query = format!("{before}{name}={key}");
                format!("/?{query}").parse::<PathAndQuery>().is_ok().then(|| head.query = Some(query))
            }
            KeySource::ClientAddress => key.parse().ok().map(|address: IpAddr| head.client = address.to_canonical()),
        };
        // What the split would read differently, or no request can carry, is not this user.
        let is_whole = match source {
            KeySource::ClientAddress => true,
            _ => key.trim_ascii() == key && users.has_key(&head, key.as_bytes()),
        };
        if put.is_none() || key.is_empty() || !is_whole {
            let expected = match source {
                KeySource::Header(_) => "expected text without control characters, and without spaces around it",
                KeySource::Cookie(_) => "expected text without ; or quotes or spaces around it",
                KeySource::Query(_) => "expected it as the client sends it, with %26 for & and %20 for a space",
                KeySource::ClientAddress => "expected an IP address such as 10.0.0.1 or 2001:db8::1",
            };
            return Err(refuse(format!("the key {key:?} cannot be sent as {source}"), expected.to_owned()));
        }
        Ok((head, source))
    }
}

/// `target` is a path with or without a query, as in a request line; `headers` are names and values in order, cookies
/// among them. Who says no `client` is at 127.0.0.1. Says what is wrong in words for the person who asks.
pub fn question(
    method: &str,
    target: &str,
    headers: Vec<(String, String)>,
    client: Option<IpAddr>,
) -> Result<MadeUp, String> {
    if http::Method::from_bytes(method.as_bytes()).is_err() {
        return Err(format!("{method:?} is not a method; expected a word such as GET or POST"));
    }
    if !target.starts_with('/') && target != "*" {
        return Err(format!("the path {target:?} does not begin with /; expected a path such as /shop?x=1"));
    }
    if target.parse::<PathAndQuery>().is_err() {
        return Err(format!(
            "{target:?} is not a path that a request can have; expected one such as /shop?x=1, with %20 for a space"
        ));
    }
    let mut lines = Vec::new();
    for (name, value) in headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is not a header's name; expected one such as x-user"))?;
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| format!("header {name} has the value {value:?}; expected text without control characters"))?;
        lines.push((parsed, value));
    }
    Ok(MadeUp::new(method, target, lines, client.unwrap_or(Ipv4Addr::LOCALHOST.into())))
}

/// Reads the query string of `/explain`. Names and values are percent-decoded once; `+` means `+`. What is not said is
/// `GET /` from 127.0.0.1 without headers.
pub fn from_query(query: &str) -> Result<Asked, String> {
    let (mut method, mut target, mut key, mut client, mut port) = (None, None, None, None, None);
    let mut headers = Vec::new();
    let mut cookies: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        let once = |place: &mut Option<String>| match place.replace(value.to_string()) {
            None => Ok(()),
            Some(_) => Err(format!("{name} is there twice; expected it once")),
        };
        match &*name {
            "method" => once(&mut method)?,
            "path" => once(&mut target)?,
            "key" => once(&mut key)?,
            "client" => once(&mut client)?,
            "port" => once(&mut port)?,
            "header" => {
                let (name, value) = value
                    .split_once(':')
                    .ok_or_else(|| format!("header is {value:?}; expected a name and a value, such as x-user:42"))?;
                // As in a header line (RFC 9110 section 5.5): spaces and tabs around the value are no part of it.
                headers.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
            }
            "cookie" if value.contains('=') => cookies.push(value.into_owned()),
            "cookie" => {
                return Err(format!("cookie is {value:?}; expected a name and a value, such as uid=7"));
            }
            _ => return Err(unknown(&name)),
        }
    }
    if !cookies.is_empty() {
        headers.push(("cookie".to_owned(), cookies.join("; ")));
    }
    let address = |text: String| {
        let expected = || format!("client is {text:?}; expected an IP address such as 10.0.0.1 or 2001:db8::1");
        text.parse().map_err(|_| expected())
    };
    let client = client.map(address).transpose()?;
    let question = question(method.as_deref().unwrap_or("GET"), target.as_deref().unwrap_or("/"), headers, client)?;
    Ok(Asked { port, key, says_client: client.is_some(), question })
}

/// The other direction: the target that asks for this, with everything escaped that could be misread.
pub fn to_target(Asked { port, key, says_client, question }: &Asked) -> String {
    let path = match &question.query {
        Some(query) => format!("{}?{query}", question.path),
        None => question.path.clone(),
    };
    let mut target = format!("/explain?method={}&path={}", encode(question.method.as_bytes()), encode(path.as_bytes()));
    for (name, value) in &question.headers {
        target += &format!("&header={}", encode(&[name.as_str().as_bytes(), b":", value.as_bytes()].concat()));
    }
    if *says_client {
        target += &format!("&client={}", encode(question.client.to_string().as_bytes()));
    }
    for (name, value) in [("key", key), ("port", port)] {
        if let Some(value) = value {
            target += &format!("&{name}={}", encode(value.as_bytes()));
        }
    }
    target
}

/// RFC 3986 section 2.3: everything but unreserved characters.
pub(super) fn encode(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn unknown(name: &str) -> String {
    let hint = match super::nearest(name, PARAMETERS) {
        Some(close) => format!("did you mean {close}?"),
        None => format!("expected {}. An & inside a value is written %26", PARAMETERS.join(", ")),
    };
    format!("{name:?} is not a parameter; {hint}")
}

pub(super) fn decode(text: &str) -> Result<Cow<'_, str>, String> {
    if !text.contains('%') {
        return Ok(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = || {
            let pair = after.get(..2).filter(|pair| pair.iter().all(u8::is_ascii_hexdigit))?;
            u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
        };
        if *first == b'%' {
            bytes.push(escaped().ok_or_else(|| {
                format!("{text:?} has a % without two hexadecimal digits after it; a % itself is written %25")
            })?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| format!("{text:?} is not UTF-8 once it is decoded"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::made_up;
    use crate::route::bucket::{BucketCookie, SameSite, Sticky};
    use crate::route::{Identity, Role};

    fn values(question: &MadeUp, name: &'static str) -> Vec<String> {
        let name = HeaderName::from_static(name);
        question.values(&name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    #[test]
    fn a_query_string_becomes_the_head_it_describes() {
        let question = from_query(
            "method=POST&path=/shop?x=1%26y=2&header=X-User:%2042&header=x-user:a+b&cookie=uid=7&cookie=t=%22q%22\
             &client=2001:db8::1",
        )
        .unwrap()
        .question;
        assert_eq!((question.method(), question.path(), question.query()), ("POST", "/shop", Some("x=1&y=2")));
        assert_eq!(values(&question, "x-user"), ["42", "a+b"]);
        assert_eq!(values(&question, "cookie"), ["uid=7; t=\"q\""]);
        assert_eq!(question.client(), "2001:db8::1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn what_is_not_said_is_a_plain_get() {
        let Asked { port, key, says_client, question } = from_query("").unwrap();
        assert_eq!((port, key, says_client), (None, None, false));
        assert_eq!((question.method(), question.path(), question.query()), ("GET", "/", None));
        assert_eq!(question.client(), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(values(&question, "cookie"), [""; 0]);
        assert!(from_query(&EXAMPLE["/explain?".len()..]).is_ok());
    }

    #[test]
    fn every_mistake_is_answered_with_what_was_expected() {
        for (query, expected) in [
            ("methd=GET", "did you mean method?"),
            ("path=/a&y=2", "%26"),
            ("path=shop", "does not begin with /"),
            ("path=/a%20b", "%20 for a space"),
            ("path=/&path=/", "twice"),
            ("port=http&port=grpc", "twice"),
            ("key=a&key=b", "twice"),
            ("method=G%20T", "is not a method"),
            ("method=", "is not a method"),
            ("header=x-user", "such as x-user:42"),
            ("header=x%20user:1", "is not a header's name"),
            ("header=x-user:%0D%0Aevil:1", "control characters"),
            ("cookie=uid", "such as uid=7"),
            ("client=nobody", "an IP address"),
            ("path=/%2", "two hexadecimal digits"),
            ("path=/%+1", "two hexadecimal digits"),
            ("path=%ff", "not UTF-8"),
        ] {
            let error = from_query(query).expect_err(query);
            assert!(error.contains(expected), "{query}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_percent_encoding(text in "\\PC{0,12}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decode(&encoded).unwrap(), text);
        }

        #[test]
        fn no_query_string_panics(query in "[a-z%=&:+/0-9\\x00-\\xff]{0,40}") {
            let _ = from_query(&query);
        }
    }

    #[test]
    fn what_is_asked_arrives_as_it_was_meant() {
        let headers =
            vec![("x-user".to_owned(), "a&b=c %2f+\u{fc}".to_owned()), ("cookie".to_owned(), "a=1; b=2".to_owned())];
        let client = Some(IpAddr::from([10, 0, 0, 1]));
        for (port, key, client) in [(None, None, client), (Some("gr&pc".to_owned()), Some("a=b&c d".to_owned()), None)]
        {
            let question = question("GET", "/shop?x=1&y=%20", headers.clone(), client).unwrap();
            let asked = Asked { port, key, says_client: client.is_some(), question };
            let target = to_target(&asked);
            assert_eq!(from_query(target.strip_prefix("/explain?").unwrap()).unwrap(), asked);
        }
    }

    /// A split of two, sticky by these sources.
    fn snapshot(keys: &[KeySource], cookie: bool) -> Snapshot {
        let mut routing = made_up::routing(&[("stable", Role::Stable, 1), ("canary", Role::Canary, 1)]);
        let cookie = cookie.then(|| BucketCookie {
            name: "bucket".to_owned(),
            max_age: None,
            path: "/".to_owned(),
            same_site: SameSite::Lax,
            secure: false,
            http_only: true,
            secret: None,
        });
        let sticky = Sticky { keys: keys.to_vec(), salt: "s".to_owned(), cookie };
        routing.sticky = (!keys.is_empty() || sticky.cookie.is_some()).then_some(sticky);
        Snapshot::build(routing, &Identity::random(), None).unwrap()
    }

    #[test]
    fn a_user_is_asked_about_where_the_split_looks_first() {
        let header = KeySource::Header(HeaderName::from_static("x-user"));
        let (cookie, query) = (KeySource::Cookie("uid".to_owned()), KeySource::Query("user".to_owned()));
        for (keys, by_key, by_hand) in [
            (vec![header.clone(), cookie.clone()], "key=alice&cookie=uid=bob", "header=x-user:alice&cookie=uid=bob"),
            (vec![header], "path=/a&key=%C3%BC%20x", "path=/a&header=x-user:%C3%BC%20x"),
            (vec![cookie], "key=alice&cookie=a=1", "cookie=a=1&cookie=uid=alice"),
            (vec![query.clone()], "key=alice", "path=/?user=alice"),
            (vec![query], "key=a%2526b&path=/x?y=1", "path=/x?y=1%26user=a%2526b"),
            (vec![KeySource::ClientAddress], "key=2001:db8::7", "client=2001:db8::7"),
        ] {
            let snapshot = snapshot(&keys, true);
            let mut answer = from_query(by_key).unwrap().explain(&snapshot).unwrap();
            let said = answer.considered.remove(0);
            assert_eq!(said.what, "key");
            assert_eq!(said.why, format!("sent as {}, where this split looks for users first", keys[0]));
            assert_eq!(answer.to_string(), from_query(by_hand).unwrap().explain(&snapshot).unwrap().to_string());
            assert_eq!(answer.reason, "sticky");
        }
    }

    #[test]
    fn a_key_that_cannot_be_sent_is_answered_with_what_can() {
        let header = KeySource::Header(HeaderName::from_static("x-user"));
        let (cookie, query) = (KeySource::Cookie("uid".to_owned()), KeySource::Query("user".to_owned()));
        for (keys, minted, query, expected) in [
            (vec![], false, "key=alice", "not sticky, so a key changes nothing; ask without a key"),
            (vec![], true, "key=alice", "which the proxy alone signs; ask with the cookie that a browser has: bucket="),
            (vec![header.clone()], true, "key=a&header=X-User:a", "header x-user is said as well; leave out one"),
            (vec![cookie.clone()], true, "key=a&cookie=uid=b", "cookie uid is said as well"),
            (vec![query.clone()], true, "key=a&path=/?user", "query parameter user is said as well"),
            (vec![KeySource::ClientAddress], true, "key=10.0.0.1&client=10.0.0.1", "client address is said as well"),
            (vec![header.clone()], true, "key=a%0D%0Ab:c", "cannot be sent as header x-user; expected text"),
            (vec![header.clone()], true, "key=%20a", "without spaces around it"),
            (vec![header], true, "key=", "cannot be sent as header x-user"),
            (vec![cookie.clone()], true, "key=a;b", "expected text without ;"),
            (vec![cookie], true, "key=%22a%22", "or quotes"),
            (vec![query.clone()], true, "key=a%26b", "with %26 for &"),
            (vec![query], true, "key=a%20b", "%20 for a space"),
            (vec![KeySource::ClientAddress], true, "key=alice", "expected an IP address"),
        ] {
            let asked = from_query(query).unwrap();
            let refusal = asked.explain(&snapshot(&keys, minted)).expect_err(query).to_string();
            assert!(refusal.contains(expected), "{query}: {refusal}");
        }
    }
}
