//! The real node: route netlink for the kernel side, BPF for the eBPF side.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use overlay_common::maps;
use overlay_core::action::{Action, DataplaneAction};
use overlay_core::model::{self, NodeFacts, Settings, Underlay};
use overlay_core::net_conf::device_name;
use overlay_core::observed::{Observed, ObservedDataplane};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::conntrack;
use crate::control::kernel::Kernel;
use crate::control::messages::Messages;
use crate::dataplane::{AttachChoice, Capacity, Dataplane, Mechanism, kernel_fib_flags};
use crate::facts;
use crate::netlink::{InterfaceChoice, Kept, Netlink, Place};

/// What decides how a node's kernel is reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the VTEP device.
    pub device: String,
    /// How the underlay device is found.
    pub iface: InterfaceChoice,
    /// UDP port of the overlay.
    pub port: u16,
    /// Which dataplane the operator asked for.
    pub dataplane: model::Dataplane,
    /// Where things are pinned.
    pub pin_dir: PathBuf,
    /// How programs are attached.
    pub attach: AttachChoice,
    /// Capacity of the maps.
    pub capacity: Capacity,
}

/// A connection to this node's kernel.
pub struct Node {
    options: Options,
    netlink: Netlink,
    /// `None` while BPF cannot be used.
    dataplane: Option<Dataplane>,
    fib_flags: u32,
    /// Where the overlay was put last.
    place: Arc<Mutex<Option<Place>>>,
    /// What was said about reading the eBPF side.
    unreadable: Arc<Mutex<Messages>>,
    /// Name of the underlay device, for the task that waits for changes.
    underlay: watch::Sender<Option<String>>,
    /// Wakes the loop that looks after pods, once there is one.
    pods: Option<Arc<Notify>>,
}

impl Options {
    /// For the device and port of `settings`.
    #[must_use]
    pub fn new(settings: &Settings, pin_dir: PathBuf) -> Self {
        let backend = &settings.net_conf.backend;
        Self {
            device: device_name(backend.vni),
            iface: InterfaceChoice::default(),
            port: backend.port_or_default(),
            dataplane: settings.dataplane,
            pin_dir,
            attach: AttachChoice::default(),
            capacity: Capacity {
                peers: settings.max_peers,
                flows: settings.flows.max,
            },
        }
    }
}

impl Node {
    /// Connects to the kernel of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// When netlink cannot be used, or this kernel cannot attach programs as the operator demands.
    pub fn connect(options: Options) -> Result<Self> {
        Self::with(Netlink::connect()?, options)
    }

    /// Reaches the kernel by `netlink`, and by BPF in the network namespace of the calling thread.
    fn with(netlink: Netlink, options: Options) -> Result<Self> {
        let fib_flags = kernel_fib_flags()?;
        let underlay = watch::Sender::new(options.iface.first_name().map(str::to_owned));
        let mut node = Self {
            options,
            netlink,
            dataplane: None,
            fib_flags,
            place: Arc::default(),
            unreadable: Arc::default(),
            underlay,
            pods: None,
        };
        if let Err(error) = node.ebpf() {
            // A demand that cannot be met is an error; otherwise the kernel's device does it alone, and each step that
            // needs BPF says why it fails.
            if node.options.attach == AttachChoice::Tcx {
                return Err(error);
            }
            log::debug!("{error:#}");
        }
        Ok(node)
    }

    /// The netlink side, for questions beside the loop's.
    #[must_use]
    pub fn netlink(&self) -> Netlink {
        self.netlink.clone()
    }

    /// Starts to listen for changes in the kernel. Many changes may be one event.
    ///
    /// # Errors
    ///
    /// When no socket can be had.
    pub async fn events(&self) -> Result<mpsc::Receiver<()>> {
        let (sender, receiver) = mpsc::channel(1);
        let mut underlay = self.underlay.subscribe();
        let iface = self.options.iface.first_name();
        let mut events = self.netlink.events(&self.options.device, iface).await?;
        let (netlink, device) = (self.netlink.clone(), self.options.device.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = events.changed() => {}
                    changed = underlay.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let name = underlay.borrow_and_update().clone();
                        match netlink.events(&device, name.as_deref()).await {
                            Ok(new) => events = new,
                            Err(error) => log::warn!("changes of the underlay are noticed late: {error:#}"),
                        }
                    }
                }
                // Full: an event waits already, and one is as good as many.
                if let Err(TrySendError::Closed(())) = sender.try_send(()) {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// Starts to hand what the eBPF programs log to this process's log.
    pub fn follow_program_logs(&self) {
        if let Some(dataplane) = &self.dataplane {
            tokio::spawn(dataplane.logs());
        }
    }

    /// Starts to load the programs, and tells the loop that looks after pods when they are there.
    pub fn prepare_for(&mut self, pods: Arc<Notify>) {
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.prepare();
        }
        self.pods = Some(pods);
    }

