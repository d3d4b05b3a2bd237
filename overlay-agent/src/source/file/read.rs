//! Reads and validates the whole list.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use overlay_core::lease_file;
use overlay_core::model::Lease;

/// Files may be replaced while a directory is read: read it again this many times.
const ATTEMPTS: u32 = 3;

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// It does not exist.
    Missing,
    /// A directory without any lease file.
    Empty,
    /// It cannot be read or is not valid: where, why and what is allowed.
    Broken(String),
    /// The complete list.
    Leases {
        /// In the order of the files and of their content.
        leases: Vec<Lease>,
        /// What was ignored.
        warnings: Vec<String>,
    },
}

/// Reads the file or directory at `path`.
#[must_use]
pub fn read(path: &Path) -> Listing {
    let mut listing = Listing::Missing;
    for _ in 0..ATTEMPTS {
        listing = match read_once(path) {
            Ok(listing) => return listing,
            Err(changed) => changed,
        };
    }
    listing
}

/// Whether a file of a directory is read: `*.yaml` or `*.yml`, not hidden (which editors' swap files and the innards
/// of a `ConfigMap` are; backups end differently).
pub(super) fn is_lease_file(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && path
            .extension()
            .is_some_and(|e| e == OsStr::new("yaml") || e == OsStr::new("yml"))
}

/// `Err` when a file vanished between being listed and being read.
fn read_once(path: &Path) -> Result<Listing, Listing> {
    let broken =
        |error: &dyn std::fmt::Display| Listing::Broken(format!("cannot read {}: {error}", path.display()));
    let files = match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => match lease_files(path) {
            Ok(files) => files,
            Err(error) => return Ok(broken(&error)),
        },
        Ok(meta) if meta.is_file() => vec![path.to_owned()],
        Ok(_) => return Ok(broken(&"neither a file nor a directory")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Listing::Missing),
        Err(error) => return Ok(broken(&error)),
    };
    if files.is_empty() {
        return Ok(Listing::Empty);
    }
    let mut texts = Vec::with_capacity(files.len());
    for file in files {
        let name = file.display().to_string();
        match read_text(&file) {
            Ok(text) => texts.push((name, text)),
            Err(error) => {
                let broken = Listing::Broken(format!("cannot read {name}: {error}"));
                return if error.kind() == ErrorKind::NotFound {
                    Err(broken)
                } else {
                    Ok(broken)
                };
            }
        }
    }
    Ok(validate(&texts))
}

/// The text of a file of a sensible size.
fn read_text(path: &Path) -> std::io::Result<String> {
    let limit = u64::try_from(lease_file::MAX_FILE_BYTES).unwrap_or(u64::MAX);
    let mut text = String::new();
    fs::File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_string(&mut text)?;
    if text.len() > lease_file::MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!(
            "larger than {limit} bytes, the most that is read"
        )));
    }
    Ok(text)
}

/// The lease files of a directory, by name.
fn lease_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_lease_file(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Every file must be valid, and no node may have two leases.
fn validate(texts: &[(String, String)]) -> Listing {
    let mut leases: Vec<Lease> = Vec::new();
    let mut warnings = Vec::new();
    let mut nodes: BTreeMap<String, String> = BTreeMap::new();
    for (name, text) in texts {
        let file = match lease_file::parse(text, name) {
            Ok(file) => file,
            Err(error) => return Listing::Broken(error.to_string()),
        };
        for lease in file.leases {
            if let Some(first) = nodes.insert(lease.node.clone(), lease.origin.clone()) {
                return Listing::Broken(format!(
                    "{}: node {} has a lease at {first} already; a node may have one lease only",
                    lease.origin, lease.node
                ));
            }
            leases.push(lease);
        }
        warnings.extend(file.ignored);
    }
    Listing::Leases { leases, warnings }
}
