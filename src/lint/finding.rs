//! What was found: with its place, why it matters and what to do, as text for people and as JSON for programs.

use std::fmt::Write as _;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::rules::{Rule, Severity};
use crate::text::problem::{At, plain, position, visible};

/// More are only counted: nobody reads them all, and a hostile file could have a million.
const KEPT: usize = 1000;
/// Of these, so many are shown to people.
const SHOWN: usize = 100;
/// Bytes of a line that is still shown as an excerpt.
const LONGEST_LINE: usize = 400;
/// Of one line of an explanation, in columns.
const WIDTH: usize = 88;

#[derive(Clone, Debug)]
pub struct Finding {
    pub rule: &'static Rule,
    /// Such as `Rollout services/shop`.
    pub object: String,
    /// Such as `spec.strategy.canary.steps[1].pause`.
    pub field: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    pub message: String,
    pub remedy: String,
    at: At,
}

/// Collects what is found in one text.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    text: &'a str,
    /// Byte offsets at which lines begin.
    lines: Vec<usize>,
    object: String,
    pub list: Vec<Finding>,
    pub counts: Counts,
}

/// How many there are, those that were not kept included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub errors: usize,
    pub warnings: usize,
    pub infos: usize,
}

impl<'a> Findings<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, lines, object: String::new(), list: Vec::new(), counts: Counts::default() }
    }

    /// What follows is about this object.
    pub(super) fn about(&mut self, object: String) {
        self.object = object;
    }

    /// Without a remedy of its own, the rule's.
    pub(super) fn add(&mut self, rule: &'static Rule, at: &At, message: impl Into<String>, remedy: Option<String>) {
        match rule.severity {
            Severity::Error => self.counts.errors += 1,
            Severity::Warning => self.counts.warnings += 1,
            Severity::Info => self.counts.infos += 1,
        }
        if self.list.len() == KEPT {
            return;
        }
        let start = self.text.floor_char_boundary(at.span().start);
        // Not `position` of the whole: that would read the text again for each finding.
        let line = self.lines.partition_point(|begin| *begin <= start);
        let column = position(&self.text[self.lines[line - 1]..], start - self.lines[line - 1]).1;
        self.list.push(Finding {
            rule,
            object: self.object.clone(),
            field: at.field(),
            line,
            column,
            message: plain(&message.into()),
            remedy: plain(&remedy.unwrap_or_else(|| rule.remedy.to_owned())),
            at: at.clone(),
        });
    }
}

#[derive(Serialize)]
pub(super) struct Json<'a> {
    rule: &'a str,
    severity: Severity,
    object: &'a str,
    path: &'a str,
    line: usize,
    column: usize,
    message: &'a str,
    why: &'a str,
    remedy: &'a str,
    docs: String,
}

impl Finding {
    pub(super) fn json(&self) -> Json<'_> {
        Json {
            rule: self.rule.id,
            severity: self.rule.severity,
            object: &self.object,
            path: &self.field,
            line: self.line,
            column: self.column,
            message: &self.message,
            why: self.rule.why,
            remedy: &self.remedy,
            docs: format!("docs/lint.md#{}", self.rule.id),
        }
    }

    /// With the field, as far as it is not the same for nearly all.
    fn title(&self) -> String {
        let field = match self.field.strip_prefix("items[").and_then(|rest| rest.split_once("].")) {
            Some((_, in_list)) => in_list,
            None => &self.field,
        };
        let field = field.strip_prefix("spec.strategy.").unwrap_or(field);
        let field = plain(field.strip_prefix("canary.").unwrap_or(field));
        let colon = if field.is_empty() { "" } else { ": " };
        // `warning[]: ` stands before it.
        wrapped(&format!("{field}{colon}{}", self.message), WIDTH.saturating_sub(self.rule.id.len()))
    }
}

/// For a person: errors and warnings with their excerpts, then briefly what is only good to know.
pub(super) fn render(list: &[Finding], name: &str, text: &str, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
    let (serious, notes): (Vec<_>, Vec<_>) = list.iter().partition(|one| one.rule.severity != Severity::Info);
    let mut out = String::new();
    // Once is enough to say why a rule matters.
    let mut told = vec![false; super::rules::ALL.len()];
    for finding in serious.iter().take(SHOWN) {
        let level = match finding.rule.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning | Severity::Info => Level::WARNING,
        };
        let title = level.primary_title(finding.title()).id(finding.rule.id);
        let span = visible(text, finding.at.span());
        let group = if line_length(text, span.start) > LONGEST_LINE {
            title.element(Origin::path(name).line(finding.line).char_column(finding.column))
        } else {
            title.element(Snippet::source(text).path(name).annotation(AnnotationKind::Primary.span(span)))
        };
        let is_first = !std::mem::replace(&mut told[finding.rule.number()], true);
        let why = is_first.then(|| Level::NOTE.message(wrapped(finding.rule.why, WIDTH)));
        let group = group.elements(why).element(Level::HELP.message(wrapped(&finding.remedy, WIDTH)));
        let _ = writeln!(out, "{}\n", renderer.render(&[group]));
    }
    if serious.len() > SHOWN {
        let _ = writeln!(out, "... and {} more that are not shown\n", serious.len() - SHOWN);
    }
    for finding in notes.iter().take(SHOWN) {
        let group = Level::INFO
            .primary_title(finding.title())
            .id(finding.rule.id)
            .element(Origin::path(name).line(finding.line).char_column(finding.column))
            .element(Level::HELP.message(wrapped(&finding.remedy, WIDTH)));
        let _ = writeln!(out, "{}\n", renderer.render(&[group]));
    }
    out
}

/// In bytes, of the line around `offset`.
fn line_length(text: &str, offset: usize) -> usize {
    let before = text[..offset].rfind('\n').map_or(offset, |newline| offset - newline);
    before + text[offset..].find('\n').unwrap_or(text.len() - offset)
}

/// Lines of bearable length.
fn wrapped(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut length = 0;
    for word in text.split(' ') {
        let width = word.chars().count();
        if length > 0 && length + 1 + width > most {
            out.push('\n');
            length = 0;
        } else if length > 0 {
            out.push(' ');
            length += 1;
        }
        out.push_str(word);
        length += width;
    }
    out
}
