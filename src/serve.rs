//! How the server is reached: listeners, what guards them, how messages are read, and how it drains.
//!
//! What must never live here: what a request means. That is for the interfaces.

mod calls;
pub mod http;
mod message;
mod stdio;

pub use stdio::stdio;
