//! An MCP server that lets an AI assistant list, add and safely remove the backups of a database
//! hosted on Qovery.
//!
//! # The house, from the ground
//!
//! | room | what lives there |
//! |---|---|
//! | [`telemetry`] | what an operator can watch: metrics, and whether Qovery answered lately |
//! | [`context`] | what goes down with a call |
//! | [`limits`] | every limit, and why |
//! | [`shares`] | what callers share of what there is only so much of |
//! | [`call`] | one call: who asks, on which face, and what became of it |
//! | [`qovery`] | the upstream on one page: client, types, credentials, failures |
//! | `clean` | other people's text, made fit to read |
//! | `json` | what JSON becomes in memory, told before it is read |
//! | [`backups`] | the rules that hold on every face: what must stay, who must agree, what is on record |
//! | [`mcp`] | the MCP face: tools, their words, the question to a person, both protocol eras |
//! | [`rest`] | the REST face: three operations, and their OpenAPI document |
//! | [`problem`] | failures over HTTP, as problem details |
//! | [`serve`] | how the server is reached, over stdio and HTTP; what guards it; how it drains |
//! | [`config`] | flags, environment and `.env`, checked once |
//! | [`check`] | the `check` command |
//! | [`sandbox`] | an in-memory Qovery on loopback, for newcomers and tests |
//!
//! A call goes down `serve` → `mcp` or `rest` → `backups` → `qovery` and back the same way: the door
//! lets it in, the faces parse and word, `backups` decides, `qovery` speaks HTTP. A [`call::Call`]
//! goes with it, and each room writes into it what only that room knows.
//!
//! # What always holds
//!
//! - `qovery` and `backups` know neither rmcp nor axum. (Deriving `JsonSchema` is the one concession.)
//! - `mcp` and `rest` never import each other.
//! - Only `config` reads the environment, but for the HTTP client's own proxy variables.
//! - While it serves, only rmcp writes to standard output. Logs go to standard error.
//! - No trait stands in front of the upstream: the client is concrete, the sandbox is a real server,
//!   and the seam between them is the base URL. The sandbox never uses the types of `qovery`.
//! - Ids are parsed once, at the edge, and written again in their hyphenated form. Nothing else ever
//!   reaches a path of Qovery's API.
//! - The key is exposed where it is read and where its header is built, nowhere else, and goes to one
//!   address.
//! - Nothing is removed but on the complete list of a moment ago, and no change of a database decides
//!   while another one of it is under way.
//! - A change goes out only once its intent is on record: in the log, and on the disk where the operator
//!   names a file. One that was sent is never dropped because its caller went away, and its outcome is
//!   looked up or called unknown.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test fails by panicking"
    )
)]

pub mod backups;
pub mod check;
mod clean;
pub mod config;
pub mod context;
mod json;
pub mod limits;
pub mod mcp;
pub mod problem;
pub mod process;
pub mod program;
pub mod qovery;
pub mod rest;
pub mod sandbox;
pub mod serve;
pub mod shares;
pub mod telemetry;
