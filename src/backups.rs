//! The rules that hold on every face: what listing, adding and removing a backup mean here.
//!
//! What must never live here: a word of MCP, REST or HTTP. A face parses its caller's input into
//! the types of [`qovery`], calls one method, and words the result.

mod guard;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::task::JoinError;

use crate::{
    call::{self, Call},
    qovery::{
        self, Answered, Backup, BackupId, BackupPage, Client, DatabaseId, Deadline, NewBackup,
        Outcome,
    },
};
pub use guard::Protection;

/// The backups of databases, under one operator's policy. Clones share one client.
#[derive(Clone, Debug)]
pub struct Backups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    qovery: Client,
    policy: Policy,
}

/// What only the operator can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Refuse to add and to remove.
    pub read_only: bool,
    /// How many of a database's newest backups are never removed.
    pub keep_latest: usize,
}

/// A removal that was made.
#[derive(Clone, Debug)]
pub struct Removal {
    /// What was removed.
    pub backup: Backup,
    /// How many backups of the database remain.
    pub remaining: usize,
}

/// Why a call was not carried out. `Display` is the whole message for a person or a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator allows no changes.
    #[error(
        "This server is in read-only mode: it lists backups and refuses to add or remove any. \
         Nothing was changed. Only the operator can change that, with --read-only."
    )]
    ReadOnly,
    /// The backup is not, or no longer, in the database's list.
    #[error(
        "Backup {backup} is not in the list of database {database}. Nothing was removed. \
         It may be gone already: list the database's backups, and check both ids."
    )]
    NotListed {
        /// The database that was looked into.
        database: DatabaseId,
        /// The backup that it does not have.
        backup: BackupId,
    },
    /// The backup is one that must stay.
    #[error(
        "Backup {backup} is protected: {protection}. Nothing was removed. \
         No argument changes that; the operator sets how many are kept with --keep-latest."
    )]
    Protected {
        /// The backup that must stay.
        backup: BackupId,
        /// The rule that protects it.
        protection: Protection,
    },
    /// The list has too many pages, or its pages repeat.
    #[error(
        "The list of database {database} could not be completed, so this server cannot tell which \
         backups must stay. Nothing was removed. Remove the backup in the Qovery console instead."
    )]
    ListIncomplete {
        /// The database whose list it is.
        database: DatabaseId,
    },
    /// Qovery did not do it.
    #[error(transparent)]
    Qovery(#[from] qovery::Error),
}

impl Backups {
    /// Backups behind `qovery`, under `policy`.
    #[must_use]
    pub fn new(qovery: Client, policy: Policy) -> Self {
        Self {
            inner: Arc::new(Inner { qovery, policy }),
        }
    }

