//! Whether the packets of a slice went the way that its mode is about, by the agents' counters.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::bed::Bed;
use super::plan::{Case, MANY};
use super::result::{Mode, Workload};
use crate::node::Node;

/// The least share of a slice's packets that must have gone the mode's way: revalidation and TCP's own packets make up
/// for the rest.
///
/// Where each of very many flows is used so rarely that learning and proving them is much of the traffic, it is half: how
/// much is left for the fast path is then itself a result.
const SHARE: f64 = 0.95;

/// Packets by reason of the client's node and of the server's.
#[derive(Clone, Debug)]
pub(super) struct Counters([BTreeMap<String, u64>; 2]);

#[derive(Deserialize)]
struct Status {
    counters: BTreeMap<String, Count>,
}

#[derive(Deserialize)]
struct Count {
    packets: u64,
}

impl Counters {
    /// Reads them, in the modes that have an agent.
    pub(super) fn read(mode: Mode, bed: &Bed) -> Result<Option<Self>> {
        match mode {
            Mode::Bare | Mode::Hostgw | Mode::Kernel => Ok(None),
            Mode::Slow | Mode::Fast => {
                let [client, server] = bed.nodes()?;
                Ok(Some(Self([of(client)?, of(server)?])))
            }
        }
    }

    /// How much each has grown since `earlier`.
    fn grown(&self, earlier: &Self) -> Grown {
        let pairs = self.0.iter().zip(&earlier.0);
        let grown = pairs.map(|(now, then)| {
            now.iter()
                .map(|(name, count)| {
                    let before = then.get(name).copied().unwrap_or_default();
                    (name.clone(), count.saturating_sub(before))
                })
                .filter(|(_, count)| *count > 0)
                .collect()
        });
        Grown(grown.collect())
    }

    /// Fails unless the `amount` that was counted between `earlier` and now went as it should.
    pub(super) fn check(&self, earlier: &Self, mode: Mode, case: Case, amount: u64) -> Result<()> {
        self.grown(earlier).check(mode, case, amount)
    }
}

fn of(node: &Node) -> Result<BTreeMap<String, u64>> {
    let text = node.agent_command(&["status", "--json"])?.success()?;
    let status: Status =
        serde_json::from_str(&text).with_context(|| format!("status of {}: {text}", node.name()))?;
    Ok(status
        .counters
        .into_iter()
        .map(|(name, count)| (name, count.packets))
        .collect())
}

/// By reason, for each node.
struct Grown(Vec<BTreeMap<String, u64>>);

impl Grown {
    fn check(&self, mode: Mode, Case { workload, flows, .. }: Case, amount: u64) -> Result<()> {
        for (node, counters) in self.0.iter().enumerate() {
            let of = |name: &str| counters.get(name).copied().unwrap_or_default();
            let (out_fast, in_fast) = (of("egress_fast"), of("ingress_fast"));
            let (out_slow, in_slow) = (of("encapsulated"), of("accepted"));
            let fail = |what: &str| {
                let of_node = ["the client's node", "the server's node"]
                    .get(node)
                    .copied()
                    .unwrap_or_default();
                format!(
                    "{what} on {of_node}: {amount} counted by the load generator, and by the agent {counters:?}"
                )
            };
            match (mode, workload) {
                // Setting up and closing connections is nothing for the fast path, and how much is left is its business.
                (Mode::Bare | Mode::Hostgw | Mode::Kernel, _) | (Mode::Fast, Workload::TcpCrr) => {}
                (Mode::Slow, _) | (Mode::Fast, Workload::OutsideRr) => {
                    let limit = if mode == Mode::Slow { 0 } else { amount / 100 };
                    ensure!(
                        out_fast.max(in_fast) <= limit,
                        fail("packets took the fast path, which is off")
                    );
                    let wanted = match workload {
                        // None of its packets is for the overlay.
                        Workload::OutsideRr => 0,
                        // One packet may be an aggregate of many.
                        Workload::TcpBulk => 1,
                        Workload::TcpRr | Workload::UdpRr | Workload::TcpCrr => most(amount),
                        Workload::Udp64 | Workload::Udp1400 if node == 0 => most(amount),
                        Workload::Udp64 | Workload::Udp1400 => 0,
                    };
                    ensure!(
                        out_slow >= wanted,
                        fail("packets were not encapsulated by the program")
                    );
                }
                (Mode::Fast, Workload::TcpRr | Workload::UdpRr) => {
                    let both = out_fast.min(in_fast);
                    let wanted = if flows < MANY { most(amount) } else { amount / 2 };
                    ensure!(both >= wanted, fail("packets did not take the fast path"));
                }
                (Mode::Fast, Workload::Udp64 | Workload::Udp1400 | Workload::TcpBulk) => {
                    let (fast, slow) = if node == 0 {
                        (out_fast, out_slow)
                    } else {
                        (in_fast, in_slow)
                    };
                    ensure!(
                        fast > 0 && fast >= most(fast + slow),
                        fail("packets did not take the fast path")
                    );
                }
            }
        }
        Ok(())
    }
}

fn most(packets: u64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a number of packets of less than 2⁵²"
    )]
    let share = (packets as f64 * SHARE) as u64;
    share
}

#[cfg(test)]
mod tests {
    use super::super::result::{Target, Wire};
    use super::*;

    fn grown(counters: &[(&str, u64)]) -> Grown {
        let of_node: BTreeMap<_, _> = counters
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        Grown(vec![of_node.clone(), of_node])
    }

    fn holds(counters: &[(&str, u64)], mode: Mode, workload: Workload) -> bool {
        let case = Case {
            workload,
            target: Target::Pod,
            flows: 1,
            wire: Wire::Tso,
        };
        grown(counters).check(mode, case, 1000).is_ok()
    }

    #[test]
    fn each_mode_wants_its_own_path() {
        let fast = [
            ("egress_fast", 1000),
            ("ingress_fast", 990),
            ("encapsulated", 3),
            ("accepted", 3),
        ];
        let slow = [("encapsulated", 1000), ("accepted", 1000)];
        for workload in [
            Workload::TcpRr,
            Workload::UdpRr,
            Workload::Udp64,
            Workload::Udp1400,
            Workload::TcpBulk,
        ] {
            assert!(
                holds(&fast, Mode::Fast, workload) && !holds(&slow, Mode::Fast, workload),
                "{workload}"
            );
            assert!(
                holds(&slow, Mode::Slow, workload) && !holds(&fast, Mode::Slow, workload),
                "{workload}"
            );
        }
    }

    #[test]
    fn one_direction_is_not_enough() {
        let half = [("egress_fast", 1000), ("accepted", 1000)];
        assert!(!holds(&half, Mode::Fast, Workload::UdpRr));
    }

    #[test]
    fn what_cannot_be_accelerated_is_not() {
        assert!(holds(&[], Mode::Fast, Workload::OutsideRr));
        assert!(holds(&[], Mode::Slow, Workload::OutsideRr));
        assert!(!holds(&[("egress_fast", 500)], Mode::Fast, Workload::OutsideRr));
    }
}
