//! What may depend on what.

use std::process::Command;

use crate::checkout::{files, none, output, root};

/// Crates that do I/O: with one of them in its tree the core would no longer be a pure function.
const IMPURE: [&str; 9] = [
    "tokio",
    "aya",
    "hyper",
    "kube",
    "rustls",
    "netlink-sys",
    "netlink-packet-core",
    "netlink-packet-route",
    "rtnetlink",
];

#[test]
fn the_core_has_no_io_in_its_dependency_tree() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = output(
        Command::new(cargo)
            .args([
                "tree",
                "--package=overlay-core",
                "--edges=normal",
                "--prefix=none",
            ])
            .current_dir(root()),
    );
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(
        names.contains(&"overlay-core"),
        "cargo tree lists no tree:\n{tree}"
    );
    let impure: Vec<String> = names
        .iter()
        .filter(|name| IMPURE.contains(name) || name.starts_with("aya-") || name.contains("netlink"))
        .map(|name| (*name).to_owned())
        .collect();
    none("overlay-core depends on crates that do I/O", &impure);
}

#[test]
fn every_crate_inherits_the_workspace_lints() {
    let findings: Vec<String> = files()
        .iter()
        .filter(|file| file.name() == "Cargo.toml" && file.text.contains("[package]"))
        .filter(|file| !inherits_lints(&file.text))
        .map(|file| file.path.clone())
        .collect();
    none("crates without `lints.workspace = true`", &findings);
}

fn inherits_lints(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        matches!(
            (section, line),
            ("", "lints.workspace = true") | ("[lints]", "workspace = true")
        )
    })
}

#[test]
fn inheritance_is_recognised_in_its_section_only() {
    assert!(inherits_lints(
        "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"
    ));
    assert!(inherits_lints("lints.workspace = true\n[package]\n"));
    assert!(!inherits_lints("[package]\nworkspace = true\n[lints]\n"));
}
