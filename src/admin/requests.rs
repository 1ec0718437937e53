//! "What became of the last requests, and why?": those that were written down, as `/requests` shows them.

use serde::Serialize;

use super::nearest;
use super::query::parameters;
use crate::record::{Recent, Record};
use crate::route::{Reason, Role};

/// What may be asked for, in the query string of `/requests`. All that is said has to hold.
const PARAMETERS: [&str; 3] = ["version", "role", "reason"];

const ROLES: [Role; 3] = [Role::Stable, Role::Canary, Role::Experiment];

/// Shown with every error.
pub const EXAMPLE: &str = "/requests?role=canary&reason=weighted";

/// Which requests are shown.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    version: Option<String>,
    role: Option<Role>,
    reason: Option<Reason>,
}

/// The newest first.
#[derive(Serialize)]
pub struct Shown {
    requests: Vec<Record>,
}

/// Says what is wrong in words for the person who asks.
pub fn from_query(query: &str) -> Result<Asked, String> {
    let [version, role, reason] = parameters(query, PARAMETERS)?;
    if version.as_deref() == Some("") {
        return Err("version is empty; expected a pod-template hash, or the name of a backend".to_owned());
    }
    let role = role.map(|role| one_of("role", &role, ROLES, Role::as_str)).transpose()?;
    let reason = reason.map(|reason| one_of("reason", &reason, Reason::ALL, Reason::as_str)).transpose()?;
    Ok(Asked { version, role, reason })
}

fn one_of<T: Copy, const N: usize>(
    name: &str,
    text: &str,
    all: [T; N],
    as_str: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    all.into_iter().find(|one| as_str(*one) == text).ok_or_else(|| {
        let words = all.map(as_str);
        match nearest(text, words) {
            Some(close) => format!("{name} is {text:?}; did you mean {close}?"),
            None => format!("{name} is {text:?}; expected one of {}", words.join(", ")),
        }
    })
}

impl Asked {
    pub fn of(&self, recent: &Recent) -> Shown {
        let mut requests = recent.last();
        requests.retain(|one| {
            // Who was asked first and failed was met, too.
            let failed = one.failed.as_ref();
            let is = |version: &String| {
                one.version.as_ref() == Some(version) || failed.is_some_and(|failed| failed.version == *version)
            };
            self.version.as_ref().is_none_or(is)
                && self
                    .role
                    .is_none_or(|role| one.role == Some(role) || failed.is_some_and(|failed| failed.role == role))
                && self.reason.is_none_or(|reason| one.reason == Some(reason))
        });
        Shown { requests }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood_or_explained() {
        let asked = from_query("version=a%2Fb&role=canary&reason=sticky").unwrap();
        let version = Some("a/b".to_owned());
        assert_eq!(asked, Asked { version, role: Some(Role::Canary), reason: Some(Reason::Sticky) });
        assert_eq!(from_query("").unwrap(), Asked::default());
        assert!(from_query(&EXAMPLE["/requests?".len()..]).is_ok());
        for (query, expected) in [
            ("rol=canary", "did you mean role?"),
            ("path=/", "expected version, role, reason"),
            ("role=canry", "did you mean canary?"),
            ("role=x", "expected one of stable, canary, experiment"),
            ("reason=weight", "did you mean weighted?"),
            ("role=", "expected one of"),
            ("version=", "pod-template hash"),
            ("role=canary&role=canary", "twice"),
            ("version=%2", "hexadecimal"),
        ] {
            let error = from_query(query).expect_err(query);
            assert!(error.contains(expected), "{query}: {error}");
        }
    }
}
