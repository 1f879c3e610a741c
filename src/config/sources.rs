//! Where settings come from: a flag, else the environment, else a `.env` file, else a default.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, parser::ValueSource};
use secrecy::{ExposeSecret, SecretString};

use super::{Command, Error, cli::Cli};
use crate::qovery::Credentials;

/// All of our own variables begin so; any other with this beginning is a mistake.
const PREFIX: &str = "QOVERY_BACKUPS_";
const KEY: &str = "QOVERY_API_KEY";
const KEY_FILE: &str = "QOVERY_API_KEY_FILE";
const URL: &str = "QOVERY_API_URL";
pub(super) const ACCESS_TOKEN: &str = "QOVERY_BACKUPS_ACCESS_TOKEN";
pub(super) const ACCESS_TOKEN_FILE: &str = "QOVERY_BACKUPS_ACCESS_TOKEN_FILE";
pub(super) const STATE_KEY: &str = "QOVERY_BACKUPS_STATE_KEY";
pub(super) const STATE_KEY_FILE: &str = "QOVERY_BACKUPS_STATE_KEY_FILE";
/// Our own variables that have no flag: secrets.
const SECRETS: [&str; 4] = [ACCESS_TOKEN, ACCESS_TOKEN_FILE, STATE_KEY, STATE_KEY_FILE];
/// What decides who gets to use the key, and for what.
const GUARDS: [&str; 13] = [
    URL,
    ACCESS_TOKEN,
    ACCESS_TOKEN_FILE,
    STATE_KEY,
    STATE_KEY_FILE,
    "QOVERY_BACKUPS_ALLOWED_HOST",
    "QOVERY_BACKUPS_ALLOWED_ORIGIN",
    "QOVERY_BACKUPS_AUDIT_LOG",
    "QOVERY_BACKUPS_CHANGES_PER_HOUR",
    "QOVERY_BACKUPS_CONFIRM",
    "QOVERY_BACKUPS_KEEP_LATEST",
    "QOVERY_BACKUPS_MCP_ADDR",
    "QOVERY_BACKUPS_REST_ADDR",
];
/// What other programs call the same key.
const OTHER_NAMES: [&str; 3] = [
    "QOVERY_API_TOKEN",
    "QOVERY_CLI_ACCESS_TOKEN",
    "Q_CLI_ACCESS_TOKEN",
];

/// A setting as it was given. Its `Display` form names it as its giver would.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its variable.
    pub variable: String,
    /// Its flag, where it has one.
    pub flag: Option<String>,
    /// Its value.
    pub value: String,
    /// Where the value came from.
    pub source: Source,
}

/// Where a setting's value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The process's environment.
    Environment,
    /// This `.env` file.
    File(PathBuf),
    /// Nobody gave one.
    Default,
}

/// Everything that was given, before it is checked.
pub(super) struct Sources {
    command: Command,
    settings: BTreeMap<String, Setting>,
    file: Option<EnvFile>,
}

/// A `.env` file. It never becomes part of the process's environment, where the HTTP client would
/// take a proxy from it.
struct EnvFile {
    path: PathBuf,
    /// Whether the operator asked for this file. One that merely lies in the working directory may
    /// be anybody's.
    named: bool,
    variables: BTreeMap<String, String>,
}

impl Sources {
    pub(super) fn read() -> Result<Self, Error> {
        let command = Cli::command();
        let matches = command.clone().try_get_matches()?;
        let cli = Cli::from_arg_matches(&matches)?;
        let file = match cli.options.env_file {
            Some(path) => Some(EnvFile::read(path, true)?),
            None if Path::new(".env").is_file() => Some(EnvFile::read(".env".into(), false)?),
            None => None,
        };
        let settings = command
            .get_arguments()
            .filter_map(|argument| setting(argument, &matches, file.as_ref()))
            .map(|setting| (setting.variable.clone(), setting))
            .collect();
        let sources = Self {
            command: cli.command.unwrap_or_default(),
            settings,
            file,
        };
        sources.refuse_unknown_variables()?;
        if let Some(empty) = sources
            .settings
            .values()
            .find(|setting| setting.value.is_empty())
        {
            return Err(empty.invalid("is empty: give it a value, or remove it"));
        }
        Ok(sources)
    }

