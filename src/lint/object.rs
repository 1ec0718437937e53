//! The objects of an input, and one Rollout as the rules look at it: the tree with its places, and beside it what
//! [`crate::control`] makes of the object that the API server would store.

use serde_json::Value;

use super::fields::Scalar;
use crate::control::rollout::{Mode, Rollout};
use crate::text::node::{Content, Key, Node};

/// All objects of the documents; the items of lists count one by one.
pub(super) fn objects(documents: &[Node]) -> Vec<&Node> {
    documents
        .iter()
        .flat_map(|document| match document.get("items") {
            Some(items) if kind(document).ends_with("List") => items.items().iter().collect(),
            _ => vec![document],
        })
        .collect()
}

pub(super) fn kind(object: &Node) -> &str {
    object.get("kind").and_then(Node::as_text).unwrap_or_default()
}

pub(super) fn name(object: &Node) -> &str {
    metadata(object, "name")
}

pub(super) fn namespace(object: &Node) -> &str {
    metadata(object, "namespace")
}

/// `namespace/name`, as far as they are written.
pub(super) fn full_name(object: &Node) -> String {
    match (namespace(object), name(object)) {
        ("", "") => "(no name)".to_owned(),
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn metadata<'a>(object: &'a Node, field: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Node::as_text).unwrap_or_default()
}

/// YAML 1.1's way to copy one mapping's entries into another, which kubectl and Helm follow.
pub(super) fn follow_merges(node: &mut Node) {
    match &mut node.content {
        Content::Text { .. } => {}
        Content::List(items) => items.iter_mut().for_each(follow_merges),
        Content::Map(entries) => {
            entries.iter_mut().for_each(|(_, value)| follow_merges(value));
            while let Some(i) = entries.iter().position(|(key, value)| key.text == "<<" && mergeable(value)) {
                let (_, merged) = entries.remove(i);
                let sources = match merged.content {
                    Content::List(items) => items,
                    _ => vec![merged],
                };
                // The first that has a key wins, and what is written in place wins over all.
                for (key, value) in sources.into_iter().flat_map(|source| match source.content {
                    Content::Map(entries) => entries,
                    _ => Vec::new(),
                }) {
                    if entries.iter().all(|(own, _)| own.text != key.text) {
                        entries.push((key, value));
                    }
                }
            }
        }
    }
}

fn mergeable(value: &Node) -> bool {
    match &value.content {
        Content::Map(_) => true,
        Content::List(items) => items.iter().all(|item| matches!(item.content, Content::Map(_))),
        Content::Text { .. } => false,
    }
}

/// A canary Rollout's parts with their places.
pub(super) struct View<'a> {
    pub spec: (&'a Key, &'a Node),
    pub canary: (&'a Key, &'a Node),
    pub routing: Option<(&'a Key, &'a Node)>,
    pub steps: Vec<Step<'a>>,
    pub mode: Mode,
    /// What all weights add up to.
    pub total: i64,
}

pub(super) struct Step<'a> {
    pub node: &'a Node,
    /// From 1, as people count.
    pub number: usize,
}

impl<'a> View<'a> {
    /// `None`: no canary strategy, or one of a shape that the API server refuses.
    pub(super) fn new(object: &'a Node, stored: &Value) -> Option<Self> {
        let rollout: Rollout = serde_json::from_value(stored.clone()).ok()?;
        let spec = object.entry("spec")?;
        let canary = spec.1.get("strategy")?.entry("canary")?;
        let steps = canary.1.get("steps").map(Node::items).unwrap_or_default();
        Some(Self {
            spec,
            canary,
            routing: canary.1.entry("trafficRouting"),
            steps: steps.iter().zip(1..).map(|(node, number)| Step { node, number }).collect(),
            mode: rollout.mode(),
            total: i64::from(rollout.total()),
        })
    }

    /// Whether one of these providers is configured.
    pub(super) fn has_provider(&self, names: &[&str]) -> bool {
        names.iter().any(|name| match self.routing.and_then(|(_, routing)| routing.get(name)) {
            Some(plugins) if *name == "plugins" => !plugins.entries().is_empty(),
            provider => provider.is_some(),
        })
    }

    pub(super) fn replicas(&self) -> Option<i64> {
        self.spec.1.get("replicas").and_then(integer)
    }
}

impl Step<'_> {
    pub(super) fn weight(&self) -> Option<i64> {
        self.node.get("setWeight").and_then(integer)
    }

    /// Takes time: the weight before it is held.
    pub(super) fn holds(&self) -> bool {
        ["pause", "analysis", "experiment", "plugin"].iter().any(|kind| self.node.get(kind).is_some())
    }
}

pub(super) fn integer(node: &Node) -> Option<i64> {
    match Scalar::of(node)? {
        Scalar::Integer(integer) => Some(integer),
        Scalar::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(number as i64),
        _ => None,
    }
}

pub(super) fn is_true(node: Option<&Node>) -> bool {
    node.and_then(Scalar::of) == Some(Scalar::Boolean(true))
}
