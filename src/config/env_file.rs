//! A `.env` file: the lines that set variables of this program. It never becomes part of the process's
//! environment.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Error, SettingValue, Source,
    secrets::{read_file, trim},
};

/// Stands for `$` while dotenvy parses a line: it expands variables, and a file must not carry a secret
/// of the environment into an address or a path. The character is for private use.
const MASKED_DOLLAR: &str = "\u{e000}";

/// What a file sets.
pub(super) struct EnvFile {
    pub(super) source: Source,
    pub(super) variables: BTreeMap<String, String>,
}

impl EnvFile {
    /// Reads the file that `setting` names, or the one that is found in the working directory. Other
    /// programs use files of that name: a found one that cannot be read is skipped with a warning.
    pub(super) fn read(
        setting: &SettingValue,
        is_ours: impl Fn(&str) -> bool,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>, Error> {
        let path = PathBuf::from(&setting.value);
        let found = setting.source == Source::Default;
        if found && !path.is_file() {
            return Ok(None);
        }
        let bytes = match read_file(&path) {
            Ok(bytes) => bytes,
            Err(problem) if found => {
                warnings.push(format!("{} is not used: {problem}", path.display()));
                return Ok(None);
            }
            Err(problem) => return Err(setting.unreadable(&problem)),
        };
        match parse(&String::from_utf8_lossy(&bytes), is_ours) {
            Ok(variables) => Ok(Some(Self {
                source: Source::File { path, found },
                variables,
            })),
            Err(line) => Err(Error::EnvLine(line, path.display().to_string())),
        }
    }

    /// The value of a variable. An empty one is unset.
    pub(super) fn get(&self, variable: &str) -> Option<&str> {
        let value = self.variables.get(variable)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }
}

/// The variables that `is_ours` knows, or the number of the first line of these that cannot be read. What
/// other lines hold does not matter: dotenvy gets one line at a time, because an apostrophe in a file
/// opens a quote that swallows all that follows.
fn parse(text: &str, is_ours: impl Fn(&str) -> bool) -> Result<BTreeMap<String, String>, usize> {
    let mut variables = BTreeMap::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim();
        let statement = match line.strip_prefix("export") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
            _ => line,
        };
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let end = statement.find(|c| !is_part(c)).unwrap_or(statement.len());
        let name = &statement[..end];
        if !is_ours(name) {
            continue;
        }
        let masked = statement.replace('$', MASKED_DOLLAR);
        // dotenvy's error repeats the line, and is dropped.
        let Some(Ok((_, value))) = dotenvy::from_read_iter(masked.as_bytes()).next() else {
            return Err(number);
        };
        // `C:\new` without quotes gets a line break. What was not UTF-8 is not what was meant.
        if value.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
            return Err(number);
        }
        let value = value.replace(MASKED_DOLLAR, "$");
        variables.insert(name.to_owned(), trim(&value).to_owned());
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_ours(text: &str) -> Result<BTreeMap<String, String>, usize> {
        parse(text, |name| name.starts_with("OUR_"))
    }

    #[test]
    fn what_shells_and_other_programs_write_is_read() {
        for (text, value) in [
            ("OUR_A=b", "b"),
            ("OUR_A=b\r\nB=c\r\n", "b"),
            ("\u{feff}OUR_A=b\n", "b"),
            (" export OUR_A = b # c\n", "b"),
            ("export\tOUR_A=b\t", "b"),
            ("OUR_A=b#c", "b#c"),
            ("OUR_A=", ""),
            ("OUR_A= # c", ""),
            ("OUR_A='b # c' # d", "b # c"),
            ("OUR_A=\"b \\\"c\\\"\"", "b \"c\""),
            ("OUR_A='C:\\new'", "C:\\new"),
            ("OUR_A=b\nOUR_A=c", "c"),
            ("OUR_A=${HOME}$HOME`id`", "${HOME}$HOME`id`"),
            ("OUR_A=\"$HOME\"", "$HOME"),
        ] {
            assert_eq!(parse_ours(text).unwrap()["OUR_A"], value, "{text:?}");
        }
    }

    #[test]
    fn lines_of_others_do_not_matter_and_lines_of_ours_are_never_skipped() {
        for other in [
            "# OUR_A=c",
            "NAME=it's",
            "NAME=My Shop",
            "export FOO",
            "name: value",
            "{\"a\": 1}",
            "NAME=\"open",
            "NAME=\u{fffd}",
            "export=x",
        ] {
            let variables = parse_ours(&format!("{other}\nOUR_A=b\n{other}"));
            let expected = BTreeMap::from([("OUR_A".to_owned(), "b".to_owned())]);
            assert_eq!(variables, Ok(expected), "{other}");
        }
        for ours in [
            "OUR_A",
            "OUR_A: b",
            "export OUR_A \"b\"",
            "OUR_A=\"open",
            "OUR_A=it's",
            "OUR_A='closed' twice",
            "OUR_A=info, rmcp=warn",
            "OUR_A=C:\\new",
            "OUR_A=C:\\temp",
            "OUR_A=\"b\\nc\"",
            "OUR_A=\u{fffd}",
        ] {
            let variables = parse_ours(&format!("OUR_B=b\n\n{ours}\nOUR_C=c"));
            assert_eq!(variables, Err(3), "{ours}");
        }
    }
}
