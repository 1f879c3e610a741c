//! One attempt: a request, its answer, and what it is when there is none.

use std::{error::Error, io, iter, time::Duration};

use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use reqwest::{
    StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use rustls::{CertificateError, pki_types::InvalidDnsNameError};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Failure, Unreachable, Unreadable,
    client::{Answered, Client, Request},
};
use crate::{context::Context, text};

/// An error body longer than this says nothing that anybody would read.
const LARGEST_ERROR: usize = 64 << 10;

/// An answer with a status of success.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// An error only where the status alone already tells what became of the change.
    pub(super) body: Result<Bytes, Failure>,
    /// Whether the body is JSON by its own account.
    pub(super) is_json: bool,
    pub(super) date: Option<(DateTime<Utc>, Instant)>,
}

impl Client {
    pub(super) async fn exchange(
        &self,
        request: &Request,
        context: &Context,
    ) -> Result<Answer, Failure> {
        let limits = &self.limits;
        let mut builder = self
            .http()
            .await?
            .request(request.method.clone(), self.base_url.join(&request.path))
            .timeout(limits.attempt.min(context.deadline.remaining()));
        if let Some(trace) = &context.trace {
            builder = builder.header("traceparent", trace.as_str());
        }
        if let Some(body) = &request.body {
            builder = builder
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        let response = builder.send().await.map_err(unsent_or_unanswered)?;
        let status = response.status();
        let date = date(response.headers()).map(|date| (date, Instant::now()));
        if status.is_success() {
            let is_json = is_json(response.headers());
            let body = match read_body(response, limits.answer_bytes).await {
                Err(failure) if status != StatusCode::CREATED => return Err(failure),
                body => body,
            };
            return Ok(Answer {
                status,
                body,
                is_json,
                date,
            });
        }
        let retry_after = retry_after(response.headers());
        // Without a message, the status alone says enough.
        let message = read_body(response, LARGEST_ERROR).await.ok();
        let message = message.and_then(|body| self.own_message(&body));
        let code = status.as_u16();
        Err(match code {
            300..400 => Failure::Redirected { status: code },
            401 => Failure::Unauthorized(self.credentials.scheme()),
            403 => Failure::Forbidden { message },
            404 => Failure::NotFound { message },
            429 => Failure::RateLimited { retry_after },
            408 | 500..600 => Failure::Unavailable {
                status: code,
                retry_after,
                message,
            },
            400..500 => Failure::Rejected {
                status: code,
                message,
            },
            _ => Failure::Unexpected { status: code },
        })
    }

    /// What Qovery, or whoever answers in its stead, says of a failure. Hidden characters could
    /// hide the key, which could stand where the text is cut: hence the order.
    fn own_message(&self, body: &[u8]) -> Option<String> {
        let mut message = message_in(body)?;
        text::sanitize(&mut message);
        Some(text::excerpt(&self.credentials.redact(&message)))
    }

    async fn http(&self) -> Result<&reqwest::Client, Failure> {
        self.http
            .get_or_try_init(async || self.build_http())
            .await
            .map_err(Failure::Setup)
    }

    fn build_http(&self) -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
        // Fails where another provider is installed already, which then serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.credentials.header()?);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!(
                env!("CARGO_PKG_NAME"),
                "/",
                env!("CARGO_PKG_VERSION")
            ))
            .default_headers(headers)
            .connect_timeout(self.limits.connect)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false);
        if self.base_url.is_loopback() {
            // What stays on this machine does not go through a proxy.
            builder = builder.no_proxy();
        } else {
            builder = builder.https_only(true);
        }
        Ok(builder.build()?)
    }
}

impl Answer {
    /// The body as it was sent, if it is JSON by its own account.
    pub(super) fn json(self) -> Result<Bytes, Failure> {
        if self.status != StatusCode::OK {
            return Err(Failure::Unexpected {
                status: self.status.as_u16(),
            });
        }
        if !self.is_json {
            return Err(Failure::Unreadable(Unreadable::NotJson));
        }
        self.body
    }

    pub(super) fn read<T: DeserializeOwned>(self) -> Result<Answered<T>, Failure> {
        let json = self.body?;
        // Its characters are checked once, and not with each string.
        let text = str::from_utf8(&json).map_err(|_| Failure::Unreadable(Unreadable::NotJson))?;
        match serde_json::from_str(text) {
            Ok(value) => Ok(Answered {
                value,
                json,
                date: self.date,
            }),
            Err(error) => {
                use serde_json::error::Category;
                Err(Failure::Unreadable(match error.classify() {
                    _ if json.trim_ascii().is_empty() => Unreadable::Empty,
                    Category::Eof => Unreadable::Truncated,
                    Category::Syntax | Category::Io => Unreadable::NotJson,
                    Category::Data => Unreadable::Shape,
                }))
            }
        }
    }
}

