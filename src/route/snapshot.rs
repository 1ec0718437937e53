//! One compiled, immutable routing value, and the decision it takes for a request.

mod explain;

pub use explain::{Considered, Explanation};

use std::collections::HashMap;
use std::sync::Arc;

use http::header::HeaderName;

use super::bucket::{Cuts, Mint, Place, Sticky, StickyError, Users};
use super::matches::{self, Match};
use super::picker::{Seed, Split, Tally, Turn};
use super::policy::{Policy, Timeouts};
use super::{
    Action, Backend, Decision, Generation, Head, Mirror, Override, PortName, Reason, Role, Route, RouteName, Routing,
    Share, Shares, VersionHash,
};

/// What a request is routed by. Everything in it was checked and computed before; the only things that
/// ever change are the numbers that its splits and its mint give out, one atomic each.
pub struct Snapshot {
    generation: Generation,
    backends: Vec<Backend>,
    shares: Shares,
    override_: Option<CompiledOverride>,
    routes: Vec<CompiledRoute>,
    users: Option<Users>,
    split: Split,
    mint: Arc<Mint>,
    policy: Policy,
}

struct CompiledOverride {
    header: HeaderName,
    cookie: String,
    /// Where `always` and `never` lead; `None` when no backend has that role.
    canary: Option<usize>,
    stable: Option<usize>,
}

/// A route whose names have become numbers.
pub struct CompiledRoute {
    pub name: RouteName,
    pub count: bool,
    /// Its requests' own bounds on waiting.
    pub timeouts: Option<Timeouts>,
    matches: Vec<Match>,
    target: Target,
}

enum Target {
    Backend(usize),
    Split {
        split: Split,
        /// The same shares as parts of the users' line.
        cuts: Cuts,
        shares: Shares,
    },
    /// A copy to a backend, for those requests for which the split chooses [`COPY`].
    Mirror {
        to: usize,
        split: Split,
        share: Share,
    },
}

/// What the split of a mirror can choose: a copy, or none.
const COPY: usize = 0;
const NO_COPY: usize = 1;

/// Where a route leads, for views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeadsTo<'a> {
    /// Index into [`Snapshot::backends`].
    Backend(usize),
    Split(&'a Shares),
    /// The split of all, and a copy to a backend.
    Mirror {
        to: usize,
        share: Share,
    },
}

/// What a process keeps for life and hands to each snapshot it builds.
#[derive(Clone)]
pub struct Identity {
    pub seed: Seed,
    pub turn: Turn,
    pub mint: Arc<Mint>,
}

impl Identity {
    /// A proxy by itself: unbiased, in step with no other.
    pub fn random() -> Self {
        Self { seed: Seed::random(), turn: Turn::default(), mint: Arc::new(Mint::random()) }
    }

    /// One of several proxies with the same `seed`, which take turns.
    pub fn replica(turn: Turn, seed: &str) -> Self {
        Self { seed: Seed::shared(seed), turn, mint: Arc::new(Mint::random()) }
    }

