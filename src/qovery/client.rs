//! The client: one request after another to one address, with limits on everything.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use hyper::body::Bytes;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, sleep, timeout_at},
};

use super::{
    Backup, BackupId, BackupPage, BaseUrl, Credentials, Database, DatabaseId, Error, Facts,
    Failure, NewBackup, Organization, OrganizationId, Outcome, Service,
    exchange::{Answer, causes},
    model::Results,
};
use crate::{
    context::Context,
    limits::Limits,
    shutdown::Shutdown,
    telemetry::{self, Attempt},
};

/// A client of Qovery's API. It holds the key, and sends it to its base URL only.
#[derive(Debug)]
pub struct Client {
    pub(super) base_url: BaseUrl,
    pub(super) credentials: Credentials,
    pub(super) limits: Arc<Limits>,
    shutdown: Shutdown,
    requests: Semaphore,
    /// Built on first use: reading the system's certificates takes milliseconds, which a host that
    /// only lists the tools need not wait for.
    pub(super) http: OnceCell<reqwest::Client>,
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

impl<T> Answered<T> {
    /// The whole answer, with what this program does not read of it.
    #[must_use]
    pub fn whole(&self) -> Value {
        // It was read from the same text before.
        serde_json::from_slice(&self.json).unwrap_or_default()
    }
}

pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<String>,
}

impl Client {
    /// A client that has not connected to anything yet.
    #[must_use]
    pub fn new(
        base_url: BaseUrl,
        credentials: Credentials,
        limits: Arc<Limits>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            base_url,
            credentials,
            requests: Semaphore::new(limits.upstream_requests),
            limits,
            shutdown,
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
        context: &Context,
    ) -> Result<Answered<BackupPage>, Error> {
        let query = start_id.map_or_else(String::new, |id| format!("?startId={id}"));
        self.get(format!("/database/{database}/backup{query}"), context)
            .await
    }

    /// The same page as [`list_backups`](Self::list_backups) answers, unread: Qovery's JSON to the byte.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]; nothing is ever changed.
    pub async fn list_backups_raw(
        &self,
        database: DatabaseId,
        start_id: Option<BackupId>,
        context: &Context,
    ) -> Result<Bytes, Error> {
        let query = start_id.map_or_else(String::new, |id| format!("?startId={id}"));
        let request = Request {
            method: Method::GET,
            path: format!("/database/{database}/backup{query}"),
            body: None,
        };
        let answer = self.send(&request, context).await?;
        answer.json().map_err(Error::harmless)
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
        context: &Context,
    ) -> Result<Answered<Backup>, Error> {
        let request = Request {
            method: Method::POST,
            path: format!("/database/{database}/backup"),
            body: Some(json!(backup).to_string()),
        };
        let answer = self.send(&request, context).await?;
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

    /// Removes a backup for good.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]. A 404 after an attempt that may have removed it is [`Outcome::Unknown`]: only
    /// the list can tell.
    pub async fn remove_backup(
        &self,
        database: DatabaseId,
        backup: BackupId,
        context: &Context,
    ) -> Result<(), Error> {
        let request = Request {
            method: Method::DELETE,
            path: format!("/database/{database}/backup/{backup}"),
            body: None,
        };
        let answer = self.send(&request, context).await?;
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

    /// The organizations that the key can see.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]; nothing is ever changed.
    pub async fn organizations(&self, context: &Context) -> Result<Vec<Organization>, Error> {
        let list: Answered<Results<_>> = self.get("/organization".to_owned(), context).await?;
        Ok(list.value.results)
    }

    /// The services of an organization, its databases among them.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]; nothing is ever changed.
    pub async fn services(
        &self,
        organization: OrganizationId,
        context: &Context,
    ) -> Result<Answered<Results<Service>>, Error> {
        self.get(format!("/organization/{organization}/services"), context)
            .await
    }

    /// What there is to know of a database.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]; nothing is ever changed.
    pub async fn database(
        &self,
        database: DatabaseId,
        context: &Context,
    ) -> Result<Database, Error> {
        let answered = self.get(format!("/database/{database}"), context).await?;
        Ok(answered.value)
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: String,
        context: &Context,
    ) -> Result<Answered<T>, Error> {
        let request = Request {
            method: Method::GET,
            path,
            body: None,
        };
        let answer = self.send(&request, context).await?;
        answer.read().map_err(Error::harmless)
    }

    /// Attempts a request until it succeeds, may not be repeated, is called off, or has no time left.
    ///
    /// It can be called off before each attempt and in each pause. An attempt to change something runs
    /// to its end once it has begun.
    async fn send(&self, request: &Request, context: &Context) -> Result<Answer, Error> {
        let limits = &self.limits;
        let latest = if request.is_change() {
            // Only if a whole attempt fits: cut off, it would end in doubt.
            context.deadline.reserve(limits.attempt)
        } else {
            context.deadline
        };
        if latest.remaining().is_zero() {
            return Err(Error::harmless(Failure::TimedOut));
        }
        let _permit = tokio::select! {
            biased;
            () = context.cancellation.cancelled() => return Err(Error::harmless(Failure::Cancelled)),
            permit = timeout_at(latest.at(), self.requests.acquire()) => {
                permit.map_err(|_| Error::harmless(Failure::Overloaded))?
            }
        };
        // What the attempts so far leave open; no later one can clear it.
        let (mut outcome, mut pending) = (Outcome::NotApplied, false);
        let mut pauses = full_jitter();
        loop {
            let failure = match self.attempt(request, context).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let facts = failure.facts();
            if request.is_change() && facts.outcome == Outcome::Unknown {
                outcome = Outcome::Unknown;
                pending |= facts.pending;
            }
            let pause = pauses
                .next()
                .filter(|_| request.may_repeat_after(&failure))
                .map(|pause| failure.retry_after().unwrap_or(pause))
                .filter(|pause| *pause <= limits.max_pause && *pause < latest.remaining());
            let error = |failure| Error {
                failure,
                outcome,
                pending,
            };
            let Some(pause) = pause else {
                return Err(error(failure));
            };
            tokio::select! {
                biased;
                () = context.cancellation.cancelled() => {
                    return Err(error(if outcome == Outcome::NotApplied {
                        Failure::Cancelled
                    } else {
                        failure
                    }));
                }
                () = self.shutdown.no_retries.cancelled() => return Err(error(failure)),
                () = sleep(pause) => {}
            }
            tracing::info!(request_id = %context.request_id, "{failure}: trying again");
        }
    }

    async fn attempt(&self, request: &Request, context: &Context) -> Result<Answer, Failure> {
        let started = Instant::now();
        let exchange = self.exchange(request, context);
        let result = if request.is_change() {
            exchange.await
        } else {
            tokio::select! {
                biased;
                () = context.cancellation.cancelled() => return Err(Failure::Cancelled),
                result = exchange => result,
            }
        };
        let attempt = match &result {
            Ok(answer) => Attempt::Answered(answer.status.as_u16()),
            Err(failure) => {
                let Facts { status, kind, .. } = failure.facts();
                status.map_or(Attempt::Failed(kind), Attempt::Answered)
            }
        };
        telemetry::count_attempt(attempt);
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

impl Request {
    pub(super) fn is_change(&self) -> bool {
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
fn full_jitter() -> impl Iterator<Item = Duration> {
    [200, 400]
        .into_iter()
        .map(|longest| Duration::from_millis(fastrand::u64(0..=longest)))
}
