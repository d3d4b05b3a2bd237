//! Compiling the server, as its own makefile does, but for this machine alone and without the network.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Result, bail};

use super::{debian, openapi};
use crate::host;

/// The source's import path.
const PROJECT: &str = "k8s.io/kubernetes";

/// Where the generated description belongs.
const DESCRIPTION: &str = "k8s.io/kubernetes/pkg/generated/openapi";

/// Memory that one job of the compiler may take, in KiB.
const MEMORY_OF_A_JOB: u64 = 1 << 20;

/// More jobs than this do not make it faster.
const MOST_JOBS: u64 = 16;

pub(super) struct Build {
    work: PathBuf,
    tree: PathBuf,
}

impl Build {
    pub(super) fn in_folder(work: &Path) -> Self {
        Self {
            work: work.to_owned(),
            tree: debian::gopath(work).join("src").join(PROJECT),
        }
    }

    /// Generates the one source file that the release does not contain.
    pub(super) fn openapi(&self) -> Result<()> {
        let generator = self.work.join("openapi-gen");
        let mut compile = self.go("build");
        compile.arg("-o").arg(&generator);
        host::output(compile.arg("./vendor/k8s.io/kube-openapi/cmd/openapi-gen"))?;
        let packages = openapi::marked_packages(&self.tree)?;
        if packages.is_empty() {
            bail!(
                "no package in {} is marked for the API's description",
                self.tree.display()
            );
        }
        let mut generate = self.command(&generator);
        generate
            .args(["--output-file-base", "zz_generated.openapi"])
            .args(["--go-header-file", "hack/boilerplate/boilerplate.generatego.txt"])
            .args(["--input-dirs", &packages.join(",")])
            .args(["--output-package", DESCRIPTION])
            .arg("--output-base")
            .arg(debian::gopath(&self.work).join("src"))
            .arg("--report-filename")
            .arg(self.work.join("violations.txt"));
        host::output(&mut generate).map(drop)
    }

    /// Compiles the server, which will say that it is `version`; returns where it is.
    pub(super) fn kube_apiserver(&self, version: &str) -> Result<PathBuf> {
        let server = self.work.join("kube-apiserver");
        let mut compile = self.go("build");
        compile
            .args(["-trimpath", "-tags", "providerless,selinux,notest", "-ldflags"])
            .arg(linker_flags(version))
            .arg("-o")
            .arg(&server)
            .arg("./cmd/kube-apiserver");
        host::output(&mut compile)?;
        Ok(server)
    }

    fn go(&self, verb: &str) -> Command {
        let mut go = self.command(&debian::goroot(&self.work).join("bin/go"));
        go.arg(verb);
        go
    }

    /// A program of the build: in the source, with nothing of the caller's own Go, and no network.
    fn command(&self, program: &Path) -> Command {
        let goroot = debian::goroot(&self.work);
        let jobs = jobs().to_string();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([goroot.join("bin")].into_iter().chain(env::split_paths(&path)));
        let mut command = Command::new(program);
        command
            .current_dir(&self.tree)
            .env("PATH", path.unwrap_or_default())
            .env("GOROOT", &goroot)
            .env("GOPATH", debian::gopath(&self.work))
            // What was compiled before an interruption is found here again.
            .env("GOCACHE", self.work.join("cache"))
            .env("GOMAXPROCS", jobs)
            .envs([
                ("CGO_ENABLED", "0"),
                ("GO111MODULE", "off"),
                ("GOENV", "off"),
                ("GOFLAGS", ""),
                ("GOPROXY", "off"),
            ]);
        for variable in ["GOARCH", "GOBIN", "GOEXPERIMENT", "GOOS", "GOTMPDIR"] {
            command.env_remove(variable);
        }
        command
    }
}

/// How many things are compiled at once, which Go takes from the number of its threads.
fn jobs() -> u64 {
    let cores = thread::available_parallelism().map_or(1, |cores| u64::try_from(cores.get()).unwrap_or(1));
    let memory = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available_memory(&text))
        .unwrap_or(MEMORY_OF_A_JOB);
    (memory / MEMORY_OF_A_JOB).clamp(1, cores.min(MOST_JOBS))
}

/// The kernel's estimate of what can be had without swapping, in KiB.
pub(super) fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What makes the server name its version; without, clients that compare versions are confused.
pub(super) fn linker_flags(version: &str) -> String {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let values = [
        ("gitVersion", format!("v{version}")),
        ("gitMajor", major.to_owned()),
        ("gitMinor", minor.to_owned()),
        ("gitTreeState", "archive".to_owned()),
    ];
    // The one is what `--version` prints, the other what `/version` answers.
    let packages = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];
    let set = packages.iter().flat_map(|package| {
        values
            .iter()
            .map(move |(name, value)| format!(" -X {PROJECT}/vendor/{package}.{name}={value}"))
    });
    format!("-s -w{}", set.collect::<String>())
}
