//! The header and mirror routes that a Rollout's steps have set up so far.
//!
//! Folded from the steps instead of read from what the controller did, so that its known gaps do not reach us: a header
//! step that is skipped for good while stable is short of pods, routes that are not put back after the canary was lost.

use http::header::HeaderName;

use crate::route::RouteName;
use crate::route::matches::{Match, PathMatch, ValueMatch, whole};

use super::{HeaderRouteMatch, MirrorMatch, Rollout, SetHeaderRoute, SetMirrorRoute, StringMatch};

/// How the items of a `setHeaderRoute` combine. The documentation and the Istio router say that one is enough; the
/// Gateway API plugin wants all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderList {
    #[default]
    OneIsEnough,
    All,
}

/// The routes in force, in the order of the Rollout's `managedRoutes`: the first one that matches a request wins, whether
/// it is a header route or a mirror.
#[derive(Clone, Debug, Default)]
pub struct Managed {
    pub routes: Vec<ManagedRoute>,
    /// Routes and conditions that had to be left out, and why.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum ManagedRoute {
    /// Every request that matches goes to the canary, whatever its weight.
    Header {
        name: RouteName,
        matches: Vec<Match>,
    },
    Mirror(Mirror),
}

/// Requests that match are split as usual, and a copy of so many per cent of them goes to the canary.
#[derive(Clone, Debug)]
pub struct Mirror {
    pub name: RouteName,
    /// 0 to 100.
    pub percentage: u8,
    /// Alternatives.
    pub matches: Vec<Match>,
}

/// `None`: spec and status must not be read together now, so the routes of before stay.
pub fn managed_routes(rollout: &Rollout, header_list: HeaderList) -> Option<Managed> {
    if !rollout.may_have_routes() {
        return Some(Managed::default());
    }
    if rollout.hold().is_some() {
        return None;
    }
    // The step being worked on counts: that is when the controller sets its route.
    let reached = rollout.steps().iter().take(rollout.step_index() + 1);
    let mut table: Vec<(&str, Set<'_>)> = Vec::new();
    for step in reached {
        let header = step.set_header_route.as_ref().map(|set| (set.name.as_deref(), Set::Header(set)));
        let mirror = step.set_mirror_route.as_ref().map(|set| (set.name.as_deref(), Set::Mirror(set)));
        for (name, set) in header.into_iter().chain(mirror) {
            let Some(name) = name else { continue };
            table.retain(|(earlier, _)| *earlier != name);
            // Without a match it takes the route of that name away.
            if !set.is_removal() {
                table.push((name, set));
            }
        }
    }

    let declared: Vec<&str> = declared(rollout);
    let mut managed = Managed::default();
    table.retain(|(name, _)| {
        let known = declared.contains(name);
        if !known {
            managed.notes.push(format!("route {name:?} is set by a step but not listed in managedRoutes: ignored"));
        }
        known
    });
    table.sort_by_key(|(name, _)| declared.iter().position(|declared| declared == name));
    for (name, set) in table {
        match set {
            Set::Header(set) => managed.add_header(name, set, header_list),
            Set::Mirror(set) => managed.add_mirror(name, set),
        }
    }
    Some(managed)
}

enum Set<'a> {
    Header(&'a SetHeaderRoute),
    Mirror(&'a SetMirrorRoute),
}

impl Set<'_> {
    /// An absent and an empty list are the same: the controller cannot tell them apart either.
    fn is_removal(&self) -> bool {
        match self {
            Set::Header(set) => set.r#match.as_ref().is_none_or(Vec::is_empty),
            Set::Mirror(set) => set.r#match.as_ref().is_none_or(Vec::is_empty),
        }
    }
}

fn declared(rollout: &Rollout) -> Vec<&str> {
    let routing = rollout.canary().and_then(|canary| canary.traffic_routing.as_ref());
    let names = routing.and_then(|routing| routing.managed_routes.as_deref()).unwrap_or_default();
    names.iter().filter_map(|managed| managed.name.as_deref()).collect()
}

impl Managed {
    /// A condition that cannot be compiled is never taken as fulfilled: an alternative is left out, and where all must
    /// hold, the whole route.
    pub(super) fn add_header(&mut self, name: &str, set: &SetHeaderRoute, list: HeaderList) {
        let items = set.r#match.as_deref().unwrap_or_default();
        let mut headers = Vec::with_capacity(items.len());
        let mut broken = false;
        for item in items {
            match header(item) {
                Ok(header) => headers.push(header),
                Err(problem) => {
                    broken = true;
                    self.notes.push(format!("route {name:?}: {problem}; this condition never holds"));
                }
            }
        }
        let matches: Vec<Match> = match list {
            HeaderList::OneIsEnough => {
                headers.into_iter().map(|header| Match { headers: vec![header], ..Match::default() }).collect()
            }
            HeaderList::All if broken => Vec::new(),
            HeaderList::All => vec![Match { headers, ..Match::default() }],
        };
        if !matches.is_empty() {
            self.routes.push(ManagedRoute::Header { name: RouteName::new(name), matches });
        }
    }

    /// An alternative with a condition that cannot be compiled is left out.
    pub(super) fn add_mirror(&mut self, name: &str, set: &SetMirrorRoute) {
        let mut matches = Vec::new();
        for written in set.r#match.as_deref().unwrap_or_default() {
            match mirror_match(written) {
                Ok(one) => matches.push(one),
                Err(problem) => self.notes.push(format!("route {name:?}: {problem}; this alternative never holds")),
            }
        }
        if matches.is_empty() {
            return;
        }
        // The controller does not check the range.
        let percentage = set.percentage.unwrap_or(100).clamp(0, 100) as u8;
        self.routes.push(ManagedRoute::Mirror(Mirror { name: RouteName::new(name), percentage, matches }));
    }
}

