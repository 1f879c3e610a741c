//! The `check` command: what would be used, and whether Qovery accepts it.

use std::io::{self, Write};

use crate::{
    config::SettingValue,
    context::{Context, Interface},
    limits::Limits,
    qovery::{Client, Credentials, DatabaseId, Failure, Scheme},
};

/// Writes what would be used, then sends one request that changes nothing: for the backups of `database`,
/// else for the organizations that the key can see. Without a `key`, `qovery` is the sandbox. Returns
/// whether the configuration works.
///
/// # Errors
///
/// When `output` cannot be written to.
pub async fn check(
    settings: &[SettingValue],
    confirmation: &str,
    key: Option<&Credentials>,
    qovery: &Client,
    limits: &Limits,
    database: Option<DatabaseId>,
    mut output: impl Write,
) -> io::Result<bool> {
    for setting in settings {
        let (variable, value) = (&setting.variable, &setting.value);
        writeln!(output, "{variable:<32} {value}  ({})", setting.source)?;
    }
    writeln!(output, "{:<32} {confirmation}", "Confirmation")?;
    if let Some(key) = key {
        writeln!(output, "{:<32} {}", "Scheme", scheme(key))?;
    }
    let context = Context::new(Interface::Mcp, limits.call);
    let seen = if let Some(database) = database {
        let page = qovery.list_backups(database, None, &context).await;
        page.map(|page| format!("list {} backup(s) of {database}", page.value.results.len()))
    } else {
        let organizations = qovery.organizations(&context).await;
        organizations.map(|organizations| format!("see {} organization(s)", organizations.len()))
    };
    match (&seen, key) {
        (Ok(seen), Some(_)) => {
            writeln!(output, "OK: Qovery accepts the key; it can {seen}.")?;
        }
        (Ok(seen), None) => writeln!(
            output,
            "OK: the sandbox answers, and can {seen}. Qovery was not asked; no key was used."
        )?,
        (Err(error), key) => {
            let is_policy = key.is_some_and(|key| key.scheme == Scheme::Policy);
            let hint = match error.failure {
                Failure::Unauthorized(_) if is_policy && database.is_none() => {
                    " A policy may allow no list of organizations. Try what it is for: check \
                     --database <id>."
                }
                _ => "",
            };
            writeln!(output, "FAILED: {error}{hint}")?;
        }
    }
    Ok(seen.is_ok())
}

fn scheme(key: &Credentials) -> String {
    let scheme = match key.scheme {
        Scheme::Token => "Token, an API token: it does not expire",
        Scheme::Policy => "Token, a policy token: it may do what its policy allows",
        Scheme::Bearer(_) => "Bearer, a JWT",
    };
    let expiry = key.scheme.expiry();
    expiry.map_or_else(|| scheme.to_owned(), |expiry| format!("{scheme}: {expiry}"))
}
