//! What all benchmarks look at: splits, snapshots with many routes, a browser's request.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::HeaderName;
use splitway::route::bucket::{KeySource, Mint, Sticky};
use splitway::route::matches::{Match, PathMatch, ValueMatch};
use splitway::route::picker::{Seed, Split, Turn};
use splitway::route::policy::Policy;
use splitway::route::{
    Action, Backend, Head, Identity, Role, Route, RouteName, Routing, Share, Shares, Snapshot, VersionHash,
};

pub const SEED: Seed = Seed(0x5eed, 0x0dd5);

pub fn split(weights: &[u32]) -> Split {
    let name = |i: usize| VersionHash::new(&format!("version-{i}"));
    let shares: Vec<_> = weights.iter().enumerate().map(|(i, weight)| (name(i), i, *weight)).collect();
    Split::new(&shares, SEED, Turn::default(), None)
}

/// Routes that look at a header, a cookie and the path, none of which holds for [`MadeUp::browser`].
pub fn routing(routes: usize, sticky: bool) -> Routing {
    let version = |role: Role| VersionHash::new(role.as_str());
    let backend = |role: Role, port: u16| Backend {
        version: version(role),
        role,
        endpoints: [(Ipv4Addr::LOCALHOST, port).into()].into(),
        transport: Default::default(),
    };
    let route = |i: usize| Route {
        name: RouteName::new(&format!("route {i}")),
        matches: vec![
            Match {
                headers: vec![(
                    HeaderName::from_static("x-user"),
                    ValueMatch::Exact(format!("tester {i}").into_bytes()),
                )],
                ..Match::default()
            },
            Match {
                path: Some(PathMatch::prefix(&format!("/shop/{i}"))),
                cookies: vec![("team".to_owned(), ValueMatch::Prefix(b"qa-".to_vec()))],
                ..Match::default()
            },
        ],
        action: if i % 10 == 9 {
            Action::Split(Shares::new(vec![(version(Role::Canary), 1), (version(Role::Stable), 1)]).unwrap())
        } else {
            Action::Send(version(Role::Canary))
        },
        count: true,
        timeouts: None,
    };
    Routing {
        backends: vec![backend(Role::Stable, 9001), backend(Role::Canary, 9002)],
        split: Shares::new(vec![(version(Role::Stable), 945), (version(Role::Canary), 55)]).unwrap(),
        routes: (0..routes).map(route).collect(),
        sticky: sticky.then(|| Sticky {
            keys: vec![KeySource::Header(HeaderName::from_static("x-user"))],
            salt: "spring".to_owned(),
            cookie: None,
        }),
        override_: None,
        policy: Policy::default(),
    }
}

pub fn snapshot(routes: usize, sticky: bool) -> Snapshot {
    Snapshot::build(routing(routes, sticky), &identity(), None).unwrap()
}

/// So many routes that do not match, and then a mirror that does.
#[allow(dead_code, reason = "not every benchmark looks at it")]
pub fn mirroring(routes: usize) -> Snapshot {
    let mut routing = routing(routes, false);
    routing.routes.push(Route {
        name: RouteName::new("copies"),
        matches: vec![Match { path: Some(PathMatch::prefix("/cart")), ..Match::default() }],
        action: Action::Mirror { to: VersionHash::new("canary"), share: Share::new(5, 100).unwrap() },
        count: true,
        timeouts: None,
    });
    Snapshot::build(routing, &identity(), None).unwrap()
}

pub fn identity() -> Identity {
    Identity { seed: SEED, turn: Turn::default(), mint: Arc::new(Mint::random()) }
}

/// A request's head as a plain list.
pub struct MadeUp {
    headers: Vec<(HeaderName, &'static str)>,
}

impl MadeUp {
    pub fn browser() -> Self {
        let headers = [
            ("host", "shop.example"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            ("accept-language", "en-US,en;q=0.5"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("x-user", "4711"),
            ("cookie", "session=0123456789abcdef; theme=dark; uid=4711"),
        ];
        Self { headers: headers.map(|(name, value)| (HeaderName::from_static(name), value)).into() }
    }
}

impl Head for MadeUp {
    fn method(&self) -> &str {
        "GET"
    }
    fn path(&self) -> &str {
        "/cart/items"
    }
    fn query(&self) -> Option<&str> {
        Some("page=2")
    }
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_bytes())
    }
    fn client(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }
}
