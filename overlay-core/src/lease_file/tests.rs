use proptest::prelude::*;

use ipnet::Ipv4Net;

use super::*;

const GOOD: &str = "\
leases:
  - node: worker-1
    subnet: 10.244.1.0/24
    publicIP: 192.168.0.1
    vtepMAC: 02:00:00:00:00:01
  - node: worker-2
    subnet: 10.244.2.0/24
    publicIP: 192.168.0.2
    vtepMAC: 12:34:56:12:34:56
    backendType: vxlan
";

fn error(text: &str) -> String {
    parse(text, "l.yaml").expect_err(text).to_string()
}

/// The good document with one piece replaced.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old));
    GOOD.replacen(old, new, 1)
}

#[test]
fn reads_leases_in_order_with_origin() {
    let file = parse(GOOD, "l.yaml").unwrap();
    assert!(file.ignored.is_empty());
    let [first, second] = &file.leases[..] else {
        panic!("{file:?}")
    };
    assert_eq!(
        (first.node.as_str(), first.origin.as_str()),
        ("worker-1", "l.yaml:2")
    );
    assert_eq!(
        (second.node.as_str(), second.origin.as_str()),
        ("worker-2", "l.yaml:6")
    );
    let family = second.v4.unwrap();
    assert_eq!(family.subnet.to_string(), "10.244.2.0/24");
    assert_eq!(family.public_ip.to_string(), "192.168.0.2");
    assert_eq!(family.vtep_mac.to_string(), "12:34:56:12:34:56");
    assert_eq!(second.v6, None);
}

#[test]
fn empty_lists_are_lists_and_empty_files_are_not() {
    for text in [
        "leases: []\n",
        "---\n",
        "---\nleases: []\n...\n",
        "# none yet\nleases: []",
    ] {
        assert_eq!(parse(text, "l.yaml"), Ok(LeaseFile::default()), "{text:?}");
    }
    for text in ["", "\n\n", "# leases:\n", "\u{feff}", "  \t\n# x"] {
        assert_eq!(
            error(text),
            "l.yaml: the file is empty: is it being written? Write `leases: []` for no leases",
            "{text:?}"
        );
    }
}

#[test]
fn leases_of_other_backends_are_ignored_whatever_they_contain() {
    let text = "leases:\n  - {node: a, backendType: host-gw, publicIP: 192.168.0.9}\n";
    let file = parse(text, "l.yaml").unwrap();
    assert!(file.leases.is_empty());
    assert_eq!(
        file.ignored,
        ["a (l.yaml:2) is ignored: its backend is host-gw, not vxlan"]
    );
}

#[test]
fn mistakes_name_line_field_and_what_is_allowed() {
    let cases = [
        (
            with("10.244.2.0/24", "10.244.2.7/24"),
            "l.yaml:7:13: leases[1].subnet: \"10.244.2.7/24\" has host bits set: write 10.244.2.0/24",
        ),
        (
            with("10.244.1.0/24", "10.244.1.0"),
            "l.yaml:3:13: leases[0].subnet: \"10.244.1.0\" is not allowed: expected an IPv4 subnet in CIDR notation, \
             like 10.244.1.0/24",
        ),
        (
            with("10.244.1.0/24", "fd00::/64"),
            "l.yaml:3:13: leases[0].subnet: \"fd00::/64\" is IPv6, which this version does not support: expected an \
             IPv4 subnet in CIDR notation, like 10.244.1.0/24",
        ),
        (
            with("192.168.0.1", "192.168.0"),
            "l.yaml:4:15: leases[0].publicIP: \"192.168.0\" is not allowed: expected the IPv4 address of the node's \
             VTEP in the underlay, like 192.168.0.1",
        ),
        (
            with("192.168.0.2", "fd00::2"),
            "l.yaml:8:15: leases[1].publicIP: \"fd00::2\" is IPv6, which this version does not support: expected the \
             IPv4 address of the node's VTEP in the underlay, like 192.168.0.1",
        ),
        (
            with("02:00:00:00:00:01", "03:00:00:00:00:01"),
            "l.yaml:5:14: leases[0].vtepMAC: \"03:00:00:00:00:01\" is not allowed: expected a unicast MAC address, \
             like 02:42:ac:11:00:02",
        ),
        (
            with("02:00:00:00:00:01", "02:00:00:00:00"),
            "l.yaml:5:14: leases[0].vtepMAC: \"02:00:00:00:00\" is not allowed: expected a unicast MAC address, like \
             02:42:ac:11:00:02",
        ),
        (
            with("worker-1", "\"\""),
            "l.yaml:2:11: leases[0].node: \"\" is not allowed: expected the name of a node, without spaces",
        ),
        (
            with("worker-1", "17"),
            "l.yaml:2:11: leases[0].node: found a number: expected the name of a node, without spaces; write it in \
             quotes if it looks like a number",
        ),
        (
            with("    subnet: 10.244.1.0/24\n", ""),
            "l.yaml:2:5: leases[0].subnet: missing: expected an IPv4 subnet in CIDR notation, like 10.244.1.0/24",
        ),
        (
            with("publicIP", "public-ip"),
            "l.yaml:4:5: leases[0]: unknown field \"public-ip\": expected node, subnet, publicIP, vtepMAC, \
             backendType",
        ),
        (
            "lease: []\n".into(),
            "l.yaml:1:1: unknown field \"lease\": expected leases",
        ),
        (
            "leases:\n".into(),
            "leases: found nothing: expected a list of leases; write `leases: []` for none",
        ),
        (
            "{}\n".into(),
            "l.yaml:1:1: leases: missing: expected a list of leases; write `leases: []` for none",
        ),
        (
            "leases: {}\n".into(),
            "l.yaml:1:9: leases: found a mapping: expected a list of leases",
        ),
        (
            "leases: [7]\n".into(),
            "l.yaml:1:10: leases[0]: found a number: expected a mapping with node, subnet",
        ),
        (
            "worker-1\n".into(),
            "l.yaml:1:1: found \"worker-1\": expected a mapping with leases",
        ),
        (with("10.244.1.0/24", "[a"), "l.yaml:"),
        (
            with("    subnet: 10.244.1.0/24", "    node: again"),
            "l.yaml:3:5: not a YAML lease list: duplicate",
        ),
        ("leases: []\n---\nleases: []\n".into(), "l.yaml:"),
    ];
    for (text, expected) in cases {
        let message = error(&text);
        assert!(
            message.contains(expected),
            "{text}\n  says: {message}\n  want: {expected}"
        );
    }
}

