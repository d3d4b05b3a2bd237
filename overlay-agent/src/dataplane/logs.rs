//! What the programs log: from their ring buffer to the `log` crate.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use aya_log::EbpfLogger;
use log::Log;
use overlay_core::action::Program;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time;

use super::pins::{LOGS, Pins};

/// How often the pin is looked at: the ring buffer is another one after the maps were replaced.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

type Logger = AsyncFd<EbpfLogger<&'static dyn Log>>;

pub(super) async fn follow(pins: Pins) -> Infallible {
    let mut failed = false;
    loop {
        match open(&pins) {
            Ok(Some((map, logger))) => {
                failed = false;
                match read(&pins, map, logger).await {
                    Ok(()) => continue,
                    Err(error) => log::warn!("the programs' log is not readable: {error:#}"),
                }
            }
            Ok(None) => {}
            // Once, not every few seconds.
            Err(error) if !failed => {
                failed = true;
                log::warn!("the programs' log is not readable (trying again): {error:#}");
            }
            Err(_) => {}
        }
        time::sleep(LOOK_AGAIN).await;
    }
}

/// The ring buffer of the pinned programs, and the id of its map; `None` while there are no programs.
fn open(pins: &Pins) -> Result<Option<(u32, Logger)>> {
    let Some(map) = pinned_map(pins) else {
        return Ok(None);
    };
    let mut result = Ok(None);
    for program in Program::ALL {
        let Some(pinned) = pins.current_program(program)? else {
            continue;
        };
        result = EbpfLogger::init_from_id(pinned.id)
            .with_context(|| format!("cannot open the log of {}", program.name()))
            .and_then(poll)
            .map(|logger| Some((map, logger)));
        // A program that logs nothing has no buffer, and the other one may.
        if result.is_ok() {
            break;
        }
    }
    result
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe; the logger owns its file descriptor and keeps it"
)]
fn poll(logger: EbpfLogger<&'static dyn Log>) -> Result<Logger> {
    AsyncFd::with_interest(logger, Interest::READABLE).context("cannot poll the log")
}

/// Reads until another map is pinned.
async fn read(pins: &Pins, map: u32, mut logger: Logger) -> Result<()> {
    let mut look_again = time::interval(LOOK_AGAIN);
    loop {
        tokio::select! {
            ready = logger.readable_mut() => {
                let mut ready = ready.context("cannot poll the ring buffer")?;
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
            _ = look_again.tick() => {
                if pinned_map(pins) != Some(map) {
                    return Ok(());
                }
            }
        }
    }
}

fn pinned_map(pins: &Pins) -> Option<u32> {
    MapInfo::from_pin(pins.map(LOGS)).ok().map(|info| info.id())
}
