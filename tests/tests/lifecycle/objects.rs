//! The kernel objects of an agent's node are flannel's, field by field.

use anyhow::ensure;
use overlay_testbed::{Node, eventually};
use serde_json::Value;

use crate::bed::{DEVICE, SOON, json, options, testbed, with_absent};

/// Takes out what may differ: the index, the mark, and the state of the IPv6 address check, which takes a second. (The
/// route to the address comes at its end, so one node may have it sooner.)
fn comparable(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for field in ["ifindex", "ifalias", "tentative"] {
                fields.remove(field);
            }
            for field in fields.values_mut() {
                *field = comparable(field.take());
            }
        }
        Value::Array(items) => {
            for item in items.iter_mut() {
                *item = comparable(item.take());
            }
            // Hash tables are listed in any order.
            items.sort_by_key(ToString::to_string);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}

fn dump(node: &Node, command: &str) -> Value {
    comparable(json(node, command).unwrap())
}

// Seen red with `txqueuelen(1000)` in the agent's creation of the device.
#[test]
fn an_agents_node_is_what_flannel_would_have_made_of_it() {
    let (hand, ours) = (testbed(2), testbed(2));
    let leases = with_absent(&hand, 3);
    let (hand, ours) = (hand.node(1).unwrap(), ours.node(1).unwrap());
    hand.configure_like_flannel(leases.entries()).unwrap();
    ours.write_leases(&leases).unwrap();
    let agent = ours.start_agent(&options()).unwrap();
    for command in [
        &format!("ip -d -j link show {DEVICE}"),
        &format!("ip -j addr show {DEVICE}"),
        "ip -4 -d -j route show table all",
        &format!("ip -6 -d -j route show table all dev {DEVICE}"),
        &format!("ip -d -j neigh show dev {DEVICE}"),
        &format!("bridge -d -j fdb show dev {DEVICE}"),
        "ip -d -j rule",
    ] {
        eventually(SOON, "the same objects", || {
            let (wanted, found) = (dump(hand, command), dump(ours, command));
            ensure!(
                found == wanted,
                "{command}\nours: {found:#}\nflannel's: {wanted:#}"
            );
            Ok(())
        })
        .unwrap();
    }
    let count = |command: &str| dump(ours, command).as_array().unwrap().len();
    assert_eq!(count(&format!("bridge -j fdb show dev {DEVICE}")), 4);
    assert_eq!(count(&format!("ip -4 -j route show dev {DEVICE}")), 4);
    agent.stop().unwrap();
}
