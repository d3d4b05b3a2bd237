//! Where a reason becomes a counter and a verdict: the only place.

use aya_ebpf::bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_log_ebpf::{error, info};
use overlay_common::config::{Config, FLAG_ENFORCE_PEERS, LOG_ERRORS, LOG_REFUSALS};
use overlay_common::reason::{Direction, Reason, Verdict};

use crate::maps;
use crate::skb::Skb;

/// As [`finish`]; a packet without a reason is none of the overlay's: neither changed nor counted. Other programs on the
/// hook see it next.
#[inline(always)]
pub(crate) fn finish_if(skb: &Skb<'_>, reason: Option<Reason>) -> i32 {
    match reason {
        Some(reason) => finish(skb, reason),
        None => TC_ACT_UNSPEC,
    }
}

/// Counts the packet and returns what TC does with it.
#[inline(always)]
pub(crate) fn finish(skb: &Skb<'_>, reason: Reason) -> i32 {
    maps::count(reason, skb.len);
    match reason.verdict() {
        Verdict::Redirect => TC_ACT_REDIRECT,
        // Not TC_ACT_OK: that would keep other programs on the hook from seeing the packet.
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => drop(skb, reason),
        Verdict::Absorb => TC_ACT_SHOT,
    }
}

/// Drops the packet, or lets it pass while the peer check is not enforced.
#[inline(always)]
fn drop(skb: &Skb<'_>, reason: Reason) -> i32 {
    let config = maps::config();
    match (reason.direction(), reason) {
        // Refused by the peer check.
        (Direction::Ingress, reason) if !matches!(reason, Reason::DecapFailed) => {
            if logs(config, LOG_REFUSALS) {
                info!(
                    skb.ctx(),
                    "refused a tunnel packet of {} bytes: reason {}", skb.len, reason as u32
                );
            }
            if !config.is_some_and(|config| config.has(FLAG_ENFORCE_PEERS)) {
                maps::count(Reason::FailedOpen, skb.len);
                return TC_ACT_UNSPEC;
            }
        }
        _ => {
            if logs(config, LOG_ERRORS) {
                error!(
                    skb.ctx(),
                    "lost a packet of {} bytes after changing it: reason {}", skb.len, reason as u32
                );
            }
        }
    }
    TC_ACT_SHOT
}

#[inline(always)]
fn logs(config: Option<&Config>, level: u32) -> bool {
    config.is_some_and(|config| config.log_level >= level)
}
