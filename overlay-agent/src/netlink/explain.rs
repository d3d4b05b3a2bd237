//! Refusals of the kernel in words that help an operator.

use anyhow::{Error, anyhow};
use nix::errno::Errno;
use overlay_core::action::KernelAction;

use super::error::RequestError;

/// What was attempted, what the kernel said, and what can be done about it.
pub(super) fn explain(action: &KernelAction, device_name: &str, error: &RequestError) -> Error {
    let hint = error.errno().and_then(|errno| hint(action, errno));
    let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
    anyhow!("{device_name}: {action}: {error}{hint}")
}

fn hint(action: &KernelAction, errno: Errno) -> Option<&'static str> {
    match (action, errno) {
        (_, Errno::EPERM | Errno::EACCES) => Some("the agent needs the capability CAP_NET_ADMIN"),
        (_, Errno::ENODEV) => Some("the device was deleted meanwhile; it is created again by the next plan"),
        (KernelAction::SetNeighbour { .. }, Errno::ENOBUFS) => {
            Some("the neighbour table is full: raise net.ipv4.neigh.default.gc_thresh3")
        }
        (KernelAction::SetRoute { .. }, Errno::EEXIST) => {
            Some("a route to the same destination appeared meanwhile: see `ip route show`")
        }
        (KernelAction::SetRoute { .. }, Errno::ENETUNREACH | Errno::ENETDOWN) => {
            Some("routes need the device to be up and the gateway not to be a local address")
        }
        (_, Errno::ENOMEM | Errno::ENOBUFS) => Some("the kernel is out of memory for it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capability_is_named() {
        let action = KernelAction::SetDeviceMtu(1450);
        let error = RequestError::Refused {
            errno: Errno::EPERM,
            text: None,
        };
        let text = explain(&action, "flannel.1", &error).to_string();
        assert!(
            text.contains("flannel.1") && text.contains("EPERM") && text.contains("CAP_NET_ADMIN"),
            "{text}"
        );
    }

    #[test]
    fn lost_answer_is_reported_as_such() {
        let text = explain(
            &KernelAction::SetDeviceUp,
            "flannel.1",
            &RequestError::lost("no answer"),
        )
        .to_string();
        assert!(text.contains("no answer"), "{text}");
    }
}
