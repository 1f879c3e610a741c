//! The command line: one field a setting. Secrets have no flag, and are not here.

use std::{
    env,
    error::Error as _,
    ffi::OsStr,
    fmt::Display,
    fs::OpenOptions,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches,
    builder::ValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use reqwest::Url;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{
    Error, SettingValue, Source,
    env_file::EnvFile,
    secrets::{PLACEHOLDER, trim},
};
use crate::{
    backups::Confirm,
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
      For http: what callers send as `Authorization: Bearer <token>`, one token of at least 16
      characters, or one a line as name:token. Any address but a loopback one needs it
  QOVERY_BACKUPS_STATE_KEY, QOVERY_BACKUPS_STATE_KEY_FILE
      For http: what replicas share, so that one can take the answer to another's question, at least
      32 characters; to change it, the new one above the old one

A flag wins over its variable, and that over a .env file in the working directory.";

/// List, add and safely remove the backups of databases hosted on Qovery, from an AI assistant.
///
/// An MCP host launches this program and talks to it over standard input and output, or reaches it
/// over HTTP. To see it work without a Qovery account, add --sandbox.
#[derive(Debug, clap::Parser)]
#[command(name = env!("CARGO_PKG_NAME"), version, after_help = AFTER_HELP)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    /// Use an in-memory Qovery with sample databases: no account, no key, nothing is real
    #[arg(long, env = "QOVERY_BACKUPS_SANDBOX")]
    #[arg(value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", value_parser = checked(boolean))]
    pub(super) sandbox: bool,

    /// List only: refuse to add or remove backups
    #[arg(long, env = "QOVERY_BACKUPS_READ_ONLY")]
    #[arg(value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", value_parser = checked(boolean))]
    pub(super) read_only: bool,

    /// How many of a database's newest finished backups are never removed, and as many of the newest that
    /// may be good; at least one of each
    #[arg(long, env = "QOVERY_BACKUPS_KEEP_LATEST")]
    #[arg(value_name = "N", default_value = "1", value_parser = checked(whole_number::<usize>))]
    pub(super) keep_latest: usize,

    /// Whether a person confirms each removal: auto (where the client can ask one), always (and
    /// nothing is removed where it cannot) or never
    #[arg(long, env = "QOVERY_BACKUPS_CONFIRM")]
    #[arg(value_name = "WHEN", default_value = "auto", value_parser = checked(Confirm::from_str))]
    pub(super) confirm: Confirm,

    /// How many backups may be added and removed in any hour, by all callers together; 0 for any number
    #[arg(long, env = "QOVERY_BACKUPS_CHANGES_PER_HOUR")]
    #[arg(value_name = "N", default_value = "100", value_parser = checked(whole_number::<u32>))]
    pub(super) changes_per_hour: u32,

    /// A file to which each change is written, before it is made and after: one JSON object a line
    #[arg(long, env = "QOVERY_BACKUPS_AUDIT_LOG")]
    #[arg(value_name = "FILE", default_value = "none")]
    #[arg(value_parser = checked(unless_none(audit_log)))]
    pub(super) audit_log: Optional<PathBuf>,

    /// Where Qovery's API is
    #[arg(long, env = "QOVERY_API_URL")]
    #[arg(value_name = "URL", default_value = BaseUrl::QOVERY)]
    #[arg(value_parser = checked(BaseUrl::from_str))]
    pub(super) api_url: BaseUrl,

    /// Read variables from this file instead of .env in the working directory
    #[arg(long, env = ENV_FILE)]
    #[arg(value_name = "FILE", default_value = ".env", value_parser = checked(PathBuf::from_str))]
    pub(super) env_file: PathBuf,

    // rmcp logs every message at `info`.
    /// What to log to standard error: a level, or target=level, or several with commas
    #[arg(long, env = "QOVERY_BACKUPS_LOG")]
    #[arg(value_name = "FILTER", default_value = "info,rmcp=warn")]
    #[arg(value_parser = checked(log_filter))]
    pub(super) log: Targets,

    /// How a line of the log looks: text or json
    #[arg(long, env = "QOVERY_BACKUPS_LOG_FORMAT")]
    #[arg(value_name = "FORMAT", default_value = "text", value_parser = checked(log_format))]
    pub(super) log_format: LogFormat,

    /// Shorten the limits, for tests
    #[cfg(debug_assertions)]
    #[arg(long, hide = true)]
    pub(super) short_limits: bool,

    #[command(flatten)]
    pub(super) http: HttpOptions,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of the command http")]
pub(super) struct HttpOptions {
    /// Where the command http serves MCP, at /mcp
    #[arg(long, env = MCP_ADDR)]
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    #[arg(value_parser = checked(address))]
    pub(super) mcp_addr: SocketAddr,

    /// Where the command http serves the REST API
    #[arg(long, env = REST_ADDR)]
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    #[arg(value_parser = checked(address))]
    pub(super) rest_addr: SocketAddr,

    /// Serve MCP only
    #[arg(long, env = "QOVERY_BACKUPS_NO_REST")]
    #[arg(value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", value_parser = checked(boolean))]
    pub(super) no_rest: bool,

    /// A name under which callers reach the ports, repeatable: any port unless it names one
    #[arg(long, env = "QOVERY_BACKUPS_ALLOWED_HOST")]
    #[arg(
        value_name = "HOST",
        value_delimiter = ',',
        default_value = "localhost,127.0.0.1,[::1]"
    )]
    #[arg(value_parser = checked(AllowedHost::from_str))]
    pub(super) allowed_host: Vec<AllowedHost>,

    /// A web origin whose pages may call the ports, repeatable: scheme, host and port, which may be *
    #[arg(long, env = "QOVERY_BACKUPS_ALLOWED_ORIGIN")]
    #[arg(value_name = "ORIGIN", value_delimiter = ',', default_value = "none")]
    #[arg(value_parser = checked(unless_none(AllowedOrigin::from_str)))]
    pub(super) allowed_origin: Vec<Option<AllowedOrigin>>,

    /// Where callers reach the ports behind a proxy: what the log and the page at / print
    #[arg(long, env = "QOVERY_BACKUPS_PUBLIC_URL")]
    #[arg(value_name = "URL", default_value = "none")]
    #[arg(value_parser = checked(unless_none(public_url)))]
    pub(super) public_url: Optional<String>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Serve MCP on standard input and output: what a host launches (the default)
    Stdio,
    /// Serve MCP over streamable HTTP, and the same operations as a REST API
    Http,
    /// Say whether this configuration would work; changes nothing
    Check {
        /// Ask for this database's backups instead of the organizations: all that the policy of a
        /// policy token may allow
        #[arg(long, value_name = "ID", value_parser = checked(DatabaseId::from_str))]
        database: Option<DatabaseId>,
    },
}

