//! Carries out a plan: keeps its order, isolates its failures.

mod together;

use std::borrow::Cow;
use std::collections::BTreeSet;

use overlay_common::config::{Config, FLAG_ENFORCE_PEERS, FLAG_FASTPATH};
use overlay_core::action::{Action, DataplaneAction, Step};
use overlay_core::focus::is_about_peers;
use overlay_core::observed::{Keys, Observed};
use overlay_core::order::Failures;
use tokio::time::Instant;

use self::together::{Cut, inverse};
use super::groups::{Group, groups};
use super::kernel::Kernel;
use super::retries::Retries;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Report<'a> {
    /// The steps that were carried out.
    pub done: Vec<(Group, &'a Step)>,
    /// How many steps failed, or wait: for a failed one before them, or for their own next attempt.
    pub not_done: usize,
    /// How many of these are about peers.
    pub peers_not_done: usize,
    /// The groups that are not complete.
    pub incomplete: BTreeSet<Group>,
    /// The peer check was to be enforced and is not, because a peer could not be made known to it.
    pub check_open: bool,
    /// The fast path was to be on and is not, because connection tracking could not be told.
    pub fastpath_off: bool,
    /// Flows were to be forgotten and were not.
    pub not_forgotten: bool,
    /// What was carried out in place of what a step says.
    pub altered: Vec<Action>,
}

/// What a plan was made from, and so what it may do.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'k> {
    /// From everything.
    Everything,
    /// From what the kernel and the maps hold under some keys. What is not about peers is for a plan that knows every
    /// peer: it is held back, and so is what relies on it.
    Peers(&'k Keys),
}

/// Carries out `steps` in their order.
///
/// A step that relies on one that failed waits ([`Failures`] says which); every other one is carried out. So one bad
/// peer never delays another, and where eBPF does not work the kernel's device is programmed all the same.
///
/// A peer check that is still open is not closed while it does not know every peer: it would refuse what the kernel
/// delivers. Nor is the fast path switched on while connection tracking is not set for it: it would call packets
/// invalid.
pub async fn execute<'a, K: Kernel>(
    kernel: &mut K,
    steps: &'a [Step],
    observed: &Observed,
    retries: &mut Retries,
    scope: Scope<'_>,
) -> Report<'a> {
    let mut run = Run {
        report: Report::default(),
        failures: Failures::none(observed),
        unknown_peer: false,
        no_conntrack: false,
        observed,
        retries,
    };
    let grouped: Vec<_> = steps.iter().zip(groups(steps, observed)).collect();
    // Steps of one kind do not rely on each other, so the kernel may get many at once.
    let cut = match scope {
        Scope::Everything => Cut::Kinds,
        Scope::Peers(_) => Cut::of(steps, observed),
    };
    for call in grouped.chunk_by(|(a, _), (b, _)| cut.joins(&a.action, &b.action)) {
        let mut ready = Vec::with_capacity(call.len());
        for (step, group) in call {
            if run.waits(&step.action) {
                run.not_done(step, *group);
            } else if let Some(actual) = run.actual(&step.action) {
                if matches!(scope, Scope::Peers(_)) && !is_about_peers(&step.action) {
                    run.not_done(step, *group);
                } else {
                    ready.push((*step, *group, actual));
                }
            }
        }
        let actions: Vec<&Action> = ready.iter().map(|(.., actual)| actual.as_ref()).collect();
        let results = kernel.execute(&actions).await;
        let mut too_much = Vec::new();
        for ((step, group, actual), result) in ready.into_iter().zip(results) {
            if run.failures.blocks(&step.action) {
                // What it relies on was refused in the same call.
                run.not_done(step, group);
                too_much.extend(result.ok().map(|()| &step.action));
            } else {
                match result {
                    Ok(()) => run.done(step, group, actual),
                    Err(error) => run.failed(step, group, &error),
                }
            }
        }
        run.take_back(kernel, &too_much).await;
    }
    let Run { report, retries, .. } = run;
    if !retries.is_empty() {
        let planned = steps.iter().map(|step| step.action.to_string()).collect();
        retries.keep_only(&planned, |subject| match scope {
            Scope::Everything => true,
            Scope::Peers(keys) => keys.concern(subject),
        });
    }
    report
}

