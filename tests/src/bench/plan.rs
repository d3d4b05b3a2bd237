//! What is measured: the cases, how often and for how long.

use std::time::Duration;

use super::Options;
use super::load::MARGINS;
use super::result::{Mode, Target, Wire, Workload};

/// So many flows are each used only a few times per second.
pub(super) const MANY: u32 = 5_000;
/// So many flows take a while to be used once each.
const SOME: u32 = 100;
/// How much longer slices of many flows, of some, and of what goes one way are.
pub(super) const SLICES_OF_MANY: u32 = 32;
pub(super) const SLICES_OF_SOME: u32 = 8;
pub(super) const SLICES_ONE_WAY: u32 = 2;
/// What is not learned by then is measured as it is.
pub(super) const LONGEST_WARM_UP: Duration = Duration::from_secs(6);

/// One line of the table: the modes are measured side by side in each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Case {
    pub(super) workload: Workload,
    pub(super) target: Target,
    pub(super) flows: u32,
    pub(super) wire: Wire,
}

impl Case {
    /// Whether `mode` can be measured in this case. Masquerading concerns pods.
    ///
    /// The bare nodes have no service: the server's own address stands for it, so that what the others are compared with
    /// is measured in turn with them.
    pub(super) fn concerns(self, mode: Mode) -> bool {
        mode != Mode::Bare || self.workload != Workload::OutsideRr
    }

    /// How long the flows are used before a slice, so that caches are warm.
    pub(super) fn warm_up(self) -> Duration {
        Duration::from_millis(match self.workload {
            // Each connection is new in any case.
            Workload::TcpCrr => 20,
            Workload::Udp64 | Workload::Udp1400 | Workload::TcpBulk => 60,
            Workload::TcpRr | Workload::UdpRr | Workload::OutsideRr => match self.flows {
                MANY.. => 300,
                SOME.. => 100,
                _ => 30,
            },
        })
    }

    /// How many transactions the warm-up has at least, unless it takes longer than [`LONGEST_WARM_UP`].
    ///
    /// The programs wait for a few packets of each flow before they try to learn it, and forget it during the other modes'
    /// slices; what is to be measured is a flow in use.
    pub(super) fn warm_up_transactions(self, mode: Mode) -> u64 {
        match (mode, self.workload) {
            (Mode::Fast, Workload::TcpRr | Workload::UdpRr) => u64::from(self.flows) * 8,
            _ => 0,
        }
    }

    /// How long a slice is. Many flows take longer, since each shall be used a few times; so does what goes one way, which
    /// has a beginning and an end that do not count.
    pub(super) fn slice(self, of_one_flow: Duration) -> Duration {
        match self.flows {
            MANY.. => SLICES_OF_MANY * of_one_flow,
            SOME.. => SLICES_OF_SOME * of_one_flow,
            _ if self.is_one_way() => SLICES_ONE_WAY * of_one_flow,
            _ => of_one_flow,
        }
    }

    /// How long the flows are used again before a slice, because something else has run meanwhile: every mode begins alike.
    /// What goes one way has a beginning in any case.
    pub(super) fn touch(self) -> Option<Duration> {
        match self.flows {
            SOME.. => Some(Duration::from_millis(10)),
            _ if self.is_one_way() => None,
            _ => Some(Duration::from_millis(5)),
        }
    }

    /// After how many rounds the agents are asked which way the packets went, and the flows get used to being used.
    ///
    /// Many flows would not stay known, or proved, while the other modes have their turns.
    pub(super) fn stretch(self) -> u32 {
        match self.flows {
            SOME.. => 1,
            _ if self.is_one_way() => 3,
            _ => 15,
        }
    }

    /// After how many rounds the connections are opened anew: how fast one is depends on how it began (what was lost, where
    /// its memory is), so a single one says little. Where there are many, that evens out.
    pub(super) fn rounds_of_a_connection(self) -> usize {
        match self.flows {
            SOME.. => usize::MAX,
            _ => usize::try_from(self.stretch()).unwrap_or(usize::MAX),
        }
    }

    fn is_one_way(self) -> bool {
        matches!(
            self.workload,
            Workload::Udp64 | Workload::Udp1400 | Workload::TcpBulk
        )
    }

    /// Name for messages: `udp_rr to service, 32 flows`.
    pub(super) fn name(self) -> String {
        let Self {
            workload,
            target,
            flows,
            wire,
        } = self;
        let wire = match wire {
            Wire::Tso => "",
            Wire::Segments => ", segments on the wire",
        };
        match flows {
            1 => format!("{workload} to {target}{wire}"),
            many => format!("{workload} to {target}, {many} flows{wire}"),
        }
    }
}

/// How often each mode is measured: many flows take long to set up and to learn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rounds {
    few: u32,
    one_way: u32,
    some: u32,
    many: u32,
}

/// What a run does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) cases: Vec<Case>,
    pub(super) modes: Vec<Mode>,
    rounds: Rounds,
    pub(super) slice: Duration,
}

impl Plan {
    /// The full plan, or one for a quick look.
    pub(super) fn new(options: &Options) -> Self {
        let quick = options.quick;
        let mut cases = all_cases(quick && options.flows.is_empty());
        cases.retain(|case| {
            is_wanted(&options.workloads, &case.workload) && is_wanted(&options.flows, &case.flows)
        });
        Self {
            cases,
            modes: Mode::ALL
                .into_iter()
                .filter(|mode| is_wanted(&options.modes, mode))
                .collect(),
            // Many short slices: how fast the machine is changes within a tenth of a second and within a minute (it is shared),
            // and the shorter the time until all modes had their turn, the more it hits all of them alike.
            rounds: match (options.rounds, quick) {
                (Some(n), _) => Rounds {
                    few: n,
                    one_way: n,
                    some: n,
                    many: n,
                },
                (None, true) => Rounds {
                    few: 30,
                    one_way: 15,
                    some: 3,
                    many: 3,
                },
                (None, false) => Rounds {
                    few: 120,
                    one_way: 60,
                    some: 20,
                    many: 7,
                },
            },
            slice: Duration::from_millis(20),
        }
    }

