//! Log lines on standard error: `2026-01-31T12:00:00.123Z info control: ready: …`.
//!
//! * `error`: something an operator must repair; it is retried, and said once.
//! * `warn`: something works, but not as asked for.
//! * `info`: what changed on the node, one line per pass, and nothing while nothing changes.
//! * `debug`: every step; `trace`: every observation. Packets are never logged, they are counted.

use std::io::Write;

use env_logger::{Builder, Target};
use log::{Level, LevelFilter};

/// Directs the `log` macros to standard error.
///
/// # Errors
///
/// When the process has a logger already.
pub fn start(level: LevelFilter) -> Result<(), log::SetLoggerError> {
    Builder::new()
        // Libraries explain themselves at debug: only on request.
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module("overlay", level)
        .target(Target::Stderr)
        .format(|out, record| {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warn",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            writeln!(
                out,
                "{} {level} {}: {}",
                out.timestamp_millis(),
                target(record.target()),
                record.args()
            )
        })
        .try_init()
}

/// `overlay_agent::control::pass` is `control` to an operator.
fn target(path: &str) -> &str {
    let mut parts = path.split("::");
    match (parts.next(), parts.next()) {
        (Some("overlay_agent"), Some(module)) => module,
        (Some("overlay_agent"), None) => "agent",
        (Some("overlay_ebpf"), _) => "ebpf",
        (name, _) => name.unwrap_or(path),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn targets_are_the_top_modules() {
        assert_eq!(super::target("overlay_agent::control::pass"), "control");
        assert_eq!(super::target("overlay_agent"), "agent");
        assert_eq!(super::target("overlay_ebpf::verdict"), "ebpf");
        assert_eq!(super::target("netlink_proto::connection"), "netlink_proto");
    }
}
