//! A user's fixed place in the split.
//!
//! Imagine a line from 0 to 1. Every user stands at one place on it for ever: the keyed hash of the user's key, or the
//! bucket number in the user's signed cookie. Weights only move the cut points on the line ([`Cuts`]), never a user. The
//! formulas are public, `docs/sticky.md` has them with test vectors: changing one of them is a breaking change.
//!
//! * this file: the settings, the place of a key, and [`Users`], which puts the parts together;
//! * `cuts`: which part of the line belongs to which backend;
//! * `mint`: bucket numbers for new users, spread so evenly that the share of *users* is exact;
//! * `cookie`: the signed cookie that carries such a number.

mod cookie;
mod cuts;
mod mint;

pub use cuts::Cuts;
pub use mint::Mint;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::HeaderValue;
use http::header::HeaderName;
use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher24;

use super::{Head, matches};
use cookie::Signer;

/// How users are recognised, so that each keeps one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// Where a user's key comes from: the first source that the request has, in this order.
    pub keys: Vec<KeySource>,
    /// Separates one rollout's users from another's; the same salt gives the same users everywhere.
    pub salt: String,
    /// For users without a key. `None`: they follow the exact split of requests.
    pub cookie: Option<BucketCookie>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    Header(HeaderName),
    Cookie(String),
    Query(String),
    ClientAddress,
}

/// The signed cookie that carries a bucket number, never a version.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketCookie {
    pub name: String,
    /// `None`: a session cookie.
    pub max_age: Option<Duration>,
    pub path: String,
    /// `None` as a value (`SameSite=None`) needs `secure`: browsers drop the cookie otherwise.
    pub same_site: SameSite,
    pub secure: bool,
    pub http_only: bool,
    /// Signs the cookie; all proxies of one application share it. `None`: derived from the salt, which keeps honest
    /// clients honest and nobody else.
    pub secret: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

/// What cannot work, whoever wrote it. The file's reader finds the same things earlier, with a line number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StickyError {
    #[error("the bucket cookie's name {0:?} is not a cookie name: letters, digits and !#$%&'*+-.^_`|~ are allowed")]
    Name(String),
    #[error("the bucket cookie's path {0:?} must begin with / and hold printable ASCII without ;")]
    Path(String),
    #[error("the bucket cookie has SameSite=None, which browsers accept only together with Secure")]
    NoneWithoutSecure,
    #[error("the bucket cookie's name {0:?} begins with __Secure- or __Host-, which browsers accept only with Secure")]
    PrefixWithoutSecure(String),
    #[error("the bucket cookie's name {0:?} begins with __Host-, which browsers accept only with the path /")]
    HostPath(String),
    #[error("the cookie {0:?} is the bucket cookie and a source of keys at once; users would change version with it")]
    KeyIsBucket(String),
}

/// A place on the line from 0 to 1, in units of 2^-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub u64);

impl Place {
    /// The place of a bucket number, which counts units of 2^-32.
    pub fn of_bucket(bucket: u32) -> Self {
        Self(u64::from(bucket) << 32)
    }
}

/// Everything that a request is recognised by, compiled.
pub struct Users {
    sticky: Sticky,
    hasher: SipHasher24,
    cuts: Cuts,
    cookie: Option<Signer>,
}

impl Users {
    /// `sticky` has passed [`Sticky::check`].
    pub fn new(sticky: Sticky, cuts: Cuts) -> Self {
        Self {
            hasher: hasher(&sticky.salt),
            cookie: sticky.cookie.as_ref().map(|cookie| Signer::new(cookie, &sticky.salt)),
            sticky,
            cuts,
        }
    }

    /// The place of a user with a key.
    pub fn place(&self, head: &impl Head) -> Option<Place> {
        self.key(head).map(|(_, key)| Place(self.hasher.hash(key.bytes())))
    }

    /// For people who ask about a user: whether it is this key that the request has.
    pub fn has_key(&self, head: &impl Head, key: &[u8]) -> bool {
        self.key(head).is_some_and(|(_, found)| found.bytes() == key)
    }

