//! `.ci/run` on machines that lack something: real bash, everything else made up.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use crate::host;

const CARGO: &str = "echo cargo \"$@\"";
const CC: &str = "echo /somewhere/crt1.o";

/// A folder that is the whole `PATH`; removed with the value.
struct Machine(PathBuf);

impl Machine {
    fn with(name: &str, programs: &[(&str, &str)]) -> Self {
        let folder = env::temp_dir().join(format!("xtask-ci-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let machine = Self(folder);
        for (program, script) in programs {
            let file = machine.0.join(program);
            fs::write(&file, format!("#!/bin/bash\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    /// Exit status, standard output, standard error.
    fn run(&self) -> (Option<i32>, String, String) {
        let output = Command::new("/bin/bash")
            .arg(host::workspace_root().join(".ci/run"))
            .env_clear()
            .env("PATH", &self.0)
            .env("HOME", &self.0)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

fn assert_lacking(machine: &Machine, words: &[&str]) {
    let (code, stdout, stderr) = machine.run();
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert_eq!(stdout.lines().last(), Some("0 passed, 1 failed"), "{stdout}");
    let said = stderr.lines().last().unwrap_or_default();
    assert!(words.iter().all(|word| said.contains(word)), "{stderr}");
}

#[test]
fn without_cargo_rustup_is_named() {
    assert_lacking(&Machine::with("cargo", &[("cc", CC)]), &["cargo", "rustup"]);
}

#[test]
fn without_a_compiler_the_command_is_named() {
    let words = ["cc", "apt-get install", "gcc libc6-dev"];
    assert_lacking(&Machine::with("cc", &[("cargo", CARGO)]), &words);
    let without_library = [("cargo", CARGO), ("cc", "echo crt1.o")];
    assert_lacking(&Machine::with("libc", &without_library), &words);
    let unreachable = [("cargo", CARGO), ("apt-get", "exit 100")];
    assert_lacking(&Machine::with("apt", &unreachable), &words);
}

#[test]
fn root_gets_the_compiler_installed() {
    let apt_get = format!(
        "[[ $1 != install ]] || {{ echo '#!/bin/bash' >\"$HOME/cc\"; echo '{CC}' >>\"$HOME/cc\"; /bin/chmod +x \"$HOME/cc\"; }}"
    );
    let machine = Machine::with("install", &[("cargo", CARGO), ("apt-get", &apt_get)]);
    if host::is_root() {
        let (code, stdout, stderr) = machine.run();
        assert_eq!(code, Some(0), "{stdout}{stderr}");
        assert!(stdout.ends_with("cargo xtask ci\n"), "{stdout}");
    } else {
        assert_lacking(&machine, &["as root"]);
    }
}

#[test]
fn with_everything_there_nothing_is_installed() {
    let machine = Machine::with(
        "complete",
        &[("cargo", CARGO), ("cc", CC), ("apt-get", "exit 100")],
    );
    let (code, stdout, stderr) = machine.run();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!(stdout, "cargo build --quiet --package xtask\ncargo xtask ci\n");
}
