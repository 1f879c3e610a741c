//! What can go wrong upstream: what happened, whether anything was changed, what to do next.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

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
    #[error("Qovery refused the API key (401)")]
    Unauthorized,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// No body.
    Empty,
    /// HTML, plain text or anything else that is not JSON.
    NotJson,
    /// JSON that ends early.
    Truncated,
    /// JSON of another shape.
    Shape,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The name does not resolve.
    Name,
    /// Nothing listens there.
    Refused,
    /// The other side's certificate is not trusted, or TLS failed otherwise.
    Tls,
    /// No connection within three seconds.
    TimedOut,
    /// Anything else.
    Other,
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
        self.outcome == Outcome::NotApplied && self.failure.is_transient()
    }

    fn advice(&self) -> String {
        match (self.outcome, &self.failure) {
            (Outcome::Unknown, _) if self.pending => {
                "Do not repeat the call: list the backups in a minute, to see what holds."
                    .to_owned()
            }
            (Outcome::Unknown, _) => {
                "Do not repeat the call: list the backups first, to see what holds.".to_owned()
            }
            (Outcome::Applied, _) => {
                "Do not repeat the call: list the backups to see it.".to_owned()
            }
            (Outcome::NotApplied, failure) => failure.advice(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {} {}", self.failure, self.outcome, self.advice())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failure.source()
    }
}

impl Failure {
    /// Whether Qovery may still be at work on a request that failed so: nobody answered, or only a
    /// gateway that had lost sight of it, or the answer does not say that it is done.
    pub(super) fn leaves_pending(&self) -> bool {
        match self {
            Self::TimedOut | Self::Interrupted(_) | Self::TooLarge | Self::Unexpected { .. } => {
                true
            }
            Self::Unavailable { status, .. } => ![500, 501].contains(status),
            _ => false,
        }
    }

    /// What one attempt that ended so tells of the change that it asked for.
    pub(super) fn outcome_of_change(&self) -> Outcome {
        match self {
            Self::Unauthorized
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Rejected { .. }
            | Self::RateLimited { .. }
            | Self::Unreachable { .. }
            | Self::Cancelled
            | Self::Overloaded
            | Self::Setup(_) => Outcome::NotApplied,
            Self::Unavailable { .. }
            | Self::Redirected { .. }
            | Self::Unexpected { .. }
            | Self::Unreadable(_)
            | Self::TooLarge
            | Self::TimedOut
            | Self::Interrupted(_) => Outcome::Unknown,
        }
    }

    /// The cause as one word, the same for every call that fails so.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unauthorized => "key_rejected",
            Self::Forbidden { .. } => "forbidden",
            Self::NotFound { .. } => "not_found",
            Self::Rejected { .. } => "rejected",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unavailable { .. } => "unavailable",
            Self::Redirected { .. } => "redirected",
            Self::Unexpected { .. } => "unexpected",
            Self::Unreadable(_) => "unreadable",
            Self::TooLarge => "too_large",
            Self::TimedOut => "timed_out",
            Self::Interrupted(_) => "interrupted",
            Self::Unreachable { .. } => "unreachable",
            Self::Cancelled => "cancelled",
            Self::Overloaded => "overloaded",
            Self::Setup(_) => "setup",
        }
    }

    /// The HTTP status that Qovery answered with, where it answered with a failure.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Unauthorized => Some(401),
            Self::Forbidden { .. } => Some(403),
            Self::NotFound { .. } => Some(404),
            Self::RateLimited { .. } => Some(429),
            Self::Rejected { status, .. }
            | Self::Unavailable { status, .. }
            | Self::Redirected { status }
            | Self::Unexpected { status } => Some(*status),
            _ => None,
        }
    }

    /// Whether the cause may pass by itself.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Unavailable { .. }
            | Self::TimedOut
            | Self::Interrupted(_)
            | Self::Cancelled
            | Self::Overloaded => true,
            Self::Unreachable { reason, .. } => *reason != Unreachable::Tls,
            _ => false,
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

    fn advice(&self) -> String {
        let advice = match self {
            Self::Unauthorized => {
                "Ask the operator to replace QOVERY_API_KEY; `qovery-backups-mcp check` tests it."
            }
            Self::Forbidden { .. } => {
                "Ask the operator for a key whose role may do this: a viewer's key can only list."
            }
            Self::NotFound { .. } => "Check the ids with the person who gave them.",
            Self::Rejected { .. } => "Correct the arguments before you call again.",
            Self::RateLimited { .. } | Self::Unavailable { .. } => {
                return match self.retry_after() {
                    Some(pause) => format!("Try again in {} seconds.", pause.as_secs().max(1)),
                    None => "Try again in a minute.".to_owned(),
                };
            }
            Self::Cancelled => "Call again if it is still wanted.",
            Self::TimedOut | Self::Interrupted(_) | Self::Overloaded => "Try again in a minute.",
            Self::Unreachable {
                reason: Unreachable::Tls,
                ..
            }
            | Self::Setup(_) => {
                "Ask the operator to check the certificates that this machine trusts."
            }
            Self::Unreachable { .. }
            | Self::Redirected { .. }
            | Self::Unexpected { .. }
            | Self::Unreadable(_)
            | Self::TooLarge => {
                "Ask the operator to check QOVERY_API_URL and the network; \
                 `qovery-backups-mcp check` tests both."
            }
        };
        advice.to_owned()
    }
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

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::NotJson => "it is not JSON",
            Self::Truncated => "its JSON breaks off",
            Self::Shape => "its JSON is not what this operation answers",
        })
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "its name does not resolve",
            Self::Refused => "the connection was refused",
            Self::Tls => "a trusted TLS connection failed",
            Self::TimedOut => "no connection within 3 seconds",
            Self::Other => "the connection failed",
        })
    }
}

fn quote(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(", saying \"{message}\""))
}
