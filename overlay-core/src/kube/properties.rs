//! Whatever a Node says: no panic, and what this agent writes is what flannel reads.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::model::MacAddr;

/// flannel's own reader of the stored MAC address (pkg/subnet/kube, `GetStoredMacAddresses`): no JSON parser.
fn flannels_restored_mac(text: &str) -> Option<String> {
    let trimmed = text.trim_end_matches(['"', '}']);
    let parts: Vec<&str> = trimmed.split(":\"").collect();
    match parts.as_slice() {
        [_, mac] => Some((*mac).to_owned()),
        _ => None,
    }
}

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(|[first, b, c, d, e, f]| MacAddr::new([(first & 0xfe) | 2, b, c, d, e, f]))
}

/// Text that is nearly right, and text that is not.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        Just("true".to_owned()),
        Just("vxlan".to_owned()),
        Just("null".to_owned()),
        r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(/[0-9]{1,3})?",
        r"[0-9a-f:]{0,20}(/[0-9]{1,3})?",
        r#"\{("VNI":-?[0-9]{1,12},)?("VtepMAC":"[0-9a-f:]{0,18}")?,?\}?"#,
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_by_flannel_and_by_us(vni in 0_u32..1 << 24, mac in mac()) {
        let data = BackendData { vni: Some(vni), vtep_mac: mac };
        prop_assert_eq!(data.to_string().parse(), Ok(data));
        prop_assert_eq!(flannels_restored_mac(&data.to_string()), Some(mac.to_string()));
    }

    #[test]
    fn nothing_that_a_node_says_panics(
        values in proptest::array::uniform10(proptest::option::of(value())),
        pod_cidr in proptest::option::of(value()),
        pod_cidrs in proptest::collection::vec(value(), 0..4),
        prefix in prop_oneof![Just(DEFAULT_PREFIX.to_owned()), any::<String>()],
    ) {
        let keys = Keys::new(&prefix).unwrap_or_else(|_| Keys::new(DEFAULT_PREFIX).unwrap());
        let annotations: BTreeMap<String, String> = Annotation::ALL
            .into_iter()
            .zip(values)
            .filter_map(|(annotation, value)| Some((keys.key(annotation), value?)))
            .collect();
        let node = NodeView { annotations: &annotations, pod_cidr: pod_cidr.as_deref(), pod_cidrs: &pod_cidrs };
        if let Reading::Part { v4, v6 } = read(&node, &keys, 1) {
            for half in [v4, v6] {
                match half {
                    Half::Absent => {}
                    Half::Good(lease) => prop_assert_eq!(lease.subnet.trunc(), lease.subnet),
                    Half::Bad { values, .. } => {
                        prop_assert!(!values.is_empty());
                        for value in values {
                            prop_assert!(!value.to_string().contains('\n'));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_published_reads_as_the_lease_it_is(vni in 0_u32..1 << 24, mac in mac(), address in any::<[u8; 3]>()) {
        let [b, c, d] = address;
        let own = OwnLease {
            vni,
            v4: Some(OwnFamily { public_ip: Ipv4Addr::new(10, b, c, d).into(), vtep_mac: mac }),
            v6: None,
        };
        let keys = Keys::new("example.com/blue").unwrap();
        let annotations: BTreeMap<String, String> = publish(&BTreeMap::new(), &keys, &own)
            .differences
            .into_iter()
            .map(|difference| (difference.key, difference.now))
            .collect();
        let node = NodeView { annotations: &annotations, pod_cidr: Some("10.244.1.0/24"), pod_cidrs: &[] };
        let Reading::Part { v4: Half::Good(lease), v6: Half::Absent } = read(&node, &keys, vni) else {
            return Err(TestCaseError::fail("not a lease"));
        };
        prop_assert_eq!((lease.vtep_mac, lease.public_ip), (mac, Ipv4Addr::new(10, b, c, d).into()));
    }
}

#[test]
fn a_space_would_make_flannel_forget_its_address() {
    let spaced = r#"{"VNI": 1, "VtepMAC": "12:c6:65:89:b4:e3"}"#;
    assert_eq!(flannels_restored_mac(spaced), None);
    let more = r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3","By":"x"}"#;
    assert_eq!(flannels_restored_mac(more), None);
}
