//! `overlay-agent plan`.

mod kube;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use overlay_core::action::{Step, Subject};
use overlay_core::desired::{Desired, Peer};
use overlay_core::model::LeaseEvent;
use overlay_core::view::View;

use super::CHANGES;
use super::args::{NodeArgs, Source};
use super::settings::{net_conf, options, settings};
use crate::control::groups::{Group, groups};
use crate::control::pass::{self, Plan};
use crate::dataplane::check_pin_directory;
use crate::node::Node;
use crate::source::file::{Listing, read};
use crate::text::count;

pub(super) async fn plan(args: NodeArgs, detailed_exitcode: bool) -> Result<ExitCode> {
    let net_conf = net_conf(&args.flannel.net_config_path)?;
    check_pin_directory(&args.pin_dir)?;
    let (name, public_ip, leases) = match args.source().map_err(|text| anyhow!(text))? {
        Source::File(path) => {
            let name = args.node.clone().context("--node is missing")?;
            (name, None, listed(path)?)
        }
        Source::Kubernetes => {
            let seen = kube::look(&args, &net_conf).await?;
            (seen.node, seen.public_ip, seen.leases)
        }
    };
    let settings = settings(&args, net_conf, name, public_ip);
    let mut view = View::default();
    view.apply(leases);
    let mut node = Node::connect(options(&args, &settings, public_ip))?;
    let plan = pass::plan(&mut node, &view, &settings).await?;
    io::stdout()
        .write_all(render(&plan)?.as_bytes())
        .context("cannot write to standard output")?;
    let changes = detailed_exitcode && !plan.steps.is_empty();
    Ok(if changes {
        ExitCode::from(CHANGES)
    } else {
        ExitCode::SUCCESS
    })
}

/// The leases of files.
fn listed(path: &Path) -> Result<LeaseEvent> {
    match read(path) {
        Listing::Missing => bail!("{} does not exist (--leases)", path.display()),
        Listing::Empty => bail!("{} contains no *.yaml or *.yml file (--leases)", path.display()),
        Listing::Broken(error) => bail!(error),
        Listing::Leases { leases, warnings } => {
            for warning in warnings {
                log::warn!("{warning}");
            }
            Ok(LeaseEvent::Replace(leases))
        }
    }
}

/// The steps by what they concern, in the order in which each of these is reached first.
fn render(plan: &Plan) -> Result<String, fmt::Error> {
    let mut out = String::new();
    for problem in &plan.desired.problems {
        writeln!(out, "! {problem}")?;
    }
    if plan.steps.is_empty() {
        writeln!(
            out,
            "nothing to do: {} in place",
            count(plan.desired.peers.len(), "peer")
        )?;
        return Ok(out);
    }
    let mut order = Vec::new();
    let mut by_group: BTreeMap<Group, Vec<&Step>> = BTreeMap::new();
    for (group, step) in groups(&plan.steps, &plan.observed).into_iter().zip(&plan.steps) {
        if !by_group.contains_key(&group) {
            order.push(group);
        }
        by_group.entry(group).or_default().push(step);
    }
    for group in order {
        let steps = by_group.remove(&group).unwrap_or_default();
        let title = match group {
            Group::Device => format!("device {}", plan.desired.device.name),
            Group::Dataplane => "eBPF".to_owned(),
            Group::Fastpath => "connection tracking".to_owned(),
            Group::Peer(_) => peer_title(&plan.desired, &steps),
        };
        writeln!(out, "{title}:")?;
        for step in steps {
            let sign = if step.action.is_addition() { '+' } else { '-' };
            writeln!(out, "  {sign} {}  ({})", step.action, step.why)?;
        }
    }
    writeln!(
        out,
        "{} to do; nothing was changed",
        count(plan.steps.len(), "step")
    )?;
    Ok(out)
}

/// Which node the steps are about: the names of those whose addresses they mention.
fn peer_title(desired: &Desired, steps: &[&Step]) -> String {
    let names: Vec<_> = desired
        .peers
        .iter()
        .filter(|(subnet, peer)| {
            let is_of = |step: &&Step| names(&step.action.subject(), **subnet, peer);
            steps.iter().any(is_of)
        })
        .map(|(subnet, peer)| format!("{} {subnet}", peer.node))
        .collect();
    if names.is_empty() {
        "no longer a peer".to_owned()
    } else {
        format!("peer {}", names.join(", "))
    }
}

/// Whether what the subject is found by is the peer's: what else it names is what the peer gets, or loses.
fn names(subject: &Subject, subnet: IpNet, peer: &Peer) -> bool {
    match *subject {
        Subject {
            subnet: Some(named), ..
        } => named == subnet,
        Subject {
            overlay: Some(named), ..
        } => named == peer.gateway,
        Subject { mac: Some(named), .. } => named == peer.vtep_mac,
        Subject { underlay, .. } => underlay == Some(peer.public_ip),
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::model::{Dataplane, FamilyLease, FlowSettings, Lease, Settings};
    use overlay_core::net_conf::NetConf;

    use super::*;
    use crate::control::fake::FakeKernel;
    use crate::control::kernel::Kernel;

    fn settings() -> Settings {
        Settings {
            node: "worker-1".to_owned(),
            net_conf: NetConf::parse(r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}"#)
                .unwrap(),
            dataplane: Dataplane::Ebpf,
            log_level: 0,
            max_peers: 1000,
            fastpath: true,
            flows: FlowSettings::default(),
            public_ip: None,
        }
    }

    fn view(nodes: &[u8]) -> View {
        let lease = |n: &u8| Lease {
            node: format!("worker-{n}"),
            origin: format!("leases.yaml:{n}"),
            v4: Some(FamilyLease {
                subnet: format!("10.244.{n}.0/24").parse().unwrap(),
                public_ip: [192, 168, 0, *n].into(),
                vtep_mac: format!("02:00:00:00:00:0{n}").parse().unwrap(),
            }),
            v6: None,
        };
        let mut view = View::default();
        view.apply(LeaseEvent::Replace(nodes.iter().map(lease).collect()));
        view
    }

    #[tokio::test]
    async fn says_what_would_change_for_whom() {
        let mut kernel = FakeKernel::default();
        let plan = pass::plan(&mut kernel, &view(&[1, 2]), &settings())
            .await
            .unwrap();
        let text = render(&plan).unwrap();
        for part in [
            "device flannel.1:\n  + link add flannel.1 ",
            "\npeer worker-2 10.244.2.0/24:\n  + fdb replace ",
            "\neBPF:\n  + dataplane load",
            "\nconnection tracking:\n  + sysctl net.netfilter.nf_conntrack_tcp_be_liberal=1  (is 0, the fast path needs 1)",
            "nothing was changed\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing:\n{text}");
        }
        assert_eq!(kernel.attempts(), 0);

        let actions: Vec<_> = plan.steps.iter().map(|step| &step.action).collect();
        for result in kernel.execute(&actions).await {
            result.unwrap();
        }
        let plan = pass::plan(&mut kernel, &view(&[1, 2]), &settings())
            .await
            .unwrap();
        assert_eq!(render(&plan).unwrap(), "nothing to do: 1 peer in place\n");
        let plan = pass::plan(&mut kernel, &view(&[1]), &settings()).await.unwrap();
        let text = render(&plan).unwrap();
        assert!(
            text.contains(
                "no longer a peer:\n  - dataplane subnet delete 10.244.2.0/24  (no lease names it)"
            ),
            "{text}"
        );
    }
}
