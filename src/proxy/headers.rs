//! What is checked, removed, added and rewritten in a head. References are to RFC 9110 and RFC 9112.
//!
//! | on the way to the application | |
//! |---|---|
//! | removed | `Connection` and every field it names, `Keep-Alive`, `Proxy-Connection`, `Upgrade` (but for `websocket`), `TE` (but for `trailers`), `Expect` (answered here), framing (written anew) |
//! | kept | `Host`, everything else, in order |
//! | kept, continued or begun | `traceparent` and `tracestate`, where there are traces (`draft.rs`); else they are kept |
//! | removed, unless a trusted proxy sent them | names that many applications cannot tell from ours: `X_Forwarded_For`, `Splitway.Role` |
//! | counted down | `Max-Forwards` of OPTIONS; with 0 it is answered here |
//! | set | `Via`, `X-Forwarded-For/-Proto/-Host/-Port`, `Forwarded`, `X-Request-Id` (kept if there) |
//! | on copies of mirrored requests | `splitway-mirror`, the route's name; a client's own is removed from all requests unless a trusted proxy sent it |
//! | with `tell-upstream` | `splitway-version`, `splitway-role`, the `baggage` member `splitway`; a client's own are removed |
//!
//! On the way back the same fields are removed; `version-header` and the bucket cookie are set.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE,
    EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    RANGE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{Method, Uri, Version};
use ipnet::IpNet;

use super::Failure;
use super::state::State;
use super::worker::Target;
use crate::route::Head;
use crate::route::policy::Policy;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SPLITWAY_VERSION: HeaderName = HeaderName::from_static("splitway-version");
const SPLITWAY_ROLE: HeaderName = HeaderName::from_static("splitway-role");
pub const MIRROR: HeaderName = HeaderName::from_static("splitway-mirror");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
pub const REASON: HeaderName = HeaderName::from_static("x-splitway-reason");

/// The member of `baggage` that carries the role and, as a property, the version.
const BAGGAGE_MEMBER: &[u8] = b"splitway";

/// Refuses what two readers could understand differently, and settles the target: afterwards the head has exactly one
/// `Host`, the request's own authority (9112 section 3.2.2), and an origin-form target.
pub fn check(head: &mut Parts, policy: &Policy, local: SocketAddr) -> Result<(), Failure> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Failure::MethodRefused);
    }
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > policy.limits.target_bytes {
        return Err(Failure::TargetTooLong);
    }
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Failure::BadRequest);
    }
    if head.version == Version::HTTP_2 {
        plain_list(head)?;
    } else {
        plain_connection(&head.headers)?;
    }
    one_host(head, local)?;
    one_framing(&head.headers)?;
    // HTTP/2 has no such bound of its own.
    if head.headers.len() > policy.limits.header_count {
        return Err(Failure::HeadTooLarge);
    }
    if head.method == Method::OPTIONS && forwards_left(&head.headers) == Some(0) {
        return Err(Failure::MaxForwards);
    }
    if policy.limits.body_bytes.is_some_and(|limit| content_length(&head.headers).is_some_and(|length| length > limit))
    {
        return Err(Failure::BodyTooLarge);
    }
    Ok(())
}

/// How often a request may still be forwarded, if it says so in plain digits (9110 section 7.6.2).
fn forwards_left(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(MAX_FORWARDS)?.to_str().ok()?;
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten()
}

/// What hyper takes in HTTP/2 and HTTP/1 cannot say: no path, or one without its slash, a name that is no token, and a value
/// with white space around it (9113 sections 8.2.1 and 8.3.1).
fn plain_list(head: &Parts) -> Result<(), Failure> {
    // Without a `:path`, and a `:authority`, the target is empty, and only `path` says so: `as_str` calls it a slash.
    let path = !head.uri.path().is_empty()
        && head.uri.path_and_query().is_some_and(|target| matches!(target.as_str().as_bytes(), [b'/', ..] | b"*"));
    let is_plain = |(name, value): (&HeaderName, &HeaderValue)| {
        !name.as_str().contains('"') && value.as_bytes().trim_ascii().len() == value.len()
    };
    if path && head.headers.iter().all(is_plain) { Ok(()) } else { Err(Failure::BadRequest) }
}

/// hyper does not look for `close` in a line with bytes of another character set.
fn plain_connection(headers: &HeaderMap) -> Result<(), Failure> {
    let is_plain = |line: &HeaderValue| line.to_str().is_ok();
    if headers.get_all(CONNECTION).iter().all(is_plain) { Ok(()) } else { Err(Failure::BadRequest) }
}

