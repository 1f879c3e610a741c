//! One attempt: a request, its answer, and what it is when there is none.

use std::{error::Error as _, io, time::Duration};

use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use reqwest::{
    StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{
    Failure, Unreachable, Unreadable,
    client::{Answered, Client, Request},
};
use crate::context::Context;

/// An upstream message longer than this is not a message.
const LONGEST_MESSAGE: usize = 300;

/// An answer with a status of success.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// An error only where the status alone already tells what became of the change.
    pub(super) body: Result<Bytes, Failure>,
    pub(super) date: Option<(DateTime<Utc>, Instant)>,
}

impl Client {
    pub(super) async fn exchange(
        &self,
        request: &Request,
        context: &Context,
    ) -> Result<Answer, Failure> {
        let limits = &self.process.limits;
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
            let body = match read_body(response, limits.answer).await {
                Err(failure) if status != StatusCode::CREATED => return Err(failure),
                body => body,
            };
            return Ok(Answer { status, body, date });
        }
        let retry_after = retry_after(response.headers());
        let message = match read_body(response, limits.answer).await {
            Ok(body) => own_message(&body).map(|message| self.credentials.redact(&message)),
            // The status alone says enough.
            Err(_) => None,
        };
        let code = status.as_u16();
        Err(match code {
            300..400 => Failure::Redirected { status: code },
            401 => Failure::Unauthorized,
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

    async fn http(&self) -> Result<&reqwest::Client, Failure> {
        self.http
            .get_or_try_init(async || self.build_http())
            .await
            .map_err(Failure::Setup)
    }

    fn build_http(&self) -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
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
            .connect_timeout(self.process.limits.connect)
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
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<Answered<T>, Failure> {
        let json = self.body?;
        match serde_json::from_slice(&json) {
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

/// Most bodies come in one piece, which is not copied.
async fn read_body(response: reqwest::Response, most: usize) -> Result<Bytes, Failure> {
    let body = Limited::new(reqwest::Body::from(response), most);
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(match error.downcast() {
            Ok(error) => unsent_or_unanswered(*error),
            Err(_) => Failure::TooLarge,
        }),
    }
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

/// The message of Qovery's error body, `{status, error, message}`, if it is one and short.
fn own_message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        message: String,
    }
    let Body { message } = serde_json::from_slice(body).ok()?;
    (!message.is_empty() && message.len() <= LONGEST_MESSAGE).then_some(message)
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
    let mut source = error.source();
    while let Some(cause) = source {
        // The resolver's step has no type of its own, only this text.
        if cause.to_string() == "dns error" {
            return Unreachable::Name;
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                return Unreachable::Refused;
            }
            if error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                .is_some()
            {
                return Unreachable::Tls;
            }
        }
        source = cause.source();
    }
    Unreachable::Other
}

pub(super) fn innermost<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
