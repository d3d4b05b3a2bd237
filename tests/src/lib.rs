//! The testbed: nodes with pods behind a bridge, an underlay between them, agents, traffic, captures and packets.
//!
//! A [`Testbed`] is a set of namespaces without any global name: each node is a process in its own network, mount
//! and PID namespace that ends as soon as this process does, however it ends (see [`holder`]). Any number of
//! testbeds can exist at once, and none leaves anything behind.
//!
//! ```no_run
//! use overlay_testbed::{AgentOptions, Testbed, traffic::{self, PingOptions}};
//!
//! # fn main() -> anyhow::Result<()> {
//! let testbed = Testbed::builder().nodes(2).pods_per_node(1).build()?;
//! let agents = testbed.start_agents(&AgentOptions::default())?;
//! let (from, to) = (testbed.pod(1, 1)?, testbed.pod(2, 1)?);
//! traffic::ping(from.space(), to.address(), &PingOptions::default())?.expect_lossless()?;
//! for agent in agents {
//!     agent.stop()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Tests should `unwrap`: a panic makes the testbed print the state of its nodes and the ends of their logs.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api_server;
pub mod bench;
pub mod bench_report;
mod bound;
pub mod capture;
pub mod control_plane_bench;
mod cpus;
pub mod demo;
pub mod detached;
pub mod exec;
pub mod flannel_node;
mod flow_payload;
pub mod flow_tcp;
pub mod flow_udp;
pub mod footprint;
pub mod holder;
pub mod inject;
pub mod leases;
mod lock;
pub mod node;
pub mod packet;
pub mod pod;
pub mod requirements;
pub mod space;
pub mod test_run_cost;
pub mod testbed;
pub mod traffic;
pub mod underlay;
pub mod wait;

pub use agent::{Agent, AgentOptions};
pub use api_server::{ApiServer, ApiServerOptions};
pub use bound::bound;
pub use capture::Capture;
pub use flannel_node::FlannelNode;
pub use footprint::Footprint;
pub use leases::{Lease, Leases};
pub use node::Node;
pub use packet::Mac;
pub use pod::{Pod, PodPlumbing};
pub use space::Space;
pub use testbed::{Builder, Testbed};
pub use underlay::{Offloads, Underlay};
pub use wait::eventually;
