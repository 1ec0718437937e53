//! The same in HTTP/2: lists of fields, bodies and trailers that say what HTTP/1 must not be told, as frames made by hand.
//! The frames themselves are in order: what is wrong with a request is that request's affair, and its neighbours on the
//! same connection get their answers.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::application::Kind;
use crate::mutate::{anywhere, is_tagged, replace, tag};
use crate::random::Random;
use crate::strict::{self, Fields, Request};
use crate::words::{AUTHORITIES, LISTED, METHODS, SCHEMES, TARGETS};

type List = Vec<(Vec<u8>, Vec<u8>)>;

/// One request of a connection.
pub struct Stream {
    list: List,
    /// The pieces of its body.
    data: Vec<Vec<u8>>,
    trailers: Option<List>,
    /// Nothing was changed in it.
    innocent: bool,
}

/// The requests of one connection, in the order of their streams.
pub fn mutant(seed: u64, number: u64) -> Vec<Stream> {
    let mut random = Random::new(seed ^ 2, number);
    loop {
        let streams = streams(&mut random, number);
        let requests: Vec<_> = streams.iter().filter_map(Stream::read).collect();
        // Without its own tag nobody could tell which request it is.
        let tags: HashSet<_> = requests.iter().map(tag).collect();
        if tags.len() == requests.len() && requests.iter().all(|request| is_tagged(request, number)) {
            return streams;
        }
    }
}

fn streams(random: &mut Random, number: u64) -> Vec<Stream> {
    let streams = 1 + random.below(4);
    let changed = random.below(streams);
    (0..streams)
        .map(|place| {
            let mut stream = plain(random, number, place);
            if place == changed || random.once_in(6) {
                stream.innocent = false;
                for _ in 0..1 + random.below(3) {
                    stream.change(random, number);
                }
            }
            stream
        })
        .collect()
}