async fn read_body(response: reqwest::Response, max: usize) -> Result<Bytes, Failure> {
    let body = Limited::new(reqwest::Body::from(response), max);
    let body = body
        .collect()
        .await
        .map_err(|error| match error.downcast() {
            Ok(error) => unsent_or_unanswered(*error),
            Err(_) => Failure::TooLarge,
        })?;
    Ok(body.to_bytes())
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
    })
}

/// Seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(value).ok()?;
    Some((date.to_utc() - Utc::now()).to_std().unwrap_or_default())
}

/// When the answer was made (RFC 9110, section 6.6.1).
fn date(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    let value = headers.get(DATE)?.to_str().ok()?;
    Some(DateTime::parse_from_rfc2822(value).ok()?.to_utc())
}

/// The message of an error body: Qovery's own `{status, error, message}`, problem details, or what
/// gateways send; what is most of a sentence first.
fn message_in(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    [
        "/message",
        "/detail",
        "/errors/0/message",
        "/error/message",
        "/title",
        "/error",
    ]
    .into_iter()
    .filter_map(|place| body.pointer(place)?.as_str())
    .find(|text| !text.trim().is_empty())
    .map(str::to_owned)
}

fn unsent_or_unanswered(error: reqwest::Error) -> Failure {
    if error.is_connect() {
        return Failure::Unreachable {
            reason: unreachable_reason(&error),
            source: error,
        };
    }
    if error.is_timeout() {
        return Failure::TimedOut;
    }
    Failure::Interrupted(error)
}

fn unreachable_reason(error: &reqwest::Error) -> Unreachable {
    if error.is_timeout() {
        return Unreachable::TimedOut;
    }
    let reason = causes(error).find_map(reason_of);
    reason.unwrap_or(Unreachable::Other)
}

/// What one of the errors behind an error tells. The steps of the resolver and of the proxy have no
/// type that can be named, only texts.
fn reason_of(cause: &(dyn Error + 'static)) -> Option<Unreachable> {
    let text = cause.to_string();
    if text == "dns error" || cause.is::<InvalidDnsNameError>() {
        return Some(Unreachable::Name);
    }
    if let Some(step) = text.strip_prefix("tunnel error: ") {
        return Some(match step {
            "proxy authorization required" => Unreachable::ProxyCredentials,
            "failed to create underlying connection" => Unreachable::ProxyUnreachable,
            _ => Unreachable::ProxyRefused,
        });
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        return refused.then_some(Unreachable::Refused);
    }
    Some(match cause.downcast_ref()? {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. },
        ) => Unreachable::Certificate,
        rustls::Error::InvalidCertificate(_) => Unreachable::Untrusted,
        _ => Unreachable::Tls,
    })
}

/// What is behind an error, from the outside in. `source` passes over what an I/O error was made of.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(error.source(), |&cause| {
        match cause.downcast_ref().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use reqwest::dns::{Name, Resolve, Resolving};
    use serde_json::json;

    use super::*;

    /// Knows no name.
    struct Ignorant;

    impl Resolve for Ignorant {
        fn resolve(&self, _: Name) -> Resolving {
            Box::pin(async { Err("no such name".into()) })
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_known_by_its_text() {
        let provider = rustls::crypto::ring::default_provider();
        let _ = provider.install_default();
        let client = reqwest::Client::builder().no_proxy().dns_resolver(Ignorant);
        let request = client.build().unwrap().get("http://nowhere.invalid");
        let error = request.send().await.unwrap_err();
        assert_eq!(unreachable_reason(&error), Unreachable::Name);
    }

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
                json!({ "errors": [{ "message": "first" }, { "message": "second" }] }),
                Some("first"),
            ),
            (
                json!({ "error": { "code": 1, "message": "nested" } }),
                Some("nested"),
            ),
            (
                json!({ "message": " ", "detail": null, "title": "t" }),
                Some("t"),
            ),
            (json!({ "error": "e" }), Some("e")),
            (json!({ "message": 1 }), None),
            (json!(["message"]), None),
        ] {
            assert_eq!(
                message_in(body.to_string().as_bytes()).as_deref(),
                message,
                "{body}"
            );
        }
        assert_eq!(message_in(b"<html>"), None);
    }
}
