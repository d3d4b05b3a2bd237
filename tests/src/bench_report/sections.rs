//! The parts of the page, in the order of the reader's questions: what came out, how it compares, where it comes from.

use anyhow::Result;

use crate::bench::result::{Entry, Mode, Run, Target, Wire, Workload};
use crate::test_run_cost::Method;

use super::bars::{Bar, Group, draw};
use super::floors::{Check, Subject, checks};
use super::number::{count, escaped, plausible};
use super::page::{figure, said};
use super::palette::{PROGRAM, colour, mode, mode_meaning, target, wire, workload, workload_meaning};
use super::{flows as flow_plot, ratios as ratio_plot, tables};

/// What came out, in a few lines; what makes the run doubtful comes first.
pub(super) fn summary(run: &Run) -> String {
    let mut out = String::new();
    if !run.problems.is_empty() {
        let problems: String = run
            .problems
            .iter()
            .map(|problem| format!("<li>{}</li>\n", escaped(problem)))
            .collect();
        out.push_str(&format!(
            "<div class=\"note\"><p><b>Something went wrong while measuring: do not rely on this run.</b></p>\n\
             <ul>\n{problems}</ul></div>\n"
        ));
    }
    if run.quick {
        out.push_str(
            "<p class=\"note\">A quick run: short slices and few rounds. Good for a look, not for a decision.</p>\n",
        );
    }
    let broken = run
        .results
        .iter()
        .filter(|entry| !plausible(entry.median))
        .count();
    if broken > 0 {
        out.push_str(&format!(
            "<p class=\"note\">{broken} of {} results are no numbers; they are in the table, but in no plot.</p>\n",
            run.results.len()
        ));
    }
    let all = checks(run);
    let missed: Vec<&Check> = all.iter().filter(|check| check.met() != Some(true)).collect();
    let reached = all.len() - missed.len();
    out.push_str("<h2>Floors</h2>\n");
    if all.is_empty() {
        out.push_str("<p>Nothing was measured that a floor is about.</p>\n");
        return out;
    }
    out.push_str(&format!(
        "<p>{reached} of {} floors were reached, by the medians.{}</p>\n",
        all.len(),
        if missed.is_empty() {
            ""
        } else {
            " Not reached, or not measured:"
        }
    ));
    if !missed.is_empty() {
        out.push_str(&tables::checks(&missed));
    }
    let everything: Vec<&Check> = all.iter().collect();
    out.push_str(&format!(
        "<details><summary>All floors</summary>\n{}</details>\n",
        tables::checks(&everything)
    ));
    out
}

/// Ratios to the kernel's vxlan device.
pub(super) fn ratios(run: &Run) -> Result<String> {
    let Some(svg) = ratio_plot::draw(run)? else {
        return Ok("<h2>Compared with the kernel</h2>\n<p>There is no result of the kernel's vxlan device to compare with.</p>\n".to_owned());
    };
    let plot = figure(
        "Ratios to the kernel's vxlan device",
        "Dot: ratio of the medians. Line: from the smallest round by the kernel's largest to the largest by its \
         smallest. Upright dash: the floor.",
        &svg,
        true,
    );
    Ok(format!(
        "<h2>Compared with the kernel's vxlan device in the same run</h2>\n{}{plot}",
        legend()
    ))
}

fn legend() -> String {
    let entries: String = Mode::ALL
        .into_iter()
        .map(|each| {
            format!(
                "<li><span class=\"key {}\"></span><b>{}</b>: {}</li>\n",
                each.name(),
                mode(each),
                mode_meaning(each)
            )
        })
        .collect();
    format!("<ul>\n{entries}</ul>\n")
}

/// A plot per workload, with the fewest flows that were measured.
pub(super) fn workloads(run: &Run) -> Result<String> {
    let mut plots = String::new();
    for each in Workload::ALL {
        let groups = groups(run, each);
        if groups.is_empty() {
            continue;
        }
        let svg = draw(&groups, each.unit(), 520, 104)?;
        plots.push_str(&figure(workload(each), workload_meaning(each), &svg, false));
    }
    if plots.is_empty() {
        plots = "<p>Nothing was measured.</p>\n".to_owned();
    }
    Ok(format!(
        "<h2>Workloads</h2>\n<p>Medians; the whiskers reach from the smallest to the largest round.</p>\n\
         <div class=\"plots\">\n{plots}</div>\n"
    ))
}

fn groups(run: &Run, each: Workload) -> Vec<Group> {
    let subjects: Vec<Subject> = Subject::all(run)
        .into_iter()
        .filter(|subject| subject.workload == each)
        .collect();
    let several_wires = subjects.iter().any(|subject| subject.wire == Wire::Segments);
    let mut groups = Vec::new();
    let mut done: Vec<(Target, Wire)> = Vec::new();
    // Sorted: the fewest flows come first.
    for subject in subjects {
        if done.contains(&(subject.target, subject.wire)) {
            continue;
        }
        done.push((subject.target, subject.wire));
        let mut title = format!("{}, {}", target(subject.target), flows_text(subject.flows));
        if several_wires {
            title.push_str(", ");
            title.push_str(wire(subject.wire));
        }
        let bars = Mode::ALL
            .into_iter()
            .filter_map(|mode| subject.entry(run, mode))
            .map(bar)
            .collect();
        groups.push(Group { title, bars });
    }
    groups
}

