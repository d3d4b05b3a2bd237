//! Waiting for a state with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `attempt` until it succeeds, for at most `timeout`.
///
/// `what` names the awaited state in the error.
///
/// # Errors
///
/// The last error of `attempt`, when the deadline passes.
pub fn eventually<T>(timeout: Duration, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("not within {timeout:?}: {what}"));
            }
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn succeeds_as_soon_as_the_attempt_does() {
        let mut calls = 0;
        let value = eventually(Duration::from_secs(5), "third call", || {
            calls += 1;
            ensure!(calls == 3, "call {calls}");
            Ok(calls)
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn the_error_names_the_state_and_the_last_reason() {
        let error = eventually::<()>(Duration::ZERO, "the link", || anyhow::bail!("it is down")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("the link") && text.contains("it is down"), "{text}");
    }
}
