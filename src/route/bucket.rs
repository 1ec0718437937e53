//! A user's fixed place in the split.

use std::time::Duration;

use http::header::HeaderName;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketCookie {
    pub name: String,
    /// `None`: a session cookie.
    pub max_age: Option<Duration>,
    pub path: String,
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
pub struct Place(pub u64);
pub struct Cuts(usize);
impl Cuts {
    pub fn new(s: &[(super::Role, usize, u32)]) -> Self {
        Cuts(s[0].1)
    }
}
pub struct Mint;
impl Mint {
    pub fn mint(&self) -> u32 {
        0
    }
    pub fn peek(&self) -> u32 {
        0
    }
}
pub struct Users {
    sticky: Sticky,
    cuts: Cuts,
}
impl Users {
    pub fn new(sticky: Sticky, cuts: Cuts) -> Self {
        Self { sticky, cuts }
    }
    pub fn sticky(&self) -> &Sticky {
        &self.sticky
    }
    pub fn place(&self, _: &impl super::Head) -> Option<Place> {
        None
    }
    pub fn bucket(&self, _: &impl super::Head) -> Option<u32> {
        None
    }
    pub fn has_cookie(&self) -> bool {
        false
    }
    pub fn version_at(&self, _: Place) -> usize {
        self.cuts.0
    }
    pub fn version_of(&self, _: u32) -> usize {
        self.cuts.0
    }
    pub fn set_cookie(&self, _: u32) -> http::HeaderValue {
        http::HeaderValue::from_static("x")
    }
}
