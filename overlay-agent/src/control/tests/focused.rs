//! Changes of single leases: at once, nothing else, and without looking at the node.

use std::sync::Arc;

use overlay_core::desired::Problem;
use tokio::sync::Notify;

use super::*;

fn upsert(n: u8) -> LeaseEvent {
    LeaseEvent::Upsert(lease(n))
}

fn remove(n: u8) -> LeaseEvent {
    LeaseEvent::Remove {
        node: format!("worker-{n}"),
    }
}

fn actions(n: u8) -> Vec<Action> {
    peer_steps(n).into_iter().map(|step| step.action).collect()
}

/// A lease that wants the subnet of another node.
fn rival(n: u8, of: u8) -> LeaseEvent {
    let mut rival = lease(n);
    rival.v4.as_mut().unwrap().subnet = lease(of).v4.unwrap().subnet;
    LeaseEvent::Upsert(rival)
}

impl Ends {
    fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Starts with these nodes; what was done for it is forgotten.
    async fn begin(&self, nodes: &[u8]) {
        self.say(leases(nodes)).await;
        assert_eq!(self.observations(), 1);
        self.done();
    }

    /// The node is what a plan from everything makes of it.
    async fn assert_settled(&self) {
        self.done();
        let before = self.observations();
        sleep(RESYNC + Duration::from_secs(1)).await;
        assert!(self.observations() > before);
        assert_eq!(self.done(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_event_is_its_actions_and_no_look_at_the_node() {
    with_loop(|ends| async move {
        ends.begin(&[1, 2]).await;
        ends.say(upsert(3)).await;
        assert_eq!(ends.done(), actions(3));
        ends.say(upsert(3)).await;
        assert_eq!(ends.done(), []);
        ends.say(remove(2)).await;
        let done = ends.done();
        assert!(
            !done.is_empty() && done.iter().all(|action| !action.is_addition()),
            "{done:?}"
        );
        assert_eq!((ends.subnets(), ends.routes(), ends.observations()), (1, 1, 1));
        ends.assert_settled().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn events_that_wait_are_taken_together() {
    with_loop(|ends| async move {
        ends.begin(&[1]).await;
        for n in 2..=11 {
            ends.leases.try_send(upsert(n)).unwrap();
        }
        settle().await;
        let done = ends.done();
        assert_eq!((done.len(), ends.observations()), (50, 1));
        assert!(
            done[..10].iter().all(|action| action.is_same_kind(&done[0])),
            "{done:?}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_subnet_that_is_given_up_goes_to_who_waits_for_it() {
    with_loop(|ends| async move {
        ends.begin(&[1, 2]).await;
        ends.say(rival(3, 2)).await;
        assert_eq!(ends.done(), []);
        let problems = ends.state().problems;
        assert!(
            matches!(problems[..], [Problem::SubnetTaken { .. }]),
            "{problems:?}"
        );
        ends.say(remove(2)).await;
        assert!(
            ends.done().contains(
                &DataplaneAction::SetSubnet {
                    subnet: lease(2).v4.unwrap().subnet,
                    entry: overlay_common::maps::SubnetEntry::new(
                        std::net::IpAddr::from([192, 168, 0, 3]).into(),
                        [2, 0, 0, 0, 0, 3]
                    ),
                }
                .into()
            )
        );
        assert_eq!(ends.state().problems, []);
        assert_eq!((ends.subnets(), ends.observations()), (1, 1));
        ends.assert_settled().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_own_lease_and_a_list_are_looked_at_as_a_whole() {
    with_loop(|ends| async move {
        ends.begin(&[1, 2]).await;
        let mut own = lease(1);
        own.v4.as_mut().unwrap().vtep_mac = MacAddr::new([2, 0, 0, 0, 7, 7]);
        ends.say(LeaseEvent::Upsert(own)).await;
        assert_eq!(ends.observations(), 2);
        assert_eq!(ends.state().device.unwrap().mac, MacAddr::new([2, 0, 0, 0, 7, 7]));
        ends.say(leases(&[1, 2, 3])).await;
        assert_eq!((ends.subnets(), ends.observations()), (2, 3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_and_others_do_not_wait() {
    with_loop(|ends| async move {
        ends.begin(&[1, 2]).await;
        ends.fake.refuse(peer_steps(3)[2].action.clone());
        ends.say(upsert(3)).await;
        // The route, and the entry that relies on it.
        assert_eq!(ends.state().failing, 2);
        ends.say(upsert(4)).await;
        assert_eq!((ends.subnets(), ends.observations()), (2, 1));
        sleep(Duration::from_secs(20)).await;
        let passes = ends.observations() - 1;
        // 0.1 + 0.2 + … + 12.8 s, each up to a fifth shorter.
        assert!((6..=9).contains(&passes), "{passes}");
        assert_eq!((ends.state().failing, ends.state().ready), (2, true));
        ends.done();
        let before = ends.observations();
        ends.say(upsert(5)).await;
        assert_eq!((ends.done(), ends.observations()), (actions(5), before));
        ends.fake.allow_all();
        sleep(backoff::LONGEST).await;
        assert_eq!((ends.subnets(), ends.state().failing), (4, 0));
        ends.assert_settled().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_ebpf_events_are_the_kernels_alone() {
    with_loop(|ends| async move {
        ends.fake.refuse(DataplaneAction::Load);
        ends.begin(&[1, 2]).await;
        // Between two attempts to load.
        sleep(Duration::from_secs(5)).await;
        ends.done();
        let (attempts, observations) = (ends.fake.attempts(), ends.observations());
        ends.say(upsert(3)).await;
        assert_eq!(ends.done(), actions(3)[..3]);
        assert_eq!(ends.fake.attempts(), attempts + 3);
        assert_eq!(ends.observations(), observations);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_connection_tracking_events_are_not_held_up() {
    with_loop(|ends| async move {
        for parameter in overlay_core::model::ConntrackParameter::ALL {
            ends.fake.refuse(Action::SetConntrack(parameter));
        }
        ends.begin(&[1, 2]).await;
        sleep(Duration::from_secs(5)).await;
        ends.done();
        let observations = ends.observations();
        ends.say(upsert(3)).await;
        assert_eq!((ends.done(), ends.observations()), (actions(3), observations));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_state_follows_the_device() {
    with_loop(|ends| async move {
        assert_eq!(ends.state(), State::default());
        ends.begin(&[1, 2]).await;
        let device = ends.state().device.unwrap();
        assert_eq!(
            (device.name.as_str(), device.mtu, device.underlay.as_str()),
            ("flannel.1", 1450, "eth0")
        );
        assert_eq!(
            (device.subnet, device.mac),
            (lease(1).v4.unwrap().subnet, lease(1).v4.unwrap().vtep_mac)
        );
        assert!(ends.state().ready);
        let mut states = ends.state.clone();
        states.mark_unchanged();
        sleep(schedule::KERNEL_GAP).await;

        // It cannot be made again at once.
        let wanted = ends.fake.with(|state| {
            state.observed.device = None;
            state.refuse_kind("link add");
            state.observations
        });
        ends.kernel.send(()).await.unwrap();
        states.changed().await.unwrap();
        assert_eq!(ends.observations(), wanted + 1);
        settle().await;
        let state = ends.state();
        assert_eq!((&state.device, state.ready), (&None, false));
        assert!(state.failing > 0);
        ends.fake.allow_all();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(ends.state().device, Some(device));
        assert_eq!((ends.state().ready, ends.state().failing), (true, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_underlay_that_stays_away_makes_the_node_unready() {
    with_loop(|ends| async move {
        ends.begin(&[1, 2]).await;
        sleep(schedule::KERNEL_GAP).await;
        ends.fake.with(|state| state.underlay_missing = true);
        ends.kernel.send(()).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        let state = ends.state();
        assert_eq!((state.device, state.ready, state.failing), (None, false, 1));
        ends.fake.with(|state| state.underlay_missing = false);
        sleep(backoff::LONGEST).await;
        assert!(ends.state().ready && ends.state().device.is_some());
    })
    .await;
}

// Seen red without the journal: the observation shows node 2 and not node 3, so the one was removed again and the other
// set again.
#[tokio::test(start_paused = true)]
async fn events_do_not_wait_for_a_look_at_the_node_and_are_not_undone_by_it() {
    with_loop(|ends| async move {
        ends.begin(&[1, 2, 4]).await;
        sleep(schedule::KERNEL_GAP).await;
        let gate = Arc::new(Notify::new());
        ends.fake.with(|state| state.gate = Some(Arc::clone(&gate)));
        ends.fake
            .with(|state| state.observed.device.as_mut().unwrap().up = false);
        ends.kernel.send(()).await.unwrap();
        sleep(schedule::BURST * 2).await;
        assert_eq!((ends.observations(), ends.done()), (2, vec![]));
        ends.say(upsert(3)).await;
        assert_eq!(ends.done(), actions(3));
        ends.say(remove(2)).await;
        assert!(!ends.done().is_empty());
        ends.fake.with(|state| state.gate = None);
        gate.notify_one();
        settle().await;
        assert_eq!(ends.done(), [KernelAction::SetDeviceUp.into()]);
        assert_eq!((ends.subnets(), ends.routes(), ends.observations()), (2, 2, 2));
        ends.assert_settled().await;
    })
    .await;
}