/// A plan that is being carried out.
struct Run<'a, 'r> {
    report: Report<'a>,
    failures: Failures,
    unknown_peer: bool,
    no_conntrack: bool,
    observed: &'r Observed,
    retries: &'r mut Retries,
}

impl<'a> Run<'a, '_> {
    fn waits(&self, action: &Action) -> bool {
        // Tens of thousands of steps, and nearly always nothing that fails: names are made when there is a use for them.
        let is_held = || self.retries.is_held(&action.to_string(), Instant::now());
        self.failures.blocks(action) || !self.retries.is_empty() && is_held()
    }

    /// What to carry out for `action`; `None` when nothing is to be done now.
    fn actual(&mut self, action: &'a Action) -> Option<Cow<'a, Action>> {
        let Action::Dataplane(DataplaneAction::SetConfig(wanted)) = action else {
            return Some(Cow::Borrowed(action));
        };
        let mut config = **wanted;
        if self.unknown_peer && closes_check(wanted, self.observed) {
            self.report.check_open = true;
            config.flags &= !FLAG_ENFORCE_PEERS;
        }
        if self.no_conntrack && wanted.has(FLAG_FASTPATH) {
            self.report.fastpath_off = true;
            config.flags &= !FLAG_FASTPATH;
        }
        if config == **wanted {
            return Some(Cow::Borrowed(action));
        }
        let is_in_force = in_force(self.observed) == Some(&config);
        (!is_in_force).then(|| Cow::Owned(DataplaneAction::SetConfig(Box::new(config)).into()))
    }

    fn done(&mut self, step: &'a Step, group: Group, actual: Cow<'a, Action>) {
        log::debug!("{step}");
        if !self.retries.is_empty() {
            self.retries.succeeded(&step.action.to_string());
        }
        match actual {
            Cow::Borrowed(_) => self.report.done.push((group, step)),
            Cow::Owned(actual) => self.report.altered.push(actual),
        }
    }

    fn failed(&mut self, step: &Step, group: Group, error: &anyhow::Error) {
        log::debug!("{step}: {error:#}");
        let name = step.action.to_string();
        let message = message(&name, group, error);
        self.retries
            .failed(&name, step.action.subject(), message, Instant::now());
        self.not_done(step, group);
    }

    /// Undoes what was carried out, in this order, though it should have waited. What stays is known to be there: the
    /// next plan, which the refused step makes due, starts from that.
    async fn take_back<K: Kernel>(&mut self, kernel: &mut K, too_much: &[&Action]) {
        if too_much.is_empty() {
            return;
        }
        let back: Vec<_> = too_much
            .iter()
            .rev()
            .map(|action| (*action, inverse(action)))
            .collect();
        let inverses: Vec<&Action> = back.iter().filter_map(|(_, inverse)| inverse.as_ref()).collect();
        let mut results = kernel.execute(&inverses).await.into_iter();
        for (action, inverse) in &back {
            let result = inverse.as_ref().and_then(|_| results.next());
            match result {
                Some(Ok(())) => log::debug!("taken back: {action}"),
                Some(Err(error)) => {
                    log::debug!("cannot take back: {action}: {error:#}");
                    self.report.altered.push((*action).clone());
                }
                None => self.report.altered.push((*action).clone()),
            }
        }
    }

    fn not_done(&mut self, step: &Step, group: Group) {
        self.failures.record(&step.action);
        self.unknown_peer |= matches!(step.action, Action::Dataplane(DataplaneAction::SetPeer { .. }));
        self.no_conntrack |= matches!(step.action, Action::SetConntrack(_));
        self.report.not_forgotten |= step.action == DataplaneAction::ForgetFlows.into();
        self.report.incomplete.insert(group);
        self.report.not_done += 1;
        self.report.peers_not_done += usize::from(is_about_peers(&step.action));
    }
}

