//! From the YAML tree to typed fields. Reading never stops at a problem: what cannot be read is noted and left out, and
//! the reader goes on, so that one run shows every problem of a file.

use std::borrow::Cow;
use std::fmt::Debug;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::leaf::{Kind, Leaf};
use super::node::{Content, Key, Node};
use super::problem::{At, Complaint, Problems, closest, quoted};

/// What can be read from a node. `None`: at least one problem was added.
pub(super) trait Read: Sized {
    /// Such as `a list`; for messages.
    fn what() -> String;
    fn read(node: &Node, problems: &mut Problems) -> Option<Self>;
}

/// A field of a mapping.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    /// It was written, or had to be, and its problems are noted already.
    Broken,
    Given(T),
}

impl<T> Field<T> {
    pub(super) fn get(&self) -> Option<&T> {
        match self {
            Field::Given(value) => Some(value),
            Field::Absent | Field::Broken => None,
        }
    }

    pub(super) fn get_mut_or_default(&mut self) -> &mut T
    where
        T: Default,
    {
        if !matches!(self, Field::Given(_)) {
            *self = Field::Given(T::default());
        }
        match self {
            Field::Given(value) => value,
            Field::Absent | Field::Broken => unreachable!("it was given a value above"),
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }

    pub(super) fn is_not_given(&self) -> bool {
        self.get().is_none()
    }
}

impl<K: Kind> Field<Leaf<K>> {
    pub(super) fn value(&self) -> Option<K::Value> {
        self.get().map(|leaf| leaf.value.clone())
    }

    /// The value, or what applies when there is none.
    pub(super) fn or(&self, default: K::Value) -> K::Value {
        self.value().unwrap_or(default)
    }
}

/// A list; items that could not be read are left out.
#[derive(Clone, Debug)]
pub(super) struct List<T>(pub Vec<T>);

/// A list with at least one item; items that could not be read are left out.
#[derive(Clone, Debug)]
pub(super) struct NonEmpty<T>(pub Vec<T>);

/// A mapping whose keys are names that the writer chose. At least one.
#[derive(Clone, Debug)]
pub(super) struct Named<K: Kind, T> {
    pub at: At,
    /// In the order of the file. `None`: what stands there could not be read.
    pub entries: Vec<(Leaf<K>, Option<T>)>,
    /// No entry was left out.
    pub complete: bool,
}

impl<K: Kind, T> Named<K, T> {
    /// The entries that could be read.
    pub(super) fn read(&self) -> impl Iterator<Item = (&Leaf<K>, &T)> {
        self.entries.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)))
    }
}

impl<T: Read> Read for List<T> {
    fn what() -> String {
        "a list".to_owned()
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Content::List(items) = &node.content else {
            return refuse(node, &Self::what(), problems, "write its items as `[a, b]`, or each on a line after `- `");
        };
        Some(Self(items.iter().filter_map(|item| T::read(item, problems)).collect()))
    }
}

impl<T: Read> Read for NonEmpty<T> {
    fn what() -> String {
        "a list".to_owned()
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let List(items) = List::read(node, problems)?;
        let Content::List(nodes) = &node.content else { return None };
        if nodes.is_empty() {
            let what = format!("a list with at least one item ({})", T::what());
            problems.add(&node.at, Complaint::expected(&what, "an empty one"));
            return None;
        }
        Some(Self(items))
    }
}

