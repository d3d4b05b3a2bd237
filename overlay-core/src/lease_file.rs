//! The YAML lease document: the list that the file source reads.
//!
//! ```yaml
//! leases:
//!   - node: worker-1
//!     subnet: 10.244.1.0/24      # the node's podCIDR
//!     publicIP: 192.168.0.1      # underlay address of its VTEP
//!     vtepMAC: 02:00:00:00:00:01
//!     backendType: vxlan         # optional; leases of other backends are ignored
//! ```
//!
//! A file is taken whole or not at all, so that a mistake in it never looks like a node that has left.

mod error;
mod field;
#[cfg(test)]
mod tests;
mod tree;

use ipnet::IpNet;

pub use self::error::{LeaseFileError, LeaseFileErrorKind, Place};
use self::field::Entry;
use self::tree::{Node, Tree};
use crate::model::{FamilyLease, Lease};

/// Largest file that is read, in bytes: several times what 15,000 leases need.
pub const MAX_FILE_BYTES: usize = 16 << 20;

/// The backend whose leases this agent serves.
const BACKEND: &str = "vxlan";

/// What one file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaseFile {
    /// The leases, in the file's order. `origin` is `<file>:<line>`.
    pub leases: Vec<Lease>,
    /// Leases of other backends: what was ignored and why, one sentence each, for the operator.
    pub ignored: Vec<String>,
}

/// Reads one lease document. `file` is its name for messages.
///
/// `leases: []` and an explicitly empty document (`---`) are empty lists. A file without any document is an error: it
/// is what a file looks like that somebody is about to write.
///
/// # Errors
///
/// The first mistake in the file, with its line, the field and what is allowed there.
pub fn parse(text: &str, file: &str) -> Result<LeaseFile, LeaseFileError> {
    document(text, file).map_err(|(kind, place)| LeaseFileError {
        file: file.to_owned(),
        place,
        kind,
    })
}

/// A mistake and where it is. The caller knows the file.
type Mistake = (LeaseFileErrorKind, Option<Place>);

fn document(text: &str, file: &str) -> Result<LeaseFile, Mistake> {
    if text.len() > MAX_FILE_BYTES {
        return Err((LeaseFileErrorKind::TooLarge { bytes: text.len() }, None));
    }
    if has_no_document(text) {
        return Err((LeaseFileErrorKind::NoDocument, None));
    }
    let root = tree::parse(text)?;
    let mut result = LeaseFile::default();
    if matches!(root.node, Node::Null) {
        return Ok(result);
    }
    let top = Entry::new(String::new(), &root, &["leases"])?;
    let leases = top.required("leases", "a list of leases; write `leases: []` for none")?;
    let Node::Sequence(entries) = &leases.node else {
        let wrong = field::wrong(leases, "a list of leases; write `leases: []` for none");
        return Err(field::mistake("leases".into(), wrong, leases.place));
    };
    for (index, tree) in entries.iter().enumerate() {
        let path = format!("leases[{index}]");
        let entry = Entry::new(
            path,
            tree,
            &["node", "subnet", "publicIP", "vtepMAC", "backendType"],
        )?;
        let node = entry.node()?;
        let origin = format!("{file}:{}", tree.place.line);
        if let Some(backend) = entry
            .optional_text("backendType")?
            .filter(|backend| *backend != BACKEND)
        {
            let backend: String = backend.escape_debug().collect();
            result.ignored.push(format!(
                "{node} ({origin}) is ignored: its backend is {backend}, not {BACKEND}"
            ));
            continue;
        }
        result.leases.push(lease(&entry, node, origin)?);
    }
    Ok(result)
}

fn lease(entry: &Entry<'_>, node: String, origin: String) -> Result<Lease, Mistake> {
    let family = FamilyLease {
        subnet: IpNet::V4(entry.subnet()?),
        public_ip: entry.public_ip()?.into(),
        vtep_mac: entry.vtep_mac()?,
    };
    Ok(Lease {
        node,
        origin,
        v4: Some(family),
        v6: None,
    })
}

/// Whether a YAML stream holds nothing but comments and blank lines. The byte order mark is no content either.
fn has_no_document(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}');
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#')
    })
}

impl Tree {
    /// What it is, in words.
    fn kind(&self) -> String {
        match &self.node {
            Node::Null => "nothing".into(),
            Node::Other(what) => (*what).into(),
            Node::Text(text) => field::quoted(text),
            Node::Sequence(_) => "a list".into(),
            Node::Mapping(_) => "a mapping".into(),
        }
    }
}