    /// Says that an action was carried out, to those whom it concerns.
    fn announce(&self, action: &DataplaneAction) {
        let concerns_pods = matches!(
            action,
            DataplaneAction::Load | DataplaneAction::Remove | DataplaneAction::SetConfig(_)
        );
        if let Some(pods) = self.pods.as_ref().filter(|_| concerns_pods) {
            pods.notify_one();
        }
    }

    /// The eBPF side; tried again each time as long as it cannot be had.
    fn ebpf(&mut self) -> Result<&mut Dataplane> {
        let Options {
            pin_dir,
            attach,
            capacity,
            ..
        } = &self.options;
        let open = || Dataplane::open(pin_dir.clone(), *attach, *capacity).context("cannot use eBPF");
        match &mut self.dataplane {
            Some(dataplane) => Ok(dataplane),
            none => Ok(none.insert(open()?)),
        }
    }

    /// Takes note of where the overlay is, and says when that is another place than before.
    fn put(&mut self, underlay: &Underlay) {
        let Underlay {
            name,
            ifindex,
            mtu,
            address,
        } = underlay;
        let now = Place {
            ifindex: *ifindex,
            address: *address,
        };
        match locked(&self.place).replace(now) {
            Some(before) if before == now => {}
            Some(before) => log::warn!(
                "the underlay is now {name} (index {ifindex}) with {address}: the interface with index {} no longer has {}. \
                 {} is made anew, and peers reach this node once its lease says {address}",
                before.ifindex,
                before.address,
                self.options.device
            ),
            None => {
                log::info!("underlay: {name} with {address}, MTU {mtu}");
                // flannel's lines.
                log::info!("Using interface with name {name} and address {address}");
                match self.options.iface.public_ip {
                    Some(public) => log::info!("Using {public} as external address"),
                    None => log::info!("Defaulting external address to interface address ({address})"),
                }
            }
        }
        self.underlay.send_if_modified(|watched| {
            let new = watched.as_ref() != Some(name);
            if new {
                *watched = Some(name.clone());
            }
            new
        });
    }

    /// What is pinned and attached. What cannot be read does not keep the kernel side from being looked after.
    fn observe_dataplane(&mut self) -> Option<ObservedDataplane> {
        let maps = has_maps(&self.options.pin_dir);
        let (found, failure) = match self.ebpf().map(|dataplane| dataplane.observe()) {
            Ok(Ok(found)) => (found, None),
            Ok(Err(error)) => (None, Some((log::Level::Error, error))),
            Err(error) if maps => (None, Some((log::Level::Warn, error))),
            // Without BPF nothing of ours can be pinned or attached.
            Err(error) => (None, Some((log::Level::Debug, error))),
        };
        let pin_dir = &self.options.pin_dir;
        let level = failure.as_ref().map_or(log::Level::Info, |(level, _)| *level);
        let said =
            failure.map(|(_, error)| (pin_dir.display().to_string(), unreadable(&error, pin_dir, maps)));
        let changes = locked(&self.unreadable).update(said.into_iter().collect());
        for text in changes.new {
            log::log!(level, "{text}");
        }
        for pin_dir in changes.over {
            log::info!("the eBPF side in {pin_dir} can be read again");
        }
        found
    }

    async fn port_is_shared(&self) -> Result<bool> {
        let others = self
            .netlink
            .vxlan_devices_on_port(self.options.port, &self.options.device)
            .await?;
        Ok(!others.is_empty())
    }
}

/// Whether maps of ours seem to be pinned, as far as can be told without BPF.
fn has_maps(pin_dir: &Path) -> bool {
    maps::PINNED.iter().all(|name| pin_dir.join(name).exists())
}

