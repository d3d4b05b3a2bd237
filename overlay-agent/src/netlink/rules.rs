//! Rules of policy routing.

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Netlink;
use super::error::RequestError;

impl Netlink {
    /// Whether any IPv4 rule looks at source ports. (The destination port and the protocol are the same for all that the
    /// overlay sends.)
    ///
    /// # Errors
    ///
    /// When the rules cannot be read completely.
    pub async fn rules_by_port(&self) -> Result<bool> {
        let mut request = RuleMessage::default();
        request.header.family = AddressFamily::Inet;
        let rules = self
            .socket
            .dump(RouteNetlinkMessage::GetRule(request), |entry| match entry {
                Ok(RouteNetlinkMessage::NewRule(message)) => Ok(Some(has_source_port(&message))),
                Ok(other) => Err(RequestError::lost(format!(
                    "unexpected message in a list of rules: {other:?}"
                ))),
                // A rule of a kind that is newer than this agent may look at anything.
                Err(_) => Ok(Some(true)),
            });
        match rules.await {
            Ok(rules) => Ok(rules.contains(&true)),
            // A kernel without policy routing.
            Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => Ok(false),
            Err(error) => Err(error).context("reading the rules of policy routing"),
        }
    }
}

fn has_source_port(rule: &RuleMessage) -> bool {
    let named = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::SourcePortRange(_));
    rule.attributes.iter().any(named)
}
