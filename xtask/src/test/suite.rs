//! The suites, cheapest first, and the cargo test calls that each consists of.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Suite {
    /// Unit and documentation tests of every crate
    Unit,
    /// Random leases and observations against the control plane's invariants
    Property,
    /// Single packets through the programs: verdict, bytes and all counters
    Packet,
    /// The executor for links, routes, neighbours and forwarding entries, in private namespaces
    Netlink,
    /// Loading, attaching, pinning and adopting the programs and maps
    Dataplane,
    /// Agents on several nodes, with real traffic
    Datapath,
    /// The fast path on real traffic: that it is taken, cannot be told by what arrives, and ends when it must
    Fastpath,
    /// The agent finds pods by itself: in time, with exclusions, and what it leaves
    Pods,
    /// The agent on real nodes: what it makes, repairs, leaves and removes
    Lifecycle,
    /// Leases from Kubernetes: the agent and a real API server with etcd
    Api,
    /// A cluster with a flannel node in it: API server, nodes, takeover and rollback
    Cluster,
    /// The testbed itself: what it builds, and that it cleans up
    Testbed,
    /// The checkout: dependencies, unsafe code, lints, licences, file sizes, paths in documents
    Tidy,
}

impl Suite {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Property => "property",
            Self::Packet => "packet",
            Self::Netlink => "netlink",
            Self::Dataplane => "dataplane",
            Self::Datapath => "datapath",
            Self::Fastpath => "fastpath",
            Self::Pods => "pods",
            Self::Lifecycle => "lifecycle",
            Self::Api => "api",
            Self::Cluster => "cluster",
            Self::Testbed => "testbed",
            Self::Tidy => "tidy",
        }
    }

    pub(super) fn about(self) -> String {
        let help = self
            .to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }

    /// Whether the suite creates network namespaces or loads programs.
    pub(super) fn needs_root(self) -> bool {
        match self {
            Self::Unit | Self::Property | Self::Tidy => false,
            Self::Packet
            | Self::Netlink
            | Self::Dataplane
            | Self::Datapath
            | Self::Fastpath
            | Self::Pods
            | Self::Lifecycle
            | Self::Api
            | Self::Cluster
            | Self::Testbed => true,
        }
    }

    /// Whether the suite starts a Kubernetes API server.
    pub(super) fn needs_api_server(self) -> bool {
        matches!(self, Self::Api | Self::Cluster)
    }

    /// The arguments of each `cargo test` call; what follows `--` chooses tests by name.
    pub(super) fn runs(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Unit => &[
                &[
                    "--package=overlay-common",
                    "--package=overlay-core",
                    "--package=overlay-agent",
                    "--package=overlay-testbed",
                    "--package=xtask",
                    "--package=ebpf-build",
                    "--lib",
                    "--bins",
                    "--",
                    // The suite `property`.
                    "--skip=properties::",
                ],
                &[
                    "--package=overlay-common",
                    "--package=overlay-core",
                    "--package=overlay-agent",
                    "--package=overlay-testbed",
                    "--doc",
                ],
            ],
            // overlay-core's module `properties`; smaller properties are unit tests beside what they are about.
            Self::Property => &[&["--package=overlay-core", "--lib", "--", "properties::"]],
            Self::Packet => &[&["--package=overlay-testbed", "--test=packet"]],
            Self::Netlink => &[&["--package=overlay-testbed", "--test=netlink"]],
            Self::Dataplane => &[&["--package=overlay-testbed", "--test=dataplane"]],
            Self::Datapath => &[&["--package=overlay-testbed", "--test=datapath"]],
            Self::Fastpath => &[&["--package=overlay-testbed", "--test=fastpath"]],
            // How soon a pod is served is measured with nothing else going on: links of all nodes wait for one lock.
            Self::Pods => &[
                &["--package=overlay-testbed", "--test=pods", "--", "--skip=speed::"],
                &[
                    "--package=overlay-testbed",
                    "--test=pods",
                    "--",
                    "--test-threads=1",
                    "speed::",
                ],
            ],
            Self::Lifecycle => &[&["--package=overlay-testbed", "--test=lifecycle"]],
            // Most of its tests wait for their turn with one server; those with their own go on meanwhile.
            Self::Api => &[&[
                "--package=overlay-testbed",
                "--test=api",
                "--",
                "--test-threads=4",
            ]],
            Self::Cluster => &[&["--package=overlay-testbed", "--test=cluster"]],
            Self::Testbed => &[&["--package=overlay-testbed", "--test=testbed"]],
            Self::Tidy => &[&["--package=overlay-testbed", "--test=tidy"]],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;
    use crate::host;

    #[test]
    fn names_are_those_of_the_command_line() {
        for suite in Suite::value_variants() {
            assert_eq!(suite.to_possible_value().unwrap().get_name(), suite.name());
            assert!(!suite.about().is_empty());
        }
    }

    #[test]
    fn no_test_file_is_left_out() {
        let run: BTreeSet<(&str, &str)> = Suite::value_variants()
            .iter()
            .flat_map(|suite| suite.runs())
            .filter_map(|run| {
                let package = run.iter().find_map(|arg| arg.strip_prefix("--package="))?;
                Some((package, run.iter().find_map(|arg| arg.strip_prefix("--test="))?))
            })
            .collect();
        for (package, folder) in [
            ("overlay-common", "overlay-common"),
            ("overlay-core", "overlay-core"),
            ("overlay-agent", "overlay-agent"),
            ("overlay-testbed", "tests"),
            ("xtask", "xtask"),
            ("ebpf-build", "xtask/ebpf-build"),
        ] {
            let Ok(files) = fs::read_dir(host::workspace_root().join(folder).join("tests")) else {
                continue;
            };
            for file in files {
                let path = file.unwrap().path();
                // A suite is `<name>.rs` or `<name>/main.rs`; other folders are modules of suites.
                if path.extension().is_some_and(|extension| extension == "rs")
                    || path.join("main.rs").is_file()
                {
                    let name = path.file_stem().unwrap().to_str().unwrap();
                    assert!(run.contains(&(package, name)), "no suite runs {}", path.display());
                }
            }
        }
    }
}
