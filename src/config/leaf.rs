//! Single values: what each kind of them accepts, how it complains, and what a schema says about it.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::header::HeaderName;
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, Serializer};

use super::node::{Content, Node};
use super::problem::{At, Complaint, Problems, closest, quoted};
use super::read::{Read, inline_schema, refuse};
use super::weight::{Weight, WeightError};
use crate::route::{Role, matches};
use crate::source::Endpoint;

/// One value, the text it was read from, and its place.
#[derive(Clone, Debug)]
pub(super) struct Leaf<K: Kind> {
    pub value: K::Value,
    pub text: String,
    pub at: At,
}

/// What a value may be.
pub(super) trait Kind: Sized {
    type Value: Clone + Debug;

    /// Such as `a duration such as 10s`; for messages.
    fn what() -> String;
    /// `plain`: without quotes.
    fn parse(text: &str, plain: bool) -> Result<Self::Value, Complaint>;
    fn schema() -> Schema;
    /// The value as `--print-config` writes it.
    fn print<'a>(_value: &Self::Value, text: &'a str) -> Printed<'a> {
        Printed::Text(text.into())
    }
}

pub(super) enum Printed<'a> {
    Text(Cow<'a, str>),
    Number(u64),
    Switch(bool),
}

impl<K: Kind> Leaf<K> {
    /// The same text for values that mean the same.
    pub(super) fn canonical(&self) -> Cow<'_, str> {
        match K::print(&self.value, &self.text) {
            Printed::Text(text) => text,
            Printed::Number(number) => number.to_string().into(),
            Printed::Switch(switch) => switch.to_string().into(),
        }
    }
}

impl<K: Kind> Read for Leaf<K> {
    fn what() -> String {
        K::what()
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.content {
            Content::Text { text, plain } if !node.is_nothing() => match K::parse(text, *plain) {
                Ok(value) => Some(Self { value, text: text.clone(), at: node.at.clone() }),
                Err(complaint) => {
                    problems.add(&node.at, complaint);
                    None
                }
            },
            _ => refuse(node, &K::what(), problems, ""),
        }
    }
}

impl<K: Kind> Serialize for Leaf<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match K::print(&self.value, &self.text) {
            Printed::Text(text) => serializer.serialize_str(&text),
            Printed::Number(number) => serializer.serialize_u64(number),
            Printed::Switch(switch) => serializer.serialize_bool(switch),
        }
    }
}

impl<K: Kind> JsonSchema for Leaf<K> {
    inline_schema!("Leaf");

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        K::schema()
    }
}

fn wrong<K: Kind>(text: &str) -> Complaint {
    Complaint::expected(&K::what(), &quoted(text))
}

/// Any text. Numbers and `true` are taken as they are written.
#[derive(Clone, Debug)]
pub(super) struct Text;

impl Kind for Text {
    type Value = String;

    fn what() -> String {
        "a text".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        match text {
            "" => Err(Complaint::expected("a text", "an empty one")),
            _ if text.len() > 256 => Err(wrong::<Self>(text).help("at most 256 bytes")),
            _ if text.chars().any(char::is_control) => Err(wrong::<Self>(text).help("leave out control characters")),
            _ => Ok(text.to_owned()),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// `true` or `false`.
#[derive(Clone, Debug)]
pub(super) struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn what() -> String {
        "`true` or `false`".to_owned()
    }

    fn parse(text: &str, plain: bool) -> Result<bool, Complaint> {
        let value = match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => true,
            "false" | "no" | "off" => false,
            _ => return Err(wrong::<Self>(text)),
        };
        match text {
            "true" | "false" if plain => Ok(value),
            _ => Err(wrong::<Self>(text).help(format!("write {value} without quotes"))),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "boolean" })
    }

    fn print<'a>(value: &bool, _: &'a str) -> Printed<'a> {
        Printed::Switch(*value)
    }
}

/// Only `true`, for fields that say something by being there.
#[derive(Clone, Debug)]
pub(super) struct OnlyTrue;

impl Kind for OnlyTrue {
    type Value = bool;

    fn what() -> String {
        "`true`".to_owned()
    }

    fn parse(text: &str, plain: bool) -> Result<bool, Complaint> {
        match (text, plain) {
            ("true", true) => Ok(true),
            ("false", true) => Err(wrong::<Self>(text).help("leave the field out instead")),
            _ => Err(wrong::<Self>(text)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "const": true })
    }

    fn print<'a>(value: &bool, _: &'a str) -> Printed<'a> {
        Printed::Switch(*value)
    }
}

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

/// What `K` accepts, or `none`.
#[derive(Clone, Debug)]
pub(super) struct OrNone<K>(PhantomData<K>);

impl<K: Kind> Kind for OrNone<K> {
    type Value = Option<K::Value>;

    fn what() -> String {
        format!("{}, or `none`", K::what())
    }

    fn parse(text: &str, plain: bool) -> Result<Self::Value, Complaint> {
        match text {
            "none" => Ok(None),
            _ => K::parse(text, plain).map(Some),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [K::schema(), { "const": "none" }] })
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

/// An address to listen on.
#[derive(Clone, Debug)]
pub(super) struct ListenAddress;

impl Kind for ListenAddress {
    type Value = SocketAddr;

    fn what() -> String {
        "an IP address and a port such as `127.0.0.1:8080`, `[::1]:8080` or `:8080`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<SocketAddr, Complaint> {
        if let Some(port) = text.strip_prefix(':').and_then(port) {
            return Ok((Ipv4Addr::UNSPECIFIED, port).into());
        }
        text.parse().map_err(|_| wrong::<Self>(text).maybe_help(address_help(text, 8080)))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^.*:[0-9]{1,5}$" })
    }

