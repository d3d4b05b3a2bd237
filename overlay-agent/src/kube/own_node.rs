//! This agent's own Node at start, and what it says about this node.

use std::net::Ipv4Addr;

use kube::Client;
use kube::api::Api;
use overlay_core::kube::{Annotation, BackendData, Keys};
use overlay_core::model::MacAddr;
use tokio::sync::watch;
use tokio::time::sleep;

use super::ask::Asked;
use super::record::NodeRecord;
use super::retry::Retry;

/// The own Node, as soon as the API server has one whose public IP can be used, and that public IP: `node-public-ip`, if there
/// is one. Asks until then.
pub async fn get(client: &Client, node: &str, keys: &Keys) -> (NodeRecord, Option<Ipv4Addr>) {
    let api: Api<NodeRecord> = Api::all(client.clone());
    let asked = Asked {
        verb: "get",
        resource: "nodes",
        kind: "Node",
        name: node,
        namespace: None,
    };
    let mut retry = Retry::default();
    loop {
        let trouble = match asked.answer(api.get(node)).await {
            Ok(record) => match public_ip(&record, keys) {
                Ok(public_ip) => {
                    retry.succeeded(&format!("reading Node {node}"));
                    return (record, public_ip);
                }
                Err(trouble) => trouble,
            },
            Err(refusal) => refusal.to_string(),
        };
        let text = format!("{trouble}; trying again, nothing is changed on this node until then");
        sleep(retry.failed(log::Level::Error, text)).await;
    }
}

/// `node-public-ip`: what an operator wants peers to send to. Counts as `--public-ip`, and more than that, as in flannel.
///
/// # Errors
///
/// When it is there and no IPv4 address, in words: publishing anything else would be wrong.
pub fn public_ip(record: &NodeRecord, keys: &Keys) -> Result<Option<Ipv4Addr>, String> {
    let key = keys.key(Annotation::NodePublicIp);
    match record.annotations().get(&key).map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            format!(
                "Node {}: annotation {key}: `{text}` is not an IPv4 address, like 192.168.0.1: correct or remove it",
                record.name()
            )
        }),
    }
}

/// The MAC address that the Node's annotation `backend-data` stores for this overlay, flannel's or this agent's.
#[must_use]
pub fn stored_mac(record: &NodeRecord, keys: &Keys, vni: u32) -> Option<MacAddr> {
    let text = record.annotations().get(&keys.key(Annotation::BackendData))?;
    let data: BackendData = text.parse().ok()?;
    // Old versions of flannel wrote no VNI.
    data.vni
        .is_none_or(|stored| stored == vni)
        .then_some(data.vtep_mac)
}

/// Says when `node-public-ip` becomes another one than this agent started with: it decides about the interface, which is chosen
/// once.
pub async fn watch_public_ip(
    mut own: watch::Receiver<Option<NodeRecord>>,
    keys: Keys,
    started_with: Option<Ipv4Addr>,
) {
    let mut said = Ok(started_with);
    while own.changed().await.is_ok() {
        let Some(now) = own
            .borrow_and_update()
            .as_ref()
            .map(|record| public_ip(record, &keys))
        else {
            continue;
        };
        if now == said {
            continue;
        }
        match &now {
            Err(trouble) => log::warn!(
                "{trouble}. It counts from the next start on, and would keep the agent waiting then"
            ),
            Ok(address) if *address == started_with => log::info!(
                "annotation {} is again what this agent started with",
                keys.key(Annotation::NodePublicIp)
            ),
            Ok(address) => log::warn!(
                "annotation {} is {} now, this agent started with {}: restart it to make that count",
                keys.key(Annotation::NodePublicIp),
                text(*address),
                text(started_with)
            ),
        }
        said = now;
    }
}

fn text(address: Option<Ipv4Addr>) -> String {
    address.map_or_else(|| "absent".to_owned(), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::api::ObjectMeta;
    use overlay_core::kube::DEFAULT_PREFIX;

    use super::*;

    fn record(annotations: &[(&str, &str)]) -> NodeRecord {
        let annotations: BTreeMap<_, _> = annotations
            .iter()
            .map(|(key, value)| (format!("{DEFAULT_PREFIX}/{key}"), (*value).to_owned()))
            .collect();
        NodeRecord {
            metadata: ObjectMeta {
                name: Some("worker-1".to_owned()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            ..NodeRecord::default()
        }
    }

    #[test]
    fn node_public_ip_is_an_ipv4_address_or_nothing() {
        let keys = Keys::new(DEFAULT_PREFIX).unwrap();
        let read = |value: &str| public_ip(&record(&[("node-public-ip", value)]), &keys);
        assert_eq!(read("203.0.113.7"), Ok(Some([203, 0, 113, 7].into())));
        assert_eq!(read(""), Ok(None));
        assert_eq!(public_ip(&record(&[("public-ip", "10.0.0.1")]), &keys), Ok(None));
        for bad in ["fd00::1", "203.0.113", "worker-1"] {
            let text = read(bad).unwrap_err();
            assert!(
                text.contains("worker-1")
                    && text.contains("flannel.alpha.coreos.com/node-public-ip")
                    && text.contains(bad),
                "{text}"
            );
        }
    }

    #[test]
    fn a_stored_mac_address_counts_if_it_is_of_this_overlay() {
        let keys = Keys::new(DEFAULT_PREFIX).unwrap();
        let stored = |text: &str| stored_mac(&record(&[("backend-data", text)]), &keys, 1);
        let mac = Some(MacAddr::new([0x12, 0xc6, 0x65, 0x89, 0xb4, 0xe3]));
        assert_eq!(stored(r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#), mac);
        assert_eq!(stored(r#"{"VtepMAC":"12:c6:65:89:b4:e3"}"#), mac);
        for other in [
            r#"{"VNI":2,"VtepMAC":"12:c6:65:89:b4:e3"}"#,
            r#"{"VNI":1,"VtepMAC":"13:c6:65:89:b4:e3"}"#,
            r#"{"VNI":1,"VtepMAC":""}"#,
            "null",
            "",
        ] {
            assert_eq!(stored(other), None, "{other}");
        }
        assert_eq!(stored_mac(&record(&[]), &keys, 1), None);
    }
}
