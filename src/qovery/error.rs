//! Failures of calls to Qovery: what happened, whether anything was changed, what to do next.

use std::{borrow::Cow, error::Error as StdError, fmt, io, iter, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

use super::Scheme;
use crate::text;

/// A call that failed, and the outcome of the change that it asked for.
///
/// Its `Display` form is the whole message for a person or a model: three short sentences.
#[derive(Debug, thiserror::Error)]
#[error("{failure}. {outcome} {}", self.advice())]
pub struct Error {
    /// The failure of the last attempt.
    pub failure: Failure,
    /// The outcome of the change over all attempts.
    pub outcome: Outcome,
    /// Whether Qovery may still be working on the change.
    pub pending: bool,
    /// Whether at least one attempt was, or may have been, sent.
    pub sent: bool,
}

/// Whether a change was made. A call that only reads is `NotApplied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Outcome {
    /// The change was made.
    Applied,
    /// Nothing was changed.
    NotApplied,
    /// It may or may not have been made.
    Unknown,
}

/// What happened, one variant per cause.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// 401.
    #[error("Qovery refused {}", refused(*.0))]
    Unauthorized(Scheme),
    /// 401 for a caller's own key.
    #[error("Qovery refused {}", refused(*.0))]
    CallerUnauthorized(Scheme),
    /// Callers bring their keys, and this one brought none that can be sent.
    #[error(
        "This server has no Qovery key of its own, and the header X-Qovery-Api-Key of the call holds none"
    )]
    KeyMissing,
    /// Another status than the operation documents for success. A redirect is never followed: the key
    /// is sent to the configured address only.
    #[error("{}{}", answered(*.status), quote(.message.as_deref()))]
    Answered {
        /// The HTTP status.
        status: u16,
        /// Qovery's own words.
        message: Option<String>,
        /// The `Retry-After` of the answer.
        retry_after: Option<Duration>,
    },
    /// A status of success with a body that the operation does not document.
    #[error("Qovery's answer could not be read as what this operation answers")]
    Unreadable,
    /// A body over [`answer_bytes`](crate::limits::Limits::answer_bytes), or the pages of a list over
    /// [`list_bytes`](crate::limits::Limits::list_bytes).
    #[error("Qovery's answer was larger than 2 MiB, or a list larger than 4 MiB, and was cut off")]
    TooLarge,
    /// No answer within the timeout.
    #[error("Qovery did not answer in time")]
    TimedOut,
    /// The connection broke after the request was sent, or may have been.
    #[error("The connection to Qovery broke before the answer was complete")]
    Interrupted(#[source] reqwest::Error),
    /// No connection: the request was certainly not sent.
    #[error("Qovery could not be reached: {}", root_cause(.source))]
    Unreachable {
        /// The error of the HTTP client.
        source: reqwest::Error,
    },
    /// The caller cancelled the call, or the process is shutting down.
    #[error("The call was called off: it was cancelled, or this server is shutting down")]
    Cancelled,
    /// All permits for requests stayed taken.
    #[error("This server is busy: 64 calls to Qovery are in flight")]
    Overloaded,
    /// The HTTP client could not be built, for instance without any trusted certificate.
    #[error("The HTTPS client could not be set up on this machine")]
    Setup(#[source] Box<dyn StdError + Send + Sync>),
}

/// What a failure means.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The kind of failure, as logs, metrics and problem details name it.
    pub kind: &'static str,
    /// The outcome of a change whose only attempt failed like this.
    pub outcome: Outcome,
    /// Whether Qovery may still be working on the change: there was no answer, or a gateway's, or
    /// one that does not say that it is done.
    pub pending: bool,
    /// Whether the cause may pass by itself.
    pub transient: bool,
    /// What to do next, if nothing was changed and there is no `Retry-After`.
    pub advice: &'static str,
}

impl Error {
    /// A failure that left nothing changed and nothing pending.
    pub fn harmless(failure: Failure) -> Self {
        Self {
            failure,
            outcome: Outcome::NotApplied,
            pending: false,
            sent: false,
        }
    }

    /// Whether the same call may succeed later, and is safe to repeat.
    pub fn retryable(&self) -> bool {
        self.outcome == Outcome::NotApplied && self.failure.facts().transient
    }

