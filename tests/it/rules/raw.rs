//! HTTP/1 and HTTP/2 by hand, for both ends of a proxy: nothing here refuses to send what is wrong, and nothing that
//! arrives is made prettier. Text stands for bytes one to one: each `char` up to U+00FF is the byte of its number.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use loona_hpack::Decoder;
use splitway::route::Role;
use splitway::route::policy::Policy;
use splitway::route::transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Proxy, eventually, routing, soon};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}
pub use Protocol::{H1, H2};

/// What a client speaks, and what the application behind speaks.
pub const PAIRS: [(Protocol, Protocol); 4] = [(H1, H1), (H1, H2), (H2, H1), (H2, H2)];

/// One side alone.
pub const BOTH: [Protocol; 2] = [H1, H2];

pub type Fields = Vec<(String, String)>;

pub fn fields(of: &[(&str, &str)]) -> Fields {
    of.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// The values of one field, in order.
pub fn all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

pub fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).expect("a char that stands for a byte")).collect()
}

/// A request as a client means it. For HTTP/1 `authority` becomes `Host`.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub target: String,
    pub authority: String,
    pub fields: Fields,
    pub body: Option<String>,
    pub trailers: Fields,
    /// The body ends before its time.
    pub cut: bool,
}

impl Ask {
    pub fn get(target: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            target: target.to_owned(),
            authority: "a".to_owned(),
            fields: Vec::new(),
            body: None,
            trailers: Vec::new(),
            cut: false,
        }
    }
    pub fn post(target: &str, body: &str) -> Self {
        Self { method: "POST".to_owned(), body: Some(body.to_owned()), ..Self::get(target) }
    }
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.to_owned();
        self
    }
    pub fn with(mut self, more: &[(&str, &str)]) -> Self {
        self.fields.extend(fields(more));
        self
    }
    pub fn trailers(mut self, trailers: &[(&str, &str)]) -> Self {
        self.trailers = fields(trailers);
        self
    }
    pub fn cut(mut self) -> Self {
        self.cut = true;
        self
    }
}

/// A request as it arrived at the application.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// From 0, in the order of their opening.
    pub connection: usize,
    pub method: String,
    pub target: String,
    /// `:authority`; of HTTP/1 it stays empty.
    pub authority: String,
    pub fields: Fields,
    pub body: String,
    pub trailers: Fields,
    /// Its end was an end, no cut.
    pub whole: bool,
}

impl Seen {
    pub fn all(&self, name: &str) -> Vec<&str> {
        all(&self.fields, name)
    }
    /// The host it is for, which must be said exactly once.
    pub fn host(&self) -> &str {
        match (self.authority.as_str(), &self.all("host")[..]) {
            ("", [host]) => host,
            (authority, []) if !authority.is_empty() => authority,
            (authority, [host]) if authority == *host => host,
            _ => panic!("not one host: {self:?}"),
        }
    }
}

/// An answer, as an application gives it or as it arrived at a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub fields: Fields,
    pub body: String,
    pub trailers: Fields,
    /// It ends before its time; or, at a client: its end was no end.
    pub cut: bool,
    /// 1xx before it.
    pub before: Vec<(u16, Fields)>,
}

impl Answer {
    pub fn ok(body: &str) -> Self {
        Self { status: 200, body: body.to_owned(), ..Self::default() }
    }
    pub fn with(mut self, more: &[(&str, &str)]) -> Self {
        self.fields.extend(fields(more));
        self
    }
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
    pub fn all(&self, name: &str) -> Vec<&str> {
        all(&self.fields, name)
    }
    pub fn reason(&self) -> &str {
        self.all("x-splitway-reason").first().copied().unwrap_or_default()
    }
}

/// What an application does with a request.
pub enum Then {
    Answer(Answer),
    /// These bytes (HTTP/1), and the connection stays open.
    Bytes(String),
    /// These bytes (HTTP/1), and the end of the connection.
    Last(String),
    /// These frames (HTTP/2), made for the stream.
    Frames(Box<dyn Fn(u32) -> Vec<u8> + Send>),
    /// Nothing at all.
    Silence,
    Close,
}