#[test]
fn half_a_file_is_never_a_shorter_list() {
    // Cut at any byte, the document is an error or ends exactly where a lease is complete.
    let all = parse(GOOD, "l.yaml").unwrap();
    for cut in 0..GOOD.len() {
        if let Ok(file) = parse(&GOOD[..cut], "l.yaml") {
            assert!(all.leases.starts_with(&file.leases), "cut at {cut}: {file:?}");
        }
    }
}

#[test]
fn bombs_fail_cleanly() {
    let aliases = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nleases: [*c]\n";
    let deep_flow = format!("leases: {}", "[".repeat(100_000));
    let deep_block = (0..5_000).fold(String::new(), |text, depth| text + &" ".repeat(depth) + "a:\n");
    let deep_keys = "? ".repeat(100_000);
    let wide = format!("leases:\n{}", "- a\n".repeat(300_001));
    let merge = "leases:\n  - <<: {node: a}\n";
    for text in [aliases, &deep_flow, &deep_block, &deep_keys, &wide, merge] {
        let message = error(text);
        assert!(message.len() < 300, "{message}");
    }
    let anchors =
        "not a YAML lease list: more than a lease list needs: at most 8 levels and 300000 values, no anchors";
    assert!(error(aliases).contains(anchors), "{}", error(aliases));
    assert!(error(&" ".repeat(MAX_FILE_BYTES + 1)).contains("at most 16777216 are read"));
}

#[test]
fn fifteen_thousand_leases_are_within_the_limits() {
    let leases: Vec<_> = (0..15_000u32)
        .map(|n| lease_of(n, &format!("node-{n}")))
        .collect();
    let file = parse(&render(&leases), "l.yaml").unwrap();
    assert_eq!(without_origin(file.leases), leases);
}

fn lease_of(seed: u32, node: &str) -> Lease {
    let [a, b, c, d] = seed.to_be_bytes();
    let subnet = Ipv4Net::new(std::net::Ipv4Addr::from(0x0a00_0000 | (seed & 0xffff) << 8), 24).unwrap();
    Lease {
        node: node.to_owned(),
        origin: String::new(),
        v4: Some(FamilyLease {
            subnet: IpNet::V4(subnet),
            public_ip: std::net::IpAddr::from([192, 168 | (b & 7), c, d]),
            vtep_mac: crate::model::MacAddr::new([2, 0, a, b, c, d]),
        }),
        v6: None,
    }
}

fn render(leases: &[Lease]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("leases:\n");
    for lease in leases {
        let FamilyLease {
            subnet,
            public_ip,
            vtep_mac,
        } = lease.v4.unwrap();
        // A name in double quotes reads as itself, whatever it looks like.
        let node = serde_json::to_string(&lease.node).unwrap();
        write!(
            text,
            "  - node: {node}\n    subnet: {subnet}\n    publicIP: {public_ip}\n    vtepMAC: {vtep_mac}\n"
        )
        .unwrap();
    }
    text
}

fn without_origin(mut leases: Vec<Lease>) -> Vec<Lease> {
    for lease in &mut leases {
        lease.origin.clear();
    }
    leases
}

proptest! {
    #[test]
    fn rendered_leases_read_back(entries in prop::collection::vec((any::<u32>(), "[a-z0-9.:#-]{1,20}"), 1..20)) {
        let leases: Vec<_> = entries.iter().map(|(seed, node)| lease_of(*seed, node)).collect();
        let file = parse(&render(&leases), "l.yaml").unwrap();
        prop_assert_eq!(without_origin(file.leases), leases);
    }

    #[test]
    fn random_text_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = parse(&text, "l.yaml") {
            prop_assert!(error.to_string().starts_with("l.yaml:"));
        }
    }

    #[test]
    fn mutated_documents_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, "[-:\\[\\]{}&*!|>'\"%@`#?,\\n \\t\\x00a-f0-9]{0,4}"), 1..6),
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, length, insert) in edits {
            let start = at.index(text.len() + 1);
            let end = (start + length).min(text.len());
            text.splice(start..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = parse(&text, "l.yaml") {
            let message = error.to_string();
            prop_assert!(message.starts_with("l.yaml:") && !message.contains('\n'), "{message}");
        }
    }
}
