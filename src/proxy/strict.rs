//! A strict reader of what a client sends over HTTP/1, ahead of hyper: it looks at each byte once, copies nothing, and
//! says where the first thing stands that another reader could understand differently.
//!
//! hyper reads generously where the RFCs leave room: it ends lines with a bare line feed, drops a `Content-Length` beside
//! `Transfer-Encoding` before anybody has seen it, cuts a `#` off the target. And what it refuses it answers by itself, 400
//! whatever it was. So every message is read here first, after the grammar of RFC 9112 and the choices of this proxy, and
//! hyper is given nothing of a message head or a piece of a body's framing that was refused here. The other way round, what
//! passes here hyper takes too, and sees the same messages in it: it has no reason left to answer for itself.
//!
//! The scanner follows the whole stream, over heads, lengths, chunks and trailers, so it knows where a head begins,
//! however the stream is cut into reads and however many requests are pipelined.

use super::Failure;

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Not `METHOD target HTTP/x.y` (9112 section 3), such as TLS on a port in clear.
    RequestLine,
    /// A target that is not of a form its method may have, or holds a byte that no target may (9112 section 3.2).
    Target,
    TargetTooLong,
    /// A version that is well-formed, and neither 1.0 nor 1.1 (9110 section 15.6.6).
    Version,
    /// A line feed without a carriage return before it.
    BareLineFeed,
    /// A carriage return without a line feed behind it.
    BareCarriageReturn,
    /// A field's name that is no token, or is followed by anything but a colon (9112 section 5.1).
    FieldName,
    /// A line that begins with white space: a folded one, or one before the first field (9112 sections 2.2 and 5.2).
    Folded,
    /// NUL or another control character in a field's value (9110 section 5.5).
    ControlCharacter,
    TooManyFields,
    HeadTooLarge,
    /// A length that is not plain digits, or too large to count with (9110 section 8.6).
    Length,
    /// More than one length, or one beside a coding, or more than one line of codings (9112 section 6.3).
    FramedTwice,
    /// A transfer coding that does not end with `chunked`, or is it twice, or is malformed (9112 section 6.3).
    Coding,
    /// A transfer coding that nobody here knows, before `chunked` (9112 section 6.1).
    UnknownCoding,
    /// A transfer coding in HTTP/1.0 (9112 section 6.1).
    CodingInOldVersion,
    /// A chunk whose size or end is malformed, or whose extensions are too large (9112 section 7.1).
    Chunk,
}

impl Violation {
    pub fn failure(self) -> Failure {
        match self {
            Violation::TargetTooLong => Failure::TargetTooLong,
            Violation::TooManyFields | Violation::HeadTooLarge => Failure::HeadTooLarge,
            Violation::Version => Failure::VersionRefused,
            Violation::UnknownCoding => Failure::CodingRefused,
            _ => Failure::BadRequest,
        }
    }

    /// For a person who wonders what the request had that is malformed.
    pub fn explanation(self) -> &'static str {
        match self {
            Violation::RequestLine => "the request line is not a method, a target and a version, each after one space",
            Violation::Target => "the request target holds a byte or has a form that is not allowed",
            Violation::TargetTooLong => "the request target is longer than the limit",
            Violation::Version => "the version of HTTP is neither 1.0 nor 1.1",
            Violation::BareLineFeed => "a line ends with a line feed alone",
            Violation::BareCarriageReturn => "a carriage return stands alone",
            Violation::FieldName => "a field's name is not a token directly before a colon",
            Violation::Folded => "a header line begins with white space",
            Violation::ControlCharacter => "a field's value holds a control character",
            Violation::TooManyFields => "the request has more header lines than the limit",
            Violation::HeadTooLarge => "the request's head or trailer section is larger than the limit",
            Violation::Length => "the Content-Length is not a number that can be counted to",
            Violation::FramedTwice => "the end of the body is given more than once",
            Violation::Coding => "the Transfer-Encoding does not end with one chunked",
            Violation::UnknownCoding => "the Transfer-Encoding has a coding that is not known",
            Violation::CodingInOldVersion => "version 1.0 of HTTP has no Transfer-Encoding",
            Violation::Chunk => "a chunk of the body is malformed",
        }
    }
}

/// Where a stream became unacceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub violation: Violation,
    /// How many of the bytes that were given come before what is refused, and may be passed on: in a head, those of the
    /// messages before it; in a body, those before the wrong byte.
    pub passes: usize,
    /// The request's head was in order, and has been passed on: its body never becomes whole.
    pub in_body: bool,
}

/// The bounds that a head is kept to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a head, with the empty line at its end.
    pub bytes: usize,
    /// Its header lines.
    pub fields: usize,
}

/// Bytes of a trailer section, and bytes of all chunk extensions of one body. Half of what hyper takes.
const TRAILER_BYTES: usize = 8 * 1024;
const EXTENSION_BYTES: usize = 8 * 1024;

/// A target that hyper could not hold.
const TARGET_BYTES: usize = 65_534;

/// Follows one client's stream.
#[derive(Clone, Debug)]
pub struct Scanner {
    bounds: Bounds,
    at: At,
    /// Bytes that the head, the trailer section or the chunk extensions may still have.
    room: usize,
    fields: usize,
    target: usize,
    /// HTTP/1.0.
    old: bool,
    length: Option<u64>,
    coding: Codings,
    /// Bytes of the body, or of the chunk, that are still to come; while a length is read, what of it is known.
    left: u64,
    /// Chunk extensions of this body, in bytes.
    extensions: usize,
    trailer: bool,
    heads: u64,
}

