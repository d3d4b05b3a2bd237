//! How files look, and what they must not contain.

use crate::checkout::{File, files, none};

const LONGEST: usize = 600;

/// Files that others write.
const FOREIGN: [&str; 2] = ["Cargo.lock", "LICENSE-APACHE"];

fn own_files() -> Vec<File> {
    files()
        .into_iter()
        .filter(|file| !FOREIGN.contains(&file.name()))
        .collect()
}

/// Every line of `files` that `is_bad` objects to.
fn lines_with(files: &[File], is_bad: impl Fn(&str) -> bool) -> Vec<String> {
    files
        .iter()
        .flat_map(|file| {
            file.lines()
                .filter(|(_, line)| is_bad(line))
                .map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn files_are_small() {
    let findings: Vec<String> = own_files()
        .iter()
        .map(|file| (file, file.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(file, lines)| format!("{}: {lines} lines", file.path))
        .collect();
    none(&format!("files of more than {LONGEST} lines"), &findings);
}

#[test]
fn lines_have_no_trailing_white_space() {
    none(
        "trailing white space",
        &lines_with(&own_files(), |line| line.ends_with([' ', '\t', '\r'])),
    );
}

#[test]
fn files_end_with_one_line_feed() {
    let findings: Vec<String> = own_files()
        .iter()
        .filter(|file| !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")))
        .map(|file| file.path.clone())
        .collect();
    none("files that do not end with exactly one line feed", &findings);
}

#[test]
fn nothing_is_left_for_later() {
    // Each in two halves, so that this file passes its own test.
    let words = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")].map(|(a, b)| [a, b].concat());
    let macros = [("to", "do!"), ("unimple", "mented!"), ("db", "g!")].map(|(a, b)| [a, b].concat());
    let findings = lines_with(&own_files(), |line| {
        let mut parts = line.split(|c: char| !c.is_alphanumeric());
        parts.any(|part| words.iter().any(|word| word == part)) || macros.iter().any(|call| calls(line, call))
    });
    none("work left for later", &findings);
}

/// Whether `line` has the macro as a word of its own.
fn calls(line: &str, call: &str) -> bool {
    line.match_indices(call)
        .any(|(at, _)| !line.get(..at).is_some_and(|before| before.ends_with(is_word)))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[test]
fn no_registry_is_named() {
    let hosts = [
        ("crates", ".io"),
        ("static.rust-lang", ".org"),
        ("deb.debian", ".org"),
        ("snapshot.debian", ".org"),
        ("archive.ubuntu", ".com"),
        ("pypi", ".org"),
        ("proxy.golang", ".org"),
        ("registry.npmjs", ".org"),
        ("registry.k8s", ".io"),
        ("docker", ".io"),
        ("quay", ".io"),
        ("ghcr", ".io"),
    ]
    .map(|(name, domain)| [name, domain].concat());
    none(
        "package registries (which one to use is for each machine's configuration to say)",
        &lines_with(&own_files(), |line| hosts.iter().any(|host| line.contains(host))),
    );
}

#[test]
fn no_path_of_one_machine_is_named() {
    let folders =
        [("/ro", "ot/"), ("/ho", "me/"), ("/wo", "rk/"), ("/Use", "rs/")].map(|(a, b)| [a, b].concat());
    let findings = lines_with(&own_files(), |line| {
        folders.iter().any(|folder| starts_a_path(line, folder))
    });
    none("absolute paths of one machine", &findings);
}

/// Whether a path in `line` begins with `folder`, rather than having it inside.
fn starts_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        !line
            .get(..at)
            .is_some_and(|before| before.ends_with(|c: char| is_word(c) || ['.', '-', '}', '>'].contains(&c)))
    })
}

#[test]
fn paths_are_told_from_parts_of_paths() {
    let folder = ["/ro", "ot/"].concat();
    assert!(starts_a_path(&format!("see {folder}x"), &folder));
    assert!(starts_a_path(&format!("\"{folder}x\""), &folder));
    assert!(!starts_a_path(&format!("sysroot/lib{folder}x"), &folder));
    assert!(!starts_a_path(&format!("$dir}}{folder}x"), &folder));
}
