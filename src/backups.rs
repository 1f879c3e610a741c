//! The rules that hold on both interfaces: what listing, adding and removing a backup mean here.
//!
//! What must never live here: anything of MCP, REST or HTTP. An interface parses its caller's input into
//! the types of [`qovery`](crate::qovery), calls one method, and presents the result.

mod addition;
mod allowance;
mod audit;
mod change;
mod error;
mod guard;
mod listing;
mod locks;
mod names;
mod overview;
mod removal;

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use hyper::body::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::{
    context::Context,
    credentials::KeyId,
    limits::Limits,
    qovery::{BackupId, Client, DatabaseId},
    recent::Recent,
    shutdown::Shutdown,
};
pub use addition::Addition;
use addition::RecentAdditions;
use allowance::Allowance;
use audit::Audit;
pub use audit::{AuditLog, TARGET as AUDIT_TARGET};
pub use error::{Concern, Error, Obstacle};
pub use guard::{Condition, Protection};
pub use listing::{Listed, Listing};
use locks::Locks;
use names::DatabaseNames;
pub use names::Found;
pub use overview::{Overview, Reading};
pub use removal::{AskedBy, ConfirmedFacts, Consent, RemovalOutcome, RemovalPlan, RemovalRequest};

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
    /// By the name of a caller that brings its key, else one for all.
    allowances: Mutex<Recent<Option<Arc<str>>, Arc<Allowance>>>,
    locks: Locks,
    recent_additions: RecentAdditions,
    names: Mutex<DatabaseNames>,
    readings: Mutex<Recent<Option<KeyId>, Readings>>,
    audit: Audit,
    /// The changes in flight.
    changes: TaskTracker,
}

/// By database: when each expires, and what its list said.
type Readings = HashMap<DatabaseId, (Instant, Reading)>;

/// What only the operator can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Refuse to add and to remove.
    pub read_only: bool,
    /// How many of a database's newest finished backups are never removed, and of the newest that may
    /// be good: at least one.
    pub keep_latest: usize,
    /// Whether a person has to confirm a removal.
    pub confirm: Confirm,
    /// How many backups may be added and removed in an hour, by all callers together, or by each if they bring
    /// their keys. No limit, if `None`.
    pub changes_per_hour: Option<NonZeroU32>,
    /// Where the audit trail is written, beside the log.
    pub audit_log: AuditLog,
}

/// Whether a person has to confirm a removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Confirm {
    /// Where the client can ask one. Otherwise the host's own approval of a destructive tool suffices.
    #[default]
    Auto,
    /// Always: where no person can be asked, nothing is removed.
    Always,
    /// Never: the server runs unattended.
    Never,
}

impl Backups {
    /// Backups behind `qovery`, under `policy`.
    pub fn new(qovery: Client, policy: Policy, limits: Arc<Limits>, shutdown: Shutdown) -> Self {
        let log = policy.audit_log.clone();
        let audit = Audit::new(log, limits.audit_write, shutdown.clone());
        Self {
            inner: Arc::new(Inner {
                qovery,
                shutdown,
                allowances: Mutex::default(),
                locks: Locks::default(),
                recent_additions: RecentAdditions::default(),
                names: Mutex::default(),
                readings: Mutex::default(),
                audit,
                limits,
                policy,
                changes: TaskTracker::new(),
            }),
        }
    }

    /// What the operator allows.
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// Fails if changes are not allowed at all. Each change checks this itself; an interface also checks
    /// it before it parses the arguments.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    pub fn allow_changes(&self) -> Result<(), Error> {
        if self.inner.policy.read_only {
            return Err(Error::ReadOnly);
        }
        Ok(())
    }

    /// The changes that the caller may make in an hour.
    fn allowance(&self, context: &Context) -> Arc<Allowance> {
        let caller = context.key_id().and(context.caller.own_name());
        let new = || Arc::new(Allowance::new(self.inner.policy.changes_per_hour));
        let mut allowances = self.inner.allowances.lock();
        Arc::clone(allowances.of(caller.cloned(), new))
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

    /// Waits for the changes in flight: they end on their own, or are recorded as unknown at the deadline
    /// of the shutdown. Returns whether the outcome of each is known and on record.
    pub async fn end(&self) -> bool {
        self.inner.shutdown.draining.cancel();
        self.inner.changes.close();
        self.inner.changes.wait().await;
        self.inner.audit.is_complete()
    }
}