fn plain(random: &mut Random, number: u64, place: usize) -> Stream {
    let tag = format!("q{number}-{place}");
    let method: &[u8] = [&b"GET"[..], b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS"][random.below(6)];
    let mut list = vec![
        (b":method".to_vec(), method.to_vec()),
        (b":scheme".to_vec(), b"http".to_vec()),
        (b":path".to_vec(), format!("/{tag}").into_bytes()),
        (b":authority".to_vec(), b"a.example".to_vec()),
        (b"x-tag".to_vec(), tag.clone().into_bytes()),
    ];
    let mut data = Vec::new();
    if matches!(method, b"POST" | b"PUT") {
        let bait = format!("GET /q{number}-9 HTTP/1.1\r\nHost: bait\r\n\r\n").into_bytes();
        for _ in 0..random.below(3) {
            data.push([&b"hello=world"[..], b"0\r\n\r\n", &bait][random.below(3)].to_vec());
        }
        if random.once_in(2) {
            let length = data.iter().map(Vec::len).sum::<usize>();
            list.push((b"content-length".to_vec(), length.to_string().into_bytes()));
        }
    }
    if random.once_in(3) {
        list.push((b"cookie".to_vec(), b"a=b".to_vec()));
        list.push((b"x-list".to_vec(), b"1".to_vec()));
        list.push((b"cookie".to_vec(), b"c=d; e=f".to_vec()));
        list.push((b"x-list".to_vec(), b"2".to_vec()));
    }
    let trailers = (!data.is_empty() && random.once_in(4)).then(|| vec![(b"x-t".to_vec(), b"end".to_vec())]);
    Stream { list, data, trailers, innocent: true }
}

impl Stream {
    fn change(&mut self, random: &mut Random, number: u64) {
        let at = random.below(self.list.len().max(1)).min(self.list.len());
        let place = random.below(self.list.len() + 1);
        match random.below(16) {
            0..=4 => self.list.insert(place, one(random)),
            5 if at < self.list.len() => drop(self.list.remove(at)),
            6 if at < self.list.len() => {
                let again = self.list[at].clone();
                self.list.insert(place, again);
            }
            7 if at < self.list.len() => {
                let moved = self.list.remove(at);
                self.list.insert(place.min(self.list.len()), moved);
            }
            8 => self.set(b":path", |path| replace(random.pick(TARGETS), b"@", &path)),
            9 => self.set(b":method", |_| random.pick(METHODS).to_vec()),
            10 => self.set(b":authority", |_| random.pick(AUTHORITIES).to_vec()),
            11 => self.set(b":scheme", |_| random.pick(SCHEMES).to_vec()),
            12 if at < self.list.len() => {
                let (name, value) = &mut self.list[at];
                let which = if random.once_in(2) { name } else { value };
                anywhere(random, which);
            }
            13 => {
                let length = self.data.iter().map(Vec::len).sum::<usize>() as i64 + random.pick(&[-5, -1, 0, 1, 5, 40]);
                self.list.push((b"content-length".to_vec(), length.max(0).to_string().into_bytes()));
            }
            14 => {
                let trailers = self.trailers.get_or_insert_default();
                trailers.insert(random.below(trailers.len() + 1), one(random));
            }
            _ => self.data.insert(
                random.below(self.data.len() + 1),
                format!("GET /q{number}-9 HTTP/1.1\r\nHost: bait\r\n\r\n").into_bytes(),
            ),
        }
    }

    fn set(&mut self, name: &[u8], value: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        if let Some(field) = self.list.iter_mut().find(|field| field.0 == name) {
            field.1 = value(std::mem::take(&mut field.1));
        }
    }

    /// What arrives behind the proxy if it arrives, after RFC 9113 section 8. `None`: it is malformed, and must not.
    pub fn read(&self) -> Option<Request> {
        let mut pseudo = BTreeMap::new();
        let mut fields = Fields::new();
        let mut cookies: Option<Vec<u8>> = None;
        for (name, value) in &self.list {
            if let Some(name) = name.strip_prefix(b":") {
                let known = [&b"method"[..], b"scheme", b"path", b"authority"].contains(&name);
                if !known || !fields.is_empty() || cookies.is_some() || pseudo.insert(name, value).is_some() {
                    return None;
                }
                continue;
            }
            let (name, value) = field(name, value)?;
            match name.as_str() {
                "connection" | "proxy-connection" | "keep-alive" | "transfer-encoding" | "upgrade" => return None,
                "te" if value != b"trailers" => return None,
                // Crumbs become one line again (section 8.2.3).
                "cookie" => match &mut cookies {
                    Some(all) => all.extend_from_slice(&[b"; ", value.as_slice()].concat()),
                    None => cookies = Some(value),
                },
                _ => fields.push((name, value)),
            }
        }
        fields.extend(cookies.map(|value| ("cookie".to_owned(), value)));
        // What is wrong behind the head shows when the head has gone on already. Then trailers are left out...
        let trailers: Option<Fields> = self.trailers.iter().flatten().map(|(name, value)| field(name, value)).collect();
        let trailers = trailers.unwrap_or_default();
        let mut body = self.data.concat();
        let mut lengths = fields.iter().filter(|field| field.0 == "content-length").map(|field| &field.1);
        if let Some(length) = lengths.next() {
            let length = usize::try_from(strict::number(length, 10)?).ok()?;
            // ...and a body that is longer than its length has ended with it.
            if lengths.next().is_some() || length > body.len() {
                return None;
            }
            body.truncate(length);
        }
        pseudo.get(&b"scheme"[..])?;
        let (method, target) = (pseudo.get(&b"method"[..])?, pseudo.get(&b"path"[..])?);
        // hyper leaves out a fragment before anybody can see it.
        let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
        let mut hosts = fields.iter().filter(|field| field.0 == "host").map(|field| &field.1);
        let host = hosts.next();
        let authority = pseudo.get(&b"authority"[..]).copied().or(host)?;
        if hosts.next().is_some() {
            return None;
        }
        // All else is as in HTTP/1, of which the strict parser is the judge.
        let mut text = [method.as_slice(), b" ", target, b" HTTP/1.1\r\nhost: ", authority, b"\r\n"].concat();
        for (name, value) in &fields {
            if name != "host" && name != "content-length" {
                text.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
            }
        }
        text.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        text.extend_from_slice(&body);
        let (request, length) = strict::request(&text, strict::From::Proxy).ok()?;
        (length == text.len()).then_some(Request { trailers, ..request })
    }
}

/// A field of HTTP/2 (section 8.2.1).
fn field(name: &[u8], value: &[u8]) -> Option<(String, Vec<u8>)> {
    let upper = name.iter().any(u8::is_ascii_uppercase);
    let control = value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127));
    let fine = strict::is_token(name) && !upper && !control && strict::trim(value) == value;
    fine.then(|| (String::from_utf8_lossy(name).into_owned(), value.to_vec()))
}

