//! The application behind the proxy: reads with the strict parser, and holds every request against those that were sent.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::mutate::{escape, tag, tags};
use crate::strict::{self, Fields, From, Not, Request};

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes upstream that a strict reader refuses.
    Ambiguous,
    /// A request upstream that a strict reader of what was sent does not see there.
    Phantom,
    /// A request upstream that has taken in a part of another, or of what is none.
    Merged,
    /// A request that was changed, or answered with another's answer; an innocent one that was not answered.
    Harmed,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Ambiguous => "ambiguous",
            Kind::Phantom => "phantom",
            Kind::Merged => "merged",
            Kind::Harmed => "harmed",
        })
    }
}

pub struct Finding {
    pub kind: Kind,
    /// The number of the mutant.
    pub mutant: u64,
    pub why: String,
    /// What arrived at the application, or at the client.
    pub bytes: Vec<u8>,
}

/// The requests of a mutant, as the strict parser reads them.
struct Sent {
    requests: Vec<Request>,
    arrived: Vec<bool>,
    /// One after the other, as on a connection of HTTP/1. Otherwise in any order.
    in_order: bool,
}

/// What was sent, and what became of it.
#[derive(Default)]
pub struct World {
    /// By the number of the mutant.
    sent: RefCell<HashMap<u64, Sent>>,
    pub findings: RefCell<Vec<Finding>>,
    pub arrived: RefCell<u64>,
}

impl World {
    pub fn expect(&self, mutant: u64, requests: Vec<Request>, in_order: bool) {
        let arrived = vec![false; requests.len()];
        self.sent.borrow_mut().insert(mutant, Sent { requests, arrived, in_order });
    }

    /// What arrives of it from now on was never sent.
    pub fn forget(&self, mutant: u64) {
        self.sent.borrow_mut().remove(&mutant);
    }

    pub fn find(&self, kind: Kind, mutant: u64, why: impl Into<String>, bytes: &[u8]) {
        self.findings.borrow_mut().push(Finding { kind, mutant, why: why.into(), bytes: bytes.to_vec() });
    }

    /// The next request of its mutant, as it must be. Each that the proxy did not refuse arrives once, in order.
    fn arrive(&self, got: &Request, bytes: &[u8]) {
        *self.arrived.borrow_mut() += 1;
        let Some((mutant, place)) = tag(got) else {
            return self.find(Kind::Phantom, 0, "a request without a tag", bytes);
        };
        let mut sent = self.sent.borrow_mut();
        let Some(Sent { requests, arrived, in_order }) = sent.get_mut(&mutant) else {
            return self.find(Kind::Phantom, mutant, "a request of nobody who is sending", bytes);
        };
        let past = if *in_order { arrived.iter().rposition(|arrived| *arrived).map_or(0, |last| last + 1) } else { 0 };
        let is_it = |at: &usize| !arrived[*at] && tag(&requests[*at]) == Some((mutant, place));
        let Some(at) = (past..requests.len()).find(is_it) else {
            return self.find(Kind::Phantom, mutant, "one request more than was sent", bytes);
        };
        arrived[at] = true;
        if let Some((kind, why)) = differ(&requests[at], got) {
            self.find(kind, mutant, why, bytes);
        }
    }
}

pub async fn serve(world: Rc<World>, listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.expect("accept on loopback");
        tokio::task::spawn_local(connection(world.clone(), stream));
    }
}

async fn connection(world: Rc<World>, mut stream: TcpStream) {
    stream.set_nodelay(true).expect("a living socket");
    let mut bytes = Vec::new();
    loop {
        match strict::request(&bytes, From::Proxy) {
            Ok((request, length)) => {
                world.arrive(&request, &bytes[..length]);
                bytes.drain(..length);
                if stream.write_all(&answer(&request)).await.is_err() {
                    return;
                }
            }
            Err(Not::Ever(why)) => {
                // Whoever is named first in it.
                let mutant = tags(&bytes).next().map_or(0, |found| found.0.0);
                return world.find(Kind::Ambiguous, mutant, why, &bytes);
            }
            Err(Not::Yet(_)) => match stream.read_buf(&mut bytes).await {
                Ok(read) if read > 0 => {}
                // The client has left, or was refused, in the middle of a body.
                _ => return,
            },
        }
    }
}

