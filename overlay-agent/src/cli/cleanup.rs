//! `overlay-agent cleanup`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use overlay_core::action::Action;
use overlay_core::diff::cleanup_plan;
use overlay_core::net_conf::device_name;
use overlay_core::observed::{Observed, ObservedDataplane};

use super::args::CleanupArgs;
use super::settings::net_conf;
use crate::conntrack;
use crate::dataplane::{AttachChoice, Capacity, Dataplane, check_pin_directory};
use crate::lock::{self, Locks};
use crate::netlink::Netlink;
use crate::text::count;

pub(super) async fn cleanup(args: &CleanupArgs) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    let device = device_name(vni(args)?);
    check_pin_directory(&args.pin_dir)?;
    let locks = Locks::acquire(Path::new(lock::DIRECTORY), &device, &args.pin_dir)
        .context("the agent must be stopped before what it made is removed")?;
    let netlink = Netlink::connect()?;
    let mut dataplane = Dataplane::open(args.pin_dir.clone(), AttachChoice::Auto, Capacity::default());
    let observed = Observed {
        device: netlink
            .observe_device(&device)
            .await
            .with_context(|| format!("cannot examine {device}"))?,
        dataplane: pinned(&dataplane, &args.pin_dir),
    };
    let plan = cleanup_plan(&observed, &device);
    let mut failed = 0_usize;
    for step in &plan.steps {
        let result = match &step.action {
            Action::Kernel(action) => netlink.execute(&device, action).await,
            Action::SetConntrack(parameter) => conntrack::set(*parameter),
            Action::Dataplane(action) => match &mut dataplane {
                Ok(dataplane) => dataplane.execute(action),
                Err(error) => Err(anyhow!("{error:#}")),
            },
        };
        match result {
            Ok(()) => writeln!(out, "- {}  ({})", step.action, step.why)?,
            Err(error) => {
                failed += 1;
                log::error!("failed: {step}: {error:#}");
            }
        }
    }
    let mut notes = plan.notes;
    if observed.dataplane.is_some() {
        match conntrack::read() {
            Ok(parameters) => notes.extend(conntrack::left_note(&parameters)),
            // It is left in any case.
            Err(error) => {
                log::warn!("cannot tell what the fast path has set of connection tracking: {error:#}");
            }
        }
    }
    for note in &notes {
        writeln!(out, "left: {note}")?;
    }
    if failed > 0 {
        log::error!(
            "{} could not be carried out: repair what is named above and repeat",
            count(failed, "step")
        );
        return Ok(ExitCode::FAILURE);
    }
    locks.remove()?;
    if plan.steps.is_empty() {
        writeln!(out, "nothing to do for {device}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is pinned. What cannot be read must go all the same.
fn pinned(dataplane: &Result<Dataplane>, pin_dir: &Path) -> Option<ObservedDataplane> {
    match dataplane {
        Ok(dataplane) => dataplane.observe().unwrap_or_else(|error| {
            log::warn!(
                "cannot read all of {}, removing it without a look: {error:#}",
                pin_dir.display()
            );
            Some(ObservedDataplane::default())
        }),
        // Without BPF nothing can be pinned, unless it was taken from this process only.
        Err(_) => pin_dir.exists().then(ObservedDataplane::default),
    }
}

/// From `--vni`, the configuration that was named, the one in the usual place, or flannel's default.
fn vni(args: &CleanupArgs) -> Result<u32> {
    if let Some(vni) = args.vni {
        return Ok(vni);
    }
    let default = Path::new(CleanupArgs::DEFAULT_NET_CONF);
    let path = match &args.net_config_path {
        Some(path) => path,
        None if default.exists() => default,
        None => return Ok(1),
    };
    let conf = net_conf(path).context("cannot tell the VNI (--vni gives it without this file)")?;
    Ok(conf.backend.vni)
}
