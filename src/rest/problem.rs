//! Failures over HTTP, as problem details (RFC 9457), on either port.

use std::borrow::Cow;

use axum::{
    body::Body,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::{
    backups::{Concern, Error, Obstacle},
    context::RequestId,
    qovery::{Failure, Outcome, Scheme, mask_keys},
    text,
};

/// Why a request was not carried out (RFC 9457).
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Problem {
    /// The kind of problem, the same for every request that fails so.
    #[serde(rename = "type", serialize_with = "serialize_type")]
    #[schemars(with = "String")]
    kind: &'static str,
    /// The kind, for people.
    title: String,
    /// The HTTP status.
    #[schemars(with = "i32", range(min = 400, max = 599))]
    status: u16,
    /// What happened, whether anything was changed, and what to do next.
    detail: Cow<'static, str>,
    /// The request's id, as in `X-Request-Id` and in the server's log.
    instance: String,
    /// Whether the change was made that was asked for.
    outcome: Outcome,
    /// Whether the same request may succeed later, and is safe to repeat.
    retryable: bool,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the operator has to act on it.
    #[serde(skip)]
    is_for_operator: bool,
}

/// The problems that no error of `backups` is: the kind, the status and the detail of each.
macro_rules! problems {
    ($($(#[$doc:meta])* $kind:ident, $status:ident, $detail:literal;)+) => {
        impl Problem {
            $($(#[$doc])* pub fn $kind() -> Self {
                Self::new(stringify!($kind), StatusCode::$status, $detail)
            })+
        }
    };
}

problems! {
    /// A `Host` that is not allowed.
    forbidden_host, FORBIDDEN, "This server does not answer to that name. Nothing was changed. The operator allows names with --allowed-host.";
    /// A web page of another origin.
    forbidden_origin, FORBIDDEN, "Pages of that origin may not call this server. Nothing was changed. The operator allows origins with --allowed-origin.";
    /// A token whose role does not allow the request.
    forbidden_role, FORBIDDEN, "The role of this access token does not allow that. Nothing was changed. If it should, ask the operator for a token with another role.";
    /// No token, or a wrong one.
    unauthenticated, UNAUTHORIZED, "An access token of this server is needed, as `Authorization: Bearer <token>` or `X-API-Key: <token>`. Nothing was changed. The operator gives them out.";
    /// A body over the limits of bytes and of JSON values.
    body_too_large, PAYLOAD_TOO_LARGE, "The body is larger than 64 KiB, or holds more than 2,500 JSON values. Nothing was changed.";
    /// A body over its limit of time.
    body_too_slow, REQUEST_TIMEOUT, "The body was not complete after 10 seconds. Nothing was changed.";
    /// A path without a route.
    no_such_path, NOT_FOUND, "There is nothing at this path: MCP is at /mcp on the MCP port, REST at /v1 on the REST port. Nothing was changed.";
    /// A method that the path does not have.
    method_not_allowed, METHOD_NOT_ALLOWED, "The path does not have this method; Allow names those that it has. Nothing was changed.";
    /// A body whose `Content-Type` is not JSON.
    unsupported_media_type, UNSUPPORTED_MEDIA_TYPE, "The Content-Type must be application/json. Nothing was changed.";
}

impl Problem {
    fn new(kind: &'static str, status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut title = kind.replace('_', " ");
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Self {
            kind,
            title,
            status: status.as_u16(),
            detail: detail.into(),
            instance: String::new(),
            outcome: Outcome::NotApplied,
            retryable: false,
            headers: Vec::new(),
            is_for_operator: false,
        }
    }

    /// The text for the log, if the operator has to act on it.
    pub fn alert(&self) -> Option<&str> {
        self.is_for_operator.then_some(&*self.detail)
    }

    /// Invalid input.
    pub fn invalid(reason: &str) -> Self {
        // Some reasons repeat the input.
        let short = mask_keys(&text::excerpt(reason));
        let detail = format!("{short}. No request was sent to Qovery, and nothing was changed.");
        Self::new("invalid_request", StatusCode::BAD_REQUEST, detail)
    }

    /// A part of a request that axum or serde refuses, without their words for it.
    fn wrong(part: &str, theirs: &str) -> Self {
        let (_, reason) = theirs.split_once(": ").unwrap_or(("", theirs));
        let reason = reason
            .replace("unknown field", "there is no field")
            .replace("missing field", "there must be a field")
            .replace(", expected `", ", only `")
            .replace("invalid type: ", "")
            .replace(", expected ", " is not ")
            .replace(" at line ", ", in line ");
        Self::invalid(&format!("The {part} is wrong: {reason}"))
    }

    /// A body with a `Content-Encoding`.
    pub fn compressed(encoding: &str) -> Self {
        let encoding = text::excerpt(encoding);
        let detail =
            format!("The body is encoded ({encoding}): send it as it is. Nothing was changed.");
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let problem = Self::new("unsupported_media_type", status, detail);
        // RFC 9110, section 15.5.16.
        let identity = HeaderValue::from_static("identity");
        problem.with_header(header::ACCEPT_ENCODING, identity)
    }

    /// A fault of this server.
    pub fn internal() -> Self {
        let detail = "This server failed on the request. Whether anything was changed is not known: \
                      list the backups before you do anything else.";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self {
            outcome: Outcome::Unknown,
            ..Self::new("internal_error", status, detail)
        }
    }

    /// As many calls are in flight as the limits allow.
    pub fn overloaded() -> Self {
        let detail = "This server is overloaded: try again in a second. Nothing was changed.";
        let mut problem = Self::new("overloaded", StatusCode::SERVICE_UNAVAILABLE, detail);
        problem.retryable = true;
        problem.with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// The problem of a response: its own, or that of its status where the router or rmcp answered in plain
    /// text.
    pub(crate) fn of(response: &mut Response) -> Option<Self> {
        let status = response.status();
        if status.as_u16() < 400 {
            return None;
        }
        if let Some(own) = response.extensions_mut().remove() {
            return Some(own);
        }
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let mut problem = match status {
            // rmcp's own.
            _ if content_type.is_some_and(|it| it == "application/json") => return None,
            StatusCode::NOT_FOUND => Self::no_such_path(),
            StatusCode::METHOD_NOT_ALLOWED => Self::method_not_allowed(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::unsupported_media_type(),
            _ if status.is_client_error() => Self::invalid("The request is malformed"),
            _ => Self::internal(),
        };
        problem.status = status.as_u16();
        Some(problem)
    }

    /// The label in metrics and logs: the kind, but for an outcome that stayed unknown.
    pub fn label(&self) -> &'static str {
        match self.outcome {
            Outcome::Unknown => Outcome::Unknown.name(),
            _ => self.kind,
        }
    }

    /// The same, in other words.
    #[must_use]
    pub fn with_detail(self, detail: String) -> Self {
        Self {
            detail: detail.into(),
            ..self
        }
    }

    /// The same, with one more header in its response.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Writes the body of its response.
    pub(crate) fn write(mut self, id: &RequestId, response: &mut Response) {
        id.as_str().clone_into(&mut self.instance);
        let media_type = HeaderValue::from_static("application/problem+json");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, media_type);
        headers.remove(header::CONTENT_LENGTH);
        // It consists of texts and numbers, which always serialize.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        *response.body_mut() = Body::from(body);
    }
}

impl IntoResponse for Problem {
    /// A response that carries the problem, for the outermost middleware to write with the request's id.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, AppendHeaders(self.headers.clone())).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::wrong("path", &rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::wrong("query", &rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::MissingJsonContentType(_) => Self::unsupported_media_type(),
            rejection => Self::wrong("body", &rejection.body_text()),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        /// The details say "in a minute".
        const DEFAULT_RETRY_AFTER: u64 = 60;
        let problem = Self {
            outcome: error.outcome(),
            retryable: error.retryable(),
            is_for_operator: error.concern() == Concern::Operator,
            ..Self::new(error.kind(), status(&error), error.to_string())
        };
        let is_temporary = matches!(problem.status, 409 | 429 | 503);
        let seconds = match error.retry_after() {
            Some(pause) => pause.as_secs().max(1),
            None if problem.retryable && is_temporary => DEFAULT_RETRY_AFTER,
            None => return problem,
        };
        problem.with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }
}

fn serialize_type<S: Serializer>(kind: &str, to: S) -> Result<S::Ok, S::Error> {
    let kind = kind.replace('_', "-");
    to.collect_str(&format_args!("urn:qovery-backups-mcp:problem:{kind}"))
}

/// That Qovery refuses our key is not the caller's 401, and an answer that makes no sense is not the
/// caller's fault. What Qovery cannot do just now (409, 423, 425) is a conflict, whatever it calls it.
fn status(error: &Error) -> StatusCode {
    match error {
        Error::ReadOnly | Error::Unconfirmed(_) | Error::LookupDenied => StatusCode::FORBIDDEN,
        Error::Obstructed { obstacles, .. } => match obstacles.first() {
            Some((_, Obstacle::NotListed)) => StatusCode::NOT_FOUND,
            _ => StatusCode::CONFLICT,
        },
        Error::NotListed { .. } => StatusCode::NOT_FOUND,
        Error::Changed { .. } => StatusCode::CONFLICT,
        Error::ListIncomplete { .. } => StatusCode::BAD_GATEWAY,
        Error::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::LimitReached { .. } | Error::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::Unaudited => StatusCode::INTERNAL_SERVER_ERROR,
        Error::Qovery(error) => match &error.failure {
            Failure::Unauthorized(Scheme::Policy)
            | Failure::CallerUnauthorized(_)
            | Failure::KeyMissing => StatusCode::FORBIDDEN,
            Failure::Answered { status, .. } => match status {
                403 => StatusCode::FORBIDDEN,
                404 => StatusCode::NOT_FOUND,
                409 | 423 | 425 => StatusCode::CONFLICT,
                429 => StatusCode::TOO_MANY_REQUESTS,
                // It is a gateway's.
                408 => StatusCode::BAD_GATEWAY,
                400..500 => StatusCode::BAD_REQUEST,
                _ => StatusCode::BAD_GATEWAY,
            },
            Failure::Overloaded | Failure::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Failure::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Failure::Unreachable { source } if source.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
            Failure::Setup(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_GATEWAY,
        },
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
            let failure = Failure::Answered {
                status: answered,
                message: None,
                retry_after: None,
            };
            let problem = Problem::from(Error::from(qovery::Error::harmless(failure)));
            assert_eq!(problem.status, status, "{answered}");
            // It says when to try again if it says that trying again may help.
            let retry_after = problem
                .headers
                .iter()
                .any(|(name, _)| *name == header::RETRY_AFTER);
            assert_eq!(retry_after, problem.retryable, "{answered}");
        }
    }
}
