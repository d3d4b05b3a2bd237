//! The results as text.

use super::floors::{Check, checks};
use super::result::{Entry, Kind, Load, Run};
use crate::bench::ending::{self, Outcome, word};

/// One line as soon as it was measured.
pub(super) fn print_entry(entry: &Entry) {
    println!("{}", line(entry));
}

/// The head of the lines.
pub(super) fn print_header() {
    println!(
        "{:<5} {:>6} {:<12} {:<6} {:>10} {:>10} {:>10} {:>10} {:>8}",
        "nodes", "", "figure", "load", "median", "p99", "min", "max", "samples"
    );
}

/// The floors and the problems. Returns how it ended.
pub(super) fn print_end(run: &Run) -> Outcome {
    let sizes: Vec<_> = Kind::ALL
        .into_iter()
        .filter_map(|kind| run.results.iter().find(|entry| entry.node_kind == kind))
        .map(|entry| format!("{} {} bytes", entry.node_kind, entry.node_bytes))
        .collect();
    println!("\none Node object: {}", sizes.join(", "));
    for sentence in &run.setup {
        println!("  {sentence}");
    }
    println!(
        "  {} changes with an agent and {} without were measured again because a CPU was away meanwhile.",
        run.disturbed.with_agent, run.disturbed.without
    );
    let floors: Vec<_> = checks(run)
        .iter()
        .map(|check| (verdict(check), check.met()))
        .collect();
    ending::print(
        "floors (the most that is allowed)",
        &floors,
        run.machine.seconds,
        &run.problems,
    )
}

fn line(entry: &Entry) -> String {
    let summary = entry.summary;
    format!(
        "{:<5} {:>6} {:<12} {:<6} {:>10} {:>10} {:>10} {:>10} {:>8}",
        entry.node_kind,
        entry.nodes,
        entry.figure,
        entry.load.map_or("", Load::name),
        number(summary.median),
        number(summary.p99),
        number(summary.min),
        number(summary.max),
        summary.samples
    )
}

fn verdict(check: &Check) -> String {
    let word = word(check.met());
    let found = check.found.map_or_else(|| "–".to_owned(), number);
    format!(
        "{:<58} {found:>8} {:<4} floor {:>5}  {word}",
        check.subject,
        check.unit,
        number(check.limit)
    )
}

/// Three decimals for what is small, none for what is large.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_count() {
        assert_eq!(
            [-0.1234, 0.4, 12.34, 1_234.5].map(number),
            ["-0.123", "0.400", "12.3", "1234"]
        );
    }

    #[test]
    fn a_check_says_what_it_found() {
        let check = |found| Check {
            subject: "bare".to_owned(),
            limit: 0.8,
            found,
            unit: "ms",
        };
        assert!(verdict(&check(Some(0.9))).ends_with("0.900 ms   floor 0.800  MISSED"));
        assert!(
            verdict(&check(Some(0.8))).ends_with("met") && verdict(&check(None)).ends_with("not measured")
        );
    }
}
