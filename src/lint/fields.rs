//! Which fields a Rollout may have, and of which types: what the API server keeps, drops and refuses.
//!
//! `fields.txt` is the CRD's schema in a short form, printed by `tests/cluster/fields`. A line is a mapping: its number,
//! `+` if it keeps fields that it does not know, then its fields as `name:type`, or `name!type` where the field must be
//! there. Types: `s` text, `i` integer, `n` number, `b` boolean, `x` integer or text, `*` anything, `[T` a list of T,
//! `{T` a mapping with any names and values of T, a number the mapping of that line.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::finding::Findings;
use super::rules;
use crate::text::node::{Content, Node};
use crate::text::problem::{closest, quoted};

static KNOWN: LazyLock<Known> = LazyLock::new(|| Known::read(include_str!("fields.txt")));

#[derive(Debug)]
struct Known {
    mappings: Vec<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    keeps_unknown: bool,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    required: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
    IntegerOrText,
    Anything,
    List(Box<Kind>),
    Values(Box<Kind>),
    Fields(usize),
}

/// Notes what the API server drops or refuses, and returns what it would store.
pub(super) fn check(object: &Node, findings: &mut Findings) -> Value {
    let known = &*KNOWN;
    let mut root = Map::new();
    check_metadata(object, findings);
    let mapping = known.mappings.last().expect("fields.txt has lines");
    for (key, value) in object.entries() {
        match key.text.as_str() {
            "apiVersion" | "kind" | "metadata" | "status" => {
                root.insert(key.text.clone(), any(value));
            }
            _ => {}
        }
    }
    if let Value::Object(checked) = known.mapping(object, mapping, None, findings) {
        root.extend(checked);
    }
    Value::Object(root)
}

/// The API server's own, the same for every kind of object.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

fn check_metadata(object: &Node, findings: &mut Findings) {
    let Some(metadata) = object.get("metadata") else { return };
    for (key, value) in metadata.entries() {
        if !METADATA.contains(&key.text.as_str()) {
            let near = closest(&key.text, METADATA);
            findings.add(&rules::UNKNOWN_FIELD, &key.at, unknown(&key.text), near.map(did_you_mean));
        } else if matches!(key.text.as_str(), "annotations" | "labels") {
            KNOWN.kind(value, &Kind::Values(Box::new(Kind::Text)), findings);
        }
    }
}

