//! What kernel and user space share: map keys and values, map names and sizes, the configuration, the reasons a
//! packet was treated as it was, header layouts, and the arithmetic of encapsulation.
//!
//! Compiles for the BPF target and for the host, where it is tested. Everything that lives in a BPF map follows the
//! ABI rules: `#[repr(C)]`, fixed-width fields and byte arrays, addresses and ports in network byte order, no padding
//! (proved by the `bytemuck` derives), a size assert beside each type, and [`config::ABI_VERSION`] in the
//! configuration map, where 0 means "not configured" because array maps read as zero.

#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod checksum;
pub mod config;
pub mod ecn;
pub mod encap;
pub mod flow;
pub mod headers;
pub mod lanes;
pub mod maps;
pub mod priority;
pub mod reason;
pub mod source_port;

#[cfg(feature = "user")]
mod pod;
