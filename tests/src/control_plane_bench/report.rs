//! The report: one HTML file with curves and tables that needs nothing else.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::curve::{Curve, draw};
use super::floors::{Check, checks};
use super::result::{Entry, Figure, Load, Run};
use crate::bench_report::number::{count, escaped, full};
use crate::bench_report::page::{document, figure, said, subtitle};

/// What is drawn, with title and caption.
const CURVES: [(&str, &str, Curve); 9] = [
    (
        "Start to all peers programmed",
        "Median of the starts on a clean node. Dashes: floors.",
        Curve {
            figure: Figure::StartS,
            unit: "seconds",
            value: |summary| summary.median,
            limits: &[(1_000, 0.4), (5_000, 1.5), (15_000, 5.0)],
        },
    ),
    (
        "Restart, everything in place",
        "Median.",
        Curve {
            figure: Figure::RestartS,
            unit: "seconds",
            value: |summary| summary.median,
            limits: &[],
        },
    ),
    (
        "CPU time of the agent per changed Node",
        "Median of windows of one second. Flat means: the cost of an event does not depend on the cluster's size.",
        Curve {
            figure: Figure::EventCpuUs,
            unit: "microseconds",
            value: |summary| summary.median,
            limits: &[],
        },
    ),
    (
        "New peer: median",
        "From the API server's answer until the last entry is there. Dashes: floors.",
        Curve {
            figure: Figure::AddMs,
            unit: "milliseconds",
            value: |summary| summary.median,
            limits: &[(1_000, 0.8), (5_000, 0.8), (15_000, 0.8)],
        },
    ),
    (
        "New peer: 99th percentile",
        "Dashes: floors.",
        Curve {
            figure: Figure::AddMs,
            unit: "milliseconds",
            value: |summary| summary.p99,
            limits: &[(1_000, 5.0), (5_000, 5.0), (15_000, 5.0)],
        },
    ),
    (
        "Without an agent: 99th percentile",
        "From the API server's answer until a client that only watches has the event. Dashes: floors of a new peer.",
        Curve {
            figure: Figure::WatchMs,
            unit: "milliseconds",
            value: |summary| summary.p99,
            limits: &[(1_000, 5.0), (5_000, 5.0), (15_000, 5.0)],
        },
    ),
    (
        "Removed peer: median",
        "From the API server's answer until the last entry is gone.",
        Curve {
            figure: Figure::RemoveMs,
            unit: "milliseconds",
            value: |summary| summary.median,
            limits: &[],
        },
    ),
    (
        "Memory of the agent: peak",
        "VmHWM, the largest of the starts. Dashes: floors (that at 15,000 is for real nodes).",
        Curve {
            figure: Figure::RssMib,
            unit: "MiB",
            value: |summary| summary.max,
            limits: &[(1_000, 25.0), (15_000, 60.0)],
        },
    ),
    (
        "CPU time of a start",
        "User and system time of the agent until it is at rest. Median.",
        Curve {
            figure: Figure::CpuS,
            unit: "seconds",
            value: |summary| summary.median,
            limits: &[],
        },
    ),
];

/// What a reader must not take the numbers for.
const NOT_SHOWN: [&str; 6] = [
    "Other machines: API server, etcd, agent and benchmark share this machine's CPUs. While the agent starts, the API \
     server encodes the list that it asks for on the same CPUs; a server of its own would make starts shorter, a busy \
     one longer.",
    "A network: the way to the API server is a veth pair and a bridge.",
    "Other clients: in a real cluster as many kubelets and agents watch the same server.",
    "How long the API server takes to answer a patch: the clock starts when its answer has arrived. The watch event is on \
     its way meanwhile, so a peer can be there before the answer, which counts as negative.",
    "The kernel's work in the background on the agent's behalf (freeing what was removed), which belongs to no process.",
    "flanneld: it was not run here.",
];

/// Writes the report of `run` to `path`, replacing what is there.
pub(super) fn write(run: &Run, path: &Path) -> Result<()> {
    let html = render(run).context("cannot draw the report")?;
    fs::write(path, html).with_context(|| format!("cannot write the report to {}", path.display()))
}

fn render(run: &Run) -> Result<String> {
    let body = [doubts(run), floors(run), curves(run)?, results(run), method(run)].concat();
    Ok(document(
        "Control-plane benchmark",
        &subtitle(&run.machine),
        "",
        &body,
    ))
}

fn doubts(run: &Run) -> String {
    let mut out = String::new();
    if !run.problems.is_empty() {
        out.push_str(&format!(
            "<div class=\"note\"><p><b>Something went wrong while measuring: do not rely on this run.</b></p>\n{}</div>\n",
            list(run.problems.iter().map(String::as_str))
        ));
    }
    if run.quick {
        out.push_str(
            "<p class=\"note\">A quick run: few samples, no large cluster. Good for a look, not for a decision.</p>\n",
        );
    }
    out
}

fn floors(run: &Run) -> String {
    let checks = checks(run);
    let met = checks.iter().filter(|check| check.met() == Some(true)).count();
    let rows: String = checks.iter().map(row).collect();
    format!(
        "<h2>Floors</h2>\n<p>{met} of {} were kept.</p>\n<div class=\"scroll\"><table>\n<thead><tr><th>What</th>\
         <th class=\"n\">At most</th><th class=\"n\">Found</th><th>Unit</th><th></th></tr></thead>\n<tbody>\n{rows}</tbody>\
         </table></div>\n",
        checks.len()
    )
}

