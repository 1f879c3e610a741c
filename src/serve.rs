//! How the server is reached: listeners, what guards them, how messages are read, and how it drains.
//!
//! What must never live here: what a request means. That is for the interfaces.

mod calls;
mod json;
mod message;
mod stdio;

pub use stdio::stdio;

/// The limits and the shutdown, for all that serves.
#[derive(Clone, Debug)]
pub struct Process {
    /// The limits.
    pub limits: std::sync::Arc<crate::limits::Limits>,
    /// The shutdown.
    pub shutdown: crate::shutdown::Shutdown,
}
