//! Which steps the kernel gets in one call although one of them relies on another.
//!
//! A call is one datagram: one turn to the kernel instead of three, and none in between for whoever the first
//! notification wakes. The kernel goes on after a refusal, so what relied on the refused step has to be taken
//! back. That must lead to where it was before, so only a plan that finds nothing in the places of what it adds
//! is carried out this way.

use overlay_core::action::{Action, KernelAction, Step};
use overlay_core::observed::Observed;

/// How a plan is cut into calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// One kind of steps to a call.
    Kinds,
    /// All that is added to the device's entries in one call, and all that is removed in another.
    Entries,
}

impl Cut {
    /// For a small plan.
    pub(super) fn of(steps: &[Step], observed: &Observed) -> Self {
        if steps
            .iter()
            .all(|step| starts_from_nothing(&step.action, observed))
        {
            Self::Entries
        } else {
            Self::Kinds
        }
    }

    /// Whether neighbouring steps go in one call.
    pub(super) fn joins(self, a: &Action, b: &Action) -> bool {
        let side = |action: &Action| match (self, action) {
            (Self::Entries, Action::Kernel(action)) if is_entry(action) => Some(action.is_addition()),
            _ => None,
        };
        a.is_same_kind(b) || side(a).is_some_and(|a| side(b) == Some(a))
    }
}

/// What takes an addition back that found nothing in its place; `None` for what no other step of its call precedes.
pub(super) fn inverse(action: &Action) -> Option<Action> {
    let Action::Kernel(action) = action else {
        return None;
    };
    match *action {
        KernelAction::SetNeighbour { address, .. } => Some(KernelAction::RemoveNeighbour { address }.into()),
        KernelAction::SetRoute { destination, gateway } => {
            Some(KernelAction::RemoveRoute { destination, gateway }.into())
        }
        KernelAction::SetFdb { .. }
        | KernelAction::CreateDevice(_)
        | KernelAction::DeleteDevice { .. }
        | KernelAction::SetDeviceMtu(_)
        | KernelAction::SetDeviceUp
        | KernelAction::AddAddress(_)
        | KernelAction::RemoveAddress(_)
        | KernelAction::RemoveNeighbour { .. }
        | KernelAction::RemoveFdb { .. }
        | KernelAction::RemoveRoute { .. } => None,
    }
}

/// What a peer has of the device.
const fn is_entry(action: &KernelAction) -> bool {
    matches!(
        action,
        KernelAction::SetNeighbour { .. }
            | KernelAction::RemoveNeighbour { .. }
            | KernelAction::SetFdb { .. }
            | KernelAction::RemoveFdb { .. }
            | KernelAction::SetRoute { .. }
            | KernelAction::RemoveRoute { .. }
    )
}