    /// The identity that one port keeps for life. Each named port has draws and bucket numbers of its own: what comes in
    /// at one port cannot be in step with what comes in at another, and is exact by itself.
    pub fn at(&self, port: &PortName) -> Self {
        if port.is_unnamed() {
            return self.clone();
        }
        Self { seed: self.seed.at_port(port.as_str()), turn: self.turn, mint: Arc::new(Mint::random()) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("there is no backend, so no request could be sent anywhere")]
    NoBackend,
    #[error("version {0} has two backends")]
    TwoBackends(VersionHash),
    #[error("{place} names version {version}, which no backend has")]
    UnknownVersion { place: String, version: VersionHash },
    #[error("two routes are named {:?}", .0.as_str())]
    TwoRoutes(RouteName),
    #[error(transparent)]
    Sticky(#[from] StickyError),
}

impl Snapshot {
    /// [`Snapshot::check`] and [`Checked::build`] in one, for a proxy with one port.
    pub fn build(routing: Routing, identity: &Identity, previous: Option<&Snapshot>) -> Result<Self, BuildError> {
        Ok(Self::check(routing)?.build(identity, previous))
    }

    /// Everything about `routing` that can fail, without any effect.
    pub fn check(routing: Routing) -> Result<Checked, BuildError> {
        if routing.backends.is_empty() {
            return Err(BuildError::NoBackend);
        }
        let mut index = HashMap::new();
        for (i, backend) in routing.backends.iter().enumerate() {
            if index.insert(backend.version.clone(), i).is_some() {
                return Err(BuildError::TwoBackends(backend.version.clone()));
            }
        }
        let find = |version: &VersionHash, place: &dyn Fn() -> String| {
            index
                .get(version)
                .copied()
                .ok_or_else(|| BuildError::UnknownVersion { place: place(), version: version.clone() })
        };
        let ordered = |shares: &Shares, place: &dyn Fn() -> String| -> Result<Ordered, BuildError> {
            let mut ordered = shares
                .weights()
                .iter()
                .map(|(version, weight)| Ok((version.clone(), find(version, place)?, *weight)))
                .collect::<Result<Ordered, BuildError>>()?;
            // Outermost first: experiments come and go, the pair of canary and stable lasts.
            ordered.sort_by_key(|(_, i, _)| std::cmp::Reverse(routing.backends[*i].role));
            Ok(ordered)
        };

        let weights = ordered(&routing.split, &|| "split".to_owned())?;
        if let Some(sticky) = &routing.sticky {
            sticky.check()?;
        }
        let mut routes: Vec<CheckedRoute> = Vec::with_capacity(routing.routes.len());
        for Route { name, matches, action, count, timeouts } in routing.routes {
            if routes.iter().any(|earlier| earlier.name == name) {
                return Err(BuildError::TwoRoutes(name));
            }
            let place = || format!("route {:?}", name.as_str());
            let leads = match action {
                Action::Send(version) => Leads::Backend(find(&version, &place)?),
                Action::Split(shares) => Leads::Split(ordered(&shares, &place)?, shares),
                Action::Mirror { to, share } => Leads::Mirror(find(&to, &place)?, share),
            };
            routes.push(CheckedRoute { name, matches, leads, count, timeouts });
        }
        Ok(Checked {
            backends: routing.backends,
            shares: routing.split,
            weights,
            routes,
            sticky: routing.sticky,
            override_: routing.override_,
            policy: routing.policy,
        })
    }

    /// Routes one request: the tester's override, then the routes in order, then the user's bucket, then the exact split.
    /// A mirror that matches ends the search among the routes, and leaves the version to what follows.
    pub fn decide(&self, head: &impl Head) -> Decision {
        self.walk(head, &mut Draw)
    }

    fn walk(&self, head: &impl Head, observer: &mut impl Observer) -> Decision {
        let plain = |backend, reason| Decision {
            backend,
            reason,
            route: None,
            user: None,
            minted: None,
            counted: true,
            mirror: None,
        };
        if let Some(named) = &self.override_ {
            let choice = named.choice(head);
            observer.considered("override", || (choice.is_some(), self.about_override(named, head)));
            if let Some(backend) = choice {
                return plain(backend, Reason::Override);
            }
        }
        let mut mirror = None;
        for (i, route) in self.routes.iter().enumerate() {
            let Some(held) = route.matches.iter().position(|one| one.holds(head)) else {
                observer.considered("route", || (false, route.why_not(head)));
                continue;
            };
            let (backend, place) = match &route.target {
                Target::Backend(backend) => (*backend, None),
                // A user who is known keeps one version here as well, at the route's own cuts.
                Target::Split { split, cuts, .. } => match self.users.as_ref().and_then(|users| users.known(head)) {
                    Some(place) => (cuts.at(place), Some(place)),
                    None => (observer.draw(split), None),
                },
                Target::Mirror { to, split, share } => {
                    let copied = observer.draw(split) == COPY;
                    observer.considered("mirror", || (false, self.about_mirror(route, held, *to, *share, copied)));
                    mirror = copied.then_some(Mirror { to: *to, route: i });
                    break;
                }
            };
            observer.considered("route", || (true, self.about_route(route, held, head, backend, place)));
            return Decision {
                backend,
                reason: Reason::Route,
                route: Some(i),
                user: place,
                minted: None,
                counted: route.count,
                mirror,
            };
        }
        let plain = |backend, reason| Decision { mirror, ..plain(backend, reason) };
        if let Some(users) = &self.users {
            if let Some(place) = users.place(head) {
                let backend = users.version_at(place);
                observer.considered("sticky", || (true, self.about_user(users, head, users.cuts(), place, backend)));
                return Decision { user: Some(place), ..plain(backend, Reason::Sticky) };
            }
            observer.considered("sticky", || (false, users.why_no_key()));
            if users.has_cookie() {
                let carried = users.bucket(head);
                let bucket = carried.unwrap_or_else(|| observer.mint(&self.mint));
                let place = Place::of_bucket(bucket);
                let backend = users.version_at(place);
                observer.considered("cookie", || {
                    let why = match carried {
                        Some(_) => self.about_user(users, head, users.cuts(), place, backend),
                        None => self.about_new_user(users, head, bucket, backend),
                    };
                    (true, why)
                });
                let minted = carried.is_none().then_some(bucket);
                return Decision { user: Some(place), minted, ..plain(backend, Reason::Cookie) };
            }
        }
        let backend = observer.draw(&self.split);
        observer.considered("split", || (true, self.about_split(&self.shares, backend)));
        plain(backend, Reason::Weighted)
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }
    pub fn routes(&self) -> &[CompiledRoute] {
        &self.routes
    }
    pub fn shares(&self) -> &Shares {
        &self.shares
    }
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
    pub fn users(&self) -> Option<&Users> {
        self.users.as_ref()
    }
    /// The header and the cookie of the tester's override, if it is on.
    pub fn override_names(&self) -> Option<(&HeaderName, &str)> {
        self.override_.as_ref().map(|named| (&named.header, named.cookie.as_str()))
    }
    /// The exact split's account since the process started.
    pub fn tally(&self) -> Tally {
        self.split.tally()
    }
    /// The weight of a version in the split; 0 if the split does not name it.
    pub fn weight(&self, version: &VersionHash) -> u32 {
        self.shares.weights().iter().find(|(named, _)| named == version).map_or(0, |(_, weight)| *weight)
    }
}

/// A routing whose names fit together: what is left to do cannot fail. So the routings of several ports can all be checked
/// before the first of them has any effect.
pub struct Checked {
    backends: Vec<Backend>,
    shares: Shares,
    weights: Ordered,
    routes: Vec<CheckedRoute>,
    sticky: Option<Sticky>,
    override_: Option<Override>,
    policy: Policy,
}

struct CheckedRoute {
    name: RouteName,
    matches: Vec<Match>,
    leads: Leads,
    count: bool,
    timeouts: Option<Timeouts>,
}

/// Where a route leads, before the splits are built.
enum Leads {
    Backend(usize),
    Split(Ordered, Shares),
    Mirror(usize, Share),
}

/// Versions with their backends and weights, outermost first.
type Ordered = Vec<(VersionHash, usize, u32)>;

impl Checked {
    /// Compiles it. The phases of splits are carried over from `previous`, the snapshot of the same port, so that shares
    /// stay exact through every change; a route's own split is recognised by the route's name. Its splits are in force as
    /// soon as it is built, also for requests that are still routed by `previous`, so it is to be published at once.
    pub fn build(self, identity: &Identity, previous: Option<&Snapshot>) -> Snapshot {
        let Self { backends, shares, weights, routes, sticky, override_, policy } = self;
        let cuts = |weights: &Ordered| {
            let parts: Vec<_> = weights.iter().map(|(_, i, weight)| (backends[*i].role, *i, *weight)).collect();
            Cuts::new(&parts)
        };
        let split = Split::new(&weights, identity.seed, identity.turn, previous.map(|previous| &previous.split));
        let routes = routes
            .into_iter()
            .map(|CheckedRoute { name, matches, leads, count, timeouts }| {
                let before = previous.and_then(|previous| previous.routes.iter().find(|route| route.name == name));
                let before = before.map(|route| &route.target);
                let seed = identity.seed.of(name.as_str());
                let target = match leads {
                    Leads::Backend(backend) => Target::Backend(backend),
                    Leads::Split(weights, shares) => {
                        let before = match before {
                            Some(Target::Split { split, .. }) => Some(split),
                            _ => None,
                        };
                        let split = Split::new(&weights, seed, identity.turn, before);
                        Target::Split { split, cuts: cuts(&weights), shares }
                    }
                    Leads::Mirror(to, share) => {
                        let before = match before {
                            Some(Target::Mirror { split, .. }) => Some(split),
                            _ => None,
                        };
                        let choices = [
                            (VersionHash::new("copy"), COPY, share.weight()),
                            (VersionHash::new("no copy"), NO_COPY, share.total() - share.weight()),
                        ];
                        Target::Mirror { to, split: Split::new(&choices, seed, identity.turn, before), share }
                    }
                };
                CompiledRoute { name, count, timeouts, matches, target }
            })
            .collect();
        let role = |role: Role| backends.iter().position(|backend| backend.role == role);
        let override_ = override_.map(|named| CompiledOverride {
            header: named.header,
            cookie: named.cookie,
            canary: role(Role::Canary),
            stable: role(Role::Stable),
        });
        Snapshot {
            generation: Generation(previous.map_or(0, |previous| previous.generation.0) + 1),
            users: sticky.map(|sticky| Users::new(sticky, cuts(&weights))),
            backends,
            shares,
            override_,
            routes,
            split,
            mint: identity.mint.clone(),
            policy,
        }
    }
}

impl CompiledRoute {
    /// Its alternatives, for views.
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    pub fn leads_to(&self) -> LeadsTo<'_> {
        match &self.target {
            Target::Backend(backend) => LeadsTo::Backend(*backend),
            Target::Split { shares, .. } => LeadsTo::Split(shares),
            Target::Mirror { to, share, .. } => LeadsTo::Mirror { to: *to, share: *share },
        }
    }
}

/// What a tester can say.
#[derive(Clone, Copy)]
enum Word {
    Always,
    Never,
}

impl Word {
    fn read(value: &[u8]) -> Option<Self> {
        match value {
            b"always" => Some(Word::Always),
            b"never" => Some(Word::Never),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Word::Always => "always",
            Word::Never => "never",
        }
    }

