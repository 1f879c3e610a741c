//! Secrets: each in a variable of its own, or in a file that a second variable names.

use std::{
    env, fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};

use super::{Error, SettingValue, Source, env_file::EnvFile};
use crate::secret::SecretFile;

/// The variables of the secrets. With `_FILE` behind it, each is the path of a file that holds the secret.
pub const SECRETS: [&str; 3] = [API_KEY, ACCESS_TOKEN, STATE_KEY];
pub(super) const API_KEY: &str = "QOVERY_API_KEY";
pub(super) const ACCESS_TOKEN: &str = "QOVERY_BACKUPS_ACCESS_TOKEN";
pub(super) const STATE_KEY: &str = "QOVERY_BACKUPS_STATE_KEY";

pub(super) const PLACEHOLDER: &str =
    "holds a placeholder that the host did not fill in: give it the value itself";

/// Bytes of a file of secrets or variables.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// A secret that is set, and not read yet.
#[derive(Clone)]
pub(super) struct Secret {
    /// Its value is what may be shown of the secret: more than these words once it is parsed.
    pub(super) setting: SettingValue,
    /// The file that holds it, if any.
    pub(super) path: Option<PathBuf>,
    text: SecretString,
}

impl Secret {
    /// Finds a secret in the environment, else in `file`. One that is empty is found only if there is no
    /// other, and fails when it is parsed.
    pub(super) fn find(variable: &str, file: Option<&EnvFile>) -> Result<Option<Self>, Error> {
        let names = [variable.to_owned(), format!("{variable}_FILE")];
        let in_environment = names.iter().filter_map(|name| {
            let value = env::var_os(name)?.to_string_lossy().into_owned();
            Some(Self::new(name, &value, Source::Environment))
        });
        let in_file = names.iter().filter_map(|name| {
            let EnvFile { source, variables } = file?;
            Some(Self::new(name, variables.get(name)?, source.clone()))
        });
        let mut secrets: Vec<_> = in_environment.chain(in_file).collect();
        secrets.sort_by_key(Self::is_empty);
        match &secrets[..] {
            [one, other, ..] if one.setting.source == other.setting.source && !other.is_empty() => {
                let other = &other.setting.variable;
                let problem = format!("is set beside {other}: remove one of them");
                Err(one.setting.invalid(problem))
            }
            _ => Ok(secrets.into_iter().next()),
        }
    }

    fn new(variable: &str, value: &str, source: Source) -> Self {
        let text = trim(value);
        Self {
            setting: SettingValue {
                variable: variable.to_owned(),
                flag: None,
                value: "a secret".to_owned(),
                source,
            },
            path: variable.ends_with("_FILE").then(|| path(text)),
            text: SecretString::from(text),
        }
    }

    fn is_empty(&self) -> bool {
        self.text.expose_secret().is_empty()
    }

    /// Reads and parses the secret.
    pub(super) fn parse<T, E: fmt::Display>(
        &self,
        parse: impl Fn(&SecretString) -> Result<T, E>,
    ) -> Result<T, Error> {
        parse(&self.read()?).map_err(|problem| self.setting.invalid(problem))
    }

    /// Its file, if that can be read again, which a pipe cannot.
    pub(super) fn file<T: 'static, E: fmt::Display + 'static>(
        &self,
        parse: fn(&SecretString) -> Result<T, E>,
    ) -> Option<SecretFile<T>> {
        let secret = self.clone();
        let read = move || {
            let parsed = secret.parse(parse);
            // clap's prefix, and its line break.
            parsed.map_err(|error| error.to_string().replace("error: ", "").trim().to_owned())
        };
        Some(SecretFile {
            variable: self.setting.variable.clone(),
            path: self.path.clone().filter(|path| path.is_file())?,
            read: Box::new(read),
        })
    }

    fn read(&self) -> Result<SecretString, Error> {
        let text = match &self.path {
            Some(path) => {
                let text = read_file(path).map_err(|error| self.setting.unreadable(&error))?;
                SecretString::from(trim(&text))
            }
            None => self.text.clone(),
        };
        let lines = text.expose_secret();
        if lines.contains(char::REPLACEMENT_CHARACTER) {
            return Err(self.setting.invalid("is not UTF-8: paste it again"));
        }
        if lines.lines().any(has_placeholder) {
            return Err(self.setting.invalid(PLACEHOLDER));
        }
        Ok(text)
    }
}

/// Whether a line of a secret, or the part behind a scheme or a caller's name, is what a template has in
/// the place of a secret.
fn has_placeholder(line: &str) -> bool {
    let is_placeholder = |text: &str| {
        let text = trim(text);
        [("${", "}"), ("{{", "}}"), ("<", ">"), ("%", "%")]
            .iter()
            .any(|(start, end)| text.starts_with(start) && text.ends_with(end))
    };
    let after = |separator| line.split_once(separator).map(|(_, text)| text);
    let parts = [Some(line), after(' '), after(':')];
    parts.into_iter().flatten().any(is_placeholder)
}

/// Removes what pasting, editors and Docker's `--env-file` leave around a value: blanks, a byte order mark,
/// one pair of quotes.
pub(super) fn trim(text: &str) -> &str {
    let is_blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    let text = text.trim_matches(is_blank);
    let unquoted = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    unquoted('"')
        .or_else(|| unquoted('\''))
        .map_or(text, |text: &str| text.trim_matches(is_blank))
}

/// The path that a setting names: `~/` is the home folder, where no shell expanded it.
pub(super) fn path(text: &str) -> PathBuf {
    match text.strip_prefix("~/").zip(env::home_dir()) {
        Some((rest, home)) => home.join(rest),
        None => text.into(),
    }
}

/// Reads a file of secrets or variables. The error repeats no word of it.
pub(super) fn read_file(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is larger than 64 KiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
