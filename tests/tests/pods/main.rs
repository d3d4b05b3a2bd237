//! The agent finds the devices of pods by itself, attaches to them in time, leaves those alone that shall be left alone,
//! and forgets those that are gone. Real agents in testbeds of their own. Needs root; it says so otherwise.

#![forbid(unsafe_code)]
// `cfg(test)` tells clippy that helpers are tests too.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod exclusion;
#[cfg(test)]
mod finding;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod speed;
