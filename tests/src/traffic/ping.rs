//! ICMP echo by the `ping` program, parsed.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;

use crate::exec::Process;
use crate::space::Space;

/// How to ping.
#[derive(Clone, Copy, Debug)]
pub struct PingOptions {
    /// How many requests.
    pub count: u32,
    /// Time between two requests.
    pub interval: Duration,
    /// ICMP payload in bytes; the IP packet has 28 more.
    pub size: u16,
    /// Whether requests may not be fragmented (DF).
    pub dont_fragment: bool,
    /// How long to wait for the last reply.
    pub timeout: Duration,
}

impl Default for PingOptions {
    fn default() -> Self {
        Self {
            count: 3,
            interval: Duration::from_millis(5),
            size: 56,
            dont_fragment: false,
            timeout: Duration::from_secs(2),
        }
    }
}

/// What became of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Different requests that were answered.
    pub received: u32,
    /// What ping printed.
    pub output: String,
}

impl PingReport {
    /// This report, if every request was answered.
    ///
    /// # Errors
    ///
    /// ping's output when a request was not answered, or none was sent.
    pub fn expect_lossless(self) -> Result<Self> {
        ensure!(
            self.sent > 0 && self.sent == self.received,
            "{} of {} pings answered:\n{}",
            self.received,
            self.sent,
            self.output
        );
        Ok(self)
    }
}

/// Pings `to` from `space` and waits for the end.
///
/// # Errors
///
/// When ping cannot be run or understood. Loss is not an error: see [`PingReport::expect_lossless`].
pub fn ping(space: &Space, to: Ipv4Addr, options: &PingOptions) -> Result<PingReport> {
    let (interval, wait) = (options.interval.as_secs_f64(), options.timeout.as_secs_f64());
    let fragment = if options.dont_fragment { "do" } else { "dont" };
    let command = format!(
        "ping -n -q -M {fragment} -c {} -i {interval} -W {wait} -s {} {to}",
        options.count, options.size
    );
    let words: Vec<_> = command.split(' ').collect();
    let limit = options.interval * options.count + options.timeout * 2 + Duration::from_secs(5);
    let output = space.output_args(&words, None, limit)?;
    let text = output.stdout + &output.stderr;
    // "3 packets transmitted, 3 received, 0% packet loss, time 10ms"
    let summary = text
        .lines()
        .find(|line| line.contains("packets transmitted"))
        .with_context(|| format!("{}: {}", output.command, text.trim()))?;
    let mut numbers = summary
        .split(", ")
        .filter_map(|part| part.split(' ').next()?.parse().ok());
    let (Some(sent), Some(received)) = (numbers.next(), numbers.next()) else {
        bail!("cannot understand ping's {summary:?}");
    };
    Ok(PingReport {
        sent,
        received,
        output: text,
    })
}

/// Pings in the background until it is stopped.
#[derive(Debug)]
pub struct PingStream {
    process: Process,
    reader: JoinHandle<String>,
}

impl PingStream {
    /// Starts pinging `to` from `space`; returns after the first reply.
    ///
    /// # Errors
    ///
    /// When there is no reply within five seconds.
    pub fn start(space: &Space, to: Ipv4Addr, interval: Duration) -> Result<Self> {
        let command = format!("ping -n -i {} {to}", interval.as_secs_f64());
        let words: Vec<_> = command.split(' ').collect();
        let mut process = space.spawn(&words, Stdio::piped(), Stdio::null())?;
        let stdout = process.stdout().context("no pipe from ping")?;
        let (first, answered) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let mut pipe = BufReader::new(stdout);
            while pipe.read_line(&mut text).is_ok_and(|length| length > 0) {
                if text.contains("icmp_seq=") {
                    first.send(()).ok();
                }
            }
            text
        });
        answered
            .recv_timeout(Duration::from_secs(5))
            .map_err(|_| anyhow!("no reply from {to} to {} within 5 s", space.label()))?;
        Ok(Self { process, reader })
    }

    /// Stops. Every request before the last that was answered counts.
    ///
    /// # Errors
    ///
    /// When ping ended by itself.
    pub fn stop(mut self) -> Result<PingReport> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(Duration::from_secs(5))?;
        let output = self
            .reader
            .join()
            .map_err(|_| anyhow!("the reader of ping's output panicked"))?;
        let mut answered: Vec<u32> = output.lines().filter_map(sequence_number).collect();
        answered.sort_unstable();
        answered.dedup();
        let received = u32::try_from(answered.len())?;
        // Numbers begin with 1 and would wrap after 65535: five minutes at 5 ms.
        let sent = answered.last().copied().unwrap_or_default();
        Ok(PingReport {
            sent,
            received,
            output,
        })
    }
}

/// The number of the request that the line answers: `64 bytes from 10.244.2.2: icmp_seq=7 ttl=62 time=0.1 ms`.
fn sequence_number(line: &str) -> Option<u32> {
    if !line.contains("bytes from") {
        return None;
    }
    line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_have_a_sequence_number() {
        assert_eq!(
            sequence_number("64 bytes from 10.0.0.1: icmp_seq=7 ttl=62 time=0.1 ms"),
            Some(7)
        );
        assert_eq!(
            sequence_number("From 10.0.0.9 icmp_seq=7 Destination Host Unreachable"),
            None
        );
    }
}