fn row(check: &Check) -> String {
    let verdict = match check.met() {
        Some(true) => "<span class=\"good\">✓ kept</span>",
        Some(false) => "<span class=\"bad\">✗ missed</span>",
        None => "<span class=\"bad\">not measured</span>",
    };
    format!(
        "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{verdict}</td></tr>\n",
        escaped(&check.subject),
        full(check.limit),
        check.found.map_or_else(|| "–".to_owned(), full),
        check.unit,
    )
}

fn curves(run: &Run) -> Result<String> {
    let mut plots = String::new();
    for (title, caption, curve) in CURVES {
        if let Some(svg) = draw(run, curve)? {
            plots.push_str(&figure(title, caption, &svg, false));
        }
    }
    if plots.is_empty() {
        plots = "<p>One size of the cluster makes no curve.</p>\n".to_owned();
    }
    Ok(format!(
        "<h2>By size of the cluster</h2>\n<div class=\"plots\">\n{plots}</div>\n"
    ))
}

fn results(run: &Run) -> String {
    let rows: String = run.results.iter().map(result).collect();
    format!(
        "<h2>All results</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th>Node objects</th><th class=\"n\">Bytes</th>\
         <th class=\"n\">Nodes</th><th>Figure</th><th>Load</th><th class=\"n\">Median</th><th class=\"n\">99 %</th>\
         <th class=\"n\">Smallest</th><th class=\"n\">Largest</th><th class=\"n\">Samples</th></tr></thead>\n<tbody>\n{rows}\
         </tbody></table></div>\n"
    )
}

fn result(entry: &Entry) -> String {
    let summary = entry.summary;
    format!(
        "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
        entry.node_kind,
        count(entry.node_bytes),
        count(entry.nodes),
        entry.figure,
        entry.load.map_or("–", Load::name),
        full(summary.median),
        full(summary.p99),
        full(summary.min),
        full(summary.max),
        summary.samples,
    )
}

fn method(run: &Run) -> String {
    let machine = &run.machine;
    format!(
        "<h2>What was measured, and on what</h2>\n<dl>\n\
         <dt>Kernel</dt><dd>{}</dd><dt>Processor</dt><dd>{}</dd><dt>CPUs online</dt><dd>{}</dd>\
         <dt>Agent</dt><dd>{}</dd><dt>kube-apiserver</dt><dd>{}</dd><dt>Load when it began</dt><dd>{:.2}</dd>\
         <dt>Took</dt><dd>{} s</dd>\
         <dt>Measured again</dt><dd>{} changes with an agent, {} without</dd></dl>\n{}<h2>What it does not show</h2>\n{}",
        said(&machine.kernel, "unknown"),
        said(&machine.processor, "unknown"),
        machine.cpus,
        said(&machine.agent, "unknown"),
        said(&run.api_server, "unknown"),
        f64::from(machine.load_percent) / 100.0,
        machine.seconds,
        run.disturbed.with_agent,
        run.disturbed.without,
        list(run.setup.iter().map(String::as_str)),
        list(NOT_SHOWN.into_iter()),
    )
}

fn list<'a>(sentences: impl Iterator<Item = &'a str>) -> String {
    let items: String = sentences
        .map(|each| format!("<li>{}</li>\n", escaped(each)))
        .collect();
    format!("<ul>\n{items}</ul>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::result::Machine;
    use crate::control_plane_bench::result::{Disturbed, Kind};
    use crate::control_plane_bench::stats::summary;

    fn run(sizes: &[u32], samples: &[f64]) -> Run {
        let mut results = Vec::new();
        for (kind, nodes) in Kind::ALL
            .into_iter()
            .flat_map(|kind| sizes.iter().map(move |nodes| (kind, *nodes)))
        {
            for figure in Figure::ALL {
                let loads: &[Option<Load>] = match figure {
                    Figure::AddMs | Figure::RemoveMs | Figure::WatchMs | Figure::EventCpuUs => {
                        &[Some(Load::Quiet), Some(Load::Churn)]
                    }
                    Figure::StartS | Figure::RestartS | Figure::RssMib | Figure::CpuS => &[None],
                };
                results.extend(loads.iter().map(|load| Entry {
                    nodes,
                    node_bytes: 15_000,
                    node_kind: kind,
                    figure,
                    load: *load,
                    summary: summary(samples).unwrap(),
                }));
            }
        }
        Run {
            machine: Machine::default(),
            api_server: "v1.20.2".to_owned(),
            setup: vec!["One <node>.".to_owned()],
            quick: false,
            disturbed: Disturbed::default(),
            results,
            problems: vec!["<lost>".to_owned()],
        }
    }

    #[test]
    fn a_whole_run_has_every_curve() {
        let html = render(&run(&[1_000, 5_000, 15_000], &[0.2, 0.3, 1.0])).unwrap();
        assert_eq!(html.matches("<svg ").count(), CURVES.len());
        assert!(
            html.contains("One &lt;node&gt;.") && html.contains("&lt;lost&gt;"),
            "escaped"
        );
        for word in ["<script", "<link", "src=", "@import", "url("] {
            assert!(!html.contains(word), "{word}");
        }
    }

    #[test]
    fn odd_numbers_do_not_break_the_report() {
        for odd in [f64::NAN, f64::INFINITY, -0.5, 0.0, f64::MAX] {
            render(&run(&[1_000, 5_000], &[odd, 1.0])).unwrap();
        }
        let one = render(&run(&[1_000], &[1.0])).unwrap();
        assert!(one.contains("makes no curve") && !one.contains("<svg "));
    }
}
