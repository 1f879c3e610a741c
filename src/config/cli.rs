//! The command line: one field a setting. Secrets have no flag, and are not here.

use std::{
    env,
    error::Error as _,
    ffi::OsStr,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
};

use chrono::TimeDelta;
use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser,
    builder::ValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use reqwest::Url;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{
    Error, SettingValue, Source,
    env_file::EnvFile,
    invalid,
    secrets::{PLACEHOLDER, path, trim},
};
use crate::{
    backups::{AuditLog, Confirm},
    http::{AllowedHost, AllowedOrigin},
    qovery::{BaseUrl, DatabaseId},
    telemetry::LogFormat,
};

const AFTER_HELP: &str = "\
Secrets have no flag, because a command line can be read by others. Each can stand in a file, which its
second variable names:
  QOVERY_API_KEY, QOVERY_API_KEY_FILE
      An API token (qov_...), a policy token (sk-qov-01-...) or a JWT
  QOVERY_BACKUPS_ACCESS_TOKEN, QOVERY_BACKUPS_ACCESS_TOKEN_FILE
      For http: what callers send as `Authorization: Bearer <token>` or `X-API-Key: <token>`, one
      token of at least 16 characters, or one a line as name:token, name/read:token (lists only) or name/metrics:token.
      Any address but a loopback one needs it
  QOVERY_BACKUPS_STATE_KEY, QOVERY_BACKUPS_STATE_KEY_FILE
      For http: what replicas share, so that one can take the answer to another's question, at least
      32 characters; to change it, the new one above the old one

A flag wins over its variable, and that over a .env file in the working directory.";

/// List, add and safely remove the backups of databases hosted on Qovery, from an AI assistant.
///
/// An MCP host launches this program and talks to it over standard input and output, or reaches it
/// over HTTP. To see it work without a Qovery account, add --sandbox.
#[derive(Debug, Parser)]
#[command(name = env!("CARGO_PKG_NAME"), version, after_help = AFTER_HELP)]
pub(super) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Use an in-memory Qovery with sample databases: no account, no key, nothing is real
    #[arg(long, env = "QOVERY_BACKUPS_SANDBOX", value_name = "BOOL")]
    #[arg(default_value = "false", default_missing_value = "true", value_parser = boolean)]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub(super) sandbox: bool,

    /// List only: refuse to add or remove backups
    #[arg(long, env = "QOVERY_BACKUPS_READ_ONLY", value_name = "BOOL")]
    #[arg(default_value = "false", default_missing_value = "true", value_parser = boolean)]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub(super) read_only: bool,

    /// How many of a database's newest finished backups are never removed, and as many of the newest that
    /// may be good; at least one of each
    #[arg(long, env = "QOVERY_BACKUPS_KEEP_LATEST", value_name = "N")]
    #[arg(default_value = "1", value_parser = parse_as::<usize>(WHOLE_NUMBER))]
    pub(super) keep_latest: usize,

    /// Whether a person confirms each removal: auto (where the client can ask one), always (and
    /// nothing is removed where it cannot) or never
    #[arg(long, env = "QOVERY_BACKUPS_CONFIRM", value_name = "WHEN")]
    #[arg(default_value = "auto")]
    pub(super) confirm: Confirm,

    // clap takes the path for one value, and a bare `Option` for a setting that may be left out.
    /// How many backups may be added and removed in any hour, by all callers together (by each, with
    /// --caller-keys), or unlimited
    #[arg(long, env = "QOVERY_BACKUPS_CHANGES_PER_HOUR", value_name = "N")]
    #[arg(default_value = "100", value_parser = changes_per_hour)]
    pub(super) changes_per_hour: std::option::Option<NonZeroU32>,

    /// A file to which each change is written, before it is made and after: one JSON object a line. auto is
    /// one a month in the user's folder for state over stdio, and none over HTTP or in the sandbox
    #[arg(long, env = AUDIT_LOG, value_name = "FILE")]
    #[arg(default_value = "auto", value_parser = audit_log)]
    pub(super) audit_log: AuditLog,

    /// Where Qovery's API is
    #[arg(long, env = "QOVERY_API_URL", value_name = "URL", default_value = BaseUrl::QOVERY)]
    pub(super) api_url: BaseUrl,

    /// Read variables from this file instead of .env in the working directory
    #[arg(long, env = ENV_FILE, value_name = "FILE", default_value = ".env")]
    pub(super) env_file: PathBuf,

    // rmcp logs every message at `info`.
    /// What to log to standard error: a level, or target=level, or several with commas
    #[arg(long, env = "QOVERY_BACKUPS_LOG", value_name = "FILTER")]
    #[arg(default_value = "info,rmcp=off", value_parser = log_filter)]
    pub(super) log: Targets,

    /// How a line of the log looks: text or json
    #[arg(long, env = "QOVERY_BACKUPS_LOG_FORMAT", value_name = "FORMAT")]
    #[arg(default_value = "text")]
    pub(super) log_format: LogFormat,

    /// Shorten the limits, for tests
    #[cfg(debug_assertions)]
    #[arg(long, hide = true)]
    short_limits: bool,

    #[command(flatten)]
    pub(super) http: HttpOptions,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of the command http")]
