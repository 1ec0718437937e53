//! What is fuzzed: everything that parses what strangers wrote. Each function takes any bytes, must not panic, and holds
//! what it reads against what must be true of it.
//!
//! `fuzz/run` looks for new inputs; `cargo test --test fuzz` feeds the kept ones to the same functions.

use std::net::{IpAddr, SocketAddr};

use http::header::{COOKIE, HeaderName, HeaderValue};
use serde_json::json;
use splitway::config::{self, Flags};
use splitway::control::rollout::{HeaderList, ROUTES, Reading, Rollout};
use splitway::proxy::RequestHead;
use splitway::proxy::readers::{self, Announced, Bounds, Refusal, Scanner, Violation};
use splitway::record::context::{Context, Parent};
use splitway::route::bucket::{BucketCookie, SameSite, Sticky};
use splitway::route::matches::{Match, PathMatch, ValueMatch, whole};
use splitway::route::policy::Policy;
use splitway::route::{Backend, Head, Identity, MadeUp, Role, Routing, Shares, Snapshot, VersionHash};

#[allow(dead_code, clippy::duplicate_mod)] // The harness has its own, and reads answers, too.
#[path = "../tests/fuzz/strict.rs"]
mod slow;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// By name, as the folders of the corpus are.
pub const ALL: [(&str, Target); 9] = [
    ("matches", matches),
    ("cookies", cookies),
    ("config", config),
    ("forwarded", forwarded),
    ("annotation", annotation),
    ("announced", announced),
    ("heads", heads),
    ("grpc_timeout", grpc_timeout),
    ("traceparent", traceparent),
];

/// Lines: an expression, a wanted value, a method, a target, and then header lines.
pub fn matches(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (pattern, wanted, method, target) = (text(line()), line().to_vec(), text(line()), text(line()));
    let head = MadeUp::new(method.as_str(), &target, headers(lines), [192, 0, 2, 1].into());
    let name = HeaderName::from_static("x-a");
    let on = |places: usize, condition: ValueMatch| {
        let mut all = Match::default();
        match places {
            0 => all.headers.push((name.clone(), condition)),
            1 => all.cookies.push(("a".to_owned(), condition)),
            2 => all.query.push(("a".to_owned(), condition)),
            3 => all.baggage.push(("a".to_owned(), condition)),
            _ => all.method = Some(condition),
        }
        if let Some(condition) = all.first_failing(&head) {
            assert!(!condition.why_not(&head).is_empty());
        }
        all.holds(&head)
    };
    let same = String::from_utf8(wanted.clone()).ok().map(|wanted| whole(&regex::escape(&wanted)));
    let any = whole(&pattern);
    for place in 0..5 {
        let exact = on(place, ValueMatch::Exact(wanted.clone()));
        assert!(!exact || on(place, ValueMatch::Prefix(wanted.clone())));
        assert!(!exact || on(place, ValueMatch::Suffix(wanted.clone())));
        assert!(!exact || on(place, ValueMatch::Present));
        assert_ne!(on(place, ValueMatch::Present), on(place, ValueMatch::Absent));
        if let Some(Ok(same)) = &same {
            assert_eq!(exact, on(place, ValueMatch::Regex(same.clone())), "an expression for one text");
        }
        if let Ok(any) = &any {
            assert!(!on(place, ValueMatch::Regex(any.clone())) || on(place, ValueMatch::Present));
        }
    }
    let path = |path: PathMatch| Match { path: Some(path), ..Match::default() }.holds(&head);
    let wanted = text(&wanted);
    assert!(!path(PathMatch::Exact(wanted.clone())) || path(PathMatch::Start(wanted.clone())));
    assert!(!path(PathMatch::prefix(&wanted)) || path(PathMatch::Start(wanted.trim_end_matches('/').to_owned())));
    if let Ok(any) = any {
        path(PathMatch::Regex(any));
    }
}

