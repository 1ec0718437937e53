//! The annotation `splitway.dev/routes` of a Rollout: header and mirror routes and finer weights for controllers and modes
//! that refuse them in steps. `docs/routes.md` describes it for its writers.
//!
//! Files, in reading order:
//!
//! * this one: what the annotation says, and which of its readings is in force;
//! * `finer`: weights that are finer than those of the steps;
//! * `read`: from text to meaning, or what is wrong with it;
//! * `complaint`: how it is said what is wrong, and where.
//!
//! It points into the steps, so it is only ever good for the steps that it was read for.

mod complaint;
mod finer;
mod read;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{HeaderList, Managed, ManagedRoute, Rollout, Step, managed_routes};

pub use finer::Finer;

/// Its key among the Rollout's annotations.
pub const ROUTES: &str = "splitway.dev/routes";

/// What the annotation says.
#[derive(Clone, Debug, Default)]
pub struct Annotation {
    routes: Vec<Timed>,
    finer: Finer,
    /// How the conditions of header routes combine, those of the steps included; `None`: as the proxy was told.
    header_list: Option<HeaderList>,
}

/// A route and the steps during which it is in force, both ends included.
#[derive(Clone, Debug)]
struct Timed {
    route: ManagedRoute,
    from: usize,
    /// `None`: as long as the update goes on, also when all steps are done.
    to: Option<usize>,
}

impl Annotation {
    pub fn finer(&self) -> &Finer {
        &self.finer
    }

    /// The routes in force, those of the steps included. `None`: spec and status must not be read together now, so the
    /// routes of before stay.
    ///
    /// The annotation's come first. To change the steps is to begin them again, to change the annotation is not: so it is
    /// what people reach for during an update, and it has to win over what a step has set.
    pub fn routes(&self, rollout: &Rollout, header_list: HeaderList) -> Option<Managed> {
        let mut managed = managed_routes(rollout, self.header_list.unwrap_or(header_list))?;
        if rollout.may_have_routes() {
            managed.routes.splice(0..0, self.at(rollout.step_index()).cloned());
        }
        Some(managed)
    }

    fn at(&self, step: usize) -> impl Iterator<Item = &ManagedRoute> {
        let in_force = move |timed: &&Timed| timed.from <= step && timed.to.is_none_or(|to| step <= to);
        self.routes.iter().filter(in_force).map(|timed| &timed.route)
    }
}

/// What has come of the annotation so far: what is in force, and what is wrong with it now.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// What it was read from last; `None`: there is none.
    source: Option<Source>,
    annotation: Arc<Annotation>,
    problem: Option<Problem>,
}

/// All that the meaning of the annotation depends on.
#[derive(Clone, Debug, PartialEq)]
struct Source {
    text: String,
    steps: Vec<Step>,
    total: u32,
    header_list: HeaderList,
}

#[derive(Clone, Debug)]
struct Problem {
    message: String,
    /// What it said before is in force still.
    kept: bool,
}

impl Reading {
    /// Reads the annotation, unless that has been done already. If it cannot be read, what it said before stays, as long
    /// as the steps are the same: whoever mistypes one route does not lose the others.
    pub fn of(rollout: &Rollout, header_list: HeaderList, previous: Option<&Reading>) -> Reading {
        let Some(text) = rollout.annotation(ROUTES) else { return Reading::default() };
        let steps = rollout.steps().to_vec();
        let source = Source { text: text.to_owned(), steps, total: rollout.total(), header_list };
        let before = previous.filter(|previous| previous.source.as_ref().is_some_and(|earlier| earlier.fits(&source)));
        if let Some(before) = before.filter(|before| before.source.as_ref() == Some(&source)) {
            return before.clone();
        }
        let (annotation, problem) = match read::read(&source) {
            Ok(annotation) => (Arc::new(annotation), None),
            Err(message) => {
                let kept = before.filter(|before| before.problem.as_ref().is_none_or(|problem| problem.kept));
                let annotation = kept.map(|before| before.annotation.clone()).unwrap_or_default();
                (annotation, Some(Problem { message, kept: kept.is_some() }))
            }
        };
        Reading { source: Some(source), annotation, problem }
    }

    pub fn annotation(&self) -> &Annotation {
        &self.annotation
    }

    /// What is wrong with the annotation as it is now, in the words of the API server.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_ref().map(|problem| problem.message.as_str())
    }

    /// The same for people, with what it leads to.
    pub fn note(&self) -> Option<String> {
        let Problem { message, kept } = self.problem.as_ref()?;
        Some(match kept {
            true => format!("{message}; until it is mended, what the annotation said before stays in force"),
            false => format!("{message}; until it is mended, the annotation is ignored and the rest is followed"),
        })
    }
}

impl Source {
    /// Whether something read from one may stand for something read from the other.
    fn fits(&self, other: &Source) -> bool {
        (&self.steps, self.total, self.header_list) == (&other.steps, other.total, other.header_list)
    }
}
