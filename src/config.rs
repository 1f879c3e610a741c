//! Flags, environment and `.env` become one checked [`Config`]; nothing downstream checks again.
//!
//! This is the only module that reads the environment.

mod cli;
mod env_file;
mod secrets;

use std::{env, ffi::OsString, fmt, io, path::PathBuf, sync::Arc};

use chrono::TimeDelta;
use clap::{FromArgMatches, error::ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::Targets;

use crate::{
    backups::{AuditLog, Confirm, Policy},
    dialog::Dialog,
    http::{self, OAuth, Tokens},
    mcp::Seal,
    qovery::{BaseUrl, Credentials, CredentialsError, mask_keys},
    secret::Reloadable,
    telemetry::LogFormat,
};
use cli::HttpOptions;
pub use cli::{Command, command};
use env_file::EnvFile;
pub use secrets::SECRETS;
use secrets::{ACCESS_TOKEN, API_KEY, STATE_KEY, Secret};

/// Why the program does not start: one message that names the setting and the remedy, or the text of
/// `--help` or `--version`.
pub type Error = clap::Error;

/// Everything that the program needs to know before it starts.
#[derive(Debug)]
pub struct Config {
    /// What to do.
    pub command: Command,
    /// How to serve over HTTP, if that is what to do.
    pub http: http::Settings,
    /// Which Qovery to talk to; without one, the sandbox.
    pub upstream: Option<Upstream>,
    /// What the operator allows.
    pub policy: Policy,
    /// What questions to a person are sealed with, where replicas share it.
    pub seal: Option<Seal>,
    /// Levels of the log by target.
    pub log_filter: Targets,
    /// How a line of the log is formatted.
    pub log_format: LogFormat,
    /// The dialog that asks a person over stdio, or why there is none.
    pub dialog: Result<Dialog, &'static str>,
    /// Every setting, for `check` to show.
    pub settings: Vec<SettingValue>,
    /// What is odd and does not prevent the start, for the log.
    pub warnings: Vec<String>,
    /// Whether a test shortens the limits.
    #[cfg(debug_assertions)]
    pub short_limits: bool,
}

/// Qovery's API.
#[derive(Debug)]
pub struct Upstream {
    /// The only address that the key is sent to.
    pub base_url: BaseUrl,
    /// The key, unless callers bring theirs.
    pub credentials: Option<Arc<Reloadable<Credentials>>>,
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

/// The prefix of our own variables.
const PREFIX: &str = "QOVERY_BACKUPS_";
/// What a `.env` file may always set.
const HARMLESS: [&str; 2] = ["QOVERY_BACKUPS_LOG", "QOVERY_BACKUPS_LOG_FORMAT"];

impl Config {
    /// Reads the command line, the environment and `.env`.
    ///
    /// # Errors
    ///
    /// A configuration that is wrong anywhere is not used in part.
    pub fn load() -> Result<Self, Error> {
        let mut warnings = Vec::new();
        let command = cli::command();
        let matches = cli::matches(command.clone())?;
        let file = match find(&cli::settings(&command, &matches, None), cli::ENV_FILE) {
            Some(setting) => EnvFile::read(setting, &mut warnings)?,
            None => None,
        };
        let file = file.as_ref();
        let mut settings = cli::settings(&command, &matches, file);
        check_unknown_variables(&settings, file, &mut warnings)?;
        let cli = cli::parse(command, &settings)?;

        let mut key = Secret::find(API_KEY, file)?;
        let mut tokens = Secret::find(ACCESS_TOKEN, file)?;
        let state_key = Secret::find(STATE_KEY, file)?;
        let source = |variable| find(&settings, variable).map(|setting| &setting.source);
        let sandbox = source("QOVERY_BACKUPS_SANDBOX");
        // Where the operator asks for the sandbox, the key is not used.
        let uses_key = !cli.sandbox || sandbox.is_some_and(Source::is_found);
        if uses_key && (key.is_some() || cli.http.caller_keys) {
            let secrets = key.iter().chain(&tokens).chain(&state_key);
            let in_use = secrets.map(|secret| &secret.setting).chain(&settings);
            check_trust(key.as_ref().map(|key| &key.setting), in_use)?;
        }
        let command = match matches.subcommand() {
            Some(_) => Command::from_arg_matches(&matches)?,
            None => Command::Stdio,
        };
        if cli.http.caller_keys {
            check_caller_keys(&settings, key.as_ref(), &command)?;
        }

        // The program would append to any file, whatever the key.
        if let Some(log) = find(&settings, cli::AUDIT_LOG)
            && log.source.is_found()
        {
            return Err(log.invalid(
                "is not taken from a file that was only found. Use --audit-log or the environment, or \
                 name the file: --env-file",
            ));
        }

        let upstream = if !cli.sandbox {
            let has_none = cli.http.caller_keys;
            let read = || read_key(key.as_mut(), &mut warnings);
            Some(Upstream {
                base_url: cli.api_url,
                credentials: (!has_none).then(read).transpose()?,
            })
        } else if source("QOVERY_API_URL") == Some(&Source::Flag) {
            return Err(invalid("--api-url does not go with --sandbox: choose one."));
        } else {
            key = None;
            None
        };
        let mut access_tokens = Reloadable::new(Tokens::default(), None);
        if let Some(tokens) = &mut tokens {
            let parsed = tokens.parse(Tokens::parse)?;
            tokens.setting.value = parsed.names();
            access_tokens = Reloadable::new(parsed, tokens.file(Tokens::parse));
        }
        let seal = state_key.as_ref().map(|key| key.parse(Seal::parse));
        let seal = seal.transpose()?;
        let secrets = [key, tokens, state_key].into_iter().flatten();
        let secrets = secrets.map(|secret| secret.setting);
        let http = http_settings(cli.http, access_tokens, cli.read_only, &settings)?;
        let is_local = command != Command::Http && !cli.sandbox;
        let audit_log = audit_log(cli.audit_log, is_local, &mut settings);
        Ok(Self {
            dialog: match command {
                Command::Http => Err("callers are not at this machine's screen"),
                _ => Dialog::find(env::consts::OS, &env::vars_os().collect()),
            },
            command,
            http,
            upstream,
            policy: Policy {
                read_only: cli.read_only,
                keep_latest: cli.keep_latest,
                confirm: cli.confirm,
                changes_per_hour: cli.changes_per_hour,
                audit_log,
            },
            seal,
            log_filter: cli.log,
            log_format: cli.log_format,
            settings: secrets.chain(settings).collect(),
            warnings,
            #[cfg(debug_assertions)]
            short_limits: matches.get_flag("short_limits"),
        })
    }

    /// How a person is asked before a removal.
    pub fn confirmation(&self) -> String {
        let otherwise = match (self.policy.confirm, &self.dialog) {
            (Confirm::Never, _) => return "no person is asked before a removal".to_owned(),
            (_, Ok(_)) => "a dialog of this system does".to_owned(),
            (Confirm::Auto, Err(reason)) => format!(
                "its own approval of a destructive tool counts, for one backup a call (no dialog: {reason})"
            ),
            (Confirm::Always, Err(reason)) => format!("nothing is removed (no dialog: {reason})"),
        };
        format!("the client asks a person before a removal; if it cannot, {otherwise}")
    }
}

impl SettingValue {
    fn invalid(&self, problem: impl fmt::Display) -> Error {
        invalid(format!("{self} {problem}."))
    }

    /// For a setting that names a file. Its value may be the secret itself, and is not repeated.
    fn unreadable(&self, error: &io::Error) -> Error {
        self.invalid(format!(
            "names a file that could not be read ({error}): give it the path of one"
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

fn invalid(message: impl fmt::Display) -> Error {
    // A key may stand in the place of another value.
    let message = mask_keys(&message.to_string());
    Error::raw(ErrorKind::ValueValidation, format!("{message}\n"))
}

/// Refuses a misspelt variable, which might be one that restricts what the program does. Warns of others
/// with our prefix: Kubernetes and Docker make some for a service that is called `qovery-backups`.
fn check_unknown_variables(
    settings: &[SettingValue],
    file: Option<&EnvFile>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let files = SECRETS.map(|name| format!("{name}_FILE"));
    let secrets = SECRETS.into_iter().chain(files.iter().map(String::as_str));
    let others = settings.iter().map(|setting| setting.variable.as_str());
    let known: Vec<_> = secrets.chain(others).collect();
    let lossy = |text: OsString| text.to_string_lossy().into_owned();
    let in_environment = env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
    let in_file = file.into_iter().flat_map(|file| file.variables.clone());
    for (name, value) in in_environment.chain(in_file) {
        if !name.starts_with(PREFIX) || known.contains(&name.as_str()) {
            continue;
        }
        let is_service = value.starts_with("tcp://") || value.starts_with("udp://");
        match known.iter().find(|known| is_misspelt(&name, known)) {
            Some(meant) if !is_service => {
                return Err(invalid(format!(
                    "{name} is not a setting of this program. Did you mean {meant}? Rename or \
                     remove it."
                )));
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
    key: Option<&SettingValue>,
    mut in_use: impl Iterator<Item = &'a SettingValue>,
) -> Result<(), Error> {
    if key.is_some_and(|key| key.source.is_found() && key.variable == API_KEY) {
        return Ok(());
    }
    let is_untrusted = |setting: &&SettingValue| {
        setting.source.is_found() && !HARMLESS.contains(&setting.variable.as_str())
    };
    let Some(setting) = in_use.find(is_untrusted) else {
        return Ok(());
    };
    let (variable, path) = (&setting.variable, &setting.source);
    Err(invalid(format!(
        "{path} sets {variable}, but the key in use is not the QOVERY_API_KEY of {path}: it would change \
         how a key from elsewhere may be used. If that is what you want, name the file: --env-file {path}."
    )))
}

/// Refuses callers' keys beside the server's own, and where there is no call to bring one.
fn check_caller_keys(
    settings: &[SettingValue],
    key: Option<&Secret>,
    command: &Command,
) -> Result<(), Error> {
    let problem =
        "is set beside --caller-keys, with which each call brings its own key: remove one of them";
    if let Some(key) = key {
        return Err(key.setting.invalid(problem));
    }
    match find(settings, cli::CALLER_KEYS) {
        Some(setting) if *command == Command::Stdio => {
            Err(setting.invalid("is for the command http: over stdio, set QOVERY_API_KEY"))
        }
        _ => Ok(()),
    }
}

/// Reads the server's key, of which `settings` may show a part.
fn read_key(
    key: Option<&mut Secret>,
    warnings: &mut Vec<String>,
) -> Result<Arc<Reloadable<Credentials>>, Error> {
    let Some(key) = key else {
        return Err(invalid(
            "QOVERY_API_KEY is not set. Set it to an API token from the Qovery console \
             (Settings > API tokens), or try the program without a key: --sandbox.",
        ));
    };
    let credentials = key.parse(parse_key)?;
    key.setting.value = credentials.masked();
    let scheme = credentials.scheme;
    if let Some(expiry) = scheme.expiry()
        && scheme.expires_within(TimeDelta::hours(1))
    {
        warnings.push(format!("{} is a JWT: {expiry}", key.setting));
    }
    Ok(Reloadable::new(credentials, key.file(parse_key)))
}

fn parse_key(text: &SecretString) -> Result<Credentials, CredentialsError> {
    Credentials::parse(text.expose_secret())
}

fn http_settings(
    options: HttpOptions,
    tokens: Arc<Reloadable<Tokens>>,
    read_only: bool,
    settings: &[SettingValue],
) -> Result<http::Settings, Error> {
    let rest = (!options.no_rest).then_some(options.rest_addr);
    let addresses = [
        (cli::MCP_ADDR, Some(options.mcp_addr)),
        (cli::REST_ADDR, rest),
    ];
    for (variable, address) in addresses {
        if tokens.current().is_empty()
            && options.oauth_issuer.is_none()
            && address.is_some_and(|address| !address.ip().is_loopback())
        {
            let setting = find(settings, variable).map_or_else(String::new, ToString::to_string);
            return Err(invalid(format!(
                "{setting} is not a loopback address, so anybody who reaches it could remove backups. \
                 Set QOVERY_BACKUPS_ACCESS_TOKEN to a secret that callers must send, or listen on \
                 127.0.0.1."
            )));
        }
    }
    let oauth = match (options.oauth_issuer, &options.public_url) {
        (Some(issuer), Some(url)) => Some(OAuth {
            issuer,
            audience: options.oauth_audience.unwrap_or(format!("{url}/mcp")),
            read_only,
        }),
        (None, _) if options.oauth_audience.is_none() => None,
        _ => {
            return Err(invalid(
                "The sign-in needs --oauth-issuer and --public-url, at which callers reach this server: set both.",
            ));
        }
    };
    Ok(http::Settings {
        mcp: options.mcp_addr,
        rest,
        allowed_hosts: options.allowed_host,
        allowed_origins: options.allowed_origin,
        public_url: options.public_url,
        tokens,
        caller_keys: options.caller_keys,
        oauth,
    })
}

/// The user's own file is for stdio, and shown in `settings`.
fn audit_log(log: AuditLog, is_local: bool, settings: &mut [SettingValue]) -> AuditLog {
    let AuditLog::Monthly(folder) = &log else {
        return log;
    };
    if !is_local {
        return AuditLog::Off;
    }
    let mut settings = settings.iter_mut();
    if let Some(setting) = settings.find(|setting| setting.variable == cli::AUDIT_LOG) {
        setting.value = format!("auto: {}", folder.display());
    }
    log
}

fn find<'a>(settings: &'a [SettingValue], variable: &str) -> Option<&'a SettingValue> {
    settings.iter().find(|setting| setting.variable == variable)
}