impl<K: Kind, T: Read> Read for Named<K, T> {
    fn what() -> String {
        format!("a mapping from {} to {}", K::what(), T::what())
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Content::Map(map) = &node.content else {
            return refuse(node, &Self::what(), problems, "write each entry as `name: value`");
        };
        if map.is_empty() {
            problems.add(&node.at, Complaint::expected(&Self::what(), "an empty one"));
            return None;
        }
        let mut entries: Vec<(Leaf<K>, Option<T>)> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        let mut complete = true;
        for (key, value) in map {
            if key.text == MERGE {
                problems.add(&key.at, merge());
                complete = false;
                continue;
            }
            let value = T::read(value, problems);
            match K::parse(&key.text, true) {
                Err(complaint) => {
                    problems.add(&key.at, complaint);
                    complete = false;
                }
                Ok(name) => {
                    let leaf = Leaf { value: name, text: key.text.clone(), at: key.at.clone() };
                    if let Some(earlier) = seen.insert(leaf.canonical().into_owned(), key.at.clone()) {
                        problems.add(&key.at, twice(&key.text, &earlier));
                    } else {
                        entries.push((leaf, value));
                    }
                }
            }
        }
        Some(Self { at: node.at.clone(), entries, complete })
    }
}

fn twice(name: &str, earlier: &At) -> Complaint {
    Complaint::new(format!("{} is written twice", quoted(name)))
        .also(earlier, "first written here")
        .help("keep one of the two")
}

/// The fields of one mapping whose names are fixed.
pub(super) struct Fields<'a> {
    at: At,
    known: Vec<(&'a Key, &'a Node)>,
    /// Fields that unknown names were probably meant for: not to be called missing as well.
    misspelt: Vec<String>,
}

impl<'a> Fields<'a> {
    /// Notes unknown and repeated names. `None`: not a mapping.
    pub(super) fn of(node: &'a Node, names: &[&str], problems: &mut Problems) -> Option<Self> {
        let Content::Map(map) = &node.content else {
            let help = match &node.content {
                _ if node.is_nothing() => "write `{}` to take every default, or leave the field out".to_owned(),
                Content::Text { text, .. } if text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                    format!("for example `{{ {}: {text} }}`", names.first().unwrap_or(&""))
                }
                _ => format!("the fields here are {}", listed(names)),
            };
            return refuse(node, &fields_named(names), problems, &help);
        };
        let mut known: Vec<(&Key, &Node)> = Vec::new();
        let mut misspelt = Vec::new();
        for (key, value) in map {
            if !names.contains(&key.text.as_str()) {
                problems.add(&key.at, unknown(&key.text, names));
                misspelt.extend(closest(&key.text, names.iter().copied()).map(str::to_owned));
            } else if let Some((earlier, _)) = known.iter().find(|(earlier, _)| earlier.text == key.text) {
                problems.add(&key.at, twice(&key.text, &earlier.at));
            } else {
                known.push((key, value));
            }
        }
        Some(Self { at: node.at.clone(), known, misspelt })
    }

    pub(super) fn optional<T: Read>(&self, name: &str, problems: &mut Problems) -> Field<T> {
        match self.known.iter().find(|(key, _)| key.text == name) {
            None if self.misspelt.iter().any(|misspelt| misspelt == name) => Field::Broken,
            None => Field::Absent,
            Some((_, node)) => T::read(node, problems).map_or(Field::Broken, Field::Given),
        }
    }

    pub(super) fn required<T: Read>(&self, name: &str, problems: &mut Problems) -> Field<T> {
        let field = self.optional(name, problems);
        if field.is_absent() {
            let complaint = Complaint::new(format!("expected the field {}, which is missing", quoted(name)));
            problems.add(&self.at.missing(name), complaint.help(format!("add `{name}:` with {}", T::what())));
            return Field::Broken;
        }
        field
    }
}

fn unknown(name: &str, names: &[&str]) -> Complaint {
    if name == MERGE {
        return merge();
    }
    let complaint = Complaint::new(format!("there is no field {} here", quoted(name)));
    match closest(name, names.iter().copied()) {
        Some(closest) => complaint.help(format!("did you mean `{closest}`?")),
        None => complaint.help(format!("the fields here are {}", listed(names))),
    }
}

/// YAML 1.1's way to copy one mapping's entries into another. It is not part of YAML 1.2.
const MERGE: &str = "<<";

fn merge() -> Complaint {
    Complaint::new("merge keys are not followed").help("write the entries out, or repeat the whole value with an alias")
}