fn one(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let (name, value) = random.pick(LISTED);
    (name.to_vec(), value.to_vec())
}

/// For people.
pub fn shown(streams: &[Stream]) -> Vec<u8> {
    let mut text = Vec::new();
    let list = |text: &mut Vec<u8>, list: &List| {
        for (name, value) in list {
            text.extend_from_slice(&[name, &b" = "[..], value, b"\n"].concat());
        }
    };
    for (at, stream) in streams.iter().enumerate() {
        text.extend_from_slice(format!("stream {}:\n", 2 * at + 1).as_bytes());
        list(&mut text, &stream.list);
        for data in &stream.data {
            text.extend_from_slice(&[b"DATA ", data.as_slice(), b"\n"].concat());
        }
        if let Some(trailers) = &stream.trailers {
            text.extend_from_slice(b"trailers:\n");
            list(&mut text, trailers);
        }
    }
    text
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Literals that nobody shall index, without compression (RFC 7541 section 6.2.2).
fn block(list: &List) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in list {
        out.push(0);
        for text in [name, value] {
            // An integer with a prefix of seven bits (section 5.1).
            let mut length = text.len();
            if length < 127 {
                out.push(length as u8);
            } else {
                out.push(127);
                length -= 127;
                while length >= 128 {
                    out.push((length % 128) as u8 | 128);
                    length /= 128;
                }
                out.push(length as u8);
            }
            out.extend_from_slice(text);
        }
    }
    out
}

/// Sends the streams over a fresh connection, their frames mixed by chance, and says what is wrong with the answers.
pub async fn exchange(proxy: SocketAddr, streams: &[Stream], random: &mut Random) -> Result<(), (Kind, String)> {
    let mut connection = TcpStream::connect(proxy).await.expect("the proxy accepts");
    connection.set_nodelay(true).expect("a living socket");
    let mut out = PREFACE.to_vec();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    let mut waiting: Vec<Vec<Vec<u8>>> = streams.iter().enumerate().map(|(at, stream)| frames(at, stream)).collect();
    // Streams begin in the order of their numbers.
    for first in &mut waiting {
        out.extend(first.remove(0));
    }
    while waiting.iter().any(|frames| !frames.is_empty()) {
        let frames = &mut waiting[random.below(streams.len())];
        if !frames.is_empty() {
            out.extend(frames.remove(0));
        }
    }
    // Whatever became of the connection shows in what comes back.
    let _ = connection.write_all(&out).await;
    let mut answers = vec![(Vec::new(), false, false); streams.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), read(&mut connection, &mut answers)).await;
    // A field that hyper cannot even hold ends the connection with all its streams.
    let (quiet, over) = (read.is_err(), read.unwrap_or(false));
    let over = over || streams.iter().any(announces_content_of_a_tunnel);
    for (at, (stream, (body, ended, reset))) in streams.iter().zip(&answers).enumerate() {
        let tag = stream.read().as_ref().and_then(tag).map(|(mutant, place)| format!("q{mutant}-{place}"));
        let own = tag.as_ref().is_some_and(|tag| body.starts_with(tag.as_bytes()));
        let refused = body.is_empty() || body.starts_with(b"splitway: ");
        if !own && !refused {
            return Err((Kind::Harmed, format!("the answer on stream {} is another's", 2 * at + 1)));
        }
        if quiet && !ended && !reset {
            return Err((Kind::Harmed, format!("stream {} is neither answered nor reset", 2 * at + 1)));
        }
        let head = stream.list.first().is_some_and(|method| method.1 == b"HEAD");
        if stream.innocent && !over && (!ended || !own && !head) {
            return Err((Kind::Harmed, format!("the innocent stream {} was not answered", 2 * at + 1)));
        }
    }
    Ok(())
}

