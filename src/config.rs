//! Flags, environment and `.env` become one checked [`Config`]; nothing downstream checks again.
//!
//! This is the only module that reads the environment.

mod cli;
mod env_file;
mod secrets;

use std::{env, ffi::OsString, fmt, num::NonZeroU32, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::Targets;

use crate::{
    backups::Policy,
    http::{self, Tokens},
    mcp::Seal,
    qovery::{BaseUrl, Credentials},
    telemetry::LogFormat,
};
use cli::HttpOptions;
pub use cli::{Command, command};
use env_file::EnvFile;
pub use secrets::SECRETS;
use secrets::{ACCESS_TOKEN, API_KEY, STATE_KEY, Secret};

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
    /// The files that secrets were read from.
    pub secret_files: SecretFiles,
    /// Levels of the log by target.
    pub log_filter: Targets,
    /// How a line of the log is formatted.
    pub log_format: LogFormat,
    /// Every setting, for `check` to show.
    pub settings: Vec<SettingValue>,
    /// What is odd and does not prevent the start, for the log.
    pub warnings: Vec<String>,
    /// Whether a test shortens the limits.
    #[cfg(debug_assertions)]
    pub short_limits: bool,
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

/// The paths of the `_FILE` settings that are in use.
#[derive(Clone, Debug, Default)]
pub struct SecretFiles {
    /// Of the API key.
    pub api_key: Option<PathBuf>,
    /// Of the access tokens.
    pub access_tokens: Option<PathBuf>,
    /// Of the state key.
    pub state_key: Option<PathBuf>,
}

/// A setting with its value. Its `Display` form is the flag, or the variable with its source.
#[derive(Clone, Debug)]
pub struct SettingValue {
    /// Its variable.
    pub variable: String,
    /// Its flag, without the dashes.
    pub flag: Option<String>,
    /// Its value, or what may be shown of a secret.
    pub value: String,
    /// Where the value comes from.
    pub source: Source,
}

/// Where the value of a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The process's environment.
    Environment,
    /// A `.env` file.
    File {
        /// Which one.
        path: PathBuf,
        /// Whether it was found in the working directory, so that anyone may have written it.
        found: bool,
    },
    /// It is not set.
    Default,
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
    /// A variable, and the one of ours that it is nearly.
    #[error("{0} is not a setting of this program. Did you mean {1}? Rename or remove it.")]
    MisspeltVariable(String, String),
    /// A `.env` that was found in the working directory sets how a key from elsewhere is used.
    #[error(
        "{path} sets {variable}, but the key in use is not the QOVERY_API_KEY of {path}: it would change \
         how a key from elsewhere may be used. If that is what you want, name the file: --env-file {path}."
    )]
    UntrustedEnvFile {
        /// The file.
        path: String,
        /// What it sets.
        variable: String,
    },
    /// Two upstreams at once.
    #[error("--api-url does not go with --sandbox: choose one.")]
    SandboxElsewhere,
    /// A setting with an address that others can reach, without access tokens.
    #[error(
        "{0} is not a loopback address, so anybody who reaches it could remove backups. Set \
         QOVERY_BACKUPS_ACCESS_TOKEN to a secret that callers must send, or listen on 127.0.0.1."
    )]
    UnauthenticatedBind(String),
    /// The number of a line of a `.env` file that sets a variable of ours and cannot be read.
    #[error(
        "Line {0} of {1} is not NAME=VALUE, with quotes around a value that has blanks or backslashes. \
         Correct it, or name another file with --env-file."
    )]
    EnvLine(usize, String),
}

/// The prefix of our own variables.
const PREFIX: &str = "QOVERY_BACKUPS_";
/// What other programs call the key.
const OTHER_KEYS: [&str; 3] = [
    "QOVERY_API_TOKEN",
    "QOVERY_CLI_ACCESS_TOKEN",
    "Q_CLI_ACCESS_TOKEN",
];
/// What a `.env` file may always set.
const HARMLESS: [&str; 2] = ["QOVERY_BACKUPS_LOG", "QOVERY_BACKUPS_LOG_FORMAT"];

