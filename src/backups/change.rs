//! The steps of a change, in the order in which they are taken: allowed, lock of the database, decision
//! on fresh facts, allowance, intent on record, request, settling of an unknown outcome, outcome on
//! record, return of what was not spent.

use std::{borrow::Borrow, panic::resume_unwind};

use chrono::{DateTime, Utc};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout},
};

use super::{
    Addition, AskedBy, Backups, Concern, Condition, Confirm, Consent, Error, RemovalOutcome,
    RemovalRequest, allowance::Reserved, audit::Record,
};
use crate::{
    context::{Context, Interface},
    qovery::{self, Backup, BackupId, DatabaseId, Failure, NewBackup, Outcome},
    text,
};

impl Backups {
    /// Adds a backup. No rule forbids another one.
    ///
    /// # Errors
    ///
    /// Those of a change: [`Error::ReadOnly`], [`Error::Busy`], [`Error::LimitReached`],
    /// [`Error::Unaudited`], [`Error::Qovery`].
    pub async fn add(
        &self,
        context: &Context,
        database: DatabaseId,
        backup: NewBackup,
    ) -> Result<Addition, Error> {
        let add = async move |this: Self, context: Context| {
            let inner = &this.inner;
            let _lock = this.begin(&context, database, 1).await?;
            let allowance = this.allowance(&context);
            let mut reserved = allowance.reserve(1)?;
            let consent = this.consent(&context, false);
            let mut record = Record::new(&context, "add", consent, database);
            record.name = Some(text::truncate(backup.name.as_str(), Record::MAX_CHARACTERS));
            let send = async |context: Context| {
                let answered = inner.qovery.add_backup(database, &backup, &context).await?;
                Ok(Addition {
                    answered,
                    recovered: false,
                })
            };
            let settle = async |context: Context, error, sent_at| {
                let recovered = this.recover(&context, database, &backup, sent_at).await;
                recovered.ok_or(error)
            };
            let result = this.request(&context, record, &mut reserved, send, settle);
            let result = result.await;
            match &result {
                Ok(addition) => inner.recent_additions.record(addition.answered.value.id),
                Err(error) if error.outcome() == Outcome::NotApplied => {}
                // If it was made, its id is unknown.
                Err(_) => inner.recent_additions.record_unconfirmed(database, backup),
            }
            result
        };
        self.run(context, add).await
    }

    /// Removes backups for good, one after another up to the first that is not removed, unless a rule
    /// protects one of them.
    ///
    /// # Errors
    ///
    /// Any [`Error`], if none was removed and none may have been; for a single backup, whatever its
    /// outcome. After [`Error::Changed`] the person has to be asked again.
    pub async fn remove(
        &self,
        context: &Context,
        request: RemovalRequest,
    ) -> Result<RemovalOutcome, Error> {
        let remove = async move |this: Self, context: Context| {
            let inner = &this.inner;
            let (database, wanted) = (request.database, request.backups.len());
            let _lock = this.begin(&context, database, wanted).await?;
            let mut list = this.complete_list(&context, database).await?;
            let plan = this.plan(&list, database, &request.backups)?;
            if let Some((facts, _)) = &request.confirmed {
                if let Some(change) = plan.contradiction(facts) {
                    let plan = Box::new(plan);
                    return Err(Error::Changed { plan, change });
                }
            } else if inner.policy.confirm == Confirm::Always && !plan.sends_nothing() {
                return Err(Error::Unconfirmed(Box::new(plan)));
            }
            let allowance = this.allowance(&context);
            let mut reserved = allowance.reserve(wanted)?;
            let asked_by = request.confirmed.map(|(_, asked_by)| asked_by);
            let consent = this.consent(&context, asked_by.is_some());
            let mut results = Vec::with_capacity(wanted);
            for listed in &plan.backups {
                let backup = &listed.backup;
                let mut record = Record::new(&context, "remove", consent, database).about(backup);
                record.asked_by = asked_by;
                let send = async |context: Context| {
                    let removed = inner.qovery.remove_backup(database, backup.id, &context);
                    removed.await.map(|()| backup.clone())
                };
                let settle = async |context: Context, error, _| {
                    this.settle_removal(&context, &plan, backup, error).await
                };
                let step = async {
                    let target = (database, backup.id);
                    let now = this.check_again(&context, &mut list, target).await?;
                    if now == Condition::BeingRemoved {
                        return Ok(backup.clone());
                    }
                    let request = this.request(&context, record, &mut reserved, send, settle);
                    request.await
                };
                match step.await {
                    Ok(backup) => {
                        request.gone.send_modify(|gone| *gone += 1);
                        results.push(Ok(backup));
                    }
                    Err(error) => {
                        let is_unchanged = error.outcome() == Outcome::NotApplied;
                        if wanted == 1 || results.is_empty() && is_unchanged {
                            return Err(error);
                        }
                        if error.concern() == Concern::Caller {
                            let target = (database, &[backup.id][..]);
                            this.record_refusal(&context, target, error.kind(), None)
                                .await;
                        }
                        results.push(Err(error));
                        break;
                    }
                }
            }
            Ok(RemovalOutcome {
                plan,
                consent,
                results,
            })
        };
        self.run(context, remove).await
    }

