//! What `top` knows, and what a key does to it. PURE: the caller brings answers, keys and the time.

use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde::Deserialize;
use splitway::admin::status::{Status, Version};

/// The newest failures that are kept: no screen has more lines.
const FAILURES: usize = 100;

/// The longest filter.
const FILTER: usize = 64;

/// What all proxies have said in one round.
#[derive(Debug, Default)]
pub struct Told {
    pub status: Status,
    pub failures: Vec<Failure>,
    /// Why some of them said nothing.
    pub away: Vec<String>,
}

/// One of `/requests`, as far as it is shown.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Failure {
    /// RFC 3339, in UTC.
    pub time: String,
    pub method: Option<String>,
    pub path: Option<String>,
    pub code: u16,
    pub version: Option<String>,
    pub role: Option<String>,
    pub failure: Option<String>,
    /// Who was asked first and failed, if another one then answered.
    pub failed: Option<Failed>,
    pub duration_seconds: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Failed {
    pub version: String,
    pub role: String,
    pub failure: String,
}

impl Failure {
    /// As the proxy tells failures from other requests.
    pub fn is_one(&self) -> bool {
        self.failure.is_some() || self.code >= 500 || self.failed.is_some()
    }
}

pub struct View {
    /// The flag that says whom it asks.
    pub whom: String,
    pub status: Option<Status>,
    /// The newest first.
    pub failures: Vec<Failure>,
    pub away: Vec<String>,
    /// When somebody answered last.
    pub heard: Option<Instant>,
    /// Why nobody did since.
    pub trouble: Option<String>,
    pub paused: bool,
    pub help: bool,
    pub filter: String,
    /// Whether keys go into the filter.
    pub typing: bool,
}

/// What goes on after a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    Stay,
    Quit,
}

impl View {
    pub fn new(whom: String) -> Self {
        Self {
            whom,
            status: None,
            failures: Vec::new(),
            away: Vec::new(),
            heard: None,
            trouble: None,
            paused: false,
            help: false,
            filter: String::new(),
            typing: false,
        }
    }

    /// What has been seen stays, with its age, when nobody answers.
    pub fn hear(&mut self, told: Result<Told, String>, now: Instant) {
        let Told { status, mut failures, away } = match told {
            Ok(told) => told,
            Err(error) => {
                self.trouble = Some(error);
                return;
            }
        };
        (self.heard, self.trouble) = (Some(now), None);
        if self.paused {
            return;
        }
        failures.sort_by(|a, b| b.time.cmp(&a.time));
        failures.truncate(FAILURES);
        (self.status, self.failures, self.away) = (Some(status), failures, away);
    }

    /// By role, version, port and endpoint.
    pub fn shows_version(&self, port: &Option<String>, version: &Version) -> bool {
        let own = [Some(&version.role), Some(&version.version), port.as_ref()];
        self.matches(own.into_iter().flatten().chain(&version.endpoints))
    }

    /// By anything that its line says.
    pub fn shows_failure(&self, failure: &Failure) -> bool {
        let Failure { method, path, version, role, failure: word, failed, code, .. } = failure;
        let code = code.to_string();
        let failed = failed.iter().flat_map(|failed| [&failed.version, &failed.role, &failed.failure]);
        self.matches([method, path, version, role, word].into_iter().flatten().chain(failed).chain([&code]))
    }

    fn matches<'a>(&self, mut texts: impl Iterator<Item = &'a String>) -> bool {
        let wanted = self.filter.to_lowercase();
        wanted.is_empty() || texts.any(|text| text.to_lowercase().contains(&wanted))
    }

    /// Into the filter, if there is room.
    fn take(&mut self, c: char) {
        if self.filter.chars().count() < FILTER && !c.is_control() {
            self.filter.push(c);
        }
    }

    pub fn press(&mut self, key: KeyEvent) -> Then {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            _ if key.kind == KeyEventKind::Release => {}
            KeyCode::Char('c') if control => return Then::Quit,
            KeyCode::Char(_) if control => {}
            KeyCode::Char(c) if self.typing => self.take(c),
            KeyCode::Backspace if self.typing => drop(self.filter.pop()),
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc => (self.typing, self.filter) = (false, String::new()),
            KeyCode::Char('q') => return Then::Quit,
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('/') => (self.typing, self.help) = (true, false),
            _ => {}
        }
        Then::Stay
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::top::tests::told;

    fn press(view: &mut View, keys: &str) -> Then {
        let mut then = Then::Stay;
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                c => KeyCode::Char(c),
            };
            then = view.press(code.into());
        }
        then
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let mut view = View::new("--admin :9090".to_owned());
        assert_eq!((press(&mut view, "?"), view.help), (Then::Stay, true));
        assert_eq!((press(&mut view, "\x1b"), view.help), (Then::Stay, false));
        assert_eq!((press(&mut view, "/qp?x\x08"), view.filter.as_str(), view.typing), (Then::Stay, "qp?", true));
        assert_eq!((press(&mut view, "\n"), view.filter.as_str(), view.typing), (Then::Stay, "qp?", false));
        assert_eq!((press(&mut view, "\x1b"), view.filter.as_str()), (Then::Stay, ""));
        assert_eq!((press(&mut view, "p"), view.paused), (Then::Stay, true));
        assert_eq!(press(&mut view, "?q"), Then::Quit);
        view.typing = true;
        assert_eq!(press(&mut view, "q"), Then::Stay);
        assert_eq!(view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::Quit);
    }

    #[test]
    fn a_pause_keeps_what_is_shown_and_an_absence_keeps_what_was_heard() {
        let now = Instant::now();
        let mut view = View::new(String::new());
        view.hear(Err("refused".to_owned()), now);
        assert!(view.status.is_none() && view.trouble.is_some());
        view.hear(Ok(told()), now);
        assert!(view.trouble.is_none());
        view.paused = true;
        view.hear(Ok(Told::default()), now + Duration::from_secs(1));
        assert_eq!(view.status.as_ref().map(|status| status.generation), Some(7));
        view.paused = false;
        view.hear(Err("refused".to_owned()), now + Duration::from_secs(2));
        assert_eq!((view.failures.len(), view.heard), (3, Some(now + Duration::from_secs(1))));
        view.hear(Ok(Told::default()), now + Duration::from_secs(3));
        assert_eq!((view.failures.len(), &view.trouble), (0, &None));
    }

    #[test]
    fn a_filter_leaves_what_has_its_text_anywhere() {
        let mut view = View::new(String::new());
        view.hear(Ok(told()), Instant::now());
        let shown = |view: &View| {
            let port = &view.status.as_ref().unwrap().ports[0];
            let versions = port.versions.iter().filter(|one| view.shows_version(&port.port, one)).count();
            (versions, view.failures.iter().filter(|one| view.shows_failure(one)).count())
        };
        for (filter, expected) in
            [("", (2, 3)), ("CANARY", (1, 2)), ("10.0.0.", (2, 0)), ("refused", (0, 2)), ("zz", (0, 0))]
        {
            view.filter = filter.to_owned();
            assert_eq!(shown(&view), expected, "{filter}");
        }
    }
}
