//! What this kernel can do, and its limits.

use anyhow::{Context, Result};
use aya::util::KernelVersion;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use overlay_common::config::{FIB_LOOKUP_MARK, FIB_LOOKUP_OUTPUT};

/// The flags for `bpf_fib_lookup` that this kernel knows.
///
/// By version: a probe would have to load a program and run it on a packet, and the helper's only answer to an unknown
/// flag is `EINVAL`, which it also gives for other reasons.
///
/// # Errors
///
/// When the kernel does not tell its version.
pub fn kernel_fib_flags() -> Result<u32> {
    let version = KernelVersion::current().context("cannot read the kernel's version")?;
    Ok(fib_flags(version))
}

fn fib_flags(version: KernelVersion) -> u32 {
    // dfa6bdaabcb3: the lookup heeds `skb->mark`, as the kernel device's route lookup does.
    let mark = if version >= KernelVersion::new(6, 10, 0) {
        FIB_LOOKUP_MARK
    } else {
        0
    };
    FIB_LOOKUP_OUTPUT | mark
}

/// Before Linux 5.11 maps and programs count as locked memory, which is limited to 64 KiB by default.
pub(super) fn raise_memlock_limit() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        log::debug!("cannot raise RLIMIT_MEMLOCK ({error}): matters only before Linux 5.11");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fib_flags_follow_the_version() {
        assert_eq!(fib_flags(KernelVersion::new(5, 13, 0)), 0b10);
        assert_eq!(fib_flags(KernelVersion::new(6, 9, 12)), 0b10);
        assert_eq!(fib_flags(KernelVersion::new(6, 10, 0)), 0b10_0010);
        assert_eq!(fib_flags(KernelVersion::new(6, 18, 1)), 0b10_0010);
    }
}
