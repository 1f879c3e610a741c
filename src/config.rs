//! Flags, environment and `.env` become one checked [`Config`]; nothing downstream checks again.
//!
//! This is the only module that reads the environment.

mod sources;

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{ArgAction, Args, Parser, Subcommand};
use tracing_subscriber::filter::Targets;

use crate::{
    backups::{Confirm, Policy},
    mcp::Seal,
    qovery::{BaseUrl, Credentials},
    serve::http::{self, AllowedHost, AllowedOrigin, Tokens},
};
use sources::{ACCESS_TOKEN, ACCESS_TOKEN_FILE, STATE_KEY, STATE_KEY_FILE, Sources};
pub use sources::{Setting, Source};

/// Everything that the program needs to know before it starts.
#[derive(Debug)]
pub struct Config {
    /// What to do.
    pub command: Command,
    /// How to serve over HTTP, if that is what to do.
    pub http: http::Settings,
    /// Which Qovery to talk to.
    pub upstream: Upstream,
    /// What the operator allows.
    pub policy: Policy,
    /// What questions to a person are sealed with, where replicas share it.
    pub seal: Option<Seal>,
    /// What to log to standard error, and how.
    pub log: Log,
    /// Every setting that was given, for `check` to show.
    pub settings: Vec<Setting>,
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve MCP on standard input and output: what a host launches (the default)
    #[default]
    Stdio,
    /// Serve MCP over streamable HTTP, and the same operations as a REST API
    Http,
    /// Say whether this configuration would work; changes nothing
    Check,
}

/// Which Qovery to talk to.
#[derive(Debug)]
pub enum Upstream {
    /// The in-memory one, on loopback.
    Sandbox,
    /// The one at this address.
    Qovery {
        /// The only address that the key is sent to.
        base_url: BaseUrl,
        /// The key.
        credentials: Credentials,
    },
}

/// What to log, and how.
#[derive(Debug)]
pub struct Log {
    /// Levels by target.
    pub filter: Targets,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the program does not start: one message that names the setting and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Flags that do not fit, or a call for `--help` or `--version`.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A setting that does not fit.
    #[error("{setting} {problem}.")]
    Invalid {
        /// The setting, with its source.
        setting: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// No key.
    #[error(
        "QOVERY_API_KEY is not set{}. Set it to an API token from the Qovery console \
         (Settings > API tokens), or try the program without a key: --sandbox.",
        .instead.map_or_else(String::new, |name| format!("; {name} is, but this program does not read it"))
    )]
    NoKey {
        /// A variable that other programs take the same key from.
        instead: Option<&'static str>,
    },
    /// A variable that begins like ours and is none of ours.
    #[error("{name} is not a setting of this program. {}", did_you_mean(.meant.as_deref()))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The setting with the nearest name.
        meant: Option<String>,
    },
    /// A `.env` that happened to be there says how a key from elsewhere may be used.
    #[error(
        "{path} sets {variable} but not QOVERY_API_KEY: it would change how a key from elsewhere \
         may be used. If that is what you want, name the file: --env-file {path}."
    )]
    LentKey {
        /// The file.
        path: String,
        /// What it sets.
        variable: &'static str,
    },
    /// Two upstreams at once.
    #[error("--api-url does not go with --sandbox: choose one.")]
    SandboxElsewhere,
    /// An address that others can reach, and nothing that tells callers apart.
    #[error(
        "{setting} is not a loopback address, so anybody who reaches it could remove backups. Set \
         QOVERY_BACKUPS_ACCESS_TOKEN to a secret that callers must send, or listen on 127.0.0.1."
    )]
    OpenDoor {
        /// The setting, with its source.
        setting: String,
    },
    /// A `.env` file that cannot be read.
    #[error(
        "{path} could not be read: {problem}. Correct it, or name another file with --env-file."
    )]
    EnvFile {
        /// The file.
        path: String,
        /// Why, without a word of its contents.
        problem: String,
    },
}

/// List, add and safely remove the backups of databases hosted on Qovery, from an AI assistant.
///
/// An MCP host launches this program and talks to it over standard input and output, or reaches it
/// over HTTP. To see it work without a Qovery account, add --sandbox.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
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

/// The values are checked in [`Config`], which can name the variable that a wrong one came from.
#[derive(Args, Debug)]
struct Options {
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

