//! The system protocols: how a flow gets from node to node (seed 004, sections II and V; D12).
//!
//! - [`translate`]: the unknown capsule handler's questions ("which flow is this?") and what was refused;
//! - [`discovery`]: who is on a link, and farther away;
//! - [`liveness`]: whether neighbors are still there;
//! - [`download`]: fetches a tuple or a part in chunks, from the [`sources`] that a flow has.
//!
//! They are state machines without input or output; the node sends their requests and feeds them the
//! answers. Answering others' requests is in `node::serve`.

pub mod discovery;
pub mod download;
pub mod liveness;
pub mod sources;
pub mod translate;