/// An application that speaks byte by byte and remembers every request.
pub struct App {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl App {
    pub async fn start(protocol: Protocol, script: impl Fn(&Seen) -> Then + Send + Sync + 'static) -> Self {
        Self::listen(protocol, false, script).await
    }

    /// One that answers as soon as it has the head.
    pub async fn early(protocol: Protocol, script: impl Fn(&Seen) -> Then + Send + Sync + 'static) -> Self {
        Self::listen(protocol, true, script).await
    }

    async fn listen(protocol: Protocol, early: bool, script: impl Fn(&Seen) -> Then + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (script, shared) = (Arc::new(script), seen.clone());
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (script, seen) = (script.clone(), shared.clone());
                tokio::spawn(async move {
                    let bytes = Bytes { stream, read: Vec::new() };
                    match protocol {
                        H1 => serve_h1(bytes, connection, early, &*script, &seen).await,
                        H2 => serve_h2(bytes, connection, early, &*script, &seen).await,
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// What has arrived so far, in the order of the ends.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The same when it is that many; no more may come.
    pub async fn saw(&self, requests: usize) -> Vec<Seen> {
        eventually("requests at the application", async || self.seen().len() >= requests).await;
        let seen = self.seen();
        assert_eq!(seen.len(), requests, "{seen:?}");
        seen
    }

    /// The only request that has come.
    pub async fn saw_one(&self) -> Seen {
        self.saw(1).await.remove(0)
    }
}

/// A connection's bytes.
pub struct Bytes {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Bytes {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.expect("a connection");
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, what: impl AsRef<[u8]>) {
        // Whoever is refused early may find the connection closed: what the other side says counts.
        let _ = soon("room to write", self.stream.write_all(what.as_ref())).await;
    }

    /// Whether more has come; not so at the end.
    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.read).await, Ok(n) if n > 0)
    }

    async fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.read.len() < n {
            if !self.more().await {
                return None;
            }
        }
        Some(self.read.drain(..n).collect())
    }

