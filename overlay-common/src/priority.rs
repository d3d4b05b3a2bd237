//! `skb->priority` of forwarded packets.

/// What `ip_forward` sets `skb->priority` to, by the TOS byte of the packet: queueing disciplines sort by it
/// (`rt_tos2priority`, include/net/route.h; `ip_tos2prio`, net/ipv4/route.c).
#[inline(always)]
#[must_use]
pub const fn of_forwarded(tos: u8) -> u32 {
    const BEST_EFFORT: u32 = 0;
    const BULK: u32 = 2;
    const INTERACTIVE_BULK: u32 = 4;
    const INTERACTIVE: u32 = 6;
    match tos & 0b0001_1000 {
        0b0000_1000 => BULK,
        0b0001_0000 => INTERACTIVE,
        0b0001_1000 => INTERACTIVE_BULK,
        _ => BEST_EFFORT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernels_table() {
        // `ip_tos2prio`, whose index is (tos & 0x1e) >> 1.
        let table = [0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4];
        for tos in 0..=u8::MAX {
            assert_eq!(
                of_forwarded(tos),
                table[usize::from((tos & 0x1e) >> 1)],
                "{tos:#x}"
            );
        }
    }
}
