//! `overlay-agent run`: what its ways to get leases have in common. They differ in the source, and in what tells others.

mod kube;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use overlay_core::model::{Dataplane, LeaseEvent};
use overlay_core::net_conf::{NetConf, device_name};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use super::args::{NodeArgs, Source};
use super::settings::{net_conf, options, settings};
use crate::control::state::State;
use crate::control::{self, pass::Controller};
use crate::dataplane::check_pin_directory;
use crate::health::{Health, Sources, Watched};
use crate::kube::publication::{self, Progress, Publication};
use crate::lock::{self, Locks};
use crate::node::Node;
use crate::pods;
use crate::source::LeaseSource;
use crate::source::file::FileSource;
use crate::subnet_env;

/// Lists that wait for the loop. Each is complete, so more than one is rare.
const LEASE_QUEUE: usize = 16;

/// Where leases come from, ready to be used.
enum Origin {
    File(PathBuf),
    Kubernetes(Box<kube::Prepared>),
}

pub(super) async fn run(args: NodeArgs) -> Result<()> {
    // First of all, so that a signal at any time is an orderly end; and health before anything that may wait.
    let signals = Signals::new()?;
    let health = Health::default();
    if let Some(address) = args.flannel.healthz() {
        health.serve(address).await?;
    }
    let net_conf = net_conf(&args.flannel.net_config_path)?;
    announce(&net_conf);
    let device = device_name(net_conf.backend.vni);
    check_pin_directory(&args.pin_dir)?;
    let _locks = Locks::acquire(Path::new(lock::DIRECTORY), &device, &args.pin_dir)?;
    let resync = Duration::from_secs(args.resync);
    // Before what may wait for the API server: with what an earlier run has left, pods that come and go are looked after.
    let pods = look_after_pods(&args, resync)?;
    let mut shutdown = pin!(signals.any());
    let (origin, name, public_ip) = match args.source().map_err(|text| anyhow!(text))? {
        Source::File(path) => {
            let name = args.node.clone().context("--node is missing")?;
            (Origin::File(path.to_owned()), name, None)
        }
        Source::Kubernetes => {
            let prepared = tokio::select! {
                prepared = kube::prepare(&args) => prepared?,
                () = &mut shutdown => return Ok(()),
            };
            let (name, public_ip) = (prepared.node.clone(), prepared.public_ip);
            log::info!("Created subnet manager: Kubernetes Subnet Manager - {name}");
            (Origin::Kubernetes(Box::new(prepared)), name, public_ip)
        }
    };
    let settings = settings(&args, net_conf, name, public_ip);
    let options = options(&args, &settings, public_ip);
    let iface = options.iface.clone();
    let mut node = Node::connect(options)?;
    log::info!(
        "overlay-agent {}: node {}, device {device}, leases from {}",
        env!("CARGO_PKG_VERSION"),
        settings.node,
        match &origin {
            Origin::File(path) => path.display().to_string(),
            Origin::Kubernetes(_) => "Kubernetes".to_owned(),
        }
    );
    let netlink = node.netlink();
    let kernel_events = node.events().await?;
    node.follow_program_logs();
    if let Some(pods) = pods {
        node.prepare_for(pods);
    }
    let (events, leases) = mpsc::channel(LEASE_QUEUE);
    let controller = Controller::new(Watched::new(node, health.watchdog()), settings.clone());
    let state = controller.state();
    let beside = async {
        match origin {
            Origin::File(path) => {
                health.wire(Sources {
                    state: state.clone(),
                    api: None,
                    publication: subnet_file(&args, state),
                });
                follow_files(path, resync, events).await;
            }
            Origin::Kubernetes(prepared) => {
                let inputs = kube::Inputs {
                    args,
                    settings,
                    netlink,
                    iface,
                    state: state.clone(),
                    publication: watch::Sender::default(),
                    api: watch::Sender::default(),
                    leases: events,
                };
                health.wire(Sources {
                    state,
                    api: Some(inputs.api.subscribe()),
                    publication: Some(inputs.publication.subscribe()),
                });
                kube::start(*prepared, inputs).await?;
            }
        }
        // The loop goes on with what it has.
        std::future::pending().await
    };
    tokio::select! {
        () = control::run(controller, leases, kernel_events, resync, shutdown) => Ok(()),
        result = beside => result,
    }
}

/// Starts to find the devices of pods and to look after them, at least every `resync`, unless the kernel's device does it
/// alone.
fn look_after_pods(args: &NodeArgs, resync: Duration) -> Result<Option<Arc<Notify>>> {
    if Dataplane::from(args.dataplane) != Dataplane::Ebpf {
        return Ok(None);
    }
    pods::start(pods::Options {
        pin_dir: args.pin_dir.clone(),
        attach: args.attach.into(),
        resync,
    })
    .map(Some)
}

/// flannel's lines about its configuration.
fn announce(net_conf: &NetConf) {
    let backend = &net_conf.backend;
    log::info!("Found network config - Backend type: vxlan");
    log::info!(
        "VXLAN config: VNI={} Port={} GBP={} Learning={} DirectRouting=false",
        backend.vni,
        backend.port.unwrap_or_default(),
        backend.gbp,
        backend.learning
    );
}

/// Files as the source of leases.
async fn follow_files(path: PathBuf, resync: Duration, events: mpsc::Sender<LeaseEvent>) {
    let source = FileSource::new(path, resync);
    if let Err(error) = source.run(events).await {
        log::error!("the lease source has ended, the last list stays in force until a restart: {error:#}");
    }
}

/// Writes subnet.env where leases come from files, if a flag says where. Nothing else is published then.
fn subnet_file(args: &NodeArgs, state: watch::Receiver<State>) -> Option<watch::Receiver<Publication>> {
    let path = args.flannel.subnet_file.clone()?;
    let (sender, receiver) = watch::channel(Publication {
        lease: Progress::Done,
        condition: Progress::Done,
        ..Publication::default()
    });
    let note = move |progress| publication::note(&sender, |all| &mut all.subnet_file, progress);
    tokio::spawn(subnet_env::keep(path, args.flannel.ip_masq, state, note));
    Some(receiver)
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let new = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            terminate: new(SignalKind::terminate())?,
            interrupt: new(SignalKind::interrupt())?,
        })
    }

    async fn any(mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        log::info!(
            "{name}: ending; device, routes and eBPF programs stay in place and keep forwarding \
             (`overlay-agent cleanup` removes them)"
        );
    }
}