    /// How often each mode of `case` is measured.
    pub(super) fn rounds(&self, case: Case) -> u32 {
        match case.flows {
            MANY.. => self.rounds.many,
            SOME.. => self.rounds.some,
            _ if case.is_one_way() => self.rounds.one_way,
            _ => self.rounds.few,
        }
    }

    /// The modes of `case` in the order of `round`: every mode comes first, and last, and after every other.
    pub(super) fn order(&self, case: Case, round: u32) -> Vec<Mode> {
        let mut modes: Vec<_> = self
            .modes
            .iter()
            .copied()
            .filter(|mode| case.concerns(*mode))
            .collect();
        if !modes.is_empty() {
            let first = usize::try_from(round / 2).unwrap_or_default() % modes.len();
            modes.rotate_left(first);
        }
        if !round.is_multiple_of(2) {
            modes.reverse();
        }
        modes
    }

    /// About how long the measuring takes, for the user's patience.
    pub(super) fn estimate(&self) -> Duration {
        let cases = self.cases.iter().flat_map(|case| {
            let modes = self.modes.iter().filter(|mode| case.concerns(**mode));
            modes.map(|mode| {
                let setting_up = Duration::from_micros(u64::from(case.flows) * 60 + 20_000);
                let status = Duration::from_millis(40);
                // As many transactions per second as on a slow machine.
                let learning = Duration::from_micros(case.warm_up_transactions(*mode) * 50);
                let warm_up = case.warm_up().max(learning).min(LONGEST_WARM_UP);
                let (rounds, around) = (self.rounds(*case), case.touch().unwrap_or(MARGINS));
                let stretches = rounds.div_ceil(case.stretch());
                let lasts = u32::try_from(case.rounds_of_a_connection()).unwrap_or(u32::MAX);
                let connections = rounds.div_ceil(lasts);
                setting_up * connections
                    + (around + case.slice(self.slice)) * rounds
                    + (warm_up + status) * stretches
            })
        });
        cases.sum()
    }
}

/// Whether `one` was asked for; what was not restricted is wanted as a whole.
fn is_wanted<T: PartialEq>(wanted: &[T], one: &T) -> bool {
    wanted.is_empty() || wanted.contains(one)
}

fn all_cases(quick: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |workload, flows: &[u32], wires: &[Wire], targets: &[Target]| {
        for wire in wires {
            for flows in flows {
                for target in targets {
                    cases.push(Case {
                        workload,
                        target: *target,
                        flows: *flows,
                        wire: *wire,
                    });
                }
            }
        }
    };
    let both = [Target::Pod, Target::Service];
    for workload in [Workload::TcpRr, Workload::UdpRr] {
        if quick {
            add(workload, &[1], &[Wire::Tso], &both);
            add(workload, &[10_000], &[Wire::Tso], &[Target::Pod]);
        } else {
            add(workload, &[1, 32, 1_000, 10_000], &[Wire::Tso], &both);
        }
    }
    add(Workload::Udp64, &[1], &[Wire::Tso], &both);
    add(Workload::Udp1400, &[1], &[Wire::Tso], &both);
    add(Workload::TcpBulk, &[1], &[Wire::Tso, Wire::Segments], &both);
    add(Workload::TcpCrr, &[1], &[Wire::Tso], &both);
    add(Workload::OutsideRr, &[1], &[Wire::Tso], &[Target::Pod]);
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(quick: bool) -> Plan {
        Plan::new(&Options {
            quick,
            ..Options::default()
        })
    }

    #[test]
    fn every_mode_comes_first_and_the_order_turns_round() {
        let plan = plan(false);
        let case = plan.cases[0];
        let firsts: Vec<_> = (0..10).map(|round| plan.order(case, round)[0]).collect();
        assert!(Mode::ALL.iter().all(|mode| firsts.contains(mode)), "{firsts:?}");
        assert_eq!(
            plan.order(case, 0).into_iter().rev().collect::<Vec<_>>(),
            plan.order(case, 1)
        );
    }

    #[test]
    fn a_run_keeps_its_time() {
        assert!(plan(false).estimate() < Duration::from_secs(15 * 60));
        assert!(plan(true).estimate() < Duration::from_secs(3 * 60));
        let full = plan(false);
        assert!(full.cases.iter().all(|case| full.rounds(*case) >= 5));
    }

    #[test]
    fn a_part_can_be_asked_for() {
        let part = Plan::new(&Options {
            quick: true,
            workloads: vec![Workload::UdpRr],
            flows: vec![1_000],
            ..Options::default()
        });
        let found: Vec<_> = part.cases.iter().map(|case| case.name()).collect();
        assert_eq!(
            found,
            ["udp_rr to pod, 1000 flows", "udp_rr to service, 1000 flows"]
        );
    }

    #[test]
    fn bare_nodes_have_no_pods_to_masquerade() {
        for case in all_cases(false) {
            assert_eq!(case.concerns(Mode::Bare), case.workload != Workload::OutsideRr);
            assert!(case.concerns(Mode::Fast));
        }
    }
}