    pub(super) fn command(&self) -> Command {
        self.command
    }

    /// Where a setting came from.
    pub(super) fn source(&self, variable: &str) -> Option<&Source> {
        self.settings.get(variable).map(|setting| &setting.source)
    }

    /// A setting's value, read by `parse`, whose error says what is wrong and what to do.
    pub(super) fn parse<T, E: fmt::Display>(
        &self,
        variable: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Error> {
        match self.settings.get(variable) {
            Some(setting) => parse(&setting.value).map_err(|problem| setting.invalid(problem)),
            None => Err(Error::Invalid {
                setting: variable.to_owned(),
                problem: "is no setting of this program".to_owned(),
            }),
        }
    }

    /// The key, from whichever of its two variables holds it; and the setting that gave it, masked.
    pub(super) fn credentials(&self) -> Result<(Credentials, Setting), Error> {
        let Some((mut setting, key)) = self.secret(KEY, KEY_FILE)? else {
            let instead = OTHER_NAMES
                .into_iter()
                .find(|name| env::var_os(name).is_some());
            return Err(Error::NoKey { instead });
        };
        self.refuse_lent_key(&setting)?;
        let credentials =
            Credentials::parse(key.expose_secret()).map_err(|error| setting.invalid(error))?;
        setting.value = credentials.masked();
        Ok((credentials, setting))
    }

    /// A secret, from its own variable or from the file that the other one names; and the setting
    /// that gave it.
    pub(super) fn secret(
        &self,
        variable: &str,
        file_variable: &str,
    ) -> Result<Option<(Setting, SecretString)>, Error> {
        match (self.given(variable)?, self.given(file_variable)?) {
            (Some(secret), Some(file)) if secret.source == file.source => {
                Err(secret.invalid(format!("is set beside {file_variable}: remove one of them")))
            }
            // Of two layers the upper one wins.
            (Some(secret), file) if file.is_none() || secret.source == Source::Environment => {
                let text = SecretString::from(secret.value.as_str());
                Ok(Some((secret, text)))
            }
            (_, Some(file)) => {
                let text = read_secret_file(&file)?;
                Ok(Some((file, text)))
            }
            _ => Ok(None),
        }
    }

    /// A setting as a message names it.
    pub(super) fn name(&self, variable: &str) -> String {
        self.settings
            .get(variable)
            .map_or_else(|| variable.to_owned(), Setting::to_string)
    }

    pub(super) fn into_settings(self) -> Vec<Setting> {
        self.settings.into_values().collect()
    }

    /// A setting that has no flag.
    fn given(&self, variable: &str) -> Result<Option<Setting>, Error> {
        let given = |value, source| Setting {
            variable: variable.to_owned(),
            flag: None,
            value,
            source,
        };
        match env::var_os(variable).map(OsString::into_string) {
            Some(Ok(value)) => Ok(Some(given(value, Source::Environment))),
            Some(Err(_)) => {
                let setting = given(String::new(), Source::Environment);
                Err(setting.invalid("is not UTF-8: paste it again"))
            }
            None => Ok(self.file.as_ref().and_then(|file| {
                let (value, source) = file.get(variable)?;
                Some(given(value, source))
            })),
        }
    }

    /// A file that merely lies there may be anybody's: it must not lend a key from elsewhere out, nor loosen
    /// what guards it.
    fn refuse_lent_key(&self, key: &Setting) -> Result<(), Error> {
        let Some(file) = self.file.as_ref().filter(|file| !file.named) else {
            return Ok(());
        };
        let source = Source::File(file.path.clone());
        // A key file that the found file names may hold anybody's key.
        if key.variable == KEY && key.source == source {
            return Ok(());
        }
        for variable in GUARDS {
            let set = match self.settings.get(variable) {
                Some(setting) => setting.source == source,
                None => self
                    .given(variable)?
                    .is_some_and(|given| given.source == source),
            };
            if set {
                return Err(Error::LentKey {
                    path: file.path.display().to_string(),
                    variable,
                });
            }
        }
        Ok(())
    }

    fn refuse_unknown_variables(&self) -> Result<(), Error> {
        let in_environment = env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        let in_file = self
            .file
            .iter()
            .flat_map(|file| file.variables.keys().cloned());
        let unknown = in_environment.chain(in_file).find(|name| {
            name.starts_with(PREFIX)
                && !self.settings.contains_key(name)
                && !SECRETS.contains(&name.as_str())
        });
        let Some(name) = unknown else {
            return Ok(());
        };
        let likeness = |known: &str| strsim::jaro(&name[PREFIX.len()..], &known[PREFIX.len()..]);
        let meant = self
            .settings
            .keys()
            .map(String::as_str)
            .filter(|known| known.starts_with(PREFIX))
            .chain(SECRETS)
            .map(|known| (likeness(known), known))
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .filter(|(likeness, _)| *likeness > 0.7)
            .map(|(_, known)| known.to_owned());
        Err(Error::UnknownVariable { name, meant })
    }
}

impl EnvFile {
    fn read(path: PathBuf, named: bool) -> Result<Self, Error> {
        let error = |problem: String| Error::EnvFile {
            path: path.display().to_string(),
            problem,
        };
        // The library's own text of a line that does not parse repeats the line, key and all.
        let explain = |cause| match cause {
            dotenvy::Error::LineParse(_, _) => error("a line in it is not NAME=VALUE".to_owned()),
            _ => error("it is not a file of NAME=VALUE lines".to_owned()),
        };
        let text = fs::read_to_string(&path).map_err(|cause| error(cause.to_string()))?;
        let variables: BTreeMap<_, _> = dotenvy::from_read_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(explain)?;
        // `$NAME` is replaced from the environment: the address could carry any secret of it away.
        if !named && variables.contains_key(URL) && text.contains('$') {
            return Err(error(format!(
                "it sets {URL} and refers to variables with $"
            )));
        }
        Ok(Self {
            path,
            named,
            variables,
        })
    }