    /// How many backups may be added and removed in an hour, by all callers together: so many at
    /// once, then one after another as the hour goes by; 0 for any number
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
    #[arg(hide_env_values = true)]
    audit_log: Option<PathBuf>,

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
    env_file: Option<PathBuf>,

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

impl Config {
    /// Reads the command line, the environment and `.env`.
    ///
    /// # Errors
    ///
    /// Any [`Error`]: a configuration that is wrong anywhere is not used in part.
    pub fn load() -> Result<Self, Error> {
        let sources = Sources::read()?;
        let policy = Policy {
            read_only: sources.parse("QOVERY_BACKUPS_READ_ONLY", boolean)?,
            keep_latest: sources.parse("QOVERY_BACKUPS_KEEP_LATEST", whole_number)?,
            confirm: sources.parse("QOVERY_BACKUPS_CONFIRM", Confirm::from_str)?,
            changes_per_hour: NonZeroU32::new(
                sources.parse("QOVERY_BACKUPS_CHANGES_PER_HOUR", whole_number)?,
            ),
            audit_log: match sources.source("QOVERY_BACKUPS_AUDIT_LOG") {
                Some(Source::Default) => None,
                _ => Some(sources.parse("QOVERY_BACKUPS_AUDIT_LOG", appendable)?),
            },
        };
        let log = Log {
            filter: sources.parse("QOVERY_BACKUPS_LOG", log_filter)?,
            format: sources.parse("QOVERY_BACKUPS_LOG_FORMAT", log_format)?,
        };
        let base_url = sources.parse("QOVERY_API_URL", BaseUrl::from_str)?;
        let mut key = None;
        let upstream = if sources.parse("QOVERY_BACKUPS_SANDBOX", boolean)? {
            if sources.source("QOVERY_API_URL") == Some(&Source::Flag) {
                return Err(Error::SandboxElsewhere);
            }
            Upstream::Sandbox
        } else {
            let (credentials, setting) = sources.credentials()?;
            key = Some(setting);
            Upstream::Qovery {
                base_url,
                credentials,
            }
        };
        let (http, tokens) = http_settings(&sources)?;
        let seal = match sources.secret(STATE_KEY, STATE_KEY_FILE)? {
            Some((setting, keys)) => {
                Some(Seal::parse(&keys).map_err(|error| setting.invalid(error))?)
            }
            None => None,
        };
        let command = sources.command();
        let settings = key
            .into_iter()
            .chain(tokens)
            .chain(sources.into_settings())
            .collect();
        Ok(Self {
            command,
            http,
            upstream,
            policy,
            seal,
            log,
            settings,
        })
    }
}

/// How to serve over HTTP; and the setting that gave the access tokens, masked.
fn http_settings(sources: &Sources) -> Result<(http::Settings, Option<Setting>), Error> {
    let tokens = sources.secret(ACCESS_TOKEN, ACCESS_TOKEN_FILE)?;
    let (tokens, setting) = match tokens {
        Some((mut setting, text)) => {
            let tokens = Tokens::parse(&text).map_err(|error| setting.invalid(error))?;
            setting.value = tokens.names().collect::<Vec<_>>().join(", ");
            (tokens, Some(setting))
        }
        None => (Tokens::default(), None),
    };
    let address = |variable| {
        let address: SocketAddr = sources.parse(variable, address)?;
        if tokens.is_empty() && !address.ip().is_loopback() {
            return Err(Error::OpenDoor {
                setting: sources.name(variable),
            });
        }
        Ok(address)
    };
    let mcp = address("QOVERY_BACKUPS_MCP_ADDR")?;
    let rest = if sources.parse("QOVERY_BACKUPS_NO_REST", boolean)? {
        None
    } else {
        Some(address("QOVERY_BACKUPS_REST_ADDR")?)
    };
    let settings = http::Settings {
        mcp,
        rest,
        allowed_hosts: sources.parse("QOVERY_BACKUPS_ALLOWED_HOST", list::<AllowedHost>)?,
        allowed_origins: match sources.source("QOVERY_BACKUPS_ALLOWED_ORIGIN") {
            Some(Source::Default) => Vec::new(),
            _ => sources.parse("QOVERY_BACKUPS_ALLOWED_ORIGIN", list::<AllowedOrigin>)?,
        },
        tokens,
        sessions: sources.parse("QOVERY_BACKUPS_SESSIONS", boolean)?,
    };
    Ok((settings, setting))
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "must be an IP address and a port, such as 127.0.0.1:9090")
}

/// Values with commas between them.
fn list<T: FromStr>(text: &str) -> Result<Vec<T>, T::Err> {
    text.split(',').map(|value| value.trim().parse()).collect()
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("must be true or false"),
    }
}

/// A file that can be appended to, or that can come to be. It is not created yet: a host may start
/// the program only to look at it.
fn appendable(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let problem = match OpenOptions::new().append(true).open(&path) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => return Ok(path),
        Ok(_) => "it is no file".to_owned(),
        Err(_) if !path.exists() && parent.is_dir() => return Ok(path),
        Err(error) => error.to_string(),
    };
    Err(format!(
        "names a file that cannot be appended to ({problem}): {text}"
    ))
}

fn whole_number<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse()
        .map_err(|_| "must be a whole number, such as 1")
}

fn log_filter(text: &str) -> Result<Targets, &'static str> {
    text.parse()
        .map_err(|_| "must be a level, or a list such as info,rmcp=debug")
}

fn log_format(text: &str) -> Result<LogFormat, &'static str> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json"),
    }
}

fn did_you_mean(meant: Option<&str>) -> String {
    match meant {
        Some(name) => format!("Did you mean {name}? Rename or remove it."),
        None => "Remove it; --help lists the settings.".to_owned(),
    }
}
