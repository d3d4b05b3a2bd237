//! From this node into the overlay. [`pod`] is where a pod's packets come in, [`vtep`] where the stack has routed them to
//! the VTEP device.

mod inner;
mod learn;
pub(crate) mod pod;
mod push;
mod size;
pub(crate) mod vtep;

pub(crate) use self::size::{InnerSize, segment_len};
