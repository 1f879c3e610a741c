//! Removals: what one comes to by the complete and fresh list, and what became of one whose answer is
//! lost, where the list can tell.

use std::{collections::HashSet, fmt};

use chrono::{DateTime, Utc};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{
    Backups, Condition, Error,
    error::Obstacle,
    guard::{newest, protections},
};
use crate::{
    context::Context,
    qovery::{self, Backup, BackupId, DatabaseId},
    text,
};

/// What is to be removed.
#[derive(Debug)]
pub struct RemovalRequest {
    /// The database.
    pub database: DatabaseId,
    /// The backups. If a rule keeps one of them, none is removed.
    pub backups: Vec<BackupId>,
    /// The facts that a person confirmed, if one was asked.
    pub confirmed: Option<Fingerprint>,
    /// Receives how many were removed so far.
    pub gone: watch::Sender<usize>,
}

/// What a removal comes to: the backups that go, and what remains.
#[derive(Clone, Debug)]
pub struct RemovalPlan {
    /// The database.
    pub database: DatabaseId,
    /// What goes, in the order of the request.
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

/// What became of a removal.
#[derive(Debug)]
pub struct RemovalOutcome {
    /// The plan that was carried out.
    pub plan: RemovalPlan,
    /// The result for each backup of the plan in turn, up to the first that was not removed.
    pub results: Vec<Result<Backup, Error>>,
}

/// The SHA-256 digest of the facts that a person decides by.
pub type Fingerprint = [u8; 32];

impl Backups {
    /// Plans a removal by the complete list of this moment, for a person to decide by. Changes nothing.
    ///
    /// # Errors
    ///
    /// Why it would be refused: [`Error::ReadOnly`], [`Error::Obstructed`], [`Error::ListIncomplete`],
    /// [`Error::LimitReached`], [`Error::Qovery`].
    pub async fn plan_removal(
        &self,
        context: &Context,
        database: DatabaseId,
        wanted: &[BackupId],
    ) -> Result<RemovalPlan, Error> {
        self.allow_changes()?;
        self.inner.allowance.check(wanted.len())?;
        let listed = self.complete_list(context, database).await?;
        let keep_latest = self.inner.policy.keep_latest;
        evaluate(database, &listed, wanted, keep_latest, Utc::now())
    }

    /// Finds out by the list whether a backup of the plan was removed. A list that lacks a backup that
    /// must remain proves nothing.
    pub(super) async fn settle_removal(
        &self,
        context: &Context,
        plan: &RemovalPlan,
        backup: &Backup,
        error: qovery::Error,
    ) -> Result<Backup, qovery::Error> {
        let Ok(listed) = self.complete_list(context, plan.database).await else {
            return Err(error);
        };
        let find = |wanted: &Backup| listed.iter().find(|listed| listed.id == wanted.id);
        match find(backup).map(Condition::of) {
            Some(Condition::BeingRemoved) => Ok(backup.clone()),
            Some(_) if !error.pending => Err(qovery::Error::harmless(error.failure)),
            None if plan.newest.as_ref().and_then(find).is_some() => Ok(backup.clone()),
            _ => Err(error),
        }
    }

    /// Every backup of the database: a part of a list cannot tell which backup is the newest.
    async fn complete_list(
        &self,
        context: &Context,
        database: DatabaseId,
    ) -> Result<Vec<Backup>, Error> {
        let max = self.inner.limits.list_backups;
        let list = self.read_pages(context, database, None, max, |_| false);
        match list.await? {
            list if list.complete => Ok(list.backups),
            _ => Err(Error::ListIncomplete { database }),
        }
    }
}

/// Plans the removal of the `wanted` ones of all `listed` backups of a database: all of them, or none.
pub(super) fn evaluate(
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
    /// A digest of the facts that a person decides by.
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
        // Qovery documents no length of a name or a date.
        const MAX_CHARACTERS: usize = 80;
        let [backup] = self.backups.as_slice() else {
            return write!(f, "{} backups", self.backups.len());
        };
        write!(f, "Backup {} (", backup.id)?;
        if let Some(name) = &backup.name {
            write!(f, "\"{}\", ", text::truncate(name, MAX_CHARACTERS))?;
        }
        let created_at = text::truncate(&backup.created_at, MAX_CHARACTERS);
        write!(f, "made {created_at})")
    }
}