    /// The bucket in the request's cookie, if the signature is ours.
    pub fn bucket(&self, head: &impl Head) -> Option<u32> {
        self.cookie.as_ref()?.read(head)
    }

    /// The place of a user who can be recognised already: by a key or, failing that, by a bucket.
    pub fn known(&self, head: &impl Head) -> Option<Place> {
        self.place(head).or_else(|| self.bucket(head).map(Place::of_bucket))
    }

    /// Whether users without a key receive a bucket.
    pub fn has_cookie(&self) -> bool {
        self.cookie.is_some()
    }

    pub fn version_at(&self, place: Place) -> usize {
        self.cuts.at(place)
    }

    /// The `Set-Cookie` header that gives a user this bucket.
    pub fn set_cookie(&self, bucket: u32) -> HeaderValue {
        self.cookie.as_ref().expect("only a bucket that was minted is set, and has_cookie says so").render(bucket)
    }

    /// For people: where the key or bucket of this request comes from, and what it is. `None`: there is neither.
    pub fn describe(&self, head: &impl Head) -> Option<String> {
        match self.key(head) {
            Some((source, key)) => Some(format!("{source} = {}", source.shown(key.bytes()))),
            None => {
                let bucket = self.bucket(head)?;
                Some(format!("signed cookie {} carries bucket {bucket:#010x}", self.cookie.as_ref()?.name()))
            }
        }
    }

    /// For people: why [`Users::place`] found nothing.
    pub fn why_no_key(&self) -> String {
        match &*self.sticky.keys {
            [] => "no source of keys is configured".to_owned(),
            keys => {
                let names: Vec<_> = keys.iter().map(KeySource::to_string).collect();
                format!("no key: absent or empty are {}", names.join(", "))
            }
        }
    }

    /// The settings that all of this was compiled from, for views.
    pub fn sticky(&self) -> &Sticky {
        &self.sticky
    }

    pub fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// The name of the cookie that carries buckets.
    pub fn cookie_name(&self) -> Option<&str> {
        self.cookie.as_ref().map(Signer::name)
    }

    fn key<'a>(&'a self, head: &'a impl Head) -> Option<(&'a KeySource, Key<'a>)> {
        self.sticky.keys.iter().find_map(|source| {
            let key = match source {
                KeySource::Header(name) => Key::Sent(head.values(name).next()?),
                KeySource::Cookie(name) => Key::Sent(matches::cookie(head, name)?),
                KeySource::Query(name) => Key::Sent(matches::query(head, name)?),
                KeySource::ClientAddress => Key::Address(AddressText::new(head.client())),
            };
            (!key.bytes().is_empty()).then_some((source, key))
        })
    }
}

/// The hash of one salt: SipHash-2-4 under the first 16 bytes of SHA-256("splitway/bucket/v1" NUL salt).
fn hasher(salt: &str) -> SipHasher24 {
    let digest = Sha256::new().chain_update(b"splitway/bucket/v1\0").chain_update(salt).finalize();
    let (key, _) = digest.split_first_chunk::<16>().expect("a SHA-256 has 32 bytes");
    SipHasher24::new_with_key(key)
}

enum Key<'a> {
    /// As received: nothing is decoded, because two readers could decode differently.
    Sent(&'a [u8]),
    Address(AddressText),
}

impl Key<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Key::Sent(bytes) => bytes,
            Key::Address(text) => &text.buffer[..text.length],
        }
    }
}

/// The canonical text of an address (RFC 5952), written without allocating. An IPv4 address mapped into IPv6 is IPv4:
/// which of the two a listener shows depends on its socket, not on the user.
struct AddressText {
    /// The longest text is eight groups of four digits.
    buffer: [u8; 39],
    length: usize,
}

impl AddressText {
    fn new(address: IpAddr) -> Self {
        let mut text = Self { buffer: [0; 39], length: 0 };
        fmt::write(&mut text, format_args!("{}", address.to_canonical())).expect("39 bytes hold every address");
        text
    }
}

