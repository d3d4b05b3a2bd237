//! What is wrong with a Node, in the words of a message.

use std::fmt;

/// Longest part of a value that a message repeats, in characters.
const SHOWN: usize = 80;

/// An annotation or a field of a Node that cannot be used. Reads
/// `flannel.alpha.coreos.com/public-ip "10.0.0" is not allowed: expected …`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BadValue {
    /// The annotation's key, or the field: `spec.podCIDRs`.
    pub key: String,
    /// What it says; `None` when it is missing.
    pub value: Option<String>,
    /// What is wrong with it in particular; empty when `expected` says it all.
    pub wrong: String,
    /// What is allowed.
    pub expected: &'static str,
}

impl BadValue {
    pub(super) fn missing(key: impl Into<String>, expected: &'static str) -> Self {
        Self {
            key: key.into(),
            value: None,
            wrong: String::new(),
            expected,
        }
    }

    pub(super) fn new(
        key: impl Into<String>,
        value: &str,
        wrong: impl Into<String>,
        expected: &'static str,
    ) -> Self {
        Self {
            key: key.into(),
            value: Some(value.to_owned()),
            wrong: wrong.into(),
            expected,
        }
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            wrong,
            expected,
        } = self;
        match value {
            None => write!(f, "{key} is missing: expected {expected}"),
            Some(value) if wrong.is_empty() => {
                write!(f, "{key} {} is not allowed: expected {expected}", Quoted(value))
            }
            Some(value) => write!(f, "{key} {}: {wrong}; expected {expected}", Quoted(value)),
        }
    }
}

/// In quotes, without control characters, cut off where it is long. The quotes of JSON stay as they are.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`")?;
        for c in self.0.chars().take(SHOWN) {
            if c.is_control() || c == '\u{feff}' {
                write!(f, "{}", c.escape_debug())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        if self.0.chars().nth(SHOWN).is_some() {
            f.write_str("…")?;
        }
        f.write_str("`")
    }
}