/// Lines of a `Cookie` header. Nobody but us can make a bucket.
pub fn cookies(data: &[u8]) {
    let version = VersionHash::new("v1");
    let cookie = BucketCookie {
        name: "splitway".to_owned(),
        max_age: None,
        path: "/".to_owned(),
        same_site: SameSite::Lax,
        secure: false,
        http_only: true,
        secret: Some(b"0123456789abcdef0123456789abcdef".to_vec()),
    };
    let routing = Routing {
        backends: vec![Backend {
            version: version.clone(),
            role: Role::Stable,
            endpoints: [SocketAddr::from(([127, 0, 0, 1], 1))].into(),
            transport: Default::default(),
        }],
        split: Shares::all(version),
        routes: Vec::new(),
        sticky: Some(Sticky { keys: Vec::new(), salt: "salt".to_owned(), cookie: Some(cookie) }),
        override_: None,
        policy: Policy::default(),
    };
    let snapshot = Snapshot::build(routing, &Identity::random(), None).expect("a fixed routing");
    let users = snapshot.users().expect("sticky is on");
    // The pair that the browser sends back.
    let pair = |bucket| {
        let value = users.set_cookie(bucket);
        value.as_bytes().split(|byte| *byte == b';').next().expect("a first part").to_vec()
    };
    let lines =
        data.split(|byte| *byte == b'\n').filter_map(|line| Some((COOKIE, HeaderValue::from_bytes(line).ok()?)));
    let head = MadeUp::new("GET", "/", lines.collect(), [192, 0, 2, 1].into());
    snapshot.decide(&head);
    if let Some(bucket) = users.bucket(&head) {
        let value = pair(bucket)["splitway=".len()..].to_vec();
        assert!(data.windows(value.len()).any(|part| part == value), "bucket {bucket} is nobody's");
    }
    // Whatever stands around it, a cookie of ours that comes first is read.
    let bucket = data.iter().fold(0u32, |number, byte| number.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    if let Ok(own) = HeaderValue::from_bytes(&pair(bucket)) {
        let headers = [(COOKIE, own)].into_iter().chain(head.headers).collect();
        let head = MadeUp::new("GET", "/", headers, [192, 0, 2, 1].into());
        assert_eq!(users.bucket(&head), Some(bucket));
    }
}

/// The text of a configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(problems) = config::parse(text, "fuzz.yaml", &Flags::default()) {
        assert!(problems.count() > 0 && !problems.one_line().is_empty() && !problems.render(false).is_empty());
        problems.render(true);
    }
}

/// Lines of `X-Forwarded-For`, the last one first. An odd number of bytes: from somebody who is not trusted.
pub fn forwarded(data: &[u8]) {
    let (trusted, stranger) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
    let peer = if data.len().is_multiple_of(2) { trusted } else { stranger };
    let mut request = http::Request::get("/").body(()).expect("a fixed request");
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            request.headers_mut().append("x-forwarded-for", value);
        }
    }
    let policy = Policy { trusted_proxies: vec!["10.0.0.0/8".parse().expect("a fixed net")], ..Policy::default() };
    let head = request.into_parts().0;
    let client = RequestHead::new(&head, SocketAddr::new(peer, 1), &policy).client();
    let written = data
        .split(|byte| matches!(byte, b',' | b'\n'))
        .filter_map(|hop| text(hop).trim().parse::<IpAddr>().ok())
        .any(|address| address.to_canonical() == client);
    assert!(client == peer || peer == trusted && written, "{client} is from nowhere");
}

/// The annotation of a Rollout.
pub fn annotation(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let steps = json!([{"setWeight": 5}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]);
    let object = json!({
        "metadata": {"name": "shop", "generation": 1, "annotations": {ROUTES: text}},
        "spec": {"replicas": 3, "strategy": {"canary": {"steps": steps, "trafficRouting": {"plugins": {"a/b": {}}}}}},
        "status": {"currentStepIndex": 1, "observedGeneration": "1"},
    });
    let rollout: Rollout = serde_json::from_value(object).expect("a Rollout");
    let reading = Reading::of(&rollout, HeaderList::OneIsEnough, None);
    assert_eq!(reading.problem().is_some(), reading.note().is_some());
    if reading.problem().is_some() {
        // What cannot be read says nothing at all.
        assert!(reading.annotation().routes(&rollout, HeaderList::All).is_none_or(|managed| managed.routes.is_empty()));
    }
    // Read again, it says the same.
    let again = Reading::of(&rollout, HeaderList::OneIsEnough, Some(&reading));
    assert_eq!(again.problem(), reading.problem());
}

/// What a proxy in front says first: the PROXY protocol. Whoever can say an address in two ways can say two addresses.
pub fn announced(data: &[u8]) {
    let whole = readers::announced(data);
    // However it is cut: a beginning says nothing yet, or what the whole says.
    for length in 0..data.len().min(readers::LONGEST + 64) {
        match readers::announced(&data[..length]) {
            Ok(None) => {
                assert!(length < readers::LONGEST, "{length} bytes, and it is not settled");
                assert!(!matches!(whole, Ok(Some((_, end))) if end <= length), "{length} bytes settle nothing");
            }
            settled => assert_eq!(settled, whole, "after {length} bytes"),
        }
    }
    let Ok(Some((announced, end))) = whole else { return };
    assert!(end <= data.len().min(readers::LONGEST));
    let header = &data[..end];
    if let Some(line) = header.strip_prefix(b"PROXY ") {
        let line = std::str::from_utf8(line).expect("what was read").strip_suffix("\r\n").expect("its end");
        let Announced::Client { peer, local } = announced else {
            return assert_eq!(line.split(' ').next(), Some("UNKNOWN"));
        };
        let ports = format!("{} {}", peer.port(), local.port());
        if peer.is_ipv4() {
            // There is one way to write it.
            assert_eq!(line, format!("TCP4 {} {} {ports}", peer.ip(), local.ip()));
        } else {
            let words: Vec<_> = line.split(' ').collect();
            let address = |word: &str| IpAddr::V6(word.parse().expect("what was read"));
            assert_eq!((words.len(), words[0]), (5, "TCP6"));
            assert_eq!((address(words[1]), address(words[2])), (peer.ip(), local.ip()));
            assert_eq!(words[3..].join(" "), ports);
        }
    } else {
        let length = u16::from_be_bytes([header[14], header[15]]);
        assert_eq!(end, 16 + usize::from(length));
        let Announced::Client { peer, local } = announced else {
            return assert!(header[12] == 0x20 || matches!(header[13], 0x00 | 0x31));
        };
        let octets = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let ports = [peer.port().to_be_bytes(), local.port().to_be_bytes()].concat();
        let written = [octets(peer), octets(local), ports].concat();
        assert_eq!(header[12..14], [0x21, if peer.is_ipv4() { 0x11 } else { 0x21 }]);
        assert_eq!(header[16..][..written.len()], written);
    }
}

