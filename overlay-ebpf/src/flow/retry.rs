//! Which packets of flows without an entry are followed through the stack. Most flows are over before they could gain,
//! and many can never be learned (masqueraded, refused by policy, answered another way): these must cost next to nothing.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use overlay_common::flow::{
    RETRY_AFTER_END, RETRY_DOUBLINGS, RETRY_FIRST_WAIT, RETRY_PATIENCE, Retry, retry_slots,
};

use crate::maps::RETRIES;

/// Whether a packet of the flow with this tag should be followed now.
#[inline(always)]
pub(crate) fn is_due(tag: u32, now: u64) -> bool {
    let Some(retry) = slot(tag) else { return false };
    if retry.tag != tag {
        // Flows that share a slot would start each other's count again for ever, so some try at once.
        let lucky = one_in_16();
        *retry = Retry {
            tag,
            count: if lucky { RETRY_PATIENCE + 1 } else { 1 },
            until: now + RETRY_FIRST_WAIT,
        };
        return lucky;
    }
    if retry.count < RETRY_PATIENCE {
        retry.count += 1;
        return false;
    }
    if retry.count > RETRY_PATIENCE && now < retry.until {
        return false;
    }
    let doublings = (retry.count - RETRY_PATIENCE) & 0xf;
    let doublings = if doublings > RETRY_DOUBLINGS {
        RETRY_DOUBLINGS
    } else {
        doublings
    };
    retry.until = now + (RETRY_FIRST_WAIT << doublings);
    if doublings < RETRY_DOUBLINGS {
        retry.count += 1;
    }
    true
}

/// The flow has been learned: should its entry go, it may be learned again at once.
#[inline(always)]
pub(crate) fn learned(tag: u32) {
    restart(tag, RETRY_PATIENCE);
}

/// A connection begins: what is known of an earlier one with the same tuple does not count.
#[inline(always)]
pub(crate) fn begun(tag: u32) {
    restart(tag, 0);
}

/// A connection ends: its last packets are not worth an entry.
#[inline(always)]
pub(crate) fn ended(tag: u32, now: u64) {
    if let Some(retry) = slot(tag) {
        *retry = Retry {
            tag,
            count: RETRY_PATIENCE + 1,
            until: now + RETRY_AFTER_END,
        };
    }
}

#[inline(always)]
fn restart(tag: u32, count: u32) {
    if let Some(retry) = slot(tag)
        && retry.tag == tag
    {
        retry.count = count;
        retry.until = 0;
    }
}

/// The flow's slot; if it has none, the one that it may take: that of the flow that has not tried for longer.
#[inline(always)]
fn slot(tag: u32) -> Option<&'static mut Retry> {
    let [first, second] = retry_slots(tag);
    let (first, second) = (RETRIES.get_ptr_mut(first)?, RETRIES.get_ptr_mut(second)?);
    // SAFETY: values of the map. Other CPUs may write them at the same time: a flow is then tried once more or once less.
    let (first, second) = unsafe { (&mut *first, &mut *second) };
    if first.tag == tag || (second.tag != tag && first.until <= second.until) {
        Some(first)
    } else {
        Some(second)
    }
}

#[inline(always)]
fn one_in_16() -> bool {
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    random & 0xf == 0
}
