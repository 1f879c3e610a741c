//! Tests that drive the real program through its front door: a child process over pipes, with the
//! sandbox or a misbehaving server as its upstream. Nothing is shared between tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod arguments;
mod check;
mod config;
mod docs;
mod helpers;
mod lifecycle;
mod protocol;
mod secrets;
mod tools;
mod upstream;
