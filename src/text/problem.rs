//! What is wrong with what was written: every problem at once, each with its place, an excerpt, what was expected, what
//! was found and the remedy.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// Beyond this many, problems are only counted: nobody reads them all, and a hostile file could have a million.
const SHOWN: usize = 100;

/// All problems of one configuration. Never empty once it is returned as an error.
#[derive(Clone, Debug)]
pub struct Problems {
    sources: Vec<Source>,
    list: Vec<Problem>,
    count: usize,
}

/// One problem and its place.
#[derive(Clone, Debug)]
pub struct Problem {
    at: At,
    /// From 1; 0 when there is no text to point at (a file that cannot be read).
    pub line: usize,
    /// In characters, from 1; 0 when there is no text to point at.
    pub column: usize,
    /// Such as `routes[0].match[1].headers.x-user.exact`; empty for the file as a whole.
    pub field: String,
    /// One line: what was expected and what was found.
    pub message: String,
    help: Option<String>,
    /// What a parser within ours had to say, on as many lines as it took.
    note: Option<String>,
    /// Another place that belongs to the problem, with a word about it.
    also: Option<(At, &'static str)>,
}

/// A text that was read: the file, or what one flag said.
#[derive(Clone, Debug)]
struct Source {
    name: String,
    text: Arc<str>,
}

/// A place in a text that was read.
#[derive(Clone, Debug, Default)]
pub struct At {
    /// 0 for the file.
    source: usize,
    /// In bytes.
    span: Range<usize>,
    path: Path,
}

/// The way to a field. Links are shared, so that a hostile file cannot make long paths expensive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path(Option<Arc<Link>>);

#[derive(Debug)]
struct Link {
    parent: Path,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Field(String),
    Item(usize),
}

/// What is wrong, before its place is known.
#[derive(Clone, Debug)]
pub struct Complaint {
    message: String,
    help: Option<String>,
    note: Option<String>,
    also: Option<Box<(At, &'static str)>>,
}

impl Complaint {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, note: None, also: None }
    }

    /// The usual form.
    pub(crate) fn expected(what: &str, found: &str) -> Self {
        Self::new(format!("expected {what}, found {found}"))
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    pub(crate) fn also(mut self, at: &At, label: &'static str) -> Self {
        self.also = Some(Box::new((at.clone(), label)));
        self
    }
}

impl Path {
    pub(crate) fn field(&self, name: &str) -> Self {
        self.link(Step::Field(name.to_owned()))
    }

    pub(crate) fn item(&self, index: usize) -> Self {
        self.link(Step::Item(index))
    }

    fn link(&self, step: Step) -> Self {
        Self(Some(Arc::new(Link { parent: self.clone(), step })))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(link) = &self.0 else { return Ok(()) };
        link.parent.fmt(f)?;
        match &link.step {
            Step::Item(index) => write!(f, "[{index}]"),
            Step::Field(name) => write!(f, "{}{}", if link.parent.0.is_some() { "." } else { "" }, shortened(name)),
        }
    }
}

impl At {
    /// In bytes.
    pub(crate) fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// Such as `routes[0].match[1]`; empty for the text as a whole.
    pub(crate) fn field(&self) -> String {
        self.path.to_string()
    }

    pub(crate) fn new(source: usize, span: Range<usize>, path: Path) -> Self {
        Self { source, span, path }
    }

    /// The same place under the name of a field that is missing there.
    pub(crate) fn missing(&self, field: &str) -> Self {
        Self { path: self.path.field(field), ..self.clone() }
    }

    /// A part of this place: `span` counts from its start.
    pub(crate) fn part(&self, span: Range<usize>) -> Self {
        Self { span: self.span.start + span.start..self.span.start + span.end, ..self.clone() }
    }
}

impl Problems {
    /// `name` and `text` are the file's, or empty when there is none.
    pub(crate) fn new(name: &str, text: &str) -> Self {
        Self { sources: vec![Source { name: name.to_owned(), text: text.into() }], list: Vec::new(), count: 0 }
    }

    /// A file that could not even be read.
    pub(crate) fn unreadable(name: &str, complaint: Complaint) -> Self {
        let mut problems = Self::new(name, "");
        problems.add(&At::default(), complaint);
        problems
    }

    /// Adds what a flag said as a text to point at.
    pub(crate) fn flag(&mut self, name: &str, text: &str) -> At {
        self.sources.push(Source { name: name.to_owned(), text: text.into() });
        At::new(self.sources.len() - 1, 0..text.len(), Path::default().field(name))
    }

