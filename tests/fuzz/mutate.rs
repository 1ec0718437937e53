//! What clients send: streams of requests made from a corpus, changed where readers of HTTP are known to differ, and then
//! a little anywhere. The same seed and number give the same bytes.

use crate::random::Random;
use crate::strict;
use crate::words::*;

/// The bytes of one client's connection.
pub struct Mutant {
    pub bytes: Vec<u8>,
    /// Where it is cut into pieces that are sent apart.
    pub cuts: Vec<usize>,
}

/// Requests and streams, as [`escape`] writes them. In a tag, `q` with two numbers, the first one stands for the mutant's.
pub struct Corpus {
    /// Single requests, which are put together and changed.
    requests: Vec<Vec<u8>>,
    /// Whole streams that were findings once: sent as they are, and changed.
    found: Vec<Vec<u8>>,
}

impl Corpus {
    pub fn new(requests: &str, found: &[&str]) -> Self {
        let requests = requests.split("\n\n").filter(|text| !text.trim().is_empty()).map(unescape).collect();
        Self { requests, found: found.iter().map(|text| unescape(text)).collect() }
    }

    pub fn mutant(&self, seed: u64, number: u64) -> Mutant {
        if let Some(found) = self.found.get(number as usize) {
            return Mutant { bytes: retag(found, number, None), cuts: Vec::new() };
        }
        let mut random = Random::new(seed, number);
        loop {
            let bytes = self.bytes(&mut random, number);
            // Without its tag nobody could tell whose request it is.
            if bytes.len() <= LONGEST && strict::stream(&bytes).0.iter().all(|request| is_tagged(request, number)) {
                let cuts = cuts(&mut random, bytes.len());
                return Mutant { bytes, cuts };
            }
        }
    }

    fn bytes(&self, random: &mut Random, number: u64) -> Vec<u8> {
        if !self.found.is_empty() && random.once_in(16) {
            let mut bytes = retag(&self.found[random.below(self.found.len())], number, None);
            anywhere(random, &mut bytes);
            return bytes;
        }
        let mut bytes = Vec::new();
        let requests = 1 + random.below(3);
        // Most have one request that is changed, among innocent ones.
        let changed = random.below(requests);
        for place in 0..requests {
            let mut message =
                Message::read(&retag(&self.requests[random.below(self.requests.len())], number, Some(place)));
            if place == changed || random.once_in(8) {
                let changes = [0, 1, 1, 1, 1, 2, 2, 3][random.below(8)];
                for _ in 0..changes {
                    message.change(random, number);
                }
            }
            message.write(&mut bytes);
        }
        if random.once_in(6) {
            for _ in 0..=random.below(3) {
                anywhere(random, &mut bytes);
            }
        }
        if !random.once_in(4) {
            bytes.extend_from_slice(
                format!("GET /q{number}-8 HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n").as_bytes(),
            );
        }
        bytes
    }
}

/// Of a stream, in bytes.
const LONGEST: usize = 40_000;

/// The mutant and the place in it that a request names: in its target, or else in `x-tag`.
pub fn tag(request: &strict::Request) -> Option<(u64, u64)> {
    let by_field = || request.values("x-tag").next().and_then(|value| tags(value).next());
    tags(request.target.as_bytes()).next().or_else(by_field).map(|(tag, _)| tag)
}

pub fn is_tagged(request: &strict::Request, number: u64) -> bool {
    // Unless `connection` names the field with the tag, which is the end of it.
    let lasting = tags(request.target.as_bytes()).next().is_some()
        || request.values("connection").all(|line| find(line, b"ag").is_none());
    lasting && tag(request).is_some_and(|tag| tag.0 == number)
}

/// Every tag in a text, with where it is.
pub fn tags(text: &[u8]) -> impl Iterator<Item = ((u64, u64), std::ops::Range<usize>)> {
    let number = |from: usize| {
        let digits = text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&text[from..from + digits]).expect("digits").parse::<u64>().ok()?;
        Some((number, from + digits))
    };
    (0..text.len()).filter(|at| text[*at] == b'q').filter_map(move |at| {
        let (mutant, end) = number(at + 1)?;
        let (place, end) = number((text.get(end) == Some(&b'-')).then_some(end + 1)?)?;
        Some(((mutant, place), at..end))
    })
}

/// Puts a mutant's number into the tags, and a request's place if it is given.
fn retag(text: &[u8], number: u64, place: Option<usize>) -> Vec<u8> {
    let (mut out, mut done) = (Vec::with_capacity(text.len() + 16), 0);
    for ((_, own), range) in tags(text) {
        out.extend_from_slice(&text[done..range.start]);
        // 0 is the request itself; others are baits inside of it.
        let place = place.filter(|_| own == 0).map_or(own, |place| place as u64 + 1);
        out.extend_from_slice(format!("q{number}-{place}").as_bytes());
        done = range.end;
    }
    out.extend_from_slice(&text[done..]);
    out
}

