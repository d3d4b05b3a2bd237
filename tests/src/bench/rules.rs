//! Packet filter rules of a Kubernetes node: what kube-proxy's iptables mode leaves, with fifty services.
//!
//! The chains, their order and their matches are kube-proxy's (`pkg/proxy/iptables/proxier.go`); what concerns node
//! ports, external addresses and health checks is left out because nothing here has them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;

use crate::exec::COMMAND_TIMEOUT;
use crate::node::Node;

/// Services on every node, for each of TCP and UDP; the benchmark's own is in their middle.
pub(super) const SERVICES: u8 = 50;
/// The benchmark's own service.
pub(super) const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);

/// Loads the rules into `node`. With `backend`, the service's packets are sent there.
pub(super) fn load(node: &Node, backend: Option<SocketAddrV4>) -> Result<()> {
    node.space()
        .output_args(
            &["iptables-restore", "--noflush"],
            Some(&text(backend)),
            COMMAND_TIMEOUT,
        )?
        .success()?;
    node.flannel_masquerade()
}

fn text(backend: Option<SocketAddrV4>) -> String {
    let mut services = String::new();
    let mut chains = String::new();
    let mut endpoints = String::new();
    for protocol in ["tcp", "udp"] {
        for number in 0..SERVICES {
            let own = backend.filter(|_| number == SERVICES / 2);
            let (address, backend) = match own {
                Some(backend) => (SERVICE, backend),
                None => (
                    SocketAddrV4::new(Ipv4Addr::new(10, 96, 1, number), 80),
                    // Nodes that do not exist: nobody uses these services.
                    SocketAddrV4::new(Ipv4Addr::new(10, 244, 200, number), 8080),
                ),
            };
            let (service, endpoint) = (
                format!("KUBE-SVC-{protocol}{number}"),
                format!("KUBE-SEP-{protocol}{number}"),
            );
            let (vip, port) = (address.ip(), address.port());
            // Writing to a String cannot fail.
            write!(chains, ":{service} - [0:0]\n:{endpoint} - [0:0]\n").ok();
            writeln!(
                services,
                "-A KUBE-SERVICES -d {vip}/32 -p {protocol} -m {protocol} --dport {port} -j {service}"
            )
            .ok();
            write!(
                endpoints,
                "-A {service} ! -s 10.244.0.0/16 -d {vip}/32 -p {protocol} -m {protocol} --dport {port} -j KUBE-MARK-MASQ\n\
                 -A {service} -j {endpoint}\n\
                 -A {endpoint} -s {}/32 -j KUBE-MARK-MASQ\n\
                 -A {endpoint} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}\n",
                backend.ip()
            )
            .ok();
        }
    }
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n{chains}\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         {services}{endpoints}COMMIT\n\
         *filter\n:KUBE-FORWARD - [0:0]\n:KUBE-FIREWALL - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
         -A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n-A INPUT -j KUBE-FIREWALL\n\
         -A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n-A FORWARD -j KUBE-FORWARD\n\
         -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_one_of_fifty_of_its_protocol() {
        let backend = SocketAddrV4::new(Ipv4Addr::new(10, 244, 2, 2), 5001);
        let rules = text(Some(backend));
        assert_eq!(
            rules.matches("-A KUBE-SERVICES ").count(),
            2 * usize::from(SERVICES)
        );
        assert_eq!(rules.matches("--to-destination 10.244.2.2:5001\n").count(), 2);
        assert_eq!(text(None).matches("10.96.0.10").count(), 0);
    }
}
