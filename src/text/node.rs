//! A YAML text as a tree in which every value and every key knows its place. Nothing is guessed about types: an unquoted
//! `94.50` stays these five characters, so that no number ever passes through a float.
//!
//! Bounds keep a hostile file cheap: its size, how deep it nests, and how many values it has once aliases are followed.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::problem::{At, Complaint, Path, Problems};

/// Bounds on what is read.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub bytes: usize,
    /// Lists and mappings within each other.
    pub depth: usize,
    /// Values and keys of the whole text, those that aliases repeat included.
    pub nodes: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub at: At,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Text {
        text: String,
        /// Written without quotes: may mean a number, `true` or nothing at all.
        plain: bool,
    },
    List(Vec<Node>),
    /// In the order of the file, with repeated keys.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub at: At,
    pub text: String,
}

impl Node {
    pub(crate) fn text(at: At, text: &str) -> Self {
        Self { at, content: Content::Text { text: text.to_owned(), plain: true } }
    }

    /// What a reader would call it.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.content {
            _ if self.is_nothing() => "nothing",
            Content::Text { .. } => "a single value",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }

    /// The field of that name, unless nothing is written there.
    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|(_, value)| value)
    }

    /// The field of that name with its key, unless nothing is written there. Of repeated keys the last one counts.
    pub(crate) fn entry(&self, name: &str) -> Option<(&Key, &Node)> {
        let (key, value) = self.entries().iter().rev().find(|(key, _)| key.text == name)?;
        (!value.is_nothing()).then_some((key, value))
    }

    pub(crate) fn entries(&self) -> &[(Key, Node)] {
        match &self.content {
            Content::Map(entries) => entries,
            Content::Text { .. } | Content::List(_) => &[],
        }
    }

    pub(crate) fn items(&self) -> &[Node] {
        match &self.content {
            Content::List(items) => items,
            Content::Text { .. } | Content::Map(_) => &[],
        }
    }

    /// A single value as it was written.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.content {
            Content::Text { text, .. } if !self.is_nothing() => Some(text),
            _ => None,
        }
    }

    /// An empty value, or `null`.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(&self.content, Content::Text { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// The text's one document. `None`: a problem was added.
pub(crate) fn parse(text: &str, limits: &Limits, problems: &mut Problems) -> Option<Node> {
    let mut reading = Reading::start(text, limits, problems)?;
    match reading.only_document() {
        Ok(Some(node)) => Some(node),
        Ok(None) => {
            let complaint = Complaint::new("the file is empty")
                .help("a file needs at least listeners and backends; `splitway schema` describes all fields");
            problems.add(&At::new(0, 0..0, Path::default()), complaint);
            None
        }
        Err(Stop { at, complaint }) => {
            problems.add(&at, complaint);
            None
        }
    }
}

/// Every document of the text; those that say nothing are left out. `None`: a problem was added.
pub(crate) fn parse_all(text: &str, limits: &Limits, problems: &mut Problems) -> Option<Vec<Node>> {
    let mut reading = Reading::start(text, limits, problems)?;
    match reading.documents() {
        Ok(nodes) => Some(nodes),
        Err(Stop { at, complaint }) => {
            problems.add(&at, complaint);
            None
        }
    }
}

struct Reading<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    limits: &'a Limits,
}

#[derive(Clone)]
struct Anchored {
    node: Node,
    /// Values and keys in it.
    nodes: usize,
    /// Lists and mappings within each other in it.
    height: usize,
}

/// The tree cannot be built further.
struct Stop {
    at: At,
    complaint: Complaint,
}

impl From<ScanError> for Stop {
    fn from(error: ScanError) -> Self {
        let offset = error.marker().byte_offset().unwrap_or(0);
        Stop {
            at: At::new(0, offset..offset, Path::default()),
            complaint: Complaint::new(format!("this is not YAML: {}", error.info())).help(
                "look at indentation, closing brackets, and values that need quotes (with `[]{},#` or `: ` inside)",
            ),
        }
    }
}

