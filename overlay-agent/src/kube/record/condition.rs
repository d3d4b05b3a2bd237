//! The condition `NetworkUnavailable` of a Node, out of all that its status says.

use std::borrow::Cow;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The condition's type.
pub const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";
/// What flannel, and with it this agent, gives as the reason for `False`.
pub const REASON: &str = "FlannelIsUp";

/// What a Node says about its network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum NetworkCondition {
    /// Nothing.
    #[default]
    Absent,
    /// `False`, for flannel's reason.
    FlannelIsUp,
    /// Something else, for messages: `True (NoRouteCreated)`.
    Other(Box<str>),
}

impl NetworkCondition {
    /// From the condition's `status` and `reason`.
    #[must_use]
    pub fn new(status: &str, reason: Option<&str>) -> Self {
        let reason = reason.unwrap_or("no reason");
        if status == "False" && reason == REASON {
            Self::FlannelIsUp
        } else {
            Self::Other(format!("{status} ({reason})").into_boxed_str())
        }
    }
}

/// `status.conditions`.
#[derive(Default)]
pub(super) struct Conditions(pub(super) NetworkCondition);

#[derive(Deserialize)]
struct Condition<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

impl<'de> Deserialize<'de> for Conditions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ConditionsVisitor)
    }
}

struct ConditionsVisitor;

impl<'de> Visitor<'de> for ConditionsVisitor {
    type Value = Conditions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of conditions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Conditions, A::Error> {
        let mut found = Conditions::default();
        while let Some(condition) = list.next_element::<Condition<'de>>()? {
            if condition.kind == NETWORK_UNAVAILABLE {
                let reason = condition.reason.as_deref();
                found = Conditions(NetworkCondition::new(&condition.status, reason));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> NetworkCondition {
        let Conditions(borrowed) = serde_json::from_str(json).unwrap();
        let Conditions(owned) = serde_json::from_reader(json.as_bytes()).unwrap();
        assert_eq!(borrowed, owned);
        owned
    }

    #[test]
    fn only_the_one_condition_is_read() {
        assert_eq!(parse("[]"), NetworkCondition::Absent);
        let ready = r#"{"type":"Ready","status":"False","reason":"FlannelIsUp"}"#;
        assert_eq!(parse(&format!("[{ready}]")), NetworkCondition::Absent);
        let up = r#"{"message":"x","lastHeartbeatTime":null,"type":"NetworkUnavailable","status":"False","reason":"FlannelIsUp"}"#;
        assert_eq!(parse(&format!("[{ready},{up}]")), NetworkCondition::FlannelIsUp);
    }

    #[test]
    fn everything_else_is_named() {
        for (json, text) in [
            (
                r#""status":"True","reason":"NoRouteCreated""#,
                "True (NoRouteCreated)",
            ),
            (r#""status":"False","reason":"CalicoIsUp""#, "False (CalicoIsUp)"),
            (r#""status":"True","reason":"FlannelIsUp""#, "True (FlannelIsUp)"),
            (r#""status":"Unknown""#, "Unknown (no reason)"),
        ] {
            assert_eq!(
                parse(&format!(r#"[{{"type":"NetworkUnavailable",{json}}}]"#)),
                NetworkCondition::Other(text.into())
            );
        }
    }
}
