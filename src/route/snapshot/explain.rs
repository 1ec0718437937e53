//! Why a request goes where it goes, in words.
//!
//! The words are made by an observer of the very walk that decides, so they cannot tell another story. Nothing here runs
//! on the request path. Values that the asker sent are repeated, but for credentials; secrets and signatures never are.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::bucket::{Cuts, Mint, Place, Users};
use super::super::picker::Split;
use super::super::{Backend, Head, Share, Shares, matches};
use super::{CompiledOverride, CompiledRoute, Observer, Snapshot, Target, Word};

/// The answer to "which version would this request get, and why?".
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    pub generation: u64,
    pub version: String,
    pub role: Cow<'static, str>,
    pub reason: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    pub counted: bool,
    /// The version that would get a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Every rule that was asked, in order; the last one decided. Who asked about a user hears first where the key is sent.
    pub considered: Vec<Considered>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    pub what: Cow<'static, str>,
    pub decided: bool,
    pub why: String,
}

/// For people: the answer in one line, then one line for each rule that was asked.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, version, role, reason, route, counted, mirror, considered } = self;
        match version == role {
            true => write!(f, "{version}, reason {reason}")?,
            false => write!(f, "{version} ({role}), reason {reason}")?,
        }
        if let Some(route) = route {
            write!(f, " {route:?}")?;
        }
        if let Some(mirror) = mirror {
            write!(f, ", with a copy to {mirror}")?;
        }
        let uncounted = if *counted { "" } else { ", not counted" };
        write!(f, "{uncounted}, by snapshot {generation}")?;
        for Considered { what, decided, why } in considered {
            write!(f, "\n  {} {what}: {why}", if *decided { '*' } else { '-' })?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// The same walk, with what was considered on the way; takes no number from any split.
    pub fn explain(&self, head: &impl Head) -> Explanation {
        let mut steps = Explain::default();
        let decision = self.walk(head, &mut steps);
        Explanation {
            generation: self.generation.0,
            version: self.backends[decision.backend].version.to_string(),
            role: self.backends[decision.backend].role.as_str().into(),
            reason: decision.reason.as_str().into(),
            route: decision.route.map(|route| self.routes[route].name.as_str().to_owned()),
            counted: decision.counted,
            mirror: decision.mirror.map(|mirror| self.backends[mirror.to].version.to_string()),
            considered: steps.considered,
        }
    }

    pub(super) fn about_override(&self, named: &CompiledOverride, head: &impl Head) -> String {
        let header = head.values(&named.header).find_map(Word::read);
        let cookie = matches::cookie(head, &named.cookie).and_then(Word::read);
        let asked = [(format!("header {}", named.header), header), (format!("cookie {}", named.cookie), cookie)];
        let mut said = Vec::new();
        for (what, word) in asked.iter().filter_map(|(what, word)| Some((what, (*word)?))) {
            if let Some(backend) = named.leads_to(word) {
                said.push(format!("{what} says {}, so {}", word.as_str(), self.name(backend)));
                break;
            }
            said.push(format!("{what} says {}, but no backend is {}", word.as_str(), word.role().as_str()));
        }
        match said.is_empty() {
            true => format!("neither header {} nor cookie {} says always or never", named.header, named.cookie),
            false => said.join("; "),
        }
    }

    pub(super) fn about_route(
        &self,
        route: &CompiledRoute,
        held: usize,
        head: &impl Head,
        backend: usize,
        place: Option<Place>,
    ) -> String {
        let leads = match (&route.target, &self.users, place) {
            (Target::Split { cuts, .. }, Some(users), Some(place)) => {
                format!("has a split of its own; {}", self.about_user(users, head, cuts, place, backend))
            }
            (Target::Split { shares, .. }, ..) => {
                format!("has a split of its own; {}", self.about_split(shares, backend))
            }
            (Target::Backend(_) | Target::Mirror { .. }, ..) => format!("leads to {}", self.name(backend)),
        };
        let uncounted = if route.count { "" } else { "; not counted in shares and error rates" };
        format!("{}: match {} of {} holds; {leads}{uncounted}", route.name.as_str(), held + 1, route.matches.len())
    }

    pub(super) fn about_mirror(
        &self,
        route: &CompiledRoute,
        held: usize,
        to: usize,
        share: Share,
        copied: bool,
    ) -> String {
        let name = self.name(to);
        let copy = match (share.weight(), copied) {
            (0, _) => format!("copies none to {name} (asked: {share})"),
            (weight, _) if weight == share.total() => format!("a copy goes to {name}"),
            (_, true) => format!("as of now the next request's copy goes to {name} (asked: {share})"),
            (_, false) => format!("as of now the next request is not copied to {name} (asked: {share})"),
        };
        let held = format!("match {} of {} holds", held + 1, route.matches.len());
        format!("{}: {held}; {copy}; no further route is asked", route.name.as_str())
    }

    pub(super) fn about_user(
        &self,
        users: &Users,
        head: &impl Head,
        cuts: &Cuts,
        place: Place,
        backend: usize,
    ) -> String {
        let who = users.describe(head).unwrap_or_default();
        format!("{who}: {}, so {}", cuts.describe(place), self.name(backend))
    }

    pub(super) fn about_new_user(&self, users: &Users, head: &impl Head, bucket: u32, backend: usize) -> String {
        let name = users.cookie_name().unwrap_or_default();
        let problem = match matches::cookie(head, name) {
            None => "is absent",
            Some(_) => "does not verify (changed, or signed under another salt or secret), which is as good as absent",
        };
        let place = users.cuts().describe(Place::of_bucket(bucket));
        format!(
            "cookie {name} {problem}: a new user, who receives the next bucket; as of now that is {bucket:#010x}: \
             {place}, so {}",
            self.name(backend)
        )
    }

    pub(super) fn about_split(&self, shares: &Shares, backend: usize) -> String {
        if shares.weights().iter().filter(|(_, weight)| *weight > 0).count() == 1 {
            return format!("{} has the whole weight ({shares})", self.name(backend));
        }
        format!(
            "the number of the next request decides; as of now it leads to {} (asked: {shares})",
            self.name(backend)
        )
    }

    /// A backend as people call it: its role, and its version where that says more.
    fn name(&self, backend: usize) -> String {
        let Backend { version, role, .. } = &self.backends[backend];
        match version.as_str() == role.as_str() {
            true => role.as_str().to_owned(),
            false => format!("{} {version}", role.as_str()),
        }
    }
}

impl CompiledRoute {
    /// The first condition that fails, of each match.
    pub(super) fn why_not(&self, head: &impl Head) -> String {
        let mut text = format!("{}: ", self.name.as_str());
        for (i, one) in self.matches.iter().enumerate() {
            let Some(condition) = one.first_failing(head) else { continue };
            let separator = if i == 0 { "" } else { "; " };
            text.push_str(&format!("{separator}match {}: {}", i + 1, condition.why_not(head)));
        }
        text
    }
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
        self.considered.push(Considered { what: what.into(), decided, why });
    }
}
