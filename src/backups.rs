//! The rules that hold on both interfaces: what listing, adding and removing a backup mean here.
//!
//! What must never live here: a word of MCP, REST or HTTP. An interface parses its caller's input into
//! the types of [`qovery`](crate::qovery), calls one method, and words the result.

mod addition;
mod allowance;
mod audit;
mod change;
mod error;
mod guard;
mod listing;
mod locks;
mod names;
mod removal;

use std::{
    iter,
    num::NonZeroU32,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hyper::body::Bytes;
use tokio_util::task::TaskTracker;

use crate::{
    context::Context,
    limits::Limits,
    qovery::{BackupId, Client, DatabaseId, NewBackup, Outcome},
    shutdown::Shutdown,
};
pub use addition::Addition;
use addition::{Add, Made};
use allowance::Allowance;
use audit::Audit;
pub use audit::TARGET as AUDIT_TARGET;
pub use error::{Error, Obstacle};
pub use guard::{Condition, Protection};
pub use listing::{Listed, Listing};
use locks::Locks;
use names::DatabaseNames;
pub use names::Found;
pub use removal::{Fingerprint, RemovalOutcome, RemovalPlan, RemovalRequest};

/// The backups of databases, under one operator's policy. Clones share one client.
#[derive(Clone, Debug)]
pub struct Backups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    qovery: Client,
    limits: Arc<Limits>,
    shutdown: Shutdown,
    policy: Policy,
    allowance: Allowance,
    locks: Locks,
    made: Made,
    names: DatabaseNames,
    audit: Audit,
    /// The changes that are under way.
    changes: TaskTracker,
    /// Whether a change stayed unknown while the process ended.
    left_unknown: AtomicBool,
}

/// What only the operator can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Refuse to add and to remove.
    pub read_only: bool,
    /// How many of a database's newest backups are never removed.
    pub keep_latest: usize,
    /// Whether a person has to confirm a removal.
    pub confirm: Confirm,
    /// How many backups may be added and removed in an hour, by all callers together. Any number,
    /// if `None`.
    pub changes_per_hour: Option<NonZeroU32>,
    /// A file for the audit trail.
    pub audit_log: Option<PathBuf>,
}

/// Whether a person has to confirm a removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// Where one can be asked. Else the host's own approval of a destructive tool has to do.
    #[default]
    Auto,
    /// Always: where nobody can be asked, nothing is removed.
    Always,
    /// Never: nobody is there to be asked.
    Never,
}

impl Default for Policy {
    /// What holds unless the operator says otherwise.
    fn default() -> Self {
        Self {
            read_only: false,
            keep_latest: 1,
            confirm: Confirm::Auto,
            changes_per_hour: NonZeroU32::new(60),
            audit_log: None,
        }
    }
}

impl Backups {
    /// Backups behind `qovery`, under `policy`.
    #[must_use]
    pub fn new(qovery: Client, policy: Policy, limits: Arc<Limits>, shutdown: Shutdown) -> Self {
        let patience = limits.audit_write;
        Self {
            inner: Arc::new(Inner {
                qovery,
                limits,
                shutdown,
                allowance: Allowance::new(policy.changes_per_hour),
                locks: Locks::default(),
                made: Made::default(),
                names: DatabaseNames::default(),
                audit: Audit::new(policy.audit_log.clone(), patience),
                policy,
                changes: TaskTracker::new(),
                left_unknown: AtomicBool::new(false),
            }),
        }
    }

    /// What the operator allows.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// Whether changes are allowed at all. Each change asks it itself; an interface asks it to answer
    /// before it looks at the arguments.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    pub fn allow_changes(&self) -> Result<(), Error> {
        self.inner.allow_changes()
    }

    /// A page of a database's backups as Qovery answers it, unread: the first, or the one after the backup
    /// `start_id`.
    ///
    /// # Errors
    ///
    /// [`Error::Qovery`].
    pub async fn page(
        &self,
        context: &Context,
        database: DatabaseId,
        start_id: Option<BackupId>,
    ) -> Result<Bytes, Error> {
        let qovery = &self.inner.qovery;
        Ok(qovery.list_backups_raw(database, start_id, context).await?)
    }

    /// What a database is called, where that can be had in a short time.
    pub async fn name(&self, context: &Context, database: DatabaseId) -> Option<Arc<str>> {
        self.inner.name(context, database).await
    }

    /// Asks for a new backup.
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
        let change = self.inner.change(context, Add { database, backup });
        change.await?.first
    }

    /// What a removal would come to, for a person to decide by. Changes nothing.
    ///
    /// # Errors
    ///
    /// Why it would be refused: [`Error::ReadOnly`], [`Error::Obstructed`], [`Error::ListIncomplete`],
    /// [`Error::LimitReached`], [`Error::Qovery`].
    pub async fn plan_removal(
        &self,
        context: &Context,
        database: DatabaseId,
        backups: &[BackupId],
    ) -> Result<RemovalPlan, Error> {
        self.inner.allow_changes()?;
        self.inner.allowance.check(backups.len())?;
        self.inner.propose(context, database, backups).await
    }

    /// Removes backups for good, one after another, unless a rule protects one of them.
    ///
    /// # Errors
    ///
    /// Any [`Error`], where none was removed and none may have been; of a single backup, whatever
    /// became of it. After [`Error::Changed`] the person has to be asked again.
    pub async fn remove(
        &self,
        context: &Context,
        remove: RemovalRequest,
    ) -> Result<RemovalOutcome, Error> {
        let single = remove.backups.len() == 1;
        let made = self.inner.change(context, remove).await?;
        match made.first {
            Err(error) if single || error.outcome() == Outcome::NotApplied => Err(error),
            first => Ok(RemovalOutcome {
                removal: made.decision,
                ended: iter::once(first).chain(made.others).collect(),
            }),
        }
    }

    /// Waits for the changes that are under way: they end on their own, or are recorded as unknown when
    /// the time of the process is over. Says whether the outcome of each is known.
    pub async fn end(&self) -> bool {
        self.inner.shutdown().draining.cancel();
        self.inner.changes.close();
        self.inner.changes.wait().await;
        !self.inner.left_unknown.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn allow_changes(&self) -> Result<(), Error> {
        if self.policy.read_only {
            Err(Error::ReadOnly)
        } else {
            Ok(())
        }
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Remembers that an outcome stayed unknown while the process ended.
    fn note(&self, outcome: Outcome) {
        if outcome == Outcome::Unknown && self.shutdown().no_retries.is_cancelled() {
            self.left_unknown.store(true, Ordering::Relaxed);
        }
    }
}

impl FromStr for Confirm {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("must be auto, always or never"),
        }
    }
}

impl Confirm {
    /// Its name, as the operator writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}
