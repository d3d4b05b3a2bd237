//! The Debian packages that the demo and the suites use.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::{Report, say};
use crate::host;

/// How to see that a package's contents are there, whoever installed them.
#[derive(Debug)]
enum Evidence {
    /// A program that can be started by name.
    Program(&'static str),
    /// A file that is used by its path, in one of the folders where it is looked for.
    AnyFile(&'static [&'static str]),
}

#[derive(Debug)]
struct Package {
    name: &'static str,
    why: &'static str,
    evidence: Evidence,
}

const PACKAGES: [Package; 9] = [
    Package {
        name: "iproute2",
        why: "ip and bridge build the testbed and show kernel state",
        evidence: Evidence::Program("ip"),
    },
    Package {
        name: "util-linux",
        why: "unshare and nsenter make nodes and run programs in them",
        evidence: Evidence::Program("nsenter"),
    },
    Package {
        name: "iputils-ping",
        why: "ping between pods",
        evidence: Evidence::Program("ping"),
    },
    Package {
        name: "tcpdump",
        why: "looking at the wire of a demo that was kept",
        evidence: Evidence::Program("tcpdump"),
    },
    Package {
        name: "ethtool",
        why: "switching segmentation offload on and off",
        evidence: Evidence::Program("ethtool"),
    },
    Package {
        name: "iptables",
        why: "service rules as kube-proxy makes them",
        evidence: Evidence::Program("iptables-restore"),
    },
    Package {
        name: "conntrack",
        why: "what the kernel tracks of a flow",
        evidence: Evidence::Program("conntrack"),
    },
    Package {
        name: "bpftool",
        why: "printing the pinned maps with named fields",
        evidence: Evidence::Program("bpftool"),
    },
    Package {
        name: "containernetworking-plugins",
        why: "the CNI plugins that attach pods for flannel",
        evidence: Evidence::AnyFile(&["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"]),
    },
];

pub(super) fn ensure(report: Report) -> Result<()> {
    let absent = missing(&PACKAGES, is_present);
    if absent.is_empty() {
        report.present("packages for the demo and the tests");
        return Ok(());
    }
    let command = install_line(&absent);
    if host::find_program("apt-get").is_none() {
        bail!(
            "missing: {}; there is no apt-get here, so install them with this system's package manager \
             (on Debian: {command})",
            described(&absent)
        );
    }
    if !host::is_root() {
        bail!(
            "missing: {}; only root can install them: sudo {command}",
            described(&absent)
        );
    }
    for package in &absent {
        say(&format!(
            "{}: installing with apt-get ({})",
            package.name, package.why
        ));
    }
    if let Err(error) = host::output(apt_get().arg("update")) {
        // One unreachable source of many need not matter; the installation decides.
        say(&format!(
            "apt-get update: {error:#}; continuing with the package lists that are there"
        ));
    }
    let installed = host::output(
        apt_get()
            .args(["install", "-y", "--no-install-recommends"])
            .args(absent.iter().map(|package| package.name)),
    );
    // What counts is what is there now, not what apt-get said.
    let still = missing(&PACKAGES, is_present);
    if still.is_empty() {
        return Ok(());
    }
    let said = installed.err().map_or_else(
        || "apt-get reported success".to_owned(),
        |error| format!("{error:#}"),
    );
    bail!(
        "missing: {}; {said}; with a reachable package mirror this provides them: {}",
        described(&still),
        install_line(&still)
    );
}

fn apt_get() -> Command {
    let mut apt_get = Command::new("apt-get");
    apt_get
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    apt_get
}

fn missing(packages: &[Package], present: impl Fn(&Evidence) -> bool) -> Vec<&Package> {
    packages
        .iter()
        .filter(|package| !present(&package.evidence))
        .collect()
}

fn is_present(evidence: &Evidence) -> bool {
    match evidence {
        Evidence::Program(name) => host::find_program(name).is_some(),
        Evidence::AnyFile(paths) => paths.iter().any(|path| Path::new(path).exists()),
    }
}

fn described(packages: &[&Package]) -> String {
    let each: Vec<String> = packages
        .iter()
        .map(|package| format!("{} ({})", package.name, package.why))
        .collect();
    each.join(", ")
}

fn install_line(packages: &[&Package]) -> String {
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    format!("apt-get install --no-install-recommends {}", names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_missing_when_its_evidence_is() {
        let absent = missing(&PACKAGES, |evidence| {
            !matches!(evidence, Evidence::Program("ping" | "ethtool"))
        });
        assert_eq!(
            install_line(&absent),
            "apt-get install --no-install-recommends iputils-ping ethtool"
        );
        assert!(described(&absent).starts_with("iputils-ping (ping between pods), ethtool ("));
    }

    #[test]
    fn nothing_is_missing_when_everything_is_there() {
        assert!(missing(&PACKAGES, |_| true).is_empty());
    }

    #[test]
    fn evidence_is_looked_up_on_this_machine() {
        assert!(is_present(&Evidence::Program("sh")));
        assert!(is_present(&Evidence::AnyFile(&["/no/such/file", "/proc/self"])));
        assert!(!is_present(&Evidence::Program("no-such-program-here")));
        assert!(!is_present(&Evidence::AnyFile(&["/no/such/file"])));
    }
}
