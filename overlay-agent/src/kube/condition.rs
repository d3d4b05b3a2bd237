//! The condition that tells the scheduler that this node's pods have a network: `NetworkUnavailable=False`.

use overlay_core::kube::network_available_patch;

use super::identity::Identity;
use super::publish::Lease;
use super::record::{NetworkCondition, NodeRecord};
use super::timestamp;
use super::upkeep::{Part, Remark, Write};
use crate::control::state::State;

/// `NetworkUnavailable` of the own Node.
#[derive(Clone, Debug)]
pub struct NetworkAvailable {
    /// What the Node says to peers by then.
    pub lease: Lease,
}

impl Part for NetworkAvailable {
    /// The uid: a Node that was made anew needs it anew.
    type Wanted = String;

    const NAME: &'static str = "the condition NetworkUnavailable";

    /// Only when pods have a network: the device is up, the peers of the first complete list are programmed, and peers are told
    /// how to answer. flannel says so before it has programmed any.
    ///
    /// Never back to `True`: pods that run would be none the better for it, and what works goes on without the agent.
    fn wanted(&self, node: &NodeRecord, identity: &Identity, state: &State) -> Result<String, String> {
        let lease = self.lease.wanted(node, identity, state)?;
        if !state.ready {
            return Err("the peers of the first complete list are not programmed yet".to_owned());
        }
        if self.lease.write(node, &lease).is_some() {
            return Err("the lease is not published yet".to_owned());
        }
        Ok(node.uid().to_owned())
    }

    fn write(&self, node: &NodeRecord, _: &String) -> Option<Write> {
        let was = match &node.network {
            NetworkCondition::FlannelIsUp => return None,
            NetworkCondition::Absent => "absent",
            NetworkCondition::Other(was) => was,
        };
        Some(Write {
            body: network_available_patch(&timestamp::now()),
            words: format!("NetworkUnavailable is False (FlannelIsUp), was {was}"),
        })
    }

    fn remarks(&self, _: &NodeRecord, _: &String) -> Vec<Remark> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::publish::tests::{COMPLETE, identity, lease, node, state};

    fn part() -> NetworkAvailable {
        NetworkAvailable { lease: lease() }
    }

    fn ready(ready: bool) -> State {
        State { ready, ..state() }
    }

    /// Seen red without the check of `ready`, and without that of the lease.
    #[test]
    fn is_not_set_before_pods_have_a_network() {
        let wanted = |node: &NodeRecord, state: &State| part().wanted(node, &identity(), state);
        let published = node(&COMPLETE);
        assert!(
            wanted(&published, &State::default())
                .unwrap_err()
                .contains("not up")
        );
        assert!(
            wanted(&published, &ready(false))
                .unwrap_err()
                .contains("not programmed")
        );
        assert!(
            wanted(&node(&[]), &ready(true))
                .unwrap_err()
                .contains("not published")
        );
        assert_eq!(wanted(&published, &ready(true)).unwrap(), "uid");
    }

    #[test]
    fn is_written_unless_it_is_so_already() {
        let write = |network| {
            let node = NodeRecord {
                network,
                ..node(&COMPLETE)
            };
            part().write(&node, &String::new())
        };
        assert!(write(NetworkCondition::FlannelIsUp).is_none());
        let body = write(NetworkCondition::Absent).unwrap().body;
        assert!(
            body.starts_with(r#"{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","#),
            "{body}"
        );
        let words = write(NetworkCondition::Other("True (NoRouteCreated)".into()))
            .unwrap()
            .words;
        assert!(words.ends_with("was True (NoRouteCreated)"), "{words}");
    }
}
