//! What the verbs need from the machine: the checkout, the user, programs and child processes.

use std::{
    env,
    ffi::OsStr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The checkout's root: the folder above this crate.
pub(crate) fn workspace_root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Whether this process runs as root (effective user id 0).
pub(crate) fn is_root() -> bool {
    // /proc/self belongs to the effective user; asking it needs neither libc nor unsafe code.
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Fails, with the command to use instead, when the user is not root.
///
/// # Errors
/// When the effective user is not root; `what` says what needs it, `verb` what to call.
pub(crate) fn require_root(what: &str, verb: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "{what} need root (network namespaces, BPF programs), and this is not root; nothing was started\n  \
         run: sudo -E env \"PATH=$PATH\" cargo xtask {verb}"
    );
}

/// The folder of cargo's own state, as an absolute path: `CARGO_HOME`, else `~/.cargo`.
///
/// # Errors
/// When neither `CARGO_HOME` nor `HOME` is set, or the path is not usable.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return std::path::absolute(home).context("CARGO_HOME is no usable path");
    }
    let home = env::var_os("HOME").context("neither CARGO_HOME nor HOME is set: set one of them")?;
    Ok(Path::new(&home).join(".cargo"))
}

/// Finds a program on `PATH`, among what `cargo install` installed, and in the folders for administrators: the
/// `PATH` of many users lacks the latter two.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

/// A command for a program that may be outside `PATH`; one that is nowhere fails by its name when it is started.
pub(crate) fn program(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| PathBuf::from(name)))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// A cargo command, started in the checkout's root.
pub(crate) fn cargo<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root()).args(args);
    command
}

/// A command line as a person would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a command with our output and no input, and waits for it.
///
/// # Errors
/// When it cannot be started or ends with anything but success.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    succeeded(&line, status)
}

/// Runs a command without showing its output, and returns its stdout.
///
/// # Errors
/// When it cannot be started or fails; the error holds the line of its stderr that tells why.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said = reason(&stderr).unwrap_or("it said nothing");
        bail!("`{line}` failed ({}): {said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn succeeded(line: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// The first line that calls itself an error, else the last one.
fn reason(stderr: &str) -> Option<&str> {
    let mut lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .clone()
        .find(|line| line.starts_with("E: ") || line.starts_with("error:"))
        .or_else(|| lines.next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_the_last_words_of_the_command() {
        let error =
            output(Command::new("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("exit status: 3") && text.ends_with("last"),
            "{text}"
        );
    }

    #[test]
    fn the_line_that_names_the_error_is_preferred() {
        let apt = "W: slow\nE: Failed to fetch x\nE: Some index files failed to download\n";
        assert_eq!(reason(apt), Some("E: Failed to fetch x"));
        assert_eq!(reason("one\ntwo\n\n"), Some("two"));
        assert_eq!(reason(""), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(error.to_string().contains("no-such-program-here"), "{error}");
    }

    #[test]
    fn programs_are_found_by_name_only() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-here").is_none());
    }

    #[test]
    fn the_workspace_root_holds_the_workspace() {
        let manifest = std::fs::read_to_string(workspace_root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }
}