impl fmt::Write for AddressText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.buffer[self.length..].get_mut(..part.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.length += part.len();
        Ok(())
    }
}

impl KeySource {
    fn shown(&self, key: &[u8]) -> String {
        match self {
            KeySource::Header(name) => matches::shown_header(name, key),
            _ => matches::shown(key),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Header(name) => write!(f, "header {name}"),
            KeySource::Cookie(name) => write!(f, "cookie {name}"),
            KeySource::Query(name) => write!(f, "query parameter {name}"),
            KeySource::ClientAddress => f.write_str("client address"),
        }
    }
}

impl Sticky {
    /// Refuses what could not be sent, or what browsers would drop without a word.
    pub fn check(&self) -> Result<(), StickyError> {
        let Some(cookie) = &self.cookie else { return Ok(()) };
        let name = || cookie.name.clone();
        if !is_token(&cookie.name) {
            return Err(StickyError::Name(name()));
        }
        if !cookie.path.starts_with('/') || !cookie.path.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b';')
        {
            return Err(StickyError::Path(cookie.path.clone()));
        }
        if cookie.same_site == SameSite::None && !cookie.secure {
            return Err(StickyError::NoneWithoutSecure);
        }
        // Browsers compare these prefixes without case (RFC 6265bis section 4.1.3).
        let lower = cookie.name.to_ascii_lowercase();
        let (for_host, for_secure) = (lower.starts_with("__host-"), lower.starts_with("__secure-"));
        if (for_host || for_secure) && !cookie.secure {
            return Err(StickyError::PrefixWithoutSecure(name()));
        }
        if for_host && cookie.path != "/" {
            return Err(StickyError::HostPath(name()));
        }
        if self.keys.iter().any(|source| matches!(source, KeySource::Cookie(key) if *key == cookie.name)) {
            return Err(StickyError::KeyIsBucket(name()));
        }
        Ok(())
    }
}

