//! Removals: what one comes to by the complete and fresh list, and what became of one whose answer is
//! lost, where the list can tell.

use std::{collections::HashSet, fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use super::{
    Backups, Condition, Error, Listed,
    error::Obstacle,
    guard::{Clock, assess, newest},
};
use crate::{
    context::Context,
    qovery::{self, Backup, BackupId, DatabaseId, Outcome},
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
    pub confirmed: Option<(ConfirmedFacts, AskedBy)>,
    /// Receives how many were removed so far.
    pub gone: watch::Sender<usize>,
}

/// What a removal comes to: the backups that go, and what remains.
#[derive(Clone, Debug)]
pub struct RemovalPlan {
    /// The database.
    pub database: DatabaseId,
    /// What goes, in the order of the request.
    pub backups: Vec<Listed>,
    /// How many backups of the database remain.
    pub remaining: usize,
    /// The finished ones of those.
    pub finished: Vec<BackupId>,
    /// The newest of the finished ones that remain.
    pub newest_finished: Option<Backup>,
    /// The newest of those that remain.
    pub newest: Option<Backup>,
}

/// The facts that a confirmation holds for. Ages and counts are shown, and not part of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmedFacts {
    /// The condition of each backup that goes.
    conditions: Vec<Condition>,
    /// The newest finished backup, which the question says stays.
    stays: Option<BackupId>,
}

/// How a person was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AskedBy {
    /// By the client (MCP, "Elicitation").
    Elicitation,
    /// By a dialog of this machine.
    Dialog,
}

/// What became of a removal.
#[derive(Debug)]
pub struct RemovalOutcome {
    /// The plan that was carried out.
    pub plan: RemovalPlan,
    /// What stood for a person's consent.
    pub consent: Consent,
    /// The result for each backup of the plan in turn, up to the first that was not removed.
    pub results: Vec<Result<Backup, Error>>,
}

/// What stood for a person's consent to a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// The host answered yes for the person.
    Accepted,
    /// The host answered otherwise.
    Declined,
    /// No question was put: the host's own approval had to suffice.
    NotAsked,
    /// The operator runs the server without questions.
    Unattended,
    /// The request came over REST.
    Rest,
}

/// Every backup of a database.
pub(super) struct CompleteList {
    backups: Vec<Backup>,
    clock: Clock,
    read_at: ReadAt,
}

/// When a list was read, by two clocks: the monotonic one stands still while a laptop sleeps.
#[derive(Clone, Copy)]
struct ReadAt(Instant, DateTime<Utc>);

impl ReadAt {
    /// Whether the list is older than `max_age`, or the wall clock was set back.
    fn is_older_than(self, max_age: Duration) -> bool {
        let by_the_wall = (Utc::now() - self.1).to_std().ok();
        self.0.elapsed() > max_age || by_the_wall.is_none_or(|age| age > max_age)
    }
}

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
        self.allowance(context).check(wanted.len())?;
        let list = self.complete_list(context, database).await?;
        self.plan(&list, database, wanted)
    }

    /// The same by a list that was read, for a change that is allowed already.
    pub(super) fn plan(
        &self,
        list: &CompleteList,
        database: DatabaseId,
        wanted: &[BackupId],
    ) -> Result<RemovalPlan, Error> {
        let keep_latest = self.inner.policy.keep_latest;
        evaluate(database, &list.backups, wanted, keep_latest, list.clock)
    }

    /// The condition of a backup in the middle of a removal of several, if it still may go: those that
    /// were to stay may have failed or gone meanwhile. Reads a list again that is too old.
    pub(super) async fn check_again(
        &self,
        context: &Context,
        list: &mut CompleteList,
        (database, backup): (DatabaseId, BackupId),
    ) -> Result<Condition, Error> {
        if list.read_at.is_older_than(self.inner.limits.list_age) {
            *list = self.complete_list(context, database).await?;
        }
        Ok(self.plan(list, database, &[backup])?.backups[0].condition)
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
        let Ok(list) = self.complete_list(context, plan.database).await else {
            return Err(error);
        };
        let find = |wanted: &Backup| list.backups.iter().find(|listed| listed.id == wanted.id);
        match find(backup).map(|listed| Condition::of(listed, list.clock)) {
            Some(Condition::BeingRemoved) => Ok(backup.clone()),
            Some(_) if !error.pending => Err(qovery::Error {
                outcome: Outcome::NotApplied,
                ..error
            }),
            None if plan.newest.as_ref().and_then(find).is_some() => Ok(backup.clone()),
            _ => Err(error),
        }
    }

    /// Every backup of the database: a part of a list cannot tell which backup is the newest.
    pub(super) async fn complete_list(
        &self,
        context: &Context,
        database: DatabaseId,
    ) -> Result<CompleteList, Error> {
        let max = self.inner.limits.list_backups;
        let list = self.read_pages(context, database, None, max, |_| false);
        let list = list.await?;
        if !list.complete {
            return Err(Error::ListIncomplete { database });
        }
        let now = Utc::now();
        Ok(CompleteList {
            backups: list.backups,
            clock: Clock::new(now, list.date),
            read_at: ReadAt(Instant::now(), now),
        })
    }
}

