//! Where settings come from: a flag, else the environment, else a `.env` file, else a default.

use std::{
    env, fmt,
    fs::{self, File, FileType},
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::ArgMatches;
use secrecy::{ExposeSecret, SecretString};

use super::{
    Error,
    env_file::EnvFile,
    settings::{Kind, PREFIX, SETTINGS, Setting},
};
use crate::qovery::{Credentials, CredentialsError};

const KEY: &str = "QOVERY_API_KEY";
const ENV_FILE: &str = "QOVERY_BACKUPS_ENV_FILE";
/// What other programs call the same key.
const OTHER_NAMES: [&str; 3] = [
    "QOVERY_API_TOKEN",
    "QOVERY_CLI_ACCESS_TOKEN",
    "Q_CLI_ACCESS_TOKEN",
];
/// Bytes of a file of secrets or variables.
const LARGEST_FILE: u64 = 64 << 10;

/// A setting as it was given. Its `Display` form names it as its giver would.
#[derive(Clone, Debug)]
pub struct Given {
    /// Which one.
    pub setting: &'static Setting,
    /// Its value; where it is shown, of a secret what may be seen of it.
    pub value: String,
    /// Where the value came from.
    pub source: Source,
}

/// Where a setting's value came from, the strongest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The command line.
    Flag,
    /// The process's environment.
    Environment,
    /// A `.env` file.
    File {
        /// Which one.
        path: PathBuf,
        /// Whether it merely lies in the working directory, so that it may be anybody's.
        found: bool,
    },
    /// Nobody gave one.
    Default,
}

/// Everything that was given, before it is checked.
pub(super) struct Sources {
    /// Each setting, in the order of the table.
    given: Vec<Given>,
    /// The secrets that are used, as they may be shown.
    shown: Vec<Given>,
    /// What a found file has that was skipped.
    pub(super) warning: Option<String>,
}

impl Sources {
    pub(super) fn read(flags: &ArgMatches) -> Result<Self, Error> {
        let (file, warning) = env_file(flags)?;
        refuse_unknown_variables(file.as_ref())?;
        let given = SETTINGS
            .iter()
            .map(|setting| given(setting, flags, file.as_ref()));
        Ok(Self {
            given: given.collect::<Result<_, _>>()?,
            shown: Vec::new(),
            warning,
        })
    }

    /// A setting as it was given.
    pub(super) fn get(&self, variable: &'static str) -> Result<&Given, Error> {
        let mut given = self.given.iter();
        given
            .find(|given| given.setting.variable == variable)
            .ok_or_else(|| Error::Invalid {
                setting: variable.to_owned(),
                problem: "is no setting of this program".to_owned(),
            })
    }

    /// A setting's value, read by `parse`, whose error says what is wrong and what to do.
    pub(super) fn parse<T, E: fmt::Display>(
        &self,
        variable: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Error> {
        let given = self.get(variable)?;
        if given.value.contains("${") {
            return Err(given.invalid(PLACEHOLDER));
        }
        parse(&given.value).map_err(|problem| given.invalid(problem))
    }

    /// The key.
    pub(super) fn credentials(&mut self) -> Result<Credentials, Error> {
        let credentials = self.secret(KEY, |key| {
            let credentials = Credentials::parse(key.expose_secret())?;
            let shown = credentials.masked();
            Ok::<_, CredentialsError>((credentials, shown))
        })?;
        credentials.ok_or_else(|| Error::NoKey {
            instead: OTHER_NAMES
                .into_iter()
                .find(|name| env::var_os(name).is_some()),
        })
    }

    /// A secret, from its own variable or from the file that the other one names. `read` also says
    /// what of it may be shown.
    pub(super) fn secret<T, E: fmt::Display>(
        &mut self,
        variable: &str,
        read: impl FnOnce(&SecretString) -> Result<(T, String), E>,
    ) -> Result<Option<T>, Error> {
        let Some(given) = self.secret_given(variable)? else {
            return Ok(None);
        };
        let text = if given.setting.kind == Kind::SecretFile {
            let text = read_file(Path::new(&given.value)).and_then(|bytes| {
                String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
            });
            let text = text.map_err(|problem| given.unreadable(&problem))?;
            SecretString::from(clean(&text))
        } else {
            SecretString::from(given.value.as_str())
        };
        if text.expose_secret().lines().any(has_placeholder) {
            return Err(given.invalid(PLACEHOLDER));
        }
        let (secret, shown) = read(&text).map_err(|problem| given.invalid(problem))?;
        let shown = Given {
            value: shown,
            ..given.clone()
        };
        self.shown.push(shown);
        Ok(Some(secret))
    }

    /// Refuses what a found file says of a key from elsewhere: it must not lend it out, nor loosen
    /// what guards it.
    pub(super) fn refuse_lent_key(&self) -> Result<(), Error> {
        let Some(key) = self.secret_given(KEY)? else {
            return Ok(());
        };
        // A key file that the found file names may hold anybody's key.
        if key.source.is_found() && key.setting.kind == Kind::Secret {
            return Ok(());
        }
        let mut given = self.given.iter();
        match given.find(|given| given.setting.guards && given.source.is_found()) {
            Some(guard) => Err(Error::LentKey {
                path: guard.source.to_string(),
                variable: guard.setting.variable,
            }),
            None => Ok(()),
        }
    }

    /// Every setting, for people's eyes.
    pub(super) fn into_settings(self) -> Vec<Given> {
        let plain = self.given.into_iter();
        let plain = plain.filter(|given| !given.setting.is_secret());
        self.shown.into_iter().chain(plain).collect()
    }

    /// Which of its two variables gives a secret, if any.
    fn secret_given(&self, variable: &str) -> Result<Option<&Given>, Error> {
        let mut given: Vec<_> = self
            .given
            .iter()
            .filter(|given| {
                let name = given.setting.variable;
                name.strip_suffix("_FILE").unwrap_or(name) == variable
                    && given.source != Source::Default
            })
            .collect();
        // An empty one beside the other is none.
        given.sort_by_key(|given| (given.value.is_empty(), &given.source));
        match given[..] {
            [one, other] if one.source == other.source && !other.value.is_empty() => {
                let other = other.setting.variable;
                Err(one.invalid(format!("is set beside {other}: remove one of them")))
            }
            _ => Ok(given.first().copied()),
        }
    }
}

impl Given {
    pub(super) fn invalid(&self, problem: impl fmt::Display) -> Error {
        Error::Invalid {
            setting: self.to_string(),
            problem: problem.to_string(),
        }
    }

