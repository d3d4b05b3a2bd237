//! Packet filter rules as other software leaves them on a node.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;

use super::Node;
use crate::exec::COMMAND_TIMEOUT;
use crate::pod::NETWORK;

/// Transport protocol of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Node {
    /// A service as kube-proxy's iptables mode makes it: `vip:port` is translated to `backend` for pods and for the
    /// node itself, and forwarded packets that conntrack finds invalid are dropped.
    ///
    /// # Errors
    ///
    /// When iptables refuses a rule.
    pub fn service(&self, vip: Ipv4Addr, port: u16, protocol: Protocol, backend: SocketAddrV4) -> Result<()> {
        for chain in ["PREROUTING", "OUTPUT"] {
            self.run(&format!(
                "iptables -t nat -A {chain} -d {vip}/32 -p {protocol} --dport {port} -j DNAT --to-destination {backend}"
            ))?;
        }
        let invalid = "FORWARD -m conntrack --ctstate INVALID -j DROP";
        if !self
            .space()
            .output(&format!("iptables -C {invalid}"))?
            .status
            .success()
        {
            self.run(&format!("iptables -I {invalid}"))?;
        }
        Ok(())
    }

    /// The masquerading and forwarding rules of flannel's traffic manager (pkg/trafficmngr/iptables).
    ///
    /// # Errors
    ///
    /// When iptables refuses them.
    pub fn flannel_masquerade(&self) -> Result<()> {
        let subnet = format!("{}/24", self.lease().subnet);
        let masquerade = "-m comment --comment \"flanneld masq\" -j";
        let forward = "-m comment --comment \"flanneld forward\" -j";
        let chain = "-A FLANNEL-POSTRTG";
        let rules = format!(
            "*nat\n:FLANNEL-POSTRTG - [0:0]\n\
             -A POSTROUTING {masquerade} FLANNEL-POSTRTG\n\
             {chain} -m mark --mark 0x4000/0x4000 {masquerade} RETURN\n\
             {chain} -s {subnet} -d {NETWORK} {masquerade} RETURN\n\
             {chain} -s {NETWORK} -d {subnet} {masquerade} RETURN\n\
             {chain} ! -s {NETWORK} -d {subnet} {masquerade} RETURN\n\
             {chain} -s {NETWORK} ! -d 224.0.0.0/4 {masquerade} MASQUERADE --random-fully\n\
             {chain} ! -s {NETWORK} -d {NETWORK} {masquerade} MASQUERADE --random-fully\n\
             COMMIT\n\
             *filter\n:FLANNEL-FWD - [0:0]\n\
             -A FORWARD {forward} FLANNEL-FWD\n\
             -A FLANNEL-FWD -s {NETWORK} {forward} ACCEPT\n\
             -A FLANNEL-FWD -d {NETWORK} {forward} ACCEPT\n\
             COMMIT\n"
        );
        let output =
            self.space()
                .output_args(&["iptables-restore", "--noflush"], Some(&rules), COMMAND_TIMEOUT)?;
        output.success().map(drop)
    }
}
