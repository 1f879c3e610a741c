//! The `check` command: what would be used, and whether Qovery accepts it.

use std::fmt::Write as _;

use chrono::Utc;

use crate::{
    config::{Setting, Source},
    qovery::{Client, Credentials, Deadline, Error, Failure, Scheme},
};

/// What the check found, for a person to read.
#[derive(Debug)]
pub struct Report {
    /// The settings, their sources and the verdict, a line each.
    pub text: String,
    /// Whether the configuration would work.
    pub works: bool,
}

/// Says what would be used, then asks Qovery the one question that changes nothing and that every
/// key may ask: which organizations it can see.
pub async fn check(settings: &[Setting], credentials: &Credentials, qovery: &Client) -> Report {
    let mut text = String::new();
    for Setting {
        variable,
        value,
        source,
        ..
    } in settings
    {
        let source = if *source == Source::Flag {
            "flag"
        } else {
            &source.to_string()
        };
        let _ = writeln!(text, "{variable:<28} {value}  ({source})");
    }
    let _ = writeln!(text, "{:<28} {}", "Scheme", scheme(credentials));
    let (works, verdict) = match qovery.check_access(Deadline::start()).await {
        Ok(organizations) => (
            true,
            format!("OK: Qovery accepts the key; it can see {organizations} organization(s)."),
        ),
        Err(error) => (false, format!("FAILED: {}", explain(&error))),
    };
    let _ = writeln!(text, "{verdict}");
    Report { text, works }
}

fn scheme(credentials: &Credentials) -> String {
    let scheme = match credentials.scheme() {
        Scheme::Token => "Token, an API token: it does not expire",
        Scheme::Bearer => "Bearer, a JWT",
    };
    match credentials.expires_at() {
        Some(date) if date <= Utc::now() => {
            format!("{scheme}: it expired at {}", date.to_rfc3339())
        }
        Some(date) => format!("{scheme}: it expires at {}", date.to_rfc3339()),
        None => scheme.to_owned(),
    }
}

/// The failure in an operator's words: a key that is wrong and a network that fails want different
/// remedies.
fn explain(error: &Error) -> String {
    match &error.failure {
        Failure::Unauthorized(_) => {
            "Qovery refused the key (401). Make a new API token in the Qovery console and set \
             QOVERY_API_KEY to it."
                .to_owned()
        }
        Failure::Forbidden { .. } => {
            "Qovery knows the key, but does not let it see organizations (403). Give its role access \
             to the organization of your databases."
                .to_owned()
        }
        failure => format!("{failure}. Check QOVERY_API_URL, the network and any proxy."),
    }
}
