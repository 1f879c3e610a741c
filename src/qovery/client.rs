//! The client: one request after another to one address, with limits on everything.

use std::{
    error::Error as _,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use backon::Retryable;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    Backup, BackupId, BaseUrl, Credentials, DatabaseId, Error, Failure, NewBackup, Outcome,
    Unreachable, Unreadable,
};
use crate::{call::Call, telemetry::Attempt};

/// To connect, TLS included.
const CONNECT: Duration = Duration::from_secs(3);
/// One attempt, from connecting to the last byte of the answer.
pub const ATTEMPT: Duration = Duration::from_secs(10);
/// One call of a tool, over all its requests and attempts. Hosts give up after 30 to 60 s.
const CALL: Duration = Duration::from_secs(25);
/// A longer `Retry-After` is not waited for but told to the caller.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Calls that may be on their way to Qovery at once.
const IN_FLIGHT: usize = 64;
/// A page of 20 backups is about 13 kB.
const LARGEST_ANSWER: usize = 8 << 20;
/// An upstream message longer than this is not a message.
const LONGEST_MESSAGE: usize = 300;

/// A client of Qovery's API. It holds the key, and sends it to its base URL only.
#[derive(Debug)]
pub struct Client {
    base_url: BaseUrl,
    credentials: Credentials,
    in_flight: Semaphore,
    /// Built on first use: reading the system's certificates takes milliseconds, which a host that
    /// only lists the tools need not wait for.
    http: OnceCell<reqwest::Client>,
}

/// When a call must have been answered, whatever it still wanted to do.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// 25 seconds from now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now() + CALL)
    }

    /// An earlier one, which leaves `rest` for what is to be done afterwards.
    #[must_use]
    pub fn leaving(self, rest: Duration) -> Self {
        Self(self.0 - rest)
    }

    /// The time that is left.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// What Qovery answered.
#[derive(Clone, Debug)]
pub struct Answered<T> {
    /// The answer as it was read.
    pub value: T,
    /// The answer as it was sent: JSON, to the byte.
    pub json: Bytes,
    /// The time by Qovery's own clock when it answered, in whole seconds; and ours when the answer
    /// began to arrive.
    pub date: Option<(DateTime<Utc>, Instant)>,
}

struct Request<'a> {
    method: Method,
    path: String,
    body: Option<String>,
    /// On whose behalf it is made.
    call: Option<&'a Call>,
}

/// An answer with a status of success.
struct Answer {
    status: StatusCode,
    /// An error only where the status alone already tells what became of the change.
    body: Result<Bytes, Failure>,
    date: Option<(DateTime<Utc>, Instant)>,
}

impl Client {
    /// A client that has not connected to anything yet.
    #[must_use]
    pub fn new(base_url: BaseUrl, credentials: Credentials) -> Self {
        Self {
            base_url,
            credentials,
            in_flight: Semaphore::new(IN_FLIGHT),
            http: OnceCell::new(),
        }
    }

    /// A page of a database's backups: the first, or the one after the backup `start_id`. It is read
    /// as a [`BackupPage`](super::BackupPage), or where only its JSON matters as a
    /// [`PageOutline`](super::PageOutline).
    ///
    /// # Errors
    ///
    /// Any [`Failure`]; nothing is ever changed.
    pub async fn list_backups<Page: DeserializeOwned>(
        &self,
        database: DatabaseId,
        start_id: Option<BackupId>,
        call: &Call,
        deadline: Deadline,
    ) -> Result<Answered<Page>, Error> {
        let query = start_id.map_or_else(String::new, |id| format!("?startId={id}"));
        let request = Request {
            method: Method::GET,
            path: format!("/database/{database}/backup{query}"),
            body: None,
            call: Some(call),
        };
        let answer = self.send(&request, deadline).await?;
        answer.read().map_err(Error::harmless)
    }

    /// Asks Qovery to make a backup, and gives what Qovery made of it. It goes on in Qovery.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]. The request is sent once, unless it was provably not sent, or was answered
    /// 429: Qovery takes no idempotency key, so a repetition could make a second backup.
    pub async fn add_backup(
        &self,
        database: DatabaseId,
        backup: &NewBackup,
        call: &Call,
        deadline: Deadline,
    ) -> Result<Answered<Backup>, Error> {
        let request = Request {
            method: Method::POST,
            path: format!("/database/{database}/backup"),
            body: Some(json!(backup).to_string()),
            call: Some(call),
        };
        let answer = self.send(&request, deadline).await?;
        // 201 says that it was made; another status of success may come from anything between.
        let created = answer.status == StatusCode::CREATED;
        answer.read().map_err(|failure| Error {
            failure,
            outcome: if created {
                Outcome::Applied
            } else {
                Outcome::Unknown
            },
            pending: false,
        })
    }