fn in_force(observed: &Observed) -> Option<&Config> {
    observed.dataplane.as_ref()?.config.as_ref()
}

/// Whether a configuration would close the peer check now.
fn closes_check(wanted: &Config, observed: &Observed) -> bool {
    let closed = in_force(observed).is_some_and(|config| config.has(FLAG_ENFORCE_PEERS));
    wanted.has(FLAG_ENFORCE_PEERS) && !closed
}

fn message(step: &str, group: Group, error: &anyhow::Error) -> String {
    let consequence = match group {
        Group::Device => "what relies on the device waits until this works",
        Group::Dataplane => "the kernel's VXLAN device carries the traffic meanwhile",
        Group::Fastpath => "the fast path is off meanwhile, everything else works",
        Group::Peer(_) => "other peers are not affected",
    };
    format!("failed: {step}: {error:#}; {consequence}; trying again with growing waits (0.1 s to 30 s)")
}

#[cfg(test)]
mod tests {
    use overlay_core::action::{Hook, KernelAction, VxlanDevice};
    use overlay_core::model::ConntrackParameter;
    use overlay_core::observed::ObservedDataplane;

    use super::*;
    use crate::control::backoff::{FIRST, Jitter};
    use crate::control::fake::{FakeKernel, peer_steps, step};

    fn retries() -> Retries {
        Retries::new(Jitter::seeded(1))
    }

    fn done(report: &Report<'_>) -> Vec<Action> {
        report.done.iter().map(|(_, step)| step.action.clone()).collect()
    }

