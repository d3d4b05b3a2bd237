//! `cargo xtask build-ebpf`: the eBPF object, and what is in it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    host,
    setup::{self, Need},
};

/// Builds the object, and prints its path, its size, its programs and its maps.
///
/// # Errors
/// When the machine lacks a tool or the build fails.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let root = host::workspace_root();
    let object =
        ebpf_build::build(&root, &ebpf_build::default_target_dir(&root)).context("the eBPF object")?;
    let size = fs::metadata(&object)
        .with_context(|| format!("{} cannot be read", object.display()))?
        .len();
    println!("{} ({size} bytes)", object.display());
    match symbols(&object) {
        Some(table) => print!("{}", Contents::read(&table).listing()),
        None => println!("neither llvm-objdump nor objdump is here to list its programs and maps"),
    }
    Ok(())
}

/// The object's symbol table, by the first tool that can read it.
fn symbols(object: &Path) -> Option<String> {
    ["llvm-objdump", "objdump"]
        .iter()
        .find_map(|tool| host::output(Command::new(tool).arg("--syms").arg(object)).ok())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// Section and name of each program.
    programs: Vec<(String, String)>,
    maps: Vec<String>,
}

impl Contents {
    /// Reads a symbol table as objdump prints it: `<value> <flags> <section> <size> [.hidden] <name>`.
    fn read(table: &str) -> Self {
        let mut contents = Self::default();
        for line in table.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(at) = words.iter().position(|word| matches!(*word, "F" | "O")) else {
                continue;
            };
            let (Some(section), Some(name)) = (words.get(at + 1), words.last()) else {
                continue;
            };
            let global = words.get(..at).is_some_and(|flags| flags.contains(&"g"));
            match words.get(at) {
                Some(&"O") if *section == ".maps" => contents.maps.push((*name).to_owned()),
                // Functions in .text are called by programs and are none.
                Some(&"F") if global && *section != ".text" => {
                    contents
                        .programs
                        .push(((*section).to_owned(), (*name).to_owned()));
                }
                _ => {}
            }
        }
        contents.programs.sort();
        contents.maps.sort();
        contents
    }

    fn listing(&self) -> String {
        let programs = self
            .programs
            .iter()
            .map(|(section, name)| format!("  program {name} ({section})\n"));
        let maps = self.maps.iter().map(|name| format!("  map {name}\n"));
        programs.chain(maps).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_maps_are_read_from_the_symbol_table() {
        let table = "\
object:\tfile format elf64-bpf

SYMBOL TABLE:
0000000000000000 l    df *ABS*\t0000000000000000 overlay_ebpf
0000000000000000 l     F .text\t0000000000000040 helper
0000000000000000 g     F .text\t0000000000000040 .hidden memcpy
0000000000000000 g     F classifier\t0000000000000148 vtep_egress
0000000000000148 g     F classifier\t0000000000000100 underlay_ingress
0000000000000020 g     O .maps\t0000000000000028 SUBNETS
0000000000000000 g     O .maps\t0000000000000020 CONFIG
0000000000000000 g     O license\t000000000000000d LICENSE
";
        assert_eq!(
            Contents::read(table).listing(),
            "  program underlay_ingress (classifier)\n  program vtep_egress (classifier)\n  map CONFIG\n  map SUBNETS\n"
        );
    }

    #[test]
    fn an_empty_table_lists_nothing() {
        assert_eq!(Contents::read(""), Contents::default());
    }
}