/// A CONNECT whose `content-length` is not 0, which is malformed: hyper resets its stream, and then ends the connection with
/// all others without a GOAWAY.
fn announces_content_of_a_tunnel(stream: &Stream) -> bool {
    let is =
        |name: &[u8], holds: &dyn Fn(&[u8]) -> bool| stream.list.iter().any(|(one, value)| one == name && holds(value));
    is(b":method", &|value| value == b"CONNECT") && is(b"content-length", &|value| value != b"0")
}

fn frames(at: usize, stream: &Stream) -> Vec<Vec<u8>> {
    let number = 2 * at as u32 + 1;
    let more = usize::from(stream.trailers.is_some()) + stream.data.len();
    let mut frames = Vec::new();
    let mut add = |kind, flags, payload: &[u8], last: bool| {
        let mut bytes = Vec::new();
        frame(&mut bytes, kind, flags | if last { END_STREAM } else { 0 }, number, payload);
        frames.push(bytes);
    };
    add(HEADERS, END_HEADERS, &block(&stream.list), more == 0);
    for (at, data) in stream.data.iter().enumerate() {
        add(DATA, 0, data, at + 1 == more);
    }
    if let Some(trailers) = &stream.trailers {
        add(HEADERS, END_HEADERS, &block(trailers), true);
    }
    frames
}

/// Until every stream has ended, or the connection; whether the proxy said that it ends it because of an error. Notes of
/// each stream its body, and whether it ended or was reset.
async fn read(connection: &mut TcpStream, answers: &mut [(Vec<u8>, bool, bool)]) -> bool {
    let (mut bytes, mut over) = (Vec::new(), false);
    while answers.iter().any(|(_, ended, reset)| !ended && !reset) {
        while bytes.len() < 9 || bytes.len() < 9 + length(&bytes) {
            match connection.read_buf(&mut bytes).await {
                Ok(read) if read > 0 => {}
                _ => return over,
            }
        }
        let rest = bytes.split_off(9 + length(&bytes));
        let (kind, flags, stream) = (bytes[3], bytes[4], u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]));
        let payload = &bytes[9..];
        let answer = answers.get_mut((stream as usize).wrapping_sub(1) / 2);
        let mut reply = Vec::new();
        match (kind, answer) {
            (SETTINGS, _) if flags & ACK == 0 => frame(&mut reply, SETTINGS, ACK, 0, &[]),
            (PING, _) if flags & ACK == 0 => frame(&mut reply, PING, ACK, 0, payload),
            (GOAWAY, _) => over |= payload[4..8] != [0; 4],
            (DATA | HEADERS, Some(answer)) => {
                if kind == DATA {
                    answer.0.extend_from_slice(payload);
                }
                answer.1 |= flags & END_STREAM != 0;
            }
            (RST_STREAM, Some(answer)) => answer.2 = true,
            _ => {}
        }
        if connection.write_all(&reply).await.is_err() {
            return over;
        }
        bytes = rest;
    }
    over
}

fn length(frame: &[u8]) -> usize {
    u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_malformed_must_not_arrive() {
        let mut random = Random::new(1, 1);
        let read = |change: &[(&[u8], &[u8])]| {
            let mut stream = plain(&mut Random::new(1, 1), 1, 0);
            stream.list.extend(change.iter().map(|(name, value)| (name.to_vec(), value.to_vec())));
            stream.read()
        };
        assert!(plain(&mut random, 1, 0).read().is_some());
        assert_eq!(read(&[(b"cookie", b"x=y"), (b"cookie", b"z")]).unwrap().values("cookie").count(), 1);
        for bad in [
            (&b"connection"[..], &b"close"[..]),
            (b"te", b"gzip"),
            (b"X-A", b"b"),
            (b"x-a", b" b"),
            (b"x-a", b"b\r\nc"),
            (b":path", b"/"),
            (b"content-length", b"1000"),
            (b"", b""),
        ] {
            assert!(read(&[bad]).is_none(), "{bad:?}");
        }
    }
}
