//! Listing: the whole list where one answer holds it, with what the rules say of each backup.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use hyper::body::Bytes;
use serde_json::Value;
use tokio::{sync::watch, time::sleep};

use super::{
    Backups, Condition, Error, Obstacle, Protection,
    guard::{self, Assessment, Clock},
};
use crate::{
    context::Context,
    qovery::{self, Backup, BackupId, DatabaseId, Failure},
};

/// The backups of a database, or as many as one answer holds.
#[derive(Debug)]
pub struct Listing {
    /// The database.
    pub database: DatabaseId,
    /// The database's name, if it is known.
    pub name: Option<Arc<str>>,
    /// The moment at which ages and rules were evaluated.
    pub now: DateTime<Utc>,
    /// The backups, the newest first.
    pub backups: Vec<Listed>,
    /// Whether these are all backups of the database.
    pub whole: bool,
    /// Whether none comes after these.
    pub complete: bool,
    /// The last backup in Qovery's own order, if more come after it.
    pub next: Option<BackupId>,
    /// How far Qovery's clock and ours are apart, if that is more than five minutes.
    pub clock_skew: Option<TimeDelta>,
}

/// A backup, and what the rules say of it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The backup.
    pub backup: Backup,
    /// Its condition.
    pub condition: Condition,
    /// The rule that protects it, if the whole list is known and one does.
    pub protection: Option<Protection>,
    /// Its status as Qovery sent it, if that was asked for.
    pub status: Option<Value>,
}

impl Listed {
    pub(super) fn new(backup: Backup, assessment: Assessment) -> Self {
        Self {
            condition: assessment.condition,
            protection: assessment.protection,
            status: None,
            backup,
        }
    }
}

impl From<Backup> for Listed {
    /// A backup without the rest of its list.
    fn from(backup: Backup) -> Self {
        let condition = Condition::of(&backup, Clock::new(Utc::now(), None));
        let protection = None;
        Self::new(
            backup,
            Assessment {
                condition,
                protection,
            },
        )
    }
}

/// The part of a list that was read.
pub(super) struct Pages {
    pub(super) backups: Vec<Backup>,
    /// The pages as Qovery sent them.
    json: Vec<Bytes>,
    /// The last backup that was read, if more come after it.
    pub(super) next: Option<BackupId>,
    /// Whether none comes after these.
    pub(super) complete: bool,
    /// Qovery's time when it answered the last page.
    pub(super) date: Option<DateTime<Utc>>,
}

/// One more than a list of 2,000 backups has at Qovery's page size.
const MAX_PAGES: usize = 101;

impl Backups {
    /// A database's backups and what the rules say of them: from the beginning or after `start_id`, up to
    /// the number that one answer shows. With the whole status of each, if `verbose`.
    ///
    /// # Errors
    ///
    /// [`Error::Qovery`].
    pub async fn list(
        &self,
        context: &Context,
        database: DatabaseId,
        start_id: Option<BackupId>,
        verbose: bool,
    ) -> Result<Listing, Error> {
        let max = self.inner.limits.listed;
        let pages = self
            .read_pages(context, database, start_id, max, |_| false)
            .await?;
        let name = self.name(context, database).await;
        let listing = self.list_entries(database, pages, start_id.is_none(), verbose);
        Ok(Listing { name, ..listing })
    }

    /// One backup. While it is in progress, waits up to 20 seconds for that to change, and sends to
    /// `polls` how often it was read.
    ///
    /// # Errors
    ///
    /// [`Error::Obstructed`] if it is not listed, [`Error::ListIncomplete`] if it may be; [`Error::Qovery`].
    pub async fn watch(
        &self,
        context: &Context,
        (database, backup): (DatabaseId, BackupId),
        verbose: bool,
        polls: &watch::Sender<usize>,
    ) -> Result<Listing, Error> {
        let inner = &self.inner;
        let has_it = |page: &[Backup]| page.iter().any(|listed| listed.id == backup);
        let mut pauses = inner.limits.poll_intervals.into_iter();
        let mut last: Option<Listing> = None;
        loop {
            let max = inner.limits.list_backups;
            let pages = self.read_pages(context, database, None, max, has_it).await;
            let pages = match (pages, last.take()) {
                (Ok(pages), _) => pages,
                // The backup as it was a moment ago is worth more than an error.
                (Err(Error::Qovery(error)), Some(last)) if !context.cancellation.is_cancelled() => {
                    tracing::debug!(%error, "polling a backup failed");
                    return Ok(last);
                }
                (Err(error), _) => return Err(error),
            };
            let mut listing = self.list_entries(database, pages, true, verbose);
            listing.backups.retain(|listed| listed.backup.id == backup);
            let Some(listed) = listing.backups.first() else {
                return Err(if listing.complete {
                    Error::Obstructed {
                        database,
                        wanted: 1,
                        obstacles: vec![(backup, Obstacle::NotListed)],
                    }
                } else {
                    Error::ListIncomplete { database }
                });
            };
            listing.name = self.name(context, database).await;
            let in_progress = listed.condition == Condition::InProgress;
            let pause = pauses
                .next()
                .filter(|pause| in_progress && *pause < context.deadline.remaining());
            let Some(pause) = pause else {
                return Ok(listing);
            };
            polls.send_modify(|polls| *polls += 1);
            tokio::select! {
                biased;
                () = context.cancellation.cancelled() => {
                    return Err(qovery::Error::harmless(Failure::Cancelled).into());
                }
                () = inner.shutdown.no_retries.cancelled() => return Ok(listing),
                () = sleep(pause) => {}
            }
            last = Some(listing);
        }
    }