/// Says whose answer it is.
fn answer(request: &Request) -> Vec<u8> {
    let (mutant, place) = tag(request).unwrap_or_default();
    let body = format!("q{mutant}-{place} {} {}", request.method, request.body.len());
    let length = body.len();
    let body = if request.method == "HEAD" { "" } else { &body };
    format!("HTTP/1.1 200 OK\r\nx-tag: q{mutant}-{place}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// How a request differs from what was sent, if it does.
fn differ(sent: &Request, got: &Request) -> Option<(Kind, String)> {
    if sent.method != got.method || sent.target != got.target {
        let (a, b) = (format!("{} {}", sent.method, sent.target), format!("{} {}", got.method, got.target));
        return Some((Kind::Harmed, format!("{a:?} became {b:?}")));
    }
    if sent.body != got.body {
        return Some((Kind::Merged, format!("the body {:?} became {:?}", escape(&sent.body), escape(&got.body))));
    }
    // Where there was no Host, the proxy's own address stands in.
    let host = sent.authority.as_deref().map(str::as_bytes).or(sent.values("host").next());
    if let Some(host) = host
        && got.values("host").next() != Some(host)
    {
        return Some((Kind::Harmed, format!("the host {:?} became another", escape(host))));
    }
    let (mut before, mut after) = (by_name(&sent.fields), by_name(&got.fields));
    // "close" names no field; what the proxy relies on cannot be removed by being named.
    let named = sent
        .values("connection")
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(strict::trim(name)).to_ascii_lowercase())
        .filter(|name| !KEPT_THOUGH_NAMED.contains(&name.as_str()));
    for name in named {
        before.remove(name.as_str());
    }
    // Some applications take other letters in a name for the same.
    let ours = |name: &str| {
        let dashed = name.replace(['_', '.'], "-");
        OURS.contains(&dashed.as_str())
            || dashed != name && OTHER_SPELLINGS.iter().any(|start| dashed.starts_with(start))
    };
    before.retain(|name, _| !ours(name));
    after.retain(|name, _| !ours(name));
    if !before.contains_key("x-request-id") {
        after.remove("x-request-id");
    }
    if before != after {
        return Some((Kind::Harmed, format!("the fields {} became {}", shown(&before), shown(&after))));
    }
    // Trailers may be left out, but none may come from elsewhere.
    let trailers = by_name(&sent.trailers);
    let strange = by_name(&got.trailers).into_iter().find(|(name, values)| trailers.get(name) != Some(values));
    strange.map(|(name, _)| (Kind::Merged, format!("the trailer {name:?} was not sent")))
}

type ByName<'a> = BTreeMap<&'a str, Vec<&'a [u8]>>;

fn by_name(fields: &Fields) -> ByName<'_> {
    let mut all = ByName::new();
    for (name, value) in fields {
        all.entry(name).or_default().push(value);
    }
    all
}

fn shown(fields: &ByName) -> String {
    fields
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| format!("[{name}: {}]", escape(value))))
        .collect()
}

/// Written anew or removed by the proxy, whatever was sent.
const OURS: [&str; 19] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "te",
    "expect",
    "content-length",
    "transfer-encoding",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "splitway-mirror",
    "max-forwards",
    "http2-settings",
    "trailer",
];

/// Beginnings of names that the proxy writes, of which other spellings are dropped.
const OTHER_SPELLINGS: [&str; 3] = ["x-forwarded-", "splitway-", "x-request-id"];

const KEPT_THOUGH_NAMED: [&str; 5] = ["x-request-id", "splitway-version", "splitway-role", "baggage", "close"];

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found when these requests were sent, and those arrive.
    fn found(sent: &[&str], arriving: &[&str], in_order: bool) -> Vec<Kind> {
        let world = World::default();
        let read = |text: &&str| strict::request(text.as_bytes(), From::Client).expect("a request").0;
        world.expect(1, sent.iter().map(read).collect(), in_order);
        for text in arriving {
            world.arrive(&read(text), text.as_bytes());
        }
        world.findings.take().into_iter().map(|finding| finding.kind).collect()
    }

    const A: &str = "GET /q1-0 HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    const B: &str = "POST /q1-1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";

    #[test]
    fn what_arrives_as_it_was_sent_is_no_finding() {
        assert_eq!(found(&[A, B], &[A, B], true), []);
        assert_eq!(found(&[A, B], &[B], true), [], "one may be refused");
        assert_eq!(found(&[A, B], &[B, A], false), []);
        let written = A.replace("X: y", "x: y\r\nVia: 1.1 splitway\r\nX-Request-Id: 1");
        assert_eq!(found(&[A], &[&written], true), []);
    }

    #[test]
    fn what_was_not_sent_is_a_phantom() {
        assert_eq!(found(&[A], &[A, A], true), [Kind::Phantom]);
        assert_eq!(found(&[A], &[A, A], false), [Kind::Phantom]);
        assert_eq!(found(&[A, B], &[B, A], true), [Kind::Phantom]);
        assert_eq!(found(&[], &[A], true), [Kind::Phantom]);
        assert_eq!(found(&[A], &["GET /x HTTP/1.1\r\nHost: a\r\n\r\n"], true), [Kind::Phantom]);
    }

    #[test]
    fn what_was_changed_is_merged_or_harmed() {
        assert_eq!(found(&[B], &[&B.replace(": 2\r\n\r\nab", ": 3\r\n\r\nabG")], true), [Kind::Merged]);
        for (old, new) in
            [("GET", "PUT"), ("/q1-0", "/q1-0?"), ("Host: a", "Host: b"), ("X: y", "X: z"), ("X: y\r\n", "")]
        {
            assert_eq!(found(&[A], &[&A.replace(old, new)], true), [Kind::Harmed], "{old} {new}");
        }
    }
}
