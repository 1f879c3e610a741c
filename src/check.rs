//! The `check` command: what would be used, and whether Qovery accepts it.

#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::{
    io::{self, Write},
    iter,
    sync::Arc,
};

use chrono::{TimeDelta, Utc};
use tokio::sync::watch;

use crate::{
    backups::Backups,
    config::Config,
    context::{Context, Interface},
    http::SignIn,
    limits::Limits,
    qovery::{Client, Credentials, DatabaseId, Error, Failure, Scheme, Service},
    secret::Reloadable,
};

/// Writes what would be used, and notes on what stops no start over stdio: a key file that others can read,
/// and a port of `http` that cannot be listened on, which is tried for a moment. Then sends requests that
/// change nothing: for the backups of `database`, else for the organizations that the key can see, and for what
/// the issuer of the sign-in publishes. Without a `key`, `qovery` is the sandbox. Where callers bring their keys,
/// asks Qovery nothing. Returns whether the configuration works.
///
/// # Errors
///
/// When `output` cannot be written to, or the file of the key is gone.
pub async fn check(
    config: &Config,
    key: Option<&Reloadable<Credentials>>,
    qovery: &Client,
    limits: &Arc<Limits>,
    databases: &[DatabaseId],
    mut output: impl Write,
) -> io::Result<bool> {
    for setting in &config.settings {
        let (variable, value) = (&setting.variable, &setting.value);
        writeln!(output, "{variable:<32} {value}  ({})", setting.source)?;
    }
    writeln!(output, "{:<32} {}", "Confirmation", config.confirmation())?;
    let current = key.map(Reloadable::current);
    if let Some(key) = &current {
        writeln!(output, "{:<32} {}", "Scheme", scheme(key))?;
    }
    #[cfg(unix)]
    if let Some(file) = key.and_then(|key| key.file.as_ref()) {
        let mode = file.path.metadata()?.permissions().mode();
        if mode & 0o077 != 0 {
            let path = file.path.display();
            writeln!(output, "Note: {path} is open to others: chmod 600 it.")?;
        }
    }
    for address in iter::once(config.http.mcp).chain(config.http.rest) {
        if let Err(error) = std::net::TcpListener::bind(address) {
            writeln!(output, "Note: http cannot listen on {address}: {error}.")?;
        }
    }
    if config.http.caller_keys {
        let verdict = if databases.is_empty() { "OK" } else { "FAILED" };
        writeln!(
            output,
            "{verdict}: each call brings its own key, in the header X-Qovery-Api-Key. Without one, nothing was asked."
        )?;
        return Ok(databases.is_empty());
    }
    let seen = async {
        let mut seen = Vec::new();
        for database in databases {
            let number = count(qovery, *database, limits).await?;
            seen.push(format!("list {number} backup(s) of {database}"));
        }
        if databases.is_empty() {
            let context = Context::new(Interface::Mcp, limits.call);
            let number = qovery.organizations(&context).await?.len();
            seen.push(format!("see {number} organization(s)"));
        }
        Ok::<_, Error>(seen.join(" and "))
    };
    let seen = seen.await;
    let verdict = match (&seen, current) {
        (Ok(seen), Some(_)) => format!("OK: Qovery accepts the key; it can {seen}."),
        (Ok(seen), None) => format!(
            "OK: the sandbox answers, and can {seen}. Qovery was not asked; no key was used."
        ),
        (Err(error), key) => {
            let is_policy = key.is_some_and(|key| key.scheme == Scheme::Policy);
            let hint = match error.failure {
                Failure::Unauthorized(_) if is_policy && databases.is_empty() => {
                    " A policy may allow no list of organizations. Try what it is for: check \
                     --database <id>."
                }
                _ => "",
            };
            format!("FAILED: {error}{hint}")
        }
    };
    writeln!(output, "{verdict}")?;
    let mut works = seen.is_ok();
    if let Some(sign_in) = SignIn::new(&config.http, limits.clone()) {
        let verdict = match sign_in.check().await {
            Ok(keys) => {
                format!("OK: the issuer of the sign-in publishes {keys} key(s) for tokens.")
            }
            Err(error) => {
                works = false;
                format!("FAILED: the sign-in would not work: {error}.")
            }
        };
        writeln!(output, "{verdict}")?;
    }
    Ok(works)
}

