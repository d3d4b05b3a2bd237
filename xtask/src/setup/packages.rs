//! The Debian packages that the demo and the suites use.

use std::{
    fs,
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
    /// The packages that together hold the same on a relative of Debian without a package of this name;
    /// [`RELEASE`] stands for the running kernel's release.
    elsewhere: &'static [&'static str],
    why: &'static str,
    evidence: Evidence,
}

/// What `uname -r` prints, in a package's name.
const RELEASE: &str = "$(uname -r)";

const PACKAGES: [Package; 9] = [
    Package {
        name: "iproute2",
        elsewhere: &[],
        why: "ip and bridge build the testbed and show kernel state",
        evidence: Evidence::Program("ip"),
    },
    Package {
        name: "util-linux",
        elsewhere: &[],
        why: "unshare and nsenter make nodes and run programs in them",
        evidence: Evidence::Program("nsenter"),
    },
    Package {
        name: "iputils-ping",
        elsewhere: &[],
        why: "ping between pods",
        evidence: Evidence::Program("ping"),
    },
    Package {
        name: "tcpdump",
        elsewhere: &[],
        why: "looking at the wire of a demo that was kept",
        evidence: Evidence::Program("tcpdump"),
    },
    Package {
        name: "ethtool",
        elsewhere: &[],
        why: "switching segmentation offload on and off",
        evidence: Evidence::Program("ethtool"),
    },
    Package {
        name: "iptables",
        elsewhere: &[],
        why: "service rules as kube-proxy makes them",
        evidence: Evidence::Program("iptables-restore"),
    },
    Package {
        name: "conntrack",
        elsewhere: &[],
        why: "what the kernel tracks of a flow",
        evidence: Evidence::Program("conntrack"),
    },
    Package {
        name: "bpftool",
        // Ubuntu: a starter, and the program for the kernel that runs.
        elsewhere: &["linux-tools-common", "linux-tools-$(uname -r)"],
        why: "printing the pinned maps with named fields",
        evidence: Evidence::Program("bpftool"),
    },
    Package {
        name: "containernetworking-plugins",
        elsewhere: &[],
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
             (on Debian: {command}{})",
            described(&absent),
            other_names(&absent)
        );
    }
    if !host::is_root() {
        bail!(
            "missing: {}; only root can install them: sudo {command}{}",
            described(&absent),
            other_names(&absent)
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
    let still = install(absent, &kernel_release(), with_apt_get, is_present);
    if still.is_empty() {
        return Ok(());
    }
    bail!("{}", explained(&still));
}

/// A package that is missing still, and what became of the last attempt to install it.
struct Missing<'p> {
    package: &'p Package,
    said: String,
}

/// Installs the packages: all at once, and where that leaves some missing, those one by one and under their other
/// names, since apt-get installs none where it does not know one. Returns those that are missing in the end: what
/// counts is what is there, not what the installer says.
fn install<'p>(
    absent: Vec<&'p Package>,
    release: &str,
    mut installer: impl FnMut(&[String]) -> Result<()>,
    present: impl Fn(&Evidence) -> bool,
) -> Vec<Missing<'p>> {
    let together: Vec<String> = absent.iter().map(|package| package.name.to_owned()).collect();
    let outcome = installer(&together);
    // One package alone has had its attempt, and so has each of many that were installed.
    let own_name = outcome.is_err() && absent.len() > 1;
    let first_said = said(outcome);
    let mut still = Vec::new();
    for package in absent {
        let own = own_name.then(|| vec![package.name.to_owned()]);
        let other = (!package.elsewhere.is_empty()).then(|| {
            let names = package.elsewhere.iter();
            names
                .map(|name| name.replace(RELEASE, release))
                .collect::<Vec<_>>()
        });
        let mut last = first_said.clone();
        for names in own.into_iter().chain(other) {
            if present(&package.evidence) {
                break;
            }
            last = said(installer(&names));
        }
        if !present(&package.evidence) {
            still.push(Missing { package, said: last });
        }
    }
    still
}

fn said(outcome: Result<()>) -> String {
    outcome.err().map_or_else(
        || "apt-get reported success".to_owned(),
        |error| format!("{error:#}"),
    )
}

/// What is missing, why each could not be had, and what an operator can do.
fn explained(still: &[Missing<'_>]) -> String {
    let packages: Vec<&Package> = still.iter().map(|missing| missing.package).collect();
    let each = still.iter().map(|Missing { package, said }| {
        let hint = if package.elsewhere.is_empty() {
            String::new()
        } else {
            format!("; tried as {} as well", package.elsewhere.join(" and "))
        };
        format!("\n  {} ({}): {said}{hint}", package.name, package.why)
    });
    format!(
        "missing, everything else is installed:{}\n  with a reachable package mirror this provides them: {}{}",
        each.collect::<String>(),
        install_line(&packages),
        other_names(&packages)
    )
}

/// What to install instead where a package has another name.
fn other_names(packages: &[&Package]) -> String {
    packages
        .iter()
        .filter(|package| !package.elsewhere.is_empty())
        .map(|package| {
            format!(
                " (where there is no {}, as on Ubuntu: {})",
                package.name,
                package.elsewhere.join(" ")
            )
        })
        .collect()
}

fn kernel_release() -> String {
    // Where it cannot be read, a name without it is unknown to apt-get, which says so.
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|release| release.trim().to_owned())
        .unwrap_or_default()
}

