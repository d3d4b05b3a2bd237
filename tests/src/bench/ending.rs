//! How a benchmark ends: what it promises, what went wrong, files, and the exit status.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How many floors were missed.
    pub missed: usize,
    /// How much went wrong, so that the results are not to be trusted.
    pub problems: usize,
}

/// The exit status of a benchmark: failure when it could not be run or is not to be trusted, and with `check` also when a
/// floor was missed. Says why it could not be run.
#[must_use]
pub fn exit_code(result: Result<Outcome>, check: bool) -> ExitCode {
    match result {
        Ok(outcome) if outcome.problems > 0 || (check && outcome.missed > 0) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that `{:?}` would add: the causes say what to do.
            eprintln!("\n✗ The benchmark ends here: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a floor was kept, as a word; `None` if it was not measured.
pub(crate) fn word(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "not measured",
    }
}

/// Prints each floor's line, how many were met in these `seconds`, and the problems.
pub(crate) fn print(
    title: &str,
    floors: &[(String, Option<bool>)],
    seconds: u64,
    problems: &[String],
) -> Outcome {
    println!("\n{title}");
    for (line, _) in floors {
        println!("  {line}");
    }
    let count = |wanted| floors.iter().filter(|(_, met)| *met == wanted).count();
    let missed = count(Some(false));
    println!(
        "{} floors met, {missed} MISSED, {} not measured; {seconds} s",
        count(Some(true)),
        count(None)
    );
    if !problems.is_empty() {
        println!("\nNOT TO BE TRUSTED: {} problems", problems.len());
        for problem in problems {
            println!("  ✗ {problem}");
        }
    }
    Outcome {
        missed,
        problems: problems.len(),
    }
}

/// Writes the results, and says where.
pub(crate) fn write_json(run: &impl Serialize, path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(run)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write the results to {}", path.display()))?;
    println!("results: {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_exit_status_says_how_it_ended() {
        let code = |missed, problems, check| exit_code(Ok(Outcome { missed, problems }), check);
        let (good, bad) = (ExitCode::SUCCESS, ExitCode::FAILURE);
        assert_eq!([code(0, 0, true), code(3, 0, false)], [good, good]);
        assert_eq!([code(3, 0, true), code(0, 1, false)], [bad, bad]);
        assert_eq!(exit_code(Err(anyhow!("no root")), false), bad);
    }

    #[test]
    fn every_floor_is_counted_once() {
        let floors = [Some(true), Some(false), None, Some(false)].map(|met| (word(met).to_owned(), met));
        let outcome = print("floors", &floors, 1, &["lost".to_owned()]);
        assert_eq!((outcome.missed, outcome.problems), (2, 1));
    }
}
