//! What a failed test wants to know about a node.

use std::fmt::Write as _;
use std::fs;

use super::Node;
use crate::holder::DIRECTORY;

const LOG_TAIL_LINES: usize = 40;

impl Node {
    /// The node's links, addresses, routes, neighbours, forwarding entries and attached programs, and the ends of its logs.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        let mut text = format!("==== {} ({}) ====\n", self.name, self.address);
        for command in [
            "ip -d addr",
            "ip route",
            "ip neigh",
            "bridge fdb show",
            "bpftool net show",
        ] {
            let outcome = self.run(command).unwrap_or_else(|error| format!("{error:#}\n"));
            // Writing to a String cannot fail.
            writeln!(text, "-- {command}\n{}", outcome.trim_end()).ok();
        }
        let directory = self.space.path_from_outside(DIRECTORY.as_ref());
        let mut logs: Vec<_> = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".log"))
            .collect();
        logs.sort();
        for log in logs {
            writeln!(text, "-- end of {log}\n{}", self.log_tail(&log)).ok();
        }
        text
    }

    /// The last lines of the log file `name` in the node's directory.
    #[must_use]
    pub fn log_tail(&self, name: &str) -> String {
        let text = self.read_file(name).unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<_> = text.lines().collect();
        let start = lines.len().saturating_sub(LOG_TAIL_LINES);
        lines.get(start..).unwrap_or_default().join("\n")
    }
}