impl<'a> Reading<'a> {
    fn start(text: &'a str, limits: &'a Limits, problems: &mut Problems) -> Option<Self> {
        if text.len() > limits.bytes {
            let found = format!("{} bytes", text.len());
            let what = format!("a file of at most {} bytes", limits.bytes);
            problems.add(&At::default(), Complaint::expected(&what, &found));
            return None;
        }
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: limits.depth,
            block_nesting_limit: limits.depth,
        };
        let parser = Parser::new_from_str_with_options(text, options);
        Some(Self { parser, anchors: HashMap::new(), nodes: 0, limits })
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Stop> {
        match self.parser.next_event() {
            Some(next) => Ok(next?),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn only_document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(stop(&span, "expected one document, a second one begins here")
                        .help("leave out what follows `---`"));
                }
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::Comment(..) => {}
                event => root = Some(self.node(event, span, Path::default(), 0)?.node),
            }
        }
    }

    fn documents(&mut self) -> Result<Vec<Node>, Stop> {
        let mut roots = Vec::new();
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(roots),
                // An anchor lives as long as its document.
                Event::DocumentStart(..) => self.anchors.clear(),
                Event::StreamStart | Event::DocumentEnd | Event::Comment(..) => {}
                event => {
                    let root = self.node(event, span, Path::default(), 0)?.node;
                    roots.extend((!root.is_nothing()).then_some(root));
                }
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, path: Path, depth: usize) -> Result<Anchored, Stop> {
        let before = self.nodes;
        self.count(&span, 1)?;
        let start = range(&span).start;
        let mut end = range(&span).end;
        let mut height = 0;
        let (content, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let forced = check_tag(tag.as_deref(), &span, "str")?;
                let plain = style == ScalarStyle::Plain && !forced;
                (Content::Text { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), &span, "seq")?;
                self.check_depth(depth, &span)?;
                let mut items: Vec<Node> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        end = end.max(range(&span).end);
                        break;
                    }
                    let item = self.node(event, span, path.item(items.len()), depth + 1)?;
                    height = height.max(item.height + 1);
                    items.push(item.node);
                }
                (Content::List(items), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), &span, "map")?;
                self.check_depth(depth, &span)?;
                let mut entries = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::MappingEnd) {
                        end = end.max(range(&span).end);
                        break;
                    }
                    self.count(&span, 1)?;
                    let Event::Scalar(text, ..) = event else {
                        return Err(stop(&span, "expected a name before the colon, found something composed")
                            .help("write each field as `name: value`"));
                    };
                    let path = path.field(&text);
                    let key = Key { at: At::new(0, range(&span), path.clone()), text: text.into_owned() };
                    let (event, span) = self.next()?;
                    let value = self.node(event, span, path, depth + 1)?;
                    height = height.max(value.height + 1);
                    entries.push((key, value.node));
                }
                (Content::Map(entries), anchor)
            }
            Event::Alias(id) => {
                let Some(anchored) = self.anchors.get(&id).cloned() else {
                    return Err(stop(&span, "this alias stands inside of what it repeats"));
                };
                self.count(&span, anchored.nodes)?;
                self.check_depth(depth + anchored.height, &span)?;
                return Ok(anchored);
            }
            _ => return Err(stop(&span, "this is not YAML: expected a value")),
        };
        let node = Node { at: At::new(0, start..end, path), content };
        let anchored = Anchored { node, nodes: self.nodes - before, height };
        if anchor != 0 {
            self.anchors.insert(anchor, anchored.clone());
        }
        Ok(anchored)
    }

    fn count(&mut self, span: &Span, nodes: usize) -> Result<(), Stop> {
        self.nodes += nodes;
        let most = self.limits.nodes;
        if self.nodes > most {
            return Err(stop(span, &format!("expected at most {most} values, here is one more"))
                .help("values that aliases repeat count each time"));
        }
        Ok(())
    }

    fn check_depth(&self, depth: usize, span: &Span) -> Result<(), Stop> {
        let deepest = self.limits.depth;
        if depth >= deepest {
            return Err(stop(span, &format!("expected at most {deepest} lists and mappings within each other")));
        }
        Ok(())
    }
}

impl Stop {
    fn help(mut self, help: &str) -> Self {
        self.complaint = self.complaint.help(help);
        self
    }
}

fn stop(span: &Span, message: &str) -> Stop {
    Stop { at: At::new(0, range(span), Path::default()), complaint: Complaint::new(message) }
}

fn range(span: &Span) -> std::ops::Range<usize> {
    span.byte_range().unwrap_or(0..0)
}

/// `Ok(true)`: the tag says what the value is.
fn check_tag(tag: Option<&Tag>, span: &Span, own: &str) -> Result<bool, Stop> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.core_suffix() == Some(own) => Ok(true),
        Some(tag) => Err(stop(span, &format!("expected a value without a tag, found `{}`", tag.original()))
            .help("leave out the tag")),
    }
}