    /// Whether changes are allowed at all. [`add`](Self::add) and [`remove`](Self::remove) ask it
    /// themselves; a face asks it to answer before it looks at the arguments.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    pub fn allow_changes(&self) -> Result<(), Error> {
        if self.inner.policy.read_only {
            Err(Error::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// A page of a database's backups: the first, or the one after the backup `start_id`. It is read
    /// as a [`BackupPage`], or as a [`PageOutline`](qovery::PageOutline) where only its JSON matters.
    ///
    /// # Errors
    ///
    /// [`Error::Qovery`].
    pub async fn list<Page: DeserializeOwned>(
        &self,
        call: &Call,
        database: DatabaseId,
        start_id: Option<BackupId>,
    ) -> Result<Answered<Page>, Error> {
        let page = self
            .inner
            .qovery
            .list_backups(database, start_id, call, Deadline::start())
            .await;
        recorded(call, page.map_err(Error::from))
    }

    /// Asks for a new backup. Once it is on its way it runs to its end, even if the caller goes
    /// away.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Qovery`].
    pub async fn add(
        &self,
        call: &Arc<Call>,
        database: DatabaseId,
        backup: NewBackup,
    ) -> Result<Answered<Backup>, Error> {
        if let Err(refusal) = self.allow_changes() {
            return recorded(call, Err(refusal));
        }
        let (inner, call) = (Arc::clone(&self.inner), Arc::clone(call));
        to_its_end(async move {
            let added = inner
                .qovery
                .add_backup(database, &backup, &call, Deadline::start())
                .await;
            recorded(&call, added.map_err(Error::from))
        })
        .await
    }

    /// Removes a backup for good, unless a rule protects it. Once it is on its way it runs to its
    /// end, even if the caller goes away.
    ///
    /// # Errors
    ///
    /// Any [`Error`].
    pub async fn remove(
        &self,
        call: &Arc<Call>,
        database: DatabaseId,
        backup: BackupId,
    ) -> Result<Removal, Error> {
        if let Err(refusal) = self.allow_changes() {
            return recorded(call, Err(refusal));
        }
        let (inner, call) = (Arc::clone(&self.inner), Arc::clone(call));
        to_its_end(async move {
            let removal = inner.remove(&call, database, backup).await;
            recorded(&call, removal)
        })
        .await
    }
}

impl Error {
    /// The cause as one word, the same for every call that fails so.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::NotListed { .. } => "not_listed",
            Self::Protected { .. } => "protected",
            Self::ListIncomplete { .. } => "list_incomplete",
            Self::Qovery(error) => error.failure.kind(),
        }
    }

    /// What became of the change.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Qovery(error) => error.outcome,
            _ => Outcome::NotApplied,
        }
    }
}

/// Leaves in the call what became of it.
fn recorded<T>(call: &Call, result: Result<T, Error>) -> Result<T, Error> {
    call.set_outcome(result.as_ref().map_or_else(Error::kind, |_| call::OK));
    result
}

impl Inner {
    async fn remove(
        &self,
        call: &Call,
        database: DatabaseId,
        id: BackupId,
    ) -> Result<Removal, Error> {
        let deadline = Deadline::start();
        let mut backups = self.complete_list(call, database, deadline).await?;
        let Some(position) = backups.iter().position(|backup| backup.id == id) else {
            return Err(Error::NotListed {
                database,
                backup: id,
            });
        };
        if let Some(protection) = guard::protection(&backups, id, self.policy.keep_latest) {
            return Err(Error::Protected {
                backup: id,
                protection,
            });
        }
        self.qovery
            .remove_backup(database, id, call, deadline)
            .await?;
        Ok(Removal {
            backup: backups.swap_remove(position),
            remaining: backups.len(),
        })
    }

    /// Every backup of the database. Part of a list cannot tell which backup is the newest.
    async fn complete_list(
        &self,
        call: &Call,
        database: DatabaseId,
        deadline: Deadline,
    ) -> Result<Vec<Backup>, Error> {
        /// 2,000 backups, at Qovery's page size.
        const MOST_PAGES: usize = 100;

        let mut backups: Vec<Backup> = Vec::new();
        let mut start_id = None;
        for _ in 0..MOST_PAGES {
            let page: BackupPage = self
                .qovery
                .list_backups(database, start_id, call, deadline)
                .await?
                .value;
            let next = page.next_start_id();
            for backup in page.results {
                if backups.iter().any(|seen| seen.id == backup.id) {
                    return Err(Error::ListIncomplete { database });
                }
                backups.push(backup);
            }
            match next {
                Some(next) => start_id = Some(next),
                None => return Ok(backups),
            }
        }
        Err(Error::ListIncomplete { database })
    }
}

/// Runs a change on a task of its own: a caller that goes away drops its own future, never a
/// request to Qovery whose effect nobody would then learn.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(stopped) => resume(stopped),
    }
}

/// A panic goes on to the face, which answers it as it answers its own.
fn resume(stopped: JoinError) -> ! {
    match stopped.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Nothing aborts these tasks, and the runtime drops them only when the caller is gone too.
        Err(cancelled) => std::panic::resume_unwind(Box::new(cancelled)),
    }
}
