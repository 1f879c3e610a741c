//! Removing a backup: on complete and fresh facts, and never in doubt about the outcome where the
//! list can tell.

use std::fmt;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Confirm, Error, Inner, TO_SETTLE, audit::Record, guard};
use crate::{
    call::Call,
    qovery::{self, Backup, BackupId, BackupPage, DatabaseId, Deadline, Outcome},
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
    /// When the newest of those was made, as Qovery writes it.
    pub newest_remaining: Option<String>,
}

/// The facts of a removal, as a number that no other facts have.
pub type Digest = [u8; 32];

impl Inner {
    pub(super) async fn remove(
        &self,
        call: &Call,
        database: DatabaseId,
        id: BackupId,
        confirmed: Option<Digest>,
    ) -> Result<Removal, Error> {
        let deadline = Deadline::start();
        let _turn = self.turn(database).await?;
        let removal = self.propose(call, database, id, deadline).await?;
        match confirmed {
            Some(facts) if facts != removal.digest() => return Err(Error::Changed { database }),
            None if self.policy.confirm == Confirm::Always => {
                return Err(Error::Unconfirmed(Box::new(removal)));
            }
            _ => {}
        }
        self.spend_change()?;
        let consent = self.consent(call, confirmed);
        let record = Record::of_removal(call, consent, database, &removal.backup);
        self.audit
            .intent(&record)
            .await
            .map_err(|_| Error::Unaudited)?;
        let in_time = deadline.leaving(TO_SETTLE);
        let removed = match self.qovery.remove_backup(database, id, call, in_time).await {
            Err(error) if error.outcome == Outcome::Unknown => {
                self.settle(call, database, id, error, deadline).await
            }
            removed => removed,
        };
        let outcome = removed
            .as_ref()
            .map_or_else(|error| error.outcome, |()| Outcome::Applied);
        self.audit.outcome(record, outcome).await;
        removed?;
        Ok(removal)
    }

    /// Finds out what became of a removal whose answer was lost, by listing once more.
    async fn settle(
        &self,
        call: &Call,
        database: DatabaseId,
        id: BackupId,
        error: qovery::Error,
        deadline: Deadline,
    ) -> Result<(), qovery::Error> {
        let Ok(backups) = self.complete_list(call, database, deadline).await else {
            return Err(error);
        };
        match backups.iter().find(|backup| backup.id == id) {
            None => Ok(()),
            Some(backup) if guard::is_going(backup) => Ok(()),
            Some(_) if error.pending => Err(error),
            Some(_) => Err(qovery::Error::harmless(error.failure)),
        }
    }

    pub(super) async fn propose(
        &self,
        call: &Call,
        database: DatabaseId,
        id: BackupId,
        deadline: Deadline,
    ) -> Result<Removal, Error> {
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
        let backup = backups.swap_remove(position);
        Ok(Removal {
            database,
            backup,
            remaining: backups.len(),
            newest_remaining: guard::newest(&backups).map(|newest| newest.created_at.clone()),
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
            self.newest_remaining,
        ]);
        Sha256::digest(facts.to_string()).into()
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Qovery sets no limit that would hold here.
        const LONGEST: usize = 80;
        let backup = &self.backup;
        write!(f, "Backup {} (", backup.id)?;
        if let Some(name) = &backup.name {
            let name: String = name.chars().take(LONGEST).collect();
            write!(f, "\"{name}\", ")?;
        }
        write!(f, "made {})", backup.created_at)
    }
}