fn one_host(head: &mut Parts, local: SocketAddr) -> Result<(), Failure> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() || first.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(Failure::BadRequest);
    }
    // In HTTP/2 the authority is the request's, and a Host beside it has nothing else to say (9113 section 8.3.1).
    let authority = (head.version == Version::HTTP_2).then(|| head.uri.authority()).flatten();
    match (first, authority) {
        (None, None) if head.version != Version::HTTP_10 => return Err(Failure::BadRequest),
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(Failure::BadRequest);
        }
        _ => {}
    }
    let authority = match head.uri.authority() {
        Some(authority) if is_host(authority.as_str().as_bytes()) => Some(authority.as_str().to_owned()),
        Some(_) => return Err(Failure::BadRequest),
        None if first.is_none() => Some(local.to_string()),
        None => None,
    };
    if let Some(authority) = authority {
        let value = HeaderValue::try_from(authority).map_err(|_| Failure::BadRequest)?;
        head.headers.insert(HOST, value);
    }
    if head.uri.scheme().is_some() || head.uri.authority().is_some() {
        // Without its scheme an empty path, as of `http://host#fragment`, would be written as nothing at all.
        head.uri = match head.uri.path_and_query().ok_or(Failure::BadRequest)? {
            root if root.as_str() == "/" => Uri::from_static("/"),
            target => Uri::from(target.clone()),
        };
    }
    Ok(())
}

/// A host with an optional port (RFC 3986 section 3.2), no user information (9110 section 4.2.4). Everything else could be
/// cut into host and port in several ways.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host[colon..].contains(&b']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, &host[host.len()..]),
    };
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let name = match name {
        [b'[', address @ .., b']'] => {
            std::str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        _ => !name.is_empty() && name.iter().all(in_name),
    };
    name && port.iter().all(u8::is_ascii_digit)
}

/// Where a checked request would have come through TLS.
pub fn over_tls(head: &Parts, port: u16) -> Option<HeaderValue> {
    let host = head.headers.get(HOST)?.to_str().ok()?;
    // An IPv6 address has colons of its own, in brackets.
    let name = match host.rsplit_once(':') {
        Some((name, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    HeaderValue::try_from(format!("https://{name}{port}{}", head.uri)).ok()
}

/// What a request in HTTP/2 lacks that routes, and applications that speak HTTP/1, rely on.
pub fn one_protocol(head: &mut Parts, has_body: bool) {
    if head.version != Version::HTTP_2 {
        return;
    }
    // Crumbs of one cookie (9113 section 8.2.3).
    let mut crumbs = head.headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let all = [first, second].into_iter().chain(crumbs).map(HeaderValue::as_bytes).collect::<Vec<_>>();
        if let Ok(cookie) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            head.headers.insert(COOKIE, cookie);
        }
    }
    // A body of a length that is not known is chunked in HTTP/1, whatever the method.
    if has_body && !head.headers.contains_key(CONTENT_LENGTH) {
        head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// One way to find the body's end, or none (9112 section 6.3). hyper has read it; this refuses what it reads generously.
fn one_framing(headers: &HeaderMap) -> Result<(), Failure> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (length, coding) = (lengths.next(), codings.next());
    let chunked = coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    let several = lengths.next().is_some() || codings.next().is_some() || (length.is_some() && coding.is_some());
    let digits = length.is_none_or(|length| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit));
    if several || !chunked || !digits { Err(Failure::BadRequest) } else { Ok(()) }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Which of the fields that a proxy acts on are there. Found in one pass, because most heads have hardly any of them, and
/// each look-up in the map costs a hash.
#[derive(Default)]
struct Present {
    connection: bool,
    upgrade: bool,
    /// Any other field that concerns one connection only.
    hop_by_hop: bool,
    te: bool,
    expect: bool,
    content_length: bool,
    transfer_encoding: bool,
    request_id: bool,
    mirror: bool,
    max_forwards: bool,
    lookalike: bool,
}

impl Present {
    fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => present.connection = true,
                "upgrade" => (present.upgrade, present.hop_by_hop) = (true, true),
                "keep-alive" | "proxy-connection" | "http2-settings" => present.hop_by_hop = true,
                "te" => present.te = true,
                "expect" => present.expect = true,
                "content-length" => present.content_length = true,
                "transfer-encoding" => present.transfer_encoding = true,
                "x-request-id" => present.request_id = true,
                "splitway-mirror" => present.mirror = true,
                "max-forwards" => present.max_forwards = true,
                other => present.lookalike |= is_lookalike(other),
            }
        }
        present
    }
}