/// What comes next. Numbers are how much of a fixed word has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The first byte of a request, or of empty lines before it (9112 section 2.2).
    Start,
    StartLineFeed,
    Method(u8),
    Target(Form),
    Version(u8),
    Minor {
        major: u8,
    },
    VersionEnd,
    LineFeed,
    /// The first byte of a line: of a field's name, or of the empty line.
    Line,
    Name(Word, u8),
    Value,
    LengthValue(Digits),
    CodingValue(Element),
    /// The end of the empty line.
    End,
    Body,
    ChunkSize {
        digits: u8,
    },
    ChunkSpace,
    ChunkExtension,
    ChunkSizeEnd,
    ChunkData,
    ChunkEnd,
    ChunkLineFeed,
    /// Whatever follows is not HTTP/1, or is read by nobody.
    Beyond,
    Refused {
        violation: Violation,
        in_body: bool,
    },
}

/// The form of a target, as far as it is known (9112 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    First,
    /// Of the authority of a CONNECT, which is refused later: anything visible.
    Any,
    Asterisk,
    Scheme(u8),
    /// The two slashes.
    Slashes(u8),
    HostFirst,
    Host,
    Bracket,
    AfterBracket,
    Port,
    Path,
    Query,
    /// In a character of several bytes: how many are to come, and the bounds of the next.
    Wide {
        left: u8,
        low: u8,
        high: u8,
        query: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Other,
    Length,
    Coding,
}

const LENGTH: &[u8] = b"content-length";
const CODING: &[u8] = b"transfer-encoding";
const CHUNKED: &[u8] = b"chunked";
const CONNECT: &[u8] = b"CONNECT";
const VERSION: &[u8] = b"HTTP/";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Before,
    Within,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// White space before the name of a coding.
    Before,
    /// So many letters of `chunked`.
    Chunked(u8),
    /// Another name.
    Other,
    /// White space behind `chunked`, or behind another.
    After { chunked: bool },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Codings {
    lines: u8,
    chunked: bool,
    unknown: bool,
}

