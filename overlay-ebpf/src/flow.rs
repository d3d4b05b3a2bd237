//! What both directions of the fast path share: which flow a packet belongs to, whether what is known of the flow may be
//! used, and how a packet is followed through the stack.

pub(crate) mod end;
pub(crate) mod known;
pub(crate) mod packet;
pub(crate) mod retry;
pub(crate) mod rewrite;
pub(crate) mod ticket;
