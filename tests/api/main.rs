//! Tests that drive the real program through its front door: a child process over pipes or sockets,
//! with the sandbox or a misbehaving server as its upstream. Nothing is shared between tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod arguments;
#[cfg(unix)]
mod audit;
mod check;
mod chores;
mod config;
mod confirm;
mod docs;
mod door;
#[cfg(unix)]
mod drain;
#[cfg(unix)]
mod ending;
mod guard;
mod helpers;
mod helpers_confirm;
mod helpers_http;
mod helpers_ledger;
mod http;
mod lifecycle;
mod network;
mod openapi;
mod outcome;
mod protocol;
mod rest;
mod secrets;
mod storm;
mod tolerance;
mod tools;
mod troubles;
mod upstream;
