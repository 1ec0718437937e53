//! What has changed lately, in sentences: weights, endpoints, roles, refusals, where the Rollout stands.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::SystemTime;

use crate::control::rollout::Fact;
use crate::route::weight::percentage;
use crate::route::{MAX_TOTAL, Role, Snapshot, VersionHash};

/// Changes that are kept, the newest.
const KEPT: usize = 100;

#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// 1 is the first of this process.
    pub number: u64,
    pub at: SystemTime,
    pub kind: Kind,
    pub fact: Fact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Weight,
    Endpoints,
    Version,
    /// Where the Rollout stands, or whether it is heard.
    Rollout,
    /// A rollout has ended.
    Outcome,
    Refused,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Weight => "weight",
            Kind::Endpoints => "endpoints",
            Kind::Version => "version",
            Kind::Rollout => "rollout",
            Kind::Outcome => "outcome",
            Kind::Refused => "refused",
        }
    }
}

#[derive(Debug, Default)]
pub struct Changes {
    number: u64,
    all: VecDeque<Change>,
}

impl Changes {
    pub fn add(&mut self, at: SystemTime, kind: Kind, fact: Fact) {
        self.number += 1;
        self.all.push_back(Change { number: self.number, at, kind, fact });
        if self.all.len() > KEPT {
            self.all.pop_front();
        }
    }

    /// Oldest first: those after this number.
    pub fn after(&self, number: u64) -> Vec<Change> {
        self.all.iter().filter(|change| change.number > number).cloned().collect()
    }
}

/// What one port's snapshot says of its versions, as far as changes are told.
pub type Versions = BTreeMap<VersionHash, Version>;

#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    pub role: Role,
    /// Out of [`MAX_TOTAL`], so that totals may change without a word.
    pub weight: u64,
    pub endpoints: Vec<SocketAddr>,
}

pub fn versions(snapshot: &Snapshot) -> Versions {
    let total = u64::from(snapshot.shares().total()).max(1);
    let version = |backend: &crate::route::Backend| {
        let mut endpoints = backend.endpoints.to_vec();
        endpoints.sort();
        let weight = u64::from(snapshot.weight(&backend.version)) * u64::from(MAX_TOTAL) / total;
        (backend.version.clone(), Version { role: backend.role, weight, endpoints })
    };
    snapshot.backends().iter().map(version).collect()
}

/// What is different, in words. `port`: the start of each sentence.
pub fn differences(port: &str, before: &Versions, now: &Versions) -> Vec<(Kind, String)> {
    let mut all = Vec::new();
    for (name, version) in now {
        let who = who(version.role.as_str(), name.as_str());
        let Some(old) = before.get(name) else {
            let endpoints = counted(version.endpoints.len(), "endpoint");
            let share = percentage(version.weight);
            all.push((Kind::Version, format!("{port}{who} is there, with {endpoints}, asked {share}")));
            continue;
        };
        if old.role != version.role {
            all.push((
                Kind::Version,
                format!("{port}{name} is {} now; it was {}", version.role.as_str(), old.role.as_str()),
            ));
        }
        if old.weight != version.weight {
            let (from, to) = (percentage(old.weight), percentage(version.weight));
            all.push((Kind::Weight, format!("{port}{who} is asked {to}, up to now {from}")));
        }
        if old.endpoints != version.endpoints {
            let (from, to) = (old.endpoints.len(), counted(version.endpoints.len(), "endpoint"));
            all.push((Kind::Endpoints, format!("{port}{who} has {to}, up to now {from}")));
        }
    }
    for (name, old) in before.iter().filter(|(name, _)| !now.contains_key(*name)) {
        all.push((Kind::Version, format!("{port}{} is gone", who(old.role.as_str(), name.as_str()))));
    }
    all
}

/// `canary 7f9c`; a version that is called what it is needs no second word.
pub fn who(role: &str, name: &str) -> String {
    if role == name { name.to_owned() } else { format!("{role} {name}") }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(role: Role, percent: u64, endpoints: u16) -> Version {
        let endpoints = (0..endpoints).map(|i| ([127, 0, 0, 1], 9000 + i).into()).collect();
        Version { role, weight: percent * u64::from(MAX_TOTAL) / 100, endpoints }
    }

    fn told(before: &[(&str, Version)], now: &[(&str, Version)]) -> Vec<String> {
        let all = |versions: &[(&str, Version)]| {
            versions.iter().map(|(name, version)| (VersionHash::new(name), version.clone())).collect::<Versions>()
        };
        differences("", &all(before), &all(now)).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn each_difference_is_one_sentence() {
        use Role::{Canary, Stable};
        let v1 = |percent| ("v1", version(Stable, percent, 3));
        let v2 = |percent, endpoints| ("v2", version(Canary, percent, endpoints));
        assert_eq!(told(&[v1(100)], &[v1(100)]), [""; 0]);
        assert_eq!(told(&[v1(100)], &[v1(100), v2(0, 1)]), ["canary v2 is there, with 1 endpoint, asked 0%"]);
        assert_eq!(
            told(&[v1(95), v2(5, 1)], &[v1(67), v2(33, 2)]),
            [
                "stable v1 is asked 67%, up to now 95%",
                "canary v2 is asked 33%, up to now 5%",
                "canary v2 has 2 endpoints, up to now 1"
            ]
        );
        assert_eq!(
            told(&[v1(0), v2(100, 3)], &[("v2", version(Stable, 100, 3))]),
            ["v2 is stable now; it was canary", "stable v1 is gone"]
        );
    }

    #[test]
    fn a_hundred_are_kept() {
        let mut changes = Changes::default();
        for i in 0..250 {
            changes.add(SystemTime::now(), Kind::Weight, Fact::new(i.to_string(), ""));
        }
        assert_eq!((changes.after(0).len(), changes.after(0)[0].number, changes.after(249).len()), (100, 151, 1));
    }
}
