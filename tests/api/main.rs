//! Tests of the program as its users run it: a child process over pipes or sockets, with the sandbox or
//! a misbehaving server as its upstream. Nothing is shared between tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod access;
mod app;
mod arguments;
#[cfg(unix)]
mod audit;
mod batch;
mod calls;
mod check;
mod clients;
mod config;
mod confirm;
mod connection;
#[cfg(target_os = "linux")]
mod dialog;
mod docs;
#[cfg(unix)]
mod drain;
mod edge;
#[cfg(unix)]
mod ending;
mod expect;
mod guard;
mod http;
mod keys;
mod lifecycle;
mod lists;
mod network;
mod oauth;
mod openapi;
mod outcome;
mod overview;
mod protocol;
mod rest;
mod secrets;
mod storm;
mod tolerance;
mod tools;
mod troubles;
mod upstream;
mod upstreams;
