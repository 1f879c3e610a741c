//! The client: the operations, and the attempts that each of them may take.

use std::{mem, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use hyper::body::Bytes;
use parking_lot::Mutex;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, sleep, timeout_at},
};
use uuid::Uuid;

use super::{
    Backup, BackupId, BackupPage, BaseUrl, Credentials, Database, DatabaseId, Error, Failure,
    NewBackup, Organization, Outcome, Service, error::root_cause, exchange::Response,
    model::Results,
};
use crate::{
    context::Context, credentials::KeyId, limits::Limits, recent::Recent, secret::Reloadable,
    shutdown::Shutdown, telemetry,
};

/// A client of Qovery's API. It holds the key, which is read again after a 401, or has none and takes that of
/// each call. It sends a key to its base URL only.
#[derive(Debug)]
pub struct Client {
    pub(super) base_url: BaseUrl,
    pub(super) credentials: Option<Arc<Reloadable<Credentials>>>,
    pub(super) limits: Arc<Limits>,
    shutdown: Shutdown,
    permits: Semaphore,
    /// How many requests of this hour were left of a caller's key, or of our own, at the last answer that said so.
    pub(super) requests_left: Mutex<Recent<Option<KeyId>, u32>>,
    /// Built on first use: reading the system's certificates takes milliseconds, which a host that
    /// only lists the tools need not wait for.
    pub(super) http: OnceCell<reqwest::Client>,
}

/// An answer of Qovery.
#[derive(Clone, Debug)]
pub struct Answered<T> {
    /// The deserialized body.
    pub value: T,
    /// The body as Qovery sent it: JSON, to the byte.
    pub json: Bytes,
    /// The `Date` header, in whole seconds, and our own time when the answer began to arrive.
    pub date: Option<(DateTime<Utc>, Instant)>,
}

/// A request, which is sent once per attempt.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<String>,
    pub(super) credentials: Arc<Credentials>,
}

