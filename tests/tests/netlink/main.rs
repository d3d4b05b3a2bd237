//! The agent's netlink side against the kernel: each test in a network namespace of its own. Needs root, `ip`, `bridge`.

#![forbid(unsafe_code)]
// `cfg(test)` tells clippy that helpers are tests too.

#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod conflicts;
#[cfg(test)]
mod device;
#[cfg(test)]
mod entries;
#[cfg(test)]
mod events;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod in_the_way;
#[cfg(test)]
mod interface_choice;
#[cfg(test)]
mod namespace;
#[cfg(test)]
mod own_changes;
#[cfg(test)]
mod protocols;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod together;
#[cfg(test)]
mod underlay;