    /// Up to the first occurrence of `end`, which is taken too and not returned.
    async fn line(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|part| part == end) {
                let line = self.read.drain(..at + end.len()).collect::<Vec<u8>>();
                return Some(text(&line[..at]));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Everything until the end.
    pub async fn rest(&mut self) -> String {
        soon("the end of the connection", async { while self.more().await {} }).await;
        text(&std::mem::take(&mut self.read))
    }

    /// First line and fields of a head in HTTP/1.
    async fn head(&mut self) -> Option<(String, Fields)> {
        let head = self.line(b"\r\n\r\n").await?;
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        Some((first, lines.map(field).collect()))
    }

    /// A body in HTTP/1, its trailers, and whether it is whole.
    async fn body(&mut self, fields: &Fields, until_end: bool) -> (String, Fields, bool) {
        if let Some(coding) = all(fields, "transfer-encoding").first() {
            assert_eq!(*coding, "chunked");
            let mut body = String::new();
            loop {
                let Some(line) = self.line(b"\r\n").await else { return (body, Vec::new(), false) };
                let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("a chunk size is {line:?}"));
                if size == 0 {
                    break;
                }
                let Some(data) = self.take(size + 2).await else { return (body, Vec::new(), false) };
                assert!(data.ends_with(b"\r\n"));
                body += &text(&data[..size]);
            }
            let mut trailers = Vec::new();
            loop {
                match self.line(b"\r\n").await {
                    None => return (body, trailers, false),
                    Some(line) if line.is_empty() => return (body, trailers, true),
                    Some(line) => trailers.push(field(&line)),
                }
            }
        }
        if let Some(length) = all(fields, "content-length").first() {
            let length: usize = length.parse().unwrap_or_else(|_| panic!("a length is {length:?}"));
            return match self.take(length).await {
                Some(data) => (text(&data), Vec::new(), true),
                None => (text(&std::mem::take(&mut self.read)), Vec::new(), false),
            };
        }
        if until_end { (self.rest().await, Vec::new(), true) } else { (String::new(), Vec::new(), true) }
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("a field is {line:?}"));
    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
}

async fn serve_h1(
    mut bytes: Bytes,
    connection: usize,
    early: bool,
    script: &(dyn Fn(&Seen) -> Then + Send + Sync),
    seen: &Mutex<Vec<Seen>>,
) {
    while let Some((first, fields)) = bytes.head().await {
        let mut parts = first.splitn(3, ' ').map(str::to_owned);
        let mut request = Seen {
            connection,
            method: parts.next().unwrap_or_default(),
            target: parts.next().unwrap_or_default(),
            fields,
            ..Seen::default()
        };
        assert_eq!(parts.next().as_deref(), Some("HTTP/1.1"), "{first:?}");
        let mut then = early.then(|| script(&request));
        if let Some(Then::Answer(answer)) = &then {
            bytes.send(answer_h1(answer, &request.method)).await;
        }
        (request.body, request.trailers, request.whole) = bytes.body(&request.fields, false).await;
        seen.lock().unwrap().push(request.clone());
        if !request.whole {
            return;
        }
        if then.is_none() {
            then = Some(script(&request));
        } else if matches!(then, Some(Then::Answer(_))) {
            continue;
        }
        match then.unwrap() {
            Then::Answer(answer) => {
                bytes.send(answer_h1(&answer, &request.method)).await;
                if answer.cut {
                    return;
                }
            }
            Then::Bytes(answer) => bytes.send(self::bytes(&answer)).await,
            Then::Last(answer) => return bytes.send(self::bytes(&answer)).await,
            Then::Silence => {}
            Then::Close => return,
            Then::Frames(_) => panic!("frames are for HTTP/2"),
        }
    }
}

fn write(head: &mut String, fields: &[(String, String)]) {
    for (name, value) in fields {
        *head += &format!("{name}: {value}\r\n");
    }
    *head += "\r\n";
}

fn answer_h1(answer: &Answer, method: &str) -> Vec<u8> {
    let mut out = String::new();
    for (status, fields) in &answer.before {
        out += &format!("HTTP/1.1 {status} x\r\n");
        write(&mut out, fields);
    }
    out += &format!("HTTP/1.1 {} x\r\n", answer.status);
    let mut fields = answer.fields.clone();
    let framed = !all(&fields, "content-length").is_empty();
    let chunked = !answer.trailers.is_empty();
    let bodyless = matches!(answer.status, 204 | 304);
    if chunked {
        fields.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
    } else if !framed && !bodyless {
        let missing = if answer.cut { 100 } else { 0 };
        fields.push(("content-length".to_owned(), (answer.body.chars().count() + missing).to_string()));
    }
    write(&mut out, &fields);
    if method != "HEAD" && !bodyless {
        out += &body_h1(&answer.body, &answer.trailers, chunked, answer.cut);
    }
    bytes(&out)
}

fn body_h1(body: &str, trailers: &[(String, String)], chunked: bool, cut: bool) -> String {
    if !chunked {
        return body.to_owned();
    }
    let mut out = String::new();
    if !body.is_empty() {
        out += &format!("{:x}\r\n{body}\r\n", body.chars().count());
    }
    if !cut {
        out += "0\r\n";
        write(&mut out, trailers);
    }
    out
}

/// A request of HTTP/1 as bytes.
fn ask_h1(ask: &Ask) -> Vec<u8> {
    let mut out = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", ask.method, ask.target, ask.authority);
    let mut fields = ask.fields.clone();
    let chunked = !ask.trailers.is_empty() || !all(&fields, "transfer-encoding").is_empty();
    if !ask.trailers.is_empty() {
        fields.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
    } else if let Some(body) = &ask.body
        && !chunked
        && all(&fields, "content-length").is_empty()
    {
        let missing = if ask.cut { 100 } else { 0 };
        fields.push(("Content-Length".to_owned(), (body.chars().count() + missing).to_string()));
    }
    write(&mut out, &fields);
    if let Some(body) = &ask.body {
        out += &body_h1(body, &ask.trailers, chunked, ask.cut);
    }
    bytes(&out)
}

/// One frame of HTTP/2 (9113 section 4.1).
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field block: every field a literal with a literal name, without indexing and Huffman (RFC 7541 section 6.2.2).
pub fn block(fields: &[(String, String)]) -> Vec<u8> {
    fn string(out: &mut Vec<u8>, text: &str) {
        let text = bytes(text);
        // An integer with a prefix of 7 bits (section 5.1).
        if text.len() < 127 {
            out.push(text.len() as u8);
        } else {
            out.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                out.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            out.push(rest as u8);
        }
        out.extend(text);
    }
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

/// HEADERS with these fields, and CONTINUATION where one frame does not hold them.
pub fn headers(stream: u32, fields: &[(String, String)], end: bool) -> Vec<u8> {
    let block = block(fields);
    let mut pieces = block.chunks(16_384).peekable();
    let mut out = Vec::new();
    let mut kind = HEADERS;
    loop {
        let piece = pieces.next().unwrap_or_default();
        let last = pieces.peek().is_none();
        let ends = if end && kind == HEADERS { END_STREAM } else { 0 };
        out.extend(frame(kind, ends | if last { END_HEADERS } else { 0 }, stream, piece));
        if last {
            return out;
        }
        kind = CONTINUATION;
    }
}

pub fn data(stream: u32, what: &str, end: bool) -> Vec<u8> {
    frame(DATA, if end { END_STREAM } else { 0 }, stream, &bytes(what))
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

pub fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// A connection of HTTP/2, either end.
pub struct Frames {
    pub bytes: Bytes,
    decoder: Decoder<'static>,
}

impl Frames {
    /// A client's, with its preface.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut bytes = Bytes::connect(address).await;
        bytes.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        Self { bytes, decoder: Decoder::new() }
    }

    pub async fn send(&mut self, frames: impl AsRef<[u8]>) {
        self.bytes.send(frames).await;
    }

    /// The next frame; none at the end. What every peer must do with SETTINGS, PING and DATA is done.
    pub async fn next(&mut self) -> Option<Frame> {
        let head = self.bytes.take(9).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let frame = Frame { kind: head[3], flags: head[4], stream, payload: self.bytes.take(length).await? };
        match frame.kind {
            SETTINGS | PING if frame.flags & ACK == 0 => {
                let echo = if frame.kind == PING { &frame.payload[..] } else { &[] };
                self.send(self::frame(frame.kind, ACK, 0, echo)).await;
            }
            DATA if !frame.payload.is_empty() => {
                let more = frame.payload.len() as u32;
                let mut both = window(0, more);
                if frame.flags & END_STREAM == 0 {
                    both.extend(window(frame.stream, more));
                }
                self.send(both).await;
            }
            _ => {}
        }
        Some(frame)
    }

    /// The fields of a HEADERS frame and of the CONTINUATIONs behind it.
    pub async fn fields(&mut self, frame: &Frame) -> Fields {
        let mut payload = &frame.payload[..];
        if frame.flags & 8 != 0 {
            payload = &payload[1..payload.len() - usize::from(payload[0])];
        }
        if frame.flags & 32 != 0 {
            payload = &payload[5..];
        }
        let mut block = payload.to_vec();
        let mut flags = frame.flags;
        while flags & END_HEADERS == 0 {
            let more = self.next().await.expect("a continuation");
            assert_eq!(more.kind, CONTINUATION);
            block.extend(&more.payload);
            flags = more.flags;
        }
        let decoded = self.decoder.decode(&block).expect("a field block");
        decoded.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// The answer on a stream, or the code with which the stream was reset, or the connection ended.
    pub async fn answer(&mut self, stream: u32) -> Result<Answer, End> {
        soon("an answer", async {
            let mut answer = Answer::default();
            loop {
                let Some(frame) = self.next().await else { return Err(End::Closed(Box::new(answer))) };
                match frame.kind {
                    HEADERS => {
                        let fields = self.fields(&frame).await;
                        if frame.stream != stream {
                            continue;
                        }
                        let status = all(&fields, ":status").first().and_then(|status| status.parse().ok());
                        let fields: Fields = fields.into_iter().filter(|(name, _)| !name.starts_with(':')).collect();
                        match status {
                            Some(status) if status < 200 => answer.before.push((status, fields)),
                            Some(status) => (answer.status, answer.fields) = (status, fields),
                            None => answer.trailers = fields,
                        }
                    }
                    DATA if frame.stream == stream => answer.body += &text(&frame.payload),
                    RST_STREAM if frame.stream == stream => {
                        let code = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
                        if code == 0 && answer.status != 0 && !answer.cut {
                            continue;
                        }
                        answer.cut = true;
                        return Err(End::Reset(code, Box::new(answer)));
                    }
                    GOAWAY => {
                        let code = u32::from_be_bytes(frame.payload[4..8].try_into().unwrap());
                        if code != 0 {
                            return Err(End::GoAway(code, text(&frame.payload[8..])));
                        }
                    }
                    _ => {}
                }
                if frame.stream == stream && matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                    return Ok(answer);
                }
            }
        })
        .await
    }
}

/// How a stream ended without a whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Reset(u32, Box<Answer>),
    GoAway(u32, String),
    Closed(Box<Answer>),
}

async fn serve_h2(
    mut bytes: Bytes,
    connection: usize,
    early: bool,
    script: &(dyn Fn(&Seen) -> Then + Send + Sync),
    seen: &Mutex<Vec<Seen>>,
) {
    match bytes.take(PREFACE.len()).await {
        Some(preface) => assert_eq!(text(&preface), text(PREFACE)),
        None => return,
    }
    bytes.send(frame(SETTINGS, 0, 0, &[])).await;
    let mut frames = Frames { bytes, decoder: Decoder::new() };
    let mut open: HashMap<u32, Seen> = HashMap::new();
    while let Some(frame) = frames.next().await {
        let stream = frame.stream;
        match frame.kind {
            HEADERS => {
                let fields = frames.fields(&frame).await;
                if let Some(request) = open.get_mut(&stream) {
                    request.trailers = fields;
                } else {
                    let pseudo = |name: &str| all(&fields, name).concat();
                    let request = Seen {
                        connection,
                        method: pseudo(":method"),
                        target: pseudo(":path"),
                        authority: pseudo(":authority"),
                        fields: fields.iter().filter(|(name, _)| !name.starts_with(':')).cloned().collect(),
                        ..Seen::default()
                    };
                    if early {
                        let then = script(&request);
                        if !answer_h2(&mut frames, stream, then, &request.method).await {
                            return;
                        }
                    }
                    open.insert(stream, request);
                }
            }
            DATA => {
                if let Some(request) = open.get_mut(&stream) {
                    request.body += &text(&frame.payload);
                }
            }
            RST_STREAM => {
                if let Some(request) = open.remove(&stream) {
                    seen.lock().unwrap().push(request);
                }
            }
            _ => {}
        }
        if matches!(frame.kind, HEADERS | DATA)
            && frame.flags & END_STREAM != 0
            && let Some(mut request) = open.remove(&stream)
        {
            request.whole = true;
            seen.lock().unwrap().push(request.clone());
            if !early {
                let then = script(&request);
                if !answer_h2(&mut frames, stream, then, &request.method).await {
                    return;
                }
            }
        }
    }
    // What the connection's end cut.
    seen.lock().unwrap().extend(open.into_values());
}

/// Whether the connection goes on.
async fn answer_h2(frames: &mut Frames, stream: u32, then: Then, method: &str) -> bool {
    match then {
        Then::Answer(answer) => {
            let head = |status: u16, more: &[(String, String)]| {
                let mut fields = vec![(":status".to_owned(), status.to_string())];
                fields.extend(more.iter().cloned());
                fields
            };
            let mut out = Vec::new();
            for (status, fields) in &answer.before {
                out.extend(headers(stream, &head(*status, fields), false));
            }
            let bodyless = method == "HEAD" || matches!(answer.status, 204 | 304);
            out.extend(headers(stream, &head(answer.status, &answer.fields), bodyless));
            if !bodyless {
                out.extend(data(stream, &answer.body, !answer.cut && answer.trailers.is_empty()));
                if answer.cut {
                    // INTERNAL_ERROR
                    out.extend(reset(stream, 2));
                } else if !answer.trailers.is_empty() {
                    out.extend(headers(stream, &answer.trailers, true));
                }
            }
            frames.send(out).await;
        }
        Then::Frames(of) => frames.send(of(stream)).await,
        Then::Silence => {}
        Then::Close => return false,
        Then::Bytes(_) | Then::Last(_) => panic!("bytes are for HTTP/1"),
    }
    true
}

/// A client with one connection of either protocol.
pub enum Client {
    One(Bytes),
    Two { frames: Box<Frames>, stream: u32 },
}

/// The pseudo-fields of a request, and its fields.
pub fn request_fields(ask: &Ask) -> Fields {
    let mut all = fields(&[(":method", &ask.method), (":scheme", "http"), (":path", &ask.target)]);
    if !ask.authority.is_empty() {
        all.push((":authority".to_owned(), ask.authority.clone()));
    }
    all.extend(ask.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())));
    all
}