    fn advice(&self) -> Cow<'static, str> {
        let facts = self.failure.facts();
        match (self.outcome, self.failure.retry_after()) {
            (Outcome::NotApplied, Some(pause)) if facts.transient => {
                format!("Try again in {} seconds.", pause.as_secs().max(1)).into()
            }
            (Outcome::NotApplied, _) => facts.advice.into(),
            (Outcome::Applied, _) => "Do not repeat the call: list the backups to see it.".into(),
            (Outcome::Unknown, _) if self.pending => advice::LIST_LATER.into(),
            (Outcome::Unknown, _) => advice::LIST.into(),
        }
    }
}

impl Failure {
    /// The meaning of the failure: one row per cause.
    pub fn facts(&self) -> Facts {
        // The outcome of a change, and whether it is pending.
        const UNCHANGED: (Outcome, bool) = (Outcome::NotApplied, false);
        const UNKNOWN: (Outcome, bool) = (Outcome::Unknown, false);
        const PENDING: (Outcome, bool) = (Outcome::Unknown, true);

        let (kind, (outcome, pending), transient, advice) = match self {
            Self::Unauthorized(Scheme::Token | Scheme::Mismatch) => {
                ("key_rejected", UNCHANGED, false, advice::TOKEN)
            }
            Self::Unauthorized(Scheme::Bearer(_)) => {
                ("key_rejected", UNCHANGED, false, advice::JWT)
            }
            // Most likely the key is valid.
            Self::Unauthorized(Scheme::Policy) => ("forbidden", UNCHANGED, false, advice::POLICY),
            Self::CallerUnauthorized(Scheme::Policy) => {
                ("forbidden", UNCHANGED, false, advice::CALLER_KEY)
            }
            Self::CallerUnauthorized(_) => {
                ("caller_key_rejected", UNCHANGED, false, advice::CALLER_KEY)
            }
            Self::KeyMissing => ("key_missing", UNCHANGED, false, advice::CALLER_KEY),
            Self::Answered { status, .. } => match status {
                300..400 => ("redirected", UNKNOWN, false, advice::ADDRESS),
                403 => ("forbidden", UNCHANGED, false, advice::ROLE),
                404 => ("not_found", UNCHANGED, false, advice::IDS),
                // Conflict, Locked and Too Early: another operation is in progress.
                409 | 423 | 425 => ("rejected", UNCHANGED, true, advice::LATER),
                429 => ("rate_limited", UNCHANGED, true, advice::LATER),
                // Qovery itself answers these two; the others may come from a gateway.
                500 | 501 => ("unavailable", UNKNOWN, true, advice::LATER),
                408 | 500..600 => ("unavailable", PENDING, true, advice::LATER),
                402 | 405 | 410 | 424 | 451 => ("rejected", UNCHANGED, false, advice::PERSON),
                400..500 => ("rejected", UNCHANGED, false, advice::ARGUMENTS),
                _ => ("unexpected", PENDING, false, advice::ADDRESS),
            },
            Self::Unreadable => ("unreadable", UNKNOWN, false, advice::ADDRESS),
            Self::TooLarge => ("too_large", PENDING, false, advice::ADDRESS),
            Self::TimedOut => ("timed_out", PENDING, true, advice::LATER),
            Self::Interrupted(_) => ("interrupted", PENDING, true, advice::LATER),
            Self::Unreachable { source } => {
                let (transient, advice) = match causes(source).find_map(|it| it.downcast_ref()) {
                    Some(rustls::Error::InvalidCertificate(_)) => (false, advice::CERTIFICATE),
                    Some(_) => (false, advice::ADDRESS),
                    None => (true, advice::NETWORK),
                };
                ("unreachable", UNCHANGED, transient, advice)
            }
            Self::Overloaded => ("overloaded", UNCHANGED, true, advice::LATER),
            Self::Cancelled => ("cancelled", UNCHANGED, true, advice::IF_WANTED),
            Self::Setup(_) => ("setup", UNCHANGED, false, advice::TRUST),
        };
        Facts {
            kind,
            outcome,
            pending,
            transient,
            advice,
        }
    }

    /// The `Retry-After` of Qovery's answer.
    pub fn retry_after(&self) -> Option<Duration> {
        match *self {
            Self::Answered { retry_after, .. } => retry_after,
            _ => None,
        }
    }
}

