//! What can go wrong upstream: what happened, whether anything was changed, what to do next.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

use super::Scheme;

/// A call that failed, and what became of the change that it asked for.
///
/// Its `Display` form is the whole message for a person or a model: three short sentences.
#[derive(Debug)]
pub struct Error {
    /// What happened last.
    pub failure: Failure,
    /// What is known of the change, over all attempts of the call.
    pub outcome: Outcome,
    /// Whether Qovery may still be at work on the change, after one of the attempts.
    pub pending: bool,
}

/// Whether the change that a call asked for was made. A call that only reads is `NotApplied`.
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

/// What happened, one variant a cause.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// 401.
    #[error("Qovery refused {}", refused(*.0))]
    Unauthorized(Scheme),
    /// 403, for instance a viewer's key that adds or removes.
    #[error("Qovery does not allow this API key to do that (403){}", quote(.message.as_deref()))]
    Forbidden {
        /// Qovery's own words.
        message: Option<String>,
    },
    /// 404.
    #[error("Qovery knows no such database or backup (404){}", quote(.message.as_deref()))]
    NotFound {
        /// Qovery's own words.
        message: Option<String>,
    },
    /// 400, or another 4xx.
    #[error("Qovery refused the request ({status}){}", quote(.message.as_deref()))]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// Qovery's own words.
        message: Option<String>,
    },
    /// 429.
    #[error("Qovery's rate limit is reached (429)")]
    RateLimited {
        /// How long Qovery asks to wait.
        retry_after: Option<Duration>,
    },
    /// 5xx, or 408, with which a gateway gives up, too.
    #[error("Qovery failed ({status}){}", quote(.message.as_deref()))]
    Unavailable {
        /// The HTTP status.
        status: u16,
        /// How long Qovery asks to wait.
        retry_after: Option<Duration>,
        /// Qovery's own words.
        message: Option<String>,
    },
    /// 3xx. A redirect is never followed: the key goes to the configured address only.
    #[error("The answer was a redirect ({status}), which is never followed")]
    Redirected {
        /// The HTTP status.
        status: u16,
    },
    /// A status of success that the operation does not document.
    #[error("Qovery answered with an unexpected status ({status})")]
    Unexpected {
        /// The HTTP status.
        status: u16,
    },
    /// A status of success with a body that is not what the operation documents.
    #[error("Qovery's answer could not be read: {0}")]
    Unreadable(Unreadable),
    /// A body over 8 MiB. It was cut off.
    #[error("Qovery's answer was larger than 8 MiB and was cut off")]
    TooLarge,
    /// No answer in time.
    #[error("Qovery did not answer in time")]
    TimedOut,
    /// The connection broke after the request was sent, or may have been.
    #[error("The connection to Qovery broke before the answer was complete")]
    Interrupted(#[source] reqwest::Error),
    /// No connection: the request was certainly not sent.
    #[error("Qovery could not be reached: {reason}")]
    Unreachable {
        /// Why.
        reason: Unreachable,
        /// The library's account of it.
        source: reqwest::Error,
    },
    /// Nobody wants the answer any more.
    #[error("The call was called off: it was cancelled, or this server is shutting down")]
    Cancelled,
    /// All 64 places for calls stayed taken.
    #[error("This server is busy: 64 calls to Qovery are in flight")]
    Overloaded,
    /// The HTTP client could not be built, for instance without any trusted certificate.
    #[error("The HTTPS client could not be set up on this machine")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What is wrong with an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No body.
    #[error("it is empty")]
    Empty,
    /// HTML, plain text or anything else that is not JSON.
    #[error("it is not JSON")]
    NotJson,
    /// JSON that ends early.
    #[error("its JSON breaks off")]
    Truncated,
    /// JSON of another shape.
    #[error("its JSON is not what this operation answers")]
    Shape,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// The name does not resolve.
    #[error("its name does not resolve")]
    Name,
    /// Nothing listens there.
    #[error("the connection was refused")]
    Refused,
    /// Nobody whom this machine trusts vouches for the certificate.
    #[error("its certificate is not trusted")]
    Untrusted,
    /// The certificate is for another time or another name.
    #[error("its certificate is not valid now, or not for this name")]
    Certificate,
    /// TLS failed otherwise, for instance because the other side does not speak it.
    #[error("the TLS handshake failed")]
    Tls,
    /// The proxy wants credentials (407).
    #[error("the proxy wants a user name and a password (407)")]
    ProxyCredentials,
    /// The proxy answered, and opened no connection to Qovery.
    #[error("the proxy refused to connect to it")]
    ProxyRefused,
    /// There is no connection to the proxy.
    #[error("the proxy itself could not be reached")]
    ProxyUnreachable,
    /// No connection within three seconds.
    #[error("no connection within 3 seconds")]
    TimedOut,
    /// Anything else.
    #[error("the connection failed")]
    Other,
}

