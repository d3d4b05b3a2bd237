//! Leases that change while everything is being compared.

use super::*;

fn upsert(lease: Lease) -> LeaseEvent {
    LeaseEvent::Upsert(lease)
}

fn remove(n: u8) -> LeaseEvent {
    LeaseEvent::Remove {
        node: format!("worker-{n}"),
    }
}

/// A loop of one's own, step by step.
struct Steps {
    controller: Controller<FakeKernel>,
    fake: FakeKernel,
}

impl Steps {
    fn new(nodes: &[u8]) -> Self {
        let fake = FakeKernel::default();
        let mut controller = Controller::new(fake.clone(), settings());
        controller.apply(leases(nodes));
        Self { controller, fake }
    }

    /// A whole pass, in which `event` comes, and may be followed, after the comparison has begun.
    async fn pass(&mut self, event: Option<LeaseEvent>, follow: bool) {
        let seen = self.controller.begin().unwrap().await;
        let comparison = self.controller.compare(seen);
        self.fake.with(|state| state.done.clear());
        if let Some(event) = event {
            self.controller.apply(event);
        }
        if follow {
            self.controller.focused().await;
        }
        let compared = comparison.await;
        assert_eq!(self.controller.finish(compared).await, Outcome::Done(None));
    }

    /// What was done since the last comparison began.
    fn done(&self) -> usize {
        self.fake.with(|state| state.done.len())
    }

    /// Subnets and routes of peers on the node.
    fn peers(&self) -> (usize, usize) {
        self.fake.with(|state| {
            let subnets = state.observed.dataplane.as_ref().unwrap().subnets.len();
            (subnets, state.observed.device.as_ref().unwrap().routes.len())
        })
    }
}

/// Seen red where what was found at first is done whatever has changed: the peer was still set up.
#[tokio::test]
async fn a_node_that_has_left_meanwhile_is_not_set_up() {
    let mut steps = Steps::new(&[1, 2, 3]);
    steps.pass(Some(remove(2)), true).await;
    assert_eq!(steps.peers(), (1, 1));
    let done = steps.fake.with(|state| state.done.clone());
    let texts: Vec<_> = done.iter().map(ToString::to_string).collect();
    assert!(texts.iter().any(|text| text.contains("10.244.3.0")), "{texts:?}");
    assert!(!texts.iter().any(|text| text.contains("10.244.2.0")), "{texts:?}");
    steps.pass(None, true).await;
    assert_eq!((steps.peers(), steps.done()), ((1, 1), 0));
}

/// Seen red without the journal: everything was done once more.
#[tokio::test]
async fn what_was_done_meanwhile_is_known_afterwards() {
    for (event, cost) in [(upsert(lease(4)), 5), (remove(2), 6)] {
        let mut steps = Steps::new(&[1, 2, 3]);
        steps.pass(None, true).await;
        steps.pass(Some(event), true).await;
        assert_eq!(steps.done(), cost);
        steps.pass(None, true).await;
        assert_eq!(steps.done(), 0);
    }
}

/// Seen red where the comparison's problems are taken over whatever has changed.
#[tokio::test]
async fn a_conflict_that_has_come_meanwhile_stays_known() {
    let mut steps = Steps::new(&[1, 2]);
    steps.pass(None, true).await;
    let mut rival = lease(3);
    rival.v4.as_mut().unwrap().subnet = lease(2).v4.unwrap().subnet;
    let seen = steps.controller.begin().unwrap().await;
    let comparison = steps.controller.compare(seen);
    steps.controller.apply(upsert(rival));
    steps.controller.focused().await;
    let mut state = steps.controller.state();
    assert_eq!(state.borrow_and_update().problems.len(), 1);
    let compared = comparison.await;
    steps.controller.finish(compared).await;
    assert!(!state.has_changed().unwrap(), "{:?}", state.borrow());
}

/// Seen red without the second look: nobody would set it up before the next whole pass.
#[tokio::test]
async fn a_node_that_nobody_looked_at_meanwhile_is_looked_at_afterwards() {
    let mut steps = Steps::new(&[1, 2]);
    steps.pass(None, true).await;
    steps.pass(Some(upsert(lease(3))), false).await;
    assert_eq!(steps.peers(), (2, 2));
    steps.controller.apply(remove(3));
    assert_eq!(steps.controller.focused().await, Outcome::Done(None));
    assert_eq!(steps.peers(), (1, 1));
}

/// Seen red without that condition: the new subnet was published while the device had the old address.
#[tokio::test]
async fn an_own_lease_that_has_changed_meanwhile_is_not_published_before_it_is_there() {
    let mut steps = Steps::new(&[1, 2]);
    steps.pass(None, true).await;
    let mut own = lease(1);
    own.v4.as_mut().unwrap().subnet = "10.244.9.0/24".parse().unwrap();
    let seen = steps.controller.begin().unwrap().await;
    let comparison = steps.controller.compare(seen);
    steps.controller.apply(upsert(own));
    assert_eq!(steps.controller.focused().await, Outcome::NeedsAll);
    let compared = comparison.await;
    steps.controller.finish(compared).await;
    let published = steps.controller.state().borrow().device.clone().unwrap().subnet;
    let addresses = steps.fake.observed().device.unwrap().addresses;
    assert_eq!(published.to_string(), "10.244.9.0/24");
    assert!(
        addresses
            .iter()
            .any(|address| address.to_string().starts_with("10.244.9.0")),
        "{addresses:?}"
    );
}
