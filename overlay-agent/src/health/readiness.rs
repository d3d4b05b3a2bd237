//! Why a node's overlay is not ready: a pure function of what the parts of the agent say of themselves.

use tokio::time::Instant;

use crate::control::state::State;
use crate::kube::api_state::ApiState;
use crate::kube::publication::{Progress, Publication};

/// What decides.
#[derive(Clone, Copy, Debug)]
pub struct Readiness<'a> {
    /// How the control loop stands.
    pub state: &'a State,
    /// The connection to the API server, where leases come from there.
    pub api: Option<&'a ApiState>,
    /// What this node has published, where it publishes anything.
    pub publication: Option<&'a Publication>,
    /// The time, for messages.
    pub now: Instant,
}

/// What keeps the overlay from being ready, in words; empty when it is ready.
///
/// An API server that cannot be reached is a reason only while something is not done because of it: what is in the kernel
/// keeps working without it.
#[must_use]
pub fn reasons(readiness: &Readiness<'_>) -> Vec<String> {
    let Readiness {
        state,
        api,
        publication,
        now,
    } = readiness;
    let mut reasons = Vec::new();
    if api.is_some_and(|api| !api.listed) {
        reasons.push("the first complete list of Nodes has not arrived".to_owned());
    }
    if state.device.is_none() {
        reasons.push("the overlay device is missing, or not as it should be".to_owned());
    } else if !state.ready {
        reasons.push("the peers of the first complete list are not programmed".to_owned());
    }
    if let Some(publication) = publication {
        let parts = [
            ("the own lease is not published", &publication.lease),
            (
                "the condition NetworkUnavailable is not cleared",
                &publication.condition,
            ),
            ("subnet.env is not written", &publication.subnet_file),
        ];
        for (what, progress) in parts {
            if let Progress::Waiting(why) = progress {
                reasons.push(format!("{what}: {}", one_line(why)));
            }
        }
    }
    if let Some(api) = api
        && let Some(since) = api.unreachable_since
        && !reasons.is_empty()
    {
        let why = api.last_error.as_deref().map(one_line).unwrap_or_default();
        let colon = if why.is_empty() { "" } else { ": " };
        reasons.push(format!(
            "the API server has been unreachable for {} s{colon}{why}",
            now.saturating_duration_since(since).as_secs()
        ));
    }
    reasons
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::state::DeviceState;

    /// A loop that has done its work.
    pub(in crate::health) fn ready() -> State {
        State {
            device: Some(DeviceState {
                name: "flannel.1".into(),
                mac: "02:00:00:00:00:01".parse().unwrap(),
                mtu: 1450,
                subnet: "10.244.1.0/24".parse().unwrap(),
                network: "10.244.0.0/16".parse().unwrap(),
                underlay: "eth0".into(),
                address: [192, 168, 0, 1].into(),
            }),
            ready: true,
            ..State::default()
        }
    }

    fn done() -> Publication {
        Publication {
            lease: Progress::Done,
            subnet_file: Progress::Done,
            condition: Progress::Done,
        }
    }

    fn listed() -> ApiState {
        ApiState {
            listed: true,
            ..ApiState::default()
        }
    }

    fn why(state: &State, api: Option<&ApiState>, publication: Option<&Publication>) -> Vec<String> {
        reasons(&Readiness {
            state,
            api,
            publication,
            now: Instant::now(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_ready_at_first_and_each_reason_has_a_line() {
        tokio::time::advance(Duration::from_secs(3600)).await;
        let api = ApiState {
            unreachable_since: Some(Instant::now() - Duration::from_secs(12)),
            last_error: Some("connection\nrefused".into()),
            ..ApiState::default()
        };
        assert_eq!(
            why(&State::default(), Some(&api), Some(&Publication::default())),
            [
                "the first complete list of Nodes has not arrived",
                "the overlay device is missing, or not as it should be",
                "the own lease is not published: not looked at yet",
                "the condition NetworkUnavailable is not cleared: not looked at yet",
                "subnet.env is not written: not looked at yet",
                "the API server has been unreachable for 12 s: connection refused",
            ]
        );
        assert_eq!(why(&ready(), Some(&listed()), Some(&done())), [""; 0]);
        assert_eq!(why(&ready(), None, None), [""; 0]);
    }

    #[tokio::test]
    async fn each_part_alone_makes_it_unready() {
        let device_gone = State::default();
        let peers_missing = State {
            ready: false,
            ..ready()
        };
        assert_eq!(why(&device_gone, None, None).len(), 1);
        assert!(why(&peers_missing, None, None).concat().contains("peers"));
        assert!(
            why(&ready(), Some(&ApiState::default()), None)
                .concat()
                .contains("list of Nodes")
        );
        type Part = fn(&mut Publication) -> &mut Progress;
        let parts: [(Part, &str); 3] = [
            (|all| &mut all.lease, "lease"),
            (|all| &mut all.condition, "NetworkUnavailable"),
            (|all| &mut all.subnet_file, "subnet.env"),
        ];
        for (part, word) in parts {
            let mut publication = done();
            *part(&mut publication) = Progress::Waiting("disk full".into());
            let reasons = why(&ready(), Some(&listed()), Some(&publication));
            assert!(
                reasons.len() == 1
                    && reasons.concat().contains(word)
                    && reasons.concat().ends_with("disk full"),
                "{reasons:?}"
            );
        }
    }

    #[tokio::test]
    async fn an_outage_matters_only_while_something_waits_for_its_end() {
        let outage = ApiState {
            unreachable_since: Some(Instant::now()),
            ..listed()
        };
        assert_eq!(why(&ready(), Some(&outage), Some(&done())), [""; 0]);
        let mut publication = done();
        publication.lease = Progress::Waiting("the address has changed".into());
        let reasons = why(&ready(), Some(&outage), Some(&publication));
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert_eq!(reasons[1], "the API server has been unreachable for 0 s");
    }
}
