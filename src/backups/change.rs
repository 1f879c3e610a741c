//! The one road of a change: whatever is added or removed takes the same steps, in the same order.

use std::{panic::resume_unwind, sync::Arc};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout},
};

use super::{Confirm, Error, Inner, allowance::Reserved, audit::Record};
use crate::{
    context::{Context, Interface},
    qovery::{self, Backup, DatabaseId, Failure, Outcome},
};

/// A change of a database's backups, as far as one differs from another.
pub(super) trait Change: Send + Sync + 'static {
    /// Its name in the audit trail.
    const OPERATION: &'static str;

    /// What was decided on fresh facts.
    type Decision: Send + Sync + 'static;

    /// What was made of one step.
    type Done: AsRef<Backup> + Send + 'static;

    /// The database that it changes.
    fn database(&self) -> DatabaseId;

    /// How many steps it has, each a request to Qovery.
    fn steps(&self) -> usize;

    /// Whether a person was asked, and the host answered yes for them.
    fn is_confirmed(&self) -> bool;

    /// Decides whether it may be made.
    fn decide(
        &self,
        inner: &Inner,
        context: &Context,
    ) -> impl Future<Output = Result<Self::Decision, Error>> + Send;

    /// Adds to a step's record what it is about.
    fn describe(&self, record: Record, decision: &Self::Decision, step: usize) -> Record;

    /// Asks Qovery to make a step.
    fn send(
        &self,
        inner: &Inner,
        decision: &Self::Decision,
        step: usize,
        context: &Context,
    ) -> impl Future<Output = Result<Self::Done, qovery::Error>> + Send;

    /// Finds out by the list what became of a step, which was sent after `since`, when the answer does
    /// not tell.
    fn settle(
        &self,
        inner: &Inner,
        at: (&Self::Decision, usize),
        error: qovery::Error,
        since: Instant,
        context: &Context,
    ) -> impl Future<Output = Result<Self::Done, qovery::Error>> + Send;

    /// Remembers how a step ended.
    fn ended(&self, inner: &Inner, result: &Result<Self::Done, qovery::Error>);
}

/// What came of a change.
pub(super) struct Made<C: Change> {
    pub(super) decision: C::Decision,
    pub(super) first: Result<C::Done, Error>,
    /// What came of the steps after it, up to the first that was not made.
    pub(super) others: Vec<Result<C::Done, Error>>,
}

impl Inner {
    /// Makes a change on a task of its own, which the process waits for when it ends: a caller that
    /// goes away calls it off, but never leaves a request behind whose effect nobody learns.
    pub(super) async fn change<C: Change>(
        self: &Arc<Self>,
        context: &Context,
        change: C,
    ) -> Result<Made<C>, Error> {
        let called_off = self.shutdown().draining.child_token();
        let _when_the_caller_leaves = called_off.clone().drop_guard();
        let (inner, context_of_change) = (
            Arc::clone(self),
            Context {
                cancellation: called_off.clone(),
                ..context.clone()
            },
        );
        let change = async move { inner.carry_out(&context_of_change, &change).await };
        let mut change = self.changes.spawn(change);
        let ended = tokio::select! {
            biased;
            ended = &mut change => ended,
            () = context.cancellation.cancelled() => {
                called_off.cancel();
                change.await
            }
        };
        // Nothing aborts these tasks, so that one without a result has panicked. The panic goes on to
        // the interface, which answers it as it answers its own.
        ended.unwrap_or_else(|stopped| match stopped.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(aborted) => resume_unwind(Box::new(aborted)),
        })
    }

    async fn carry_out<C: Change>(&self, context: &Context, change: &C) -> Result<Made<C>, Error> {
        let database = change.database();
        self.allow_changes()?;
        // An agent that loops is not to use up Qovery's patience, either.
        self.allowance.check(change.steps())?;
        let _lock = self.lock(context, database).await?;
        let decision = change.decide(self, context).await?;
        let mut reserved = self.allowance.reserve(change.steps())?;
        let first = self.take(context, change, (&decision, 0), &mut reserved);
        let first = first.await;
        let mut others = Vec::new();
        for step in 1..change.steps() {
            if others.last().unwrap_or(&first).is_err() {
                break;
            }
            let next = self.take(context, change, (&decision, step), &mut reserved);
            others.push(next.await);
        }
        Ok(Made {
            decision,
            first,
            others,
        })
    }

    /// Takes one step of a change, unless it was called off or has no time left.
    async fn take<C: Change>(
        &self,
        context: &Context,
        change: &C,
        (decision, step): (&C::Decision, usize),
        reserved: &mut Reserved<'_>,
    ) -> Result<C::Done, Error> {
        let database = change.database();
        let limits = self.limits();
        if context.cancellation.is_cancelled() {
            return Err(qovery::Error::harmless(Failure::Cancelled).into());
        }
        if context.deadline.remaining() < limits.attempt + limits.settle {
            return Err(Error::Busy { database });
        }
        let consent = self.consent(context, change.is_confirmed());
        let record = Record::new(context, C::OPERATION, consent, database);
        let record = change.describe(record, decision, step);
        self.audit.intent(&record).await?;
        reserved.spend();
        let since = Instant::now();
        let sending = context.with_deadline(context.deadline.reserve(limits.settle));
        let result = self
            .until_over(change.send(self, decision, step, &sending))
            .await;
        if matches!(&result, Err(error) if error.outcome == Outcome::NotApplied) {
            reserved.take_back();
        }
        let result = match result {
            Err(error) if error.outcome == Outcome::Unknown => {
                // Whoever called it off wants no more attempts, but is still told what holds.
                let settling = context.detached();
                let settled = change.settle(self, (decision, step), error, since, &settling);
                self.until_over(settled).await
            }
            result => result,
        };
        change.ended(self, &result);
        let (record, outcome) = match &result {
            Ok(done) => (record.about(done.as_ref()), Outcome::Applied),
            Err(error) => (record, error.outcome),
        };
        self.audit.outcome(record, outcome).await;
        self.note(outcome);
        Ok(result?)
    }

    /// The lock of a database, for which a change waits only so long.
    async fn lock(
        &self,
        context: &Context,
        database: DatabaseId,
    ) -> Result<OwnedMutexGuard<()>, Error> {
        tokio::select! {
            biased;
            () = context.cancellation.cancelled() => {
                Err(qovery::Error::harmless(Failure::Cancelled).into())
            }
            lock = timeout(self.limits().lock_wait, self.locks.lock(database)) => {
                lock.map_err(|_| Error::Busy { database })
            }
        }
    }

    /// Waits for what was sent, until the process has no more time.
    async fn until_over<T>(
        &self,
        result: impl Future<Output = Result<T, qovery::Error>>,
    ) -> Result<T, qovery::Error> {
        tokio::select! {
            biased;
            result = result => result,
            () = self.shutdown().deadline.cancelled() => Err(qovery::Error {
                failure: Failure::Cancelled,
                outcome: Outcome::Unknown,
                pending: true,
            }),
        }
    }

    /// What stands for a person's consent, for the audit trail.
    fn consent(&self, context: &Context, confirmed: bool) -> &'static str {
        match (confirmed, context.interface, self.policy.confirm) {
            (true, ..) => "elicited",
            (false, Interface::Rest, _) => "rest",
            (false, Interface::Mcp, Confirm::Never) => "unattended",
            (false, Interface::Mcp, _) => "host",
        }
    }
}
