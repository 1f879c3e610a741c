//! Adding a backup, and finding out which one it was when the answer is lost.
//!
//! Qovery takes no idempotency key, so an addition without an answer can only be looked for.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Error, Inner, audit::Record, change::Change};
use crate::{
    context::Context,
    qovery::{self, Answered, Backup, BackupId, DatabaseId, NewBackup, Outcome},
};

/// A backup that is being made.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The backup, as Qovery answered it.
    pub answered: Answered<Backup>,
    /// The answer was lost, and the backup found by listing.
    pub recovered: bool,
}

/// What is asked for.
pub(super) struct Add {
    pub(super) database: DatabaseId,
    pub(super) backup: NewBackup,
}

impl Change for Add {
    const OPERATION: &'static str = "add";
    type Decision = ();
    type Done = Addition;

    fn database(&self) -> DatabaseId {
        self.database
    }

    fn steps(&self) -> usize {
        1
    }

    fn is_confirmed(&self) -> bool {
        false
    }

    /// No rule forbids another backup.
    async fn decide(&self, _: &Inner, _: &Context) -> Result<(), Error> {
        Ok(())
    }

    fn describe(&self, record: Record, (): &(), _: usize) -> Record {
        record.named(self.backup.name.as_str())
    }

    async fn send(
        &self,
        inner: &Inner,
        (): &(),
        _: usize,
        context: &Context,
    ) -> Result<Addition, qovery::Error> {
        let added = inner
            .qovery
            .add_backup(self.database, &self.backup, context);
        Ok(Addition {
            answered: added.await?,
            recovered: false,
        })
    }

    async fn settle(
        &self,
        inner: &Inner,
        _: (&(), usize),
        error: qovery::Error,
        sent: Instant,
        context: &Context,
    ) -> Result<Addition, qovery::Error> {
        self.recover(inner, sent, context).await.ok_or(error)
    }

    fn ended(&self, inner: &Inner, result: &Result<Addition, qovery::Error>) {
        match result {
            Ok(addition) => inner.made.remember(addition.answered.value.id),
            Err(error) if error.outcome == Outcome::NotApplied => {}
            // Made or not, nobody knows its id.
            Err(_) => inner.made.lose(self.database, self.backup.clone()),
        }
    }
}

impl Add {
    /// Looks for the backup whose answer was lost, once.
    async fn recover(&self, inner: &Inner, sent: Instant, context: &Context) -> Option<Addition> {
        let page = inner.qovery.list_backups(self.database, None, context);
        let page = page.await.ok()?;
        // Never after the true moment: what was made by this call is not missed.
        let (date, answered) = page.date?;
        let began = date - answered.duration_since(sent);
        let listed = &page.value.results;
        let found = inner.made.find(listed, self.database, &self.backup, began);
        let backup = found?.clone();
        // As it would have been answered.
        let whole = page.whole();
        let position = listed.iter().position(|listed| listed.id == backup.id)?;
        let json = serde_json::to_vec(&whole["results"][position]).ok()?.into();
        let request_id = &context.request_id;
        tracing::warn!(%request_id, "an addition whose answer was lost was found by listing");
        Some(Addition {
            answered: Answered {
                json,
                value: backup,
                date: page.date,
            },
            recovered: true,
        })
    }
}

impl AsRef<Backup> for Addition {
    fn as_ref(&self) -> &Backup {
        &self.answered.value
    }
}

/// What this process has added lately.
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<Lately>);

#[derive(Debug, Default)]
struct Lately {
    /// The backups that were made: no lost answer spoke of them.
    made: VecDeque<BackupId>,
    /// The additions that may have been made, or may yet be: what looks like one of them may be it.
    lost: VecDeque<(DatabaseId, NewBackup)>,
}

impl Made {
    /// Far more than can be made within the second by which clocks are read.
    const MOST: usize = 256;

    /// Remembers a backup that was made.
    pub(super) fn remember(&self, id: BackupId) {
        let mut lately = self.0.lock();
        lately.made.push_front(id);
        lately.made.truncate(Self::MOST);
    }

    /// Remembers an addition that may have been made, or may yet be, under an id that nobody knows.
    fn lose(&self, database: DatabaseId, backup: NewBackup) {
        let mut lately = self.0.lock();
        lately.lost.push_front((database, backup));
        lately.lost.truncate(Self::MOST);
    }

    /// The one backup among `listed` that can only be the `wanted` one: named and described so, made
    /// since `began` by Qovery's own clock, and not made by another call. None if there are more.
    fn find<'a>(
        &self,
        listed: &'a [Backup],
        database: DatabaseId,
        wanted: &NewBackup,
        began: DateTime<Utc>,
    ) -> Option<&'a Backup> {
        let lately = self.0.lock();
        if lately
            .lost
            .iter()
            .any(|(where_to, lost)| *where_to == database && lost == wanted)
        {
            return None;
        }
        let mut found = listed.iter().filter(|backup| {
            backup.name.as_deref() == Some(wanted.name.as_str())
                && backup.message.as_deref() == Some(wanted.message.as_str())
                && was_made_since(backup, began)
                && !lately.made.contains(&backup.id)
        });
        let backup = found.next()?;
        found.next().is_none().then_some(backup)
    }
}

fn was_made_since(backup: &Backup, began: DateTime<Utc>) -> bool {
    let Some(made) = backup.made_at() else {
        return false;
    };
    if made.timestamp_subsec_nanos() == 0 {
        // It may be a whole second because it was cut.
        made.timestamp() >= began.timestamp()
    } else {
        made >= began
    }
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
        let orders = "0de50000-0000-4000-8000-000000000001".parse().unwrap();
        let found = |listed: &[Backup]| {
            let found = made.find(listed, orders, &wanted, began);
            found.map(|found| found.id)
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

        made.remember(new.id);
        assert_eq!(found(&with(&[&new])), None);
        assert_eq!(found(&with(&[&new, &offset])), Some(offset.id));

        made.lose(orders, wanted.clone());
        assert_eq!(found(&with(&[&offset])), None, "it may be the lost one");
    }
}
