//! The signed cookie that carries a bucket: `v1.<bucket, 8 hex digits>.<signature, 32 hex digits>`.
//!
//! The signature is the left half of an HMAC-SHA-256 over "splitway/cookie/v1" NUL salt NUL bucket (4 bytes, most
//! significant first). It ties the bucket to the salt, so a new salt gives everybody a new bucket. A cookie that does not
//! verify is treated as absent: there is nothing to be told apart, and nothing to be gained by trying.

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use sha2::{Digest, Sha256};

use super::{BucketCookie, SameSite};
use crate::route::{Head, matches};

/// Bytes of the signature. 128 bits: nobody can try them out, and the cookie stays short.
const SIGNATURE: usize = 16;
/// Bytes of `v1.` + 8 + `.` + 32.
const LENGTH: usize = 3 + 8 + 1 + 2 * SIGNATURE;

pub(super) struct Signer {
    name: String,
    /// The HMAC after its key and everything before the bucket, so that a request pays for what is left: one or two
    /// blocks inside and one outside.
    mac: Hmac<Sha256>,
    /// `; Path=/; ...`: what follows the value in `Set-Cookie`.
    attributes: String,
}

impl Signer {
    pub(super) fn new(cookie: &BucketCookie, salt: &str) -> Self {
        let mut mac = match &cookie.secret {
            Some(secret) => Hmac::<Sha256>::new_from_slice(secret),
            None => Hmac::new_from_slice(&derived_secret(salt)),
        }
        .expect("an HMAC takes a key of any length");
        mac.update(b"splitway/cookie/v1\0");
        mac.update(salt.as_bytes());
        mac.update(b"\0");
        Self { name: cookie.name.clone(), mac, attributes: attributes(cookie) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The bucket in the request's cookie: the first of that name that is ours, since another application on the same
    /// domain may have set one, too. Only a few are looked at, so that nobody can keep us busy with signatures.
    pub(super) fn read(&self, head: &impl Head) -> Option<u32> {
        matches::cookies(head, &self.name).take(MOST_COOKIES).find_map(|value| self.verify(value))
    }

    /// In constant time as far as the signature is concerned; without allocating.
    fn verify(&self, value: &[u8]) -> Option<u32> {
        let value: &[u8; LENGTH] = value.try_into().ok()?;
        let (bucket, signature) = value.strip_prefix(b"v1.")?.split_at_checked(8)?;
        let bucket: [u8; 4] = from_hex(bucket)?;
        let signature: [u8; SIGNATURE] = from_hex(signature.strip_prefix(b".")?)?;
        self.mac.clone().chain_update(bucket).verify_truncated_left(&signature).ok()?;
        Some(u32::from_be_bytes(bucket))
    }

    pub(super) fn render(&self, bucket: u32) -> HeaderValue {
        HeaderValue::try_from(format!("{}={}{}", self.name, self.value(bucket), self.attributes))
            .expect("the name and the path were checked")
    }

    fn value(&self, bucket: u32) -> String {
        let signature = self.mac.clone().chain_update(bucket.to_be_bytes()).finalize().into_bytes();
        let mut value = format!("v1.{bucket:08x}.");
        for byte in &signature[..SIGNATURE] {
            value.push_str(&format!("{byte:02x}"));
        }
        value
    }
}

/// Cookies of our name in one request that are looked at.
const MOST_COOKIES: usize = 4;

/// Anybody who knows the salt can compute it. It still stops a cookie from being changed by accident, carried over from
/// another salt, or edited without reading our documentation.
fn derived_secret(salt: &str) -> [u8; 32] {
    Sha256::new().chain_update(b"splitway/cookie-secret/v1\0").chain_update(salt).finalize().into()
}

/// RFC 6265 section 4.1.
fn attributes(cookie: &BucketCookie) -> String {
    let mut text = format!("; Path={}", cookie.path);
    if let Some(age) = cookie.max_age {
        text.push_str(&format!("; Max-Age={}", age.as_secs()));
    }
    text.push_str(match cookie.same_site {
        SameSite::Strict => "; SameSite=Strict",
        SameSite::Lax => "; SameSite=Lax",
        SameSite::None => "; SameSite=None",
    });
    if cookie.secure {
        text.push_str("; Secure");
    }
    if cookie.http_only {
        text.push_str("; HttpOnly");
    }
    text
}

/// Lower case only, as we write it: every bucket has one cookie.
fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::COOKIE;
    use proptest::prelude::*;

    use super::*;
    use crate::route::MadeUp;

    fn settings() -> BucketCookie {
        BucketCookie {
            name: "splitway".to_owned(),
            max_age: Some(Duration::from_secs(86_400)),
            path: "/".to_owned(),
            same_site: SameSite::Lax,
            secure: false,
            http_only: true,
            secret: None,
        }
    }

    fn with(cookie: &str) -> MadeUp {
        let value = HeaderValue::from_str(cookie).unwrap();
        MadeUp::new("GET", "/", vec![(COOKIE, value)], [127, 0, 0, 1].into())
    }

    fn read(signer: &Signer, value: &str) -> Option<u32> {
        signer.read(&with(&format!("a=b; splitway={value}; c=d")))
    }

    #[test]
    fn the_attributes_are_those_of_the_settings() {
        let check = |settings: BucketCookie, expected: &str| {
            let signer = Signer::new(&settings, "spring");
            let cookie = signer.render(0xdead_beef);
            let value = format!("{}={}", settings.name, signer.value(0xdead_beef));
            assert_eq!(cookie.to_str().unwrap().strip_prefix(&value).unwrap(), expected);
        };
        check(settings(), "; Path=/; Max-Age=86400; SameSite=Lax; HttpOnly");
        check(BucketCookie { max_age: None, http_only: false, ..settings() }, "; Path=/; SameSite=Lax");
        check(
            BucketCookie { path: "/shop".to_owned(), same_site: SameSite::None, secure: true, ..settings() },
            "; Path=/shop; Max-Age=86400; SameSite=None; Secure; HttpOnly",
        );
        check(
            BucketCookie { same_site: SameSite::Strict, name: "__Host-s".to_owned(), secure: true, ..settings() },
            "; Path=/; Max-Age=86400; SameSite=Strict; Secure; HttpOnly",
        );
    }

    #[test]
    fn a_foreign_cookie_of_the_same_name_does_not_hide_ours() {
        let signer = Signer::new(&settings(), "spring");
        let ours = format!("splitway={}", signer.value(7));
        assert_eq!(signer.read(&with(&format!("splitway=theirs; {ours}"))), Some(7));
        assert_eq!(signer.read(&with(&format!("{}{ours}", "splitway=theirs; ".repeat(MOST_COOKIES)))), None);
    }

    #[test]
    fn another_salt_another_secret_or_another_name_does_not_verify() {
        let ours = Signer::new(&settings(), "spring");
        let value = ours.value(7);
        assert_eq!(read(&ours, &value), Some(7));
        assert_eq!(read(&Signer::new(&settings(), "autumn"), &value), None);
        let secret = |secret: &[u8]| BucketCookie { secret: Some(secret.to_vec()), ..settings() };
        let secretive = Signer::new(&secret(b"one"), "spring");
        assert_eq!(read(&secretive, &value), None);
        assert_eq!(read(&secretive, &secretive.value(7)), Some(7));
        assert_eq!(read(&Signer::new(&secret(b"two"), "spring"), &secretive.value(7)), None);
        // A given secret does not make two salts alike.
        assert_eq!(read(&Signer::new(&secret(b"one"), "autumn"), &secretive.value(7)), None);
        assert_eq!(ours.read(&with(&format!("xsplitway={value}; splitwayx={value}"))), None);
    }

    #[test]
    fn other_spellings_of_a_value_do_not_verify() {
        let signer = Signer::new(&settings(), "spring");
        let value = signer.value(0xabcd_ef01);
        assert_eq!(read(&signer, &value), Some(0xabcd_ef01));
        // Quotes around a cookie's value are not part of it.
        assert_eq!(read(&signer, &format!("\"{value}\"")), Some(0xabcd_ef01));
        for other in [
            String::new(),
            value.to_uppercase(),
            value.replace("v1", "v2"),
            value.replace('.', "-"),
            format!("{value}0"),
            value[..LENGTH - 1].to_owned(),
            value[..LENGTH - 2].to_owned(),
            value[..12].to_owned(),
            format!("{}{}", &value[..12], "0".repeat(32)),
        ] {
            assert_eq!(read(&signer, &other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            bucket in any::<u32>(),
            salt in ".{0,80}",
            secret in prop::option::of(any::<Vec<u8>>()),
        ) {
            let signer = Signer::new(&BucketCookie { secret, ..settings() }, &salt);
            let value = signer.value(bucket);
            prop_assert_eq!(value.len(), LENGTH);
            prop_assert_eq!(read(&signer, &value), Some(bucket));
        }

        #[test]
        fn no_changed_byte_verifies(bucket in any::<u32>(), at in 0..LENGTH, byte in b'!'..=b'~') {
            let signer = Signer::new(&settings(), "spring");
            let mut value = signer.value(bucket).into_bytes();
            prop_assume!(value[at] != byte);
            value[at] = byte;
            prop_assert_eq!(read(&signer, &String::from_utf8(value).unwrap()), None);
        }

        #[test]
        fn no_bucket_verifies_under_anothers_signature(mine in any::<u32>(), wanted in any::<u32>()) {
            prop_assume!(mine != wanted);
            let signer = Signer::new(&settings(), "spring");
            let forged = format!("v1.{wanted:08x}.{}", &signer.value(mine)[12..]);
            prop_assert_eq!(read(&signer, &forged), None);
        }

        #[test]
        fn no_header_makes_it_panic(cookie in "[ -~]{0,80}") {
            let signer = Signer::new(&settings(), "spring");
            prop_assert_eq!(signer.read(&with(&cookie)), None);
            prop_assert_eq!(read(&signer, &cookie), None);
        }
    }
}
