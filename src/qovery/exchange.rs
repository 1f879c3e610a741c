//! One attempt: a request, and its response or failure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::body::Bytes;
use reqwest::{
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER},
    redirect, retry,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Credentials, Failure,
    client::{Answered, Client, Request},
};
use crate::{context::Context, text};

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
const REQUESTS_LEFT: HeaderName = HeaderName::from_static("x-ratelimit-remaining");

/// The largest error body that is read for its message.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A response with a status of success.
pub(super) struct Response {
    pub(super) status: u16,
    headers: HeaderMap,
    received: Instant,
    /// An error only after a 201: the status alone says that the change was made.
    body: Result<Bytes, Failure>,
}

impl Client {
    pub(super) async fn exchange(
        &self,
        request: &Request,
        context: &Context,
    ) -> Result<Response, Failure> {
        let url = format!("{}{}", self.base_url, request.path);
        let http = self
            .http
            .get_or_try_init(async || build_http(self.base_url.is_loopback(), self.limits.connect));
        let http = http.await.map_err(Failure::Setup)?;
        let timeout = self.limits.attempt.min(context.deadline.remaining());
        let authorization = request.credentials.header();
        let authorization = authorization.map_err(|error| Failure::Setup(error.into()))?;
        let mut builder = http
            .request(request.method.clone(), url)
            .timeout(timeout)
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, authorization);
        if let Some(trace) = &context.trace {
            builder = builder.header("traceparent", trace.as_str());
        }
        if let Some(body) = &request.body {
            builder = builder
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        let mut response = builder.send().await.map_err(failure_of)?;
        let received = Instant::now();
        let status = response.status().as_u16();
        if let Some(left) =
            text_of(response.headers(), REQUESTS_LEFT).and_then(|it| it.parse().ok())
        {
            let mut requests_left = self.requests_left.lock();
            *requests_left.of(context.key_id(), || left) = left;
        }
        if response.status().is_success() {
            let headers = std::mem::take(response.headers_mut());
            let body = match read_body(response, self.limits.answer_bytes).await {
                Err(failure) if status != 201 => return Err(failure),
                body => body,
            };
            return Ok(Response {
                status,
                headers,
                received,
                body,
            });
        }
        let retry_after = retry_after(response.headers());
        // The message is optional: without it, the status still says what failed.
        let body = read_body(response, MAX_ERROR_BYTES).await.ok();
        let message = body.and_then(|body| error_message(&body, &request.credentials));
        Err(match status {
            401 if self.credentials.is_none() => {
                Failure::CallerUnauthorized(request.credentials.scheme)
            }
            401 => Failure::Unauthorized(request.credentials.scheme),
            _ => Failure::Answered {
                status,
                message,
                retry_after,
            },
        })
    }
}

/// A client that follows no redirect, over https alone except where its peer is on loopback.
pub(crate) fn build_http(
    is_loopback: bool,
    connect: Duration,
) -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
    // Fails if another provider is installed, which then is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(connect)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .https_only(true);
    if is_loopback {
        builder = builder.no_proxy().https_only(false);
    }
    Ok(builder.build()?)
}

impl Response {
    /// Fails unless the response has the status that the operation documents.
    pub(super) fn require(&self, status: u16) -> Result<(), Failure> {
        if self.status == status {
            return Ok(());
        }
        Err(Failure::Answered {
            status: self.status,
            message: None,
            retry_after: None,
        })
    }

    /// The body as Qovery sent it, if status and content type are those of a JSON answer.
    pub(super) fn into_json(self) -> Result<Bytes, Failure> {
        self.require(200)?;
        match text_of(&self.headers, CONTENT_TYPE) {
            Some(media_type) if media_type.starts_with("application/json") => self.body,
            _ => Err(Failure::Unreadable),
        }
    }

    pub(super) fn deserialize<T: DeserializeOwned>(self) -> Result<Answered<T>, Failure> {
        let date = text_of(&self.headers, DATE).and_then(http_date);
        let json = self.body?;
        // Validates UTF-8 once instead of per string.
        let text = str::from_utf8(&json).map_err(|_| Failure::Unreadable)?;
        let value = serde_json::from_str(text).map_err(|error| {
            // Its text could quote the body.
            tracing::debug!(category = ?error.classify(), "an answer could not be deserialized");
            Failure::Unreadable
        })?;
        Ok(Answered {
            value,
            json,
            date: date.map(|date| (date, self.received)),
        })
    }
}

