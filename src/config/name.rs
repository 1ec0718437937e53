//! Names, and texts that are compared with parts of a request.

use http::header::HeaderName;
use rustls::pki_types::ServerName;
use schemars::{Schema, json_schema};

use super::RolloutName;
use super::leaf::{Kind, Printed, wrong};
use super::problem::{Complaint, quoted};
use crate::route::{PortName, matches};

/// The name of a backend, which also becomes a label in metrics and a value in headers.
#[derive(Clone, Debug)]
pub(super) struct BackendName;

impl Kind for BackendName {
    type Value = String;

    fn what() -> String {
        "the name of a backend".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        let good = (1..=63).contains(&bytes.len())
            && alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        good.then(|| text.to_owned()).ok_or_else(|| {
            wrong::<Self>(text).help("1 to 63 letters, digits, `-`, `_` and `.`, with a letter or a digit at both ends")
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$" })
    }
}

/// A port of the application's containers, by its name or its number.
#[derive(Clone, Debug)]
pub(super) struct ContainerPort;

impl Kind for ContainerPort {
    type Value = PortName;

    fn what() -> String {
        "the name or the number of a container port such as `http` or `8080`".to_owned()
    }

    /// Kubernetes checks the names of ports by the rules of RFC 6335, section 5.1.
    fn parse(text: &str, _: bool) -> Result<PortName, Complaint> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = text.parse::<u16>().ok().filter(|number| *number > 0);
            let number = number.ok_or_else(|| wrong::<Self>(text).help("a port's number is from 1 to 65535"))?;
            return Ok(PortName::new(&number.to_string()));
        }
        let good = (1..=15).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && text.bytes().any(|byte| byte.is_ascii_lowercase())
            && !text.starts_with('-')
            && !text.ends_with('-')
            && !text.contains("--");
        good.then(|| PortName::new(text)).ok_or_else(|| {
            wrong::<Self>(text)
                .help("a name has 1 to 15 small letters, digits and single `-` between them, and at least one letter")
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "integer"], "pattern": "^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$" })
    }

    fn print<'a>(value: &PortName, _: &'a str) -> Printed<'a> {
        match value.as_str().parse() {
            Ok(number) => Printed::Number(number),
            Err(_) => Printed::Text(value.as_str().to_owned().into()),
        }
    }
}

/// An Argo Rollout.
#[derive(Clone, Debug)]
pub(super) struct Rollout;

impl Kind for Rollout {
    type Value = RolloutName;

    fn what() -> String {
        "a namespace and the name of a Rollout such as `services/shop`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<RolloutName, Complaint> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if namespace.is_some_and(|namespace| !is_dns_label(namespace)) {
            return Err(wrong::<Self>(text)
                .help("a namespace has 1 to 63 small letters, digits and `-`, with a letter or a digit at both ends"));
        }
        if name.len() > 253 || !name.split('.').all(is_dns_label) {
            return Err(wrong::<Self>(text).help(
                "a Rollout's name has 1 to 253 small letters, digits, `-` and `.`, with a letter or a digit at both ends",
            ));
        }
        Ok(RolloutName { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-.a-z0-9]*[a-z0-9])?$" })
    }
}

/// RFC 1123, section 2.1, as Kubernetes reads it.
fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The name that a certificate must have.
#[derive(Clone, Debug)]
pub(super) struct Server;

impl Kind for Server {
    type Value = ServerName<'static>;

    fn what() -> String {
        "a host name such as `app.local`, or an IP address".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<ServerName<'static>, Complaint> {
        ServerName::try_from(text.to_owned()).map_err(|_| {
            let help = match text.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    Some(format!("leave out the port: `{host}`"))
                }
                _ if text.starts_with("*.") => Some("write one name that the wildcard stands for".to_owned()),
                _ => None,
            };
            wrong::<Self>(text).maybe_help(help)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 254 })
    }
}

/// The name of a header.
#[derive(Clone, Debug)]
pub(super) struct HeaderKind;

impl Kind for HeaderKind {
    type Value = HeaderName;

