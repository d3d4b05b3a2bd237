//! The fast path on real traffic: that it is taken, that nobody can tell by what arrives, and that it ends when it must.
//! Each test has its own testbed.
//!
//! Needs root; it says so otherwise.
#![forbid(unsafe_code)]
// `cfg(test)` tells clippy that helpers are tests too.

#[cfg(test)]
mod address_reuse;
#[cfg(test)]
mod bed;
#[cfg(test)]
mod fast;
#[cfg(test)]
mod header_fields;
#[cfg(test)]
mod hold;
#[cfg(test)]
mod maps;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod neighbour;
#[cfg(test)]
mod nested;
#[cfg(test)]
mod never_fast;
#[cfg(test)]
mod one_way;
#[cfg(test)]
mod order;
#[cfg(test)]
mod path_errors;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod pump;
#[cfg(test)]
mod slot_flood;
#[cfg(test)]
mod spoof;
#[cfg(test)]
mod syn_flood;
#[cfg(test)]
mod talk;
#[cfg(test)]
mod tuple_reuse;
#[cfg(test)]
mod wire;