/// What to say when the eBPF side cannot be read.
fn unreadable(error: &anyhow::Error, pin_dir: &Path, maps: bool) -> String {
    let pin_dir = pin_dir.display();
    let stale = if maps {
        format!(
            ". The programs of an earlier run stay attached, forward by the entries that they have, and refuse peers that \
             they do not know, until this is repaired or `overlay-agent cleanup --pin-dir {pin_dir}` is run where BPF can \
             be used (the agent stopped)"
        )
    } else {
        String::new()
    };
    format!(
        "cannot read the eBPF side in {pin_dir}: {error:#}; the kernel's VXLAN device is looked after all the same{stale}"
    )
}

/// What two threads share. Each holds it for moments only.
fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel for Node {
    async fn facts(&mut self) -> Result<NodeFacts> {
        let place = *locked(&self.place);
        let kept = match place {
            Some(place) => Some(Kept::Chosen(place)),
            // So that a restart does not move the overlay, whatever default routes and addresses have come since.
            None => self
                .netlink
                .place_of(&self.options.device)
                .await?
                .map(Kept::Found),
        };
        let underlay = self.netlink.stable_underlay(&self.options.iface, kept).await?;
        self.put(&underlay);
        Ok(NodeFacts {
            underlay_prefixes: self.netlink.prefixes(underlay.ifindex).await?,
            smallest_route_mtu: self.netlink.smallest_route_mtu(underlay.ifindex).await?,
            routes_by_port: facts::multipath_by_port()? || self.netlink.rules_by_port().await?,
            underlay_is_ethernet: self.netlink.is_ethernet(underlay.ifindex).await?,
            underlay,
            local_port_range: facts::local_port_range()?,
            default_ttl: facts::default_ttl()?,
            fib_flags: self.fib_flags,
            port_shared: self.port_is_shared().await?,
            possible_cpus: facts::possible_cpus()?,
            realtime: facts::realtime(),
            conntrack: conntrack::read()?,
        })
    }

    async fn observe(&mut self) -> Result<Observed> {
        let device = self.netlink.observe_device(&self.options.device).await?;
        let dataplane = self.observe_dataplane();
        Ok(Observed { device, dataplane })
    }

    fn observe_in_background(
        &mut self,
    ) -> impl Future<Output = Result<(NodeFacts, Observed)>> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        let (options, underlay, netlink) =
            (self.options.clone(), self.underlay.clone(), self.netlink.clone());
        let (place, unreadable) = (Arc::clone(&self.place), Arc::clone(&self.unreadable));
        let dataplane = self.dataplane.as_ref().map(Dataplane::observer);
        // A thread starts in the network namespace of the one that starts it.
        let observe = async move || {
            let mut node = Self::with(netlink.another()?, options)?;
            (node.place, node.unreadable, node.underlay) = (place, unreadable, underlay);
            node.dataplane = dataplane.or(node.dataplane);
            Ok((node.facts().await?, node.observe().await?))
        };
        let started = thread::Builder::new().name("observer".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let seen = runtime
                .context("no runtime for an observation")
                .and_then(|runtime| runtime.block_on(observe()));
            // Whoever asked may be gone.
            sender.send(seen).ok();
        });
        async move {
            started.context("no thread for an observation")?;
            receiver.await.context("an observation ended without a result")?
        }
    }

    async fn execute(&mut self, actions: &[&Action]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(actions.len());
        let mut run = Vec::new();
        for action in actions {
            match action {
                Action::Kernel(action) => run.push(action),
                Action::Dataplane(action) => {
                    results.extend(self.netlink.execute_all(&self.options.device, &run).await);
                    run.clear();
                    results.push(self.ebpf().and_then(|ebpf| ebpf.execute(action)));
                    self.announce(action);
                }
                Action::SetConntrack(parameter) => {
                    results.extend(self.netlink.execute_all(&self.options.device, &run).await);
                    run.clear();
                    results.push(conntrack::set(*parameter));
                }
            }
        }
        results.extend(self.netlink.execute_all(&self.options.device, &run).await);
        results
    }

    fn dataplane_name(&self) -> String {
        match (self.options.dataplane, &self.dataplane) {
            (model::Dataplane::Kernel, _) | (_, None) => "kernel".to_owned(),
            (model::Dataplane::Ebpf, Some(dataplane)) => match dataplane.mechanism() {
                Mechanism::Tcx => "ebpf (tcx)".to_owned(),
                Mechanism::Clsact => "ebpf (clsact)".to_owned(),
            },
        }
    }
}
