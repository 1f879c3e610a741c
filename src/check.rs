//! The `check` command: what would be used, and whether Qovery accepts it.

use std::fmt::Write as _;

use chrono::Utc;

use crate::{
    config::Given,
    context::{Context, Interface},
    limits::Limits,
    qovery::{Client, Credentials, DatabaseId, Error, Failure, Scheme},
};

/// What the check found, for a person to read.
#[derive(Debug)]
pub struct Report {
    /// The settings, their sources and the verdict, a line each.
    pub text: String,
    /// Whether the configuration would work.
    pub works: bool,
}

/// Says what would be used, then asks one question that changes nothing: for the backups of
/// `database`, else which organizations the key can see. Without a `key`, `qovery` is the sandbox.
pub async fn check(
    settings: &[Given],
    key: Option<&Credentials>,
    qovery: &Client,
    limits: &Limits,
    database: Option<DatabaseId>,
) -> Report {
    let mut text = String::new();
    for given in settings {
        let (variable, value) = (given.setting.variable, &given.value);
        let _ = writeln!(text, "{variable:<32} {value}  ({})", given.source);
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
    let (works, verdict) = match (seen, key) {
        (Ok(seen), Some(_)) => (true, format!("OK: Qovery accepts the key; it can {seen}.")),
        (Ok(seen), None) => (
            true,
            format!(
                "OK: the sandbox answers, and can {seen}. Qovery was not asked; no key was used."
            ),
        ),
        (Err(error), key) => (false, format!("FAILED: {}", explain(&error, key, database))),
    };
    let _ = writeln!(text, "{verdict}");
    Report { text, works }
}

fn scheme(key: &Credentials) -> String {
    let scheme = match key.scheme() {
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

/// The failure in an operator's words: a key that is wrong, a database that is not there and a
/// network that fails want different remedies.
fn explain(error: &Error, key: Option<&Credentials>, database: Option<DatabaseId>) -> String {
    let upstream = if key.is_some() {
        "Qovery"
    } else {
        "The sandbox"
    };
    match (&error.failure, key.map(Credentials::scheme), database) {
        (Failure::Unauthorized(_), Some(Scheme::Policy), None) => {
            "Qovery answered 401: the policy of this token does not allow the list of \
             organizations, or the token is not valid. Ask for what the policy is there for: \
             check --database <id>."
                .to_owned()
        }
        (Failure::Unauthorized(_), Some(Scheme::Policy), Some(database)) => format!(
            "Qovery answered 401: the policy of this token does not allow GET \
             /database/{database}/backup, or the token is revoked or has expired. Make a \
             token whose policy allows it, and set QOVERY_API_KEY to it."
        ),
        (Failure::Unauthorized(_), Some(Scheme::Bearer), _) => {
            "Qovery refused the key (401): a JWT expires. Log in again for a new one, or make an \
             API token in the Qovery console, and set QOVERY_API_KEY to it."
                .to_owned()
        }
        (Failure::Unauthorized(_), _, _) => {
            "Qovery refused the key (401). Make a new API token in the Qovery console and set \
             QOVERY_API_KEY to it."
                .to_owned()
        }
        (Failure::Forbidden { .. }, _, Some(_)) => {
            "Qovery knows the key, but does not let it list the backups of this database (403). \
             Give its role access to the database."
                .to_owned()
        }
        (Failure::Forbidden { .. }, _, None) => {
            "Qovery knows the key, but does not let it see organizations (403). Give its role access \
             to the organization of your databases."
                .to_owned()
        }
        (Failure::NotFound { .. }, _, Some(database)) => format!(
            "{upstream} knows no database {database}, or does not show it to this key (404). \
             Check the id: it is in the database's address in the Qovery console."
        ),
        (Failure::NotFound { .. }, _, None) => {
            "There is no list of organizations at this address (404), so it is not Qovery's API. \
             Check QOVERY_API_URL."
                .to_owned()
        }
        // These say themselves when to try again: Qovery is there, and so is the way to it.
        (Failure::RateLimited { .. } | Failure::Unavailable { .. }, _, _) => error.to_string(),
        (failure, _, _) => format!("{failure}. Check QOVERY_API_URL, the network and any proxy."),
    }
}
