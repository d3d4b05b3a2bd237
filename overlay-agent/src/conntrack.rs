//! The parameters of connection tracking that the fast path needs, in `/proc/sys` of the agent's network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use overlay_core::model::ConntrackParameter;

/// `/proc/sys/net` shows the network namespace of the process that reads it.
const DIRECTORY: &str = "/proc/sys/net/netfilter";

/// What the parameters are set to; absent is what this kernel does not have, for example because `nf_conntrack` is not
/// loaded.
///
/// # Errors
///
/// When one is there and cannot be read.
pub fn read() -> Result<BTreeMap<ConntrackParameter, u32>> {
    read_in(Path::new(DIRECTORY))
}

fn read_in(directory: &Path) -> Result<BTreeMap<ConntrackParameter, u32>> {
    let mut found = BTreeMap::new();
    for parameter in ConntrackParameter::ALL {
        let path = directory.join(parameter.file());
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            result => result.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let value = text.trim().parse().map_err(|_| {
            anyhow!(
                "{} says {:?}, which is not understood",
                path.display(),
                text.trim()
            )
        })?;
        found.insert(parameter, value);
    }
    Ok(found)
}

/// Sets a parameter to what the fast path needs.
///
/// # Errors
///
/// When it cannot be written: `/proc/sys` may be read-only in a container.
pub fn set(parameter: ConntrackParameter) -> Result<()> {
    set_in(Path::new(DIRECTORY), parameter)
}

fn set_in(directory: &Path, parameter: ConntrackParameter) -> Result<()> {
    let path: PathBuf = directory.join(parameter.file());
    let wanted = ConntrackParameter::WANTED;
    // The file must be there: creating one is no way to set a parameter.
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(&path)?;
        io::Write::write_all(&mut file, wanted.to_string().as_bytes())
    };
    write().with_context(|| {
        format!(
            "cannot write {wanted} to {} (in a container: mount /proc/sys writable, or set {parameter}={wanted} on the node)",
            path.display()
        )
    })
}

/// What `cleanup` says of parameters that the agent may have set: it does not know what they were before.
#[must_use]
pub fn left_note(found: &BTreeMap<ConntrackParameter, u32>) -> Option<String> {
    let (mut set, mut back) = (Vec::new(), Vec::new());
    for (parameter, _) in found
        .iter()
        .filter(|(_, value)| **value == ConntrackParameter::WANTED)
    {
        set.push(format!("{parameter}={}", ConntrackParameter::WANTED));
        back.push(format!("{parameter}=0"));
    }
    (!set.is_empty()).then(|| {
        format!(
            "{}: connections that were on the fast path would stall otherwise. Where nothing else needs it, `sysctl -w {}` \
             sets it back once they have ended",
            set.join(", "),
            back.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_absent_and_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(read_in(path).unwrap(), BTreeMap::new());
        let error = set_in(path, ConntrackParameter::BeLiberal).unwrap_err();
        assert!(
            error.to_string().contains("nf_conntrack_tcp_be_liberal"),
            "{error}"
        );
        assert_eq!(read_in(path).unwrap(), BTreeMap::new());
    }

    #[test]
    fn what_is_there_is_read_and_set() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("nf_conntrack_tcp_be_liberal"), "0\n").unwrap();
        assert_eq!(
            read_in(path).unwrap(),
            [(ConntrackParameter::BeLiberal, 0)].into()
        );
        set_in(path, ConntrackParameter::BeLiberal).unwrap();
        assert_eq!(read_in(path).unwrap()[&ConntrackParameter::BeLiberal], 1);
        fs::write(path.join("nf_conntrack_tcp_be_liberal"), "yes").unwrap();
        assert!(read_in(path).unwrap_err().to_string().contains("\"yes\""));
    }

    #[test]
    fn cleanup_says_what_it_leaves() {
        assert_eq!(left_note(&BTreeMap::new()), None);
        let note = left_note(
            &[
                (ConntrackParameter::BeLiberal, 1),
                (ConntrackParameter::IgnoreInvalidRst, 0),
            ]
            .into(),
        );
        let note = note.unwrap();
        assert!(
            note.starts_with("net.netfilter.nf_conntrack_tcp_be_liberal=1: "),
            "{note}"
        );
        assert!(
            note.contains("`sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=0`"),
            "{note}"
        );
    }
}
