//! An MCP server that lets an AI assistant list, add and safely remove the backups of a database
//! hosted on Qovery.
//!
//! # The path of a call
//!
//! ```text
//! host ── stdio | http ── mcp | rest ── backups ── qovery ── Qovery
//!            transport    interface      rules      client
//! ```
//!
//! **Context down, outcome up.** An immutable [`context::Context`] goes down with a call. What became of
//! the call comes back in what is returned. Each interface, [`mcp`] and [`rest`], counts and logs a call
//! once, from that.
//!
//! **One sequence for every change.** Additions and removals take the same steps in one function, in a
//! task that the process waits for when it ends: allowed? → lock the database → decide on fresh facts →
//! spend the allowance → record the intent → send → settle an unknown outcome → record the outcome →
//! return what was not spent. A change can be cancelled until it is sent and between its attempts. The
//! removals of one call share a lock, a decision and a reservation; each has its own record, request and
//! outcome, and the first failure stops the rest.
//!
//! # Modules, from the bottom up
//!
//! | module | contents |
//! |---|---|
//! | [`limits`] | every limit, and why |
//! | [`shutdown`] | the stages of a shutdown |
//! | `recent` | a bounded map, which forgets what was not used for longest |
//! | [`credentials`] | keys of Qovery's API |
//! | [`context`] | the context of a call: request id, caller, the caller's own key, deadline, cancellation |
//! | [`secret`] | secrets that are replaced when their file changes |
//! | [`telemetry`] | metrics, one log line per call, the log |
//! | `text` | untrusted text: sanitizing and truncating |
//! | [`dialog`] | a dialog of the operating system, which asks a person |
//! | [`sandbox`] | an in-memory Qovery on loopback, for newcomers and tests |
//! | [`qovery`] | the client of Qovery's API: types, failures |
//! | [`backups`] | the rules of both interfaces: which backups stay, changes, the audit trail |
//! | [`mcp`] | the MCP interface: tools, descriptions, results, the question to a person |
//! | [`rest`] | the REST interface: three operations, problem details, the OpenAPI document |
//! | `normalize` | odd messages of MCP clients, made valid before rmcp reads them |
//! | [`stdio`] | MCP over standard input and output |
//! | [`http`] | MCP over streamable HTTP, and REST: connections, middleware, authorization |
//! | [`config`] | flags, environment and `.env`, checked once |
//! | [`check`] | the `check` command |
//!
//! `main` wires them: configuration, log, signals, exit code.
//!
//! # Invariants
//!
//! - `qovery` and `backups` know neither rmcp nor axum. (Deriving `JsonSchema` is the one concession.)
//! - No module imports one below it in the table. `mcp` and `rest` never import each other.
//! - Only `config` reads the environment, except the HTTP client's own proxy variables.
//! - While it serves, only `stdio` writes to standard output. Logs go to standard error.
//! - No trait stands in front of the upstream: the client is concrete, the sandbox is a real server,
//!   and the seam is the base URL. The sandbox never uses the types of `qovery`.
//! - Ids are parsed once, at the edge, and written in their hyphenated form. Nothing else reaches a path
//!   of Qovery's API. A database's name is compared here and never sent.
//! - The key is exposed where it is read and where its header is built, and goes to one address. Where callers
//!   bring their keys, each request carries that of its call, and what is remembered is found by it.
//! - A removal is decided on a complete list of a moment ago, while no other change of the database runs.
//! - A change is sent only once its intent is on record: in the log, and on the disk where the operator
//!   names a file. Every intent gets an outcome: it is settled by the list, or recorded as unknown.
//! - A permit is acquired before the work and released when it is dropped.

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
pub mod config;
pub mod context;
pub mod credentials;
pub mod dialog;
pub mod http;
pub mod limits;
pub mod mcp;
mod normalize;
pub mod qovery;
mod recent;
pub mod rest;
pub mod sandbox;
pub mod secret;
pub mod shutdown;
pub mod stdio;
pub mod telemetry;
mod text;
