//! What the loop needs of a node.

use anyhow::Result;
use overlay_core::action::Action;
use overlay_core::model::NodeFacts;
use overlay_core::observed::Observed;

/// A node's kernel: what it is, what it holds, and the one way to change it.
#[expect(
    async_fn_in_trait,
    reason = "the loop runs on one thread and needs no Send bound"
)]
pub trait Kernel {
    /// What the agent must know of its node. Read before each plan, so that the agent follows the underlay.
    ///
    /// # Errors
    ///
    /// When it cannot be found out, for example because there is no default route yet.
    async fn facts(&mut self) -> Result<NodeFacts>;

    /// What the kernel holds.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    async fn observe(&mut self) -> Result<Observed>;

    /// Starts to find out what [`Kernel::facts`] and [`Kernel::observe`] tell, on a thread of its own. Meanwhile other
    /// methods may be called; the result may or may not show what they do.
    ///
    /// # Errors
    ///
    /// As of the two.
    fn observe_in_background(
        &mut self,
    ) -> impl Future<Output = Result<(NodeFacts, Observed)>> + Send + 'static;

    /// Carries out actions, one after the other; a failure does not keep the next from being tried. One result each: an
    /// error when the kernel refuses.
    async fn execute(&mut self, actions: &[&Action]) -> Vec<Result<()>>;

    /// Which dataplane carries packets, for people: `ebpf (tcx)`, `kernel`.
    fn dataplane_name(&self) -> String;
}