pub(super) struct HttpOptions {
    /// Where the command http serves MCP, at /mcp
    #[arg(long, env = MCP_ADDR, value_name = "ADDRESS")]
    #[arg(default_value = "127.0.0.1:9090", value_parser = parse_as::<SocketAddr>(ADDRESS))]
    pub(super) mcp_addr: SocketAddr,

    /// Where the command http serves the REST API
    #[arg(long, env = REST_ADDR, value_name = "ADDRESS")]
    #[arg(default_value = "127.0.0.1:8080", value_parser = parse_as::<SocketAddr>(ADDRESS))]
    pub(super) rest_addr: SocketAddr,

    /// Serve MCP only
    #[arg(long, env = "QOVERY_BACKUPS_NO_REST", value_name = "BOOL")]
    #[arg(default_value = "false", default_missing_value = "true", value_parser = boolean)]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub(super) no_rest: bool,

    /// A name under which callers reach the ports, repeatable: any port unless it names one
    #[arg(long, env = "QOVERY_BACKUPS_ALLOWED_HOST", value_name = "HOST")]
    #[arg(value_delimiter = ',', default_value = "localhost,127.0.0.1,[::1]")]
    pub(super) allowed_host: Vec<AllowedHost>,

    /// A web origin whose pages may call the ports, repeatable: scheme, host and port, which may be *
    #[arg(long, env = "QOVERY_BACKUPS_ALLOWED_ORIGIN", value_name = "ORIGIN")]
    #[arg(value_delimiter = ',')]
    pub(super) allowed_origin: Vec<AllowedOrigin>,

    /// Let each call bring its own key, in X-Qovery-Api-Key: the server has none
    #[arg(long, env = CALLER_KEYS, value_name = "BOOL")]
    #[arg(default_value = "false", default_missing_value = "true", value_parser = boolean)]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub(super) caller_keys: bool,

    /// Where callers reach the ports behind a proxy: what the page at / prints
    #[arg(long, env = "QOVERY_BACKUPS_PUBLIC_URL", value_name = "URL")]
    #[arg(value_parser = public_url)]
    pub(super) public_url: Option<String>,

    /// Accept the sign-in of this OAuth 2.1 or OpenID issuer, whose tokens are JWTs; needs --public-url
    #[arg(long, env = "QOVERY_BACKUPS_OAUTH_ISSUER", value_name = "URL")]
    #[arg(value_parser = issuer)]
    pub(super) oauth_issuer: Option<String>,

    /// The audience of the issuer's tokens for this server, if it is not the public URL with /mcp
    #[arg(long, env = "QOVERY_BACKUPS_OAUTH_AUDIENCE", value_name = "AUDIENCE")]
    pub(super) oauth_audience: Option<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Serve MCP on standard input and output: what a host launches (the default)
    Stdio,
    /// Serve MCP over streamable HTTP, and the same operations as a REST API
    Http,
    /// Say whether this configuration would work; changes nothing
    Check {
        /// Ask for this database's backups instead of the organizations, repeatable: all that the policy
        /// of a policy token may allow
        #[arg(long, value_name = "ID")]
        database: Vec<DatabaseId>,
        /// For cron: say of each database whether its newest finished backup is at most this old, such as
        /// 26h. The exit code is 3 if one is older or has none, and 1 if one could not be read
        #[arg(long, value_name = "AGE", value_parser = age)]
        max_age: Option<TimeDelta>,
    },
}

/// The variables that others name, too.
pub(super) const ENV_FILE: &str = "QOVERY_BACKUPS_ENV_FILE";
pub(super) const AUDIT_LOG: &str = "QOVERY_BACKUPS_AUDIT_LOG";
pub(super) const MCP_ADDR: &str = "QOVERY_BACKUPS_MCP_ADDR";
pub(super) const REST_ADDR: &str = "QOVERY_BACKUPS_REST_ADDR";
pub(super) const CALLER_KEYS: &str = "QOVERY_BACKUPS_CALLER_KEYS";

