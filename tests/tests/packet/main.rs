//! Each program on single packets (`BPF_PROG_TEST_RUN`): verdict, bytes, every counter and every peer's statistics.
//!
//! What this layer cannot show: a redirect is returned but not carried out, and `gso_type` stays 0, so a GSO packet that
//! fits ends in the kernel's refusal to make room. The datapath suite covers both with real traffic.
#![forbid(unsafe_code)]

#[cfg(test)]
mod bed;
#[cfg(test)]
mod coming_out;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod egress_left_alone;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod flows;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod ingress;
#[cfg(test)]
mod ingress_refusals;
#[cfg(test)]
mod learning_refused;
#[cfg(test)]
mod moving_over;
#[cfg(test)]
mod pod_ingress_hit;
#[cfg(test)]
mod pod_ingress_ineligible;
#[cfg(test)]
mod pod_ingress_marks;
#[cfg(test)]
mod pod_ingress_miss;
#[cfg(test)]
mod pod_ingress_route;
#[cfg(test)]
mod pod_learning;
#[cfg(test)]
mod shortcut;
#[cfg(test)]
mod underlay_fast;
#[cfg(test)]
mod underlay_fast_refused;
#[cfg(test)]
mod underlay_tickets;
#[cfg(test)]
mod vtep_learning;