impl Client {
    pub async fn connect(address: SocketAddr, protocol: Protocol) -> Self {
        match protocol {
            H1 => Client::One(Bytes::connect(address).await),
            H2 => Client::Two { frames: Box::new(Frames::connect(address).await), stream: 1 },
        }
    }

    /// Sends a request, and reads its answer. A cut one ends the client's side: HTTP/1 closes for writing, HTTP/2 resets.
    pub async fn ask(&mut self, ask: &Ask) -> Answer {
        match self {
            Client::One(bytes) => {
                bytes.send(ask_h1(ask)).await;
                if ask.cut {
                    bytes.stream.shutdown().await.unwrap();
                }
                soon("an answer", read_answer(bytes, &ask.method)).await
            }
            Client::Two { frames, stream } => {
                let this = *stream;
                *stream += 2;
                let body = ask.body.as_deref();
                let mut out = headers(this, &request_fields(ask), body.is_none() && ask.trailers.is_empty());
                if let Some(body) = body {
                    out.extend(data(this, body, ask.trailers.is_empty() && !ask.cut));
                }
                if !ask.trailers.is_empty() {
                    out.extend(headers(this, &ask.trailers, true));
                }
                frames.send(out).await;
                if ask.cut {
                    // CANCEL
                    frames.send(reset(this, 8)).await;
                    return Answer { cut: true, ..Answer::default() };
                }
                match frames.answer(this).await {
                    Ok(answer) => answer,
                    Err(End::Reset(_, answer)) | Err(End::Closed(answer)) => Answer { cut: true, ..*answer },
                    Err(End::GoAway(code, why)) => panic!("the connection ended with {code}: {why}"),
                }
            }
        }
    }
}