/// Notes that the node is not what it should be.
pub(super) fn refuse<T>(node: &Node, what: &str, problems: &mut Problems, help: &str) -> Option<T> {
    let found = match &node.content {
        Content::Text { text, .. } if !node.is_nothing() => quoted(text),
        _ => node.kind().to_owned(),
    };
    let help = match help {
        "" if node.is_nothing() => Some("leave the field out to get its default".to_owned()),
        "" => None,
        help => Some(help.to_owned()),
    };
    problems.add(&node.at, Complaint::expected(what, &found).maybe_help(help));
    None
}

pub(super) fn fields_named(names: &[&str]) -> String {
    match names {
        [one] => format!("a mapping with the field `{one}`"),
        _ => format!("a mapping with fields such as `{}`", names.first().unwrap_or(&"")),
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Declares the type of one mapping: its fields with their names in the file, their types and their defaults. The same
/// lines give the reader, the schema and the printer, so that these cannot differ. The comments become the descriptions
/// that an editor shows.
macro_rules! written {
    ($(
        $(#[$meta:meta])*
        $name:ident {
            $(required { $( $(#[$rmeta:meta])* $rwire:literal $rfield:ident: $rty:ty; )* })?
            $(optional { $( $(#[$ometa:meta])* $owire:literal $ofield:ident: $oty:ty $(= $default:literal)?; )* })?
        }
    )*) => { $(
        #[derive(Clone, Debug, Default, serde::Serialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        $(#[$meta])*
        pub(super) struct $name {
            #[serde(skip)]
            #[allow(dead_code, reason = "not every mapping is pointed at as a whole")]
            pub(super) at: $crate::config::problem::At,
            $($(
                $(#[$rmeta])*
                #[serde(rename = $rwire, skip_serializing_if = "Field::is_not_given")]
                #[schemars(required)]
                pub(super) $rfield: Field<$rty>,
            )*)?
            $($(
                $(#[$ometa])*
                #[serde(rename = $owire, default, skip_serializing_if = "Field::is_not_given")]
                $(#[schemars(extend("default" = $default))])?
                pub(super) $ofield: Field<$oty>,
            )*)?
        }

        impl $name {
            pub(super) const FIELDS: &[&str] = &[$($($rwire,)*)? $($($owire,)*)?];
        }

        impl Read for $name {
            fn what() -> String {
                $crate::config::read::fields_named(Self::FIELDS)
            }

            fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
                let fields = Fields::of(node, Self::FIELDS, problems)?;
                Some(Self {
                    at: node.at.clone(),
                    $($($rfield: fields.required($rwire, problems),)*)?
                    $($($ofield: fields.optional($owire, problems),)*)?
                })
            }
        }
    )* };
}
pub(super) use written;

impl<T: Serialize> Serialize for Field<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T: Serialize> Serialize for NonEmpty<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<K: Kind, T: Serialize> Serialize for Named<K, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.entries.len()))?;
        for (key, value) in self.read() {
            map.serialize_entry(&*key.canonical(), value)?;
        }
        map.end()
    }
}

/// Schemas that stand where they are used, so that a field's own description stays with it.
macro_rules! inline_schema {
    ($name:literal) => {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> Cow<'static, str> {
            $name.into()
        }
    };
}
pub(super) use inline_schema;

impl<T: JsonSchema> JsonSchema for Field<T> {
    inline_schema!("Field");

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    inline_schema!("List");

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": generator.subschema_for::<T>() })
    }
}

impl<T: JsonSchema> JsonSchema for NonEmpty<T> {
    inline_schema!("NonEmpty");

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": generator.subschema_for::<T>(), "minItems": 1 })
    }
}

impl<K: Kind, T: JsonSchema> JsonSchema for Named<K, T> {
    inline_schema!("Named");

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<T>(),
            "minProperties": 1,
        });
        if let Some(pattern) = K::schema().get("pattern") {
            schema.insert("propertyNames".to_owned(), serde_json::json!({ "pattern": pattern }));
        }
        schema
    }
}
