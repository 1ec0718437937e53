//! How rollouts ended. One writer: whoever keeps the history.

use super::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The version has become stable.
    Promoted,
    /// The Rollout was aborted, by its controller or a person.
    Aborted,
    /// The version was to get nothing any more, or is gone, and nobody had said abort: an undo, or an edited file.
    Withdrawn,
    /// Another version took its place.
    Superseded,
}

impl Outcome {
    pub const ALL: [Outcome; 4] = [Outcome::Promoted, Outcome::Aborted, Outcome::Withdrawn, Outcome::Superseded];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Promoted => "promoted",
            Outcome::Aborted => "aborted",
            Outcome::Withdrawn => "withdrawn",
            Outcome::Superseded => "superseded",
        }
    }
}

#[derive(Default)]
pub struct Rollouts([Cell; Outcome::ALL.len()]);

impl Rollouts {
    pub fn ended(&self, outcome: Outcome) {
        self.0[outcome as usize].add(1);
    }

    pub fn all(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().map(|outcome| (outcome, self.0[outcome as usize].get()))
    }
}
