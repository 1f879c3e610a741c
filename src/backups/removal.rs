//! Removing a backup: on complete and fresh facts, and never in doubt about the outcome where the
//! list can tell.

use std::{collections::HashSet, fmt};

use chrono::{DateTime, Utc};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, time::Instant};

use super::{
    Condition, Confirm, Error, Inner,
    audit::Record,
    change::Change,
    error::Obstacle,
    guard::{newest, protections},
};
use crate::{
    context::Context,
    qovery::{self, Backup, BackupId, DatabaseId},
};

/// A removal, proposed or made: what goes, and what stays.
#[derive(Clone, Debug)]
pub struct RemovalPlan {
    /// The database.
    pub database: DatabaseId,
    /// What goes, in the order in which it was named.
    pub backups: Vec<Backup>,
    /// How many backups of the database remain.
    pub remaining: usize,
    /// How many of those are finished.
    pub finished: usize,
    /// The newest of the finished ones that remain.
    pub newest_finished: Option<Backup>,
    /// The newest of those that remain.
    pub newest: Option<Backup>,
}

/// What came of a removal.
#[derive(Debug)]
pub struct RemovalOutcome {
    /// What was decided.
    pub removal: RemovalPlan,
    /// What came of each backup in turn, up to the first that was not removed.
    pub ended: Vec<Result<Backup, Error>>,
}

/// The facts of a removal, as a number that no other facts have.
pub type Fingerprint = [u8; 32];

/// What is asked for.
#[derive(Debug)]
pub struct RemovalRequest {
    /// The database.
    pub database: DatabaseId,
    /// What is to go: all of it or nothing, as far as rules go.
    pub backups: Vec<BackupId>,
    /// The facts that a person said yes to, if one was asked.
    pub confirmed: Option<Fingerprint>,
    /// Told how many are gone.
    pub gone: watch::Sender<usize>,
}

impl Change for RemovalRequest {
    const OPERATION: &'static str = "remove";
    type Decision = RemovalPlan;
    type Done = Backup;

    fn database(&self) -> DatabaseId {
        self.database
    }

    fn steps(&self) -> usize {
        self.backups.len()
    }

    fn is_confirmed(&self) -> bool {
        self.confirmed.is_some()
    }

    /// The rules hold, and a person has said yes to these very facts if one must.
    async fn decide(&self, inner: &Inner, context: &Context) -> Result<RemovalPlan, Error> {
        let removal = inner.propose(context, self.database, &self.backups).await?;
        match self.confirmed {
            Some(facts) if facts != removal.fingerprint() => Err(Error::Changed(Box::new(removal))),
            None if inner.policy.confirm == Confirm::Always => {
                Err(Error::Unconfirmed(Box::new(removal)))
            }
            _ => Ok(removal),
        }
    }

    fn describe(&self, record: Record, removal: &RemovalPlan, step: usize) -> Record {
        record.about(&removal.backups[step])
    }

    async fn send(
        &self,
        inner: &Inner,
        removal: &RemovalPlan,
        step: usize,
        context: &Context,
    ) -> Result<Backup, qovery::Error> {
        let backup = &removal.backups[step];
        let removed = inner
            .qovery
            .remove_backup(self.database, backup.id, context);
        removed.await.map(|()| backup.clone())
    }

    /// A list that lacks what must be in it proves nothing.
    async fn settle(
        &self,
        inner: &Inner,
        (removal, step): (&RemovalPlan, usize),
        error: qovery::Error,
        _: Instant,
        context: &Context,
    ) -> Result<Backup, qovery::Error> {
        let Ok(backups) = inner.complete_list(context, self.database).await else {
            return Err(error);
        };
        let listed = |wanted: &Backup| backups.iter().find(|backup| backup.id == wanted.id);
        let backup = &removal.backups[step];
        match listed(backup) {
            Some(listed) if Condition::of(listed) == Condition::BeingRemoved => Ok(backup.clone()),
            Some(_) if !error.pending => Err(qovery::Error::harmless(error.failure)),
            None if removal
                .newest
                .as_ref()
                .is_some_and(|it| listed(it).is_some()) =>
            {
                Ok(backup.clone())
            }
            _ => Err(error),
        }
    }

