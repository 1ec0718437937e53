//! "Which version would this request get, and why?": a request that nobody sent, to be decided by the live snapshot.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use crate::route::MadeUp;

/// What may be asked, in the query string of `/explain`.
const PARAMETERS: [&str; 6] = ["method", "path", "header", "cookie", "client", "port"];

/// Shown with every error.
pub const EXAMPLE: &str = "/explain?method=GET&path=/shop&header=x-user:42&cookie=uid=7&client=10.0.0.1";

/// What was asked, and about which port.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// `None`: the one without a name, or the only one.
    pub port: Option<String>,
    pub question: MadeUp,
}

/// `target` is a path with or without a query, as in a request line; `headers` are names and values in order, cookies
/// among them. Says what is wrong in words for the person who asks.
pub fn question(method: &str, target: &str, headers: Vec<(String, String)>, client: IpAddr) -> Result<MadeUp, String> {
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
    Ok(MadeUp::new(method, target, lines, client))
}

/// Reads the query string of `/explain`. Names and values are percent-decoded once; `+` means `+`. What is not said is
/// `GET /` from 127.0.0.1 without headers.
pub fn from_query(query: &str) -> Result<Asked, String> {
    let (mut method, mut target, mut client, mut port) = (None, None, None, None);
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
    let client = match client {
        None => Ipv4Addr::LOCALHOST.into(),
        Some(text) => text
            .parse()
            .map_err(|_| format!("client is {text:?}; expected an IP address such as 10.0.0.1 or 2001:db8::1"))?,
    };
    let question = question(method.as_deref().unwrap_or("GET"), target.as_deref().unwrap_or("/"), headers, client)?;
    Ok(Asked { port, question })
}

/// The other direction: the target that asks for this, with everything escaped that could be misread.
pub fn to_target(Asked { port, question }: &Asked) -> String {
    let path = match &question.query {
        Some(query) => format!("{}?{query}", question.path),
        None => question.path.clone(),
    };
    let mut target = format!("/explain?method={}&path={}", encode(question.method.as_bytes()), encode(path.as_bytes()));
    for (name, value) in &question.headers {
        target += &format!("&header={}", encode(&[name.as_str().as_bytes(), b":", value.as_bytes()].concat()));
    }
    target += &format!("&client={}", encode(question.client.to_string().as_bytes()));
    if let Some(port) = port {
        target += &format!("&port={}", encode(port.as_bytes()));
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
    use crate::route::Head;

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
        let Asked { port, question } = from_query("").unwrap();
        assert_eq!(port, None);
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
        let question = question("GET", "/shop?x=1&y=%20", headers, IpAddr::from([10, 0, 0, 1])).unwrap();
        for port in [None, Some("gr&pc".to_owned())] {
            let asked = Asked { port, question: question.clone() };
            let target = to_target(&asked);
            assert_eq!(from_query(target.strip_prefix("/explain?").unwrap()).unwrap(), asked);
        }
    }
}