impl Config {
    /// Reads the command line, the environment and `.env`.
    ///
    /// # Errors
    ///
    /// Any [`Error`]: a configuration that is wrong anywhere is not used in part.
    pub fn load() -> Result<Self, Error> {
        let known = known_variables();
        let mut warnings = Vec::new();
        let file = read_env_file(&cli::settings(None)?, &known, &mut warnings)?;
        let file = file.as_ref();
        check_unknown_variables(file, &known, &mut warnings)?;
        let settings = cli::settings(file)?;
        let cli = cli::parse(file, &settings)?;

        let mut key = Secret::find(API_KEY, file)?;
        let mut tokens = Secret::find(ACCESS_TOKEN, file)?;
        let mut state_key = Secret::find(STATE_KEY, file)?;
        let source = |variable| find(&settings, variable).map(|setting| &setting.source);
        let sandbox = source("QOVERY_BACKUPS_SANDBOX");
        // Where the operator asks for the sandbox, the key is not used.
        let uses_key = !cli.sandbox || sandbox.is_some_and(Source::is_found);
        if let Some(key) = &key
            && uses_key
        {
            let secrets = [Some(key), tokens.as_ref(), state_key.as_ref()];
            let secrets = secrets.into_iter().flatten();
            let in_use = secrets.map(|secret| &secret.setting).chain(&settings);
            check_trust(&key.setting, in_use)?;
        }

        let upstream = if !cli.sandbox {
            let credentials = |text: &SecretString| Credentials::parse(text.expose_secret());
            Upstream::Qovery {
                base_url: cli.api_url,
                credentials: parse_secret(&mut key, credentials, Credentials::masked)?
                    .ok_or_else(no_key)?,
            }
        } else if source("QOVERY_API_URL") == Some(&Source::Flag) {
            return Err(Error::SandboxElsewhere);
        } else {
            key = None;
            Upstream::Sandbox
        };
        let names = |tokens: &Tokens| tokens.names().collect::<Vec<_>>().join(", ");
        let access_tokens = parse_secret(&mut tokens, Tokens::parse, names)?;
        let seal = parse_secret(&mut state_key, Seal::parse, |_| "a secret".to_owned())?;
        let path = |secret: &Option<Secret>| secret.as_ref()?.path.clone();
        let secret_files = SecretFiles {
            api_key: path(&key),
            access_tokens: path(&tokens),
            state_key: path(&state_key),
        };
        let http = http_settings(cli.http, access_tokens.unwrap_or_default(), &settings)?;
        let secrets = [key, tokens, state_key].into_iter().flatten();
        Ok(Self {
            command: cli.command.unwrap_or(Command::Stdio),
            http,
            upstream,
            policy: Policy {
                read_only: cli.read_only,
                keep_latest: cli.keep_latest,
                confirm: cli.confirm,
                changes_per_hour: NonZeroU32::new(cli.changes_per_hour),
                audit_log: cli.audit_log,
            },
            seal,
            secret_files,
            log_filter: cli.log,
            log_format: cli.log_format,
            settings: secrets
                .map(|secret| secret.setting)
                .chain(settings)
                .collect(),
            warnings,
            #[cfg(debug_assertions)]
            short_limits: cli.short_limits,
        })
    }
}

impl SettingValue {
    fn invalid(&self, problem: impl fmt::Display) -> Error {
        Error::Invalid {
            setting: self.to_string(),
            problem: problem.to_string(),
        }
    }

    /// For a setting that names a file. Its value may be the secret itself, and is not repeated.
    fn unreadable(&self, problem: &str) -> Error {
        self.invalid(format!(
            "names a file that could not be read ({problem}): give it the path of one"
        ))
    }
}

impl Source {
    fn is_found(&self) -> bool {
        matches!(self, Self::File { found: true, .. })
    }
}

impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, &self.flag) {
            (Source::Flag, Some(flag)) => write!(f, "--{flag}"),
            (source, _) => write!(f, "{} ({source})", self.variable),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::File { path, .. } => path.display().fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Every variable that is a setting.
fn known_variables() -> Vec<String> {
    let secrets = SECRETS
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}_FILE")]);
    let command = command();
    let arguments = command.get_arguments().filter_map(cli::variable);
    secrets.chain(arguments).collect()
}

fn read_env_file(
    settings: &[SettingValue],
    known: &[String],
    warnings: &mut Vec<String>,
) -> Result<Option<EnvFile>, Error> {
    let Some(setting) = find(settings, cli::ENV_FILE) else {
        return Ok(None);
    };
    let is_ours = |name: &str| name.starts_with(PREFIX) || known.iter().any(|known| known == name);
    let file = EnvFile::read(setting, is_ours, warnings)?;
    match &file {
        Some(file) if file.get(cli::ENV_FILE).is_some() => Err(Error::Invalid {
            setting: format!("{} ({})", cli::ENV_FILE, file.source),
            problem: "is in such a file: only the flag or the environment names one".to_owned(),
        }),
        _ => Ok(file),
    }
}