/// Plans the removal of the `wanted` ones of all `listed` backups of a database: all of them, or none.
pub(super) fn evaluate(
    database: DatabaseId,
    listed: &[Backup],
    wanted: &[BackupId],
    keep_latest: usize,
    clock: Clock,
) -> Result<RemovalPlan, Error> {
    let assessments = assess(listed, keep_latest, clock);
    let mut named = HashSet::new();
    let (mut backups, mut obstacles) = (Vec::new(), Vec::new());
    for id in wanted {
        let position = listed.iter().position(|backup| backup.id == *id);
        let obstacle = match position.map(|position| assessments[position].protection) {
            _ if !named.insert(*id) => Some(Obstacle::NamedTwice),
            None => Some(Obstacle::NotListed),
            Some(protection) => protection.map(Obstacle::Protected),
        };
        obstacles.extend(obstacle.map(|obstacle| (*id, obstacle)));
        let entry = |position: usize| Listed::new(listed[position].clone(), assessments[position]);
        backups.extend(position.map(entry));
    }
    if !obstacles.is_empty() {
        return Err(Error::Obstructed {
            database,
            wanted: wanted.len(),
            obstacles,
        });
    }
    let remaining: Vec<_> = listed
        .iter()
        .zip(&assessments)
        .filter(|(backup, _)| !named.contains(&backup.id))
        .collect();
    let finished = || {
        let finished = remaining.iter().filter(|row| row.1.condition.is_finished());
        finished.map(|(backup, _)| *backup)
    };
    Ok(RemovalPlan {
        database,
        backups,
        remaining: remaining.len(),
        finished: finished().map(|backup| backup.id).collect(),
        newest_finished: newest(finished(), clock.now).cloned(),
        newest: newest(remaining.iter().map(|(backup, _)| *backup), clock.now).cloned(),
    })
}

impl RemovalPlan {
    /// Whether Qovery is removing all of these backups already, so that nothing is sent.
    pub fn sends_nothing(&self) -> bool {
        let mut backups = self.backups.iter();
        backups.all(|listed| listed.condition == Condition::BeingRemoved)
    }

    /// The facts that a person confirms.
    pub fn facts(&self) -> ConfirmedFacts {
        ConfirmedFacts {
            conditions: self.backups.iter().map(|listed| listed.condition).collect(),
            stays: self.newest_finished.as_ref().map(|backup| backup.id),
        }
    }

    /// What makes the confirmed facts untrue: a backup that goes is worth more than it was, or the one
    /// that was to stay is not there, or not finished any more. What else changes is no reason to ask
    /// again.
    pub fn contradiction(&self, confirmed: &ConfirmedFacts) -> Option<String> {
        use Condition::{BeingRemoved, Failed, Finished, Unknown};
        let mut pairs = self.backups.iter().zip(&confirmed.conditions);
        let better = pairs.find(|(listed, before)| match (before, listed.condition) {
            (Failed, now) => !matches!(now, Failed | BeingRemoved),
            (Unknown, now) => now == Finished,
            _ => false,
        });
        if let Some((listed, before)) = better {
            let (id, now) = (listed.backup.id, listed.condition.name());
            return Some(format!("{id} was {}, is {now}.", before.name()));
        }
        let stays = confirmed.stays.filter(|id| !self.finished.contains(id))?;
        Some(format!("{stays} was to stay: no longer good."))
    }
}

impl fmt::Display for RemovalPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Qovery documents no length of a name or a date.
        const MAX_CHARACTERS: usize = 80;
        let [Listed { backup, .. }] = self.backups.as_slice() else {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The monotonic clock stands still while a laptop sleeps, and the wall clock can be set.
    #[test]
    fn a_list_ages_by_either_clock() {
        let age = Duration::from_secs(5);
        let (instant, wall) = (Instant::now(), Utc::now());
        assert!(!ReadAt(instant, wall).is_older_than(age));
        assert!(ReadAt(instant - age, wall).is_older_than(age));
        assert!(ReadAt(instant, wall - age).is_older_than(age));
        assert!(ReadAt(instant, wall + age).is_older_than(age));
    }
}
