//! An MCP server that lets an AI assistant list, add and safely remove the backups of a database
//! hosted on Qovery.
//!
//! # The way of a call
//!
//! ```text
//! host ── stdio | http ── mcp | rest ── backups ── qovery ── Qovery
//!               who, from where            rules      HTTP
//! ```
//!
//! **Context down, outcome up.** A [`context::Context`] goes down with a call and never changes on the
//! way. What became of the call comes back up in what is returned, and its entry point, [`mcp`] or the
//! HTTP server for [`rest`], counts and logs it once, from that.
//!
//! **One road for a change.** Additions and removals take the same steps in the same function, in a task
//! that the process waits for when it ends: allowed? → the database's lock → decide on fresh facts →
//! spend the allowance → record the intent → send → settle what is unknown → record the outcome → give
//! back what was not spent. Until it is sent, and between its attempts, it can be called off. Removals of
//! one call are one change: one lock, one decision and one reservation, then a record, a request and an
//! outcome for each, up to the first that is not made.
//!
//! # The house, from the ground
//!
//! | room | what lives there |
//! |---|---|
//! | [`limits`] | every limit, and why |
//! | [`context`] | what goes down with a call: who asks, until when, how it is called off |
//! | [`telemetry`] | what an operator can watch: a line and a count for each call, metrics |
//! | [`shares`] | what callers share of what there is only so much of |
//! | [`shutdown`] | how the process ends |
//! | `text` | untrusted text: sanitizing and truncating |
//! | [`sandbox`] | an in-memory Qovery on loopback, for newcomers and tests |
//! | [`qovery`] | the upstream on one page: client, types, credentials, failures |
//! | [`backups`] | the rules that hold on both interfaces: what must stay, who must agree, what is on record |
//! | [`mcp`] | the MCP interface: tools, their words, the question to a person, both protocol eras |
//! | [`rest`] | the REST interface: three operations, their OpenAPI document, failures as problem details |
//! | `normalize` | messages of clients, corrected and checked before rmcp reads them |
//! | [`stdio`] | MCP over standard input and output |
//! | [`http`] | both ports: connections, middleware, authorization, the MCP endpoint |
//! | [`config`] | every setting in one table; flags, environment and `.env`, checked once |
//! | [`check`] | the `check` command |
//! | [`program`] | what `main` runs: the wiring, the log, the signals, the exit code |
//!
//! # What always holds
//!
//! - `qovery` and `backups` know neither rmcp nor axum. (Deriving `JsonSchema` is the one concession.)
//! - No room imports one that stands below it in this list; `mcp` and `rest` never import each other.
//! - Only `config` reads the environment, but for the HTTP client's own proxy variables.
//! - While it serves, only `stdio` writes to standard output. Logs go to standard error.
//! - No trait stands in front of the upstream: the client is concrete, the sandbox is a real server,
//!   and the seam between them is the base URL. The sandbox never uses the types of `qovery`.
//! - Ids are parsed once, at the edge, and written again in their hyphenated form. Nothing else ever
//!   reaches a path of Qovery's API. A database's name is compared here and never sent.
//! - The key is exposed where it is read and where its header is built, nowhere else, and goes to one
//!   address.
//! - Nothing is removed but on the complete list of a moment ago, and no change of a database decides
//!   while another one of it is under way.
//! - A change goes out only once its intent is on record: in the log, and on the disk where the operator
//!   names a file. Every intent gets an outcome: what was sent is looked up, or called unknown.
//! - What there is only so much of is reserved before the work, and given back by a permit's drop.

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
pub mod http;
pub mod limits;
pub mod mcp;
mod normalize;
pub mod program;
pub mod qovery;
pub mod rest;
pub mod sandbox;
pub mod shares;
pub mod shutdown;
pub mod stdio;
pub mod telemetry;
mod text;
