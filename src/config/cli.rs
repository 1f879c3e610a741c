//! The command line, as it is given: flags, their variables, their defaults and their help.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser};

use super::Command;
use crate::qovery::BaseUrl;

/// List, add and safely remove the backups of databases hosted on Qovery, from an AI assistant.
///
/// An MCP host launches this program and talks to it over standard input and output, or reaches it
/// over HTTP. To see it work without a Qovery account, add --sandbox.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) options: Options,
}

const AFTER_HELP: &str = "\
The API key has no flag, because a command line can be read by others:
  QOVERY_API_KEY       An API token (qov_...) or a JWT
  QOVERY_API_KEY_FILE  A file that holds it, for mounted secrets

Callers of the HTTP ports send `Authorization: Bearer <token>` once there are access tokens, which
any address but a loopback one needs:
  QOVERY_BACKUPS_ACCESS_TOKEN       One token, or one a line as name:token
  QOVERY_BACKUPS_ACCESS_TOKEN_FILE  A file that holds them, for mounted secrets

Replicas of the HTTP server share a secret, so that one can take the answer to another's question:
  QOVERY_BACKUPS_STATE_KEY       At least 32 characters; to change it, the new one above the old one
  QOVERY_BACKUPS_STATE_KEY_FILE  A file that holds it, for mounted secrets

A flag wins over its variable, and that over a .env file in the working directory.";

/// The values are checked in [`Config`](super::Config), which can name the variable that a wrong one came from.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Use an in-memory Qovery with sample databases: no account, no key, nothing is real
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_SANDBOX",
        value_name = "BOOL"
    )]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(
        default_value = "false",
        hide_default_value = true,
        hide_env_values = true
    )]
    sandbox: String,

    /// List only: refuse to add or remove backups
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_READ_ONLY",
        value_name = "BOOL"
    )]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(
        default_value = "false",
        hide_default_value = true,
        hide_env_values = true
    )]
    read_only: String,

    /// How many of a database's newest backups are never removed; whatever the number, the newest
    /// one that has not failed never is
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_KEEP_LATEST",
        value_name = "N"
    )]
    #[arg(default_value = "1", hide_env_values = true)]
    keep_latest: String,

    /// Whether a person confirms each removal: auto (where the client can ask one), always (and
    /// nothing is removed where it cannot) or never
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_CONFIRM",
        value_name = "WHEN"
    )]
    #[arg(default_value = "auto", hide_env_values = true)]
    confirm: String,

    /// How many backups may be added and removed in any hour, by all callers together; 0 for any
    /// number
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_CHANGES_PER_HOUR",
        value_name = "N"
    )]
    #[arg(default_value = "60", hide_env_values = true)]
    changes_per_hour: String,

    /// A file to which each change is written, before it is made and after: one JSON object a line
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_AUDIT_LOG",
        value_name = "FILE"
    )]
    #[arg(default_value = "none", hide_env_values = true)]
    audit_log: String,

    /// Where the command http serves MCP, at /mcp
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_MCP_ADDR",
        value_name = "ADDRESS"
    )]
    #[arg(
        default_value = "127.0.0.1:9090",
        hide_env_values = true,
        help_heading = HTTP
    )]
    mcp_addr: String,

    /// Where the command http serves the REST API
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_REST_ADDR",
        value_name = "ADDRESS"
    )]
    #[arg(
        default_value = "127.0.0.1:8080",
        hide_env_values = true,
        help_heading = HTTP
    )]
    rest_addr: String,

    /// Serve MCP only
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_NO_REST",
        value_name = "BOOL"
    )]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(
        default_value = "false",
        hide_default_value = true,
        hide_env_values = true,
        help_heading = HTTP
    )]
    no_rest: String,

    /// A name under which callers reach the ports, repeatable: any port unless it names one
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_ALLOWED_HOST",
        value_name = "HOST"
    )]
    #[arg(action = ArgAction::Append, default_value = "localhost,127.0.0.1,[::1]")]
    #[arg(hide_env_values = true, help_heading = HTTP)]
    allowed_host: Vec<String>,

    /// A web origin whose pages may call the ports, repeatable: scheme, host and port, which may be *
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_ALLOWED_ORIGIN",
        value_name = "ORIGIN"
    )]
    #[arg(action = ArgAction::Append, default_value = "none")]
    #[arg(hide_env_values = true, help_heading = HTTP)]
    allowed_origin: Vec<String>,

    /// Keep sessions for MCP clients of the revisions before 2026-07-28
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_SESSIONS",
        value_name = "BOOL"
    )]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(
        default_value = "false",
        hide_default_value = true,
        hide_env_values = true,
        help_heading = HTTP
    )]
    sessions: String,

    /// Where Qovery's API is
    #[arg(long, global = true, env = "QOVERY_API_URL", value_name = "URL")]
    #[arg(default_value = BaseUrl::QOVERY, hide_env_values = true)]
    api_url: String,

    /// Read variables from this file instead of .env in the working directory
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_ENV_FILE",
        value_name = "FILE"
    )]
    #[arg(hide_env_values = true)]
    pub(super) env_file: Option<PathBuf>,

    /// What to log to standard error: a level, or target=level, or several with commas
    #[arg(long, global = true, env = "QOVERY_BACKUPS_LOG", value_name = "FILTER")]
    #[arg(default_value = DEFAULT_LOG, hide_env_values = true)]
    log: String,

    /// How a line of the log looks: text or json
    #[arg(
        long,
        global = true,
        env = "QOVERY_BACKUPS_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    #[arg(default_value = "text", hide_env_values = true)]
    log_format: String,
}

const HTTP: &str = "Options of the command http";

/// rmcp tells of every message at `info`.
const DEFAULT_LOG: &str = "info,rmcp=warn";
