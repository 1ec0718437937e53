//! What was checked and what came of it, for people and for programs. PURE.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};

use super::id::Id;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Ok,
    /// It works, but not as well as it could.
    Warn,
    Fail,
    /// It could not be checked; the message says why.
    Skip,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
            Outcome::Skip => "skip",
        }
    }

    /// As terminals understand it.
    fn colour(self) -> &'static str {
        match self {
            Outcome::Ok => "\x1b[32m",
            Outcome::Warn => "\x1b[33m",
            Outcome::Fail => "\x1b[1;31m",
            Outcome::Skip => "\x1b[2m",
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    pub id: Id,
    pub outcome: Outcome,
    pub message: String,
    /// What to do about it, where there is something to do.
    pub remedy: Option<String>,
    /// Where more is said.
    pub docs: String,
}

/// The checks that were made so far.
#[derive(Debug, Default)]
pub struct Made(Vec<Check>);

impl Made {
    pub fn ok(&mut self, id: Id, message: impl Into<String>) {
        self.add(id, Outcome::Ok, message.into(), None);
    }

    pub fn skip(&mut self, id: Id, why: impl Into<String>) {
        self.add(id, Outcome::Skip, why.into(), None);
    }

    pub fn warn(&mut self, id: Id, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(id, Outcome::Warn, message.into(), Some(remedy.into()));
    }

    pub fn fail(&mut self, id: Id, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(id, Outcome::Fail, message.into(), Some(remedy.into()));
    }

    /// `ok` if there is nothing to say against it.
    pub fn judge(&mut self, id: Id, against: Option<String>, ok: impl Into<String>, remedy: impl Into<String>) {
        match against {
            Some(message) => self.fail(id, message, remedy),
            None => self.ok(id, ok),
        }
    }

    pub fn failed(&self, id: Id) -> bool {
        self.0.iter().any(|check| check.id == id && check.outcome == Outcome::Fail)
    }

    pub fn append(&mut self, more: Made) {
        self.0.extend(more.0);
    }

    fn add(&mut self, id: Id, outcome: Outcome, message: String, remedy: Option<String>) {
        debug_assert!(self.0.iter().all(|check| check.id != id), "{id:?} twice");
        self.0.push(Check { id, outcome, message, remedy, docs: id.docs() });
    }
}

/// Every check, in the order of [`Id::ALL`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `NAMESPACE/NAME`.
    pub rollout: String,
    /// Whether nothing failed.
    pub ok: bool,
    pub checks: Vec<Check>,
}

const COLUMNS: usize = 100;
/// Where messages begin.
const INDENT: usize = 8;

impl Report {
    /// What was not made waits for the last failure before it.
    pub fn of(rollout: String, made: Made) -> Self {
        let mut checks = Vec::<Check>::new();
        for id in Id::ALL {
            let check = made.0.iter().find(|check| check.id == id).cloned().unwrap_or_else(|| {
                let failed = checks.iter().rev().find(|check| check.outcome == Outcome::Fail);
                let message = match failed {
                    Some(failed) => format!("not checked, because {} failed", failed.id.as_str()),
                    None => "not checked, because something before it was not".to_owned(),
                };
                Check { id, outcome: Outcome::Skip, message, remedy: None, docs: id.docs() }
            });
            checks.push(check);
        }
        let ok = checks.iter().all(|check| check.outcome != Outcome::Fail);
        Self { rollout, ok, checks }
    }

    /// One line per check, and for what is wrong the remedy below it.
    pub fn text(&self, colours: bool) -> String {
        let mut text = format!("Rollout {}\n", self.rollout);
        let paint = |outcome: Outcome| match colours {
            true => format!("{}{:<4}\x1b[0m", outcome.colour(), outcome.as_str()),
            false => format!("{:<4}", outcome.as_str()),
        };
        for check in &self.checks {
            let message = wrapped(&format!("{}: {}", check.id.as_str(), check.message));
            let _ = writeln!(text, "  {}  {message}", paint(check.outcome));
            if let Some(remedy) = &check.remedy {
                let _ = writeln!(text, "{:INDENT$}{}", "", wrapped(&format!("remedy: {remedy}")));
                let _ = writeln!(text, "{:INDENT$}see {}", "", check.docs);
            }
        }
        let count = |outcome| self.checks.iter().filter(|check| check.outcome == outcome).count();
        let counts = [Outcome::Ok, Outcome::Warn, Outcome::Fail, Outcome::Skip].map(|one| (count(one), one.as_str()));
        let said: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
        let _ = writeln!(text, "{}", said.join(", "));
        text
    }

    /// What to try after reading it.
    pub fn next(&self) -> String {
        let rollout = &self.rollout;
        let is = |id: Id, outcome| self.checks.iter().any(|check| check.id == id && check.outcome == outcome);
        if !self.ok {
            return format!("Next: mend what failed, from the top, then: splitway check --rollout {rollout}");
        }
        match is(Id::ProxyReachable, Outcome::Skip) {
            true => {
                format!("Next: splitway check --rollout {rollout} --admin ADDRESS   (looks at a proxy that runs, too)")
            }
            false => "Next: change the Rollout's pod template, and watch the split".to_owned(),
        }
    }
}

/// Lines after the first are indented as a message is. Long words stay whole.
fn wrapped(text: &str) -> String {
    let (mut lines, mut width) = (String::new(), INDENT);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width > INDENT && width + 1 + length > COLUMNS {
            let _ = write!(lines, "\n{:1$}", "", INDENT);
            width = INDENT;
        } else if width > INDENT {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report() -> Report {
        let mut made = Made::default();
        made.ok(Id::ApiReachable, "https://10.0.0.1/ answers");
        made.fail(Id::ApiCredentials, "the token has expired ".repeat(9), "get a new one");
        Report::of("services/shop".to_owned(), made)
    }

    #[test]
    fn what_was_not_made_is_skipped_because_of_what_failed() {
        let report = report();
        assert!(!report.ok);
        assert_eq!(report.checks.iter().map(|check| check.id).collect::<Vec<_>>(), Id::ALL);
        for check in &report.checks[2..] {
            assert_eq!((check.outcome, check.remedy.as_ref()), (Outcome::Skip, None));
            assert_eq!(check.message, "not checked, because api.credentials failed");
        }
        assert!(report.next().starts_with("Next: mend what failed"));
    }

    #[test]
    fn colours_add_nothing_to_the_words() {
        let (plain, coloured) = (report().text(false), report().text(true));
        assert!(!plain.contains('\x1b'));
        let all = [Outcome::Ok, Outcome::Warn, Outcome::Fail, Outcome::Skip].map(Outcome::colour);
        let without = all.iter().chain(&["\x1b[0m"]).fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(without, plain);
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_a_screen_and_no_word_is_lost(words in prop::collection::vec("[a-z/.:]{1,40}", 1..60)) {
            let mut made = Made::default();
            made.fail(Id::ApiReachable, words.join(" "), words.join("  "));
            let text = Report::of("services/shop".to_owned(), made).text(false);
            prop_assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{}", text);
            prop_assert!(text.lines().all(|line| line == line.trim_end()));
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let written = words.join(" ");
            prop_assert!(flat.matches(written.as_str()).count() >= 2);
            let outcomes = ["ok", "warn", "FAIL", "skip"];
            let first = |line: &&str| outcomes.iter().any(|word| line.starts_with(&format!("  {word}")));
            prop_assert_eq!(text.lines().filter(first).count(), Id::ALL.len());
        }
    }
}