/// RFC 9110 section 5.6.2; a cookie's name is one (RFC 6265 section 4.1.1).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The secret is not shown.
impl fmt::Debug for BucketCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, max_age, path, same_site, secure, http_only, secret } = self;
        f.debug_struct("BucketCookie")
            .field("name", name)
            .field("max_age", max_age)
            .field("path", path)
            .field("same_site", same_site)
            .field("secure", secure)
            .field("http_only", http_only)
            .field("secret", &secret.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;
    use proptest::prelude::*;

    use super::*;
    use crate::route::{MadeUp, Role};

    const CLIENT: &str = "192.0.2.7";

    fn sticky(keys: Vec<KeySource>) -> Sticky {
        Sticky { keys, salt: "spring".to_owned(), cookie: None }
    }

    fn bucket_cookie() -> BucketCookie {
        BucketCookie {
            name: "splitway".to_owned(),
            max_age: None,
            path: "/".to_owned(),
            same_site: SameSite::Lax,
            secure: false,
            http_only: true,
            secret: None,
        }
    }

    fn cuts(weight: u32, total: u32) -> Cuts {
        Cuts::new(&[(Role::Canary, 1, weight), (Role::Stable, 0, total - weight)])
    }

    fn users(keys: Vec<KeySource>) -> Users {
        Users::new(sticky(keys), cuts(1, 2))
    }

    fn every_source() -> Vec<KeySource> {
        vec![
            KeySource::Header(HeaderName::from_static("x-user")),
            KeySource::Cookie("uid".to_owned()),
            KeySource::Query("uid".to_owned()),
            KeySource::ClientAddress,
        ]
    }

    fn head(target: &str, headers: &[(&str, &str)], client: &str) -> MadeUp {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        MadeUp::new("GET", target, headers, client.parse().unwrap())
    }

    #[test]
    fn the_hash_is_siphash_2_4() {
        // The reference implementation's first and last vectors for the key 00 01 .. 0f.
        let hasher = SipHasher24::new_with_key(&std::array::from_fn(|i| i as u8));
        assert_eq!(hasher.hash(&[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(hasher.hash(&std::array::from_fn::<u8, 15, _>(|i| i as u8)), 0xa129_ca61_49be_45e5);
        assert_eq!(hasher.hash(&std::array::from_fn::<u8, 63, _>(|i| i as u8)), 0x958a_324c_eb06_4572);
    }

    /// Rows of the table in the document whose first cell is not a heading: cells without their back-ticks.
    fn rows(heading: &str) -> Vec<Vec<&'static str>> {
        let document = include_str!("../../docs/sticky.md");
        let (_, section) = document.split_once(heading).expect("the section is there");
        let cells = |line: &'static str| {
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>()
        };
        section
            .lines()
            .skip_while(|line| !line.starts_with("|--"))
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .map(cells)
            .collect()
    }

    #[test]
    fn the_published_places_are_ours() {
        let rows = rows("## Test vectors");
        assert!(rows.len() >= 12);
        for row in rows {
            let [salt, key, place, fraction, at_five_and_a_half, at_fifty] = row[..] else { panic!("{row:?}") };
            let found = hasher(salt).hash(key.as_bytes());
            assert_eq!(format!("{found:016x}"), place, "{salt} {key}");
            assert_eq!(format!("{:.6}", found as f64 / 2f64.powi(64)), fraction, "{salt} {key}");
            let version = |cuts: Cuts| ["stable", "canary"][cuts.at(Place(found))];
            assert_eq!(version(cuts(55, 1000)), at_five_and_a_half, "{salt} {key}");
            assert_eq!(version(cuts(1, 2)), at_fifty, "{salt} {key}");
        }
    }

    #[test]
    fn the_published_cookies_are_ours() {
        let rows = rows("## Cookie vectors");
        assert!(rows.len() >= 4);
        for row in rows {
            let [salt, secret, bucket, value] = row[..] else { panic!("{row:?}") };
            let secret = (secret != "derived").then(|| secret.as_bytes().to_vec());
            let sticky = Sticky {
                salt: salt.to_owned(),
                cookie: Some(BucketCookie { secret, ..bucket_cookie() }),
                ..sticky(vec![])
            };
            let users = Users::new(sticky, cuts(1, 2));
            let bucket = u32::from_str_radix(bucket, 16).unwrap();
            assert_eq!(users.set_cookie(bucket), format!("splitway={value}; Path=/; SameSite=Lax; HttpOnly"));
            let sent = head("/", &[("cookie", &format!("splitway={value}"))], CLIENT);
            assert_eq!(users.bucket(&sent), Some(bucket));
        }
    }

    #[test]
    fn the_first_source_that_has_something_is_the_key() {
        let users = users(every_source());
        let check = |target: &str, headers: &[(&str, &str)], expected: &str| {
            let head = head(target, headers, CLIENT);
            assert_eq!(users.describe(&head).unwrap(), expected);
            // Which source it was does not matter for the place, only the text.
            let key = expected.rsplit(" = ").next().unwrap().trim_matches('"');
            assert_eq!(users.place(&head), Some(Place(hasher("spring").hash(key.as_bytes()))));
        };
        let (header, cookie) = (("x-user", "1"), ("cookie", "uid=2"));
        check("/?uid=3", &[header, cookie], "header x-user = \"1\"");
        check("/?uid=3", &[cookie], "cookie uid = \"2\"");
        check("/?uid=3", &[], "query parameter uid = \"3\"");
        check("/", &[], "client address = \"192.0.2.7\"");
        check("/?uid=3", &[("x-user", ""), ("cookie", "uid=\"\"")], "query parameter uid = \"3\"");
        check("/?uid=", &[("cookie", "xuid=2")], "client address = \"192.0.2.7\"");
        check("/?uid=a%2fb", &[], "query parameter uid = \"a%2fb\"");
    }

    #[test]
    fn no_source_means_no_place() {
        let users = users(every_source()[..3].to_vec());
        let nobody = head("/", &[], CLIENT);
        assert_eq!((users.place(&nobody), users.known(&nobody), users.describe(&nobody)), (None, None, None));
    }

    #[test]
    fn a_key_comes_before_a_bucket() {
        let sticky = Sticky { cookie: Some(bucket_cookie()), ..sticky(every_source()[..1].to_vec()) };
        let users = Users::new(sticky, cuts(1, 2));
        let cookie = users.set_cookie(77);
        let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
        let anonymous = head("/", &[("cookie", cookie)], CLIENT);
        assert_eq!(users.known(&anonymous), Some(Place(77 << 32)));
        assert_eq!(users.describe(&anonymous).unwrap(), "signed cookie splitway carries bucket 0x0000004d");
        let named = head("/", &[("cookie", cookie), ("x-user", "42")], CLIENT);
        assert_eq!(users.known(&named), users.place(&named));
        assert_ne!(users.known(&named), users.known(&anonymous));
    }

    #[test]
    fn an_address_is_its_canonical_text() {
        let users = users(vec![KeySource::ClientAddress]);
        let check = |address: &str, text: &str| {
            // Bypasses MadeUp's own care for mapped addresses.
            let head = MadeUp { client: address.parse().unwrap(), ..head("/", &[], CLIENT) };
            assert_eq!(users.place(&head), Some(Place(hasher("spring").hash(text.as_bytes()))), "{address}");
        };
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("2001:DB8:0:0:0:0:0:1", "2001:db8::1");
        check("::1", "::1");
        check("1111:2222:3333:4444:5555:6666:7777:8888", "1111:2222:3333:4444:5555:6666:7777:8888");
    }

    #[test]
    fn a_hundred_thousand_keys_split_as_asked() {
        const KEYS: u32 = 100_000;
        for salt in ["spring", "autumn", ""] {
            let hasher = hasher(salt);
            let places: Vec<Place> = (0..KEYS).map(|i| Place(hasher.hash(format!("user-{i}").as_bytes()))).collect();
            for (weight, total) in [(1, 100), (5, 100), (55, 1000), (1, 3), (1, 2), (9, 10)] {
                let cuts = cuts(weight, total);
                let canaries = places.iter().filter(|place| cuts.at(**place) == 1).count() as f64;
                let p = f64::from(weight) / f64::from(total);
                let deviation = (f64::from(KEYS) * p * (1.0 - p)).sqrt();
                let error = canaries - f64::from(KEYS) * p;
                assert!(error.abs() < 4.5 * deviation, "{salt} {weight}/{total}: {error} of {deviation}");
            }
            // Spread evenly over the whole line too: chi-squared over 64 parts, 63 degrees of freedom.
            let mut parts = [0u32; 64];
            places.iter().for_each(|place| parts[(place.0 >> 58) as usize] += 1);
            let each = f64::from(KEYS) / 64.0;
            let chi: f64 = parts.iter().map(|count| (f64::from(*count) - each).powi(2) / each).sum();
            assert!(chi < 63.0 + 4.5 * 126f64.sqrt(), "{salt}: {chi}");
        }
    }

    #[test]
    fn another_salt_chooses_other_users() {
        let (spring, autumn) = (hasher("spring"), hasher("autumn"));
        let cuts = cuts(1, 10);
        let canary = |hasher: &SipHasher24, key: &str| cuts.at(Place(hasher.hash(key.as_bytes()))) == 1;
        let both = (0..100_000).filter(|i| {
            let key = i.to_string();
            canary(&spring, &key) && canary(&autumn, &key)
        });
        // A tenth of a tenth, as if drawn anew: 1000 with a deviation of 31.5.
        let both = both.count() as f64;
        assert!((both - 1000.0).abs() < 4.5 * 31.5, "{both}");
    }

    #[test]
    fn two_applications_with_one_salt_have_the_same_users() {
        let (first, second) = (users(every_source()), users(vec![KeySource::Query("user".to_owned())]));
        for key in 0..1_000 {
            let at_the_first = head("/", &[("x-user", &key.to_string())], CLIENT);
            let at_the_second = head(&format!("/?user={key}"), &[], "203.0.113.9");
            assert_eq!(first.place(&at_the_first), second.place(&at_the_second));
        }
    }

    #[test]
    fn what_browsers_would_drop_is_refused() {
        let check = |cookie: BucketCookie, expected: Result<(), StickyError>| {
            let keys = vec![KeySource::Cookie("uid".to_owned())];
            assert_eq!(Sticky { cookie: Some(cookie), ..sticky(keys) }.check(), expected);
        };
        let base = bucket_cookie;
        let named = |name: &str| BucketCookie { name: name.to_owned(), ..base() };
        check(base(), Ok(()));
        for name in ["", "a b", "a=b", "a;b", "k\u{e4}se"] {
            check(named(name), Err(StickyError::Name(name.to_owned())));
        }
        for path in ["", "shop", "/a;b", "/\n", "/\u{e4}"] {
            check(BucketCookie { path: path.to_owned(), ..base() }, Err(StickyError::Path(path.to_owned())));
        }
        let none = BucketCookie { same_site: SameSite::None, ..base() };
        check(none.clone(), Err(StickyError::NoneWithoutSecure));
        check(BucketCookie { secure: true, ..none }, Ok(()));
        check(named("__Secure-s"), Err(StickyError::PrefixWithoutSecure("__Secure-s".to_owned())));
        check(BucketCookie { secure: true, ..named("__Secure-s") }, Ok(()));
        let host = BucketCookie { secure: true, path: "/a".to_owned(), ..named("__host-s") };
        check(host.clone(), Err(StickyError::HostPath("__host-s".to_owned())));
        check(BucketCookie { path: "/".to_owned(), ..host }, Ok(()));
        check(named("uid"), Err(StickyError::KeyIsBucket("uid".to_owned())));
        assert_eq!(sticky(every_source()).check(), Ok(()));
    }

    #[test]
    fn the_secret_is_not_printed() {
        let cookie = BucketCookie { secret: Some(b"hush".to_vec()), ..bucket_cookie() };
        let text = format!("{:?}", Sticky { cookie: Some(cookie), ..sticky(vec![]) });
        assert!(text.contains("(hidden)") && !text.contains("hush") && !text.contains("104"), "{text}");
    }

    proptest! {
        #[test]
        fn a_key_has_one_place_wherever_it_is_sent(key in "[!#-%'-:<-~]{1,100}") {
            let users = users(every_source());
            let sent = |target: &str, headers: &[(&str, &str)]| users.place(&head(target, headers, CLIENT));
            let expected = Some(Place(hasher("spring").hash(key.as_bytes())));
            prop_assert_eq!(sent("/", &[("x-user", &key)]), expected);
            prop_assert_eq!(sent("/", &[("cookie", &format!("a=b; uid={key}"))]), expected);
            prop_assert_eq!(sent(&format!("/?uid={key}"), &[]), expected);
        }

        #[test]
        fn settings_that_pass_the_check_make_a_cookie_that_can_be_read(
            name in "[!-~]{1,6}",
            path in "/[ -~\n]{0,6}",
            age in prop::option::of(any::<u64>()),
        ) {
            let cookie = BucketCookie { name, path, max_age: age.map(Duration::from_secs), ..bucket_cookie() };
            let sticky = Sticky { cookie: Some(cookie), ..sticky(vec![]) };
            if sticky.check().is_ok() {
                let users = Users::new(sticky, cuts(1, 2));
                let cookie = users.set_cookie(7);
                let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
                let sent = MadeUp::new("GET", "/", vec![(COOKIE, pair.parse().unwrap())], [0; 4].into());
                prop_assert_eq!(users.bucket(&sent), Some(7));
            }
        }
    }
}
