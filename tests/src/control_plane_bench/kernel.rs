//! Whether every peer is where it belongs: routes, neighbours, forwarding entries, maps.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::maps::{PeerMaps, mapped};
use super::peers::Peer;
use crate::space::Space;

/// What the agent makes and the kernel shows.
pub(super) const DEVICE: &str = "flannel.1";

/// Fails unless exactly the first `nodes` peers are in the kernel and in the maps.
pub(super) fn expect_all(space: &Space, nodes: u32) -> Result<()> {
    let all = || Peer::first(nodes);
    let lines = |command: String, take: fn(&str) -> Option<String>| -> Result<BTreeSet<String>> {
        Ok(space.run(&command)?.lines().filter_map(take).collect())
    };
    compare(
        "routes",
        &lines(format!("ip -4 route show dev {DEVICE}"), route)?,
        &all()
            .map(|peer| format!("{}/24 via {}", peer.subnet(), peer.subnet()))
            .collect(),
    )?;
    compare(
        "neighbours",
        &lines(format!("ip -4 neigh show dev {DEVICE}"), neighbour)?,
        &all()
            .map(|peer| format!("{} {}", peer.subnet(), peer.vtep_mac()))
            .collect(),
    )?;
    compare(
        "forwarding entries",
        &lines(format!("bridge fdb show dev {DEVICE}"), forwarding)?,
        &all()
            .map(|peer| format!("{} {}", peer.vtep_mac(), peer.public_ip()))
            .collect(),
    )?;
    let (peers, subnets) = PeerMaps::open(space)?.list()?;
    compare(
        "PEERS",
        &peers,
        &all().map(|peer| mapped(peer.public_ip())).collect(),
    )?;
    compare(
        "SUBNETS",
        &subnets,
        &all().map(|peer| mapped(peer.subnet())).collect(),
    )
}

fn compare<T: Ord + std::fmt::Debug>(what: &str, found: &BTreeSet<T>, wanted: &BTreeSet<T>) -> Result<()> {
    let missing = wanted.difference(found).next();
    let foreign = found.difference(wanted).next();
    ensure!(
        missing.is_none() && foreign.is_none(),
        "{what}: {} instead of {}; for example missing {missing:?}, too many {foreign:?}",
        found.len(),
        wanted.len()
    );
    Ok(())
}

/// `10.0.1.0/24 via 10.0.1.0 onlink` → `10.0.1.0/24 via 10.0.1.0`.
fn route(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (destination, via, gateway) = (words.next()?, words.next()?, words.next()?);
    (via == "via").then(|| format!("{destination} via {gateway}"))
}

/// `10.0.1.0 lladdr 06:00:00:00:00:01 PERMANENT` → `10.0.1.0 06:00:00:00:00:01`.
fn neighbour(line: &str) -> Option<String> {
    let (address, rest) = line.split_once(" lladdr ")?;
    let mac = rest
        .strip_suffix("PERMANENT")
        .or_else(|| rest.strip_suffix("PERMANENT "))?;
    Some(format!("{address} {}", mac.trim()))
}

/// `06:00:00:00:00:01 dst 172.16.0.1 self permanent` → `06:00:00:00:00:01 172.16.0.1`.
fn forwarding(line: &str) -> Option<String> {
    let (mac, rest) = line.split_once(" dst ")?;
    let address = rest.split_whitespace().next()?;
    Some(format!("{mac} {address}"))
}

/// Removes everything that the agent made on the node.
pub(super) fn clean(space: &Space, agent: &std::path::Path) -> Result<()> {
    let words = [agent.display().to_string(), "cleanup".to_owned()];
    space
        .output_args(&words, None, std::time::Duration::from_secs(60))?
        .success()
        .context("the agent's cleanup")?;
    let left = space.run("ip -4 route show")?;
    ensure!(
        !left.contains(DEVICE)
            && space
                .output(&format!("ip link show {DEVICE}"))?
                .success()
                .is_err(),
        "the agent's cleanup has left something behind: {DEVICE}, or routes over it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_iproute2_are_read() {
        assert_eq!(
            route("10.0.1.0/24 via 10.0.1.0 onlink ").unwrap(),
            "10.0.1.0/24 via 10.0.1.0"
        );
        assert_eq!(route("10.244.1.0 scope link"), None);
        for line in [
            "10.0.1.0 lladdr 06:00:00:00:00:01 PERMANENT",
            "10.0.1.0 lladdr 06:00:00:00:00:01 PERMANENT ",
        ] {
            assert_eq!(neighbour(line).unwrap(), "10.0.1.0 06:00:00:00:00:01");
        }
        assert_eq!(neighbour("10.0.1.0 FAILED"), None);
        assert_eq!(
            forwarding("06:00:00:00:00:01 dst 172.16.0.1 self permanent").unwrap(),
            "06:00:00:00:00:01 172.16.0.1"
        );
        assert_eq!(forwarding("33:33:00:00:00:01 self permanent"), None);
    }

    #[test]
    fn a_difference_is_named() {
        let set = |values: &[u32]| values.iter().copied().collect::<BTreeSet<_>>();
        compare("routes", &set(&[1, 2]), &set(&[1, 2])).unwrap();
        let error = compare("routes", &set(&[1, 9]), &set(&[1, 2]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("missing Some(2)") && error.contains("too many Some(9)"),
            "{error}"
        );
    }
}