/// The conditions of one alternative of a mirror. Its path's prefix goes by characters, as Istio's does.
fn mirror_match(written: &MirrorMatch) -> Result<Match, String> {
    let MirrorMatch { method, path, headers } = written;
    let mut one = Match::default();
    match method.as_ref().map(|method| value(Some(method))).transpose()? {
        Some(ValueMatch::Exact(method)) => one.methods.push(String::from_utf8_lossy(&method).into_owned()),
        // Every request has a method, and a path.
        None | Some(ValueMatch::Present) => {}
        other => one.method = other,
    }
    one.path = match path.as_ref().map(|path| value(Some(path))).transpose()? {
        Some(ValueMatch::Exact(path)) => Some(PathMatch::Exact(String::from_utf8_lossy(&path).into_owned())),
        Some(ValueMatch::Prefix(path)) => Some(PathMatch::Start(String::from_utf8_lossy(&path).into_owned())),
        Some(ValueMatch::Regex(path)) => Some(PathMatch::Regex(path)),
        _ => None,
    };
    for (name, wanted) in headers.iter().flatten() {
        one.headers.push((header_name(name)?, value(Some(wanted))?));
    }
    Ok(one)
}

fn header(item: &HeaderRouteMatch) -> Result<(HeaderName, ValueMatch), String> {
    Ok((header_name(item.header_name.as_deref().unwrap_or_default())?, value(item.header_value.as_ref())?))
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not a header's name"))
}

/// Values match as with Istio: case-sensitive, an expression has to cover the whole value, and nothing at all to compare
/// with means "present".
fn value(wanted: Option<&StringMatch>) -> Result<ValueMatch, String> {
    let Some(StringMatch { exact, prefix, regex }) = wanted else { return Ok(ValueMatch::Present) };
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(exact) = said(exact) {
        return Ok(ValueMatch::Exact(exact.into()));
    }
    if let Some(prefix) = said(prefix) {
        return Ok(ValueMatch::Prefix(prefix.into()));
    }
    match said(regex) {
        Some(regex) => whole(&regex).map(ValueMatch::Regex).map_err(|error| format!("{regex:?}: {error}")),
        None => Ok(ValueMatch::Present),
    }
}
