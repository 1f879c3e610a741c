//! Flags, environment and `.env` become one checked [`Config`]; nothing downstream checks again.
//!
//! This is the only module that reads the environment.

mod cli;
mod proxy;
mod sources;

use std::{
    fs::{self, OpenOptions},
    io::ErrorKind,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Subcommand;
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
            audit_log: sources.parse("QOVERY_BACKUPS_AUDIT_LOG", audit_log)?,
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
            proxy::check(&base_url)?;
            Upstream::Qovery {
                base_url,
                credentials,
            }
        };
        let (http, tokens) = http_settings(&sources)?;
        let (seal, state_key) = match sources.secret(STATE_KEY, STATE_KEY_FILE)? {
            Some((mut setting, keys)) => {
                let seal = Seal::parse(&keys).map_err(|error| setting.invalid(error))?;
                "a secret".clone_into(&mut setting.value);
                (Some(seal), Some(setting))
            }
            None => (None, None),
        };
        let command = sources.command();
        let settings = key
            .into_iter()
            .chain(tokens)
            .chain(state_key)
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
fn audit_log(text: &str) -> Result<Option<PathBuf>, String> {
    if text == "none" {
        return Ok(None);
    }
    let path = PathBuf::from(text);
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let problem = match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_file() => "it is no file".to_owned(),
        Ok(_) => match OpenOptions::new().append(true).open(&path) {
            Ok(_) => return Ok(Some(path)),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == ErrorKind::NotFound && folder.is_dir() => {
            return Ok(Some(path));
        }
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
