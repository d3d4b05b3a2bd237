//! What is wrong with a lease file.

use std::fmt;

use thiserror::Error;

use super::MAX_FILE_BYTES;

/// Line and column in a file, both from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// Why a lease file cannot be used. Reads `leases.yaml:12:13: leases[3].subnet: …`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct LeaseFileError {
    /// The file, as the caller named it.
    pub file: String,
    /// Where, if that is known.
    pub place: Option<Place>,
    /// What.
    pub kind: LeaseFileErrorKind,
}

/// What is wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LeaseFileErrorKind {
    /// Not one byte of content.
    #[error("the file is empty: is it being written? Write `leases: []` for no leases")]
    NoDocument,
    /// Larger than any list of leases.
    #[error("the file has {bytes} bytes: at most {MAX_FILE_BYTES} are read")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// Not one YAML document, or beyond the limits.
    #[error("not a YAML lease list: {0}")]
    Syntax(String),
    /// A field is wrong.
    #[error("{}{what}", Prefix(path))]
    Field {
        /// Which, from the top: `leases[3].subnet`; empty for the document itself.
        path: String,
        /// What is wrong, and what is allowed.
        what: String,
    },
}

impl fmt::Display for LeaseFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.kind)
    }
}

/// A path, with the colon that it needs unless it is empty.
struct Prefix<'p>(&'p str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            path => write!(f, "{path}: "),
        }
    }
}
