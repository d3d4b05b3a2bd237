mod comparing;
mod focused;

use std::pin::pin;

use overlay_core::action::{Action, DataplaneAction, KernelAction};
use overlay_core::model::{Dataplane, FamilyLease, FlowSettings, Lease, MacAddr, Settings};
use overlay_core::net_conf::NetConf;
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::watch;
use tokio::time::{advance, sleep};

use super::fake::{FakeKernel, peer_steps};
use super::state::State;
use super::*;

const RESYNC: Duration = Duration::from_secs(60);

fn settings() -> Settings {
    Settings {
        node: "worker-1".to_owned(),
        net_conf: NetConf::parse(r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}"#).unwrap(),
        dataplane: Dataplane::Ebpf,
        log_level: 0,
        max_peers: 1000,
        fastpath: true,
        flows: FlowSettings::default(),
        public_ip: None,
    }
}

fn lease(n: u8) -> Lease {
    Lease {
        node: format!("worker-{n}"),
        origin: format!("leases.yaml:{n}"),
        v4: Some(FamilyLease {
            subnet: format!("10.244.{n}.0/24").parse().unwrap(),
            public_ip: [192, 168, 0, n].into(),
            vtep_mac: MacAddr::new([2, 0, 0, 0, 0, n]),
        }),
        v6: None,
    }
}

fn leases(nodes: &[u8]) -> LeaseEvent {
    LeaseEvent::Replace(nodes.iter().map(|n| lease(*n)).collect())
}

struct Ends {
    leases: Sender<LeaseEvent>,
    kernel: Sender<()>,
    fake: FakeKernel,
    state: watch::Receiver<State>,
}

impl Ends {
    async fn say(&self, event: LeaseEvent) {
        self.leases.send(event).await.unwrap();
        settle().await;
    }

    /// Subnets that the fake dataplane carries.
    fn subnets(&self) -> usize {
        self.fake
            .with(|state| state.observed.dataplane.as_ref().map_or(0, |d| d.subnets.len()))
    }

    fn routes(&self) -> usize {
        self.fake
            .with(|state| state.observed.device.as_ref().map_or(0, |d| d.routes.len()))
    }

    fn observations(&self) -> usize {
        self.fake.with(|state| state.observations)
    }

    /// What was done since the last question.
    fn done(&self) -> Vec<Action> {
        self.fake.with(|state| std::mem::take(&mut state.done))
    }
}

/// Lets the loop do what it can do now, without the clock moving on noticeably.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

