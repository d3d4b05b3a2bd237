//! The agent as a process that is watched without being disturbed: when it says that it is ready, its memory, its CPU
//! time.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, PipeReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::exec::Process;
use crate::space::Space;

/// What the agent logs once the first complete list is programmed.
const READY: &str = " ready: ";
/// How much of the log a message quotes, in lines.
const QUOTED: usize = 30;

/// A running agent. Killed when dropped.
#[derive(Debug)]
pub(super) struct AgentProcess {
    process: Process,
    pid: i32,
    started: Instant,
    ready: Receiver<(Instant, String)>,
    log: std::path::PathBuf,
    reader: Option<JoinHandle<io::Result<()>>>,
}

impl AgentProcess {
    /// Starts `words` in the namespaces of `space`; what it logs goes to `log`, a file of this machine.
    pub(super) fn start(space: &Space, words: &[String], log: &Path) -> Result<Self> {
        let (lines, log_end) = io::pipe().context("cannot make a pipe for the agent's log")?;
        let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let (sender, ready) = mpsc::channel();
        let started = Instant::now();
        let process = space.spawn(words, Stdio::null(), Stdio::from(log_end))?;
        let reader = thread::Builder::new()
            .name("agent's log".to_owned())
            .spawn(move || copy(lines, file, &sender))
            .context("cannot start a thread")?;
        let pid = process.pid()?;
        Ok(Self {
            process,
            pid,
            started,
            ready,
            log: log.to_owned(),
            reader: Some(reader),
        })
    }

    /// How long it took from the start until the agent said that it is ready, and what it said.
    pub(super) fn wait_ready(&self, patience: Duration) -> Result<(Duration, String)> {
        let (when, line) = self
            .ready
            .recv_timeout(patience)
            .map_err(|_| anyhow!("the agent was not ready within {patience:?}; {}", self.log_end()))?;
        Ok((when.duration_since(self.started), line))
    }

    /// When it was started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// CPU time of all its threads so far, those that have ended included.
    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu(self.cpu_clock()?)
    }

    /// The clock that [`cpu`] reads.
    pub(super) fn cpu_clock(&self) -> Result<ClockId> {
        clock_getcpuclockid(Pid::from_raw(self.pid))
            .with_context(|| format!("the agent has ended; {}", self.log_end()))
    }

    /// Resident memory now and at its peak.
    pub(super) fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("the agent has ended: no {path}; {}", self.log_end()))?;
        Memory::parse(&text).with_context(|| format!("{path} does not say how much memory the agent has"))
    }

    /// Ends it at once; what it has programmed stays, whichever way it ends.
    ///
    /// Not with SIGTERM: what this benchmark starts inherits its signal mask (see [`crate::bench::priority`]).
    pub(super) fn stop(mut self) -> Result<()> {
        ensure!(
            self.process.ended()?.is_none(),
            "the agent has ended; {}",
            self.log_end()
        );
        self.process.kill9()?;
        if let Some(reader) = self.reader.take() {
            reader
                .join()
                .map_err(|_| anyhow!("a thread panicked"))?
                .context("cannot copy the agent's log")?;
        }
        Ok(())
    }

    /// The last lines of its log, for messages.
    pub(super) fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let end = lines
            .get(lines.len().saturating_sub(QUOTED)..)
            .unwrap_or_default();
        format!("the end of its log ({}):\n{}", self.log.display(), end.join("\n"))
    }
}

/// Copies the log and says when the line comes that counts.
fn copy(lines: PipeReader, mut file: File, ready: &mpsc::Sender<(Instant, String)>) -> io::Result<()> {
    let mut lines = BufReader::new(lines);
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let text = String::from_utf8_lossy(&line);
        if text.contains(READY) {
            // Nobody listens any more once the start has been measured.
            ready.send((now, text.trim().to_owned())).ok();
        }
        file.write_all(&line)?;
    }
}

/// What a process's CPU clock says.
pub(super) fn cpu(clock: ClockId) -> Result<Duration> {
    let time = clock_gettime(clock).context("the agent has ended")?;
    Ok(time.into())
}

/// Resident memory in MiB.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Memory {
    /// `VmRSS`.
    pub(super) now: f64,
    /// `VmHWM`.
    pub(super) peak: f64,
}

impl Memory {
    fn parse(status: &str) -> Result<Self> {
        let field = |name: &str| {
            let value = status.lines().find_map(|line| {
                line.strip_prefix(name)?
                    .strip_prefix(':')?
                    .trim()
                    .strip_suffix(" kB")
            });
            let Some(value) = value else {
                bail!("no line {name}")
            };
            let kib: u32 = value.parse().with_context(|| format!("{name}: {value}"))?;
            Ok(f64::from(kib) / 1024.0)
        };
        Ok(Self {
            now: field("VmRSS")?,
            peak: field("VmHWM")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_proc() {
        let status = "Name:\tagent\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(
            Memory::parse(status).unwrap(),
            Memory {
                now: 10.0,
                peak: 20.0
            }
        );
        assert!(Memory::parse("VmRSS:\t1 kB\n").is_err());
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let own = Memory::parse(&own).unwrap();
        assert!(own.now > 0.0 && own.now <= own.peak);
    }

    #[test]
    fn only_the_line_that_counts_is_reported() {
        let (lines, mut end) = io::pipe().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let (sender, ready) = mpsc::channel();
        let copied = file.reopen().unwrap();
        let reader = thread::spawn(move || copy(lines, copied, &sender));
        let text = "… info control: already: no\n… info control: ready: 3 peers\n… rest";
        end.write_all(text.as_bytes()).unwrap();
        drop(end);
        reader.join().unwrap().unwrap();
        let said: Vec<_> = ready.iter().map(|(_, line)| line).collect();
        assert_eq!(said, ["… info control: ready: 3 peers"]);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), text);
    }

    #[test]
    fn the_cpu_clock_is_that_of_the_process() {
        let clock = clock_getcpuclockid(Pid::this()).unwrap();
        let before = cpu(clock).unwrap();
        let sum = (0..2_000_000_u64).fold(0, |sum: u64, each| std::hint::black_box(sum.wrapping_add(each)));
        assert!(std::hint::black_box(sum) > 0 && cpu(clock).unwrap() > before);
    }
}
