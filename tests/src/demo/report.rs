//! What the demo prints: one line for each step, as it happens.

use std::io::{self, Write};
use std::time::Instant;

use anyhow::{Error, Result};

/// Prints the steps and remembers which failed.
pub(super) struct Report {
    start: Instant,
    held: usize,
    failed: Vec<String>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            held: 0,
            failed: Vec::new(),
        }
    }

    /// Begins a part of the demo.
    pub(super) fn title(&mut self, title: &str) {
        println!("\n{title}");
    }

    /// A check: prints what it saw or why it did not hold, and says which.
    pub(super) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) -> bool {
        self.step(name, || Ok(((), check()?))).is_ok()
    }

    /// A step without which there is no demo.
    pub(super) fn need<T>(&mut self, name: &str, step: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        self.step(name, step)
    }

    fn step<T>(&mut self, name: &str, step: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        let start = Instant::now();
        let outcome = step();
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok((value, seen)) => {
                self.held += 1;
                println!("  ✓ {seconds:6.2} s  {name}: {seen}");
                // Progress must show at once, in a file or pipe too.
                io::stdout().flush()?;
                Ok(value)
            }
            Err(error) => {
                self.failed.push(name.to_owned());
                println!("  ✗ {seconds:6.2} s  {name}: {}", indented(&error));
                io::stdout().flush()?;
                Err(error)
            }
        }
    }

    /// Prints the end result; whether every check held.
    pub(super) fn summary(&self) -> bool {
        let (held, seconds) = (self.held, self.start.elapsed().as_secs_f64());
        if self.failed.is_empty() {
            println!("\n✓ All {held} checks held, in {seconds:.1} s.");
        } else {
            let total = held + self.failed.len();
            println!(
                "\n✗ {} of {total} checks did not hold: {}.",
                self.failed.len(),
                self.failed.join("; ")
            );
        }
        self.failed.is_empty()
    }
}

/// The error with its causes, its further lines set off from the other steps.
fn indented(error: &Error) -> String {
    let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
    causes.join(": ").trim_end().replace('\n', "\n        ")
}
