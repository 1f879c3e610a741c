//! The overview: of each database that the key can see, the newest backup that can be restored from.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Backups, Condition, Error, Readings,
    guard::{self, Clock},
};
use crate::{
    context::Context,
    qovery::{Backup, BackupId, DatabaseId, Service},
};

/// The databases that the key can see.
#[derive(Debug)]
pub struct Overview {
    /// The moment at which ages were evaluated.
    pub now: DateTime<Utc>,
    /// Those that were read, the worst first.
    pub databases: Vec<(Service, Reading)>,
    /// Whether each was read.
    pub complete: bool,
    /// What was not read, and why.
    pub problems: Vec<String>,
}

/// What the list of a database says.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The newest finished backup.
    pub newest_finished: Option<(BackupId, DateTime<Utc>)>,
    /// How many are being made.
    pub in_progress: usize,
    /// How many failed after the newest finished one.
    pub failed_since: usize,
    /// Whether enough of the list was read to say so.
    pub is_known: bool,
}

/// Five of Qovery's pages.
const MAX_BACKUPS: usize = 100;
/// Databases that are read at once.
const CONCURRENCY: usize = 8;
/// Requests of an hour that are left to others.
const RESERVED_REQUESTS: u32 = 200;

impl Backups {
    /// Reads up to `max` databases within `time`, beside those that were read a moment ago, and sends to
    /// `count` how many.
    ///
    /// # Errors
    ///
    /// [`Error::LookupDenied`], [`Error::Qovery`]: the databases could not be looked up.
    pub async fn overview(
        &self,
        context: &Context,
        (max, time): (usize, Duration),
        count: &watch::Sender<usize>,
    ) -> Result<Overview, Error> {
        let inner = &self.inner;
        let end = Instant::now() + time;
        let (all, denied) = self.databases(context).await?;
        let total = all.len();
        let mut problems = Vec::new();
        if denied > 0 {
            problems.push(format!(
                "The key may not look into {denied} of its organizations."
            ));
        }
        let (mut databases, mut pending) = (Vec::new(), Vec::new());
        {
            let mut readings = inner.readings.lock();
            let readings = readings.of(context.key_id(), Readings::new);
            readings.retain(|_, (expires, _)| *expires > Instant::now());
            for database in all {
                match readings.get(&database.id) {
                    Some((_, reading)) => databases.push((database, reading.clone())),
                    None => pending.push(database),
                }
            }
        }
        pending.truncate(max);
        let read = async |database: Service| {
            if inner.qovery.requests_left(context) < RESERVED_REQUESTS {
                return (database, None);
            }
            let reading = self.reading(context, database.id).await;
            (database, Some(reading))
        };
        let pending = stream::iter(pending.into_iter().map(read));
        let mut readings = pending.buffer_unordered(CONCURRENCY);
        let mut held_back = 0;
        while let Ok(Some((database, reading))) = timeout_at(end, readings.next()).await {
            let expires = Instant::now() + inner.limits.name_ttl;
            match reading {
                None => held_back += 1,
                Some(Err(error)) => {
                    problems.push(format!("{} ({}): {error}", database.name, database.id));
                }
                Some(Ok(reading)) => {
                    let entry = (expires, reading.clone());
                    let mut readings = inner.readings.lock();
                    let readings = readings.of(context.key_id(), Readings::new);
                    readings.insert(database.id, entry);
                    databases.push((database, reading));
                }
            }
            count.send_modify(|count| *count += 1);
        }
        if held_back > 0 {
            problems.push(format!(
                "{held_back} were not read: fewer than {RESERVED_REQUESTS} of Qovery's requests an hour are left."
            ));
        }
        databases.sort_by_key(|(database, reading)| {
            let date = reading.newest_finished.map(|(_, date)| date);
            let rank = match (reading.is_known, date) {
                (true, None) => 0,
                (false, _) => 1,
                (true, Some(_)) => 2,
            };
            (rank, date, database.id)
        });
        Ok(Overview {
            now: Utc::now(),
            complete: denied == 0 && databases.len() == total,
            databases,
            problems,
        })
    }

    /// Reads the list of a database as far as it takes to find the newest finished backup: a page, where
    /// dates fall and one is finished.
    ///
    /// # Errors
    ///
    /// [`Error::Qovery`].
    pub async fn reading(&self, context: &Context, database: DatabaseId) -> Result<Reading, Error> {
        let now = Utc::now();
        let date = |backup: &Backup| guard::date(backup, now).ok();
        let settles = |read: &[Backup]| {
            let clock = Clock::new(now, None);
            let has_finished = read.iter().any(|it| Condition::of(it, clock).is_finished());
            has_finished && read.is_sorted_by(|newer, older| date(newer) >= date(older))
        };
        let is_enough = |read: &[Backup]| settles(read) || read.len() >= MAX_BACKUPS;
        let max = self.inner.limits.list_backups;
        let list = self.read_pages(context, database, None, max, is_enough);
        let list = list.await?;
        let clock = Clock::new(now, list.date);
        let of = |condition| {
            let backups = list.backups.iter();
            backups.filter(move |backup| Condition::of(backup, clock) == condition)
        };
        let newest = guard::newest(of(Condition::Finished), now);
        let newest_finished = newest.and_then(|backup| Some((backup.id, date(backup)?)));
        let is_later = |date| newest_finished.is_none_or(|(_, newest)| date > newest);
        let failed = of(Condition::Failed).filter(|backup| date(backup).is_some_and(is_later));
        Ok(Reading {
            in_progress: of(Condition::InProgress).count(),
            failed_since: failed.count(),
            is_known: (list.complete || settles(&list.backups))
                && newest.is_some() == newest_finished.is_some(),
            newest_finished,
        })
    }
}
