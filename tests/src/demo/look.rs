//! What there is to see on a node, and how to look around on one's own.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use overlay_common::maps::{CONFIG, COUNTERS, EGRESS_FLOWS, ENDPOINTS, INGRESS_FLOWS, PEERS, SUBNETS};
use overlay_common::reason::Reason;
use serde_json::Value;

use super::report::Report;
use crate::agent::{self, AgentOptions};
use crate::node::Node;
use crate::testbed::Testbed;

/// The maps that tell an operator something.
const MAPS: [&str; 7] = [
    CONFIG,
    SUBNETS,
    PEERS,
    COUNTERS,
    ENDPOINTS,
    EGRESS_FLOWS,
    INGRESS_FLOWS,
];

/// Entries of a map that are shown.
const SHOWN: usize = 4;

/// Prints peers, counters and maps of `node`.
pub(super) fn show(node: &Node, report: &mut Report) {
    report.check("overlay-agent status", || {
        let text = node.agent_command(&["status"])?.success()?;
        Ok(format!("\n{}", indent(text.trim_end())))
    });
    for map in MAPS {
        report.check(
            &format!("bpftool map dump pinned {}/{map}", AgentOptions::PIN_DIRECTORY),
            || Ok(format!("\n{}", indent(&dump(node, map)?))),
        );
    }
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("        {line}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The map's entries as bpftool prints them, one a line; those without anything in them are counted only.
fn dump(node: &Node, map: &str) -> Result<String> {
    let text = node.run(&format!(
        "bpftool map dump pinned {}/{map}",
        AgentOptions::PIN_DIRECTORY
    ))?;
    let entries = compact_entries(&text);
    ensure!(
        !entries.is_empty(),
        "expected entries with named fields, seen: {text}"
    );
    let total = entries.len();
    let mut telling = Vec::new();
    for entry in entries {
        let value: Value = serde_json::from_str(&entry).with_context(|| format!("{map}: {entry}"))?;
        ensure!(
            contains_named_fields(&value),
            "expected named fields (the map must carry BTF), seen: {entry}"
        );
        if !is_zero(
            value
                .get("value")
                .or_else(|| value.get("values"))
                .unwrap_or(&Value::Null),
        ) {
            telling.push(entry + &label(map, &value));
        }
    }
    let shown: Vec<_> = telling.iter().take(SHOWN).cloned().collect();
    let mut out = shown.join("\n");
    if total > shown.len() {
        // Writing to a String cannot fail.
        write!(
            out,
            "\n… and {} more, {} of them zero",
            total - shown.len(),
            total - telling.len()
        )
        .ok();
    }
    Ok(out.trim_start().to_owned())
}

/// What the key of a counter means.
fn label(map: &str, entry: &Value) -> String {
    let index = entry
        .get("key")
        .and_then(Value::as_u64)
        .and_then(|key| usize::try_from(key).ok());
    let reason = index
        .filter(|_| map == COUNTERS)
        .and_then(|index| Reason::ALL.get(index));
    reason
        .map(|reason| format!("  ← {}", reason.label()))
        .unwrap_or_default()
}

/// Whether the entry's value is a structure, or one for each CPU.
fn contains_named_fields(entry: &Value) -> bool {
    let per_cpu = entry
        .get("values")
        .and_then(|values| values.get(0))
        .and_then(|cpu| cpu.get("value"));
    entry.get("value").or(per_cpu).is_some_and(Value::is_object)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Array(values) => values.iter().all(is_zero),
        // The number of a CPU says nothing about its value.
        Value::Object(fields) => fields.iter().all(|(name, value)| name == "cpu" || is_zero(value)),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// The elements of bpftool's JSON array in its own order of fields, each without white space.
fn compact_entries(text: &str) -> Vec<String> {
    let (mut entries, mut entry, mut depth, mut quoted) = (Vec::new(), String::new(), 0_u32, false);
    for character in text.chars() {
        if character == '"' {
            quoted = !quoted;
        }
        if character.is_whitespace() && !quoted {
            continue;
        }
        if matches!(character, '}' | ']') && !quoted {
            depth = depth.saturating_sub(1);
        }
        // Depth 1 is the array itself.
        let between = depth == 0 || (depth == 1 && matches!(character, ',' | '[') && entry.is_empty());
        if !between {
            entry.push(character);
            if matches!(character, ',' | ':') {
                entry.push(' ');
            }
        }
        if matches!(character, '{' | '[') && !quoted {
            depth += 1;
        }
        if depth == 1 && character == '}' {
            entries.push(std::mem::take(&mut entry));
        }
    }
    entries
}

/// How to look around in a testbed that is kept, and how to end it.
pub(super) fn around(testbed: &Testbed) -> Result<String> {
    let agent = agent::binary()?.display();
    let mut out = "\nLook around:\n".to_owned();
    for node in testbed.nodes() {
        let pid = node.space().holder_pid();
        // Writing to a String cannot fail.
        writeln!(
            out,
            "  {:<8} {:<15} nsenter -t {pid} -n -m -p bash",
            node.name(),
            node.address()
        )
        .ok();
    }
    let mut nodes = testbed.nodes();
    let first = nodes.next().context("the testbed has no nodes")?;
    let second = nodes.next().context("the testbed has one node")?;
    let enter = format!("nsenter -t {} -n -m -p", first.space().holder_pid());
    let pins = AgentOptions::PIN_DIRECTORY;
    let (target, log) = (
        second.pod(1)?.address(),
        first.path(AgentOptions::LOG).display().to_string(),
    );
    let (leases, pod) = (
        first.path_from_outside(AgentOptions::LEASES),
        first.pod(1)?.name(),
    );
    for (what, command) in [
        ("Peers and counters", format!("{enter} {agent} status")),
        ("A map", format!("{enter} bpftool map dump pinned {pins}/SUBNETS")),
        (
            "A pod pings one on another node",
            format!("{enter} ip netns exec {pod} ping {target}"),
        ),
        (
            "The wire",
            format!("{enter} tcpdump -n -i {} udp port 8472", first.underlay()),
        ),
        ("The agent's log", format!("{enter} tail -f {log}")),
        (
            "The leases; edit them and watch the log",
            leases.display().to_string(),
        ),
        ("End it", "cargo xtask demo --clean".to_owned()),
    ] {
        writeln!(out, "  {what}:\n      {command}").ok();
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_order_of_fields() {
        let text = "[{\n \"key\": 0,\n \"value\": {\n \"b\": [1, 2],\n \"a\": {\"c d\": 0}\n }\n },{\n \"key\": 1\n }\n]\n";
        assert_eq!(
            compact_entries(text),
            [
                "{\"key\": 0, \"value\": {\"b\": [1, 2], \"a\": {\"c d\": 0}}}",
                "{\"key\": 1}"
            ]
        );
    }

    #[test]
    fn zero_is_zero_on_every_cpu() {
        let zero = serde_json::json!([{ "cpu": 0, "value": { "packets": 0 } }, { "cpu": 1, "value": { "packets": 0 } }]);
        let some = serde_json::json!([{ "cpu": 0, "value": { "packets": 1 } }]);
        assert!(is_zero(&zero) && !is_zero(&some));
    }
}
