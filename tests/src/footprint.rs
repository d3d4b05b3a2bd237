//! What a testbed has on the machine, to see afterwards that nothing of it is left.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::detached;
use crate::exec::{self, COMMAND_TIMEOUT};
use crate::node::Node;
use crate::testbed::Testbed;
use crate::wait::eventually;

/// Lists what is pinned on a node. Names with a dot are the kernel's own (maps.debug, progs.debug).
pub(crate) const PINNED_FILES: &str = "find /sys/fs/bpf -type f -not -name *.*";

/// The traces of a testbed, and what the machine has besides.
#[derive(Clone, Debug)]
pub struct Footprint {
    run: String,
    namespaces: Vec<String>,
    /// Kind (`map`, `prog`, `link`) and ID of each pinned BPF object.
    bpf: Vec<(&'static str, u64)>,
    before: Machine,
}

/// Links, mounts and named network namespaces that this process sees: what a testbed must not change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    state: Vec<String>,
}

impl Machine {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        let list = |directory: &str| {
            let entries = fs::read_dir(directory)
                .into_iter()
                .flatten()
                .filter_map(Result::ok);
            entries.map(|entry| entry.path().display().to_string())
        };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let state = list("/sys/class/net")
            .chain(list("/run/netns"))
            .chain(mounts.lines().map(str::to_owned));
        Self {
            state: state.collect(),
        }
    }

    /// What is there now and was not at `before`.
    fn new_since(&self, before: &Self) -> Vec<String> {
        self.state
            .iter()
            .filter(|state| !before.state.contains(state))
            .cloned()
            .collect()
    }
}

impl Footprint {
    /// The traces of `testbed`, BPF objects pinned on its nodes included.
    ///
    /// # Errors
    ///
    /// When a node is gone.
    pub fn of(testbed: &Testbed) -> Result<Self> {
        let mut footprint = Self::of_holders(
            testbed.run(),
            testbed.identities().map(|holder| holder.pid),
            testbed.machine_before().clone(),
        );
        for node in testbed.nodes() {
            footprint.bpf.extend(pinned_objects(node)?);
        }
        Ok(footprint)
    }

    /// The traces of the testbed `run`, whose namespaces the given processes hold; `before` is the machine without it.
    #[must_use]
    pub fn of_holders(run: &str, holders: impl Iterator<Item = i32>, before: Machine) -> Self {
        Self {
            run: run.to_owned(),
            namespaces: holders
                .flat_map(|pid| namespaces_of(Path::new(&format!("/proc/{pid}"))))
                .collect(),
            bpf: Vec::new(),
            before,
        }
    }

    /// How many namespaces and BPF objects there were.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.namespaces.len(), self.bpf.len())
    }

    /// Waits until every process, namespace and BPF object is gone, and checks that the machine's own network
    /// namespace and mounts have nothing new.
    ///
    /// # Errors
    ///
    /// Names what is still there when the time is up.
    pub fn expect_gone(&self, timeout: Duration) -> Result<()> {
        eventually(timeout, "end of everything in the testbed", || {
            let processes = detached::processes_of(&self.run)?;
            ensure!(
                processes.is_empty(),
                "processes are left: {}",
                processes.join(", ")
            );
            let inhabited = inhabited_namespaces();
            let left: Vec<_> = self
                .namespaces
                .iter()
                .filter(|namespace| inhabited.contains(namespace))
                .collect();
            ensure!(left.is_empty(), "namespaces are left: {left:?}");
            for (kind, id) in &self.bpf {
                ensure!(
                    !bpf_object_exists(kind, *id)?,
                    "a BPF object is left: {kind} {id}"
                );
            }
            let new = Machine::now().new_since(&self.before);
            ensure!(
                new.is_empty(),
                "the machine has new links, mounts or named namespaces: {new:?}"
            );
            Ok(())
        })
    }
}

/// Network and mount namespaces that a process lives in.
fn inhabited_namespaces() -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    processes
        .flat_map(|process| namespaces_of(&process.path()))
        .collect()
}

fn namespaces_of(process: &Path) -> Vec<String> {
    let links = ["net", "mnt"].map(|kind| fs::read_link(process.join("ns").join(kind)));
    links
        .into_iter()
        .filter_map(Result::ok)
        .map(|link| link.display().to_string())
        .collect()
}

/// Kind and ID of every object that is pinned on `node`.
fn pinned_objects(node: &Node) -> Result<Vec<(&'static str, u64)>> {
    let files = node.run(PINNED_FILES)?;
    let mut objects = Vec::new();
    for file in files.lines() {
        let kind = ["link", "prog", "map"].into_iter().find_map(|kind| {
            Some((
                kind,
                node.run(&format!("bpftool -j {kind} show pinned {file}")).ok()?,
            ))
        });
        let (kind, text) = kind.with_context(|| format!("bpftool does not know what {file} is"))?;
        let object: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("bpftool: {text}"))?;
        let id = object.get("id").and_then(serde_json::Value::as_u64);
        objects.push((
            kind,
            id.with_context(|| format!("bpftool names no ID of {file}: {text}"))?,
        ));
    }
    Ok(objects)
}

fn bpf_object_exists(kind: &str, id: u64) -> Result<bool> {
    let mut command = Command::new("bpftool");
    command.args([kind, "show", "id", &id.to_string()]);
    Ok(exec::run(command, "bpftool", None, COMMAND_TIMEOUT)?
        .status
        .success())
}