fn unknown(name: &str) -> String {
    format!("the API server knows no field {} here and drops it", quoted(name))
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

impl Known {
    fn read(text: &'static str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mappings = lines.map(|line| {
            let words = line.split(' ').skip(1);
            let fields = words.clone().filter(|word| !word.is_empty() && *word != "+").map(|word| {
                let end = word.find([':', '!']).expect("a field has a type");
                let required = word[end..].starts_with('!');
                Field { name: &word[..end], required, kind: kind(&word[end + 1..]) }
            });
            Mapping { keeps_unknown: words.clone().any(|word| word == "+"), fields: fields.collect() }
        });
        Self { mappings: mappings.collect() }
    }

    fn mapping(&self, node: &Node, mapping: &Mapping, parent: Option<&Mapping>, findings: &mut Findings) -> Value {
        let Content::Map(entries) = &node.content else {
            return wrong_type(node, "a mapping", findings);
        };
        let is_root = parent.is_none();
        let mut kept = Map::new();
        let mut misspelt = Vec::new();
        for (i, (key, value)) in entries.iter().enumerate() {
            if is_root && matches!(key.text.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
                continue;
            }
            if entries[..i].iter().any(|(earlier, _)| earlier.text == key.text) {
                let message = format!("{} is written twice", quoted(&key.text));
                findings.add(&rules::WRITTEN_TWICE, &key.at, message, None);
            }
            let Some(field) = mapping.fields.iter().find(|field| field.name == key.text) else {
                if mapping.keeps_unknown {
                    kept.insert(key.text.clone(), any(value));
                    continue;
                }
                let near = closest(&key.text, mapping.fields.iter().map(|field| field.name));
                misspelt.extend(near);
                self.unknown(key, mapping, parent, near, findings);
                continue;
            };
            if value.is_nothing() {
                continue;
            }
            let checked = match &field.kind {
                Kind::Fields(number) => self.mapping(value, &self.mappings[*number], Some(mapping), findings),
                kind => self.kind(value, kind, findings),
            };
            kept.insert(key.text.clone(), checked);
        }
        for field in mapping.fields.iter().filter(|field| field.required) {
            if !kept.contains_key(field.name) && !misspelt.contains(&field.name) {
                let message = format!("expected the field {}, which is missing", quoted(field.name));
                findings.add(&rules::MISSING_FIELD, &node.at.missing(field.name), message, None);
            }
        }
        Value::Object(kept)
    }

    fn unknown(
        &self,
        key: &crate::text::node::Key,
        mapping: &Mapping,
        parent: Option<&Mapping>,
        near: Option<&str>,
        findings: &mut Findings,
    ) {
        let is_provider = mapping.fields.iter().any(|field| field.name == "managedRoutes");
        let within = |mapping: &Mapping| mapping.fields.iter().any(|field| field.name == key.text);
        let child = mapping.fields.iter().find(|field| match field.kind {
            Kind::Fields(number) => within(&self.mappings[number]),
            _ => false,
        });
        let remedy = match (near, child) {
            (Some(near), _) => did_you_mean(near),
            (None, Some(child)) => format!("it belongs into `{}` here", child.name),
            (None, None) if parent.is_some_and(within) => "it belongs one level further out".to_owned(),
            _ if mapping.fields.len() > 12 => "leave it out, or look for its place: kubectl explain rollout".to_owned(),
            _ => {
                let names: Vec<String> = mapping.fields.iter().map(|field| format!("`{}`", field.name)).collect();
                format!("leave it out; the fields here are {}", names.join(", "))
            }
        };
        if is_provider {
            let message = format!("there is no traffic provider {}; the API server drops it", quoted(&key.text));
            findings.add(&rules::UNKNOWN_PROVIDER, &key.at, message, Some(remedy));
        } else {
            findings.add(&rules::UNKNOWN_FIELD, &key.at, unknown(&key.text), Some(remedy));
        }
    }

    fn kind(&self, node: &Node, kind: &Kind, findings: &mut Findings) -> Value {
        let scalar = Scalar::of(node);
        match (kind, &scalar) {
            (Kind::Anything, _) => any(node),
            (Kind::Text, Some(Scalar::Text(_)))
            | (Kind::Boolean, Some(Scalar::Boolean(_)))
            | (Kind::Integer, Some(Scalar::Integer(_)))
            | (Kind::Number, Some(Scalar::Integer(_) | Scalar::Number(_)))
            | (Kind::IntegerOrText, Some(Scalar::Integer(_) | Scalar::Text(_))) => any(node),
            // Whole numbers may be written as 1.0 or 1e3.
            (Kind::Integer | Kind::IntegerOrText, Some(Scalar::Number(number))) if number.fract() == 0.0 => any(node),
            (Kind::List(item), _) => match &node.content {
                Content::List(items) => {
                    Value::Array(items.iter().map(|node| self.kind(node, item, findings)).collect())
                }
                _ => wrong_type(node, "a list", findings),
            },
            (Kind::Values(value), _) => match &node.content {
                Content::Map(entries) => {
                    let written = entries.iter().filter(|(_, value)| !value.is_nothing());
                    written.map(|(key, node)| (key.text.clone(), self.kind(node, value, findings))).collect()
                }
                _ => wrong_type(node, "a mapping", findings),
            },
            (Kind::Fields(number), _) => self.mapping(node, &self.mappings[*number], Some(&EMPTY), findings),
            (Kind::Text, _) => wrong_type(node, "text", findings),
            (Kind::Integer, _) => wrong_type(node, "a whole number", findings),
            (Kind::Number, _) => wrong_type(node, "a number", findings),
            (Kind::Boolean, _) => wrong_type(node, "true or false", findings),
            (Kind::IntegerOrText, _) => wrong_type(node, "a whole number or text", findings),
        }
    }
}

/// Around the items of a list no field is at home.
static EMPTY: Mapping = Mapping { keeps_unknown: false, fields: Vec::new() };

