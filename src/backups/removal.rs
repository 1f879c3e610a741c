//! Removing a backup: on complete and fresh facts, and never in doubt about the outcome where the
//! list can tell.

use std::{collections::HashSet, fmt, sync::Arc};

use chrono::Utc;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{Confirm, Error, Inner, audit::Record, change::Change, guard};
use crate::{
    context::Context,
    qovery::{self, Backup, BackupId, DatabaseId},
    shares::Permit,
};

/// A removal, proposed or made: what goes, and what stays.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The database.
    pub database: DatabaseId,
    /// What goes.
    pub backup: Backup,
    /// How many backups of the database remain.
    pub remaining: usize,
    /// The newest of those.
    pub newest_remaining: Option<Backup>,
}

/// The facts of a removal, as a number that no other facts have.
pub type Digest = [u8; 32];

/// What is asked for.
pub(super) struct Remove {
    pub(super) database: DatabaseId,
    pub(super) backup: BackupId,
    /// The facts that a person said yes to, if one was asked.
    pub(super) confirmed: Option<Digest>,
}

impl Change for Remove {
    const OPERATION: &'static str = "remove";
    type Decision = Removal;
    type Done = Removal;

    fn database(&self) -> DatabaseId {
        self.database
    }

    fn is_confirmed(&self) -> bool {
        self.confirmed.is_some()
    }

    /// The rules hold, and a person has said yes to these very facts if one must.
    async fn decide(&self, inner: &Inner, context: &Context) -> Result<Removal, Error> {
        let removal = inner.propose(context, self.database, self.backup).await?;
        match self.confirmed {
            Some(facts) if facts != removal.digest() => Err(Error::Changed(Box::new(removal))),
            None if inner.policy.confirm == Confirm::Always => {
                Err(Error::Unconfirmed(Box::new(removal)))
            }
            _ => Ok(removal),
        }
    }

    fn describe(&self, record: Record, removal: &Removal) -> Record {
        record.about(&removal.backup)
    }

    async fn send(
        &self,
        inner: &Inner,
        removal: &Removal,
        context: &Context,
    ) -> Result<Removal, qovery::Error> {
        let removed = inner
            .qovery
            .remove_backup(self.database, self.backup, context);
        removed.await.map(|()| removal.clone())
    }

    /// A list that lacks what must be in it proves nothing.
    async fn settle(
        &self,
        inner: &Inner,
        removal: &Removal,
        error: qovery::Error,
        _: Instant,
        context: &Context,
    ) -> Result<Removal, qovery::Error> {
        let Ok((backups, _memory)) = inner.complete_list(context, self.database).await else {
            return Err(error);
        };
        let listed = |wanted: &Backup| backups.iter().find(|backup| backup.id == wanted.id);
        let stays = removal.newest_remaining.as_ref();
        match listed(&removal.backup) {
            Some(backup) if guard::is_going(backup) => Ok(removal.clone()),
            Some(_) if !error.pending => Err(qovery::Error::harmless(error.failure)),
            None if stays.is_some_and(|kept| listed(kept).is_some()) => Ok(removal.clone()),
            _ => Err(error),
        }
    }

    fn ended(&self, _: &Inner, _: &Result<Removal, qovery::Error>) {}
}

impl Inner {
    /// What a removal would come to, by the complete list of this moment.
    pub(super) async fn propose(
        &self,
        context: &Context,
        database: DatabaseId,
        backup: BackupId,
    ) -> Result<Removal, Error> {
        let (mut backups, _memory) = self.complete_list(context, database).await?;
        let Some(position) = backups.iter().position(|listed| listed.id == backup) else {
            return Err(Error::NotListed { database, backup });
        };
        let now = Utc::now();
        if let Some(protection) = guard::protection(&backups, backup, self.policy.keep_latest, now)
        {
            return Err(Error::Protected { backup, protection });
        }
        let backup = backups.swap_remove(position);
        Ok(Removal {
            database,
            backup,
            remaining: backups.len(),
            newest_remaining: guard::newest(&backups, now).cloned(),
        })
    }

    /// Every backup of the database, and the memory that they take. Part of a list cannot tell which
    /// backup is the newest.
    async fn complete_list(
        &self,
        context: &Context,
        database: DatabaseId,
    ) -> Result<(Vec<Backup>, Vec<Arc<Permit>>), Error> {
        let limits = self.limits();
        let mut backups: Vec<Backup> = Vec::new();
        let mut memory = Vec::new();
        let mut seen = HashSet::new();
        let mut start_id = None;
        for _ in 0..limits.pages {
            let page = self.qovery.list_backups(database, start_id, context);
            let page = page.await?;
            memory.push(page.memory);
            let page = page.value;
            let next = page.next_start_id();
            if backups.len() + page.results.len() > limits.backups
                || !page.results.iter().all(|backup| seen.insert(backup.id))
            {
                return Err(Error::ListIncomplete { database });
            }
            backups.extend(page.results);
            match next {
                Some(next) => start_id = Some(next),
                None => return Ok((backups, memory)),
            }
        }
        Err(Error::ListIncomplete { database })
    }
}

impl AsRef<Backup> for Removal {
    fn as_ref(&self) -> &Backup {
        &self.backup
    }
}

impl Removal {
    /// The facts that a person decides by.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let Backup {
            id,
            created_at,
            name,
            ..
        } = &self.backup;
        let facts = json!([
            self.database,
            id,
            name,
            created_at,
            self.backup.state(),
            self.remaining,
            self.newest_remaining
                .as_ref()
                .map(|newest| &newest.created_at),
        ]);
        Sha256::digest(facts.to_string()).into()
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Qovery sets no limit that would hold here.
        const LONGEST: usize = 80;
        let short = |text: &str| text.chars().take(LONGEST).collect::<String>();
        let backup = &self.backup;
        write!(f, "Backup {} (", backup.id)?;
        if let Some(name) = &backup.name {
            write!(f, "\"{}\", ", short(name))?;
        }
        write!(f, "made {})", short(&backup.created_at))
    }
}