const WHOLE_NUMBER: &str = "must be a whole number, such as 1";
const ADDRESS: &str = "must be an IP address and a port, such as 127.0.0.1:9090";
const UNKNOWN: &str = "is neither a command nor an option here: see --help";
/// The value of a setting that has no default.
const NONE: &str = "none";

/// The definition of the command line.
pub fn command() -> clap::Command {
    Cli::command()
        .mut_args(|argument| argument.global(true).hide_env_values(true))
        .mut_subcommands(|command| command.after_help(AFTER_HELP))
}

/// Reads the command line and the environment. Values of settings are not parsed yet.
pub(super) fn matches(command: clap::Command) -> Result<ArgMatches, Error> {
    let unparsed = command.mut_args(|argument| {
        if argument.get_action().takes_values() {
            argument.value_parser(ValueParser::os_string())
        } else {
            argument
        }
    });
    let matches = unparsed.try_get_matches();
    matches.map_err(|error| reworded(error, &[]))
}

/// Each setting with its source: a flag wins over a variable, and that over `file`. Hosts and templates
/// leave a variable empty where it is not set.
pub(super) fn settings(
    command: &clap::Command,
    matches: &ArgMatches,
    file: Option<&EnvFile>,
) -> Vec<SettingValue> {
    let setting = |argument: &Arg| {
        let variable = argument.get_env()?.to_str()?;
        let id = argument.get_id().as_str();
        let values = matches.get_raw(id).into_iter().flatten();
        let given = values.map(OsStr::to_string_lossy).collect::<Vec<_>>();
        let given = trim(&given.join(",")).to_owned();
        let default = argument.get_default_values().first();
        let default = default.map_or(NONE.into(), |value| value.to_string_lossy());
        let in_file = file.and_then(|file| Some((file.variables.get(variable)?, &file.source)));
        let (value, source) = match (matches.value_source(id), in_file) {
            (Some(ValueSource::CommandLine), _) => (given, Source::Flag),
            (Some(ValueSource::EnvVariable), _) if !given.is_empty() => {
                (given, Source::Environment)
            }
            (_, Some((value, source))) if !value.is_empty() => (value.clone(), source.clone()),
            _ => (default.to_string(), Source::Default),
        };
        let is_unset = value == NONE && default == NONE;
        let source = if is_unset { Source::Default } else { source };
        Some(SettingValue {
            variable: variable.to_owned(),
            flag: argument.get_long().map(str::to_owned),
            value,
            source,
        })
    };
    command.get_arguments().filter_map(setting).collect()
}

/// Parses the values of `settings`, as if each were a flag.
pub(super) fn parse(command: clap::Command, settings: &[SettingValue]) -> Result<Cli, Error> {
    let mut arguments = vec![env!("CARGO_PKG_NAME").to_owned()];
    for setting in settings {
        let value = setting.value.as_str();
        let problem = match value {
            "" => "is empty: give it a value, or remove it",
            _ if value.contains("${") => PLACEHOLDER,
            _ if value.contains(char::REPLACEMENT_CHARACTER) => "is not UTF-8: paste it again",
            _ => "",
        };
        if !problem.is_empty() {
            return Err(setting.invalid(problem));
        }
        if let Some(flag) = &setting.flag
            && setting.source != Source::Default
        {
            arguments.push(format!("--{flag}={value}"));
        }
    }
    let matches = command
        .mut_args(|argument| argument.env(None::<&str>))
        .try_get_matches_from(arguments);
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    cli.map_err(|error| reworded(error, settings))
}

/// Names the setting, and replaces texts in which clap repeats what was given: it may be a misplaced secret.
fn reworded(error: Error, settings: &[SettingValue]) -> Error {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        _ => "",
    };
    // Such as `--keep-latest <N>` or `--sandbox[=<BOOL>]`.
    let flag = argument.split([' ', '=', '[']).next().unwrap_or_default();
    let is_it = |setting: &&SettingValue| flag.strip_prefix("--") == setting.flag.as_deref();
    let setting = match settings.iter().find(is_it) {
        Some(setting) => setting.to_string(),
        None if flag.starts_with('-') => flag.to_owned(),
        None => "An argument".to_owned(),
    };
    let problem = match error.kind() {
        ErrorKind::ValueValidation => error.source().map_or_else(String::new, ToString::to_string),
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(values)) => format!("must be one of: {}", values.join(", ")),
            _ => return error,
        },
        ErrorKind::UnknownArgument => match error.get(ContextKind::SuggestedArg) {
            Some(ContextValue::String(meant)) => format!("is not an option here; {meant} is"),
            _ => UNKNOWN.to_owned(),
        },
        ErrorKind::InvalidSubcommand | ErrorKind::TooManyValues => UNKNOWN.to_owned(),
        _ => return error,
    };
    invalid(format!("{setting} {problem}."))
}

