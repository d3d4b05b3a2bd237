//! Where unsafe code may be: in the programs, and in the one file that lets aya copy shared types.

use crate::checkout::{File, files, none};

const PROGRAMS: &str = "overlay-ebpf/";
const SHARED: &str = "overlay-common/";
const KEYWORD: &str = "unsafe";
const POD: &str = "overlay-common/src/pod.rs";

#[test]
fn crate_roots_forbid_unsafe_code() {
    let findings: Vec<String> = files()
        .iter()
        .filter(|file| {
            is_root(&file.path) && !file.path.starts_with(PROGRAMS) && !file.path.starts_with(SHARED)
        })
        .filter(|file| !file.text.contains("#![forbid(unsafe_code)]"))
        .map(|file| file.path.clone())
        .collect();
    none("crate roots without `#![forbid(unsafe_code)]`", &findings);
}

/// Libraries, programs, test suites and build scripts are each a crate of their own.
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let source = parts.iter().position(|part| *part == "src");
    let below = source.map_or(&[][..], |src| parts.get(src + 1..).unwrap_or_default());
    if below.len() > 1 && below.first() != Some(&"bin") {
        // A module, whatever its name.
        return false;
    }
    match parts.as_slice() {
        [.., "src", "lib.rs" | "main.rs"] => true,
        [.., folder, "build.rs"] => *folder != "src",
        [.., "src", "bin", file] => file.ends_with(".rs"),
        [.., "src", "bin", _, "main.rs"] => true,
        // The testbed crate's own folder is called tests.
        [.., "tests", file] => file.ends_with(".rs"),
        [.., "tests", _, "main.rs"] => parts.get(parts.len() - 2) != Some(&"src"),
        _ => false,
    }
}

#[test]
fn roots_are_recognised() {
    for root in [
        "a/src/lib.rs",
        "a/src/main.rs",
        "a/src/bin/b.rs",
        "a/build.rs",
        "a/tests/c.rs",
        "a/tests/c/main.rs",
    ] {
        assert!(is_root(root), "{root}");
    }
    for module in [
        "a/src/b.rs",
        "a/tests/c/d.rs",
        "a/src/b/c.rs",
        "a/src/b/c/tests/d.rs",
        "a/src/b/build.rs",
    ] {
        assert!(!is_root(module), "{module}");
    }
}

#[test]
fn unsafe_code_is_only_where_it_must_be() {
    let findings: Vec<String> = files()
        .iter()
        .filter(|file| file.is_rust() && !file.path.starts_with(PROGRAMS) && file.path != POD)
        .flat_map(unsafe_lines)
        .collect();
    none(&format!("{KEYWORD} code outside {PROGRAMS} and {POD}"), &findings);
}

fn unsafe_lines(file: &File) -> Vec<String> {
    file.lines()
        .filter(|(_, line)| is_unsafe(line.split("//").next().unwrap_or_default()))
        .map(|(number, _)| format!("{}:{number}", file.path))
        .collect()
}

/// Whether the keyword opens a block or an item; in attributes (`link_section`) and in texts it does not.
fn is_unsafe(code: &str) -> bool {
    code.match_indices(KEYWORD).any(|(at, _)| {
        let before = code.get(..at).and_then(|before| before.chars().next_back());
        let after = code.get(at + KEYWORD.len()..).unwrap_or_default();
        !before.is_some_and(is_word) && !after.starts_with(is_word) && opens(after.trim_start())
    })
}

fn opens(after: &str) -> bool {
    after.is_empty()
        || ["{", "fn ", "impl", "trait ", "extern "]
            .iter()
            .any(|opening| after.starts_with(opening))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[test]
fn unsafe_code_is_told_from_its_name() {
    // Put together here, so that this file passes its own test.
    assert!(is_unsafe(&format!("{KEYWORD} {{ f() }}")));
    assert!(is_unsafe(&format!("let x = {KEYWORD}{{ f() }};")));
    assert!(is_unsafe(&format!("    {KEYWORD}")));
    assert!(!is_unsafe("#![forbid(unsafe_code)]"));
    assert!(!is_unsafe(&format!("#[{KEYWORD}(no_mangle)]")));
    assert!(!is_unsafe(&format!(
        "reason = \"the other one is {KEYWORD}; this is not\""
    )));
}
