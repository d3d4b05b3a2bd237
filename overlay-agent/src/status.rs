//! `overlay-agent status`: what the dataplane has done, read from the pinned maps.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_common::config::{FLAG_ENFORCE_PEERS, FLAG_FASTPATH};
use overlay_common::maps::{Counter, PeerStats};
use overlay_common::reason::{Direction, Reason, Verdict};
use overlay_core::model::MacAddr;
use overlay_core::observed::ObservedDataplane;
use serde_json::{Value, json};

use crate::dataplane::FlowCounts;
use crate::text::{bytes, count};

/// Everything that `status` prints.
#[derive(Debug)]
pub struct Status {
    /// What is pinned.
    pub dataplane: ObservedDataplane,
    /// Traffic per VTEP.
    pub stats: BTreeMap<IpAddr, PeerStats>,
    /// Every counter.
    pub counters: Vec<(Reason, Counter)>,
    /// What the fast path knows.
    pub flows: FlowCounts,
}

/// A peer as `status` shows it.
struct Peer {
    vtep: IpAddr,
    subnets: Vec<(IpNet, MacAddr)>,
    stats: PeerStats,
}

impl Status {
    /// For people; counters that are zero only when `all`.
    ///
    /// # Errors
    ///
    /// None in practice: writing to a string does not fail.
    pub fn text(&self, all: bool) -> Result<String, fmt::Error> {
        let mut out = String::new();
        self.node(&mut out)?;
        let peers = self.peers();
        writeln!(out, "\n{}", count(peers.len(), "peer"))?;
        if !peers.is_empty() {
            writeln!(
                out,
                "  {:<39} {:<19} {:<17} {:>12} {:>11} {:>12} {:>11}",
                "VTEP", "SUBNET", "MAC", "TX PACKETS", "TX BYTES", "RX PACKETS", "RX BYTES"
            )?;
        }
        for peer in peers {
            let (subnet, mac) = match peer.subnets.first() {
                Some((subnet, mac)) => (subnet.to_string(), mac.to_string()),
                None => ("-".to_owned(), "-".to_owned()),
            };
            let stats = peer.stats;
            writeln!(
                out,
                "  {:<39} {subnet:<19} {mac:<17} {:>12} {:>11} {:>12} {:>11}",
                peer.vtep.to_string(),
                stats.tx_packets,
                bytes(stats.tx_bytes),
                stats.rx_packets,
                bytes(stats.rx_bytes)
            )?;
            for (subnet, mac) in peer.subnets.iter().skip(1) {
                writeln!(out, "  {:<39} {:<19} {mac:<17}", "", subnet.to_string())?;
            }
        }
        for (direction, title) in [
            (Direction::Egress, "To the overlay (pod_ingress, vtep_egress)"),
            (
                Direction::Ingress,
                "From the underlay (underlay_ingress, vtep_ingress, pod_egress)",
            ),
        ] {
            self.counters(&mut out, direction, title, all)?;
        }
        Ok(out)
    }

    fn node(&self, out: &mut String) -> fmt::Result {
        if !self.dataplane.compatible {
            return writeln!(
                out,
                "The pinned maps are of another version of the agent, or of another size."
            );
        }
        match &self.dataplane.config {
            Some(config) => {
                let [a, b, c] = config.vni;
                let vni = u32::from_be_bytes([0, a, b, c]);
                writeln!(
                    out,
                    "VNI {vni}, VTEP {}, UDP port {}",
                    config.vtep,
                    u16::from_be_bytes(config.port)
                )?;
                let enforced = config.has(FLAG_ENFORCE_PEERS);
                writeln!(
                    out,
                    "Peer check: {}",
                    if enforced {
                        "on"
                    } else {
                        "counting only, until the first complete list of leases"
                    }
                )?;
                let FlowCounts {
                    epoch,
                    egress,
                    ingress,
                    endpoints,
                } = self.flows;
                writeln!(
                    out,
                    "Fast path: {}, {}, entries to the overlay {egress}, from it {ingress}, epoch {epoch}",
                    if config.has(FLAG_FASTPATH) { "on" } else { "off" },
                    count(endpoints, "pod device"),
                )?;
            }
            None => writeln!(
                out,
                "Not configured: the kernel's VXLAN device carries all traffic."
            )?,
        }
        if self.dataplane.attached.is_empty() {
            writeln!(
                out,
                "No program is attached: the kernel's VXLAN device carries all traffic."
            )?;
        }
        for (hook, attachment) in &self.dataplane.attached {
            let version = if attachment.current {
                ""
            } else {
                ", of another version of the agent"
            };
            match attachment.ifindex {
                0 => writeln!(
                    out,
                    "{} was attached to a device that is gone{version}",
                    hook.program().name()
                )?,
                ifindex => writeln!(
                    out,
                    "{} is attached to interface {ifindex}{version}",
                    hook.program().name()
                )?,
            }
        }
        Ok(())
    }

    fn counters(&self, out: &mut String, direction: Direction, title: &str, all: bool) -> fmt::Result {
        writeln!(out, "\n{title}")?;
        let mut shown = 0;
        for (reason, counter) in &self.counters {
            if reason.direction() != direction || counter.packets == 0 && !all {
                continue;
            }
            shown += 1;
            let verdict = match reason.verdict() {
                Verdict::Redirect => "sent",
                Verdict::Pass => "passed on",
                Verdict::Drop => "dropped",
                Verdict::Absorb => "absorbed",
            };
            writeln!(
                out,
                "  {:<20} {:>12} packets {:>11}  {verdict:<9}  {}",
                reason.label(),
                counter.packets,
                bytes(counter.bytes),
                reason.describe()
            )?;
        }
        if shown == 0 {
            writeln!(out, "  no packet yet")?;
        }
        Ok(())
    }

