//! A real kube-apiserver with etcd, on the underlay of a testbed.
//!
//! Both run in namespaces of their own with an address that the nodes reach, and end with this process, however it
//! ends. Authorisation is as in a cluster (Node and RBAC, admission plugin `NodeRestriction`); there is no
//! controller manager, so nothing but the test, the agents and the server itself changes an object.
//!
//! ```no_run
//! use overlay_testbed::{Testbed, api_server::{ApiServer, ApiServerOptions, NodeObject}};
//!
//! # fn main() -> anyhow::Result<()> {
//! let testbed = Testbed::builder().nodes(1).build()?;
//! let server = ApiServer::start(&testbed, &ApiServerOptions::default())?;
//! server.create_node(&NodeObject::new("node-1").pod_cidr("10.244.1.0/24"))?;
//! server.apply(overlay_testbed::api_server::RBAC)?;
//! let node = testbed.node(1)?;
//! node.write_file("kubeconfig", &server.agent_kubeconfig()?)?;
//! # Ok(())
//! # }
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::exec::Process;
use crate::holder::{DIRECTORY, Holder};
use crate::space::Space;
use crate::testbed::Testbed;
use crate::wait::eventually;

mod access;
mod audit;
mod binaries;
mod client;
mod credentials;
mod etcd;
mod http;
mod node_object;
mod nodes;
mod processes;

pub use access::{RBAC, documents};
pub use audit::Request;
pub use binaries::{ASSETS_VARIABLE, Binaries};
pub use client::{ApiClient, Refusal};
pub use http::{Answer, get as http_get};
pub use node_object::{NodeObject, Weight};

use credentials::Credentials;

/// The port of the API server.
pub const PORT: u16 = 6443;

/// How long the server may take to be ready, also on a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How an API server is started.
#[derive(Clone, Debug)]
pub struct ApiServerOptions {
    /// Whether every request but the harness's own is written down, see [`ApiServer::requests`]. Default on.
    pub audit: bool,
    /// Whether watches are served from the server's memory, as usual. Without, they come from etcd, and a watch from
    /// before [`ApiServer::compact`] gets 410 at once. Default on.
    pub watch_cache: bool,
    /// Further arguments of kube-apiserver.
    pub arguments: Vec<String>,
}

impl Default for ApiServerOptions {
    fn default() -> Self {
        Self {
            audit: true,
            watch_cache: true,
            arguments: Vec::new(),
        }
    }
}

/// A running kube-apiserver with its etcd. Both end when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    binaries: Binaries,
    options: ApiServerOptions,
    address: Ipv4Addr,
    credentials: Credentials,
    client: ApiClient,
    server: Option<Process>,
    etcd: Option<Process>,
    space: Space,
    /// The underlay's namespace, and the server's port there.
    uplink: (Space, String),
    /// Last, for the processes above end before their namespaces.
    _holder: Holder,
}

impl ApiServer {
    /// Starts both on the underlay of `testbed` (which may have no nodes) and waits until the server is ready.
    ///
    /// # Errors
    ///
    /// When the binaries are missing (it says how to get them), the underlay is direct, or the server is not ready in
    /// time; the error contains the end of its log.
    pub fn start(testbed: &Testbed, options: &ApiServerOptions) -> Result<Self> {
        let binaries = Binaries::find()?;
        let guest = testbed.add_guest("api-server")?;
        let space = guest.holder.space()?;
        let credentials = Credentials::generate(guest.address)?;
        let directory = space.path_from_outside(Path::new(DIRECTORY));
        credentials.write(&directory)?;
        audit::write_policy(&directory)?;
        let client = ApiClient::new(&space, &credentials)?;
        let mut server = Self {
            binaries,
            options: options.clone(),
            address: guest.address,
            credentials,
            client,
            server: None,
            etcd: None,
            space,
            uplink: (testbed.fabric()?, guest.port),
            _holder: guest.holder,
        };
        server.resume()?;
        Ok(server)
    }

    /// Starts what is not running, on the same ports with the same data, and waits until the server is ready.
    ///
    /// # Errors
    ///
    /// When it is not ready in time; the error contains the ends of the logs.
    pub fn resume(&mut self) -> Result<()> {
        self.begin_resume()?;
        self.wait_ready()
    }

    /// Like [`Self::resume`], without waiting.
    ///
    /// # Errors
    ///
    /// When a process cannot be started.
    pub fn begin_resume(&mut self) -> Result<()> {
        if self.etcd.is_none() {
            self.etcd = Some(processes::etcd(&self.space, &self.binaries)?);
        }
        if self.server.is_none() {
            let server = processes::kube_apiserver(&self.space, &self.binaries, self.address, &self.options)?;
            self.server = Some(server);
        }
        Ok(())
    }