/// What to do next.
mod advice {
    pub(super) const LATER: &str = "Try again in a minute.";
    pub(super) const LIST: &str =
        "Do not repeat the call: list the backups first, to see what holds.";
    pub(super) const LIST_LATER: &str =
        "Do not repeat the call: list the backups in a minute, to see what holds.";
    pub(super) const IF_WANTED: &str = "Call again if it is still wanted.";
    pub(super) const IDS: &str = "Check the ids with the person who gave them.";
    pub(super) const ARGUMENTS: &str = "Correct the arguments before you call again.";
    pub(super) const PERSON: &str =
        "Other arguments do not help: tell the person what Qovery answered.";
    pub(super) const TOKEN: &str =
        "Ask the operator to replace QOVERY_API_KEY; `qovery-backups-mcp check` tests it.";
    pub(super) const POLICY: &str =
        "Ask the operator for a key whose policy allows it, in QOVERY_API_KEY.";
    pub(super) const JWT: &str = "Ask the operator to replace QOVERY_API_KEY by a token; \
         `qovery-backups-mcp check` says when a JWT expires.";
    pub(super) const CALLER_KEY: &str = "Set the header X-Qovery-Api-Key to a Qovery key of your own, as it \
         is pasted from the Qovery console.";
    pub(super) const ROLE: &str = "It takes a key that has access to this database, and to add or \
         remove more than a viewer's role.";
    pub(super) const ADDRESS: &str = "Ask the operator to check QOVERY_API_URL and the network; \
         `qovery-backups-mcp check` tests both.";
    pub(super) const NETWORK: &str = "Ask the operator to check QOVERY_API_URL, the network and \
         any proxy (HTTPS_PROXY, ALL_PROXY, NO_PROXY); `qovery-backups-mcp check` tests them.";
    pub(super) const CERTIFICATE: &str = "Ask the operator: if their own authority or proxy \
         signed it, SSL_CERT_FILE can name a file with that authority's certificate (or with a \
         self-signed one that is CA:FALSE); if not, this may not be Qovery.";
    pub(super) const TRUST: &str = "Ask the operator to check the certificates that this machine \
         trusts, and SSL_CERT_FILE if it is set.";
}

impl Outcome {
    /// The name in logs, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NotApplied => "not_applied",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Applied => "The change was made.",
            Self::NotApplied => "Nothing was changed.",
            Self::Unknown => "Whether anything was changed is not known.",
        })
    }
}

/// 408 is a gateway's, like most of 5xx.
fn answered(status: u16) -> String {
    match status {
        300..400 => format!("The answer was a redirect ({status}), which is never followed"),
        403 => "Qovery does not allow this API key to do that (403)".to_owned(),
        404 => "Qovery knows no such database or backup (404)".to_owned(),
        429 => "Qovery's rate limit is reached (429)".to_owned(),
        408 | 500..600 => format!("Qovery failed ({status})"),
        400..500 => format!("Qovery refused the request ({status})"),
        _ => format!("Qovery answered with an unexpected status ({status})"),
    }
}

fn quote(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(", saying \"{message}\""))
}

/// A policy token is answered 401 for what its policy does not allow.
fn refused(key: Scheme) -> String {
    match key {
        Scheme::Token => "the API key (401)".to_owned(),
        Scheme::Mismatch => "the API key (401): it is no JWT, so `Bearer ` is wrong".to_owned(),
        Scheme::Policy => {
            "this (401): the key's policy does not allow it, or the key is not accepted".to_owned()
        }
        Scheme::Bearer(_) => {
            let expiry = key.expiry();
            let expiry = expiry.as_deref().unwrap_or("may have expired");
            format!("the API key (401): it is a JWT, and {expiry}")
        }
    }
}

/// An error that can be downcast, as its causes can.
type Cause = dyn StdError + 'static;

/// The text of the innermost cause: the outer ones only say that the request failed. It can quote the
/// names of a certificate, so it is sanitized and shortened.
pub(crate) fn root_cause(error: &Cause) -> String {
    let root = causes(error).last().unwrap_or(error);
    text::excerpt(&root.to_string())
}

/// The causes of an error, outermost first. `source` of an I/O error skips the error that it wraps.
fn causes(error: &Cause) -> impl Iterator<Item = &Cause> {
    iter::successors(error.source(), |&cause| {
        match cause.downcast_ref().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn texts_name_the_limits() {
        let limits = Limits::default();
        let [answer, list] = [limits.answer_bytes, limits.list_bytes].map(|bytes| bytes >> 20);
        for (failure, limit) in [
            (Failure::TooLarge, format!("larger than {answer} MiB")),
            (Failure::TooLarge, format!("list larger than {list} MiB")),
            (
                Failure::Overloaded,
                format!("{} calls", limits.upstream_requests),
            ),
        ] {
            assert!(failure.to_string().contains(&limit), "{failure}: {limit}");
        }
    }
}
