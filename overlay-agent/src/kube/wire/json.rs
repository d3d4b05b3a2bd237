//! A `NodeList` in JSON, read while it arrives.

use serde::Deserialize;

use super::list::{ListEnd, ListMeta};
use super::scan::Scan;
use super::{MAX_OBJECT, Malformed};
use crate::kube::record::NodeRecord;

/// Where in the text the reader is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Before the `{`.
    Start,
    /// Before a key or the `}` of the list.
    Key,
    /// Before the value of `metadata`.
    Metadata,
    /// Before the `[` of `items`, which may be `null`.
    Items,
    /// Before an item or the `]`.
    Item,
    /// Before the value of another key.
    Other,
    /// After the `}`.
    End,
}

/// A `NodeList` that is being read.
pub(super) struct JsonList {
    place: Place,
    scan: Scan,
    meta: ListMeta,
}

impl Default for JsonList {
    fn default() -> Self {
        Self {
            place: Place::Start,
            scan: Scan::default(),
            meta: ListMeta::default(),
        }
    }
}

impl JsonList {
    /// Reads the beginning of `bytes`: how many were used, and the Node they were, if they were one. Nothing is used while
    /// what they begin with is not complete.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<(usize, Option<NodeRecord>), Malformed> {
        let skip = bytes.iter().take_while(|byte| self.is_between(**byte)).count();
        let rest = bytes.get(skip..).unwrap_or_default();
        let Some(first) = rest.first() else {
            return Ok((skip, None));
        };
        // One byte that leads on to the next place.
        let next = match (self.place, first) {
            (Place::Start, b'{') => Some(Place::Key),
            (Place::Items, b'[') => Some(Place::Item),
            (Place::Key, b'}') => Some(Place::End),
            (Place::Item, b']') => Some(Place::Key),
            (Place::Start, _) => return Err(Malformed::List("it does not begin with {")),
            (Place::End, _) => return Err(Malformed::List("it goes on after its end")),
            (Place::Key | Place::Metadata | Place::Items | Place::Item | Place::Other, _) => None,
        };
        if let Some(next) = next {
            self.place = next;
            return Ok((skip + 1, None));
        }
        let Some(length) = self.scan.end(rest) else {
            if rest.len() > MAX_OBJECT {
                return Err(Malformed::TooLarge);
            }
            if skip > 0 {
                // The next call must begin with the same byte.
                return Ok((skip, None));
            }
            return Ok((0, None));
        };
        self.scan = Scan::default();
        let value = rest.get(..length).unwrap_or_default();
        let used = skip + length;
        match self.place {
            Place::Key => {
                self.place = match serde_json::from_slice::<String>(value)?.as_str() {
                    "metadata" => Place::Metadata,
                    "items" => Place::Items,
                    _ => Place::Other,
                };
            }
            Place::Metadata => {
                let Meta {
                    resource_version,
                    next,
                } = serde_json::from_slice(value)?;
                self.meta = ListMeta {
                    resource_version: resource_version.unwrap_or_default(),
                    next: next.unwrap_or_default(),
                };
                self.place = Place::Key;
            }
            Place::Item => return Ok((used, Some(serde_json::from_slice(value)?))),
            Place::Start | Place::Items | Place::Other | Place::End => self.place = Place::Key,
        }
        if length == 0 {
            return Err(Malformed::List("a value is missing"));
        }
        Ok((used, None))
    }

    /// After the last byte.
    pub(super) fn end(self) -> Result<ListEnd, Malformed> {
        if self.place == Place::End {
            self.meta.end()
        } else {
            Err(Malformed::Truncated)
        }
    }

    fn is_between(&self, byte: u8) -> bool {
        let separator = match self.place {
            Place::Start | Place::End => false,
            Place::Key | Place::Item => byte == b',',
            Place::Metadata | Place::Items | Place::Other => byte == b':',
        };
        separator || byte.is_ascii_whitespace()
    }
}

/// `metav1.ListMeta`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}
