//! The embedded object: its maps and programs come into the kernel here.

use anyhow::{Context, Result, anyhow};
use aya::EbpfLoader;
use aya::programs::{ProgramError, SchedClassifier};
use overlay_common::maps::{EGRESS_FLOWS, INGRESS_FLOWS, PEER_STATS, PEERS, SUBNETS};
use overlay_core::action::Program;

use super::Capacity;
use super::pins::{Pins, map_names};

/// The compiled programs of `overlay-ebpf`: an ELF object with BTF.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/overlay-ebpf"));

/// 16 hexadecimal digits that tell [`OBJECT`] from that of other builds.
pub const OBJECT_HASH: &str = env!("OVERLAY_OBJECT_HASH");

/// Creates and pins the maps that are not pinned yet, and loads and pins the programs that are not.
///
/// Maps that are pinned are used as they are: the caller has checked that they fit.
pub(super) fn load_and_pin(pins: &Pins, capacity: Capacity) -> Result<()> {
    let mut missing = Vec::new();
    for program in Program::ALL {
        if pins.current_program(program)?.is_none() {
            missing.push(program);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut loader = EbpfLoader::new();
    for name in [SUBNETS, PEERS, PEER_STATS] {
        loader.map_max_entries(name, capacity.peers);
    }
    for name in [EGRESS_FLOWS, INGRESS_FLOWS] {
        loader.map_max_entries(name, capacity.flows);
    }
    for name in map_names() {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT).context("cannot create the eBPF maps")?;
    for wanted in missing {
        let name = wanted.name();
        let program: &mut SchedClassifier = object
            .program_mut(name)
            .ok_or_else(|| anyhow!("the embedded object has no program {name}"))?
            .try_into()
            .with_context(|| format!("{name} is not a classifier"))?;
        program.load().map_err(|error| refused(name, error))?;
        let path = pins.program(wanted);
        program
            .pin(&path)
            .with_context(|| format!("cannot pin {name} at {}", path.display()))?;
    }
    Ok(())
}

/// A verifier log has thousands of lines: the last ones say why, all of them go to the debug log.
fn refused(name: &str, error: ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        let log = verifier_log.to_string();
        log::debug!("verifier log of {name}:\n{log}");
        let summary = summary(&log);
        anyhow::Error::new(io_error).context(format!(
            "the kernel refuses the program {name}: {summary} (all of it at log level debug)"
        ))
    } else {
        anyhow::Error::new(error).context(format!("cannot load the program {name}"))
    }
}

/// The last lines before the verifier's statistics.
fn summary(log: &str) -> String {
    const LINES: usize = 3;
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("verification time") && !line.starts_with("processed "))
        .filter(|line| !line.is_empty())
        .collect();
    match lines.get(lines.len().saturating_sub(LINES)..) {
        None | Some([]) => "the verifier gave no reason".to_owned(),
        Some(last) => last.join(" | "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_is_the_end_without_statistics() {
        let log = "0: R1=ctx()\n1: (61) r2 = *(u32 *)(r1 +76)\n2: (71) r0 = *(u8 *)(r2 +0)\n\
                   invalid access to packet\n\nprocessed 3 insns (limit 1000000)\nstack depth 0\n";
        assert_eq!(
            summary(log),
            "1: (61) r2 = *(u32 *)(r1 +76) | 2: (71) r0 = *(u8 *)(r2 +0) | invalid access to packet"
        );
        assert_eq!(summary(""), "the verifier gave no reason");
    }

    #[test]
    fn hash_has_the_length_that_pins_rely_on() {
        assert_eq!(OBJECT_HASH.len(), 16);
    }
}
