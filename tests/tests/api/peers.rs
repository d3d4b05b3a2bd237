//! What the kernel of a node has for its peers, as iproute2 shows it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_testbed::{Lease, Node, eventually};
use serde_json::Value;

use crate::bed::DEVICE;

/// A change in the API server is in the kernel after this.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(1);

/// Everything that makes peers reachable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Peers {
    /// Destination and gateway.
    routes: BTreeSet<(String, String)>,
    /// Address and MAC.
    neighbours: BTreeSet<(String, String)>,
    /// MAC and underlay address.
    fdb: BTreeSet<(String, String)>,
}

impl Peers {
    pub(crate) fn of(leases: &[Lease]) -> Self {
        let mut peers = Self::default();
        for lease in leases {
            let (gateway, mac) = (lease.subnet.to_string(), lease.vtep_mac.to_string());
            peers.routes.insert((format!("{gateway}/24"), gateway.clone()));
            peers.neighbours.insert((gateway, mac.clone()));
            peers.fdb.insert((mac, lease.public_ip.to_string()));
        }
        peers
    }

    /// What is in the kernel; nothing while there is no device.
    pub(crate) fn on(node: &Node) -> Result<Self> {
        let mut peers = Self::default();
        for route in list(node, &format!("ip -4 -j route show dev {DEVICE}"))? {
            peers
                .routes
                .insert((text(&route, "dst"), text(&route, "gateway")));
        }
        for neighbour in list(node, &format!("ip -4 -j neigh show dev {DEVICE}"))? {
            if neighbour["state"][0] == "PERMANENT" {
                let (address, mac) = (text(&neighbour, "dst"), text(&neighbour, "lladdr"));
                peers.neighbours.insert((address, mac));
            }
        }
        for entry in list(node, &format!("bridge -j fdb show dev {DEVICE}"))? {
            let mac = text(&entry, "mac");
            if entry["state"] == "permanent" && mac != "00:00:00:00:00:00" {
                peers.fdb.insert((mac, text(&entry, "dst")));
            }
        }
        Ok(peers)
    }
}

fn list(node: &Node, command: &str) -> Result<Vec<Value>> {
    let text = node.run(command)?;
    let parsed: Value = serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text })?;
    Ok(parsed.as_array().cloned().unwrap_or_default())
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Waits until `node` has exactly the peers of `leases`.
pub(crate) fn wait_peers(node: &Node, leases: &[Lease], timeout: Duration) {
    let wanted = Peers::of(leases);
    eventually(timeout, "exactly the peers that the API server knows", || {
        let found = Peers::on(node)?;
        ensure!(found == wanted, "{found:#?}\nbut wanted {wanted:#?}");
        Ok(())
    })
    .unwrap();
}