    fn get(&self, variable: &str) -> Option<(String, Source)> {
        let value = self.variables.get(variable)?;
        Some((value.clone(), Source::File(self.path.clone())))
    }
}

impl Setting {
    pub(super) fn invalid(&self, problem: impl fmt::Display) -> Error {
        Error::Invalid {
            setting: self.to_string(),
            problem: problem.to_string(),
        }
    }
}

impl fmt::Display for Setting {
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
            Self::File(path) => path.display().fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What was given for an argument of the command line that also has a variable.
fn setting(argument: &Arg, matches: &ArgMatches, file: Option<&EnvFile>) -> Option<Setting> {
    let variable = argument.get_env()?.to_str()?;
    let id = argument.get_id().as_str();
    let value = || {
        let values = matches.get_raw(id)?.map(|value| value.to_string_lossy());
        Some(values.collect::<Vec<_>>().join(","))
    };
    let (value, source) = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => (value()?, Source::Flag),
        Some(ValueSource::EnvVariable) => (value()?, Source::Environment),
        _ => match file.and_then(|file| file.get(variable)) {
            Some(given) => given,
            None => (
                value().unwrap_or_else(|| "none".to_owned()),
                Source::Default,
            ),
        },
    };
    Some(Setting {
        variable: variable.to_owned(),
        flag: argument.get_long().map(ToOwned::to_owned),
        value,
        source,
    })
}

fn read_secret_file(setting: &Setting) -> Result<SecretString, Error> {
    let text = fs::read_to_string(&setting.value).map_err(|error| {
        setting.invalid(format!(
            "names a file that could not be read ({error}): {}",
            setting.value
        ))
    })?;
    // Editors and `echo` end a file with a line break.
    let key = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(key.strip_suffix('\r').unwrap_or(key)))
}
