//! A focused plan does what a plan from everything would do.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::generate::{Foreign, UNDERLAY, UNDERLAY_IFINDEX, facts, family, foreign, settings, with_own};
use super::{apply_all, lines};
use crate::desired::{Problem, desired};
use crate::diff;
use crate::focus::{Baseline, Changes, Standing, is_about_peers, plan};
use crate::model::{FamilyLease, Lease, LeaseEvent, NodeFacts, Settings};
use crate::model_kernel::ModelKernel;
use crate::observed::Observed;
use crate::view::View;

/// More than there are leases.
const LIMIT: usize = 64;

/// A node that is what its leases say, and what happens to the leases then.
#[derive(Clone, Debug)]
struct Story {
    settings: Settings,
    facts: NodeFacts,
    leases: Vec<Lease>,
    foreign: Foreign,
    /// Events that come together.
    batches: Vec<Vec<LeaseEvent>>,
}

fn event() -> impl Strategy<Value = LeaseEvent> {
    let node = || (0_usize..10).prop_map(|index| format!("node-{index}"));
    let upsert = |node: String, v4: Option<FamilyLease>, version: u8| {
        LeaseEvent::Upsert(Lease {
            origin: format!("l.yaml:{node}:{version}"),
            node,
            v4,
            v6: None,
        })
    };
    prop_oneof![
        6 => (node(), prop::option::weighted(0.95, family()), 0_u8..2)
            .prop_map(move |(node, v4, version)| upsert(node, v4, version)),
        2 => node().prop_map(|node| LeaseEvent::Remove { node }),
    ]
}

/// A lease that overlaps every other, so that whoever comes later is left out, or it is.
fn glutton() -> impl Strategy<Value = LeaseEvent> {
    family().prop_map(|family| {
        LeaseEvent::Upsert(Lease {
            node: "node-9".into(),
            origin: "l.yaml:glutton".into(),
            v4: Some(FamilyLease {
                subnet: "10.244.0.0/17".parse().unwrap(),
                ..family
            }),
            v6: None,
        })
    })
}

prop_compose! {
    fn story()(
        settings in settings(),
        facts in facts(),
        families in prop::collection::vec(prop::option::weighted(0.9, family()), 0..10),
        shuffled in any::<Index>(),
        foreign in foreign(),
        batches in prop::collection::vec(
            prop::collection::vec(prop_oneof![12 => event(), 1 => glutton()], 1..4),
            1..8,
        ),
    ) -> Story {
        let mut leases = with_own(families);
        let middle = shuffled.index(leases.len());
        leases.rotate_left(middle);
        Story { settings, facts, leases, foreign, batches }
    }
}

fn sorted<'p>(problems: impl IntoIterator<Item = &'p Problem>) -> Vec<Problem> {
    let mut problems: Vec<_> = problems.into_iter().cloned().collect();
    problems.sort();
    problems
}

/// The node after a first plan, beside what is somebody else's.
fn settled(story: &Story, view: &View) -> (ModelKernel, Baseline) {
    let Story { settings, facts, .. } = story;
    let wanted = desired(view, facts, settings).unwrap();
    let mut kernel = ModelKernel::new(Observed::default(), UNDERLAY, UNDERLAY_IFINDEX);
    let steps = diff::plan(&wanted, &kernel.observed).unwrap();
    apply_all(&mut kernel, &steps);
    let device = kernel.observed.device.as_mut().unwrap();
    device.addresses.extend(story.foreign.addresses.iter().copied());
    device.routes.extend(story.foreign.routes.iter().cloned());
    device.neighbours.extend(story.foreign.neighbours.iter().cloned());
    device.fdb.extend(story.foreign.fdb.iter().cloned());
    let baseline = Baseline {
        facts: facts.clone(),
        observed: kernel.observed.clone(),
        standing: Standing::new(view, &wanted),
    };
    (kernel, baseline)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    // Seen red when a node that left and came back in one batch had its problem told as over and as new.
    #[test]
    fn a_focused_plan_does_what_a_whole_one_does(story in story()) {
        let Story { settings, facts, .. } = &story;
        let mut view = View::default();
        view.apply(LeaseEvent::Replace(story.leases.clone()));
        let (mut kernel, mut baseline) = settled(&story, &view);
        for batch in &story.batches {
            let mut changes = Changes::default();
            for event in batch {
                changes.add(view.apply(event.clone()));
            }
            let whole = desired(&view, facts, settings).unwrap();
            let room = usize::try_from(settings.max_peers).unwrap();
            let Some(focused) = plan(&view, &changes, &baseline, settings, LIMIT) else {
                prop_assert!(whole.peers.len().max(baseline.standing.peers()) > room);
                return Ok(());
            };
            let about_peers = focused.steps.iter().all(|step| is_about_peers(&step.action));
            prop_assert!(about_peers, "{}", lines(&focused.steps));
            for step in &focused.steps {
                baseline.observed.apply(&step.action, &kernel.links());
            }
            apply_all(&mut kernel, &focused.steps);
            let before = sorted(baseline.standing.problems());
            let (over, new) = (sorted(&focused.verdicts.over), sorted(&focused.verdicts.new));
            baseline.standing.update(focused.verdicts);

            prop_assert_eq!(&baseline.observed, &kernel.observed);
            prop_assert_eq!(sorted(baseline.standing.problems()), sorted(&whole.problems));
            prop_assert_eq!(baseline.standing.peers(), whole.peers.len());
            prop_assert_eq!(&baseline.standing, &Standing::new(&view, &whole));
            let rest = diff::plan(&whole, &kernel.observed).unwrap();
            prop_assert!(rest.is_empty(), "{}then\n{}", lines(&focused.steps), lines(&rest));
            let after: BTreeSet<_> = whole.problems.iter().cloned().collect();
            let expected: Vec<_> = before.iter().filter(|problem| !after.contains(problem)).cloned().collect();
            prop_assert_eq!(over, expected);
            let expected: Vec<_> = after.into_iter().filter(|problem| !before.contains(problem)).collect();
            prop_assert_eq!(new, expected);

            let device = kernel.observed.device.as_ref().unwrap();
            prop_assert!(story.foreign.addresses.is_subset(&device.addresses));
            prop_assert!(story.foreign.routes.is_subset(&device.routes));
            prop_assert!(story.foreign.neighbours.is_subset(&device.neighbours));
            prop_assert!(story.foreign.fdb.is_subset(&device.fdb));
        }
    }

    #[test]
    fn what_was_done_is_what_is_observed(super::Scenario { desired, observed, .. } in super::scenario()) {
        let mut kernel = super::kernel(&observed);
        let mut kept = observed.clone();
        for step in diff::plan(&desired, &observed).unwrap() {
            kept.apply(&step.action, &kernel.links());
            kernel.apply(&step.action).unwrap();
            prop_assert_eq!(&kept, &kernel.observed, "{}", step);
        }
    }

    #[test]
    fn a_small_limit_means_everything_or_the_same(story in story(), limit in 0_usize..6) {
        let mut view = View::default();
        view.apply(LeaseEvent::Replace(story.leases.clone()));
        let (_, baseline) = settled(&story, &view);
        let mut changes = Changes::default();
        for event in &story.batches[0] {
            changes.add(view.apply(event.clone()));
        }
        if let Some(limited) = plan(&view, &changes, &baseline, &story.settings, limit) {
            prop_assert_eq!(Some(limited), plan(&view, &changes, &baseline, &story.settings, LIMIT));
        }
    }
}
