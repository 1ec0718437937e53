//! One compiled, immutable routing value, and the decision it takes for a request.

use std::collections::HashMap;
use std::sync::Arc;

use http::header::HeaderName;
use serde::Serialize;

use super::bucket::{Cuts, Mint, Users};
use super::matches::{self, Match};
use super::picker::{Seed, Split, Tally, Turn};
use super::policy::Policy;
use super::{Action, Backend, Decision, Generation, Head, Reason, Role, RouteName, Routing, Shares, VersionHash};

/// What a request is routed by. Everything in it was checked and computed by [`Snapshot::build`]; the only things that
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
    matches: Vec<Match>,
    target: Target,
}

enum Target {
    Backend(usize),
    Split { split: Split, shares: Shares },
}

/// What a process keeps for life and hands to each snapshot it builds.
#[derive(Clone)]
pub struct Identity {
    pub seed: Seed,
    pub turn: Turn,
    pub mint: Arc<Mint>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("there is no backend, so no request could be sent anywhere")]
    NoBackend,
    #[error("version {0} has two backends")]
    TwoBackends(VersionHash),
    #[error("{place} names version {version}, which no backend has")]
    UnknownVersion { place: String, version: VersionHash },
    #[error("two routes are named {0:?}")]
    TwoRoutes(RouteName),
}

impl Snapshot {
    /// Compiles `routing`. The phases of splits are carried over from `previous`, so that shares stay exact through
    /// every change; a route's own split is recognised by the route's name.
    pub fn build(routing: Routing, identity: &Identity, previous: Option<&Snapshot>) -> Result<Self, BuildError> {
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
        let ordered =
            |shares: &Shares, place: &dyn Fn() -> String| -> Result<Vec<(VersionHash, usize, u32)>, BuildError> {
                let mut ordered = shares
                    .weights()
                    .iter()
                    .map(|(version, weight)| Ok((version.clone(), find(version, place)?, *weight)))
                    .collect::<Result<Vec<_>, BuildError>>()?;
                // Outermost first: experiments come and go, the pair of canary and stable lasts.
                ordered.sort_by_key(|(_, i, _)| std::cmp::Reverse(routing.backends[*i].role));
                Ok(ordered)
            };

        let weights = ordered(&routing.split, &|| "split".to_owned())?;
        let split = Split::new(&weights, identity.seed, identity.turn, previous.map(|previous| &previous.split));
        let users = routing.sticky.map(|sticky| Users::new(sticky, Cuts::new(&roles(&weights, &routing.backends))));

        let mut routes: Vec<CompiledRoute> = Vec::with_capacity(routing.routes.len());
        for route in routing.routes {
            if routes.iter().any(|earlier| earlier.name == route.name) {
                return Err(BuildError::TwoRoutes(route.name));
            }
            let place = || format!("route {:?}", route.name.as_str());
            let target = match route.action {
                Action::Send(version) => Target::Backend(find(&version, &place)?),
                Action::Split(shares) => {
                    let before = previous.and_then(|previous| previous.route_split(&route.name));
                    let split = Split::new(
                        &ordered(&shares, &place)?,
                        identity.seed.of(route.name.as_str()),
                        identity.turn,
                        before,
                    );
                    Target::Split { split, shares }
                }
            };
            routes.push(CompiledRoute { name: route.name, count: route.count, matches: route.matches, target });
        }

        let role = |role: Role| routing.backends.iter().position(|backend| backend.role == role);
        let override_ = routing.override_.map(|named| CompiledOverride {
            header: named.header,
            cookie: named.cookie,
            canary: role(Role::Canary),
            stable: role(Role::Stable),
        });
        Ok(Self {
            generation: Generation(previous.map_or(0, |previous| previous.generation.0) + 1),
            backends: routing.backends,
            shares: routing.split,
            override_,
            routes,
            users,
            split,
            mint: identity.mint.clone(),
            policy: routing.policy,
        })
    }

    /// Routes one request: the tester's override, then the routes in order, then the user's bucket, then the exact split.
    pub fn decide(&self, head: &impl Head) -> Decision {
        self.walk(head, &mut Draw)
    }

    /// The same walk, with what was considered on the way; takes no number from any split.
    pub fn explain(&self, head: &impl Head) -> Explanation {
        let mut steps = Explain::default();
        let decision = self.walk(head, &mut steps);
        Explanation {
            generation: self.generation.0,
            version: self.backends[decision.backend].version.to_string(),
            role: self.backends[decision.backend].role.as_str(),
            reason: decision.reason.as_str(),
            route: decision.route.map(|route| self.routes[route].name.as_str().to_owned()),
            counted: decision.counted,
            considered: steps.considered,
        }
    }