/// What a failure means.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The cause as one word, the same for every call that fails so.
    pub kind: &'static str,
    /// The HTTP status, where Qovery answered with a failure.
    pub status: Option<u16>,
    /// What an attempt that ended so tells of the change that it asked for.
    pub outcome: Outcome,
    /// Whether Qovery may still be at work on the change: nobody answered, or only a gateway that
    /// had lost sight of it, or the answer does not say that it is done.
    pub pending: bool,
    /// Whether the cause may pass by itself.
    pub transient: bool,
    /// What to do next, where nothing was changed and Qovery does not say how long to wait.
    pub advice: &'static str,
}

impl Error {
    /// A failure that left nothing changed, nor anything on its way.
    #[must_use]
    pub fn harmless(failure: Failure) -> Self {
        Self {
            failure,
            outcome: Outcome::NotApplied,
            pending: false,
        }
    }

    /// Whether the same call may succeed later, and is safe to repeat.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.outcome == Outcome::NotApplied && self.failure.facts().transient
    }

    fn advice(&self) -> Cow<'static, str> {
        match (self.outcome, self.failure.retry_after()) {
            (Outcome::Unknown, _) if self.pending => {
                "Do not repeat the call: list the backups in a minute, to see what holds.".into()
            }
            (Outcome::Unknown, _) => {
                "Do not repeat the call: list the backups first, to see what holds.".into()
            }
            (Outcome::Applied, _) => "Do not repeat the call: list the backups to see it.".into(),
            (Outcome::NotApplied, Some(pause)) => {
                format!("Try again in {} seconds.", pause.as_secs().max(1)).into()
            }
            (Outcome::NotApplied, None) => self.failure.facts().advice.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}. {} {}", self.failure, self.outcome, self.advice());
        f.write_str(text.trim_end())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failure.source()
    }
}