/// An answer of HTTP/1 with those before it. Without any it is empty and cut.
pub async fn read_answer(bytes: &mut Bytes, method: &str) -> Answer {
    let mut answer = Answer::default();
    loop {
        let Some((first, fields)) = bytes.head().await else {
            answer.cut = true;
            return answer;
        };
        let status: u16 = first.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        if status < 200 && status != 101 {
            answer.before.push((status, fields));
            continue;
        }
        (answer.status, answer.fields) = (status, fields);
        break;
    }
    if method != "HEAD" && !matches!(answer.status, 101 | 204 | 304) {
        let (body, trailers, whole) = bytes.body(&answer.fields, true).await;
        (answer.body, answer.trailers, answer.cut) = (body, trailers, !whole);
    }
    answer
}

/// A proxy before one application that speaks by script.
pub struct Scene {
    pub app: App,
    pub proxy: Proxy,
    down: Protocol,
}

impl Scene {
    /// One that answers everything with 200 and `ok`.
    pub async fn plain(pair: (Protocol, Protocol)) -> Self {
        Self::with(pair, |_| Then::Answer(Answer::ok("ok"))).await
    }

    /// One that gives every request the same answer.
    pub async fn answering(pair: (Protocol, Protocol), answer: Answer) -> Self {
        Self::with(pair, move |_| Then::Answer(answer.clone())).await
    }

    pub async fn with(
        (down, up): (Protocol, Protocol),
        script: impl Fn(&Seen) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::before(App::start(up, script).await, (down, up), |_| {}).await
    }

    pub async fn before(app: App, (down, up): (Protocol, Protocol), adjust: impl FnOnce(&mut Policy)) -> Self {
        let mut routing = routing(&[("stable", Role::Stable, 1, &[app.address])]);
        adjust(&mut routing.policy);
        if up == H2 {
            routing.backends[0].transport.protocol = transport::Protocol::Http2;
        }
        let proxy = Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await;
        Self { app, proxy, down }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.proxy.address, self.down).await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, ask: Ask) -> Answer {
        self.client().await.ask(&ask).await
    }

    pub async fn refused(&self, failure: &str) -> f64 {
        self.proxy.metric(&format!("splitway_refused_requests_total{{failure=\"{failure}\"}}")).await
    }
}
