//! A client's verified name, for the application.
//!
//! The subject of the certificate in the form of RFC 4514, as `openssl x509 -subject -nameopt RFC2253` and other proxies
//! write it: the most specific part first, `CN=shop,OU=web,O=Example`. All of it is printable ASCII, so that it can stand in
//! a header and be compared by bytes: other bytes are written `\C3\A9` (section 2.4 allows that for any). A type that RFC
//! 4514 gives no short name is its number, and its value then is hexadecimal DER: `1.2.840.113549.1.9.1=#16...`.

use std::fmt::Write as _;

use http::HeaderValue;
use rustls::{HandshakeKind, ServerConnection};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// RFC 4514 section 3.
const SHORT: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// Who the client is. `None`: it has shown no certificate. To be asked once for a connection whose handshake is done; rustls
/// has then verified the certificate, or resumed a session in which it did.
pub fn subject(connection: &ServerConnection) -> Option<HeaderValue> {
    let certificate = connection.peer_certificates()?.first()?;
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    HeaderValue::try_from(text(parsed.subject())).ok()
}

/// Whether a session was resumed, in a connection whose handshake is done.
pub fn resumed(connection: &ServerConnection) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::Resumed)
}

fn text(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let part = |part: &&x509_parser::x509::RelativeDistinguishedName<'_>| {
        part.iter().map(attribute).collect::<Vec<_>>().join("+")
    };
    parts.iter().rev().map(part).collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let number = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(known, _)| *known == number).map(|(_, short)| *short);
    match (short, attribute.as_str()) {
        (Some(short), Ok(value)) => format!("{short}={}", escaped(value)),
        _ => {
            let value = attribute.attr_value();
            let mut text = format!("{number}=#");
            for byte in header(value).iter().chain(value.data) {
                let _ = write!(text, "{byte:02X}");
            }
            text
        }
    }
}

/// The tag and the length before a value's contents in DER (X.690 section 8.1).
fn header(value: &x509_parser::der_parser::asn1_rs::Any<'_>) -> Vec<u8> {
    let tag = value.header.tag().0 as u8 & 0x1f;
    let length = value.data.len();
    match length {
        ..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    }
}

/// RFC 4514 section 2.4.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (i, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' | b' ' if i == 0 => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if i == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
    text
}
