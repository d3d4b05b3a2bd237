//! A JSON object as Go's `encoding/json` sees it.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::NetConfError;

/// The members of a JSON object in the file's order, and where the object stands in the file.
pub(super) struct Object<'p> {
    path: &'p str,
    members: Vec<(String, Box<RawValue>)>,
}

impl Object<'static> {
    /// The document's top level.
    pub(super) fn parse(text: &str) -> Result<Self, NetConfError> {
        let Members(members) = serde_json::from_str(text)?;
        Ok(Self { path: "", members })
    }
}

impl Object<'_> {
    /// The text of a key's value; `None` when it is absent or null.
    fn raw(&self, key: &str) -> Option<&RawValue> {
        // Go assigns each member to the field it finds, so the last one stays; null assigns nothing.
        let last = self
            .members
            .iter()
            .rev()
            .find(|(name, raw)| name.eq_ignore_ascii_case(key) && raw.get() != "null");
        last.map(|(_, raw)| &**raw)
    }

    fn get(&self, key: &str) -> Result<Option<Value>, NetConfError> {
        Ok(self
            .raw(key)
            .map(|raw| serde_json::from_str(raw.get()))
            .transpose()?)
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, NetConfError> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.value_error(key, &other, "true or false")),
        }
    }

    pub(super) fn string(&self, key: &str, expected: &'static str) -> Result<Option<String>, NetConfError> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(self.value_error(key, &other, expected)),
        }
    }

    pub(super) fn integer(
        &self,
        key: &str,
        allowed: RangeInclusive<u32>,
        expected: &'static str,
    ) -> Result<Option<u32>, NetConfError> {
        let Some(value) = self.get(key)? else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match number {
            Some(number) if allowed.contains(&number) => Ok(Some(number)),
            _ => Err(self.value_error(key, &value, expected)),
        }
    }

    /// A member that is an object itself.
    pub(super) fn object<'k>(&self, key: &'k str) -> Result<Option<Object<'k>>, NetConfError> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        match serde_json::from_str(raw.get()) {
            Ok(Members(members)) => Ok(Some(Object { path: key, members })),
            Err(_) => Err(self.value_error(key, &raw.get(), "an object in braces")),
        }
    }

    pub(super) fn value_error(
        &self,
        key: &str,
        found: &dyn fmt::Display,
        expected: &'static str,
    ) -> NetConfError {
        const SHOWN: usize = 60;
        let key = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        let mut found = found.to_string();
        if let Some((cut, _)) = found.char_indices().nth(SHOWN) {
            found.truncate(cut);
            found.push('…');
        }
        NetConfError::Value { key, found, expected }
    }
}

/// The members of an object in order, equal keys included.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object in braces")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
