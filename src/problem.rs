//! Failures over HTTP, as problem details (RFC 9457), on whichever port.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    backups::{Error, Obstacle},
    context::RequestId,
    qovery::{Failure, Outcome, Scheme},
};

/// Why a request was not carried out.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: &'static str,
    status: StatusCode,
    detail: Cow<'static, str>,
    outcome: Outcome,
    retryable: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request was not carried out (RFC 9457).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct Details<'a> {
    /// The kind of problem, the same for every request that fails so.
    r#type: String,
    /// The kind, for people.
    title: String,
    /// The HTTP status.
    #[schemars(with = "i32", range(min = 400, max = 599))]
    status: u16,
    /// What happened, whether anything was changed, and what to do next.
    detail: &'a str,
    /// The request's id, as in `X-Request-Id` and in the server's log.
    instance: &'a str,
    /// Whether the change was made that was asked for.
    outcome: Outcome,
    /// Whether the same request may succeed later, and is safe to repeat.
    retryable: bool,
}

/// The kinds that no layer below knows: each its name, its status and its text.
macro_rules! problems {
    ($($(#[$doc:meta])* $kind:ident, $status:ident, $detail:literal;)+) => {
        impl Problem {
            $($(#[$doc])* #[must_use] pub fn $kind() -> Self {
                Self::new(stringify!($kind), StatusCode::$status, $detail)
            })+
        }
    };
}

problems! {
    /// A `Host` that is missing, doubled or no host.
    malformed_host, BAD_REQUEST, "The Host header is missing or malformed. Nothing was changed.";
    /// A `Host` that is none of ours.
    forbidden_host, FORBIDDEN, "This server does not answer to that name. Nothing was changed. The operator allows names with --allowed-host.";
    /// A web page of somebody else.
    forbidden_origin, FORBIDDEN, "Pages of that origin may not call this server. Nothing was changed. The operator allows origins with --allowed-origin.";
    /// No token, or a wrong one.
    unauthenticated, UNAUTHORIZED, "An access token of this server is needed, as `Authorization: Bearer <token>`. Nothing was changed. The operator gives them out.";
    /// A body over 64 KiB, or of far more values than any message has.
    body_too_large, PAYLOAD_TOO_LARGE, "The body is larger than 64 KiB, or holds more than 2,500 JSON values. Nothing was changed.";
    /// A body that ended early.
    body_broken, BAD_REQUEST, "The body could not be read. Nothing was changed.";
    /// A body that took more than ten seconds.
    body_too_slow, REQUEST_TIMEOUT, "The body was not complete after 10 seconds. Nothing was changed.";
    /// A path that is none.
    no_such_path, NOT_FOUND, "There is nothing at this path. Nothing was changed.";
    /// A session that is none, or another caller's.
    no_such_session, NOT_FOUND, "There is no such session. Nothing was changed. Begin a new one with initialize.";
    /// A method that the path does not have.
    method_not_allowed, METHOD_NOT_ALLOWED, "The path does not have this method; Allow names those that it has. Nothing was changed.";
    /// A caller that takes no JSON.
    not_acceptable, NOT_ACCEPTABLE, "Answers are JSON, which the Accept header excludes. Nothing was changed.";
    /// A body that is not JSON by its own account.
    unsupported_media_type, UNSUPPORTED_MEDIA_TYPE, "The Content-Type must be application/json. Nothing was changed.";
}

impl Problem {
    fn new(kind: &'static str, status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            status,
            detail: detail.into(),
            outcome: Outcome::NotApplied,
            retryable: false,
            headers: Vec::new(),
        }
    }

    /// Input that does not fit.
    #[must_use]
    pub fn invalid(reason: &str) -> Self {
        /// Some reasons repeat the input.
        const LONGEST: usize = 300;
        let short: String = reason.chars().take(LONGEST).collect();
        let detail = format!("{short}. No request was sent to Qovery, and nothing was changed.");
        Self::new("invalid_request", StatusCode::BAD_REQUEST, detail)
    }

    /// A fault of this server.
    #[must_use]
    pub fn internal() -> Self {
        let detail = "This server failed on the request. Whether anything was changed is not known: \
                      list the backups before you do anything else.";
        let mut problem = Self::new("internal_error", StatusCode::INTERNAL_SERVER_ERROR, detail);
        problem.outcome = Outcome::Unknown;
        problem
    }

    /// All places for calls are taken.
    #[must_use]
    pub fn overloaded() -> Self {
        let detail = "This server is overloaded: try again in a second. Nothing was changed.";
        let mut problem = Self::new("overloaded", StatusCode::SERVICE_UNAVAILABLE, detail);
        problem.retryable = true;
        problem.with_header(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// The kind, as logs and metrics call it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The same, with one more header in its response.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// What is sent of it, once it is known to which request it belongs.
    pub(crate) fn details<'a>(&'a self, instance: &'a str) -> Details<'a> {
        let kind = self.kind.replace('_', "-");
        let mut title = self.kind.replace('_', " ");
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Details {
            r#type: format!("urn:qovery-backups-mcp:problem:{kind}"),
            title,
            status: self.status.as_u16(),
            detail: &self.detail,
            instance,
            outcome: self.outcome,
            retryable: self.retryable,
        }
    }

    /// Writes itself as the body of its response.
    pub(crate) fn write(&self, id: &RequestId, response: &mut Response) {
        let json = HeaderValue::from_static("application/problem+json");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, json);
        headers.remove(CONTENT_LENGTH);
        // It has text and numbers only, which always can be written.
        let body = serde_json::to_vec(&self.details(id.as_str())).unwrap_or_default();
        *response.body_mut() = Body::from(body);
    }
}

impl IntoResponse for Problem {
    /// A response that carries the problem, for the outermost layer to write.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let mut problem = Self::new(error.kind(), status(&error), error.to_string());
        problem.outcome = error.outcome();
        problem.retryable = error.retryable();
        let pause = match (error.retry_after(), problem.status) {
            (Some(pause), _) => pause.as_secs().max(1),
            // As the detail says.
            (
                None,
                StatusCode::CONFLICT
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE,
            ) if problem.retryable => 60,
            _ => return problem,
        };
        problem.with_header(RETRY_AFTER, HeaderValue::from(pause))
    }
}

/// That Qovery refuses our key is not the caller's 401, and an answer that makes no sense is not the
/// caller's fault. What Qovery cannot do just now (409, 423, 425) is a conflict, whatever it calls it.
fn status(error: &Error) -> StatusCode {
    let failure = match error {
        Error::ReadOnly | Error::Unconfirmed(_) | Error::LookupDenied => {
            return StatusCode::FORBIDDEN;
        }
        Error::Obstructed { obstacles, .. } => {
            return match obstacles.first() {
                Some((_, Obstacle::NotListed)) => StatusCode::NOT_FOUND,
                _ => StatusCode::CONFLICT,
            };
        }
        Error::Changed(_) => return StatusCode::CONFLICT,
        Error::ListIncomplete { .. } => return StatusCode::BAD_GATEWAY,
        Error::Busy { .. } => return StatusCode::SERVICE_UNAVAILABLE,
        Error::LimitReached { .. } | Error::TooMany { .. } => return StatusCode::TOO_MANY_REQUESTS,
        Error::Unaudited => return StatusCode::INTERNAL_SERVER_ERROR,
        Error::Qovery(error) => &error.failure,
    };
    match failure {
        Failure::Forbidden { .. } | Failure::Unauthorized(Scheme::Policy) => StatusCode::FORBIDDEN,
        Failure::NotFound { .. } => StatusCode::NOT_FOUND,
        Failure::Rejected {
            status: 409 | 423 | 425,
            ..
        } => StatusCode::CONFLICT,
        Failure::Rejected { .. } => StatusCode::BAD_REQUEST,
        Failure::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
        Failure::Overloaded | Failure::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        Failure::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        Failure::Unreachable { source } if source.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
        Failure::Setup(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Failure::Unauthorized(_)
        | Failure::Unavailable { .. }
        | Failure::Redirected { .. }
        | Failure::Unexpected { .. }
        | Failure::Unreadable(_)
        | Failure::TooLarge
        | Failure::Interrupted(_)
        | Failure::Unreachable { .. } => StatusCode::BAD_GATEWAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::Limits, qovery};

    #[test]
    fn texts_name_the_limits_that_hold() {
        let limits = Limits::default();
        let size = format!("{} KiB", limits.body_bytes >> 10);
        let time = format!("{} seconds", limits.body_read.as_secs());
        for (problem, limit) in [
            (Problem::body_too_large(), size),
            (Problem::body_too_slow(), time),
        ] {
            assert!(problem.detail.contains(&limit), "{limit}: {problem:?}");
        }
    }

    #[test]
    fn what_qovery_cannot_do_just_now_is_a_conflict() {
        for (answered, status) in [(409, 409), (423, 409), (425, 409), (400, 400), (422, 400)] {
            let failure = Failure::Rejected {
                status: answered,
                message: None,
            };
            let problem = Problem::from(Error::from(qovery::Error::harmless(failure)));
            assert_eq!(problem.status.as_u16(), status, "{answered}");
            // It says when to try again if it says that trying again may help.
            let retry_after = problem.headers.iter().any(|(name, _)| *name == RETRY_AFTER);
            assert_eq!(retry_after, problem.retryable, "{answered}");
        }
    }
}
