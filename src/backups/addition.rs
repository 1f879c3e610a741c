//! Adding a backup, and finding out which one it was when the answer is lost.
//!
//! Qovery takes no idempotency key, so an addition without an answer can only be looked for.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, DurationRound, FixedOffset, TimeDelta, Utc};
use tokio::time::Instant;

use super::{Error, Inner, TO_SETTLE, audit::Record};
use crate::{
    call::Call,
    qovery::{Answered, Backup, BackupId, BackupPage, DatabaseId, Deadline, NewBackup, Outcome},
};

/// A backup that is being made.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The backup, as Qovery answered it.
    pub answered: Answered<Backup>,
    /// The answer was lost, and the backup found by listing.
    pub recovered: bool,
}

impl Inner {
    pub(super) async fn add(
        &self,
        call: &Call,
        database: DatabaseId,
        backup: &NewBackup,
    ) -> Result<Addition, Error> {
        let deadline = Deadline::start();
        let _turn = self.turn(database).await?;
        self.spend_change()?;
        let record = Record::of_addition(call, self.consent(call, None), database, backup);
        self.audit
            .intent(&record)
            .await
            .map_err(|_| Error::Unaudited)?;
        let began = Instant::now();
        let in_time = deadline.leaving(TO_SETTLE);
        let added = match self
            .qovery
            .add_backup(database, backup, call, in_time)
            .await
        {
            Ok(answered) => Ok(Addition {
                answered,
                recovered: false,
            }),
            Err(error) if error.outcome == Outcome::Unknown => self
                .recover(call, database, backup, began, deadline)
                .await
                .ok_or(error),
            Err(error) => Err(error),
        };
        match &added {
            Ok(addition) => {
                let backup = &addition.answered.value;
                self.made.remember(backup.id);
                let record = record.about(backup);
                self.audit.outcome(record, Outcome::Applied).await;
            }
            Err(error) => self.audit.outcome(record, error.outcome).await,
        }
        Ok(added?)
    }

    /// Looks for a backup whose answer was lost, once.
    async fn recover(
        &self,
        call: &Call,
        database: DatabaseId,
        backup: &NewBackup,
        began: Instant,
        deadline: Deadline,
    ) -> Option<Addition> {
        let page: Answered<BackupPage> = self
            .qovery
            .list_backups(database, None, call, deadline)
            .await
            .ok()?;
        let began = page.date? - began.elapsed();
        let mut backup = self.made.find(&page.value.results, backup, began)?.clone();
        if let Some(status) = &mut backup.status {
            status.read_details().ok()?;
        }
        Some(Addition {
            answered: Answered {
                json: serde_json::to_vec(&backup).ok()?,
                value: backup,
                date: page.date,
            },
            recovered: true,
        })
    }
}

/// The backups that this process made lately: the answer of none of them was lost.
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<VecDeque<BackupId>>);

impl Made {
    /// Remembers a backup.
    pub(super) fn remember(&self, id: BackupId) {
        /// Far more than can be made within the second by which clocks are read.
        const MOST: usize = 256;
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.truncate(MOST - 1);
        made.push_front(id);
    }

    /// The one backup among `listed` that can only be the `wanted` one: named and described so, made
    /// since `began` by Qovery's own clock, and not made by another call. None if there are more.
    pub(super) fn find<'a>(
        &self,
        listed: &'a [Backup],
        wanted: &NewBackup,
        began: DateTime<Utc>,
    ) -> Option<&'a Backup> {
        // Qovery tells the time in whole seconds.
        let began = began.duration_trunc(TimeDelta::seconds(1)).ok()?;
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = listed.iter().filter(|backup| {
            backup.name.as_deref() == Some(wanted.name.as_str())
                && backup.message.as_deref() == Some(wanted.message.as_str())
                && created_at(backup).is_some_and(|created_at| created_at >= began)
                && !made.contains(&backup.id)
        });
        let backup = found.next()?;
        found.next().is_none().then_some(backup)
    }
}

fn created_at(backup: &Backup) -> Option<DateTime<FixedOffset>> {
    DateTime::parse_from_rfc3339(&backup.created_at).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn backup(number: u32, created_at: &str, name: &str) -> Backup {
        serde_json::from_value(json!({
            "id": format!("00000000-0000-4000-8000-{number:012}"),
            "created_at": created_at, "name": name, "message": "By hand.",
        }))
        .unwrap()
    }

    #[test]
    fn only_a_single_new_backup_of_that_name_and_message_is_the_one() {
        let wanted: NewBackup =
            serde_json::from_value(json!({ "name": "a", "message": "By hand." })).unwrap();
        let began = "2026-06-01T12:00:00.700Z".parse().unwrap();
        let made = Made::default();
        let found = |listed: &[Backup]| made.find(listed, &wanted, began).map(|found| found.id);

        let new = backup(1, "2026-06-01T12:00:00Z", "a");
        let offset = backup(2, "2026-06-01T14:00:01+02:00", "a");
        let older = backup(3, "2026-06-01T11:59:59.999Z", "a");
        let other = backup(4, "2026-06-01T12:00:01Z", "b");
        let mut wordless = backup(5, "2026-06-01T12:00:01Z", "a");
        wordless.message = None;
        let undated = backup(6, "soon", "a");

        let rest = [older, other, wordless, undated];
        assert_eq!(found(&rest), None);
        let with = |backups: &[&Backup]| {
            let new = backups.iter().copied().cloned();
            rest.iter().cloned().chain(new).collect::<Vec<_>>()
        };
        assert_eq!(found(&with(&[&new])), Some(new.id));
        assert_eq!(found(&with(&[&offset])), Some(offset.id));
        assert_eq!(found(&with(&[&new, &offset])), None);

        made.remember(new.id);
        assert_eq!(found(&with(&[&new])), None);
        assert_eq!(found(&with(&[&new, &offset])), Some(offset.id));
    }
}