    fn walk(&self, head: &impl Head, observer: &mut impl Observer) -> Decision {
        let plain = |backend, reason| Decision { backend, reason, route: None, minted: None, counted: true };
        if let Some(named) = &self.override_ {
            let choice = named.choice(head);
            observer.considered("override", || match &choice {
                Some(_) => (true, format!("{} or cookie {} asks for a version", named.header, named.cookie)),
                None => (false, format!("neither {} nor cookie {} says always or never", named.header, named.cookie)),
            });
            if let Some(backend) = choice {
                return plain(backend, Reason::Override);
            }
        }
        for (i, route) in self.routes.iter().enumerate() {
            let holds = route.matches.iter().any(|one| one.holds(head));
            observer.considered("route", || {
                (holds, format!("{}: {}", route.name.as_str(), if holds { "a match holds" } else { "no match holds" }))
            });
            if holds {
                let backend = match &route.target {
                    Target::Backend(backend) => *backend,
                    Target::Split { split, .. } => observer.draw(split),
                };
                return Decision { backend, reason: Reason::Route, route: Some(i), minted: None, counted: route.count };
            }
        }
        if let Some(users) = &self.users {
            if let Some(place) = users.place(head) {
                observer.considered("sticky", || (true, format!("the user's key has the place {:#018x}", place.0)));
                return plain(users.version_at(place), Reason::Sticky);
            }
            observer.considered("sticky", || (false, "the request has no key".to_owned()));
            if users.has_cookie() {
                let carried = users.bucket(head);
                observer.considered("cookie", || match carried {
                    Some(bucket) => (true, format!("the signed cookie carries bucket {bucket:#010x}")),
                    None => (true, "no valid bucket cookie: the user receives a new bucket".to_owned()),
                });
                let bucket = carried.unwrap_or_else(|| observer.mint(&self.mint));
                return Decision {
                    minted: carried.is_none().then_some(bucket),
                    ..plain(users.version_of(bucket), Reason::Cookie)
                };
            }
        }
        let backend = observer.draw(&self.split);
        observer.considered("split", || (true, "the next number of the exact split".to_owned()));
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

    fn route_split(&self, name: &RouteName) -> Option<&Split> {
        self.routes.iter().find(|route| route.name == *name).and_then(|route| match &route.target {
            Target::Split { split, .. } => Some(split),
            Target::Backend(_) => None,
        })
    }
}

impl CompiledRoute {
    /// Its alternatives, for views.
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// Where it leads, for views: a backend's index, or shares of its own.
    pub fn leads_to(&self) -> Result<usize, &Shares> {
        match &self.target {
            Target::Backend(backend) => Ok(*backend),
            Target::Split { shares, .. } => Err(shares),
        }
    }
}

fn roles(weights: &[(VersionHash, usize, u32)], backends: &[Backend]) -> Vec<(Role, usize, u32)> {
    weights.iter().map(|(_, i, weight)| (backends[*i].role, *i, *weight)).collect()
}

impl CompiledOverride {
    /// The header speaks first, as with the canary annotations of ingress-nginx; any other value is ignored.
    fn choice(&self, head: &impl Head) -> Option<usize> {
        let word = |value: &[u8]| match value {
            b"always" => self.canary,
            b"never" => self.stable,
            _ => None,
        };
        head.values(&self.header).find_map(word).or_else(|| matches::cookie(head, &self.cookie).and_then(word))
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

/// `explain`: everything is written down, no number is taken.
#[derive(Default)]
struct Explain {
    considered: Vec<Considered>,
}

impl Observer for Explain {
    fn draw(&mut self, split: &Split) -> usize {
        split.peek()
    }
    fn mint(&mut self, mint: &Mint) -> u32 {
        mint.peek()
    }
    fn considered(&mut self, what: &'static str, outcome: impl FnOnce() -> (bool, String)) {
        let (decided, why) = outcome();
        self.considered.push(Considered { what, decided, why });
    }
}

/// The answer to "which version would this request get, and why?".
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub generation: u64,
    pub version: String,
    pub role: &'static str,
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    pub counted: bool,
    /// Every rule that was asked, in order; the last one decided.
    pub considered: Vec<Considered>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Considered {
    pub what: &'static str,
    pub decided: bool,
    pub why: String,
}