fn bar(entry: &Entry) -> Bar {
    Bar {
        label: mode(entry.mode).to_owned(),
        value: entry.median,
        low: entry.min,
        high: entry.max,
        colour: colour(entry.mode),
    }
}

fn flows_text(flows: u32) -> String {
    match flows {
        1 => "1 flow".to_owned(),
        many => format!("{} flows", count(many)),
    }
}

/// A plot per workload, target and wire that was measured with different numbers of flows.
pub(super) fn flows(run: &Run) -> Result<String> {
    let mut plots = String::new();
    let mut subjects = Subject::all(run);
    subjects.dedup_by_key(|subject| (subject.workload, subject.target, subject.wire));
    for subject in subjects {
        if let Some(svg) = flow_plot::draw(run, subject)? {
            let mut title = format!("{}, {}", workload(subject.workload), target(subject.target));
            if subject.wire == Wire::Segments {
                title.push_str(", ");
                title.push_str(wire(subject.wire));
            }
            plots.push_str(&figure(
                &title,
                "Medians; smallest to largest round.",
                &svg,
                false,
            ));
        }
    }
    if plots.is_empty() {
        plots = "<p>No workload was measured with more than one number of flows.</p>\n".to_owned();
    }
    Ok(format!(
        "<h2>Concurrent flows</h2>\n<div class=\"plots\">\n{plots}</div>\n"
    ))
}

/// What the programs cost.
pub(super) fn programs(run: &Run) -> Result<String> {
    let mut groups: Vec<Group> = Vec::new();
    for cost in &run.programs {
        let bar = Bar {
            label: match cost.method {
                Method::Repeated => cost.case.clone(),
                method @ Method::Single => format!("{} ({})", cost.case, tables::method(method)),
            },
            value: cost.nanoseconds,
            low: cost.min,
            high: cost.max,
            colour: PROGRAM,
        };
        match groups.iter_mut().find(|group| group.title == cost.program) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group {
                title: cost.program.clone(),
                bars: vec![bar],
            }),
        }
    }
    if groups.is_empty() {
        return Ok("<h2>The programs</h2>\n<p>Their cost was not measured.</p>\n".to_owned());
    }
    let plot = figure(
        "Time per packet of each eBPF program",
        "BPF_PROG_TEST_RUN on one CPU. One packet over and over, so caches and branch predictors are as warm as they get; \
         packets that the program changes one per system call, which is slower for reasons of its own: compare them with \
         the program that does nothing, measured the same way. Not in it: the hook, and carrying out a redirect.",
        &draw(&groups, "nanoseconds per packet", 1080, 400)?,
        true,
    );
    Ok(format!(
        "<h2>The programs</h2>\n{plot}{}",
        tables::programs(&run.programs)
    ))
}

/// The numbers.
pub(super) fn results(run: &Run) -> String {
    format!(
        "<h2>All results</h2>\n<p class=\"muted\">Spread: from the smallest to the largest round, by the median.</p>\n\
         <details open><summary>{} results</summary>\n{}</details>\n",
        run.results.len(),
        tables::results(run)
    )
}

/// What was measured, on what, and what it does not show.
pub(super) fn method(run: &Run) -> String {
    let machine = &run.machine;
    let rounds = rounds(run);
    let setup: String = run
        .setup
        .iter()
        .map(|sentence| format!("<li>{}</li>\n", escaped(sentence)))
        .collect();
    format!(
        "<h2>What was measured, and on what</h2>\n<dl>\n\
         <dt>Kernel</dt><dd>{}</dd><dt>Processor</dt><dd>{}</dd><dt>CPUs online</dt><dd>{}</dd>\
         <dt>Agent</dt><dd>{}</dd><dt>Load when it began</dt><dd>{:.2}</dd><dt>Took</dt><dd>{} s</dd>\
         <dt>Rounds</dt><dd>{rounds}</dd></dl>\n<ul>\n{setup}</ul>\n\
         <p>Everything ran on this one machine, nodes and pods in network namespaces joined by veth pairs. Each number is \
         the median of its rounds.</p>\n\
         <h2>What it does not show</h2>\n<ul>\n\
         <li>Other machines: sender, receiver and both nodes shared this machine's CPUs and caches. Absolute numbers are \
         this machine's own; the ratios carry further, but not without a measurement.</li>\n\
         <li>Network cards: a veth pair has no queues, no interrupts, no wire time and no tunnel offloads. Where a link \
         or a card is the bottleneck, the modes are closer to each other than here.</li>\n\
         <li>Latency beyond the mean of request/response, loss, and behaviour under overload.</li>\n\
         <li>Other CNI plugins' rules: more netfilter rules make the kernel's path slower and leave the fast path as it \
         is.</li>\n\
         <li>Packets that take the slow path anyway: the first ones of a flow, SYN, FIN and RST, ICMP, fragments. Of \
         the workloads, connect-request-close is made of little else.</li>\n</ul>\n",
        said(&machine.kernel, "unknown"),
        said(&machine.processor, "unknown"),
        machine.cpus,
        said(&machine.agent, "unknown"),
        f64::from(machine.load_percent) / 100.0,
        machine.seconds,
    )
}

fn rounds(run: &Run) -> String {
    let fewest = run.results.iter().map(|entry| entry.rounds).min();
    let most = run.results.iter().map(|entry| entry.rounds).max();
    match (fewest, most) {
        (Some(fewest), Some(most)) if fewest == most => fewest.to_string(),
        (Some(fewest), Some(most)) => format!("{fewest} to {most}"),
        _ => "none".to_owned(),
    }
}
