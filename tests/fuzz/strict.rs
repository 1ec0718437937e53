//! A reader of HTTP/1 that understands one thing only, or nothing: whatever two readers could take differently, it refuses.
//! It shares no code with the proxy, so that both cannot be wrong in the same way.
//!
//! It reads on both sides of the proxy. What clients send is given a little more room (see [`From`]): that much a proxy may
//! accept, because nothing of it goes on as it came.

/// Who wrote the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// May also begin with empty lines, speak HTTP/1.0 (then without a `Host`, too), use the absolute form, and write
    /// white space and extensions behind a chunk's size (RFC 9112 sections 2.2, 3.2.2, 7.1.1).
    Client,
    Proxy,
}

pub type Fields = Vec<(String, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// In origin form or `*`: what stands before the path of an absolute form is in `authority`.
    pub target: String,
    pub authority: Option<String>,
    pub old: bool,
    /// In the order of the lines, names in lower case.
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
}

impl Request {
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        values(&self.fields, name)
    }

    /// The connection ends after it (RFC 9112 section 9.3).
    pub fn is_last(&self) -> bool {
        let asks = |option: &str| {
            self.values("connection")
                .flat_map(|line| line.split(|byte| *byte == b','))
                .any(|one| trim(one).eq_ignore_ascii_case(option.as_bytes()))
        };
        asks("close") || self.old && !asks("keep-alive")
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
}

fn values<'a>(fields: &'a Fields, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |field| field.0 == name).map(|field| field.1.as_slice())
}

/// Why there is no whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Not {
    /// More bytes could make it one.
    Yet(&'static str),
    /// Never, whatever follows.
    Ever(&'static str),
}

/// How a client's whole stream ends, after the requests in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the last byte of a request.
    Clean,
    /// In the middle of one.
    Unfinished(&'static str),
    /// What follows is no request.
    Refused(&'static str),
    /// What follows counts for nothing: the last request was the connection's last.
    Closed,
}

/// The requests in a client's stream.
pub fn stream(mut bytes: &[u8]) -> (Vec<Request>, End) {
    let mut requests = Vec::new();
    loop {
        if bytes.is_empty() {
            return (requests, End::Clean);
        }
        match request(bytes, From::Client) {
            Ok((request, length)) => {
                bytes = &bytes[length..];
                let last = request.is_last();
                requests.push(request);
                if last {
                    return (requests, End::Closed);
                }
            }
            Err(Not::Yet(what)) => return (requests, End::Unfinished(what)),
            Err(Not::Ever(why)) => return (requests, End::Refused(why)),
        }
    }
}

/// The request at the beginning, and how many bytes it takes.
pub fn request(bytes: &[u8], from: From) -> Result<(Request, usize), Not> {
    let mut reader = Reader { bytes, at: 0 };
    let mut first = reader.line()?;
    while first.is_empty() && from == From::Client {
        first = reader.line()?;
    }
    let mut words = first.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Not::Ever("a request line that is not three words between single spaces"));
    };
    if !is_token(method) {
        return Err(Not::Ever("a method that is no token"));
    }
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" if from == From::Client => true,
        _ => return Err(Not::Ever("a version other than HTTP/1.1")),
    };
    if method == b"CONNECT" || method == b"TRACE" {
        return Err(Not::Ever("a method that is never passed on"));
    }
    let (authority, target) = split_target(method, target, from)?;
    let fields = reader.fields()?;

    let mut hosts = values(&fields, "host");
    let (host, another) = (hosts.next(), hosts.next());
    drop(hosts);
    match (host, another) {
        (Some(host), None) if is_host(host) => {}
        (None, None) if old => {}
        _ => return Err(Not::Ever("not exactly one valid Host")),
    }
    let framing = framing(&fields)?;
    if old && framing == Framing::Chunked {
        return Err(Not::Ever("a transfer coding in HTTP/1.0"));
    }
    let (body, trailers) = match framing {
        Framing::None => Default::default(),
        Framing::Length(length) => (reader.take(length)?.to_vec(), Fields::new()),
        Framing::Chunked => reader.chunks(from)?,
    };
    if from == From::Proxy && trailers.iter().any(|(name, _)| FORBIDDEN_IN_TRAILERS.contains(&name.as_str())) {
        return Err(Not::Ever("a trailer that frames, routes or authenticates"));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let request = Request { method: text(method), target, authority, old, fields, body, trailers };
    Ok((request, reader.at))
}

