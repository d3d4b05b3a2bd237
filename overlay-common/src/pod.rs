//! The marker trait that lets aya read and write these types as map keys and values.
//!
//! The only file outside `overlay-ebpf` with `unsafe`.
#![expect(
    unsafe_code,
    reason = "aya::Pod is an unsafe marker trait without a safe derive"
)]

use crate::addr::Addr;
use crate::config::Config;
use crate::flow::{EgressFlow, Endpoint, FlowKey, IngressFlow, Pending, Retry};
use crate::maps::{Counter, Peer, PeerStats, SubnetEntry};

macro_rules! pod {
    ($($type:ty),+) => {
        $(
            const _: fn() = || {
                const fn proves<T: bytemuck::Pod>() {}
                proves::<$type>();
            };
            // SAFETY: `bytemuck::Pod`, proved above, asks for all that `aya::Pod` does: any bit pattern is valid, no
            // padding, `Copy`, `'static`.
            unsafe impl aya::Pod for $type {}
        )+
    };
}

pod!(
    Addr,
    Config,
    Counter,
    EgressFlow,
    Endpoint,
    FlowKey,
    IngressFlow,
    Peer,
    PeerStats,
    Pending,
    Retry,
    SubnetEntry
);
