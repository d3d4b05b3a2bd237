//! What a reader of the results must know about how they came about.

use super::bed;
use super::load::Cpus;
use super::measure::{ATTEMPTS, TOLERATED};
use super::plan::{Plan, SLICES_OF_MANY, SLICES_OF_SOME, SLICES_ONE_WAY};
use super::rules::SERVICES;

/// One sentence each.
pub(super) fn describe(plan: &Plan, cpus: Cpus) -> Vec<String> {
    let bridge = if bed::bridge_calls_iptables() {
        "bridged packets pass iptables (br_netfilter), as kubeadm demands"
    } else {
        "this kernel does not show bridged packets to iptables (no br_netfilter)"
    };
    vec![
        format!(
            "Each mode has two nodes of its own in network namespaces, connected by a veth pair; the modes take turns in \
             slices of {0} ms ({1} ms one way, {2} ms with 1,000 flows, {3} ms with 10,000), in an order that changes from round to \
             round.",
            plan.slice.as_millis(),
            (SLICES_ONE_WAY * plan.slice).as_millis(),
            (SLICES_OF_SOME * plan.slice).as_millis(),
            (SLICES_OF_MANY * plan.slice).as_millis(),
        ),
        "Connections are opened anew for every 15 rounds (6 one way; 1,000 and 10,000 flows stay)."
            .to_owned(),
        format!(
            "A slice of which the hypervisor took more than one {TOLERATED}th away (`steal` of both CPUs, /proc/stat) is \
             measured again, {ATTEMPTS} times at most, and the least disturbed one counts."
        ),
        format!(
            "Request/response: both ends are threads of one process on CPU {}, with up to 32 requests under way where there \
             are several flows. One-way: sent on CPU {}, received on CPU {}.",
            cpus.receiver, cpus.sender, cpus.receiver
        ),
        format!(
            "Every node, in every mode, has the rules of kube-proxy's iptables mode with {SERVICES} TCP and {SERVICES} UDP \
             services, its FORWARD chain with the drop of invalid packets, and flannel's masquerading rules; {bridge}."
        ),
        "Mode hostgw has the underlay's MTU of 1500 bytes in its pods, as flannel's host-gw backend has; the overlays have \
         1450."
            .to_owned(),
        "Mode bare has no services: where the others use a service address it uses the server's own, in turn with them."
            .to_owned(),
        "UDP one way: of what is sent as fast as one CPU can, only what arrives is counted; every thousandth packet is \
         answered, since a flow without any answer is never established and stays on the slow path."
            .to_owned(),
        "Wire `segments`: the underlay's devices have no segmentation offload, and the receiver aggregates (GRO).".to_owned(),
        "Connect-request-close: the client closes first; outside: the server has an address outside the cluster, and the \
         pod's packets are masqueraded."
            .to_owned(),
    ]
}