/// One request in pieces that can be changed.
struct Message {
    /// The request line and the fields, each with what ends it.
    lines: Vec<(Vec<u8>, Vec<u8>)>,
    /// Ends the head.
    blank: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    fn read(text: &[u8]) -> Self {
        let end = find(text, b"\r\n\r\n").expect("a request of the corpus has a head");
        let mut lines = Vec::new();
        let mut head = &text[..end];
        loop {
            let at = find(head, b"\r\n");
            lines.push((head[..at.unwrap_or(head.len())].to_vec(), b"\r\n".to_vec()));
            match at {
                Some(at) => head = &head[at + 2..],
                None => return Self { lines, blank: b"\r\n".to_vec(), body: text[end + 4..].to_vec() },
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (line, end) in &self.lines {
            out.extend_from_slice(line);
            out.extend_from_slice(end);
        }
        out.extend_from_slice(&self.blank);
        out.extend_from_slice(&self.body);
    }

    /// A field, or the request line if there is none.
    fn line(&mut self, random: &mut Random) -> &mut (Vec<u8>, Vec<u8>) {
        let at = if self.lines.len() > 1 { 1 + random.below(self.lines.len() - 1) } else { 0 };
        &mut self.lines[at]
    }

    fn change(&mut self, random: &mut Random, number: u64) {
        let place = |lines: &Vec<_>, random: &mut Random| 1 + random.below(lines.len());
        match random.below(25) {
            0..=4 => {
                let line = random.pick(FRAMING).to_vec();
                self.lines.insert(place(&self.lines, random), (line, b"\r\n".to_vec()));
            }
            5 | 6 => {
                let line = random.pick(FIELDS).to_vec();
                self.lines.insert(place(&self.lines, random), (line, b"\r\n".to_vec()));
            }
            7 => {
                let line = self.line(random).clone();
                self.lines.insert(place(&self.lines, random), line);
            }
            8 if self.lines.len() > 1 => drop(self.lines.remove(1 + random.below(self.lines.len() - 1))),
            9 => {
                let (a, b) = (random.below(self.lines.len()), random.below(self.lines.len()));
                self.lines.swap(a, b);
            }
            10 => self.line(random).1 = random.pick(LINE_ENDS).to_vec(),
            11 => self.blank = random.pick(BLANKS).to_vec(),
            12 => {
                // White space or worse around the colon, before the name or behind the value.
                let space = random.pick(SPACES).to_vec();
                let which = random.below(4);
                let line = &mut self.line(random).0;
                let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
                let at = [0, colon, (colon + 1).min(line.len()), line.len()][which];
                line.splice(at..at, space);
            }
            13 => {
                let which = random.below(3);
                for byte in &mut self.line(random).0 {
                    match which {
                        0 => byte.make_ascii_uppercase(),
                        1 => byte.make_ascii_lowercase(),
                        _ if *byte == b'-' => *byte = b'_',
                        _ => {}
                    }
                }
            }
            14 => self.word(0, random.pick(METHODS)),
            15 => self.word(2, random.pick(VERSIONS)),
            16 | 17 => {
                let form = random.pick(TARGETS);
                let target = self.lines[0].0.split(|byte| *byte == b' ').nth(1).unwrap_or(b"/").to_vec();
                self.word(1, &replace(form, b"@", &target));
            }
            18 => self.resize(random),
            19 => self.chunk(random),
            20 => {
                // A body may hold anything, such as a request.
                let bait = format!("GET /q{number}-9 HTTP/1.1\r\nHost: bait\r\n\r\n");
                let at = if random.once_in(2) { 0 } else { random.below(self.body.len() + 1) };
                self.body.splice(at..at, bait.into_bytes());
            }
            21 => {
                let before = random.pick(BEFORE).to_vec();
                self.lines[0].0.splice(0..0, before);
            }
            22 => {
                let at = random.below(self.lines.len());
                anywhere(random, &mut self.lines[at].0);
            }
            23 => {
                // Near the bounds of buffers and limits.
                let length = random.pick(&[255, 1024, 8100, 8192, 16_400, 33_000]);
                let line = match random.below(3) {
                    0 => [b"X-Long: ".to_vec(), vec![b'v'; length]].concat(),
                    1 => [vec![b'n'; length], b": v".to_vec()].concat(),
                    _ => [b"X-Many: v\r\n".repeat(length / 100), b"X-Many: last".to_vec()].concat(),
                };
                self.lines.insert(place(&self.lines, random), (line, b"\r\n".to_vec()));
            }
            _ if self.body.is_empty() => anywhere(random, &mut self.blank),
            _ => anywhere(random, &mut self.body),
        }
    }

    /// Replaces a word of the request line.
    fn word(&mut self, which: usize, by: &[u8]) {
        let mut words: Vec<_> = self.lines[0].0.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect();
        if let Some(word) = words.get_mut(which) {
            *word = by.to_vec();
        }
        self.lines[0].0 = words.join(&b' ');
    }

    /// The stated length, wrongly.
    fn resize(&mut self, random: &mut Random) {
        let length = self.body.len() as i64 + random.pick(&[-40, -2, -1, 0, 1, 2, 40]);
        let text = format!("Content-Length: {}", length.max(0)).into_bytes();
        let known = self.lines.iter().position(|line| line.0.to_ascii_lowercase().starts_with(b"content-length"));
        match known {
            Some(at) => self.lines[at].0 = text,
            None => self.lines.push((text, b"\r\n".to_vec())),
        }
    }

    /// The body in chunks, with tricks.
    fn chunk(&mut self, random: &mut Random) {
        self.lines.retain(|line| {
            let name = line.0.to_ascii_lowercase();
            !name.starts_with(b"content-length") && !name.starts_with(b"transfer-encoding")
        });
        self.lines.push((b"Transfer-Encoding: chunked".to_vec(), b"\r\n".to_vec()));
        let body = std::mem::take(&mut self.body);
        let tricks = 1 + random.below(3);
        for piece in body.chunks(1 + random.below(body.len().max(1))) {
            let size = format!("{:x}", piece.len()).into_bytes();
            let trick = |random: &mut Random| random.below(4) < tricks;
            let form = if trick(random) { random.pick(SIZES) } else { &b"@"[..] };
            self.body.extend_from_slice(&replace(form, b"@", &size));
            self.body.extend_from_slice(if random.once_in(6) { random.pick(LINE_ENDS) } else { &b"\r\n"[..] });
            self.body.extend_from_slice(piece);
            self.body.extend_from_slice(if random.once_in(12) { random.pick(LINE_ENDS) } else { &b"\r\n"[..] });
        }
        self.body.extend_from_slice(random.pick(LAST_CHUNKS));
    }
}

/// A small change at a place of no meaning.
pub fn anywhere(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(8)).min(bytes.len());
    match random.below(6) {
        0 | 1 => drop(bytes.splice(at..at, random.pick(BYTES).iter().copied())),
        2 => drop(bytes.splice(at..(at + 1).min(bytes.len()), random.pick(BYTES).iter().copied())),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

fn cuts(random: &mut Random, length: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = match random.below(24) {
        0 if length < 400 => (1..length).collect(),
        0..=6 => (0..=random.below(4)).map(|_| random.below(length + 1)).collect(),
        _ => Vec::new(),
    };
    cuts.sort_unstable();
    cuts
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

pub fn replace(text: &[u8], part: &[u8], by: &[u8]) -> Vec<u8> {
    match find(text, part) {
        Some(at) => [&text[..at], by, &text[at + part.len()..]].concat(),
        None => text.to_vec(),
    }
}

/// Bytes as text that a person can read and [`unescape`] can undo. A line of the stream is a line of the text.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\r' => text += "\\r",
            b'\n' => text += "\\n\n",
            b'\t' => text += "\\t",
            b'\\' => text += "\\\\",
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text += &format!("\\x{byte:02x}"),
        }
    }
    text
}

pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            // Only those that are written out count.
            b'\n' | b'\r' => {}
            b'\\' => bytes.push(match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'\\') => b'\\',
                Some(b'x') => {
                    let digits = [rest.next(), rest.next()].map(|digit| char::from(digit.unwrap_or(b'?')));
                    let digits: String = digits.into_iter().collect();
                    u8::from_str_radix(&digits, 16).expect("two hexadecimal digits behind \\x")
                }
                other => panic!("expected r, n, t, x or a backslash behind a backslash, found {other:?}"),
            }),
            byte => bytes.push(byte),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&escape(&all)), all);
    }

    #[test]
    fn tags_are_found_and_changed() {
        let text = b"q /q7-0 q12-3 q5 q-1 q1-";
        assert_eq!(tags(text).map(|found| found.0).collect::<Vec<_>>(), [(7, 0), (12, 3)]);
        assert_eq!(retag(text, 9, Some(1)), b"q /q9-2 q9-3 q5 q-1 q1-");
        assert_eq!(retag(text, 9, None), b"q /q9-0 q9-3 q5 q-1 q1-");
    }
}