impl Scanner {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            at: At::Start,
            room: bounds.bytes,
            fields: 0,
            target: 0,
            old: false,
            length: None,
            coding: Codings::default(),
            left: 0,
            extensions: 0,
            trailer: false,
            heads: 0,
        }
    }

    /// From here on the stream is a tunnel's: everything passes.
    #[allow(dead_code)]
    pub fn pass_all(&mut self) {
        self.at = At::Beyond;
    }

    /// How many heads have passed to their ends.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Reads on. After a refusal nothing more passes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut i = 0;
        // Where the head that is read began.
        let mut began = 0;
        while i < bytes.len() {
            let outcome = match self.at {
                At::Body | At::ChunkData => {
                    let n = self.left.min((bytes.len() - i) as u64);
                    self.left -= n;
                    i += n as usize;
                    if self.left == 0 {
                        if self.at == At::Body {
                            self.next();
                            began = i;
                        } else {
                            self.at = At::ChunkEnd;
                        }
                    }
                    continue;
                }
                At::Beyond => return Ok(()),
                At::Refused { violation, in_body } => return Err(Refusal { violation, passes: 0, in_body }),
                At::ChunkSize { .. }
                | At::ChunkSpace
                | At::ChunkExtension
                | At::ChunkSizeEnd
                | At::ChunkEnd
                | At::ChunkLineFeed => self.chunk(bytes, &mut i),
                _ => {
                    let from = i;
                    let end = bytes.len().min(i.saturating_add(self.room));
                    let ended = self.head(&bytes[..end], &mut i);
                    self.room -= i - from;
                    match ended {
                        Ok(true) => {
                            self.after_head();
                            Ok(())
                        }
                        // As much as is allowed, and it goes on.
                        Ok(false) if i < bytes.len() => Err(self.too_large()),
                        Ok(false) => Ok(()),
                        Err(violation) => Err(violation),
                    }
                }
            };
            if let Err(violation) = outcome {
                let in_body = self.in_body();
                self.at = At::Refused { violation, in_body };
                return Err(Refusal { violation, passes: if in_body { i } else { began }, in_body });
            }
            if self.at == At::Start && self.room == self.bounds.bytes {
                began = i;
            }
        }
        Ok(())
    }

    fn in_body(&self) -> bool {
        self.trailer
            || matches!(
                self.at,
                At::Body
                    | At::ChunkSize { .. }
                    | At::ChunkSpace
                    | At::ChunkExtension
                    | At::ChunkSizeEnd
                    | At::ChunkData
                    | At::ChunkEnd
                    | At::ChunkLineFeed
            )
    }

    fn too_large(&self) -> Violation {
        if matches!(self.at, At::Target(_)) { Violation::TargetTooLong } else { Violation::HeadTooLarge }
    }

    /// A message has ended.
    fn next(&mut self) {
        *self = Self { heads: self.heads, ..Self::new(self.bounds) };
    }

    /// Reads of a head or trailer section what is there. Whether it has ended.
    fn head(&mut self, bytes: &[u8], i: &mut usize) -> Result<bool, Violation> {
        while *i < bytes.len() {
            let byte = bytes[*i];
            self.at = match self.at {
                At::Start => match byte {
                    b'\r' => At::StartLineFeed,
                    _ if is(byte, TOKEN) => {
                        self.at = match request_line(&bytes[*i..]) {
                            Some(length) => {
                                *i += length;
                                At::Line
                            }
                            None => At::Method(0),
                        };
                        continue;
                    }
                    b'\n' => return Err(Violation::BareLineFeed),
                    _ => return Err(Violation::RequestLine),
                },
                At::StartLineFeed => match byte {
                    b'\n' => At::Start,
                    _ => return Err(Violation::BareCarriageReturn),
                },
                At::Method(seen) => {
                    // Only CONNECT has a target of its own form.
                    if is(byte, TOKEN) {
                        let same = CONNECT.get(usize::from(seen)) == Some(&byte);
                        At::Method(if same { seen + 1 } else { u8::MAX - 1 })
                    } else if byte == b' ' {
                        self.target = 0;
                        At::Target(if usize::from(seen) == CONNECT.len() { Form::Any } else { Form::First })
                    } else {
                        return Err(line_end(byte, Violation::RequestLine));
                    }
                }
                At::Target(form) => {
                    let from = *i;
                    let most = bytes.len().min(from + (TARGET_BYTES + 1 - self.target));
                    let next = target(form, &bytes[..most], i)?;
                    self.target += *i - from;
                    if self.target > TARGET_BYTES {
                        return Err(Violation::TargetTooLong);
                    }
                    match next {
                        Some(form) => {
                            self.at = At::Target(form);
                            continue;
                        }
                        // The space behind it, which is taken below.
                        None => At::Version(0),
                    }
                }
                At::Version(seen) => match VERSION.get(usize::from(seen)) {
                    Some(expected) if *expected == byte => At::Version(seen + 1),
                    None if byte.is_ascii_digit() => At::Minor { major: byte - b'0' },
                    _ => return Err(line_end(byte, Violation::RequestLine)),
                },
                At::Minor { major } => match byte {
                    // The digit behind the point is kept in the same place, as no major version of ours is that large.
                    b'.' if major < 10 => At::Minor { major: 10 + major },
                    b'0' | b'1' if major == 11 => {
                        self.old = byte == b'0';
                        At::VersionEnd
                    }
                    _ if (10..20).contains(&major) && byte.is_ascii_digit() => At::Minor { major: u8::MAX },
                    b'\r' if major == u8::MAX => return Err(Violation::Version),
                    _ => return Err(line_end(byte, Violation::RequestLine)),
                },
                At::VersionEnd => match byte {
                    b'\r' => At::LineFeed,
                    _ => return Err(line_end(byte, Violation::RequestLine)),
                },
                At::LineFeed => match byte {
                    b'\n' => At::Line,
                    _ => return Err(Violation::BareCarriageReturn),
                },
                At::Line => match byte {
                    b'\r' => At::End,
                    b'\n' => return Err(Violation::BareLineFeed),
                    b' ' | b'\t' => return Err(Violation::Folded),
                    _ if is(byte, TOKEN) => {
                        self.fields += 1;
                        if self.fields > self.bounds.fields {
                            return Err(Violation::TooManyFields);
                        }
                        if let Some(length) = field(&bytes[*i..]) {
                            *i += length;
                            continue;
                        }
                        let word = match byte | 0x20 {
                            b'c' if !self.trailer => Word::Length,
                            b't' if !self.trailer => Word::Coding,
                            _ => Word::Other,
                        };
                        self.at = At::Name(word, 0);
                        continue;
                    }
                    _ => return Err(Violation::FieldName),
                },
                At::Name(Word::Other, _) => {
                    while *i < bytes.len() && is(bytes[*i], TOKEN) {
                        *i += 1;
                    }
                    match bytes.get(*i) {
                        None => return Ok(false),
                        Some(b':') => At::Value,
                        Some(b'\n') => return Err(Violation::BareLineFeed),
                        Some(_) => return Err(Violation::FieldName),
                    }
                }
                At::Name(word, seen) => {
                    let whole = if word == Word::Length { LENGTH } else { CODING };
                    match whole.get(usize::from(seen)) {
                        Some(expected) if *expected == byte.to_ascii_lowercase() => At::Name(word, seen + 1),
                        None if byte == b':' => self.framing(word)?,
                        _ => {
                            self.at = At::Name(Word::Other, 0);
                            continue;
                        }
                    }
                }
                At::Value => {
                    *i += plain(&bytes[*i..]);
                    match bytes.get(*i) {
                        None => return Ok(false),
                        Some(b'\r') => At::LineFeed,
                        Some(b'\t') => At::Value,
                        Some(b'\n') => return Err(Violation::BareLineFeed),
                        Some(_) => return Err(Violation::ControlCharacter),
                    }
                }
                At::LengthValue(digits) => self.length(digits, byte)?,
                At::CodingValue(element) => self.coding(element, byte)?,
                At::End => match byte {
                    b'\n' => {
                        *i += 1;
                        return Ok(true);
                    }
                    _ => return Err(Violation::BareCarriageReturn),
                },
                // Not of a head: `feed` does not come here with these.
                At::Body
                | At::ChunkSize { .. }
                | At::ChunkSpace
                | At::ChunkExtension
                | At::ChunkSizeEnd
                | At::ChunkData
                | At::ChunkEnd
                | At::ChunkLineFeed
                | At::Beyond
                | At::Refused { .. } => unreachable!("not in a head"),
            };
            *i += 1;
        }
        Ok(false)
    }

    /// The name of a field that frames the body has been read.
    fn framing(&mut self, word: Word) -> Result<At, Violation> {
        if word == Word::Length {
            if self.length.is_some() || self.coding.lines > 0 {
                return Err(Violation::FramedTwice);
            }
            self.left = 0;
            return Ok(At::LengthValue(Digits::Before));
        }
        if self.old {
            return Err(Violation::CodingInOldVersion);
        }
        if self.length.is_some() || self.coding.lines > 0 {
            return Err(Violation::FramedTwice);
        }
        self.coding.lines = 1;
        Ok(At::CodingValue(Element::Before))
    }

    fn length(&mut self, digits: Digits, byte: u8) -> Result<At, Violation> {
        Ok(At::LengthValue(match (digits, byte) {
            (Digits::Before, b' ' | b'\t') => Digits::Before,
            (Digits::Before | Digits::Within, b'0'..=b'9') => {
                let more = self.left.checked_mul(10).and_then(|left| left.checked_add(u64::from(byte - b'0')));
                // hyper keeps the largest numbers for meanings of its own.
                self.left = more.filter(|left| *left <= u64::MAX / 2).ok_or(Violation::Length)?;
                Digits::Within
            }
            (Digits::Within | Digits::After, b' ' | b'\t') => Digits::After,
            (Digits::Within | Digits::After, b'\r') => {
                self.length = Some(self.left);
                return Ok(At::LineFeed);
            }
            _ => return Err(line_end(byte, Violation::Length)),
        }))
    }

    fn coding(&mut self, element: Element, byte: u8) -> Result<At, Violation> {
        let whole = |seen: u8| usize::from(seen) == CHUNKED.len();
        Ok(At::CodingValue(match (element, byte) {
            (Element::Before, b' ' | b'\t') => Element::Before,
            // `chunked` must have been the last one.
            (Element::Before, _) if self.coding.chunked && is(byte, TOKEN) => return Err(Violation::Coding),
            (Element::Before, b'c' | b'C') => Element::Chunked(1),
            (Element::Before, _) if is(byte, TOKEN) => Element::Other,
            (Element::Chunked(seen), _) if CHUNKED.get(usize::from(seen)) == Some(&byte.to_ascii_lowercase()) => {
                Element::Chunked(seen + 1)
            }
            (Element::Chunked(_) | Element::Other, _) if is(byte, TOKEN) => Element::Other,
            (Element::Chunked(seen), b' ' | b'\t') => Element::After { chunked: whole(seen) },
            (Element::Other, b' ' | b'\t') => Element::After { chunked: false },
            (Element::After { .. }, b' ' | b'\t') => element,
            (Element::Chunked(seen), b',' | b'\r') if whole(seen) => return self.element(true, byte),
            (Element::After { chunked: true }, b',' | b'\r') => return self.element(true, byte),
            (Element::Chunked(_) | Element::Other | Element::After { chunked: false }, b',' | b'\r') => {
                return self.element(false, byte);
            }
            _ => return Err(line_end(byte, Violation::Coding)),
        }))
    }

    /// One coding is known, and the comma or the carriage return behind it.
    fn element(&mut self, chunked: bool, byte: u8) -> Result<At, Violation> {
        self.coding.chunked = chunked;
        self.coding.unknown |= !chunked;
        if byte == b',' {
            return Ok(At::CodingValue(Element::Before));
        }
        if !chunked {
            return Err(Violation::Coding);
        }
        if self.coding.unknown { Err(Violation::UnknownCoding) } else { Ok(At::LineFeed) }
    }

    /// The empty line has ended: what follows is a body, or the next message.
    fn after_head(&mut self) {
        self.heads += u64::from(!self.trailer);
        match self.length {
            _ if self.trailer => self.next(),
            _ if self.coding.lines > 0 => {
                self.left = 0;
                self.at = At::ChunkSize { digits: 0 };
            }
            None | Some(0) => self.next(),
            Some(length) => {
                self.left = length;
                self.at = At::Body;
            }
        }
    }

    /// Reads around the data of chunks.
    fn chunk(&mut self, bytes: &[u8], i: &mut usize) -> Result<(), Violation> {
        while *i < bytes.len() {
            let byte = bytes[*i];
            self.at = match self.at {
                At::ChunkSize { digits } => match (byte, char::from(byte).to_digit(16)) {
                    (_, Some(digit)) if digits < 16 => {
                        let more = self.left.checked_mul(16).and_then(|left| left.checked_add(u64::from(digit)));
                        self.left = more.filter(|left| *left <= u64::MAX / 2).ok_or(Violation::Chunk)?;
                        At::ChunkSize { digits: digits + 1 }
                    }
                    _ if digits == 0 => return Err(line_end(byte, Violation::Chunk)),
                    (b'\r', _) => At::ChunkSizeEnd,
                    (b';', _) => At::ChunkExtension,
                    (b' ' | b'\t', _) => At::ChunkSpace,
                    _ => return Err(line_end(byte, Violation::Chunk)),
                },
                // White space only before an extension (9112 section 7.1.1).
                At::ChunkSpace => match byte {
                    b' ' | b'\t' => {
                        self.extension()?;
                        At::ChunkSpace
                    }
                    b';' => At::ChunkExtension,
                    _ => return Err(line_end(byte, Violation::Chunk)),
                },
                At::ChunkExtension => match byte {
                    b'\r' => At::ChunkSizeEnd,
                    b'\n' => return Err(Violation::BareLineFeed),
                    b'\t' | b' '..=b'~' | 0x80.. => {
                        self.extension()?;
                        At::ChunkExtension
                    }
                    _ => return Err(Violation::Chunk),
                },
                At::ChunkSizeEnd => match byte {
                    b'\n' if self.left == 0 => {
                        *i += 1;
                        self.trailer = true;
                        self.room = TRAILER_BYTES;
                        self.fields = 0;
                        self.at = At::Line;
                        return Ok(());
                    }
                    b'\n' => {
                        *i += 1;
                        self.at = At::ChunkData;
                        return Ok(());
                    }
                    _ => return Err(Violation::BareCarriageReturn),
                },
                At::ChunkEnd => match byte {
                    b'\r' => At::ChunkLineFeed,
                    _ => return Err(line_end(byte, Violation::Chunk)),
                },
                At::ChunkLineFeed => match byte {
                    b'\n' => At::ChunkSize { digits: 0 },
                    _ => return Err(Violation::BareCarriageReturn),
                },
                _ => return Ok(()),
            };
            *i += 1;
        }
        Ok(())
    }

    fn extension(&mut self) -> Result<(), Violation> {
        self.extensions += 1;
        if self.extensions > EXTENSION_BYTES { Err(Violation::Chunk) } else { Ok(()) }
    }
}

