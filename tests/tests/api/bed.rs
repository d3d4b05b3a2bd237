//! A server that tests take turns with, and what each of them starts from.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use overlay_testbed::api_server::{NodeObject, RBAC, Request, Weight};
use overlay_testbed::{ApiServer, ApiServerOptions, Lease, Mac, Node, Testbed};

pub(crate) const KUBECONFIG: &str = "kubeconfig";
pub(crate) const NET_CONF: &str = "net-conf.json";
pub(crate) const DEVICE: &str = "flannel.1";

const NET_CONF_TEXT: &str = r#"{ "Network": "10.244.0.0/16", "Backend": { "Type": "vxlan" } }"#;

/// A server, and machines on its underlay.
pub(crate) struct Bed {
    /// Ends before the network that it is on.
    pub(crate) server: ApiServer,
    testbed: Testbed,
    /// How many requests the server had answered when this test began.
    before: usize,
    /// Indices of this test's machines.
    machines: Vec<u8>,
}

impl Bed {
    /// Starts a server with the documented rights, without machines.
    pub(crate) fn start() -> Self {
        let testbed = Testbed::builder().nodes(0).pods_per_node(1).build().unwrap();
        let server = ApiServer::start(&testbed, &ApiServerOptions::default()).unwrap();
        server.apply(RBAC).unwrap();
        Self {
            server,
            testbed,
            before: 0,
            machines: Vec::new(),
        }
    }

    /// A machine with a Node that has a podCIDR, and the rights of the agent's service account.
    pub(crate) fn machine(&mut self) -> Node {
        let node = self.bare_machine();
        let cidr = format!("{}/24", node.lease().subnet);
        let object = NodeObject::new(node.name()).pod_cidr(&cidr).weight(Weight::Bare);
        self.server.create_node(&object).unwrap();
        node
    }

    /// A machine without a Node.
    pub(crate) fn bare_machine(&mut self) -> Node {
        let node = self.testbed.add_node().unwrap().clone();
        self.machines.push(node.index());
        node.write_file(NET_CONF, NET_CONF_TEXT).unwrap();
        let kubeconfig = self.server.agent_kubeconfig().unwrap();
        node.write_file(KUBECONFIG, &kubeconfig).unwrap();
        node
    }

    /// Creates the Node of a machine that does not exist.
    pub(crate) fn create_absent(&self, lease: &Lease) {
        self.server.create_node(&absent_node(lease)).unwrap();
    }

    /// What the agent on `node` has asked the server for in this test.
    pub(crate) fn requests(&self, node: &Node) -> Vec<Request> {
        let source = node.address().to_string();
        let mut all = self.server.requests().unwrap();
        let own = all.split_off(self.before.min(all.len()));
        own.into_iter()
            .filter(|request| request.source == source)
            .collect()
    }

    /// How often the agent on `node` has asked for `verb` on `resource`, with success.
    pub(crate) fn count(&self, node: &Node, verb: &str, resource: &str) -> usize {
        let requests = self.requests(node);
        let matching = requests
            .iter()
            .filter(|request| request.is(verb, resource) && request.code < 400);
        matching.count()
    }

    fn begin(&mut self) {
        self.server.delete_all_nodes().unwrap();
        self.server.apply(RBAC).unwrap();
        self.before = self.server.requests().map_or(0, |requests| requests.len());
    }

    /// The last machine stays, so that the next one has another number, and thus another address.
    fn end(&mut self) {
        let last = self.machines.pop();
        for index in self.machines.drain(..) {
            self.testbed.remove_node(index).unwrap();
        }
        self.machines.extend(last);
    }
}

/// The lease of a machine that does not exist: `absent-<number>`.
pub(crate) fn absent(number: u8) -> Lease {
    Lease {
        node: format!("absent-{number}"),
        subnet: [10, 244, 200 + number, 0].into(),
        public_ip: [172, 16, 0, number].into(),
        vtep_mac: Mac([0x06, 0, 0, 0, 0, number]),
    }
}

/// Its Node.
pub(crate) fn absent_node(lease: &Lease) -> NodeObject {
    NodeObject::new(&lease.node)
        .pod_cidr(&format!("{}/24", lease.subnet))
        .lease(&lease.public_ip.to_string(), 1, &lease.vtep_mac.to_string())
}

static SHARED: Mutex<Option<Bed>> = Mutex::new(None);

/// The turn of one test.
pub(crate) struct Turn {
    bed: MutexGuard<'static, Option<Bed>>,
}

/// Waits for this test's turn with the shared server, on which there are no Nodes then.
pub(crate) fn turn() -> Turn {
    let mut bed = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    bed.get_or_insert_with(Bed::start).begin();
    Turn { bed }
}

impl Deref for Turn {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        self.bed.as_ref().unwrap()
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Bed {
        self.bed.as_mut().unwrap()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if thread::panicking() {
            // Prints what it knows; the next test shall not suffer from what this one broke.
            *self.bed = None;
        } else if let Some(bed) = self.bed.as_mut() {
            bed.end();
        }
    }
}
