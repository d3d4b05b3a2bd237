//! The measurement of the programs ([`overlay_testbed::test_run_cost`]): each of its packets takes the way that it claims to
//! measure. The times of so few packets mean nothing.

use std::collections::BTreeSet;

use overlay_testbed::test_run_cost::{Options, measure, object};

#[test]
fn every_measured_packet_takes_the_way_that_is_measured() {
    let options = Options {
        rounds: 1,
        repeat: 10,
        singles: 2,
        ..Options::new(object().unwrap(), 0)
    };
    let costs = measure(&options).unwrap();
    let programs: BTreeSet<&str> = costs.iter().map(|cost| cost.program.as_str()).collect();
    let all = [
        "pod_egress",
        "pod_ingress",
        "underlay_ingress",
        "vtep_egress",
        "vtep_ingress",
    ];
    assert_eq!(programs, BTreeSet::from(all));
    assert!(costs.iter().all(|cost| cost.min <= cost.max));
}
