//! Puts into the log what is new and what is over.

use super::messages::Changes;

/// More messages of one kind than this are counted, not printed.
const MAX_MESSAGES: usize = 20;

/// Logs what is new at `level`, and at info what is over, after `over` (unless that is empty).
pub(super) fn say(changes: &Changes, level: log::Level, over: &str) {
    for text in changes.new.iter().take(MAX_MESSAGES) {
        log::log!(level, "{text}");
    }
    if let Some(more) = more(&changes.new) {
        log::log!(level, "… and {more} more like these");
    }
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