impl Failure {
    /// What it means: one row a cause.
    #[must_use]
    pub fn facts(&self) -> Facts {
        // What became of the change, and whether it is pending.
        const NOTHING: (Outcome, bool) = (Outcome::NotApplied, false);
        const DOUBT: (Outcome, bool) = (Outcome::Unknown, false);
        const PENDING: (Outcome, bool) = (Outcome::Unknown, true);

        let (kind, status, (outcome, pending), transient, advice) = match *self {
            Self::Unauthorized(Scheme::Token) => {
                ("key_rejected", Some(401), NOTHING, false, advice::TOKEN)
            }
            Self::Unauthorized(Scheme::Bearer) => {
                ("key_rejected", Some(401), NOTHING, false, advice::JWT)
            }
            // Most likely the key is as it should be.
            Self::Unauthorized(Scheme::Policy) => {
                ("forbidden", Some(401), NOTHING, false, advice::POLICY)
            }
            Self::Forbidden { .. } => ("forbidden", Some(403), NOTHING, false, advice::ROLE),
            Self::NotFound { .. } => ("not_found", Some(404), NOTHING, false, advice::IDS),
            // A conflict, a lock and "too early": something else is under way.
            Self::Rejected {
                status: s @ (409 | 423 | 425),
                ..
            } => ("rejected", Some(s), NOTHING, true, advice::LATER),
            Self::Rejected { status: s, .. } => {
                ("rejected", Some(s), NOTHING, false, advice::ARGUMENTS)
            }
            Self::RateLimited { .. } => ("rate_limited", Some(429), NOTHING, true, advice::LATER),
            // These two are Qovery's own, not a gateway's.
            Self::Unavailable {
                status: s @ (500 | 501),
                ..
            } => ("unavailable", Some(s), DOUBT, true, advice::LATER),
            Self::Unavailable { status: s, .. } => {
                ("unavailable", Some(s), PENDING, true, advice::LATER)
            }
            Self::Redirected { status: s } => {
                ("redirected", Some(s), DOUBT, false, advice::ADDRESS)
            }
            Self::Unexpected { status: s } => {
                ("unexpected", Some(s), PENDING, false, advice::ADDRESS)
            }
            Self::Unreadable(_) => ("unreadable", None, DOUBT, false, advice::ADDRESS),
            Self::TooLarge => ("too_large", None, PENDING, false, advice::ADDRESS),
            Self::TimedOut => ("timed_out", None, PENDING, true, advice::LATER),
            Self::Interrupted(_) => ("interrupted", None, PENDING, true, advice::LATER),
            Self::Unreachable { reason, .. } => {
                let (transient, advice) = match reason {
                    Unreachable::Untrusted => (false, advice::AUTHORITY),
                    Unreachable::Certificate | Unreachable::Tls => (false, advice::ADDRESS),
                    Unreachable::ProxyCredentials => (false, advice::PROXY),
                    Unreachable::ProxyRefused | Unreachable::ProxyUnreachable => {
                        (true, advice::PROXY)
                    }
                    Unreachable::Name
                    | Unreachable::Refused
                    | Unreachable::TimedOut
                    | Unreachable::Other => (true, advice::ADDRESS),
                };
                ("unreachable", None, NOTHING, transient, advice)
            }
            Self::Overloaded => ("overloaded", None, NOTHING, true, advice::LATER),
            Self::Cancelled => ("cancelled", None, NOTHING, true, advice::WANTED),
            Self::Setup(_) => ("setup", None, NOTHING, false, advice::TRUST),
        };
        Facts {
            kind,
            status,
            outcome,
            pending,
            transient,
            advice,
        }
    }

    /// How long Qovery asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Unavailable { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

/// What to do next.
mod advice {
    pub(super) const LATER: &str = "Try again in a minute.";
    pub(super) const WANTED: &str = "Call again if it is still wanted.";
    pub(super) const IDS: &str = "Check the ids with the person who gave them.";
    pub(super) const ARGUMENTS: &str = "Correct the arguments before you call again.";
    pub(super) const TOKEN: &str =
        "Ask the operator to replace QOVERY_API_KEY; `qovery-backups-mcp check` tests it.";
    pub(super) const POLICY: &str =
        "Ask the operator for a key whose policy allows it, in QOVERY_API_KEY.";
    pub(super) const JWT: &str = "Ask the operator to replace QOVERY_API_KEY by a token; \
         `qovery-backups-mcp check` says when this JWT expires.";
    pub(super) const ROLE: &str = "Ask the operator for a key that has access to this database, \
         and to add or remove more than a viewer's role.";
    pub(super) const ADDRESS: &str = "Ask the operator to check QOVERY_API_URL and the network; \
         `qovery-backups-mcp check` tests both.";
    pub(super) const PROXY: &str = "Ask the operator to check HTTPS_PROXY, ALL_PROXY and NO_PROXY; \
         `qovery-backups-mcp check` tests them.";
    pub(super) const AUTHORITY: &str = "Ask the operator: if their own authority or proxy \
         signed it, SSL_CERT_FILE can name a file with that authority's certificate (or with a \
         self-signed one that is CA:FALSE); if not, this may not be Qovery.";
    pub(super) const TRUST: &str = "Ask the operator to check the certificates that this machine \
         trusts, and SSL_CERT_FILE if it is set.";
}

impl Outcome {
    /// Its name in logs, as in JSON.
    #[must_use]
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

fn quote(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(", saying \"{message}\""))
}

/// A policy token is answered 401 for what its policy does not allow.
fn refused(key: Scheme) -> &'static str {
    match key {
        Scheme::Token => "the API key (401)",
        Scheme::Policy => {
            "this (401): the key's policy does not allow it, or the key is not accepted"
        }
        Scheme::Bearer => "the API key (401): it is a JWT, and may have expired",
    }
}