/// Removes what concerns one connection only (9110 section 7.6.1). A field that a client merely *names* in
/// `Connection` cannot remove what the proxy itself relies on.
fn strip_hop_by_hop(headers: &mut HeaderMap, present: &Present) {
    if present.connection {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| !is_protected(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if present.hop_by_hop {
        headers.remove(KEEP_ALIVE);
        headers.remove(PROXY_CONNECTION);
        headers.remove(UPGRADE);
        headers.remove(HTTP2_SETTINGS);
    }
}

fn is_protected(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, FORWARDED, VIA, X_REQUEST_ID, SPLITWAY_VERSION, SPLITWAY_ROLE, BAGGAGE]
        .contains(name)
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str() == "close"
}

/// Whether the one protocol that is named is WebSocket, and the sender means it (9110 section 7.8). Of a list nothing is
/// passed on: which one is spoken could be understood differently.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let named = upgrades.next().is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let is_upgrade = |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(b"upgrade");
    named
        && upgrades.next().is_none()
        && headers.get_all(CONNECTION).iter().any(|line| line.as_bytes().split(|byte| *byte == b',').any(is_upgrade))
}

/// After [`to_upstream`] or [`to_downstream`] has removed whatever was there.
pub fn to_websocket(headers: &mut HeaderMap) {
    headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Whether a request may ask for a tunnel (RFC 6455 section 4.1): one with a body could be taken for two.
fn may_switch(head: &Parts) -> bool {
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && !head.headers.contains_key(TRANSFER_ENCODING)
        && content_length(&head.headers).is_none_or(|length| length == 0)
        && is_websocket(&head.headers)
}

/// Rewrites a checked head for the application. Whatever depends on the chosen version is written by [`tell`]. Whether it
/// asks for a tunnel.
pub fn to_upstream(head: &mut Parts, policy: &Policy, state: &State, random: u64) -> bool {
    let present = Present::of(&head.headers);
    let switches = present.upgrade && may_switch(head);
    let headers = &mut head.headers;
    let trailers = present.te
        && headers.get_all(TE).iter().any(|te| {
            te.as_bytes().split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
    strip_hop_by_hop(headers, &present);
    if present.te {
        headers.remove(TE);
    }
    // Room for all that is written below, so that the map grows once.
    headers.reserve(12);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if present.expect {
        headers.remove(EXPECT);
    }
    // Framing is written anew by hyper, but for what it would leave out: the length of an empty body, which some
    // applications insist on, and the coding of a GET's body, without which it would drop the body.
    if present.content_length
        && let Some(length) = headers.remove(CONTENT_LENGTH)
        && length.as_bytes().iter().all(|digit| *digit == b'0')
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if present.transfer_encoding {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }

    // Applications leave things out for a copy, so only a proxy in front of this one may say that it is one.
    if (present.mirror || present.lookalike)
        && !is_trusted(state.client().peer.ip().to_canonical(), &policy.trusted_proxies)
    {
        headers.remove(MIRROR);
        let lookalikes: Vec<HeaderName> = headers.keys().filter(|name| is_lookalike(name.as_str())).cloned().collect();
        for name in lookalikes {
            headers.remove(name);
        }
    }
    let client = state.client();
    withhold(headers, &client.subject_headers);
    if let Some((name, subject)) = &client.subject {
        headers.insert(name, subject.clone());
    }
    forwarded(headers, policy, state);
    if !present.request_id {
        headers.insert(X_REQUEST_ID, request_id(random));
    }
    if present.max_forwards
        && head.method == Method::OPTIONS
        && let Some(left) = forwards_left(headers)
    {
        headers.insert(MAX_FORWARDS, left.saturating_sub(1).into());
    }
    headers.append(
        VIA,
        HeaderValue::from_static(match head.version {
            Version::HTTP_10 => "1.0 splitway",
            Version::HTTP_2 => "2 splitway",
            _ => "1.1 splitway",
        }),
    );
    if switches {
        to_websocket(headers);
    }
    head.version = Version::HTTP_11;
    switches
}

/// From a trusted peer the lists grow by one; anybody else's are replaced, because they could say anything (RFC 7239
/// section 8.1).
fn forwarded(headers: &mut HeaderMap, policy: &Policy, state: &State) {
    let client = state.client();
    let mut cache = client.forwarding.borrow_mut();
    let proto = if client.secure { "https" } else { "http" };
    let ip = client.peer.ip().to_canonical();
    let peer = cache
        .peer
        .get_or_insert_with(|| HeaderValue::try_from(ip.to_string()).expect("an address is visible ASCII"))
        .clone();
    let port = cache.port.get_or_insert_with(|| client.local.port().into()).clone();
    let Some(host) = headers.get(HOST).cloned() else { return };
    let element = match &cache.forwarded {
        Some((cached, element)) if *cached == host => element.clone(),
        _ => {
            let node = if ip.is_ipv6() { format!("\"[{ip}]\"") } else { ip.to_string() };
            let mut element = format!("for={node};host=\"").into_bytes();
            element.extend_from_slice(host.as_bytes());
            element.extend_from_slice(b"\";proto=");
            element.extend_from_slice(proto.as_bytes());
            let element = HeaderValue::from_bytes(&element).unwrap_or(HeaderValue::from_static("for=unknown"));
            cache.forwarded = Some((host.clone(), element.clone()));
            element
        }
    };
    if is_trusted(ip, &policy.trusted_proxies) {
        join(headers, X_FORWARDED_FOR, peer);
        join(headers, FORWARDED, element);
        for (name, value) in [(X_FORWARDED_PROTO, HeaderValue::from_static(proto)), (X_FORWARDED_HOST, host)] {
            headers.entry(name).or_insert(value);
        }
        headers.entry(X_FORWARDED_PORT).or_insert(port);
    } else {
        headers.insert(X_FORWARDED_FOR, peer);
        headers.insert(FORWARDED, element);
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
        headers.insert(X_FORWARDED_HOST, host);
        headers.insert(X_FORWARDED_PORT, port);
    }
}

/// Appends to a list header, as one line.
fn join(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let mut all = Vec::new();
    for line in headers.get_all(&name) {
        all.extend_from_slice(line.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(value.as_bytes());
    headers.insert(name, HeaderValue::from_bytes(&all).unwrap_or(value));
}

/// Removes what a client has no right to say, in any spelling that an application could take for it.
pub fn withhold(fields: &mut HeaderMap, names: &[HeaderName]) {
    if names.is_empty() {
        return;
    }
    let dashed = |byte: u8| if matches!(byte, b'_' | b'.') { b'-' } else { byte };
    let alike =
        |one: &HeaderName, other: &HeaderName| one.as_str().bytes().map(dashed).eq(other.as_str().bytes().map(dashed));
    let said: Vec<HeaderName> =
        fields.keys().filter(|said| names.iter().any(|name| alike(said, name))).cloned().collect();
    for name in said {
        fields.remove(name);
    }
}

/// `X_Forwarded_For`, `x.forwarded-for`, `Splitway_Role`: many applications cannot tell them from the fields with dashes,
/// which the proxy writes, because the variables they read names from have neither dots nor dashes.
fn is_lookalike(name: &str) -> bool {
    let name = name.as_bytes();
    let dash = |byte: u8| matches!(byte, b'-' | b'_' | b'.');
    let ours = match name.first() {
        Some(b'x') => name.len() > 12 && dash(name[1]) && name[2..].starts_with(b"forwarded") && dash(name[11]),
        Some(b's') => name.len() > 9 && name.starts_with(b"splitway") && dash(name[8]),
        _ => false,
    };
    ours && name.iter().any(|byte| matches!(byte, b'_' | b'.'))
}

pub fn is_trusted(ip: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&ip))
}

/// 32 hexadecimal digits, like a trace id.
fn request_id(random: u64) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let other = random.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31) ^ random;
    let mut text = [0; 32];
    for (digits, byte) in text.chunks_exact_mut(2).zip(random.to_be_bytes().into_iter().chain(other.to_be_bytes())) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are visible ASCII")
}

/// Tells the application which version it is and, through `baggage`, everybody it calls. A client's own claims go.
pub fn tell(headers: &mut HeaderMap, target: &Target) {
    headers.insert(SPLITWAY_VERSION, target.version_value.clone());
    headers.insert(SPLITWAY_ROLE, HeaderValue::from_static(target.role.as_str()));
    let mut baggage = target.baggage_value.as_bytes().to_vec();
    for line in headers.get_all(&BAGGAGE) {
        for member in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let key = member.split(|byte| matches!(byte, b'=' | b';')).next().unwrap_or_default().trim_ascii();
            if !member.is_empty() && key != BAGGAGE_MEMBER {
                baggage.extend_from_slice(b",");
                baggage.extend_from_slice(member);
            }
        }
    }
    headers.insert(BAGGAGE, HeaderValue::from_bytes(&baggage).unwrap_or_else(|_| target.baggage_value.clone()));
}