/// A parser with our own text for what does not fit.
fn parse_as<T: FromStr>(
    problem: &'static str,
) -> impl Fn(&str) -> Result<T, &'static str> + Clone + Send + Sync + 'static {
    move |text| text.parse().map_err(|_| problem)
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("must be true or false"),
    }
}

/// The limit, `None` for `unlimited`. 0 could mean either all or nothing.
fn changes_per_hour(text: &str) -> Result<Option<NonZeroU32>, &'static str> {
    match text.parse() {
        _ if text.eq_ignore_ascii_case("unlimited") => Ok(None),
        Ok(0) => Err("is 0: write unlimited for any number, or use --read-only for none"),
        Ok(number) => Ok(NonZeroU32::new(number)),
        Err(_) => Err("must be a whole number, such as 100, or unlimited"),
    }
}

/// Minutes, hours or days.
fn age(text: &str) -> Result<TimeDelta, &'static str> {
    let unit = text.chars().next_back();
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse();
    let age = number.ok().and_then(|number| match unit {
        Some('m') => TimeDelta::try_minutes(number),
        Some('h') => TimeDelta::try_hours(number),
        Some('d') => TimeDelta::try_days(number),
        _ => None,
    });
    age.filter(|age| *age > TimeDelta::zero())
        .ok_or("must be a number of minutes, hours or days, such as 90m, 26h or 8d")
}

/// The file is not created yet: a host may start the program only to look at it.
fn audit_log(text: &str) -> Result<AuditLog, &'static str> {
    match text {
        "auto" => return Ok(state_folder().map_or(AuditLog::Off, AuditLog::Monthly)),
        NONE => return Ok(AuditLog::Off),
        _ => {}
    }
    let file = path(text);
    // The parent of a bare name is empty.
    let in_folder = Path::new(".").join(&file);
    if in_folder.parent().is_some_and(Path::is_dir) && !file.is_dir() {
        Ok(AuditLog::File(file))
    } else {
        Err("must be the path of a file in a folder that exists, or none")
    }
}

/// This program's folder in the user's for what programs keep of their runs (XDG Base Directory
/// Specification).
fn state_folder() -> Option<PathBuf> {
    let variable = |name| {
        let path = env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let home = variable("HOME");
    let folder = match env::consts::OS {
        "windows" => variable("LOCALAPPDATA"),
        "macos" => home.map(|home| home.join("Library/Logs")),
        _ => {
            home.map(|home| variable("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")))
        }
    };
    Some(folder?.join(env!("CARGO_PKG_NAME")))
}

/// Levels, and levels by target. `Targets` would take a misspelt level for a target.
fn log_filter(text: &str) -> Result<Targets, &'static str> {
    let text = text.to_ascii_lowercase().replace(' ', "");
    let text = text.replace("warning", "warn");
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let mut directives = text.split(',');
    let fits = directives.all(|directive| directive.contains('=') || is_level(directive));
    text.parse().ok().filter(|_| fits).ok_or(
        "must be a level (off, error, warn, info, debug or trace), or a list of levels by target, such \
         as info,rmcp=debug",
    )
}

/// To the letter: tokens name it with a slash at its end or without.
fn issuer(text: &str) -> Result<String, &'static str> {
    let is_issuer = text.parse::<BaseUrl>().is_ok();
    is_issuer.then(|| text.to_owned()).ok_or(
        "must be the issuer's identifier, a URL such as https://login.example.com/company: https (http on \
         loopback), without a user, a query (?) or a fragment (#)",
    )
}

/// Without the slash at its end: paths are added to it.
fn public_url(text: &str) -> Result<String, &'static str> {
    let has_no_more = |url: &Url| {
        let plain = url.origin().ascii_serialization() + url.path();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
        let is_routable = url.path().bytes().all(is_plain) && !url.path().contains("//");
        url.scheme().starts_with("http") && url.as_str() == plain && is_routable
    };
    match Url::parse(text).ok().filter(has_no_more) {
        Some(url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
        None => Err(
            "must be a URL such as https://backups.example.com, without a user, a query (?) or a \
             fragment (#), and of letters, digits and -._~ in its path",
        ),
    }
}