    /// For a setting that names a file. Its value may be the secret itself, and is not repeated.
    pub(super) fn unreadable(&self, problem: &str) -> Error {
        self.invalid(format!(
            "names a file that could not be read ({problem}): give it the path of one"
        ))
    }
}

impl Source {
    pub(super) fn is_found(&self) -> bool {
        matches!(self, Self::File { found: true, .. })
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, self.setting.flag) {
            (Source::Flag, Some(flag)) => write!(f, "--{flag}"),
            (source, _) => write!(f, "{} ({source})", self.setting.variable),
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

/// The file that the operator names, or the one that lies there; and what was skipped in it.
fn env_file(flags: &ArgMatches) -> Result<(Option<EnvFile>, Option<String>), Error> {
    let mut settings = SETTINGS.iter();
    let Some(setting) = settings.find(|setting| setting.variable == ENV_FILE) else {
        return Ok((None, None));
    };
    let named = given(setting, flags, None)?;
    let path = Path::new(&named.value);
    let (file, warning) = if named.source != Source::Default {
        (Some(EnvFile::named(path, &named)?), None)
    } else if path.is_file() {
        EnvFile::found(path)?
    } else {
        (None, None)
    };
    let given = given(setting, flags, file.as_ref())?;
    if let Source::File { .. } = given.source {
        return Err(given.invalid("is in such a file: only the flag or the environment names one"));
    }
    Ok((file, warning))
}

/// A setting's value from the strongest source that has one. An empty one is none: hosts and
/// templates leave it where nobody gave any. Only where an empty secret is all that there is, it
/// counts, so that it is refused.
fn given(
    setting: &'static Setting,
    flags: &ArgMatches,
    file: Option<&EnvFile>,
) -> Result<Given, Error> {
    let given = |value: &str, source| Given {
        setting,
        value: value.to_owned(),
        source,
    };
    // An option of `http` stands before the command or after it; `stdio` knows none of them.
    let levels = [flags.subcommand().map(|(_, after)| after), Some(flags)];
    let mut levels = levels.into_iter().flatten();
    if let Some(values) = levels.find_map(|flags| flags.try_get_raw(setting.variable).ok()?) {
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let given = given(&values.join(","), Source::Flag);
        return if given.value.is_empty() {
            Err(given.invalid("is empty: give it a value, or remove it"))
        } else {
            Ok(given)
        };
    }
    let mut strongest = given(setting.default, Source::Default);
    let mut consider = |value: &str, source| {
        let value = clean(value);
        if !value.is_empty() || strongest.value.is_empty() {
            strongest = given(value, source);
        }
    };
    if let Some(file) = file
        && let Some(value) = file.variables.get(setting.variable)
    {
        consider(value, file.source.clone());
    }
    match env::var(setting.variable) {
        Ok(value) => consider(&value, Source::Environment),
        Err(env::VarError::NotPresent) => {}
        Err(env::VarError::NotUnicode(_)) => {
            let given = given("", Source::Environment);
            return Err(given.invalid("is not UTF-8: paste it again"));
        }
    }
    Ok(strongest)
}

fn refuse_unknown_variables(file: Option<&EnvFile>) -> Result<(), Error> {
    let known = || SETTINGS.iter().map(|setting| setting.variable);
    let in_environment = env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, value)| !is_service_link(name, &value.to_string_lossy()))
        .map(|(name, _)| name);
    let in_file = file.into_iter().flat_map(|file| file.variables.keys());
    let unknown = in_environment
        .chain(in_file.cloned())
        .find(|name| name.starts_with(PREFIX) && !known().any(|known| known == name));
    let Some(name) = unknown else {
        return Ok(());
    };
    let likeness = |known: &str| strsim::jaro(&name[PREFIX.len()..], &known[PREFIX.len()..]);
    let meant = known()
        .filter(|known| known.starts_with(PREFIX))
        .map(|known| (likeness(known), known))
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .filter(|(likeness, _)| *likeness > 0.7)
        .map(|(_, known)| known);
    Err(Error::UnknownVariable { name, meant })
}

/// Whether Kubernetes or Docker made this variable, as they do in each container for each service
/// beside it, for one that is called `qovery-backups` or begins so.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port = |(number, port): (&str, &str)| {
        let ends = ["", "_PROTO", "_PORT", "_ADDR"];
        let protocols = ["TCP", "UDP", "SCTP"];
        let mut ends_of = protocols
            .iter()
            .filter_map(|protocol| port.strip_prefix(protocol));
        number.parse::<u16>().is_ok() && ends_of.any(|end| ends.contains(&end))
    };
    let is_container = |value: &str| value.starts_with('/');
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && value.contains("://")
        || name
            .rsplit_once("_PORT_")
            .and_then(|(_, port)| port.split_once('_'))
            .is_some_and(is_port)
        || name.ends_with("_NAME") && is_container(value)
        || name.split_once("_ENV_").is_some_and(|(link, _)| {
            env::var(format!("{link}_NAME")).is_ok_and(|name| is_container(&name))
        })
}

