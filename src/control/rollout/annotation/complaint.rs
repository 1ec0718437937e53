//! What is wrong and where, in the form in which the API server says it:
//! `metadata.annotations[splitway.dev/routes].weights[0].step: Invalid value: 9: expected ...`.

use std::fmt::{self, Display};

use serde_json::Value;

use crate::route::matches::shown;

/// So many are told; one mistake may have many consequences.
const MOST: usize = 8;

/// A field's place, as a chain up to the annotation.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    Annotation,
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
    /// An entry of a mapping whose keys are the user's own.
    Key(&'a Place<'a>, &'a str),
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Annotation => write!(f, "metadata.annotations[{}]", super::ROUTES),
            Place::Field(parent, name) => write!(f, "{parent}.{name}"),
            Place::Item(parent, index) => write!(f, "{parent}[{index}]"),
            Place::Key(parent, name) => {
                let name = shown(name.as_bytes());
                write!(f, "{parent}[{}]", name.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(&name))
            }
        }
    }
}

#[derive(Default)]
pub struct Complaints {
    told: Vec<String>,
    untold: usize,
}

impl Complaints {
    pub fn invalid(&mut self, place: Place<'_>, found: &Value, expected: impl Display) {
        self.add(format!("{place}: Invalid value: {}: {expected}", Shown(found)));
    }

    pub fn required(&mut self, place: Place<'_>, expected: impl Display) {
        self.add(format!("{place}: Required value: {expected}"));
    }

    pub fn duplicate(&mut self, place: Place<'_>, found: &Value, earlier: impl Display) {
        self.add(format!("{place}: Duplicate value: {}: {earlier}", Shown(found)));
    }

    pub fn forbidden(&mut self, place: Place<'_>, why: impl Display) {
        self.add(format!("{place}: Forbidden: {why}"));
    }

    pub fn too_many(&mut self, place: Place<'_>, found: usize, most: usize) {
        self.add(format!("{place}: Too many: {found}: must have at most {most} items"));
    }

    fn add(&mut self, message: String) {
        match self.told.len() < MOST {
            true => self.told.push(message),
            false => self.untold += 1,
        }
    }

    /// `None`: nothing is wrong. Several are put in brackets, as the API server does.
    pub fn told(mut self) -> Option<String> {
        if self.untold > 0 {
            self.told.push(format!("and {} more", self.untold));
        }
        match self.told.len() {
            0 | 1 => self.told.pop(),
            _ => Some(format!("[{}]", self.told.join(", "))),
        }
    }
}

struct Shown<'a>(&'a Value);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) => f.write_str(&shown(text.as_bytes())),
            Value::Array(_) => f.write_str("a list"),
            Value::Object(_) => f.write_str("a mapping"),
            Value::Null => f.write_str("nothing"),
            one => one.fmt(f),
        }
    }
}

/// The candidate that was probably meant.
pub fn closest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let name: String = name.chars().take(60).flat_map(char::to_lowercase).collect();
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