/// Marks the head of a copy, which is otherwise that of its request.
pub fn to_mirror(headers: &mut HeaderMap, route: &str, shadow_host: bool) {
    let name = HeaderValue::from_bytes(route.as_bytes()).unwrap_or(HeaderValue::from_static("unprintable"));
    headers.insert(MIRROR, name);
    if shadow_host && let Some(host) = headers.get(HOST).and_then(|host| shadow(host.as_bytes())) {
        headers.insert(HOST, host);
    }
}

/// `shop.example:8080` becomes `shop.example-shadow:8080`, as with Envoy and Istio. An IPv6 address stays: nothing may
/// stand between its bracket and the port (RFC 3986 section 3.2.2).
fn shadow(host: &[u8]) -> Option<HeaderValue> {
    if host.starts_with(b"[") {
        return None;
    }
    let port = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
    HeaderValue::from_bytes(&[&host[..port], b"-shadow", &host[port..]].concat()).ok()
}

/// Rewrites the head of an answer for the client.
pub fn to_downstream(headers: &mut HeaderMap) {
    let present = Present::of(headers);
    strip_hop_by_hop(headers, &present);
    // Framing is hyper's: with a coding the length would be a second truth; without one it is kept for HEAD and 304.
    if present.transfer_encoding {
        headers.remove(TRANSFER_ENCODING);
        headers.remove(CONTENT_LENGTH);
    } else if present.content_length {
        one_length(headers);
    }
}