/// A line feed where none may stand is named as such; anything else by what it stands in.
fn line_end(byte: u8, otherwise: Violation) -> Violation {
    if byte == b'\n' { Violation::BareLineFeed } else { otherwise }
}

/// The length of a request line of the usual kind, if it is here as a whole: quick, and what it takes `head` would take.
fn request_line(bytes: &[u8]) -> Option<usize> {
    let rest = &bytes[run(bytes, TOKEN)..];
    let target = rest.strip_prefix(b" /")?;
    let mut rest = &target[run(target, PATH)..];
    if rest.first() == Some(&b'?') {
        rest = &rest[1 + run(&rest[1..], QUERY)..];
    }
    let end = rest.strip_prefix(b" HTTP/1.1\r\n")?;
    (target.len() - rest.len() < TARGET_BYTES).then_some(bytes.len() - end.len())
}

/// The length of a field's line that does not frame the body, if it is here as a whole: quick, and what it takes `head`
/// would take.
fn field(bytes: &[u8]) -> Option<usize> {
    let (name, value) = bytes.split_at(run(bytes, TOKEN));
    let mut rest = value.strip_prefix(b":")?;
    if (name.len() == LENGTH.len() && name.eq_ignore_ascii_case(LENGTH))
        || (name.len() == CODING.len() && name.eq_ignore_ascii_case(CODING))
    {
        return None;
    }
    loop {
        rest = &rest[plain(rest)..];
        match rest {
            [b'\r', b'\n', ..] => return Some(bytes.len() - rest.len() + 2),
            [b'\t', tail @ ..] => rest = tail,
            _ => return None,
        }
    }
}