/// The message of an error body, without the key. Sanitized before the key is replaced, since hidden
/// characters could split the key; shortened afterwards, since the cut could.
fn error_message(body: &[u8], credentials: &Credentials) -> Option<String> {
    let mut message = message_in(body)?;
    text::sanitize(&mut message);
    Some(text::excerpt(&credentials.redact(&message)))
}

/// Reads a body of at most `max` bytes.
pub(crate) async fn read_body(
    mut response: reqwest::Response,
    max: usize,
) -> Result<Bytes, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failure_of)? {
        if body.len() + chunk.len() > max {
            return Err(Failure::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Seconds or a date (RFC 9110, section 10.2.3); a longer time is given as an hour.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    const MAX: Duration = Duration::from_secs(60 * 60);
    let value = text_of(headers, RETRY_AFTER)?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().map_or(MAX, Duration::from_secs).min(MAX));
    }
    let pause = http_date(value)? - Utc::now();
    Some(pause.to_std().unwrap_or_default().min(MAX))
}

/// Reads an HTTP date (RFC 9110, section 5.6.7).
fn http_date(value: &str) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc2822(value).ok()?.to_utc())
}

/// The message of an error body: Qovery's own `{status, error, message}`, problem details, a gateway's
/// object or list, or plain text. A page of HTML says nothing.
fn message_in(body: &[u8]) -> Option<String> {
    if let Ok(body) = serde_json::from_slice(body) {
        return words(&body);
    }
    let text = str::from_utf8(body).ok()?.trim();
    (!text.is_empty() && !text.starts_with(['<', '{', '['])).then(|| text.to_owned())
}

/// The text in a value. Of an object, full sentences come first; a list is taken whole.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => (!text.trim().is_empty()).then(|| text.clone()),
        Value::Array(values) => {
            let all: Vec<String> = values.iter().filter_map(words).collect();
            (!all.is_empty()).then(|| all.join("; "))
        }
        Value::Object(fields) => {
            let known = ["message", "detail", "title", "errors", "error"];
            let known = known.into_iter().find_map(|name| words(fields.get(name)?));
            // The name of a field, and what is wrong with it.
            let mut others = fields.iter().filter(|(_, value)| !value.is_string());
            known.or_else(|| others.find_map(|(name, it)| Some(format!("{name}: {}", words(it)?))))
        }
        _ => None,
    }
}

fn failure_of(source: reqwest::Error) -> Failure {
    if source.is_connect() {
        Failure::Unreachable { source }
    } else if source.is_timeout() {
        Failure::TimedOut
    } else {
        Failure::Interrupted(source)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_found_wherever_it_stands() {
        for (body, message) in [
            (
                json!({ "status": 400, "error": "x", "message": "m" }),
                Some("m"),
            ),
            (
                json!({ "title": "t", "detail": "d", "status": 400 }),
                Some("d"),
            ),
            (
                json!({ "message": " ", "detail": null, "title": "t" }),
                Some("t"),
            ),
            (json!({ "error": "e" }), Some("e")),
            (json!({ "message": 1 }), None),
            (json!(["m", { "message": "n" }]), Some("m; n")),
            (json!({ "error": { "code": 1, "message": "m" } }), Some("m")),
            (json!({ "errors": [{ "detail": "d" }] }), Some("d")),
            (
                json!({ "errors": { "name": ["is taken"] } }),
                Some("name: is taken"),
            ),
            (json!("m"), Some("m")),
            (json!({ "path": "/database" }), None),
            (json!([]), None),
        ] {
            assert_eq!(
                message_in(body.to_string().as_bytes()).as_deref(),
                message,
                "{body}"
            );
        }
        assert_eq!(
            message_in(b" no healthy upstream\n").as_deref(),
            Some("no healthy upstream")
        );
        for nothing in ["<html>", " \n", "{\"cut", "[1"] {
            assert_eq!(message_in(nothing.as_bytes()), None, "{nothing}");
        }
        assert_eq!(message_in(b"\xff"), None);
    }
}
