//! Each program on single packets (`BPF_PROG_TEST_RUN`): verdict, bytes, every counter and every peer's statistics.
//!
//! What this layer cannot show: a redirect is returned but not carried out, and `gso_type` stays 0, so a GSO packet that
//! fits ends in the kernel's refusal to make room. The datapath suite covers both with real traffic.
#![forbid(unsafe_code)]

#[cfg(test)]
mod bed;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod egress_left_alone;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod ingress;
#[cfg(test)]
mod ingress_refusals;