fn kind(sign: &str) -> Kind {
    match sign.split_at(1) {
        ("s", _) => Kind::Text,
        ("i", _) => Kind::Integer,
        ("n", _) => Kind::Number,
        ("b", _) => Kind::Boolean,
        ("x", _) => Kind::IntegerOrText,
        ("*", _) => Kind::Anything,
        ("[", rest) => Kind::List(Box::new(kind(rest))),
        ("{", rest) => Kind::Values(Box::new(kind(rest))),
        _ => Kind::Fields(sign.parse().expect("a number is all that is left")),
    }
}

fn wrong_type(node: &Node, expected: &str, findings: &mut Findings) -> Value {
    let (found, remedy) = match Scalar::of(node) {
        Some(Scalar::Integer(_) | Scalar::Number(_)) if expected == "text" => ("a number", Some("put it in quotes")),
        Some(Scalar::Boolean(_)) if expected == "text" => ("true or false", Some("put it in quotes")),
        Some(Scalar::Text(text)) if Scalar::plain(&text) != Scalar::Text(text.clone()) => {
            ("text, because of the quotes", Some("leave out the quotes"))
        }
        Some(Scalar::Integer(_) | Scalar::Number(_)) => ("a number", None),
        Some(Scalar::Boolean(_)) => ("true or false", None),
        Some(Scalar::Text(_)) => ("text", None),
        Some(Scalar::Nothing) | None => (node.kind(), None),
    };
    let found = match node.as_text() {
        Some(text) => format!("{} ({found})", quoted(text)),
        None => found.to_owned(),
    };
    let message = format!("expected {expected}, found {found}");
    findings.add(&rules::WRONG_TYPE, &node.at, message, remedy.map(str::to_owned));
    any(node)
}

/// What a single value means to kubectl and Helm, which still read YAML 1.1: `on`, `yes` and `0777` are no texts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Nothing,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
}

impl Scalar {
    pub(super) fn of(node: &Node) -> Option<Self> {
        match &node.content {
            Content::Text { text, plain: true } => Some(Self::plain(text)),
            Content::Text { text, plain: false } => Some(Self::Text(text.clone())),
            Content::List(_) | Content::Map(_) => None,
        }
    }

    fn plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Nothing,
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Self::Boolean(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
                return Self::Boolean(false);
            }
            _ => {}
        }
        if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
            return Self::Text(text.to_owned());
        }
        let digits = text.replace('_', "");
        let (sign, magnitude) = match digits.strip_prefix('-') {
            Some(rest) => ("-", rest),
            None => ("", digits.strip_prefix('+').unwrap_or(&digits)),
        };
        let (radix, rest) = match magnitude.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("0x") => (16, &magnitude[2..]),
            Some("0b") => (2, &magnitude[2..]),
            Some("0o") => (8, &magnitude[2..]),
            Some(_) if magnitude.starts_with('0') => (8, &magnitude[1..]),
            _ => (10, magnitude),
        };
        if !rest.starts_with(['+', '-'])
            && let Ok(integer) = i64::from_str_radix(&format!("{sign}{rest}"), radix)
        {
            return Self::Integer(integer);
        }
        let is_float = digits.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
            && digits.bytes().any(|byte| byte.is_ascii_digit());
        match digits.parse::<f64>() {
            Ok(number) if is_float && number.is_finite() => Self::Number(number),
            _ => Self::Text(text.to_owned()),
        }
    }
}

/// The tree as JSON, nothing left out but nulls in mappings, which the API server drops.
pub(super) fn any(node: &Node) -> Value {
    match &node.content {
        Content::List(items) => Value::Array(items.iter().map(any).collect()),
        Content::Map(entries) => {
            let written = entries.iter().filter(|(_, value)| !value.is_nothing());
            written.map(|(key, value)| (key.text.clone(), any(value))).collect()
        }
        Content::Text { .. } => match Scalar::of(node) {
            None | Some(Scalar::Nothing) => Value::Null,
            Some(Scalar::Boolean(boolean)) => boolean.into(),
            Some(Scalar::Integer(integer)) => integer.into(),
            Some(Scalar::Number(number)) if number.fract() == 0.0 && number.abs() < 9e15 => (number as i64).into(),
            Some(Scalar::Number(number)) => number.into(),
            Some(Scalar::Text(text)) => text.into(),
        },
    }
}
