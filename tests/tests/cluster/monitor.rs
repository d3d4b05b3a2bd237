//! What changes on a node's overlay device, as the kernel announces it.

use std::fs::OpenOptions;
use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use overlay_testbed::exec::Process;
use overlay_testbed::flannel_node::DEVICE;
use overlay_testbed::{Node, eventually};

const FILE: &str = "monitor.log";
/// Routes by which the monitor's beginning and end are seen in its own output (RFC 5737).
const MARKS: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// `ip monitor` and `bridge monitor` on a node.
pub(crate) struct Monitor {
    node: Node,
    processes: [Process; 2],
}

impl Monitor {
    pub(crate) fn start(node: &Node) -> Self {
        node.write_file(FILE, "").unwrap();
        let file = OpenOptions::new()
            .append(true)
            .open(node.path_from_outside(FILE))
            .unwrap();
        let processes = ["ip -o monitor link address route neigh", "bridge -o monitor fdb"].map(|command| {
            let words: Vec<_> = command.split(' ').collect();
            let to = || Stdio::from(file.try_clone().unwrap());
            node.space().spawn(&words, to(), to()).unwrap()
        });
        let monitor = Self {
            node: node.clone(),
            processes,
        };
        monitor.mark(MARKS[0]);
        monitor
    }

    /// Makes a change of both kinds that is none of the overlay's, until both processes have told of it.
    fn mark(&self, address: &str) {
        let (underlay, last) = (self.node.underlay(), address.split('.').next_back().unwrap());
        let mac = format!("06:00:00:00:ff:0{last}");
        eventually(Duration::from_secs(5), "both monitors' first words", || {
            for (add, delete) in [
                (
                    format!("ip route add {address}/32 dev {underlay}"),
                    format!("ip route del {address}/32 dev {underlay}"),
                ),
                (
                    format!("bridge fdb add {mac} dev {underlay} self"),
                    format!("bridge fdb del {mac} dev {underlay} self"),
                ),
            ] {
                self.node.run(&add)?;
                self.node.run(&delete)?;
            }
            let text = self.node.read_file(FILE)?;
            ensure!(text.contains(address) && text.contains(&mac), "not yet: {text}");
            Ok(())
        })
        .unwrap();
    }

    /// Everything that has changed on the overlay's device, and of its routes.
    pub(crate) fn stop(self) -> Vec<String> {
        self.mark(MARKS[1]);
        drop(self.processes);
        let text = self.node.read_file(FILE).unwrap();
        // The device's own link-local address is the kernel's business, in the second after it is made.
        let of_device = text
            .lines()
            .filter(|line| line.contains(DEVICE) && !line.contains("fe80::"));
        of_device.map(str::to_owned).collect()
    }
}
