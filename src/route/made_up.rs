//! A request's head that nobody sent: for `explain` and for tests.

use std::net::IpAddr;

use http::HeaderValue;
use http::header::HeaderName;

use super::Head;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeUp {
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    /// In order; a name may appear several times.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub client: IpAddr,
}

impl MadeUp {
    /// `target` is a path, with a query after the first `?`. Nothing is decoded, as in a request that is received; an
    /// empty path is `/`.
    pub fn new(
        method: impl Into<String>,
        target: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        client: IpAddr,
    ) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        Self { method: method.into(), path, query, headers, client: client.to_canonical() }
    }
}

impl Head for MadeUp {
    fn method(&self) -> &str {
        &self.method
    }
    fn path(&self) -> &str {
        &self.path
    }
    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(named, _)| named == name).map(|(_, value)| value.as_bytes())
    }
    fn client(&self) -> IpAddr {
        self.client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_cut_at_the_first_question_mark() {
        let check = |target: &str, path: &str, query: Option<&str>| {
            let head = MadeUp::new("GET", target, Vec::new(), [127, 0, 0, 1].into());
            assert_eq!((head.path(), head.query()), (path, query), "{target}");
        };
        check("/", "/", None);
        check("", "/", None);
        check("/a%2Fb?x=1?y", "/a%2Fb", Some("x=1?y"));
        check("?", "/", Some(""));
    }

    #[test]
    fn repeated_headers_keep_their_order() {
        let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let headers = vec![header("x-a", "1"), header("x-b", "2"), header("x-a", "3")];
        let head = MadeUp::new("GET", "/", headers, "::ffff:10.0.0.1".parse().unwrap());
        let name = HeaderName::from_static("x-a");
        assert_eq!(head.values(&name).collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(head.client(), IpAddr::from([10, 0, 0, 1]));
    }
}
