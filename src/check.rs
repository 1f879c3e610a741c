//! The `check` command: what would be used, and whether Qovery accepts it.

use std::fmt::Write as _;

use chrono::Utc;

use crate::{
    config::SettingValue,
    context::{Context, Interface},
    limits::Limits,
    qovery::{Client, Credentials, DatabaseId, Failure, Scheme},
};

/// What the check found, for a person to read.
#[derive(Debug)]
pub struct Report {
    /// The settings, their sources and the verdict, a line each.
    pub text: String,
    /// Whether the configuration would work.
    pub works: bool,
}

/// Lists what would be used, then sends one request that changes nothing: for the backups of `database`,
/// else for the organizations that the key can see. Without a `key`, `qovery` is the sandbox.
pub async fn check(
    settings: &[SettingValue],
    key: Option<&Credentials>,
    qovery: &Client,
    limits: &Limits,
    database: Option<DatabaseId>,
) -> Report {
    let mut text = String::new();
    for setting in settings {
        let (variable, value) = (&setting.variable, &setting.value);
        let _ = writeln!(text, "{variable:<32} {value}  ({})", setting.source);
    }
    if let Some(key) = key {
        let _ = writeln!(text, "{:<32} {}", "Scheme", scheme(key));
    }
    let context = Context::new(Interface::Mcp, limits.call);
    let seen = match database {
        Some(database) => qovery
            .list_backups(database, None, &context)
            .await
            .map(|page| format!("list {} backup(s) of {database}", page.value.results.len())),
        None => qovery
            .organizations(&context)
            .await
            .map(|organizations| format!("see {} organization(s)", organizations.len())),
    };
    let works = seen.is_ok();
    let verdict = match (seen, key) {
        (Ok(seen), Some(_)) => format!("OK: Qovery accepts the key; it can {seen}."),
        (Ok(seen), None) => {
            format!(
                "OK: the sandbox answers, and can {seen}. Qovery was not asked; no key was used."
            )
        }
        (Err(error), key) => {
            let is_policy = key.is_some_and(|key| key.scheme == Scheme::Policy);
            let hint = match error.failure {
                Failure::Unauthorized(_) if is_policy && database.is_none() => {
                    " A policy may allow no list of organizations. Try what it is for: check \
                     --database <id>."
                }
                _ => "",
            };
            format!("FAILED: {error}{hint}")
        }
    };
    let _ = writeln!(text, "{verdict}");
    Report { text, works }
}

fn scheme(key: &Credentials) -> String {
    let scheme = match key.scheme {
        Scheme::Token => "Token, an API token: it does not expire",
        Scheme::Policy => "Token, a policy token: it may do what its policy allows",
        Scheme::Bearer => "Bearer, a JWT",
    };
    match key.expires_at() {
        Some(date) if date <= Utc::now() => {
            format!("{scheme}: it expired at {}", date.to_rfc3339())
        }
        Some(date) => format!("{scheme}: it expires at {}", date.to_rfc3339()),
        None => scheme.to_owned(),
    }
}
