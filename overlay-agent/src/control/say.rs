//! Puts into the log what is new and what is over.

use std::collections::BTreeSet;

use log::Level;
use overlay_core::desired::Problem;

use super::messages::Changes;

/// More messages of one kind than this are counted, not printed.
const MAX_MESSAGES: usize = 20;

/// Logs what is new at `level`, and at info what is over, after `over` (unless that is empty).
pub(super) fn say(changes: &Changes, level: Level, over: &str) {
    say_new(&changes.new, level);
    say_over(changes, over);
}

/// Logs problems that are new, and at info those that are over. Leases that claim the same are an error, because somebody
/// has to decide between them.
pub(super) fn say_problems<'p>(changes: &Changes, problems: impl IntoIterator<Item = &'p Problem>) {
    let conflicts: BTreeSet<String> = problems
        .into_iter()
        .filter(|problem| problem.rival().is_some())
        .map(ToString::to_string)
        .collect();
    let (errors, warnings): (Vec<_>, Vec<_>) = changes
        .new
        .iter()
        .cloned()
        .partition(|text| conflicts.contains(text));
    say_new(&errors, Level::Error);
    say_new(&warnings, Level::Warn);
    say_over(changes, "no longer the case: ");
}

fn say_new(texts: &[String], level: Level) {
    for text in texts.iter().take(MAX_MESSAGES) {
        log::log!(level, "{text}");
    }
    if let Some(more) = more(texts) {
        log::log!(level, "… and {more} more like these");
    }
}

fn say_over(changes: &Changes, over: &str) {
    if over.is_empty() {
        return;
    }
    for subject in changes.over.iter().take(MAX_MESSAGES) {
        log::info!("{over}{subject}");
    }
    if let Some(more) = more(&changes.over) {
        log::info!("{over}{more} more");
    }
}

/// How many are not printed.
fn more(texts: &[String]) -> Option<usize> {
    texts.len().checked_sub(MAX_MESSAGES).filter(|more| *more > 0)
}