    /// Peers by VTEP: those that the peer check knows and those that a subnet names, which are the same but for the
    /// moment in which an agent changes them.
    fn peers(&self) -> Vec<Peer> {
        let mut peers: BTreeMap<IpAddr, Peer> = BTreeMap::new();
        let new = |vtep| Peer {
            vtep,
            subnets: Vec::new(),
            stats: PeerStats::default(),
        };
        for (vtep, stats) in &self.stats {
            peers.entry(*vtep).or_insert_with(|| new(*vtep)).stats = *stats;
        }
        for (subnet, entry) in &self.dataplane.subnets {
            let vtep = entry.vtep.into();
            let peer = peers.entry(vtep).or_insert_with(|| new(vtep));
            peer.subnets.push((*subnet, MacAddr::new(entry.vtep_mac)));
        }
        peers.into_values().collect()
    }

    /// For programs: every peer and every counter.
    #[must_use]
    pub fn json(&self) -> Value {
        let peers: Vec<_> = self
            .peers()
            .iter()
            .map(|peer| {
                let subnets: Vec<_> = peer
                    .subnets
                    .iter()
                    .map(|(subnet, mac)| json!({ "subnet": subnet.to_string(), "vtepMAC": mac.to_string() }))
                    .collect();
                json!({
                    "vtep": peer.vtep.to_string(),
                    "subnets": subnets,
                    "txPackets": peer.stats.tx_packets,
                    "txBytes": peer.stats.tx_bytes,
                    "rxPackets": peer.stats.rx_packets,
                    "rxBytes": peer.stats.rx_bytes,
                })
            })
            .collect();
        let counters: serde_json::Map<_, _> = self
            .counters
            .iter()
            .map(|(reason, counter)| {
                let value = json!({ "packets": counter.packets, "bytes": counter.bytes });
                (reason.label().to_owned(), value)
            })
            .collect();
        let config = self.dataplane.config.map(|config| {
            let [a, b, c] = config.vni;
            json!({
                "vni": u32::from_be_bytes([0, a, b, c]),
                "vtep": config.vtep.to_string(),
                "port": u16::from_be_bytes(config.port),
                "enforcePeers": config.has(FLAG_ENFORCE_PEERS),
                "fastPath": config.has(FLAG_FASTPATH),
            })
        });
        let flows = json!({
            "epoch": self.flows.epoch,
            "egress": self.flows.egress,
            "ingress": self.flows.ingress,
            "endpoints": self.flows.endpoints,
        });
        let attached: serde_json::Map<_, _> = self
            .dataplane
            .attached
            .iter()
            .map(|(hook, at)| {
                (
                    hook.program().name().to_owned(),
                    json!({ "ifindex": at.ifindex, "current": at.current }),
                )
            })
            .collect();
        json!({ "config": config, "attached": attached, "flows": flows, "peers": peers, "counters": counters })
    }
}

#[cfg(test)]
mod tests {
    use overlay_common::config::{ABI_VERSION, Config};
    use overlay_common::maps::SubnetEntry;

    use super::*;

    fn status() -> Status {
        let vtep: IpAddr = [192, 168, 0, 2].into();
        let mut counters: Vec<_> = Reason::ALL
            .into_iter()
            .map(|reason| (reason, Counter::default()))
            .collect();
        for (reason, counter) in &mut counters {
            if *reason == Reason::SpoofedSource {
                *counter = Counter {
                    packets: 3,
                    bytes: 300,
                };
            }
        }
        Status {
            dataplane: ObservedDataplane {
                compatible: true,
                subnets: [(
                    "10.244.2.0/24".parse().unwrap(),
                    SubnetEntry::new(vtep.into(), [2, 0, 0, 0, 0, 2]),
                )]
                .into(),
                config: Some(Config {
                    abi: ABI_VERSION,
                    flags: FLAG_FASTPATH,
                    ..Config::UNCONFIGURED
                }),
                peers: [(vtep, "10.244.2.0/24".parse().unwrap())].into(),
                ..ObservedDataplane::default()
            },
            stats: [(
                vtep,
                PeerStats {
                    tx_packets: 5,
                    tx_bytes: 2048,
                    rx_packets: 4,
                    rx_bytes: 10,
                },
            )]
            .into(),
            counters,
            flows: FlowCounts {
                epoch: 7,
                egress: 21,
                ingress: 20,
                endpoints: 3,
            },
        }
    }

    #[test]
    fn text_shows_what_happened_and_what_it_means() {
        let text = status().text(false).unwrap();
        for part in [
            "1 peer\n",
            "192.168.0.2",
            "10.244.2.0/24",
            "02:00:00:00:00:02",
            "2.0 KiB",
            "Fast path: on, 3 pod devices, entries to the overlay 21, from it 20, epoch 7\n",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        let refused = text.lines().find(|line| line.contains("spoofed_source")).unwrap();
        assert!(
            refused.contains("dropped") && refused.contains(Reason::SpoofedSource.describe()),
            "{refused}"
        );
        assert!(!text.contains("bad_flags"), "{text}");
        assert!(status().text(true).unwrap().contains("bad_flags"));
    }

    #[test]
    fn json_has_every_counter() {
        let json = status().json();
        assert_eq!(json["counters"].as_object().unwrap().len(), Reason::COUNT);
        assert_eq!(json["counters"]["spoofed_source"]["packets"], 3);
        assert_eq!(json["peers"][0]["subnets"][0]["vtepMAC"], "02:00:00:00:00:02");
        assert_eq!(json["peers"][0]["txBytes"], 2048);
        assert_eq!(
            (&json["flows"]["egress"], &json["config"]["fastPath"]),
            (&json!(21), &json!(true))
        );
    }
}