impl Client {
    /// Creates a client that has not connected yet. Without `credentials`, each call brings its own.
    pub fn new(
        base_url: BaseUrl,
        credentials: Option<Arc<Reloadable<Credentials>>>,
        limits: Arc<Limits>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            base_url,
            credentials,
            permits: Semaphore::new(limits.upstream_requests),
            requests_left: Mutex::default(),
            limits,
            shutdown,
            http: OnceCell::new(),
        }
    }

    /// How many requests of this hour Qovery's last answer left the key (`X-RateLimit-Remaining`). Any number,
    /// if it did not say.
    #[must_use]
    pub fn requests_left(&self, context: &Context) -> u32 {
        let mut left = self.requests_left.lock();
        *left.of(context.key_id(), || u32::MAX)
    }

    /// The key of a call.
    ///
    /// # Errors
    ///
    /// [`Failure::KeyMissing`].
    pub fn key(&self, context: &Context) -> Result<Arc<Credentials>, Error> {
        let key = match &self.credentials {
            Some(own) => Some(own.current()),
            None => context.key.clone(),
        };
        key.ok_or_else(|| Error::harmless(Failure::KeyMissing))
    }

    /// Lists a page of a database's backups: the first, or the one after the backup `start_id`.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub async fn list_backups(
        &self,
        database: DatabaseId,
        start_id: Option<BackupId>,
        context: &Context,
    ) -> Result<Answered<BackupPage>, Error> {
        self.get(page_path(database, start_id), context).await
    }

    /// Lists the same page as [`list_backups`](Self::list_backups), as JSON that is not deserialized.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub async fn list_backups_raw(
        &self,
        database: DatabaseId,
        start_id: Option<BackupId>,
        context: &Context,
    ) -> Result<Bytes, Error> {
        let path = page_path(database, start_id);
        let response = self.send(Method::GET, path, None, context).await?;
        response.into_json().map_err(Error::harmless)
    }

    /// Asks Qovery to make a backup, and returns it as it was created. Qovery makes it in the
    /// background.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]. The request is repeated only if it was certainly not sent, or was answered 429:
    /// Qovery takes no idempotency key, so a repetition could make a second backup.
    pub async fn add_backup(
        &self,
        database: DatabaseId,
        backup: &NewBackup,
        context: &Context,
    ) -> Result<Answered<Backup>, Error> {
        let (path, body) = (page_path(database, None), json!(backup).to_string());
        let response = self.send(Method::POST, path, Some(body), context).await?;
        // 201 says that it was made; a gateway may answer with another status of success.
        let outcome = match response.status {
            201 => Outcome::Applied,
            _ => Outcome::Unknown,
        };
        response.deserialize().map_err(|failure| Error {
            failure,
            outcome,
            pending: false,
            sent: true,
        })
    }

    /// Removes a backup for good.
    ///
    /// # Errors
    ///
    /// Any [`Failure`]. A 404 after an attempt that may have removed it is [`Outcome::Unknown`]: only
    /// the list shows the outcome.
    pub async fn remove_backup(
        &self,
        database: DatabaseId,
        backup: BackupId,
        context: &Context,
    ) -> Result<(), Error> {
        let path = format!("/database/{database}/backup/{backup}");
        let response = self.send(Method::DELETE, path, None, context).await?;
        response.require(204).map_err(|failure| Error {
            failure,
            outcome: Outcome::Unknown,
            pending: true,
            sent: true,
        })
    }

    /// Lists the organizations that the key can see.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub async fn organizations(&self, context: &Context) -> Result<Vec<Organization>, Error> {
        let list: Answered<Results<_>> = self.get("/organization".to_owned(), context).await?;
        Ok(list.value.results)
    }

    /// Lists the services of an organization, including its databases.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub async fn services(
        &self,
        organization: Uuid,
        context: &Context,
    ) -> Result<Vec<Service>, Error> {
        let path = format!("/organization/{organization}/services");
        let list: Answered<Results<_>> = self.get(path, context).await?;
        Ok(list.value.results)
    }

    /// Returns a database's description.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub async fn database(&self, id: DatabaseId, context: &Context) -> Result<Database, Error> {
        let answered = self.get(format!("/database/{id}"), context).await?;
        Ok(answered.value)
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: String,
        context: &Context,
    ) -> Result<Answered<T>, Error> {
        let response = self.send(Method::GET, path, None, context).await?;
        response.deserialize().map_err(Error::harmless)
    }

    /// Attempts a request until it succeeds, may not be repeated, is cancelled, or has no time left.
    ///
    /// It can be cancelled before each attempt and in each pause. An attempt to change something
    /// is not interrupted.
    async fn send(
        &self,
        method: Method,
        path: String,
        body: Option<String>,
        context: &Context,
    ) -> Result<Response, Error> {
        let mut request = Request {
            method,
            path,
            body,
            credentials: self.key(context)?,
        };
        let latest = if request.is_change() {
            // Only if a whole attempt fits: an interrupted one has an unknown outcome.
            context.deadline.reserve(self.limits.attempt)
        } else {
            context.deadline
        };
        if latest.remaining().is_zero() {
            return Err(Error::harmless(Failure::TimedOut));
        }
        let permit = timeout_at(latest.at(), self.permits.acquire());
        let _permit = match context.cancellation.run_until_cancelled(permit).await {
            Some(Ok(permit)) => permit,
            Some(Err(_)) => return Err(Error::harmless(Failure::Overloaded)),
            None => return Err(Error::harmless(Failure::Cancelled)),
        };
        // Over all attempts: a later one does not settle what an earlier one may have changed.
        let (mut outcome, mut pending, mut sent) = (Outcome::NotApplied, false, false);
        let mut is_renewed = false;
        // Random, so that clients that failed together do not repeat together.
        let mut pauses = [200, 400]
            .map(|longest| Duration::from_millis(fastrand::u64(0..=longest)))
            .into_iter();
        loop {
            let failure = match self.attempt(&request, context).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            sent |= !matches!(
                failure,
                Failure::Unreachable { .. } | Failure::Setup(_) | Failure::Cancelled
            );
            let facts = failure.facts();
            if request.is_change() && facts.outcome == Outcome::Unknown {
                outcome = Outcome::Unknown;
                pending |= facts.pending;
            }
            // Once, with the new key: a 401 changed nothing.
            let pause = if let (Failure::Unauthorized(_), Some(own)) = (&failure, &self.credentials)
                && !mem::replace(&mut is_renewed, true)
            {
                let renewed = timeout_at(latest.at(), own.renew(&request.credentials));
                let renewed = renewed.await.unwrap_or(false);
                request.credentials = own.current();
                renewed.then_some(Duration::ZERO)
            } else {
                pauses
                    .next()
                    .filter(|_| request.is_repeatable_after(&failure))
                    .map(|pause| failure.retry_after().unwrap_or(pause))
            };
            let pause = pause
                .filter(|pause| *pause <= self.limits.max_pause && *pause < latest.remaining());
            let error = |failure| Error {
                failure,
                outcome,
                pending,
                sent,
            };
            let Some(pause) = pause else {
                return Err(error(failure));
            };
            tokio::select! {
                biased;
                () = context.cancellation.cancelled() => return Err(error(failure)),
                () = self.shutdown.no_retries.cancelled() => return Err(error(failure)),
                () = sleep(pause) => {}
            }
            tracing::info!(request_id = %context.request_id, "{failure}: trying again");
        }
    }

    /// Sends a request once. Counts and logs the attempt.
    async fn attempt(&self, request: &Request, context: &Context) -> Result<Response, Failure> {
        let started = Instant::now();
        let exchange = self.exchange(request, context);
        let result = if request.is_change() {
            exchange.await
        } else {
            let result = context.cancellation.run_until_cancelled(exchange).await;
            result.ok_or(Failure::Cancelled)?
        };
        let milliseconds = started.elapsed().as_millis();
        let (method, path) = (&request.method, &request.path);
        telemetry::count_attempt(match &result {
            Ok(response) => {
                let status = response.status;
                tracing::debug!(%method, path, status, milliseconds, "Qovery answered");
                Ok(status)
            }
            Err(failure) => {
                let cause = root_cause(failure);
                tracing::debug!(%method, path, milliseconds, cause, "{failure}");
                match failure {
                    Failure::Unauthorized(_) | Failure::CallerUnauthorized(_) => Ok(401),
                    Failure::Answered { status, .. } => Ok(*status),
                    _ => Err(failure.facts().kind),
                }
            }
        });
        result
    }
}

impl Request {
    fn is_change(&self) -> bool {
        self.method != Method::GET
    }

    fn is_repeatable_after(&self, failure: &Failure) -> bool {
        // A repeated POST makes a second backup; a repeated DELETE finds nothing to remove.
        let is_safe = self.method != Method::POST
            || matches!(
                failure,
                Failure::Unreachable { .. } | Failure::Answered { status: 429, .. }
            );
        is_safe && failure.facts().transient
    }
}

fn page_path(database: DatabaseId, start_id: Option<BackupId>) -> String {
    let query = start_id.map_or_else(String::new, |id| format!("?startId={id}"));
    format!("/database/{database}/backup{query}")
}