    pub(crate) fn add(&mut self, at: &At, complaint: Complaint) {
        self.count += 1;
        if self.list.len() == SHOWN {
            return;
        }
        let text = &self.sources[at.source].text;
        let (line, column) = if text.is_empty() && at.source == 0 { (0, 0) } else { position(text, at.span.start) };
        let Complaint { message, help, note, also } = complaint;
        let also = also.map(|also| *also);
        self.list.push(Problem { line, column, field: at.path.to_string(), message, help, note, also, at: at.clone() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Gives `value` when nothing was wrong; otherwise itself, in the order of the texts.
    pub(crate) fn unless<T>(mut self, value: Option<T>) -> Result<T, Problems> {
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            _ => {
                self.list.sort_by_key(|problem| (problem.at.source, problem.at.span.start));
                Err(self)
            }
        }
    }

    /// The problems in the order of the file; at most a hundred of them.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// How many there are; may be more than are listed.
    pub fn count(&self) -> usize {
        self.count
    }

    /// For a log: the first problem on one line, and how many more there are.
    pub fn one_line(&self) -> String {
        let mut line = String::new();
        if let Some(problem) = self.list.first() {
            let source = &self.sources[problem.at.source];
            line.push_str(&source.name);
            if problem.line > 0 {
                let _ = write!(line, ":{}:{}", problem.line, problem.column);
            }
            let colon = if line.is_empty() { "" } else { ": " };
            let _ = write!(line, "{colon}{}", problem.title(source));
            if let Some(help) = &problem.help {
                let _ = write!(line, " ({})", plain(help));
            }
        }
        if self.count > 1 {
            let _ = write!(line, "; and {} more", self.count - 1);
        }
        line
    }

    /// For a person: every problem with its excerpt, then how many there are. With ANSI colours when `colour` is true.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for problem in &self.list {
            let _ = writeln!(out, "{}\n", self.render_one(problem, &renderer));
        }
        if self.count > self.list.len() {
            let _ = writeln!(out, "... and {} more that are not shown\n", self.count - self.list.len());
        }
        let place = match self.sources[0].name.as_str() {
            "" => "the flags",
            name => name,
        };
        let _ = write!(out, "{place}: {} problem{}", self.count, if self.count == 1 { "" } else { "s" });
        out
    }

    fn render_one(&self, problem: &Problem, renderer: &Renderer) -> String {
        let source = &self.sources[problem.at.source];
        let title = problem.title(source);
        let mut group: Group<'_> = if problem.line == 0 {
            let name = if source.name.is_empty() { String::new() } else { format!("{}: ", source.name) };
            Group::with_title(Level::ERROR.primary_title(name + &title))
        } else {
            let mut snippet = Snippet::source(&*source.text)
                .path(source.name.as_str())
                .annotation(AnnotationKind::Primary.span(visible(&source.text, &problem.at.span)));
            if let Some((at, label)) = problem.also.as_ref().filter(|(at, _)| at.source == problem.at.source) {
                snippet =
                    snippet.annotation(AnnotationKind::Context.span(visible(&source.text, &at.span)).label(*label));
            }
            Level::ERROR.primary_title(title).element(snippet)
        };
        if let Some((at, label)) = problem.also.as_ref().filter(|(at, _)| at.source != problem.at.source) {
            let other = &self.sources[at.source];
            let (line, column) = position(&other.text, at.span.start);
            group = group.element(Level::NOTE.message(format!("{label}: {}:{line}:{column}", other.name)));
        }
        if let Some(note) = &problem.note {
            group = group.element(Level::NOTE.message(note.lines().map(plain).collect::<Vec<_>>().join("\n")));
        }
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(plain(help)));
        }
        renderer.render(&[group])
    }
}

impl Problem {
    fn title(&self, source: &Source) -> String {
        match self.field.as_str() {
            "" => plain(&self.message),
            field if field == source.name => plain(&self.message),
            field => plain(&format!("{field}: {}", self.message)),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}

/// How a text from the file is shown within a sentence: quoted, and not longer than a reader likes.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

/// The candidate that was probably meant.
pub(crate) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let name = plain(&shortened(name));
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// On one line, without characters that could move a terminal's cursor, colour what follows, or change its direction.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_tricky(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn is_tricky(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// Line and column in characters, from 1.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..floor(text, offset)];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// The part of `span` on its first line, at least one character where there is one.
pub(crate) fn visible(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = floor(text, span.start);
    let end = floor(text, span.end).max(start);
    let line = &text[start..];
    let line_end = start + line.find(['\n', '\r']).unwrap_or(line.len());
    let end = end.min(line_end);
    if end > start {
        return start..end;
    }
    let next = text[start..line_end].chars().next().map_or(0, char::len_utf8);
    start..start + next
}

/// The last character boundary at or before `offset`.
fn floor(text: &str, offset: usize) -> usize {
    text.floor_char_boundary(offset)
}
