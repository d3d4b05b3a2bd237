//! Keeps a part of this agent's own Node as it should be: whatever changes it, it is compared and written again.

mod newest;
#[cfg(test)]
mod tests;

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use self::newest::newest;
use super::ask::Asked;
use super::corrections::Corrections;
use super::identity::Identity;
use super::publication::Progress;
use super::record::NodeRecord;
use super::retry::Retry;
use crate::control::state::State;

/// A part of the own Node's status.
pub trait Part {
    /// What it should be. Equal ones are the same wish, however often it has to be written.
    type Wanted: PartialEq;

    /// Its name in messages: `the lease annotations`.
    const NAME: &'static str;

    /// What it should be now.
    ///
    /// # Errors
    ///
    /// While it must not be written: what is waited for.
    fn wanted(&self, node: &NodeRecord, identity: &Identity, state: &State) -> Result<Self::Wanted, String>;

    /// What is to be written; `None` when the Node lacks nothing.
    fn write(&self, node: &NodeRecord, wanted: &Self::Wanted) -> Option<Write>;

    /// What people should know about it; said once per change.
    fn remarks(&self, node: &NodeRecord, wanted: &Self::Wanted) -> Vec<Remark>;
}

/// What is to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// A strategic merge patch of the Node's status, in JSON.
    pub body: String,
    /// What it changes, for people.
    pub words: String,
}

/// Something that people should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remark {
    /// How bad it is.
    pub level: log::Level,
    /// For an operator.
    pub text: String,
}

/// What decides about a part. All of it may change at any time.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The own Node as it was last seen; `None` while there is none.
    pub own: watch::Receiver<Option<NodeRecord>>,
    /// Who this node is.
    pub identity: watch::Receiver<Identity>,
    /// How the control loop stands.
    pub state: watch::Receiver<State>,
}

impl Inputs {
    /// Waits for a change; `false` when there will not be another one.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.own.changed() => changed.is_ok(),
            changed = self.identity.changed() => changed.is_ok(),
            changed = self.state.changed() => changed.is_ok(),
        }
    }
}

/// Keeps `part` of Node `node` as it should be for as long as the other ends of `inputs` live.
///
/// Nothing is written while nothing differs. What somebody else changes is put right: at once the first time, then less and
/// less often (see [`Corrections`]), so that two writers do not fight at the speed of the API server. What fails is tried
/// again later.
pub async fn keep<P: Part>(
    part: P,
    client: Client,
    node: String,
    mut inputs: Inputs,
    mut progress: impl FnMut(Progress),
) {
    let api: Api<NodeRecord> = Api::all(client);
    let (mut retry, mut corrections) = (Retry::default(), Corrections::default());
    let mut written: Option<NodeRecord> = None;
    // What the Node once said as wanted.
    let mut held: Option<P::Wanted> = None;
    let mut remarks = Vec::new();
    loop {
        let own = inputs.own.borrow_and_update().clone();
        let own = newest(own, written.as_ref());
        let step = decide(
            &part,
            own.as_ref(),
            &inputs.identity.borrow_and_update(),
            &inputs.state.borrow_and_update(),
        );
        if let (Some(node), Step::Keep(wanted) | Step::Write(wanted, _)) = (&own, &step) {
            remarks = say(part.remarks(node, wanted), &remarks);
        }
        let (wanted, write) = match step {
            Step::Wait(why) => {
                progress(Progress::Waiting(why));
                if inputs.changed().await {
                    continue;
                }
                return;
            }
            Step::Keep(wanted) => {
                progress(Progress::Done);
                held = Some(wanted);
                if inputs.changed().await {
                    continue;
                }
                return;
            }
            Step::Write(wanted, write) => (wanted, write),
        };
        let Write { body, words } = write;
        let correction = held.as_ref() == Some(&wanted);
        if correction {
            let due = corrections.due(Instant::now());
            if due > Instant::now() {
                progress(Progress::Waiting(format!(
                    "somebody else keeps changing {} of Node {node}: {words}",
                    P::NAME
                )));
                tokio::select! {
                    () = sleep_until(due) => {}
                    more = inputs.changed() => if !more { return },
                }
                continue;
            }
        }
        let asked = Asked {
            verb: "patch",
            resource: "nodes/status",
            kind: "Node",
            name: &node,
            namespace: None,
        };
        let request = async {
            let body = RawValue::from_string(body).map_err(kube::Error::SerdeError)?;
            api.patch_status(&node, &PatchParams::default(), &Patch::Strategic(body))
                .await
        };
        match asked.answer(request).await {
            Ok(record) => {
                retry.succeeded(P::NAME);
                if correction {
                    let (number, wait) = corrections.made(Instant::now());
                    log::warn!(
                        "somebody else changed {} of Node {node}, written again: {words} (correction {number}; the next one \
                         waits {} s). If it goes on: does another agent, or flannel, run with this node's name?",
                        P::NAME,
                        wait.as_secs()
                    );
                } else {
                    log::info!("Node {node}: {words}");
                }
                written = Some(record);
                held = Some(wanted);
            }
            Err(refusal) => {
                let text = format!("{refusal}; {} wait, trying again", P::NAME);
                progress(Progress::Waiting(text.clone()));
                sleep(retry.failed(log::Level::Error, text)).await;
            }
        }
    }
}

/// What is to be done.
#[derive(PartialEq, Debug)]
enum Step<W> {
    /// Nothing may be written yet: what is waited for.
    Wait(String),
    /// Nothing differs.
    Keep(W),
    /// This lacks.
    Write(W, Write),
}

/// Says what was not said before; what is said now.
fn say(remarks: Vec<Remark>, said: &[Remark]) -> Vec<Remark> {
    for remark in remarks.iter().filter(|remark| !said.contains(remark)) {
        log::log!(remark.level, "{}", remark.text);
    }
    remarks
}

fn decide<P: Part>(
    part: &P,
    node: Option<&NodeRecord>,
    identity: &Identity,
    state: &State,
) -> Step<P::Wanted> {
    let Some(node) = node else {
        return Step::Wait("this agent's Node does not exist".to_owned());
    };
    match part.wanted(node, identity, state) {
        Err(why) => Step::Wait(why),
        Ok(wanted) => match part.write(node, &wanted) {
            Some(write) => Step::Write(wanted, write),
            None => Step::Keep(wanted),
        },
    }
}
