use super::*;

fn backend(members: &str) -> Result<NetConf, NetConfError> {
    NetConf::parse(&format!(
        r#"{{"Network": "10.244.0.0/16", "Backend": {{"Type": "vxlan"{members}}}}}"#
    ))
}

fn error(text: &str) -> String {
    NetConf::parse(text).expect_err(text).to_string()
}

#[test]
fn flannels_own_manifest() {
    let text = r#"{"Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan"}}"#;
    let conf = NetConf::parse(text).unwrap();
    assert_eq!(conf.network.to_string(), "10.244.0.0/16");
    assert_eq!(
        conf.backend,
        VxlanConf {
            vni: 1,
            port: None,
            mtu: None,
            gbp: false,
            learning: false
        }
    );
    assert_eq!(conf.backend.port_or_default(), 8472);
    assert_eq!(device_name(conf.backend.vni), "flannel.1");
}

#[test]
fn keys_match_as_in_go() {
    let text = r#"{"network": "10.1.2.3/8", "NETWORK": null, "SubnetLen": "ignored", "IPv6Network": 7,
        "backend": {"type": "host-gw"},
        "BACKEND": {"TYPE": "VXLan", "vni": 1, "VNI": 5, "vNI": 7, "port": 4789, "Mtu": 9000, "gbp": true,
                    "LEARNING": true, "MacPrefix": "0E-2A"}}"#;
    let conf = NetConf::parse(text).unwrap();
    assert_eq!(conf.network.to_string(), "10.0.0.0/8", "host bits are masked");
    let expected = VxlanConf {
        vni: 7,
        port: Some(4789),
        mtu: Some(9000),
        gbp: true,
        learning: true,
    };
    assert_eq!(conf.backend, expected, "the last of equal keys counts");
}

#[test]
fn zero_and_null_are_not_given() {
    let conf = backend(r#", "Port": 0, "MTU": 0, "VNI": null, "GBP": null, "DirectRouting": false"#).unwrap();
    assert_eq!(conf.backend, VxlanConf::default());
}

#[test]
fn limits_are_inclusive() {
    assert_eq!(backend(r#", "VNI": 0"#).unwrap().backend.vni, 0);
    assert_eq!(backend(r#", "VNI": 16777215"#).unwrap().backend.vni, 0x00ff_ffff);
    assert_eq!(backend(r#", "Port": 65535"#).unwrap().backend.port, Some(65535));
    assert_eq!(backend(r#", "MTU": 118"#).unwrap().backend.mtu, Some(118));
    assert_eq!(backend(r#", "MTU": 65535"#).unwrap().backend.mtu, Some(65535));
}

#[test]
fn values_out_of_range_name_key_value_and_range() {
    let cases = [
        (
            r#", "VNI": 16777216"#,
            "Backend.VNI: 16777216 is not allowed: expected a number from 0 to 16777215 (24 bits)",
        ),
        (r#", "VNI": -1"#, "Backend.VNI: -1 is not allowed"),
        (r#", "VNI": 1.0"#, "Backend.VNI: 1.0 is not allowed"),
        (r#", "VNI": "1""#, "Backend.VNI: \"1\" is not allowed"),
        (
            r#", "Port": 65536"#,
            "Backend.Port: 65536 is not allowed: expected a UDP port from 1 to 65535",
        ),
        (r#", "Port": 73936"#, "Backend.Port: 73936 is not allowed"),
        (
            r#", "MTU": 117"#,
            "Backend.MTU: 117 is not allowed: expected the underlay's MTU in bytes from 118",
        ),
        (r#", "MTU": 65536"#, "Backend.MTU: 65536 is not allowed"),
        (
            r#", "GBP": 1"#,
            "Backend.GBP: 1 is not allowed: expected true or false",
        ),
        (
            r#", "Learning": "yes""#,
            "Backend.Learning: \"yes\" is not allowed: expected true or false",
        ),
        (
            r#", "DirectRouting": true"#,
            "Backend.DirectRouting: true is not supported by this version: every peer is reached by VXLAN; remove the \
             key or set it to false",
        ),
    ];
    for (members, expected) in cases {
        let message = backend(members).unwrap_err().to_string();
        assert!(
            message.starts_with(expected),
            "{members}\n  says: {message}\n  want: {expected}"
        );
    }
}

#[test]
fn what_this_version_cannot_serve_is_one_clear_error() {
    let cases = [
        (
            r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}"#,
            "Backend.Type: \"host-gw\" is not supported",
        ),
        (
            r#"{"Network": "10.244.0.0/16"}"#,
            "Backend: an absent Backend, which means flannel's \"udp\" backend, is not",
        ),
        (
            r#"{"Network": "10.244.0.0/16", "Backend": {}}"#,
            "Backend.Type is missing: expected \"vxlan\"",
        ),
        (
            r#"{"Network": "10.244.0.0/16", "Backend": []}"#,
            "Backend: [] is not allowed: expected an object in braces",
        ),
        (
            r#"{"EnableIPv6": true, "Network": "10.244.0.0/16"}"#,
            "EnableIPv6: true is not supported by this version",
        ),
        (
            r#"{"EnableIPv4": false}"#,
            "EnableIPv4: false is not supported by this version",
        ),
        (
            r#"{"Backend": {"Type": "vxlan"}}"#,
            "Network is missing: expected an IPv4 network in CIDR notation",
        ),
        (
            r#"{"Network": "fd00::/48"}"#,
            "Network: \"fd00::/48\" is not allowed: expected an IPv4 network",
        ),
        (
            r#"{"Network": "10.244.0.0"}"#,
            "Network: \"10.244.0.0\" is not allowed",
        ),
        (
            r#"{"Network": "0.0.0.0/0"}"#,
            "Network: \"0.0.0.0/0\" is not allowed",
        ),
        (r#"{"Network": 10}"#, "Network: 10 is not allowed"),
        (
            "[]",
            "not valid JSON: invalid type: sequence, expected an object in braces at line 1 column 0",
        ),
        (
            "{\"Network\": \"10.244.0.0/16\"",
            "not valid JSON: EOF while parsing an object at line 1",
        ),
        ("", "not valid JSON: EOF while parsing a value at line 1 column 0"),
    ];
    for (text, expected) in cases {
        let message = error(text);
        assert!(
            message.starts_with(expected),
            "{text}\n  says: {message}\n  want: {expected}"
        );
    }
}
