//! The embedded object: its maps and programs come into the kernel here.

use std::thread;

use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::programs::{ProgramError, SchedClassifier};
use overlay_core::action::Program;

use super::Capacity;
use super::loader::loader;
use super::pins::{Pins, map_names};

/// The compiled programs of `overlay-ebpf`: an ELF object with BTF.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/overlay-ebpf"));

/// 16 hexadecimal digits that tell [`OBJECT`] from that of other builds.
pub const OBJECT_HASH: &str = env!("OVERLAY_OBJECT_HASH");

/// The object in the kernel, and nothing of it pinned: gone with this value.
#[derive(Debug)]
pub(super) struct Prepared {
    object: Ebpf,
    capacity: Capacity,
}

impl Prepared {
    /// Creates new maps, and loads every program. Touches no pin.
    pub(super) fn new(capacity: Capacity) -> Result<Self> {
        let mut object = loader(capacity)
            .load(OBJECT)
            .context("cannot create the eBPF maps")?;
        verify(&mut object, &Program::ALL)?;
        Ok(Self { object, capacity })
    }

    /// Whether the maps have this capacity.
    pub(super) fn fits(&self, capacity: Capacity) -> bool {
        self.capacity == capacity
    }

    /// Pins the maps, then the programs. Nothing of either may be pinned.
    pub(super) fn pin(&mut self, pins: &Pins) -> Result<()> {
        for name in map_names() {
            let path = pins.map(name);
            let map = self
                .object
                .map(name)
                .ok_or_else(|| anyhow!("the embedded object has no map {name}"))?;
            map.pin(&path)
                .with_context(|| format!("cannot pin {name} at {}", path.display()))?;
        }
        pin(&mut self.object, &Program::ALL, pins)
    }
}

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
    let mut loader = loader(capacity);
    for name in map_names() {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT).context("cannot create the eBPF maps")?;
    verify(&mut object, &missing)?;
    pin(&mut object, &missing, pins)
}

/// Loads programs, all at the same time: the kernel takes up to 100 ms to verify one.
fn verify(object: &mut Ebpf, wanted: &[Program]) -> Result<()> {
    thread::scope(|scope| {
        let mut loads = Vec::new();
        for (name, program) in object.programs_mut() {
            let Some(wanted) = wanted.iter().find(|wanted| wanted.name() == name) else {
                continue;
            };
            let load = move || -> Result<()> {
                let program: &mut SchedClassifier = program
                    .try_into()
                    .with_context(|| format!("{} is not a classifier", wanted.name()))?;
                program.load().map_err(|error| refused(wanted.name(), error))
            };
            let thread = thread::Builder::new().name("verify".to_owned());
            let thread = thread.spawn_scoped(scope, load);
            loads.push(thread.context("no thread to load a program")?);
        }
        loads.into_iter().try_for_each(|load| {
            let ended = |_| Err(anyhow!("loading a program ended early"));
            load.join().unwrap_or_else(ended)
        })
    })
}

/// Pins programs that are loaded.
fn pin(object: &mut Ebpf, wanted: &[Program], pins: &Pins) -> Result<()> {
    for wanted in wanted {
        let name = wanted.name();
        let program = object
            .program_mut(name)
            .ok_or_else(|| anyhow!("the embedded object has no program {name}"))?;
        let path = pins.program(*wanted);
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
