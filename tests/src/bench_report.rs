//! The benchmark's report: one HTML file with plots and tables that needs nothing else, not even a network.
//!
//! It is for a reader who did not see the run: it says what was measured, on what, how far the results spread, which
//! floors were reached, and what the numbers do not show.

mod bars;
pub(crate) mod floors;
mod flows;
pub(crate) mod number;
pub(crate) mod page;
pub(crate) mod palette;
mod ratios;
mod sections;
mod tables;

#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::bench::result::Run;

/// Writes the report of `run` to `path`, replacing what is there.
///
/// # Errors
///
/// When a plot cannot be drawn or the file cannot be written.
pub fn write(run: &Run, path: &Path) -> Result<()> {
    let html = render(run).context("cannot draw the benchmark's report")?;
    fs::write(path, html)
        .with_context(|| format!("cannot write the benchmark's report to {}", path.display()))
}

/// The report as HTML. Whatever `run` holds: what was not measured, or is no number, is said to be so.
///
/// # Errors
///
/// When a plot cannot be drawn.
pub fn render(run: &Run) -> Result<String> {
    let body = [
        sections::summary(run),
        sections::ratios(run)?,
        sections::workloads(run)?,
        sections::flows(run)?,
        sections::programs(run)?,
        sections::results(run),
        sections::method(run),
    ];
    Ok(page::page(run, &body.concat()))
}