/// How many bytes at the beginning are of that class.
#[inline]
fn run(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|byte| !is(*byte, class)).unwrap_or(bytes.len())
}

/// Reads of a target what is there. `None`: the byte at `i` is the space behind it.
fn target(mut form: Form, bytes: &[u8], i: &mut usize) -> Result<Option<Form>, Violation> {
    while *i < bytes.len() {
        let byte = bytes[*i];
        if byte == b'\r' || byte == b'\n' {
            return Err(line_end(byte, Violation::RequestLine));
        }
        let ends = byte == b' ';
        form = match form {
            Form::First => match byte {
                b'/' => Form::Path,
                b'*' => Form::Asterisk,
                b'h' | b'H' => Form::Scheme(1),
                b' ' => return Err(Violation::RequestLine),
                _ => return Err(Violation::Target),
            },
            Form::Path | Form::Query => {
                let class = if form == Form::Path { PATH } else { QUERY };
                while *i < bytes.len() && is(bytes[*i], class) {
                    *i += 1;
                }
                let query = form == Form::Query;
                match bytes.get(*i) {
                    None => break,
                    Some(b' ') => return Ok(None),
                    Some(b'\r') => return Err(Violation::RequestLine),
                    Some(b'\n') => return Err(Violation::BareLineFeed),
                    Some(b'?') => Form::Query,
                    // Not in the grammar, but common: UTF-8 as it is (the table of Unicode 3.9, well-formed sequences).
                    Some(0xC2..=0xDF) => Form::Wide { left: 1, low: 0x80, high: 0xBF, query },
                    Some(0xE0) => Form::Wide { left: 2, low: 0xA0, high: 0xBF, query },
                    Some(0xED) => Form::Wide { left: 2, low: 0x80, high: 0x9F, query },
                    Some(0xE1..=0xEF) => Form::Wide { left: 2, low: 0x80, high: 0xBF, query },
                    Some(0xF0) => Form::Wide { left: 3, low: 0x90, high: 0xBF, query },
                    Some(0xF1..=0xF3) => Form::Wide { left: 3, low: 0x80, high: 0xBF, query },
                    Some(0xF4) => Form::Wide { left: 3, low: 0x80, high: 0x8F, query },
                    Some(_) => return Err(Violation::Target),
                }
            }
            Form::Wide { left, low, high, query } => match byte {
                _ if byte < low || byte > high => return Err(Violation::Target),
                _ if left > 1 => Form::Wide { left: left - 1, low: 0x80, high: 0xBF, query },
                _ if query => Form::Query,
                _ => Form::Path,
            },
            Form::Any if ends => return Ok(None),
            Form::Any if byte.is_ascii_graphic() => Form::Any,
            Form::Asterisk if ends => return Ok(None),
            Form::Scheme(seen) => match (byte.to_ascii_lowercase(), seen) {
                (b't', 1 | 2) | (b'p', 3) | (b's', 4) => Form::Scheme(seen + 1),
                (b':', 4 | 5) => Form::Slashes(0),
                _ => return Err(Violation::Target),
            },
            Form::Slashes(0) if byte == b'/' => Form::Slashes(1),
            Form::Slashes(1) if byte == b'/' => Form::HostFirst,
            Form::HostFirst if byte == b'[' => Form::Bracket,
            Form::HostFirst | Form::Host if is(byte, HOST) => Form::Host,
            Form::Bracket if byte.is_ascii_hexdigit() || byte == b':' || byte == b'.' => Form::Bracket,
            Form::Bracket if byte == b']' => Form::AfterBracket,
            Form::Host | Form::AfterBracket if byte == b':' => Form::Port,
            Form::Port if byte.is_ascii_digit() => Form::Port,
            Form::Host | Form::AfterBracket | Form::Port => match byte {
                b' ' => return Ok(None),
                b'/' => Form::Path,
                b'?' => Form::Query,
                _ => return Err(Violation::Target),
            },
            _ => return Err(Violation::Target),
        };
        *i += 1;
    }
    Ok(Some(form))
}

/// How many bytes at the beginning may stand in a value, but for a tab: none of the control characters. Eight at a time; in
/// a sum of borrows only the first byte found is exact, and only the first is used (see "Bit Twiddling Hacks", Anderson).
#[inline]
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    let (blocks, rest) = bytes.as_chunks::<8>();
    let mut n = 0;
    for block in blocks {
        let block = u64::from_le_bytes(*block);
        let control = block.wrapping_sub(ONES * 0x20) & !block;
        let delete = block ^ (ONES * 0x7F);
        let found = (control | (delete.wrapping_sub(ONES) & !delete)) & HIGH;
        if found != 0 {
            return n + found.trailing_zeros() as usize / 8;
        }
        n += 8;
    }
    n + rest.iter().position(|byte| *byte < 0x20 || *byte == 0x7F).unwrap_or(rest.len())
}