    fn print<'a>(value: &SocketAddr, _: &'a str) -> Printed<'a> {
        Printed::Text(value.to_string().into())
    }
}

/// An address to connect to, whose host may be a name.
#[derive(Clone, Debug)]
pub(super) struct EndpointAddress;

impl Kind for EndpointAddress {
    type Value = Endpoint;

    fn what() -> String {
        "a host and a port such as `127.0.0.1:9001`, `[::1]:9001`, `app.local:9001` or `:9001`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<Endpoint, Complaint> {
        let complaint = || wrong::<Self>(text).maybe_help(address_help(text, 9001));
        let endpoint = if let Ok(address) = text.parse() {
            Endpoint::Address(address)
        } else {
            let (host, number) = text.rsplit_once(':').ok_or_else(complaint)?;
            let port = port(number).ok_or_else(complaint)?;
            match host {
                "" => Endpoint::Address((Ipv4Addr::LOCALHOST, port).into()),
                _ if is_host_name(host) => Endpoint::Name { host: host.to_ascii_lowercase(), port },
                _ => return Err(complaint()),
            }
        };
        match endpoint_port(&endpoint) {
            0 => Err(wrong::<Self>(text).help("port 0 cannot be connected to")),
            _ => Ok(endpoint),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^.*:[0-9]{1,5}$" })
    }

    fn print<'a>(value: &Endpoint, _: &'a str) -> Printed<'a> {
        Printed::Text(
            match value {
                Endpoint::Address(address) => address.to_string(),
                Endpoint::Name { host, port } => format!("{host}:{port}"),
            }
            .into(),
        )
    }
}

fn endpoint_port(endpoint: &Endpoint) -> u16 {
    match endpoint {
        Endpoint::Address(address) => address.port(),
        Endpoint::Name { port, .. } => *port,
    }
}

fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// RFC 1123, section 2.1, with the underscores that many resolvers know. The last label is not a number, because what
/// ends in one is meant as an IPv4 address.
fn is_host_name(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    let last = labels.rsplit('.').next().unwrap_or("");
    host.len() <= 253
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// What to do about the mistakes that addresses often have.
fn address_help(text: &str, example: u16) -> Option<String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or(rest);
        return Some(format!("leave out `{scheme}://` and any path: `{rest}`"));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!("write `:{text}` for port {text}"));
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some(format!("put an IPv6 address into brackets, before its port: `[::1]:{example}`"));
    }
    if text.ends_with(']') {
        return Some(format!("add a port: `{text}:{example}`"));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(format!("add a port: `{}`", SocketAddr::new(ip, example)));
    }
    match text.rsplit_once(':') {
        None if is_host_name(text) => Some(format!("add a port: `{text}:{example}`")),
        Some((_, number)) if port(number).is_none() => Some("a port is a number from 0 to 65535".to_owned()),
        Some((host, number)) if is_host_name(host) => {
            Some(format!("names are not looked up here: write an address, such as `127.0.0.1:{number}`"))
        }
        _ => None,
    }
}

/// An address range, or one address.
#[derive(Clone, Debug)]
pub(super) struct Network;

impl Kind for Network {
    type Value = IpNet;

    fn what() -> String {
        "an address range such as `10.0.0.0/8` or `::1/128`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<IpNet, Complaint> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| wrong::<Self>(text))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$" })
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

fn shorten_number(text: &str) -> &str {
    text.get(..12).unwrap_or(text)
}

/// A name from a closed list.
pub(super) trait Word: Copy + Debug + 'static {
    const ALL: &[(&str, Self)];
}

#[derive(Clone, Debug)]
pub(super) struct OneOf<W>(PhantomData<W>);

impl<W: Word> Kind for OneOf<W> {
    type Value = W;

    fn what() -> String {
        let words: Vec<_> = W::ALL.iter().map(|(word, _)| format!("`{word}`")).collect();
        format!("one of {}", words.join(", "))
    }

    fn parse(text: &str, _: bool) -> Result<W, Complaint> {
        let found = W::ALL.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let closest = closest(text, W::ALL.iter().map(|(word, _)| *word));
            wrong::<Self>(text).maybe_help(closest.map(|word| format!("did you mean `{word}`?")))
        })
    }

    fn schema() -> Schema {
        let words: Vec<_> = W::ALL.iter().map(|(word, _)| *word).collect();
        json_schema!({ "enum": words })
    }
}

impl Word for Role {
    const ALL: &[(&str, Self)] =
        &[("stable", Role::Stable), ("canary", Role::Canary), ("experiment", Role::Experiment)];
}

/// What to log: a level, or directives such as `info,splitway=debug`.
#[derive(Clone, Debug)]
pub(super) struct LogLevel;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Kind for LogLevel {
    type Value = String;

    fn what() -> String {
        "a level (`off`, `error`, `warn`, `info`, `debug`, `trace`) or directives such as `info,splitway=debug`"
            .to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        if LEVELS.contains(&text) {
            return Ok(text.to_owned());
        }
        if !text.contains(['=', ',']) {
            let closest = closest(text, LEVELS);
            return Err(wrong::<Self>(text).maybe_help(closest.map(|level| format!("did you mean `{level}`?"))));
        }
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(wrong::<Self>(text).note(error.to_string())),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

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
