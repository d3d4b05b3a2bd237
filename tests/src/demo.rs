//! The demo: an overlay of three nodes, shown at work and checked.

use std::collections::BTreeMap;
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::agent::{self, Agent, AgentOptions};
use crate::detached;
use crate::footprint::{Footprint, PINNED_FILES};
use crate::node::Node;
use crate::requirements;
use crate::testbed::Testbed;

mod connectivity;
mod counters;
mod ledger;
mod look;
mod membership;
mod report;

use ledger::Ledger;
use report::Report;

/// Everything is over by then, whatever happens.
const TIME_LIMIT: Duration = Duration::from_secs(115);
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// What the demo shall do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many nodes, at least two.
    pub nodes: u8,
    /// Leave everything running at the end.
    pub keep: bool,
}

/// The running overlay.
struct Overlay {
    testbed: Testbed,
    agents: BTreeMap<u8, Agent>,
}

/// Runs the demo and says whether every check held.
///
/// # Errors
///
/// When the overlay cannot be built, so that there is nothing to check.
pub fn run(options: Options) -> Result<bool> {
    let mut report = Report::new();
    report.title("An overlay from lease files");
    let mut overlay = build(options.nodes, &mut report)?;
    let mut ledger = Ledger::default();
    let before = counters::read_all(&overlay.testbed)?;
    report.title("Every node reaches every other");
    connectivity::check(&overlay.testbed, &mut report, &mut ledger);
    report.title("The packets went through the eBPF programs");
    counters::check(&overlay.testbed, &before, &ledger, &mut report);
    report.title("Nodes join and leave while others talk");
    membership::check(&mut overlay, options.nodes, &mut report);
    report.title("A look at node-1");
    look::show(overlay.testbed.node(1)?, &mut report);
    if options.keep {
        keep(overlay, &mut report)?;
    } else {
        report.title("The end");
        end(overlay, &mut report);
    }
    Ok(report.summary())
}

/// Ends the testbeds that `--keep` left running.
///
/// # Errors
///
/// When one cannot be ended.
pub fn clean() -> Result<()> {
    let cleaned = detached::clean()?;
    if cleaned.is_empty() {
        println!("Nothing to clean: no demo was left running with --keep.");
    }
    for testbed in cleaned {
        println!("Ended {}: {}", testbed.run, testbed.ended.join(", "));
        if !testbed.gone.is_empty() {
            println!("  already gone: {}", testbed.gone.join(", "));
        }
    }
    Ok(())
}

/// Each step has its own limit; this one is for their sum, so that a broken overlay cannot hold up a build machine.
fn watch_the_clock() {
    thread::spawn(|| {
        thread::sleep(TIME_LIMIT);
        println!(
            "\n✗ The demo was not finished after {} s and ends here.",
            TIME_LIMIT.as_secs()
        );
        // The nodes end with the process.
        process::exit(1);
    });
}

fn build(nodes: u8, report: &mut Report) -> Result<Overlay> {
    report.need("this machine", || {
        requirements::check()?;
        Ok(((), "root, and every tool is installed".to_owned()))
    })?;
    report.need("agent", || {
        let binary = agent::binary()?;
        Ok(((), binary.display().to_string()))
    })?;
    // Building the agent on a fresh clone is not what may be slow.
    watch_the_clock();
    let testbed = report.need("nodes", || {
        let testbed = Testbed::builder().nodes(nodes).pods_per_node(2).build()?;
        // As flannel's manifest asks for: pods appear outside of the overlay with their node's address.
        testbed.nodes().try_for_each(Node::flannel_masquerade)?;
        let names: Vec<_> = testbed
            .nodes()
            .map(|node| format!("{} {}", node.name(), node.address()))
            .collect();
        Ok((
            testbed,
            format!("{}; two pods each behind a bridge", names.join(", ")),
        ))
    })?;
    let agents = report.need("leases and agents", || {
        let agents = testbed.start_agents(&AgentOptions::default())?;
        let ready = format!(
            "{} agents ready, {} leases in a file on each node",
            agents.len(),
            agents.len()
        );
        Ok((agents, ready))
    })?;
    let agents = agents
        .into_iter()
        .map(|agent| (agent.node().index(), agent))
        .collect();
    Ok(Overlay { testbed, agents })
}

fn end(overlay: Overlay, report: &mut Report) {
    let Overlay { testbed, agents } = overlay;
    report.check("agents stop", || {
        let count = agents.len();
        agents.into_values().try_for_each(Agent::stop)?;
        Ok(format!("{count} agents ended with exit code 0 after SIGTERM"))
    });
    report.check("the overlay stays", || connectivity::one_ping_per_pair(&testbed));
    let footprint = Footprint::of(&testbed);
    report.check("cleanup", || {
        for node in testbed.nodes() {
            node.agent_command(&[
                "cleanup",
                "--net-config-path",
                &node.path(AgentOptions::NET_CONF).display().to_string(),
            ])?
            .success()?;
            let links = node.run("ip -br link")?;
            ensure!(
                !links.contains("flannel"),
                "{} still has its VXLAN device:\n{links}",
                node.name()
            );
            let pins = node.run(PINNED_FILES)?;
            ensure!(pins.is_empty(), "{} still has BPF pins:\n{pins}", node.name());
        }
        Ok("`overlay-agent cleanup` removed device, routes, programs and maps from every node".to_owned())
    });
    report.check("nothing is left", || {
        let footprint = footprint?;
        drop(testbed);
        footprint.expect_gone(END_TIMEOUT)?;
        let (namespaces, objects) = footprint.counts();
        Ok(format!(
            "{namespaces} namespaces and {objects} BPF objects are gone, the machine is as before"
        ))
    });
}

fn keep(overlay: Overlay, report: &mut Report) -> Result<()> {
    let Overlay { testbed, agents } = overlay;
    let help = look::around(&testbed)?;
    let kept = report.check("keep", || {
        agents.into_values().for_each(Agent::detach);
        let record = testbed.detach()?;
        Ok(format!(
            "the overlay keeps running, recorded in {}",
            record.display()
        ))
    });
    if kept {
        println!("{help}");
    }
    Ok(())
}
