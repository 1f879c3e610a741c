//! A file of `NAME=VALUE` lines, as far as it can be read.
//!
//! A value is plain and has no blanks, or stands in quotes, where it may span lines. `export` may
//! stand before a name, and a comment behind a value. Nothing is expanded: `$` is a dollar sign, so
//! that no file can carry a secret of the environment into an address or a path.

use std::{collections::BTreeMap, path::Path};

use super::{
    Error, Given, Source,
    settings::{PREFIX, SETTINGS},
    sources::read_file,
};

/// It never becomes part of the process's environment, where the HTTP client would take a proxy
/// from it.
pub(super) struct EnvFile {
    /// Where what it sets comes from.
    pub(super) source: Source,
    pub(super) variables: BTreeMap<String, String>,
    /// The numbers of the lines that cannot be read, each with what may be the name of its variable.
    unreadable: Vec<(usize, String)>,
}

impl EnvFile {
    /// Reads a file that the operator named: the whole of it or nothing.
    pub(super) fn named(path: &Path, setting: &Given) -> Result<Self, Error> {
        let file = Self::read(path, false).map_err(|problem| setting.unreadable(&problem))?;
        file.refuse(|_| true)?;
        Ok(file)
    }

    /// Reads a file that merely lies there, and gives a warning of what was skipped in it: it may be
    /// anybody's. What it has to say to this program is never skipped.
    pub(super) fn found(path: &Path) -> Result<(Option<Self>, Option<String>), Error> {
        let name = path.display();
        let file = match Self::read(path, true) {
            Ok(file) => file,
            Err(problem) => return Ok((None, Some(format!("{name} is not used: {problem}")))),
        };
        file.refuse(|name| {
            name.starts_with(PREFIX) || SETTINGS.iter().any(|setting| setting.variable == name)
        })?;
        let warning = file.unreadable.first().map(|(line, _)| {
            let count = file.unreadable.len();
            format!(
                "{name}: {count} line(s) were skipped as not NAME=VALUE, the first is line {line}"
            )
        });
        Ok((Some(file), warning))
    }

    fn read(path: &Path, found: bool) -> Result<Self, String> {
        let bytes = read_file(path)?;
        let (variables, unreadable) = parse(&String::from_utf8_lossy(&bytes));
        let path = path.to_owned();
        Ok(Self {
            source: Source::File { path, found },
            variables,
            unreadable,
        })
    }

    /// Fails at the first line that cannot be read and has such a name, without a word of its value.
    fn refuse(&self, has_name: impl Fn(&str) -> bool) -> Result<(), Error> {
        match self.unreadable.iter().find(|(_, name)| has_name(name)) {
            None => Ok(()),
            Some((line, _)) => Err(Error::EnvLine {
                path: self.source.to_string(),
                line: *line,
            }),
        }
    }
}

type Parsed = (BTreeMap<String, String>, Vec<(usize, String)>);

fn parse(text: &str) -> Parsed {
    let text = text.replace("\r\n", "\n");
    let mut rest = text.trim_start_matches('\u{feff}');
    let (mut variables, mut unreadable, mut line) = (BTreeMap::new(), Vec::new(), 1);
    while !rest.is_empty() {
        let statement = rest.trim_start_matches([' ', '\t']);
        let statement = match statement.strip_prefix("export") {
            Some(name) if name.starts_with([' ', '\t']) => name.trim_start_matches([' ', '\t']),
            _ => statement,
        };
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let (name, value) =
            statement.split_at(statement.find(|c| !is_part(c)).unwrap_or(statement.len()));
        let after = if name.is_empty() {
            end_of_line(statement)
        } else {
            assigned(value).map(|(value, after)| {
                variables.insert(name.to_owned(), value);
                after
            })
        };
        let after = after.unwrap_or_else(|| {
            unreadable.push((line, name.to_owned()));
            rest.split_once('\n').map_or("", |(_, below)| below)
        });
        line += rest[..rest.len() - after.len()].matches('\n').count();
        rest = after;
    }
    (variables, unreadable)
}

/// The value behind a name, and what follows its line.
fn assigned(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']).strip_prefix('=')?;
    // A comment may stand in place of a value.
    let blank = text.starts_with([' ', '\t']);
    let text = text.trim_start_matches([' ', '\t']);
    let (value, rest) = match text.chars().next() {
        Some('#') if blank => (String::new(), text),
        Some('\'') => {
            let (value, rest) = text[1..].split_once('\'')?;
            (value.to_owned(), rest)
        }
        Some('"') => double_quoted(&text[1..])?,
        _ => {
            let end = text.find([' ', '\t', '\n']).unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
    };
    // What was not UTF-8 can't be what was meant.
    if value.contains(char::REPLACEMENT_CHARACTER) {
        return None;
    }
    Some((value, end_of_line(rest)?))
}

fn double_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => match characters.next()? {
                'n' => value.push('\n'),
                c @ ('"' | '\\' | '$') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
}

/// What follows this line, if nothing but blanks and a comment is left of it.
fn end_of_line(text: &str) -> Option<&str> {
    let (line, below) = text.split_once('\n').unwrap_or((text, ""));
    let line = line.trim();
    (line.is_empty() || line.starts_with('#')).then_some(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shells_and_other_programs_write_is_read() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=b\r\nB=c\r\n", "b"),
            ("\u{feff}A=b\n", "b"),
            (" export A = b # c\n", "b"),
            ("A=b#c", "b#c"),
            ("A=", ""),
            ("A= # c", ""),
            ("A='b # c' # d", "b # c"),
            ("A=\"b \\\"c\\\" \\n \\d\"", "b \"c\" \n \\d"),
            (
                "A=\"-----BEGIN\r\nMIIB\r\n-----END\"\nB=c",
                "-----BEGIN\nMIIB\n-----END",
            ),
            ("A='b\nA=c\n'", "b\nA=c\n"),
            ("A=b\nA=c", "c"),
            ("A=${HOME}$HOME`id`", "${HOME}$HOME`id`"),
            ("A=C:\\new", "C:\\new"),
            ("# A=c\nA=it's", "it's"),
        ] {
            let (variables, unreadable) = parse(text);
            assert_eq!(variables["A"], value, "{text:?}");
            assert_eq!(unreadable, [], "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_hides_nothing_below_it() {
        for text in [
            "NAME=My Shop",
            "CRON=0 2 * * *",
            "FOO",
            "export FOO",
            "name: value",
            "- name: value",
            "=x",
            "{\"a\": 1}",
            "A=\"open",
            "A='open",
            "A='closed' twice",
            "A=\"x\\",
            "NAME=\u{fffd}",
        ] {
            let (variables, unreadable) = parse(&format!("X=1\n\n{text}\nB=\"2\"\n"));
            assert_eq!(variables["X"], "1", "{text}");
            assert_eq!(variables["B"], "2", "{text}");
            let lines: Vec<_> = unreadable.iter().map(|(line, _)| *line).collect();
            assert_eq!(lines, [3], "{text}");
        }
    }
}