/// A client's stream of HTTP/1, behind a byte that says into what pieces it is cut. Beside the proxy's reader a slow one
/// of the tests, which shares nothing with it: they must see the same requests.
pub fn heads(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else { return };
    let bounds = Bounds { bytes: 1 << 20, fields: 1 << 20 };
    let feed = |stream: &[u8], piece: usize| {
        let mut scanner = Scanner::new(bounds);
        let refusal = stream.chunks(piece).find_map(|piece| scanner.feed(piece).err());
        (scanner.heads(), refusal)
    };
    let whole = feed(stream, usize::MAX);
    let cut = feed(stream, usize::from(*piece).max(1));
    let said = |(heads, refusal): &(u64, Option<Refusal>)| (*heads, refusal.map(|one| (one.violation, one.in_body)));
    assert_eq!(said(&whole), said(&cut), "cut into pieces of {piece}");

    // Requests that the slow reader sees whole, one by one.
    let (mut rest, mut requests) = (stream, 0);
    let end = loop {
        match slow::request(rest, slow::From::Client) {
            Ok((_, length)) => {
                requests += 1;
                rest = &rest[length..];
            }
            Err(end) => break end,
        }
    };
    let read = stream.len() - rest.len();
    match feed(&stream[..read], usize::MAX) {
        (seen, None) => assert_eq!(seen, requests, "requests in {read} bytes"),
        // The proxy's reader takes fewer bytes in targets and chunk extensions, and all else that the slow one takes.
        (_, Some(refusal)) => assert!(matches!(refusal.violation, Violation::Target | Violation::Chunk), "{refusal:?}"),
    }
    // What the slow reader refuses for its framing cannot have passed. Hosts, and what fits which method, are judged elsewhere.
    if let (slow::Not::Ever(why), (_, None)) = (end, whole) {
        let target = rest.trim_ascii_start().split(|byte| *byte == b' ').nth(1);
        assert!(JUDGED_ELSEWHERE.contains(&why) || target == Some(b"*"), "passes, and is {why}");
    }
}

const JUDGED_ELSEWHERE: [&str; 3] =
    ["a method that is never passed on", "an absolute target without a valid authority", "not exactly one valid Host"];

/// The value of `grpc-timeout`.
pub fn grpc_timeout(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let timeout = readers::grpc_timeout(&[(HeaderName::from_static("grpc-timeout"), value)].into_iter().collect());
    let nanoseconds = |unit: &u8| match unit {
        b'H' => Some(3_600_000_000_000u128),
        b'M' => Some(60_000_000_000),
        b'S' => Some(1_000_000_000),
        b'm' => Some(1_000_000),
        b'u' => Some(1_000),
        b'n' => Some(1),
        _ => None,
    };
    let meant = data.split_last().and_then(|(unit, digits)| {
        let plain = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        let number = || digits.iter().fold(0u128, |number, digit| number * 10 + u128::from(digit - b'0'));
        if plain { nanoseconds(unit).map(|one| number() * one) } else { None }
    });
    assert_eq!(timeout.map(|timeout| timeout.as_nanos()), meant);
}

/// The value of one `traceparent`. What is understood is well-formed, and understood again as we say it.
pub fn traceparent(data: &[u8]) {
    let Some(Parent { trace, span, sampled }) = Parent::parse(data) else { return };
    let (version, known) = (&data[..2], std::str::from_utf8(&data[..55]).expect("digits and dashes"));
    assert!(version != b"ff" && (version != b"00" || data.len() == 55), "{known}");
    assert!(known.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
    assert_eq!(known[3..52], format!("{trace}-{span}"));
    let said = Context { trace, parent: None, span, sampled }.to_header(span);
    assert_eq!(Parent::parse(said.as_bytes()), Some(Parent { trace, span, sampled }));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn headers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<(HeaderName, HeaderValue)> {
    let field = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    };
    lines.filter_map(field).collect()
}