/// Runs the loop beside `script`.
async fn with_loop<F: Future<Output = ()>>(script: impl FnOnce(Ends) -> F) {
    let fake = FakeKernel::default();
    let (lease_sender, lease_receiver) = mpsc::channel(16);
    let (kernel_sender, kernel_receiver) = mpsc::channel(1);
    let controller = Controller::new(fake.clone(), settings());
    let script = script(Ends {
        leases: lease_sender,
        kernel: kernel_sender,
        fake,
        state: controller.state(),
    });
    run(controller, lease_receiver, kernel_receiver, RESYNC, script).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_happens_before_the_first_complete_list() {
    with_loop(|ends| async move {
        ends.kernel.send(()).await.unwrap();
        sleep(RESYNC * 3).await;
        assert_eq!(ends.fake.attempts(), 0);
        ends.say(LeaseEvent::Upsert(lease(2))).await;
        assert_eq!(ends.fake.attempts(), 0);
        ends.say(leases(&[1, 2])).await;
        assert_eq!((ends.subnets(), ends.routes()), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_pass_converges_and_the_next_does_nothing() {
    with_loop(|ends| async move {
        ends.say(leases(&[1, 2, 3])).await;
        assert_eq!((ends.subnets(), ends.routes(), ends.observations()), (2, 2, 1));
        ends.done();
        sleep(RESYNC + Duration::from_secs(1)).await;
        assert_eq!(ends.observations(), 2);
        assert_eq!(ends.done(), []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn events_that_come_together_are_one_pass() {
    with_loop(|ends| async move {
        for n in 1..=10 {
            let nodes: Vec<u8> = (1..=n).collect();
            ends.leases.try_send(leases(&nodes)).unwrap();
        }
        settle().await;
        assert_eq!((ends.subnets(), ends.observations()), (9, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn repairs_what_others_remove_without_being_kept_busy() {
    with_loop(|ends| async move {
        ends.say(leases(&[1, 2])).await;
        ends.done();
        let start = ends.observations();
        for _ in 0..100 {
            ends.fake
                .with(|state| state.observed.device.as_mut().unwrap().routes.clear());
            ends.kernel.try_send(()).ok();
            sleep(Duration::from_millis(10)).await;
        }
        sleep(schedule::KERNEL_GAP * 2).await;
        assert_eq!(ends.routes(), 1);
        let passes = ends.observations() - start;
        assert!((4..=8).contains(&passes), "{passes} passes in a second");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_bad_peer_is_retried_more_and_more_rarely_and_recovers() {
    with_loop(|ends| async move {
        let route = peer_steps(2)[2].action.clone();
        ends.fake.refuse(route.clone());
        ends.say(leases(&[1, 2, 3])).await;
        assert_eq!(
            (ends.subnets(), ends.routes()),
            (1, 1),
            "the other peer is complete"
        );
        let before = ends.fake.attempts();
        sleep(Duration::from_secs(50)).await;
        let attempts = ends.fake.attempts() - before;
        // 0.1 + 0.2 + … + 25.6 s, each up to a fifth shorter.
        assert!((8..=10).contains(&attempts), "{attempts} attempts in 50 s");
        ends.fake.allow_all();
        sleep(backoff::LONGEST).await;
        assert_eq!((ends.subnets(), ends.routes()), (2, 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_peer_does_not_delay_a_new_one() {
    with_loop(|ends| async move {
        ends.fake.refuse(peer_steps(2)[0].action.clone());
        ends.say(leases(&[1, 2])).await;
        sleep(Duration::from_secs(40)).await;
        ends.say(leases(&[1, 2, 3])).await;
        assert_eq!(ends.subnets(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_underlay_and_follows_it() {
    with_loop(|ends| async move {
        ends.fake.with(|state| state.underlay_missing = true);
        ends.say(leases(&[1, 2])).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(ends.fake.attempts(), 0);
        ends.fake.with(|state| state.underlay_missing = false);
        ends.kernel.send(()).await.unwrap();
        sleep(schedule::KERNEL_GAP).await;
        assert_eq!(ends.subnets(), 1);
        ends.done();
        ends.fake.with(|state| state.underlay_mtu = 9000);
        ends.kernel.send(()).await.unwrap();
        sleep(schedule::KERNEL_GAP * 2).await;
        let done = ends.done();
        let [Action::Dataplane(DataplaneAction::SetConfig(config)), mtu] = done.as_slice() else {
            panic!("{done:?}");
        };
        assert_eq!(config.max_segment, 9000);
        assert_eq!(*mtu, KernelAction::SetDeviceMtu(8950).into());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_is_removed_and_the_others_are_not_touched() {
    with_loop(|ends| async move {
        ends.say(leases(&[1, 2, 3])).await;
        ends.done();
        ends.say(leases(&[1, 3])).await;
        assert_eq!((ends.subnets(), ends.routes()), (1, 1));
        let steps = ends.done();
        assert!(
            !steps.is_empty() && steps.iter().all(|action| !action.is_addition()),
            "{steps:?}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_source_does_not_end_the_loop() {
    let fake = FakeKernel::default();
    let (lease_sender, lease_receiver) = mpsc::channel(16);
    let (kernel_sender, kernel_receiver) = mpsc::channel(1);
    lease_sender.send(leases(&[1, 2])).await.unwrap();
    drop((lease_sender, kernel_sender));
    let controller = Controller::new(fake.clone(), settings());
    let mut looping = pin!(run(
        controller,
        lease_receiver,
        kernel_receiver,
        RESYNC,
        pending()
    ));
    tokio::select! {
        () = &mut looping => panic!("the loop ended"),
        () = sleep(RESYNC * 5) => {}
    }
    advance(RESYNC).await;
    assert!(fake.with(|state| state.observations) >= 5);
}
