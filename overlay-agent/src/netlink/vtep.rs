//! What peers know of the VTEP device that is there already.

use anyhow::{Context as _, Result};
use overlay_core::model::MacAddr;

use super::Netlink;

impl Netlink {
    /// The MAC address of the VXLAN device of this name, if there is one. One question to the kernel, however many peers
    /// the device has.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to tell.
    pub async fn vtep_mac(&self, name: &str) -> Result<Option<MacAddr>> {
        let link = self.socket.link_named(name).await;
        let link = link.with_context(|| format!("looking up the interface `{name}`"))?;
        Ok(link.filter(|link| link.vxlan.is_some()).and_then(|link| link.mac))
    }
}
