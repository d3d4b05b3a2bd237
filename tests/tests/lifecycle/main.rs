//! The agent's control plane on real nodes, seen from outside: what it makes, repairs, leaves and removes, and that no
//! packet is lost meanwhile. Each test has a testbed of its own. Needs root; it says so otherwise.

#![forbid(unsafe_code)]
// `cfg(test)` tells clippy that helpers are tests too.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod cleanup;
#[cfg(test)]
mod converge;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod environment;
#[cfg(test)]
mod exclusive;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod healing;
#[cfg(test)]
mod lease_file;
#[cfg(test)]
mod many_routes;
#[cfg(test)]
mod membership;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod route_in_the_way;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod underlay;
#[cfg(test)]
mod unreadable;
