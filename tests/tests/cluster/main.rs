//! A live cluster: a real API server, nodes with the agent, and a node of stock flannel (by hand, see
//! `overlay_testbed::flannel_node`) between them. Pods reach each other, before, while and after agents restart, take
//! over flannel's node and give it back. Needs root and the API server; it says so otherwise.

#![forbid(unsafe_code)]
// `cfg(test)` tells clippy that helpers are tests too.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod bed;
#[cfg(test)]
mod by_hand;
#[cfg(test)]
mod membership;
#[cfg(test)]
mod monitor;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod state;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod takeover;
