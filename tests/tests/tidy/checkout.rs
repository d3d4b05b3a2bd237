//! The checkout: its files, and how findings are reported.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A text file of the checkout.
pub(crate) struct File {
    /// The path from the checkout's root, such as `tests/src/lib.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap()
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines, with their numbers from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .split_terminator('\n')
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

/// The checkout's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Every file that git tracks or would track.
pub(crate) fn files() -> Vec<File> {
    let listed = output(
        Command::new("git")
            .args([
                "-c",
                "safe.directory=*",
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root()),
    );
    let files: Vec<File> = listed
        .split_terminator('\0')
        // What was deleted and not yet committed is listed, too.
        .filter(|path| root().join(path).is_file())
        .map(|path| File {
            path: path.to_owned(),
            text: read(path),
        })
        .collect();
    assert!(
        files.len() > 20,
        "git lists only {} files: is this a whole checkout?",
        files.len()
    );
    files
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{path} cannot be read as text: {error}"))
}

/// Runs a command to its end and returns its stdout.
pub(crate) fn output(command: &mut Command) -> String {
    let done = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(
        done.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

/// Fails with all findings at once.
pub(crate) fn none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}