    fn what() -> String {
        "the name of a header such as `x-user`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<HeaderName, Complaint> {
        HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            let help = match text.strip_suffix(':') {
                Some(name) if is_token(name) => format!("leave out the colon: `{name}`"),
                _ => TOKEN_HELP.to_owned(),
            };
            wrong::<Self>(text).help(help)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": TOKEN_PATTERN })
    }

    fn print<'a>(value: &HeaderName, _: &'a str) -> Printed<'a> {
        Printed::Text(value.as_str().to_owned().into())
    }
}

const TOKEN_HELP: &str = "letters, digits and any of !#$%&'*+-.^_`|~";
const TOKEN_PATTERN: &str = "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$";

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The name of a cookie or of a member of `baggage`: a token (RFC 6265, section 4.1.1; W3C Baggage, section 3.3.1).
#[derive(Clone, Debug)]
pub(super) struct Token;

impl Kind for Token {
    type Value = String;

    fn what() -> String {
        "a name".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        is_token(text).then(|| text.to_owned()).ok_or_else(|| wrong::<Self>(text).help(TOKEN_HELP))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": TOKEN_PATTERN })
    }
}

/// The name of a query parameter, as it stands in a URL.
#[derive(Clone, Debug)]
pub(super) struct QueryName;

impl Kind for QueryName {
    type Value = String;

    fn what() -> String {
        "the name of a query parameter".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"&=#".contains(&byte));
        good.then(|| text.to_owned()).ok_or_else(|| {
            wrong::<Self>(text).help("write it as it stands in a URL: ASCII, without `&`, `=`, `#` and spaces")
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[!-~]+$" })
    }
}

/// An HTTP method. Methods are case-sensitive (RFC 9110, section 9.1), so `get` would never match.
#[derive(Clone, Debug)]
pub(super) struct Method;

impl Kind for Method {
    type Value = String;

    fn what() -> String {
        "a method such as `GET`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        let upper = text.to_ascii_uppercase();
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"].contains(&upper.as_str());
        if known && upper != text {
            return Err(wrong::<Self>(text).help(format!("methods are case-sensitive: write `{upper}`")));
        }
        is_token(text).then(|| text.to_owned()).ok_or_else(|| wrong::<Self>(text).help(TOKEN_HELP))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": TOKEN_PATTERN })
    }
}

/// A path or the beginning of one.
#[derive(Clone, Debug)]
pub(super) struct PathText;

impl Kind for PathText {
    type Value = String;

    fn what() -> String {
        "a path that begins with `/`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        if !text.starts_with('/') {
            return Err(wrong::<Self>(text).help(format!("write `/{}`", quoted(text).trim_matches('"'))));
        }
        if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || "?#;\"\\".contains(*c)) {
            let help = match c {
                '?' => "a path ends before `?`: match on `query` instead".to_owned(),
                c => format!("write it as it stands in a URL, without {c:?}"),
            };
            return Err(wrong::<Self>(text).help(help));
        }
        Ok(text.to_owned())
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/" })
    }
}

/// What a header, cookie, parameter or member is compared with. Never empty: see `present`.
#[derive(Clone, Debug)]
pub(super) struct ValueText;

impl Kind for ValueText {
    type Value = String;

    fn what() -> String {
        "a text to compare with".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        if text.is_empty() {
            return Err(Complaint::expected(&Self::what(), "an empty one")
                .help("`present: true` takes any value, `regex: ''` only an empty one"));
        }
        if text.trim_ascii().len() != text.len() || text.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(wrong::<Self>(text).help("values never begin or end with spaces or contain control characters"));
        }
        Ok(text.to_owned())
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// A regular expression that must match a whole value.
#[derive(Clone, Debug)]
pub(super) struct Expression;

impl Kind for Expression {
    type Value = matches::Whole;

    fn what() -> String {
        "a regular expression".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<matches::Whole, Complaint> {
        matches::whole(text).map_err(|error| wrong::<Self>(text).note(error.to_string()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}
