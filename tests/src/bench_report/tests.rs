//! The report of generated runs: whole ones, and what a broken measurement leaves behind.

use crate::bench::result::{Entry, Machine, Mode, Run, Target, Wire, Workload};

use crate::test_run_cost::{Method, ProgramCost};

use super::floors::{Subject, checks, ratio};
use super::{render, write};

fn entry(workload: Workload, target: Target, mode: Mode, flows: u32, wire: Wire, median: f64) -> Entry {
    Entry {
        workload,
        target,
        mode,
        flows,
        wire,
        unit: workload.unit().to_owned(),
        median,
        min: median * 0.97,
        max: median * 1.02,
        rounds: 5,
    }
}

/// A run like a real one: every workload and mode, with 1 to 10,000 flows where there are flows.
fn whole_run() -> Run {
    let mut results = Vec::new();
    for workload in Workload::ALL {
        let flows: &[u32] = if matches!(workload, Workload::TcpRr | Workload::UdpRr) {
            &[1, 32, 1_000, 10_000]
        } else {
            &[1]
        };
        let wires: &[Wire] = if workload == Workload::TcpBulk {
            &[Wire::Tso, Wire::Segments]
        } else {
            &[Wire::Tso]
        };
        let targets: &[Target] = if workload == Workload::OutsideRr {
            &[Target::Pod]
        } else {
            &[Target::Pod, Target::Service]
        };
        for (target, wire, flows) in targets.iter().flat_map(|target| {
            wires
                .iter()
                .flat_map(move |wire| flows.iter().map(move |flows| (*target, *wire, *flows)))
        }) {
            for (mode, factor) in Mode::ALL.into_iter().zip([2.05, 1.35, 1.0, 1.01, 1.9]) {
                let size = 17_000.0 * factor * f64::from(flows).log10().mul_add(0.4, 1.0);
                if mode != Mode::Bare || workload != Workload::OutsideRr {
                    results.push(entry(workload, target, mode, flows, wire, size));
                }
            }
        }
    }
    Run {
        machine: Machine {
            kernel: "6.18.1".to_owned(),
            processor: "A processor <with> 2 & more \"threads\"".to_owned(),
            cpus: 2,
            started_at: 1_795_387_260,
            seconds: 812,
            agent: "overlay-agent 0.1.0".to_owned(),
            load_percent: 37,
        },
        setup: vec!["Two nodes, <one> pod each.".to_owned()],
        quick: false,
        results,
        programs: [
            ("pod_ingress", "miss, counted only", 41.0),
            ("pod_ingress", "SYN", 12.0),
            ("underlay_ingress", "accepted, 15,000 peers", 88.0),
        ]
        .map(|(program, case, nanoseconds)| ProgramCost {
            program: program.to_owned(),
            case: case.to_owned(),
            method: Method::Repeated,
            nanoseconds,
            min: nanoseconds * 0.9,
            max: nanoseconds * 1.2,
            rounds: 7,
        })
        .to_vec(),
        problems: Vec::new(),
    }
}

fn empty_run() -> Run {
    Run {
        machine: Machine::default(),
        setup: Vec::new(),
        quick: true,
        results: Vec::new(),
        programs: Vec::new(),
        problems: Vec::new(),
    }
}

#[test]
fn a_whole_run_has_every_plot() {
    let html = render(&whole_run()).unwrap();
    // Seven workloads, the ratios, four with numbers of flows, the programs.
    assert_eq!(html.matches("<svg ").count(), 7 + 1 + 4 + 1);
    assert_eq!(html.matches("</svg>").count(), 13);
    for name in [
        "TCP request/response",
        "Pod to outside the cluster",
        "underlay_ingress",
        "6.18.1",
    ] {
        assert!(html.contains(name), "{name}");
    }
    assert!(
        !html.contains("NaN") && !html.contains("inf\""),
        "a number is none"
    );
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let html = render(&whole_run()).unwrap();
    for word in ["<script", "<link", "src=", "@import", "url("] {
        assert!(!html.contains(word), "{word}");
    }
    let addresses = html.matches("http").count() - html.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(addresses, 0);
}

#[test]
fn text_is_escaped() {
    let mut run = whole_run();
    run.problems = vec!["<b>lost</b>".to_owned()];
    let html = render(&run).unwrap();
    assert!(html.contains("A processor &lt;with&gt; 2 &amp; more &quot;threads&quot;"));
    assert!(html.contains("&lt;b&gt;lost&lt;/b&gt;") && html.contains("do not rely on this run"));
}

#[test]
fn an_empty_run_says_so() {
    let html = render(&empty_run()).unwrap();
    for text in [
        "Nothing was measured",
        "was not measured",
        "A quick run",
        "to compare with",
    ] {
        assert!(html.contains(text), "{text}");
    }
    assert!(!html.contains("<svg "));
}