/// An option that is always given, perhaps as `none`. clap takes a field that is called `Option` for
/// one that may be missing.
type Optional<T> = Option<T>;

/// The variables that others name, too.
pub(super) const ENV_FILE: &str = "QOVERY_BACKUPS_ENV_FILE";
pub(super) const MCP_ADDR: &str = "QOVERY_BACKUPS_MCP_ADDR";
pub(super) const REST_ADDR: &str = "QOVERY_BACKUPS_REST_ADDR";

/// The definition of the command line.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
        .mut_args(|argument| argument.global(true).hide_env_values(true))
        .mut_subcommands(|command| command.after_help(AFTER_HELP))
}

/// Each setting with its source. Values are not parsed yet.
pub(super) fn settings(file: Option<&EnvFile>) -> Result<Vec<SettingValue>, Error> {
    let unparsed = with_file(file).mut_args(|argument| {
        if argument.get_action().takes_values() {
            argument.value_parser(ValueParser::os_string())
        } else {
            argument
        }
    });
    let matches = unparsed.try_get_matches().map_err(reworded)?;
    let value = |argument: &Arg| setting_value(argument, &matches, file);
    Ok(command().get_arguments().filter_map(value).collect())
}

/// Parses the values of `settings`.
pub(super) fn parse(file: Option<&EnvFile>, settings: &[SettingValue]) -> Result<Cli, Error> {
    let matches = with_file(file).try_get_matches();
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    cli.map_err(|error| {
        let flag = flag(&error);
        let is_it = |setting: &&SettingValue| flag.strip_prefix("--") == setting.flag.as_deref();
        match (settings.iter().find(is_it), error.source()) {
            (Some(setting), Some(problem)) => setting.invalid(problem),
            _ => reworded(error),
        }
    })
}

/// The command line with the variables of `file` as default values.
fn with_file(file: Option<&EnvFile>) -> clap::Command {
    command().mut_args(|argument| {
        let Some(variable) = variable(&argument) else {
            return argument;
        };
        // Hosts and templates leave a variable empty where it is not set.
        let value = env::var_os(&variable);
        let is_empty = value.is_some_and(|value| trim(&value.to_string_lossy()).is_empty());
        let argument = if is_empty {
            argument.env(None::<&str>)
        } else {
            argument
        };
        match file.and_then(|file| file.get(&variable)) {
            Some(value) => argument.default_value(value.to_owned()),
            None => argument,
        }
    })
}

/// The variable of an argument.
pub(super) fn variable(argument: &Arg) -> Option<String> {
    Some(argument.get_env()?.to_str()?.to_owned())
}

