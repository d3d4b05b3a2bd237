//! flannel's Kubernetes contract (flannel v0.28.9, pkg/subnet/kube): how a Node says which pod subnet it carries and how
//! its VTEP is reached, and the texts that this node writes so that flannel reads them.
//!
//! | annotation, after the prefix | value |
//! |---|---|
//! | `kube-subnet-manager` | `true`: the node takes part |
//! | `backend-type` | `vxlan` |
//! | `backend-data`, `backend-v6-data` | `{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}` |
//! | `public-ip`, `public-ipv6` | underlay address of the VTEP |
//! | `public-ip-overwrite`, `public-ipv6-overwrite` | set by people: what the node writes to `public-ip`, `public-ipv6` |
//! | `node-public-ip`, `node-public-ipv6` | set by people: `--public-ip`, `--public-ipv6` of that node |

mod backend_data;
mod bad_value;
mod condition;
mod keys;
mod pod_cidr;
#[cfg(test)]
mod properties;
mod publish;
mod read;

pub use self::backend_data::{BackendData, BackendDataError};
pub use self::bad_value::BadValue;
pub use self::condition::network_available_patch;
pub use self::keys::{Annotation, DEFAULT_PREFIX, InvalidPrefix, Keys, can_matter};
pub use self::pod_cidr::pod_subnet_v4;
pub use self::publish::{Difference, OwnFamily, OwnLease, Published, publish};
pub use self::read::{Half, NodeView, Reading, read};

/// The backend whose leases this agent serves, as flannel writes it.
pub const BACKEND: &str = "vxlan";
