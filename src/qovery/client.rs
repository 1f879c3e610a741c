//! The client: one request after another to one address, with limits on everything.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use backon::Retryable;
use chrono::{DateTime, Utc};
use hyper::body::Bytes;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    Backup, BackupId, BackupPage, BaseUrl, Credentials, DatabaseId, Error, Facts, Failure,
    NewBackup, Outcome,
    exchange::{Answer, causes},
};
use crate::{call::Call, telemetry::Attempt};

/// To connect, TLS included.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// One attempt, from connecting to the last byte of the answer.
pub const ATTEMPT: Duration = Duration::from_secs(10);
/// One call of a tool, over all its requests and attempts. Hosts give up after 30 to 60 s.
const CALL: Duration = Duration::from_secs(25);
/// A longer `Retry-After` is not waited for but told to the caller.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Calls that may be on their way to Qovery at once.
const IN_FLIGHT: usize = 64;
/// A page of 20 backups is about 13 kB.
pub(super) const LARGEST_ANSWER: usize = 8 << 20;

/// A client of Qovery's API. It holds the key, and sends it to its base URL only.
#[derive(Debug)]
pub struct Client {
    pub(super) base_url: BaseUrl,
    pub(super) credentials: Credentials,
    in_flight: Semaphore,
    /// Built on first use: reading the system's certificates takes milliseconds, which a host that
    /// only lists the tools need not wait for.
    pub(super) http: OnceCell<reqwest::Client>,
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

pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<String>,
    /// On whose behalf it is made.
    pub(super) call: Option<&'a Call>,
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

    /// A page of a database's backups: the first, or the one after the backup `start_id`.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]; nothing is ever changed.
    pub async fn list_backups(
        &self,
        database: DatabaseId,
        start_id: Option<BackupId>,
        call: &Call,
        deadline: Deadline,
    ) -> Result<Answered<BackupPage>, Error> {
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
            if request.is_change() && failure.facts().outcome == Outcome::Unknown {
                in_doubt.store(true, Ordering::Relaxed);
                pending.fetch_or(failure.facts().pending, Ordering::Relaxed);
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
                Err(failure) => {
                    let Facts { status, kind, .. } = failure.facts();
                    status.map_or(Attempt::Broken(kind), Attempt::Answered)
                }
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
                let source = causes(failure).last().map(ToString::to_string);
                tracing::debug!(%method, path, milliseconds, source, "{failure}");
            }
        }
        result
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
        harmless && failure.facts().transient
    }
}

/// At most two repetitions, after a random part of 200 and of 400 ms: clients that failed together
/// must not come back together.
fn full_jitter() -> impl Iterator<Item = Duration> + Send + Sync + Unpin {
    [200, 400]
        .into_iter()
        .map(|longest| Duration::from_millis(fastrand::u64(0..=longest)))
}