const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
const HOST: u8 = 8;

#[inline]
fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Which bytes may stand where: `token` of 9110 section 5.6.2, and of a path and a query what hyper takes, which is more
/// than RFC 3986 lets stand there and less than clients are known to send. A `#` is in neither.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let alphanumeric = b.is_ascii_alphanumeric();
        if alphanumeric
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            )
        {
            classes[byte] |= TOKEN;
        }
        if b.is_ascii_graphic() && !matches!(b, b'#' | b'<' | b'>' | b'?' | b'`') {
            classes[byte] |= PATH;
        }
        if b.is_ascii_graphic() && !matches!(b, b'"' | b'#' | b'<' | b'>') {
            classes[byte] |= QUERY;
        }
        if alphanumeric || matches!(b, b'.' | b'-' | b'_') {
            classes[byte] |= HOST;
        }
        byte += 1;
    }
    classes
};

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::rc::Rc;

    use http::{Request, Response};
    use http_body_util::{BodyExt, Empty};
    use hyper::body::{Bytes, Incoming};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 2000, fields: 10 };

    /// What becomes of a stream in these pieces: where in the whole stream it is refused, and why.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Scanner, Result<(), (Violation, usize, bool)>) {
        let mut scanner = Scanner::new(BOUNDS);
        let mut before = 0;
        for piece in pieces {
            if let Err(refusal) = scanner.feed(piece) {
                assert!(refusal.passes <= piece.len());
                return (scanner, Err((refusal.violation, before + refusal.passes, refusal.in_body)));
            }
            before += piece.len();
        }
        (scanner, Ok(()))
    }

    fn violation(stream: &[u8]) -> Option<Violation> {
        read([stream]).1.err().map(|(violation, ..)| violation)
    }

    fn at_a_boundary(scanner: &Scanner) -> bool {
        scanner.at == At::Start
    }

    #[test]
    fn each_violation_is_told_from_the_others() {
        use Violation::*;
        let head = |head: &str| format!("{head}\r\nHost: a\r\n\r\n");
        let field = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        let chunks = |chunks: &str| format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let cases = [
            (head("GET  / HTTP/1.1"), RequestLine),
            (head("GET /a b HTTP/1.1"), RequestLine),
            (head("GET / HTTP/1.1 x"), RequestLine),
            (head("GET / http/1.1"), RequestLine),
            (head("GET / HTTP/1.10"), RequestLine),
            (head("GET / HTTP/11"), RequestLine),
            (head("GET / HTTP/1."), RequestLine),
            (head("GET / HTTP/2.00"), RequestLine),
            (head("GET / HTTQ/1.1"), RequestLine),
            (head("G(T / HTTP/1.1"), RequestLine),
            (head("GET /"), RequestLine),
            (head("GET\t/ HTTP/1.1"), RequestLine),
            (head(" GET / HTTP/1.1"), RequestLine),
            ("\x16\x03\x01\x02".to_owned(), RequestLine),
            (head("GET / HTTP/2.0"), Version),
            (head("GET / HTTP/1.2"), Version),
            (head("GET / HTTP/0.9"), Version),
            (head("GET /\0 HTTP/1.1"), Target),
            (head("GET a HTTP/1.1"), Target),
            (head("GET /a#b HTTP/1.1"), Target),
            (head("GET /?a#b HTTP/1.1"), Target),
            (head("GET /a<b HTTP/1.1"), Target),
            (head("GET *a HTTP/1.1"), Target),
            (head("GET http://user@a/ HTTP/1.1"), Target),
            (head("GET http:///a HTTP/1.1"), Target),
            (head("GET http://a:b/ HTTP/1.1"), Target),
            (head("GET ftp://a/ HTTP/1.1"), Target),
            (head("GET http:/a HTTP/1.1"), Target),
            (format!("GET /{}", "a".repeat(3000)), TargetTooLong),
            (format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(3000)), HeadTooLarge),
            ("\r\n".repeat(3000), HeadTooLarge),
            (field(&["a: b"; 10].join("\r\n")), TooManyFields),
            ("\nGET / HTTP/1.1\r\n\r\n".to_owned(), BareLineFeed),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), BareLineFeed),
            (field("A: b\nC: d"), BareLineFeed),
            (field("A: b\n"), BareLineFeed),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), BareLineFeed),
            (field("Content-Length: 3\n"), BareLineFeed),
            (field("A: b\rc"), BareCarriageReturn),
            (field("A: b\r\rc"), BareCarriageReturn),
            (field("X-A : b"), FieldName),
            (field("X-A\t: b"), FieldName),
            (field("X-A"), FieldName),
            (field(": b"), FieldName),
            (field("X A: b"), FieldName),
            (field("X\u{e9}: b"), FieldName),
            (field("X(A: b"), FieldName),
            (field("Content-Length : 3"), FieldName),
            (field("Transfer-Encoding : chunked"), FieldName),
            (field("X-A: b\r\n folded"), Folded),
            (field("X-A: b\r\n\tfolded"), Folded),
            (field("Transfer-Encoding:\r\n chunked"), Coding),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(), Folded),
            (field("X-A: b\0c"), ControlCharacter),
            (field("X-A: b\x7fc"), ControlCharacter),
            (field("X-A: \x0bc"), ControlCharacter),
            (field("Content-Length: +3"), Length),
            (field("Content-Length: -3"), Length),
            (field("Content-Length: 0x3"), Length),
            (field("Content-Length: 3 3"), Length),
            (field("Content-Length: 3, 3"), Length),
            (field("Content-Length: "), Length),
            (field("Content-Length: 1_0"), Length),
            (field("Content-Length: 18446744073709551616"), Length),
            (field("Content-Length: 18446744073709551615"), Length),
            (field("Content-Length: 3\r\ncontent-length: 3"), FramedTwice),
            (field("Content-Length: 3\r\nTransfer-Encoding: chunked"), FramedTwice),
            (field("TRANSFER-ENCODING: chunked\r\nContent-Length: 3"), FramedTwice),
            (field("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"), FramedTwice),
            (field("Transfer-Encoding: gzip"), Coding),
            (field("Transfer-Encoding: "), Coding),
            (field("Transfer-Encoding: chunked, gzip"), Coding),
            (field("Transfer-Encoding: chunked, chunked"), Coding),
            (field("Transfer-Encoding: chunked,"), Coding),
            (field("Transfer-Encoding: ,chunked"), Coding),
            (field("Transfer-Encoding: chunked;a=b"), Coding),
            (field("Transfer-Encoding: \"chunked\""), Coding),
            (field("Transfer-Encoding: xchunked"), Coding),
            (field("Transfer-Encoding: chunkedx"), Coding),
            (field("Transfer-Encoding: chunk"), Coding),
            (field("Transfer-Encoding: chunked x"), Coding),
            (field("Transfer-Encoding: gzip, chunked"), UnknownCoding),
            (field("Transfer-Encoding: cow , Chunked "), UnknownCoding),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), CodingInOldVersion),
            (chunks("+2\r\nhi\r\n"), Chunk),
            (chunks("0x2\r\nhi\r\n"), Chunk),
            (chunks("2_0\r\n"), Chunk),
            (chunks("\r\n"), Chunk),
            (chunks("2 \r\nhi\r\n"), Chunk),
            (chunks("2\r\nhiX"), Chunk),
            (chunks("2\r\nhi0\r\n"), Chunk),
            (chunks("ffffffffffffffff\r\n"), Chunk),
            (chunks("00000000000000001\r\n"), Chunk),
            (chunks("2;a\0b\r\n"), Chunk),
            (chunks(&format!("2;{}", "a".repeat(9000))), Chunk),
            (chunks("2;a\nb\r\n"), BareLineFeed),
            (chunks("2\nhi"), BareLineFeed),
            (chunks("2\r\nhi\n"), BareLineFeed),
            (chunks("0\r\nA: b\n\r\n"), BareLineFeed),
            (chunks("0\r\n\n"), BareLineFeed),
            (chunks("2\rhi"), BareCarriageReturn),
            (chunks("0\r\nA : b\r\n\r\n"), FieldName),
            (chunks("0\r\nA: b\r\n c\r\n\r\n"), Folded),
            (chunks(&format!("0\r\n{}", "a: b\r\n".repeat(11))), TooManyFields),
            (chunks(&format!("0\r\na: {}", "a".repeat(9000))), HeadTooLarge),
        ];
        for (stream, expected) in cases {
            assert_eq!(violation(stream.as_bytes()), Some(expected), "{stream:?}");
        }
        let wide = [b"GET /\xC3\xA9 HTTP/1.1\r\n\r\n".as_slice(), b"GET /\xC3( HTTP/1.1\r\n\r\n"];
        assert_eq!(wide.map(violation), [None, Some(Target)]);
    }

    #[test]
    fn what_is_in_order_passes_to_its_end() {
        for stream in [
            "GET / HTTP/1.1\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.0\r\nA:\r\nB: \t x\u{e9}\ty \r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "M-SEARCH /a?b=%zz&{}|~?/ HTTP/1.1\r\n\r\n",
            "GET http://a HTTP/1.1\r\n\r\n",
            "GET HTTPS://a_b.example:80?x HTTP/1.1\r\n\r\n",
            "GET http://[2001:db8::1]:80/x HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: \t3 \r\n\r\n\n\r\0GET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 000\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Lengths: x\r\nTransfer-Encodings: y\r\nContent-Type: z\r\nTE: w\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \tCHUNKED \r\n\r\n1\r\n\n\r\n00A;a=\"b\" ;c\r\n0123456789\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0 ;x\r\nContent-Length: x\r\na: b\r\n\r\n\
             GET / HTTP/1.1\r\n\r\n",
        ] {
            let (scanner, verdict) = read([stream.as_bytes()]);
            assert_eq!(verdict, Ok(()), "{stream:?}");
            assert!(at_a_boundary(&scanner), "{stream:?} ends in {:?}", scanner.at);
        }
        // A target of a CONNECT is left to be refused for its method.
        assert_eq!(violation(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"), None);
        assert_eq!(violation(b"CONNECTS a:443 HTTP/1.1\r\nHost: a\r\n\r\n"), Some(Violation::Target));
    }

    #[test]
    fn what_comes_before_a_refused_message_passes() {
        let good = "POST /1 HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\n\r\n";
        let (_, verdict) = read([format!("{good}GET /3 HTTP/1.1\nHost").as_bytes()]);
        assert_eq!(verdict, Err((Violation::BareLineFeed, good.len(), false)));
        let body = "POST /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi";
        let (mut scanner, verdict) = read([format!("{body}X").as_bytes()]);
        assert_eq!(verdict, Err((Violation::Chunk, body.len(), true)));
        let refusal = Refusal { violation: Violation::Chunk, passes: 0, in_body: true };
        assert_eq!(scanner.feed(b"GET / HTTP/1.1\r\n\r\n"), Err(refusal), "nothing passes any more");
    }

    #[test]
    fn a_tunnel_is_not_looked_at() {
        let mut scanner = Scanner::new(BOUNDS);
        scanner.feed(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").unwrap();
        scanner.pass_all();
        assert_eq!(scanner.feed(&[0x81, 0x05, b'\n', 0, 0xff]), Ok(()));
    }

    #[test]
    fn a_head_as_large_as_the_bound_passes() {
        let head = |n: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(n));
        let most = BOUNDS.bytes - head(0).len();
        // Also after another one, and before a body.
        let twice = head(most) + &head(most);
        assert_eq!(violation(twice.as_bytes()), None);
        assert_eq!(violation(head(most + 1).as_bytes()), Some(Violation::HeadTooLarge));
    }

    #[test]
    fn every_byte_is_judged_in_a_value_wherever_it_stands() {
        for byte in 0..=255u8 {
            for length in 0..20 {
                for at in 0..length {
                    let mut value = vec![b'v'; length];
                    value[at] = byte;
                    let control = byte < 0x20 || byte == 0x7F;
                    assert_eq!(plain(&value), if control { at } else { length }, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    /// Pieces of requests, whole and broken, so that most streams get somewhere.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(
            [
                "GET / HTTP/1.1\r\n",
                "POST /a?b HTTP/1.1\r\n",
                "POST / HTTP/1.0\r\n",
                "GET http://a:80/b HTTP/1.1\r\n",
                "GET / HTTP/2.0\r\n",
                "Host: a\r\n",
                "Content-Length: 5\r\n",
                "Transfer-Encoding: chunked\r\n",
                "Transfer-Encoding: gzip, chunked\r\n",
                "Connection: keep-alive\r\n",
                "A: b\r\n",
                "\r\n",
                "\r\n",
                "hello",
                "5\r\nhello\r\n",
                "5;a=b\r\nhello\r\n",
                "0\r\n\r\n",
                "0\r\nA: b\r\n\r\n",
                "\n",
                "\r",
                " ",
                "\0",
                ":",
                "\u{e9}",
            ]
            .map(str::as_bytes)
            .to_vec(),
        );
        prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    /// Requests that are in order, with the number of them.
    fn in_order() -> impl Strategy<Value = (usize, Vec<u8>)> {
        let line = prop::sample::select(vec![
            "GET / ",
            "POST /a/%2e%2e?b=c&{} ",
            "M-SEARCH /\u{e9}|~\" ",
            "OPTIONS * ",
            "DELETE http://a.example:80/b?c ",
            "GET http://[::1]?x ",
        ]);
        let fields = "([A-Za-z!#$%&'*+.^_`|~-]{1,12}:[ \t]?[ -~\t\u{a0}-\u{ff}]{0,30}\r\n){0,5}";
        let body = prop_oneof![
            Just("\r\n".to_owned()),
            "[a-z\r\n]{0,40}".prop_map(|body| format!("cOntent-Length: {}\r\n\r\n{body}", body.len())),
            ("([a-z\r\n]{1,20}){0,1}", "(;[a-z=\" ]{0,9}){0,1}", "(x-[a-z]{1,5}: [a-z]{0,5}\r\n){0,3}").prop_map(
                |(data, extension, trailers)| {
                    let chunk = match data.len() {
                        0 => String::new(),
                        n => format!("{n:x}{extension}\r\n{data}\r\n"),
                    };
                    format!("Transfer-Encoding: Chunked\r\n\r\n{chunk}0{extension}\r\n{trailers}\r\n")
                }
            ),
        ];
        let request = (line, fields, body)
            .prop_map(|(line, fields, body)| format!("{line}HTTP/1.1\r\n{fields}{body}").into_bytes());
        prop::collection::vec(request, 1..5).prop_map(|requests| (requests.len(), requests.concat()))
    }

    /// How many requests hyper finds in a stream with their bodies whole, and whether it answers one of its own accord.
    fn hyper_reads(stream: &[u8]) -> (usize, bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = Rc::new(RefCell::new(0));
        let service = service_fn({
            let found = found.clone();
            move |request: Request<Incoming>| {
                let found = found.clone();
                async move {
                    if request.into_body().collect().await.is_ok() {
                        *found.borrow_mut() += 1;
                    }
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            }
        });
        let answers = runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            client.write_all(stream).await.unwrap();
            client.shutdown().await.unwrap();
            // How it ended shows in what it wrote.
            let _ = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service).await;
            let mut answers = Vec::new();
            client.read_to_end(&mut answers).await.unwrap();
            answers
        });
        let found = *found.borrow();
        (found, String::from_utf8_lossy(&answers).contains("HTTP/1.1 4"))
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_the_verdict_is_the_same(stream in streams(), cuts in prop::collection::vec(0.0..1.0, 0..6)) {
            let whole = read([&stream[..]]).1;
            prop_assert_eq!(read(stream.chunks(1)).1.map_err(|(violation, _, in_body)| (violation, in_body)),
                whole.map_err(|(violation, _, in_body)| (violation, in_body)));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut: &f64| (cut * stream.len() as f64) as usize).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
            let (scanner, cut) = read(pieces);
            prop_assert_eq!(scanner.at, read([&stream[..]]).0.at);
            match (cut, whole) {
                // Of a head that came in several pieces, the first ones have passed already.
                (Err((_, passed, false)), Err((_, begin, false))) => prop_assert!(passed >= begin),
                (cut, whole) => prop_assert_eq!(cut, whole),
            }
        }

        #[test]
        fn a_request_in_order_passes_and_hyper_finds_the_same_ones((requests, stream) in in_order()) {
            let (scanner, verdict) = read([&stream[..]]);
            prop_assert_eq!(verdict, Ok(()), "{}", String::from_utf8_lossy(&stream));
            prop_assert!(at_a_boundary(&scanner));
            prop_assert_eq!(scanner.heads(), requests as u64);
            prop_assert_eq!(hyper_reads(&stream), (requests, false), "{}", String::from_utf8_lossy(&stream));
        }

        #[test]
        fn what_passes_hyper_takes_too(stream in streams()) {
            let (_, verdict) = read([&stream[..]]);
            if verdict.is_ok() {
                prop_assert!(!hyper_reads(&stream).1, "{}", String::from_utf8_lossy(&stream));
            }
        }
    }
}
