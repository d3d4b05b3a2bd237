//! `overlay-agent status`.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use aya::maps::MapInfo;
use overlay_common::maps::{EGRESS_FLOWS, SUBNETS};

use super::args::StatusArgs;
use crate::dataplane::{AttachChoice, Capacity, Dataplane};
use crate::status::Status;

pub(super) fn status(args: &StatusArgs) -> Result<()> {
    let capacity = capacity(&args.pin_dir);
    let dataplane = Dataplane::open(args.pin_dir.clone(), AttachChoice::Auto, capacity)?;
    let observed = dataplane.observe()?.ok_or_else(|| {
        anyhow!(
            "nothing is pinned in {}: no agent with --dataplane ebpf has run with this --pin-dir; \
             `ip -d link show`, `ip route` and `bridge fdb show` tell what the kernel's VXLAN device does",
            args.pin_dir.display()
        )
    })?;
    let status = Status {
        dataplane: observed,
        stats: dataplane.peer_stats()?,
        counters: dataplane.counters()?,
        flows: dataplane.flow_counts()?,
    };
    let text = if args.json {
        format!("{:#}\n", status.json())
    } else {
        status.text(args.all)?
    };
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}

/// Capacity of the maps that are pinned, whatever `--max-peers` and `--max-flows` the agent was given.
fn capacity(pin_dir: &Path) -> Capacity {
    let of = |name| {
        let info = MapInfo::from_pin(pin_dir.join(name)).ok()?;
        Some(info.max_entries())
    };
    let default = Capacity::default();
    Capacity {
        peers: of(SUBNETS).unwrap_or(default.peers),
        flows: of(EGRESS_FLOWS).unwrap_or(default.flows),
    }
}