    fn role(self) -> Role {
        match self {
            Word::Always => Role::Canary,
            Word::Never => Role::Stable,
        }
    }
}

impl CompiledOverride {
    /// The header speaks first, as with the canary annotations of ingress-nginx; any other value is ignored, and so is a
    /// word that leads to no backend.
    fn choice(&self, head: &impl Head) -> Option<usize> {
        let said = head.values(&self.header).find_map(Word::read).and_then(|word| self.leads_to(word));
        said.or_else(|| matches::cookie(head, &self.cookie).and_then(Word::read).and_then(|word| self.leads_to(word)))
    }

    fn leads_to(&self, word: Word) -> Option<usize> {
        match word {
            Word::Always => self.canary,
            Word::Never => self.stable,
        }
    }
}

/// What may differ between deciding and explaining.
trait Observer {
    fn draw(&mut self, split: &Split) -> usize;
    fn mint(&mut self, mint: &Mint) -> u32;
    fn considered(&mut self, what: &'static str, outcome: impl FnOnce() -> (bool, String));
}

/// The request path: numbers are taken, nothing is written down.
struct Draw;

impl Observer for Draw {
    fn draw(&mut self, split: &Split) -> usize {
        split.pick()
    }
    fn mint(&mut self, mint: &Mint) -> u32 {
        mint.mint()
    }
    fn considered(&mut self, _: &'static str, _: impl FnOnce() -> (bool, String)) {}
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::super::bucket::{BucketCookie, KeySource, SameSite, Sticky};
    use super::super::matches::ValueMatch;
    use super::super::policy::Policy;
    use super::super::{MadeUp, Override, Route};
    use super::*;

    fn version(name: &str) -> VersionHash {
        VersionHash::new(name)
    }

    fn shares(weights: &[(&str, u32)]) -> Shares {
        Shares::new(weights.iter().map(|(name, weight)| (version(name), *weight)).collect()).unwrap()
    }

    fn identity() -> Identity {
        Identity { seed: Seed(1, 2), turn: Turn::default(), mint: Arc::new(Mint::new(0)) }
    }

    fn has_header(name: &'static str, value: &str) -> Match {
        let wanted = ValueMatch::Exact(value.into());
        Match { headers: vec![(HeaderName::from_static(name), wanted)], ..Match::default() }
    }

    fn route(name: &str, matches: Vec<Match>, action: Action) -> Route {
        Route { name: RouteName::new(name), matches, action, count: true, timeouts: None }
    }

    fn cookie() -> BucketCookie {
        BucketCookie {
            name: "splitway".to_owned(),
            max_age: None,
            path: "/".to_owned(),
            same_site: SameSite::Lax,
            secure: false,
            http_only: true,
            secret: Some(b"hush".to_vec()),
        }
    }

    fn plain() -> Routing {
        let backend = |name, role| Backend {
            version: version(name),
            role,
            endpoints: Arc::new([]),
            transport: Default::default(),
        };
        Routing {
            backends: vec![
                backend("stable", Role::Stable),
                backend("6d4f9", Role::Canary),
                backend("dark", Role::Experiment),
            ],
            split: shares(&[("stable", 945), ("6d4f9", 55)]),
            routes: Vec::new(),
            sticky: None,
            override_: None,
            policy: Policy::default(),
        }
    }

    /// Everything at once: an override, three routes, keys and a cookie.
    fn full() -> Routing {
        let own = shares(&[("stable", 1), ("6d4f9", 1)]);
        Routing {
            routes: vec![
                Route {
                    count: false,
                    ..route("probes", vec![has_header("x-probe", "1")], Action::Send(version("stable")))
                },
                route(
                    "testers",
                    vec![has_header("x-user", "42"), has_header("x-team", "qa")],
                    Action::Send(version("dark")),
                ),
                route("half", vec![has_header("x-half", "1")], Action::Split(own)),
            ],
            sticky: Some(Sticky {
                keys: vec![KeySource::Header(HeaderName::from_static("x-user")), KeySource::Query("uid".to_owned())],
                salt: "spring".to_owned(),
                cookie: Some(cookie()),
            }),
            override_: Some(Override { header: HeaderName::from_static("x-canary"), cookie: "canary".to_owned() }),
            ..plain()
        }
    }

    fn build(routing: Routing) -> Snapshot {
        Snapshot::build(routing, &identity(), None).unwrap()
    }

    fn head(target: &str, headers: &[(&'static str, &str)]) -> MadeUp {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        MadeUp::new("GET", target, headers, [192, 0, 2, 7].into())
    }

    const STABLE: usize = 0;
    const CANARY: usize = 1;
    const DARK: usize = 2;

    #[test]
    fn the_order_is_override_routes_key_cookie_split() {
        let snapshot = build(full());
        let bucket = snapshot.users().unwrap().set_cookie(0);
        let bucket = bucket.to_str().unwrap().split(';').next().unwrap().to_owned();
        let check = |headers: &[(&'static str, &str)], backend, reason, route| {
            let head = head("/", headers);
            let decision = snapshot.decide(&head);
            let (minted, counted) = (decision.minted, route != Some(0));
            // Only where the line decides: nobody looks for a key otherwise.
            let user = match reason {
                Reason::Sticky => snapshot.users().unwrap().place(&head),
                Reason::Cookie => Some(Place::of_bucket(minted.unwrap_or(0))),
                Reason::Route if route == Some(2) => snapshot.users().unwrap().known(&head),
                _ => None,
            };
            let expected = Decision { backend, reason, route, user, minted, counted, mirror: None };
            assert_eq!(decision, expected, "{headers:?}");
        };
        // Each line takes away what decided in the line before.
        let all = [("x-canary", "always"), ("x-user", "42"), ("x-half", "1"), ("cookie", bucket.as_str())];
        check(&all, CANARY, Reason::Override, None);
        check(&all[1..], DARK, Reason::Route, Some(1));
        check(&[("x-user", "1"), all[2], all[3]], CANARY, Reason::Route, Some(2));
        check(&[("x-user", "1"), all[3]], STABLE, Reason::Sticky, None);
        check(&all[3..], CANARY, Reason::Cookie, None);
        check(&[], CANARY, Reason::Cookie, None);
        let snapshot = build(Routing { sticky: None, ..full() });
        assert_eq!(snapshot.decide(&head("/", &all[3..])).reason, Reason::Weighted);
    }

    #[test]
    fn the_earlier_route_wins_and_count_false_keeps_it_out() {
        let snapshot = build(full());
        let decision = snapshot.decide(&head("/", &[("x-user", "42"), ("x-probe", "1")]));
        assert_eq!((decision.route, decision.backend, decision.counted), (Some(0), STABLE, false));
        let decision = snapshot.decide(&head("/", &[("x-team", "qa")]));
        assert_eq!((decision.route, decision.backend, decision.counted), (Some(1), DARK, true));
    }

    #[test]
    fn a_mirror_leaves_the_version_to_what_comes_after_the_routes() {
        let mirror = |to: &str| Action::Mirror { to: version(to), share: Share::ALL };
        let mut routing = full();
        routing.override_ = None;
        routing.routes.insert(1, route("copies", vec![has_header("x-copy", "1")], mirror("dark")));
        let snapshot = build(routing.clone());
        let copied = Some(Mirror { to: DARK, route: 1 });
        let check = |headers: &[(&'static str, &str)], reason, route, mirror| {
            let decision = snapshot.decide(&head("/", headers));
            assert_eq!((decision.reason, decision.route, decision.mirror), (reason, route, mirror), "{headers:?}");
            decision
        };
        // The first route that matches wins, a mirror among them; what comes after it is not asked.
        check(&[("x-copy", "1"), ("x-probe", "1")], Reason::Route, Some(0), None);
        check(&[("x-copy", "1"), ("x-team", "qa")], Reason::Cookie, None, copied);
        check(&[("x-team", "qa")], Reason::Route, Some(2), None);
        let sticky = check(&[("x-copy", "1"), ("x-user", "7")], Reason::Sticky, None, copied);
        let plain = check(&[("x-user", "7")], Reason::Sticky, None, None);
        assert_eq!(sticky.backend, plain.backend, "a user keeps its version");
        check(&[("x-copy", "1")], Reason::Cookie, None, copied);
        let weighted = build(Routing { sticky: None, ..routing.clone() });
        assert_eq!(weighted.decide(&head("/", &[("x-copy", "1")])).reason, Reason::Weighted);

        // What a tester asks for comes before all routes.
        let overridden = build(Routing { override_: full().override_, ..routing.clone() });
        let decision = overridden.decide(&head("/", &[("x-copy", "1"), ("x-canary", "never")]));
        assert_eq!((decision.reason, decision.mirror), (Reason::Override, None));

        routing.routes[1].action = mirror("gone");
        let error = Snapshot::build(routing, &identity(), None).err().unwrap();
        assert_eq!(error.to_string(), "route \"copies\" names version gone, which no backend has");
    }

    #[test]
    fn an_override_leads_only_to_what_is_there() {
        let check = |routing: Routing, headers: &[(&'static str, &str)], expected: Option<usize>| {
            let decision = build(routing).decide(&head("/", headers));
            let found = (decision.reason == Reason::Override).then_some(decision.backend);
            assert_eq!(found, expected, "{headers:?}");
        };
        check(full(), &[("x-canary", "never")], Some(STABLE));
        check(full(), &[("x-canary", "Always")], None);
        check(full(), &[("x-canary", "maybe"), ("x-canary", "always")], Some(CANARY));
        check(full(), &[("cookie", "canary=always")], Some(CANARY));
        check(full(), &[("x-canary", "never"), ("cookie", "canary=always")], Some(STABLE));
        let alone = || {
            let mut routing = full();
            routing.backends.remove(CANARY);
            Routing { split: Shares::all(version("stable")), routes: Vec::new(), ..routing }
        };
        check(alone(), &[("x-canary", "always")], None);
        check(alone(), &[("x-canary", "always"), ("cookie", "canary=never")], Some(STABLE));
    }

    #[test]
    fn a_new_user_receives_a_bucket_and_keeps_its_version() {
        let mut routing = full();
        routing.split = shares(&[("stable", 1), ("6d4f9", 1)]);
        let snapshot = build(routing);
        let mut canaries = 0;
        for _ in 0..100 {
            let first = snapshot.decide(&head("/", &[]));
            let cookie = snapshot.users().unwrap().set_cookie(first.minted.unwrap());
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let again = snapshot.decide(&head("/", &[("cookie", pair)]));
            assert_eq!(again, Decision { minted: None, ..first });
            canaries += usize::from(first.backend == CANARY);
        }
        assert_eq!(canaries, 50);
    }

    #[test]
    fn the_mint_goes_on_in_the_next_snapshot() {
        let identity = identity();
        let first = Snapshot::build(full(), &identity, None).unwrap();
        let one = first.decide(&head("/", &[])).minted.unwrap();
        let second = Snapshot::build(full(), &identity, Some(&first)).unwrap();
        let two = second.decide(&head("/", &[])).minted.unwrap();
        assert_eq!([one, two], [0, 1 << 31]);
    }

    /// The users of a route's own split are placed by its cuts: those of the smaller share are among those of the larger.
    #[test]
    fn a_known_user_keeps_one_version_in_a_routes_own_split() {
        let snapshot = build(full());
        let users = snapshot.users().unwrap();
        let mut canaries = [0, 0];
        for i in 0..2_000u32 {
            let key = format!("user-{i}");
            let plain = snapshot.decide(&head("/", &[("x-user", &key)]));
            let own = snapshot.decide(&head("/", &[("x-user", &key), ("x-half", "1")]));
            assert_eq!((own.reason, own.route), (Reason::Route, Some(2)));
            assert_eq!(own, snapshot.decide(&head("/", &[("x-user", &key), ("x-half", "1")])));
            assert!(plain.backend == STABLE || own.backend == CANARY, "{key}");
            canaries[0] += u32::from(plain.backend == CANARY);
            canaries[1] += u32::from(own.backend == CANARY);

            let cookie = users.set_cookie(i << 20);
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
            let own = snapshot.decide(&head("/", &[("cookie", cookie), ("x-half", "1")]));
            assert_eq!((own.backend, own.minted), (if i < 2_048 { CANARY } else { STABLE }, None));
        }
        // 110 and 1000 expected; 4.5 standard deviations are 46 and 101.
        assert!(canaries[0].abs_diff(110) < 46 && canaries[1].abs_diff(1_000) < 101, "{canaries:?}");
        // Nobody is known: the route's exact split draws, and no bucket is given.
        let drawn: usize = (0..1_000)
            .map(|_| {
                let decision = snapshot.decide(&head("/", &[("x-half", "1")]));
                assert_eq!((decision.reason, decision.minted), (Reason::Route, None));
                usize::from(decision.backend == CANARY)
            })
            .sum();
        assert_eq!(drawn, 500);
    }

    #[test]
    fn names_that_do_not_fit_together_are_refused() {
        let check = |routing: Routing, expected: &str| {
            let error = Snapshot::build(routing, &identity(), None).err().expect("it is refused");
            assert_eq!(error.to_string(), expected);
        };
        check(Routing { backends: Vec::new(), ..plain() }, "there is no backend, so no request could be sent anywhere");
        let mut twice = plain();
        twice.backends[2].version = version("stable");
        check(twice, "version stable has two backends");
        check(
            Routing { split: shares(&[("stable", 1), ("gone", 0)]), ..plain() },
            "split names version gone, which no backend has",
        );
        let to = |action| Routing { routes: vec![route("a", vec![has_header("x-a", "1")], action)], ..plain() };
        check(to(Action::Send(version("gone"))), "route \"a\" names version gone, which no backend has");
        check(to(Action::Split(shares(&[("gone", 1)]))), "route \"a\" names version gone, which no backend has");
        let mut two = full();
        two.routes[2].name = RouteName::new("probes");
        check(two, "two routes are named \"probes\"");
        let mut insecure = full();
        insecure.sticky.as_mut().unwrap().cookie.as_mut().unwrap().same_site = SameSite::None;
        check(insecure, "the bucket cookie has SameSite=None, which browsers accept only together with Secure");
    }

    #[test]
    fn the_generation_grows_by_one() {
        let first = build(plain());
        let second = Snapshot::build(full(), &identity(), Some(&first)).unwrap();
        assert_eq!([first.generation(), second.generation()], [Generation(1), Generation(2)]);
    }

    #[test]
    fn what_was_built_can_be_looked_at() {
        let snapshot = build(full());
        assert_eq!(["stable", "6d4f9", "dark"].map(|name| snapshot.weight(&version(name))), [945, 55, 0]);
        assert_eq!(snapshot.routes()[1].leads_to(), LeadsTo::Backend(DARK));
        assert_eq!(snapshot.routes()[2].leads_to(), LeadsTo::Split(&shares(&[("stable", 1), ("6d4f9", 1)])));
    }

    #[test]
    fn an_explanation_names_what_decided_and_what_did_not() {
        let mut routing = full();
        routing.split = shares(&[("stable", 900), ("6d4f9", 55), ("dark", 45)]);
        let snapshot = build(routing);
        let check = |target: &str, headers: &[(&'static str, &str)], expected: &[&str]| {
            let text = snapshot.explain(&head(target, headers)).to_string();
            assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        };
        let silent = "  - override: neither header x-canary nor cookie canary says always or never";
        let probes = "  - route: probes: match 1: header x-probe is absent";
        let half = "  - route: half: match 1: header x-half is absent";
        check(
            "/",
            &[("x-canary", "always")],
            &[
                "6d4f9 (canary), reason override, by snapshot 1",
                "  * override: header x-canary says always, so canary 6d4f9",
            ],
        );
        check(
            "/",
            &[("x-user", "41"), ("x-team", "qa")],
            &[
                "dark (experiment), reason route \"testers\", by snapshot 1",
                silent,
                probes,
                "  * route: testers: match 2 of 2 holds; leads to experiment dark",
            ],
        );
        check(
            "/",
            &[("x-probe", "1")],
            &[
                "stable, reason route \"probes\", not counted, by snapshot 1",
                silent,
                "  * route: probes: match 1 of 1 holds; leads to stable; not counted in shares and error rates",
            ],
        );
        check(
            "/",
            &[("x-user", "user-3")],
            &[
                "6d4f9 (canary), reason sticky, by snapshot 1",
                silent,
                probes,
                "  - route: testers: match 1: header x-user is \"user-3\", not \"42\"; match 2: header x-team is absent",
                half,
                "  * sticky: header x-user = \"user-3\": place 0.0335 < 0.0550, so canary 6d4f9",
            ],
        );
        let testers = "  - route: testers: match 1: header x-user is absent; match 2: header x-team is absent";
        check(
            "/?uid=alice",
            &[],
            &[
                "stable, reason sticky, by snapshot 1",
                silent,
                probes,
                testers,
                half,
                "  * sticky: query parameter uid = \"alice\": 0.0550 <= place 0.3134 < 0.9550, so stable",
            ],
        );
        check(
            "/?uid=",
            &[],
            &[
                "6d4f9 (canary), reason cookie, by snapshot 1",
                silent,
                probes,
                testers,
                half,
                "  - sticky: no key: absent or empty are header x-user, query parameter uid",
                "  * cookie: cookie splitway is absent: a new user, who receives the next bucket; as of now that is \
                 0x00000000: place 0.0000 < 0.0550, so canary 6d4f9",
            ],
        );
        check(
            "/?uid=user-3",
            &[("x-half", "1")],
            &[
                "6d4f9 (canary), reason route \"half\", by snapshot 1",
                silent,
                probes,
                testers,
                "  * route: half: match 1 of 1 holds; has a split of its own; query parameter uid = \"user-3\": place \
                 0.0335 < 0.5000, so canary 6d4f9",
            ],
        );
        let bucket = snapshot.users().unwrap().set_cookie(0xf000_0000);
        let bucket = bucket.to_str().unwrap().split(';').next().unwrap().to_owned();
        let carried = snapshot.explain(&head("/", &[("cookie", &bucket)]));
        let last = carried.considered.last().unwrap();
        assert_eq!(
            last.why,
            "signed cookie splitway carries bucket 0xf0000000: 0.0550 <= place 0.9375 < 0.9550, so stable"
        );
        let forged = snapshot.explain(&head("/", &[("cookie", "splitway=v1.f0000000.00")]));
        let start =
            "cookie splitway does not verify (changed, or signed under another salt or secret), which is as good";
        assert!(forged.considered.last().unwrap().why.starts_with(start), "{forged}");
        // Neither the secret nor a signature is repeated.
        let text = carried.to_string();
        assert!(!text.contains("hush") && !text.contains(&bucket[bucket.len() - 32..]), "{text}");
    }

    #[test]
    fn an_explained_mirror_says_whether_there_is_a_copy_and_then_what_decides() {
        let check = |share: Share, copied: bool, words: &str| {
            let mirror = Action::Mirror { to: version("dark"), share };
            let route = route("copies", vec![has_header("x-copy", "1")], mirror);
            let split = Shares::all(version("stable"));
            let explained =
                build(Routing { split, routes: vec![route], ..plain() }).explain(&head("/", &[("x-copy", "1")]));
            assert_eq!(explained.mirror.as_deref(), copied.then_some("dark"));
            let copy = if copied { ", with a copy to dark" } else { "" };
            let lines = [
                format!("stable, reason weighted{copy}, by snapshot 1"),
                format!("  - mirror: copies: match 1 of 1 holds; {words}; no further route is asked"),
                "  * split: stable has the whole weight (stable 1 of 1)".to_owned(),
            ];
            assert_eq!(explained.to_string().lines().collect::<Vec<_>>(), lines);
        };
        check(Share::ALL, true, "a copy goes to experiment dark");
        check(Share::percent(0), false, "copies none to experiment dark (asked: 0 of 100)");
    }

    #[test]
    fn an_explained_split_says_that_a_number_decides() {
        let check = |weights: &[(&str, u32)], pattern: &str| {
            let snapshot = build(Routing { split: shares(weights), ..plain() });
            let explanation = snapshot.explain(&head("/", &[]));
            let name = |role: &str| if role == "stable" { "stable" } else { "canary 6d4f9" };
            let expected = pattern.replace("NAME", name(&explanation.role));
            assert_eq!(explanation.considered.last().unwrap().why, expected);
        };
        check(
            &[("stable", 945), ("6d4f9", 55)],
            "the number of the next request decides; as of now it leads to NAME (asked: stable 945, 6d4f9 55 of 1000)",
        );
        check(&[("stable", 1), ("6d4f9", 0)], "stable has the whole weight (stable 1, 6d4f9 0 of 1)");
    }

    /// One of the conditions that routes in the properties are made of, by number.
    fn condition(number: u8) -> Match {
        let present = |wanted: ValueMatch, name: &str| vec![(name.to_owned(), wanted)];
        match number % 6 {
            0 => has_header("x-a", "1"),
            1 => Match { cookies: present(ValueMatch::Prefix(b"1".into()), "a"), ..Match::default() },
            2 => Match { query: present(ValueMatch::Present, "a"), ..Match::default() },
            3 => Match { methods: vec!["POST".to_owned()], ..has_header("x-b", "1") },
            4 => Match { path: Some(matches::PathMatch::prefix("/a")), ..Match::default() },
            _ => Match { query: present(ValueMatch::Absent, "a"), ..has_header("x-b", "1") },
        }
    }

    #[test]
    fn checking_has_no_effect_on_what_is_live() {
        let with = |stable, canary| Routing { split: shares(&[("stable", stable), ("6d4f9", canary)]), ..plain() };
        let live = Snapshot::build(with(1, 0), &identity(), None).unwrap();
        let checked = Snapshot::check(with(0, 1)).unwrap();
        let ask = || live.decide(&head("/", &[])).backend;
        assert!((0..50).all(|_| ask() == STABLE));
        // Whereas what is built is in force, also for those who still hold the snapshot before.
        let _next = checked.build(&identity(), Some(&live));
        assert!((0..50).all(|_| ask() == CANARY));
    }

    #[test]
    fn ports_are_not_in_step_with_each_other_and_each_has_the_same_schedule_in_every_replica() {
        let shared = Identity { seed: Seed::shared("seed"), ..identity() };
        let draws = |port: &str| {
            let routing = Routing { split: shares(&[("stable", 1), ("6d4f9", 1)]), ..plain() };
            let snapshot = Snapshot::build(routing, &shared.at(&PortName::new(port)), None).unwrap();
            (0..200).map(|_| snapshot.decide(&head("/", &[])).backend).collect::<Vec<_>>()
        };
        let ports = ["", "http", "grpc", "5000"].map(draws);
        for (i, one) in ports.iter().enumerate() {
            for other in &ports[..i] {
                let same = one.iter().zip(other).filter(|(one, other)| one == other).count();
                assert!((60..=140).contains(&same), "{same} of 200 draws are the same");
            }
        }
        assert_eq!(draws("http"), ports[1]);
        assert!(Arc::ptr_eq(&shared.at(&PortName::default()).mint, &shared.mint), "one port by itself is as before");
    }

    fn routings() -> impl Strategy<Value = Routing> {
        let names = ["stable", "6d4f9", "dark"];
        let own = move |weights: [u32; 3]| shares(&[0, 1, 2].map(|i| (names[i], weights[i])));
        let weights =
            || prop::array::uniform3(0..5u32).prop_filter("no weight", |weights| weights.iter().sum::<u32>() > 0);
        let action = prop_oneof![
            (0..3usize).prop_map(move |i| Action::Send(version(names[i]))),
            weights().prop_map(move |weights| Action::Split(own(weights))),
            (0..3usize, 0..=3u32).prop_map(move |(i, weight)| Action::Mirror {
                to: version(names[i]),
                share: Share::new(weight, 3).unwrap()
            }),
        ];
        let one = (prop::collection::vec(any::<u8>(), 1..3), action, any::<bool>());
        let sources = prop::sample::subsequence(
            vec![
                KeySource::Header(HeaderName::from_static("x-b")),
                KeySource::Cookie("a".to_owned()),
                KeySource::Query("a".to_owned()),
                KeySource::ClientAddress,
            ],
            0..=4,
        );
        let sticky = prop::option::of((sources, any::<bool>()));
        (weights(), prop::collection::vec(one, 0..4), sticky, any::<bool>()).prop_map(
            move |(weights, routes, sticky, overridden)| Routing {
                split: own(weights),
                routes: routes
                    .into_iter()
                    .enumerate()
                    .map(|(i, (conditions, action, count))| {
                        let matches = conditions.into_iter().map(condition).collect();
                        Route { count, ..route(&format!("r{i}"), matches, action) }
                    })
                    .collect(),
                sticky: sticky.map(|(keys, anonymous)| Sticky {
                    keys,
                    salt: "spring".to_owned(),
                    cookie: anonymous.then(cookie),
                }),
                override_: overridden.then(|| full().override_.unwrap()),
                ..plain()
            },
        )
    }

    fn heads() -> impl Strategy<Value = MadeUp> {
        let header = prop::sample::select(vec![
            ("x-a", "1"),
            ("x-b", "1"),
            ("x-b", ""),
            ("cookie", "a=1; canary=never"),
            ("cookie", "a=2"),
            ("cookie", "splitway=v1.80000000.00000000000000000000000000000000"),
            ("x-canary", "always"),
            ("x-canary", "sometimes"),
        ]);
        let target = prop::sample::select(vec!["/", "/a", "/a/b?a=1", "/ab?a", "/?a="]);
        let method = prop::sample::select(vec!["GET", "POST"]);
        (method, target, prop::collection::vec(header, 0..4))
            .prop_map(|(method, target, headers)| MadeUp { method: method.to_owned(), ..head(target, &headers) })
    }

    fn copies(share: Share) -> Routing {
        let mirror = Action::Mirror { to: version("dark"), share };
        Routing { routes: vec![route("copies", vec![has_header("x-copy", "1")], mirror)], ..plain() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// After any number of requests, and through any changes of the share, the copies are within one of what was
        /// asked for; and the split of the versions counts as if there was no mirror.
        #[test]
        fn a_mirror_copies_exactly_its_share(
            walk in prop::collection::vec((prop_oneof![0..=100u32, Just(0), Just(1), Just(100)], 1..60u32), 1..8),
            seed in any::<(u64, u64)>(),
        ) {
            let identity = Identity { seed: Seed(seed.0, seed.1), ..identity() };
            let (mut snapshot, mut plain_snapshot): (Option<Snapshot>, Option<Snapshot>) = (None, None);
            let (mut asked, mut copied, mut requests) = (0.0, 0.0, 0);
            for (percent, times) in walk {
                let share = Share::new(percent, 100).unwrap();
                snapshot = Some(Snapshot::build(copies(share), &identity, snapshot.as_ref()).unwrap());
                plain_snapshot = Some(Snapshot::build(plain(), &identity, plain_snapshot.as_ref()).unwrap());
                for _ in 0..times {
                    let head = head("/", &[("x-copy", "1")]);
                    let decision = snapshot.as_ref().unwrap().decide(&head);
                    prop_assert_eq!(decision.backend, plain_snapshot.as_ref().unwrap().decide(&head).backend);
                    prop_assert_eq!((decision.reason, decision.route), (Reason::Weighted, None));
                    requests += 1;
                    asked += f64::from(percent) / 100.0;
                    copied += f64::from(u8::from(decision.mirror.is_some()));
                    prop_assert!((copied - asked).abs() < 1.0 + 1e-9, "{} of {} asked after {}", copied, asked, requests);
                    let expected = decision.mirror.map(|_| Mirror { to: DARK, route: 0 });
                    prop_assert_eq!(decision.mirror, expected);
                    // Others neither get a copy nor take a number.
                    prop_assert_eq!(snapshot.as_ref().unwrap().decide(&self::head("/", &[])).mirror, None);
                    plain_snapshot.as_ref().unwrap().decide(&self::head("/", &[]));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Explaining first and deciding then must agree, draws included: explaining looks at the next number, and takes
        /// none. In a quarter of the cases a cookie of our own is carried.
        #[test]
        fn explaining_and_deciding_agree(
            routing in routings(),
            heads in prop::collection::vec((heads(), any::<u32>()), 1..8),
        ) {
            let snapshot = build(routing);
            for (mut head, bucket) in heads {
                if let Some(users) = snapshot.users().filter(|users| users.has_cookie() && bucket % 4 == 0) {
                    head.headers.insert(0, (http::header::COOKIE, users.set_cookie(bucket)));
                }
                let explained = snapshot.explain(&head);
                prop_assert_eq!(&explained.considered, &snapshot.explain(&head).considered);
                let decided = snapshot.decide(&head);
                let backend = &snapshot.backends()[decided.backend];
                prop_assert_eq!(&explained.version, backend.version.as_str());
                prop_assert_eq!(explained.role, backend.role.as_str());
                prop_assert_eq!(explained.reason, decided.reason.as_str());
                prop_assert_eq!(explained.route, decided.route.map(|route| format!("r{route}")));
                prop_assert_eq!(explained.counted, decided.counted);
                let mirror = decided.mirror.map(|mirror| snapshot.backends()[mirror.to].version.to_string());
                prop_assert_eq!(explained.mirror, mirror);
                // Only the last rule decided, and it speaks of the version that it chose.
                let (last, before) = explained.considered.split_last().unwrap();
                prop_assert!(last.decided && before.iter().all(|one| !one.decided));
                prop_assert!(last.why.contains(&explained.version), "{}", last.why);
                // A bucket is only given to whoever has neither a key nor a bucket.
                if decided.minted.is_some() {
                    prop_assert_eq!(decided.reason, Reason::Cookie);
                    prop_assert_eq!(snapshot.users().unwrap().known(&head), None);
                }
            }
        }
    }
}