/// The answer at the beginning, and how many bytes it takes. `head`: to a HEAD.
pub fn answer(bytes: &[u8], head: bool) -> Result<(Answer, usize), Not> {
    let mut reader = Reader { bytes, at: 0 };
    let first = reader.line()?;
    let status = first
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| first.strip_prefix(b"HTTP/1.0 "))
        .filter(|rest| rest.len() >= 4 && rest[..3].iter().all(u8::is_ascii_digit) && rest[3] == b' ')
        .map(|rest| rest[..3].iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
        .filter(|status| (100..600).contains(status))
        .ok_or(Not::Ever("a status line that is none"))?;
    let fields = reader.fields()?;
    let framing = framing(&fields)?;
    let empty = head || status < 200 || status == 204 || status == 304;
    let body = match framing {
        _ if empty => Vec::new(),
        Framing::Length(length) => reader.take(length)?.to_vec(),
        Framing::Chunked => reader.chunks(From::Proxy)?.0,
        Framing::None => return Err(Not::Yet("a body that ends with the connection")),
    };
    Ok((Answer { status, fields, body }, reader.at))
}

const FORBIDDEN_IN_TRAILERS: [&str; 16] = [
    "transfer-encoding",
    "content-length",
    "host",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "max-forwards",
    "authorization",
    "proxy-authorization",
    "cookie",
    "content-encoding",
    "content-type",
    "content-range",
];

#[derive(PartialEq, Eq)]
enum Framing {
    None,
    Length(u64),
    Chunked,
}

fn framing(fields: &Fields) -> Result<Framing, Not> {
    let mut lengths = values(fields, "content-length");
    let mut codings = values(fields, "transfer-encoding");
    match (lengths.next(), lengths.next(), codings.next(), codings.next()) {
        (None, None, None, None) => Ok(Framing::None),
        (Some(length), None, None, None) => {
            number(length, 10).map(Framing::Length).ok_or(Not::Ever("a length that is no number, or too large"))
        }
        (None, None, Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, None, Some(_), None) => Err(Not::Ever("a transfer coding other than chunked")),
        _ => Err(Not::Ever("more than one way to find the body's end")),
    }
}

/// Digits alone, whatever zeros they begin with. What 64 bits hold is more than anybody sends.
pub fn number(digits: &[u8], base: u32) -> Option<u64> {
    let add = |number: u64, byte: &u8| {
        let digit = char::from(*byte).to_digit(base)?;
        number.checked_mul(u64::from(base))?.checked_add(u64::from(digit))
    };
    let number = digits.iter().try_fold(0, add)?;
    (!digits.is_empty() && number <= u64::MAX - 2).then_some(number)
}

fn split_target(method: &[u8], target: &[u8], from: From) -> Result<(Option<String>, String), Not> {
    // Bytes of other characters belong percent-encoded, but are common, and mean the same to everybody.
    let plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0x80..);
    if !target.iter().all(plain) || target.contains(&b'#') {
        return Err(Not::Ever("a target with a byte that no target has"));
    }
    let text = String::from_utf8_lossy(target).into_owned();
    if text.starts_with('/') || text == "*" && method == b"OPTIONS" {
        return Ok((None, text));
    }
    let absolute = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).map(|_| &text[7..]);
    let absolute =
        absolute.or_else(|| text.get(..8).filter(|scheme| scheme.eq_ignore_ascii_case("https://")).map(|_| &text[8..]));
    let Some(rest) = absolute.filter(|_| from == From::Client) else {
        return Err(Not::Ever("a target that is neither a path nor, for OPTIONS, an asterisk"));
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_host(authority.as_bytes()) {
        return Err(Not::Ever("an absolute target without a valid authority"));
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((Some(authority.to_owned()), path))
}

/// A registered name or an address, and perhaps a port (RFC 3986 section 3.2). No user information.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|byte| *byte == b':') {
        Some(at) if !host[at..].contains(&b']') => (&host[..at], &host[at + 1..]),
        _ => (host, &host[host.len()..]),
    };
    let name = match name {
        [b'[', inner @ .., b']'] => {
            !inner.is_empty() && inner.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
        }
        _ => {
            !name.is_empty()
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte))
        }
    };
    name && port.iter().all(u8::is_ascii_digit)
}

