//! The document as a tree with places. Types are checked afterwards, so that every message can name field and line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DefaultMessageFormatter, Error, Location, MessageFormatter, Options, Spanned};

use super::error::Place;
use super::{LeaseFileErrorKind, Mistake};

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) place: Place,
    pub(super) node: Node,
}

/// A value of the kinds that a lease list has, and a word for the others.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Text(String),
    /// A number or boolean: nothing in a lease list is one.
    Other(&'static str),
    Sequence(Vec<Tree>),
    /// In the file's order; keys are unique.
    Mapping(Vec<(String, Place, Tree)>),
}

pub(super) fn parse(text: &str) -> Result<Tree, Mistake> {
    match serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options()) {
        Ok(root) => Ok(root.into()),
        Err(error) => Err(syntax(&error)),
    }
}

/// Deepest nesting. A lease list has three levels.
const MAX_DEPTH: usize = 8;

/// Most keys and values together. A lease has eleven.
const MAX_VALUES: usize = 300_000;

/// Whatever needs more than a lease list does is refused before it costs memory.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_VALUES,
            max_events: 4 * MAX_VALUES,
            max_documents: 2,
            max_aliases: 0,
            max_anchors: 0,
            max_merge_keys: 0,
            max_recorded_anchor_events: 0,
            max_recorded_anchor_bytes: 0,
        },
        emit_comments: false,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        with_snippet: false,
    }
}

fn syntax(error: &Error) -> Mistake {
    let message = if let Error::Budget { .. } = error {
        format!(
            "more than a lease list needs: at most {MAX_DEPTH} levels and {MAX_VALUES} values, no anchors, aliases or \
             merge keys"
        )
    } else {
        DefaultMessageFormatter
            .format_message(error)
            .escape_debug()
            .collect()
    };
    (
        LeaseFileErrorKind::Syntax(message),
        error.location().and_then(place),
    )
}

fn place(location: Location) -> Option<Place> {
    let place = Place {
        line: location.line(),
        column: location.column(),
    };
    (location != Location::UNKNOWN).then_some(place)
}

impl From<Spanned<Node>> for Tree {
    fn from(spanned: Spanned<Node>) -> Self {
        // Every node of a document that was parsed from text has a place.
        let place = place(spanned.referenced).unwrap_or(Place { line: 1, column: 1 });
        Self {
            place,
            node: spanned.value,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Other("binary data"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut sequence = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Node>>()? {
            sequence.push(item.into());
        }
        Ok(Node::Sequence(sequence))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut mapping = Vec::new();
        while let Some((key, value)) = members.next_entry::<Spanned<String>, Spanned<Node>>()? {
            let value: Tree = value.into();
            let place = place(key.referenced).unwrap_or(value.place);
            mapping.push((key.value, place, value));
        }
        Ok(Node::Mapping(mapping))
    }
}