    /// Removes a backup for good. The caller has seen it in this database's list: a 404 after an
    /// attempt that may have removed it therefore means that it did.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub async fn remove_backup(
        &self,
        database: DatabaseId,
        backup: BackupId,
        call: &Call,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let request = Request {
            method: Method::DELETE,
            path: format!("/database/{database}/backup/{backup}"),
            body: None,
            call: Some(call),
        };
        let answer = match self.send(&request, deadline).await {
            Err(Error {
                failure: Failure::NotFound { .. },
                outcome: Outcome::Unknown,
                ..
            }) => {
                return Ok(());
            }
            answer => answer?,
        };
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(());
        }
        Err(Error {
            failure: Failure::Unexpected {
                status: answer.status.as_u16(),
            },
            outcome: Outcome::Unknown,
            pending: true,
        })
    }

    /// Asks which organizations the key can see, to learn whether it is accepted. Gives their
    /// number.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]; nothing is ever changed.
    pub async fn check_access(&self, deadline: Deadline) -> Result<usize, Error> {
        #[derive(Deserialize)]
        struct Organizations {
            #[serde(default)]
            results: Vec<serde::de::IgnoredAny>,
        }
        let request = Request {
            method: Method::GET,
            path: "/organization".to_owned(),
            body: None,
            call: None,
        };
        let answer = self.send(&request, deadline).await?;
        let organizations: Answered<Organizations> = answer.read().map_err(Error::harmless)?;
        Ok(organizations.value.results.len())
    }

    /// One call: waits for its place, then attempts it until it succeeds, may not be repeated, or
    /// has no time left.
    async fn send(&self, request: &Request<'_>, deadline: Deadline) -> Result<Answer, Error> {
        // A change that begins late would end in doubt.
        let latest = if request.is_change() {
            deadline.leaving(ATTEMPT).0
        } else {
            deadline.0
        };
        if Instant::now() > latest {
            return Err(Error::harmless(Failure::TimedOut));
        }
        let _place = timeout_at(latest, self.in_flight.acquire())
            .await
            .map_err(|_| Error::harmless(Failure::Overloaded))?;
        // Set by the first attempt that may have made the change, or still may; no later one can
        // clear them.
        let (in_doubt, pending) = (AtomicBool::new(false), AtomicBool::new(false));
        let attempt = || async {
            let result = self.attempt(request, deadline).await;
            let failure = match result {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if request.is_change() && failure.outcome_of_change() == Outcome::Unknown {
                in_doubt.store(true, Ordering::Relaxed);
                pending.fetch_or(failure.leaves_pending(), Ordering::Relaxed);
            }
            Err(failure)
        };
        attempt
            .retry(full_jitter())
            .when(|failure| request.may_repeat_after(failure))
            .adjust(|failure, pause| {
                let pause = pause.map(|pause| failure.retry_after().unwrap_or(pause))?;
                (pause <= LONGEST_PAUSE && pause < deadline.remaining()).then_some(pause)
            })
            .await
            .map_err(|failure| Error {
                failure,
                outcome: if in_doubt.load(Ordering::Relaxed) {
                    Outcome::Unknown
                } else {
                    Outcome::NotApplied
                },
                pending: pending.load(Ordering::Relaxed),
            })
    }

    async fn attempt(&self, request: &Request<'_>, deadline: Deadline) -> Result<Answer, Failure> {
        let started = Instant::now();
        let result = self
            .exchange(request, ATTEMPT.min(deadline.remaining()))
            .await;
        if let Some(call) = request.call {
            call.attempted(match &result {
                Ok(answer) => Attempt::Answered(answer.status.as_u16()),
                Err(Failure::Unreachable { .. }) => Attempt::Unreachable,
                Err(failure) => failure
                    .status()
                    .map_or(Attempt::Broken(failure.kind()), Attempt::Answered),
            });
        }
        let milliseconds = started.elapsed().as_millis();
        let (method, path) = (&request.method, &request.path);
        match &result {
            Ok(answer) => {
                let status = answer.status.as_u16();
                tracing::debug!(%method, path, status, milliseconds, "Qovery answered");
            }
            Err(failure) => {
                let source = failure.source().map(innermost).map(ToString::to_string);
                tracing::debug!(%method, path, milliseconds, source, "{failure}");
            }
        }
        result
    }

    async fn exchange(&self, request: &Request<'_>, timeout: Duration) -> Result<Answer, Failure> {
        let mut builder = self
            .http()
            .await?
            .request(request.method.clone(), self.base_url.join(&request.path))
            .timeout(timeout);
        if let Some(trace) = request.call.and_then(Call::trace) {
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
            let body = match read_body(response).await {
                Err(failure) if status != StatusCode::CREATED => return Err(failure),
                body => body,
            };
            return Ok(Answer { status, body, date });
        }
        let retry_after = retry_after(response.headers());
        let message = match read_body(response).await {
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
            .connect_timeout(CONNECT)
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

impl Request<'_> {
    fn is_change(&self) -> bool {
        self.method != Method::GET
    }

    fn may_repeat_after(&self, failure: &Failure) -> bool {
        // A repeated POST makes a second backup; a repeated DELETE finds nothing to remove.
        let harmless = self.method != Method::POST
            || matches!(
                failure,
                Failure::Unreachable { .. } | Failure::RateLimited { .. }
            );
        harmless && failure.is_transient()
    }
}

impl Answer {
    fn read<T: DeserializeOwned>(self) -> Result<Answered<T>, Failure> {
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

/// At most two repetitions, after a random part of 200 and of 400 ms: clients that failed together
/// must not come back together.
fn full_jitter() -> impl Iterator<Item = Duration> + Send + Sync + Unpin {
    [200, 400]
        .into_iter()
        .map(|longest| Duration::from_millis(fastrand::u64(0..=longest)))
}

/// Most bodies come in one piece, which is not copied.
async fn read_body(response: reqwest::Response) -> Result<Bytes, Failure> {
    let body = Limited::new(reqwest::Body::from(response), LARGEST_ANSWER);
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

fn innermost<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
