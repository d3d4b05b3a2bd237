//! Documents name only paths that exist: a code map that lies is worse than none.

use crate::checkout::{File, files, none, read};

const DOCUMENTS: [&str; 2] = ["README.md", "ARCHITECTURE.md"];

/// Names that end like this are files of the checkout, wherever they stand.
const OWN_EXTENSIONS: [&str; 3] = [".rs", ".toml", ".md"];

#[test]
fn documents_name_only_paths_that_exist() {
    let files = files();
    let mut findings = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let named: Vec<&str> = in_backticks(&text)
            .into_iter()
            .filter(|name| is_path(name, &files))
            .collect();
        findings.extend(
            named
                .iter()
                .filter(|name| !exists(name, &files))
                .map(|name| format!("{document}: {name}")),
        );
    }
    none("paths that do not exist", &findings);
}

/// The code spans of a document, without its code blocks.
fn in_backticks(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .map(str::trim)
        .collect()
}

/// Whether a code span is meant as a path of the checkout, and is no command, address, pattern or foreign path.
fn is_path(span: &str, files: &[File]) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if span.starts_with(['/', '-']) || !span.chars().all(plain) {
        return false;
    }
    let first = span.split('/').next().unwrap_or_default();
    let starts_here = span.contains('/')
        && files
            .iter()
            .any(|file| file.path.split('/').next() == Some(first));
    starts_here || OWN_EXTENSIONS.iter().any(|extension| span.ends_with(extension))
}

/// Whether a file or a folder has this path, from the root or from a folder that the prose is about.
fn exists(path: &str, files: &[File]) -> bool {
    let path = path.trim_end_matches('/');
    files.iter().any(|file| {
        let rooted = format!("/{}/", file.path);
        rooted.contains(&format!("/{path}/"))
    })
}

#[test]
fn paths_are_told_from_other_code() {
    let file = |path: &str| File {
        path: path.to_owned(),
        text: String::new(),
    };
    let files = [file("a/src/lib.rs"), file("README.md")];
    for path in ["a/src/lib.rs", "a/src/", "a/gone.rs", "gone/x.rs", "README.md"] {
        assert!(is_path(path, &files), "{path}");
    }
    for other in [
        "10.0.0.0/24",
        "/sys/fs/bpf",
        "a::b",
        "cargo xtask",
        "flannel.1",
        "a/<name>.rs",
        "--lib",
        "net/ipv4",
    ] {
        assert!(!is_path(other, &files), "{other}");
    }
    for path in ["a/src/lib.rs", "a/src", "src/", "lib.rs"] {
        assert!(exists(path, &files), "{path}");
    }
    for path in ["a/gone.rs", "gone.rs", "b/", "rc/lib.rs"] {
        assert!(!exists(path, &files), "{path}");
    }
}

#[test]
fn code_spans_are_found_outside_blocks() {
    assert_eq!(in_backticks("x `a/b` y\n```\n`c/d`\n```\nz `e`"), ["a/b", "e"]);
}