#[test]
fn broken_numbers_do_not_break_the_report() {
    let odd = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -0.0,
        -5.0,
        f64::MAX,
        f64::MIN_POSITIVE,
        1e15,
    ];
    for all in odd {
        let mut run = whole_run();
        for entry in &mut run.results {
            (entry.median, entry.min, entry.max) = (all, all, all);
        }
        for program in &mut run.programs {
            (program.nanoseconds, program.min, program.max) = (all, all, all);
        }
        render(&run).unwrap();
    }
    // One at a time, in every place, among results that are right.
    for one in odd {
        for mode in Mode::ALL {
            for field in 0..3 {
                let mut run = whole_run();
                for entry in run.results.iter_mut().filter(|entry| entry.mode == mode) {
                    *[&mut entry.median, &mut entry.min, &mut entry.max][field] = one;
                }
                let html = render(&run).unwrap();
                assert!(
                    !html.contains("NaN") && !html.contains("inf×"),
                    "{one} for {mode}"
                );
            }
        }
    }
}

#[test]
fn missing_modes_are_missing_and_not_guessed() {
    for absent in Mode::ALL {
        let mut run = whole_run();
        run.results.retain(|entry| entry.mode != absent);
        let html = render(&run).unwrap();
        let not_measured = html.contains("not measured");
        assert_eq!(not_measured, !matches!(absent, Mode::Hostgw), "without {absent}");
        run.results.retain(|entry| entry.mode == Mode::Fast);
        render(&run).unwrap();
    }
}

#[test]
fn a_ratio_is_that_of_the_medians_and_its_range_the_worst_and_the_best_case() {
    let of = |median: f64, min: f64, max: f64| Entry {
        min,
        max,
        ..entry(Workload::TcpRr, Target::Pod, Mode::Fast, 1, Wire::Tso, median)
    };
    let found = ratio(&of(200.0, 180.0, 220.0), &of(100.0, 90.0, 120.0)).unwrap();
    assert_eq!((found.median, found.low), (2.0, 1.5));
    assert!((found.high - 220.0 / 90.0).abs() < 1e-9);
    assert_eq!(ratio(&of(1.0, 1.0, 1.0), &of(0.0, 0.0, 0.0)), None);
    assert_eq!(ratio(&of(f64::NAN, 1.0, 1.0), &of(1.0, 1.0, 1.0)), None);
    // A smallest round of zero leaves no best case: the median stands for it.
    let open = ratio(&of(2.0, 1.0, 3.0), &of(1.0, 0.0, 2.0)).unwrap();
    assert_eq!(open.high, 2.0);
}

#[test]
fn floors_are_those_of_the_issue() {
    let run = whole_run();
    let floor = |workload, target, flows, mode| {
        Subject {
            workload,
            target,
            wire: Wire::Tso,
            flows,
        }
        .floor(mode)
    };
    assert_eq!(floor(Workload::TcpRr, Target::Service, 1, Mode::Fast), Some(1.8));
    assert_eq!(floor(Workload::UdpRr, Target::Pod, 10_000, Mode::Fast), Some(1.5));
    assert_eq!(floor(Workload::Udp64, Target::Pod, 1, Mode::Fast), Some(1.5));
    assert_eq!(floor(Workload::Udp1400, Target::Pod, 1, Mode::Fast), Some(1.7));
    assert_eq!(floor(Workload::TcpBulk, Target::Pod, 1, Mode::Fast), Some(1.0));
    assert_eq!(floor(Workload::TcpCrr, Target::Pod, 1, Mode::Fast), Some(0.97));
    assert_eq!(floor(Workload::OutsideRr, Target::Pod, 1, Mode::Slow), Some(0.98));
    let checks = checks(&run);
    assert!(checks.iter().all(|check| check.found.is_some()));
    let bare: Vec<_> = checks
        .iter()
        .filter(|check| check.against == Mode::Bare)
        .collect();
    assert_eq!(
        bare.len(),
        12,
        "both request/responses, two targets, three numbers of flows; 10,000 have another floor"
    );
    assert!(bare.iter().all(|check| check.met() == Some(true)));
    assert!(checks.iter().any(|check| check.met() == Some(true)));
}

#[test]
fn the_file_is_written_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.html");
    write(&empty_run(), &path).unwrap();
    write(&whole_run(), &path).unwrap();
    let html = std::fs::read_to_string(&path).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    let error = write(&empty_run(), &directory.path().join("none/report.html")).unwrap_err();
    assert!(error.to_string().contains("none/report.html"), "{error:#}");
}
