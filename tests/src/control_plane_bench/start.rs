//! From the start of the agent's process until every peer is programmed.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::bed::Bed;
use super::process::{AgentProcess, Memory};
use crate::wait::eventually;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long peers may lag behind the agent's word.
const LAG: Duration = Duration::from_secs(20);
/// The agent is at rest when it has used no more than a hundredth of this for so long.
const REST: Duration = Duration::from_millis(300);
/// How long it may take to come to rest.
const RESTLESS: Duration = Duration::from_secs(10);

/// What one start came to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Start {
    /// Until every peer was programmed.
    pub(super) seconds: f64,
    /// User and system time until the agent was at rest.
    pub(super) cpu_seconds: f64,
    /// At rest.
    pub(super) memory: Memory,
}

/// Starts the agent and measures it; it goes on running. What is odd goes to `problems`.
pub(super) fn measure(bed: &Bed, problems: &mut Vec<String>) -> Result<(AgentProcess, Start)> {
    let agent = bed.start_agent()?;
    let (mut took, line) = agent.wait_ready(PATIENCE)?;
    if line.contains("not complete") {
        problems.push(format!("the agent is not content: {line}"));
    }
    // The agent's word gives the time; that it is true is seen from outside.
    if let Err(error) = bed.expect_programmed() {
        problems.push(format!("the agent was ready too early: {error:#}"));
        eventually(LAG, "all peers are programmed", || bed.expect_programmed())?;
        took = agent.started().elapsed();
    }
    rest(&agent)?;
    let start = Start {
        seconds: took.as_secs_f64(),
        cpu_seconds: agent.cpu()?.as_secs_f64(),
        memory: agent.memory()?,
    };
    Ok((agent, start))
}

/// Waits until the agent has no more to do.
fn rest(agent: &AgentProcess) -> Result<()> {
    let end = Instant::now() + RESTLESS;
    loop {
        let before = agent.cpu()?;
        thread::sleep(REST);
        if agent.cpu()?.saturating_sub(before) <= REST / 100 || Instant::now() >= end {
            return Ok(());
        }
    }
}
