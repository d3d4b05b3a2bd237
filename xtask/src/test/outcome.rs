//! What a suite found, read from the output of its tests.

use std::{fmt::Write as _, iter::Sum};

/// How many tests passed and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, one| Self {
            passed: sum.passed + one.passed,
            failed: sum.failed + one.failed,
        })
    }
}

#[derive(Debug)]
pub(super) struct Outcome {
    name: &'static str,
    passed: usize,
    failed: usize,
    /// Ignored tests count as failed ones: a suite that skips silently proves nothing.
    ignored: usize,
    failed_names: Vec<String>,
    pub(super) seconds: f64,
    /// Why the suite as a whole is bad, such as a build that failed.
    pub(super) problem: Option<String>,
}

impl Outcome {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            passed: 0,
            failed: 0,
            ignored: 0,
            failed_names: Vec::new(),
            seconds: 0.0,
            problem: None,
        }
    }

    /// Takes in one line of the tests' output.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(results) = line.strip_prefix("test result: ") {
            self.passed += count(results, "passed");
            self.failed += count(results, "failed");
            self.ignored += count(results, "ignored");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|test| test.strip_suffix(" ... FAILED"))
        {
            self.failed_names.push(name.to_owned());
        }
    }

    pub(super) fn tally(&self) -> Tally {
        let failed = self.failed + self.ignored;
        // A suite that broke or ran nothing is one failure, even if no test says so.
        let whole = usize::from(failed == 0 && (self.problem.is_some() || self.passed == 0));
        Tally {
            passed: self.passed,
            failed: failed + whole,
        }
    }

    fn remark(&self) -> Option<String> {
        if !self.failed_names.is_empty() {
            Some(self.failed_names.join(", "))
        } else if self.ignored > 0 {
            Some(format!("{} ignored tests count as failed", self.ignored))
        } else if let Some(problem) = &self.problem {
            Some(problem.clone())
        } else if self.passed == 0 {
            Some("no test ran".to_owned())
        } else {
            None
        }
    }
}

/// The number before a word in `ok. 12 passed; 0 failed; 0 ignored; …`.
fn count(results: &str, word: &str) -> usize {
    let words: Vec<&str> = results
        .split([' ', ';', '.'])
        .filter(|part| !part.is_empty())
        .collect();
    words
        .iter()
        .zip(words.iter().skip(1))
        .find_map(|(number, label)| if *label == word { number.parse().ok() } else { None })
        .unwrap_or(0)
}

/// The summary: a line per suite, the sum, and what went wrong.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut text = row("suite", "passed", "failed", "seconds");
    for outcome in outcomes {
        let Tally { passed, failed } = outcome.tally();
        text += &row(
            outcome.name,
            &passed.to_string(),
            &failed.to_string(),
            &format!("{:.1}", outcome.seconds),
        );
    }
    let Tally { passed, failed } = outcomes.iter().map(Outcome::tally).sum();
    let seconds: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
    text += &row(
        "total",
        &passed.to_string(),
        &failed.to_string(),
        &format!("{seconds:.1}"),
    );
    for outcome in outcomes {
        if let Some(remark) = outcome.remark() {
            let written = writeln!(text, "{}: {remark}", outcome.name);
            debug_assert!(written.is_ok(), "writing into a string cannot fail");
        }
    }
    text
}

fn row(suite: &str, passed: &str, failed: &str, seconds: &str) -> String {
    format!("{suite:<10} {passed:>7} {failed:>7} {seconds:>8}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::new("unit");
        for line in lines {
            outcome.read(line);
        }
        outcome
    }

    #[test]
    fn results_of_several_test_programs_add_up() {
        let outcome = outcome(&[
            "running 2 tests",
            "test a ... ok",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test b::c ... FAILED",
            "test result: FAILED. 10 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.50s",
        ]);
        assert_eq!(
            outcome.tally(),
            Tally {
                passed: 12,
                failed: 1
            }
        );
        assert_eq!(outcome.remark().as_deref(), Some("b::c"));
    }

    #[test]
    fn a_suite_without_tests_has_failed() {
        let outcome =
            outcome(&["test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out"]);
        assert_eq!(outcome.tally(), Tally { passed: 0, failed: 1 });
        assert_eq!(outcome.remark().as_deref(), Some("no test ran"));
    }

    #[test]
    fn an_ignored_test_has_failed() {
        let outcome =
            outcome(&["test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out"]);
        assert_eq!(outcome.tally(), Tally { passed: 5, failed: 2 });
    }

    #[test]
    fn a_suite_that_breaks_after_good_tests_has_failed() {
        let mut outcome =
            outcome(&["test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"]);
        outcome.problem = Some("killed".to_owned());
        assert_eq!(outcome.tally(), Tally { passed: 5, failed: 1 });
    }

    #[test]
    fn the_table_sums_up_and_names_what_failed() {
        let good = outcome(&["test result: ok. 5 passed; 0 failed; 0 ignored"]);
        let bad = outcome(&[
            "test slow ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
        ]);
        assert_eq!(
            table(&[good, bad]),
            "suite       passed  failed  seconds\n\
             unit             5       0      0.0\n\
             unit             1       1      0.0\n\
             total            6       1      0.0\n\
             unit: slow\n"
        );
    }
}
