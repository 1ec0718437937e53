//! Single values: what each kind of them accepts, how it complains, and what a schema says about it. The kinds are here
//! and in `amount`, `address` and `name`.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, Serializer};

use super::node::{Content, Node};
use super::problem::{At, Complaint, Problems, closest, quoted};
use super::read::{Read, inline_schema, refuse};
use crate::route::Role;

/// One value, the text it was read from, and its place.
#[derive(Clone, Debug)]
pub(super) struct Leaf<K: Kind> {
    pub value: K::Value,
    pub text: String,
    pub at: At,
}

/// What a value may be.
pub(super) trait Kind: Sized {
    type Value: Clone + Debug;

    /// Such as `a duration such as 10s`; for messages.
    fn what() -> String;
    /// `plain`: without quotes.
    fn parse(text: &str, plain: bool) -> Result<Self::Value, Complaint>;
    fn schema() -> Schema;
    /// The value as `--print-config` writes it.
    fn print<'a>(_value: &Self::Value, text: &'a str) -> Printed<'a> {
        Printed::Text(text.into())
    }
}

pub(super) enum Printed<'a> {
    Text(Cow<'a, str>),
    Number(u64),
    Switch(bool),
}

impl<K: Kind> Leaf<K> {
    /// The same text for values that mean the same.
    pub(super) fn canonical(&self) -> Cow<'_, str> {
        match K::print(&self.value, &self.text) {
            Printed::Text(text) => text,
            Printed::Number(number) => number.to_string().into(),
            Printed::Switch(switch) => switch.to_string().into(),
        }
    }
}

impl<K: Kind> Read for Leaf<K> {
    fn what() -> String {
        K::what()
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.content {
            Content::Text { text, plain } if !node.is_nothing() => match K::parse(text, *plain) {
                Ok(value) => Some(Self { value, text: text.clone(), at: node.at.clone() }),
                Err(complaint) => {
                    problems.add(&node.at, complaint);
                    None
                }
            },
            _ => refuse(node, &K::what(), problems, ""),
        }
    }
}

impl<K: Kind> Serialize for Leaf<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match K::print(&self.value, &self.text) {
            Printed::Text(text) => serializer.serialize_str(&text),
            Printed::Number(number) => serializer.serialize_u64(number),
            Printed::Switch(switch) => serializer.serialize_bool(switch),
        }
    }
}

impl<K: Kind> JsonSchema for Leaf<K> {
    inline_schema!("Leaf");

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        K::schema()
    }
}

pub(super) fn wrong<K: Kind>(text: &str) -> Complaint {
    Complaint::expected(&K::what(), &quoted(text))
}

/// Any text. Numbers and `true` are taken as they are written.
#[derive(Clone, Debug)]
pub(super) struct Text;

impl Kind for Text {
    type Value = String;

    fn what() -> String {
        "a text".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        match text {
            "" => Err(Complaint::expected("a text", "an empty one")),
            _ if text.len() > 256 => Err(wrong::<Self>(text).help("at most 256 bytes")),
            _ if text.chars().any(char::is_control) => Err(wrong::<Self>(text).help("leave out control characters")),
            _ => Ok(text.to_owned()),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// `true` or `false`.
#[derive(Clone, Debug)]
pub(super) struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn what() -> String {
        "`true` or `false`".to_owned()
    }

    fn parse(text: &str, plain: bool) -> Result<bool, Complaint> {
        let value = match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => true,
            "false" | "no" | "off" => false,
            _ => return Err(wrong::<Self>(text)),
        };
        match text {
            "true" | "false" if plain => Ok(value),
            _ => Err(wrong::<Self>(text).help(format!("write {value} without quotes"))),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "boolean" })
    }

    fn print<'a>(value: &bool, _: &'a str) -> Printed<'a> {
        Printed::Switch(*value)
    }
}

/// Only `true`, for fields that say something by being there.
#[derive(Clone, Debug)]
pub(super) struct OnlyTrue;

impl Kind for OnlyTrue {
    type Value = bool;

    fn what() -> String {
        "`true`".to_owned()
    }

    fn parse(text: &str, plain: bool) -> Result<bool, Complaint> {
        match (text, plain) {
            ("true", true) => Ok(true),
            ("false", true) => Err(wrong::<Self>(text).help("leave the field out instead")),
            _ => Err(wrong::<Self>(text)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "const": true })
    }

    fn print<'a>(value: &bool, _: &'a str) -> Printed<'a> {
        Printed::Switch(*value)
    }
}

/// What `K` accepts, or `none`.
#[derive(Clone, Debug)]
pub(super) struct OrNone<K>(PhantomData<K>);

impl<K: Kind> Kind for OrNone<K> {
    type Value = Option<K::Value>;

    fn what() -> String {
        format!("{}, or `none`", K::what())
    }

    fn parse(text: &str, plain: bool) -> Result<Self::Value, Complaint> {
        match text {
            "none" => Ok(None),
            _ => K::parse(text, plain).map(Some).map_err(|complaint| complaint.note("`none` is possible, too")),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [K::schema(), { "const": "none" }] })
    }

    fn print<'a>(value: &Self::Value, text: &'a str) -> Printed<'a> {
        value.as_ref().map_or(Printed::Text(text.into()), |value| K::print(value, text))
    }
}

/// A name from a closed list.
pub(super) trait Word: Copy + Debug + 'static {
    const ALL: &[(&str, Self)];
}

#[derive(Clone, Debug)]
pub(super) struct OneOf<W>(PhantomData<W>);

impl<W: Word> Kind for OneOf<W> {
    type Value = W;

    fn what() -> String {
        let words: Vec<_> = W::ALL.iter().map(|(word, _)| format!("`{word}`")).collect();
        format!("one of {}", words.join(", "))
    }

    fn parse(text: &str, _: bool) -> Result<W, Complaint> {
        let found = W::ALL.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let closest = closest(text, W::ALL.iter().map(|(word, _)| *word));
            wrong::<Self>(text).maybe_help(closest.map(|word| format!("did you mean `{word}`?")))
        })
    }

    fn schema() -> Schema {
        let words: Vec<_> = W::ALL.iter().map(|(word, _)| *word).collect();
        json_schema!({ "enum": words })
    }
}

impl Word for Role {
    const ALL: &[(&str, Self)] =
        &[("stable", Role::Stable), ("canary", Role::Canary), ("experiment", Role::Experiment)];
}

/// What to log: a level, or directives such as `info,splitway=debug`.
#[derive(Clone, Debug)]
pub(super) struct LogLevel;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Kind for LogLevel {
    type Value = String;

    fn what() -> String {
        "a level (`off`, `error`, `warn`, `info`, `debug`, `trace`) or directives such as `info,splitway=debug`"
            .to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<String, Complaint> {
        if LEVELS.contains(&text) {
            return Ok(text.to_owned());
        }
        if !text.contains(['=', ',']) {
            let closest = closest(text, LEVELS);
            return Err(wrong::<Self>(text).maybe_help(closest.map(|level| format!("did you mean `{level}`?"))));
        }
        // Its parser panics over some other spaces than those of ASCII.
        if !text.is_ascii() {
            return Err(wrong::<Self>(text).help("directives are written in ASCII"));
        }
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(wrong::<Self>(text).note(error.to_string())),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}
