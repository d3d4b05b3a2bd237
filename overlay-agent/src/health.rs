//! `/healthz`: does the agent still work? `/readyz`: does this node's overlay?
//!
//! An agent that is not healthy is restarted by the kubelet, so it is healthy for as long as its loop comes along: whatever is
//! wrong with the node, a restart would not repair it. An agent that is not ready says why, one reason to a line; it becomes
//! unready again when its device is gone.

mod http;
mod readiness;
mod watchdog;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::readiness::{Readiness, reasons};
pub use self::watchdog::{Watchdog, Watched};
use crate::control::state::State;
use crate::kube::api_state::ApiState;
use crate::kube::publication::Publication;

/// How long one step of the loop may take before the agent counts as stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Where the answers come from.
#[derive(Debug)]
pub struct Sources {
    /// How the control loop stands.
    pub state: watch::Receiver<State>,
    /// The connection to the API server, where leases come from there.
    pub api: Option<watch::Receiver<ApiState>>,
    /// What this node has published, where it publishes anything.
    pub publication: Option<watch::Receiver<Publication>>,
}

/// The state of this agent's health. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Health {
    watchdog: Watchdog,
    sources: Arc<OnceLock<Sources>>,
}

/// An answer to a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Answer {
    good: bool,
    text: String,
}

impl Health {
    /// Takes note of the loop's steps.
    #[must_use]
    pub fn watchdog(&self) -> Watchdog {
        self.watchdog.clone()
    }

    /// From now on these tell whether the overlay is ready; before, it is not. Only the first ones count.
    pub fn wire(&self, sources: Sources) {
        if self.sources.set(sources).is_err() {
            log::warn!("health has its sources already, others are ignored");
        }
    }

    /// Serves it on `address`, for as long as the runtime runs.
    ///
    /// # Errors
    ///
    /// When nothing can be served there.
    pub async fn serve(&self, address: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let flags = if address.ip().is_unspecified() {
                format!("--healthz-port {}", address.port())
            } else {
                format!(
                    "--healthz-ip {} and --healthz-port {}",
                    address.ip(),
                    address.port()
                )
            };
            let hint = match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EADDRINUSE) => {
                    ": another process has that port; does another agent, or flannel, still run on this node?"
                }
                Some(Errno::EADDRNOTAVAIL) => ": no interface of this node has that address",
                _ => "",
            };
            anyhow!("cannot serve /healthz and /readyz on {address} ({flags}): {error}{hint}")
        })?;
        let local = listener
            .local_addr()
            .context("cannot tell where health is served")?;
        log::info!("/healthz and /readyz are served on {local}");
        tokio::spawn(http::serve(listener, self.clone()));
        Ok(local)
    }

    /// Whether the agent works.
    fn healthz(&self, now: Instant) -> Answer {
        match self.watchdog.busy(now) {
            Some((what, time)) if time > STUCK => Answer {
                good: false,
                text: format!(
                    "overlay-agent is stuck: {what} has taken {} s so far",
                    time.as_secs()
                ),
            },
            Some(_) | None => Answer {
                good: true,
                text: "overlay-agent is running".to_owned(),
            },
        }
    }

    /// Whether the overlay works.
    fn readyz(&self, now: Instant) -> Answer {
        let reasons = match self.sources.get() {
            Some(sources) => {
                let state = sources.state.borrow();
                let api = sources.api.as_ref().map(|api| api.borrow());
                let publication = sources
                    .publication
                    .as_ref()
                    .map(|publication| publication.borrow());
                reasons(&Readiness {
                    state: &state,
                    api: api.as_deref(),
                    publication: publication.as_deref(),
                    now,
                })
            }
            None => vec![
                "the agent is starting: it looks for the API server, its Node, or the kernel's help"
                    .to_owned(),
            ],
        };
        if reasons.is_empty() {
            return Answer {
                good: true,
                text: "overlay-agent is ready".to_owned(),
            };
        }
        Answer {
            good: false,
            text: format!("overlay-agent is not ready:\n{}", reasons.join("\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_healthy_until_a_step_takes_too_long() {
        let health = Health::default();
        let answer = |health: &Health| health.healthz(Instant::now());
        assert_eq!(answer(&health).text, "overlay-agent is running");
        let step = health.watchdog().step("reading the state of the node");
        tokio::time::advance(STUCK).await;
        // Another one that begins and ends meanwhile changes nothing.
        drop(health.watchdog().step("changing the node"));
        assert!(answer(&health).good);
        tokio::time::advance(Duration::from_secs(1)).await;
        let stuck = answer(&health);
        assert!(
            !stuck.good
                && stuck
                    .text
                    .contains("reading the state of the node has taken 61 s"),
            "{stuck:?}"
        );
        drop(step);
        tokio::time::advance(STUCK * 100).await;
        assert!(answer(&health).good, "a loop that waits is not stuck");
    }

    #[tokio::test]
    async fn an_agent_is_ready_when_its_sources_say_so() {
        let health = Health::default();
        assert!(health.readyz(Instant::now()).text.contains("starting"));
        let (sender, state) = watch::channel(State::default());
        health.wire(Sources {
            state,
            api: None,
            publication: None,
        });
        let answer = health.readyz(Instant::now());
        assert!(!answer.good && answer.text.contains("device"), "{answer:?}");
        sender.send_replace(readiness::tests::ready());
        let answer = health.readyz(Instant::now());
        assert_eq!(
            (answer.good, answer.text.as_str()),
            (true, "overlay-agent is ready")
        );
        sender.send_replace(State::default());
        assert!(!health.readyz(Instant::now()).good, "the device is gone again");
    }
}
