//! How the server is reached: listeners, what guards them, and how they drain.
//!
//! What must never live here: what a request means. That is for the interfaces.

pub mod http;
mod stdio;

pub use stdio::stdio;