    fn actions(steps: &[Step]) -> Vec<Action> {
        steps.iter().map(|step| step.action.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_peer_does_not_delay_another() {
        let mut kernel = FakeKernel::prepared();
        let steps = [peer_steps(1), peer_steps(2)].concat();
        kernel.refuse(steps[1].action.clone());
        let (observed, mut retries) = (kernel.observed(), retries());
        let report = execute(&mut kernel, &steps, &observed, &mut retries, Scope::Everything).await;
        // Its forwarding entry was made before; its VTEP may be known.
        let expected = [
            actions(&[steps[0].clone(), steps[3].clone()]),
            actions(&peer_steps(2)),
        ]
        .concat();
        assert_eq!(done(&report), expected);
        assert_eq!((report.not_done, report.incomplete.len()), (3, 1));
        let messages: Vec<_> = retries.messages().into_values().collect();
        assert!(
            messages.len() == 1 && messages[0].contains("other peers are not affected"),
            "{messages:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_ebpf_the_kernel_side_is_complete() {
        let mut kernel = FakeKernel::prepared();
        kernel.with(|state| state.observed.dataplane = None);
        kernel.refuse(DataplaneAction::Load);
        let attach = DataplaneAction::Attach {
            hook: Hook::VtepEgress,
            device: "flannel.1".into(),
        };
        let mut steps = vec![step(DataplaneAction::Load), step(attach)];
        steps.extend(peer_steps(1));
        let observed = kernel.observed();
        let report = execute(&mut kernel, &steps, &observed, &mut retries(), Scope::Everything).await;
        assert_eq!(done(&report), actions(&peer_steps(1)[..3]));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_device_nothing_is_done() {
        let mut kernel = FakeKernel::default();
        let create = KernelAction::CreateDevice(VxlanDevice {
            name: "flannel.1".into(),
            vni: 1,
            port: None,
            local: [192, 168, 0, 1].into(),
            underlay_ifindex: 2,
            mac: "02:00:00:00:00:01".parse().unwrap(),
            mtu: 1450,
            learning: false,
            gbp: false,
        });
        kernel.refuse(create.clone());
        let mut steps = vec![step(create), step(KernelAction::SetDeviceUp)];
        steps.extend(peer_steps(1));
        let report = execute(
            &mut kernel,
            &steps,
            &Observed::default(),
            &mut retries(),
            Scope::Everything,
        )
        .await;
        assert_eq!((report.done.len(), report.not_done), (0, 7));
        assert_eq!(kernel.attempts(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_peer_check_is_not_closed_before_it_knows_every_peer() {
        let mut kernel = FakeKernel::default();
        kernel.with(|state| {
            state.observed.dataplane = Some(ObservedDataplane {
                compatible: true,
                ..Default::default()
            });
        });
        let add = |n: u8| DataplaneAction::SetPeer {
            vtep: [192, 168, 0, n].into(),
            subnet: "10.244.2.0/24".parse().unwrap(),
        };
        let wanted = Config {
            abi: 1,
            flags: FLAG_ENFORCE_PEERS,
            ..Config::UNCONFIGURED
        };
        let steps = [add(1), add(2), DataplaneAction::SetConfig(Box::new(wanted))].map(step);
        kernel.refuse(add(1));
        let mut retries = retries();
        let config = |kernel: &FakeKernel| kernel.with(|s| s.observed.dataplane.as_ref().unwrap().config);
        let open = Config { flags: 0, ..wanted };
        for _ in 0..2 {
            let observed = kernel.observe().await.unwrap();
            let report = execute(&mut kernel, &steps, &observed, &mut retries, Scope::Everything).await;
            assert!(report.check_open);
            assert_eq!(config(&kernel), Some(open));
        }
        assert_eq!(kernel.attempts(), 4, "what is in force is not written again");
        kernel.allow_all();
        tokio::time::advance(FIRST).await;
        let observed = kernel.observe().await.unwrap();
        let report = execute(&mut kernel, &steps, &observed, &mut retries, Scope::Everything).await;
        assert!(!report.check_open);
        assert_eq!(config(&kernel), Some(wanted));
    }

    #[tokio::test(start_paused = true)]
    async fn without_connection_tracking_only_the_fast_path_is_off() {
        let mut kernel = FakeKernel::prepared();
        let wanted = Config {
            abi: 1,
            flags: FLAG_ENFORCE_PEERS | FLAG_FASTPATH,
            ..Config::UNCONFIGURED
        };
        let set = Action::SetConntrack(ConntrackParameter::BeLiberal);
        let steps = [
            step(set.clone()),
            step(DataplaneAction::SetConfig(Box::new(wanted))),
        ];
        kernel.refuse(set);
        let mut retries = retries();
        let config = |kernel: &FakeKernel| kernel.with(|s| s.observed.dataplane.as_ref().unwrap().config);
        let slow = Config {
            flags: FLAG_ENFORCE_PEERS,
            ..wanted
        };
        for _ in 0..2 {
            let observed = kernel.observed();
            let report = execute(&mut kernel, &steps, &observed, &mut retries, Scope::Everything).await;
            assert!(report.fastpath_off && !report.check_open);
            assert_eq!(report.incomplete, [Group::Fastpath].into());
            assert_eq!(config(&kernel), Some(slow));
        }
        assert_eq!(kernel.attempts(), 2, "what is in force is not written again");
        let messages: Vec<_> = retries.messages().into_values().collect();
        assert!(messages[0].contains("everything else works"), "{messages:?}");
        kernel.allow_all();
        tokio::time::advance(FIRST).await;
        let observed = kernel.observed();
        let report = execute(&mut kernel, &steps, &observed, &mut retries, Scope::Everything).await;
        assert!(!report.fastpath_off);
        assert_eq!(config(&kernel), Some(wanted));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_step_is_not_tried_again_before_its_time() {
        let mut kernel = FakeKernel::prepared();
        let steps = peer_steps(1);
        let observed = kernel.observed();
        kernel.refuse(steps[0].action.clone());
        let mut retries = retries();
        for _ in 0..3 {
            execute(&mut kernel, &steps, &observed, &mut retries, Scope::Everything).await;
        }
        assert_eq!(kernel.attempts(), 1);
        kernel.allow_all();
        tokio::time::advance(FIRST).await;
        let report = execute(&mut kernel, &steps, &observed, &mut retries, Scope::Everything).await;
        assert_eq!((report.done.len(), report.not_done), (5, 0));
        assert!(retries.messages().is_empty());
    }
}