    /// Reads a list page by page: to its end, until it has `max` backups, or until what was read
    /// `is_enough`. A list whose pages repeat is never complete.
    pub(super) async fn read_pages(
        &self,
        context: &Context,
        database: DatabaseId,
        start_id: Option<BackupId>,
        max: usize,
        is_enough: impl Fn(&[Backup]) -> bool,
    ) -> Result<Pages, Error> {
        let mut list = Pages {
            backups: Vec::new(),
            json: Vec::new(),
            next: start_id,
            complete: false,
            date: None,
        };
        let (mut seen, mut bytes) = (HashSet::new(), 0);
        for _ in 0..MAX_PAGES {
            let start_id = list.next;
            let page = self.inner.qovery.list_backups(database, start_id, context);
            let page = match page.await {
                Ok(page) => page,
                // The backup after which this page begins was removed meanwhile.
                Err(error)
                    if !list.json.is_empty()
                        && matches!(error.failure, Failure::Answered { status: 404, .. }) =>
                {
                    list.next = None;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            bytes += page.json.len();
            if bytes > self.inner.limits.list_bytes {
                return Err(qovery::Error::harmless(Failure::TooLarge).into());
            }
            list.date = page.date.map(|(date, _)| date);
            list.next = page.value.next_start_id();
            let mut results = page.value.results;
            let left = max - seen.len();
            let is_full = results.len() > left;
            if is_full {
                results.truncate(left);
                list.next = results.last().map(|backup| backup.id).or(start_id);
            }
            let before = results.len();
            results.retain(|backup| seen.insert(backup.id));
            let repeats = results.len() < before;
            if repeats {
                list.next = None;
            }
            list.backups.append(&mut results);
            list.json.push(page.json);
            if list.next.is_none() || is_full || is_enough(&list.backups) {
                list.complete = list.next.is_none() && !repeats;
                break;
            }
        }
        Ok(list)
    }

    /// The backups of pages, the newest first, with what the rules say of them.
    fn list_entries(
        &self,
        database: DatabaseId,
        list: Pages,
        from_the_beginning: bool,
        verbose: bool,
    ) -> Listing {
        let now = Utc::now();
        let whole = from_the_beginning && list.complete;
        let skew = list.date.map(|date| (date - now).abs());
        let clock_skew = skew.filter(|skew| *skew > TimeDelta::minutes(5));
        if let (Some(_), Some(qovery)) = (clock_skew, list.date) {
            tracing::warn!(%qovery, here = %now, "the clocks of Qovery and of this machine differ");
        }
        let mut statuses: HashMap<_, _> = if verbose {
            list.json.iter().flat_map(|page| statuses(page)).collect()
        } else {
            HashMap::new()
        };
        let clock = Clock::new(now, list.date);
        let assessments = guard::assess(&list.backups, self.inner.policy.keep_latest, clock);
        let mut backups: Vec<_> = list
            .backups
            .into_iter()
            .zip(assessments)
            .map(|(backup, assessment)| Listed {
                protection: assessment.protection.filter(|_| whole),
                status: statuses.remove(&backup.id),
                ..Listed::new(backup, assessment)
            })
            .collect();
        backups.sort_by_cached_key(|listed| Reverse(guard::date(&listed.backup, now).ok()));
        Listing {
            database,
            name: None,
            now,
            backups,
            whole,
            complete: list.complete,
            next: list.next,
            clock_skew,
        }
    }
}

/// The status of each backup of a page, as Qovery sent it.
fn statuses(page: &[u8]) -> Vec<(BackupId, Value)> {
    // The same JSON was parsed before.
    let mut page: Value = serde_json::from_slice(page).unwrap_or_default();
    let backups = page["results"].as_array_mut().into_iter().flatten();
    let statuses = backups.filter_map(|backup| {
        let id = backup["id"].as_str()?.parse().ok()?;
        Some((id, backup["status"].take()))
    });
    statuses.collect()
}
