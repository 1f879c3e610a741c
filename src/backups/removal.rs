//! Removing a backup: on complete and fresh facts, and never in doubt about the outcome where the
//! list can tell.

use std::{collections::HashSet, fmt};

use chrono::Utc;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Confirm, Error, Inner, TO_SETTLE, Turn, audit::Record, guard};
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
    /// The newest of those.
    pub newest_remaining: Option<Backup>,
}

/// The facts of a removal, as a number that no other facts have.
pub type Digest = [u8; 32];

impl Inner {
    /// Decides on a removal: the rules hold, a person has said yes if one must, and it may go out.
    pub(super) async fn begin_removal(
        &self,
        call: &Call,
        database: DatabaseId,
        id: BackupId,
        confirmed: Option<Digest>,
    ) -> Result<(Turn, Removal), Error> {
        self.allow_changes()?;
        // An agent that loops is not to use up Qovery's patience, either.
        self.allowance.check()?;
        let turn = self.turn(database).await?;
        let removal = self.propose(call, database, id, turn.deadline).await?;
        match confirmed {
            Some(facts) if facts != removal.digest() => {
                return Err(Error::Changed(Box::new(removal)));
            }
            None if self.policy.confirm == Confirm::Always => {
                return Err(Error::Unconfirmed(Box::new(removal)));
            }
            _ => {}
        }
        self.release(database, &turn)?;
        Ok((turn, removal))
    }

    /// Carries a removal out that was decided on.
    pub(super) async fn remove(
        &self,
        call: &Call,
        turn: Turn,
        removal: Removal,
        confirmed: Option<Digest>,
    ) -> Result<Removal, Error> {
        let record = Record::of_removal(call, self.consent(call, confirmed), &removal);
        self.audit.intent(&record).await?;
        let (database, id) = (removal.database, removal.backup.id);
        let in_time = turn.deadline.leaving(TO_SETTLE);
        let removed = match self.qovery.remove_backup(database, id, call, in_time).await {
            Err(error) if error.outcome == Outcome::Unknown => {
                self.settle(call, &removal, error, turn.deadline).await
            }
            removed => removed,
        };
        let outcome = match &removed {
            Ok(()) => Outcome::Applied,
            Err(error) => error.outcome,
        };
        self.audit.outcome(record, outcome).await;
        removed?;
        Ok(removal)
    }

    /// Finds out what became of a removal whose answer was lost, by listing once more. A list that
    /// lacks what must be in it proves nothing.
    async fn settle(
        &self,
        call: &Call,
        removal: &Removal,
        error: qovery::Error,
        deadline: Deadline,
    ) -> Result<(), qovery::Error> {
        let Ok(backups) = self.complete_list(call, removal.database, deadline).await else {
            return Err(error);
        };
        let listed = |wanted: &Backup| backups.iter().find(|backup| backup.id == wanted.id);
        match listed(&removal.backup) {
            Some(backup) if guard::is_going(backup) => Ok(()),
            Some(_) if !error.pending => Err(qovery::Error::harmless(error.failure)),
            None if removal
                .newest_remaining
                .as_ref()
                .is_some_and(|kept| listed(kept).is_some()) =>
            {
                Ok(())
            }
            _ => Err(error),
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
        let now = Utc::now();
        if let Some(protection) = guard::protection(&backups, id, self.policy.keep_latest, now) {
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
            newest_remaining: guard::newest(&backups, now).cloned(),
        })
    }

    /// Every backup of the database. Part of a list cannot tell which backup is the newest.
    async fn complete_list(
        &self,
        call: &Call,
        database: DatabaseId,
        deadline: Deadline,
    ) -> Result<Vec<Backup>, Error> {
        const MOST_PAGES: usize = 100;
        /// Five times what so many pages hold at Qovery's page size.
        const MOST_BACKUPS: usize = 10_000;

        let mut backups: Vec<Backup> = Vec::new();
        let mut seen = HashSet::new();
        let mut start_id = None;
        for _ in 0..MOST_PAGES {
            let page: BackupPage = self
                .qovery
                .list_backups(database, start_id, call, deadline)
                .await?
                .value;
            let next = page.next_start_id();
            if backups.len() + page.results.len() > MOST_BACKUPS
                || !page.results.iter().all(|backup| seen.insert(backup.id))
            {
                return Err(Error::ListIncomplete { database });
            }
            backups.extend(page.results);
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