    fn ended(&self, _: &Inner, result: &Result<Backup, qovery::Error>) {
        if result.is_ok() {
            self.gone.send_modify(|gone| *gone += 1);
        }
    }
}

impl Inner {
    /// What a removal would come to, by the complete list of this moment: all of it, or nothing.
    pub(super) async fn propose(
        &self,
        context: &Context,
        database: DatabaseId,
        wanted: &[BackupId],
    ) -> Result<RemovalPlan, Error> {
        let listed = self.complete_list(context, database).await?;
        weigh(
            database,
            &listed,
            wanted,
            self.policy.keep_latest,
            Utc::now(),
        )
    }

    /// Every backup of the database. Part of a list cannot tell which
    /// backup is the newest.
    async fn complete_list(
        &self,
        context: &Context,
        database: DatabaseId,
    ) -> Result<Vec<Backup>, Error> {
        let most = self.limits().list_backups;
        let read = self.pages(context, database, None, most, |_| false).await?;
        if !read.complete {
            return Err(Error::ListIncomplete { database });
        }
        let pages = read.pages.into_iter();
        Ok(pages.flat_map(|page| page.value.results).collect())
    }
}

/// What the removal of the `wanted` ones of all `listed` backups of a database comes to.
pub(super) fn weigh(
    database: DatabaseId,
    listed: &[Backup],
    wanted: &[BackupId],
    keep_latest: usize,
    now: DateTime<Utc>,
) -> Result<RemovalPlan, Error> {
    let protections = protections(listed, keep_latest, now);
    let mut named = HashSet::new();
    let (mut backups, mut obstacles) = (Vec::new(), Vec::new());
    for id in wanted {
        let position = listed.iter().position(|backup| backup.id == *id);
        let obstacle = match position.map(|position| protections[position]) {
            _ if !named.insert(*id) => Some(Obstacle::NamedTwice),
            None => Some(Obstacle::NotListed),
            Some(protection) => protection.map(Obstacle::Protected),
        };
        obstacles.extend(obstacle.map(|obstacle| (*id, obstacle)));
        backups.extend(position.map(|position| listed[position].clone()));
    }
    if !obstacles.is_empty() {
        return Err(Error::Obstructed {
            database,
            wanted: wanted.len(),
            obstacles,
        });
    }
    let remaining = || listed.iter().filter(|backup| !named.contains(&backup.id));
    let finished = || remaining().filter(|backup| Condition::of(backup) == Condition::Finished);
    Ok(RemovalPlan {
        database,
        backups,
        remaining: remaining().count(),
        finished: finished().count(),
        newest_finished: newest(finished(), now).cloned(),
        newest: newest(remaining(), now).cloned(),
    })
}

impl RemovalPlan {
    /// The facts that a person decides by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let backup =
            |backup: &Backup| json!([backup.id, backup.name, backup.created_at, backup.state()]);
        let facts = json!([
            self.database,
            self.backups.iter().map(backup).collect::<Vec<_>>(),
            self.remaining,
            self.finished,
            self.newest_finished.as_ref().map(|it| &it.created_at),
        ]);
        Sha256::digest(facts.to_string()).into()
    }
}

impl fmt::Display for RemovalPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Qovery sets no limit that would hold here.
        const LONGEST: usize = 80;
        let short = |text: &str| text.chars().take(LONGEST).collect::<String>();
        let [backup] = self.backups.as_slice() else {
            return write!(f, "{} backups", self.backups.len());
        };
        write!(f, "Backup {} (", backup.id)?;
        if let Some(name) = &backup.name {
            write!(f, "\"{}\", ", short(name))?;
        }
        write!(f, "made {})", short(&backup.created_at))
    }
}
