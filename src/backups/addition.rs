//! Additions: which backup it was when the answer is lost.
//!
//! Qovery takes no idempotency key, so an addition without an answer can only be looked for in the list.

use std::{borrow::Borrow, collections::VecDeque};

use chrono::{DateTime, SubsecRound, Utc};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use super::Backups;
use crate::{
    context::Context,
    qovery::{Answered, Backup, BackupId, DatabaseId, NewBackup},
};

/// A backup that was added. Qovery goes on making it.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The backup, as Qovery answered it.
    pub answered: Answered<Backup>,
    /// The answer was lost, and the backup found by listing.
    pub recovered: bool,
}

/// The recent additions of this process.
#[derive(Debug, Default)]
pub(super) struct RecentAdditions {
    /// The ids that Qovery answered: none of these is the backup of a lost answer.
    confirmed: Mutex<VecDeque<BackupId>>,
    /// Additions that may have been made, or may yet be: a backup that matches one of them may be it.
    unconfirmed: Mutex<VecDeque<(DatabaseId, NewBackup)>>,
}

/// Far more additions than can be made within the second by which clocks are read.
const MAX_RECENT: usize = 256;

impl Backups {
    /// Looks once for the backup whose answer was lost.
    pub(super) async fn recover(
        &self,
        context: &Context,
        database: DatabaseId,
        wanted: &NewBackup,
        sent_at: (DateTime<Utc>, Instant),
    ) -> Option<Addition> {
        let page = self.inner.qovery.list_backups(database, None, context);
        let page = page.await.ok()?;
        // Qovery's clock is read in whole seconds, rounded down: this is never after the moment of
        // sending, so that the new backup is not missed. Where our clock is ahead of Qovery's, it is: unknown
        // is better than an older backup.
        let (date, answered) = page.date?;
        let since = date - answered.duration_since(sent_at.1);
        let since = since.max(sent_at.0.trunc_subsecs(0));
        let listed = &page.value.results;
        let recent = &self.inner.recent_additions;
        let position = recent.find(listed, database, wanted, since)?;
        // Its own JSON, as the lost answer would have had it.
        let whole: Value = serde_json::from_slice(&page.json).ok()?;
        let json = serde_json::to_vec(&whole["results"][position]).ok()?;
        let request_id = &context.request_id;
        tracing::warn!(%request_id, "an addition whose answer was lost was found by listing");
        Some(Addition {
            answered: Answered {
                json: json.into(),
                value: listed[position].clone(),
                date: page.date,
            },
            recovered: true,
        })
    }
}

impl Borrow<Backup> for Addition {
    fn borrow(&self) -> &Backup {
        &self.answered.value
    }
}

impl RecentAdditions {
    /// Records a backup that was made.
    pub(super) fn record(&self, id: BackupId) {
        let mut confirmed = self.confirmed.lock();
        confirmed.push_front(id);
        confirmed.truncate(MAX_RECENT);
    }

    /// Records an addition that may have been made, or may yet be, under an unknown id.
    pub(super) fn record_unconfirmed(&self, database: DatabaseId, backup: NewBackup) {
        let mut unconfirmed = self.unconfirmed.lock();
        unconfirmed.push_front((database, backup));
        unconfirmed.truncate(MAX_RECENT);
    }

    /// The position of the only backup among `listed` that can be the `wanted` one: of its name and
    /// message, made since `since`, and not by another call. None if there are
    /// several.
    fn find(
        &self,
        listed: &[Backup],
        database: DatabaseId,
        wanted: &NewBackup,
        since: DateTime<Utc>,
    ) -> Option<usize> {
        let unconfirmed = (database, wanted.clone());
        if self.unconfirmed.lock().contains(&unconfirmed) {
            return None;
        }
        let confirmed = self.confirmed.lock();
        let mut matches = (0..listed.len()).filter(|position| {
            let backup = &listed[*position];
            backup.name.as_deref() == Some(wanted.name.as_str())
                && backup.message.as_deref() == Some(wanted.message.as_str())
                && is_made_since(backup, since)
                && !confirmed.contains(&backup.id)
        });
        let position = matches.next()?;
        matches.next().is_none().then_some(position)
    }
}

fn is_made_since(backup: &Backup, since: DateTime<Utc>) -> bool {
    backup.made_at().is_some_and(|made| {
        if made.timestamp_subsec_nanos() == 0 {
            // A whole second may have lost its fraction.
            made.timestamp() >= since.timestamp()
        } else {
            made >= since
        }
    })
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
        let recent = RecentAdditions::default();
        let orders = "0de50000-0000-4000-8000-000000000001".parse().unwrap();
        let found = |listed: &[Backup]| {
            let found = recent.find(listed, orders, &wanted, began);
            found.map(|position| listed[position].id)
        };

        let new = backup(1, "2026-06-01T12:00:00Z", "a");
        let offset = backup(2, "2026-06-01T14:00:01+02:00", "a");
        let older = backup(3, "2026-06-01T12:00:00.699Z", "a");
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

        recent.record(new.id);
        assert_eq!(found(&with(&[&new])), None);
        assert_eq!(found(&with(&[&new, &offset])), Some(offset.id));

        recent.record_unconfirmed(orders, wanted.clone());
        assert_eq!(
            found(&with(&[&offset])),
            None,
            "it may be the unconfirmed one"
        );
    }
}