/// Whether [`inverse`], where there is one, leads back to what was observed.
fn starts_from_nothing(action: &Action, observed: &Observed) -> bool {
    let (Action::Kernel(action), Some(device)) = (action, &observed.device) else {
        return true;
    };
    if let KernelAction::SetNeighbour { address, .. } = action {
        !device.neighbours.iter().any(|found| found.address == *address)
    } else if let KernelAction::SetRoute { destination, .. } = action {
        !device
            .routes
            .iter()
            .any(|found| found.destination == *destination)
    } else {
        true
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::action::DataplaneAction;
    use overlay_core::model::MacAddr;
    use overlay_core::observed::Keys;

    use super::*;
    use crate::control::backoff::Jitter;
    use crate::control::execute::{Scope, execute};
    use crate::control::fake::{FakeKernel, peer_steps, step};
    use crate::control::retries::Retries;

    /// Two peers, as a plan orders their steps.
    fn additions() -> Vec<Step> {
        let (one, two) = (peer_steps(1), peer_steps(2));
        one.into_iter().zip(two).flat_map(|(a, b)| [a, b]).collect()
    }

    fn removals() -> Vec<Step> {
        let removed = |n: u8| {
            let [vtep, overlay] = [[192, 168, 0, n].into(), [10, 244, n, 0].into()];
            let (mac, subnet) = (
                MacAddr::new([2, 0, 0, 0, 0, n]),
                format!("10.244.{n}.0/24").parse().unwrap(),
            );
            [
                step(DataplaneAction::RemoveSubnet(subnet)),
                step(DataplaneAction::RemovePeer(vtep)),
                step(KernelAction::RemoveRoute {
                    destination: subnet,
                    gateway: overlay,
                }),
                step(KernelAction::RemoveFdb {
                    mac,
                    destination: vtep,
                }),
                step(KernelAction::RemoveNeighbour { address: overlay }),
            ]
        };
        removed(1)
            .into_iter()
            .zip(removed(2))
            .flat_map(|(a, b)| [a, b])
            .collect()
    }

    /// What is left, what is said to be done, what fails, and how many calls it took.
    async fn outcome(
        kernel: &mut FakeKernel,
        steps: &[Step],
        scope: Scope<'_>,
    ) -> (Observed, Vec<String>, Vec<String>, usize, usize) {
        let (observed, mut retries) = (kernel.observed(), Retries::new(Jitter::seeded(1)));
        let before = kernel.calls();
        let report = execute(kernel, steps, &observed, &mut retries, scope).await;
        assert_eq!(report.altered, []);
        (
            kernel.observed(),
            report.done.iter().map(|(_, step)| step.to_string()).collect(),
            retries.messages().into_keys().collect(),
            report.not_done,
            kernel.calls() - before,
        )
    }

    /// Red without `take_back`.
    #[tokio::test(start_paused = true)]
    async fn whatever_is_refused_the_outcome_is_that_of_one_by_one() {
        let keys = Keys::default();
        for steps in [additions(), [additions(), removals()].concat()] {
            for refused in 0..steps.len() {
                let [mut together, mut apart] = [FakeKernel::prepared(), FakeKernel::prepared()];
                for kernel in [&together, &apart] {
                    kernel.refuse(steps[refused].action.clone());
                }
                let one = outcome(&mut together, &steps, Scope::Peers(&keys)).await;
                let other = outcome(&mut apart, &steps, Scope::Everything).await;
                assert_eq!(
                    (one.0, one.1, one.2, one.3),
                    (other.0, other.1, other.2, other.3),
                    "{}",
                    steps[refused]
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_takes_one_call_for_the_device_and_one_for_each_map() {
        let mut kernel = FakeKernel::prepared();
        let keys = Keys::default();
        assert_eq!(outcome(&mut kernel, &additions(), Scope::Peers(&keys)).await.4, 3);
        assert_eq!(outcome(&mut kernel, &removals(), Scope::Peers(&keys)).await.4, 3);
        assert_eq!(outcome(&mut kernel, &additions(), Scope::Everything).await.4, 5);
    }

    /// A neighbour that is replaced could not be put back. Red with `starts_from_nothing` that is always true.
    #[tokio::test(start_paused = true)]
    async fn what_stands_in_a_place_already_stays_when_the_rest_is_refused() {
        let mut kernel = FakeKernel::prepared();
        let steps = additions();
        let before = KernelAction::SetNeighbour {
            address: [10, 244, 1, 0].into(),
            mac: MacAddr::new([2, 0, 0, 0, 9, 9]),
        };
        let keys = Keys::default();
        outcome(&mut kernel, &[step(before)], Scope::Peers(&keys)).await;
        let neighbours = |kernel: &FakeKernel| kernel.observed().device.unwrap().neighbours;
        let stood = neighbours(&kernel);
        kernel.refuse(steps[0].action.clone());
        outcome(&mut kernel, &steps, Scope::Peers(&keys)).await;
        assert!(stood.is_subset(&neighbours(&kernel)), "{:?}", neighbours(&kernel));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_taken_back_is_known_to_be_there() {
        let mut kernel = FakeKernel::prepared();
        let steps = peer_steps(1);
        kernel.refuse(steps[1].action.clone());
        let back = inverse(&steps[2].action).unwrap();
        kernel.refuse(back.clone());
        let (observed, mut retries) = (kernel.observed(), Retries::new(Jitter::seeded(1)));
        let keys = Keys::default();
        let report = execute(&mut kernel, &steps, &observed, &mut retries, Scope::Peers(&keys)).await;
        assert_eq!(report.altered, [steps[2].action.clone()]);
        // Neighbour, route, and the entry that relies on both.
        assert_eq!((report.done.len(), report.not_done), (2, 3));
        assert_eq!(kernel.observed().device.unwrap().routes.len(), 1);
    }
}
