//! Killed at any moment: whatever a process leaves behind, the next one ends where it should.

use std::env;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use overlay_agent::dataplane::{AttachChoice, Capacity, Dataplane};
use overlay_core::action::{DataplaneAction, Hook};

use crate::hooks::Foreigner;
use crate::lifecycle::age;
use crate::sandbox::{self, CAPACITY, Sandbox, attach, device_of, eventually, execute, expected};
use crate::with_each_mechanism;

const PIN_DIR: &str = "OVERLAY_TEST_PIN_DIR";
const ATTACH: &str = "OVERLAY_TEST_ATTACH";
/// Per mechanism and run; each run has other moments.
const KILLS: u32 = 12;
/// More than one [`round`] makes to the pin directory.
const CHANGES: u32 = 40;

with_each_mechanism!(killed_at_any_moment);

/// What the process does that is going to be killed, over and over: everything that makes or removes things.
fn round(sandbox: &Sandbox) {
    let elsewhere = DataplaneAction::Attach {
        hook: Hook::UnderlayIngress,
        device: "under1".to_owned(),
    };
    let mut dataplane = sandbox.open();
    execute(&mut dataplane, &sandbox::everything());
    age(sandbox);
    execute(&mut dataplane, &[DataplaneAction::Load]);
    execute(&mut dataplane, std::slice::from_ref(&elsewhere));
    let mut larger = sandbox.open_for(Capacity {
        peers: CAPACITY.peers * 2,
        ..CAPACITY
    });
    execute(&mut larger, &sandbox::everything());
    execute(&mut larger, &[DataplaneAction::Remove]);
}

/// A round without a kill leaves nothing. In the process that [`run_and_kill`] starts, this test is the victim: it finds
/// its sandbox in the environment and repeats the round until it is killed.
#[test]
fn a_round() {
    let Some(pin_dir) = env::var_os(PIN_DIR) else {
        return sandbox::run(AttachChoice::Tcx, |sandbox| {
            round(sandbox);
            assert!(!sandbox.pin_dir.exists(), "{:?}", sandbox.pinned());
        });
    };
    // Ends with the test, whatever ends that.
    set_pdeathsig(Signal::SIGKILL).unwrap();
    let attach = match env::var(ATTACH).unwrap().as_str() {
        "tcx" => AttachChoice::Tcx,
        _ => AttachChoice::Clsact,
    };
    let sandbox = Sandbox {
        pin_dir: pin_dir.into(),
        attach,
    };
    loop {
        round(&sandbox);
    }
}

/// A moment in the life of the victim: so many changes of the pin directory after its start, and so much later. Most of
/// its time goes by in the verifier, where a kill finds nothing of interest.
#[derive(Debug, Clone, Copy)]
struct Moment {
    changes: u32,
    later: Duration,
}

fn run_and_kill(sandbox: &Sandbox, moment: Moment) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::a_round", "--nocapture"])
        .env(PIN_DIR, &sandbox.pin_dir)
        .env(
            ATTACH,
            if sandbox.attach == AttachChoice::Tcx {
                "tcx"
            } else {
                "clsact"
            },
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut seen = sandbox.pinned();
    for _ in 0..moment.changes {
        let end = Instant::now() + Duration::from_secs(10);
        let changed = loop {
            let now = sandbox.pinned();
            if now != seen {
                break now;
            }
            assert!(
                Instant::now() < end,
                "the victim has done nothing for 10 s: {now:?}"
            );
        };
        seen = changed;
    }
    thread::sleep(moment.later);
    child.kill().unwrap();
    assert_eq!(
        child.wait().unwrap().signal(),
        Some(9),
        "the victim must run until it is killed"
    );
}

/// What the planner does, in short: observe, then only what is missing.
fn converge(dataplane: &mut Dataplane) {
    let observed = dataplane.observe().unwrap().unwrap_or_default();
    let wanted = expected();
    let mut plan = Vec::new();
    if !observed.compatible {
        plan.push(DataplaneAction::Load);
    }
    if observed.config != wanted.config
        || observed.peers != wanted.peers
        || observed.subnets != wanted.subnets
    {
        let (subnet, entry) = sandbox::subnet();
        plan.push(sandbox::set_peer());
        plan.push(DataplaneAction::SetSubnet { subnet, entry });
        plan.push(DataplaneAction::SetConfig(Box::new(sandbox::config())));
    }
    for hook in Hook::ALL {
        if observed.attached.get(&hook) != wanted.attached.get(&hook) {
            plan.push(attach(hook));
        }
    }
    execute(dataplane, &plan);
}

/// Numerical Recipes' generator: any spread will do.
struct Random(u32);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // The high bits are the better ones.
        u32::try_from((u64::from(self.0) * u64::from(end)) >> 32).unwrap()
    }
}

fn killed_at_any_moment(sandbox: &Sandbox) {
    let mut before = Foreigner::attach(sandbox, 1);
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    println!("seed {seed}");
    let mut random = Random(seed);
    for kill in 0..KILLS {
        let moment = Moment {
            changes: random.below(CHANGES),
            later: Duration::from_micros(u64::from(random.below(2_000))),
        };
        run_and_kill(sandbox, moment);

        let left = sandbox.pinned();
        let mut next = sandbox.open();
        // Every second time, the operator gives up instead.
        if kill % 2 == 0 {
            execute(&mut next, &[DataplaneAction::Remove]);
            assert!(
                !sandbox.pin_dir.exists(),
                "{moment:?}, left {left:?}: {:?}",
                sandbox.pinned()
            );
        } else {
            converge(&mut next);
            let observed = next.observe().unwrap().unwrap();
            assert_eq!(observed, expected(), "{moment:?}, left {left:?}");
        }
        for hook in Hook::ALL {
            let ours = (kill % 2 == 1).then(|| sandbox.our_program(hook));
            eventually(
                &format!("{hook:?}, {moment:?}, left {left:?}: only what should be there"),
                || {
                    let mut programs = sandbox.programs_on(device_of(hook), hook);
                    programs.retain(|program| *program != before.id(hook));
                    programs == Vec::from_iter(ours)
                },
            );
        }
        let elsewhere = || sandbox.programs_on("under1", Hook::UnderlayIngress);
        eventually("nothing is left on the other device", || elsewhere().is_empty());
    }
}
