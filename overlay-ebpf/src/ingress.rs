//! From the underlay to this node: tunnel packets are verified before the kernel's VXLAN socket sees them.

mod outer;
mod tunnel;

use overlay_common::config::Config;
use overlay_common::reason::Reason;

use crate::maps;
use crate::skb::Skb;

/// Judges the packet; `None` if it is not a packet of the overlay.
#[inline(always)]
pub(crate) fn verify(skb: &Skb<'_>) -> Option<Reason> {
    let config = maps::config()?;
    if outer::is_for_others(skb) {
        return None;
    }
    if outer::hides_behind_tags(skb) {
        return Some(Reason::NestedPriorityTag);
    }
    let outer = outer::parse(skb, config)?;
    Some(match check(skb, config, &outer) {
        Ok(()) => Reason::Accepted,
        Err(reason) => reason,
    })
}

#[inline(always)]
fn check(skb: &Skb<'_>, config: &Config, outer: &outer::Outer) -> Result<(), Reason> {
    outer::check(skb, config, outer)?;
    tunnel::check(skb, config, outer)
}