fn with_apt_get(names: &[String]) -> Result<()> {
    host::output(
        apt_get()
            .args(["install", "-y", "--no-install-recommends"])
            .args(names),
    )
    .map(drop)
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
    use std::{cell::RefCell, collections::BTreeSet};

    use super::*;

    /// A machine whose apt-get knows some packages, and installs nothing when asked for one it does not know.
    #[derive(Default)]
    struct Machine {
        known: BTreeSet<&'static str>,
        /// Package → program, where they differ in name.
        programs: Vec<(&'static str, &'static str)>,
        there: RefCell<BTreeSet<String>>,
        asked: RefCell<Vec<String>>,
    }

    impl Machine {
        fn new(known: &[&'static str], programs: &[(&'static str, &'static str)]) -> Self {
            Self {
                known: known.iter().copied().collect(),
                programs: programs.to_vec(),
                ..Self::default()
            }
        }

        fn apt_get(&self, names: &[String]) -> Result<()> {
            self.asked.borrow_mut().push(names.join(" "));
            if let Some(unknown) = names.iter().find(|name| !self.known.contains(name.as_str())) {
                bail!("E: Unable to locate package {unknown}");
            }
            for name in names {
                let program = self.programs.iter().find(|(package, _)| package == name);
                let program = program.map_or(name.as_str(), |(_, program)| program);
                self.there.borrow_mut().insert(program.to_owned());
            }
            Ok(())
        }

        fn install<'p>(&self, absent: Vec<&'p Package>) -> Vec<Missing<'p>> {
            install(
                absent,
                "6.8.0-1",
                |names| self.apt_get(names),
                |evidence| match evidence {
                    Evidence::Program(name) => self.there.borrow().contains(*name),
                    Evidence::AnyFile(_) => false,
                },
            )
        }
    }

    fn named(names: &[&str]) -> Vec<&'static Package> {
        static TABLE: [Package; 9] = PACKAGES;
        TABLE
            .iter()
            .filter(|package| names.contains(&package.name))
            .collect()
    }

    #[test]
    fn packages_are_installed_together() {
        let machine = Machine::new(&["ethtool", "tcpdump"], &[]);
        assert!(machine.install(named(&["ethtool", "tcpdump"])).is_empty());
        assert_eq!(*machine.asked.borrow(), ["tcpdump ethtool"]);
    }

    #[test]
    fn one_unknown_name_keeps_no_other_package_away() {
        let machine = Machine::new(&["ethtool", "tcpdump"], &[]);
        let still = machine.install(named(&["ethtool", "tcpdump", "conntrack"]));
        assert_eq!(
            *machine.asked.borrow(),
            ["tcpdump ethtool conntrack", "tcpdump", "ethtool", "conntrack"]
        );
        let text = explained(&still);
        assert!(
            text.contains(
                "conntrack (what the kernel tracks of a flow): E: Unable to locate package conntrack"
            ) && text.contains("apt-get install --no-install-recommends conntrack")
                && !text.contains("tcpdump")
                && !text.contains("linux-tools"),
            "{text}"
        );
    }

    #[test]
    fn another_distribution_s_name_is_tried() {
        let machine = Machine::new(
            &["ethtool", "linux-tools-common", "linux-tools-6.8.0-1"],
            &[("linux-tools-common", "bpftool")],
        );
        assert!(machine.install(named(&["ethtool", "bpftool"])).is_empty());
        assert_eq!(
            machine.asked.borrow().last().map(String::as_str),
            Some("linux-tools-common linux-tools-6.8.0-1")
        );
    }

    #[test]
    fn a_package_that_no_name_finds_is_reported_with_all_its_names() {
        let machine = Machine::default();
        let still = machine.install(named(&["bpftool"]));
        assert_eq!(
            *machine.asked.borrow(),
            ["bpftool", "linux-tools-common linux-tools-6.8.0-1"],
            "alone it is not tried twice"
        );
        let text = explained(&still);
        assert!(
            text.contains("apt-get install --no-install-recommends bpftool (where there is no bpftool")
                && text.contains("linux-tools-common linux-tools-$(uname -r)"),
            "{text}"
        );
    }

    #[test]
    fn success_without_the_program_is_no_success() {
        let machine = Machine::new(&["ethtool"], &[("ethtool", "something-else")]);
        let still = machine.install(named(&["ethtool"]));
        assert!(explained(&still).contains("apt-get reported success"));
    }

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
