//! Flags, environment and `.env` become one checked [`Config`]; nothing downstream checks again.
//!
//! This is the only module that reads the environment.

mod env_file;
mod proxy;
mod settings;
mod sources;

use std::{
    fs::{self, OpenOptions},
    io::ErrorKind,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
};

use reqwest::Url;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::{
    backups::{Confirm, Policy},
    http::{self, AllowedHost, AllowedOrigin, Tokens, TokensError},
    mcp::{Seal, SealError},
    qovery::{BaseUrl, Credentials, DatabaseId},
    telemetry::LogFormat,
};
pub use settings::{Kind, SETTINGS, Setting, command_line};
use sources::Sources;
pub use sources::{Given, Source};

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
    /// Every setting, for `check` to show.
    pub settings: Vec<Given>,
    /// What was skipped on the way here, for the log.
    pub warning: Option<String>,
    /// Whether a test shortens the limits.
    #[cfg(debug_assertions)]
    pub short_limits: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve MCP on standard input and output: what a host launches.
    Stdio,
    /// Serve MCP over streamable HTTP, and the same operations as a REST API.
    Http,
    /// Say whether this configuration would work.
    Check {
        /// The database whose backups are asked for, instead of the organizations.
        database: Option<DatabaseId>,
    },
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
    #[error("{name} is not a setting of this program. {}", did_you_mean(*.meant))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The setting with the nearest name.
        meant: Option<&'static str>,
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
    /// No thread for the log.
    #[error("The log cannot be written: {0}.")]
    Log(std::io::Error),
    /// A line of a `.env` file that cannot be read.
    #[error(
        "Line {line} of {path} is not NAME=VALUE, with quotes around a value that has blanks. \
         Correct it, or name another file with --env-file."
    )]
    EnvLine {
        /// The file.
        path: String,
        /// The line's number, without a word of its text.
        line: usize,
    },
}

impl Config {
    /// Reads the command line, the environment and `.env`.
    ///
    /// # Errors
    ///
    /// Any [`Error`]: a configuration that is wrong anywhere is not used in part.
    pub fn load() -> Result<Self, Error> {
        let matches = command_line().try_get_matches()?;
        let command = match matches.subcommand() {
            Some(("check", options)) => Command::Check {
                database: options.get_one("database").copied(),
            },
            Some(("http", _)) => Command::Http,
            _ => Command::Stdio,
        };
        let mut sources = Sources::read(&matches)?;
        let sandbox = sources.parse("QOVERY_BACKUPS_SANDBOX", boolean)?;
        // Whoever asks for the sandbox has no key to guard; a file that was found may not ask.
        if !sandbox || sources.get("QOVERY_BACKUPS_SANDBOX")?.source.is_found() {
            sources.refuse_lent_key()?;
        }
        let policy = Policy {
            read_only: sources.parse("QOVERY_BACKUPS_READ_ONLY", boolean)?,
            keep_latest: sources.parse("QOVERY_BACKUPS_KEEP_LATEST", whole_number)?,
            confirm: sources.parse("QOVERY_BACKUPS_CONFIRM", Confirm::from_str)?,
            changes_per_hour: NonZeroU32::new(
                sources.parse("QOVERY_BACKUPS_CHANGES_PER_HOUR", whole_number)?,
            ),
            audit_log: sources.parse("QOVERY_BACKUPS_AUDIT_LOG", |text| {
                unless_none(text, audit_log)
            })?,
        };
        let log = Log {
            filter: sources.parse("QOVERY_BACKUPS_LOG", log_filter)?,
            format: sources.parse("QOVERY_BACKUPS_LOG_FORMAT", log_format)?,
        };
        let base_url = sources.parse("QOVERY_API_URL", BaseUrl::from_str)?;
        let upstream = if !sandbox {
            let credentials = sources.credentials()?;
            proxy::check(&base_url)?;
            Upstream::Qovery {
                base_url,
                credentials,
            }
        } else if sources.get("QOVERY_API_URL")?.source == Source::Flag {
            return Err(Error::SandboxElsewhere);
        } else {
            Upstream::Sandbox
        };
        let http = http_settings(&mut sources)?;
        let seal = sources.secret("QOVERY_BACKUPS_STATE_KEY", |keys| {
            Ok::<_, SealError>((Seal::parse(keys)?, "a secret".to_owned()))
        })?;
        Ok(Self {
            command,
            http,
            upstream,
            policy,
            seal,
            log,
            warning: sources.warning.take(),
            #[cfg(debug_assertions)]
            short_limits: matches.get_flag("short-limits"),
            settings: sources.into_settings(),
        })
    }
}

fn http_settings(sources: &mut Sources) -> Result<http::Settings, Error> {
    let tokens = sources.secret("QOVERY_BACKUPS_ACCESS_TOKEN", |text| {
        let tokens = Tokens::parse(text)?;
        let names = tokens.names().collect::<Vec<_>>().join(", ");
        Ok::<_, TokensError>((tokens, names))
    })?;
    let tokens = tokens.unwrap_or_default();
    let address = |variable| {
        let address: SocketAddr = sources.parse(variable, address)?;
        if tokens.is_empty() && !address.ip().is_loopback() {
            return Err(Error::OpenDoor {
                setting: sources.get(variable)?.to_string(),
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
    Ok(http::Settings {
        mcp,
        rest,
        allowed_hosts: sources.parse("QOVERY_BACKUPS_ALLOWED_HOST", list::<AllowedHost>)?,
        allowed_origins: sources.parse("QOVERY_BACKUPS_ALLOWED_ORIGIN", |text| {
            unless_none(text, list::<AllowedOrigin>).map(Option::unwrap_or_default)
        })?,
        public_url: sources.parse("QOVERY_BACKUPS_PUBLIC_URL", |text| {
            unless_none(text, public_url)
        })?,
        tokens,
    })
}

/// The word for a setting that is not used.
fn unless_none<T, E>(text: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<Option<T>, E> {
    if text == "none" {
        return Ok(None);
    }
    parse(text).map(Some)
}

/// Without the slash at its end: paths are added to it.
fn public_url(text: &str) -> Result<String, &'static str> {
    let url = Url::parse(text).ok().filter(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    match url {
        Some(url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
        None => Err(
            "must be a URL such as https://backups.example.com, without a user, a query (?) or a \
             fragment (#)",
        ),
    }
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
fn audit_log(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let problem = match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_file() => "it is no file".to_owned(),
        Ok(_) => match OpenOptions::new().append(true).open(&path) {
            Ok(_) => return Ok(path),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == ErrorKind::NotFound && folder.is_dir() => {
            return Ok(path);
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

/// Levels, and levels by target. A word that is neither would silence everything.
fn log_filter(text: &str) -> Result<Targets, &'static str> {
    const PROBLEM: &str = "must be a level (off, error, warn, info, debug or trace), or a list of \
                           levels by target, such as info,rmcp=debug";
    let level = |text: &str| match text.trim() {
        "" => Err(PROBLEM),
        name if name.eq_ignore_ascii_case("warning") => Ok(LevelFilter::WARN),
        name => name.parse().map_err(|_| PROBLEM),
    };
    // A target is a path of Rust modules.
    let is_target = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
        !text.is_empty() && text.bytes().all(fits) && level(text).is_err()
    };
    let mut filter = Targets::new();
    for directive in text.split(',').map(str::trim) {
        filter = match directive.split_once('=') {
            None => filter.with_default(level(directive)?),
            Some((target, name)) if is_target(target.trim()) => {
                filter.with_target(target.trim(), level(name)?)
            }
            Some(_) => return Err(PROBLEM),
        };
    }
    Ok(filter)
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
