//! `overlay-agent run`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use overlay_core::net_conf::device_name;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::args::NodeArgs;
use super::settings::{options, settings};
use crate::control::{self, pass::Controller};
use crate::dataplane::check_pin_directory;
use crate::lock::{self, Locks};
use crate::node::Node;
use crate::source::LeaseSource;
use crate::source::file::FileSource;

/// Lists that wait for the loop. Each is complete, so more than one is rare.
const LEASE_QUEUE: usize = 16;

pub(super) async fn run(args: NodeArgs) -> Result<()> {
    // First of all, so that a signal at any time is an orderly end.
    let signals = Signals::new()?;
    let settings = settings(&args)?;
    let device = device_name(settings.net_conf.backend.vni);
    check_pin_directory(&args.pin_dir)?;
    let _locks = Locks::acquire(Path::new(lock::DIRECTORY), &device, &args.pin_dir)?;
    let mut node = Node::connect(options(&args, &settings))?;
    log::info!(
        "overlay-agent {}: node {}, device {device}, leases from {}",
        env!("CARGO_PKG_VERSION"),
        settings.node,
        args.leases.display()
    );
    let kernel_events = node.events().await?;
    node.follow_program_logs();
    let resync = Duration::from_secs(args.resync);
    node.look_after_pods(resync)?;
    let (events, leases) = mpsc::channel(LEASE_QUEUE);
    let source = FileSource::new(args.leases, resync);
    tokio::spawn(async move {
        if let Err(error) = source.run(events).await {
            log::error!(
                "the lease source has ended, the last list stays in force until a restart: {error:#}"
            );
        }
    });
    control::run(
        Controller::new(node, settings),
        leases,
        kernel_events,
        resync,
        signals.any(),
    )
    .await;
    Ok(())
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let new = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            terminate: new(SignalKind::terminate())?,
            interrupt: new(SignalKind::interrupt())?,
        })
    }

    async fn any(mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        log::info!(
            "{name}: ending; device, routes and eBPF programs stay in place and keep forwarding \
             (`overlay-agent cleanup` removes them)"
        );
    }
}