/// Refuses a misspelt variable, which might be one that restricts what the program does. Warns of others
/// with our prefix: Kubernetes and Docker make some for a service that is called `qovery-backups`.
fn check_unknown_variables(
    file: Option<&EnvFile>,
    known: &[String],
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let lossy = |text: OsString| text.to_string_lossy().into_owned();
    let in_environment = env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
    let in_file = file.into_iter().flat_map(|file| file.variables.clone());
    for (name, value) in in_environment.chain(in_file) {
        if !name.starts_with(PREFIX) || known.contains(&name) {
            continue;
        }
        let is_service = ["tcp://", "udp://"]
            .iter()
            .any(|scheme| value.starts_with(scheme));
        match known.iter().find(|known| is_misspelt(&name, known)) {
            Some(meant) if !is_service => {
                return Err(Error::MisspeltVariable(name, meant.clone()));
            }
            _ => warnings.push(format!("{name} is not a setting of this program")),
        }
    }
    Ok(())
}

fn is_misspelt(name: &str, known: &str) -> bool {
    // A share of equal characters that `READONLY` and `KEEP_LAST` have, and `MCP_PORT` does not.
    const THRESHOLD: f64 = 0.55;
    let names = name.strip_prefix(PREFIX).zip(known.strip_prefix(PREFIX));
    names.is_some_and(|(name, known)| {
        strsim::normalized_damerau_levenshtein(name, known) > THRESHOLD
    })
}

/// Refuses what a found file sets, unless the key in use is its own. It must not send the key or a caller
/// to another address, open the ports, weaken a rule, or replace Qovery by the sandbox. A key file that a
/// found file names may hold any key.
fn check_trust<'a>(
    key: &SettingValue,
    mut in_use: impl Iterator<Item = &'a SettingValue>,
) -> Result<(), Error> {
    if key.source.is_found() && key.variable == API_KEY {
        return Ok(());
    }
    let is_untrusted = |setting: &&SettingValue| {
        setting.source.is_found() && !HARMLESS.contains(&setting.variable.as_str())
    };
    match in_use.find(is_untrusted) {
        Some(setting) => Err(Error::UntrustedEnvFile {
            path: setting.source.to_string(),
            variable: setting.variable.clone(),
        }),
        None => Ok(()),
    }
}

fn no_key() -> Error {
    let mut others = OTHER_KEYS.into_iter();
    Error::NoKey {
        instead: others.find(|name| env::var_os(name).is_some()),
    }
}

/// Reads and parses a secret, if there is one. `shown` is what `check` may show of it.
fn parse_secret<T, E: fmt::Display>(
    secret: &mut Option<Secret>,
    parse: impl FnOnce(&SecretString) -> Result<T, E>,
    shown: impl FnOnce(&T) -> String,
) -> Result<Option<T>, Error> {
    let Some(secret) = secret else {
        return Ok(None);
    };
    let value = parse(&secret.read()?).map_err(|problem| secret.setting.invalid(problem))?;
    secret.setting.value = shown(&value);
    Ok(Some(value))
}

fn http_settings(
    options: HttpOptions,
    tokens: Tokens,
    settings: &[SettingValue],
) -> Result<http::Settings, Error> {
    let rest = (!options.no_rest).then_some(options.rest_addr);
    let mcp = (cli::MCP_ADDR, Some(options.mcp_addr));
    for (variable, address) in [mcp, (cli::REST_ADDR, rest)] {
        if tokens.is_empty() && address.is_some_and(|address| !address.ip().is_loopback()) {
            let setting = find(settings, variable).map_or_else(String::new, ToString::to_string);
            return Err(Error::UnauthenticatedBind(setting));
        }
    }
    Ok(http::Settings {
        mcp: options.mcp_addr,
        rest,
        allowed_hosts: options.allowed_host,
        allowed_origins: options.allowed_origin.into_iter().flatten().collect(),
        public_url: options.public_url,
        tokens,
    })
}

fn find<'a>(settings: &'a [SettingValue], variable: &str) -> Option<&'a SettingValue> {
    settings.iter().find(|setting| setting.variable == variable)
}