/// Of several equal lengths, in lines or in a list, one is passed on; hyper has refused different ones (9112 section 6.3).
fn one_length(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return };
    let length = first.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
    if (lines.next().is_some() || length.len() < first.len())
        && let Ok(length) = HeaderValue::from_bytes(length)
    {
        headers.insert(CONTENT_LENGTH, length);
    }
}

/// Takes from a trailer section what must not come so late: framing, routing, authentication, controls, and what says how
/// to read the body (9110 section 6.5.1), and the fields that the proxy itself answers for.
pub fn trailers(trailers: &mut HeaderMap) {
    const NEVER: [HeaderName; 21] = [
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        HOST,
        TE,
        TRAILER,
        CONNECTION,
        UPGRADE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        AUTHORIZATION,
        PROXY_AUTHORIZATION,
        PROXY_AUTHENTICATE,
        WWW_AUTHENTICATE,
        COOKIE,
        SET_COOKIE,
        CACHE_CONTROL,
        EXPECT,
        MAX_FORWARDS,
        RANGE,
        CONTENT_TYPE,
        CONTENT_ENCODING,
    ];
    let refused: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| NEVER.contains(name) || **name == CONTENT_RANGE || is_protected(name))
        .cloned()
        .collect();
    for name in refused {
        trailers.remove(name);
    }
}

/// A request's head, as routing asks for it.
pub struct RequestHead<'a> {
    pub parts: &'a Parts,
    pub client: IpAddr,
}

impl<'a> RequestHead<'a> {
    /// The client is the last address in `X-Forwarded-For` that no trusted proxy owns, as far as trusted ones wrote it.
    pub fn new(parts: &'a Parts, peer: SocketAddr, policy: &Policy) -> Self {
        let peer = peer.ip().to_canonical();
        let mut client = peer;
        if is_trusted(peer, &policy.trusted_proxies) {
            let lines: Vec<_> = parts.headers.get_all(X_FORWARDED_FOR).iter().collect();
            let hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
            for hop in hops {
                let Some(address) = std::str::from_utf8(hop).ok().and_then(|text| text.trim().parse::<IpAddr>().ok())
                else {
                    break;
                };
                client = address.to_canonical();
                if !is_trusted(client, &policy.trusted_proxies) {
                    break;
                }
            }
        }
        Self { parts, client }
    }
}

impl Head for RequestHead<'_> {
    fn method(&self) -> &str {
        self.parts.method.as_str()
    }
    fn path(&self) -> &str {
        self.parts.uri.path()
    }
    fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.parts.headers.get_all(name).iter().map(HeaderValue::as_bytes)
    }
    fn client(&self) -> IpAddr {
        self.client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withheld_is_so_in_every_spelling_and_nothing_else_is() {
        let mut fields = HeaderMap::new();
        for name in ["x-client-subject", "x_client_subject", "x.client-subject", "x-client-subjects", "x-client", "a"] {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static("CN=admin"));
        }
        withhold(&mut fields, &[]);
        assert_eq!(fields.len(), 6);
        withhold(&mut fields, &[HeaderName::from_static("x-client-subject")]);
        let mut left: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        left.sort();
        assert_eq!(left, ["a", "x-client", "x-client-subjects"]);
    }
}