fn setting_value(
    argument: &Arg,
    matches: &ArgMatches,
    file: Option<&EnvFile>,
) -> Option<SettingValue> {
    let variable = variable(argument)?;
    let id = argument.get_id().as_str();
    let source = match (matches.value_source(id)?, file) {
        (ValueSource::CommandLine, _) => Source::Flag,
        (ValueSource::EnvVariable, _) => Source::Environment,
        (_, Some(file)) if file.get(&variable).is_some() => file.source.clone(),
        _ => Source::Default,
    };
    let values: Vec<_> = matches.get_raw(id)?.map(OsStr::to_string_lossy).collect();
    Some(SettingValue {
        flag: argument.get_long().map(str::to_owned),
        variable,
        value: trim(&values.join(",")).to_owned(),
        source,
    })
}

/// Replaces errors in which clap repeats what was given: it may be a misplaced secret.
fn reworded(error: clap::Error) -> Error {
    const UNKNOWN: &str = "is neither a command nor an option here: see --help";
    let flag = flag(&error);
    let is_flag = flag.starts_with('-');
    let setting = if is_flag { &flag } else { "An argument" };
    let problem = match error.kind() {
        ErrorKind::ValueValidation => error.source().map_or_else(String::new, ToString::to_string),
        ErrorKind::UnknownArgument => match error.get(ContextKind::SuggestedArg) {
            Some(ContextValue::String(meant)) => format!("is not an option here; {meant} is"),
            _ => UNKNOWN.to_owned(),
        },
        ErrorKind::InvalidSubcommand | ErrorKind::TooManyValues => UNKNOWN.to_owned(),
        ErrorKind::InvalidUtf8 => "or a variable is not UTF-8: paste it again".to_owned(),
        _ => return Error::Usage(error),
    };
    Error::Invalid {
        setting: setting.to_owned(),
        problem,
    }
}

/// The flag that an error is about.
fn flag(error: &clap::Error) -> String {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return String::new();
    };
    // Such as `--keep-latest <N>` or `--sandbox[=<BOOL>]`.
    let flag = argument.split([' ', '=', '[']).next();
    flag.unwrap_or_default().to_owned()
}

/// Wraps a parser of values: takes off what surrounds a value, and refuses what a template left.
fn checked<T, E: Display>(
    parse: impl Fn(&str) -> Result<T, E> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| match trim(text) {
        "" => Err("is empty: give it a value, or remove it".to_owned()),
        text if text.contains("${") => Err(PLACEHOLDER.to_owned()),
        text => parse(text).map_err(|problem| problem.to_string()),
    }
}

/// `none` for a setting that is not used.
fn unless_none<T: 'static, E: 'static>(
    parse: fn(&str) -> Result<T, E>,
) -> impl Fn(&str) -> Result<Option<T>, E> + Clone + Send + Sync + 'static {
    move |text| match text {
        "none" => Ok(None),
        text => parse(text).map(Some),
    }
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("must be true or false"),
    }
}

/// A file that can be appended to, or created. It is not created yet: a host may start the program only
/// to look at it.
fn audit_log(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    // The parent of a bare name is empty.
    let folder = Path::new(".").join(&path).parent().map(Path::to_owned);
    let problem = if path.exists() && !path.is_file() {
        "it is no file".to_owned()
    } else {
        match OpenOptions::new().append(true).open(&path) {
            Ok(_) => return Ok(path),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && folder.is_some_and(|folder| folder.is_dir()) =>
            {
                return Ok(path);
            }
            Err(error) => error.to_string(),
        }
    };
    Err(format!(
        "names a file that cannot be appended to ({problem}): {text}"
    ))
}

fn whole_number<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse()
        .map_err(|_| "must be a whole number, such as 1")
}

/// Levels, and levels by target. `Targets` would take a misspelt level for a target.
fn log_filter(text: &str) -> Result<Targets, &'static str> {
    let text = text.to_ascii_lowercase().replace("warning", "warn");
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    // A target is a path of Rust modules.
    let is_target = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
        !text.is_empty() && text.bytes().all(fits) && !is_level(text)
    };
    let directives: Vec<_> = text.split(',').map(str::trim).collect();
    let fits = directives
        .iter()
        .all(|directive| match directive.split_once('=') {
            Some((target, level)) => is_target(target) && is_level(level),
            None => is_level(directive),
        });
    let filter = directives.join(",").parse().ok().filter(|_| fits);
    filter.ok_or(
        "must be a level (off, error, warn, info, debug or trace), or a list of levels by target, such \
         as info,rmcp=debug",
    )
}

fn log_format(text: &str) -> Result<LogFormat, &'static str> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json"),
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "must be an IP address and a port, such as 127.0.0.1:9090")
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
