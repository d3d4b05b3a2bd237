//! The results as text.

use super::ending::{self, Outcome, word};
use super::plan::Case;
use super::result::{Entry, Mode, Run};
use crate::bench_report::floors::{Check, Subject, checks};

/// One line as soon as a case was measured.
pub(super) fn print_case(case: Case, measured: &[Entry]) {
    let numbers: Vec<_> = measured
        .iter()
        .map(|entry| format!("{} {}", entry.mode, number(entry.median)))
        .collect();
    println!("{:<44} {}", case.name(), numbers.join("  "));
}

/// The whole table, the floors, and the problems. Returns how it ended.
pub(super) fn print(run: &Run) -> Outcome {
    println!("\n{}", header());
    for subject in Subject::all(run) {
        for mode in Mode::ALL {
            if let Some(entry) = subject.entry(run, mode) {
                println!("{}", line(run, subject, entry));
            }
        }
    }
    let floors: Vec<_> = checks(run)
        .iter()
        .map(|check| (verdict(check), check.met()))
        .collect();
    ending::print(
        "floors (median by median of the same run)",
        &floors,
        run.machine.seconds,
        &run.problems,
    )
}

fn header() -> String {
    format!(
        "{:<10} {:<7} {:>6} {:<8} {:<6} {:>11} {:>11} {:>11} {:<14} {:>8} {:>8}",
        "workload", "target", "flows", "wire", "mode", "median", "min", "max", "unit", "/kernel", "/bare"
    )
}

fn line(run: &Run, subject: Subject, entry: &Entry) -> String {
    let ratio = |against| {
        let ratio = subject.ratio(run, entry.mode, against);
        ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{:.3}", ratio.median))
    };
    format!(
        "{:<10} {:<7} {:>6} {:<8} {:<6} {:>11} {:>11} {:>11} {:<14} {:>8} {:>8}",
        entry.workload,
        entry.target,
        entry.flows,
        entry.wire,
        entry.mode,
        number(entry.median),
        number(entry.min),
        number(entry.max),
        entry.unit,
        ratio(Mode::Kernel),
        ratio(Mode::Bare)
    )
}

fn verdict(check: &Check) -> String {
    let Subject {
        workload,
        target,
        flows,
        wire,
    } = check.subject;
    let found = check
        .found
        .map_or_else(|| "–".to_owned(), |ratio| format!("{:.3}", ratio.median));
    let word = word(check.met());
    format!(
        "{workload:<10} {target:<7} {flows:>6} {wire:<8} {:<4}/{:<6} {found:>7}  floor {:.2}  {word}",
        check.mode, check.against, check.floor
    )
}

/// With separators of thousands.
fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        assert_eq!(
            [0.4, 999.6, 12_345.0, 1_234_567.0].map(number),
            ["0", "1,000", "12,345", "1,234,567"]
        );
    }
}
