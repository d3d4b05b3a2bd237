//! What is on a hook, and other people's programs there.

use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use overlay_agent::dataplane::{AttachChoice, OBJECT, OBJECT_HASH};
use overlay_core::action::Hook;

use crate::sandbox::{Sandbox, command, device_of};

fn attach_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::VtepEgress => TcAttachType::Egress,
        Hook::VtepIngress | Hook::UnderlayIngress => TcAttachType::Ingress,
    }
}

impl Sandbox {
    /// The kernel's ids of the programs on a hook of `device`, in the order in which they run.
    pub(crate) fn programs_on(&self, device: &str, hook: Hook) -> Vec<u32> {
        match self.attach {
            AttachChoice::Tcx => {
                let (_, programs) = SchedClassifier::query_tcx(device, attach_type(hook)).unwrap();
                programs.iter().map(aya::programs::ProgramInfo::id).collect()
            }
            AttachChoice::Clsact => filters(device, hook),
            AttachChoice::Auto => panic!("the test must say which"),
        }
    }

    /// The id of our pinned program.
    pub(crate) fn our_program(&self, hook: Hook) -> u32 {
        let path = self
            .pin_dir
            .join("programs")
            .join(format!("{}-{OBJECT_HASH}", hook.program().name()));
        SchedClassifier::from_pin(path).unwrap().info().unwrap().id()
    }
}

/// The programs of the filters on a clsact hook, by priority.
pub(crate) fn filters(device: &str, hook: Hook) -> Vec<u32> {
    let direction = match hook {
        Hook::VtepEgress => "egress",
        Hook::VtepIngress | Hook::UnderlayIngress => "ingress",
    };
    let text = command("tc", &format!("-j filter show dev {device} {direction}"));
    if text.trim().is_empty() {
        return Vec::new();
    }
    let filters: serde_json::Value = serde_json::from_str(&text).unwrap();
    let id = |filter: &serde_json::Value| filter["options"]["prog"]["id"].as_u64();
    filters
        .as_array()
        .unwrap()
        .iter()
        .filter_map(id)
        .map(|id| u32::try_from(id).unwrap())
        .collect()
}

/// Programs of somebody else: loaded, attached, pinned nowhere. Detached when dropped.
pub(crate) struct Foreigner {
    object: Ebpf,
}

impl Foreigner {
    /// On every hook, at this priority (clsact), or after everything else (TCX).
    pub(crate) fn attach(sandbox: &Sandbox, priority: u16) -> Self {
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        for hook in Hook::ALL {
            let program = program(&mut object, hook);
            program.load().unwrap();
            let options = if sandbox.attach == AttachChoice::Tcx {
                TcAttachOptions::TcxOrder(LinkOrder::default())
            } else {
                // Whoever is first makes the qdisc.
                qdisc_add_clsact(device_of(hook)).ok();
                TcAttachOptions::Netlink(NlOptions {
                    priority,
                    handle: TcHandle::new(0, 1),
                    classid: None,
                })
            };
            program
                .attach_with_options(device_of(hook), attach_type(hook), options)
                .unwrap();
        }
        Self { object }
    }

    /// The kernel's id of its program.
    pub(crate) fn id(&mut self, hook: Hook) -> u32 {
        program(&mut self.object, hook).info().unwrap().id()
    }
}

fn program(object: &mut Ebpf, hook: Hook) -> &mut SchedClassifier {
    object
        .program_mut(hook.program().name())
        .unwrap()
        .try_into()
        .unwrap()
}