    /// Runs a change as a task that [`Backups::end`] waits for. A caller that disconnects cancels the
    /// change, but a request that was sent still gets its outcome on record.
    async fn run<T: Send + 'static, F>(
        &self,
        context: &Context,
        change: impl FnOnce(Self, Context) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let cancellation = self.inner.shutdown.draining.child_token();
        let _cancel_on_drop = cancellation.clone().drop_guard();
        let context_of_task = Context {
            cancellation: cancellation.clone(),
            ..context.clone()
        };
        let change = change(self.clone(), context_of_task);
        let mut task = self.inner.changes.spawn(change);
        let finished = context.cancellation.run_until_cancelled(&mut task).await;
        let joined = if let Some(joined) = finished {
            joined
        } else {
            cancellation.cancel();
            task.await
        };
        // These tasks are never aborted, so that one without a result has panicked. The interface
        // answers the panic as it answers its own.
        joined.unwrap_or_else(|error| resume_unwind(error.into_panic()))
    }

    /// Makes one request of a change, unless it was cancelled or has too little time left: `send` sends
    /// it; `settle` finds out by the list what became of it, where the answer does not say.
    async fn request<T: Borrow<Backup>>(
        &self,
        context: &Context,
        record: Record,
        reserved: &mut Reserved<'_>,
        send: impl AsyncFnOnce(Context) -> Result<T, qovery::Error>,
        settle: impl AsyncFnOnce(
            Context,
            qovery::Error,
            (DateTime<Utc>, Instant),
        ) -> Result<T, qovery::Error>,
    ) -> Result<T, Error> {
        let limits = &self.inner.limits;
        if context.cancellation.is_cancelled() {
            return Err(qovery::Error::harmless(Failure::Cancelled).into());
        }
        if context.deadline.remaining() < limits.attempt + limits.settle {
            return Err(Error::Busy {
                database: record.database_id,
            });
        }
        let intent = self.inner.audit.intent(record).await?;
        let sent_at = (Utc::now(), Instant::now());
        let sending = context.with_deadline(context.deadline.reserve(limits.settle));
        let result = self.until_deadline(send(sending)).await;
        // What Qovery refuses counts, too: an agent that loops must stop.
        if result.as_ref().err().is_none_or(|error| error.sent) {
            reserved.spend();
        }
        let result = match result {
            Err(error) if error.outcome == Outcome::Unknown => {
                // A caller that cancelled wants no more attempts, but the outcome still counts.
                let settled = settle(context.detached(), error, sent_at);
                self.until_deadline(settled).await
            }
            result => result,
        };
        let (applied, outcome) = match &result {
            Ok(applied) => (Some(applied.borrow()), Outcome::Applied),
            Err(error) => (None, error.outcome),
        };
        intent.outcome(applied, outcome).await;
        Ok(result?)
    }

    /// Checks that the changes are allowed, and waits for the lock of the database.
    async fn begin(
        &self,
        context: &Context,
        database: DatabaseId,
        changes: usize,
    ) -> Result<OwnedMutexGuard<()>, Error> {
        self.allow_changes()?;
        self.inner.qovery.key(context)?;
        // Before anything is sent: an agent that loops must not use up Qovery's rate limit either.
        self.allowance(context).check(changes)?;
        tokio::select! {
            biased;
            () = context.cancellation.cancelled() => {
                Err(qovery::Error::harmless(Failure::Cancelled).into())
            }
            lock = timeout(self.inner.limits.lock_wait, self.inner.locks.lock(database)) => {
                lock.map_err(|_| Error::Busy { database })
            }
        }
    }

    /// Waits for the result of a request that was sent, until the shutdown has no more time.
    async fn until_deadline<T>(
        &self,
        result: impl Future<Output = Result<T, qovery::Error>>,
    ) -> Result<T, qovery::Error> {
        tokio::select! {
            biased;
            result = result => result,
            () = self.inner.shutdown.deadline.cancelled() => Err(qovery::Error {
                failure: Failure::Cancelled,
                outcome: Outcome::Unknown,
                pending: true,
                sent: true,
            }),
        }
    }

    /// Records that a removal was refused, and why: by a rule, or because a person, who was `asked`, did not
    /// say yes.
    pub async fn record_refusal(
        &self,
        context: &Context,
        (database, backups): (DatabaseId, &[BackupId]),
        reason: &'static str,
        declined: Option<AskedBy>,
    ) {
        let consent = match declined {
            Some(_) => Consent::Declined,
            None => self.consent(context, false),
        };
        let record = |backup: &BackupId| {
            let mut record = Record::new(context, "remove", consent, database);
            record.asked_by = declined;
            record.refused(*backup, reason)
        };
        let records = backups.iter().map(record).collect();
        let caller = context.caller.own_name();
        self.inner.audit.refusals(caller, records).await;
    }

    /// What stands for a person's consent, for the audit trail.
    fn consent(&self, context: &Context, confirmed: bool) -> Consent {
        match (confirmed, context.interface, self.inner.policy.confirm) {
            (true, ..) => Consent::Accepted,
            (false, Interface::Rest, _) => Consent::Rest,
            (false, Interface::Mcp, Confirm::Never) => Consent::Unattended,
            (false, Interface::Mcp, _) => Consent::NotAsked,
        }
    }
}