/// Without the white space that may stand around a value: spaces and tabs, no other.
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Up to a CR with its LF, which it does not return. Neither may stand alone.
    fn line(&mut self) -> Result<&'a [u8], Not> {
        let rest = &self.bytes[self.at..];
        let end =
            rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).ok_or(Not::Yet("a line without its end"))?;
        match rest[end..] {
            [b'\r', b'\n', ..] => {
                self.at += end + 2;
                Ok(&rest[..end])
            }
            [b'\r'] => Err(Not::Yet("a line without its end")),
            [b'\r', ..] => Err(Not::Ever("a bare CR")),
            _ => Err(Not::Ever("a bare LF")),
        }
    }

    /// Up to the empty line.
    fn fields(&mut self) -> Result<Fields, Not> {
        let mut fields = Fields::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or(Not::Ever("a field without a colon"))?;
            if !is_token(&line[..colon]) {
                return Err(Not::Ever("a field whose name is no token"));
            }
            let value = trim(&line[colon + 1..]);
            if !value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
                return Err(Not::Ever("a field with a control character"));
            }
            fields.push((String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase(), value.to_vec()));
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Not> {
        let rest = &self.bytes[self.at..];
        if (rest.len() as u64) < length {
            return Err(Not::Yet("a body shorter than its length"));
        }
        let length = length as usize;
        self.at += length;
        Ok(&rest[..length])
    }

    fn chunks(&mut self, from: From) -> Result<(Vec<u8>, Fields), Not> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let rest = &line[digits..];
            let spaces = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let plain = rest[spaces..].is_empty() || rest[spaces] == b';' && rest.iter().all(|byte| *byte != 0);
            let size = number(&line[..digits], 16).filter(|_| plain && (from == From::Client || rest.is_empty()));
            let size = size.ok_or(Not::Ever("a chunk's size that is not plain hexadecimal digits"))?;
            if size == 0 {
                return Ok((body, self.fields()?));
            }
            body.extend_from_slice(self.take(size)?);
            match &self.bytes[self.at..] {
                [b'\r', b'\n', ..] => self.at += 2,
                [] | [b'\r'] => return Err(Not::Yet("a chunk without its end")),
                _ => return Err(Not::Ever("a chunk that does not end with its size")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> bool {
        matches!(request(text.as_bytes(), From::Proxy), Err(Not::Ever(_)))
    }

    #[test]
    fn it_reads_what_is_plain() {
        let text = "POST /a HTTP/1.1\r\nHost: a:80\r\nX: \ty \r\ncontent-length: 3\r\n\r\nabcGET";
        let (read, length) = request(text.as_bytes(), From::Proxy).unwrap();
        assert_eq!((read.method.as_str(), read.target.as_str(), length), ("POST", "/a", text.len() - 3));
        assert_eq!(read.values("x").next(), Some(&b"y"[..]));
        assert_eq!(read.body, b"abc");
        let text =
            "PUT /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nt: u\r\n\r\n";
        let (read, length) = request(text.as_bytes(), From::Proxy).unwrap();
        assert_eq!((read.body.as_slice(), length), (&b"abc"[..], text.len()));
        assert_eq!(read.trailers, [("t".to_owned(), b"u".to_vec())]);
    }

    #[test]
    fn every_beginning_of_a_request_is_unfinished_and_not_refused() {
        let text = "PUT /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nt: u\r\n\r\n";
        for end in 0..text.len() {
            assert!(matches!(request(&text.as_bytes()[..end], From::Proxy), Err(Not::Yet(_))), "{end}");
        }
    }

    #[test]
    fn it_refuses_whatever_two_readers_could_take_differently() {
        let head = |line: &str| format!("GET /a HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        for line in [
            "X : y",
            " X: y",
            "X: a\r\n b",
            "X: a\nY: b",
            "X: a\rY: b",
            "X: a\0b",
            ": a",
            "X",
            "X(: a",
            "Host: a",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length:",
            "Content-Length: 0x1",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
        ] {
            assert!(refused(&head(line)), "{line:?}");
        }
        for text in [
            "GET /a  HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET /a http/1.1\r\nHost: a\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: u@a\r\n\r\n",
            "\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(refused(text), "{text:?}");
        }
        for chunks in [
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            "1;a\r\na\r\n",
            "1\r\nab\r\n",
            "1\na\r\n",
            "1_0\r\n",
            "11112222333344445\r\n",
            "\r\n",
        ] {
            assert!(
                refused(&head("Transfer-Encoding: chunked").replace("\r\n\r\n", &format!("\r\n\r\n{chunks}"))),
                "{chunks:?}"
            );
        }
    }

    #[test]
    fn a_stream_ends_where_its_client_says() {
        let get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        let last = "GET /b HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n";
        let ends = |text: String| {
            let (requests, end) = stream(text.as_bytes());
            (requests.len(), end)
        };
        assert_eq!(ends(format!("{get}{get}")), (2, End::Clean));
        assert_eq!(ends(format!("{last}{get}")), (1, End::Closed));
        assert_eq!(ends("GET http://b?q HTTP/1.0\r\n\r\nx".to_owned()), (1, End::Closed));
        assert!(matches!(ends(format!("{get}GET /")), (1, End::Unfinished(_))));
        assert!(matches!(ends(format!("{get} {get}")), (1, End::Refused(_))));
    }
}