    /// Waits until the server is ready and its own namespaces (`default`, `kube-system`) exist.
    ///
    /// # Errors
    ///
    /// The ends of the logs, when it is not ready in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        let mut ended = None;
        let ready = eventually(READY_TIMEOUT, "the API server is ready", || {
            for (name, process) in [("etcd", &mut self.etcd), ("kube-apiserver", &mut self.server)] {
                if let Some(status) = process.as_mut().map(Process::ended).transpose()?.flatten() {
                    ended = Some(format!("{name} ended ({status})"));
                    return Ok(());
                }
            }
            self.client.get_text("/readyz")?;
            self.client.get("/api/v1/namespaces/default")?;
            self.client.get("/api/v1/namespaces/kube-system").map(drop)
        });
        match (ready, ended) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(ended)) => Err(anyhow::anyhow!(ended)),
            (Err(error), _) => Err(error),
        }
        .with_context(|| self.logs())
    }

    /// Kills the server (SIGKILL) and leaves etcd: every connection ends at once.
    ///
    /// # Errors
    ///
    /// When the kernel does not let it go.
    pub fn kill_server(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), |mut process| process.kill9())
    }

    /// Kills server and etcd (SIGKILL), as a power cut would.
    ///
    /// # Errors
    ///
    /// When the kernel does not let them go.
    pub fn kill_all(&mut self) -> Result<()> {
        self.kill_server()?;
        self.etcd.take().map_or(Ok(()), |mut process| process.kill9())
    }

    /// Stops the server in its tracks (SIGSTOP): connections stay open, and nothing answers, not even this harness.
    ///
    /// # Errors
    ///
    /// When the server is not running.
    pub fn freeze(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    ///
    /// When the server is not running.
    pub fn thaw(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGCONT)
    }

    /// Takes the server off the underlay without a word to anyone. The harness still reaches it.
    ///
    /// # Errors
    ///
    /// When the testbed is gone.
    pub fn cut(&self) -> Result<()> {
        self.set_uplink("down")
    }

    /// Ends [`Self::cut`].
    ///
    /// # Errors
    ///
    /// When the testbed is gone.
    pub fn reconnect(&self) -> Result<()> {
        self.set_uplink("up")
    }

    fn set_uplink(&self, state: &str) -> Result<()> {
        let (fabric, port) = &self.uplink;
        fabric.run(&format!("ip link set {port} {state}")).map(drop)
    }

    /// Address on the underlay.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Address for clients on the underlay: `https://192.168.0.251:6443`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", self.address)
    }

    /// The server's namespaces.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The administrator's client (`system:masters`); it reaches the server also after [`Self::cut`].
    #[must_use]
    pub fn client(&self) -> &ApiClient {
        &self.client
    }

    /// Another one, with a thread and connections of its own.
    ///
    /// # Errors
    ///
    /// When its thread cannot be started.
    pub fn another_client(&self) -> Result<ApiClient> {
        ApiClient::new(&self.space, &self.credentials)
    }

    /// Process ID of kube-apiserver, seen from the machine.
    ///
    /// # Errors
    ///
    /// When it is not running.
    pub fn pid(&self) -> Result<i32> {
        self.running()?.pid()
    }

    /// Version of the server, as in `v1.20.2`.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub fn version(&self) -> Result<String> {
        let version = self.client.get("/version")?;
        let text = version.get("gitVersion").and_then(Value::as_str);
        Ok(text
            .context("the server's /version has no gitVersion")?
            .to_owned())
    }

    fn running(&self) -> Result<&Process> {
        self.server.as_ref().context("the API server was stopped")
    }

    /// The ends of both logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let end = |name: &str| {
            let path = self.space.path_from_outside(&Path::new(DIRECTORY).join(name));
            let text = fs::read(&path).map_or_else(
                |error| format!("{}: {error}", path.display()),
                |bytes| String::from_utf8_lossy(&bytes).into_owned(),
            );
            let lines: Vec<&str> = text.lines().collect();
            lines
                .iter()
                .rev()
                .take(30)
                .rev()
                .copied()
                .collect::<Vec<_>>()
                .join("\n")
        };
        format!(
            "the end of etcd's log:\n{}\nthe end of kube-apiserver's log:\n{}",
            end(processes::ETCD_LOG),
            end(processes::SERVER_LOG)
        )
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}
