//! The licences: of the sources, and what the programs tell the kernel.

use crate::checkout::{files, none, read};

#[test]
fn both_licences_are_here_in_full() {
    let mit = read("LICENSE-MIT");
    assert!(
        mit.contains("MIT License") && mit.contains("the overlay authors"),
        "LICENSE-MIT is not ours"
    );
    let apache = read("LICENSE-APACHE");
    assert!(
        apache.contains("Version 2.0, January 2004") && apache.contains("END OF TERMS AND CONDITIONS"),
        "LICENSE-APACHE is not the full text"
    );
}

#[test]
fn every_crate_declares_its_licence() {
    let findings: Vec<String> = files()
        .iter()
        .filter(|file| file.name() == "Cargo.toml" && file.text.contains("[package]"))
        .filter(|file| {
            !file
                .text
                .lines()
                .any(|line| line.trim() == "license.workspace = true")
        })
        .map(|file| file.path.clone())
        .collect();
    none("crates without `license.workspace = true`", &findings);
}

#[test]
fn the_programs_may_call_gpl_helpers() {
    // What the kernel's license_is_gpl_compatible() accepts.
    let accepted = [
        "GPL",
        "GPL v2",
        "GPL and additional rights",
        "Dual BSD/GPL",
        "Dual MIT/GPL",
        "Dual MPL/GPL",
    ];
    let declared: Vec<String> = files()
        .iter()
        .filter(|file| file.is_rust() && file.path.starts_with("overlay-ebpf/src/"))
        .filter_map(|file| declared_licence(&file.text))
        .collect();
    let [licence] = declared.as_slice() else {
        panic!(
            "overlay-ebpf must have one `license` section, it has {}: {declared:?}",
            declared.len()
        );
    };
    assert!(
        accepted.contains(&licence.as_str()),
        "the kernel takes {licence:?} for proprietary"
    );
}

/// The text of the static in the section `license`.
fn declared_licence(source: &str) -> Option<String> {
    let (_, after) = source.split_once("link_section = \"license\"")?;
    let (_, item) = after.split_once('=')?;
    let (item, _) = item.split_once(';')?;
    let (_, text) = item.split_once('"')?;
    let (text, _) = text.split_once('"')?;
    Some(text.trim_end_matches("\\0").to_owned())
}

#[test]
fn a_licence_is_read_from_its_section() {
    let source = "#[unsafe(link_section = \"license\")]\n#[unsafe(no_mangle)]\nstatic LICENSE: [u8; 13] = *b\"Dual MIT/GPL\\0\";\n";
    assert_eq!(declared_licence(source).as_deref(), Some("Dual MIT/GPL"));
    assert_eq!(
        declared_licence(&source.replace("[u8; 13] = *b", "&CStr = c")).as_deref(),
        Some("Dual MIT/GPL")
    );
    assert_eq!(declared_licence("static LICENSE: u8 = 0;"), None);
}
