//! What brings the embedded object into the kernel.

use std::thread;

use aya::EbpfLoader;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chroot;
use overlay_common::maps::{EGRESS_FLOWS, INGRESS_FLOWS, PEER_STATS, PEERS, SUBNETS};

use super::Capacity;

/// A directory in which there is no `sys/kernel/btf/vmlinux`.
const ELSEWHERE: &str = "/dev";

/// A loader that makes maps of this capacity.
pub(super) fn loader(capacity: Capacity) -> EbpfLoader<'static> {
    let mut loader = without_kernel_types();
    for name in [SUBNETS, PEERS, PEER_STATS] {
        loader.map_max_entries(name, capacity.peers);
    }
    for name in [EGRESS_FLOWS, INGRESS_FLOWS] {
        loader.map_max_entries(name, capacity.flows);
    }
    loader
}

/// A loader that does not know the kernel's own types: nothing in the object is relocated by them.
///
/// [`EbpfLoader::new`] reads and parses all of them before it can be told not to: 15 MiB, the most that the agent would ever
/// need. Therefore it is called where it does not find them, by a thread that sees another root directory.
fn without_kernel_types() -> EbpfLoader<'static> {
    // Where no thread can be had the usual one does; it costs memory.
    let mut loader = made_elsewhere().unwrap_or_default();
    loader.btf(None);
    loader
}

fn made_elsewhere() -> Option<EbpfLoader<'static>> {
    let make = || {
        // The directory of this thread alone, which ends here.
        if let Err(error) = unshare(CloneFlags::CLONE_FS).and_then(|()| chroot(ELSEWHERE)) {
            log::debug!(
                "loading the programs takes 15 MiB more than it has to: cannot look elsewhere: {error}"
            );
        }
        EbpfLoader::new()
    };
    let thread = thread::Builder::new().name("loader".to_owned()).spawn(make);
    thread.ok()?.join().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_kernels_types_are_not_read() {
        const TYPES: &str = "/sys/kernel/btf/vmlinux";
        assert!(Path::new(TYPES).exists(), "this test needs a kernel with BTF");
        // Seen red without `chroot`.
        let loader = format!("{:?}", made_elsewhere().unwrap());
        let start = loader.get(..60).unwrap_or(&loader);
        assert!(
            loader.contains("btf: None"),
            "{start}…; this test needs root, for chroot"
        );
        assert!(
            Path::new(TYPES).exists(),
            "other threads see the root directory that they saw"
        );
    }
}