const PLACEHOLDER: &str =
    "holds a placeholder that the host did not fill in: give it the value itself";

/// Whether a line of a secret, or what follows a scheme or a caller's name in it, is what a template,
/// a host's configuration or a vault writes where the secret is to come.
fn has_placeholder(line: &str) -> bool {
    let after = |separator| line.split_once(separator).map(|(_, text)| text);
    let is_word = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        !text.is_empty() && text.bytes().all(fits)
    };
    let is_placeholder = |text: &str| {
        let text = clean(text);
        let within = |(start, end)| {
            let text = text.strip_prefix(start);
            text.is_some_and(|text: &str| text.ends_with(end))
        };
        let brackets = [
            ("${", "}"),
            ("$(", ")"),
            ("{{", "}}"),
            ("<", ">"),
            ("[", "]"),
            ("%", "%"),
        ];
        brackets.into_iter().any(within)
            || ["undefined", "null", "none"].contains(&text.to_ascii_lowercase().as_str())
            || text.strip_prefix('$').is_some_and(is_word)
            || text
                .split_once("://")
                .is_some_and(|(scheme, _)| is_word(scheme))
            || text.ends_with("...")
            || text.split_once('=').is_some_and(|(name, value)| {
                is_word(name) && name == name.to_uppercase() && !value.trim_matches('=').is_empty()
            })
    };
    let parts = [Some(line), after(' '), after(':')];
    parts.into_iter().flatten().any(is_placeholder)
}

/// The text without what pasting, editors and Docker's `--env-file` leave around it: blanks, a byte
/// order mark, a pair of quotes.
fn clean(text: &str) -> &str {
    let is_blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    let text = text.trim_matches(is_blank);
    let quoted = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    quoted('"')
        .or_else(|| quoted('\''))
        .map_or(text, |text: &str| text.trim_matches(is_blank))
}

/// A file of secrets or variables, or what is wrong with it. Neither repeats a word of it.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        if !is_readable(fs::metadata(path)?.file_type()) {
            return Err(io::Error::other("it is neither a file nor a pipe"));
        }
        let mut bytes = Vec::new();
        File::open(path)?
            .take(LARGEST_FILE + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(io::Error::other("it is larger than 64 KiB"));
        }
        Ok(bytes)
    };
    read().map_err(|error| error.to_string())
}

/// Whether a file ends by itself. A shell's `<(...)` is a pipe.
#[cfg(unix)]
fn is_readable(kind: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.is_file() || kind.is_fifo()
}

#[cfg(not(unix))]
fn is_readable(kind: FileType) -> bool {
    kind.is_file()
}
