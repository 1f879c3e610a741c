//! A `.env` file: the lines that set variables of this program. It never becomes part of the process's
//! environment.

use std::collections::BTreeMap;

use super::{
    Error, PREFIX, SettingValue, Source, cli, invalid,
    secrets::{path, read_file, trim},
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
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>, Error> {
        let path = path(&setting.value);
        let found = setting.source == Source::Default;
        if found && !path.is_file() {
            return Ok(None);
        }
        let text = match read_file(&path) {
            Ok(text) => text,
            Err(error) if found => {
                warnings.push(format!("{} is not used: {error}", path.display()));
                return Ok(None);
            }
            Err(error) => return Err(setting.unreadable(&error)),
        };
        let variables = parse(&text).map_err(|line| {
            invalid(format!(
                "Line {line} of {} is not NAME=VALUE, with quotes around a value that has blanks or \
                 backslashes. Correct it, or name another file with --env-file.",
                path.display()
            ))
        })?;
        let source = Source::File { path, found };
        if variables.contains_key(cli::ENV_FILE) {
            return Err(invalid(format!(
                "{} ({source}) is in such a file: only the flag or the environment names one.",
                cli::ENV_FILE
            )));
        }
        Ok(Some(Self { source, variables }))
    }
}

/// The variables of this program, or the number of the first line of these that cannot be read. What
/// other lines hold does not matter: dotenvy gets one line at a time, because an apostrophe in a file
/// opens a quote that swallows all that follows.
fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut variables = BTreeMap::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim();
        let statement = line.strip_prefix("export").unwrap_or(line).trim_start();
        if !statement.starts_with(PREFIX) && !statement.starts_with("QOVERY_API_") {
            continue;
        }
        let masked = statement.replace('$', MASKED_DOLLAR);
        // dotenvy's error repeats the line, and is dropped.
        let Some(Ok((name, value))) = dotenvy::from_read_iter(masked.as_bytes()).next() else {
            return Err(number);
        };
        // `C:\new` without quotes gets a line break. What was not UTF-8 is not what was meant.
        if value.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
            return Err(number);
        }
        let value = value.replace(MASKED_DOLLAR, "$");
        variables.insert(name, trim(&value).to_owned());
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shells_and_other_programs_write_is_read() {
        for (text, value) in [
            ("QOVERY_API_A=b", "b"),
            ("QOVERY_API_A=b\r\nB=c\r\n", "b"),
            ("\u{feff}QOVERY_API_A=b\n", "b"),
            (" export QOVERY_API_A = b # c\n", "b"),
            ("export\tQOVERY_API_A=b\t", "b"),
            ("QOVERY_API_A=b#c", "b#c"),
            ("QOVERY_API_A=", ""),
            ("QOVERY_API_A= # c", ""),
            ("QOVERY_API_A='b # c' # d", "b # c"),
            ("QOVERY_API_A=\"b \\\"c\\\"\"", "b \"c\""),
            ("QOVERY_API_A='C:\\new'", "C:\\new"),
            ("QOVERY_API_A=b\nQOVERY_API_A=c", "c"),
            ("QOVERY_API_A=${HOME}$HOME`id`", "${HOME}$HOME`id`"),
            ("QOVERY_API_A=\"$HOME\"", "$HOME"),
        ] {
            assert_eq!(parse(text).unwrap()["QOVERY_API_A"], value, "{text:?}");
        }
    }

    #[test]
    fn lines_of_others_do_not_matter_and_lines_of_ours_are_never_skipped() {
        for other in [
            "# QOVERY_API_A=c",
            "NAME=it's",
            "NAME=My Shop",
            "export FOO",
            "name: value",
            "{\"a\": 1}",
            "NAME=\"open",
            "NAME=\u{fffd}",
            "export=x",
        ] {
            let variables = parse(&format!("{other}\nQOVERY_API_A=b\n{other}"));
            let expected = BTreeMap::from([("QOVERY_API_A".to_owned(), "b".to_owned())]);
            assert_eq!(variables, Ok(expected), "{other}");
        }
        for ours in [
            "QOVERY_API_A",
            "QOVERY_API_A: b",
            "export QOVERY_API_A \"b\"",
            "QOVERY_API_A=\"open",
            "QOVERY_API_A=it's",
            "QOVERY_API_A='closed' twice",
            "QOVERY_API_A=info, rmcp=warn",
            "QOVERY_API_A=C:\\new",
            "QOVERY_API_A=C:\\temp",
            "QOVERY_API_A=\"b\\nc\"",
            "QOVERY_API_A=\u{fffd}",
        ] {
            let variables = parse(&format!("QOVERY_API_B=b\n\n{ours}\nQOVERY_API_C=c"));
            assert_eq!(variables, Err(3), "{ours}");
        }
    }
}
