//! What the machine must offer, checked before anything is built.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nix::unistd::geteuid;

/// A program that the testbed calls, and the Debian package that brings it.
const TOOLS: [(&str, &str); 10] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("ss", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("ping", "iputils-ping"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
];

/// Fails unless this process is root and every tool is installed.
///
/// # Errors
///
/// Names everything that is missing, the Debian package of each, and the command that installs them.
pub fn check() -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "the testbed makes network, mount and PID namespaces, which needs root: run the command again as root \
             (sudo --preserve-env=PATH …); nothing was changed"
        );
    }
    let missing: Vec<_> = TOOLS
        .into_iter()
        .filter(|(tool, _)| find(tool).is_none())
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        bail!(describe(&missing))
    }
}

fn describe(missing: &[(&str, &str)]) -> String {
    let list: Vec<_> = missing
        .iter()
        .map(|(tool, package)| format!("{tool} (Debian package {package})"))
        .collect();
    let list = list.join(", ");
    format!("the testbed needs programs that are not installed: {list}. `cargo xtask setup` installs them")
}

/// Where `tool` lies: on the search path, or where Debian keeps administration tools.
fn find(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(tool))
        .find(|candidate| is_file(candidate))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_package_and_the_remedy() {
        let text = describe(&[("bpftool", "bpftool"), ("ip", "iproute2")]);
        for part in [
            "bpftool (Debian package bpftool)",
            "ip (Debian package iproute2)",
            "cargo xtask setup",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_installed_is_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-tool").is_none());
    }
}