/// Writes of each of `databases`, or of all that the key can see, whether its newest finished backup is at most
/// `max_age` old. Returns the exit code: 3 if one is older or has none, else 1 if one could not be read.
///
/// # Errors
///
/// When `output` cannot be written to.
pub async fn check_ages(
    backups: &Backups,
    limits: &Limits,
    databases: &[DatabaseId],
    max_age: TimeDelta,
    mut output: impl Write,
) -> io::Result<u8> {
    let context = Context::new(Interface::Mcp, limits.check);
    let (mut readings, mut problems) = (Vec::new(), Vec::new());
    for database in databases {
        match backups.reading(&context, *database).await {
            Ok(reading) => readings.push((database.to_string(), reading)),
            Err(error) => problems.push(format!("{database}: {error}")),
        }
    }
    if databases.is_empty() {
        let bounds = (usize::MAX, limits.check);
        let unheard = watch::Sender::default();
        match backups.overview(&context, bounds, &unheard).await {
            Ok(overview) => {
                let named =
                    |(it, reading): (Service, _)| (format!("{} ({})", it.name, it.id), reading);
                readings.extend(overview.databases.into_iter().map(named));
                problems.extend(overview.problems);
                if !overview.complete && problems.is_empty() {
                    problems.push("Not each database was read in time.".to_owned());
                }
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    if readings.is_empty() && problems.is_empty() {
        problems.push("the key sees no database.".to_owned());
    }
    let mut is_old = false;
    for (database, reading) in readings {
        if !reading.is_known {
            problems.push(format!("{database}: its list is too long or out of order."));
            continue;
        }
        let age = reading.newest_finished.map(|(_, date)| Utc::now() - date);
        let is_good = age.is_some_and(|age| age <= max_age);
        let verdict = if is_good { "OK" } else { "TOO OLD" };
        let words = match age {
            None => "no finished backup".to_owned(),
            Some(age) => format!(
                "the newest finished backup is {} h old",
                age.num_hours().max(0)
            ),
        };
        let failed = reading.failed_since;
        writeln!(
            output,
            "{verdict}: {database}: {words}, {failed} failed since."
        )?;
        is_old |= !is_good;
    }
    for problem in &problems {
        writeln!(output, "NOT KNOWN: {problem}")?;
    }
    let code = u8::from(!problems.is_empty());
    Ok(if is_old { 3 } else { code })
}

/// Counts the backups of a database, page by page, up to the longest list that is read elsewhere.
async fn count(qovery: &Client, database: DatabaseId, limits: &Limits) -> Result<String, Error> {
    let (mut number, mut start_id) = (0, None);
    while number < limits.list_backups {
        let context = Context::new(Interface::Mcp, limits.call);
        let page = qovery.list_backups(database, start_id, &context).await?;
        number += page.value.results.len();
        start_id = page.value.next_start_id();
        if start_id.is_none() {
            return Ok(number.to_string());
        }
    }
    Ok(format!("at least {number}"))
}

fn scheme(key: &Credentials) -> String {
    let scheme = match key.scheme {
        // It has none of the beginnings, or is too short for a key.
        _ if key.masked().starts_with('…') => {
            "unknown: it looks like no key. API tokens begin with qov_, policy tokens with sk-qov-01-, JWTs with eyJ"
        }
        Scheme::Mismatch => "Bearer, but it is an API token: remove `Bearer ` before it",
        Scheme::Token => "Token, an API token: it does not expire",
        Scheme::Policy => "Token, a policy token: it may do what its policy allows",
        Scheme::Bearer(_) => "Bearer, a JWT",
    };
    let expiry = key.scheme.expiry();
    expiry.map_or_else(|| scheme.to_owned(), |expiry| format!("{scheme}: {expiry}"))
}
