//! The numbers behind the plots.

use crate::bench::result::{Entry, Mode, Run};
use crate::test_run_cost::{Method, ProgramCost};

use super::floors::{Check, Ratio, Subject, ratio};
use super::number::{count, escaped, full, plausible};
use super::palette::{mode, target, wire, workload};

/// Every result, with its spread and its ratio to the kernel's vxlan device.
pub(super) fn results(run: &Run) -> String {
    let rows: String = Subject::all(run)
        .into_iter()
        .flat_map(|subject| {
            let kernel = subject.entry(run, Mode::Kernel);
            Mode::ALL
                .into_iter()
                .filter_map(move |mode| Some(result(subject.entry(run, mode)?, kernel)))
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>Workload</th><th>To</th><th>Wire</th><th class=\"n\">Flows</th>\
         <th>Mode</th><th class=\"n\">Median</th><th>Unit</th><th class=\"n\">Smallest round</th>\
         <th class=\"n\">Largest round</th><th class=\"n\">Spread</th><th class=\"n\">Rounds</th>\
         <th class=\"n\">By kernel vxlan</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn result(entry: &Entry, kernel: Option<&Entry>) -> String {
    let by_kernel = kernel
        .and_then(|kernel| ratio(entry, kernel))
        .map_or_else(|| "–".to_owned(), |ratio| format!("{:.2}×", ratio.median));
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td>\
         <td><span class=\"key {}\"></span>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{by_kernel}</td></tr>\n",
        workload(entry.workload),
        target(entry.target),
        wire(entry.wire),
        count(entry.flows),
        entry.mode.name(),
        mode(entry.mode),
        full(entry.median),
        escaped(&entry.unit),
        full(entry.min),
        full(entry.max),
        spread(entry),
        entry.rounds,
    )
}

/// From the smallest to the largest round, by the median.
fn spread(entry: &Entry) -> String {
    let width = (entry.max - entry.min) / entry.median * 100.0;
    if plausible(width) {
        format!("{width:.0} %")
    } else {
        "–".to_owned()
    }
}

/// Promises and what became of them.
pub(super) fn checks(checks: &[&Check]) -> String {
    let rows: String = checks.iter().map(|check| row(check)).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>Workload</th><th>To</th><th>Wire</th><th class=\"n\">Flows</th>\
         <th>What</th><th class=\"n\">Floor</th><th class=\"n\">Found</th><th class=\"n\">Worst to best case</th>\
         <th></th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn row(check: &Check) -> String {
    let subject = check.subject;
    let verdict = match check.met() {
        Some(true) => "<span class=\"good\">✓ reached</span>",
        Some(false) => "<span class=\"bad\">✗ missed</span>",
        None => "<span class=\"bad\">not measured</span>",
    };
    let (found, range) = check.found.map_or_else(
        || ("–".to_owned(), "–".to_owned()),
        |Ratio { median, low, high }| (format!("{median:.3}×"), format!("{low:.2}–{high:.2}×")),
    );
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td>{} by {}</td><td class=\"n\">{:.2}×</td>\
         <td class=\"n\">{found}</td><td class=\"n\">{range}</td><td>{verdict}</td></tr>\n",
        workload(subject.workload),
        target(subject.target),
        wire(subject.wire),
        count(subject.flows),
        mode(check.mode),
        mode(check.against),
        check.floor,
    )
}

/// What the programs cost.
pub(super) fn programs(programs: &[ProgramCost]) -> String {
    let rows: String = programs.iter().map(program).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>Program</th><th>Packet</th><th>Measured</th>\
         <th class=\"n\">ns per packet</th><th class=\"n\">Smallest round</th><th class=\"n\">Largest round</th>\
         <th class=\"n\">Rounds</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn program(cost: &ProgramCost) -> String {
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{}</td></tr>\n",
        escaped(&cost.program),
        escaped(&cost.case),
        method(cost.method),
        full(cost.nanoseconds),
        full(cost.min),
        full(cost.max),
        cost.rounds,
    )
}

/// How the packets were run.
pub(super) const fn method(method: Method) -> &'static str {
    match method {
        Method::Repeated => "over and over",
        Method::Single => "one per call",
    }
}
